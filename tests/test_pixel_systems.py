"""DDPM, improved DDPM, ADM and latent diffusion as whole systems, against diffusers 0.42.1 and the publications.

The pipelines draw their own noise, so that they are given ours in place of it, draw by draw.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    LDMPipeline,
    UNet2DModel,
    VQModel,
)
from PIL import Image
from published import awake
from safetensors.torch import load_file, save_file
from test_generate import command
from test_pixel_nets import BASE, FIRST, RESNET, SCALED, SMALL, described, plain_types, stored, whole

from reverie.denoiser import Denoiser
from reverie.encode.classes import Classes
from reverie.errors import UserError
from reverie.nets.autoencoder import Autoencoder, AutoencoderConfig
from reverie.nets.noisy_classifier import NoisyClassifier, NoisyClassifierConfig
from reverie.nets.unet import DDPM_CIFAR10, UNet, UNetConfig
from reverie.nets.vq import VQAutoencoder, VQConfig
from reverie.rng import Rng
from reverie.systems import schedulers
from reverie.systems.adm import original as adm
from reverie.systems.ddpm import original as ddpm
from reverie.systems.foreign import open_file, open_folder, write_folder
from reverie.systems.names import taken
from reverie.systems.stable_diffusion import original
from reverie.systems.weights import build_denoiser, denoiser_card
from reverie.tasks.generate import Preview, generate, run
from reverie.tasks.settings import settle


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def ours(system, **settings):
    """(what was drawn, before it is decoded; the picture in 0..255)."""
    options = {"solver": "ddim", "grid": "knots(1, 0.8, 0.6, 0.4, 0.2, 0)", "seed": 5} | settings
    *steps, done = run(system, settle(system, "", options))
    assert isinstance(steps[-1], Preview)
    return steps[-1].step.x, np.asarray(done[0].image, np.float32)


# --- folders ---


def pixels(scheduler, **options):
    net = UNet2DModel(**{**SMALL, **plain_types((1, 2, 2), (1,)), **FIRST, **options})
    return (DDIMPipeline if scheduler is DDIMScheduler else DDPMPipeline)(awake(net), scheduler(timestep_spacing="trailing"))


def learned():
    net = UNet2DModel(**SMALL, **RESNET, **SCALED, attention_head_dim=16, out_channels=6)
    return DDPMPipeline(awake(net), DDPMScheduler(timestep_spacing="trailing", variance_type="learned_range"))


def cosine():
    pipe = pixels(DDIMScheduler)
    pipe.scheduler = DDIMScheduler(timestep_spacing="trailing", beta_schedule="squaredcos_cap_v2", clip_sample_range=0.7)
    return pipe


def latent():
    codec = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        num_vq_embeddings=64,
        scaling_factor=1.3,
    )
    torch.nn.init.normal_(codec.quantize.embedding.weight)  # far enough from each other that rounding does not choose between them
    net = UNet2DModel(**SMALL, **plain_types((1, 2, 2), (1,)), attention_head_dim=8)
    table = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195, "clip_sample": False}
    return LDMPipeline(awake(codec), awake(net), DDIMScheduler(timestep_spacing="trailing", **table))


PIPELINES = {
    "ddim": lambda: pixels(DDIMScheduler),
    "ddpm": lambda: pixels(DDPMScheduler),
    "cosine": cosine,
    "learned": learned,
    "latent": latent,
}
SOLVERS = {"ddpm": "ddpm", "learned": "ddpm-learned"}
"""Those that are sampled as they were trained, with noise; the others are without."""


@pytest.fixture(params=PIPELINES)
def written(request, tmp_path, monkeypatch):
    """(diffusers' picture from our draws, its folder, ours of the same folder and solver)."""
    pipe = PIPELINES[request.param]()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "theirs")
    system, drawn = open_folder(tmp_path / "theirs"), []
    solver = SOLVERS.get(request.param, "ddim")
    normal = Rng.normal
    monkeypatch.setattr(Rng, "normal", lambda self, shape: drawn.append(normal(self, shape)) or drawn[-1])
    made = ours(system, solver=solver)
    monkeypatch.setattr(Rng, "normal", normal)
    draws = itertools.chain(drawn[:5], itertools.repeat(torch.zeros(())))  # diffusers' last step may add noise; nobody else's does
    for place in (type(pipe).__module__, "diffusers.schedulers.scheduling_ddpm"):
        monkeypatch.setattr(f"{place}.randn_tensor", lambda *a, **kw: next(draws))
    options = {"use_clipped_model_output": True} if isinstance(pipe, DDIMPipeline) else {}
    theirs = pipe(num_inference_steps=5, output_type="np", **options).images[0] * 255
    return pipe, theirs, system, made, solver


