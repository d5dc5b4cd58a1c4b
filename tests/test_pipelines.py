"""Whole published systems against diffusers 0.42.1: the same pictures from what it wrote, and from what was written here."""

import copy
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline, FlowMatchEulerDiscreteScheduler, FluxPipeline, PixArtAlphaPipeline, SanaPipeline
from published import PIPELINES, refiner

from reverie.denoiser import Denoiser
from reverie.errors import UserError
from reverie.process import rules, schedules
from reverie.rng import Rng
from reverie.systems import schedulers
from reverie.systems.flux.prompt import PromptFlux
from reverie.systems.foreign import open_folder, write_folder
from reverie.systems.published import SYSTEMS
from reverie.systems.system import refined
from reverie.tasks.generate import Preview, run
from reverie.tasks.settings import settle

SIZE = (32, 64)
PROMPT, NEGATIVE = "a red fox, 2 hats", "rain"


@pytest.fixture(scope="module", params=PIPELINES)
def written(request, tmp_path_factory):
    """(diffusers' pipeline, its folder, ours of the same folder)."""
    torch.manual_seed(0)
    theirs = PIPELINES[request.param]()
    theirs.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    if request.param == "sana":
        (folder / "instruction.txt").write_text("draw this, and 1 more, as it is told ")
    return theirs, folder, open_folder(folder)


def ours(system, **settings):
    """(latents, picture (H, W, 3) in 0..255)."""
    options = {"negative": NEGATIVE, "guidance": scale(system), "solver": "ddim", "grid": "knots(1, 0.8, 0.6, 0.4, 0.2, 0)"}
    options |= {"height": SIZE[0], "width": SIZE[1], "seed": 5} | settings
    if "class" in system.encoders:
        options |= {"height": SIZE[0], "width": SIZE[0], "negative": ""}
    *steps, done = run(system, settle(system, 7 if "class" in system.encoders else PROMPT, options))
    last = steps[-1]
    assert isinstance(last, Preview)
    return last.step.x, np.asarray(done[0].image, np.float32)


def scale(system):
    """Flux schnell is guided by nothing."""
    return 1.0 if isinstance(system.prompt_encoder, PromptFlux) and not system.denoiser.guided else 3.0


def reference(pipeline, system, negative=NEGATIVE, guidance=None):
    """The same of diffusers' pipeline, from our noise and at our times."""
    said = {"guidance_scale": guidance or scale(system)}
    flow = "Flow" in type(pipeline.scheduler).__name__
    said |= {"sigmas": [1, 0.8, 0.6, 0.4, 0.2]} if flow else {"num_inference_steps": 5}
    return REFERENCES.get(type(pipeline), with_words)(pipeline, system, negative, said)


def noise(system, size=SIZE):
    return Rng.of(5).fold("prior").normal((1, *system.codec.shape(*size)))


def with_words(pipeline, system, negative, said):
    said |= {"prompt": PROMPT, "height": SIZE[0], "width": SIZE[1], "latents": noise(system), "negative_prompt": negative}
    return pipeline(output_type="latent", **said).images, pipeline(output_type="np", **said).images[0] * 255


def of_pixart(pipeline, system, negative, said):
    return with_words(pipeline, system, negative or "", said | {"use_resolution_binning": False, "clean_caption": False})


def of_sana(pipeline, system, negative, said):
    """The scheduler takes our times only as the sigmas of Euler's method, which on this path is DDIM."""
    told = {
        "use_resolution_binning": False,
        "clean_caption": False,
        "complex_human_instruction": [system.prompt_encoder.instruction],
    }
    return with_words(pipeline, system, negative or "", said | told)


def of_flux(pipeline, system, negative, said):
    start = noise(system)
    said |= {"prompt": PROMPT, "height": SIZE[0], "width": SIZE[1], "max_sequence_length": system.prompt_encoder.t5.length}
    said |= {"latents": pipeline._pack_latents(start, *start.shape)}
    latents = pipeline(output_type="latent", **said).images
    return pipeline._unpack_latents(latents, *SIZE, pipeline.vae_scale_factor), pipeline(output_type="np", **said).images[0] * 255


