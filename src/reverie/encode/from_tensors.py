"""Published text encoders from the tensors of a single file, which says nothing of their shapes and holds no words.

A head is 64 wide in all that were published. The words of CLIP come with the package.
"""

import gzip
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from reverie.encode.clip import Clip
from reverie.errors import UserError

MERGES = Path(__file__).parent / "published" / "clip_merges.txt.gz"
HEAD = 64
Fill = Callable[[torch.nn.Module], Any]


def clip_words(pad: str = "<|endoftext|>") -> Any:
    """CLIP's tokenizer of 49,408 words; `pad` fills rows up ("!" in OpenCLIP's encoders)."""
    vocabulary, merges = _merges()
    return transformers().CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), pad_token=pad, model_max_length=77)


@cache
def _merges() -> tuple[Mapping[str, int], tuple[tuple[str, str], ...]]:
    with gzip.open(MERGES, "rt", encoding="utf-8") as handle:
        merges = tuple((a, b) for a, _, b in (line.rstrip("\n").partition(" ") for line in handle))
    letters = list(_letters())
    words = [*letters, *(f"{c}</w>" for c in letters), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return {word: k for k, word in enumerate(words)}, merges


def _letters() -> list[str]:
    """A letter for each byte: itself where it can be printed, else one from 256 on (Radford et al., 2019)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1), *range(ord("\xae"), ord("\xff") + 1)]
    hidden = [b for b in range(256) if b not in shown]
    return [*map(chr, shown), *(chr(256 + k) for k in range(len(hidden)))]


def clip(
    fill: Fill, *, words: int, width: int, hidden: int, layers: int, projected: int | None = None, quick: bool, **options: Any
) -> Clip:
    """A `Clip` of this shape; `fill` gives its net, built without weights, those of the file.

    words: of its vocabulary. projected: entries of the pooled vector, None where it is not projected. quick: its activation is
    CLIP's own and not OpenCLIP's. options: as of `Clip`.
    """
    known = clip_words() if quick else clip_words("!")
    if words != len(known):
        raise UserError(f"the text encoder knows {words} words, and CLIP {len(known)}: give the folder of the model")
    config = transformers().CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(width // HEAD, 1),
        projection_dim=projected or width,
        hidden_act="quick_gelu" if quick else "gelu",
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id,
    )
    kind = transformers().CLIPTextModelWithProjection if projected else transformers().CLIPTextModel
    with torch.device("meta"):
        net = kind(config)
    fill(net)
    return Clip(completed(net), known, **options)


def completed(net: Any) -> Any:
    """transformers' model with its weights in it: tied ones are one, and what is counted, and so in no file, is there."""
    for value in net.parameters():
        value._is_hf_initialized = True  # what follows leaves it as it is
    net.tie_weights()
    for owner in [*net.modules()]:
        lost = {name: value for name, value in owner._buffers.items() if value is not None and value.is_meta}
        owner._buffers.update({name: torch.empty_like(value, device="cpu") for name, value in lost.items()})
        if lost:
            net._init_weights(owner)
    return net.eval().requires_grad_(False)


def transformers() -> Any:
    """The library, which is to say nothing by itself; UserError where the extra is not there."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"prompts of this model are read by transformers: pip install 'reverie[text]' ({error})") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers
