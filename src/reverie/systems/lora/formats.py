"""What others' files of changes look like: whose paths they name the layers by, behind which prefixes, and how tensors end.

kohya's scripts name the nets of Stable Diffusion 1 and 2 as diffusers does and the later ones as their publishers; ComfyUI all as
their publishers; OneTrainer, LyCORIS in SimpleTuner, PEFT and diffusers all as diffusers. A net that nobody else has keeps our
paths.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from reverie.encode.words import Words
from reverie.errors import UserError, nearest
from reverie.nets.mmdit import MMDiTConfig
from reverie.nets.pixart import PixArtConfig
from reverie.nets.sana import SanaConfig
from reverie.nets.stack import Stack
from reverie.nets.unet import UNetConfig
from reverie.systems.lora.places import DIFFUSERS, OURS, OWN, PUBLISHER, clothed, encoders, layouts, weights
from reverie.systems.names import Layout, stacks
from reverie.systems.sana.transformer import pointwise
from reverie.systems.system import System

LYCORIS = {
    **{"up": ".lora_up.weight", "down": ".lora_down.weight", "core": ".lora_mid.weight", "length": ".dora_scale"},
    **{part: f".{part}" for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{part: f".{part}" for part in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
    **{"diff": ".diff", "diff_b": ".diff_b"},
}
"""Ends of the names of all that there is, as kohya's scripts and LyCORIS write them."""
PEFT_LORA = {"up": ".lora_B.weight", "down": ".lora_A.weight", "length": ".lora_magnitude_vector"}
HADA = {part: LYCORIS[part] for part in LYCORIS if part.startswith("hada")}
TRAINERS = {
    **{"clip alone": "lora_te_", "t5 alone": "lora_te_", "first": "lora_te1_", "second": "lora_te2_"},
    **{"t5": "lora_te3_", "t5 as second": "lora_te3_"},
}
PLACED = {
    **{"clip alone": "text_encoder.", "t5 alone": "text_encoder.", "first": "text_encoder.", "second": "text_encoder_2."},
    **{"t5": "text_encoder_3.", "t5 as second": "text_encoder_2."},
}
COMFYUI = {
    **dict.fromkeys(("clip alone", "first"), "text_encoders.clip_l.transformer."),
    **{"second": "text_encoders.clip_g.transformer."},
    **dict.fromkeys(("t5", "t5 as second", "t5 alone"), "text_encoders.t5xxl.transformer."),
}
"""Prefixes of the encoders of words, by which of `places.ENCODERS` they are."""
CLIPS = {name: place for name, place in PLACED.items() if not name.startswith("t5")}
"""diffusers' pipelines hear no changes of T5."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a format is written.

    net, encoders: prefixes; of encoders by which of `places.ENCODERS` it is. paths: whose, by family; usual: of the others.
    flat: _ for every dot. ends: of the names of tensors; a kind of change that has none is not written. scales: where
    alpha / r is said: "tensors", or as in "diffusers" or "peft". file: its usual name in a folder.
    """

    name: str
    whose: str
    net: str
    encoders: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    usual: str = DIFFUSERS
    flat: bool = False
    ends: Mapping[str, str] = field(default_factory=lambda: LYCORIS)
    scales: str = "tensors"
    file: str = "lora.safetensors"


_PUBLISHED = dict.fromkeys(("sdxl", "refiner", "sd3", "flux"), PUBLISHER) | dict.fromkeys(("pixart", "sana"), "")
FORMATS = {
    f.name: f
    for f in (
        Format(name="kohya", whose="kohya's scripts", net="lora_unet_", encoders=TRAINERS, paths=_PUBLISHED, flat=True),
        Format(
            name="diffusers",
            whose="diffusers",
            net="",  # of the part, which differs
            encoders=CLIPS,
            ends=PEFT_LORA,
            scales="diffusers",
            file="pytorch_lora_weights.safetensors",
        ),
        Format(
            name="peft",
            whose="PEFT",
            net="base_model.model.",
            ends=PEFT_LORA | HADA,
            scales="peft",
            file="adapter_model.safetensors",
        ),
        Format(
            name="comfyui",
            whose="ComfyUI",
            net="diffusion_model.",
            encoders=COMFYUI | {"own": OWN},
            paths=dict.fromkeys(("pixart", "sana"), ""),
            usual=PUBLISHER,
        ),
        Format(
            name="onetrainer",
            whose="OneTrainer",
            net="lora_transformer_",
            encoders=TRAINERS | {"t5 as second": "lora_te2_"},
            flat=True,
        ),
        Format(name="lycoris", whose="LyCORIS", net="lycoris_", flat=True),
        Format(
            name="reverie",
            whose="ours",
            net="diffusion_model.",
            encoders=PLACED | {"own": OWN},
            usual=OURS,
            ends=LYCORIS | {"up": ".lora_B.weight", "down": ".lora_A.weight"},
        ),
    )
}


