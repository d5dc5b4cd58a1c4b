"""DiT, SiT and DiT-MoE: published sizes and names, and the same numbers from the same weights as diffusers 0.42.1.

Of the files that the authors of DiT published no class is installed here: `described` computes the net from the papers'
description, straight from tensors in the original names.
"""

import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel

from reverie.card import card_of, rebuild
from reverie.denoiser import Cond, Denoiser
from reverie.encode.classes import Classes
from reverie.errors import UserError
from reverie.nets import dit as nets
from reverie.nets import moe
from reverie.nets.blocks import sinusoids
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.moe import Mixture, MoE, MoEConfig
from reverie.process import rules, schedules
from reverie.systems.dit import transformer as dit
from reverie.systems.names import given, taken
from reverie.systems.sit import transformer as sit
from reverie.systems.weights import NETS

CLASSES = tuple(f"class {i}" for i in range(1000))
SMALL = {"width": 32, "depth": 2, "heads": 2, "size": 8}


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def shaken(net):
    """The net with every trained parameter moved away from its first value, in evaluation mode."""
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return net.eval()


def whole(config, classes=CLASSES):
    """A net with its table of classes, as one file of theirs holds it."""
    return dit.parts(NETS[type(config)](config), Classes(classes, config.width))


def close(a, b):
    assert a.std() > 0.1
    return (a - b).abs().max() < 1e-5 * a.abs().max()


# --- the published files ---

MOES = {
    "S_2_8E2A": (199_307_552, 420),
    "S_2_16E2A": (369_213_728, 708),
    "B_2_8E2A": (795_861_536, 420),
    "B_2_16E2A": (1_475_412_512, 708),
    "L_2_8E2A": (2_823_764_000, 828),
    "XL_2_8E2A": (4_168_164_128, 964),
    "G_2_16E2A": (16_503_717_152, 2332),
}
DITS = {"S_2": (32_963_360, 132), "B_4": (130_475_648, 132), "L_8": (458_594_816, 252), "XL_2": (675_129_632, 292)}


@pytest.mark.parametrize(("family", "name"), [("MOE", n) for n in MOES] + [("DIT", n) for n in DITS])
def test_original_sizes_and_names(family, name):
    config, (count, keys) = getattr(moe if family == "MOE" else nets, f"{family}_{name}"), (MOES | DITS)[name]
    with torch.device("meta"):
        both = whole(config)
    theirs = taken(both, dit.original)
    assert sum(p.numel() for p in both.parameters()) == count
    assert len(theirs) == keys
    assert dit.original_config(theirs, name) == config
    assert {k: v.shape for k, v in given(both, theirs, dit.original, name).items()} == {
        k: v.shape for k, v in both.state_dict().items()
    }


