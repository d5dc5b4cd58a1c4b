"""A system: what hears the prompt, what denoises, what space it runs in, and how it is best sampled. Data, not behaviour."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from reverie.codec import Codec
from reverie.denoiser import Denoiser
from reverie.encode import SAID, Encoder
from reverie.errors import UserError
from reverie.guide.experts import Experts
from reverie.solve import Tuned


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a system is sampled unless the caller says otherwise. Guidance 1 is plain conditional."""

    solver: str = "dpmpp-2m"
    steps: int = 20
    guidance: float = 1.0
    grid: str = "karras()"
    size: tuple[int, int] = (64, 64)
    """Height and width of a picture."""


@dataclass(frozen=True, kw_only=True)
class System:
    """An assembled generator. about: name, licence, data, recipe, measured quality."""

    denoiser: Denoiser
    codec: Codec
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    """Kind of thing that is said ("prompt", "class") -> what makes a condition of it; none = unconditional."""
    defaults: Sampling = field(default_factory=Sampling)
    about: dict[str, Any] = field(default_factory=dict)
    refiner: "System | None" = None
    """A system that draws the end of the way, on the same process and in the same space."""
    tuned: Mapping[int, Tuned] = field(default_factory=dict)
    """Solvers fitted to this model (`reverie tune`), by their evaluations."""
    fingerprint: Callable[[], str] | None = None
    """Its `hash`, where that is found only when it is asked for: files of others may be large."""

    @property
    def prompt_encoder(self) -> Encoder | None:
        """The encoder of what is said in words, a prompt or a class; None where nothing can be."""
        return next((self.encoders[kind] for kind in SAID if kind in self.encoders), None)

    @property
    def name(self) -> str:
        return str(self.about.get("name", "unnamed"))

    @property
    def hash(self) -> str:
        """SHA-256 of its weights as they lie in their files; empty where it was not opened from one."""
        return str(self.about.get("hash", "")) if self.fingerprint is None else self.fingerprint()

    @property
    def styles(self) -> tuple[str, ...]:
        """Styles that may be asked for by name."""
        return tuple(self.about.get("styles", ()))

    @property
    def step(self) -> int:
        """Height and width of a picture are multiples of this."""
        return self.codec.factor * int(getattr(self.denoiser, "multiple", 1))

    @property
    def largest(self) -> int:
        """The longest side of a picture, in pixels; 0 where any can be drawn."""
        return self.codec.factor * int(getattr(self._shape, "largest", 0))

    @property
    def beside(self) -> int:
        """Channels that the net takes beside those of the diffusion: of what it is told of a picture."""
        has = self.codec.shape(self.step, self.step)[0]
        return int(getattr(self._shape, "in_channels", has)) - has

    @property
    def _shape(self) -> Any:
        return getattr(getattr(self.denoiser, "net", None), "config", None)  # a denoiser may be a formula, without a net

    def check_size(self, height: int, width: int) -> None:
        """UserError unless the codec and the net can make pictures of this size."""
        step = self.step
        if height % step or width % step:
            near = [max(round(n / step), 1) * step for n in (width, height)]
            wrong = " and ".join(f"{name} is {n}" for name, n in (("width", width), ("height", height)) if n % step)
            raise UserError(
                f"{wrong}, but {self.name} makes pictures whose width and height are multiples of {step}: try {near[0]}x{near[1]}"
            )
        if self.largest and max(height, width) > self.largest:
            most = f"{self.largest}x{self.largest}"
            raise UserError(f"{width}x{height} is too large for {self.name}, which knows places up to {most}")


def refined(system: System, second: System) -> System:
    """The system with another one that draws the end of the way; UserError where it cannot go on in the same space and process."""
    one, two, sides = system.codec, second.codec, system.defaults.size
    scales = [(getattr(one, name, None), getattr(two, name, None)) for name in ("scale", "shift")]
    same = all(a is b or (a is not None and b is not None and torch.allclose(a, b)) for a, b in scales)
    if one.factor != two.factor or one.shape(*sides) != two.shape(*sides) or not same:
        raise UserError(f"{second.name} cannot refine what {system.name} draws: their latents are of other autoencoders or scales")
    Experts(system.denoiser, second.denoiser, 0.5)  # which looks at the processes
    return replace(system, refiner=second)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One piece that was trained alone: a codec, a text encoder, or a reader that judges pictures."""

    codec: Any = None
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    reader: Any = None
    about: dict[str, Any] = field(default_factory=dict)
