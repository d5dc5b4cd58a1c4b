"""What a scheduler of a folder says of the process and of the steps: all classes are known by name, or refused."""

import json

import diffusers
import pytest
import torch
from published import dit, sdxl
from test_pipelines import close, ours, reference

from reverie.card import parse, rebuild
from reverie.denoiser import Cond
from reverie.errors import UserError
from reverie.process.grids import GRIDS
from reverie.solve.names import SOLVERS
from reverie.systems import schedulers
from reverie.systems.foreign import open_folder
from reverie.systems.sana import dcae
from reverie.systems.system import Sampling

USUAL = Sampling(steps=25, guidance=5.0)
LATENTS = {"latents_mean": [-1.6, 1.1, 0.3, -0.2], "latents_std": [8.4, 5.9, 5.1, 5.3], "scaling_factor": 0.5}


def configured(pipe, folder, scheduler=None, **vae):
    pipe.save_pretrained(folder)
    for name, said in (("vae/config.json", vae), ("scheduler/scheduler_config.json", scheduler or {})):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | said))
    return open_folder(folder)


@torch.no_grad()
def test_the_process_of_edm_is_that_of_diffusers(tmp_path):
    torch.manual_seed(0)
    theirs = diffusers.EDMDPMSolverMultistepScheduler(sigma_data=0.7, sigma_max=60.0)
    said = dict(theirs.config) | {"_class_name": "EDMDPMSolverMultistepScheduler"}
    model = configured(sdxl(), tmp_path, said).denoiser
    x, sigmas = 20 * torch.randn(2, 4, 16, 16), torch.tensor([40.0, 0.3])
    told = {"tokens": torch.randn(2, 7, 56), "vector": torch.randn(2, 64)}
    found = model(x, (sigmas / 60).double(), Cond(**told))
    for k, sigma in enumerate(sigmas):
        row = {name: value[k : k + 1] for name, value in told.items()}
        out = model.net(theirs.precondition_inputs(x[k : k + 1], sigma), theirs.precondition_noise(sigma)[None], **row)
        due = theirs.precondition_outputs(x[k : k + 1], out, sigma)
        assert (found[k : k + 1] - due).abs().max() < 1e-5 * due.abs().max()
    assert schedulers.written(model, "karras()")["sigma_data"] == 0.7
    with pytest.raises(UserError, match="with EDMEulerScheduler we know 'epsilon' only"):
        schedulers.process({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"})


def test_every_class_is_known_or_refused():
    for name in dir(diffusers):
        if name.endswith("Scheduler") and not name.startswith(("Flax", "Base")) and name not in schedulers.KNOWN:
            with pytest.raises(UserError, match=rf"the process of {name} is none of ours; known are DDPM"):
                schedulers.process({"_class_name": name})
    assert all(name is None or hasattr(diffusers, name) for name in schedulers.KNOWN)


@pytest.mark.parametrize(
    ("said", "due"),
    [
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, USUAL),
        ({"_class_name": "EulerAncestralDiscreteScheduler"}, USUAL),
        ({"_class_name": "LCMScheduler"}, Sampling(solver="lcm", steps=4, grid="trailing()")),
        ({"_class_name": "TCDScheduler"}, Sampling(solver="tcd", steps=4, grid="trailing()")),
        (
            {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
            Sampling(solver="euler-a", steps=4, grid="trailing()"),
        ),
        (
            {"_class_name": "EDMEulerScheduler"},
            Sampling(solver="euler", steps=25, guidance=5.0, grid="karras(rho=7.0, smallest=0.002, largest=80.0)"),
        ),
        (
            {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_schedule": "exponential", "sigma_min": 0.01},
            Sampling(steps=25, guidance=5.0, grid="exponential(smallest=0.01, largest=80.0)"),
        ),
    ],
)
def test_few_steps_and_edm_choose_how_to_sample(said, due):
    made = schedulers.sampling(said, USUAL)
    assert made == due and made.solver in SOLVERS
    grid = rebuild(parse(made.grid), GRIDS, "grid")(schedulers.process(said)[0], made.steps)
    assert len(grid) == made.steps + 1 and grid[-1] == 0


def test_latents_may_have_a_scale_and_a_shift_of_each_channel(tmp_path):
    """As the pipeline of XL decodes them, which is the one that looks at them."""
    torch.manual_seed(0)
    pipe = sdxl()
    system = configured(pipe, tmp_path / "a", **LATENTS)
    pipe.vae.register_to_config(**LATENTS)
    pipe.set_progress_bar_config(disable=True)
    close(ours(system), reference(pipe, system))
    with pytest.raises(UserError, match="is not a number for each of 4 channels"):
        configured(sdxl(), tmp_path / "b", **LATENTS | {"latents_std": [1.0]})


def test_an_autoencoder_that_says_no_scale_has_that_of_its_class(tmp_path):
    with torch.device("meta"):
        assert dcae.KIND.factor == diffusers.AutoencoderDC().config.scaling_factor
    system = configured(dit(), tmp_path, scaling_factor=None)
    assert system.codec.scale.tolist() == pytest.approx([1 / diffusers.AutoencoderKL().config.scaling_factor] * 4)
