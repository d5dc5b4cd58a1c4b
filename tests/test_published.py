"""`reverie systems`: what is said of the published systems, counted."""

import json

import pytest
import torch
import transformers

from reverie.card import parse, rebuild
from reverie.cli import main
from reverie.process.grids import GRIDS
from reverie.solve import find
from reverie.systems.published import ENCODERS, SYSTEMS
from reverie.tasks.generate import SIZED

MEASURED = {
    "DDPM CIFAR-10": 35_746_307,
    "iDDPM ImageNet-64 uncond": 121_063_942,
    "ADM-256 class-cond": 552_814_086,  # and 1000 classes of 1024, in the encoder
    "LDM-4 CelebA-HQ/FFHQ/bedroom U-Net": 274_056_163,
    "VQ-f4": 55_322_782,
    "SD 1.x U-Net": 859_520_964,
    "SD 2.x U-Net": 865_910_724,
    "SDXL base U-Net": 2_567_463_684,
    "SDXL refiner U-Net": 2_259_526_660,
    "SD VAE 4-ch": 83_653_863,
    "SD3 & Flux VAE 16-ch": 83_819_683,
    "SD3-medium": 2_028_328_000,
    "SD3.5-large": 8_056_627_520,
    "Flux.1-dev": 11_901_408_320,
    "Flux.1-schnell": 11_891_178_560,
    "Sana 1.6B": 1_604_462_752,
    "DC-AE f32c32": 312_250_275,
    "PixArt-alpha XL/2 1024": 611_349_152,
    "DiT-XL/2": 675_129_632 - 1001 * 1152,
    "SiT-XL/2": 675_129_632 - 1001 * 1152,
}
"""The counts that public code has for these nets; DiT's with their fixed positions and without the classes."""


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
    counts = system.parameters()
    assert all(counts[name] == MEASURED[name] for name in system.nets)
    assert counts.keys() == {*system.nets, *system.encoders, *(["classes"] if system.classes else [])}


def test_every_system_of_the_list_is_listed(capsys):
    main(["systems", "--json"])
    records = json.loads(capsys.readouterr().out)
    names = "ddpm iddpm adm ldm sd1 sd2 sdxl sdxl-refiner sd3 sd35 flux-dev flux-schnell sana pixart dit sit"
    assert [r["name"] for r in records] == names.split()
    for r in records:
        assert r["memory"] == {"bfloat16": 2 * sum(r["parameters"].values()), "float32": 4 * sum(r["parameters"].values())}
    told = {r["name"]: (r["defaults"]["solver"], r["defaults"]["steps"], r["defaults"]["guidance"]) for r in records}
    assert (told["flux-dev"], told["flux-schnell"]) == (("euler", 50, 3.5), ("euler", 4, 1.0))
    assert told["ddpm"] == ("ddpm", 1000, 1.0) and told["sit"] == ("euler", 50, 4.0)
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
