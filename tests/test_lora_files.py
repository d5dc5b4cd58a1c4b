"""Low-rank changes as files: what is written draws the same, several add up, and what does not belong is refused."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from small import small_system

from reverie.adapt.changes import LowRank
from reverie.adapt.lora import Changed
from reverie.cli import main
from reverie.denoiser import Cond
from reverie.errors import UserError
from reverie.files import load_tensors, save_tensors
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.lora import adapt, changes
from reverie.systems import save
from reverie.systems.lora import asked, open_lora, save_lora, with_loras
from reverie.systems.lora.pieces import pieces
from reverie.systems.lora.places import weights
from reverie.systems.system import Sampling
from reverie.systems.weights import load
from reverie.tasks import metadata


def system():
    torch.manual_seed(0)
    net = DiT(DiTConfig(in_channels=3, size=16, width=32, depth=2, heads=2, learn_sigma=False, vector_dim=None))
    for part in net.parameters():
        torch.nn.init.normal_(part, std=0.1)
    made = small_system()
    made.denoiser.net = net.eval().requires_grad_(False)
    return replace(made, encoders={}, about={"name": "small", "hash": "ab12"})


def changed(place, seed, **more):
    """A file of changes, and the net that they were learnt with."""
    made = system()
    torch.manual_seed(seed)
    adapt(made.denoiser.net, 3, alpha=1.5)
    for change in changes(made.denoiser.net):
        torch.nn.init.normal_(change.up, std=0.1)
    save_lora(made, place, {"name": "small", "hash": "ab12"}, {"name": "new"}, **more)
    return made


X, T = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([0.2, 0.7], dtype=torch.float64)


@torch.no_grad()
def says(made):
    return made.denoiser(X, T, Cond())


def test_what_is_read_is_what_was_learnt(tmp_path):
    learnt, plain = changed(tmp_path / "a.safetensors", 1), system()
    lora = open_lora(tmp_path / "a.safetensors", plain)
    assert len(lora.sites) == sum(1 for _ in changes(learnt.denoiser.net)) > 8 and lora.name == "a" and len(lora.hash) == 64
    before = says(plain)
    torch.testing.assert_close(says(with_loras(plain, [(lora, 1.0)])), says(learnt), atol=1e-6, rtol=1e-5)
    assert (says(plain) - before).abs().max() > 1e-2
    save(learnt, tmp_path / "whole.safetensors")  # merged
    torch.testing.assert_close(says(load(tmp_path / "whole.safetensors")), says(learnt), atol=1e-6, rtol=1e-5)


def differences(lora, own):
    return {site.stack.keys[0]: site.change(own[site.stack.keys[0]]) for site in lora.sites}


def test_changes_are_put_in_and_taken_out_exactly(tmp_path):
    made = system()
    for seed, name in enumerate("ab"):
        changed(tmp_path / name, seed)
    one, two = (open_lora(tmp_path / name, made) for name in "ab")
    own, before = weights(made), {k: v.clone() for k, v in weights(made).items()}
    first, second = (differences(lora, before) for lora in (one, two))
    placed = Changed(own)
    placed.set([(one, 0.0)])
    assert all(torch.equal(v, before[k]) for k, v in own.items()), "a weight of 0 changes no bit"
    placed.set([(one, 0.7), (two, -0.2)])
    for name in first:
        torch.testing.assert_close(own[name].data, before[name] + 0.7 * first[name] - 0.2 * second[name])
    places = {k: v.data_ptr() for k, v in own.items()}
    placed.set([(two, 1.0)])
    for name in second:
        torch.testing.assert_close(own[name].data, before[name] + second[name])
    assert {k: v.data_ptr() for k, v in own.items()} == places, "where the others lay"
    placed.set([])
    assert all(torch.equal(v, before[k]) for k, v in own.items()) and not placed.kept


def test_a_convolution_of_low_rank_is_one_after_the_other():
    made = torch.Generator().manual_seed(0)
    up, down = torch.randn(5, 2, 1, 1, generator=made), torch.randn(2, 4, 3, 3, generator=made)
    x = torch.randn(1, 4, 6, 6, generator=made)
    whole = torch.nn.functional.conv2d(x, LowRank(up, down, 0.5)(torch.zeros(5, 4, 3, 3)), padding=1)
    parts = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down, padding=1), up)
    torch.testing.assert_close(whole, 0.5 * parts, atol=1e-5, rtol=1e-5)


def test_a_distilled_one_says_how_it_is_drawn_with(tmp_path):
    drawn = Sampling(solver="lcm", steps=2, guidance=1.0, grid="uniform()", size=(16, 16))
    changed(tmp_path / "a", 1, drawn=drawn)
    made = system()
    told = with_loras(made, [(open_lora(tmp_path / "a", made), 0.5)])
    assert told.defaults == drawn and told.about["loras"][0]["weight"] == 0.5
    changed(tmp_path / "b", 1)
    assert with_loras(made, [(open_lora(tmp_path / "b", made), 0.5)]).defaults == made.defaults


def test_the_command_line_takes_files_and_weights_and_pictures_say_them(tmp_path, capsys):
    changed(tmp_path / "new style.safetensors", 1)
    save(system(), tmp_path / "model.safetensors")
    words = ["generate", "--model", str(tmp_path / "model.safetensors"), "--steps", "2", "--out", str(tmp_path / "out")]
    pictures = []
    for more in ([], ["--lora", f"{tmp_path / 'new style.safetensors'}:0.8"]):
        main([*words, *more])
        pictures.append(capsys.readouterr())
    files = [said.out.strip() for said in pictures]
    assert "54 of 54 keys apply to small" in pictures[1].err
    one, other = (Image.open(file).tobytes() for file in files)
    assert one != other
    assert metadata.read(tmp_path / "out" / files[1].rpartition("/")[2]).loras == (f"{tmp_path / 'new style.safetensors'}:0.8",)
    main(["generate", "--from", files[1], "--out", str(tmp_path / "again")])
    assert Image.open(capsys.readouterr().out.strip()).tobytes() == other
    with pytest.raises(SystemExit):
        main([*words[:1], "--model", str(tmp_path / "new style.safetensors")])
    assert "a LoRA: name the model, and this with --lora" in capsys.readouterr().err
    assert asked("a.safetensors:-0.5") == ("a.safetensors", -0.5) and asked("C:a") == ("C:a", 1.0) and asked("a") == ("a", 1.0)


def spoil(place, change):
    tensors, about = load_tensors(place)
    tensors = {k: v.clone() for k, v in tensors.items()}
    change(tensors)
    save_tensors(place, tensors, about)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update({"lora_x.lora_A.weight": torch.zeros(2, 2)}), r"54 of 55 keys apply to small; not lora_x"),
        (lambda t: t[min(t)].fill_(1) and t[min(k for k in t if "lora_A" in k)].fill_(torch.nan), "holds NaN or infinity"),
        (
            lambda t: [t.pop(k) for k in list(t) if k.startswith("diffusion_model")] and t.update(a=torch.zeros(1)),
            "none of its 1 keys",
        ),
        (lambda t: t.update({max(k for k in t if "lora_B" in k): torch.zeros(7, 3)}), r"51 of 54 keys apply to small; not"),
        (lambda t: t.update({k: torch.zeros(2) for k in t if k.endswith("alpha")}), r"alpha holds \(2,\); it is one number"),
    ],
)
def test_what_does_not_belong_is_refused(change, said, tmp_path):
    changed(tmp_path / "a", 1)
    spoil(tmp_path / "a", change)
    made = system()
    before = says(made)
    with pytest.raises(UserError, match=said):
        with_loras(made, [(open_lora(tmp_path / "a", made), 1.0)])
    assert torch.equal(says(made), before), "nothing of it is left"


def test_a_weight_that_is_no_number_is_refused(tmp_path):
    changed(tmp_path / "a", 1)
    made = system()
    with pytest.raises(UserError, match="the weight of a is nan"):
        with_loras(made, [(open_lora(tmp_path / "a", made), float("nan"))])


def test_lengths_that_do_not_fit_are_refused(tmp_path):
    changed(tmp_path / "a", 1)
    spoil(tmp_path / "a", lambda t: t.update({min(t).rsplit(".", 1)[0] + ".dora_scale": torch.ones(5, 1)}))
    with pytest.raises(UserError, match="5 lengths for a weight of"):
        open_lora(tmp_path / "a", system())


@pytest.mark.parametrize(
    ("key", "layer", "part"),
    [
        ("unet.mid.attn1.processor.to_q_lora.up.weight", "unet.mid.attn1.to_q", "up"),
        ("unet.mid.attn1.processor.to_out_lora.down.weight", "unet.mid.attn1.to_out.0", "down"),
        ("text_encoder.layers.0.fc1.lora_linear_layer.up.weight", "text_encoder.layers.0.fc1", "up"),
        ("unet.conv.lora_A.default.weight", "unet.conv", "down"),
        ("lora_unet_conv.lora_mid.weight", "lora_unet_conv", "core"),
        ("lycoris_blocks_0_to_q.lokr_w2_a", "lycoris_blocks_0_to_q", "lokr_w2_a"),
        ("diffusion_model.out.diff_b", "diffusion_model.out", "diff_b"),
    ],
)
def test_what_a_tensor_is_the_end_of_its_name_tells(key, layer, part):
    found, strange = pieces({key: torch.zeros(1)})
    assert list(found) == [layer] and list(found[layer].parts) == [part] and not strange
