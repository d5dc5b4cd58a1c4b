"""Law 8: a sample does not depend on the batch it is drawn in."""

import json

import pytest
import torch
from paths import F64, PATHS, mixture

from reverie.denoiser import Cond, Denoiser, OneByOne
from reverie.errors import UserError
from reverie.files import save_tensors
from reverie.guide import cfg
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.nets.precision import Linear, quick_dtype
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import grids, rules, schedules
from reverie.process.noise import gaussian, offset, student_t
from reverie.rng import Rng
from reverie.solve import SOLVERS as NAMED
from reverie.solve import (
    Analytic,
    Ancestral,
    Churn,
    Exponential,
    Langevin,
    Learned,
    Restart,
    Single,
    heun,
    lms,
    load_step,
    midpoint,
    sample,
    save_step,
    trace,
    unipc,
)

SOLVERS = {
    "ddpm": Ancestral(1.0),
    "exponential-3-heun": Exponential(3, start="heun"),
    "sde-2": Exponential(2, eta=1.0),
    "heun": heun(),
    "midpoint": midpoint(),
    "lms": lms(4),
    "unipc": unipc(2),
    "seeds-3": Single(3, eta=1.0),
    "churn": Churn(heun(), amount=8, steps=8),
    "restart": Restart(heun(), low=0.5, times=2),
    "langevin": Langevin(None, 3),
    "predictor-corrector": Langevin(Ancestral(1.0)),
}


