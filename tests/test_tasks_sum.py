"""The sum, shown again: every task on every published system, opened from what its publishers write, under three solvers.

Tiny random weights draw nothing worth seeing; what is asked is that a picture of numbers comes, of the right size, that the task
shows in it, and that what is to be kept is kept. The tasks of models that learnt to be shown a picture (`Enlarge`, `Mend`,
`Instruct`) are theirs alone: tests/test_cascade.py, tests/test_shown_pictures.py.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_control_images import Colours
from test_generate import pixels
from test_sum import FROM_FILES, FROM_FOLDERS, opened

from reverie.adapt import Control, ImagePrompt
from reverie.adapt.image_prompt import sites
from reverie.errors import UserError
from reverie.nets.control import control_of
from reverie.nets.control_transformer import control_transformer_of
from reverie.nets.image_prompt import ImagePromptConfig, ImagePromptNet
from reverie.nets.unet import UNet
from reverie.tasks import Edit, Invert, Vary, generate, inpaint, outpaint, upscale
from reverie.tasks.control import Show, Steer
from reverie.tasks.follow import Follow
from reverie.tasks.regions import Region, Regions
from reverie.tasks.restore import Restore

SOLVERS = ("ddim", "dpmpp-2m", "euler-a")
CALM = 0.1
"""Of what a random net says where its way to noise is to be undone, as can be that of a net which has learnt."""
TIMES = "knots(0.9, 0.6, 0.3, 0)"


@pytest.fixture(scope="module", params=[*FROM_FOLDERS, *FROM_FILES])
def system(request, tmp_path_factory):
    """A system, what is said to it, its settings, and pictures drawn without a task."""
    made = opened(request.param, tmp_path_factory.mktemp(request.param))
    made.denoiser.bound = None  # at which every estimate of a random net would end
    side = 16 if "class" in made.encoders or made.prompt_encoder is None else 32
    size = {"height": max(side, 2 * made.step), "width": max(side, 2 * made.step)}
    words = "" if made.prompt_encoder is None else 7 if "class" in made.encoders else "a red fox"
    negative = "" if made.prompt_encoder is None else 8 if request.param in FROM_FILES else ""
    return made, words, {"negative": negative, "guidance": 1.0 if words == "" else 2.0, "seed": 3, **size}, {}


def photo(system, settings):
    shape = (settings["height"], settings["width"], 3)
    levels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(levels)
    return image if system.codec.channels == 3 else image.convert("L").convert("RGB")


def mask(settings, grey=255):
    made = Image.new("L", (settings["width"], settings["height"]), 0)
    made.paste(grey, (0, 0, settings["width"] // 2, settings["height"]))
    return made


def plain(system, words, settings, *tasks):
    return pixels(generate(system, words, tasks=tasks, **settings))


def control(system):
    torch.manual_seed(0)
    net = system.denoiser.net
    make = control_of if isinstance(net, UNet) else control_transformer_of
    made = make(net, factor=system.codec.factor)
    for part in made.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    return Control(net=made.eval().requires_grad_(False))


def edited(system, words, settings):
    return plain(system, words, settings, Edit(photo(system, settings), 0.5))


def painted(system, words, settings):
    made = pixels(inpaint(system, photo(system, settings), mask(settings), words, **settings))
    kept = np.asarray(mask(settings)) == 0
    assert (made[0][kept] == np.asarray(photo(system, settings).convert("RGB"))[kept]).all()
    return made


def resampled(system, words, settings):
    return pixels(inpaint(system, photo(system, settings), mask(settings), words, resample=1, **settings))


def graded(system, words, settings):
    return pixels(inpaint(system, photo(system, settings), mask(settings, 128), words, **settings))


def extended(system, words, settings):
    own = {k: v for k, v in settings.items() if k not in ("height", "width")}
    made = pixels(outpaint(system, photo(system, settings), words, right=system.step, **own))
    assert made.shape[2] == settings["width"] + system.step
    return made[:, :, : settings["width"]]


def enlarged(system, words, settings):
    own = {k: v for k, v in settings.items() if k not in ("height", "width")}
    image = photo(system, settings).resize((settings["width"] // 2, settings["height"] // 2))
    return pixels(upscale(system, image, words, 2, **own))


def varied(system, words, settings):
    return plain(system, words, settings, Vary(9, 0.5))


def inverted(system, words, settings):
    calm = system.denoiser.net.register_forward_hook(lambda net, given, out: CALM * out)
    try:
        made = plain(system, words, settings, Invert(photo(system, settings), words, 0.4))
        assert (made != plain(system, words, settings)).any(), "the task shows"
    finally:
        calm.remove()
    return made


def steered(system, words, settings):
    return plain(system, words, settings, Steer((control(system),), (photo(system, settings),)))


def seen(system, words, settings):
    model, said = system.denoiser, None if system.prompt_encoder is None else system.prompt_encoder.prompts([words], (32, 32))
    if model.guided:
        said = replace(said, guidance=torch.ones(1))
    x = torch.zeros(1, *system.codec.shape(settings["height"], settings["width"]))
    at, widths = sites(model, x, said)
    torch.manual_seed(0)
    net = ImagePromptNet(ImagePromptConfig(embed=3, tokens=2, width=16, sites=widths, at=at))
    for layer in net.v:
        torch.nn.init.normal_(layer.weight)
    return plain(system, words, settings, Show((ImagePrompt(net=net, eye=Colours()),), (photo(system, settings),)))


def followed(system, words, settings):
    return plain(system, words, settings, Follow("a blue hat" if isinstance(words, str) else 5))


def parted(system, words, settings):
    return plain(system, words, settings, Regions((Region(mask(settings), "a blue hat" if isinstance(words, str) else 5),)))


def attended(system, words, settings):
    other = "a blue hat" if isinstance(words, str) else 5
    return plain(system, words, settings, Regions((Region(mask(settings), other),), "attention"))


def restored(system, words, settings):
    return plain(system, words, settings, Restore(photo(system, settings), "grey()", 0.1, "mmps(steps=1)"))


def guided(system, words, settings):
    told = ("pag(scale=2.0)",) if system.denoiser.guided else ("interval(low=0.2, high=0.8)", "apg()", "rescale()")
    return plain(system, words, settings | {"guide": told})


TASKS = (edited, painted, resampled, graded, extended, enlarged, varied, inverted, steered, seen, restored)
OF_WORDS = (followed, parted, attended, guided)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("task", [*TASKS, *OF_WORDS], ids=lambda task: task.__name__)
def test_every_task_on_every_system(system, task, solver):
    made, words, settings, references = system
    if 0 < made.largest < settings["width"] + made.step and task is extended:
        with pytest.raises(UserError, match="too large"):
            task(made, words, settings | {"solver": solver, "grid": TIMES})
        return
    settings = settings | {"solver": solver, "grid": TIMES}
    if task in OF_WORDS and words == "":
        if task is followed:
            with pytest.raises(UserError, match="hears no words"):
                task(made, words, settings)
        pytest.skip("it hears no words")
    if task is attended and made.prompt_encoder.prompts([words], (32, 32)).tokens is None:
        with pytest.raises(UserError, match="as one vector"):
            task(made, words, settings)
        return
    if task is inverted and solver == "ddim":
        settings = settings | {"grid": "knots(0.9, 0.3, 0.29, 0.28, 0.1, 0.05, 0)"}
    out = task(made, words, settings)
    known = str(sorted(settings.items()))
    reference = references[known] if known in references else references.setdefault(known, plain(made, words, settings))
    assert out.shape[1:3] in (reference.shape[1:3], (settings["height"], settings["width"]))
    assert (out != reference).any(), "the task shows"
