"""Whole published pipelines with controls and image prompts against diffusers 0.42.1: the same pictures from the same files."""

import inspect
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import transformers
from diffusers import (
    ControlNetModel,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetPipeline,
    T2IAdapter,
)
from PIL import Image
from published import CROSS, PIPELINES, PLAIN, awake
from safetensors.torch import load_file, save_file
from test_pipelines import NEGATIVE, PROMPT, SIZE, noise

from reverie.adapt import Controlled, ImagePrompted
from reverie.systems.control import flux, image_prompt, open_control, open_image_prompt, sd3, t2i, unet
from reverie.systems.foreign import open_folder
from reverie.systems.names import taken
from reverie.tasks.generate import Preview, run, settle

pytestmark = pytest.mark.filterwarnings("ignore:.FluxPosEmbed:FutureWarning", "ignore:The decode_latents:FutureWarning")
SHORT = {"conditioning_embedding_out_channels": (8, 16)}


def u_net(pipe, **more):
    return awake(ControlNetModel.from_unet(pipe.unet, **SHORT, load_weights_from_unet=False, **more))


def sd1():
    return (pipe := PIPELINES["sd1"]()), StableDiffusionControlNetPipeline, u_net(pipe)


def pooled():
    pipe = PIPELINES["sd1"]()
    net = ControlNetModel.from_config({**u_net(pipe).config, "global_pool_conditions": True})
    return pipe, StableDiffusionControlNetPipeline, awake(net)


def sd2():
    return (pipe := PIPELINES["sd2"]()), StableDiffusionControlNetPipeline, u_net(pipe)


def sdxl():
    return (pipe := PIPELINES["sdxl"]()), StableDiffusionXLControlNetPipeline, u_net(pipe)


def longer(pipe, kind, control, **counts):
    pipe.register_modules(transformer=awake(kind.from_config({**pipe.transformer.config, **counts})))
    return {k: v for k, v in pipe.transformer.config.items() if k in inspect.signature(control).parameters}


def instantx():
    pipe = PIPELINES["sd3"]()
    config = longer(pipe, SD3Transformer2DModel, SD3ControlNetModel, num_layers=5)
    return pipe, StableDiffusion3ControlNetPipeline, awake(SD3ControlNetModel(**{**config, "num_layers": 2}))


def large():
    pipe = PIPELINES["sd35"]()
    config = longer(pipe, SD3Transformer2DModel, SD3ControlNetModel, num_layers=5, dual_attention_layers=())
    options = {"joint_attention_dim": None, "use_pos_embed": False, "force_zeros_for_pooled_projection": False}
    return pipe, StableDiffusion3ControlNetPipeline, awake(SD3ControlNetModel(**{**config, "num_layers": 3, **options}))


def dev(single=2):
    pipe = PIPELINES["flux-dev"]()
    config = longer(pipe, FluxTransformer2DModel, FluxControlNetModel, num_layers=3, num_single_layers=3)
    return pipe, FluxControlNetPipeline, awake(FluxControlNetModel(**{**config, "num_layers": 2, "num_single_layers": single}))


def joint():
    return dev(single=0)


def adapter():
    return PIPELINES["sd1"](), StableDiffusionAdapterPipeline, T2IAdapter(3, [32, 64], 2, 2)


def three_levels(pipe, *kinds, **more):
    """The pipeline with a net of three levels, the lowest two of one width."""
    up = tuple(kind.replace("Down", "Up") for kind in reversed(kinds))
    shape = {"block_out_channels": (32, 64, 64), "down_block_types": kinds, "up_block_types": up, **more}
    pipe.register_modules(unet=awake(type(pipe.unet).from_config({**pipe.unet.config, **shape})))
    return pipe


def light():
    net = T2IAdapter(1, [32, 64], 2, 2, "light_adapter")
    return three_levels(PIPELINES["sd1"](), CROSS, CROSS, PLAIN), StableDiffusionAdapterPipeline, net


def adapter_xl():
    """The shape of the published one: three levels, four features, the last of which joins the bottom."""
    heads = {"attention_head_dim": [2, 4, 4], "transformer_layers_per_block": [1, 2, 2]}
    pipe = three_levels(PIPELINES["sdxl"](), PLAIN, CROSS, CROSS, **heads)
    return pipe, StableDiffusionXLAdapterPipeline, T2IAdapter(3, [32, 64, 64, 64], 2, 4, "full_adapter_xl")


CASES = {f.__name__: f for f in (sd1, pooled, sd2, sdxl, instantx, large, dev, joint, adapter, light, adapter_xl)}
OF_CODES = ("instantx", "large", "dev", "joint")
ADAPTERS = ("adapter", "light", "adapter_xl")


