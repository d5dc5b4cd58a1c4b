"""Rules: what a net's output means, as coefficients of data and noise.

    output = a(t) x_0 + b(t) n                                                                                    (1)

Together with x = alpha x_0 + sigma n this is a 2x2 system; its solution for x_0 is the only converter there is.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.process.path import Path
from reverie.process.spacing import inside

Rule = Callable[[Path, Tensor], tuple[Tensor, Tensor]]


@remembers
def x0() -> Rule:
    """The clean data."""
    return lambda path, t: (torch.ones_like(t), torch.zeros_like(t))


@remembers
def eps() -> Rule:
    """The noise (arXiv 2006.11239)."""
    return lambda path, t: (torch.zeros_like(t), torch.ones_like(t))


@remembers
def score() -> Rule:
    """grad log p(x_t) = -E[n] / sigma (arXiv 2011.13456)."""
    return lambda path, t: (torch.zeros_like(t), -1 / path(t)[1])


@remembers
def v() -> Rule:
    """v = alpha n - sigma x_0 (arXiv 2202.00512)."""

    def rule(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = path(t)
        return -sigma, alpha

    return rule


@remembers
def velocity() -> Rule:
    """dx/dt along the path, alpha' x_0 + sigma' n (arXiv 2210.02747); on the plain flow path n - x_0."""
    return lambda path, t: path.rates(t)


@remembers
def edm(sigma_data: float = 0.5) -> Rule:
    """EDM's F, the output for which x_0 = c_skip x + c_out F (arXiv 2206.00364, table 1), on any path.

    With k^2 = alpha^2 sigma_data^2 + sigma^2: c_skip = alpha sigma_data^2 / k^2 and c_out = sigma sigma_data / k keep both the
    target and the error at unit scale for data of standard deviation sigma_data.
    """
    inside("edm: sigma_data", sigma_data, 1e-6, 1e6)

    def rule(path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = path(t)
        k = (alpha**2 * sigma_data**2 + sigma**2).sqrt()
        return sigma / (k * sigma_data), -alpha * sigma_data / k

    return rule


RULES = (x0, eps, score, v, velocity, edm)
