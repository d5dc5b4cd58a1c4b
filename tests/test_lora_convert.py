"""Files of changes in everyone's formats: what is written changes every weight alike, and others' tools read it to the last key."""

import hashlib
import itertools
import json
import logging
import re
import warnings

import published
import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from test_lora_files import system as small

from reverie.cli import main
from reverie.errors import UserError
from reverie.nets.lora import adapt, changes
from reverie.systems.lora import open_lora, save_lora, with_loras
from reverie.systems.lora.formats import FORMATS, format_of
from reverie.systems.lora.places import places, weights
from reverie.systems.lora.spec import described
from reverie.systems.lora.written import convert
from reverie.systems.shipped import read_model

FAMILIES = {name: getattr(published, name) for name in ("sd1", "sd2", "sdxl", "sd3", "flux")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """For each family: a folder with the model (base), and a file of ours that changes every linear layer of its net."""
    found = {}

    def make(name):
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            FAMILIES[name]().save_pretrained(folder / "base")
            system = read_model(str(folder / "base"))
            net = system.denoiser.net
            adapt(net, 3, alpha=1.5)
            for change in changes(net):
                torch.nn.init.normal_(change.up, std=0.1)
            save_lora(system, folder / "ours.safetensors", {"name": "base", "hash": ""}, {"name": "new"}, told=False)
            found[name] = folder
        return found[name]

    return make


def base(folder):
    return read_model(str(folder / "base"))


def effect(folder, file):
    """{weight: what the file makes of it}."""
    system = base(folder)
    with_loras(system, [(open_lora(file, system), 1.0)])
    return {k: v.data.clone() for k, v in weights(system).items()}


def alike(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], atol=1e-6, rtol=1e-5, msg=key)


def converted(folder, file, name, out):
    return convert(file, base(folder), format_of(name), out)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_there_and_back_changes_every_weight_alike(form, name, made, tmp_path):
    folder = made(name)
    there = converted(folder, folder / "ours.safetensors", form, tmp_path / "there")
    alike(effect(folder, there), effect(folder, folder / "ours.safetensors"))
    back = converted(folder, there, "reverie", tmp_path / "back.safetensors")
    before, after = load_file(folder / "ours.safetensors"), load_file(back)
    assert before.keys() == after.keys() and len(before) > 30
    stacked = form in ("kohya", "comfyui") and name in ("sd3", "flux")
    for key, value in before.items():
        if key.endswith("alpha"):
            torch.testing.assert_close(value, after[key])
        else:
            assert torch.equal(value, after[key]), f"{key}{' of a stack' if stacked else ''}"


PLACES = {
    "sd1": {"kohya": "lora_unet_down_blocks_0_", "comfyui": "diffusion_model.input_blocks.1.1.", "lycoris": "lycoris_mid_block_"},
    "sdxl": {"kohya": "lora_unet_input_blocks_", "onetrainer": "lora_unet_down_blocks_", "peft": "base_model.model.down_blocks."},
    "sd3": {
        "kohya": "lora_unet_joint_blocks_0_x_block_attn_qkv.",
        "onetrainer": "lora_transformer_transformer_blocks_0_attn_to_q.",
    },
    "flux": {"kohya": "lora_unet_double_blocks_0_img_attn_qkv.", "comfyui": "diffusion_model.single_blocks.0.linear1."},
}


@pytest.mark.parametrize("name", PLACES)
def test_layers_are_called_as_each_tool_calls_them(name, made, tmp_path):
    for form, begins in PLACES[name].items():
        keys = load_file(converted(made(name), made(name) / "ours.safetensors", form, tmp_path / form)).keys()
        assert any(key.startswith(begins) for key in keys), form


