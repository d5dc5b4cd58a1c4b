"""Whole published pipelines with controls and image prompts against diffusers 0.42.1: the same pictures from the same files."""

import inspect
import json
import shutil
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
from reverie.errors import UserError
from reverie.systems.control import flux, image_prompt, open_control, open_image_prompt, sd3, t2i, unet
from reverie.systems.foreign import open_folder
from reverie.systems.names import taken
from reverie.tasks.generate import Preview, run, settle

pytestmark = pytest.mark.filterwarnings("ignore:.FluxPosEmbed:FutureWarning")
SHORT = {"conditioning_embedding_out_channels": (8, 16)}


def u_net(pipe, **more):
    return awake(ControlNetModel.from_unet(pipe.unet, **SHORT, load_weights_from_unet=False, **more))


def sd1():
    return (pipe := PIPELINES["sd1"]()), StableDiffusionControlNetPipeline, u_net(pipe)


def pooled():
    pipe = PIPELINES["sd1"]()
    net = u_net(pipe)
    net.register_to_config(global_pool_conditions=True)
    return pipe, StableDiffusionControlNetPipeline, net


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
    return pipe, StableDiffusion3ControlNetPipeline, awake(SD3ControlNetModel(**{**config, "num_layers": 4}))


def large():
    pipe = PIPELINES["sd35"]()
    config = longer(pipe, SD3Transformer2DModel, SD3ControlNetModel, num_layers=5, dual_attention_layers=())
    options = {"joint_attention_dim": None, "use_pos_embed": False, "force_zeros_for_pooled_projection": False}
    return pipe, StableDiffusion3ControlNetPipeline, awake(SD3ControlNetModel(**{**config, "num_layers": 3, **options}))


def dev(single=3):
    pipe = PIPELINES["flux-dev"]()
    config = longer(pipe, FluxTransformer2DModel, FluxControlNetModel, num_layers=4, num_single_layers=4)
    return pipe, FluxControlNetPipeline, awake(FluxControlNetModel(**{**config, "num_layers": 3, "num_single_layers": single}))


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


