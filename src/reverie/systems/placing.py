"""Weights where they are needed: on their device and in their type, for good or for the time of use.

A part that rests keeps its weights as they lie in the file, mapped from the disk, and has copies on the device only while it is
used: until another part is, or, block by block, until the block is done. Small modules stay.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from reverie.nets.precision import held, use
from reverie.systems.opening import Opening
from reverie.systems.system import System
from reverie.systems.weights import parts

SMALL = 1_000_000
"""Parameters of a module that is not worth coming and going."""
LARGE = 1_000_000_000
"""Parameters of an encoder that is computed in the type of the nets; smaller ones in float32."""


def placed(system: System, opening: Opening) -> System:
    """The same system with its refiner, ready for use as it is to be opened."""
    stage = Stage(opening.place)
    for each in (system, system.refiner):
        if each is not None:
            _placed(each, opening, stage)
    return system


def _placed(system: System, opening: Opening, stage: "Stage") -> None:
    for name, part in parts(system).items():
        for inner in part.modules():
            if hasattr(inner, "place"):
                inner.place = opening.place  # type: ignore[assignment]
        theirs = _theirs(part)
        dtype = None if name.startswith("encoders") else _of_codec(opening) if name == "codec" else opening.inside
        for setting, value in (("autocast", dtype), ("tile", opening.tile or None)):
            if hasattr(part, setting):
                setattr(part, setting, value)
        if opening.offload == "none":
            held(part, dtype)
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for net in theirs:
                net.to(_of_encoder(net, opening))
            part.to(opening.place)
            continue
        for own in _own(part):  # as the scale of a codec, which stands beside its net
            own.data = own.data.to(opening.place)
        ours = getattr(part, "net", part) if name == "codec" else part  # a codec's net is not called, its halves are
        for net in theirs or [ours]:
            kind = _of_encoder(net, opening) if theirs else dtype
            stage.rest(part, net, kind, whole=bool(theirs), blocks=opening.offload == "blocks" and name != "codec")
    system.denoiser.takes = torch.float32
    if opening.compiles:
        compiled(system.denoiser)


def compiled(part: nn.Module, backend: str = "inductor") -> None:
    """Every block of a part is compiled by itself: blocks of one kind share what was compiled for the first."""
    for block in _units(part, blocks=True):
        block.compile(backend=backend, dynamic=True)


def _theirs(part: nn.Module) -> list[nn.Module]:
    """The encoders of transformers in a part, each whole."""
    found = [m for m in part.modules() if hasattr(m, "save_pretrained")]
    return [m for m in found if not any(m is not other and m in {*other.modules()} for other in found)]


def _of_encoder(net: nn.Module, opening: Opening) -> torch.dtype:
    """The one type of an encoder of transformers."""
    large = sum(p.numel() for p in net.parameters()) >= LARGE
    return (_of_codec(opening) if large else None) or torch.float32


def _of_codec(opening: Opening) -> torch.dtype | None:
    """The type of the inside of an autoencoder: those of T5, Gemma 2 and XL overflow in float16, and not in bfloat16."""
    return torch.bfloat16 if opening.inside == torch.float16 else opening.inside


class Stage:
    """Which part is in use: one at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.current: nn.Module | None = None
        self.present: dict[int, tuple[nn.Module, list[tuple[Tensor, Tensor]]]] = {}

    def rest(self, part: nn.Module, net: nn.Module, dtype: torch.dtype | None, *, whole: bool, blocks: bool) -> None:
        """The net of a part comes for use from now on; what is too small to come and go is placed for good."""
        resting = {module for module in _units(net, blocks) if sum(p.numel() for p in module.parameters()) >= SMALL}
        inside = {inner for module in resting for inner in module.modules()}
        for module in net.modules():
            if module not in inside:
                for value in _own(module):
                    value.data = _ready(value.data, self.device, _type(module, value, dtype, whole))
        for module in resting:
            module.register_forward_pre_hook(lambda m, *given: self.enter(part, m, given, dtype, whole), with_kwargs=True)
            if blocks:
                module.register_forward_hook(lambda m, *_: self.leave(m), always_call=True)

    def enter(self, part: nn.Module, unit: nn.Module, given: Any, dtype: torch.dtype | None, whole: bool) -> Any:
        """A unit is about to be used: copies of its weights are made, those of another part go, and what it is given is brought.

        given: positional arguments and those by name, as they come back.
        """
        if part is not self.current:
            for other, _ in [*self.present.values()]:
                self.leave(other)
            self.current = part
        given = tree_map_only(Tensor, lambda v: v.to(self.device), given)
        if id(unit) in self.present:
            return given
        kept: list[tuple[Tensor, Tensor]] = []
        for module in unit.modules():
            for value in _own(module):
                if id(value) not in {id(v) for v, _ in kept}:
                    kept.append((value, value.data))
                    value.data = _ready(value.data, self.device, _type(module, value, dtype, whole))
        self.present[id(unit)] = (unit, kept)
        return given

    def leave(self, unit: nn.Module) -> None:
        """A unit is done: the copies go, and its weights are those in the file."""
        for value, resting in self.present.pop(id(unit), (unit, []))[1]:
            value.data = resting


def _type(module: nn.Module, value: Tensor, dtype: torch.dtype | None, whole: bool) -> torch.dtype:
    """What a weight is used in; an encoder of transformers in one type, whatever the module."""
    if not value.is_floating_point():
        return value.dtype
    return (dtype or torch.float32) if whole else use(module, value, dtype)


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _units(module: nn.Module, blocks: bool) -> Iterator[nn.Module]:
    """The modules that come and go: whole nets, or the blocks that stand in their lists."""
    for child in module.children():
        called = type(child).forward is not nn.Module.forward and not isinstance(child, nn.ModuleList)
        if called and (not blocks or isinstance(module, nn.ModuleList)):
            yield child
        else:
            yield from _units(child, blocks)


def _ready(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy for use, the channels of a convolution innermost."""
    layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
    return value.to(device, dtype, memory_format=layout)
