"""Training of autoencoders (Rombach et al., arXiv:2112.10752, section 3.1; Esser et al., arXiv:2012.09841).

Per picture x of N values, with x' what is rebuilt from its latent:

    L = mean |x - x'| + w_p perceptual(x, x') + w_b price + w_g g -mean D(x') + hinge(D),                          (1)
    price = KL(q(z|x), N(0, 1)) / N   or   |sg(z) - e|^2 + b |z - sg(e)|^2   or   nothing,                         (2)
    hinge(D) = mean relu(1 - D(x)) / 2 + mean relu(1 + D(sg(x'))) / 2,                                             (3)
    g = |d near / d W| / (|d adversarial / d W| + 1e-4), kept within [0, 10^4],                                    (4)

W being the last layer of the decoder, `near` the first two terms, and sg what no gradient passes. The published code adds up
|x - x'| over the picture where (1) takes its mean, so its weight of the KL, 1e-6 for a sum, is the same here with the KL over N.
The discriminator D learns in the same step from the same optimiser: no gradient of (3) reaches the autoencoder, and none of
the rest reaches D.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.codec import Latent
from reverie.nets.autoencoder import Autoencoder
from reverie.nets.dcae import DCAE
from reverie.nets.precision import inside
from reverie.nets.vq import VQAutoencoder
from reverie.train.jobs import to_pictures, to_signal
from reverie.train.loop import Key

Distance = Callable[[Tensor, Tensor], Tensor]
"""Of two batches of pictures, (B,)."""
Rebuild = Callable[[Tensor, torch.Generator | None], tuple[Tensor, Tensor]]
"""(x, generator) -> (x', price (B,)), eq. (2); without a generator nothing is random."""


def variational(net: Autoencoder) -> Rebuild:
    """A point drawn from the latent's mean and variance, at the price of their divergence from noise."""

    def rebuild(x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        mean, logvar = (part.float() for part in net.encode(x))
        z = mean
        if generator is not None:
            z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator).to(mean.device)
        nats = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
        return net.decode(z).float(), nats / x[0].numel()

    return rebuild


def quantised(net: VQAutoencoder, commitment: float = 0.25) -> Rebuild:
    """The nearest codes. As published code has it, b of (2) stands before what moves the codes, not before what moves z."""

    def rebuild(x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        z = net.encode(x).float()
        codes = net.codebook.look_up(net.codebook.indices(z))
        towards, away = (codes.detach() - z).square(), (codes - z.detach()).square()
        return net.decode(z).float(), (towards + commitment * away).flatten(1).mean(1)

    return rebuild


def plain(net: DCAE) -> Rebuild:
    """The latent as it is, at no price."""

    def rebuild(x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return net.decode(net.encode(x)).float(), x.new_zeros(len(x))

    return rebuild


@torch.no_grad()
def scattered(net: VQAutoencoder, pictures: np.ndarray) -> VQAutoencoder:
    """A fresh net whose codes begin where latents of some pictures lie: codes that are nearest to nothing are never learnt."""
    x = to_signal(pictures[:: max(1, len(pictures) // 128)][:128])
    z = net.encode(x).permute(0, 2, 3, 1).flatten(0, 2)
    book = net.codebook.weight
    book.copy_(z[torch.randint(len(z), (len(book),))] + 0.01 * z.std() * torch.randn(book.shape))
    return net


def begun(net: Autoencoder, pictures: np.ndarray, logvar: float = -6.0) -> Autoencoder:
    """A fresh net, so that it learns from the first step on.

    Its latents have little noise: with the deviation of 1 that they would have, hundreds of steps pass before anything gets
    through. A straight path begins as the principal components of the squares of `pictures` uint8 (N, C, H, W), each of
    deviation 1, which is the best that a linear map can do, and the nets beside it begin at zero.
    """
    latent, layer = net.config.latent, net.quant if isinstance(net.quant, nn.Conv2d) else net.encoder.head
    with torch.no_grad():
        if net.fold is not None and net.unfold is not None:
            for part in (net.encoder.head, net.decoder.head):
                part.weight.zero_()
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            into, back, mean = components(pictures, net.config.factor, latent)
            net.fold.weight.copy_(into[..., None, None])
            net.unfold.weight.copy_(back[..., None, None])
            nn.init.zeros_(net.fold.bias).sub_(into @ mean)  # type: ignore[arg-type]
            nn.init.zeros_(net.unfold.bias).add_(mean)  # type: ignore[arg-type]
        layer.bias[latent:] += logvar  # type: ignore[index]
    return net


def components(pictures: np.ndarray, factor: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components of squares of factor x factor pixels (S values): into (count, S), back (S, count), mean (S,)."""
    x = to_signal(pictures[:: max(1, len(pictures) // 1024)])
    squares = F.pixel_unshuffle(x, factor).permute(0, 2, 3, 1).flatten(0, 2).double()
    mean = squares.mean(0)
    values, axes = torch.linalg.eigh((squares - mean).T @ (squares - mean) / len(squares))
    axes, deviation = axes[:, -count:].flip(1), values[-count:].flip(0).clamp_min(1e-8).sqrt()
    return (axes / deviation).T.float(), (axes * deviation).float(), mean.float()


@dataclass(frozen=True)
class Adversary:
    """A discriminator, (B, C, H, W) -> (B, 1, h, w), that joins in at step `start`; its word counts `weight` times (4)."""

    critic: nn.Module
    start: int
    weight: float = 0.5


class Autoencoding:
    """Trains the net of a codec on pictures uint8 (N, C, H, W) by eq. (1).

    perceptual: a distance of pictures and its weight. price: the weight of (2). squared: |x - x'|^2 in place of |x - x'|.
    """

    def __init__(
        self,
        codec: Latent,
        rebuild: Rebuild,
        pictures: np.ndarray,
        held: np.ndarray,
        *,
        price: float,
        squared: bool = False,
        perceptual: tuple[Distance, float] | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        self.codec, self.rebuild, self.pictures, self.held = codec, rebuild, pictures, held
        self.price, self.squared, self.perceptual, self.adversary = price, squared, perceptual, adversary
        self.module = nn.ModuleDict({"codec": codec} | ({} if adversary is None else {"critic": adversary.critic}))
        self.size = len(pictures)

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        x = _innermost(to_signal(self.pictures[index]))
        with inside(self.codec.autocast, x.device):
            y, price = self.rebuild(x, key.torch("latent"))
            near = self.distance(x, y)
            total = near + self.price * price
            if self.adversary is not None and key.step >= self.adversary.start:
                total = total + contest(self.adversary, x, y, near, self.codec.net.last)
        return total

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The first two terms of (1), (B,)."""
        gap = x - y
        near = (gap.square() if self.squared else gap.abs()).flatten(1).mean(1)
        if self.perceptual is not None:
            near = near + self.perceptual[1] * self.perceptual[0](x, y)
        return near

    @torch.no_grad()
    def rebuilt(self, pictures: np.ndarray, batch: int = 64) -> np.ndarray:
        """What becomes of pictures uint8 (N, C, H, W): uint8 again."""
        out = []
        for i in range(0, len(pictures), batch):
            x = _innermost(to_signal(pictures[i : i + batch]))
            with inside(self.codec.autocast, x.device):
                out.append(to_pictures(self.rebuild(x, None)[0]))
        return np.concatenate(out)

    def validate(self) -> float:
        """The mean PSNR of the held-out pictures, in dB: more is better."""
        return float(psnr(self.held, self.rebuilt(self.held)).mean())

    def shown(self) -> Tensor:
        """Pictures for a preview, in [-1, 1]: eight that were held out, and below them what becomes of them."""
        some = self.held[:8]
        return to_signal(np.concatenate([some, self.rebuilt(some)]))

    def finish(self) -> Mapping[str, Any]:
        """Measures the latents that the diffusion will see, and says how well pictures are rebuilt."""
        rows = np.linspace(0, self.size - 1, min(self.size, 2048)).astype(int)
        self.codec.measure([to_signal(self.pictures[rows[i : i + 64]]) for i in range(0, len(rows), 64)])
        return {"psnr": round(self.validate(), 2)}


def contest(adversary: Adversary, x: Tensor, y: Tensor, near: Tensor, last: Tensor) -> Tensor:
    """The last two terms of (1), (B,); last: the weight W of (4)."""
    critic = adversary.critic
    with _frozen(critic):
        word = -critic(y).float().flatten(1).mean(1)
    real, fake = critic(x).float(), critic(y.detach()).float()
    hinge = (F.relu(1 - real) + F.relu(1 + fake)).flatten(1).mean(1) / 2
    return adversary.weight * balance(near.mean(), word.mean(), last) * word + hinge


def balance(near: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Eq. (4): a number without a gradient; 1 where there are none."""
    if not torch.is_grad_enabled():
        return near.new_ones(())
    ours, theirs = (torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (near, adversarial))
    return (ours / (theirs + 1e-4)).clamp(0, 1e4).detach()


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside, gradients pass through the module, but not into it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _innermost(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def psnr(true: np.ndarray, rebuilt: np.ndarray) -> np.ndarray:
    """Peak signal to noise of each of some pictures uint8 (N, C, H, W), in dB; 100 where nothing differs."""
    error = np.square(true.astype(np.float32) - rebuilt.astype(np.float32)).reshape(len(true), -1).mean(1)
    return np.asarray(10 * np.log10(255.0**2 / np.maximum(error, 255.0**2 * math.pow(10, -10))))
