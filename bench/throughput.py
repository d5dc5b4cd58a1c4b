"""Speed against diffusers 0.42.1 with the same U-Net weights, interleaved in one run, as ratios.

    pip install '.[bench]' -c constraints.txt
    OMP_WAIT_POLICY=passive python bench/throughput.py --out bench/results/throughput.json

The net is the public DDPM for CIFAR-10 at a quarter of its width, as in law 11. Both sample with DDIM on 20 steps from the same
noise; each side with the defaults its user gets (ours: bf16 inside the net and channels last, as `reverie generate`; theirs: as
loaded, fp32). Training is one step of noise prediction, batch 32, gradients clipped, AdamW, averaged weights: ours as `reverie
train` takes it (bf16, two averages), theirs as in their unconditional example with --use_ema (fp32, one average). Loop overhead is
loop / (as many forwards) - 1. Medians and 10th to 90th percentiles, of ratios of neighbours in time. PSNR is of the shipped model
in bf16 against fp32, from the same noise.
"""

import copy
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from diffusers import DDIMScheduler
from diffusers.training_utils import EMAModel

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests" / "data"), str(HERE.parent / "tests" / "laws")]
from make_ddpm_reference import ours, reference  # noqa: E402
from test_law11_backbones import SMALL  # noqa: E402

from reverie.denoiser import Denoiser, timestep  # noqa: E402
from reverie.measure.prompts import avatar_prompts  # noqa: E402
from reverie.nets.precision import held  # noqa: E402
from reverie.nets.unet import UNet  # noqa: E402
from reverie.process import grids, rules, schedules  # noqa: E402
from reverie.rng import Rng  # noqa: E402
from reverie.solve import Ancestral, sample  # noqa: E402
from reverie.systems.shipped import SHIPPED, open_model  # noqa: E402
from reverie.systems.weights import load  # noqa: E402
from reverie.tasks.generate import generate  # noqa: E402
from reverie.train import denoising  # noqa: E402
from reverie.train.loop import Run  # noqa: E402
from reverie.train.training import Training  # noqa: E402


@dataclass
class Bench:
    repeats: int = 10
    batch: int = 8
    steps: int = 20
    threads: int = 2
    out: Path = HERE / "results" / "throughput.json"


def pair():
    """Their net and our denoiser, with the same weights."""
    theirs = reference(32).eval()
    net = UNet(SMALL).eval()
    net.load_state_dict({ours(k): v for k, v in theirs.state_dict().items()})
    model = Denoiser(net, schedules.linear_table(), rules.eps(), timestep(1000, -1), autocast=torch.bfloat16)
    return theirs, model.to(memory_format=torch.channels_last)


def spread(values):
    return {"median": float(np.median(values)), "p10": float(np.percentile(values, 10)), "p90": float(np.percentile(values, 90))}


def clock(f):
    begin = time.perf_counter()
    f()
    return time.perf_counter() - begin


def compare(theirs, ours, repeats):
    """Seconds of both, A-B-A-B after three warm-ups, and the ratio theirs / ours."""
    for _ in range(3):
        theirs()
        ours()
    pairs = [(clock(theirs), clock(ours)) for _ in range(repeats)]
    a, b = np.array(pairs).T
    return {"diffusers_s": spread(a), "reverie_s": spread(b), "speed_ratio": spread(a / b)}


def samplers(bench, theirs, model):
    """(their loop, our loop), from the same noise."""
    x = Rng.of(0, bench.batch).normal((bench.batch, 3, 32, 32))
    scheduler = DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(bench.steps)
    grid = grids.trailing()(model.path, bench.steps)

    @torch.no_grad()
    def their_loop():
        y = x
        for t in scheduler.timesteps:
            y = scheduler.step(theirs(y, t).sample, t, y).prev_sample
        return y

    def our_loop():
        with torch.no_grad():
            return sample(model, x.contiguous(memory_format=torch.channels_last), grid, Ancestral(eta=0.0))

    return their_loop, our_loop


