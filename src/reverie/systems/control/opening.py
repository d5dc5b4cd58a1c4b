"""Which control a file or a folder holds, and whether it belongs to the system that it is opened for."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reverie.adapt import Control, ImagePrompt
from reverie.errors import UserError
from reverie.files import metadata
from reverie.nets.control import ControlNet
from reverie.nets.control_transformer import ControlTransformer, ControlTransformerConfig
from reverie.nets.image_prompt import ImagePromptNet
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.nets.precision import held
from reverie.nets.t2i import T2IAdapter
from reverie.nets.unet import UNet, UNetConfig
from reverie.nets.word_encoder import WordEncoder
from reverie.systems import pickles
from reverie.systems.building import building
from reverie.systems.control import flux, image_prompt, kept, sd3, t2i, unet
from reverie.systems.folders import Folder, Kind, read_json
from reverie.systems.names import Layout, filled, taken
from reverie.systems.opening import USUAL, Opening
from reverie.systems.sd3 import transformer as sd3_transformer
from reverie.systems.single import Single
from reverie.systems.system import System
from reverie.systems.weights import CARD

KINDS = {"ControlNetModel": UNet, "T2IAdapter": UNet, "SD3ControlNetModel": MMDiT, "FluxControlNetModel": MMDiT}
"""Classes of diffusers' folders, and the nets that they belong to."""


def open_control(path: str | Path, base: System, opening: Opening = USUAL, **when: Any) -> Control:
    """The control in a file or a folder, ready for use with the system. when: weight, start, stop and mask, as of `Control`.

    One that is shipped, by name; a file of ours; a folder of diffusers' with config.json; or a single file of diffusers' or the
    authors' names, whose shape is read from its tensors and the system's net. UserError where it is none, damaged, or belongs to
    another system.
    """
    place = kept.SHIPPED.get(str(path)) or Path(path).expanduser()
    opening.check()
    kinds: tuple[str, ...] = ()
    hint = ""
    if os.path.isdir(place) and os.path.isfile(place / "model.safetensors"):  # the folder of a run
        place = place / "model.safetensors"
    if os.path.isdir(place):
        net = _of_folder(place.resolve(), base, opening)
    elif not pickles.is_pickle(place) and CARD in metadata(place):
        net = kept.load_control(place, base)
        if type(net) in OTHERWISE:
            raise UserError(f"{path} {OTHERWISE[type(net)]}")
        kinds, hint = kept.kinds(place)
        if not (kinds or hint) and (small := kept.sharing(place)):
            raise UserError(f"{path} is what small controls share, and follows nothing by itself: name one, as {small[0]}")
    else:
        net = _of_file(Single(place, opening), base)
    check_fits(net, base, str(path))
    _placed(net, base)
    unshifted = isinstance(net, ControlTransformer) and net.latent and net.config.unpooled
    codec: Any = base.codec if net.latent else None
    name = kept.called(place)
    return Control(**{"name": name, **when}, net=net, codec=codec, unshifted=unshifted, kinds=kinds, hint=hint)


def _of_folder(folder: Path, base: System, opening: Opening) -> Any:
    said = read_json(folder / "config.json")
    name = str(said.get("_class_name"))
    if name not in KINDS:
        raise UserError(f"{folder} holds a {name}, which is no control; known: {', '.join(KINDS)}")
    net = _needed(base, KINDS[name], str(folder))
    whole = Folder(folder.parent, opening)
    kind = _kind(name, net.config, base)
    config, tensors = whole.config(folder.name, kind.config), whole.tensors(folder.name)
    return _built(kind.build, config, tensors, kind.layout(config), str(folder), base, opening)


def _kind(name: str, shape: Any, base: System) -> Kind:
    if name == "SD3ControlNetModel":
        return sd3.kind(shape)
    if name == "FluxControlNetModel":
        return flux.kind(shape)
    return t2i.kind(shape, base.codec.factor) if name == "T2IAdapter" else unet.KIND


def _of_file(file: Single, base: System) -> Any:
    """By its keys."""
    where, prefix = str(file.path), unet.PREFIX if file.has(unet.PREFIX) else ""
    tensors = file.part(prefix)
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    found = _recognised(set(shapes), where)
    net = _needed(base, found[0], where)
    if found[1] is unet:
        _check_width(shapes, net.config, where, base)
    with building(where, len(tensors), "control"):
        config, layout = found[2](shapes, net.config, base.codec.factor, where)
    return _built(found[3], config, tensors, layout(config), where, base, file.opening)


