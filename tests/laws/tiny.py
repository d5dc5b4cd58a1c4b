"""A run small enough to be stopped and resumed many times: a U-Net with dropout that learns noise under made-up captions.

`python tests/laws/tiny.py FOLDER` trains in FOLDER and says every step; with `torn` it dies in the middle of a save.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from reverie import files
from reverie.denoiser import Denoiser
from reverie.encode import Words
from reverie.nets.text import TextConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import rules, schedules
from reverie.train import Run, Training, fit
from reverie.train.jobs import Diffusion
from reverie.train.objective import logit_normal

STEPS = 9
WORDS = ("red", "blue", "round", "square", "small", "large")
PLAIN = UNetConfig(in_channels=1, out_channels=1, channels=8, mult=(1, 2), blocks=1, groups=4)
NET = replace(PLAIN, context_dim=8, vector_dim=8, dropout=0.3)


def caption(i, rng):
    """Two words, drawn anew each time."""
    return " ".join(rng.permutation(WORDS[i % 4 :])[:2])


def settings(**changes):
    return Training(**({"steps": STEPS, "batch": 4, "warmup": 2, "snapshots": 0, "bf16": False, "save_minutes": 1e9} | changes))


def make(folder, net=NET, **changes):
    """A fresh run; the same one each time."""
    torch.manual_seed(0)
    text = TextConfig(vocabulary=8, width=8, depth=1, heads=2, length=4)
    denoiser = Denoiser(UNet(net), schedules.flow(), rules.velocity())
    data = torch.randn(14, 1, 8, 8)
    laws = {"times": logit_normal(), "encoder": Words(WORDS, text), "prompt": caption, "held_prompt": caption}
    return Run(Diffusion(denoiser, data[4:], data[:4], **laws), settings(**changes), Path(folder))


def state(run):
    """Everything a run holds: weights, averages, optimiser."""
    moments = {f"{i}.{k}": v for i, p in enumerate(run.parameters) for k, v in run.optimiser.state[p].items()}
    return {k: v.clone() for k, v in (run.job.module.state_dict() | run.ema.state() | moments).items()}


def die_while_writing(saves):
    """The process is killed when this save has reached the temporary file, and not yet the disk."""
    left, flush = [saves], files.os.fsync

    def fsync(handle):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(handle)

    files.os.fsync = fsync


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "torn" in sys.argv:
        die_while_writing(7)  # two flushes a save: the file's, the folder's
    for now in fit(make(sys.argv[1], save_minutes=0)):
        print(now.step, flush=True)
