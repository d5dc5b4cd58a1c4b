"""Time and memory of whole published systems against diffusers 0.42.1 on the same weights, interleaved in one run, as ratios.

    pip install '.[bench,text]' -c constraints.txt
    OMP_WAIT_POLICY=passive python bench/systems.py --out bench/results/systems.json

Random weights of middle sizes (some 10 to 75 million parameters, pictures of 256x256), written by diffusers as folders, opened by
both. Both sample in the same number of steps from the same noise with guidance, each with the defaults its user gets on a CPU: ours
bfloat16 inside the nets where the CPU computes in it, theirs as loaded, fp32; a second row, of half as many repeats, has ours in
float32. By `forward` one
evaluation of the guided pair is meant, by `loop` all steps and the prompt, without decoding, and by `whole` prompt to picture.
Medians and 10th to 90th percentiles, of ratios of neighbours in time. `outside` is what a loop spends outside its net from the
net's first call on, as a share of what it spends inside, by a clock around the net. Peak memory is of a process that opens the
folder and draws one picture.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests")]
import published  # noqa: E402
from diffusers import (  # noqa: E402
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from reverie.systems.opening import Opening  # noqa: E402
from reverie.systems.shipped import open_model  # noqa: E402
from reverie.tasks.generate import run  # noqa: E402
from reverie.tasks.settings import settle  # noqa: E402
from reverie.tasks.start import begun, plan  # noqa: E402

STEPS, SIDE = 4, 256
PROMPT = "a red fox in 2 hats"


@dataclass
class Bench:
    repeats: int = 10
    threads: int = 1
    systems: tuple[str, ...] = ("sd1", "sd3", "flux")
    out: Path = HERE / "results" / "systems.json"
    measure: str = ""
    """Of one side's process: "ours:FOLDER" or "theirs:FOLDER"; prints its peak memory."""


def codec(channels):
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        latent_channels=channels,
        **({"scaling_factor": 1.5305, "shift_factor": 0.0609} if channels == 16 else {}),
    )


def sd1():
    net = UNet2DConditionModel(
        block_out_channels=(96, 192, 384, 384), cross_attention_dim=96, attention_head_dim=8, sample_size=SIDE // 8
    )
    table = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing", steps_offset=1
    )
    return StableDiffusionPipeline(codec(4), published.clip(96), published.clip_words(), net, table, **published.NOTHING)


def sd3():
    net = SD3Transformer2DModel(
        sample_size=SIDE // 8,
        num_layers=8,
        num_attention_heads=6,
        joint_attention_dim=96,
        caption_projection_dim=384,
        pooled_projection_dim=32,
        pos_embed_max_size=64,
        qk_norm="rms_norm",
    )
    one, two = published.clip(32, projected=True), published.clip(64, projected=True)
    words = (one, published.clip_words(), two, published.clip_words())
    return StableDiffusion3Pipeline(net, FlowMatchEulerDiscreteScheduler(shift=3.0), codec(16), *words, None, None)


def flux():
    net = FluxTransformer2DModel(
        num_layers=4,
        num_single_layers=8,
        attention_head_dim=64,
        num_attention_heads=6,
        joint_attention_dim=24,
        pooled_projection_dim=24,
        axes_dims_rope=(8, 28, 28),
        guidance_embeds=True,
    )
    words = (published.clip(24), published.clip_words(), published.t5(), published.t5_words())
    return FluxPipeline(FlowMatchEulerDiscreteScheduler(), codec(16), *words, published.awake(net))


MADE = {"sd1": sd1, "sd3": sd3, "flux": flux}


