"""A denoiser around a denoiser: the same net, process and rule, asked in another way."""

from typing import Any

from torch import Tensor

from reverie.denoiser import Cond, Denoiser


class Adapted(Denoiser):
    """The same as `model`, but for what a kind of adapter makes of its `raw`. Made last: settings of the model are taken over once.

    Adapters stand around each other in any order, and inside guidance: what they hear is part of either condition.
    """

    def __init__(self, model: Denoiser) -> None:
        super().__init__(
            model.net,
            model.path,
            model.rule,
            model.clock,
            sigma_data=model.sigma_data,
            learned_variance=model.learned_variance,
            bound=model.bound,
            autocast=model.autocast,
        )
        self.model = model
        self.place, self.takes = model.place, model.takes
        self.training = model.training

    def raw(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> Tensor:
        return self.model.raw(x, t, cond)

    def told(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> tuple[Tensor, Tensor, dict[str, Any]]:
        return self.model.told(x, t, cond)
