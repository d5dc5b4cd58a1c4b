"""Law 10: a tiny net, trained for seconds, draws from the distribution it was shown."""

from dataclasses import replace

import torch

from reverie.nets.mlp import MLPConfig
from reverie.process import grids
from reverie.rng import Rng
from reverie.solve import heun, sample
from reverie.systems.toy.recipe import TOY, ring
from reverie.train.loop import Run, fit

COUNT = 2000


def energy(a, b):
    """Squared energy distance 2 E|a - b| - E|a - a'| - E|b - b'|, unbiased; zero only for equal distributions."""
    within = sum(torch.cdist(c, c).sum() / (len(c) * (len(c) - 1)) for c in (a, b))
    return float(2 * torch.cdist(a, b).mean() - within)


def test_law_10_the_toy_recipe_learns_the_ring(tmp_path):
    training = replace(TOY.training, steps=500, batch=192, rate=4e-3, warmup=20, holdout=64, save_minutes=1e9, validate_minutes=1e9)
    recipe = replace(TOY, count=8000, net=MLPConfig(width=64, depth=2), training=training)
    system, job = recipe.prepare(recipe.pictures())
    run = Run(job, training, tmp_path)
    losses = [now.loss for now in fit(run)]
    assert sum(losses[-50:]) < 0.9 * sum(losses[:50])
    with run.averaged():
        x = system.denoiser.path.prior((COUNT, 2), rng=Rng.of(1, COUNT))
        drawn = sample(system.denoiser, x, grids.uniform()(system.denoiser.path, 12), heun())
    truth = ring(Rng.of(10**6, COUNT))
    matched = truth.mean(0) + Rng.of(5, COUNT).normal((COUNT, 2)) @ torch.linalg.cholesky(torch.cov(truth.T)).T
    assert energy(drawn, truth) < 0.01
    assert 4 * energy(drawn, truth) < energy(matched, truth)
