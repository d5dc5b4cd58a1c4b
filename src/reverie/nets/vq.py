"""The vector-quantised autoencoder of latent diffusion.

Van den Oord et al., arXiv:1711.00937; Esser et al., arXiv:2012.09841; Rombach et al., arXiv:2112.10752: as the KL autoencoder,
but every place of the latent is moved to the nearest of K learnt vectors,

    q(z) = e_k,   k = argmin_j |z - e_j|^2,   and passed on as z + sg(q(z) - z),                                  (1)

so that the gradient of what comes out is taken for that of what went in (sg: no gradient). The diffusion runs in the latent
before (1), and decoding quantises what it made.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.autoencoder import AutoencoderConfig, Decoder, Encoder, fits
from reverie.nets.blocks import expect


@dataclass(frozen=True, kw_only=True)
class VQConfig(AutoencoderConfig):
    """The shape of a `VQAutoencoder`. codes: vectors of the codebook. The rest: as of `AutoencoderConfig`, but nothing straight."""

    codes: int = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.straight:
            raise ValueError("straight: an autoencoder with codes has no straight path")


VQ_F4 = VQConfig(mult=(1, 2, 4), latent=3)
"""The f = 4 autoencoder of latent diffusion with 8,192 codes: 55,322,782 parameters."""
VQ_F4_NOATTN = VQConfig(mult=(1, 2, 4), latent=3, attention=False)
"""The same without attention: 53,219,486 parameters."""
VQ_F8 = VQConfig(mult=(1, 2, 2, 4), attend=(3,), codes=16384)
"""f = 8, 16,384 codes: 67,717,295 parameters."""
VQ_F8_N256 = VQConfig(mult=(1, 2, 2, 4), attend=(3,), codes=256)
"""f = 8, 256 codes: 67,652,783 parameters."""
VQ_F16 = VQConfig(mult=(1, 1, 2, 2, 4), latent=8, attend=(4,), codes=16384)
"""f = 16, 16,384 codes: 69,593,371 parameters."""


class Codebook(nn.Module):
    """Eq. (1). The vectors begin evenly spread within 1/K of zero."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(codes, width).uniform_(-1 / codes, 1 / codes))

    def indices(self, z: Tensor) -> Tensor:
        """z (B, width, h, w) -> (B, h, w): which vector is nearest. In float32."""
        rows, book = z.detach().float().permute(0, 2, 3, 1), self.weight.detach().float()
        with torch.autocast(z.device.type, enabled=False):
            far = book.square().sum(1) - 2 * rows @ book.T  # |z|^2 is the same for all
        return far.argmin(-1)

    def look_up(self, indices: Tensor) -> Tensor:
        """(B, h, w) -> (B, width, h, w), with the gradient of the vectors."""
        return F.embedding(indices, self.weight).permute(0, 3, 1, 2)

    def forward(self, z: Tensor) -> Tensor:
        """z (B, width, h, w) -> its quantised form, eq. (1)."""
        q = self.look_up(self.indices(z)).to(z.dtype)
        return z + (q - z).detach() if z.requires_grad else q.detach()


class VQAutoencoder(nn.Module):
    """`encode(x)` -> z (B, latent, H/f, W/f), not quantised; `decode(z)` quantises, -> x (B, C, H, W)."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = c = config
        self.encoder, self.decoder = Encoder(c, c.latent), Decoder(c)
        self.codebook = Codebook(c.codes, c.latent)
        self.quant = nn.Conv2d(c.latent, c.latent, 1) if c.quant else nn.Identity()
        self.unquant = nn.Conv2d(c.latent, c.latent, 1) if c.quant else nn.Identity()

    @property
    def last(self) -> Tensor:
        """The weight of the decoder's last layer."""
        return self.decoder.head.weight

    def encode(self, x: Tensor) -> Tensor:
        fits("x", x, self.config.in_channels, self.config.factor)
        out: Tensor = self.quant(self.encoder(x))
        return out

    def decode(self, z: Tensor) -> Tensor:
        expect("z", z, None, self.config.latent, None, None)
        out: Tensor = self.decoder(self.unquant(self.codebook(z)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """The picture rebuilt from the codes of its latent."""
        return self.decode(self.encode(x))
