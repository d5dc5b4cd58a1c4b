"""The contract: a denoiser is any callable `model(x, t, cond) -> E[x_0 | x_t]`, with a `path` it belongs to.

A net becomes one by saying what its output means (a rule), what it is told about time (a clock), and how its input is scaled.
With x = alpha x_0 + sigma n and output = a x_0 + b n, the clean estimate is the solution of a 2x2 system:

    x_0 = (b x - sigma output) / (alpha b - sigma a)                                                              (1)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reverie.card import remembers
from reverie.errors import UserError
from reverie.nets import clocks, looking
from reverie.nets.precision import inside
from reverie.process.path import Path, like, time
from reverie.process.rules import Rule

Clock = Callable[[Path, Tensor], Tensor]


@dataclass(frozen=True)
class Cond:
    """What a net is told besides x and t; every room is (B, ...) and may be empty.

    vector (B, D): added to the time embedding. tokens (B, L, D) and mask (B, L) bool, True = real: for cross-attention.
    concat (B, C, ...): extra channels beside x. residuals: features added to the skips, one per skip, or to the patches, one per
    block; inner: those that join the way down of a U-Net itself, of which an empty one is nothing. guidance (B,): the scale that a
    net distilled from guided ones is told. target (B,): the time that a flow map aims at, where the net hears it; None = t. What a
    net does not take, and an adapter around it hears: hints (B, C, H, W), one picture per control; heeded (B, K) bool, which of the
    K controls are heard, None = all; images (B, M, D), the tokens of image prompts; regions (B, R, H, W) in [0, 1], and owners
    (B, L) int64, the region from 1 on that each token belongs to, 0 = all places; echo (B, L) int64 and stress (B, L), of
    `guide/following.py`.

    parts: conditions in place of this one's vector, tokens and mask, whose shares (B, K, V) of the estimate are those of each of K
    steps (1 = always), times those of each place where `places` (B, V, H, W) is filled; the other rooms are common to all.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    concat: Tensor | None = None
    residuals: tuple[Tensor, ...] | None = None
    inner: tuple[Tensor, ...] | None = None
    guidance: Tensor | None = None
    target: Tensor | None = None
    hints: tuple[Tensor, ...] | None = None
    heeded: Tensor | None = None
    images: Tensor | None = None
    regions: Tensor | None = None
    owners: Tensor | None = None
    echo: Tensor | None = None
    stress: Tensor | None = None
    parts: "tuple[Cond, ...] | None" = None
    shares: Tensor | None = None
    places: Tensor | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> "Cond":
        """f applied to every tensor."""

        def each(v: Any) -> Any:
            if isinstance(v, tuple):
                return tuple(w.map(f) if isinstance(w, Cond) else f(w) for w in v)
            return None if v is None else f(v)

        return Cond(**{g.name: each(getattr(self, g.name)) for g in fields(Cond)})

    @property
    def batch(self) -> int:
        """Rows of the batch; 0 where every room is empty."""
        rooms = (getattr(self, g.name) for g in fields(Cond))
        return next((len(v[0] if isinstance(v, tuple) else v) for v in rooms if v is not None), 0)

    def __getitem__(self, rows: slice | Tensor) -> "Cond":
        """Some rows of the batch."""
        return self.map(lambda v: v[rows])

    @staticmethod
    def cat(conds: "Sequence[Cond]") -> "Cond":
        """Batches one after the other; shorter token rows are padded and masked."""
        lengths = {c.tokens.shape[1] for c in conds if c.tokens is not None}
        if len(lengths) > 1 or len({c.mask is None for c in conds}) > 1:
            conds = [c.padded(max(lengths)) for c in conds]
        conds = _levelled(conds)

        def join(values: list[Any]) -> Any:
            if all(v is None for v in values):
                return None
            if any(v is None for v in values):
                raise ValueError("conditions with different rooms filled cannot share a batch")
            if not isinstance(values[0], tuple):
                return torch.cat(values)
            return tuple(Cond.cat(v) if isinstance(v[0], Cond) else torch.cat(v) for v in zip(*values, strict=True))

        return Cond(**{g.name: join([getattr(c, g.name) for c in conds]) for g in fields(Cond)})

    def padded(self, length: int) -> "Cond":
        """The same with token rows of `length`."""
        if self.tokens is None:
            return self
        extra = length - self.tokens.shape[1]
        mask = self.mask if self.mask is not None else torch.ones_like(self.tokens[..., 0], dtype=torch.bool)
        pad = nn.functional.pad
        rows = {"owners": 0, "echo": -1, "stress": 1}  # what a token more is worth
        more = {k: pad(v, (0, extra), value=n) for k, n in rows.items() if (v := getattr(self, k)) is not None}
        told: dict[str, Any] = {"tokens": pad(self.tokens, (0, 0, 0, extra)), "mask": pad(mask, (0, extra)), **more}
        return replace(self, **told)

    @property
    def said(self) -> "Cond":
        """What is said in words, alone: the rooms that `parts` are instead of."""
        return Cond(vector=self.vector, tokens=self.tokens, mask=self.mask)


