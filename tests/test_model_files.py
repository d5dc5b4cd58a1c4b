"""Model files that are cut, foreign, or say what cannot be: each is one clear error."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import WORDS, small_system

from reverie.card import card_of
from reverie.codec import Latent, Points, Shrunk
from reverie.denoiser import Denoiser
from reverie.encode import Classes, Concepts
from reverie.errors import UserError
from reverie.measure.reader import Reader
from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.classifier import ClassifierConfig
from reverie.nets.text import TextConfig
from reverie.nets.upsampler import UpsamplerConfig
from reverie.process import rules
from reverie.process.schedules import linear_table, zero_snr
from reverie.systems import load, save
from reverie.systems.shipped import READERS, SHIPPED
from reverie.systems.system import Part
from reverie.systems.weights import load_any, parts

TEXT = TextConfig(vocabulary=4, width=8, depth=1, heads=1, length=4)


def broken(model, tmp_path, change):
    path = tmp_path / "broken.safetensors"
    tensors = load_file(model)
    import safetensors

    with safetensors.safe_open(model, "pt") as handle:
        about = dict(handle.metadata())
    change(tensors, about)
    save_file(tensors, path, about)
    return path


def card_change(*path, **fields):
    """Fields of the card, or of what lies in it at `path`."""

    def change(tensors, about):
        card = inner = json.loads(about["reverie.card"])
        for key in path:
            inner = inner[key]
        inner |= fields
        about["reverie.card"] = json.dumps(card)

    return change


def drop(*path):
    """Without the last of `path`."""

    def change(tensors, about):
        card = inner = json.loads(about["reverie.card"])
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        about["reverie.card"] = json.dumps(card)

    return change


def replaced(make):
    """The first weight made anew."""

    def change(tensors, about):
        tensors[first_weight(tensors)] = make(tensors[first_weight(tensors)])

    return change


def add_foreign(tensors, about):
    tensors["unet.extra"] = torch.zeros(3)


def first_weight(tensors):
    return next(k for k in tensors if k.endswith("weight"))


def drop_first(tensors, about):
    tensors.pop(first_weight(tensors))


def poison_first(tensors, about):
    tensors[first_weight(tensors)].flatten()[0] = float("nan")


def drop_card(tensors, about):
    about.clear()


MODEL_FAULTS = {
    "NaN": (poison_first, "NaN"),
    "missing weight": (drop_first, "do not fit"),
    "wrong shape": (replaced(lambda v: torch.zeros(3)), "do not fit"),
    "no shape": (replaced(lambda v: torch.zeros(())), "do not fit"),
    "whole numbers": (replaced(lambda v: v.long()), "do not fit its card: .* holds torch.int64"),
    "foreign tensor": (add_foreign, "'unet.extra' belongs to no part"),
    "no card": (drop_card, "card"),
    "a list for a card": (lambda tensors, about: about.update({"reverie.card": "[]"}), "no reverie card"),
    "unknown field": (card_change("denoiser", schedul="x"), "schedul"),
    "unknown rule": (card_change("denoiser", rule={"name": "velocty"}), "velocity"),
    "unknown argument": (card_change("denoiser", rule={"name": "edm", "sigma_dat": 1}), "sigma_data"),
    "text for a rule": (card_change("denoiser", rule="v"), "denoiser.rule is 'v'; it must be made by one of: x0, eps"),
    "no rule": (drop("denoiser", "rule"), "denoiser: the field 'rule' is missing"),
    "noise for a path": (card_change("denoiser", path={"name": "gaussian"}), "denoiser.path: unknown name 'gaussian'.* vp"),
    "impossible path": (card_change("denoiser", path={"name": "edm", "sigma_max": -1}), "sigma_max is -1"),
    "no net": (card_change("denoiser", net=None), "denoiser.net is None; it must be made by one of: UNetConfig"),
    "net of a codec": (card_change("denoiser", net={"name": "UpsamplerConfig"}), "denoiser.net: unknown name 'UpsamplerConfig'"),
    "net of text": (card_change("denoiser", "net", channels="wide"), "denoiser.net.channels is 'wide'; it must be a whole number"),
    "impossible net": (card_change("denoiser", "net", channels=-1), "no net can be made from UNetConfig"),
    "text for sigma_data": (card_change("denoiser", sigma_data="x"), "denoiser.sigma_data is 'x'; it must be a number or none"),
    "a number for a denoiser": (card_change(denoiser=3), "denoiser is 3; it must be a mapping"),
    "no channels": (drop("codec", "channels"), "codec: Pixels cannot be made: its field 'channels' is missing"),
    "unknown codec": (card_change("codec", name="foo"), "codec: unknown name 'foo'.* Pixels"),
    "no codec": (card_change(codec=None), "codec is None; it must be made by one of: Pixels"),
    "a number about": (card_change(about=3), "about is 3; it must be a mapping"),
    "a number of styles": (card_change("about", styles=3), "about.styles is 3; it must be a list, each text"),
    "text for a format": (card_change(format="x"), "format is 'x'; it must be a whole number"),
    "a later format": (card_change(format=99), "format 99, newer than this version reads"),
    "a list of defaults": (card_change(defaults=[]), "defaults is .*; it must be a mapping"),
    "a number for a solver": (card_change("defaults", solver=7), "defaults.solver is 7; it must be text"),
    "three sizes": (card_change("defaults", size=[1, 2, 3]), "defaults.size is .*; it must be 2 values, each a whole number"),
    "a list of encoders": (card_change(encoders=[]), "encoders is .*; it must be a mapping"),
    "an encoder of what nobody says": (card_change("encoders", smell=None), "encoders: unknown field 'smell'.* prompt, class"),
    "unknown encoder": (card_change("encoders", "prompt", name="Wrods"), "encoders.prompt: unknown name 'Wrods'.* 'Words'"),
    "a number of words": (card_change("encoders", "prompt", vocabulary=3), "encoders.prompt.vocabulary is 3; it must be a list"),
    "numbers for words": (card_change("encoders", "prompt", vocabulary=[1]), "encoders.prompt.vocabulary is .* each text"),
    "too many words": (card_change("encoders", "prompt", vocabulary=["a"] * 50), "encoders.prompt: Words cannot be made"),
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_a_faulty_model_file_is_named(model, tmp_path, fault):
    change, said = MODEL_FAULTS[fault]
    with pytest.raises(UserError, match=said) as error:
        load(broken(model, tmp_path, change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
def test_a_checkpoint_cut_short_is_named(model, tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(model.read_bytes()[:keep])
    with pytest.raises(UserError, match="whole safetensors"):
        load(path)


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="pickle"):
        load(path)


def old(encoder, codec):
    """A file of format 1: one encoder, kinds in place of names."""

    def change(tensors, about):
        card = json.loads(about["reverie.card"])
        del card["encoders"]
        about["reverie.card"] = json.dumps(card | {"format": 1, "encoder": encoder(card), "codec": codec})
        for name in [k for k in tensors if k.startswith("encoders.prompt.")]:
            tensors[name.replace("encoders.prompt", "encoder")] = tensors.pop(name)

    return change


def words(card):
    config = json.loads(json.dumps(card_of(small_system().encoders["prompt"].config)))
    return {"kind": "words", "vocabulary": list(WORDS), "text": config}


def test_files_of_format_1_are_read(model, tmp_path):
    system = load(broken(model, tmp_path, old(words, {"kind": "pixels", "channels": 3})))
    again = load(model)
    assert list(system.encoders) == ["prompt"] and system.codec.channels == 3
    both = zip(system.encoders["prompt"].state_dict().items(), again.encoders["prompt"].state_dict().items(), strict=True)
    assert all(a == b and torch.equal(v, w) for (a, v), (b, w) in both)
    for codec, said in (
        ({"kind": "foo"}, "unknown name 'Foo'"),
        ({"kind": 3}, "made by one of"),
        ({"kind": "pixels"}, "'channels'"),
    ):
        with pytest.raises(UserError, match=said):
            load(broken(model, tmp_path, old(words, codec)))
    with pytest.raises(UserError, match=r"encoders.prompt is 3"):
        load(broken(model, tmp_path, old(lambda card: 3, {"kind": "pixels", "channels": 3})))


def test_what_ships_is_read():
    for name, file in SHIPPED.items():
        assert load(file).name == name and list(load(file).encoders) == ["prompt"]
    for file in READERS.values():
        assert load_any(file).reader.values


EVERY = {
    "points": Part(codec=Points()),
    "enlarger": Part(codec=Shrunk(UpsamplerConfig(channels=8, blocks=1, factor=4))),
    "latent": Part(codec=Latent(AutoencoderConfig(channels=8, mult=(1, 2), blocks=1, latent=2, groups=4))),
    "classes": Part(encoders={"class": Classes(("hat", "shoe"), 3)}),
    "concepts": Part(encoders={"prompt": Concepts(("red",), TEXT, {"hair": ("red", "blue")})}),
    "reader": Part(reader=Reader(ClassifierConfig(channels=8, heads={"hair": 2}), {"hair": ("red", "blue")}, 8)),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_part_goes_through_a_file_and_back(name, tmp_path):
    save(EVERY[name], tmp_path / "part.safetensors")
    again = load_any(tmp_path / "part.safetensors")
    kept, own = parts(again), parts(EVERY[name])
    assert list(kept) == list(own) and all(kept[k].card == own[k].card for k in own)
    for k, part in own.items():
        assert all(torch.equal(v, kept[k].state_dict()[n]) for n, v in part.state_dict().items())


def test_a_reader_must_know_what_its_net_reads():
    with pytest.raises(UserError, match="are not those of its net's heads"):
        Reader(ClassifierConfig(channels=8, heads={"hair": 2}), {"hair": ("red",)}, 8)


def test_a_path_with_a_table_is_itself_again(tmp_path):
    """Its numbers are not weights, and a file does not give them."""
    system = replace(small_system(), denoiser=Denoiser(small_system().denoiser.net, zero_snr(linear_table(10)), rules.v()))
    save(system, tmp_path / "table.safetensors")
    again = load(tmp_path / "table.safetensors").denoiser.path
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert again.card == system.denoiser.path.card and torch.equal(again(t)[0], system.denoiser.path(t)[0])
