"""A small untrained text-to-image system, for tests of everything around the net."""

import torch

from reverie.codec import Pixels
from reverie.denoiser import Denoiser, log_snr
from reverie.encode import Words
from reverie.nets.text import TextConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import rules, schedules
from reverie.systems import Sampling, System
from reverie.tasks.generate import run
from reverie.tasks.settings import settle

WORDS = ("a", "bald", "hair", "man", "micah", "red", "style", "with")


def small_system() -> System:
    torch.manual_seed(0)
    net = UNet(
        UNetConfig(channels=16, mult=(1, 2), blocks=1, attention=(1,), head_width=16, context_dim=16, vector_dim=16, groups=8)
    )
    for part in net.parameters():  # a net that heeds what it is told: nothing in it starts at zero
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    words = Words(WORDS, TextConfig(vocabulary=2 + len(WORDS), width=16, depth=1, heads=2, length=8))
    model = Denoiser(net, schedules.edm(), rules.edm(0.5), log_snr(), sigma_data=0.5)
    defaults = Sampling(steps=4, guidance=2.0, size=(16, 16))
    about = {"name": "small", "styles": ["micah"], "licence": "CC0-1.0"}
    system = System(denoiser=model, codec=Pixels(3), encoders={"prompt": words}, defaults=defaults, about=about)
    for part in (model, words):
        part.eval().requires_grad_(False)
    return system


def picture_of(system, prompt="a man", **settings):
    """The first picture of a call, with what made it."""
    events = list(run(system, settle(system, prompt, settings)))
    return events[-1][0]
