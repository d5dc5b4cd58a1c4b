"""Law 9: the loss of the exact denoiser is its known minimum, and published weights are what was published."""

import pytest
import torch
from paths import F64, PATHS, SMOOTH
from torch import nn

from reverie.denoiser import Denoiser, timestep
from reverie.errors import UserError
from reverie.process import rules, schedules
from reverie.process.noise import student_t
from reverie.rng import Rng
from reverie.train import objective
from reverie.train.objective import denoising, draw_times

RULES = {make.__name__: make() for make in rules.RULES}
MEAN, DEVIATION = 0.4, 0.7


class Exact(nn.Module):
    """E[a x0 + b n | x_t] for data N(mean, deviation^2), in closed form; told t itself."""

    def __init__(self, path, rule, mean, deviation):
        super().__init__()
        self.path, self.rule, self.mean, self.deviation = path, rule, mean, deviation

    def forward(self, x, t):
        (alpha, sigma), (a, b) = self.path(t), self.rule(self.path, t)
        alpha, sigma, a, b = (c[:, None] for c in (alpha, sigma, a, b))
        x0 = self.mean + alpha * self.deviation**2 / (alpha**2 * self.deviation**2 + sigma**2) * (x - alpha * self.mean)
        return a * x0 + b * (x - alpha * x0) / sigma


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("path", SMOOTH)
def test_law_9_the_loss_of_the_exact_net_is_the_residual_variance(path, rule):
    path, rule = SMOOTH[path], RULES[rule]
    batch, size = 500, 8
    rng = Rng((9,), dtype=F64, whole=True)
    x0 = MEAN + DEVIATION * rng.fold("x0").normal((batch, size))
    n, t = rng.fold("n").normal((batch, size)), torch.linspace(0.05, 0.95, batch, dtype=F64)
    (alpha, sigma), (a, b) = path(t), rule(path, t)
    least = (a * sigma - b * alpha) ** 2 * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
    net = Exact(path, rule, MEAN, DEVIATION)
    model = Denoiser(net, path, rule, timestep(1.0))
    ratio = denoising(model, x0, t, n) / least  # chi-squared: mean 1, variance 2 / size
    assert abs(float(ratio.mean()) - 1) < 4.5 * (2 / size / batch) ** 0.5
    net.mean = MEAN + 0.5  # and any other net does worse
    assert float((denoising(model, x0, t, n) / least).mean()) > float(ratio.mean())


G = 5.0
PUBLISHED = [  # weight, rule, its formula on a variance-preserving path
    (objective.min_snr(G), "eps", lambda snr: snr.clamp(max=G) / snr),
    (objective.min_snr(G), "x0", lambda snr: snr.clamp(max=G)),
    (objective.min_snr(G), "v", lambda snr: snr.clamp(max=G) / (snr + 1)),
    (objective.p2(1.0, 0.5), "eps", lambda snr: (1 + snr) ** -0.5),
    (objective.sigmoid_weight(-1.0), "eps", lambda snr: torch.sigmoid(-1 - snr.log())),
    (objective.sigmoid_weight(-1.0), "v", lambda snr: torch.sigmoid(-1 - snr.log()) * snr / (snr + 1)),
    (objective.edm_weight(0.5), "x0", lambda snr: (1 / snr + 0.25) / (0.25 / snr)),
    (objective.flat(), "v", torch.ones_like),
]


@pytest.mark.parametrize("case", range(len(PUBLISHED)))
def test_law_9_weights_are_the_published_ones(case):
    weight, rule, formula = PUBLISHED[case]
    for path in (schedules.vp(), schedules.cosine()):
        t = torch.linspace(0.02, 0.98, 40, dtype=F64)
        snr = (path(t)[0] / path(t)[1]) ** 2
        found = weight(Denoiser(nn.Identity(), path, RULES[rule]), t)
        assert (found / formula(snr) - 1).abs().max() < 1e-9


def test_law_9_the_weight_of_edm_is_flat_in_its_own_units():
    t = torch.linspace(0.001, 0.9, 40, dtype=F64)
    model = Denoiser(nn.Identity(), schedules.edm(), rules.edm(0.5))
    assert (objective.edm_weight(0.5)(model, t) - 1).abs().max() < 1e-9


@pytest.mark.parametrize("path", PATHS)
def test_law_9_every_weight_is_positive_and_multiplies_the_loss(path):
    path, t = PATHS[path], torch.linspace(0.02, 0.97, 30, dtype=F64)
    rng = Rng((4,), dtype=F64, whole=True)
    x0, n = rng.fold("x0").normal((30, 3)), rng.normal((30, 3))
    for rule in RULES.values():
        model = Denoiser(Exact(path, rule, MEAN, DEVIATION), path, rule, timestep(1.0))
        plain = denoising(model, x0, t, n)
        for make in objective.WEIGHTS:
            size = make()(model, t)
            assert bool((size > 0).all() & size.isfinite().all())
            assert torch.allclose(denoising(model, x0, t, n, weight=make()), plain * size, rtol=1e-12)


def test_time_laws_have_their_quantiles():
    path = schedules.edm()
    u = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    z = torch.special.ndtri(u)
    assert torch.allclose(objective.uniform(0.01)(path, u), 0.01 + 0.99 * u)
    assert torch.allclose(torch.logit(objective.logit_normal(0.3, 2.0)(path, u)), 0.3 + 2 * z)
    for other in (path, schedules.vp(), schedules.flow()):
        t = objective.log_normal(-1.2, 1.2)(other, u)
        assert torch.allclose(-other.lam(t), -1.2 + 1.2 * z, atol=1e-9)


def test_stratified_times_fill_every_slice_once():
    t = draw_times(objective.uniform(0.0), schedules.flow(), 64, torch.Generator().manual_seed(3))
    assert sorted((t * 64).floor().long().tolist()) == list(range(64))
    assert t.tolist() != sorted(t.tolist())


def test_a_rule_that_says_nothing_of_the_data_is_refused():
    model = Denoiser(nn.Identity(), schedules.zero_snr(schedules.vp()), rules.eps())
    with pytest.raises(UserError, match="v, velocity or x0"):
        model(torch.zeros(1, 2), 1.0)


def test_heavy_noise_has_no_posterior():
    path = schedules.edm(noise=student_t(8.0))
    with pytest.raises(UserError, match="eta = 0"):
        path.bridge(torch.zeros(1, 2), torch.zeros(1, 2), 0.5, 0.2, eta=1.0, rng=Rng.of(0))
