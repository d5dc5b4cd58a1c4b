"""Methods of few steps on Gaussian data, whose flow map is known: each is at rest there, and nowhere near it."""

from dataclasses import replace

import pytest
import torch
from paths import F64
from torch import nn

from reverie import oracle
from reverie.denoiser import Cond, Denoiser
from reverie.distill.consistency import consistency, ect, ict, trajectory
from reverie.distill.matching import dmd, sid
from reverie.distill.moments import moments
from reverie.distill.pairs import one_step, reflow, straightness
from reverie.distill.shown import Shown, Teacher, jump, reached
from reverie.distill.steps import fast, guidance, knots, progressive, shortcut
from reverie.distill.tangent import improved_meanflow, meanflow, scm
from reverie.process import rules, schedules
from reverie.process.path import like
from reverie.solve import DDIM, heun, sample
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
    # by the square, as what data tell of two points is no more than a mean
    "ect": (replace(ect(mean=-0.5, deviation=1.0, rounds=10), soften=30.0), {}),
    "ict": (replace(ict(2000, 2000, "karras(smallest=0.01, largest=20)", mean=-0.5, deviation=1.0), soften=30.0), {}),
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
    method.beside(student, truth)
    with torch.no_grad():
        assert float(method(student, truth).abs().max()) < 1e-20 and float(method(Map(path, ends=True), truth).min()) > 1e-12
    x = path.spread(truth.n, 1.0, 1.0)
    torch.testing.assert_close(sample(student, x, fine[::2], DDIM()), sample(truth.teacher, x, fine, DDIM()), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("place", PATHS)
@torch.no_grad()
def test_of_two_gaussians_the_guided_one_is_known(place):
    path, count = PATHS[place], 64
    told, far = (torch.full((count, 2), v, dtype=F64) for v in (MEAN, -0.4))

    class Either:
        """N(cond.vector, d^2)."""

        def __init__(self):
            self.path = path

        def __call__(self, x, t, cond=None):
            return oracle.GaussianMap(path, cond.vector, DEVIATION)(x, t)

    class Student(Map):
        """Of guidance w the mean is that of nothing and w times the way from it to that of the words."""

        def forward(self, x, t, cond=None):
            mean = far + cond.guidance[:, None] * (self.mean - far)
            return oracle.GaussianMap(path, mean, self.deviation)(x, t)

    teacher = Teacher(Either(), 1.0, lambda rows: Cond(vector=far[:rows]))
    scale = torch.linspace(1, 6, count, dtype=F64)
    seen = replace(shown(path, count), teacher=teacher, cond=Cond(vector=told, guidance=scale))
    method = guidance("log_normal(mean=-0.5, deviation=1)")
    assert float(method(Student(path), seen).max()) < 1e-20
    assert float(method(Student(path, MEAN + 0.1), seen).min()) > 1e-8


@pytest.mark.parametrize("place", PATHS)
@torch.no_grad()
def test_the_end_of_each_noise_is_learnt_of_pairs(place):
    path = PATHS[place]
    seen = shown(path, 64)
    seen = replace(seen, x0=Map(path, ends=True)(path.spread(seen.n, 1.0, 1.0), torch.ones(64, dtype=F64)).detach())
    assert float(one_step()(Map(path, ends=True), seen).max()) < 1e-12
    assert float(one_step()(Map(path, MEAN, 1.1 * DEVIATION, ends=True), seen).max()) > 1e-3


@torch.no_grad()
def test_the_reflowed_coupling_of_a_gaussian_is_straight():
    """Its pairs are x_0 = m + d n, so that x_t = alpha m + (alpha d + sigma) n tells n."""
    path = PATHS["flow"]

    class Straight(Map):
        def forward(self, x, t, cond=None):
            alpha, sigma = (c.reshape(-1, 1) for c in path(t.expand(len(x))))
            return self.mean + self.deviation * (x - alpha * self.mean) / (alpha * self.deviation + sigma)

        def halves(self, x, t, cond=None):
            keep, take = (like(c, x) for c in self.solution(t))
            return (self(x, t, cond) - keep * x) / take, None

    seen = shown(path, 64)
    seen = replace(seen, x0=MEAN + DEVIATION * seen.n)
    assert float(reflow()(Straight(path), seen).max()) < 1e-20 and float(reflow()(Straight(path, MEAN + 0.1), seen).min()) > 1e-8
    plain, grid = oracle.gaussian(path, torch.full((2,), MEAN, dtype=F64), DEVIATION), torch.linspace(1, 0, 65, dtype=F64)
    bent = straightness(plain, seen.n, grid, heun()).mean()
    assert float(straightness(Straight(path), seen.n, grid, DDIM()).max()) < 1e-12 < 1e-3 < float(bent)
    torch.testing.assert_close(sample(Straight(path), seen.n, grid[::64], DDIM()), seen.x0)  # one step ends where all do
