"""The deep compression autoencoder as diffusers' AutoencoderDC has it: configuration and names of the weights."""

from collections.abc import Mapping
from typing import Any

from reverie.errors import UserError
from reverie.nets.dcae import DCAE, DCAEConfig
from reverie.systems.building import known
from reverie.systems.folders import Kind
from reverie.systems.names import Layout, renamed

SIZES = {("conv", "interpolate"): False, ("pixel_unshuffle", "pixel_shuffle"): True}
"""How their levels change size, down and up, and whether ours then folds pixels into channels."""
FIXED: Mapping[str, tuple[Any, ...]] = {
    "encoder_out_shortcut": (True,),
    "decoder_in_shortcut": (True,),
    "decoder_norm_types": ("rms_norm",),
    "decoder_act_fns": ("silu",),
    "decoder_conv_act_fn": ("relu",),
}
"""What the rest must say, of every level; where it is not listed, nothing, or false."""
READ = {
    *("in_channels", "latent_channels", "attention_head_dim", "upsample_block_type", "downsample_block_type", "scaling_factor"),
    *(f"{part}_{what}" for part in ("encoder", "decoder") for what in ("block_types", "block_out_channels", "layers_per_block")),
    *("encoder_qkv_multiscales", "decoder_qkv_multiscales"),
}
"""What of their configuration is looked at, or changes nothing in the function of the net."""


def config(theirs: Mapping[str, Any], what: str = "vae/config.json") -> DCAEConfig:
    """Our shape of the autoencoder that a configuration of AutoencoderDC describes; UserError where we have no such net."""
    known({field: _one(value) for field, value in theirs.items()}, READ, FIXED, what, "no autoencoder of Sana")
    widths = tuple(theirs["encoder_block_out_channels"])
    sizes = (_kind(theirs["downsample_block_type"]), theirs["upsample_block_type"])
    if sizes not in SIZES:
        raise UserError(f"{what}: levels change size by {' and '.join(sizes)}; ours do by one of {list(SIZES)}")
    if tuple(theirs["decoder_block_out_channels"]) != widths:
        raise UserError(f"{what}: the decoder has other widths than the encoder; ours has the same")
    every = {_looks(theirs, part, len(widths), what) for part in ("encoder", "decoder")}
    if len(every) > 1:
        raise UserError(f"{what}: encoder and decoder have other kinds of blocks; ours has the same")
    (attend, scales) = every.pop()
    try:
        return DCAEConfig(
            in_channels=theirs["in_channels"],
            latent=theirs["latent_channels"],
            widths=widths,
            encoder=tuple(theirs["encoder_layers_per_block"]),
            decoder=tuple(theirs["decoder_layers_per_block"]),
            attend=attend,
            head=theirs["attention_head_dim"],
            scales=scales,
            shuffle=SIZES[sizes],
        )
    except ValueError as error:
        raise UserError(f"{what}: {error}") from error


def _one(value: Any) -> Any:
    """A value, or that of every level, where it is the same."""
    return value[0] if isinstance(value, (list, tuple)) and value and all(v == value[0] for v in value) else value


def _kind(downsample: str) -> str:
    """Whatever is not folded is a convolution with a stride; published files write it in more than one way."""
    return downsample if downsample == "pixel_unshuffle" else "conv"


def _looks(theirs: Mapping[str, Any], part: str, levels: int, what: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Levels with attention, and the sizes of their wider looks, which must be the same on all."""
    kinds = theirs[f"{part}_block_types"]
    kinds = (kinds,) * levels if isinstance(kinds, str) else tuple(kinds)
    if unknown := set(kinds) - {"ResBlock", "EfficientViTBlock"}:
        raise UserError(f"{what}: {part}_block_types has {unknown.pop()!r}, which our autoencoder has not")
    attend = tuple(i for i, kind in enumerate(kinds) if kind == "EfficientViTBlock")
    scales = {tuple(theirs[f"{part}_qkv_multiscales"][i]) for i in attend}
    if len(scales) > 1:
        raise UserError(f"{what}: {part}_qkv_multiscales differs from level to level; ours has one for all")
    return attend, scales.pop() if scales else (5,)


def layout(c: DCAEConfig) -> Layout:
    """The names for an autoencoder of this shape: blocks of a level are numbered behind what doubles the size."""
    ends = [(rf"^encoder\.levels\.{i}\.{n}\.conv\.", f"encoder.down_blocks.{i}.{n}.conv.") for i, n in enumerate(c.encoder)]
    return renamed(
        [
            *ends,
            (r"^encoder\.levels\.", "encoder.down_blocks."),
            (r"^decoder\.levels\.", "decoder.up_blocks."),
            (r"^(\w+)\.stem\.", r"\1.conv_in."),
            (r"^(\w+)\.head\.", r"\1.conv_out."),
            (r"^decoder\.norm\.", "decoder.norm_out."),
            (r"\.0\.([qkv])\.", r".attn.to_\1."),
            (r"\.0\.wider\.(\d+)\.depth\.", r".attn.to_qkv_multiscale.\1.proj_in."),
            (r"\.0\.wider\.(\d+)\.point\.", r".attn.to_qkv_multiscale.\1.proj_out."),
            (r"\.0\.out\.", ".attn.to_out."),
            (r"(blocks\.\d+\.\d+)\.0\.norm\.", r"\1.attn.norm_out."),
            (r"(blocks\.\d+\.\d+)\.1\.up\.", r"\1.conv_out.conv_inverted."),
            (r"(blocks\.\d+\.\d+)\.1\.depth\.", r"\1.conv_out.conv_depth."),
            (r"(blocks\.\d+\.\d+)\.1\.down\.", r"\1.conv_out.conv_point."),
            (r"(blocks\.\d+\.\d+)\.1\.norm\.", r"\1.conv_out.norm."),
        ]
    )


def said(c: DCAEConfig) -> dict[str, Any]:
    """The configuration of AutoencoderDC that describes our shape."""
    kinds = ["EfficientViTBlock" if i in c.attend else "ResBlock" for i in range(len(c.widths))]
    scales = [list(c.scales) if i in c.attend else [] for i in range(len(c.widths))]
    down, up = ("pixel_unshuffle", "pixel_shuffle") if c.shuffle else ("conv", "interpolate")
    both = {"block_types": kinds, "block_out_channels": list(c.widths), "qkv_multiscales": scales}
    return {
        "in_channels": c.in_channels,
        "latent_channels": c.latent,
        "attention_head_dim": c.head,
        "downsample_block_type": down,
        "upsample_block_type": up,
        "encoder_layers_per_block": list(c.encoder),
        "decoder_layers_per_block": list(c.decoder),
        **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in both.items()},
    }


KIND = Kind(name="AutoencoderDC", factor=1.0, build=DCAE, config=config, said=said, layout=layout)
