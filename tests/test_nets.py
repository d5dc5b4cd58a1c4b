"""The nets: shapes, errors, masks, independence of samples, and that every parameter learns."""

import json
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from reverie.nets.autoencoder import Autoencoder, AutoencoderConfig
from reverie.nets.blocks import Attention, FourierEmbedding, ResBlock, TimeEmbedding, sinusoids
from reverie.nets.classifier import Classifier, ClassifierConfig
from reverie.nets.dit import DiT, DiTConfig, positions
from reverie.nets.mlp import MLP, MLPConfig
from reverie.nets.norm import Fused, group_norm
from reverie.nets.precision import exact
from reverie.nets.text import TextConfig, TextTransformer
from reverie.nets.unet import UNet, UNetConfig

UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=16,
    mult=(1, 2),
    blocks=1,
    attention=(1,),
    heads=2,
    context_dim=12,
    vector_dim=6,
    groups=8,
)
DIT = DiTConfig(size=8, width=32, depth=2, heads=2, context_dim=12, vector_dim=6, learn_sigma=False)
AUTO = AutoencoderConfig(channels=16, mult=(1, 2), blocks=1, patch=2, groups=8)
TEXT = TextConfig(vocabulary=50, width=16, depth=2, heads=2, length=12)
NETS = {"unet": lambda: UNet(UNET), "dit": lambda: DiT(DIT), "mlp": lambda: MLP(MLPConfig(dim=2, width=32, vector_dim=6))}


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def shaken(net):
    """The net with every parameter moved away from its first value, in evaluation mode."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def inputs(name, batch=3, length=5):
    """(x, t) and the rest of what the net takes."""
    t, vector = torch.rand(batch) * 1000, torch.randn(batch, 6)
    if name == "mlp":
        return (torch.randn(batch, 2), t), {"vector": vector}
    mask = torch.arange(length) < torch.tensor([length, 2, 1])[:batch, None]
    return (torch.randn(batch, 4, 8, 8), t), {"vector": vector, "tokens": torch.randn(batch, length, 12), "mask": mask}


def rows(value, k):
    return value[k : k + 1]


@pytest.mark.parametrize("name", NETS)
def test_starts_at_zero_and_keeps_the_shape(name):
    args, kw = inputs(name)
    y = NETS[name]()(*args, **kw)
    assert y.shape == args[0].shape
    assert not y.any()


@pytest.mark.parametrize("name", NETS)
def test_a_sample_does_not_see_its_batch(name):
    net = shaken(NETS[name]())
    args, kw = inputs(name)
    with torch.no_grad():
        whole = net(*args, **kw)
        assert whole.std() > 1e-3
        for k in range(3):
            alone = net(*(rows(v, k) for v in args), **{n: rows(v, k) for n, v in kw.items()})
            torch.testing.assert_close(alone[0], whole[k], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["unet", "dit"])
@pytest.mark.parametrize("grad", [False, True])
def test_padding_changes_nothing(name, grad):
    net = shaken(NETS[name]())
    args, kw = inputs(name)
    noisy = kw | {"tokens": torch.where(kw["mask"][..., None], kw["tokens"], 50 * torch.randn(3, 5, 12))}
    longer = kw | {"tokens": F.pad(noisy["tokens"], (0, 0, 0, 4), value=9.0), "mask": F.pad(kw["mask"], (0, 4))}
    with torch.set_grad_enabled(grad):
        y = net(*args, **kw)
        torch.testing.assert_close(net(*args, **noisy), y)
        torch.testing.assert_close(net(*args, **longer), y)
        nothing = {"tokens": kw["tokens"], "mask": torch.zeros_like(kw["mask"])}
        assert net(*args, **nothing).isfinite().all()
        assert not torch.allclose(net(*args, **(kw | {"tokens": kw["tokens"] + 1})), y, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_learns(name):
    net = NETS[name]()
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.3)
    args, kw = inputs(name)
    target = torch.randn_like(args[0])
    for _ in range(4):  # what starts at zero wakes layer by layer, from the end
        optimiser.zero_grad()
        (net(*args, **kw) - target).square().mean().backward()
        optimiser.step()
    silent = [n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent


@pytest.mark.parametrize("name", NETS)
def test_bf16_on_channels_last(name):
    net = shaken(NETS[name]()).to(memory_format=torch.channels_last)
    (x, t), kw = inputs(name)
    exact = net(x, t, **kw)
    x = x.to(memory_format=torch.channels_last) if x.ndim == 4 else x
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, t, **kw).float()
    y.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert (y - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("name", NETS)
def test_wrong_inputs_are_named(name):
    net = NETS[name]()
    (x, t), kw = inputs(name)
    with pytest.raises(ValueError, match=r"t: expected shape \(3\), got \(2,\)"):
        net(x, t[:2], **kw)
    with pytest.raises(ValueError, match=r"x: expected"):
        net(x[:, :1], t, **kw)
    with pytest.raises(ValueError, match=r"vector: expected shape \(3, 6\), got \(3, 5\)"):
        net(x, t, **(kw | {"vector": kw["vector"][:, :5]}))
    if name == "mlp":
        with pytest.raises(ValueError, match="takes none"):
            net(x, t, tokens=torch.zeros(3, 1, 12))
        return
    with pytest.raises(ValueError, match="multiples of 2, got"):
        net(x[:, :, 1:], t, **kw)
    with pytest.raises(ValueError, match=r"tokens: expected shape \(3, any, 12\), got \(3, 5, 11\)"):
        net(x, t, tokens=kw["tokens"][..., 1:])
    with pytest.raises(ValueError, match="mask: expected bool"):
        net(x, t, tokens=kw["tokens"], mask=kw["mask"].float())
    with pytest.raises(ValueError, match="mask: given without tokens"):
        net(x, t, mask=kw["mask"])
    with pytest.raises(ValueError, match="residuals"):
        net(x, t, residuals=[x])


def test_residuals_reach_the_skips():
    net = shaken(UNet(UNET))
    (x, t), kw = inputs("unet")
    sizes = [(16, 8), (16, 8), (16, 4), (32, 4)]
    assert net.skips == [c for c, _ in sizes]
    nothing = [torch.zeros(3, c, s, s) for c, s in sizes]
    y = net(x, t, **kw)
    torch.testing.assert_close(net(x, t, **kw, residuals=nothing), y)
    for k in range(len(sizes)):
        some = [r + (i == k) for i, r in enumerate(nothing)]
        assert not torch.allclose(net(x, t, **kw, residuals=some), y, atol=1e-4)
    bottom = [*nothing, torch.ones(3, 32, 4, 4)]
    assert not torch.allclose(net(x, t, **kw, residuals=bottom), y, atol=1e-4)
    with pytest.raises(ValueError, match=r"residuals: expected 4 .* got 3"):
        net(x, t, **kw, residuals=nothing[:3])


def test_unet_options():
    x, t = torch.randn(2, 3, 32, 16), torch.rand(2)
    common = {"channels": 16, "mult": (1, 2), "blocks": 1, "groups": 8}
    net = shaken(UNet(UNetConfig(**common, patch=4, scale_shift=True, head_width=8, middle=False, attention=())))
    y = net(x, t, vector=torch.randn(2, 64))
    assert y.shape == x.shape
    assert net.stem.in_channels == 48
    with pytest.raises(ValueError, match="no cross-attention"):
        net(x, t, tokens=torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match="levels are 0 to 1"):
        UNetConfig(mult=(1, 2), attention=(2,))
    with pytest.raises(ValueError, match="24 channels cannot be split into 32 groups"):
        UNet(UNetConfig(channels=24))


@pytest.mark.parametrize("config", [UNET, DIT, AUTO, TEXT, MLPConfig(), ClassifierConfig()])
def test_configs_survive_json(config):
    assert type(config)(**json.loads(json.dumps(asdict(config)))) == config


def test_dit_positions():
    grid = positions(4, 4, 32, size=4)
    assert grid.shape == (1, 16, 32)
    assert torch.equal(DiT(DIT).positions, grid)
    fine = positions(8, 4, 32, size=4).view(8, 4, 32)
    torch.testing.assert_close(fine[::2].reshape(1, 16, 32), grid)  # every second row of twice as many lies on the grid
    assert (grid[0].unique(dim=0)).shape[0] == 16
    net = shaken(DiT(DIT))
    assert net(torch.randn(2, 4, 12, 8), torch.rand(2)).shape == (2, 4, 12, 8)
    twice = DiT(DiTConfig(size=8, width=32, depth=1, heads=2))
    assert twice(torch.randn(2, 4, 8, 8), torch.rand(2), vector=torch.randn(2, 32)).shape == (2, 8, 8, 8)


def test_dit_patches_are_put_back_in_place():
    net = DiT(DiTConfig(size=8, width=32, depth=1, heads=2, learn_sigma=False, in_channels=1))
    with torch.no_grad():  # channel k of the head becomes the k-th pixel of each 2x2 patch, row by row
        net.head.bias.copy_(torch.arange(4.0))
    y = net(torch.randn(1, 1, 8, 8), torch.rand(1))[0, 0]
    torch.testing.assert_close(y, torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(4, 4))


def test_autoencoder():
    net = Autoencoder(AUTO)
    x = torch.randn(2, 3, 16, 24)
    mean, logvar = net.encode(x)
    assert mean.shape == logvar.shape == (2, 4, 4, 6)
    assert AUTO.factor == 4
    assert net.decode(mean).shape == x.shape
    torch.testing.assert_close(net(x)[1:], net(x[1:]), atol=1e-5, rtol=1e-5)
    net(x).square().mean().backward()
    net.encode(x)[1].square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters() if p.ndim > 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x.to(memory_format=torch.channels_last)).isfinite().all()
    with pytest.raises(ValueError, match="multiples of 4, got"):
        net.encode(x[..., 1:])
    with pytest.raises(ValueError, match="z: expected shape"):
        net.decode(x)


@pytest.mark.parametrize("kernel", [0, 5])
def test_text(kernel):
    net = shaken(TextTransformer(replace(TEXT, kernel=kernel)))
    ids, mask = torch.randint(0, 50, (3, 7)), torch.arange(7) < torch.tensor([7, 3, 1])[:, None]
    tokens, pooled = net(ids, mask)
    assert tokens.shape == (3, 7, 16)
    assert pooled.shape == (3, 16)
    torch.testing.assert_close(pooled[1], tokens[1, :3].mean(0))
    other = net(F.pad(torch.where(mask, ids, 9), (0, 5), value=3), F.pad(mask, (0, 5)))
    torch.testing.assert_close(other[0][:, :7][mask], tokens[mask])
    torch.testing.assert_close(other[1], pooled)
    torch.testing.assert_close(net(ids[1:2, :3])[1], pooled[1:2])  # without a mask all tokens are real
    assert not net(ids, torch.zeros_like(mask))[1].any()
    assert not torch.allclose(net(ids[:1].flip(1))[1], pooled[:1], atol=1e-4)  # order matters
    with pytest.raises(ValueError, match="at most 12 tokens, got 13"):
        net(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(ValueError, match="mask: expected shape"):
        net(ids, mask[:, 1:])


def test_classifier():
    net = Classifier(ClassifierConfig(in_channels=3, channels=16, heads={"hair": 5, "skin": 3}))
    features, logits = net(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 64)
    assert features.dtype == torch.float32
    assert {k: v.shape for k, v in logits.items()} == {"hair": (2, 5), "skin": (2, 3)}
    with torch.autocast("cpu", torch.bfloat16):
        assert net.features(torch.randn(2, 3, 32, 32)).dtype == torch.float32
    with pytest.raises(ValueError, match="x: expected"):
        net(torch.randn(2, 1, 32, 32))


def test_embeddings():
    t = torch.tensor([0.0, 1.0, 500.0])
    cosine = sinusoids(t, 8)
    assert torch.equal(cosine[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    torch.testing.assert_close(cosine[1, 0], torch.tensor(1.0).cos())
    torch.testing.assert_close(sinusoids(t, 8, sine_first=True), cosine.roll(4, 1))
    slowest = sinusoids(t, 8, sine_first=True, shift=1)[1, 3]  # with shift 1 the last period is exactly the longest
    torch.testing.assert_close(slowest, torch.tensor(1e-4).sin())
    assert TimeEmbedding(8, 12)(t).shape == (3, 12)
    assert FourierEmbedding(8)(t).shape == (3, 8)
    with pytest.raises(ValueError, match="even width, got 7"):
        sinusoids(t, 7)
    with pytest.raises(ValueError, match="one clock value per sample"):
        TimeEmbedding(8, 12)(t[0])


def test_attention_equals_the_fused_kernel():
    net = Attention(16, 4, 12)
    x, context, mask = torch.randn(2, 6, 16), torch.randn(2, 5, 12), torch.rand(2, 5) > 0.3
    mask[1] = False
    by_hand = net(x, context, mask)
    with torch.no_grad():
        torch.testing.assert_close(by_hand, net(x, context, mask))
    torch.testing.assert_close(by_hand[1], net.out.bias.expand(6, 16))
    with pytest.raises(ValueError, match="16 cannot be split into 3 heads"):
        Attention(16, 3)


def by_kernel(x, weight, bias, silu):
    y = F.group_norm(x, 8, weight.to(x.dtype), bias.to(x.dtype))
    return F.silu(y) if silu else y


def by_hand(x, weight, bias, silu):
    return Fused.apply(x.to(memory_format=torch.channels_last), weight, bias, 8, 1e-5, silu)[0]


def norm_gradients(norm, x, weight, bias, direction, silu, second):
    leaves = [v.detach().clone(memory_format=torch.preserve_format).requires_grad_() for v in (x, weight, bias)]
    y = norm(*leaves, silu)
    first = torch.autograd.grad((y * direction).sum(), leaves, create_graph=second)
    return torch.autograd.grad(first[0].square().sum(), leaves[:2]) if second else (y, *first)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_norm_by_hand_equals_the_kernel(silu, second):
    x, weight, bias = torch.randn(3, 32, 6, 5) * 2 + 3, torch.randn(32), torch.randn(32)
    direction = torch.randn_like(x)
    kernel = norm_gradients(by_kernel, x, weight, bias, direction, silu, second)
    ours = norm_gradients(by_hand, x, weight, bias, direction, silu, second)
    for a, b in zip(ours, kernel, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5 * b.abs().max().item(), rtol=1e-4)


@pytest.mark.parametrize("grad", [True, False])
def test_norm_in_bf16_is_as_good_as_the_kernel(grad):
    x, weight, bias = (torch.randn(3, 32, 6, 5) * 2 + 3).bfloat16(), torch.randn(32), torch.randn(32)
    exact = by_kernel(x.float(), weight, bias, silu=True)
    with torch.set_grad_enabled(grad):
        y = group_norm(x.to(memory_format=torch.channels_last), 8, weight, bias, silu=True)
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact).norm() < 4e-3 * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels, side", [(32, 8), (96, 48), (320, 32), (32, 160)])
def test_a_drawn_norm_is_exact_and_the_same_in_any_batch_and_number_of_threads(channels, side, dtype):
    x, weight, bias = torch.randn(3, channels, side, side) + 2, torch.randn(channels), torch.randn(channels)
    x = x.to(dtype).to(memory_format=torch.channels_last)
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found += [group_norm(x[:n], 8, weight, bias, silu=True)[:1] for n in (1, 2, 3)]
    finally:
        torch.set_num_threads(1)
    exact = by_kernel(x[:1].double(), weight, bias, silu=True)
    assert all(torch.equal(y, found[0]) for y in found)
    assert (found[0] - exact).norm() < (5e-7 if dtype == torch.float32 else 6e-3) * exact.norm()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on first use of jvp
def test_norm_by_hand_has_a_forward_mode():
    x, weight, bias = torch.randn(2, 16, 4, 4), torch.randn(16), torch.randn(16)
    tangents = torch.randn_like(x), torch.randn(16), torch.randn(16)

    kernel = torch.func.jvp(lambda *v: by_kernel(*v, True), (x, weight, bias), tangents)
    wide = [v.to(memory_format=torch.channels_last) for v in (x, tangents[0])]
    ours = torch.func.jvp(lambda *v: by_hand(*v, True), (wide[0], weight, bias), (wide[1], *tangents[1:]))
    torch.testing.assert_close(ours, kernel, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        drawn = torch.func.jvp(
            lambda *v: group_norm(*v[:1], 8, *v[1:], silu=True), (wide[0], weight, bias), (wide[1], *tangents[1:])
        )
    torch.testing.assert_close(drawn, kernel, atol=1e-4, rtol=1e-4)


def test_residual_block_without_time():
    block = ResBlock(8, 16, groups=4)
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(block(x), block.skip(x))  # begins as its skip


def test_float64_is_computed_where_there_is_some():
    assert exact(torch.device("mps")) == torch.device("cpu") and exact(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert exact(None) is None