@pytest.fixture(scope="module", params=CASES)
def opened(request, tmp_path_factory):
    """(name, diffusers' pipeline with the control, our system, the control's folder)."""
    name, tmp_path = request.param, tmp_path_factory.mktemp(request.param)
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
    return name, theirs, system, tmp_path / "control"


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
    latents = pipe._unpack_latents(latents, *SIZE, pipe.vae_scale_factor) if latents.ndim == 3 else latents
    told = pipe.vae.config
    with torch.no_grad():
        pixels = pipe.vae.decode(latents / told.scaling_factor + (told.shift_factor or 0)).sample[0]
    return latents, ((pixels.permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).numpy()


def close(a, b):
    assert (a[0] - b[0]).abs().max() < 1e-4 * a[0].abs().max()
    assert np.abs(a[1] - b[1]).max() <= 1 and a[1].std() > 5


def test_the_same_picture(opened):
    name, theirs, system, folder = opened
    image = picture(1 if name == "light" else 3)
    key, scale = ("image", "adapter_conditioning_scale") if name in ADAPTERS else ("image", "controlnet_conditioning_scale")
    key = "control_image" if name in OF_CODES else key
    control = open_control(folder, system, weight=0.7)
    controlled = replace(system, denoiser=Controlled(system.denoiser, [control]))
    guidance = 1.0 if name == "pooled" else 3.0  # theirs is not heard in the other half
    drawn = ours(controlled, hearing(image), guidance=guidance)
    given = hint(image) if name in OF_CODES else image
    close(drawn, theirs_drawn(theirs, system, **{key: given, scale: 0.7, "guidance_scale": guidance}))
    base = ours(system, guidance=guidance)
    assert (drawn[0] - base[0]).abs().max() > 1e-2 * base[0].abs().max(), "the control is heard"
    off = replace(system, denoiser=Controlled(system.denoiser, [replace(control, weight=0.0)]))
    assert torch.equal(ours(off, hearing(image), guidance=guidance)[0], base[0])


def test_files_without_a_configuration(opened, tmp_path):
    """By diffusers' names and, where they have others, by the authors', behind a prefix of theirs."""
    name, _, system, folder = opened
    if name == "pooled":
        return  # of which no tensor tells
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


def test_what_is_written_for_diffusers_is_the_same(opened):
    name, theirs, system, folder = opened
    net = open_control(folder, system).net
    module = {"instantx": sd3, "large": sd3, "dev": flux, "joint": flux}.get(name, t2i if name in ADAPTERS else unet)
    known = theirs.adapter if name in ADAPTERS else theirs.controlnet
    shared = {} if name != "large" else {"use_pos_embed": False}
    again = type(known)(**module.said(net.config), **shared).state_dict()
    written = {k: v for k, v in taken(net, module.layout(net.config)).items() if k in again}
    assert again.keys() == written.keys() and all(again[k].numel() == v.numel() for k, v in written.items())
    held = known.state_dict()
    assert all(torch.equal(held[k].flatten(), v.flatten()) for k, v in written.items())


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


def refused(path, system, said, **options):
    with pytest.raises(UserError, match=said):
        open_control(path, system, **options)


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    """Systems, each with the folder of a control of its own."""
    made = {}
    for name in ("sd1", "sdxl", "instantx", "dev"):
        torch.manual_seed(0)
        pipe, _, net = CASES[name]()
        folder = tmp_path_factory.mktemp(name)
        pipe.save_pretrained(folder / "base")
        net.save_pretrained(folder / "control")
        made[name] = open_folder(folder / "base"), folder / "control"
    return made


def test_a_control_of_another_system_is_refused(systems, tmp_path):
    sd1, control = systems["sd1"]
    alone = tmp_path / "alone.safetensors"
    shutil.copy(control / "diffusion_pytorch_model.safetensors", alone)
    for place in (control, alone):
        refused(place, systems["dev"][0], "is a control of a U-Net.*has a MMDiT: get one of that")
        refused(place, systems["sdxl"][0], "control of a U-Net of 32 channels with tokens of 24.* of 56")
    refused(systems["instantx"][1], sd1, "is a control of Stable Diffusion 3 or Flux.*has a UNet")
    refused(systems["instantx"][1], systems["dev"][0], "is no control of|describes no such net|none of ours")
    wide = replace(sd1, codec=systems["sdxl"][0].codec)
    wide.codec.factor = 4
    refused(control, wide, "2 pixels a place, not 4")
    wide.codec.factor = 2


def test_what_is_damaged_or_foreign_is_said(systems, tmp_path):
    system, control = systems["sd1"]
    folder = tmp_path / "control"
    shutil.copytree(control, folder)
    file, tensors = folder / "diffusion_pytorch_model.safetensors", load_file(control / "diffusion_pytorch_model.safetensors")
    said = json.loads((folder / "config.json").read_text())

    def told(**more):
        (folder / "config.json").write_text(json.dumps(said | more))

    save_file({k: v for k, v in tensors.items() if k != "controlnet_mid_block.bias"}, file)
    refused(folder, system, "1 tensors? .*missing: controlnet_mid_block.bias|missing: controlnet_mid_block.bias")
    save_file(tensors | {"conv_in.weight": tensors["conv_in.weight"][:, :3].contiguous()}, file)
    refused(folder, system, "of another shape: conv_in.weight")
    save_file(tensors | {"conv_in.bias": tensors["conv_in.bias"] * float("nan")}, file)
    refused(folder, system, "conv_in.bias holds NaN")
    file.write_bytes(b"\x00" * 99)
    refused(folder, system, "is not a whole safetensors file")
    file.unlink()
    refused(folder, system, "control")
    told(controlnet_conditioning_channel_order="bgr")
    refused(folder, system, "colours in the order bgr")
    told(class_embed_type="timestep")
    refused(folder, system, "class_embed_type is 'timestep'")
    told(_class_name="AutoencoderKL")
    refused(folder, system, "holds a AutoencoderKL, which is no control")
    (folder / "config.json").unlink()
    refused(folder, system, "config.json is not there")
    refused(tmp_path / "none.safetensors", system, "is not there")
    strange = tmp_path / "strange.safetensors"
    for names, why in (
        (["lora_controlnet"], "control-LoRA"),
        (["control_add_embedding.linear_1.bias"], "union of several"),
        (["lllite_unet_a.b"], "LLLite"),
        (["ip_adapter.1.to_k_ip.weight"], "an IP-Adapter"),
        (["some.weight"], "no control by its 1 tensors"),
        (["controlnet_cond_embedding.conv_in.weight"], "no whole control"),
    ):
        save_file({name: torch.zeros(1) for name in names}, strange)
        refused(strange, system, why)
    for names, why in ((["controlnet_x_embedder.weight", "controlnet_mode_embedder.weight"], "union"), ([flux.PIXELS], "XLabs")):
        save_file({name: torch.zeros(1) for name in names}, strange)
        refused(strange, systems["dev"][0], why)


def test_image_prompts_that_do_not_fit_are_refused(systems, tmp_path):
    system, _ = systems["sd1"]
    file = ip_adapter(tmp_path, False)
    tensors = load_file(file)
    shutil.move(tmp_path / "image_encoder", tmp_path / "eye")
    with pytest.raises(UserError, match="image_encoder is not there: an IP-Adapter needs"):
        open_image_prompt(file, system)
    assert open_image_prompt(file, system, tmp_path / "eye").net.config.tokens == 4
    for base, change, why in (
        (systems["sdxl"][0], {}, "tokens are 24 wide"),
        (systems["dev"][0], {}, "is a control of a U-Net"),
        (system, {"ip_adapter.9.to_k_ip.weight": torch.zeros(32, 24)}, "unknown: ip_adapter.9"),
        (system, {"image_proj.proj.0.weight": torch.zeros(2, 2)}, "FaceID"),
        (
            system,
            {"image_proj.proj.weight": torch.zeros(96, 12)},
            "reads pictures as 12 numbers, .* says 16",
        ),
    ):
        save_file(tensors | change, file)
        with pytest.raises(UserError, match=why):
            open_image_prompt(file, base, tmp_path / "eye")
    save_file({"some.weight": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="is no IP-Adapter"):
        open_image_prompt(file, system, tmp_path / "eye")