def _levelled(conds: Sequence[Cond]) -> Sequence[Cond]:
    """The same, each with as many parts and regions as that which has the most: further ones have no share and no place.

    What aims at no time aims where the others do, as the other half of guidance.
    """
    most = max((len(c.parts) for c in conds if c.parts is not None), default=0)
    if most:
        steps = max(c.shares.shape[1] for c in conds if c.shares is not None)
        size = next((c.places.shape[2:] for c in conds if c.places is not None), None)
        conds = [_parted(c, most, steps, size) for c in conds]
    if (aim := next((c.target for c in conds if c.target is not None), None)) is not None:
        conds = [c if c.target is not None else replace(c, target=aim) for c in conds]
    regions = [c.regions for c in conds if c.regions is not None]
    if regions:
        owned = next(c.owners for c in conds if c.owners is not None)
        conds = [_placed(c, max(r.shape[1] for r in regions), regions[0], owned) for c in conds]
    return conds


def _parted(c: Cond, most: int, steps: int, size: Sequence[int] | None) -> Cond:
    parts = c.parts or (c.said,)
    extra, rows = most - len(parts), c.batch
    shares = torch.ones(rows, 1, 1, dtype=torch.float64) if c.shares is None else c.shares
    shares = nn.functional.pad(shares if shares.shape[1] == steps else shares.expand(-1, steps, -1), (0, extra))
    places = c.places
    if size is not None:
        places = torch.ones(rows, len(parts), *size) if places is None else places
        places = torch.cat([places, places.new_zeros(rows, extra, *size)], 1)
    return replace(c, parts=(*parts, *[parts[0]] * extra), shares=shares, places=places)


def _placed(c: Cond, most: int, other: Tensor, owned: Tensor) -> Cond:
    if c.tokens is None:
        raise ValueError("regions by attention in a batch with a condition without tokens")
    regions = other.new_zeros(c.batch, 0, *other.shape[2:]) if c.regions is None else c.regions
    owners = owned.new_zeros(c.tokens.shape[:2]) if c.owners is None else c.owners
    regions = torch.cat([regions, other.new_zeros(c.batch, most - regions.shape[1], *other.shape[2:])], 1)
    return replace(c, regions=regions, owners=owners)


class Model(Protocol):
    """What samplers and guidance see."""

    @property
    def path(self) -> Path: ...

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor: ...


@remembers
def log_snr(scale: float = 50.0, limit: float = 20.0) -> Clock:
    """The net is told scale * lam(t): the schedule can be changed after training. Ends are clamped to +-limit."""
    return lambda path, t: scale * path.lam(t).clamp(-limit, limit)


@remembers
def timestep(steps: float = 1000.0, shift: float = 0.0) -> Clock:
    """The net is told steps * t + shift: (1000, -1) gives a discrete net the integers 0..999 at t = 1/1000..1."""
    return lambda path, t: steps * t + shift


@remembers
def c_noise() -> Clock:
    """EDM's log(sigma / alpha) / 4 (arXiv 2206.00364, table 1)."""
    return lambda path, t: -path.lam(t) / 4


CLOCKS = (log_snr, timestep, c_noise)
INPUTS = ("vector", "tokens", "mask", "residuals", "inner", "guidance")
"""What of a condition is handed to the net by name; `concat` goes in beside x."""
ADAPTED = ("hints", "heeded", "images", "regions", "owners", "echo", "stress", "parts", "shares", "places")
"""What adapters hear; one around the net must have taken it out."""


def _target(path: Path, t: Tensor, cond: Cond | None) -> Tensor:
    """The clock `log_snr()` of the time aimed at: of t itself where there is none."""
    aim = t if cond is None or cond.target is None else time(cond.target).expand(len(t))
    return 50 * path.lam(aim).clamp(-20, 20)


def _guidance(path: Path, t: Tensor, cond: Cond | None) -> Tensor:
    """A thousand times w - 1, as arXiv:2310.04378 has it; w = 1 where none is said."""
    return torch.zeros_like(t) if cond is None or cond.guidance is None else 1000 * (cond.guidance.to(t) - 1)


TOLD = {"target": _target, "guidance": _guidance}
"""Further clocks by name."""


