"""Published controls against diffusers 0.42.1: sizes, names, the same numbers from the same random weights, and what is refused."""

from dataclasses import replace

import pytest
import torch
from diffusers import ControlNetModel, FluxControlNetModel, SD3ControlNetModel, T2IAdapter
from published import CROSS, PLAIN

from reverie.nets import mmdit, unets
from reverie.nets.control import ControlNet
from reverie.nets.control_transformer import ControlTransformer
from reverie.nets.t2i import T2I_SD_1, T2I_SDXL
from reverie.nets.t2i import T2IAdapter as Adapter
from reverie.systems.control import flux, sd3, t2i, unet
from reverie.systems.names import given, taken

pytestmark = pytest.mark.filterwarnings("ignore:.FluxPosEmbed:FutureWarning")
NETS = {
    "sd1": (361_279_120, 340, {"cross_attention_dim": 768}, unets.SD_1),
    "sd2": (
        364_228_240,
        340,
        {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
        unets.SD_2,
    ),
    "sdxl": (
        1_251_014_160,
        844,
        {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": (PLAIN, CROSS, CROSS),
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        unets.SDXL,
    ),
}


def sizes(net):
    return sum(p.numel() for p in net.parameters()), len(net.state_dict())


@pytest.mark.parametrize("name", NETS)
def test_full_sizes_and_names(name):
    count, keys, options, base = NETS[name]
    with torch.device("meta"):
        theirs = ControlNetModel(**options)
        ours = ControlNet(unet.config(dict(theirs.config)))
    assert sizes(theirs) == (count, keys) and sizes(ours)[0] == count
    assert len(given(ours, theirs.state_dict(), unet.layout(ours.config), name)) == len(ours.state_dict())
    shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    assert replace(unet.of_file(shapes, base).body, depth=1, heads=1, head_width=None) == replace(
        ours.config.body, depth=1, heads=1, head_width=None
    )
    old = {k: tuple(v.shape) for k, v in taken(ours, unet.authors(ours.config)).items()}
    assert unet.of_file(old, base) == unet.of_file(shapes, base)
    assert "zero_convs.0.0.weight" in old and "middle_block_out.0.bias" in old and "input_hint_block.14.weight" in old


SD3 = {"num_layers": 6, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192}
LARGE = {"num_layers": 19, "num_attention_heads": 38, "caption_projection_dim": 2432, "joint_attention_dim": None}
BIG = {  # InstantX's of the medium one, and Canny, and the publisher's of the large one
    "sd3": (SD3ControlNetModel, sd3, mmdit.SD3_MEDIUM, SD3),
    "sd35": (
        SD3ControlNetModel,
        sd3,
        mmdit.SD35_LARGE,
        {**LARGE, "use_pos_embed": False, "force_zeros_for_pooled_projection": False},
    ),
    "flux": (FluxControlNetModel, flux, mmdit.FLUX_DEV, {"num_layers": 5, "num_single_layers": 10, "guidance_embeds": True}),
    "flux-joint": (FluxControlNetModel, flux, mmdit.FLUX_SCHNELL, {"num_layers": 6, "num_single_layers": 0}),
}


def read(module, shapes, base):
    return module.of_file(shapes, base, "file") if module is flux else module.of_file(shapes, base)


@pytest.mark.parametrize("name", BIG)
def test_full_sizes_and_names_of_transformers(name):
    kind, module, base, options = BIG[name]
    with torch.device("meta"):
        theirs = kind(**options)
        config = module.config(dict(theirs.config), base)
        ours = ControlTransformer(config)
    tensors, shared = theirs.state_dict(), {}
    if options.get("use_pos_embed") is False:
        shared = {k: v for k, v in taken(ours, module.layout(config)).items() if k.startswith("pos_embed.")}
        assert len(shared) == 3, "which is the net's own"
    assert len(given(ours, tensors | shared, module.layout(config), name)) == len(ours.state_dict())
    assert sum(v.numel() for k, v in taken(ours, module.layout(config)).items() if k not in shared) == sum(
        v.numel() for v in tensors.values()
    )
    assert read(module, {k: tuple(v.shape) for k, v in tensors.items()}, base) == config
    assert module.config(module.said(config) | ({"use_pos_embed": False} if shared else {}), base) == config


ADAPTERS = {
    "sd1": ({}, T2I_SD_1, unets.SD_1),
    "sketch": ({"in_channels": 1}, replace(T2I_SD_1, hint_channels=1), unets.SD_1),
    "sdxl": ({"adapter_type": "full_adapter_xl", "downscale_factor": 16}, T2I_SDXL, unets.SDXL),
    "colour": (
        {"adapter_type": "light_adapter", "channels": (320, 640, 1280), "num_res_blocks": 4},
        replace(T2I_SD_1, kind="light", channels=(320, 640, 1280), blocks=4),
        unets.SD_1,
    ),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_t2i_sizes_names_and_numbers(name):
    options, expected, base = ADAPTERS[name]
    with torch.device("meta"):
        theirs = T2IAdapter(**options)
        config = t2i.config(dict(theirs.config), base, 8)
        ours = Adapter(config)
    assert config == expected and sizes(ours)[0] == sizes(theirs)[0]
    if name != "colour":
        assert sizes(ours)[0] == {"sd1": 77_369_280, "sketch": 77_000_640, "sdxl": 79_028_160}[name], "as it is documented"
    assert len(given(ours, theirs.state_dict(), t2i.layout(config), name)) == len(ours.state_dict())
    shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    old = {k: tuple(v.shape) for k, v in taken(ours, t2i.authors(config)).items()}
    assert t2i.of_file(shapes, base, 8, "file") == config and t2i.of_file(old, base, 8, "file") == config
    assert t2i.config(t2i.said(config), base, 8) == config
    tiny = dict(theirs.config) | {"channels": [8, 12, 16, 16][: len(config.channels)], "num_res_blocks": 2}
    torch.manual_seed(0)
    theirs = T2IAdapter(**{k: v for k, v in tiny.items() if not k.startswith("_")})
    ours = Adapter(t2i.config(tiny, base, 8))
    ours.load_state_dict(given(ours, theirs.state_dict(), t2i.layout(ours.config), name))
    picture = torch.rand(2, config.hint_channels, 128, 192)
    with torch.no_grad():
        pairs = list(zip(theirs(picture), ours.heard(2 * picture - 1), strict=True))
    assert len(pairs) == 4 and all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_the_authors_names_of_t2i_adapters():
    """As they are in TencentARC's files: blocks of a full one numbered through, those of a light one within their level."""
    with torch.device("meta"):
        full, light = Adapter(T2I_SD_1), Adapter(ADAPTERS["colour"][1])
    names = taken(full, t2i.authors(full.config))
    assert {k.rsplit(".", 1)[0] for k in names} == {
        "conv_in",
        *(f"body.{i}.block{j}" for i in range(8) for j in (1, 2)),
        *("body.2.in_conv", "body.4.in_conv"),
    }
    names = taken(light, t2i.authors(light.config))
    assert {k.rsplit(".", 1)[0] for k in names} == {
        *(f"body.{i}.body.{j}.block{n}" for i in range(4) for j in range(4) for n in (1, 2)),
        *(f"body.{i}.{end}_conv" for i in range(4) for end in ("in", "out")),
    }
