"""Solvers by the names people ask for: ours, and those of A1111, ComfyUI, diffusers and InvokeAI, whatever their case.

    named("DPM++ 2M Karras")                                                    solver dpmpp-2m on karras()
    named("dpmpp_2m_sde_k"), named("euler sgm_uniform"), named("comfyui:deis")
    named("DPMSolverMultistepScheduler(solver_order=3, use_karras_sigmas=True)")

The names themselves are in `table`.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from reverie.card import LIST, parse, rebuild
from reverie.errors import UserError, closest
from reverie.process import schedules
from reverie.process.grids import GRIDS, Grid, knots, ratios, uniform
from reverie.solve.loop import Solver, rehearse
from reverie.solve.table import ABSENT, ROWS, SCHEDULES, TOOLS, Row, listed

SOLVERS: Mapping[str, Row] = {row.name: row for row in ROWS}
KNOWN = {tool: {name.casefold(): row for row in ROWS for name in row.names(tool)} for tool in TOOLS}
LABELS = {tool: {n.casefold(): s.grid for s in SCHEDULES for n in listed(getattr(s, tool))} for tool in TOOLS}
OWN_GRIDS = {make.__name__: f"{make.__name__}()" for make in GRIDS if make not in (knots, ratios)}
CONFIG = {  # of diffusers: what chooses a solver, and the values that are some class's default
    "solver_order": ("2",),
    "solver_type": ("midpoint", "bh2", "logrho"),
    "algorithm_type": ("dpmsolver++", "deis"),
    "variance_type": ("fixed_small",),
    "skip_prk_steps": ("False",),
}
Config = tuple[str, frozenset[tuple[str, str]]]


class Found(NamedTuple):
    """The row of a name, and the grid that the name implies, as text; None where it implies none."""

    row: Row
    grid: str | None


def named(name: str) -> tuple[Solver, Grid | None]:
    """The solver of a name and the grid that the name implies, or None; an unknown name is an error with the nearest known one."""
    row, grid = find(name)
    return row.make(), None if grid is None else rebuild(parse(grid), GRIDS, "grid")


def find(name: str) -> Found:
    """The row of a name, and its grid. `tool:name` looks at one tool; else ours come first, then the tools in their order."""
    tool, _, rest = (part.strip() for part in name.partition(":"))
    said, tools = (rest, (tool.casefold(),)) if rest and tool.casefold() in TOOLS else (name.strip(), TOOLS)
    key = said.casefold()
    for known in ([SOLVERS] if tools is TOOLS else []) + [KNOWN[tool] for tool in tools]:
        if key in known:
            return Found(known[key], None)
    if "diffusers" in tools and "(" in key:
        return _configured(said)
    if tools is TOOLS and (own := _fused(key, SOLVERS, OWN_GRIDS)):
        return own
    for tool in tools:
        every = KNOWN[tool] if len(tools) == 1 else {**SOLVERS, **KNOWN[tool]}
        if found := _fused(key, every, LABELS[tool]):
            return found
    if key in ABSENT:
        raise UserError(f"'{name}' is not here: {ABSENT[key]}")
    near = closest(_plain(key), {_plain(n): n for n in reversed(list(_all(tools)))})  # ours stays where two are alike
    raise UserError(f"no solver is called '{name}'.{near} `reverie solvers` lists them, and what the tools call them")


def ambiguity(name: str) -> str:
    """What to say of a name by which tools mean different solvers, where none of them is asked for; '' of any other."""
    means: dict[str, str] = {}  # the first tool of each solver
    for tool in TOOLS:
        with contextlib.suppress(UserError):
            means.setdefault(find(f"{tool}:{name}").row.name, tool)
    if len(means) < 2:
        return ""
    taken = find(name).row.name
    others = "; ".join(f"{tool} means {row}: write '{tool}:{name}' for it" for row, tool in means.items() if row != taken)
    return f"'{name}' is taken as {taken}, as {means[taken]} means it; {others}"


def _fused(key: str, rows: Mapping[str, Row], grids: Mapping[str, str]) -> Found | None:
    """A name with the name of a grid behind it."""
    for label, grid in grids.items():
        if key.endswith((f" {label}", f"_{label}")) and (row := rows.get(key[: -len(label) - 1])):
            return Found(row, grid)
    return None


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-").replace(" ", "-")


def _all(tools: Iterable[str]) -> Iterator[str]:
    """Every name, ours first."""
    yield from SOLVERS
    for tool in tools:
        yield from (name for row in ROWS for name in row.names(tool))


def called(name: str, tool: str, grid: str | None = None) -> str | None:
    """What a tool calls our solver of that name, on that grid if one is given; None where it has no name for it."""
    row = SOLVERS.get(name)
    first = next(iter(row.names(tool)), None) if row else None
    if grid is None or first is None:
        return first
    label = next((listed(getattr(s, tool))[0] for s in SCHEDULES if s.grid == grid and getattr(s, tool)), None)
    if label is None:
        return None
    if tool == "diffusers":
        return f"{first[:-1]}, {label}=True)" if first.endswith(")") else f"{first}({label}=True)"
    return f"{first}{'_' if tool == 'invokeai' else ' '}{label}"


def grid_called(grid: str, tool: str) -> str:
    """What a tool calls the kind of a grid; where it has no name, ours in its spelling."""
    own = grid.partition("(")[0]
    names = (listed(getattr(s, tool)) for s in SCHEDULES if s.grid == f"{own}()")
    return next((n[0] for n in names if n), own.replace("_", " ").capitalize())


def grid_of(name: str, tool: str) -> str | None:
    """The grid that a tool calls by this name, or that we do; None where there is none, or 'Automatic'."""
    return LABELS[tool].get(name.casefold()) or OWN_GRIDS.get(name.casefold().replace(" ", "_"))


def _config(text: str) -> tuple[Config, str | None]:
    """A class of diffusers with what of its configuration chooses a solver, and the grid that it asks for."""
    card = parse(text)
    cls, grid = str(card.pop("name")), None
    for flag, its in LABELS["diffusers"].items():
        grid = its if card.pop(flag, False) else grid
    if (spacing := card.pop("timestep_spacing", None)) is not None:
        grid = grid or f"{spacing}()"
    for field in card:
        if field == LIST:
            raise UserError(f"{cls}: its arguments are said by name, as in {cls}(solver_order=2)")
        if field not in CONFIG:
            known = [*CONFIG, "timestep_spacing", *LABELS["diffusers"]]
            raise UserError(f"{cls}: '{field}' chooses no solver.{closest(field, known)} Known: {', '.join(known)}")
    return (cls.casefold(), frozenset((k, str(v)) for k, v in card.items() if str(v) not in CONFIG[k])), grid


CONFIGS = {_config(name)[0]: row for row in ROWS for name in row.names("diffusers")}


def _configured(text: str) -> Found:
    cls = str(parse(text)["name"]).casefold()
    same = [name for row in ROWS for name in row.names("diffusers") if name.partition("(")[0].casefold() == cls]
    if not same:  # before its arguments are looked at, which are not to blame
        raise UserError(f"no solver is {text}: brackets belong to the classes of diffusers, which `reverie solvers` lists")
    config, grid = _config(text)
    if config in CONFIGS:
        return Found(CONFIGS[config], grid)
    raise UserError(f"no solver is {text}: of this class there are {', '.join(same)}")


class Facts(NamedTuple):
    """What a solver is, found by running it. Evaluations are of the net, in a step once it has begun."""

    order: int
    evaluations_per_step: float
    stochastic: bool


def facts(solver: Any) -> Facts:
    """Counts the evaluations of a solver's later steps, and looks whether it draws noise."""
    path = schedules.vp()
    (few, _), (many, noisy) = (rehearse(solver, path, uniform()(path, steps)) for steps in (6, 10))
    spent = (many - few) / 4
    return Facts(solver.order, int(spent) if spent == int(spent) else spent, noisy)
