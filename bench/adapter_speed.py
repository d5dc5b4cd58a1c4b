"""Training and switching adapters against diffusers 0.42.1 with peft 0.21.2, the same tiny net of Stable Diffusion 1's kind.

    pip install '.[bench]' -c constraints.txt
    python bench/adapter_speed.py

A U-Net of 64, 128 and 256 channels with cross-attention, random weights, opened from the folder that diffusers writes. Both learn
changes of rank 8 of the attentions' queries, keys, values and ends, of the same batch: noise prediction in fp32, AdamW, gradients
clipped; ours as `reverie adapt` takes a step, with its average. Interleaved in one run, as ratios; medians, and 10th to 90th
percentiles. memory: peak of a fresh interpreter. Switching: from one adapter of all these layers to another, and then one
evaluation: ours stands in the weights, theirs beside them.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from throughput import HERE, clock, compare, process, spread

sys.path.insert(0, str(HERE.parent / "tests"))
import published

from reverie.adapt.lora import Changed
from reverie.denoiser import Cond
from reverie.nets.lora import adapt, changes
from reverie.systems.foreign import open_folder
from reverie.systems.lora import open_lora
from reverie.systems.lora.places import weights
from reverie.train import denoising
from reverie.train.loop import Run
from reverie.train.training import Training

RANK, BATCH, SIDE, WORDS = 8, 4, 32, 64
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
OURS = r"(self|cross|own|attention)\w*\.(q|k|v|qkv|kv|out)$"


@dataclass
class Bench:
    repeats: int = 20
    threads: int = 1
    out: Path = HERE / "results" / "adapter-speed.json"


def pair():
    """Their net and our system, with the same weights."""
    torch.manual_seed(0)
    pipe = published.sd1()
    kinds = published.blocks(published.CROSS, published.CROSS, published.PLAIN)
    shape = {"block_out_channels": (64, 128, 256), "layers_per_block": 2, "norm_num_groups": 32, "sample_size": SIDE}
    net = UNet2DConditionModel(**shape, **kinds, cross_attention_dim=24, attention_head_dim=4)
    pipe.unet = published.awake(net)
    with tempfile.TemporaryDirectory() as folder:
        pipe.save_pretrained(folder)
        system = open_folder(Path(folder))
    return pipe, system


class Same:
    """A job that trains on one batch, so that both sides see the same."""

    size = BATCH

    def __init__(self, system, x0, t, n, words):
        self.model, self.batch, self.cond = system.denoiser, (x0, t, n), Cond(tokens=words)
        self.module = torch.nn.ModuleList(changes(system.denoiser.net))

    def loss(self, index, key):
        return denoising(self.model, *self.batch, self.cond)

    def validate(self):
        return 0.0


def trainers(pipe, system):
    """(their step, our step), and how many numbers each learns."""
    theirs = pipe.unet.requires_grad_(False).train()
    theirs.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    learns = [p for p in theirs.parameters() if p.requires_grad]
    system.denoiser.requires_grad_(False)
    adapt(system.denoiser.net, RANK, layers=OURS)
    x0, n, words = torch.randn(BATCH, 4, SIDE, SIDE), torch.randn(BATCH, 4, SIDE, SIDE), torch.randn(BATCH, WORDS, 24)
    steps = torch.tensor([100, 300, 500, 900])[:BATCH]
    run = Run(Same(system, x0, (steps + 1).double() / 1000, n, words), Training(batch=BATCH, bf16=False), Path("unused"))
    alphas = pipe.scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
    optimiser = torch.optim.AdamW(learns, 1e-3)

    def their_step():
        F.mse_loss(theirs(alphas.sqrt() * x0 + (1 - alphas).sqrt() * n, steps, words).sample, n).backward()
        torch.nn.utils.clip_grad_norm_(learns, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    counts = sum(p.numel() for p in learns), sum(p.numel() for p in run.job.module.parameters())
    return (their_step, run.advance), counts


def spend(side):
    """What `memory` measures, in an interpreter of its own."""
    torch.set_num_threads(1)
    works, _ = trainers(*pair())
    for _ in range(3):
        works[side]()


def switching(repeats):
    """Seconds from one adapter to another, of a step with it, and of a step without."""
    pipe, system = pair()
    theirs, loras = pipe.unet.requires_grad_(False), []
    for name in ("one", "other"):
        theirs.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, init_lora_weights="gaussian"), name)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one", "other"):
            theirs.set_adapter(name)
            for key, value in theirs.named_parameters():
                if f"lora_B.{name}" in key:
                    torch.nn.init.normal_(value, std=0.02)
            theirs.save_lora_adapter(folder, adapter_name=name, weight_name=f"{name}.safetensors")
            loras.append(open_lora(Path(folder) / f"{name}.safetensors", system))
    placed = Changed(weights(system))
    x, words, turn = torch.randn(1, 4, SIDE, SIDE), torch.randn(1, WORDS, 24), [0, 0]

    def their_switch():
        turn[0] += 1
        theirs.set_adapter(("one", "other")[turn[0] % 2])

    def our_switch():
        turn[1] += 1
        placed.set([(loras[turn[1] % 2], 1.0)])

    @torch.no_grad()
    def their_forward():
        return theirs(x, 500, words).sample

    @torch.no_grad()
    def our_forward():
        return system.denoiser.raw(x, 0.501, Cond(tokens=words))

    their_switch()
    our_switch()
    gap = float((their_forward() - our_forward()).abs().max())
    found = {"switch": compare(their_switch, our_switch, repeats), "evaluation": compare(their_forward, our_forward, repeats)}
    theirs.disable_adapters()
    placed.set([])
    bare = [(clock(their_forward), clock(our_forward)) for _ in range(repeats)]
    found["evaluation without"] = {name: spread([pair[k] for pair in bare]) for k, name in enumerate(("diffusers_s", "reverie_s"))}
    return found | {"same adapter, largest difference": gap}


def main(bench: Bench):
    torch.set_num_threads(bench.threads)
    works, counts = trainers(*pair())
    assert counts[0] == counts[1], counts
    found = {"torch": torch.__version__, "threads": bench.threads, "batch": BATCH, "learns": counts[0]}
    found["training step"] = compare(*works, bench.repeats)
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import adapter_speed; adapter_speed.spend"
    found["peak memory"] = {name: process(f"{code}({k})")[1] for k, name in enumerate(("diffusers_mb", "reverie_mb"))}
    found["switching"] = switching(bench.repeats)
    bench.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Bench))
