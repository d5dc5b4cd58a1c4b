"""What a file or a folder is that is no system: in one line, with what to name instead."""

import difflib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

WHOLE = "name the file or folder of the whole model"
PARTS = (
    (r"^lora_(unet|te\d?|transformer)_|\.lora_(A|B|up|down)\.|\.lora_(up|down)\.weight$|\.lora\.(up|down)\.", "a LoRA"),
    (r"^(control_model\.|controlnet_cond_embedding\.|input_hint_block\.)", "a ControlNet"),
    (r"^(emb_params|string_to_param\.|clip_[gl]$)", "a textual inversion"),
    (r"^down_blocks\.\d+\.(resnets|attentions)\.", "the U-Net of a folder of diffusers, alone"),
    (r"^(transformer_blocks|single_transformer_blocks)\.\d+\.", "the transformer of a folder of diffusers, alone"),
    (r"^(encoder|decoder)\.(conv_in|down\.|down_blocks\.|mid)|^quant_conv\.", "an autoencoder, alone"),
    (
        r"^(text_model\.|transformer\.text_model\.|token_embedding\.|embeddings\.token_embedding\.)",
        "CLIP, alone",
    ),
    (r"^(shared\.weight|encoder\.block\.0\.layer\.)", "T5's encoder of words, alone"),
)
"""What the names of tensors tell, by the first of these that any of them begins with or has."""
REMEDIES = {
    "a LoRA": "name the model with --model, and this with --lora",
    "a textual inversion": "name the model with --model, and this with --embedding",
}
STRICT = 0.9


def part(names: Iterable[str]) -> str:
    """What tensors of such names are part of, and a remedy; '' where nothing is known of them."""
    names = list(names)
    what = next((what for pattern, what in PARTS if any(re.search(pattern, name) for name in names)), "")
    return f"it is {what}: {REMEDIES.get(what, WHOLE)}" if what else ""


def folder(path: Path) -> str:
    """What a folder is that has no model_index.json; '' where nothing is known of it."""
    try:
        if not any(path.iterdir()):
            return f"{path} is empty: the download of the model is not complete"
        said = json.loads((path / "config.json").read_bytes()[: 1 << 20])
        kind = said.get("_class_name") or next(iter(said.get("architectures") or []), None)
    except (OSError, ValueError, AttributeError):
        return ""
    return f"{path} holds the part {kind} of a model: name the folder above it, which has model_index.json" if kind else ""


def file(path: Path) -> str:
    """What a file is whose first bytes are of no weights; '' where nothing is known of it."""
    if path.name == "model_index.json":
        return f"{path} is the index of a model: name its folder, {path.parent}"
    try:
        with path.open("rb") as handle:
            head = handle.read(64).lstrip()
    except OSError:
        return ""
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of git-LFS, and not the file itself: run `git lfs pull` where it was cloned"
    if head.startswith(b"<"):
        return f"{path} is a page of HTML, and no weights: the download was refused, or led to a page about the file; get it again"
    return ""


def pipeline(kind: str, known: Iterable[str]) -> str:
    """What is said of a pipeline that is not ours: another spelling, where it is only that, or what there is."""
    names = list(known)
    near = difflib.get_close_matches(kind, names, n=1, cutoff=STRICT)
    return f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(names)}."


def absent(name: str) -> str:
    """What is said of a name that stands for nothing here, as that of a repository; '' where it may be a slip."""
    repository = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not os.path.isdir(Path(name).parent)
    return f"'{name}' is not here, and nothing is downloaded: name a folder or a file that is here" if repository else ""