def opened(name, tmp_path):
    """(diffusers' pipeline with the control, our system, the control's folder)."""
    torch.manual_seed(0)
    pipe, kind, net = CASES[name]()
    pipe.save_pretrained(tmp_path / "base")
    net.save_pretrained(tmp_path / "control")
    system = open_folder(tmp_path / "base")
    extra = {"adapter" if name in ADAPTERS else "controlnet": net.eval()}
    wanted = inspect.signature(kind).parameters
    options = {"requires_safety_checker": False} if "requires_safety_checker" in wanted else {}
    theirs = kind(**{k: v for k, v in pipe.components.items() if k in wanted}, **extra, **options)
    theirs.set_progress_bar_config(disable=True)
    return theirs, system, tmp_path / "control"


def picture(channels=3, seed=3):
    levels = np.random.default_rng(seed).integers(0, 256, (*SIZE, channels), dtype=np.uint8)
    return Image.fromarray(levels.squeeze(-1) if channels == 1 else levels)


def hint(image):
    levels = torch.from_numpy(np.array(image)).float() / 127.5 - 1
    return levels.reshape(1, *SIZE, -1).permute(0, 3, 1, 2)


def ours(system, *tasks, guidance=3.0):
    options = {"negative": NEGATIVE, "guidance": guidance, "solver": "ddim", "grid": "knots(1, 0.8, 0.6, 0.4, 0.2, 0)"}
    options |= {"height": SIZE[0], "width": SIZE[1], "seed": 5}
    *steps, done = run(system, settle(system, PROMPT, options), tasks)
    assert isinstance(steps[-1], Preview)
    return steps[-1].step.x, np.asarray(done[0].image, np.float32)


def hearing(image):
    return lambda start: start.hear(lambda cond: replace(cond, hints=(hint(image),)))


def theirs_drawn(pipe, system, **more):
    start, flow = noise(system), "Flow" in type(pipe.scheduler).__name__
    said = {"guidance_scale": 3.0, "prompt": PROMPT, "height": SIZE[0], "width": SIZE[1], **more}
    said |= {"sigmas": [1, 0.8, 0.6, 0.4, 0.2]} if flow else {"num_inference_steps": 5}
    if "Flux" in type(pipe).__name__:
        said |= {"max_sequence_length": system.prompt_encoder.t5.length, "latents": pipe._pack_latents(start, *start.shape)}
    else:
        said |= {"latents": start, "negative_prompt": NEGATIVE}
    with patch("diffusers.models.autoencoders.vae.DiagonalGaussianDistribution.sample", lambda law, generator=None: law.mode()):
        latents = pipe(output_type="latent", **said).images
        pixels = pipe(output_type="np", **said).images[0] * 255
    return (pipe._unpack_latents(latents, *SIZE, pipe.vae_scale_factor) if latents.ndim == 3 else latents), pixels


def close(a, b):
    assert (a[0] - b[0]).abs().max() < 1e-4 * a[0].abs().max()
    assert np.abs(a[1] - b[1]).max() <= 1 and a[1].std() > 5


@pytest.mark.parametrize("name", CASES)
def test_the_same_picture(name, tmp_path):
    theirs, system, folder = opened(name, tmp_path)
    image = picture(1 if name == "light" else 3)
    key, scale = ("image", "adapter_conditioning_scale") if name in ADAPTERS else ("image", "controlnet_conditioning_scale")
    key = "control_image" if name in OF_CODES else key
    control = open_control(folder, system, weight=0.7)
    controlled = replace(system, denoiser=Controlled(system.denoiser, [control]))
    drawn = ours(controlled, hearing(image))
    given = hint(image) if name in OF_CODES else image
    close(drawn, theirs_drawn(theirs, system, **{key: given, scale: 0.7}))
    base = ours(system)
    assert (drawn[0] - base[0]).abs().max() > 1e-2 * base[0].abs().max(), "the control is heard"
    off = replace(system, denoiser=Controlled(system.denoiser, [replace(control, weight=0.0)]))
    assert torch.equal(ours(off, hearing(image))[0], base[0])


@pytest.mark.parametrize("name", CASES)
def test_files_without_a_configuration(name, tmp_path):
    """By diffusers' names and, where they have others, by the authors', behind a prefix of theirs."""
    if name == "pooled":
        return  # of which no tensor tells
    _, system, folder = opened(name, tmp_path)
    known, tensors = open_control(folder, system).net, load_file(folder / "diffusion_pytorch_model.safetensors")
    save_file(tensors, tmp_path / "alone.safetensors")
    files = [tmp_path / "alone.safetensors"]
    own = unet if isinstance(known.config, unet.ControlNetConfig) else t2i if name in ADAPTERS else None
    if own is not None:
        prefix = unet.PREFIX if own is unet else ""
        extra = {"model.diffusion_model.out.2.bias": torch.zeros(4)} if own is unet else {}
        files.append(tmp_path / "authors.safetensors")
        save_file(extra | {prefix + k: v for k, v in taken(known, own.authors(known.config)).items()}, files[1])
    for file in files:
        found = open_control(file, system).net
        assert found.config == known.config
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), known.parameters(), strict=True))


