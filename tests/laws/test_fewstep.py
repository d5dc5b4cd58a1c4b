"""Methods of few steps on Gaussian data, whose flow map is known: each is at rest there, and nowhere near it."""

import pytest
import torch
from paths import F64
from torch import nn

from reverie import oracle
from reverie.denoiser import Cond, Denoiser
from reverie.distill.consistency import consistency, trajectory
from reverie.distill.shown import Shown, Teacher
from reverie.distill.tangent import improved_meanflow, meanflow, scm
from reverie.process import rules, schedules
from reverie.train.loop import Key

MEAN, DEVIATION = 0.7, 0.6
PATHS = {"edm": schedules.edm(20.0), "flow": schedules.flow(), "cosine": schedules.cosine()}


class Map(Denoiser):
    """The flow map of a Gaussian whose mean and deviation are learnt. ends: aimed at 0 where nothing is said."""

    def __init__(self, path, mean=MEAN, deviation=DEVIATION, ends=False):
        super().__init__(nn.Linear(1, 1), path, rules.velocity() if path is PATHS["flow"] else rules.v())
        self.mean, self.deviation = (nn.Parameter(torch.tensor(v, dtype=F64)) for v in (mean, deviation))
        self.ends, self.hears = ends, ("target",)

    def forward(self, x, t, cond=None):
        if self.ends and (cond is None or cond.target is None):
            cond = Cond(target=torch.zeros(len(x), dtype=F64))
        return oracle.GaussianMap(self.path, self.mean.expand(x.shape[1:]), self.deviation)(x, t, cond)


def shown(path, count, seed=0, teacher=False, share=1.0, size=2):
    made = torch.Generator().manual_seed(seed)
    x0, n = (torch.randn(count, size, dtype=F64, generator=made) for _ in range(2))
    truth = Teacher(oracle.gaussian(path, torch.full((size,), MEAN, dtype=F64), DEVIATION)) if teacher else None
    return Shown(x0=MEAN + DEVIATION * x0, n=n, key=Key(seed, 0), teacher=truth, share=share)


def slopes(method, path, mean=MEAN, deviation=DEVIATION, count=40000, **told):
    """Of the mean loss by (mean, deviation): the gradient, and the error of it that chance makes."""
    student = Map(path, mean, deviation, ends="target" not in method.hears)
    parts = []
    for seed in range(8):
        loss = method(student, shown(path, count // 8, seed, **told)).mean()
        parts.append(torch.stack(torch.autograd.grad(loss, [student.mean, student.deviation])))
    every = torch.stack(parts)
    return every.mean(0), every.std(0) / 8**0.5


METHODS = {
    "scm": (scm("log_normal(mean=-0.5, deviation=1)"), {"size": 200, "count": 4000}),  # leans where there are few numbers
    "scm from a teacher": (scm("log_normal(mean=-0.5, deviation=1)"), {"teacher": True}),
    "meanflow": (meanflow("uniform(least=0.05)", 0.75, 0.0), {}),
    "meanflow, weighed": (meanflow("uniform(least=0.05)", 0.75), {"teacher": True}),
    "improved meanflow": (improved_meanflow("uniform(least=0.05)", 0.75, 0.0), {}),
    "consistency": (consistency(500, "karras(smallest=0.01, largest=20)"), {"teacher": True}),
    "trajectory": (trajectory(500, "karras(smallest=0.01, largest=20)"), {"teacher": True}),
}


@pytest.mark.parametrize("place", PATHS)
@pytest.mark.parametrize("name", METHODS)
def test_at_the_known_map_nothing_is_left_to_learn(name, place):
    (method, told), path = METHODS[name], PATHS[place]
    at, error = slopes(method, path, **told)
    away = torch.stack(
        [slopes(method, path, MEAN + 0.2, DEVIATION, **told)[0], slopes(method, path, MEAN, 1.3 * DEVIATION, **told)[0]]
    )
    assert (at.abs() < 5 * error + 0.02 * away.diagonal().abs()).all(), (at, error, away)
    assert (away.diagonal() > 0).all(), "and away from it the way leads back"
