"""Controls and image prompts of ours as files: one `.safetensors`, whose card says what they are and of which model.

card = {"format", "control": the shape of the net, "base": {"name", "hash"} of the model, "about": what is said of it}. Where it is
low-rank changes of another control (CtrLoRA, arXiv:2410.09400), "shares": {"name", "hash"} of that stands in place of its shape.
"""

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reverie.card import card_of, parse, rebuild
from reverie.errors import UserError
from reverie.files import load_tensors, metadata, save_tensors
from reverie.nets.control import ControlNet, ControlNetConfig
from reverie.nets.control_transformer import ControlTransformer, ControlTransformerConfig
from reverie.nets.image_prompt import ImagePromptConfig, ImagePromptNet
from reverie.nets.lora import lora_state, merge, merged_state, plain_state, take
from reverie.nets.t2i import T2IAdapter, T2IConfig
from reverie.nets.word_encoder import WordEncoder, WordEncoderConfig
from reverie.systems.system import System
from reverie.systems.weights import CARD, FORMAT, fill, fingerprint, only

LOG = logging.getLogger("reverie")
NETS: dict[type, type[nn.Module]] = {
    ControlNetConfig: ControlNet,
    ControlTransformerConfig: ControlTransformer,
    T2IConfig: T2IAdapter,
    ImagePromptConfig: ImagePromptNet,
    WordEncoderConfig: WordEncoder,
}
"""What stands beside a model may be: one line each."""


SHIPPED = {"avatars-edges": Path(__file__).parent / "avatars-edges.safetensors"}
"""Controls that come with the package."""


def save_control(
    net: nn.Module,
    path: str | Path,
    base: System,
    about: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    plain: bool = False,
) -> None:
    """Writes a control of this system. about: name, licence, data, recipe, measured quality.

    dtype (torch.float16) halves the file. Low-rank changes are merged or, where it is `plain`, left out.
    """
    _save(plain_state(net) if plain else merged_state(net), path, base, {"control": card_of(net.config)}, about, dtype)


def save_changes(
    net: nn.Module, path: str | Path, base: System, shares: Mapping[str, str], about: Any = None, dtype: torch.dtype | None = None
) -> None:
    """Writes the low-rank changes of a control alone; shares: name and hash of the control whose weights they change."""
    _save(lora_state(net), path, base, {"shares": dict(shares)}, about, dtype)


def _save(tensors: Any, path: str | Path, base: System, what: Mapping[str, Any], about: Any, dtype: torch.dtype | None) -> None:
    card = {"format": FORMAT, **what, "base": {"name": base.name, "hash": base.hash}, "about": dict(about or {})}
    save_tensors(Path(path), {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in tensors.items()}, {CARD: card})


def called(path: Path) -> str:
    """What a control in a file is called: the file, or the folder of its run."""
    return path.parent.name if path.name == "model.safetensors" else path.stem


def shared(path: Path) -> dict[str, str]:
    """What changes of a control say of it: its name and its hash."""
    return {"name": called(path), "hash": fingerprint(load_tensors(path)[0])}


def kinds(path: Path) -> tuple[tuple[str, ...], str]:
    """The kinds of hints of a control that hears several, and that of one that hears one; empty where it is not said."""
    about = _about(path)
    several = tuple(rebuild(about.get("hints", ()), (), f"{path}: about.hints", Sequence[str]))
    return several, rebuild(about.get("hint", ""), (), f"{path}: about.hint", str)


def sharing(path: Path) -> list[str]:
    """The files of the small controls that were trained with the one that they share, in its run."""
    names = rebuild(_about(path).get("shared", ()), (), f"{path}: about.shared", Sequence[str])
    return [str(path.with_name(small_name(kind))) for kind in names]


def small_name(kind: str) -> str:
    """What the file of a small control of a kind of hint is called."""
    return f"{parse(kind)['name']}.safetensors"


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
    if isinstance(card, dict) and "shares" in card:
        return _changed(path, base, tensors, card)
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
        LOG.warning("%s was trained on %s of other weights than these of %s", called(path), name, base.name)
    return net


def _changed(path: Path, base: System, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> Any:
    """The control that is shared, with these changes in it."""
    only(card, ("format", "shares", "base", "about"), str(path))
    only(card["shares"], ("name", "hash"), f"{path}: shares")
    name, stamp = (rebuild(card["shares"][k], (), f"{path}: shares.{k}", str) for k in ("name", "hash"))
    if bad := [k for k, v in tensors.items() if not bool(v.isfinite().all())]:
        raise UserError(f"{path}: {bad[0]} holds NaN or infinity: the training diverged or the file is damaged")
    net = copy.deepcopy(load_control(_sharing(path, name, stamp), base))  # of weights of its own
    try:
        take(net, {k: v.float() for k, v in tensors.items()})
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path} does not fit {name}, which it changes: {' '.join(str(error).split())}") from None
    merge(net)
    net.requires_grad_(False)
    return net


def _sharing(path: Path, name: str, stamp: str) -> Path:
    """Where the control lies that a file changes: shipped, in the same folder, or in a run beside that of the file."""
    plain = Path(name).name == name  # a name, and no way to other folders
    near = [path.parent / "model.safetensors"] * plain + [path.parent / f"{name}.safetensors"] * plain
    near += [folder / name / "model.safetensors" for folder in (path.parent, path.parent.parent)] * plain
    there = [place for place in (*filter(None, [SHIPPED.get(name)]), *near) if place.is_file() and place != path]
    for place in there:
        if shared(place)["hash"] == stamp:
            return place
    if there:
        raise UserError(f"{path} changes {name}, and {there[0]} has other weights: get the one that it was trained on")
    raise UserError(f"{path} changes the control {name}, which is not there: put {name}.safetensors beside it")
