"""Single files and folders that are no whole system: what they are is said in one line, and at once."""

import time

import published
import pytest
import test_single_files as single
import torch
from safetensors.torch import save_file

from reverie.encode.clip import Clip
from reverie.errors import UserError
from reverie.systems.building import building, numbered
from reverie.systems.foreign import open_file, open_folder
from reverie.systems.opening import Opening
from reverie.systems.shipped import open_model, read_model
from reverie.systems.stable_diffusion.folder import PIPELINES, _pipeline
from reverie.systems.stable_diffusion.prompt import PromptXL
from reverie.tasks.generate import generate

NET = "model.diffusion_model."
FAR = 30_000_000


def named(*names, **shapes):
    return {name: torch.zeros(shapes.get("shape", (2, 2))) for name in names}


BEYOND = {
    "sd": named(
        f"{NET}input_blocks.0.0.weight",
        f"{NET}time_embed.0.weight",
        f"{NET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        f"{NET}output_blocks.0.1.conv.weight",
        f"{NET}output_blocks.{FAR}.0.weight",
    ),
    "ldm": named(f"{NET}input_blocks.0.0.weight", f"{NET}time_embed.0.weight", f"{NET}output_blocks.{FAR}.0.weight"),
    "sd3": {
        **named(f"{NET}x_embedder.proj.weight", shape=(64, 4, 2, 2)),
        **named(f"{NET}joint_blocks.0.context_block.adaLN_modulation.1.bias", f"{NET}joint_blocks.{FAR}.x_block.attn.ln_q.weight"),
    },
    "flux": named("double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight", f"double_blocks.{FAR}.a.weight"),
    "dit": {
        **named("x_embedder.proj.weight", shape=(384, 4, 2, 2)),
        **named("y_embedder.embedding_table.weight", "blocks.0.mlp.fc1.weight", "final_layer.linear.weight", f"blocks.{FAR}.a"),
        **named("pos_embed", shape=(1, 4, 384)),
    },
    "ddpm": named(
        *("temb.dense.0.weight", "down.0.block.0.temb_proj.weight", "mid.attn_1.q.weight"),
        *("conv_in.weight", "conv_out.weight", f"down.{FAR}.block.0.conv1.weight"),
    ),
    "adm": named(
        *("input_blocks.0.0.weight", "time_embed.0.weight", "middle_block.2.in_layers.0.weight", f"output_blocks.{FAR}.0.weight")
    ),
}


@pytest.mark.parametrize("name", BEYOND)
def test_a_number_in_a_name_takes_no_time(name, tmp_path):
    save_file(BEYOND[name], tmp_path / "model.safetensors")
    before = time.process_time()
    with pytest.raises(UserError, match=rf"its tensors are no whole .*{FAR}, and none of the number [01]\)"):
        open_file(tmp_path / "model.safetensors")
    assert time.process_time() - before < 5


def test_what_is_built_is_bounded_and_fails_in_one_line():
    assert numbered(["a.0.x", "a.1.x", "a.1.y", "b.7"], r"a\.(\d+)\.") == 2 and numbered([], r"a\.(\d+)\.") == 0
    with building("here", 250):
        assert torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(1500))[0].weight.is_meta  # 3000 weights
    with pytest.raises(UserError, match=r"here: .* \(it would have more than 3000 weights, and 250 "), building("here", 250):
        torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(1501))
    with pytest.raises(UserError, match=r"here: its tensors are no whole thing \(division by zero"), building("here", 1, "thing"):
        assert 1 / 0
    torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(1501))  # elsewhere nothing is counted


