"""Model files that are cut, foreign, or say what cannot be: each is one clear error."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from reverie.errors import UserError
from reverie.systems import load


def broken(model, tmp_path, change):
    path = tmp_path / "broken.safetensors"
    tensors = load_file(model)
    import safetensors

    with safetensors.safe_open(model, "pt") as handle:
        about = dict(handle.metadata())
    change(tensors, about)
    save_file(tensors, path, about)
    return path


def card_change(**fields):
    def change(tensors, about):
        card = json.loads(about["reverie.card"])
        card["denoiser"] |= fields
        about["reverie.card"] = json.dumps(card)

    return change


def first_weight(tensors):
    return next(k for k in tensors if k.endswith("weight"))


def drop_first(tensors, about):
    tensors.pop(first_weight(tensors))


def poison_first(tensors, about):
    tensors[first_weight(tensors)].flatten()[0] = float("nan")


def reshape_first(tensors, about):
    name = first_weight(tensors)
    tensors[name] = torch.zeros(3)


def drop_card(tensors, about):
    about.clear()


MODEL_FAULTS = {
    "NaN": (poison_first, "NaN"),
    "missing weight": (drop_first, "do not fit"),
    "wrong shape": (reshape_first, "do not fit"),
    "no card": (drop_card, "card"),
    "unknown field": (card_change(schedul="x"), "schedul"),
    "unknown rule": (card_change(rule={"name": "velocty"}), "velocity"),
    "unknown argument": (card_change(rule={"name": "edm", "sigma_dat": 1}), "sigma_data"),
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


def test_the_clip_of_older_files_is_passed_over(model, tmp_path):
    def older(tensors, about):
        card = json.loads(about["reverie.card"])
        card["defaults"]["clip"] = 0.0
        about["reverie.card"] = json.dumps(card)

    assert load(broken(model, tmp_path, older)).defaults == load(model).defaults
