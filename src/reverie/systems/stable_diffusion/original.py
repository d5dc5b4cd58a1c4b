"""The publishers' names of Stable Diffusion's weights, as in the original single files, and the shapes that such tensors tell.

They are those of the whole line: improved DDPM, ADM and latent diffusion (arXiv:2102.09672, 2105.05233, 2112.10752) call theirs so.
A single file has no configuration: what a net looks like is read from the names and shapes of its tensors.
"""

import re
from collections.abc import Iterator, Mapping

from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.unet import UNetConfig
from reverie.systems.building import numbered
from reverie.systems.names import Layout, renamed

Shapes = Mapping[str, tuple[int, ...]]
HEADS, HEAD = 8, 64
"""Heads of Stable Diffusion 1, and the width of a head of all later ones: no tensor tells them."""


def unet(c: UNetConfig, whole: bool = False) -> Layout:
    """The names for a U-Net of this shape: its blocks are numbered through, from input_blocks.0.0 on.

    Queries, keys and values are one matrix, stacked head by head, or each of them `whole` (the new attention order of ADM).
    """
    last = 2 if c.middle else 1
    return renamed(
        (
            *_fused(c, whole),
            *((rf"^{ours}\.", f"{theirs}.") for ours, theirs in _blocks(c)),
            (r"^stem\.", "input_blocks.0.0."),
            (r"^norm\.", "out.0."),
            (r"^head\.", "out.2."),
            (r"^time\.mlp\.([02])\.", r"time_embed.\1."),
            (r"^vector\.([02])\.", r"label_emb.0.\1."),
            (r"^middle\.res\.0\.", "middle_block.0."),
            (r"^bottom\.", "middle_block.1."),
            (r"^middle\.res\.1\.", f"middle_block.{last}."),
            (r"\.norm1\.(weight|bias)$", r".in_layers.0.\1"),
            (r"\.conv1\.", ".in_layers.2."),
            (r"\.emb\.", ".emb_layers.1."),
            (r"\.norm2\.(weight|bias)$", r".out_layers.0.\1"),
            (r"\.conv2\.", ".out_layers.3."),
            (r"\.skip\.", ".skip_connection."),
            (r"(\.blocks\.\d+)\.in_layers\.0\.", r"\1.norm1."),  # norms of the transformers are called as ours
            (r"(\.blocks\.\d+)\.out_layers\.0\.", r"\1.norm2."),
            (r"\.attention\.out\.", ".proj_out."),
            (r"\.enter\.", ".proj_in."),
            (r"\.leave\.", ".proj_out."),
            (r"\.blocks\.", ".transformer_blocks."),
            (r"\.self_attention\.", ".attn1."),
            (r"\.cross_attention\.", ".attn2."),
            (r"\.(attn[12])\.([qkv])\.", r".\1.to_\2."),
            (r"\.(attn[12])\.out\.", r".\1.to_out.0."),
            (r"\.feed_forward\.up\.", ".ff.net.0.proj."),
            (r"\.feed_forward\.down\.", ".ff.net.2."),
        )
    )


def _fused(c: UNetConfig, whole: bool) -> Iterator[tuple[str, str]]:
    """Where they have one matrix of queries, keys and values: each level has its number of heads."""
    levels = len(c.mult)
    places = [(rf"(?:down\.{i}|up\.{levels - 1 - i})\.attention\.\d+", i) for i in c.attention]
    for pattern, level in [*places, ("bottom", levels - 1)]:
        rounds = 1 if whole else c.heads_of(c.widths[level])
        for piece, letter in enumerate("qkv"):
            yield rf"^({pattern})\.attention\.{letter}\.(\w+)$", rf"\1.qkv.\2[{piece}/{rounds}]"


def _blocks(c: UNetConfig) -> Iterator[tuple[str, str]]:
    place, levels = 1, len(c.mult)
    for i in range(levels):
        for j in range(c.blocks):
            yield rf"down\.{i}\.res\.{j}", f"input_blocks.{place}.0"
            yield rf"down\.{i}\.attention\.{j}", f"input_blocks.{place}.1"
            place += 1
        if i < levels - 1:
            halve = (rf"down\.{i}\.resample", "") if c.biggan else (rf"down\.{i}\.resample\.conv", ".op")
            yield halve[0], f"input_blocks.{place}.0{halve[1]}"
            place += 1
    for k, i in enumerate(reversed(range(levels))):
        for j in range(c.blocks + 1):
            place = k * (c.blocks + 1) + j
            yield rf"up\.{k}\.res\.{j}", f"output_blocks.{place}.0"
            yield rf"up\.{k}\.attention\.{j}", f"output_blocks.{place}.1"
        yield rf"up\.{k}\.resample", f"output_blocks.{place}.{2 if i in c.attention else 1}"


