"""Fitting the times and weights of a few-step solver to what a model itself does in many steps.

1. A long run of a good solver gives, for some prompts and seeds, x and the estimate m at every knot of a fine grid.
2. Times: dynamic programming over these knots finds the n + 1 between which DDIM's steps stray least from the long run
   (arXiv 2405.11326); from there and from the usual grids single knots are moved while the end gets better.
3. Weights: along the times each step's weights (`solve.tuned`, eq. 1) are those that bring it nearest to the long run, by least
   squares, with the estimates that the steps before lead to. No gradient of the net is taken.

What is judged is the end, on prompts and seeds that no weight was fitted to.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from reverie.card import parse, rebuild
from reverie.errors import UserError
from reverie.files import write_whole
from reverie.process.grids import GRIDS
from reverie.process.path import Path
from reverie.rng import Rng
from reverie.solve import Exponential, Tuned, trace
from reverie.solve.linear import knot
from reverie.solve.tuned import DEPTH
from reverie.systems import System
from reverie.systems.shipped import beside
from reverie.tasks.settings import Settings
from reverie.tasks.start import begun

FINE = 64
"""Steps of the long run."""


@dataclass(frozen=True)
class Found:
    """A tuned solver; rms distance of its ends from the long run's, as a share of their rms; dpmpp-2m's at as many evaluations."""

    solver: Tuned
    distance: float
    usual: float

    @property
    def nfe(self) -> int:
        return len(self.solver.weights)


@dataclass(frozen=True)
class Teacher:
    """The long run. knots: its times (FINE + 1,). x: the states there (FINE + 1, B, ...). m: the estimates at all but the last."""

    model: Any
    cond: Any
    path: Path
    knots: list[float]
    x: Tensor
    m: Tensor
    ask: Callable[[Tensor, float], Tensor] = field(repr=False)

    @property
    def fitted(self) -> slice:
        """The half that weights are fitted to; the other judges."""
        return slice(0, self.x.shape[1] // 2)


def tune(system: System, nfe: Sequence[int], samples: int = 32, seed: int = 0) -> Iterator[tuple[str, Found | None]]:
    """Yields what is being done, and each tuned solver as it is found. samples: pictures of the long run; half of them judge."""
    for n in nfe:
        if not 2 <= n <= FINE // 2:
            raise UserError(f"--nfe {n}: a solver can be tuned to 2 to {FINE // 2} evaluations")
    if samples < 4:
        raise UserError(f"{samples} samples are too few to fit and judge with: give at least 4")
    with torch.no_grad():
        yield f"a long run of {FINE} steps, {samples} pictures", None
        teacher = long_run(system, samples, seed)
        for n in nfe:
            yield f"{n} evaluations: the times", None
            best = start = min((fit(teacher, times) for times in candidates(system, teacher, n)), key=lambda f: f[1])
            for best in improve(teacher, start):
                yield f"{n} evaluations: distance {best[1]:.4f}", None
            yield f"{n} evaluations", Found(best[0], best[1], usual(system, teacher, n))


def long_run(system: System, samples: int, seed: int) -> Teacher:
    """The model's own path from noise to pictures, with its default guidance."""
    texts = _prompts(system, samples)
    start = begun(system, Settings(prompt=tuple(texts), batch=samples).filled(system))
    model, cond = start.model, start.told
    path, rng = system.denoiser.path, Rng.of(seed, samples)
    x = path.prior((samples, *system.codec.shape(*system.defaults.size)), rng=rng, spread=1.0)
    grid = rebuild(parse(system.defaults.grid), GRIDS, "grid")(path, FINE)
    states, estimates = [x], []
    for step in trace(model, x, grid, Exponential(3, start="heun"), cond=cond):
        states.append(step.x)
        estimates.append(step.x0)

    def ask(x: Tensor, t: float) -> Tensor:
        return model(x, torch.tensor(t, dtype=torch.float64), cond)

    return Teacher(model, cond, path, grid.tolist(), torch.stack(states), torch.stack(estimates), ask)


def _prompts(system: System, samples: int) -> list[Any]:
    """Those of the model's previews, or its classes in turn."""
    if (encoder := system.prompt_encoder) is None:
        return [""] * samples
    known: Sequence[Any] = system.about.get("recipe", {}).get("samples") or range(len(getattr(encoder, "classes", ())))
    return [known[i % len(known)] for i in range(samples)] if len(known) else [""] * samples


Fitted = tuple[Tuned, float, tuple[int, ...]]
"""A solver, its distance, and the places of its times in the fine grid."""


def fit(teacher: Teacher, places: tuple[int, ...]) -> Fitted:
    """The weights for these times, and how far the end then is."""
    some, x = teacher.fitted, teacher.x[0]
    estimates: list[Tensor] = []
    weights: list[tuple[float, ...]] = []
    for i, j in itertools.pairwise(places):
        t, s = teacher.knots[i], teacher.knots[j]
        m = teacher.m[0] if i == 0 else teacher.ask(x, t)
        plain = teacher.path.bridge(x, m, t, s)
        others = [e - m for e in estimates[: DEPTH - 1]]
        own = _least_squares([o[some] for o in others], (teacher.x[j] - plain)[some])
        x = plain
        for w, o in zip(own, others, strict=True):
            x = x + w * o
        weights.append(tuple(own))
        estimates.insert(0, m)
    solver = Tuned(tuple(teacher.knots[i] for i in places), tuple(weights))
    return solver, _far(teacher, x), places


