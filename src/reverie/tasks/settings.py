"""What decides a picture besides the model and what it is made from: settings, checked before anything is paid for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

from reverie.card import parse, rebuild
from reverie.encode.syntax import appended
from reverie.errors import UserError, nearest
from reverie.guide import GUIDES
from reverie.process.grids import GRIDS
from reverie.solve import find
from reverie.systems.system import System

LIMITS = {"steps": 100_000, "count": 100_000, "batch": 100_000, "height": 16_384, "width": 16_384}
WHOLE, TEXT = (Integral, "a whole number"), (str, "text")
KINDS: Mapping[str, tuple[Any, str]] = {
    "prompt": ((str, Integral), "text or the number of a class"),
    "negative": ((str, Integral), "text or the number of a class"),
    **dict.fromkeys(("seed", "count", "steps", "batch", "height", "width"), WHOLE),
    **dict.fromkeys(("style", "solver", "grid", "guide"), TEXT),
    **dict.fromkeys(("guidance", "handover"), (Real, "a number")),
    **dict.fromkeys(("strict", "plain"), (bool, "true or false")),
}
FILLED = ("steps", "guidance", "solver", "grid", "height", "width")
TUNED = "tuned"
"""The name of the solvers that were fitted to a model, and of their times."""


def meant(name: str) -> tuple[str, str | None]:
    """Our name of a solver, and the grid that the name implies, if it implies one."""
    if name.strip().casefold() == TUNED:
        return TUNED, TUNED
    found = find(name)
    return found.row.name, found.grid


def check_kind(name: str, value: Any) -> None:
    """UserError unless a setting's value is of its kind; text must be valid Unicode, for it is written into the picture."""
    kind, words = KINDS[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} is {str(value)[:60]!r} ({type(value).__name__}); it must be {words}")
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f"{name} is {ascii(value)[:60]}, which is not valid UTF-8: type it again")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides a picture; None means the system's own default.

    guide: wishes about the guidance, as `apg(eta=0)`. plain: brackets and AND in a prompt are words.
    """

    prompt: tuple[Any, ...] = ("",)
    negative: Any = ""
    style: str = ""
    seed: int = 0
    count: int = 1
    steps: int | None = None
    guidance: float | None = None
    solver: str | None = None
    grid: str | None = None
    height: int | None = None
    width: int | None = None
    handover: float = 0.8
    batch: int = 16
    strict: bool = False
    guide: tuple[str, ...] = ()
    plain: bool = False

    def filled(self, system: System) -> "Settings":
        """With the system's defaults in place of None, our name of the solver and the grid it implies, and everything checked."""
        self.check()
        d = system.defaults
        solver, grid = meant(self.solver or d.solver)
        if solver == TUNED and self.grid not in (None, TUNED):
            raise UserError(f"a tuned solver has times of its own: leave out the grid {self.grid}, or name another solver")
        grid = self.grid or grid or d.grid
        made = replace(
            self,
            steps=_usual(system, solver, grid) if self.steps is None else self.steps,
            guidance=d.guidance if self.guidance is None else self.guidance,
            solver=solver,
            grid=grid,
            height=d.size[0] if self.height is None else self.height,
            width=d.size[1] if self.width is None else self.width,
        )
        made.check()
        system.check_size(*made.size)
        if self.style and self.style not in system.styles:
            if not system.styles:
                raise UserError(f"{system.name} has no styles: leave out the style, or say it in the prompt")
            raise UserError(f"{system.name} has no style '{self.style}'.{nearest(self.style, system.styles)}")
        return made

    def check(self) -> None:
        """UserError unless every setting has its kind and range; those that a system fills in may be None."""
        for name in KINDS:
            for value in getattr(self, name) if name in ("prompt", "guide") else [getattr(self, name)]:
                if value is not None or name not in FILLED:
                    check_kind(name, value)
        for name, most in LIMITS.items():
            if (value := getattr(self, name)) is not None and not 1 <= value <= most:
                raise UserError(f"{name} is {value}; it must be at least 1 and at most {most}")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; seeds are 0 or larger")
        if not 0 <= self.handover <= 1:
            raise UserError(f"handover is {self.handover}; it is the share of the way before the refiner, between 0 and 1")
        if self.guidance is not None and not abs(self.guidance) <= 1e6:  # so that NaN is refused, too
            raise UserError(f"guidance is {self.guidance}; it must lie between -1e6 and 1e6")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width; only of settings that a system has filled."""
        return self.height or 0, self.width or 0

    def said(self, prompt: Any) -> Any:
        """A prompt with the style in words."""
        if not self.style:
            return prompt
        more = f", {self.style} style"
        return f"{prompt}{more}" if self.plain or not isinstance(prompt, str) else appended(prompt, more)

    def prompts(self) -> list[Any]:
        """One prompt per picture, as it was given: `count` pictures of each."""
        return [p for p in self.prompt for _ in range(self.count)]


def _usual(system: System, solver: str, grid: str) -> int:
    """The steps of a grid that lists them, of the largest tuned solver, or of the model."""
    listed = [t for t in parse(grid).get("*", []) if t != 0] if grid != TUNED else []
    if listed or solver != TUNED or system.defaults.steps in system.tuned:
        return len(listed) or system.defaults.steps
    return max(system.tuned, default=system.defaults.steps)


def wanted(prompt: Any, settings: Mapping[str, Any]) -> Settings:
    """Settings from a prompt (or several) and keywords, checked as far as they can be without a system.

    An unknown keyword is an error that names the nearest.
    """
    known = Settings.__dataclass_fields__
    for name in settings:
        if name not in known or name == "prompt":
            raise UserError(f"generate has no setting '{name}'.{nearest(name, [k for k in known if k != 'prompt'])}")
    if isinstance(one := settings.get("guide"), str):
        settings = {**settings, "guide": (one,)}
    prompts = tuple(prompt) if isinstance(prompt, (list, tuple)) else (prompt,)
    made = Settings(prompt=prompts, **settings)
    made.check()
    if made.solver is not None:
        meant(made.solver)
    if made.grid is not None and made.grid != TUNED:
        rebuild(parse(made.grid), GRIDS, "grid")
    for guide in made.guide:
        rebuild(parse(guide), GUIDES, "guide")
    return made


def settle(system: System, prompt: Any, settings: Mapping[str, Any]) -> Settings:
    """The same, with everything a system fills in."""
    return wanted(prompt, settings).filled(system)
