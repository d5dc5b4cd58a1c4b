"""How controls are trained: a model of ours stays as it is, and a net beside it learns to heed a hint of the picture.

reverie train avatars-edges --out runs/avatars-edges
reverie generate "a bald man" --control "control(net='runs/avatars-edges', image='photo.png', take='edges()')"

Whole (ControlNet, arXiv:2302.05543); for any of several kinds of hints (Uni-ControlNet, arXiv:2305.16322); begun from another
control, by what the pictures show (ControlNet++, arXiv:2404.07987); changes of one that many share (CtrLoRA, arXiv:2410.09400);
a small net that looks at the picture alone (T2I-adapter, arXiv:2302.08453).
"""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.adapt import Control, Controlled
from reverie.card import parse, rebuild
from reverie.data.hints import HINTS
from reverie.data.kinds import CHANNELS, only
from reverie.errors import UserError
from reverie.nets.control import control_of
from reverie.nets.control_transformer import control_transformer_of
from reverie.nets.lora import adapt, changes, choose
from reverie.nets.t2i import t2i_of
from reverie.nets.unet import UNet
from reverie.systems.control.beside import Beside, Trained
from reverie.systems.control.kept import SHIPPED, kinds, load_control, save_changes, save_control, shared, small_name
from reverie.systems.system import System
from reverie.train.jobs import View, to_signal
from reverie.train.rewarding import REWARDS, Rewarding
from reverie.train.steering import Sharing, Steering
from reverie.train.training import Training


@dataclass(frozen=True, kw_only=True)
class Small(Trained):
    """Low-rank changes of a control, which is not written with them. shares: that control's name and hash."""

    shares: dict[str, str]

    def write(self, path: Path) -> None:
        """The changes alone."""
        save_changes(self.net, path, self.base, self.shares, self.about)


@dataclass(frozen=True, kw_only=True)
class Shared(Trained):
    """What controls of several kinds share, and the changes of each."""

    def write(self, path: Path) -> None:
        """What is shared, and beside it a file for each kind."""
        save_control(self.net, path, self.base, self.about, plain=True)
        about = {k: v for k, v in self.about.items() if k != "shared"}
        for k, kind in enumerate(self.about["shared"]):
            choose(self.net, k)
            save_changes(self.net, path.with_name(small_name(kind)), self.base, shared(path), about | {"hint": kind})


