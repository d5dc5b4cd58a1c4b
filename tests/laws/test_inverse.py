"""There and back: inversion, likelihood, and mixtures of seeds, against closed forms."""

import math

import pytest
import torch
from paths import F64, PATHS, mixture

from reverie import oracle
from reverie.errors import UserError
from reverie.measure.likelihood import bits_per_dim, log_likelihood
from reverie.process import grids, schedules
from reverie.rng import Rng
from reverie.solve import DDIM, Exponential, euler, invert, sample, slerp

NOTHING_LEFT = ("flow", "flow_shift_3", "cosine", "vp_zero_snr", "sigmoid")  # so that the noise at t = 1 is the prior itself


@pytest.mark.parametrize("solver", [DDIM(), euler(), Exponential(1)], ids=["ddim", "euler", "exponential-1"])
@pytest.mark.parametrize("name", ["vp", "edm", "flow", "cosine", "sub_vp"])
def test_a_round_trip_comes_back(name, solver):
    path = PATHS[name]
    model = mixture(path)
    x0 = model.draw(Rng.of(4, 8, dtype=F64))
    grid = grids.karras(smallest=0.02)(path, 50)
    noise = invert(model, x0, grid, solver)
    assert (sample(model, noise, grid, solver) - x0).abs().max() < 1e-3
    back = invert(model, sample(model, noise, grid, solver), grid, solver)
    assert (back - noise).abs().max() < 1e-2 * float(path(1.0)[1])


@pytest.mark.parametrize("table", [schedules.scaled_linear_table, schedules.linear_table, schedules.cosine_table])
def test_a_path_that_ends_at_minus_zero_is_traced_back(table):
    """Tables of published models do, whose last step then had slopes below any bound."""
    path = table()
    assert torch.signbit(path(torch.zeros((), dtype=F64))[1])
    model = mixture(path)
    x0 = model.draw(Rng.of(4, 8, dtype=F64))
    grid = grids.knots(0.6, 0.4, 0.2, 0)(path, 3)
    noise = invert(model, x0, grid, DDIM(), tolerance=1e-8)
    assert (sample(model, noise, grid, DDIM()) - x0).abs().max() < 1e-6


def test_samples_may_be_inverted_on_grids_of_their_own():
    path = schedules.flow()
    model = mixture(path)
    x0 = model.draw(Rng.of(4, 2, dtype=F64))
    one, two = grids.uniform()(path, 12), grids.quadratic()(path, 8)
    both = torch.stack([one, torch.cat([two, torch.zeros(4, dtype=F64)])], 1)  # the second arrives four steps before the first
    found = invert(model, x0, both, DDIM(), tolerance=1e-10)
    alone = [invert(model, x0[k : k + 1], g, DDIM(), tolerance=1e-10) for k, g in enumerate((one, two))]
    assert (found - torch.cat(alone)).abs().max() < 1e-7
    assert (sample(model, found, both, DDIM()) - x0).abs().max() < 1e-7


def test_what_cannot_be_inverted_is_said():
    path = schedules.vp()
    x0 = torch.zeros(2, 3, dtype=F64)
    grid = grids.karras()(path, 10)
    with pytest.raises(UserError, match="not undone"):
        invert(oracle.dirac(path, torch.ones(3, dtype=F64)), x0, grid, DDIM(), rounds=20)
    with pytest.raises(UserError, match="keeps nothing"):
        invert(mixture(path), x0[:, :2], grid, Exponential(2))


@pytest.mark.parametrize("name", NOTHING_LEFT)
def test_likelihood_of_a_gaussian_and_of_a_mixture(name):
    path = PATHS[name]
    for model in (mixture(path), oracle.gaussian(path, torch.tensor([0.4, -0.3], dtype=F64), 0.5)):
        x0 = model.draw(Rng.of(1, 6, dtype=F64))
        found = log_likelihood(model, x0, steps=200)
        assert (found - model.log_prob(x0)).abs().max() < 1e-4


def test_hutchinson_is_right_on_the_mean_and_exact_where_the_jacobian_is_isotropic():
    path = schedules.flow()
    model = oracle.gaussian(path, torch.zeros(5, dtype=F64), 0.5)
    x0 = model.draw(Rng.of(1, 3, dtype=F64))
    assert (log_likelihood(model, x0, rng=Rng.of(0, 3, dtype=F64)) - log_likelihood(model, x0)).abs().max() < 1e-8
    mixed = mixture(path)
    same = mixed.draw(Rng.of(5, dtype=F64)).expand(200, 2)
    many = log_likelihood(mixed, same, rng=Rng.of(0, 200, dtype=F64), steps=40)
    assert abs(float(many.mean() - log_likelihood(mixed, same[:1], steps=40))) < 4 * float(many.std()) / math.sqrt(200) + 1e-3


def test_bits_per_dimension_of_uniform_grays():
    path = schedules.flow()
    model = oracle.gaussian(path, torch.zeros(4, dtype=F64), 0.5)
    pictures = ((model.draw(Rng.of(2, 40, dtype=F64)).clamp(-1, 1) * 127.5 + 127.5).round() - 127.5) / 127.5
    bits = bits_per_dim(model, pictures, rng=Rng.of(0, 40, dtype=F64), exact=True)
    truth = (math.log2(math.sqrt(2 * math.pi * math.e) * 0.5 * 127.5),)  # entropy of the Gaussian in levels
    assert abs(float(bits.mean()) - truth[0]) < 0.15


def test_slerp_keeps_noise_noise():
    a, b = (Rng.of(seed, 3, dtype=F64).normal((3, 1000)) for seed in (0, 10))
    assert torch.allclose(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, b, 1.0), b)
    for share in (0.2, 0.5):
        assert ((slerp(a, b, share).std(1) - 1).abs() < 0.08).all()
    assert torch.allclose(slerp(a, a, 0.3), a)
