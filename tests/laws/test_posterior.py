"""With a Gaussian prior and a linear operator what is known of x_0 after a measurement has a closed form: so have the estimates,
and the samples."""

import itertools
import math

import pytest
import torch

from reverie.denoiser import OneByOne
from reverie.guide.kept import Beside
from reverie.guide.operators import blur, downsample, grey, identity, mask
from reverie.guide.posterior import Posterior, dps, mmps, pigdm
from reverie.oracle import gaussian
from reverie.process import grids, schedules
from reverie.process.path import like, time
from reverie.rng import Rng
from reverie.solve import named, sample
from reverie.solve.table import ROWS

PATHS = {"cosine": schedules.cosine(), "edm": schedules.edm(), "flow": schedules.flow()}
SHAPE, SIZE = (1, 2, 2), 4
EXACT = mmps(steps=12)


def _covariance():
    root = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return root @ root.T / SIZE + 0.05 * torch.eye(SIZE).double()


COVARIANCE, MEAN = _covariance(), torch.tensor([0.3, -0.5, 0.1, 0.8], dtype=torch.float64)
MATRIX = torch.tensor([[0.5, 0.5, 0.0, 0.2], [0.0, -0.3, 1.0, 0.4], [0.7, 0.0, 0.1, 0.0]], dtype=torch.float64)


class Prior:
    """The exact denoiser of N(mean, covariance): m + a C (a^2 C + s^2)^-1 (x - a m)."""

    def __init__(self, path, mean=MEAN, covariance=COVARIANCE):
        self.path, self.mean, self.covariance = path, mean, covariance

    def __call__(self, x, t, cond=None):
        alpha, sigma = (c[:, None, None] for c in self.path(time(t).expand(len(x))))
        spread = alpha**2 * self.covariance + sigma**2 * torch.eye(SIZE).double()
        gain = alpha * self.covariance @ torch.linalg.inv(spread)
        gap = x.flatten(1).double() - alpha[..., 0] * self.mean
        return (self.mean + torch.einsum("bij,bj->bi", gain, gap)).reshape(x.shape).to(x)

    def with_variance(self, x, t, cond=None):
        return self(x, t), torch.zeros_like(x)


def forward(z):
    return z.flatten(1) @ MATRIX.T.to(z)


def after(matrix, variance, y, mean=MEAN, covariance=COVARIANCE):
    """(mean (B, D), covariance) of x_0 given y."""
    gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T + torch.diag(variance))
    return mean + (y - mean @ matrix.T) @ gain.T, covariance - gain @ matrix @ covariance


NOISE = torch.tensor([0.02, 0.3, 0.1], dtype=torch.float64)
"""Variances of the three measurements."""


def measured(count, seed=0):
    y = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return y, NOISE.expand(count, 3)


def points(path, t, count, seed=1):
    alpha, sigma = path(time(t).expand(count))
    x = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * like((alpha**2 + sigma**2).sqrt(), x)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("t", [0.99, 0.8, 0.4, 0.1, 0.01])
def test_mmps_is_the_exact_denoiser_of_a_gaussian_posterior(name, t):
    """E[x_0 | x_t, y]: the prior conditioned on y, denoised."""
    path = PATHS[name]
    x, (y, variance) = points(path, t, 3), measured(3)
    made = Posterior(Prior(path), forward, EXACT)(x, time(t), Beside(None, (y, variance)))
    means, covariance = after(MATRIX, NOISE, y)
    truth = torch.cat([Prior(path, m, covariance)(row[None], time(t)) for m, row in zip(means, x, strict=True)])
    torch.testing.assert_close(made, truth, rtol=1e-6, atol=1e-8)
    plain = Prior(path)(x, time(t))
    assert (plain - truth).abs().max() > (1e-3 if t > 0.05 else 1e-6), "the measurement says something"


def test_fewer_steps_of_conjugate_gradients_come_nearer_one_by_one():
    path, t = PATHS["cosine"], 0.7
    x, (y, variance) = points(path, t, 50), measured(50)
    truth = Posterior(Prior(path), forward, EXACT)(x, time(t), Beside(None, (y, variance)))
    errors = [
        float((Posterior(Prior(path), forward, mmps(n))(x, time(t), Beside(None, (y, variance))) - truth).abs().mean())
        for n in (1, 2, 3)
    ]
    assert all(a > 2 * b for a, b in itertools.pairwise(errors)) and errors[2] < 1e-6


@pytest.mark.parametrize("name", PATHS)
def test_pigdm_is_exact_where_the_data_is_isotropic(name):
    path, spread = PATHS[name], 0.7
    x, (y, variance) = points(path, 0.6, 4), measured(4)
    cond, prior = Beside(None, (y, variance)), gaussian(path, MEAN.reshape(SHAPE), spread)
    made = Posterior(prior, forward, pigdm(spread, 12))(x, time(0.6), cond)
    torch.testing.assert_close(made, Posterior(prior, forward, EXACT)(x, time(0.6), cond), rtol=1e-8, atol=1e-10)
    means, covariance = after(MATRIX, NOISE, y, MEAN, spread**2 * torch.eye(SIZE).double())
    truth = torch.cat([Prior(path, m, covariance)(row[None], time(0.6)) for m, row in zip(means, x, strict=True)])
    torch.testing.assert_close(made, truth, rtol=1e-6, atol=1e-8)
    other = Posterior(prior, forward, pigdm(2 * spread, 12))(x, time(0.6), cond)
    assert (other - truth).abs().max() > 1e-2, "with another deviation it is another"


def test_dps_goes_the_same_way_and_never_beyond_what_fits():
    """Its bias: the way is that of the slope, about the true correction's, the length that of the scale; and it never goes beyond
    the point of its way that fits best. With isotropic data and all of it measured, it is the true way."""
    path = PATHS["edm"]
    x, (y, variance) = points(path, 0.6, 200), measured(200)
    cond, plain = Beside(None, (y, variance)), Prior(path)(x, time(0.6))
    truth = (Posterior(Prior(path), forward, EXACT)(x, time(0.6), cond) - plain).flatten(1)
    one, two, most, more = (
        (Posterior(Prior(path), forward, dps(scale))(x, time(0.6), cond) - plain).flatten(1) for scale in (0.1, 0.2, 1e4, 1e5)
    )
    torch.testing.assert_close(two, 2 * one)
    torch.testing.assert_close(most, more)
    along = torch.cosine_similarity(one, truth)
    assert along.min() > 0 and along.mean() > 0.7
    assert (forward(plain + most.reshape(x.shape)) - y).norm() < (forward(plain) - y).norm()
    flat = gaussian(path, MEAN.reshape(SHAPE), 0.5)
    cond = Beside(None, (points(path, 0.0, 200), torch.full((200, 1, 1, 1), 0.01).double()))
    ways = [Posterior(flat, lambda z: z, how)(x, time(0.6), cond) - flat(x, time(0.6)) for how in (dps(), EXACT)]
    torch.testing.assert_close(torch.cosine_similarity(*(w.flatten(1) for w in ways)), torch.ones(200).double())


class Skewed(Prior):
    """A Jacobian as a net's is: with a skew part, and negative in a direction."""

    def __call__(self, x, t, cond=None):
        sigma = self.path(time(t))[1]
        turn = torch.tensor(
            [[-0.01, 0.02, 0, 0.01], [0, 0.004, -0.02, 0.02], [0.03, 0, -0.01, 0], [0.02, -0.01, 0, -0.02]]
        ).double()
        return super().__call__(x, t) + (x.flatten(1) @ turn.T).reshape(x.shape) * like(1 / sigma, x)


@pytest.mark.parametrize("method", [dps(100.0), pigdm(20.0), mmps(), EXACT], ids=["dps", "pigdm", "mmps", "exact"])
def test_a_jacobian_that_is_no_covariance_leads_nowhere_far(method):
    """Corrections of the size of what they correct, though a solution with that Jacobian may be near infinity."""
    path = PATHS["edm"]
    x, (y, variance) = points(path, 0.9, 500), measured(500)
    flat = Skewed(path, covariance=0.01 * torch.eye(SIZE).double())
    made = Posterior(flat, forward, method)(x, time(0.9), Beside(None, (y, variance * 1e-4)))
    assert (made - flat(x, time(0.9))).abs().max() < 30


COUNT = 2000


@pytest.mark.parametrize(("solver", "steps"), [("dpmpp-2m", 25), ("dpmpp-2m-sde", 30)])
def test_samples_have_the_mean_and_the_covariance_of_the_posterior(solver, steps):
    """Of 2000 samples: a mean within 4 of its own deviations, 0.09 of a sample's; a covariance within 4 sqrt(2 / n), 0.13 of the
    largest variance."""
    path = PATHS["cosine"]
    y = torch.tensor([[0.8, -0.4, 0.5]], dtype=torch.float64).expand(COUNT, 3)
    rng = Rng.of(0, COUNT, dtype=torch.float64)
    x = path.prior((COUNT, *SHAPE), rng=rng, spread=1.0)
    model = Posterior(Prior(path), forward, EXACT)
    made = sample(model, x, grids.uniform()(path, steps), named(solver)[0], cond=Beside(None, (y, NOISE.expand(COUNT, 3))), rng=rng)
    means, covariance = after(MATRIX, NOISE, y[:1])
    made = made.flatten(1)
    deviation = covariance.diagonal().sqrt()
    assert ((made.mean(0) - means[0]).abs() / deviation).max() < 4 / math.sqrt(COUNT)
    assert (made.T.cov() - covariance).abs().max() < 4 * math.sqrt(2 / COUNT) * covariance.diagonal().max()
    assert (COVARIANCE - covariance).abs().max() > 0.3, "the measurement says much"


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_every_solver_ends_at_what_was_measured(row):
    """A measurement of everything, without noise to speak of, leaves one picture; on a path that begins without any of the data."""
    path = PATHS["flow"]
    grid, noise = grids.uniform()(path, 8 if row.family != "adaptive" else 2), 1e-4 if row.family != "adaptive" else 1e-2
    y = points(path, 0.0, 2)
    cond = Beside(None, (y, torch.full((2, 1, 1, 1), noise**2, dtype=torch.float64)))
    x = path.prior((2, *SHAPE), rng=Rng.of(1, 2, dtype=torch.float64), spread=1.0)
    made = sample(Posterior(Prior(path), lambda z: z, EXACT), x, grid, row.make(), cond=cond, rng=Rng.of(1, 2, dtype=torch.float64))
    assert (made - y).abs().max() < 1e-2 + 4 * noise


