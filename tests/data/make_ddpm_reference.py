"""Writes ddpm_reference.safetensors: what diffusers 0.42.1 answers with the weights and inputs of law 11.

    pip install torch==2.13.0 diffusers==0.42.1 && python tests/data/make_ddpm_reference.py

The net is the public DDPM for CIFAR-10 at a quarter of its width (32 channels). Each of its weights is drawn from a stream
named by the key our net gives it; `ours` is that renaming, checked to be a bijection. The file holds `output` (2, 3, 32, 32)
and `gradient`, that of the sum of squares of the output with respect to the input. The full-size count is printed.
"""

import re
import sys
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

sys.path[:0] = [str(Path(__file__).parent.parent / "laws"), str(Path(__file__).parent.parent.parent / "src")]
from test_law11_backbones import REFERENCE, SMALL, ddpm_inputs, drawn  # noqa: E402

from reverie.nets.unet import UNet  # noqa: E402

RENAMES = [
    (r"^conv_in\.", "stem."),
    (r"^conv_norm_out\.", "norm."),
    (r"^conv_out\.", "head."),
    (r"^time_embedding\.linear_1\.", "time.mlp.0."),
    (r"^time_embedding\.linear_2\.", "time.mlp.2."),
    (r"^mid_block\.attentions\.0\.", "bottom."),
    (r"^mid_block\.", "middle."),
    (r"^(down|up)_blocks\.", r"\1."),
    (r"\.resnets\.", ".res."),
    (r"\.attentions\.", ".attention."),
    (r"\.(down|up)samplers\.0\.", ".resample."),
    (r"\.time_emb_proj\.", ".emb."),
    (r"\.conv_shortcut\.", ".skip."),
    (r"\.to_out\.0\.", ".attention.out."),
    (r"\.to_([qkv])\.", r".attention.\1."),
    (r"\.group_norm\.", ".norm."),
]


def ours(key):
    """The key our U-Net gives to the weight that diffusers calls `key`."""
    for pattern, name in RENAMES:
        key = re.sub(pattern, name, key)
    return key


def reference(channels):
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        block_out_channels=(channels, 2 * channels, 2 * channels, 2 * channels),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=32,
        act_fn="silu",
    )


def main():
    torch.set_num_threads(1)
    with torch.device("meta"):
        print("full size:", sum(p.numel() for p in reference(128).parameters()))
        shapes = {k: v.shape for k, v in UNet(SMALL).state_dict().items()}
    net = reference(32).eval()
    keys = {k: ours(k) for k in net.state_dict()}
    assert sorted(keys.values()) == sorted(shapes), sorted(set(keys.values()) ^ set(shapes))
    weights = drawn(shapes)
    net.load_state_dict({k: weights[name] for k, name in keys.items()})
    x, t = ddpm_inputs()
    x.requires_grad_()
    y = net(x, t).sample
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    save_file({"output": y.detach(), "gradient": gradient}, REFERENCE)


if __name__ == "__main__":
    main()
