"""Published text encoders from folders of transformers' layout; nothing is downloaded, unpickled or run that a folder holds.

transformers' own `from_pretrained` fills with random numbers whatever a file lacks. So a net is `built` here without weights,
its tensors are given their `called` names, and once they are in it, it is `completed`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.encode.from_tensors import transformers
from reverie.errors import UserError

HEADS = re.compile(r"^(?:text_model\.|model\.)")
"""What stands before names by the version and the class."""
UNUSED = re.compile(r"(?:^decoder\.|^lm_head\.|^logit_scale$|(?:^|\.)position_ids$)")
"""What files hold besides the encoder: the other half of T5, what predicts words, and numbers that are counted, not learnt."""
WORDS = {
    "CLIPTokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "AutoTokenizer": (("tokenizer.json",), ("spiece.model",), ("tokenizer.model",)),
}
"""The sets of files that hold the words of a tokenizer, one of which must be there."""
MOST = 64 << 20
"""Bytes of a file of words; the largest published ones have 34 MB."""


def built(kind: str, folder: Path) -> Any:
    """transformers' model of this class, of the folder's configuration and without weights where the device is `meta`."""
    made = getattr(transformers(), kind)
    return made(made.config_class.from_pretrained(str(folder), local_files_only=True))


def called(net: Any, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors of a file by the names of `plain`, tied ones under both; UserError where they differ."""
    made = {plain(name): value for name, value in tensors.items() if not UNUSED.search(HEADS.sub("", name))}
    for one, other in ((plain(a), plain(b)) for a, b in ties(net).items()):
        if one in made and other in made and not torch.equal(made[one], made[other]):
            raise UserError(f"{where}: {one} and {other} are one table and differ here: the file is damaged, get it again")
        found = made.get(one, made.get(other))
        made |= {} if found is None else {one: found, other: found}
    return made


def ties(net: Any) -> Mapping[str, str]:
    """The weights of a net that are others of it: {name: name}."""
    return net._tied_weights_keys or {}


def plain(name: str) -> str:
    """The name of a weight, in files of every version and in memory."""
    return HEADS.sub("", name)


def words(kind: str, folder: Path, net: Any) -> Any:
    """transformers' tokenizer of this class, whose words are those of the net's table; UserError where they cannot be."""
    there = [file for files in WORDS[kind] for file in files if (folder / file).is_file()]
    if not any(set(files) <= {*there} for files in WORDS[kind]):
        raise UserError(f"{folder} holds no words ({' or '.join(map(' and '.join, WORDS[kind]))}): the download is not complete")
    for file in folder.iterdir():
        if file.is_file() and file.stat().st_size > MOST:
            raise UserError(f"{file} has more than {MOST >> 20} MB, and no list of words has: get it again")
    try:
        made = getattr(transformers(), kind).from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # whatever transformers says of a folder, it is damaged or of another kind
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} cannot be opened as {kind} ({said}): get it again") from None
    rows = int(net.config.vocab_size)
    if not 2 < len(made) <= rows:
        raise UserError(f"{folder} holds {len(made)} words, and the table of its encoder {rows}: they are of two models")
    return made


def write(read: Any, folder: Path, name: str = "") -> dict[str, list[str]]:
    """An encoder and its tokenizer as the parts text_encoder and tokenizer of a folder; the lines of its model_index.json."""
    parts = {f"text_encoder{name}": read.net, f"tokenizer{name}": read.tokenizer}
    for part, made in parts.items():
        made.save_pretrained(str(folder / part))
    return {part: ["transformers", type(made).__name__] for part, made in parts.items()}