@pytest.mark.parametrize("law", [gaussian(), offset(0.3), student_t(5.0)], ids=["gaussian", "offset", "student_t"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_law_8_noise_of_a_sample_is_that_of_the_sample_alone(law, dtype):
    batch = law((6, 3, 4, 5), Rng.of(40, 6, dtype=dtype).fold("step", 3))
    for k in range(6):
        assert torch.equal(batch[k : k + 1], law((1, 3, 4, 5), Rng.of(40 + k, dtype=dtype).fold("step", 3)))
    some = law((3, 3, 4, 5), Rng.of([44, 40, 44], dtype=dtype).fold("step", 3))
    assert torch.equal(some, batch[[4, 0, 4]])
    assert torch.equal(law((2, 3, 4, 5), Rng.of(40, 6, dtype=dtype).fold("step", 3)[2:4]), batch[2:4])


@pytest.mark.parametrize("path", PATHS)
def test_law_8_a_trace_of_a_sample_is_that_of_the_sample_alone(path):
    path = PATHS[path]
    model, grid = mixture(path), grids.exponential()(path, 6)

    def run(solver, rng):
        return sample(model, path.prior((len(rng.seeds), 2), rng=rng), grid, solver, rng=rng)

    for name, solver in SOLVERS.items():
        batch, alone = run(solver, Rng.of(7, 4, dtype=F64)), run(solver, Rng.of(9, dtype=F64))
        assert (batch[2:3] - alone).abs().max() < 1e-12 * max(1, float(path(1.0)[1])), name


@pytest.mark.parametrize("path", PATHS)
def test_law_8_one_time_or_one_per_sample(path):
    path = PATHS[path]
    model, rng = mixture(path), Rng.of(7, 4, dtype=F64)
    x, grid = path.prior((4, 2), rng=rng), grids.exponential()(path, 5)
    for t in (grid[0], grid[2]):
        assert torch.equal(model(x, t), model(x, t.expand(4)))
        assert torch.equal(path.mix(x, x, t), path.mix(x, x, t.expand(4)))
    for name, solver in SOLVERS.items():
        one = sample(model, x, grid, solver, rng=rng)
        assert (sample(model, x, grid[:, None].expand(6, 4), solver, rng=rng) - one).abs().max() < 1e-12, name


def test_law_8_samples_may_have_grids_of_their_own():
    path = schedules.cosine()
    model, rng = mixture(path), Rng.of(7, 2, dtype=F64)
    x, one, two = path.prior((2, 2), rng=rng), grids.uniform()(path, 5), grids.quadratic()(path, 5)
    for name, solver in SOLVERS.items():
        both = sample(model, x, torch.stack([one, two], 1), solver, rng=rng)
        alone = [sample(model, x[k : k + 1], g, solver, rng=rng[k : k + 1]) for k, g in enumerate((one, two))]
        assert (both - torch.cat(alone)).abs().max() < 1e-12, name


def test_law_8_a_trace_goes_on_from_any_step():
    path = schedules.flow()
    model, rng = mixture(path), Rng.of(7, 4, dtype=F64)
    x, grid = path.prior((4, 2), rng=rng), grids.uniform()(path, 6)
    for name, solver in SOLVERS.items():
        steps = list(trace(model, x, grid, solver, rng=rng))
        later = list(trace(model, x, grid, solver, rng=rng, begin=steps[2]))
        assert torch.equal(later[-1].x, steps[-1].x) and later[-1].nfe == steps[-1].nfe, name
        assert [s.index for s in later] == [3, 4, 5]


def test_law_8_a_trace_goes_on_from_a_step_on_disk(tmp_path):
    """Of every solver there is, on one grid and on one of each sample's own; what is carried is whole."""
    path = schedules.flow()
    model, rng = Drawn(path), Rng.of(7, 4, dtype=F64)
    x, grid = path.prior((4, 2), rng=rng), grids.uniform()(path, 6)
    for name, solver in ALONE.items():
        for times in (grid, grid[:, None].expand(7, 4)):
            steps = list(trace(model, x, times, solver, rng=rng))
            save_step(steps[3], tmp_path / "step.safetensors", {"picture": 1})
            step, about = load_step(tmp_path / "step.safetensors")
            later = list(trace(model, x, times, solver, rng=rng, begin=step))
            assert torch.equal(later[-1].x, steps[-1].x) and later[-1].nfe == steps[-1].nfe, name
            assert [s.index for s in later] == [4, 5] and about == {"picture": 1}


def test_what_is_no_step_is_refused(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, {"step": json.dumps({"index": 1})})
    (tmp_path / "b.safetensors").write_bytes(b"cut")
    for name, said in (("a", "holds no step"), ("b", "not a whole safetensors file")):
        with pytest.raises(UserError, match=f"{said}.*begin the picture anew"):
            load_step(tmp_path / f"{name}.safetensors")


def test_law_8_strict_pictures_do_not_change_by_a_bit():
    torch.manual_seed(0)
    net = UNet(UNetConfig(channels=16, mult=(1, 2), blocks=1, attention=(1,), groups=8, context_dim=12, vector_dim=12)).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)  # the last layers start at zero
    model = OneByOne(Denoiser(net, schedules.flow(), rules.velocity()))
    make = torch.Generator().manual_seed(1)
    tokens, vector = torch.randn(5, 3, 12, generator=make), torch.randn(5, 12, generator=make)
    cond = Cond(vector=vector, tokens=tokens, mask=torch.arange(3) < torch.tensor([3, 1, 2, 3, 1])[:, None])
    none = Cond(vector=0 * vector, tokens=0 * tokens, mask=cond.mask)

    def run(rows):
        rng = Rng.of(20, 5)[rows]
        x = model.path.prior((len(rng.seeds), 3, 8, 8), rng=rng)
        guided = cfg(model, 3.0, none[rows])
        return sample(guided, x, grids.uniform()(model.path, 3), Ancestral(1.0), cond=cond[rows], rng=rng)

    batch = run(slice(0, 5))
    assert batch.dtype == torch.float32 and float(batch.std()) > 0.1
    for k in range(5):
        assert torch.equal(batch[k : k + 1], run(slice(k, k + 1)))


NETS = {
    "dit": DiT(DiTConfig(in_channels=3, size=32, patch=4, width=256, depth=4, heads=4, context_dim=512, vector_dim=64)),
    "mmdit": MMDiT(MMDiTConfig(in_channels=3, patch=4, width=384, depth=2, single=1, context_dim=768, vector_dim=64)),
    "unet": UNet(UNetConfig(channels=64, mult=(1, 2, 8), blocks=1, attention=(1, 2), context_dim=768, vector_dim=64)),
}


@pytest.mark.skipif(quick_dtype() is None, reason="this processor computes in float32, where a bit that turns is not seen")
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_law_8_nets_in_bfloat16_do_not_look_at_the_batch(name):
    net, make = NETS[name].eval(), torch.Generator().manual_seed(1)
    for p in net.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5, generator=make)
        else:  # a bias of 0 would hide where it is added: before or after rounding
            p.add_(torch.randn(p.shape, generator=make), alpha=0.1)
    x, t, vector = (
        torch.randn(6, 3, 32, 32, generator=make),
        1000 * torch.rand(6, generator=make),
        torch.randn(6, 64, generator=make),
    )
    tokens = torch.randn(6, 24, 512 if name == "dit" else 768, generator=make)
    with torch.autocast("cpu", torch.bfloat16):
        batch = net(x, t, tokens=tokens, vector=vector)
        for n in (1, 2, 3):
            assert torch.equal(net(x[:n], t[:n], tokens=tokens[:n], vector=vector[:n]), batch[:n])


