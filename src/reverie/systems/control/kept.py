"""Controls and image prompts of ours as files: one `.safetensors`, whose card says what they are and of which model.

card = {"format", "control": the shape of the net, "base": {"name", "hash"} of the model, "about": what is said of it}.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reverie.card import card_of, rebuild
from reverie.errors import UserError
from reverie.files import load_tensors, metadata, save_tensors
from reverie.nets.control import ControlNet, ControlNetConfig
from reverie.nets.control_transformer import ControlTransformer, ControlTransformerConfig
from reverie.nets.image_prompt import ImagePromptConfig, ImagePromptNet
from reverie.nets.lora import merged_state
from reverie.nets.t2i import T2IAdapter, T2IConfig
from reverie.systems.system import System
from reverie.systems.weights import CARD, FORMAT, fill, only

LOG = logging.getLogger("reverie")
NETS: dict[type, type[nn.Module]] = {
    ControlNetConfig: ControlNet,
    ControlTransformerConfig: ControlTransformer,
    T2IConfig: T2IAdapter,
    ImagePromptConfig: ImagePromptNet,
}
"""What stands beside a model may be: one line each."""


def save_control(
    net: nn.Module, path: str | Path, base: System, about: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Writes a control of this system, low-rank changes merged. about: name, licence, data, recipe, measured quality.

    dtype (torch.float16) halves the file.
    """
    card = {
        "format": FORMAT,
        "control": card_of(net.config),
        "base": {"name": base.name, "hash": base.hash},
        "about": dict(about or {}),
    }
    tensors = {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in merged_state(net).items()}
    save_tensors(Path(path), tensors, {CARD: card})


def kinds(path: Path) -> tuple[tuple[str, ...], str]:
    """The kinds of hints of a control that hears several, and that of one that hears one; empty where it is not said."""
    about = _about(path)
    several = tuple(rebuild(about.get("hints", ()), (), f"{path}: about.hints", Sequence[str]))
    return several, rebuild(about.get("hint", ""), (), f"{path}: about.hint", str)


def eye(path: Path) -> dict[str, Any]:
    """The card of the encoder of pictures of an image prompt."""
    return rebuild(_about(path).get("eye", {}), (), f"{path}: about.eye", dict[str, Any])


def _about(path: Path) -> dict[str, Any]:
    about = json.loads(metadata(path)[CARD])["about"]  # which `load_control` has read
    return about if isinstance(about, dict) else {}


def load_control(path: Path, base: System) -> Any:
    """The net of a control written by `save_control`, checked whole; that it was trained on other weights is a warning."""
    tensors, about = load_tensors(path)
    card = about.get(CARD)
    if not isinstance(card, dict) or "control" not in card:
        raise UserError(f"{path} is a model of ours and no control: name a file that training a control wrote")
    only(card, ("format", "control", "base", "about"), str(path))
    if rebuild(card["format"], (), f"{path}: format", int) > FORMAT:
        raise UserError(f"{path} is of a later version than this one reads: update reverie")
    config = rebuild(card["control"], NETS, f"{path}: control")
    with torch.device("meta"):
        try:
            net = NETS[type(config)](config)
        except Exception as error:  # whatever a net says of its configuration, it came from the file
            raise UserError(f"{path}: no control can be made from its card: {' '.join(str(error).split())}") from error
    fill(net, tensors, f"{path}: the weights of the control")
    only(card["base"], ("name", "hash"), f"{path}: base")
    name, stamp = (rebuild(card["base"][k], (), f"{path}: base.{k}", str) for k in ("name", "hash"))
    body = getattr(config, "body", None)
    own = getattr(getattr(base.denoiser, "net", None), "config", None)
    if body is not None and body != own:
        raise UserError(f"{path} is a control of {name}, and {base.name} has a net of another shape: name that model")
    if stamp and base.hash and stamp != base.hash:
        LOG.warning("%s was trained on %s of other weights than these of %s", path, name, base.name)
    return net