def unet_of(shapes: Shapes) -> UNetConfig:
    """The shape of the U-Net that has these tensors; KeyError or ValueError where they are no U-Net's.

    The way up has one block more a level than the way down, and its last one is followed by what doubles the picture.
    """
    channels, count = shapes["time_embed.0.weight"][1], numbered(shapes, r"output_blocks\.(\d+)\.")
    ends = [p for p in range(count) if any(f"output_blocks.{p}.{q}.{w}.weight" in shapes for q in (1, 2) for w in UPWARD)]
    if not ends or count % (ends[0] + 1):
        raise KeyError("output_blocks")
    blocks = ends[0]
    firsts = [f"input_blocks.{1 + i * (blocks + 1)}" for i in range(count // (blocks + 1))]
    widths = [shapes[f"{first}.0.in_layers.2.weight"][0] for first in firsts]
    depth = [numbered(shapes, rf"{re.escape(first)}\.1\.transformer_blocks\.(\d+)\.") for first in firsts]
    bottom = numbered(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    context = next((shapes[k][1] for k in shapes if k.endswith("attn2.to_k.weight")), None)
    vector = shapes.get("label_emb.0.0.weight")
    return UNetConfig(
        in_channels=shapes["input_blocks.0.0.weight"][1],
        out_channels=shapes["out.2.weight"][0],
        channels=channels,
        mult=tuple(w / channels if w % channels else w // channels for w in widths),
        blocks=blocks,
        attention=tuple(i for i, first in enumerate(firsts) if depth[i] or f"{first}.1.qkv.weight" in shapes),
        heads=HEADS,
        head_width=None if context == CLIP_L else HEAD,
        depth=1 if context is None else tuple([*(n or 1 for n in depth[:-1]), bottom]),
        context_dim=context,
        vector_dim=vector[1] if vector else None,
        scale_shift=shapes[f"{firsts[0]}.0.emb_layers.1.weight"][0] == 2 * widths[0],
        biggan=f"input_blocks.{blocks + 1}.0.in_layers.2.weight" in shapes,
    )


UPWARD = ("conv", "in_layers.2")
"""Of what doubles the picture: a convolution, or a residual block."""
CLIP_L = 768


def vae(c: AutoencoderConfig) -> Layout:
    """The names for an autoencoder of this shape, with codes or not; their decoder counts its levels from the largest picture."""
    last = 2 if c.attention else 1
    return renamed(
        (
            *((rf"^{ours}\.", f"{theirs}.") for ours, theirs in _levels(c)),
            (r"\.middle\.0\.", ".mid.block_1."),
            (rf"\.middle\.{last}\.", ".mid.block_2."),
            (r"\.middle\.1\.", ".mid.attn_1."),
            (r"^quant\.", "quant_conv."),
            (r"^unquant\.", "post_quant_conv."),
            (r"^(\w+)\.stem\.", r"\1.conv_in."),
            (r"^(encoder|decoder)\.norm\.", r"\1.norm_out."),
            (r"^(encoder|decoder)\.head\.", r"\1.conv_out."),
            (r"\.skip\.", ".nin_shortcut."),
            (r"\.attention\.out\.", ".proj_out."),
            (r"\.attention\.([qkv])\.", r".\1."),
            (r"^codebook\.", "quantize.embedding."),
        )
    )


def _levels(c: AutoencoderConfig) -> Iterator[tuple[str, str]]:
    place, levels = 0, len(c.mult)
    for i in range(levels):
        for j in range(c.blocks):
            yield rf"encoder\.body\.{place}", f"encoder.down.{i}.block.{j}"
            if i in c.attend:
                yield rf"encoder\.body\.{place + 1}", f"encoder.down.{i}.attn.{j}"
            place += 1 + (i in c.attend)
        if i < levels - 1:
            yield rf"encoder\.body\.{place}", f"encoder.down.{i}.downsample"
            place += 1
    place = 0
    for i in reversed(range(levels)):
        for j in range(c.blocks + 1):
            yield rf"decoder\.body\.{place}", f"decoder.up.{i}.block.{j}"
            if i in c.attend:
                yield rf"decoder\.body\.{place + 1}", f"decoder.up.{i}.attn.{j}"
            place += 1 + (i in c.attend)
        if i:
            yield rf"decoder\.body\.{place}", f"decoder.up.{i}.upsample"
            place += 1


def vae_of(shapes: Shapes) -> AutoencoderConfig:
    """The shape of the autoencoder that has these tensors; KeyError or ValueError where they are none's."""
    channels, in_channels = shapes["encoder.conv_in.weight"][:2]
    blocks = numbered(shapes, r"encoder\.down\.0\.block\.(\d+)\.")
    levels = numbered(shapes, r"encoder\.down\.(\d+)\.")
    widths = [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    return AutoencoderConfig(
        in_channels=in_channels,
        channels=channels,
        mult=tuple(w // channels for w in widths),
        blocks=blocks,
        latent=shapes["decoder.conv_in.weight"][1],
        attention="encoder.mid.attn_1.q.weight" in shapes,
        attend=tuple(i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in shapes),
        quant="quant_conv.weight" in shapes,
    )
