"""The U-Nets of DDPM, improved DDPM, ADM and latent diffusion: published sizes and names, and the same numbers.

diffusers 0.42.1 has the class of those that its folders hold. Of the files that the authors of improved DDPM and ADM published none
is installed here: `described` computes the net from the papers' description, straight from tensors in the original names.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from published import awake

from reverie.card import card_of, rebuild
from reverie.encode.classes import Classes
from reverie.errors import UserError
from reverie.nets import unets
from reverie.nets.noisy_classifier import NoisyClassifier, NoisyClassifierConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.systems.adm import original as adm
from reverie.systems.ddpm import original as ddpm
from reverie.systems.ddpm import unet
from reverie.systems.names import given, taken
from reverie.systems.stable_diffusion import original


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def count(net):
    return sum(p.numel() for p in net.parameters())


def whole(config, classes):
    """A net with its table of classes, as one file of theirs holds it."""
    parts = {"net": UNet(config)}
    if classes:
        parts["classes"] = Classes([str(k) for k in range(1000)], 4 * config.channels, null=False)
    return torch.nn.ModuleDict(parts)


# --- the published sizes ---

OPENAI = {
    "IDDPM_CIFAR10": (52_546_438, 446, False),
    "IDDPM_64": (121_063_942, 450, False),
    "IDDPM_64_CLASSES": (273_049_350, 451, True),
    "IDDPM_LSUN": (113_676_678, 426, False),
    "IDDPM_UPSAMPLER": (279_792_390, 457, True),
    "ADM_64": (295_904_454, 541, True),
    "ADM_128": (421_529_606, 493, True),
    "ADM_256": (553_838_086, 567, True),
    "ADM_512": (558_997_638, 645, True),
    "ADM_UPSAMPLER_256": (311_795_910, 567, True),
    "ADM_UPSAMPLER_512": (308_835_270, 537, True),
}
LATENT = {
    "LDM_4": (274_056_163, 368),
    "LDM_8_CHURCHES": (294_966_916, 520),
    "LDM_4_IMAGENET": (400_920_579, 688),
    "LDM_8_IMAGENET": (394_984_196, 626),
    "LDM_4_TEXT": (403_623_939, 688),
    "LDM_8_TEXT": (872_300_484, 686),
}
CLASSIFIERS = {64: (65_438_568, 307), 128: (42_568_040, 221), 256: (54_096_360, 249), 512: (54_448_360, 281)}


@pytest.mark.parametrize("name", [*OPENAI, *LATENT, "ADM_256-without"])
def test_original_sizes_and_names(name):
    name, _, without = name.partition("-")
    config, (total, keys, *told) = getattr(unets, name), ({**OPENAI, **LATENT})[name]
    if without:
        total, keys, told = 552_814_086, 566, [False]
    with torch.device("meta"):
        net = whole(config, any(told))
    theirs = taken(net, adm.layout(config))
    assert (count(net), len(theirs)) == (total, keys)
    assert given(net, theirs, adm.layout(config), name).keys() == net.state_dict().keys()
    # the shape is told by the tensors, all but the heads and what is only for training
    found = original.unet_of({k: tuple(v.shape) for k, v in theirs.items()})
    plain = {"heads": 1, "head_width": None, "dropout": 0.0, "depth": 1}
    assert replace(found, **plain) == replace(config, **plain)
    assert rebuild(card_of(config), {UNetConfig: UNet}, "net") == config


@pytest.mark.parametrize("size", CLASSIFIERS)
def test_sizes_and_names_of_classifiers(size):
    config = NoisyClassifierConfig(body=getattr(unets, f"CLASSIFIER_{size}"), size=size)
    with torch.device("meta"):
        net = NoisyClassifier(config)
    theirs = taken(net, adm.classifier(config))
    assert (count(net), len(theirs)) == CLASSIFIERS[size]
    assert given(net, theirs, adm.classifier(config), "classifier").keys() == net.state_dict().keys()


def plain_types(mult, attention):
    down = tuple("AttnDownBlock2D" if i in attention else "DownBlock2D" for i in range(len(mult)))
    return {"down_block_types": down, "up_block_types": tuple(k.replace("Down", "Up") for k in reversed(down))}


FIRST = {"attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6}


@pytest.mark.parametrize(("name", "total", "keys"), [("DDPM_CIFAR10", 35_746_307, 328), ("DDPM_256", 113_673_219, 450)])
def test_sizes_of_ddpm(name, total, keys):
    config = getattr(unets, name)
    with torch.device("meta"):
        types = plain_types(config.mult, config.attention)
        theirs = UNet2DModel(block_out_channels=tuple(config.widths), **types, **FIRST, dropout=config.dropout)
        ours = UNet(unet.config(dict(theirs.config)))
    assert ours.config == config
    assert count(ours) == total and len(theirs.state_dict()) == keys
    assert len(given(ours, theirs.state_dict(), unet.layout, name)) == keys
    ported = taken(ours, ddpm.layout(config))
    assert len(ported) == keys
    for i, width in enumerate(config.widths):  # both ways are counted from the largest picture
        assert len(ported[f"down.{i}.block.0.conv1.weight"]) == len(ported[f"up.{i}.block.0.conv1.weight"]) == width
        assert (f"up.{i}.upsample.conv.weight" in ported) == (i > 0)
    assert replace(ddpm.config({k: tuple(v.shape) for k, v in ported.items()}), dropout=config.dropout) == config


# --- the same numbers as diffusers ---

SMALL = {"block_out_channels": (32, 64, 64), "norm_num_groups": 8, "sample_size": 16, "layers_per_block": 1}
RESNET = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    **{"downsample_type": "resnet", "upsample_type": "resnet"},
}
SCALED = {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8}
TINY = {
    "ddpm": {**plain_types((1, 2, 2), (1,)), **FIRST},
    "heads": {**plain_types((1, 2, 2), (0, 1)), "attention_head_dim": 8, "in_channels": 4, "out_channels": 4},
    "learned": {**plain_types((1, 2, 2), (2,)), "out_channels": 6, "add_attention": False},
    "adm": {**RESNET, **SCALED, "attention_head_dim": 16, "out_channels": 6},
    "scaled": {**plain_types((1, 2, 2), (1,)), **SCALED, "attention_head_dim": None},
}


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_the_same_numbers_as_diffusers_and_back(name):
    theirs = awake(UNet2DModel(**SMALL, **TINY[name]))
    ours = UNet(unet.config(dict(theirs.config))).eval()
    ours.load_state_dict(given(ours, theirs.state_dict(), unet.layout, name))
    x, steps = torch.randn(2, theirs.config.in_channels, 16, 16), torch.tensor([3, 700])
    a, b = theirs(x, steps).sample, ours(x, steps.float())
    assert (a - b).abs().max() < 1e-5 * a.abs().max()
    again = UNet2DModel(**unet.said(ours.config)).eval()
    again.load_state_dict(taken(ours, unet.layout))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(again(x, steps).sample, a)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ({"center_input_sample": True}, "center_input_sample is True"),
        ({"down_block_types": ("SkipDownBlock2D",) * 3}, "has 'SkipDownBlock2D'"),
        ({"up_block_types": ("UpBlock2D",) * 3}, "mirrors the way down"),
        ({"downsample_type": "resnet"}, "one of the two"),
        ({"attn_norm_num_groups": 4}, "attn_norm_num_groups must be 8"),
        ({"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": None}, "attn_norm_num_groups must be 8"),
    ],
)
def test_what_we_have_not_is_named(change, said):
    theirs = dict(UNet2DModel(**SMALL, **TINY["ddpm"]).config)
    with pytest.raises(UserError, match=said):
        unet.config({**theirs, **change})


# --- the same numbers as the papers describe ---


def described(w, x, t, heads, *, whole=False, vector=0.0):
    """Improved DDPM's and ADM's net, from its tensors by their own names. heads: of a width. vector: added to the embedding."""

    def conv(name, h, **how):
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], **how)

    def dense(name, h):
        return F.linear(h, w[f"{name}.weight"].squeeze(-1), w[f"{name}.bias"])

    def normed(name, h):
        return F.group_norm(h, 32, w[f"{name}.weight"], w[f"{name}.bias"])

    def residual(name, x, resize):
        h = F.silu(normed(f"{name}.in_layers.0", x))
        x, h = resize(x), conv(f"{name}.in_layers.2", resize(h), padding=1)
        said = dense(f"{name}.emb_layers.1", F.silu(emb))[..., None, None]
        if said.shape[1] == h.shape[1]:
            h = normed(f"{name}.out_layers.0", h + said)
        else:
            scale, shift = said.chunk(2, 1)
            h = normed(f"{name}.out_layers.0", h) * (1 + scale) + shift
        h = conv(f"{name}.out_layers.3", F.silu(h), padding=1)
        return h + (conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in w else x)

    def attention(name, x):
        c, size = x.shape[1], x.shape[2:]
        n = heads(c)
        all3 = dense(f"{name}.qkv", normed(f"{name}.norm", x).flatten(2).transpose(1, 2))  # (B, L, 3C)
        order = (3, n, c // n) if whole else (n, 3, c // n)
        q, k, v = all3.unflatten(2, order).movedim(2 if whole else 3, 0)  # (B, L, heads, C / heads)
        table = (torch.einsum("bqhc,bkhc->bhqk", q, k) / (c // n) ** 0.5).softmax(-1)
        seen = torch.einsum("bhqk,bkhc->bqhc", table, v).flatten(2)
        return x + dense(f"{name}.proj_out", seen).transpose(1, 2).unflatten(2, size)

    def block(name, h, resize):
        for q in range(3):
            part = f"{name}.{q}"
            if f"{part}.op.weight" in w:
                h = conv(f"{part}.op", h, stride=2, padding=1)
            elif f"{part}.conv.weight" in w:
                h = conv(f"{part}.conv", F.interpolate(h, scale_factor=2), padding=1)
            elif f"{part}.qkv.weight" in w:
                h = attention(part, h)
            elif f"{part}.in_layers.0.weight" in w:
                h = residual(part, h, resize if q or "input" in name else lambda x: x)
        return h

    down = sorted({int(k.split(".")[1]) for k in w if k.startswith("input_blocks.")} - {0})
    channels = w["time_embed.0.weight"].shape[1]
    angle = t[:, None] * 10000.0 ** (-torch.arange(channels // 2) / (channels // 2))
    waves = torch.cat([angle.cos(), angle.sin()], 1)
    emb = dense("time_embed.2", F.silu(dense("time_embed.0", waves))) + vector
    each = BLOCKS + 1
    h = conv("input_blocks.0.0", x, padding=1)
    skips = [h]
    for p in down:
        h = block(f"input_blocks.{p}", h, lambda x, p=p: F.avg_pool2d(x, 2) if p % each == 0 else x)
        skips.append(h)
    for q in (0, 1, 2):
        h = attention("middle_block.1", h) if q == 1 else residual(f"middle_block.{q}", h, lambda x: x)
    if "out.2.positional_embedding" in w:
        h = F.silu(normed("out.0", h)).flatten(2)
        h = torch.cat([h.mean(2, keepdim=True), h], 2) + w["out.2.positional_embedding"]
        n = heads(h.shape[1])
        q, k, v = dense("out.2.qkv_proj", h.transpose(1, 2)).unflatten(2, (3, n, -1)).movedim(2, 0)
        table = (torch.einsum("bqhc,bkhc->bhqk", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        return dense("out.2.c_proj", torch.einsum("bhqk,bkhc->bqhc", table, v).flatten(2))[:, 0]
    for p in range(len(skips)):
        h = block(f"output_blocks.{p}", torch.cat([h, skips.pop()], 1), lambda x: F.interpolate(x, scale_factor=2))
    return conv("out.2", F.silu(normed("out.0", h)), padding=1)


BLOCKS = 1
BASE = UNetConfig(out_channels=6, channels=64, mult=(1, 2), blocks=BLOCKS, attention=(0, 1))
OURS = {
    "iddpm": (replace(BASE, heads=4, scale_shift=True), False),
    "lsun": (replace(BASE, heads=1, attention=(1,)), False),
    "adm-64": (replace(BASE, head_width=32, scale_shift=True, biggan=True), True),
    "adm-256": (replace(BASE, head_width=32, scale_shift=True, biggan=True, mult=(0.5, 1, 1), attention=(1, 2)), False),
}


def stored(tensors):
    """As the authors have them: products of places as convolutions along a line."""
    wide = ("qkv.weight", "proj_out.weight", "qkv_proj.weight", "c_proj.weight")
    return {k: v[..., None] if k.endswith(wide) else v for k, v in tensors.items()}


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_the_same_numbers_as_described(name):
    config, new = OURS[name]
    net = awake(UNet(config))
    tensors = stored(taken(net, original.unet(config, new)))
    x, t, vector = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0]), torch.randn(2, 256)
    a = described(tensors, x, t, config.heads_of, whole=new, vector=vector)
    assert (a - net(x, t, vector=vector)).abs().max() < 1e-5 * a.abs().max()
    if name != "lsun":  # with one head both orders are the same
        other = described(tensors, x, t, config.heads_of, whole=not new, vector=vector)
        assert (a - other).abs().max() > 1e-3 * a.abs().max()
    again = UNet(config)
    again.load_state_dict(given(again, tensors, original.unet(config, new), name))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), net.parameters(), strict=True))


@torch.no_grad()
def test_the_classifier_says_what_is_described():
    body = replace(BASE, head_width=32, scale_shift=True, biggan=True)
    config = NoisyClassifierConfig(body=body, size=16, classes=10)
    net = awake(NoisyClassifier(config))
    tensors = stored(taken(net, adm.classifier(config)))
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    a, b = described(tensors, x, t, body.heads_of), net(x, t)
    assert a.shape == b.shape == (2, 10) and (a - b).abs().max() < 1e-5 * a.abs().max()
    assert (net(x, t + 100) - b).abs().max() > 1e-3
    with pytest.raises(ValueError, match="expected shape"):
        net(torch.randn(2, 3, 32, 32), t)


def test_levels_are_whole_numbers_of_channels():
    with pytest.raises(ValueError, match="no whole numbers"):
        UNetConfig(channels=3, mult=(0.5, 1))
