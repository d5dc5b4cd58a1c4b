"""Time grids: where the steps are taken. A grid maps (path, steps) to times (steps + 1,), from 1 down to exactly 0.

Grids in the noise-to-signal ratio u = sigma / alpha run from u(1), or `largest` where the signal is gone at t = 1, to `smallest`,
or to the first step of a discrete table where that is noisier. Their first knot is t = 1. Every grid's last is 0, so that none
stops short of the data. Only `leading`, `ddim_uniform` and a user's own list may begin below t = 1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reverie.card import remembers
from reverie.errors import UserError
from reverie.process.path import Path
from reverie.process.spacing import Grid as Grid
from reverie.process.spacing import (
    at_steps,
    beta_quantile,
    by_ratio,
    by_share,
    check_count,
    check_falling,
    check_ratios,
    down,
    ends,
    inside,
    top,
    up,
)
from reverie.process.spacing import check as check


@remembers
def uniform() -> Grid:
    """Equal steps of t."""
    return lambda path, steps: down(steps)


@remembers
def quadratic() -> Grid:
    """Knots at squares, finer near the data (arXiv 2010.02502, appendix D.2)."""
    return lambda path, steps: down(steps) ** 2


def _of_ratios(name: str, smallest: float, largest: float, curve: Callable[[Tensor, float, float], Tensor]) -> Grid:
    """The grid at u = curve(0 .. 1 in equal steps, low, high), which falls from high to low."""
    check_ratios(name, smallest, largest)

    def grid(path: Path, steps: int) -> Tensor:
        ramp = up(steps)
        return by_ratio(name, path, curve(ramp, *ends(name, path, smallest, largest)))

    return grid


@remembers
def karras(rho: float = 7.0, smallest: float = 0.002, largest: float = 80.0) -> Grid:
    """u^(1/rho) in equal steps (arXiv 2206.00364, eq. 5)."""
    inside("karras: rho", rho, 0.1, 100)
    return _of_ratios(
        "karras",
        smallest,
        largest,
        lambda p, low, high: (high ** (1 / rho) + p * (low ** (1 / rho) - high ** (1 / rho))) ** rho,
    )


@remembers
def exponential(smallest: float = 0.002, largest: float = 80.0) -> Grid:
    """log u in equal steps: uniform in lam (arXiv 2206.00927, section 3.3)."""
    return _of_ratios("exponential", smallest, largest, lambda p, low, high: torch.exp(math.log(high) + p * math.log(low / high)))


@remembers
def kl_optimal(smallest: float = 0.002, largest: float = 80.0) -> Grid:
    """arctan u in equal steps: the least divergence for Gaussian data of deviation 1 (arXiv 2404.14507, theorem 3.1)."""
    return _of_ratios(
        "kl_optimal", smallest, largest, lambda p, low, high: torch.tan((1 - p) * math.atan(high) + p * math.atan(low))
    )


@remembers
def cosine(smallest: float = 0.002, largest: float = 80.0) -> Grid:
    """u = low + (high - low) (1 - cos(pi (1 - sqrt p))) / 2, p in equal steps: the 'cosine' of A1111's forks; no paper."""
    return _of_ratios(
        "cosine",
        smallest,
        largest,
        lambda p, low, high: low + (high - low) * torch.sin(math.pi / 2 * (1 - p.sqrt())) ** 2,
    )


@remembers
def beta(alpha: float = 0.6, beta: float = 0.6) -> Grid:
    """Quantiles of the Beta distribution in t, denser at both ends (arXiv 2407.12173).

    On a discrete table they run from its last step to its first, without ComfyUI's rounding to whole steps.
    """
    inside("beta: alpha", alpha, 0.3, 20)
    inside("beta: beta", beta, 0.3, 20)

    def grid(path: Path, steps: int) -> Tensor:
        p = beta_quantile(down(steps)[:-1], alpha, beta)
        t = at_steps(path, path.steps, p * (path.steps - 1)) if path.steps else p
        return torch.cat([t, t.new_zeros(1)])

    return grid


@remembers
def beta_ratios(alpha: float = 0.6, beta: float = 0.6, smallest: float = 0.002, largest: float = 80.0) -> Grid:
    """The same quantiles in u, as A1111 and diffusers have them: nearly all knots at high noise on paths that end at a large u."""
    inside("beta_ratios: alpha", alpha, 0.3, 20)
    inside("beta_ratios: beta", beta, 0.3, 20)
    return _of_ratios("beta_ratios", smallest, largest, lambda p, low, high: low + (high - low) * beta_quantile(1 - p, alpha, beta))


