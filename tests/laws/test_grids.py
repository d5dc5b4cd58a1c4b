"""Grids of the picture tools against their definitions, shifts, published tables, and a user's own lists."""

import math

import mpmath
import pytest
import torch
from paths import F64, PATHS

from reverie.card import parse, rebuild
from reverie.errors import UserError
from reverie.process import grids, schedules
from reverie.process.spacing import beta_quantile

SD = schedules.scaled_linear_table()
FLOW = schedules.flow()


def ratios(path, t):
    """sigma / alpha at times t."""
    return (-path.lam(t)).exp()


LEVELS = ratios(SD, (torch.arange(1000, dtype=F64) + 1) / 1000)


def close(a, b, tolerance=1e-12):
    return bool(((a - b).abs() <= tolerance * b.abs()).all())


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 30, 999])
def test_discrete_grids_take_the_tables_own_levels(steps):
    """ComfyUI's simple, normal, sgm_uniform and ddim_uniform, from the 1000 levels of Stable Diffusion."""

    def of(make):
        return ratios(SD, make()(SD, steps)[:-1])

    stride = 1000 / steps
    assert torch.equal(of(grids.simple), torch.stack([LEVELS[999 - int(k * stride)] for k in range(steps)]))
    every = LEVELS[1 :: 1000 // steps]  # more than `steps` of them where it does not divide 1000: we take the cleanest
    assert torch.equal(of(grids.ddim_uniform), every[:steps].flip(0))
    logs = LEVELS.log()
    for make, count in ((grids.normal, steps - 1), (grids.sgm_uniform, steps)):
        for k, found in enumerate(of(make).tolist()):
            at = 999 - k * 999 / max(count, 1)  # between two levels, their logarithm is linear
            low = min(int(at), 998)
            assert found == pytest.approx(float((logs[low] + (at - low) * (logs[low + 1] - logs[low])).exp()), rel=1e-11)


def test_discrete_grids_run_on_every_path_at_its_times():
    for path in (FLOW, schedules.edm(), schedules.linear_table(100)):
        knots = grids.normal(table=500)(path, 10)
        assert torch.allclose(knots[:-1], (torch.linspace(499, 0, 10, dtype=F64) + 1) / 500, atol=1e-15)


def test_ends_of_ratio_grids_are_those_of_the_table():
    """A1111's and ComfyUI's Karras on Stable Diffusion: 14.6146 to 0.0292, not to EDM's 0.002, where the net knows nothing."""
    for make in (grids.karras, grids.exponential, grids.kl_optimal, grids.cosine, grids.beta_ratios):
        for path in (SD, schedules.zero_snr(SD)):
            u = ratios(path, make()(path, 10)[:-1])
            assert float(u[-1]) == pytest.approx(float(ratios(path, torch.tensor(0.001, dtype=F64))), rel=1e-9)
        u = ratios(schedules.edm(), make()(schedules.edm(), 10)[:-1])
        assert (float(u[0]), float(u[-1])) == pytest.approx((80, 0.002), rel=1e-9)
    assert SD.steps == schedules.zero_snr(SD).steps == 1000 and FLOW.steps == 0
    with pytest.raises(UserError, match=r"karras: it ends at u = 90, but this path begins at 80"):
        grids.karras(smallest=90, largest=100)(schedules.edm(), 4)


def test_formulas_in_the_ratio():
    path, i = schedules.edm(), torch.linspace(0, 1, 12, dtype=F64)
    u = ratios(path, grids.kl_optimal()(path, 12)[:-1])
    assert close(u, torch.tan((1 - i) * math.atan(80) + i * math.atan(0.002)), 1e-9)
    u = ratios(path, grids.cosine()(path, 12)[:-1])
    assert close(u, 0.002 + 79.998 / 2 * (1 - torch.cos(math.pi * (1 - i.sqrt()))), 1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.3, 5.0), (20.0, 20.0), (1.0, 1.0)])
