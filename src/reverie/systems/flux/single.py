"""Flux.1 dev and schnell from the publisher's single files, which hold the net alone: the rest comes from a folder."""

from reverie.denoiser import Denoiser, timestep
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.process import rules, schedules
from reverie.systems.building import building, numbered
from reverie.systems.flux.folder import sampling
from reverie.systems.flux.prompt import PromptFlux
from reverie.systems.flux.transformer import PREFIX, SIDE, original
from reverie.systems.single import Single
from reverie.systems.stable_diffusion import vae
from reverie.systems.system import System

MARK = "double_blocks.0.img_attn.norm.key_norm.scale"


def recognises(file: Single) -> bool:
    """Whether a file holds one of these systems."""
    return MARK in file.tensors or PREFIX + MARK in file.tensors


def open_file(file: Single) -> System:
    """A system from the file and the folder beside it; UserError where a part is missing or damaged."""
    prefix = "" if MARK in file.tensors else PREFIX
    with building(str(file.path), len(file.tensors), "Flux"):
        shape = _shape({k[len(prefix) :]: v for k, v in file.shapes.items() if k.startswith(prefix)})
    near = file.lacking("autoencoder and no encoder of words")
    return System(
        denoiser=Denoiser(file.net(prefix, shape, MMDiT, original), schedules.flow(), rules.velocity(), timestep(1000.0)),
        codec=near.codec("vae", vae.KIND),
        encoders={"prompt": PromptFlux(near.clip(), near.t5("_2", length=512 if shape.guided else 256))},
        defaults=sampling(shape.guided, "flux_shift()" if shape.guided else "shifted(shift=1.0)"),
    )


def _shape(shapes: dict[str, tuple[int, ...]]) -> MMDiTConfig:
    (width, inside), head = shapes["img_in.weight"], shapes[MARK][0]
    turned = head * 7 // 16
    return MMDiTConfig(
        in_channels=inside // SIDE**2,
        patch=SIDE,
        width=width,
        heads=width // head,
        depth=numbered(shapes, r"double_blocks\.(\d+)\."),
        single=numbered(shapes, r"single_blocks\.(\d+)\."),
        context_dim=shapes["txt_in.weight"][1],
        vector_dim=shapes["vector_in.in_layer.weight"][1],
        axes=(head - 2 * turned, turned, turned),
        packed=True,
        guided="guidance_in.in_layer.weight" in shapes,
    )
