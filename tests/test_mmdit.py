"""The multimodal transformer against diffusers 0.42.1: sizes, names, the same numbers; and what holds for ours alone."""

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)

from reverie.card import card_of, rebuild
from reverie.codec import Pixels
from reverie.denoiser import Cond, Denoiser, timestep
from reverie.errors import UserError
from reverie.nets import mmdit
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.process import rules, schedules
from reverie.systems import Sampling, System, load, save
from reverie.systems.flux import transformer as flux
from reverie.systems.names import given, taken
from reverie.systems.sd3 import transformer as sd3
from reverie.systems.weights import NETS

SD3 = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192}
LARGE = {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192}
SD35 = {"qk_norm": "rms_norm"}
FULL = {
    "SD3_MEDIUM": (2_028_328_000, 683, SD3Transformer2DModel, SD3),
    "SD35_MEDIUM": (
        *(2_243_171_520, 909, SD3Transformer2DModel),
        {**SD3, **SD35, "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13))},
    ),
    "SD35_LARGE": (8_056_627_520, 1227, SD3Transformer2DModel, {**LARGE, **SD35}),
    "FLUX_DEV": (11_901_408_320, 1160, FluxTransformer2DModel, {"guidance_embeds": True}),
    "FLUX_SCHNELL": (11_891_178_560, 1156, FluxTransformer2DModel, {}),
}
SYSTEM = {SD3Transformer2DModel: sd3, FluxTransformer2DModel: flux}


@pytest.mark.parametrize("name", FULL)
def test_full_sizes_and_names(name):
    count, keys, kind, options = FULL[name]
    system = SYSTEM[kind]
    with torch.device("meta"):
        theirs = kind(**options)
        config = system.config(dict(theirs.config))
        ours = MMDiT(config)
    assert config == getattr(mmdit, name)
    assert sum(p.numel() for p in ours.parameters()) == count
    own, names = {k: v.shape for k, v in ours.state_dict().items()}, {k: v.shape for k, v in theirs.state_dict().items()}
    assert len(names) == keys
    assert {k: v.shape for k, v in given(ours, theirs.state_dict(), system.layout, name).items()} == own
    assert {k: v.shape for k, v in taken(ours, system.layout).items()} == names
    single = taken(ours, system.original)
    assert {k: v.shape for k, v in given(ours, single, system.original, name).items()} == own


def test_cards():
    for name in FULL:
        config = getattr(mmdit, name)
        assert rebuild(card_of(config), NETS) == config


@pytest.mark.parametrize("name", ["joint", "single"])
@torch.no_grad()
def test_a_file_gives_it_back(name, tmp_path):
    """Table or rotations, the system that is loaded answers as the one that was saved, to the bit."""
    net = shaken(MMDiT(NET[name]))
    model = Denoiser(net, schedules.flow(shift=3.0), rules.velocity(), timestep()).requires_grad_(False)
    system = System(denoiser=model, codec=Pixels(4), encoders={}, defaults=Sampling(size=(12, 16)), about={"name": name})
    save(system, tmp_path / "own.safetensors")
    again = load(tmp_path / "own.safetensors")
    assert again.denoiser.net.config == net.config
    (x, _), told = inputs(net)
    assert torch.equal(again.denoiser(x, 0.5, Cond(**told)), model(x, 0.5, Cond(**told)))


WIDTH = {"num_attention_heads": 3, "attention_head_dim": 16}
SMALL = {
    **WIDTH,
    **{"sample_size": 16, "in_channels": 4, "out_channels": 4, "num_layers": 3, "joint_attention_dim": 20},
    **{"caption_projection_dim": 48, "pooled_projection_dim": 12, "pos_embed_max_size": 11},
}
PACKED = {
    **WIDTH,
    **{"in_channels": 16, "num_layers": 2, "num_single_layers": 3, "joint_attention_dim": 20},
    **{"pooled_projection_dim": 12, "axes_dims_rope": (4, 6, 6)},
}
TINY = {
    "sd3": (SD3Transformer2DModel, SMALL),
    "sd35": (SD3Transformer2DModel, {**SMALL, **SD35}),
    "sd35-dual": (SD3Transformer2DModel, {**SMALL, **SD35, "dual_attention_layers": (0, 1)}),
    "sd3-dual": (SD3Transformer2DModel, {**SMALL, "dual_attention_layers": (0, 1, 2)}),
    "flux-dev": (FluxTransformer2DModel, {**PACKED, "guidance_embeds": True}),
    "flux-schnell": (FluxTransformer2DModel, PACKED),
}


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def shaken(net):
    """The net with every parameter away from its first value, in evaluation mode."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def pair(name):
    kind, options = TINY[name]
    theirs = shaken(kind(**options))
    ours = MMDiT(SYSTEM[kind].config(dict(theirs.config))).eval()
    ours.load_state_dict(given(ours, theirs.state_dict(), SYSTEM[kind].layout, name))
    return theirs, ours


def inputs(net, rows=12, columns=16, batch=2, length=5):
    """(x, t) and what else the net is told."""
    told = {"vector": torch.randn(batch, 12), "tokens": torch.randn(batch, length, 20)}
    if net.config.guided:
        told["guidance"] = torch.tensor([3.5, 1.25, 7.0])[:batch]
    return (torch.randn(batch, 4, rows, columns), 1000 * torch.rand(batch)), told


def asked(theirs, x, t, vector, tokens, guidance=None):
    """What the public implementation answers, in the form of ours."""
    if isinstance(theirs, SD3Transformer2DModel):
        return theirs(x, tokens, vector, t).sample
    b, c, rows, columns = x.shape
    packed = FluxPipeline._pack_latents(x, b, c, rows, columns)
    places = FluxPipeline._prepare_latent_image_ids(b, rows // 2, columns // 2, x.device, x.dtype)
    y = theirs(packed, tokens, vector, t / 1000, places, torch.zeros(tokens.shape[1], 3), guidance).sample
    return FluxPipeline._unpack_latents(y, 8 * rows, 8 * columns, 8)


@pytest.mark.parametrize("size", [(16, 16), (10, 22), (6, 4)])  # the table has 11 x 11 places: what is cut out lies off its middle
@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_the_same_numbers(name, size):
    theirs, ours = pair(name)
    args, told = inputs(ours, *size)
    a, b = asked(theirs, *args, **told), ours(*args, **told)
    assert a.std() > 0.01
    assert (a - b).abs().max() < 1e-5 * a.abs().max()


@pytest.mark.parametrize("name", TINY)
def test_and_back(name):
    theirs, ours = pair(name)
    back = taken(ours, SYSTEM[type(theirs)].layout)
    again = type(theirs)(**TINY[name][1])
    again.load_state_dict(back)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize("name", [n for n in TINY if n.startswith("sd3")])
def test_single_files_of_stable_diffusion_3(name):
    theirs, ours = pair(name)
    single = {sd3.PREFIX + k: v for k, v in taken(ours, sd3.original).items()}
    found = convert_sd3_transformer_checkpoint_to_diffusers(single)
    assert found.keys() == theirs.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in theirs.state_dict().items())


class Thin:
    """A net of which each weight has its published rows, and one number in each: their converter knows no small net."""

    def __init__(self, config):
        with torch.device("meta"):
            own = MMDiT(config).state_dict()
        self.own = {k: torch.randn(len(v), *([1] * (v.ndim - 1))) for k, v in own.items()}

    def state_dict(self):
        return self.own


@pytest.mark.parametrize("guided", [False, True])
def test_single_files_of_flux(guided):
    net = Thin(flux.config({"num_layers": 2, "num_single_layers": 3, "guidance_embeds": guided}))
    found = convert_flux_transformer_checkpoint_to_diffusers(taken(net, flux.original))
    wanted = taken(net, flux.layout)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    back = given(net, taken(net, flux.original), flux.original, "flux")
    assert all(torch.equal(back[key], value) for key, value in net.own.items())


def test_fixed_positions_are_theirs():
    theirs = SD3Transformer2DModel(**SMALL)
    ours = MMDiT(sd3.config(dict(theirs.config)))
    torch.testing.assert_close(ours.positions, theirs.pos_embed.pos_embed, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("config", "theirs", "match"),
    [
        (sd3.config, {**SMALL, "dual_attention_layers": [0, 2]}, r"dual_attention_layers is \[0, 2\]"),
        (sd3.config, {**SMALL, "qk_norm": "layer_norm"}, "qk_norm is 'layer_norm'"),
        (sd3.config, {**SMALL, "caption_projection_dim": 64}, "caption_projection_dim is 64"),
        (sd3.config, {**SMALL, "out_channels": 8}, "out_channels is 8"),
        (sd3.config, {**SMALL, "force_zeros_for_pooled_projection": True}, "force_zeros_for_pooled_projection is True"),
        (flux.config, {**PACKED, "patch_size": 2}, "patch_size is 2"),
        (flux.config, {**PACKED, "in_channels": 6}, "in_channels is 6"),
        (flux.config, {**PACKED, "out_channels": 64}, "out_channels is 64"),
        (flux.config, {**PACKED, "chroma": True}, "chroma is True"),
    ],
)
def test_other_nets_are_refused(config, theirs, match):
    with pytest.raises(UserError, match=match):
        config(theirs)


def test_weights_that_do_not_fit_are_named():
    _, ours = pair("sd3")
    tensors = taken(ours, sd3.original)
    tensors["joint_blocks.1.x_block.attn.qkv.weight"] = torch.zeros(3 * 48 + 1, 48)
    tensors["more"] = tensors.pop("final_layer.linear.bias")
    with pytest.raises(UserError, match=r"missing: final_layer.linear.bias; unknown: more; of another shape: joint_blocks.1"):
        given(ours, tensors, sd3.original, "sd3")


OWN = MMDiTConfig(in_channels=4, width=48, heads=3, depth=3, context_dim=20, vector_dim=12, size=8, table=8)
ROTARY = {"axes": (4, 6, 6), "single": 2, "depth": 2}
NET = {
    "joint": OWN,
    "dual": mmdit.replace(OWN, dual=2),
    "single": mmdit.replace(OWN, **ROTARY, packed=True, guided=True),
    "exact-gelu": mmdit.replace(OWN, **ROTARY, dual=1, gelu="none"),
}


@pytest.mark.parametrize("name", NET)
def test_starts_at_zero_and_every_weight_learns(name):
    net = MMDiT(NET[name])
    args, told = inputs(net)
    assert not net(*args, **told).any()
    shaken(net)(*args, **told).square().sum().backward()
    # the last joint block is the text's last: who looks from there is not asked
    unused = {f"joint.2.text.heads.{w}" for w in ("q.weight", "q.bias", "norm_q.weight")} if not net.config.single else set()
    assert {k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()} == unused | {
        f"{k}.bias" for k, m in net.named_modules() if k.endswith(".k") and not net.config.qk_norm
    }


@pytest.mark.parametrize("name", ["joint", "single"])
def test_it_learns_what_the_text_asks_for(name):
    """Rectified flow on pictures of one of two levels, said only by the text: the clean estimate comes close in some steps."""
    net = MMDiT(mmdit.replace(NET[name], guided=False)).train()
    model = Denoiser(net, schedules.flow(), rules.velocity(), timestep())
    words, level = torch.randn(2, 5, 20), torch.tensor([-0.5, 0.5])
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    for _ in range(60):
        which, t, noise = torch.randint(2, (16,)), torch.rand(16), torch.randn(16, 4, 8, 8)
        x0 = level[which].view(-1, 1, 1, 1).expand_as(noise)
        x = (1 - t).view(-1, 1, 1, 1) * x0 + t.view(-1, 1, 1, 1) * noise
        loss = (model.raw(x, t, Cond(tokens=words[which])) - (noise - x0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = model(torch.randn(2, 4, 8, 8), 1.0, Cond(tokens=words)).mean((1, 2, 3))
    assert (found - level).abs().max() < 0.3  # 0.5 for a net that does not listen


@pytest.mark.parametrize("name", NET)
@torch.no_grad()
def test_what_is_masked_is_not_seen(name):
    net = shaken(MMDiT(NET[name]))
    args, told = inputs(net)
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    whole = net(*args, **told, mask=mask)
    other = told | {"tokens": told["tokens"].masked_fill(~mask[..., None], 9.0)}
    torch.testing.assert_close(net(*args, **other, mask=mask), whole, atol=0, rtol=0)
    short = told | {"tokens": told["tokens"][1:, [0, 1, 3]], "vector": told["vector"][1:]}
    short |= {"guidance": told["guidance"][1:]} if "guidance" in told else {}
    torch.testing.assert_close(net(*(v[1:] for v in args), **short), whole[1:], atol=1e-5, rtol=1e-4)
    every = torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(net(*args, **told, mask=every), net(*args, **told), atol=1e-5, rtol=1e-4)
    assert (net(*args, **other) - net(*args, **told))[1].abs().max() > 1e-3
    none = net(*args, **told, mask=~every)
    torch.testing.assert_close(none, net(*args, **{**told, "tokens": None}), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NET)
@torch.no_grad()
def test_other_precisions(name):
    net = shaken(MMDiT(NET[name]))
    args, told = inputs(net)
    single = net(*args, **told)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(*args, **told)
    assert half.dtype == torch.bfloat16 and (half.float() - single).norm() < 0.05 * single.norm()
    double = net.double()(*(v.double() for v in args), **{k: v.double() for k, v in told.items()})
    assert double.dtype == torch.float64 and (double - single).norm() < 1e-5 * double.norm()
    told |= {k: told[k].bfloat16() for k in ("vector", "tokens")}
    whole = net.bfloat16()(args[0].bfloat16(), args[1], **told)  # but for the clocks
    assert whole.dtype == torch.bfloat16 and (whole.float() - single).norm() < 0.1 * single.norm()


@torch.no_grad()
def test_each_sample_has_its_own_time():
    net = shaken(MMDiT(NET["single"]))
    args, told = inputs(net, batch=3)
    whole = net(*args, **told)
    for k in range(3):
        alone = net(*(v[k : k + 1] for v in args), **{n: v[k : k + 1] for n, v in told.items()})
        torch.testing.assert_close(alone, whole[k : k + 1], atol=1e-5, rtol=1e-4)
    assert (net(args[0], args[1].flip(0), **told) - whole).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("config", "change", "match"),
    [
        ("joint", {"guidance": torch.ones(2)}, "guidance: this net is not told"),
        ("single", {"guidance": None}, "guidance: this net must be told"),
        ("single", {"guidance": torch.ones(3)}, r"guidance: expected shape \(2\)"),
        ("joint", {"vector": torch.ones(2, 13)}, r"vector: expected shape \(2, 12\)"),
        ("joint", {"tokens": torch.ones(2, 5, 21)}, r"tokens: expected shape \(2, any, 20\)"),
        ("joint", {"mask": torch.ones(2, 5)}, "mask: expected bool"),
        ("joint", {"residuals": [torch.zeros(2, 48, 24)] * 9}, "residuals: expected at most"),
        ("joint", {"residuals": [torch.zeros(2, 47, 24)]}, r"residuals\[0\]: expected shape"),
        ("joint", {"x": torch.zeros(2, 4, 12, 15)}, "multiples of 2"),
        ("joint", {"x": torch.zeros(2, 4, 12, 18)}, "up to 16 pixels"),
        ("joint", {"x": torch.zeros(2, 3, 12, 16)}, "x: expected shape"),
    ],
)
def test_what_does_not_fit_is_said(config, change, match):
    net = MMDiT(NET[config])
    (x, t), told = inputs(net)
    with pytest.raises(ValueError, match=match):
        net(**{"x": x, "t": t} | told | change)


@pytest.mark.parametrize("change", [{"heads": 5}, {"axes": (4, 6, 8)}, {"axes": (5, 5, 6)}, {"dual": 4}, {"depth": 0}])
def test_impossible_shapes(change):
    with pytest.raises(ValueError, match="got"):
        mmdit.replace(OWN, **change)
