"""The net of SiT (Ma et al., arXiv:2401.08740) in the names of its authors' files, which are those of DiT.

Their code runs time the other way, from noise at 0 to data at 1, so its velocity is data - noise where ours is noise - data, and
the net is told 1 - t. The sign is turned once, in the last layer, which changes no bit of any number.
"""

from collections.abc import Mapping

from torch import Tensor

from reverie.denoiser import timestep
from reverie.systems.dit.transformer import original as layout
from reverie.systems.dit.transformer import original_config as config
from reverie.systems.dit.transformer import parts

__all__ = ["TURNED", "clock", "config", "layout", "parts", "turned"]

TURNED = ("final_layer.linear.weight", "final_layer.linear.bias")
clock = timestep(-1.0, 1.0)
"""What the net is told: their time. Files with `learn_sigma` have channels that their code throws away, as the first half of a
net's output is all that a denoiser with `learned_variance` reads for its clean estimate."""


def turned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors, of whose velocity the sign is turned; the same call leads back."""
    return {name: -value if name in TURNED else value for name, value in tensors.items()}