def sampling(bench, theirs, exact):
    """exact: our model in fp32; a user's has its weights in bf16."""
    model = copy.deepcopy(exact)
    held(model, model.autocast)
    their_loop, our_loop = samplers(bench, theirs, model)
    x = torch.randn(bench.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def forward():
        with torch.no_grad():
            model(x, 0.5)

    result = compare(their_loop, our_loop, bench.repeats)
    bare = [clock(our_loop) / sum(clock(forward) for _ in range(bench.steps)) for _ in range(bench.repeats)]
    result["loop_overhead"] = float(np.median(bare)) - 1
    exact.autocast = None
    ours = samplers(bench, theirs, exact)[1]()
    exact.autocast = torch.bfloat16
    result["rms_difference_to_diffusers_fp32"] = float((ours - their_loop()).square().mean().sqrt())
    return result


def visible(count=32):
    """What bf16 changes in the pictures of the shipped model: PSNR in dB over 8-bit pixels, same seeds."""
    system = open_model("reverie-avatars")
    prompts = [p.text for p in avatar_prompts(count)]
    quick = np.stack([np.asarray(i, float) for i in generate(system, prompts, seed=1)])
    system = load(SHIPPED["reverie-avatars"])
    exact = np.stack([np.asarray(i, float) for i in generate(system, prompts, seed=1)])
    each = 10 * np.log10(255**2 / np.square(quick - exact).mean((1, 2, 3)))
    return {
        "pictures": count,
        "psnr_db": spread(each),
        "psnr_of_all_db": float(10 * np.log10(255**2 / np.square(quick - exact).mean())),
    }


class Same:
    """A job that trains on one batch, so that both sides see the same."""

    size = 32

    def __init__(self, model, x0, t, n):
        self.module, self.batch = model, (x0.contiguous(memory_format=torch.channels_last), t.clamp(min=1e-3), n)

    def loss(self, index, key):
        return denoising(self.module, *self.batch)

    def validate(self):
        return 0.0


def trainers(theirs, model):
    """(their step, our step), from the same noise."""
    x0 = torch.randn(32, 3, 32, 32)
    t, n = torch.rand(32, dtype=torch.float64), torch.randn(32, 3, 32, 32)
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    optimiser, average = torch.optim.AdamW(theirs.parameters(), 1e-4), EMAModel(theirs.parameters(), use_ema_warmup=True)
    run = Run(Same(model, x0, t, n), Training(batch=32), Path("unused"))

    def their_step():
        steps = (t * 1000).long()
        F.mse_loss(theirs(scheduler.add_noise(x0, n, steps), steps).sample, n).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        average.step(theirs.parameters())

    return their_step, run.advance


def spend(side, what):
    """What `memory` measures, in an interpreter of its own."""
    torch.set_num_threads(1)
    theirs, model = pair()
    if what == "sampling":
        held(model, model.autocast)
    works = samplers(Bench(steps=3), theirs, model) if what == "sampling" else trainers(theirs.train(), model.train())
    for _ in range(2):
        works[side]()


def memory():
    """Peak memory in MB of sampling and training, each in a fresh interpreter that has both libraries loaded."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import throughput; throughput.spend"
    names = ("diffusers_mb", "reverie_mb")
    return {what: {name: process(f"{code}({k}, '{what}')")[1] for k, name in enumerate(names)} for what in ("sampling", "training")}


def process(code):
    """(seconds, peak memory in MB) of a fresh interpreter that runs `code`."""
    code += "; print(next(int(w.split()[1]) / 1024 for w in open('/proc/self/status') if w.startswith('VmHWM')))"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.perf_counter() - begin, float(done.stdout.split()[-1])


def imports(bench):
    """What it costs to have everything for sampling at hand."""
    theirs = "from diffusers import UNet2DModel, DDIMScheduler"
    mine = "from reverie import Denoiser, Ancestral, sample; from reverie.nets.unet import UNet"
    pairs = [(process(theirs), process(mine)) for _ in range(max(3, bench.repeats // 3))]
    return {
        "diffusers_s": spread([a[0] for a, _ in pairs]), "reverie_s": spread([b[0] for _, b in pairs]),
        "diffusers_mb": spread([a[1] for a, _ in pairs]), "reverie_mb": spread([b[1] for _, b in pairs]),
    }  # fmt: skip


def main(bench: Bench):
    torch.set_num_threads(bench.threads)
    theirs, model = pair()
    result = {"torch": torch.__version__, "threads": bench.threads, "batch": bench.batch, "steps": bench.steps}
    result["sampling"] = sampling(bench, theirs, model)
    result["bf16_against_fp32"] = visible()
    result["training"] = compare(*trainers(theirs.train(), model.train()), bench.repeats)
    result["peak_memory"] = memory()
    result["imports"] = imports(bench)
    bench.out.parent.mkdir(parents=True, exist_ok=True)
    bench.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Bench))