@remembers
def lam_uniform(first: float = 1e-3, last: float = 1e-3) -> Grid:
    """lam in equal steps between lam(1 - first) and lam(last), for paths whose times mean more than their ratios."""
    inside("lam_uniform: first", first, 1e-9, 0.5)
    inside("lam_uniform: last", last, 1e-9, 0.5)

    def grid(path: Path, steps: int) -> Tensor:
        down(steps)
        high = path.lam(1.0) if bool(torch.isfinite(path.lam(1.0))) else path.lam(1.0 - first)
        lam = torch.linspace(float(high), float(path.lam(last)), steps, dtype=torch.float64)
        return by_ratio("lam_uniform", path, (-lam).exp())

    return grid


def _table(name: str, said: str, knots: Callable[[int, int], Tensor]) -> Callable[[int], Grid]:
    """Steps i of a table of T, at t = (i + 1) / T; `knots(T, steps)` gives the falling i."""

    def make(table: int = 1000) -> Grid:
        inside(f"{name}: table", table, 1, 1_000_000)
        if table != int(table):
            raise UserError(f"{name}: table is {table}; it must be a whole number")

        def grid(path: Path, steps: int) -> Tensor:
            down(steps)
            i = knots(int(table), min(steps, int(table)))
            if steps > table or float(i[0]) > table - 1:
                raise UserError(f"{name}: {steps} steps on a table of {table}: ask for at most {int(table) - (steps <= table)}")
            return torch.cat([at_steps(path, int(table), i), torch.zeros(1, dtype=torch.float64)])

        return grid

    make.__name__ = name
    make.__doc__ = said
    return remembers(make)


def _falling(first: float, step: float, steps: int) -> Tensor:
    return first - step * torch.arange(steps, dtype=torch.float64)


