"""Single files as the publishers wrote them: all parts of a system in one set of tensors, told apart by how their names begin.

A file has no configuration; which system it is, and of what shape, its keys and shapes tell. What it lacks (an encoder, the words
of T5) is taken from a folder in diffusers' layout, where one is named.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from reverie.encode import from_tensors
from reverie.encode.clip import Clip
from reverie.errors import UserError
from reverie.files import load_sound, load_tensors
from reverie.systems import pickles
from reverie.systems.building import building, numbered
from reverie.systems.folders import Folder, fingerprint
from reverie.systems.names import Layout, filled, renamed
from reverie.systems.opening import USUAL, Opening


@dataclass(frozen=True)
class Single:
    """A file that is read."""

    path: Path
    opening: Opening = USUAL

    @property
    def beside(self) -> Folder | None:
        """The folder with the parts that it lacks, where one is named."""
        return Folder(Path(self.opening.parts), self.opening) if self.opening.parts else None

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """All of them, mapped from the disk."""
        if not pickles.is_pickle(self.path):
            return load_sound(self.path)
        pickles.refuse_unless(self.opening.allow_pickle, self.path)
        return pickles.tensors(self.path)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Their shapes."""
        return {k: tuple(v.shape) for k, v in self.tensors.items()}

    def has(self, prefix: str) -> bool:
        """Whether a name begins so."""
        return any(name.startswith(prefix) for name in self.tensors)

    @cached_property
    def about(self) -> dict[str, str]:
        """What its header says of it; nothing for a pickle."""
        if pickles.is_pickle(self.path):
            return {}
        with safetensors.safe_open(self.path, "pt") as handle:
            return dict(handle.metadata() or {})

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, without the beginning; mapped for themselves, so that each part can go by itself."""
        tensors = self.tensors if pickles.is_pickle(self.path) else load_tensors(self.path)[0]
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    def net(self, prefix: str, config: Any, build: Any, layout: Layout) -> Any:
        """The net of this part, as it lies in the file."""
        tensors, where = self.part(prefix), f"{self.path}: {prefix.rstrip('.') or 'the net'}"
        with building(where, len(tensors)):
            net = build(config)
        return filled(net, tensors, layout, where, self.opening.partial)

    def clip(self, prefix: str, *, layers: int = 0, projected: bool = False, quick: bool | None = None, **options: Any) -> Clip:
        """The text encoder of this part, by transformers' names or by OpenCLIP's, which are told apart here.

        layers: how many are used, 0 = all. projected: its pooled vector is. quick: its activation is CLIP's own; None = where the
        names are transformers'. options: as of `Clip`.
        """
        found = self.part(prefix)
        inner = {k.removeprefix(INNER): v for k, v in found.items() if k.startswith(INNER) and not k.endswith("position_ids")}
        named = f"{INNER}{TEXT}{EMBEDDINGS}.token_embedding.weight" in found
        theirs = {k.removeprefix(TEXT): v for k, v in inner.items()} if named else {}
        tensors, layout = (theirs, _same) if theirs else (_turned(found), open_clip)
        asked = layout if theirs else lambda name: str(layout(name)).partition("[")[0]
        where = f"{self.path}: {prefix.rstrip('.')}"
        with building(where, len(tensors), "text encoder of CLIP"):
            words, width = tensors[asked(f"{EMBEDDINGS}.token_embedding.weight")].shape
            hidden = len(tensors[asked(f"{LAYERS}.0.mlp.fc1.weight")])
            deep = numbered(tensors, BLOCK.pattern)
            into = len(tensors["text_projection.weight"]) if projected else None
        layers = min(layers or deep, deep)
        kept = {k: v for k, v in tensors.items() if not (m := BLOCK.match(k)) or int(m[1]) < layers}
        if not projected:
            kept.pop("text_projection.weight", None)
        shape: dict[str, Any] = {"words": words, "width": width, "hidden": hidden, "layers": layers, "projected": into}
        fill = partial(filled, tensors=kept, layout=layout, what=where, partial=self.opening.partial)
        return from_tensors.clip(fill, **shape, quick=bool(theirs) if quick is None else quick, **options)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file, as other tools have it."""
        return fingerprint([self.path])

    def lacking(self, part: str) -> Folder:
        """The folder with the parts that the file lacks; UserError where none was named."""
        if self.beside is None:
            raise UserError(
                f"{self.path} holds no {part}: name a folder in diffusers' layout that has it, of any model of the same system, "
                "with --parts"
            )
        return self.beside


INNER = "transformer."
TEXT = "text_model."
"""What stands before most names of transformers' text encoders, in files always, and in memory by the version and the class."""
EMBEDDINGS, LAYERS = "embeddings", "encoder.layers"
BLOCK = re.compile(r".*(?:layers|resblocks)\.(\d+)\.")

open_clip = renamed(
    (
        (r"^(?:text_model\.)?embeddings\.token_embedding\.", "token_embedding."),
        (r"^(?:text_model\.)?embeddings\.position_embedding\.weight$", "positional_embedding"),
        (r"^(?:text_model\.)?final_layer_norm\.", "ln_final."),
        (r"^(?:text_model\.)?encoder\.layers\.", "transformer.resblocks."),
        (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
        (r"\.self_attn\.q_proj\.(\w+)$", r".attn.in_proj_\1[0]"),
        (r"\.self_attn\.k_proj\.(\w+)$", r".attn.in_proj_\1[1]"),
        (r"\.self_attn\.v_proj\.(\w+)$", r".attn.in_proj_\1[2]"),
        (r"\.layer_norm([12])\.", r".ln_\1."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    )
)
"""OpenCLIP's names of transformers' text encoder."""


def _same(name: str) -> str:
    return name.removeprefix(TEXT)


def _turned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's text encoder with its projection as a layer has it, which is stored turned there, and without what others use."""
    inner = {k.removeprefix("model."): v for k, v in tensors.items()}
    made = {k: v for k, v in inner.items() if k not in ("text_projection", "logit_scale", "attn_mask")}
    return made | ({"text_projection.weight": inner["text_projection"].T} if "text_projection" in inner else {})