def described(w, x, t, y, heads):
    """DiT (arXiv:2212.09748) or, where the weights have a gate, DiT-MoE (arXiv:2407.11633), of weights in the original names."""

    def dense(name, v):
        return F.linear(v, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(v, shift, scale):
        return F.layer_norm(v, v.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    def expert(name, v):
        return dense(f"{name}.down_proj", F.silu(dense(f"{name}.gate_proj", v)) * dense(f"{name}.up_proj", v))

    def feed(b, v):
        if f"{b}.moe.gate.weight" not in w:
            return dense(f"{b}.mlp.fc2", F.gelu(dense(f"{b}.mlp.fc1", v), approximate="tanh"))
        scores = dense(f"{b}.moe.gate", v).softmax(-1)
        kept = scores * (scores >= scores.topk(2, -1).values[..., -1:])
        answers = torch.stack([expert(f"{b}.moe.experts.{i}", v) for i in range(scores.shape[-1])], -1)
        return (answers * kept[..., None, :]).sum(-1) + expert(f"{b}.moe.shared_experts", v)

    patch = w["x_embedder.proj.weight"].shape[-1]
    h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=patch)
    rows, columns = h.shape[2:]
    h = h.flatten(2).mT + w["pos_embed"]
    c = dense("t_embedder.mlp.2", F.silu(dense("t_embedder.mlp.0", sinusoids(t, 256))))
    c = F.silu(c + w["y_embedder.embedding_table.weight"][y])
    for b in sorted({name[: name.index(".", 7)] for name in w if name.startswith("blocks.")}):
        s1, m1, g1, s2, m2, g2 = dense(f"{b}.adaLN_modulation.1", c).chunk(6, 1)
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in dense(f"{b}.attn.qkv", norm(h, s1, m1)).chunk(3, 2))
        seen = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        h = h + g1[:, None] * dense(f"{b}.attn.proj", seen.transpose(1, 2).flatten(2))
        h = h + g2[:, None] * feed(b, norm(h, s2, m2))
    h = dense("final_layer.linear", norm(h, *dense("final_layer.adaLN_modulation.1", c).chunk(2, 1)))
    h = h.view(len(x), rows, columns, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", h).reshape(len(x), -1, *x.shape[2:])


@pytest.mark.parametrize("config", [DiTConfig(**SMALL), MoEConfig(**SMALL, experts=5), MoEConfig(**SMALL, learn_sigma=False)])
@torch.no_grad()
def test_original_weights_do_what_the_papers_say(config):
    source = taken(shaken(whole(config, CLASSES[:6])), dit.original)
    found = dit.original_config(source, "file", heads=2)
    assert found == config
    ours = whole(found, CLASSES[:6]).eval()
    ours.load_state_dict(given(ours, source, dit.original, "file"))
    x, t, labels = torch.randn(3, 4, 8, 8), torch.tensor([3.0, 500.0, 999.0]), [0, 5, ""]
    vector = ours["classes"].prompts(labels).vector
    a = described(source, x, t, torch.tensor([0, 5, 6]), heads=2)
    assert close(a, ours["net"](x, t, vector=vector))


def test_original_files_that_are_no_dit():
    with pytest.raises(UserError, match=r"are no whole DiT.*x_embedder"):
        dit.original_config({}, "file.pt")
    tensors = taken(whole(DiTConfig(**SMALL)), dit.original)
    with pytest.raises(UserError, match="are no whole DiT"):  # no published net is 32 wide: the number of heads is not known
        dit.original_config(tensors, "file.pt")


@torch.no_grad()
def test_sit_runs_the_other_way():
    """Their estimate, x + (1 - s) v with s = 1 - t and v = data - noise, is what our denoiser gives for a velocity."""
    config = DiTConfig(**SMALL)
    theirs = taken(shaken(whole(config, CLASSES[:6])), dit.original)
    ours = whole(sit.config(theirs, "file", heads=2), CLASSES[:6]).eval()
    ours.load_state_dict(given(ours, sit.turned(theirs), sit.layout, "file"))
    model = Denoiser(ours["net"], schedules.flow(), rules.velocity(), sit.clock, learned_variance=True)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 0.9], dtype=torch.float64)
    velocity = described(theirs, x, (1 - t).float(), torch.tensor([1, 6]), heads=2)[:, :4]
    cond = Cond(vector=ours["classes"].prompts([1, ""]).vector)
    estimate = x + t.float()[:, None, None, None] * velocity
    assert close(estimate, model(x, t, cond))
    back = sit.turned(taken(ours, sit.layout))
    assert all(torch.equal(back[name], value) for name, value in theirs.items()) and back.keys() == theirs.keys()


# --- DiT as diffusers has it ---

FOLDER = {
    **{"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3, "sample_size": 8, "num_embeds_ada_norm": 6},
    **{"in_channels": 4, "out_channels": 8},
}


def test_diffusers_counts():
    """749,826,464 = 675,129,632 + 27 copies of the embedders - the positions."""
    with torch.device("meta"):
        theirs = DiTTransformer2DModel(out_channels=8)
        both = whole(dit.config(dict(theirs.config)))
    assert dit.published(both["net"].config) == nets.DIT_XL_2
    assert sum(p.numel() for p in theirs.parameters()) == 749_826_464
    names = dit.stored(taken(both, dit.layout(28)))
    assert {k: v.shape for k, v in names.items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert len(given(both, dit.completed(theirs.state_dict(), both["net"].config), dit.layout(28), "dit")) == 292 + 28 * 4


def diffusers_pair():
    theirs = shaken(DiTTransformer2DModel(**FOLDER))
    for block in theirs.transformer_blocks[1:]:  # as in every file that was converted from the published ones
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    config = dit.config(dict(theirs.config))
    return theirs, whole(config, CLASSES[:6]).eval(), dit.completed(theirs.state_dict(), config)


@torch.no_grad()
def test_diffusers_numbers_and_back():
    theirs, ours, tensors = diffusers_pair()
    ours.load_state_dict(given(ours, tensors, dit.layout(3), "dit"))
    x, steps, labels = torch.randn(3, 4, 8, 8), torch.tensor([3, 500, 999]), torch.tensor([0, 5, 6])
    a = theirs(x, steps, class_labels=labels).sample
    vector = ours["classes"].prompts([0, 5, ""]).vector
    assert close(a, ours["net"](x, steps.float(), vector=vector))
    authors = DiT(dit.published(ours["net"].config)).eval()
    authors.load_state_dict(ours["net"].state_dict())
    assert not torch.allclose(authors(x, steps.float(), vector=vector), a, atol=1e-3)  # diffusers' clock is not the authors'
    again = DiTTransformer2DModel(**FOLDER)
    again.load_state_dict(dit.stored(taken(ours, dit.layout(3))))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), theirs.parameters(), strict=True))