class Heard(logging.Handler):
    """What a library complains of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


def fused(name, folder, file, tmp_path):
    """What diffusers makes of a model with a file, as one of ours; nothing of the file is left over."""
    heard, log = Heard(), logging.getLogger("diffusers")
    log.addHandler(heard)
    try:
        torch.manual_seed(0)
        pipe = FAMILIES[name]()
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        pipe.fuse_lora(components=[p for p in ("unet", "transformer", "text_encoder", "text_encoder_2") if touched(pipe, p)])
        pipe.unload_lora_weights()
        pipe.save_pretrained(tmp_path / "fused")
    finally:
        log.removeHandler(heard)
    said = [line for line in heard.said if "No LoRA keys associated to CLIP" not in line]
    assert not said, said
    return {k: v.data for k, v in weights(read_model(str(tmp_path / "fused"))).items()}


def touched(pipe, part):
    return bool(getattr(getattr(pipe, part, None), "peft_config", {}))


@pytest.mark.parametrize("name", FAMILIES)
def test_diffusers_reads_what_we_write_and_fuses_the_same(name, made, tmp_path):
    folder = made(name)
    file = converted(folder, folder / "ours.safetensors", "diffusers", tmp_path / "lora")
    assert file.name == "pytorch_lora_weights.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alike(fused(name, folder, file, tmp_path), effect(folder, folder / "ours.safetensors"))


@pytest.mark.parametrize("name", FAMILIES)
def test_peft_reads_what_we_write_and_merges_the_same(name, made, tmp_path):
    folder = made(name)
    file = converted(folder, folder / "ours.safetensors", "peft", tmp_path / "lora")
    torch.manual_seed(0)
    pipe = FAMILIES[name]()
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns of keys that are missing
        adapted = PeftModel.from_pretrained(getattr(pipe, part), str(file.parent))
    own = {k for k, _ in adapted.named_parameters() if "lora_" in k}
    assert {k.replace(".default.", ".") for k in own} == set(load_file(file))
    setattr(pipe, part, adapted.merge_and_unload())
    pipe.save_pretrained(tmp_path / "merged")
    alike(
        {k: v.data for k, v in weights(read_model(str(tmp_path / "merged"))).items()}, effect(folder, folder / "ours.safetensors")
    )


def random(shapes, **more):
    """Tensors of these shapes."""
    torch.manual_seed(3)
    return {k: torch.randn(shape) * 0.3 for k, shape in shapes.items()} | more


def kinds(system):
    """One layer of each kind, in kohya's names, of Stable Diffusion 1; with DoRA of rows and of columns, a core, and encoders."""
    head, own, known = "lora_unet_mid_block_attentions_0_transformer_blocks_0", weights(system), places(system)

    def shape(layer):
        return tuple(own[known[layer].keys[0]].shape)

    (o, i), (p, j) = shape(f"{head}_attn1_to_q"), shape(f"{head}_attn2_to_k")
    conv = "lora_unet_mid_block_resnets_0_conv1"
    co, ci = shape(conv)[:2]
    words = "lora_te_text_model_encoder_layers_1_self_attn_q_proj"
    wo, wi = shape(words)
    return random(
        {
            f"{head}_attn1_to_q.lora_up.weight": (o, 2),
            f"{head}_attn1_to_q.lora_down.weight": (2, i),
            f"{head}_attn1_to_q.dora_scale": (o, 1),
            f"{head}_attn1_to_k.lora_up.weight": (o, 2),
            f"{head}_attn1_to_k.lora_down.weight": (2, i),
            f"{head}_attn1_to_k.dora_scale": (1, i),
            f"{head}_attn2_to_k.hada_w1_a": (p, 2),
            f"{head}_attn2_to_k.hada_w1_b": (2, j),
            f"{head}_attn2_to_k.hada_w2_a": (p, 2),
            f"{head}_attn2_to_k.hada_w2_b": (2, j),
            f"{head}_attn2_to_v.lokr_w1": (4, 4),
            f"{head}_attn2_to_v.lokr_w2_a": (p // 4, 2),
            f"{head}_attn2_to_v.lokr_w2_b": (2, j // 4),
            f"{head}_attn1_to_v.diff": (o, i),
            f"{conv}.lora_up.weight": (co, 2, 1, 1),
            f"{conv}.lora_mid.weight": (2, 2, 3, 3),
            f"{conv}.lora_down.weight": (2, ci, 1, 1),
            f"{conv}.diff_b": (co,),
            f"{words}.lora_up.weight": (wo, 2),
            f"{words}.lora_down.weight": (2, wi),
        },
        **{f"{name}.alpha": torch.tensor(1.5) for name in (f"{head}_attn1_to_q", f"{head}_attn2_to_k", f"{head}_attn2_to_v", conv)},
    )


@pytest.mark.parametrize("form", ["comfyui", "onetrainer", "reverie"])
def test_every_kind_of_change_goes_there_and_back_bit_for_bit(form, made, tmp_path):
    folder = made("sd1")
    before = kinds(base(folder))
    save_file(before, tmp_path / "all.safetensors")
    there = converted(folder, tmp_path / "all.safetensors", form, tmp_path / "there")
    alike(effect(folder, there), effect(folder, tmp_path / "all.safetensors"))
    after = load_file(converted(folder, there, "kohya", tmp_path / "back.safetensors"))
    assert before.keys() == after.keys() - {k for k in after if k.endswith(".alpha") and k not in before}
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(
    ("drop", "form", "said"),
    [
        ((), "diffusers", "dora_scale|lengths of columns|a LoHa|several kinds|a whole difference"),
        (("dora", "diff", "lokr"), "diffusers", "a LoHa, which files of diffusers do not hold"),
        (("dora", "diff", "hada"), "diffusers", "a LoKr, which files of diffusers do not hold"),
        (("dora", "lokr", "hada", "diff_b"), "diffusers", "a whole difference, which files of diffusers do not hold"),
        (("dora", "lokr", "hada", "diff."), "peft", "a LoKr|difference of a bias|has no name for it"),
        (("diff", "lokr", "hada"), "diffusers", "lengths of columns"),
        (("dora", "diff", "lokr"), "peft", "PEFT has no name for it|changes of several kinds"),
        (("dora", "diff"), "lycoris", "LyCORIS has no name for it"),
    ],
)
def test_what_a_format_does_not_hold_is_refused(drop, form, said, made, tmp_path):
    folder = made("sd1")
    tensors = {k: v for k, v in kinds(base(folder)).items() if not any(d in f"{k}." for d in drop)}
    tensors = {
        k: v for k, v in tensors.items() if sum(other.startswith(k.split(".")[0] + ".") for other in tensors) > 1 or "diff" in k
    }
    save_file(tensors, tmp_path / "all.safetensors")
    with pytest.raises(UserError, match=said):
        converted(folder, tmp_path / "all.safetensors", form, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def stacked(name, system, **kind):
    """What was learnt of the queries, keys and values as one, in the publisher's names."""
    layer = {"flux": "double_blocks_0_img_attn_qkv", "sd3": "joint_blocks_0_x_block_attn_qkv"}[name]
    stack = places(system)[f"lora_unet_{layer}"]
    out, into = stack.together(weights(system)).shape
    shapes = {
        "lora": {"lora_up.weight": (out, 2), "lora_down.weight": (2, into)},
        "dora": {"lora_up.weight": (out, 2), "lora_down.weight": (2, into), "dora_scale": (out, 1)},
        "loha": {"hada_w1_a": (out, 2), "hada_w1_b": (2, into), "hada_w2_a": (out, 2), "hada_w2_b": (2, into)},
        "lokr": {"lokr_w1": (out // 8, 4), "lokr_w2": (8, into // 4)},
        "odd lokr": {"lokr_w1": (2, 4), "lokr_w2": (out // 2, into // 4)},
        "whole": {"diff": (out, into)},
        "columns": {"lora_up.weight": (out, 2), "lora_down.weight": (2, into), "dora_scale": (1, into)},
    }[kind["kind"]]
    more = {} if "lokr" in kind["kind"] or kind["kind"] == "whole" else {f"lora_unet_{layer}.alpha": torch.tensor(3.0)}
    return random({f"lora_unet_{layer}.{part}": shape for part, shape in shapes.items()}, **more)


@pytest.mark.parametrize("name", ["flux", "sd3"])
@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr", "whole"])
def test_what_was_learnt_of_a_stack_is_cut_apart_and_comes_together_again(kind, name, made, tmp_path):
    folder = made(name)
    before = stacked(name, base(folder), kind=kind)
    save_file(before, tmp_path / "one.safetensors")
    there = converted(folder, tmp_path / "one.safetensors", "onetrainer", tmp_path / "there")
    assert sum(k.endswith(("lora_up.weight", "hada_w1_a", "lokr_w1", "diff")) for k in load_file(there)) == 3
    alike(effect(folder, there), effect(folder, tmp_path / "one.safetensors"))
    after = load_file(converted(folder, there, "kohya", tmp_path / "back.safetensors"))
    assert before.keys() == after.keys() and all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(
    ("kind", "said"), [("odd lokr", "which do not part where the weights do"), ("columns", "a length for each column of several")]
)
def test_a_stack_that_cannot_be_cut_exactly_is_refused(kind, said, made, tmp_path):
    folder = made("flux")
    save_file(stacked("flux", base(folder), kind=kind), tmp_path / "one.safetensors")
    with pytest.raises(UserError, match=said):
        converted(folder, tmp_path / "one.safetensors", "diffusers", tmp_path / "there")


def test_parts_of_a_stack_of_other_ranks_and_scales_come_together_exactly(made, tmp_path):
    folder, head = made("flux"), "transformer.transformer_blocks.0.attn"
    into = base(folder).denoiser.net.config.width
    tensors = random({f"{head}.to_q.lora_A.weight": (2, into), f"{head}.to_q.lora_B.weight": (into, 2)})
    tensors |= random({f"{head}.to_v.lora_A.weight": (3, into), f"{head}.to_v.lora_B.weight": (into, 3)})
    tensors |= {f"{head}.to_q.alpha": torch.tensor(1.0), f"{head}.to_v.alpha": torch.tensor(6.0)}  # and nothing of the keys
    save_file(tensors, tmp_path / "parts.safetensors")
    one = converted(folder, tmp_path / "parts.safetensors", "kohya", tmp_path / "one.safetensors")
    assert load_file(one)["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"].shape == (3 * into, 5)
    alike(effect(folder, one), effect(folder, tmp_path / "parts.safetensors"))


KNOWN = {"sd1": ".", "sdxl": ".", "flux": r"\.joint\."}
"""The layers of which diffusers reads kohya's names; of single blocks of Flux it expects those of the published size."""


@pytest.mark.parametrize("name", KNOWN)
def test_diffusers_reads_kohyas_names_as_we_write_them(name, made, tmp_path):
    """With encoders, of which it looks for the last layer of attention."""
    folder = made(name)
    known = places(base(folder))
    kept = {k: v for k, v in load_file(folder / "ours.safetensors").items() if re.search(KNOWN[name], k)}
    own, some = weights(base(folder)), {}
    for head, tail in itertools.product(("text_encoder", "text_encoder_2"), ("q_proj", "out_proj")):
        if (layer := f"{head}.text_model.encoder.layers.0.self_attn.{tail}") in known:
            out, into = own[known[layer].keys[0]].shape
            some |= random({f"{layer}.lora_A.weight": (2, into), f"{layer}.lora_B.weight": (out, 2)})
            some[f"{layer}.alpha"] = torch.tensor(1.0)
    save_file(kept | some, tmp_path / "some.safetensors")
    (tmp_path / "lora").mkdir()
    file = converted(folder, tmp_path / "some.safetensors", "kohya", tmp_path / "lora" / "kohya.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alike(fused(name, folder, file, tmp_path), effect(folder, tmp_path / "some.safetensors"))


PEFTS = {
    "dora": LoraConfig(r=3, lora_alpha=2, target_modules=["to_q", "conv1"], use_dora=True, init_lora_weights=False),
    "loha": LoHaConfig(r=2, alpha=3, target_modules=["to_q", "conv1"], use_effective_conv2d=True, init_weights=False),
    "rslora": LoraConfig(r=4, lora_alpha=3, target_modules=["to_q", "to_k"], use_rslora=True, init_lora_weights=False),
    "patterns": LoraConfig(
        r=4,
        lora_alpha=3,
        target_modules=["to_q", "to_k"],
        rank_pattern={"to_k": 2},
        alpha_pattern={"attn2.to_q": 9},
        init_lora_weights=False,
    ),
}


@pytest.mark.parametrize("kind", PEFTS)
def test_pefts_own_go_through_other_formats_and_peft_reads_them_again(kind, made, tmp_path):
    folder = made("sd1")
    torch.manual_seed(0)
    adapted = get_peft_model(published.sd1().unet, PEFTS[kind])
    for key, value in adapted.named_parameters():
        if "magnitude" in key:
            value.data.mul_(1.2)
    adapted.save_pretrained(tmp_path / "theirs")
    theirs = tmp_path / "theirs" / "adapter_model.safetensors"
    there = converted(folder, theirs, "kohya", tmp_path / "kohya.safetensors")
    back = converted(folder, there, "peft", tmp_path / "peft")
    wanted = effect(folder, theirs)
    alike(effect(folder, there), wanted)
    alike(effect(folder, back), wanted)
    torch.manual_seed(0)
    pipe = published.sd1()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.unet = PeftModel.from_pretrained(pipe.unet, str(tmp_path / "peft")).merge_and_unload()
    pipe.save_pretrained(tmp_path / "merged")
    alike({k: v.data for k, v in weights(read_model(str(tmp_path / "merged"))).items()}, wanted)


def test_the_command_line_writes_a_format_and_refuses_what_it_cannot(made, tmp_path, capsys):
    folder, out = made("sd1"), tmp_path / "a.safetensors"
    words = ["doctor", str(folder / "ours.safetensors"), "--model", str(folder / "base")]
    main([*words, "--convert", "kohya", "--out", str(out)])
    assert capsys.readouterr().out.strip() == str(out)
    main(["doctor", str(out), "--model", str(folder / "base"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == "kohya" and not told["unknown"]
    for more, said in (
        (["--convert", "kohia", "--out", str(tmp_path / "b")], "no format of LoRAs is called 'kohia'. Did you mean 'kohya'"),
        (["--convert", "kohya"], "name what is written with --out"),
        (["--convert", "kohya", "--out", str(out)], "is there already"),
        (["--convert", "peft", "--out", str(tmp_path / "b.safetensors")], "PEFT looks for adapter_model.safetensors"),
        (["--out", str(tmp_path / "b")], "nothing is asked for"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["doctor", str(out), "--convert", "kohya", "--out", str(tmp_path / "b")])
    assert "name it with --model" in capsys.readouterr().err


def test_a_model_of_ours_goes_by_its_own_paths_in_every_format(tmp_path):
    made = small()
    adapt(made.denoiser.net, 3, alpha=1.5)
    for change in changes(made.denoiser.net):
        torch.nn.init.normal_(change.up, std=0.1)
    save_lora(made, tmp_path / "ours.safetensors", {"name": "small", "hash": "ab12"}, {"name": "new"})
    learnt = open_lora(tmp_path / "ours.safetensors", small())
    wanted = {site.stack.keys[0]: site.change(torch.zeros(0)) for site in learnt.sites}
    for form in FORMATS.values():
        file = convert(tmp_path / "ours.safetensors", small(), form, tmp_path / form.name)
        for site in open_lora(file, small()).sites:
            torch.testing.assert_close(site.change(torch.zeros(0)), wanted[site.stack.keys[0]])


def about(file):
    with safe_open(file, "pt") as handle:
        return handle.metadata()


def after_header(file):
    data = file.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


ARCHITECTURES = {
    "sd1": "stable-diffusion-v1/lora",
    "sd2": "stable-diffusion-v2-768-v/lora",
    "sdxl": "stable-diffusion-xl-v1-base/lora",
    "sd3": "stable-diffusion-v3-medium/lora",
    "flux": "flux-1-dev/lora",
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_file_says_of_itself_what_other_tools_read(name, made, tmp_path):
    file = converted(made(name), made(name) / "ours.safetensors", "kohya", tmp_path / "style.safetensors")
    said = about(file)
    assert said["modelspec.sai_model_spec"] == "1.0.1" and said["modelspec.architecture"] == ARCHITECTURES[name]
    assert said["modelspec.title"] == "style" and re.fullmatch(r"\d+x\d+", said["modelspec.resolution"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", said["modelspec.date"])
    assert said["modelspec.implementation"] and said["modelspec.description"]
    whole = hashlib.sha256(after_header(file)).hexdigest()
    assert said["modelspec.hash_sha256"] == f"0x{whole}" and said["sshs_model_hash"] == whole
    assert said["ss_network_module"] == "networks.lora" and said["ss_output_name"] == "style" and said["ss_sd_model_name"] == "base"
    assert said["ss_network_dim"] == "3" and float(said["ss_network_alpha"]) == 1.5 and said["ss_v2"] == str(name == "sd2")
    assert not [v for v in said.values() if "/tmp" in v or str(tmp_path) in v]


def test_the_older_hash_is_of_the_file_with_the_entries_of_kohya_alone(tmp_path):
    tensors = {"lora_unet_x.lora_up.weight": torch.randn(600, 600, generator=torch.Generator().manual_seed(0))}
    said = described(tensors, small(), "style", "kohya", {"ss_training_comment": "mine", "modelspec.tags": "a, b"})
    alone = save(tensors, {k: v for k, v in said.items() if k.startswith("ss_")})
    assert len(alone) > 0x110000
    assert said["sshs_legacy_hash"] == hashlib.sha256(alone[0x100000:0x110000]).hexdigest()[:8]
    more = described(tensors, small(), "style", "kohya", {"ss_training_comment": "mine", "modelspec.tags": "c"})
    assert more["sshs_legacy_hash"] == said["sshs_legacy_hash"] and more["modelspec.tags"] != said["modelspec.tags"]
    other = described(tensors, small(), "other style", "kohya", {"ss_training_comment": "mine"})
    assert other["sshs_legacy_hash"] != said["sshs_legacy_hash"] and other["sshs_model_hash"] == said["sshs_model_hash"]


def test_what_a_source_said_is_kept_but_for_places_and_hashes(made, tmp_path):
    folder = made("sd1")
    told = {
        "ss_seed": "42",
        "ss_sd_model_name": "/home/somebody/models/base.ckpt",
        "ss_tag_frequency": '{"1_fox": {"red": 3}}',
        "ss_session_id": "7",
        "ss_network_dim": "99",
        "modelspec.author": "somebody",
        "modelspec.thumbnail": "data:image/jpeg;base64,/9j/4AAQ/SkZJRg==",
        "modelspec.usage_hint": "see C:\\Users\\somebody\\notes.txt",
        "modelspec.hash_sha256": "0x00",
        "sshs_model_hash": "00",
    }
    save_file(load_file(folder / "ours.safetensors"), tmp_path / "a.safetensors", told)
    said = about(converted(folder, tmp_path / "a.safetensors", "kohya", tmp_path / "b.safetensors"))
    assert said["ss_seed"] == "42" and said["ss_tag_frequency"] == told["ss_tag_frequency"] and said["ss_network_dim"] == "3"
    assert said["modelspec.author"] == "somebody" and said["modelspec.thumbnail"] == told["modelspec.thumbnail"]
    assert "ss_sd_model_name" not in said and "modelspec.usage_hint" not in said and "ss_session_id" not in said
    assert len(said["sshs_model_hash"]) == 64
    bare = about(convert(tmp_path / "a.safetensors", base(folder), format_of("kohya"), tmp_path / "c.safetensors", about=False))
    assert bare == {"format": "pt"}


@pytest.mark.parametrize("name", ["pixart", "sana"])
def test_who_has_names_for_a_model_and_who_has_not(name, tmp_path):
    torch.manual_seed(0)
    getattr(published, name)().save_pretrained(tmp_path / "base")
    system = base(tmp_path)
    net = system.denoiser.net
    adapt(net, 2)
    for change in changes(net):
        torch.nn.init.normal_(change.up, std=0.1)
    ours = tmp_path / "ours.safetensors"
    save_lora(system, ours, {"name": "base", "hash": ""}, {"name": "new"}, told=False)
    wanted = effect(tmp_path, ours)
    for form in ("diffusers", "peft", "onetrainer", "lycoris"):
        alike(effect(tmp_path, converted(tmp_path, ours, form, tmp_path / form)), wanted)
    for form, whose in (("kohya", "kohya's scripts"), ("comfyui", "ComfyUI")):
        with pytest.raises(UserError, match=f"{whose} has no names for the layers of base: convert to diffusers, peft, onetrainer"):
            converted(tmp_path, ours, form, tmp_path / form)
