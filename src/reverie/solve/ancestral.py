"""Predict, then bridge: the sampler of every process that can bridge (DDPM, DDIM, cold diffusion, token unmasking)."""

from dataclasses import dataclass

from torch import Tensor

from reverie.denoiser import Cond, Model
from reverie.rng import Rng


@dataclass(frozen=True)
class Ancestral:
    """x_s = bridge(x_t, model(x_t), t, s, eta): eta 1 is DDPM (arXiv 2006.11239), eta 0 DDIM (arXiv 2010.02502)."""

    eta: float = 1.0
    order: int = 1

    def init(self) -> None:
        return None

    def step(
        self, model: Model, x: Tensor, t: Tensor, s: Tensor, state: None, *, cond: Cond | None, rng: Rng | None
    ) -> tuple[Tensor, None]:
        return model.path.bridge(x, model(x, t, cond), t, s, eta=self.eta, rng=rng), None
