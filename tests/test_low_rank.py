"""Low-rank changes that learn, beside layers: at first nothing, and merged what they were, on every kind of layer."""

import copy

import pytest
import torch
from torch import nn

from reverie.adapt.changes import Dora
from reverie.adapt.changes import LowRank as Read
from reverie.nets.lora import LowRank, adapt, changed, changes, lora_state, merge, merged_state

LAYERS = {
    "linear": (lambda: nn.Linear(6, 9), (4, 5, 6)),
    "bare": (lambda: nn.Linear(6, 9, bias=False), (4, 6)),
    "conv1": (lambda: nn.Conv1d(6, 9, 3, padding=1), (2, 6, 7)),
    "conv2": (lambda: nn.Conv2d(6, 9, 3, stride=2, padding=1, padding_mode="reflect"), (2, 6, 8, 8)),
    "conv2-bare": (lambda: nn.Conv2d(6, 9, 1, bias=False), (2, 6, 4, 4)),
    "conv3": (lambda: nn.Conv3d(6, 9, (1, 3, 3), dilation=(1, 2, 2)), (2, 6, 3, 6, 6)),
}


def made(name, **more):
    """A layer in float64 with changes that have learnt something, what it was, and what it reads."""
    torch.manual_seed(0)
    layer = nn.Sequential(LAYERS[name][0]()).double()
    was = copy.deepcopy(layer)
    assert adapt(layer, 3, 2.0, convolutions=True, **more) == 1
    layer.double()
    return layer, was, torch.randn(LAYERS[name][1], dtype=torch.float64)


def learn(layer):
    for change in changes(layer):
        nn.init.normal_(change.up, std=0.5)
        if change.length is not None:
            change.length.data *= 1 + 0.3 * torch.rand_like(change.length)


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_at_first_nothing_then_what_is_merged(name, lengths):
    layer, was, x = made(name, lengths=lengths)
    assert torch.equal(layer(x), was(x)), "bit for bit"
    assert all(torch.equal(v, was.state_dict()[k]) for k, v in merged_state(layer).items())
    learn(layer)
    y, state = layer(x), merged_state(layer)
    assert (y - was(x)).abs().max() > 0.1
    merge(layer)
    assert state.keys() == was.state_dict().keys() == layer.state_dict().keys() and not list(changes(layer))
    assert all(torch.equal(state[k], v) for k, v in layer.state_dict().items())
    assert (layer(x) - y).abs().max() < 1e-12, "merged is unmerged"


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_file_says_the_same(name, lengths):
    layer, was, _ = made(name, lengths=lengths)
    learn(layer)
    state = lora_state(layer)
    down, up = state["0.lora_A.weight"], state["0.lora_B.weight"]
    read = Read(up, down, float(state["0.alpha"]) / len(down))
    if lengths:
        read = Dora(read, state["0.dora_scale"])
    weight = was.state_dict()["0.weight"]
    assert tuple(read.shape) == tuple(weight.shape)
    assert (weight + read(weight) - merged_state(layer)["0.weight"]).abs().max() < 1e-6


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_the_merged_weight(name):
    layer, was, x = made(name)
    learn(layer)
    layer(x).square().sum().backward()
    change = next(changes(layer))
    own = was[0]
    total = (own.weight + change.change()).detach().requires_grad_()
    torch.func.functional_call(own, {"weight": total}, (x,)).square().sum().backward()
    up, down = change.up.detach().requires_grad_(), change.down.detach().requires_grad_()
    (change.scale * (up @ down.flatten(1)).view_as(total)).backward(total.grad)
    assert torch.allclose(change.up.grad, up.grad) and torch.allclose(change.down.grad, down.grad)


def test_dropout_is_of_learning_alone():
    layer, _, x = made("linear", dropout=0.5)
    learn(layer)
    layer.eval()
    still = layer(x)
    assert torch.equal(still, layer(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    mean = torch.stack([layer(x) for _ in range(4000)]).mean(0)
    assert (mean - still).abs().max() < 0.15 * (still - layer[0].bias).abs().max()


def test_layers_are_chosen_by_their_names():
    net = nn.ModuleDict({"attention": nn.Linear(4, 4), "mix": nn.Conv2d(4, 4, 3), "apart": nn.Conv2d(4, 4, 3, groups=4)})
    assert adapt(copy.deepcopy(net), 2) == 1 and adapt(copy.deepcopy(net), 2, convolutions=True) == 2
    assert adapt(net, 2, convolutions=True, layers="^mi") == 1
    assert [name for name, _, _ in changed(net)] == ["mix"] and isinstance(net["mix"].change, LowRank)


def test_a_copy_learns_apart():
    layer, _, x = made("linear")
    other = copy.deepcopy(layer)
    learn(layer)
    assert not torch.equal(layer(x), other(x))


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (8.0, 4.0), (1.0, 0.5)])
def test_alpha_is_over_the_rank(alpha, scale):
    layer = nn.Linear(5, 7)
    adapt(layer, 2, alpha)
    nn.init.normal_(layer.change.up)
    torch.testing.assert_close(layer.change.change(), scale * layer.change.up @ layer.change.down)
    assert float(lora_state(layer)[".alpha"]) == pytest.approx(2 if alpha is None else alpha)
