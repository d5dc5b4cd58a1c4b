"""Changes of a smaller rank, and of two models: the nearest there are, with what they keep."""

import json

import published
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_lora_convert import alike, effect, kinds

from reverie.cli import main
from reverie.nets.lora import adapt, changes
from reverie.systems.lora import open_lora, save_lora, with_loras
from reverie.systems.lora.formats import format_of
from reverie.systems.lora.places import weights
from reverie.systems.lora.small import extracted, resized
from reverie.systems.lora.written import write
from reverie.systems.shipped import read_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stable Diffusion, and a LoRA of rank 6 of every linear layer of its net, alpha 3."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    published.sd1().save_pretrained(folder / "base")
    system = read_model(str(folder / "base"))
    net = system.denoiser.net
    adapt(net, 6, alpha=3)
    for change in changes(net):
        torch.nn.init.normal_(change.up, std=0.1)
    save_lora(system, folder / "six.safetensors", {"name": "base", "hash": ""}, {"name": "new"})
    return folder


def base(folder):
    return read_model(str(folder / "base"))


def differences(folder, file):
    before, after = {k: v.data for k, v in weights(base(folder)).items()}, effect(folder, file)
    return {k: after[k] - v for k, v in before.items() if not torch.equal(after[k], v)}


@pytest.mark.parametrize("rank", [1, 3, 6, 50])
def test_the_nearest_of_a_rank_is_that_of_the_singular_values(rank, made, tmp_path):
    kept = resized(made / "six.safetensors", base(made), rank)
    file = write(kept.found, base(made), format_of("kohya"), tmp_path / "a.safetensors")
    before, after = differences(made, made / "six.safetensors"), differences(made, file)
    assert before.keys() == after.keys() and len(before) > 30
    total = left = 0.0
    for key, difference in before.items():
        values = torch.linalg.svdvals(difference.flatten(1).double())
        lost = values[rank:].square().sum()
        assert (
            abs(float((difference - after[key]).double().square().sum()) - float(lost)) < 1e-6 * float(values.square().sum()) + 1e-9
        )
        assert kept.shares[key] == pytest.approx(1 - float(lost / values.square().sum()), abs=1e-5)
        total, left = total + float(values.square().sum()), left + float(lost)
    assert kept.share == pytest.approx(1 - left / total, abs=1e-5)
    assert all(len(v) <= rank for k, v in load_file(file).items() if k.endswith("lora_down.weight"))


def test_every_kind_of_change_becomes_a_lora(made, tmp_path):
    save_file(kinds(base(made)), tmp_path / "all.safetensors")
    kept = resized(tmp_path / "all.safetensors", base(made), 1000)
    file = write(kept.found, base(made), format_of("comfyui"), tmp_path / "a.safetensors")
    assert not [key for key in load_file(file) if "hada" in key or "lokr" in key or "dora" in key or key.endswith(".diff")]
    before, after = effect(made, tmp_path / "all.safetensors"), effect(made, file)
    for key, value in before.items():
        torch.testing.assert_close(value, after[key], atol=1e-5, rtol=1e-4, msg=key)
    assert kept.share == pytest.approx(1, abs=1e-6)


def test_of_two_models_a_lora_is_made_that_makes_one_of_the_other(made, tmp_path, capsys):
    changed = base(made)
    with_loras(changed, [(open_lora(made / "six.safetensors", changed), 1.0)])
    own = weights(changed)
    own["net.norm.bias"].data += 0.5
    words = next(k for k in own if k.startswith("encoder.") and k.endswith("q_proj.weight"))
    own[words].data += torch.outer(torch.ones(len(own[words])), torch.arange(own[words].shape[1]) / 10)
    kept = extracted(changed, base(made), 6, made)
    file = write(kept.found, base(made), format_of("kohya"), tmp_path / "a.safetensors")
    alike(effect(made, file), {k: v.data for k, v in own.items()})
    assert kept.share == pytest.approx(1, abs=1e-6) and words in kept.shares
    assert min(extracted(changed, base(made), 2, made).shares.values()) < 0.9


def test_the_command_line_says_what_is_kept(made, tmp_path, capsys):
    model = ["--model", str(made / "base")]
    main(["doctor", str(made / "six.safetensors"), *model, "--resize", "2", "--out", str(tmp_path / "two.safetensors")])
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "two.safetensors") and "rank 2 keeps" in said.err and "least of net." in said.err
    main(["doctor", str(tmp_path / "two.safetensors"), *model, "--json"])
    assert list(json.loads(capsys.readouterr().out)["ranks"]) == ["2"]
    for words, wrong in (
        (["--resize", "-1"], "the rank of a LoRA is -1"),
        (["--resize", "2", "--extract", "2"], "give one of them"),
        (["--extract", "2"], "a LoRA: name the model"),
    ):
        with pytest.raises(SystemExit):
            main(["doctor", str(made / "six.safetensors"), *model, *words, "--out", str(tmp_path / "x")])
        assert wrong in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["doctor", str(made / "base"), *model, "--extract", "2", "--out", str(tmp_path / "x")])
    assert "the same weights: there is nothing to extract" in capsys.readouterr().err