OTHERWISE = {
    ImagePromptNet: "reads a picture as a prompt, and is no control: ask for it as image_prompt(net=...)",
    WordEncoder: "says a word for a picture: give it to `reverie adapt encoder` with --begin",
}
"""What stands beside a model too, and is asked for in another way."""
CONTROL = "is a control, which follows a hint of a picture: ask for it as control(net=...)"
OTHERS = {
    "lora_controlnet": "a control-LoRA",
    "lllite_unet": "a ControlNet-LLLite",
    "control_add_embedding.": "a union of several controls",
}
"""How the names of those begin that there are not."""
Reading = Callable[[Any, Any, int, str], tuple[Any, Callable[[Any], Layout]]]


def _recognised(keys: set[str], where: str) -> tuple[type[nn.Module], Any, Reading, type[nn.Module]]:
    """(net that it belongs to, module that knows it, how its shape and its names are read, its net); UserError where it is none."""
    for mark, what in OTHERS.items():
        if any(k.startswith(mark) for k in keys):
            raise UserError(f"{where} is {what}, of which there is no net here: get a whole ControlNet of one kind")
    if unet.MARK in keys or unet.OURS in keys:
        names = unet.layout if unet.MARK in keys else unet.authors
        return UNet, unet, lambda shapes, c, factor, _: (unet.of_file(shapes, c), names), ControlNet
    if sd3.MARK in keys:
        return MMDiT, sd3, lambda shapes, c, factor, _: (sd3.of_file(shapes, c), sd3.layout), ControlTransformer
    if {flux.MARK, flux.PIXELS} & keys:
        return MMDiT, flux, lambda shapes, c, factor, _: (flux.of_file(shapes, c, where), flux.layout), ControlTransformer
    if t2i.PREFIX + t2i.LEVEL in keys or {*t2i.AUTHORS} & keys:
        own = t2i.layout if t2i.PREFIX + t2i.LEVEL in keys else t2i.authors
        return UNet, t2i, lambda shapes, c, factor, _: (t2i.of_file(shapes, c, factor, where), own), T2IAdapter
    if image_prompt.MARK in keys:
        raise UserError(f"{where} is an IP-Adapter, which reads a picture as a prompt, and is no control by a picture")
    some = ", ".join(sorted(keys)[:3])
    raise UserError(f"{where} is no control by its {len(keys)} tensors ({some}, ...): name a ControlNet or a T2I-adapter")


def _needed(base: System, kind: type[nn.Module], where: str) -> Any:
    """The net of the system; UserError where it is not of this kind."""
    net = getattr(base.denoiser, "net", None)
    if not isinstance(net, kind):
        of = "a U-Net, as Stable Diffusion 1, 2 or XL" if kind is UNet else "Stable Diffusion 3 or Flux"
        raise UserError(f"{where} is a control of {of}, and {base.name} has a {type(net).__name__}: get one of that")
    return net


def _check_width(shapes: Any, own: UNetConfig, where: str, base: System) -> None:
    width = next((v[1] for k, v in shapes.items() if k.endswith("attn2.to_k.weight")), own.context_dim)
    _check_whose(UNetConfig(channels=own.channels, context_dim=width), own, where, base)


def _check_whose(body: UNetConfig, own: UNetConfig, where: str, base: System) -> None:
    if (theirs := unet.whose(body)) != (ours := unet.whose(own)):
        raise UserError(f"{where} is a control of {theirs}, and {base.name} is {ours}: get one of that")


def _built(build: Any, config: Any, tensors: Any, layout: Layout, where: str, base: System, opening: Opening) -> Any:
    if isinstance(config, ControlTransformerConfig) and config.latent and sd3.SHARED + "pos_embed" not in tensors:
        shared = taken(base.denoiser.net, sd3_transformer.layout) if sd3.MARK in tensors else {}
        tensors = {**tensors, **{k: v.clone() for k, v in shared.items() if k.startswith(sd3.SHARED)}}
    with building(where, len(tensors), "control"):
        net = build(config)
    return filled(net, tensors, layout, where, opening.partial)


