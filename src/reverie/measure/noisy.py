"""Readers of noised points: p(y | x_t), whose gradient guides a denoiser (`guide/witness.py`).

A reader is told how noisy its input is by lam = log(alpha / sigma), and sees x / sqrt(alpha^2 sigma_data^2 + sigma^2): it belongs
to no path, and guides a model on any Gaussian one (a net trained on one table of steps, sigma_data = None, on that alone).

`NoisyReader`  one of several classes (Dhariwal & Nichol, arXiv:2105.05233, section 4);
`Scorer`       how well a sentence fits: u of points and v of sentences, both of length 1, trained against each other
               (Radford et al., arXiv:2103.00020) on noised points (Nichol et al., arXiv:2112.10741, section 2.4). Where
               the loss is least, u . v / T = log p(y | x_t) - log p(y) + a constant (van den Oord et al., arXiv:1807.03748, eq. 5),
               so that its gradient is that of a classifier of all sentences.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.card import remembers
from reverie.denoiser import Clock
from reverie.encode import Concepts
from reverie.errors import UserError, nearest
from reverie.nets.matcher import JOINT, head
from reverie.nets.noisy_classifier import NoisyClassifier, NoisyClassifierConfig
from reverie.nets.precision import inside
from reverie.process.path import Path, like, time


class _Told(nn.Module):
    """A net that sees a noised point and is told the noise."""

    autocast: torch.dtype | None = None

    def __init__(self, net: NoisyClassifierConfig, clock: Clock, sigma_data: float | None) -> None:
        super().__init__()
        self.net, self.clock, self.sigma_data = NoisyClassifier(net), clock, sigma_data

    def seen(self, x: Tensor, t: Tensor, path: Path) -> Tensor:
        """x (B, C, H, W) at t () or (B,) -> (B, out), float32."""
        shape, config = tuple(x.shape[1:]), self.net.config
        if shape != (wanted := (config.body.in_channels, config.size, config.size)):
            raise UserError(
                f"this reader of noised pictures was trained on {wanted}, and is shown {shape}: train one on this model's space"
            )
        t = time(t).expand(len(x))
        alpha, sigma = path(t)
        scaled = x if self.sigma_data is None else x * like((alpha**2 * self.sigma_data**2 + sigma**2).rsqrt(), x)
        weight = next(self.net.parameters())
        with inside(self.autocast, x.device):
            out = self.net(scaled.to(weight.dtype), self.clock(path, t).to(weight))
        return out.float()


@remembers
class NoisyReader(_Told):
    """Reads one of `values`; net.classes is their number."""

    def __init__(self, net: NoisyClassifierConfig, values: Sequence[str], clock: Clock, sigma_data: float | None = None) -> None:
        super().__init__(net, clock, sigma_data)
        self.values = tuple(values)
        if net.classes != len(self.values):
            raise UserError(f"a reader's {len(self.values)} values are not the {net.classes} classes of its net")

    def wanted(self, said: Sequence[Any]) -> Tensor:
        """Names or numbers of classes -> (B,) int64."""
        return torch.tensor([self._index(one) for one in said])

    def _index(self, one: Any) -> int:
        names = {name: k for k, name in enumerate(self.values)} | {str(k): k for k in range(len(self.values))}
        if str(one) not in names:
            raise UserError(f"the classifier that guides knows no class '{one}'.{nearest(str(one), self.values)}")
        return names[str(one)]

    def log_prob(self, x: Tensor, t: Tensor, path: Path, wanted: Tensor) -> Tensor:
        """log p(wanted | x_t) (B,), in nats."""
        return self.seen(x, t, path).log_softmax(1).gather(1, wanted.to(x.device)[:, None])[:, 0]


@remembers
class Scorer(_Told):
    """Scores sentences, which `words`, trained before and kept as they are, turn into attributes; net.classes is 128."""

    def __init__(self, net: NoisyClassifierConfig, words: Concepts, clock: Clock, sigma_data: float | None = None) -> None:
        super().__init__(net, clock, sigma_data)
        if net.classes != JOINT:
            raise UserError(f"a scorer's net ends in {net.classes} numbers; it needs {JOINT}")
        self.words, self.text = words.requires_grad_(False), head(words.width, 256)
        self.heat = nn.Parameter(torch.tensor(-2.66))  # log of the temperature, 0.07 at first

    def see(self, x: Tensor, t: Tensor, path: Path) -> Tensor:
        """u (B, 128) of length 1."""
        return F.normalize(self.seen(x, t, path), dim=1)

    def wanted(self, said: Sequence[Any]) -> Tensor:
        """v (B, 128) of length 1."""
        with torch.no_grad():
            told = self.words.prompts([str(one) for one in said]).vector
        assert told is not None
        return F.normalize(self.text(told), dim=1)

    def log_prob(self, x: Tensor, t: Tensor, path: Path, wanted: Tensor) -> Tensor:
        """u . v / T (B,): log p(wanted | x_t), up to what does not depend on x, where training has ended well."""
        return (self.see(x, t, path) * wanted.to(x.device)).sum(1) / self.heat.exp()


NOISY = (NoisyReader, Scorer)
