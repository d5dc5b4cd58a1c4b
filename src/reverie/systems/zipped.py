"""Two LoRAs in one, as a recipe: `reverie adapt zip --first subject.safetensors --second style.safetensors`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.adapt.changes import LowRank
from reverie.adapt.lora import Lora
from reverie.adapt.zip import Alone, Zip, Zipping
from reverie.card import parse, rebuild
from reverie.distill import Store, Teacher
from reverie.errors import UserError
from reverie.nets.lora import beside
from reverie.systems.adapted import usual_times
from reverie.systems.distilled import empty, pace
from reverie.systems.lora import open_lora, save_lora
from reverie.systems.lora.places import weights
from reverie.systems.opening import LEARNING
from reverie.systems.shipped import open_model
from reverie.systems.system import System
from reverie.train.loop import Job
from reverie.train.objective import TIMES
from reverie.train.training import Training


@dataclass(frozen=True)
class Piece:
    """What one LoRA does to a weight of ours: D, and where it is a plain product, B with the scale in it and A."""

    dense: Tensor
    up: Tensor | None = None
    down: Tensor | None = None


def of_weights(lora: Lora, own: Mapping[str, Tensor]) -> dict[str, Piece]:
    """What a LoRA does to each weight. UserError where it does more than a sum of one change for each."""
    out: dict[str, Piece] = {}
    for site in lora.sites:
        stack, change = site.stack, site.change
        if strange := [k for k in stack.keys if not k.startswith("net.") or not k.endswith(".weight")]:
            raise UserError(f"{lora.name} changes {strange[0]}; only weights of the net can be zipped")
        whole = stack.together(own)
        dense = stack.apart(change(whole).reshape(whole.shape), own)
        plain = change if isinstance(change, LowRank) and change.core is None else None
        ups = stack.apart(plain.scale * plain.up.float().flatten(1), own) if plain else [None] * len(dense)
        for key, piece, up in zip(stack.keys, dense, ups, strict=True):
            if key in out:
                raise UserError(f"{lora.name} changes {key} twice, which cannot be zipped")
            down = None if plain is None else plain.down.float().view(len(plain.down), *own[key].shape[1:])
            out[key] = Piece(piece.float(), up, down)
    return out


@dataclass(frozen=True, kw_only=True)
class Zipped:
    """A model with the two, and how each of its layers keeps them."""

    system: System
    layers: Mapping[str, tuple[Zip, Sequence[Piece | None]]]
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """One LoRA, whose rank is the sum of theirs; differences where they are no plain products."""
        found = dict(pair for name, (each, pieces) in self.layers.items() for pair in self._tensors(name, each, pieces))
        base = {"name": self.system.name, "hash": self.system.hash}
        save_lora(self.system, path.with_name(path.name.replace("model", "lora")), base, self.about, more=found)

    @torch.no_grad()
    def _tensors(self, name: str, each: Zip, pieces: Sequence[Piece | None]) -> Iterator[tuple[str, Tensor]]:
        known = [(k, piece) for k, piece in enumerate(pieces) if piece is not None]
        if any(piece.up is None for _, piece in known):
            yield f"{name}.diff", each.change(0) + each.change(1)
            return
        downs, ups = [], []
        for k, piece in known:
            assert piece.up is not None and piece.down is not None
            downs.append(piece.down * each.shares[k].view(-1, *[1] * (piece.down.ndim - 2)))
            ups.append(piece.up)
        down, up = torch.cat(downs), torch.cat(ups, 1)
        yield f"{name}.lora_A.weight", down
        yield f"{name}.lora_B.weight", up.view(*up.shape, *[1] * (down.ndim - 2))


@dataclass(frozen=True, kw_only=True)
class Zipper:
    """first, second: files of LoRAs, as a subject and a style, each with what is said where it draws alone."""

    name: str = "zipped"
    about: str = "two LoRAs in one"
    model: str
    first: str
    second: str
    first_prompt: str = ""
    second_prompt: str = ""
    drawn: int = 16
    """Pictures that each draws of its own prompt, which it is to draw as well afterwards."""
    overlap: float = 0.01
    """Weight of what the two share of a layer's columns."""
    training: Training = field(
        default_factory=lambda: Training(steps=100, batch=4, rate=1e-2, warmup=0, decay=0.5, widths=(0.05,), snapshots=0)
    )

    def pictures(self) -> tuple[()]:
        """None but those that they draw."""
        return ()

    def prompts(self, system: System) -> Sequence[Any]:
        """Sixteen prompts for previews."""
        return [self.first_prompt, self.second_prompt] * 8

    def prepare(self, pictures: Sequence[Any]) -> tuple[Zipped, Job]:
        """The model with the sum of the two, and the training job."""
        if self.drawn < 2 or not self.overlap >= 0:
            raise UserError(f"--drawn is {self.drawn} and --overlap {self.overlap:g}; give 2 or more, and 0 or more")
        base = open_model(self.model, LEARNING)
        for part in (base.denoiser, base.prompt_encoder):
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        own = weights(base)
        both = [of_weights(open_lora(file, base), own) for file in (self.first, self.second)]
        layers: dict[str, tuple[Zip, Sequence[Piece | None]]] = {}
        for key in sorted({*both[0], *both[1]}):
            name = key.removeprefix("net.").removesuffix(".weight")
            layer, pieces = base.denoiser.net.get_submodule(name), [each.get(key) for each in both]
            layers[name] = Zip(layer, [None if piece is None else piece.dense for piece in pieces]), pieces
            beside(layer, layers[name][0])
        zips = [each for each, _ in layers.values()]
        says = [self.first_prompt, self.second_prompt]
        stores = [self._store(base, Alone(base.denoiser, zips, k), said) for k, said in enumerate(says)]
        times = rebuild(parse(usual_times(base)), TIMES, "times")
        job = Zipping(base.denoiser, zips, stores, times=times, cond=self._cond(base), overlap=self.overlap)
        about = {"name": self.name, "zipped": [Path(self.first).name, Path(self.second).name]}
        return Zipped(system=base, layers=layers, about=about), job

    def _cond(self, base: System) -> Any:
        encoder = base.prompt_encoder
        return (lambda said: None) if encoder is None else torch.no_grad()(encoder.prompts)

    def _store(self, base: System, model: Any, said: str) -> Store:
        teacher = Teacher(model, base.defaults.guidance, empty(base))
        shape = base.codec.shape(*base.defaults.size)
        return Store(teacher, self.drawn, shape, *pace(base), said=lambda k: said, cond=self._cond(base), seed=self.training.seed)