PARTS = {
    "a LoRA": ["lora_unet_down_blocks_0.lora_up.weight", "lora_te_text_model_encoder.alpha"],
    "a LoRA: ": ["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"],
    "an autoencoder, alone": ["encoder.conv_in.weight", "decoder.conv_in.weight"],
    "the U-Net of a folder of diffusers, alone": ["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
    "the transformer of a folder of diffusers, alone": ["transformer_blocks.0.attn.to_q.weight"],
    "CLIP, alone": ["text_model.embeddings.token_embedding.weight"],
    "T5's encoder of words, alone": ["shared.weight"],
    "a textual inversion": ["emb_params"],
    "a ControlNet": ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
}


@pytest.mark.parametrize("what", PARTS)
def test_a_part_is_called_what_it_is(what, tmp_path):
    save_file(named(*PARTS[what]), tmp_path / "part.safetensors")
    with pytest.raises(
        UserError, match=rf"part.safetensors is no whole model; it is {what}.*(of the whole|this with --lora|this with --embedding)"
    ):
        open_file(tmp_path / "part.safetensors")


def test_places_that_are_no_model_are_called_what_they_are(tmp_path):
    for name, text in (("a.safetensors", "<!DOCTYPE html>"), ("b.safetensors", "version https://git-lfs.github.com/spec/v1\n")):
        (tmp_path / name).write_text(text)
    for name in ("empty", "part", "whole"):
        (tmp_path / name).mkdir()
    (tmp_path / "part/config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (tmp_path / "whole/model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    said = {
        "a.safetensors": "is a page of HTML",
        "b.safetensors": "`git lfs pull`",
        "empty": "is empty",
        "part": "holds the part UNet2DConditionModel of a model: name the folder above",
        "whole/model_index.json": "name its folder, .*whole",
        "whole": r"none of our systems\. Known: StableDiffusionPipeline, ",
    }
    for name, words in said.items():
        with pytest.raises(UserError, match=words):
            read_model(str(tmp_path / name))
    with pytest.raises(UserError, match="nothing is downloaded: name a folder or a file that is here"):
        read_model("stabilityai/stable-diffusion-xl-base-1.0")


@pytest.mark.parametrize(("channels", "kinds"), [(4, "|"), (9, "Inpaint|XLInpaint"), (8, "InstructPix2Pix|XLInstructPix2Pix")])
def test_a_net_that_is_told_a_picture_is_written_as_what_it_is(channels, kinds):
    large = PromptXL([Clip(published.clip(32, projected=True), published.clip_words())], size=(8, 8))
    for encoder, kind in zip((None, large), kinds.split("|") if channels != 4 else ("", "XL"), strict=True):
        assert _pipeline(encoder, channels) == f"StableDiffusion{kind}Pipeline" and _pipeline(encoder, channels) in PIPELINES
    with pytest.raises(UserError, match="nets of 4, 8 or 9 channels, and this one has 5"):
        _pipeline(None, 5)


def test_what_a_file_of_stable_diffusion_lacks_comes_from_a_folder(tmp_path):
    torch.manual_seed(0)
    pipe, words = single.sd1()
    pipe.save_pretrained(tmp_path / "folder")
    system = open_folder(tmp_path / "folder")
    every = single.of_ldm(pipe, system, words)
    bare = {k: v for k, v in every.items() if k.startswith(NET)}
    save_file(bare, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match=r"bare.safetensors holds no autoencoder: name a folder .* with --parts"):
        open_file(tmp_path / "bare.safetensors")
    again = open_file(tmp_path / "bare.safetensors", Opening(parts=str(tmp_path / "folder")))
    assert (single.drawn(system) == single.drawn(again)).all()


def test_no_configuration_is_read_without_bound(tmp_path):
    with (tmp_path / "model_index.json").open("wb") as handle:
        handle.truncate(17 << 20)
    with pytest.raises(UserError, match=r"model_index\.json has more than 16 MB"):
        open_folder(tmp_path)


def test_a_net_that_is_told_a_picture_makes_none_from_words(tmp_path):
    torch.manual_seed(0)
    pipe = published.sd1()
    net = pipe.unet
    net.conv_in = torch.nn.Conv2d(9, net.conv_in.out_channels, 3, padding=1)
    net.register_to_config(in_channels=9)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"changes pictures \(9 channels for 4\), and makes none from words alone"):
        generate(open_model(str(tmp_path)), "a fox", steps=1)


def test_what_was_opened_is_looked_through_for_its_hash_only_when_it_is_asked_for(tmp_path, monkeypatch):
    torch.manual_seed(0)
    published.sd1().save_pretrained(tmp_path)
    read = []
    monkeypatch.setattr("reverie.systems.folders.fingerprint", lambda paths: read.append(len(paths)) or "0123")
    system = open_model(str(tmp_path))
    assert read == [] and (system.hash, system.hash) == ("0123", "0123") and read == [3]
