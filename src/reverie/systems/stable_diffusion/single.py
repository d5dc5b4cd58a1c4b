"""Stable Diffusion 1, 2 and XL from the publishers' single files.

No tensor tells what the net of Stable Diffusion 2 predicts: where the header says nothing either, one of its biases does, which is
several times larger in those that predict v.
"""

from reverie.codec import Latent
from reverie.denoiser import Denoiser, timestep
from reverie.encode.clip import Clip
from reverie.nets.autoencoder import Autoencoder
from reverie.nets.unet import UNet
from reverie.process import rules, schedules
from reverie.systems.building import building
from reverie.systems.folders import latent
from reverie.systems.single import Single
from reverie.systems.stable_diffusion import original, vae
from reverie.systems.stable_diffusion.folder import prompt_xl, sampling, shown
from reverie.systems.stable_diffusion.prompt import PromptXL
from reverie.systems.system import System

NET, CODEC = "model.diffusion_model.", "first_stage_model."
TELLING, LARGE = f"{NET}output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
WORDS_1, WORDS_2, WORDS_XL = "cond_stage_model.", "cond_stage_model.model.", "conditioner.embedders."
LAYERS_2 = 23
"""Layers of OpenCLIP-H that Stable Diffusion 2 reads: all but the last."""


def recognises(file: Single) -> bool:
    """Whether a file holds one of these systems."""
    return f"{NET}input_blocks.0.0.weight" in file.tensors


def open_file(file: Single) -> System:
    """A system from the file; UserError where a part is missing or damaged."""
    with building(str(file.path), len(file.tensors), "Stable Diffusion"):
        shape = original.unet_of({k[len(NET) :]: v for k, v in file.shapes.items() if k.startswith(NET)})
    net = file.net(NET, shape, UNet, original.unet(shape))
    large = shape.vector_dim is not None
    size = 1024 if large else 768 if _predicts_v(file) else 512
    path = schedules.scaled_linear_table()
    return System(
        denoiser=Denoiser(
            net,
            schedules.zero_snr(path) if "ztsnr" in file.tensors else path,
            rules.v() if _predicts_v(file) else rules.eps(),
            timestep(path.steps, -1),
        ),
        codec=autoencoder(file, 0.13025 if large else 0.18215),
        encoders={"prompt": _prompt_xl(file, size) if large else _prompt(file), **shown(net.config.in_channels)},
        defaults=sampling(large, size),
    )


def autoencoder(file: Single, factor: float, shift: float = 0.0) -> Latent:
    """The one in the file, with this scale and shift of its latents, or where there is none, that of the folder beside it."""
    if not file.has(CODEC):
        return file.lacking("autoencoder").codec("vae", vae.KIND)
    with building(str(file.path), len(file.tensors), "autoencoder"):
        shape = original.vae_of({k[len(CODEC) :]: v for k, v in file.shapes.items() if k.startswith(CODEC)})
    return latent(file.net(CODEC, shape, Autoencoder, original.vae(shape)), factor, shift)


def _prompt(file: Single) -> Clip:
    if not file.has(WORDS_1):
        return file.lacking("encoder of words").clip()
    if any(k.startswith(f"{WORDS_2}transformer.resblocks.") for k in file.tensors):
        return file.clip(WORDS_2, layers=LAYERS_2)
    return file.clip(WORDS_1)


def _prompt_xl(file: Single, size: int) -> PromptXL:
    if not file.has(WORDS_XL):
        near = file.lacking("encoder of words")
        return prompt_xl(near, near.json("unet/config.json"), size)
    both = any(k.startswith(f"{WORDS_XL}1.") for k in file.tensors)  # the refiner has one encoder only
    clips = [file.clip(f"{WORDS_XL}0.", skip=1, raw=True)] if both else []
    clips.append(file.clip(f"{WORDS_XL}{int(both)}.model.", projected=True, skip=1, raw=True))
    return PromptXL(clips, size=(size, size), refiner=not both, zeros=both)


def _predicts_v(file: Single) -> bool:
    said = str(file.about.get("modelspec.prediction_type", ""))
    if said or "v_pred" in file.tensors:
        return said == "v" or "v_pred" in file.tensors
    two = any(k.startswith(f"{WORDS_2}transformer.resblocks.") for k in file.tensors)
    return two and TELLING in file.tensors and float(file.tensors[TELLING].float().std()) > LARGE