def test_copies_that_differ_are_named():
    _, ours, tensors = diffusers_pair()
    name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    tensors[name] = tensors[name] + 1e-6
    with pytest.raises(UserError, match=f"unlike their other copies: {name}"):
        given(ours, tensors, dit.layout(3), "dit")


def test_diffusers_configurations_we_have_not():
    said = dict(DiTTransformer2DModel(**FOLDER).config)
    for field, value in (("activation_fn", "geglu"), ("norm_elementwise_affine", True), ("out_channels", 5), ("unheard_of", 1)):
        with pytest.raises(UserError, match=field):
            dit.config(said | {field: value})


# --- mixtures of experts ---


@pytest.mark.parametrize("shared", [0, 2])
@pytest.mark.parametrize("training", [False, True])
def test_the_sparse_sum_is_the_dense_one(shared, training):
    """Asking the chosen experts alone equals asking all and weighting by the scores of the two best; in gradients too."""
    config = MoEConfig(**SMALL, experts=6, shared=shared)
    mixture = shaken(Mixture(config).double()).train(training)
    x = torch.randn(3, 7, 32, dtype=torch.float64, requires_grad=True)
    scores = (x @ mixture.gate.weight.T).softmax(-1)
    kept = torch.where(scores >= scores.topk(2, -1).values[..., -1:], scores, 0)
    dense = sum(kept[..., i, None] * expert(x) for i, expert in enumerate(mixture.routed))
    dense = dense if mixture.shared is None else dense + mixture.shared(x)
    y = mixture(x)
    torch.testing.assert_close(y, dense)
    gradients = (torch.autograd.grad(out.square().sum(), (x, *mixture.parameters()), retain_graph=True) for out in (y, dense))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_samples_do_not_share_experts():
    net = shaken(MoE(MoEConfig(**SMALL)))
    x, t, vector = torch.randn(4, 4, 8, 8), 1000 * torch.rand(4), torch.randn(4, 32)
    with torch.no_grad():
        together = net(x, t, vector=vector)
        for k in range(4):
            row = slice(k, k + 1)
            torch.testing.assert_close(net(x[row], t[row], vector=vector[row])[0], together[k], atol=1e-5, rtol=1e-5)


def test_balance():
    """Experts used alike give 1 a block; one expert that takes all, N; and the term moves the gate towards the former."""
    mixture = Mixture(MoEConfig(**SMALL, experts=4, top=1)).train()
    everyone = torch.eye(4, 32)[None] * 30
    with torch.no_grad():
        mixture.gate.weight.copy_(torch.eye(4, 32))
    mixture(everyone)
    torch.testing.assert_close(mixture.balance, torch.tensor(1.0))
    mixture(everyone[:, :1].expand(1, 4, 32))
    torch.testing.assert_close(mixture.balance, torch.tensor(4.0), atol=1e-3, rtol=1e-3)
    net = shaken(MoE(MoEConfig(**SMALL, experts=4))).train()
    x, t = torch.randn(2, 4, 8, 8), 1000 * torch.rand(2)
    optimiser = torch.optim.Adam([p for n, p in net.named_parameters() if n.endswith("experts.gate.weight")], 0.03)
    seen = []
    for _ in range(30):
        net(x, t)
        seen.append(net.balance())
        optimiser.zero_grad()
        seen[-1].backward()
        optimiser.step()
    assert seen[-1] < 0.99 * seen[0]
    net.eval()(x, t)
    with pytest.raises(ValueError, match="training mode"):
        net.balance()
    with pytest.raises(ValueError, match="top must lie"):
        MoEConfig(experts=1)


def test_every_expert_learns():
    net = MoE(MoEConfig(**SMALL, experts=3))
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.3)
    x, t, vector = torch.randn(4, 4, 8, 8), 1000 * torch.rand(4), torch.randn(4, 32)
    assert not net(x, t, vector=vector).any()  # it begins silent
    for _ in range(4):
        optimiser.zero_grad()
        ((net(x, t, vector=vector) - torch.randn(4, 8, 8, 8)).square().mean() + 0.01 * net.balance()).backward()
        optimiser.step()
    assert [n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())] == []


@pytest.mark.parametrize("config", [moe.MOE_G_2_16E2A, DiTConfig(time_shift=1, eps=1e-5)])
def test_configs_survive(config):
    assert type(config)(**json.loads(json.dumps(asdict(config)))) == config
    assert rebuild(json.loads(json.dumps(card_of(config))), NETS) == config
