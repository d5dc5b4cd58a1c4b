"""Which noise goes with which point: minibatch optimal transport (Pooladian et al., arXiv:2304.14772; Tong et al., 2302.00482).

Within a batch the noises are dealt out anew, by the plan P whose sum of P_ij |x0_i - n_j|^2 is least

exact       P is a permutation (the assignment problem, by scipy)
sinkhorn    that plus epsilon sum P log P, scaled row by row and column by column until both sum to 1 (Cuturi, arXiv:1306.0895); the
            noise of a point is drawn from its row

and denoising is learnt of the pairs, whose ways cross less, so that they are straighter.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reverie.card import Card, parse, rebuild, remembers
from reverie.denoiser import Denoiser
from reverie.distill.shown import Shown
from reverie.errors import UserError
from reverie.train.objective import TIMES, denoising


def costs(x0: Tensor, n: Tensor) -> Tensor:
    """|x0_i - n_j|^2 / D, (B, B), of points (B, ...)."""
    one, two = x0.flatten(1).double(), n.flatten(1).double()
    return torch.cdist(one, two).square() / one.shape[1]


def exact(x0: Tensor, n: Tensor) -> Tensor:
    """The number of the noise that goes with each point, (B,)."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise UserError("exact couplings need scipy: pip install 'reverie[coupling]', or choose sinkhorn") from None
    return torch.from_numpy(linear_sum_assignment(costs(x0, n).numpy())[1])


def plan(x0: Tensor, n: Tensor, epsilon: float, rounds: int = 200) -> Tensor:
    """P of sinkhorn (B, B), whose rows and columns sum to 1; epsilon in units of the mean cost."""
    cost = costs(x0, n)
    logits = -cost / (epsilon * cost.mean())
    for _ in range(rounds):
        logits = logits - logits.logsumexp(0, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()


@dataclass(frozen=True)
class Coupled:
    """Denoising on pairs of a batch; epsilon 0 is the exact coupling."""

    times: Any
    epsilon: float
    hears: tuple[str, ...] = ()
    card: Card = field(default_factory=dict, compare=False)

    def __call__(self, student: Denoiser, shown: Shown) -> Tensor:
        if self.epsilon:
            rows = plan(shown.x0, shown.n, self.epsilon).cumsum(1)
            u = shown.uniform("coupling") * rows[:, -1]
            which = torch.searchsorted(rows, u[:, None]).squeeze(1).clamp(max=len(rows) - 1)
        else:
            which = exact(shown.x0, shown.n)
        return denoising(student, shown.x0, shown.times(self.times, student.path), shown.n[which], shown.cond)


@remembers
def coupled(epsilon: float = 0.0, times: str = "log_normal(mean=-0.4, deviation=1.4)") -> Coupled:
    """Flow matching on minibatch couplings: exact, or by sinkhorn with an epsilon above 0."""
    if not 0 <= epsilon <= 10:
        raise UserError(f"coupled: epsilon is {epsilon}; it is 0 for the exact coupling, or up to 10 mean costs")
    return Coupled(rebuild(parse(times), TIMES, "times"), epsilon)