def test_the_same_picture(written):
    _, theirs, system, (_, made), _ = written
    assert made.shape == (*system.defaults.size, 3)
    assert np.abs(theirs - made).max() <= 1 and made.std() > 5


def test_what_is_written_opens_there_and_here(written, tmp_path):
    pipe, _, system, (x, _), solver = written
    write_folder(system, tmp_path / "copy")
    again = type(pipe).from_pretrained(tmp_path / "copy")
    for part in ("unet", "vqvae"):
        if hasattr(pipe, part):
            first, second = getattr(pipe, part).state_dict(), getattr(again, part).state_dict()
            assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    same = ("beta_schedule", "clip_sample", "clip_sample_range", "num_train_timesteps", "prediction_type", "variance_type")
    assert all(again.scheduler.config[k] == pipe.scheduler.config[k] for k in same if k in again.scheduler.config)
    assert torch.allclose(again.scheduler.alphas_cumprod, pipe.scheduler.alphas_cumprod)
    assert torch.equal(ours(open_folder(tmp_path / "copy"), solver=solver)[0], x)


def test_the_command_draws_from_a_folder(capsys, tmp_path):
    pixels(DDPMScheduler).save_pretrained(tmp_path / "folder")
    code, out, error = command(capsys, "generate", "--model", tmp_path / "folder", "--steps", 2, "--out", tmp_path / "out")
    assert code == 0, error
    with Image.open(out.strip()) as image:
        assert image.size == (16, 16)


