"""`reverie systems`: what is said of the published systems, counted."""

import json

import pytest
import torch
import transformers
from published import PIPELINES, refiner
from safetensors.torch import save_file
from test_sum import FROM_FILES, FROM_FOLDERS, opened

from reverie.card import parse, rebuild
from reverie.cli import main
from reverie.codec import NETS as CODECS
from reverie.encode import Classes
from reverie.nets.dit import DiT, DiTConfig
from reverie.process.grids import GRIDS
from reverie.solve import find
from reverie.systems.dit import transformer
from reverie.systems.foreign import open_file, open_folder
from reverie.systems.names import taken
from reverie.systems.opening import Opening
from reverie.systems.published import ENCODERS, NETS, SYSTEMS
from reverie.systems.weights import build_net
from reverie.tasks.start import SIZED


def clip(width, layers, hidden, act, projected):
    config = transformers.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=projected or width,
        hidden_act=act,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


THEIRS = {
    "CLIP ViT-L/14 text": lambda: clip(768, 12, 3072, "quick_gelu", None),
    "CLIP ViT-L/14 text + projection": lambda: clip(768, 12, 3072, "quick_gelu", 768),
    "OpenCLIP ViT-H/14 text, 23 layers": lambda: clip(1024, 23, 4096, "gelu", None),
    "OpenCLIP bigG text + projection": lambda: clip(1280, 32, 5120, "gelu", 1280),
    "T5 v1.1 XXL encoder": lambda: transformers.T5EncoderModel(
        transformers.T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
    ),
    "Gemma-2-2B": lambda: transformers.Gemma2Model(transformers.Gemma2Config()),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_of_words_have_the_parameters_that_are_said(name):
    with torch.device("meta"):
        net = THEIRS[name]()
    assert sum(p.numel() for p in net.parameters()) == ENCODERS[name]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_nets_have_the_parameters_that_were_published(system):
    for name, config in system.nets.items():
        with torch.device("meta"):
            net = CODECS[type(config)](config) if type(config) in CODECS else build_net(config)
        assert sum(p.numel() for p in net.parameters()) == NETS[name]
    counts = system.parameters()
    assert counts.keys() == {*system.nets, *system.encoders, *(["classes"] if system.classes else [])}


def test_the_list_counts_nothing_anew(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("built"))
    assert sum(sum(system.record()["parameters"].values()) for system in SYSTEMS) > 1e10


def test_every_system_of_the_list_is_listed(capsys):
    main(["systems", "--json"])
    records = json.loads(capsys.readouterr().out)
    names = "ddpm iddpm adm ldm sd1 sd2 sdxl sdxl-refiner sd3 sd35 flux-dev flux-schnell sana pixart dit sit"
    assert [r["name"] for r in records] == names.split()
    for r in records:
        counts = r["parameters"]
        wide = [name for name in counts if name == "classes" or (name in ENCODERS and ENCODERS[name] < 1e9)]  # in float32 always
        assert r["memory"]["float32"] == 4 * sum(counts.values())
        assert r["memory"]["bfloat16"] == 2 * sum(counts.values()) + 2 * sum(counts[name] for name in wide)
    told = {r["name"]: (r["defaults"]["solver"], r["defaults"]["steps"], r["defaults"]["guidance"]) for r in records}
    assert (told["flux-dev"], told["flux-schnell"]) == (("euler", 50, 3.5), ("euler", 4, 1.0))
    assert (told["ddpm"], told["ldm"]) == (("ddim", 50, 1.0),) * 2 and told["sit"] == ("euler", 50, 4.0)
    assert told["iddpm"] == told["adm"] == ("ddpm-learned", 250, 1.0)
    assert (told["sd3"], told["sd35"]) == (("euler", 28, 7.0), ("euler", 40, 4.5))
    classes = {r["name"]: r["parameters"]["classes"] for r in records if "classes" in r["parameters"]}
    assert classes == {"adm": 1000 * 1024, "dit": 1001 * 1152, "sit": 1001 * 1152}  # DiT's with the null class


SIDES = {
    **{"ddpm": 32, "iddpm": 64, "adm": 256, "ldm": 256, "sd1": 512, "sd2": 768, "sdxl": 1024, "sdxl-refiner": 1024},
    **{"sd3": 1024, "sd35": 1024, "flux-dev": 1024, "flux-schnell": 1024, "sana": 1024, "pixart": 1024, "dit": 256, "sit": 256},
}


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_the_size_is_that_of_training_and_the_settings_are_possible(system):
    d = system.defaults
    assert d.size == (SIDES[system.name],) * 2
    card = parse(d.grid)
    told = {"width": SIDES[system.name], "height": SIDES[system.name]} if card["name"] in SIZED else {}
    assert find(d.solver).row.name == d.solver and rebuild(told | card, GRIDS, "grid")


def test_one_system_and_one_that_is_none(capsys):
    main(["systems", "sd1"])
    assert "SD 1.x U-Net: 859,520,964 parameters" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["systems", "sd5"])
    assert "there is no system 'sd5'" in capsys.readouterr().err


def sit(folder):
    PIPELINES["dit"]().save_pretrained(folder / "parts")
    config = DiTConfig(width=384, heads=6, depth=1, size=16)
    parts = transformer.parts(DiT(config), Classes([str(k) for k in range(1000)], 384))
    save_file({k: v.contiguous() for k, v in taken(parts, transformer.original).items()}, folder / "SiT.safetensors")
    return open_file(folder / "SiT.safetensors", Opening(parts=str(folder / "parts")))


def fine(folder):
    refiner().save_pretrained(folder)
    return open_folder(folder)


OTHERS = {"sit": sit, "sdxl-refiner": fine}


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_it_is_sampled_as_is_listed(system, tmp_path):
    """But for the size, which the net of each tells, and the grid of a flow, which the scheduler of each does."""
    assert system.name in {*OTHERS, *FROM_FOLDERS, *FROM_FILES}
    made = OTHERS[system.name](tmp_path) if system.name in OTHERS else opened(system.name, tmp_path)
    same = ("solver", "steps", "guidance")
    assert [getattr(made.defaults, k) for k in same] == [getattr(system.defaults, k) for k in same]
    if made.denoiser.path.card["name"] != "flow":
        assert made.defaults.grid == system.defaults.grid