def test_what_is_written_for_diffusers_is_the_same(tmp_path):
    for name, module in (("sd1", unet), ("instantx", sd3), ("dev", flux), ("adapter", t2i)):
        theirs, system, folder = opened(name, tmp_path / name)
        net = open_control(folder, system).net
        kind = type(theirs.adapter if name == "adapter" else theirs.controlnet)
        again = kind(**module.said(net.config))
        again.load_state_dict({k: v.reshape(again.state_dict()[k].shape) for k, v in taken(net, module.layout(net.config)).items()})
        assert dict(again.config).keys() >= module.said(net.config).keys()


SITES = [(1, 32), (3, 32), (5, 32), (7, 64)]
"""Of the tiny Stable Diffusion 1: the numbers and widths of its cross-attentions; the way down, the way up, and the bottom last."""


def ip_adapter(folder, plus, width=24, sites=SITES):
    torch.manual_seed(1)
    options = {"hidden_size": 24, "intermediate_size": 32, "projection_dim": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    eye = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**options, image_size=32, patch_size=8))
    eye.save_pretrained(folder / "image_encoder")
    shapes = {f"ip_adapter.{n}.to_{x}_ip.weight": (wide, width) for n, wide in sites for x in "kv"}
    if plus:
        shapes |= {"image_proj.latents": (1, 5, 12), "image_proj.proj_in.weight": (12, 24), "image_proj.proj_in.bias": (12,)}
        shapes |= {"image_proj.proj_out.weight": (width, 12), "image_proj.proj_out.bias": (width,)}
        shapes |= {f"image_proj.norm_out.{k}": (width,) for k in ("weight", "bias")}
        for i in range(4):
            layer = f"image_proj.layers.{i}"
            shapes |= {f"{layer}.{norm}.{k}": (12,) for norm in ("0.norm1", "0.norm2", "1.0") for k in ("weight", "bias")}
            shapes |= {
                f"{layer}.0.to_q.weight": (64, 12),
                f"{layer}.0.to_kv.weight": (128, 12),
                f"{layer}.0.to_out.weight": (12, 64),
            }
            shapes |= {f"{layer}.1.1.weight": (48, 12), f"{layer}.1.3.weight": (12, 48)}
    else:
        shapes |= {"image_proj.proj.weight": (4 * width, 16), "image_proj.proj.bias": (4 * width,)}
        shapes |= {f"image_proj.norm.{k}": (width,) for k in ("weight", "bias")}
    save_file({k: torch.randn(*shape) * 0.5 for k, shape in shapes.items()}, folder / "ip.safetensors")
    return folder / "ip.safetensors"


def prompted(system, adapter, image):
    seen = torch.from_numpy(np.array(image)).float().permute(2, 0, 1)[None] / 127.5 - 1

    def task(start):
        both = zip((start.cond, start.negative), (adapter.tokens(seen), adapter.empty(seen)), strict=True)
        cond, negative = (replace(cond, images=tokens) for cond, tokens in both)
        return replace(start, cond=cond, negative=negative)

    return ours(replace(system, denoiser=ImagePrompted(system.denoiser, [adapter])), task)


@pytest.mark.parametrize(("name", "plus"), [("sd1", False), ("sd1", True), ("sdxl", False), ("sdxl", True)])
def test_image_prompts(name, plus, tmp_path):
    torch.manual_seed(0)
    pipe = PIPELINES[name]()
    pipe.save_pretrained(tmp_path / "base")
    pipe.set_progress_bar_config(disable=True)
    system = open_folder(tmp_path / "base")
    widths, numbers = image_prompt.sites(system.denoiser.net.config)
    sites = [(n, w) for n, w in zip(numbers, widths, strict=True)]
    assert name == "sdxl" or sorted(sites) == SITES
    file = ip_adapter(tmp_path, plus, system.denoiser.net.config.context_dim, sites)
    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name=file.name, image_encoder_folder="image_encoder")
    pipe.set_ip_adapter_scale(0.6)
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (48, 75, 3), dtype=np.uint8))
    adapter = open_image_prompt(file, system, weight=0.6)
    drawn = prompted(system, adapter, image)
    close(drawn, theirs_drawn(pipe, system, ip_adapter_image=image))
    base = ours(system)
    assert (drawn[0] - base[0]).abs().max() > 1e-2 * base[0].abs().max()
    assert torch.equal(prompted(system, replace(adapter, weight=0.0), image)[0], base[0])
    assert torch.equal(ours(replace(system, denoiser=ImagePrompted(system.denoiser, [adapter])))[0], base[0])