@dataclass(frozen=True, kw_only=True)
class ControlRecipe(Beside):
    """A control of a model of ours, by one kind of hint or by several."""

    hint: str = "edges()"
    """What is drawn of each picture and shown: edges(), sketch(), shading(), regions(), low(), palette()."""
    hints: tuple[str, ...] = ()
    """Kinds that one control hears, any of them or none, in place of `hint`."""
    alone: float = 0.5
    """The chance that one of them is shown alone."""
    drop_hints: float = 0.5
    """Otherwise, the chance of each of them not to be shown."""
    begin: str = ""
    """The control that it begins from: a run, a file, or one that is shipped; '' = the weights of the model."""
    rank: int = 0
    """Of changes of its layers, which alone learn and are written; 0 = all of it learns."""
    shared: bool = False
    """Each of `hints` has changes of its own (of `rank`), and all share what else learns, for further kinds to begin from."""
    reward: str = ""
    """How far a picture is from its hint, which is learnt from, too: soft_edges(), squares(), patches()."""
    reward_weight: float = 0.5
    light: float = 0.6
    """The most noise, sigma / alpha, at which it is."""
    blocks: int = 0
    """How many blocks of a transformer are copied; 0 = half."""
    adapter: bool = False
    """A T2I-adapter of a U-Net, which reads the picture once for all steps, in place of a copy of the model."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of hints, whether one or several."""
        return self.hints or (self.hint,)

    def made(self, base: System) -> nn.Module:
        """A fresh control, or one that goes on from another."""
        made: nn.Module = self._begun(base) if self.begin else self._fresh(base)
        if self.rank:
            adapt(made, self.rank, convolutions=True, several=len(self.hints) if self.shared else 0)
        return made

    def job(self, net: Any, base: System) -> Callable[..., Steering]:
        """By its loss, and what its pictures show."""
        named: dict[str, Any] = {"learnt": net, "parts": [*changes(net)] if self.rank and not self.shared else []}
        kind: Any = Steering
        if self.shared:
            kind, named = Sharing, named | {"kinds": len(self.hints)}
        if self.reward:
            reward = rebuild(parse(self.reward), REWARDS, "reward")
            kind, named = Rewarding, named | {"reward": reward, "weight": self.reward_weight, "light": self.light}
        return partial(kind, Controlled(base.denoiser, [Control(net=net, name=self.name)]), **named)

    def shown(self) -> dict[str, Any]:
        """Kinds of hints."""
        if self.shared:
            return {"shared": list(self.hints)}
        return {"hints": list(self.hints)} if self.hints else {"hint": self.hint}

    def trained(self, **made: Any) -> Trained:
        """A control, changes of one, or what several share, with the changes of each."""
        if self.shared:
            return Shared(**made)
        return Small(shares=shared(self._file()), **made) if self.rank else Trained(**made)

    def check(self) -> None:
        """UserError for what does not go together."""
        names = [parse(kind)["name"] for kind in self.kinds]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"--hints has {twice[0]}() twice: a control hears each kind once")
        if not 0 <= self.drop_hints < 1:
            raise UserError(f"--drop-hints is {self.drop_hints}; it is a share, at least 0 and less than 1")
        if not 0 <= self.alone <= 1:
            raise UserError(f"--alone is {self.alone}; it is a share, from 0 to 1")
        if self.rank < 0:
            raise UserError(f"--rank is {self.rank}; it is 1 or more, or 0 for a control that learns whole")
        if self.adapter and (self.begin or self.rank):
            raise UserError("--adapter learns whole, and from the beginning: leave --begin and --rank out")
        if self.shared and (not self.rank or not self.hints or self.reward):
            raise UserError("--shared is of several --hints, whose changes have a --rank, and learns from no --reward")
        if (self.rank or self.reward) and not self.begin and not self.shared:
            what = "--rank" if self.rank else "--reward"
            raise UserError(f"{what} changes a control that is trained: name its run or file with --begin")
        if self.reward and self.hints:
            raise UserError("--reward is of one kind of hint: give --hint in place of --hints")

    def _fresh(self, base: System) -> Any:
        """A silent control of the model."""
        net: Any = base.denoiser.net
        factor, channels = base.codec.factor, self._channels
        if self.adapter:
            if not isinstance(net, UNet):
                raise UserError(f"--adapter is of a U-Net, and {base.name} is a {type(net).__name__}: leave it out")
            return t2i_of(net, factor, channels)
        if isinstance(net, UNet):
            return control_of(net, factor, channels)
        return control_transformer_of(net, self.blocks, factor=factor, hint_channels=channels)

    def _begun(self, base: System) -> nn.Module:
        """The control in `begin`. Of several kinds, those that it heard are heard as they were, and others say nothing at first.

        One kind in place of another goes on with the encoder there is: what follows a sketch begins from what follows edges.
        """
        file = self._file()
        control = copy.deepcopy(load_control(file, base)).float()  # of weights of its own, not of the file's
        several, one = kinds(file)
        if self.hints and several != self.hints and not self.shared:
            control = self._widened(control, several or (one,))
        elif control.config.hint_channels != self._channels:
            raise UserError(f"{file} hears {', '.join(several)}: begin a control of one kind from a control of one kind")
        return control

    def _file(self) -> Path:
        """Of the control that it begins from."""
        file = SHIPPED.get(self.begin) or Path(self.begin).expanduser()
        file = file / "model.safetensors" if os.path.isdir(file) else file
        if not os.path.isfile(file):
            raise UserError(f"{file} is not there: train the control to begin from, and name its run with --begin")
        return file

    @property
    def _channels(self) -> int:
        """Of what the control is shown."""
        return CHANNELS * (1 if self.shared else len(self.kinds))

    def _widened(self, control: Any, heard: Sequence[str]) -> Any:
        """The control with the channels of our kinds, of which those that it heard have their weights, and others zeros."""
        made = type(control)(replace(control.config, hint_channels=CHANNELS * len(self.hints)))
        stem = torch.zeros_like(made.hint.stem.weight)
        old, new = ([parse(kind)["name"] if kind else "" for kind in each] for each in (heard, self.hints))
        for k, name in enumerate(new):
            if name in old:
                j = CHANNELS * old.index(name)
                stem[:, CHANNELS * k : CHANNELS * (k + 1)] = control.hint.stem.weight.detach()[:, j : j + CHANNELS]
        made.load_state_dict(control.state_dict() | {"hint.stem.weight": stem})
        return made

    def view(self, images: np.ndarray) -> View:
        """The hints (B, 3 K, H, W) of pictures uint8 (N, C, H, W), drawn when first asked for; some of several left out."""
        draws, shape = [rebuild(parse(kind), HINTS, "hint") for kind in self.kinds], (CHANNELS, *images.shape[2:])
        known = np.zeros((len(images), CHANNELS * len(draws), *shape[1:]), np.uint8)
        there = np.zeros(len(images), bool)

        def look(index: np.ndarray, rng: np.random.Generator) -> Tensor:
            for i in index[~there[index]]:
                pixels = np.ascontiguousarray(np.broadcast_to(images[i], shape).transpose(1, 2, 0))
                known[i], there[i] = np.concatenate([draw(pixels).transpose(2, 0, 1) for draw in draws]), True
            seen = to_signal(known[index])
            if len(draws) == 1 or self.shared:
                return seen
            shown = rng.random((len(index), len(draws))) >= self.drop_hints
            one = np.eye(len(draws), dtype=bool)[rng.integers(len(draws), size=len(index))]
            return only(seen, torch.from_numpy(np.where(rng.random((len(index), 1)) < self.alone, one, shown)))

        return look


