"""Methods of few steps on Gaussian data, whose flow map is known: each is at rest there, and nowhere near it."""

from dataclasses import replace

import pytest
import torch
from paths import F64
from torch import nn

from reverie import oracle
from reverie.denoiser import Cond, Denoiser
from reverie.distill.consistency import consistency, trajectory
from reverie.distill.matching import dmd, sid
from reverie.distill.moments import moments
from reverie.distill.shown import Shown, Teacher, jump, reached
from reverie.distill.steps import fast, knots, progressive, shortcut
from reverie.distill.tangent import improved_meanflow, meanflow, scm
from reverie.process import rules, schedules
from reverie.solve import DDIM, sample
from reverie.train.loop import Key

MEAN, DEVIATION = 0.7, 0.6
PATHS = {"edm": schedules.edm(20.0), "flow": schedules.flow(), "cosine": schedules.cosine()}


class Map(Denoiser):
    """The flow map of a Gaussian whose mean and deviation are learnt; where nothing is said it is aimed at 0, if it `ends`, or at
    the next of `knots`."""

    knots = None

    def __init__(self, path, mean=MEAN, deviation=DEVIATION, ends=False):
        super().__init__(nn.Linear(1, 1), path, rules.velocity() if path is PATHS["flow"] else rules.v())
        self.mean, self.deviation = (nn.Parameter(torch.tensor(v, dtype=F64)) for v in (mean, deviation))
        self.ends, self.hears = ends, ("target",)

    def forward(self, x, t, cond=None):
        if self.ends and (cond is None or cond.target is None):
            cond = Cond(target=torch.zeros(len(x), dtype=F64))
            if self.knots is not None:
                now = (self.knots - t.expand(len(x))[:, None]).abs().argmin(1)
                cond = Cond(target=self.knots[now + 1])
        return oracle.GaussianMap(self.path, self.mean.expand(x.shape[1:]), self.deviation)(x, t, cond)


def shown(path, count, seed=0, teacher=False, share=1.0, size=2):
    made = torch.Generator().manual_seed(seed)
    x0, n = (torch.randn(count, size, dtype=F64, generator=made) for _ in range(2))
    truth = Teacher(oracle.gaussian(path, torch.full((size,), MEAN, dtype=F64), DEVIATION)) if teacher else None
    return Shown(x0=MEAN + DEVIATION * x0, n=n, key=Key(seed, 0), teacher=truth, share=share)


def slopes(method, path, mean=MEAN, deviation=DEVIATION, count=8000, **told):
    """Of the mean loss by (mean, deviation): the gradient, and the error of it that chance makes."""
    student = Map(path, mean, deviation, ends="target" not in method.hears)
    if hasattr(method, "grid"):
        student.knots = knots(method.grid, path, method.steps)
    parts = []
    for seed in range(8):
        loss = method(student, shown(path, count // 8, seed, **told)).mean()
        parts.append(torch.stack(torch.autograd.grad(loss, [student.mean, student.deviation])))
    every = torch.stack(parts)
    return every.mean(0), every.std(0) / 8**0.5


METHODS = {
    "scm": (scm("log_normal(mean=-0.5, deviation=1)"), {"size": 200, "count": 1600}),  # leans where there are few numbers
    "scm from a teacher": (scm("log_normal(mean=-0.5, deviation=1)"), {"teacher": True}),
    "meanflow": (meanflow("uniform(least=0.05)", 0.75, 0.0), {}),
    "meanflow, weighed": (meanflow("uniform(least=0.05)", 0.75), {"teacher": True}),
    "improved meanflow": (improved_meanflow("uniform(least=0.05)", 0.75, 0.0), {}),
    "consistency": (consistency(500, "karras(smallest=0.01, largest=20)"), {"teacher": True}),
    "trajectory": (trajectory(500, "karras(smallest=0.01, largest=20)"), {"teacher": True}),
}


def scored(make, **more):
    """A method of distribution matching whose fake is exact: it knows what the student makes."""
    method = make(steps=1, **more)

    class Fake:
        def __call__(self, x, t, cond=None):
            return oracle.GaussianMap(self.student.path, self.student.mean.detach().expand(2), self.student.deviation.detach())(
                x, t
            )

    method.fake = Fake()

    def loss(student, shown):
        method.fake.student = student
        return method(student, replace(shown, key=Key(shown.key.seed, 0)))

    loss.hears = ()
    return loss


METHODS |= {
    "dmd": (scored(dmd, times="log_normal(mean=-0.5, deviation=1)"), {"teacher": True}),
    "sid": (scored(sid, times="log_normal(mean=-0.5, deviation=1)"), {"teacher": True}),
    "moments": (moments(8, 0.4, times="log_normal(mean=-0.3, deviation=1)"), {}),
    "fast": (fast(3, 60), {"teacher": True}),
    "shortcut": (shortcut(32, 0.25), {}),
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


@pytest.mark.parametrize("place", PATHS)
def test_halving_keeps_the_map(place):
    path = PATHS[place]
    truth = shown(path, 32, teacher=True)
    method, fine = progressive(4, 4, "quantiles(deviation=1)"), knots("quantiles(deviation=1)", path, 8)

    class Two(Map):
        def forward(self, x, t, cond=None):
            k = (fine - t.expand(len(x))[:, None]).abs().argmin(1)
            t, m, s = fine[k], fine[k + 1], fine[k + 2]
            y = jump(path, x, truth.teacher(x, t), t, m)
            return reached(path, x, jump(path, y, truth.teacher(y, m), m, s), t, s)

    student = Two(path)
    method.beside(student, None)
    with torch.no_grad():
        assert float(method(student, truth).abs().max()) < 1e-20 and float(method(Map(path, ends=True), truth).min()) > 1e-12
    x = path.spread(truth.n, 1.0, 1.0)
    torch.testing.assert_close(sample(student, x, fine[::2], DDIM()), sample(truth.teacher, x, fine, DDIM()), atol=1e-9, rtol=1e-9)
