"""Single files and folders that are no whole system: what they are is said in one line, and at once."""

import time

import pytest
import torch
from safetensors.torch import save_file

from reverie.errors import UserError
from reverie.systems.building import building, numbered
from reverie.systems.foreign import open_file

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