class Denoiser(nn.Module):
    """A net with its path, rule and clock.

    sigma_data: when given, the net's input is x / sqrt(alpha^2 sigma_data^2 + sigma^2).
    learned_variance: the net has twice the channels; the second half interpolates the log variance (arXiv 2102.09672, eq. 15).
    bound: the data lie in [-bound, bound], and so the clean estimate is kept there, as all samplers of pixels are published; None
    where nothing is known of it, as in latents.
    autocast: dtype of the inside of the net (torch.bfloat16), or None for its own. place: the device of x.
    takes: type of what the net is given, None = that of its weights, which may be another while they rest.
    hears: what the net is told as a clock beside its time, "target" or "guidance" (`nets/clocks.py`).
    """

    place: torch.device = torch.device("cpu")
    takes: torch.dtype | None = None

    def __init__(
        self,
        net: nn.Module,
        path: Path,
        rule: Rule,
        clock: Clock | None = None,
        *,
        sigma_data: float | None = None,
        learned_variance: bool = False,
        bound: float | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.net, self.path, self.rule, self.hears = net, path, rule, clocks.hears(net)
        self.clock = clock if clock is not None else log_snr()
        self.sigma_data, self.learned_variance, self.bound, self.autocast = sigma_data, learned_variance, bound, autocast

    @property
    def guided(self) -> bool:
        """Whether the net was distilled from guided ones, and is told the scale."""
        return bool(getattr(getattr(self.net, "config", None), "guided", False)) or "guidance" in self.hears

    @property
    def multiple(self) -> int:
        """Height and width of x are multiples of this."""
        return int(getattr(getattr(self.net, "config", None), "multiple", 1))

    def raw(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> Tensor:
        """The net's output in its own units, x (B, ...) at t () or (B,); float32 or wider."""
        scaled, clock, inputs = self.told(x, t, cond)
        looking.begin()
        with inside(self.autocast, x.device):
            out = self.net(scaled, clock, **inputs)
        return out.to(x.dtype)

    def told(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """What the net is given at (x, t, cond), and a control of it, too: its input (B, ...), its clock (B,), the rest by name."""
        t = time(t).expand(x.shape[0])
        alpha, sigma = self.path(t)
        scaled = x if self.sigma_data is None else x * like((alpha**2 * self.sigma_data**2 + sigma**2).rsqrt(), x)
        inputs: dict[str, Any] = {}
        if cond is not None:
            if left := [k for k in ADAPTED if getattr(cond, k) is not None]:
                raise ValueError(f"{' and '.join(left)} in the condition of a net without an adapter that hears them")
            cond = cond.map(lambda v: v.to(x.device))
            scaled = scaled if cond.concat is None else torch.cat([scaled, cond.concat.to(scaled)], 1)
            inputs = {k: w for k in INPUTS if k not in self.hears and (w := getattr(cond, k)) is not None}
        own = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), x.dtype)
        own = self.takes or (own if self.autocast is None else torch.float32)  # times are no bfloat16, whatever the weights are
        clock = self.clock(self.path, t)
        if self.hears:
            clock = torch.stack([clock, *(TOLD[name](self.path, t, cond) for name in self.hears)], 1)
        return scaled.to(own), clock.to(own).to(x.device), inputs

    def halves(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> tuple[Tensor, Tensor | None]:
        """The net's output and, where it learns one, its variance channels."""
        out = self.raw(x, t, cond)
        return out.chunk(2, 1) if self.learned_variance else (out, None)  # type: ignore[return-value]

    def forward(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> Tensor:
        """E[x_0 | x_t] by eq. (1)."""
        t = time(t)
        keep, take = self.solution(t)  # before the net is paid for
        return self._kept(like(keep, x) * x + like(take, x) * self.halves(x, t, cond)[0])

    def with_variance(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t], and where each entry's log variance lies between the ends of `Path.posterior`, as a share."""
        if not self.learned_variance:
            raise UserError("this model learnt no variance: use the solver ddpm or ddpm-large")
        t = time(t)
        keep, take = self.solution(t)
        output, channels = self.halves(x, t, cond)
        assert channels is not None
        return self._kept(like(keep, x) * x + like(take, x) * output), (channels + 1) / 2

    def _kept(self, x0: Tensor) -> Tensor:
        return x0 if self.bound is None else x0.clamp(-self.bound, self.bound)

    def solution(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 = keep x + take output; UserError where the output says (almost) nothing about x_0, and no bound keeps it finite."""
        (alpha, sigma), (a, b) = self.path(t), self.rule(self.path, t)
        determinant = alpha * b - sigma * a
        least = 1e-4 if self.bound is None else 0.0
        if bool((determinant.abs() < least * b.abs()).any()) or bool((determinant == 0).any()):
            name = getattr(self.rule, "card", {}).get("name", "this rule")
            raise UserError(
                f"a net trained with the rule '{name}' says nothing about x0 at t = {t.flatten().tolist()}: "
                "start the grid at a smaller t, or use the rule v, velocity or x0 with this schedule"
            )
        return b / determinant, -sigma / determinant


class OneByOne:
    """The same denoiser, one sample at a time: pictures do not change by a bit with the batch they are drawn in."""

    def __init__(self, model: Any) -> None:
        self.model, self.path = model, model.path

    def __call__(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        return torch.cat([self.model(*one) for one in self._each(x, t, cond)])

    def with_variance(self, x: Tensor, t: Tensor, cond: Cond | None = None) -> tuple[Tensor, Tensor]:
        estimates, shares = zip(*(self.model.with_variance(*one) for one in self._each(x, t, cond)), strict=True)
        return torch.cat(estimates), torch.cat(shares)

    def _each(self, x: Tensor, t: Tensor, cond: Cond | None) -> Iterator[tuple[Tensor, Tensor, Cond | None]]:
        t = time(t).expand(x.shape[0])
        for k in range(x.shape[0]):
            row = slice(k, k + 1)
            yield x[row], t[row], None if cond is None else cond[row]