def test_beta_quantiles_invert_the_incomplete_beta_function(a, b):
    p = torch.tensor([0.0, 1e-6, 0.01, 0.3, 0.5, 0.999, 1.0], dtype=F64)
    x = beta_quantile(p, a, b)
    for value, level in zip(x.tolist(), p.tolist(), strict=True):
        assert float(mpmath.betainc(a, b, 0, value, regularized=True)) == pytest.approx(level, rel=1e-12)
    if a == b:
        assert torch.allclose(x[[2, 4]] + beta_quantile(1 - p[[2, 4]], a, b), torch.ones(2, dtype=F64), atol=1e-14)


def test_beta_grid_runs_over_the_tables_steps():
    """ComfyUI rounds to whole steps what here is left between them; on a continuous path nothing is rounded."""
    q = beta_quantile(1 - torch.arange(10, dtype=F64) / 10, 0.6, 0.6)
    comfy = [999, 959, 876, 765, 637, 499, 362, 234, 123, 40]  # its steps for n = 10; one at 499.49999...
    u = ratios(SD, grids.beta()(SD, 10)[:-1])
    assert all(abs(math.log(float(v) / float(LEVELS[k]))) < 0.02 for v, k in zip(u, comfy, strict=True))
    assert torch.allclose(grids.beta()(FLOW, 10)[:-1], q, atol=1e-15)
    path = schedules.zero_snr(SD)  # whose last level is infinite
    assert float(grids.check(grids.beta()(path, 200))[1]) < 1


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 25])
def test_shifts_say_noise_levels_not_times(steps):
    r = torch.linspace(1, 0, steps + 1, dtype=F64)
    for path in (FLOW, schedules.flow(3.0)):  # never shifted twice
        assert torch.allclose(path(grids.shifted(3.0)(path, steps))[1], 3 * r / (1 + 2 * r), atol=1e-14)
    assert torch.allclose(grids.shifted(3.0)(schedules.flow(3.0), steps), r, atol=1e-14)
    assert torch.allclose(grids.shifted(1.0)(FLOW, steps), r, atol=1e-14)
    knots = grids.shifted(3.0)(SD, steps)  # a path that ends with some data left: the same curve, from its own end
    alpha, sigma = SD(knots)
    last = float(sigma[0] / (alpha[0] + sigma[0]))
    assert torch.allclose(sigma / (alpha + sigma), last * 3 * r / (1 + 2 * r), atol=1e-12)