@pytest.mark.skipif(quick_dtype() is None, reason="this processor computes in float32, where a bit that turns is not seen")
@pytest.mark.parametrize("length", [8, 63, 64, 154, 320, 767, 768, 1024])
@pytest.mark.parametrize("deep, wide", [(512, 512), (1536, 384), (3072, 768)])
@pytest.mark.parametrize("threads", [1, 2])
@torch.no_grad()
def test_law_8_a_product_of_a_samples_tokens_does_not_look_at_the_batch(length, deep, wide, threads):
    layer, make = Linear(deep, wide), torch.Generator().manual_seed(1)
    x = torch.randn(6, length, deep, generator=make)
    torch.set_num_threads(threads)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            batch = layer(x)
            assert all(torch.equal(layer(x[:n]), batch[:n]) for n in (1, 2, 3))
    finally:
        torch.set_num_threads(1)
    assert (batch - torch.nn.functional.linear(x, layer.weight, layer.bias)).norm() < 0.02 * batch.norm()


class Drawn:
    """A mixture with a net that says how far its variance lies between its ends."""

    def __init__(self, path):
        self.path, self.model = path, mixture(path)

    def __call__(self, x, t, cond=None):
        assert bool((torch.as_tensor(t) > 0).all()), "no net is asked at t = 0"
        return self.model(x, t, cond)

    def with_variance(self, x, t, cond=None):
        return self(x, t, cond), torch.full_like(x, 0.5)


ALONE = SOLVERS | {name: row.make() for name, row in NAMED.items()} | {"bridge": Ancestral(1.0), "analytic": Analytic(heun())}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("path", ["flow", "vp", "cosine", "linear_table"])
def test_law_8_a_sample_that_has_arrived_stays(name, path):
    """Bit for bit, while the others go on as if they were alone."""
    model, solver = Drawn(PATHS[path]), ALONE[name]
    rng = Rng.of(7, 3, dtype=F64)
    columns = [[0.9, 0.5, 0.2, 0.0], [0.9, 0.0, 0.0, 0.0], [0.9, 0.6, 0.0, 0.0]]
    grid = torch.tensor(columns, dtype=F64).T
    x = model.path.prior((3, 2), rng=rng)
    steps = list(trace(model, x, grid, solver, rng=rng))
    for arrived, row in ((0, 1), (1, 2)):
        assert all(torch.equal(step.x[row], steps[arrived].x[row]) for step in steps[arrived:]), row
    for row, column in enumerate(columns):
        own = torch.tensor([t for k, t in enumerate(column) if t or k == column.index(0.0)], dtype=F64)
        alone = sample(model, x[row : row + 1], own, solver, rng=rng[row : row + 1])
        assert (steps[-1].x[row] - alone[0]).abs().max() < 1e-9, row


def test_law_8_one_by_one_tells_variances_too():
    model, rng = Drawn(PATHS["cosine"]), Rng.of(7, 3, dtype=F64)
    x, grid = model.path.prior((3, 2), rng=rng), grids.uniform()(model.path, 6)
    together, each = (sample(m, x, grid, Learned(), rng=rng) for m in (model, OneByOne(model)))
    assert (together - each).abs().max() < 1e-12
    assert torch.equal(sample(model, x, grid, Analytic(Learned()), rng=rng), together)  # there is no guess of a variance