def theirs_of(folder):
    index = json.loads((Path(folder) / "model_index.json").read_text())
    absent = {part: None for part, said in index.items() if said == [None, None]}
    pipe = DiffusionPipeline.from_pretrained(folder, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_theirs(pipe, **more):
    flow = "Flow" in type(pipe.scheduler).__name__
    steps = {"sigmas": list(np.linspace(1, 1 / STEPS, STEPS))} if flow else {"num_inference_steps": STEPS}
    length = {"max_sequence_length": 64} if isinstance(pipe, FluxPipeline) else {}
    options = {"height": SIDE, "width": SIDE, "guidance_scale": 3.5, "generator": torch.Generator().manual_seed(1)}
    return pipe(PROMPT, **steps, **length, **options, **more)


def asked(system):
    if hasattr(system.prompt_encoder, "t5") and system.prompt_encoder.t5 is not None:
        system.prompt_encoder.t5.length = 64
    grid = "karras()" if system.denoiser.path.steps else "shifted(shift=3.0)"
    return settle(system, PROMPT, {"steps": STEPS, "height": SIDE, "width": SIDE, "guidance": 3.5, "solver": "euler", "grid": grid})


def draw_ours(system, settings):
    *_, done = run(system, settings)
    return done[0].image


def clock(f):
    begin = time.perf_counter()
    f()
    return time.perf_counter() - begin


def spread(values):
    return {k: round(float(np.percentile(values, q)), 3) for k, q in (("median", 50), ("p10", 10), ("p90", 90))}


def forwards(pipe, system, settings):
    """One evaluation of the guided pair on each side, of what the loops themselves evaluate."""
    held = []
    net = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    forward = net.forward
    net.forward = lambda *a, **k: held.append((a, k)) or forward(*a, **k)
    draw_theirs(pipe, output_type="latent")
    net.forward = forward
    args, kwargs = held[0]
    start = begun(system, settings)
    model, cond = start.model, start.told
    grid = plan(system, settings)[1]
    x = torch.randn(1, *system.codec.shape(SIDE, SIDE))

    @torch.no_grad()
    def theirs():
        net(*args, **kwargs)

    @torch.no_grad()
    def ours():
        model(x, grid[1], cond)

    return theirs, ours


def loops(pipe, system, settings):
    def theirs():
        draw_theirs(pipe, output_type="latent")

    def ours():
        for _ in run(replace_codec(system), settings):
            continue

    return theirs, ours


def replace_codec(system):
    """The same without decoding: the loop alone, with the prompt, as theirs with output_type latent."""
    from dataclasses import replace

    class Silent:
        factor, shape = system.codec.factor, staticmethod(system.codec.shape)

        def decode(self, z):
            return z[:, :3]

    return replace(system, codec=Silent())


def compare(theirs, ours, repeats, warm=3):
    """Seconds of both, A-B-A-B after some to warm up, and the ratio theirs / ours."""
    for _ in range(warm):
        theirs()
        ours()
    pairs = [(clock(theirs), clock(ours)) for _ in range(repeats)]
    a, b = np.array(pairs).T
    return {"theirs": spread(a), "ours": spread(b), "ratio": spread(a / b)}


def compare_loops(sides, repeats):
    """The same of loops, and of each the share outside its net; sides: (loop, net) of both."""
    shares = ([], [])

    def watched(loop, net, found):
        forward, inside = net.forward, []

        def timed(*args, **kwargs):
            begin = time.perf_counter()
            made = forward(*args, **kwargs)
            inside.append((begin, time.perf_counter()))
            return made

        def run():
            inside.clear()
            net.forward = timed
            loop()
            end = time.perf_counter()
            net.forward = forward
            found.append((end - inside[0][0]) / sum(late - early for early, late in inside) - 1)

        return run

    found = compare(*(watched(*side, kept) for side, kept in zip(sides, shares, strict=True)), repeats, warm=1)
    return found | {"outside": {name: spread(kept[1:]) for name, kept in zip(("theirs", "ours"), shares, strict=True)}}


def peak(side, folder, threads):
    """Megabytes of a process that opens the folder and draws one picture."""
    words = [sys.executable, __file__, "--measure", f"{side}:{folder}", "--threads", str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measured(asked_for):
    side, _, folder = asked_for.partition(":")
    if side == "ours":
        system = open_model(folder)
        draw_ours(system, asked(system))
    else:
        draw_theirs(theirs_of(folder))
    print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024)  # ru_maxrss would be the parent's


def main(bench):
    torch.set_num_threads(bench.threads)
    if bench.measure:
        measured(bench.measure)
        return
    rows = {}
    for name in bench.systems:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as place:
            MADE[name]().save_pretrained(place)
            pipe = theirs_of(place)
            count = sum(p.numel() for p in (pipe.unet if hasattr(pipe, "unet") else pipe.transformer).parameters())
            row = {"parameters of the net": count}
            for precision in ("auto", "float32"):
                system = open_model(place, Opening(precision=precision))
                settings = asked(system)
                repeats = bench.repeats if precision == "auto" else (bench.repeats + 1) // 2
                found = {"forward": compare(*forwards(pipe, system, settings), repeats)}
                nets = (pipe.unet if hasattr(pipe, "unet") else pipe.transformer, system.denoiser.net)
                found["loop"] = compare_loops(tuple(zip(loops(pipe, system, settings), nets, strict=True)), repeats)
                found["whole"] = compare(
                    lambda p=pipe: draw_theirs(p), lambda s=system, a=settings: draw_ours(s, a), repeats, warm=1
                )
                row[precision] = found
                ratios = {k: found[k]["ratio"]["median"] for k in ("forward", "loop", "whole")}
                print(name, precision, ratios, {k: v["median"] for k, v in found["loop"]["outside"].items()}, flush=True)
            row["peak MB"] = {side: peak(side, place, bench.threads) for side in ("theirs", "ours")}
            print(name, row["peak MB"], flush=True)
        rows[name] = row
        facts = {"torch": torch.__version__, "threads": bench.threads, "repeats": bench.repeats, "steps": STEPS, "side": SIDE}
        bench.out.write_text(json.dumps({"facts": facts, **rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Bench))