def _far(teacher: Teacher, x: Tensor) -> float:
    """The rms distance of ends from the long run's, on the judging half."""
    rest, end = slice(teacher.fitted.stop, None), teacher.x[-1]
    distance = float((x[rest] - end[rest]).square().mean().sqrt() / end[rest].square().mean().sqrt())
    return distance if math.isfinite(distance) else math.inf


def _least_squares(columns: Sequence[Tensor], target: Tensor) -> list[float]:
    """Weights that bring the sum of the columns nearest to the target, held back a little where columns are alike."""
    if not columns:
        return []
    a = torch.stack([c.flatten().double() for c in columns], 1)
    square = a.T @ a
    held = square + 1e-4 * square.diagonal().mean() * torch.eye(len(columns), dtype=a.dtype, device=a.device)
    return list(torch.linalg.solve(held, a.T @ target.flatten().double()).tolist())


def candidates(system: System, teacher: Teacher, n: int) -> set[tuple[int, ...]]:
    """Places of n + 1 times: by dynamic programming under two measures, and those of grids in use, moved to the fine one."""
    found = {best_places(costs(teacher, power), n) for power in (0.0, 0.5, 1.0)}
    usual = (system.defaults.grid, "karras(rho=3)", "karras(rho=1.5)", "exponential()", "uniform()")
    fine = torch.tensor(teacher.knots)
    for text in usual:
        times = rebuild(parse(text), GRIDS, "grid")(teacher.path, n)
        places = [int((fine - t).abs().argmin()) for t in times]
        if len(set(places)) == n + 1:
            found.add((0, *places[1:-1], FINE))
    return found


def costs(teacher: Teacher, power: float) -> Tensor:
    """(FINE + 1, FINE + 1): squared error of DDIM's step from knot i of the long run to knot j, over (u_j + u_min)^(2 power)."""
    made = torch.full((FINE + 1, FINE + 1), math.inf, dtype=torch.float64)
    u = [min(knot(teacher.path, t).u, 1e4) for t in teacher.knots]
    for i in range(FINE):
        for j in range(i + 1, FINE + 1):
            step = teacher.path.bridge(teacher.x[i], teacher.m[i], teacher.knots[i], teacher.knots[j])
            size = max(knot(teacher.path, teacher.knots[j]).alpha, 1e-4) * (u[j] + u[-2]) ** power
            made[i, j] = (step - teacher.x[j]).double().square().mean() / size**2
    return made


def best_places(cost: Tensor, n: int) -> tuple[int, ...]:
    """The n + 1 places from first to last between which the sum of costs is least."""
    reached, came = cost[0].clone(), []
    for _ in range(n - 1):
        whole = reached[:, None] + cost
        reached, origin = whole.min(0)
        came.append(origin.tolist())
    places = [cost.shape[0] - 1]
    for origin in reversed(came):
        places.append(origin[places[-1]])
    return (0, *reversed(places))


def improve(teacher: Teacher, best: Fitted, reaches: Sequence[int] = (4, 2, 1)) -> Iterator[Fitted]:
    """Moves one time after the other while the end comes nearer."""
    for reach in reaches:
        moved = True
        while moved:
            moved = False
            for k in range(1, len(best[2]) - 1):
                for by in (-reach, reach):
                    place = best[2][k] + by
                    if not best[2][k - 1] < place < best[2][k + 1]:
                        continue
                    trial = fit(teacher, (*best[2][:k], place, *best[2][k + 1 :]))
                    if trial[1] < 0.995 * best[1]:
                        best, moved = trial, True
                        yield best
    yield best


def usual(system: System, teacher: Teacher, n: int) -> float:
    """The same distance for dpmpp-2m on the model's own grid."""
    grid = rebuild(parse(system.defaults.grid), GRIDS, "grid")(teacher.path, n)
    solver = Exponential(2, published=True)
    *_, last = trace(teacher.model, teacher.x[0], grid, solver, cond=teacher.cond)
    return _far(teacher, last.x)


def store(system: System, path: str | File, found: Sequence[Found], samples: int) -> File:
    """Writes or adds to the file of tuned solvers beside a model; returns its place."""
    place = beside(path)
    solvers = {n: {"knots": s.knots, "weights": s.weights} for n, s in system.tuned.items()}
    measured = {
        f.nfe: {"knots": f.solver.knots, "weights": f.solver.weights, "distance": f.distance, "dpmpp-2m": f.usual} for f in found
    }
    record = {
        "model": system.hash,
        "guidance": system.defaults.guidance,
        "samples": samples,
        "solvers": {str(n): v for n, v in sorted((solvers | measured).items())},
    }
    write_whole(place, lambda part: part.write_text(json.dumps(record, indent=1) + "\n"))
    return place