def curved(z):
    """As a decoder before an operator is: no linear map."""
    return torch.tanh(forward(z))


@pytest.mark.parametrize("method", [dps(), pigdm(), mmps(), EXACT], ids=["dps", "pigdm", "mmps", "exact"])
def test_a_sample_is_the_same_alone_and_among_others(method):
    """At times of its own, too, and where another needs more steps; one by one to the last bit."""
    path = PATHS["flow"]
    t = torch.tensor([0.9, 0.5, 1.0, 0.02], dtype=torch.float64)
    x, (y, variance) = points(path, 0.5, 4), measured(4)
    y[1] = curved(Prior(path)(x, t))[1]  # nothing is left to correct
    cond, model = (
        Beside(None, (y, variance * torch.tensor([1.0, 2, 3, 4]).double()[:, None])),
        Posterior(Prior(path), curved, method),
    )
    whole = model(x, t, cond)
    assert whole.isfinite().all() and not whole.requires_grad
    for k in range(4):
        row = slice(k, k + 1)
        torch.testing.assert_close(model(x[row], t[row], cond[row]), whole[row], rtol=1e-10, atol=1e-12)
    alone = torch.cat([model(x[k : k + 1], t[k : k + 1], cond[k : k + 1]) for k in range(4)])
    assert torch.equal(OneByOne(model)(x, t, cond), alone)
    assert torch.equal(model.with_variance(x, t, cond)[0], whole)
    torch.testing.assert_close(whole[1], Prior(path)(x, t)[1])


def test_where_nothing_is_left_of_the_data_the_measurement_is_still_heard():
    """alpha = 0: the estimate is the posterior's mean, to the thousandth at which it is asked."""
    path = PATHS["flow"]
    x, (y, variance) = points(path, 1.0, 3), measured(3)
    made = Posterior(Prior(path), forward, EXACT)(x, time(1.0), Beside(None, (y, variance)))
    torch.testing.assert_close(made.flatten(1), after(MATRIX, NOISE, y)[0], rtol=0, atol=1e-2)


OPERATORS = {
    "identity": identity().told((3, 8, 8)),
    "mask": mask().told((3, 8, 8), (torch.arange(64).reshape(1, 1, 8, 8) % 3 == 0).float()),
    "downsample": downsample(2),
    "blur": blur(0.8),
    "grey": grey().told((3, 8, 8)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_linear_and_what_they_give_back_would_be_measured_so(name):
    operator = OPERATORS[name]
    x, z = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(operator(2 * x - 3 * z), 2 * operator(x) - 3 * operator(z))
    y = operator(x)
    agreed = operator.agree(z, y)
    if name != "blur":
        torch.testing.assert_close(operator(operator.back(y)), y)
        torch.testing.assert_close(operator(agreed), y)
        gap = (agreed - z).flatten(1)
        null = (x - agreed).flatten(1)  # what y says nothing of
        torch.testing.assert_close((gap * null).sum(1), torch.zeros(2).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["downsample", "grey", "mask"])
@pytest.mark.parametrize("reach", [0.5, 3.0])
def test_what_agrees_within_the_range_is_the_nearest_that_does(name, reach):
    """Of a convex set: no other picture z in it lies nearer to x than p, for (x - p) . (z - p) <= 0 (Hilbert's projection)."""
    operator, make = OPERATORS[name], torch.Generator().manual_seed(0)
    z = (1.5 * torch.rand(20, 3, 8, 8, dtype=torch.float64, generator=make)).clamp(-1, 1)
    z[0], z[1] = 1, -1  # where one picture alone is left
    x, y = reach * torch.randn(20, 3, 8, 8, dtype=torch.float64, generator=make), operator(z)
    found = operator.within(x, y)
    torch.testing.assert_close(operator(found), y, atol=1e-6, rtol=0)
    assert float(found.abs().max()) <= 1
    assert float(((x - found) * (z - found)).flatten(1).sum(1).max()) < 1e-4
    torch.testing.assert_close(operator.within(z, y), z, atol=1e-6, rtol=0)


def test_a_blur_is_scipys():
    from scipy.ndimage import gaussian_filter

    x = torch.randn(1, 2, 20, 30, dtype=torch.float64)
    theirs = gaussian_filter(x.numpy(), (0, 0, 1.5, 1.5), mode="mirror", truncate=4)
    torch.testing.assert_close(blur(1.5)(x), torch.from_numpy(theirs))
    constant = torch.ones(1, 1, 5, 5)
    torch.testing.assert_close(blur(3)(constant), constant)
