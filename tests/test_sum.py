"""Systems x solvers x guidance is a sum: every published system, opened from a folder, under every solver there is.

Tiny random weights draw nothing worth seeing; what is asked is that a picture comes at all: of the right shape, of numbers, other
than the noise it began with, and another when guided.
"""

from dataclasses import replace

import pytest
import torch
from published import PIPELINES
from test_pixel_systems import FILES, saved
from test_pixel_systems import PIPELINES as PIXELS

from reverie.errors import UserError
from reverie.guide import cfg
from reverie.process import grids
from reverie.rng import Rng
from reverie.solve import trace
from reverie.solve.table import ROWS
from reverie.systems.foreign import open_file, open_folder

VARIANCE = {"ddpm-learned"}
"""Solvers for nets that learnt a variance."""


FROM_FILES = {"iddpm": "iddpm-classes", "adm": "adm-64"}
FROM_FOLDERS = PIPELINES | {"ddpm": PIXELS["ddpm"], "ldm": PIXELS["latent"]}


def opened(name, folder):
    torch.manual_seed(0)
    if name in FROM_FILES:
        kind = FROM_FILES[name]
        config, classes, new, _ = FILES[kind]
        return open_file(saved(kind, config, folder, classes, new))
    FROM_FOLDERS[name]().save_pretrained(folder)
    return open_folder(folder)


@pytest.fixture(scope="module", params=[*FROM_FOLDERS, *FROM_FILES])
def system(request, tmp_path_factory):
    """(denoiser, condition, negative condition, start) of a system; no conditions where it hears nothing."""
    made = opened(request.param, tmp_path_factory.mktemp(request.param))
    model, size = made.denoiser, (32, 32) if request.param in PIPELINES else (16, 16)
    model.bound = None  # at which every estimate of a random net would end
    start = model.path.prior((1, *made.codec.shape(*size)), rng=Rng.of(3), spread=1.0)
    if (encoder := made.prompt_encoder) is None:
        return model, None, None, start
    words = (7, 8 if request.param in FROM_FILES else "") if "class" in made.encoders else ("a red fox", "")
    with torch.no_grad():
        said, unsaid = (encoder.prompts([text], size) for text in words)
    if model.guided:
        said, unsaid = (replace(c, guidance=torch.tensor([3.5])) for c in (said, unsaid))
    return model, said, unsaid, start


@torch.no_grad()
def drawn(model, x, cond, row):
    """An adaptive solver, which takes hundreds of steps through a random net, goes the end of the way only."""
    times = (0.05, 0.0) if row.family == "adaptive" else (0.9, 0.45, 0.0)
    grid = grids.knots(*times)(model.path, len(times) - 1)
    *_, last = trace(model, x, grid, row.make(), cond=cond, rng=Rng.of(3))
    return last.x


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_system_under_every_solver(system, row):
    model, said, unsaid, start = system
    if row.name in VARIANCE and not model.learned_variance:
        with pytest.raises(UserError, match="learnt no variance"):
            drawn(model, start, said, row)
        return
    models = (model,) if unsaid is None else (model, cfg(model, 3.0, unsaid))
    pictures = [drawn(m, start, said, row) for m in models]
    for x in pictures:
        assert x.shape == start.shape and bool(x.isfinite().all()) and not torch.allclose(x, start)
    assert unsaid is None or not torch.equal(*pictures)
