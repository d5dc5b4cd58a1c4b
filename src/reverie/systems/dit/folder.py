"""DiT from folders in diffusers' layout and back."""

from pathlib import Path
from typing import Any

from reverie.codec import Latent
from reverie.encode import Classes
from reverie.files import save_tensors
from reverie.nets.dit import DiT
from reverie.systems import schedulers
from reverie.systems.building import building
from reverie.systems.dit import transformer
from reverie.systems.folders import Folder, Saved, write_json
from reverie.systems.names import filled, taken
from reverie.systems.stable_diffusion import vae
from reverie.systems.system import Sampling, System

PIPELINES = ("DiTPipeline",)
PART = "transformer"


def open_folder(folder: Folder) -> System:
    """A system from the folder, by diffusers' form of the net; UserError where a part is missing, damaged or of another kind."""
    config, tensors = folder.config(PART, transformer.config), folder.tensors(PART)
    where, count = str(folder.path / PART), int(folder.json(f"{PART}/config.json").get("num_embeds_ada_norm") or 1000)
    with building(where, len(tensors)):
        if count > max(max(value.shape, default=0) for value in tensors.values()):
            raise ValueError(f"{count} classes, and no table of so many")
        names = labels(folder.index.get("id2label"), count)
        net, classes = DiT(config), Classes(names, config.width)
    whole = transformer.completed(tensors, config)
    filled(transformer.parts(net, classes), whole, transformer.layout(config.depth), where, folder.opening.partial)
    codec = folder.codec("vae", vae.KIND)
    side = codec.factor * config.size
    return System(
        denoiser=schedulers.denoiser(net, folder.scheduler, learned_variance=config.learn_sigma),
        codec=codec,
        encoders={"class": classes},
        defaults=sampling(False, side),
    )


def sampling(flows: bool, side: int) -> Sampling:
    """How DiT and, trained as a flow, SiT are sampled."""
    if flows:
        return Sampling(solver="euler", steps=50, guidance=4.0, grid="uniform()", size=(side, side))
    return Sampling(steps=25, guidance=4.0, size=(side, side))


def labels(said: Any, count: int) -> list[str]:
    """A name for each class: what the folder calls it, or its number."""
    known = said if isinstance(said, dict) else {}
    return [str(known.get(str(k), k)) for k in range(count)]


def holds(system: System) -> bool:
    """Whether a system can be written as a folder by this module."""
    classes = isinstance(system.encoders.get("class"), Classes)
    return classes and type(system.denoiser.net) is DiT and isinstance(system.codec, Latent)


def write_folder(system: System, folder: Path) -> None:
    """The system as diffusers reads it."""
    net, classes = system.denoiser.net, system.encoders["class"]
    assert isinstance(net, DiT) and isinstance(classes, Classes) and isinstance(system.codec, Latent)
    said = transformer.said(net.config, len(classes.classes))
    saved = Saved(folder, "DiTPipeline", system, {PART: ["diffusers", "DiTTransformer2DModel"]})
    tensors = transformer.stored(taken(transformer.parts(net, classes), transformer.layout(net.config.depth)))
    each = {name: value.clone() for name, value in tensors.items()}  # copies in a file are copies
    save_tensors(folder / PART / "diffusion_pytorch_model.safetensors", each, {})
    write_json(folder / PART / "config.json", {"_class_name": "DiTTransformer2DModel", **said})
    saved.codec("vae", system.codec, vae.KIND)
    saved.close(id2label={str(k): name for k, name in enumerate(classes.classes)})