BEDS = "The '{}' spacing of discrete-time nets (named as in arXiv 2305.08891, table 2)."
COMFY = "The '{}' spacing of ComfyUI, from the table's own noise levels: {}"
leading = _table("leading", BEDS.format("leading"), lambda T, n: _falling((n - 1) * (T // n), T // n, n))
trailing = _table("trailing", BEDS.format("trailing"), lambda T, n: _falling(T - 1, T / n, n).round())
linspace = _table("linspace", BEDS.format("linspace"), lambda T, n: torch.linspace(T - 1, 0, n, dtype=torch.float64).round())
simple = _table(
    "simple",
    COMFY.format("simple", "equal strides from the last step down, each cut to a whole one."),
    lambda T, n: T - 1 - (torch.arange(n, dtype=torch.float64) * (T / n)).floor(),
)
normal = _table(
    "normal",
    COMFY.format("normal", "from the last step to the first, not rounded; A1111's 'Uniform'."),
    lambda T, n: torch.linspace(T - 1, 0, n, dtype=torch.float64),
)
sgm_uniform = _table(
    "sgm_uniform",
    COMFY.format("sgm_uniform", "as 'normal' with one more step, whose last is left out."),
    lambda T, n: torch.linspace(T - 1, 0, n + 1, dtype=torch.float64)[:-1],
)
ddim_uniform = _table(
    "ddim_uniform",
    COMFY.format("ddim_uniform", "every (T // n)-th from the second up, so that it begins below t = 1. ComfyUI takes")
    + " all of them, which are more than the n asked for where n does not divide T; these are the n cleanest.",
    lambda T, n: _falling((n - 1) * (T // n) + 1, T // n, n),
)


def _shifted(name: str, path: Path, steps: int, shift: float) -> Tensor:
    r = down(steps)[:-1]
    return by_share(name, path, shift * r / (1 + (shift - 1) * r))


@remembers
def shifted(shift: float = 3.0) -> Grid:
    """w = shift r / (1 + (shift - 1) r), r in equal steps (arXiv 2403.03206, eq. 23).

    It says noise levels, so it is the same on flow() and on flow(shift=3), whose own times are shifted already: never twice.
    """
    inside("shifted: shift", shift, 1e-3, 1e3)
    return lambda path, steps: _shifted("shifted", path, steps, shift)


@remembers
def flux_shift(width: int = 1024, height: int = 1024, low: float = 0.5, high: float = 1.15) -> Grid:
    """Flux's shift exp(mu): mu is linear in the tokens of 16 x 16 pixels, `low` at 256 and `high` at 4096. Sizes in pixels."""
    _check_size("flux_shift", width, height)
    inside("flux_shift: low", low, -5, 5)
    inside("flux_shift: high", high, -5, 5)
    mu = low + (high - low) * (math.ceil(width / 16) * math.ceil(height / 16) - 256) / (4096 - 256)
    inside("flux_shift: mu at this size", mu, -7, 7)
    return lambda path, steps: _shifted("flux_shift", path, steps, math.exp(mu))


@remembers
def sd3_shift(width: int = 1024, height: int = 1024, shift: float = 3.0) -> Grid:
    """SD3's: `shift` at 1024 x 1024 pixels, times the square root of the ratio of pixels (arXiv 2403.03206, eq. 23)."""
    _check_size("sd3_shift", width, height)
    inside("sd3_shift: shift", shift, 1e-3, 1e3)
    return lambda path, steps: _shifted("sd3_shift", path, steps, shift * math.sqrt(width * height) / 1024)


def _check_size(name: str, width: int, height: int) -> None:
    inside(f"{name}: width", width, 16, 65536)
    inside(f"{name}: height", height, 16, 65536)


@remembers
def linear_quadratic(threshold: float = 0.025) -> Grid:
    """1 - w rises to `threshold` in the first half of the steps, evenly, and to 1 by a parabola: Mochi's, ComfyUI's default."""
    inside("linear_quadratic: threshold", threshold, 1e-4, 0.5)

    def grid(path: Path, steps: int) -> Tensor:
        whole, half = down(steps), steps // 2
        if not half:
            return whole
        i = torch.arange(steps, dtype=torch.float64)
        slope, rest = threshold / half, steps - half
        bend = (1 - threshold - slope * rest) / rest**2  # through (half, threshold) with that slope, to (steps, 1)
        return by_share("linear_quadratic", path, 1 - slope * i - bend * (i - half).clamp(min=0) ** 2)

    return grid


TABLES = {
    "sd1": (14.6146, 6.4746, 3.8637, 2.6946, 1.8842, 1.3944, 0.9643, 0.6524, 0.3977, 0.1515, 0.0292),
    "sdxl": (14.6146, 6.3184, 3.7682, 2.1811, 1.3405, 0.8621, 0.5551, 0.3799, 0.2332, 0.1114, 0.0292),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""u of 10 steps (arXiv 2404.14507 and its authors' how-to page), for sd1 and sdxl from the integer steps that are published."""


@remembers
def align_your_steps(model: str = "sd1") -> Grid:
    """The optimised u of 'sd1', 'sdxl' or 'svd', interpolated in log u to any number of steps; the last is 0 (arXiv 2404.14507)."""
    if model not in TABLES:
        raise UserError(f"align_your_steps: model is '{model}'; there are {', '.join(TABLES)}")
    logs = torch.tensor(TABLES[model], dtype=torch.float64).log()

    def grid(path: Path, steps: int) -> Tensor:
        at = (1 - down(steps)[:-1]) * (len(logs) - 1)
        i = at.floor().long().clamp(max=len(logs) - 2)
        return by_ratio("align_your_steps", path, (logs[i] + (at - i) * (logs[i + 1] - logs[i])).exp())

    return grid


@remembers
def quantiles(mean: float = 0.0, deviation: float = 1.6) -> Grid:
    """Equal shares of a normal law of log u, cut at the path's ends; every other knot of 2n steps is one of n.

    For few steps: they lie where data of deviation d are decided, mean = log d + 0.6, and halve without moving.
    """
    inside("quantiles: mean", mean, -20, 20)
    inside("quantiles: deviation", deviation, 1e-3, 20)

    def grid(path: Path, steps: int) -> Tensor:
        low, high = (-path.lam(torch.tensor([1 / path.steps if path.steps else 0.0, 1.0], dtype=torch.float64))).exp()
        first, last = (torch.special.ndtr((u.log() - mean) / deviation) for u in (low, high))
        share = first + (last - first) * down(steps)[:-1]
        return by_ratio("quantiles", path, (mean + deviation * torch.special.ndtri(share)).exp())

    return grid


@remembers
def knots(*times: float) -> Grid:
    """A user's own times, falling, in (0, 1]; a last 0 may be left out. It fits one number of steps only."""
    listed = times[:-1] if times and times[-1] == 0 else times
    check_falling("knots", listed, 1.0)

    def grid(path: Path, steps: int) -> Tensor:
        check_count("knots", len(listed), steps)
        return torch.tensor([*listed, 0.0], dtype=torch.float64)

    return grid


@remembers
def ratios(*values: float) -> Grid:
    """A user's own u = sigma / alpha, falling; a last 0 may be left out. A first within 0.1 % of the path's end is its end."""
    listed = values[:-1] if values and values[-1] == 0 else values
    check_falling("ratios", listed, math.inf)

    def grid(path: Path, steps: int) -> Tensor:
        check_count("ratios", len(listed), steps)
        if listed[0] > top(path) * 1.001 or (len(listed) > 1 and listed[1] >= top(path)):
            raise UserError(f"ratios: {listed[0]:g} is beyond this path, which ends at sigma / alpha = {top(path):.6g}")
        return torch.cat([path.t_of_lam(-torch.tensor(listed, dtype=torch.float64).log()), torch.zeros(1, dtype=torch.float64)])

    return grid


GRIDS = (
    *(uniform, quadratic, karras, exponential, kl_optimal, cosine, beta, beta_ratios, lam_uniform, quantiles),
    *(leading, trailing, linspace, simple, normal, sgm_uniform, ddim_uniform),
    *(shifted, flux_shift, sd3_shift, linear_quadratic, align_your_steps, knots, ratios),
)