def test_shifts_by_size():
    def shift(grid):
        half = float(grid(FLOW, 2)[1])  # s / 2 / (1 + (s - 1) / 2) = s / (1 + s)
        return half / (1 - half)

    assert shift(grids.flux_shift(256, 256)) == pytest.approx(math.exp(0.5))
    assert shift(grids.flux_shift(1024, 1024)) == pytest.approx(math.exp(1.15))
    tokens = (1360 // 16) * (768 // 16)
    assert shift(grids.flux_shift(1360, 768)) == pytest.approx(math.exp(0.5 + 0.65 * (tokens - 256) / 3840))
    assert shift(grids.sd3_shift()) == pytest.approx(3)
    assert shift(grids.sd3_shift(512, 512)) == pytest.approx(1.5)
    # shifts compose by their product (eq. 23): from 512 to 1024 pixels is sqrt(m / n) = 2
    once = grids.sd3_shift(512, 512)(FLOW, 9)
    assert torch.allclose(2 * once / (1 + once), grids.sd3_shift(1024, 1024)(FLOW, 9), atol=1e-14)


def test_linear_quadratic_is_smooth_where_it_bends():
    """Mochi's: half of the steps share the first 2.5 %, the rest is a parabola with the same slope, to 1."""
    for path in (FLOW, schedules.flow(3.0)):
        gone = 1 - path(grids.linear_quadratic()(path, 20))[1]
        assert torch.allclose(gone[:11], torch.arange(11, dtype=F64) * 0.0025, atol=1e-13)
        second = gone[9:].diff().diff()  # of the parabola, begun one step early: half its bend
        assert torch.allclose(second[1:], second[1:].mean(), atol=1e-12)
        assert float(second[0]) == pytest.approx(float(second[1]) / 2) and float(gone[-1]) == 1


def test_align_your_steps_has_the_published_steps():
    """The authors give integer steps of 10 for Stable Diffusion 1 and XL; our own table of Stable Diffusion agrees."""
    published = {
        "sd1": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
        "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
    }
    for name, steps in published.items():
        found = grids.align_your_steps(name)(SD, 10) * 1000 - 1
        assert (found[:-1] - torch.tensor(steps, dtype=F64)).abs().max() < 0.1
    u = ratios(schedules.edm(700.0), grids.align_your_steps("svd")(schedules.edm(700.0), 20))
    assert float(u[1]) == pytest.approx(math.sqrt(700 * 54.5), rel=1e-9) and float(u[2]) == pytest.approx(54.5, rel=1e-9)
    with pytest.raises(UserError, match="align_your_steps: model is 'sd2'; there are sd1, sdxl, svd"):
        grids.align_your_steps("sd2")
    with pytest.raises(UserError, match=r"second knot is at u = 54.5, beyond this path, which ends at 14.6146"):
        grids.align_your_steps("svd")(SD, 10)


def test_a_users_own_list():
    assert grids.knots(1.0, 0.6, 0.2)(FLOW, 3).tolist() == grids.knots(1, 0.6, 0.2, 0)(FLOW, 3).tolist() == [1.0, 0.6, 0.2, 0.0]
    t = grids.ratios(14.6146, 3.0, 0.5)(SD, 3)
    assert torch.allclose(ratios(SD, t[:-1]), torch.tensor([14.6146, 3.0, 0.5], dtype=F64), rtol=1e-6)
    assert float(grids.ratios(14.615, 3.0)(SD, 2)[0]) == 1  # the rounded end of a published list
    assert rebuild(parse("ratios(3.0, 0.5)"), grids.GRIDS)(FLOW, 2)[0] == 0.75


REFUSED = {
    "knots()": "list at least one value",
    "knots(0.2, 0.6)": "0.6 follows 0.2, but the values must fall",
    "knots(0.6, 0.6)": "must fall",
    "knots(1.2, 0.5)": r"1.2 is not in \(0, 1\]",
    "knots(1.0, 0.0, 0.5)": "only the last may be 0",
    "knots(1.0, -0.5)": "is not in",
    "knots(1.0, 0.5, 0.25)": "lists 3 steps, and 2 are asked for: ask for 3",
    "ratios(3.0, 5.0)": "must fall",
    "ratios(-1)": "is not positive",
    "ratios(20.0, 3.0)": "20 is beyond this path, which ends at sigma / alpha = 14.6146",
    "ratios(14.62, 14.615)": "beyond this path, which ends at",
    "ratios(2.0)": "lists 1 steps, and 2 are asked for",
    "beta(alpha=0)": "beta: alpha is 0; it must lie between",
    "beta_ratios(beta=1e9)": "beta_ratios: beta is 1000000000.0; it must lie",
    "shifted(shift=0)": "shift is 0; it must lie between",
    "flux_shift(width=1)": "width is 1; it must lie between 16",
    "flux_shift(width=60000, height=60000)": "mu at this size is",
    "sd3_shift(height=0)": "height is 0",
    "linear_quadratic(threshold=1)": "threshold is 1; it must lie between",
    "kl_optimal(smallest=3, largest=2)": "smallest must be less",
    "cosine(largest=0)": "largest is 0",
    "align_your_steps(model='sd9')": "model is 'sd9'",
    "simple(table=0)": "simple: table is 0",
    "ddim_uniform(table=2)": "2 steps on a table of 2: ask for at most 1",
    "simple(table=1)": "2 steps on a table of 1: ask for at most 1",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_is_refused(text):
    with pytest.raises(UserError, match=REFUSED[text]):
        rebuild(parse(text), grids.GRIDS, "grid")(SD, 2)


def test_every_grid_is_remembered_and_made_again():
    for make in grids.GRIDS:
        made = make(0.9, 0.4) if make in (grids.knots, grids.ratios) else make()
        again = rebuild(made.card, grids.GRIDS)
        assert make.__doc__ and again.card == made.card
        assert all(torch.equal(again(path, 2), made(path, 2)) for path in (PATHS["flow"], PATHS["vp"]))
