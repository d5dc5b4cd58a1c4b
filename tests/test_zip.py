"""Two LoRAs in one: at first their sum, then what each does to its own prompt, in one file like any other."""

import numpy as np
import pytest
import torch
from small import small_system
from torch import nn

from reverie.adapt.zip import Zip, alone
from reverie.cli import main
from reverie.nets.lora import adapt, beside, changes
from reverie.systems import save
from reverie.systems.lora import given_loras, open_lora, save_lora, with_loras
from reverie.systems.lora.places import weights
from reverie.systems.weights import load
from reverie.systems.zipped import Zipper
from reverie.tasks.train import Session
from reverie.train.training import Training


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, and two LoRAs of it: of different ranks, one with convolutions, which the other has not."""
    folder = tmp_path_factory.mktemp("zip")
    save(small_system(), folder / "model.safetensors")
    for name, seed, rank in (("one", 1, 2), ("two", 2, 3)):
        made = small_system()
        torch.manual_seed(seed)
        adapt(made.denoiser.net, rank, 2.0, convolutions=name == "two")
        for change in changes(made.denoiser.net):
            nn.init.normal_(change.up, std=0.3)
        save_lora(made, folder / f"{name}.safetensors", {"name": "small", "hash": made.hash}, {})
    return folder


def zipper(place, **more):
    files = {"first": str(place / "one.safetensors"), "second": str(place / "two.safetensors")}
    said = {"first_prompt": "a man", "second_prompt": "red hair"}
    return Zipper(model=str(place / "model.safetensors"), drawn=4, **files, **said, **more)


def test_one_layer_is_what_its_equation_says():
    torch.manual_seed(0)
    for layer, x in ((nn.Linear(5, 4), torch.randn(3, 5)), (nn.Conv2d(5, 4, 3), torch.randn(2, 5, 6, 6))):
        layer, x = layer.double(), x.double()
        d = [torch.randn_like(layer.weight) for _ in range(2)]
        made = Zip(layer, d).double()
        nn.init.normal_(made.shares)
        m = made.shares.detach().view(2, -1, *[1] * (layer.weight.ndim - 2))
        own, total = layer.weight.detach().clone(), layer.weight.detach() + d[0] * m[0] + d[1] * m[1]
        beside(layer, made)
        assert torch.allclose(
            layer(x),
            torch.func.functional_call(
                type(layer)(*([5, 4, 3] if x.ndim > 2 else [5, 4])).double(), {"weight": total, "bias": layer.bias}, (x,)
            ),
        )
        with alone([made], 1):
            plain = torch.func.functional_call(
                type(layer)(*([5, 4, 3] if x.ndim > 2 else [5, 4])).double(), {"weight": own + d[1], "bias": layer.bias}, (x,)
            )
            assert torch.allclose(layer(x), plain)


def test_it_begins_as_the_sum(place, tmp_path):
    made, _ = zipper(place).prepare(())
    made.write(tmp_path / "model.safetensors")
    base = load(place / "model.safetensors")
    both = [(open_lora(place / f"{name}.safetensors", base), 1.0) for name in ("one", "two")]
    sums = {k: v.data.clone() for k, v in weights(with_loras(base, both)).items()}
    again = load(place / "model.safetensors")
    zipped = weights(given_loras(again, [str(tmp_path / "lora.safetensors")]))
    for key, value in sums.items():
        torch.testing.assert_close(zipped[key].data, value, atol=1e-5, rtol=1e-4, msg=key)


def test_it_learns_to_keep_both(place, tmp_path):
    session = Session.open(zipper(place, training=Training(steps=60, batch=4, rate=2e-2, warmup=0)), tmp_path / "run", False)
    before = session.run.job.validate()
    shares = [each.shares.detach().clone() for each in session.run.job.zips]
    for _ in session:
        pass
    with session.run.averaged():
        after = session.run.job.validate()
        x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        cond = session.system.system.prompt_encoder.prompts(["a man"] * 2)
        ours = session.system.system.denoiser(x, 0.5, cond)
    assert after < 0.8 * before
    assert any(not torch.equal(a, b.shares) for a, b in zip(shares, session.run.job.zips, strict=True))
    told = given_loras(load(place / "model.safetensors"), [str(tmp_path / "run" / "lora.safetensors")])
    torch.testing.assert_close(told.denoiser(x, 0.5, cond), ours, atol=1e-4, rtol=1e-4)


def test_the_command(place, tmp_path, capsys):
    words = ["--model", str(place / "model.safetensors"), "--first", str(place / "one.safetensors"), "--drawn", "2"]
    with pytest.raises(SystemExit):
        main(["adapt", "zip", *words])
    assert "takes two LoRAs" in capsys.readouterr().err
    out = ["--second", str(place / "two.safetensors"), "--updates", "2", "--out", str(tmp_path / "run"), "--threads", "1"]
    main(["adapt", "zip", *words, *out])
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "lora.safetensors")
    whole = given_loras(load(place / "model.safetensors"), [str(tmp_path / "run" / "lora.safetensors")])
    main(["adapt", "zip", "--resume", "--updates", "3", "--out", str(tmp_path / "run")])
    assert whole.about["loras"][0]["name"] == "lora" and np.isfinite(float(weights(whole)["net.stem.weight"].sum()))