def of_dit(pipeline, system, negative, said):
    """It draws its noise itself, and shows no latents: the picture is held against ours."""
    start = noise(system, (SIZE[0], SIZE[0]))
    with patch("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *_, **__: start):
        return None, pipeline(class_labels=[7], output_type="np", **said).images[0] * 255


REFERENCES = {SanaPipeline: of_sana, FluxPipeline: of_flux, PixArtAlphaPipeline: of_pixart, DiTPipeline: of_dit}


def close(a, b):
    (za, xa), (zb, xb) = a, b
    assert zb is None or (za - zb).abs().max() < 1e-4 * za.abs().max()
    assert np.abs(xa - xb).max() <= 1 and xa.std() > 5


def test_the_same_picture(written):
    theirs, _, system = written
    close(ours(system), reference(theirs, system))


def test_the_same_picture_without_guidance_or_words(written):
    theirs, _, system = written
    plain = {"negative": "", "guidance": 1.0}
    close(ours(system, **plain), reference(theirs, system, None, 1.0))
    close(ours(system, negative=""), reference(theirs, system, None))


@pytest.mark.parametrize(("make", "length"), [(PIPELINES["flux-dev"], 512), (PIPELINES["flux-schnell"], 256)])
def test_flux_reads_as_many_words_as_was_published(make, length, tmp_path):
    make().save_pretrained(tmp_path)
    with torch.no_grad():
        assert open_folder(tmp_path).prompt_encoder.prompts([PROMPT]).tokens.shape[1] == length


def test_what_is_written_opens_there_and_here(written, tmp_path):
    theirs, _, system = written
    write_folder(system, tmp_path / "copy")
    again = type(theirs).from_pretrained(tmp_path / "copy")
    again.set_progress_bar_config(disable=True)
    again.scheduler = theirs.scheduler
    close(ours(system), reference(again, system))
    close(ours(open_folder(tmp_path / "copy")), reference(theirs, system))


LISTED = {system.name: system.defaults for system in SYSTEMS}


def test_the_size_is_that_of_the_net(written):
    """Where its configuration has one."""
    theirs, _, system = written
    side = (theirs.unet if hasattr(theirs, "unet") else theirs.transformer).config.get("sample_size")
    assert system.defaults.size == (system.codec.factor * side if side else 1024,) * 2


def test_the_shift_of_a_flow_is_read_and_written():
    name = "FlowMatchEulerDiscreteScheduler"
    told = [{"shift": 3.0}, {"use_dynamic_shifting": True}, {"use_dynamic_shifting": True, "base_shift": 0.25, "max_shift": 2.0}]
    each = [{"_class_name": name, **FlowMatchEulerDiscreteScheduler(**options).config} for options in told]
    found = [schedulers.grid(said, "karras()") for said in each]
    assert found == [LISTED["sd3"].grid, "flux_shift(low=0.5, high=1.15)", "flux_shift(low=0.25, high=2.0)"]
    assert schedulers.grid({"flow_shift": 3.0, "use_flow_sigmas": True}, "karras()") == LISTED["sana"].grid
    assert schedulers.grid({"beta_schedule": "linear", "shift": 3.0}, "karras()") == "karras()"
    flow = Denoiser(torch.nn.Identity(), schedules.flow(), rules.velocity())
    assert [schedulers.grid(schedulers.written(flow, grid), "") for grid in found] == found
    written = [FlowMatchEulerDiscreteScheduler.from_config(schedulers.written(flow, grid)).config for grid in found]
    for told_them, config in zip(told, written, strict=True):
        assert all(config[k] == v for k, v in told_them.items())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(base, refiner) of diffusers with one autoencoder, and ours of their folders."""
    torch.manual_seed(1)
    base, fine = PIPELINES["sdxl"](), refiner()
    fine.vae.load_state_dict(base.vae.state_dict())
    made = []
    for name, pipe in (("base", base), ("fine", fine)):
        pipe.set_progress_bar_config(disable=True)
        folder = tmp_path_factory.mktemp(name)
        pipe.save_pretrained(folder)
        made.append(open_folder(folder))
    return base, fine, *made


@pytest.mark.parametrize("share", [0.8, 0.2])
def test_a_refiner_draws_the_end(pair, share):
    """Of a share that is small the refiner draws most, and whatever it is told shows."""
    base, fine, first, second = pair
    said = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 3.0, "num_inference_steps": 5, "output_type": "latent"}
    half = base(latents=noise(first), height=SIZE[0], width=SIZE[1], denoising_end=share, **said).images
    sizes = {"original_size": SIZE, "target_size": SIZE}
    whole = fine(image=half, denoising_start=share, **sizes, **said).images
    latents, image = ours(replace(first, refiner=second), handover=share)
    assert (latents - whole).abs().max() < 1e-4 * whole.abs().max() and image.std() > 5
    alone = ours(first)[0]
    assert (alone - latents).abs().max() > 1e-2 and torch.equal(ours(replace(first, refiner=second), handover=1.0)[0], alone)


def test_a_refiner_of_another_process_is_refused(pair):
    _, _, first, second = pair
    other = replace(second, denoiser=Denoiser(second.denoiser.net, schedules.flow(), second.denoiser.rule))
    with pytest.raises(UserError, match="trained on other processes"):
        ours(replace(first, refiner=other))


def test_a_refiner_that_cannot_go_on_is_refused_when_it_is_joined(pair):
    _, _, first, second = pair
    assert refined(first, second).refiner is second
    other = replace(second, denoiser=Denoiser(second.denoiser.net, schedules.flow(), second.denoiser.rule))
    with pytest.raises(UserError, match="trained on other processes"):
        refined(first, other)
    codec = copy.deepcopy(second.codec)
    for name, value in (("scale", codec.scale * 1.4), ("shift", codec.shift + 0.1)):
        wrong = copy.deepcopy(codec)
        setattr(wrong, name, value)
        with pytest.raises(UserError, match="are of other autoencoders or scales"):
            refined(first, replace(second, codec=wrong))
