"""What a run will take, tried out before it begins: a step's time and the memory, and where it should have ended, by its log."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from reverie.train.loop import Key, Run

TRIED = 3
WORSE = 1.02
"""From this ratio on a loss is worse than another, and not its noise."""


@dataclass(frozen=True)
class Estimate:
    """seconds: of a step. memory: bytes of the process at its most, or of the accelerator."""

    seconds: float
    memory: int


def tried(run: Run) -> Estimate:
    """A few steps are taken, of which nothing is left; for jobs whose loss changes nothing but gradients."""
    times = []
    for _ in range(TRIED):
        begin = time.perf_counter()
        run.job.loss(run.index(), Key(run.training.seed, run.step)).mean().backward()
        times.append(time.perf_counter() - begin)
        for p in run.parameters:
            p.grad = None
    return Estimate(min(times), peak())


def peak() -> int:
    """Bytes that were in use at the most: of the accelerator where there is one, else of the process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def told(estimate: Estimate, run: Run, pictures: int) -> str:
    """A line for a person."""
    training = run.training
    steps = run.steps or int(60 * training.minutes / estimate.seconds)
    minutes = steps * estimate.seconds / 60
    memory = f"; {estimate.memory / 2**30:.1f} GB of memory" if estimate.memory else ""
    seen = f", each of {pictures} pictures some {steps * training.batch / pictures:.0f} times" if pictures else ""
    return f"a step takes {estimate.seconds:.3g} s here: {steps} steps in {minutes:.2g} minutes{seen}{memory}"


def advice(log: Path) -> str:
    """Where the held-out loss was least, if that was before the end and it is worse now; else ''."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    found = [(line["validation"], line["step"]) for line in lines if line.get("validation") is not None]
    if len(found) < 2 or found[-1][0] <= WORSE * min(found)[0]:
        return ""
    (least, step), (last, _) = min(found), found[-1]
    return f"the held-out loss was least at step {step} ({least:.4g}) and is {last:.4g} now: what came after was learnt by heart"