def check_fits(net: Any, base: System, where: str) -> None:
    """UserError unless what the control says can be added to the system's net, and it hears what that is told."""
    inner: Any = getattr(base.denoiser, "net", None)
    own: Any = getattr(inner, "config", None)
    if isinstance(net, T2IAdapter):
        skips, c = [*inner.skips, own.widths[-1]], net.config
        given, there = [*c.channels, *c.channels[-1:] * (c.kind == "light")], [skips[k] for k in c.places]
        if given != there:
            raise UserError(f"{where} gives features of {given} channels, and {base.name} takes {there}: it is for another model")
        return
    body = net.config.body
    if isinstance(body, UNetConfig) and isinstance(own, UNetConfig):
        _check_whose(body, own, where, base)
    pairs = [(name.replace("_", " "), getattr(body, name, None), getattr(own, name, None)) for name in FITTING.get(type(body), ())]
    wrong = [f"{name} {_short(a)}, not {_short(b)}" for name, a, b in pairs if a != b]
    if isinstance(net, ControlNet) and isinstance(own, UNetConfig):
        wrong += [f"channels {body.in_channels}, not {own.in_channels}"] if body.in_channels > own.in_channels else []
        factor = base.codec.factor
        wrong += [f"{net.config.factor} pixels a place, not {factor}"] if net.config.factor != factor else []
    if getattr(body, "guided", False) and not getattr(own, "guided", False):
        wrong.append("a scale of guidance that it is told")
    if wrong:
        raise UserError(f"{where} is no control of {base.name}, but of a net with: {'; '.join(wrong)}")


FITTING: dict[type, tuple[str, ...]] = {
    UNetConfig: ("widths", "blocks", "context_dim", "vector_dim", "patch"),
    MMDiTConfig: ("width", "depth", "single", "in_channels", "patch", "context_dim", "vector_dim", "axes", "packed"),
}
"""What of the shapes must be the same; of other families there are only controls of ours, and all of it is."""


def _short(value: Any) -> str:
    return "none" if value is None else str(value)


def _placed(net: nn.Module, base: System) -> None:
    """The net where and as the system's computes; one that is not placed yet, in the type that its weights have."""
    model = base.denoiser
    if model.takes is None and model.autocast is None:
        net.to(next(model.net.parameters()).dtype)
    else:
        held(net, model.autocast)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.to(model.place)


def open_image_prompt(
    path: str | Path, base: System, encoder: str | Path = "", opening: Opening = USUAL, **when: Any
) -> ImagePrompt:
    """An image prompt adapter with the encoder of its pictures, ready for use with the system.

    One of ours, a run or a file; or an IP-Adapter in a file. encoder: a folder of transformers' layout with CLIP's image encoder;
    where none is named, `image_encoder` beside the file. when: weight, start and stop, as of `ImagePrompt`. UserError as of
    `open_control`.
    """
    place = Path(path).expanduser()
    opening.check()
    if os.path.isdir(place) and os.path.isfile(place / "model.safetensors"):  # the folder of a run
        place = place / "model.safetensors"
    folder = Path(encoder) if encoder else place.parent / "image_encoder"
    if not pickles.is_pickle(place) and CARD in metadata(place):
        net, card = kept.load_control(place, base), kept.eye(place)
        if not isinstance(net, ImagePromptNet):
            raise UserError(f"{path} {OTHERWISE.get(type(net), CONTROL)}")
        image_prompt.check_sites(net.config, base, str(path))
    else:
        net, card = _ip_adapter(Single(place, opening), base, str(path)), {"name": "clip"}
    eye = image_prompt.seeing(card, folder, str(path), opening.partial)
    image_prompt.check_eye(eye, net.config, str(path), folder)
    _placed(net.k, base)
    _placed(net.v, base)
    for part in filter(None, (net.tokens, net.word, eye)):  # once a picture, or small: in float32
        part.float().to(base.denoiser.place)
    eye.place = base.denoiser.place
    name = kept.called(place)
    return ImagePrompt(**{"name": name, **when}, net=net, eye=eye)


def _ip_adapter(file: Single, base: System, where: str) -> ImagePromptNet:
    """By the names of its authors."""
    if image_prompt.MARK not in file.tensors:
        raise UserError(f"{where} is no IP-Adapter: it has no {image_prompt.MARK}")
    net = _needed(base, UNet, where)
    with building(where, len(file.tensors), "IP-Adapter"):
        config = image_prompt.config(file.shapes, net.config, where)
        made = ImagePromptNet(config)
    tensors = {k: v for k, v in file.tensors.items() if k.startswith(("image_proj.", "ip_adapter."))}
    return filled(made, tensors, image_prompt.named(config, net.config), where, file.opening.partial)
