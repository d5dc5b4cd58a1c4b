"""Changes of weights as diffusers and peft write them, and as kohya's scripts do: here as there, to the last keys."""

import json
import warnings

import published
import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from reverie.cli import main
from reverie.errors import UserError
from reverie.systems.lora import open_lora, with_loras
from reverie.systems.lora.doctor import examined
from reverie.systems.lora.places import places, weights
from reverie.systems.shipped import read_model

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
JOINT = [*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm1.linear"]
FAMILIES = {
    "sd1": (published.sd1, [*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "conv_in"]),
    "sd2": (published.sd2, [*ATTENTION, "proj_in", "proj_out", "time_emb_proj"]),
    "sdxl": (published.sdxl, [*ATTENTION, "ff.net.0.proj", "downsamplers.0.conv"]),
    "sd3": (published.sd3, JOINT),
    "flux": (published.flux, [*JOINT, "norm.linear", "proj_mlp", "proj_out"]),
}
WORDS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def net_of(pipe):
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def adapters(pipe, targets, **options):
    """Random changes of the net and of the encoders of words, as the dictionaries that pipelines write."""
    torch.manual_seed(1)
    more = {}
    for name in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        part = getattr(pipe, name, None)
        if part is None or (name.startswith("text") and not hasattr(part.config, "projection_dim")):
            continue  # T5
        ours = WORDS if name.startswith("text") else targets
        config = LoraConfig(r=3, lora_alpha=6, target_modules=ours, init_lora_weights=False, **options)
        part.add_adapter(config)
        for key, value in part.named_parameters():
            if "lora_magnitude" in key:
                value.data.mul_(1.1)
        more[name] = get_peft_model_state_dict(part)
    return more


def config_of(pipe, part):
    return getattr(pipe, part).peft_config["default"].to_dict()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """For each family: the folder of the model, that of the model with the changes inside, and the file of the changes."""
    found = {}

    def make(name):
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            build, targets = FAMILIES[name]
            torch.manual_seed(0)
            pipe = build()
            pipe.save_pretrained(folder / "base")
            parts = adapters(pipe, targets)
            layers = {f"{part}_lora_layers": tensors for part, tensors in parts.items() if not part.startswith("text_encoder_2")}
            if "text_encoder_2" in parts and not name.startswith("flux"):
                layers["text_encoder_2_lora_layers"] = parts["text_encoder_2"]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                metadata = {
                    f"{part}_lora_adapter_metadata": config_of(pipe, part) for part in parts if f"{part}_lora_layers" in layers
                }
                pipe.save_lora_weights(folder, **layers, **metadata)
                pipe.fuse_lora(components=list(parts))
                pipe.unload_lora_weights()
                pipe.save_pretrained(folder / "fused")
            found[name] = folder
        return found[name]

    return make


def same(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(value.data, other[key].data, atol=1e-6, rtol=1e-5, msg=key)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_diffusers_writes_is_in_our_weights_what_it_fuses(name, made):
    folder = made(name)
    file = folder / "pytorch_lora_weights.safetensors"
    system, fused = read_model(str(folder / "base")), read_model(str(folder / "fused"))
    before = {k: v.clone() for k, v in weights(system).items()}
    lora = open_lora(file, system)  # every key applies, or it is refused
    same(with_loras(system, [(lora, 1.0)]), fused)
    moved = {k for k, v in weights(system).items() if not torch.equal(v, before[k])}
    assert len(moved) == len({key for site in lora.sites for key in site.stack.keys}) > 8
    assert any(key.startswith("encoder.") for key in moved)


def kohya(tensors, name):
    """The same in the names of kohya's scripts; for XL these are the publisher's in the net, which diffusers reads, too."""
    out = {}
    for key, value in tensors.items():
        path, kind = key.removesuffix(".weight").rsplit(".lora_", 1)
        part, _, path = path.partition(".")
        head = {"unet": "lora_unet_", "text_encoder": "lora_te1_" if name == "sdxl" else "lora_te_", "text_encoder_2": "lora_te2_"}
        layer = head[part] + path.replace(".", "_")
        out[f"{layer}.lora_{'down' if kind == 'A' else 'up'}.weight"] = value
        out[f"{layer}.alpha"] = torch.tensor(6.0)
    return out


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_the_names_of_kohya_mean_the_same(name, made, tmp_path):
    folder = made(name)
    save_file(kohya(load_file(folder / "pytorch_lora_weights.safetensors"), name), tmp_path / "kohya.safetensors")
    system, fused = read_model(str(folder / "base")), read_model(str(folder / "fused"))
    lora = open_lora(tmp_path / "kohya.safetensors", system)
    same(with_loras(system, [(lora, 1.0)]), fused)


@pytest.mark.parametrize(
    ("name", "layer", "count"),
    [
        ("flux", "double_blocks.0.img_attn.qkv", 3),
        ("flux", "single_blocks.0.linear1", 4),
        ("sd3", "joint_blocks.0.x_block.attn.qkv", 3),
    ],
)
@pytest.mark.parametrize("head", ["lora_unet_", "diffusion_model."])
def test_a_layer_that_the_publisher_keeps_whole_is_changed_in_its_parts(name, layer, count, head, made, tmp_path):
    system = read_model(str(made(name) / "base"))
    stack = places(system)[f"diffusion_model.{layer}"]
    own = {k: v.clone() for k, v in weights(system).items()}
    whole = stack.together(own)
    torch.manual_seed(2)
    up, down = torch.randn(len(whole), 2), torch.randn(2, whole.shape[1])
    place = head + (layer.replace(".", "_") if head.endswith("_") else layer)
    save_file(
        {f"{place}.lora_up.weight": up, f"{place}.lora_down.weight": down, f"{place}.alpha": torch.tensor(1.0)}, tmp_path / "a"
    )
    with_loras(system, [(open_lora(tmp_path / "a", system), 0.5)])
    torch.testing.assert_close(stack.together(weights(system)).data, whole + 0.25 * up @ down, atol=1e-5, rtol=1e-5)
    moved = {k for k, v in weights(system).items() if not torch.equal(v, own[k])}
    assert moved == set(stack.keys) and len(moved) == count


def test_a_change_of_directions_and_lengths_is_pefts(tmp_path):
    torch.manual_seed(0)
    pipe = published.sd1()
    pipe.save_pretrained(tmp_path / "base")
    parts = adapters(pipe, [*ATTENTION, "ff.net.2"], use_dora=True)
    pipe.save_lora_weights(
        tmp_path,
        unet_lora_layers=parts["unet"],
        text_encoder_lora_layers=parts["text_encoder"],
        **{f"{part}_lora_adapter_metadata": config_of(pipe, part) for part in parts},
    )
    system = read_model(str(tmp_path / "base"))
    with_loras(system, [(open_lora(tmp_path / "pytorch_lora_weights.safetensors", system), 1.0)])
    pipe.fuse_lora(components=["unet", "text_encoder"])
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "fused")
    same(system, read_model(str(tmp_path / "fused")))


@pytest.mark.parametrize(
    "config",
    [
        LoHaConfig(r=3, alpha=6, target_modules=[*ATTENTION, "conv1"], init_weights=False),
        LoHaConfig(r=2, alpha=3, target_modules=["conv1"], use_effective_conv2d=True, init_weights=False),
        LoKrConfig(r=3, alpha=6, target_modules=[*ATTENTION, "ff.net.2"], init_weights=False),
        LoKrConfig(r=2, alpha=5, target_modules=["conv1"], decompose_both=True, use_effective_conv2d=True, init_weights=False),
        LoraConfig(
            r=4, lora_alpha=3, target_modules=ATTENTION, use_rslora=True, alpha_pattern={"attn2.to_k": 9}, init_lora_weights=False
        ),
    ],
    ids=["loha", "loha of convolutions", "lokr", "lokr of convolutions", "rslora"],
)
def test_what_peft_writes_is_in_our_weights_what_it_merges(config, tmp_path):
    torch.manual_seed(0)
    pipe = published.sd1()
    pipe.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(pipe.unet, config)
    adapted.save_pretrained(tmp_path / "adapter")
    pipe.unet = adapted.merge_and_unload()
    pipe.save_pretrained(tmp_path / "fused")
    system = read_model(str(tmp_path / "base"))
    lora = open_lora(tmp_path / "adapter" / "adapter_model.safetensors", system)
    same(with_loras(system, [(lora, 1.0)]), read_model(str(tmp_path / "fused")))
    assert len(lora.sites) >= 2


def test_one_of_another_family_is_refused_with_what_it_holds(made):
    system = read_model(str(made("sd1") / "base"))
    for other in ("sdxl", "sd3", "flux"):
        with pytest.raises(UserError, match=r"\d+ of \d+ keys apply to base; not "):
            open_lora(made(other) / "pytorch_lora_weights.safetensors", system)


MADE_FOR = {"sd3": "Stable Diffusion 3", "flux": "Flux"}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_doctor_says_what_it_is(name, made, capsys):
    file = made(name) / "pytorch_lora_weights.safetensors"
    found = examined(file)
    assert found.format == "diffusers" and list(found.kinds) == ["LoRA"] and found.ranks == {3: found.kinds["LoRA"]}
    assert list(found.scales) == [2.0] and found.encoders > 10 and found.applied is None
    assert found.family == MADE_FOR.get(name, f"a U-Net that reads words {56 if name == 'sdxl' else 24} wide")
    main(["doctor", str(file), "--model", str(made(name) / "base")])
    said = capsys.readouterr().out
    assert f"{found.keys} of {found.keys} keys apply to base" in said and "|D| / |W|" in said
    strength = {line.split()[0]: float(line.split()[2]) for line in said.split("strength")[1].splitlines()[1:] if "#" in line}
    assert len(strength) >= 3 and all(0.05 < size < 20 for size in strength.values())


def test_the_doctor_tells_formats_apart_by_their_keys(made, tmp_path, capsys):
    folder = made("sd1")
    tensors = kohya(load_file(folder / "pytorch_lora_weights.safetensors"), "sd1")
    save_file(tensors, tmp_path / "a.safetensors", {"ss_network_dim": "3", "modelspec.title": "a style"})
    found = examined(tmp_path / "a.safetensors")
    assert found.format == "kohya" and found.about["modelspec.title"] == "a style" and list(found.scales) == [2.0]
    wide = {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.ones(4, 768)}
    wide |= {next(iter(wide)).replace("down.weight", "up.weight"): torch.zeros(320, 4), "nonsense": torch.zeros(1)}
    save_file(wide, tmp_path / "b.safetensors")
    found = examined(tmp_path / "b.safetensors")
    assert found.family == "Stable Diffusion 1" and found.strange == ("nonsense",) and found.blocks == {"down_blocks_0": (1, 0.0)}
    with pytest.raises(SystemExit) as left:
        main(["doctor", str(tmp_path / "b.safetensors"), "--model", str(folder / "base"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert left.value.code == 1 and told["applied"] == 0 and len(told["unknown"]) == 2
    with pytest.raises(SystemExit):
        main(["doctor", str(folder / "base" / "unet" / "diffusion_pytorch_model.safetensors")])
    assert "holds no changes of weights; it is the U-Net of a folder of diffusers, alone" in capsys.readouterr().err