def test_what_diffusers_has_not_is_not_written(tmp_path):
    system = open_file(saved("iddpm", IDDPM, tmp_path))
    with pytest.raises(UserError, match="diffusers tells nets the number of the step"):
        write_folder(system, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_words_of_ldmbert_are_named(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "LDMTextToImagePipeline"}')
    with pytest.raises(UserError, match="reads prompts with LDMBert"):
        open_folder(tmp_path)


# --- the files of the authors ---

IDDPM = replace(BASE, heads=4, scale_shift=True)
LSUN = replace(IDDPM, heads=1, scale_shift=False)
ADM_64 = UNetConfig(
    out_channels=6, channels=64, mult=(1, 2, 3, 4), blocks=1, attention=(3,), head_width=64, scale_shift=True, biggan=True
)
ADM_512 = replace(ADM_64, channels=128, mult=(0.5, 1, 1, 2), attention=(1, 3))


def saved(name, config, folder, classes=False, new=False):
    """A file of the authors, whose net nothing leaves at zero."""
    parts = awake(whole(config, classes))
    tensors = stored(taken(parts, adm.layout(config, new)))
    save_file(tensors, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


FILES = {
    "iddpm": (IDDPM, False, False, (16, 4000, "cosine_table", {"steps": 1000.0, "shift": -0.25})),
    "iddpm-classes": (IDDPM, True, False, (16, 4000, "cosine_table", {"steps": 4000.0, "shift": -1.0})),
    "lsun": (LSUN, False, False, (16, 1000, "linear_table", {"steps": 1000.0, "shift": -1.0})),
    "adm-64": (ADM_64, True, True, (64, 1000, "cosine_table", {"steps": 1000.0, "shift": -1.0})),
    "adm-512": (ADM_512, False, False, (64, 1000, "linear_table", {"steps": 1000.0, "shift": -1.0})),
}


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_the_authors_files(name, tmp_path):
    config, classes, new, (side, steps, table, clock) = FILES[name]
    path = saved(name, config, tmp_path, classes, new)
    system, tensors = open_file(path), load_file(path)
    model = system.denoiser
    assert model.net.config == replace(config, depth=1) and model.learned_variance and model.bound == 1
    assert system.defaults.size == (side, side) and system.about["name"] == name
    assert (model.path.card["name"], model.path.steps, model.clock.card) == (table, steps, {"name": "timestep", **clock})
    # the net is told the number of the step, or its thousandth part of the whole
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.25, 0.75], dtype=torch.float64)
    told = (t * steps - 1) * (clock["steps"] / steps)
    cond = system.encoders["class"].prompts([7, 990]) if classes else None
    vector = tensors["label_emb.weight"][[7, 990]] if classes else 0.0
    wanted = described(tensors, x, told.float(), config.heads_of, whole=new, vector=vector)
    assert (model.raw(x, t, cond) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    prompt = {"prompt": 3} if classes else {}
    image = generate(system, **prompt, steps=3, height=16, width=16, solver="ddpm-learned", grid="trailing()")[0]
    assert np.asarray(image).std() > 5
    generate(system, **prompt, steps=2, height=16, width=16)


def test_classes_without_a_null_class(tmp_path):
    system = open_file(saved("classes", IDDPM, tmp_path, True))
    with pytest.raises(UserError, match="name one of its 1000, and use guidance 1"):
        generate(system, steps=1)
    with pytest.raises(UserError, match="name one of its 1000, and use guidance 1"):
        generate(system, 7, steps=1, guidance=2.0)
    assert system.encoders["class"].prompts(["7", 8]).vector.shape == (2, 256)


def test_files_that_draw_nothing_are_named(tmp_path):
    upsampler = saved("upsampler", replace(IDDPM, in_channels=6), tmp_path)
    with pytest.raises(UserError, match="enlarges pictures that it is given"):
        open_file(upsampler)
    body = replace(BASE, head_width=32, scale_shift=True, biggan=True)
    config = NoisyClassifierConfig(body=body, size=16, classes=10)
    save_file(taken(NoisyClassifier(config), adm.classifier(config)), tmp_path / "classifier.safetensors")
    with pytest.raises(UserError, match="classifier of noised pictures, which draws none"):
        open_file(tmp_path / "classifier.safetensors")
    narrow = saved("narrow", replace(ADM_64, channels=32, attention=(2,), head_width=32), tmp_path)
    with pytest.raises(UserError, match="no whole heads of 64"):
        open_file(narrow)


def test_a_port_of_ddpm_gives_the_picture_of_the_folder(tmp_path):
    pipe = pixels(DDIMScheduler, norm_num_groups=32)
    pipe.save_pretrained(tmp_path / "folder")
    system = open_folder(tmp_path / "folder")
    net = system.denoiser.net
    tensors = taken(net, ddpm.layout(net.config), lambda n: ".attn" in n and n.endswith("weight"))
    save_file(tensors, tmp_path / "ported.safetensors")
    again = open_file(tmp_path / "ported.safetensors")
    assert again.denoiser.net.config == replace(net.config, dropout=0.1) and again.defaults == system.defaults
    torch.testing.assert_close(ours(again)[0], ours(system)[0], atol=1e-3, rtol=0)  # weights that lie otherwise add up otherwise


def test_the_size_of_ports_of_ddpm(tmp_path):
    """CIFAR-10's net ends at 4x4, that of LSUN and CelebA-HQ draws 256x256 and has six levels."""
    for mult, side in (((1, 2, 2, 2), 32), ((1, 1, 2, 2, 4, 4), 256)):
        config = replace(DDPM_CIFAR10, channels=32, mult=mult, blocks=1)
        tensors = taken(UNet(config), ddpm.layout(config), lambda n: ".attn" in n and n.endswith("weight"))
        save_file(tensors, tmp_path / f"{side}.safetensors")
        assert open_file(tmp_path / f"{side}.safetensors").defaults.size == (side, side)


KL = AutoencoderConfig(channels=32, mult=(1, 2), blocks=1, latent=3, attend=(1,))
VQ = VQConfig(channels=32, mult=(1, 2), blocks=1, latent=3, codes=64, attention=False)
UNTOLD = UNetConfig(channels=32, mult=(1, 2), blocks=1, attention=(1,), head_width=32)
TOLD = replace(UNTOLD, context_dim=24)


def latent_file(folder, net, codec, rows=0, **more):
    """A file of latent diffusion; more: what else is in it."""
    net, first = awake(UNet(net)), awake((VQAutoencoder if isinstance(codec, VQConfig) else Autoencoder)(codec))
    tensors = {f"model.diffusion_model.{k}": v for k, v in stored(taken(net, original.unet(net.config))).items()}
    averages = {f"model_ema.diffusion_model{k[22:].replace('.', '')}": v for k, v in tensors.items()}
    for key in tensors:
        tensors[key] = tensors[key] + 1  # what was trained is not what is drawn with
    tensors |= averages | {f"first_stage_model.{k}": v for k, v in taken(first, original.vae(codec)).items()}
    if rows:
        tensors["cond_stage_model.embedding.weight"] = torch.randn(rows, 24)
    save_file(tensors | more, folder / "model.safetensors")
    return net, first, folder / "model.safetensors"


BETAS = torch.linspace(0.0015**0.5, 0.0155**0.5, 1000, dtype=torch.float64).square().float()


@pytest.mark.parametrize("rows", [0, 1000, 1001])
@pytest.mark.parametrize("codec", [KL, VQ])
@torch.no_grad()
def test_files_of_latent_diffusion(codec, rows, tmp_path):
    more = {"betas": BETAS, "scale_factor": torch.tensor(0.5)} if codec is KL else {}
    net, first, path = latent_file(tmp_path, TOLD if rows else UNTOLD, codec, rows, **more)
    system = open_file(path)
    model = system.denoiser
    assert model.path.card["last"] == pytest.approx(0.0155 if more else 0.0195) and model.bound is None
    assert system.defaults.guidance == (3.0 if rows == 1001 else 1.0)
    z, t = torch.randn(2, 3, 8, 8), torch.tensor([0.25, 0.75])
    cond = system.encoders["class"].prompts([7, 990]) if rows else None
    assert cond is None or cond.tokens.shape == (2, 1, 24)
    wanted = net(z, 1000 * t - 1, tokens=None if cond is None else cond.tokens)
    assert (model.raw(z, t, cond) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (system.codec.decode(z) - first.decode(z * (2 if more else 1))).abs().max() < 1e-4
    if rows == 1001:
        assert system.encoders["class"].empty(1).tokens.shape == (1, 1, 24)
    image = generate(system, 7 if rows else "", steps=2, height=16, width=16)[0]
    assert np.asarray(image).std() > 5
    if not rows and codec is VQ:
        write_folder(system, tmp_path / "folder")
        assert LDMPipeline.from_pretrained(tmp_path / "folder").unet.config.sample_size == 128


def test_what_latent_diffusion_cannot_be_is_named(tmp_path):
    _, _, path = latent_file(tmp_path, UNTOLD, KL, betas=torch.linspace(1e-4, 0.02, 1000))
    with pytest.raises(UserError, match="on no straight line"):
        open_file(path)
    _, _, path = latent_file(tmp_path, replace(UNTOLD, in_channels=6), KL)
    with pytest.raises(UserError, match="told a picture of 3 channels"):
        open_file(path)
    words = {"cond_stage_model.transformer.token_emb.weight": torch.zeros(4, 24)}
    _, _, path = latent_file(tmp_path, TOLD, KL, **words)
    with pytest.raises(UserError, match="reads prompts with LDMBert"):
        open_file(path)


# --- what they share ---


def test_schedulers_that_say_no_bound_have_their_usual_one():
    bounds = {kind: schedulers.bound({"_class_name": f"{kind}Scheduler"}) for kind in ("DDPM", "DDIM", "PNDM", "EulerDiscrete")}
    assert bounds == {"DDPM": 1.0, "DDIM": 1.0, "PNDM": None, "EulerDiscrete": None}
    assert schedulers.bound({"_class_name": "DDIMScheduler", "clip_sample": False}) is None
    assert schedulers.bound({"_class_name": "DDIMScheduler", "clip_sample": True, "clip_sample_range": 0.7}) == 0.7


def test_a_bound_keeps_the_estimate_and_is_remembered(tmp_path):
    model = open_file(saved("adm", ADM_64, tmp_path)).denoiser
    x, last = torch.randn(1, 3, 16, 16), torch.ones((), dtype=torch.float64)
    with torch.no_grad():
        assert model(x, last).abs().max() == 1  # where next to nothing is left of the data, and yet it is a picture
        assert model.with_variance(x, last)[0].abs().max() == 1
    again = build_denoiser(denoiser_card(model), "card")
    assert again.bound == 1 and again.net.config == model.net.config
    older = {k: v for k, v in denoiser_card(model).items() if k != "bound"}
    assert build_denoiser(older, "card").bound is None
    with pytest.raises(UserError, match="says nothing about x0"):
        Denoiser(model.net, model.path, model.rule, model.clock, learned_variance=True)(x, last)


def test_classes_as_a_token_and_without_null_are_remembered():
    made = Classes(("a", "b"), 8, null=False, token=True)
    assert made.card == {"name": "Classes", "classes": ["a", "b"], "width": 8, "null": False, "token": True}
    assert made.prompts(["b"]).tokens.shape == (1, 1, 8) and made.table.weight.shape == (2, 8)
