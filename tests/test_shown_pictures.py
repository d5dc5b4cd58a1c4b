"""Published nets that are told a picture, against diffusers 0.42.1: the same pictures from the same noise."""

import numpy as np
import published
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionInstructPix2PixPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from reverie.errors import UserError
from reverie.rng import Rng
from reverie.systems.foreign import open_folder, write_folder
from reverie.tasks import Edit, generate
from reverie.tasks.instruct import Instruct
from reverie.tasks.mend import Mend

SIZE = 32
PROMPT, NEGATIVE = "a red fox, 2 hats", "rain"
SETTINGS = {"negative": NEGATIVE, "guidance": 3.0, "solver": "ddim", "grid": "knots(1, 0.8, 0.6, 0.4, 0.2, 0)"}
SETTINGS |= {"seed": 5, "height": SIZE, "width": SIZE}


def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


def mask():
    made = Image.new("L", (SIZE, SIZE), 0)
    made.paste(255, (8, 4, 20, 24))
    return made


def pipeline(kind, channels):
    torch.manual_seed(0)
    pipe = published.sd1()
    net = pipe.unet
    net.conv_in = torch.nn.Conv2d(channels, net.conv_in.out_channels, 3, padding=1)
    net.register_to_config(in_channels=channels)
    made = kind(pipe.vae, pipe.text_encoder, pipe.tokenizer, net, pipe.scheduler, **published.NOTHING)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory):
    made, folder = pipeline(StableDiffusionInpaintPipeline, 9), tmp_path_factory.mktemp("inpaint")
    made.save_pretrained(folder)
    return made, folder


@pytest.fixture(scope="module")
def instructing(tmp_path_factory):
    made, folder = pipeline(StableDiffusionInstructPix2PixPipeline, 8), tmp_path_factory.mktemp("instruct")
    made.save_pretrained(folder)
    return made, folder


@pytest.fixture(autouse=True)
def mean(monkeypatch):
    """Their pipelines draw from what a picture is encoded as; the mean is what can be compared."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


def noise():
    return Rng.of(5).fold("prior").normal((1, 4, SIZE // 2, SIZE // 2))


def test_inpainting(inpainting):
    theirs, folder = inpainting
    said = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 3.0, "num_inference_steps": 5, "strength": 1.0}
    said |= {"height": SIZE, "width": SIZE, "latents": noise(), "output_type": "np"}
    expected = theirs(image=photo(), mask_image=mask(), **said).images[0] * 255
    system = open_folder(folder)
    hole = np.asarray(mask()) > 0
    made = np.asarray(generate(system, PROMPT, tasks=[Edit(photo(), 1.0, mask())], **SETTINGS)[0], np.float32)
    assert abs(made - expected)[hole].max() <= 1
    assert (made == np.asarray(photo()))[~hole].all(), "what is known is the picture itself"
    other = np.asarray(generate(system, PROMPT, tasks=[Edit(photo(), 1.0, mask().rotate(90))], **SETTINGS)[0])
    assert abs(other - made).max() > 5


@pytest.mark.parametrize("keep", [1.0, 1.7])
def test_instructions(instructing, keep):
    theirs, folder = instructing
    said = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 3.0, "num_inference_steps": 5}
    expected = theirs(image=photo(), image_guidance_scale=keep, latents=noise(), output_type="np", **said).images[0] * 255
    system = open_folder(folder)
    made = np.asarray(generate(system, PROMPT, tasks=[Instruct(photo(), keep)], **SETTINGS)[0], np.float32)
    assert abs(made - expected).max() <= 1
    assert abs(made - np.asarray(generate(system, PROMPT, tasks=[Instruct(photo(), 3.0)], **SETTINGS)[0])).max() > 2


def test_what_was_told_a_picture_is_written_and_opened_again(inpainting, tmp_path):
    system = open_folder(inpainting[1])
    write_folder(system, tmp_path)
    again = open_folder(tmp_path)
    one, two = (generate(s, PROMPT, tasks=[Edit(photo(), 1.0, mask())], **SETTINGS)[0] for s in (system, again))
    assert (np.asarray(one) == np.asarray(two)).all()


def test_what_they_cannot_do_is_said(inpainting, instructing):
    inpaint, instruct = (open_folder(folder) for _, folder in (inpainting, instructing))
    for system, task, said in (
        (inpaint, [], "makes none from words alone"),
        (inpaint, [Instruct(photo())], "follows no instructions"),
        (instruct, [Mend(photo())], "did not learn to mend"),
    ):
        with pytest.raises(UserError, match=said):
            generate(system, PROMPT, tasks=task, **SETTINGS)
    with pytest.raises(UserError, match="keep is nan"):
        Instruct(photo(), float("nan"))
