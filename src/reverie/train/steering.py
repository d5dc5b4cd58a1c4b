"""Training of controls (ControlNet, arXiv:2302.05543) and image prompts: the model around which they stand stays as it is."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.data.kinds import CHANNELS, told
from reverie.denoiser import Cond
from reverie.nets.lora import choose
from reverie.process.grids import karras
from reverie.rng import Rng, digest
from reverie.solve import Exponential, sample
from reverie.train.jobs import Diffusion, Prompt
from reverie.train.loop import Key


class Steering(Diffusion):
    """A `Diffusion` whose denoiser hears hints, of which only `learnt` learns, or `parts` of it. codec: of its space."""

    STEPS, COUNT = 12, 8

    def __init__(self, *given: Any, learnt: nn.Module, parts: Sequence[nn.Module] = (), codec: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.module.requires_grad_(False)
        for part in parts or (learnt,):
            part.requires_grad_(True)
        self.module = nn.ModuleDict({"control": learnt})
        self.learnt, self.codec = learnt, codec

    def _cond(self, said: Sequence[Any] | None, seen: Tensor | None) -> Cond | None:
        with torch.no_grad():
            cond = super()._cond(said, None)
        return cond if seen is None else self._heard(cond or Cond(), seen)

    def _heard(self, cond: Cond, seen: Tensor) -> Cond:
        """What is said, with what is seen."""
        return replace(cond, hints=(seen,))

    @torch.no_grad()
    def shown(self) -> Tensor:
        """(24, C, H, W): hints of held-out pictures, what is drawn from them and their words, and the pictures."""
        seen = self._seen()
        drawn = self._drawn(seen, self.held_prompt)
        return torch.cat([_first(seen)[:, : drawn.shape[1]], drawn, self._whole()])

    def _seen(self) -> Tensor:
        assert self.held_view is not None
        return self.held_view(np.arange(self._count), np.random.default_rng(digest("shown", 0)))

    @property
    def _count(self) -> int:
        return min(self.COUNT, len(self.held))

    def _drawn(self, seen: Tensor, prompt: Prompt | None) -> Tensor:
        """What is drawn of held-out pictures."""
        rows = range(self._count)
        said = None if prompt is None else [prompt(k, np.random.default_rng(digest("shown", k))) for k in rows]
        path, rng = self.denoiser.path, Rng.of(0, len(rows))
        x = path.prior(self.held[: len(rows)].shape, rng=rng, spread=1.0)
        made = sample(self.denoiser, x, karras(smallest=0.02)(path, self.STEPS), Exponential(2), cond=self._cond(said, seen))
        drawn: Tensor = self.codec.decode(made)
        return drawn

    def _whole(self) -> Tensor:
        whole: Tensor = self.codec.decode(self.held[: self._count])
        return whole


class Sharing(Steering):
    """A `Steering` of one control by kinds of hints, each of which has low-rank changes of its own (CtrLoRA, arXiv:2410.09400).

    Each step is of one kind. What is seen has the hints (B, 3 kinds, H, W) of all.
    """

    def __init__(self, *given: Any, kinds: int, **named: Any) -> None:
        super().__init__(*given, **named)
        self.kinds, self.kind = kinds, 0

    def choose(self, kind: int) -> None:
        """From now on it is of this one."""
        self.kind = kind
        choose(self.learnt, kind)

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        self.choose(int(key.numpy("kind").integers(self.kinds)))
        return super().loss(index, key)

    def validate(self, batch: int = 64) -> float:
        """The mean over the kinds."""
        found = []
        for kind in range(self.kinds):
            self.choose(kind)
            found.append(super().validate(batch))
        return float(np.mean(found))

    def _heard(self, cond: Cond, seen: Tensor) -> Cond:
        return super()._heard(cond, seen[:, CHANNELS * self.kind : CHANNELS * (self.kind + 1)])


class Prompting(Steering):
    """A `Steering` by pictures as prompts (`ImagePrompted`): what is seen is what an encoder of pictures said of each.

    reading: of a model that hears words as one vector alone, the weight of how far what a picture tells by it is from what its
    caption does, in mean squares; from noise alone colours are learnt slowly.
    """

    def __init__(self, *given: Any, reading: float = 0.0, **named: Any) -> None:
        super().__init__(*given, **named)
        self.reading = reading

    def loss(self, index: np.ndarray, key: Key) -> Tensor:
        loss = super().loss(index, key)
        return loss + self.reading * self._misread(self.rows[index], key) if self.reading else loss

    def _misread(self, index: np.ndarray, key: Key) -> Tensor:
        """(B,)."""
        assert self.prompt is not None and self.view is not None
        captions, seen = key.numpy("read"), self.view(index, key.numpy("seen"))
        with torch.no_grad():
            wanted = self.encoder.prompts([self.prompt(int(i), captions) for i in index]).vector
        return (self._told(seen) - wanted).square().mean(1)

    def _told(self, seen: Tensor) -> Tensor:
        """The vector that is heard of pictures without words."""
        with torch.no_grad():
            nothing: Tensor = self.encoder.prompts([""] * len(seen)).vector
        word: Any = self.learnt.word
        told: Tensor = nothing + word(self.learnt(seen), nothing)
        return told

    def _heard(self, cond: Cond, seen: Tensor) -> Cond:
        return replace(cond, images=self.learnt(seen))

    @torch.no_grad()
    def shown(self) -> Tensor:
        """(24, C, H, W): held-out pictures, and what is drawn from them without words, and with theirs."""
        seen = self._seen()
        mute = None if self.held_prompt is None else lambda row, rng: ""
        return torch.cat([self._whole(), self._drawn(seen, mute), self._drawn(seen, self.held_prompt)])


class Naming(Prompting):
    """A `Steering` of what says a word for each picture (E4T, arXiv:2302.12228), which stands behind what else is said of it.

    readers: the encoders of text that read the word, in the order in which it is said for them.
    """

    def __init__(self, *given: Any, readers: Sequence[Any], **named: Any) -> None:
        super().__init__(*given, **named)
        self.readers = readers

    def _cond(self, said: Sequence[Any] | None, seen: Tensor | None) -> Cond | None:
        if seen is None:
            return super()._cond(said, seen)
        told = said or [""] * len(seen)
        with ExitStack() as words:
            for reader, vectors in zip(self.readers, self.learnt(seen), strict=True):
                words.enter_context(reader.learnt().instead({_name(k): rows for k, rows in enumerate(vectors)}))
            cond: Cond = self.encoder.prompts([f"{text}, {_name(k)}" if text else _name(k) for k, text in enumerate(told)])
        return cond

    def _told(self, seen: Tensor) -> Tensor:
        cond = self._cond(None, seen)
        assert cond is not None and cond.vector is not None
        return cond.vector


def _name(k: int) -> str:
    return f"<{k}>"


def _first(seen: Tensor) -> Tensor:
    """Of hints (B, 3 K, H, W) of several kinds the first that is given, (B, 3, H, W)."""
    which = told(seen).int().argmax(1)
    return torch.stack([row[CHANNELS * k : CHANNELS * (k + 1)] for row, k in zip(seen, which.tolist(), strict=True)])
