"""Systems x solvers x guidance is a sum: every published system, opened from a folder, under every solver there is.

Tiny random weights draw nothing worth seeing; what is asked is that a picture comes at all: of the right shape, of numbers, other
than the noise it began with, and another when guided.
"""

import pytest
import torch
from published import PIPELINES

from reverie.errors import UserError
from reverie.guide import cfg
from reverie.process import grids
from reverie.rng import Rng
from reverie.solve import trace
from reverie.solve.table import ROWS
from reverie.systems.foreign import open_folder

STEPS = 2
VARIANCE = {"ddpm-learned"}
"""Solvers for nets that learnt a variance."""


@pytest.fixture(scope="module", params=PIPELINES)
def system(request, tmp_path_factory):
    """(denoiser, condition, negative condition, start) of a system."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    PIPELINES[request.param]().save_pretrained(folder)
    made = open_folder(folder)
    encoder, size = made.prompt_encoder, (32, 32)
    with torch.no_grad():
        said, unsaid = (encoder.prompts([text], size) for text in ((7, "") if "class" in made.encoders else ("a red fox", "")))
    model = made.denoiser
    if model.guided:
        said, unsaid = (type(c)(**vars(c) | {"guidance": torch.tensor([3.5])}) for c in (said, unsaid))
    start = model.path.prior((1, *made.codec.shape(*size)), rng=Rng.of(3), spread=1.0)
    return model, said, unsaid, start


@torch.no_grad()
def drawn(model, x, cond, row):
    """An adaptive solver, which takes hundreds of steps through a random net, goes the end of the way only."""
    grid = grids.knots(0.05, 0.0)(model.path, 1) if row.family == "adaptive" else grids.uniform()(model.path, STEPS)
    *_, last = trace(model, x, grid, row.make(), cond=cond, rng=Rng.of(3))
    return last.x


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_system_under_every_solver(system, row):
    model, said, unsaid, start = system
    if row.name in VARIANCE and not model.learned_variance:
        with pytest.raises(UserError, match="learnt no variance"):
            drawn(model, start, said, row)
        return
    pictures = [drawn(m, start, said, row) for m in (model, cfg(model, 3.0, unsaid))]
    for x in pictures:
        assert x.shape == start.shape and bool(x.isfinite().all()) and not torch.allclose(x, start)
    assert not torch.equal(*pictures)