TRAINING = Training(steps=4500, batch=16, rate=1e-3, warmup=50, decay=0.5, holdout=256, widths=(0.05,), snapshots=0)
EDGES = ControlRecipe(
    name="avatars-edges", about="a control of reverie-avatars by edges", source="avatars", hint="edges()", training=TRAINING
)
REGIONS = replace(EDGES, name="avatars-regions", about="a control of reverie-avatars by patches of colour", hint="regions()")
PALETTE = replace(
    EDGES,
    name="avatars-palette",
    about="a control of reverie-avatars by its main colours",
    hint="palette()",
    times="log_normal(mean=0.5, deviation=1.4)",  # colours are chosen in more noise than lines
)
SHADING = replace(EDGES, name="avatars-shading", about="a control of reverie-avatars by shading, like depth", hint="shading()")
SKETCH = replace(EDGES, name="avatars-sketch", about="a control of reverie-avatars by a sketch", hint="sketch()")
LOW = replace(EDGES, name="avatars-low", about="a control of reverie-avatars by eight squares each way", hint="low()")
UNI = replace(
    EDGES,
    name="avatars-uni",
    about="a control of reverie-avatars by any of edges, patches and main colours",
    hints=("edges()", "regions()", "palette()"),
    begin="avatars-edges",
    times="log_normal(mean=0.0, deviation=1.6)",
    training=replace(TRAINING, steps=9000),
)
EDGES_PLUS = replace(
    EDGES,
    name="avatars-edges-plus",
    about="avatars-edges, taught by the edges that its pictures show",
    begin="avatars-edges",
    reward="soft_edges()",
    training=replace(TRAINING, steps=500, rate=2e-4),
)
SHARED = replace(
    EDGES,
    name="avatars-shared",
    about="what small controls of reverie-avatars share, and three of them: edges, patches, main colours",
    hints=UNI.hints,
    shared=True,
    rank=16,
    begin="avatars-edges",
    times=UNI.times,
)
SKETCH_LORA = replace(
    SKETCH,
    name="avatars-sketch-lora",
    about="a small control of reverie-avatars by a sketch, of avatars-shared",
    begin="runs/avatars-shared",
    rank=16,
    training=replace(TRAINING, steps=500),
)
LOW_LORA = replace(
    SKETCH_LORA,
    name="avatars-low-lora",
    about="a small control of reverie-avatars by eight squares each way",
    hint="low()",
    times=UNI.times,
)