def format_of(name: str) -> Format:
    """The format of this name."""
    if name not in FORMATS:
        raise UserError(f"no format of LoRAs is called '{name}'.{nearest(name, FORMATS)}")
    return FORMATS[name]


@dataclass(frozen=True)
class Target:
    """What a weight is called in a format. kernel: its places, where they hold it as a convolution; part: of the system."""

    name: str
    stack: Stack
    kernel: tuple[int, ...]
    part: str


def family(system: System) -> str:
    """Which published system it is of, by its shape and what it reads words with; "" for one of ours alone."""
    c = getattr(getattr(system.denoiser, "net", None), "config", None)
    if DIFFUSERS not in layouts(c):
        return ""
    if isinstance(c, MMDiTConfig):
        return "flux" if c.packed else "sd3"
    if isinstance(c, (PixArtConfig, SanaConfig)):
        return "pixart" if isinstance(c, PixArtConfig) else "sana"
    names = [name for name, _, module in encoders(system.prompt_encoder)]
    if not isinstance(c, UNetConfig) or not names:
        return ""
    if c.vector_dim is not None:
        return "sdxl" if "first" in names else "refiner"
    return "sd1" if c.head_width is None else "sd2"


def targets(system: System, asked: Format) -> Iterator[Target]:
    """Every weight of a system by its name in a format; those of encoders that the format does not know are left out."""
    kind, own = family(system), weights(system)
    c = getattr(system.denoiser.net, "config", None)
    whose = asked.paths.get(kind, asked.usual) if kind else OURS
    if whose not in (known := layouts(c)):
        raise UserError(f"{asked.whose} has no names for the layers of {system.name}: convert to {_others(asked, kind)}")
    net = {k.removeprefix("net."): v for k, v in own.items() if k.startswith("net.")}
    head, part = _net(asked, c)
    yield from _called(net, known[whose], "net.", head, part, asked, _conv(kind, whose))
    if isinstance(system.prompt_encoder, Words) and (prefix := asked.encoders.get("own")):
        inside = dict(system.prompt_encoder.named_parameters())
        yield from _called(inside, lambda key: key, "encoder.", prefix, prefix.rstrip("."), asked, _none)
    for name, path, module in encoders(system.prompt_encoder):
        if prefix := asked.encoders.get(name):
            prefix = prefix.replace("clip_l", "clip_h") if kind == "sd2" else prefix
            inside = dict(module.named_parameters())
            yield from _called(inside, clothed, f"encoder.{path}", prefix, prefix.rstrip("._"), asked, _none)


def _net(asked: Format, c: object) -> tuple[str, str]:
    """The prefix of the net, and what diffusers calls the part."""
    part = "unet" if isinstance(c, UNetConfig) else "transformer"
    if asked.name == "diffusers":
        return f"{part}.", part
    return asked.net.replace("transformer", part), part


def _none(name: str) -> bool:
    return False


def _ends(name: str) -> bool:
    return name.endswith(("proj_in.weight", "proj_out.weight"))


def _conv(kind: str, whose: str) -> Callable[[str], bool]:
    """Which matrices of ours they hold as convolutions of one place."""
    return _ends if kind == "sd1" and whose != OURS else pointwise if kind == "sana" and whose == DIFFUSERS else _none


def _called(
    own: Mapping[str, Tensor], layout: Layout, path: str, head: str, part: str, asked: Format, conv: Callable[[str], bool]
) -> Iterator[Target]:
    for name, stack in stacks(own, layout, "").items():
        layer, _, end = name.rpartition(".")
        layer = layer.replace(".", "_") if asked.flat else layer
        shape = tuple(own[stack.keys[0]].shape[2:])
        kernel = (1, 1) if not shape and conv(name) else shape
        tail = "" if end == "weight" else f".{end}"
        yield Target(f"{head}{layer}{tail}", Stack([f"{path}{key}" for key in stack.keys], stack.rounds), kernel, part)


def _others(asked: Format, kind: str) -> str:
    return ", ".join(f.name for f in FORMATS.values() if f is not asked and f.paths.get(kind, "known"))
