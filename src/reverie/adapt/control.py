"""Control by pictures: nets beside a net, which hear a picture each and tell it what to add (`nets.control`).

With r_k(x, t, c) what control k says of its picture, w_k its weight, and m_k the mask of where it acts, the net is told

    r = sum_k w_k m_k r_k(x, t, c),   over the controls that act at t.                                              (1)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.adapt.adapted import Adapted
from reverie.adapt.when import When
from reverie.codec import Codec
from reverie.denoiser import Cond, Denoiser
from reverie.errors import UserError
from reverie.nets import looking
from reverie.nets.precision import inside
from reverie.process.path import time

KEPT = 16
"""Pictures of which a control keeps what it heard."""


@dataclass(frozen=True, kw_only=True)
class Control(When):
    """A net that hears a picture, and how it acts; weight, start, stop: as of `When`.

    net: a `ControlNet`, a `ControlTransformer` or a `T2IAdapter`. mask (H, W): where it acts, 1 = fully and 0 = not, in every
    sample; it is of any size, and is averaged to the places of each residual. codec: that of the pictures, for nets that hear them
    encoded; unshifted: as such, without the shift of the latents. kinds: of hints, where it hears several (`data/kinds.py`); hint:
    the one that it learnt, where its file says so.
    guided: tasks let the asked half of guidance alone hear it, so that guidance strengthens what it says.
    """

    net: Any
    mask: Tensor | None = None
    codec: Codec | None = None
    unshifted: bool = False
    name: str = "control"
    kinds: tuple[str, ...] = ()
    hint: str = ""
    guided: bool = False
    memory: list[tuple[Any, Tensor, tuple[Tensor, ...]]] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is not None:
            if self.mask.ndim != 2 or not bool(((self.mask >= 0) & (self.mask <= 1)).all()):
                raise UserError(f"the mask of {self.name} is {tuple(self.mask.shape)}; it is (height, width), from 0 to 1")
            if not bool(self.mask.any()):
                raise UserError(f"the mask of {self.name} is empty: mark where it acts, or leave the control out")
        if self.net.latent and self.codec is None:
            raise ValueError("codec: this control hears encoded pictures")

    def check(self, hint: Tensor, x: Tensor) -> None:
        """UserError unless the picture (B, C, H, W) is as large as that which x will be, and has the channels it hears."""
        factor = self.codec.factor if self.net.latent and self.codec is not None else self.net.config.factor
        height, width = (factor * n for n in x.shape[2:])
        if tuple(hint.shape[2:]) != (height, width):
            raise UserError(
                f"the picture for {self.name} has {hint.shape[3]}x{hint.shape[2]} pixels, and the one asked for {width}x{height}: "
                "resize or crop it to that"
            )
        if hint.shape[1] != self.net.config.hint_channels:
            raise UserError(
                f"the picture for {self.name} has {hint.shape[1]} channels, and it hears {self.net.config.hint_channels}"
            )

    def heard(self, hint: Tensor) -> tuple[Tensor, ...]:
        """What the net hears in each picture: once, where nothing is learnt, however often it is asked."""
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.net.parameters()):
            return self._hear(hint)
        state = (hint.device, sum(p._version for p in self.net.parameters()))
        rows = [self._kept(hint[k : k + 1], state) for k in range(len(hint))]
        return tuple(map(torch.cat, zip(*rows, strict=True)))

    def _kept(self, row: Tensor, state: Any) -> tuple[Tensor, ...]:
        for found in self.memory:
            if found[0] == state and found[1].shape == row.shape and torch.equal(found[1], row):
                return found[2]
        self.memory.append((state, row.clone(), self._hear(row)))
        del self.memory[:-KEPT]
        return self.memory[-1][2]

    def _hear(self, hint: Tensor) -> tuple[Tensor, ...]:
        out: tuple[Tensor, ...] = self.net.heard(self._encoded(hint))
        return out

    def _encoded(self, hint: Tensor) -> Tensor:
        codec: Any = self.codec
        if not self.net.latent:
            return hint
        with torch.no_grad():
            z: Tensor = codec.encode(hint)
        return z + (codec.shift / codec.scale)[:, None, None] if self.unshifted else z


class Controlled(Adapted):
    """The model with controls; `Cond.hints` has a picture (B, C, H, W) in [-1, 1] for each, in their order, and in both halves of
    guidance; `Cond.heeded` says which of them are heard. They have the size of the picture that is asked for.

    Where no control acts the model itself is asked, bit for bit. Gradients reach what is not frozen, of the model and the controls.
    """

    def __init__(self, model: Denoiser, controls: Sequence[Control]) -> None:
        super().__init__(model)
        self.controls = tuple(controls)
        self.nets = nn.ModuleList(control.net for control in self.controls)

    def raw(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> Tensor:
        t = time(t).expand(x.shape[0])
        hints = () if cond is None or cond.hints is None else cond.hints
        if len(hints) != len(self.controls):
            raise UserError(f"{len(self.controls)} controls hear {len(hints)} pictures: give one for each")
        heeded = None if cond is None or cond.heeded is None else cond.heeded.cpu().T
        cond = replace(cond or Cond(), hints=None, heeded=None)
        acting = []
        for k, (control, hint) in enumerate(zip(self.controls, hints, strict=True)):
            control.check(hint, x)
            on = control.acts(t) if heeded is None else control.acts(t) & heeded[k]
            if bool(on.any()):
                acting.append((control, hint, on))
        if acting:
            bare = replace(cond, residuals=None, inner=None, images=None)
            told = self.told(x, t, bare)
            for control, hint, on in acting:
                said = self._said(control, hint.to(x.device), on.to(x.device), *told)
                if control.net.room == "inner":
                    cond = replace(cond, inner=_sum(cond.inner, said))
                else:
                    cond = replace(cond, residuals=_sum(cond.residuals, said))
        return self.model.raw(x, t, cond)

    def _said(
        self, control: Control, hint: Tensor, on: Tensor, x: Tensor, t: Tensor, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """What a control says, weighted, and 0 to the samples at whose t it does not act."""
        whole = bool(on.all())
        rows = (lambda v: v) if whole else (lambda v: v[on])
        own = next(control.net.parameters()).dtype if self.autocast is None else torch.float32
        x = (x[:, : control.net.channels] if control.net.channels else x).to(own)
        t = t[:, 0] if t.ndim == 2 else t  # further clocks are the model's alone
        with inside(self.autocast, x.device), looking.unseen():
            heard = control.heard(rows(hint).to(x.dtype))
            said = control.net.answered(rows(x), rows(t), heard, **{k: rows(v) for k, v in inputs.items()})
        said = [control.weight * r for r in said] if control.weight != 1 else said
        if control.mask is not None:
            said = [r * _at(control.mask.to(r), r, x) for r in said]
        spread: tuple[Tensor, ...] = control.net.spread(said)
        return spread if whole else tuple(map(partial(_filled, on), spread))


def _filled(on: Tensor, said: Tensor) -> Tensor:
    """Rows of those samples that `on` names, and zeros."""
    out = said.new_zeros(len(on), *said.shape[1:])
    out[on] = said
    return out


def _at(mask: Tensor, r: Tensor, x: Tensor) -> Tensor:
    """The mask (H, W) at the places of r: (h, w) of a feature (B, D, h, w), or (L, 1) of rows (B, L, D)."""
    if r.ndim == 4:
        return F.adaptive_avg_pool2d(mask[None, None], (r.shape[2], r.shape[3]))[0, 0]
    patch = round((x.shape[2] * x.shape[3] / r.shape[1]) ** 0.5)
    return F.adaptive_avg_pool2d(mask[None, None], (x.shape[2] // patch, x.shape[3] // patch))[0, 0].flatten()[:, None]


def _sum(one: tuple[Tensor, ...] | None, other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Residuals added up, each to its own; the shorter list has nothing more to say."""
    if one is None:
        return other
    long, short = (one, other) if len(one) >= len(other) else (other, one)
    head = [b if not a.numel() else a if not b.numel() else a + b for a, b in zip(long, short, strict=False)]
    return (*head, *long[len(short) :])
