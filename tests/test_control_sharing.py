"""Small controls: low-rank changes of a control that many share, trained with it or after it, each in a file of its own."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_control_training import SHORT, SYSTEM, changed, controls, hints, job, small_recipe, values
from torch import nn

from reverie.data.hints import edges, palette, regions
from reverie.denoiser import Cond
from reverie.errors import UserError
from reverie.files import metadata
from reverie.nets.control import control_of
from reverie.nets.lora import adapt, changes, choose, lora_state, merge, merged_state, plain_state, take
from reverie.systems.control import open_control
from reverie.systems.control.kept import load_control
from reverie.systems.weights import CARD
from reverie.tasks.train import Session
from reverie.train import Run, fit
from reverie.train.steering import Sharing


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 4)), torch.randn(3, 6)


def test_of_several_changes_one_acts():
    net, x = layers()
    plain, before = net(x), values(net)
    assert adapt(net, 2, several=3) == 2 and adapt(net, 2) == 0, "a layer is changed once"
    for k in range(3):
        choose(net, k)
        assert torch.equal(net(x), plain), "at first none says anything"
        for change in changes(net):
            nn.init.normal_(change.up)
    said = []
    for k in range(3):
        choose(net, k)
        own, _ = layers()
        take(own, lora_state(net))
        torch.testing.assert_close(own(x), net(x))
        merge(own)
        torch.testing.assert_close(own(x), net(x), atol=1e-6, rtol=1e-5)
        assert all(torch.equal(v, own.state_dict()[key]) for key, v in merged_state(net).items())
        said.append(net(x))
    assert min((a - b).abs().max() for a, b in itertools.pairwise(said)) > 0.1
    state = plain_state(net)
    assert set(state) == set(before) and all(torch.equal(v, before[key]) for key, v in state.items())


@pytest.mark.parametrize("lengths", [False, True])
def test_changes_of_convolutions_and_lengths_are_taken_up(lengths):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(4, 4))
    x = torch.randn(2, 3, 6, 6)
    adapt(net, 2, alpha=3.0, convolutions=True, lengths=lengths)
    for change in changes(net):
        nn.init.normal_(change.up)
    other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Linear(4, 4))
    other.load_state_dict(plain_state(net))
    take(other, lora_state(net))
    torch.testing.assert_close(other(x), net(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {"5.lora_A.weight": s["0.lora_A.weight"], **s}, "5 is no layer"),
        (lambda s: {k: v for k, v in s.items() if k != "0.lora_B.weight"}, "0 is no layer"),
        (lambda s: {**s, "0.bias": torch.zeros(8)}, "0.bias belongs to no change"),
        (lambda s: {**s, "0.lora_A.weight": torch.zeros(2, 7)}, "size mismatch"),
    ],
)
def test_changes_that_are_not_of_these_layers(change, said):
    net, _ = layers()
    adapt(net, 2)
    with pytest.raises((ValueError, RuntimeError), match=said):
        take(layers()[0], change(lora_state(net)))


def test_what_is_shared_and_what_is_not_learn_together(tmp_path):
    control = control_of(SYSTEM.denoiser.net)
    adapt(control, 2, several=3, convolutions=True)
    seen = torch.cat([hints(draw) for draw in (edges(), regions(), palette())], 1)
    own = job(control, Sharing, seen=seen, kinds=3)
    run = Run(own, replace(SHORT, steps=30), tmp_path)
    was, before = own.validate(), values(control)
    list(fit(run))
    assert own.validate() < 0.98 * was
    moved = changed(control, before)
    for k in range(3):
        assert any(f".every.{k}.up" in key for key in moved), f"the changes of kind {k} have learnt"
    assert any("change" not in key and "body" in key for key in moved), "so has what is shared"
    own.choose(2)
    heard = own._heard(Cond(), seen[:2]).hints[0]
    assert torch.equal(heard, seen[:2, 6:]) and next(changes(control)) is control.get_submodule(first(control)).change.every[2]


def first(control):
    """The name of the first layer that has changes."""
    return next(name for name, layer in control.named_modules() if hasattr(layer, "change"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(a folder with the runs `edges`, `shared` and `low`, the session of the second)."""
    folder = tmp_path_factory.mktemp("sharing")
    session = Session.open(small_recipe("avatars-edges"), folder / "edges", resume=False)
    list(session)
    recipe = small_recipe("avatars-shared", begin=str(folder / "edges"), rank=4)
    recipe = replace(recipe, training=replace(recipe.training, steps=4, warmup=1))
    sharing = Session.open(recipe, folder / "shared", resume=False)
    list(sharing)
    late = small_recipe("avatars-low-lora", begin=str(folder / "shared"), rank=4)
    list(Session.open(late, folder / "low", resume=False))
    return folder, sharing


def test_each_kind_has_a_small_file_of_its_own(runs):
    folder, session = runs
    names = {file.name for file in (folder / "shared").glob("*.safetensors")} - {"checkpoint.safetensors"}
    assert names == {"model.safetensors", "edges.safetensors", "regions.safetensors", "palette.safetensors"}
    whole, small = ((folder / "shared" / f"{n}.safetensors").stat().st_size for n in ("model", "edges"))
    assert small < whole / 8
    base = session.system.base
    opened = {kind: open_control(folder / "shared" / f"{kind}.safetensors", base) for kind in ("edges", "regions", "palette")}
    assert {c.hint for c in opened.values()} == {"edges()", "regions()", "palette()"}
    with session.run.averaged():
        for k, control in enumerate(opened.values()):
            choose(session.system.net, k)
            wanted = merged_state(session.system.net)
            for key, value in control.net.state_dict().items():
                torch.testing.assert_close(value, wanted[key], atol=1e-6, rtol=1e-5, msg=f"{k}: {key}")
    low = open_control(folder / "low", base)
    assert low.hint == "low()" and low.name == "low"
    shared = load_control(folder / "shared" / "model.safetensors", base).state_dict()
    assert any(not torch.equal(v, shared[key]) for key, v in low.net.state_dict().items())
    tensors = load_file(folder / "low" / "model.safetensors")
    assert all(".lora_" in key or key.endswith(".alpha") for key in tensors), "nothing but changes is written"


def test_a_run_goes_on_where_it_stopped(runs, tmp_path):
    """To the bit: the kind of a step is drawn from its number."""
    folder, _ = runs
    recipe = small_recipe("avatars-shared", begin=str(folder / "edges"), rank=4)
    recipe = replace(recipe, training=replace(recipe.training, steps=6, warmup=1, decay=0.0))
    list(Session.open(recipe, tmp_path / "once", resume=False))
    first = Session.open(recipe, tmp_path / "twice", resume=False)
    for now in first:
        if now.step == 3:
            break
    first.run.save()
    list(Session.open(recipe, tmp_path / "twice", resume=True))
    one, two = (load_file(tmp_path / n / "checkpoint.safetensors") for n in ("once", "twice"))
    assert one.keys() == two.keys() and all(torch.equal(v, two[k]) for k, v in one.items())


def test_where_the_shared_one_is_looked_for(runs, tmp_path):
    folder, session = runs
    base = session.system.base
    shutil.copy(folder / "low" / "model.safetensors", tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=r"changes the control shared, which is not there: put shared.safetensors beside it"):
        open_control(tmp_path / "mine.safetensors", base)
    shutil.copy(folder / "shared" / "model.safetensors", tmp_path / "shared.safetensors")
    assert open_control(tmp_path / "mine.safetensors", base).name == "mine"
    shutil.copy(folder / "edges" / "model.safetensors", tmp_path / "shared.safetensors")
    with pytest.raises(UserError, match="has other weights"):
        open_control(tmp_path / "mine.safetensors", base)
    with pytest.raises(UserError, match=r"follows nothing by itself: name one, as .*edges.safetensors"):
        open_control(folder / "shared", base)


@pytest.mark.parametrize(
    ("card", "spoil", "said"),
    [
        ({"name": "../shared", "hash": ""}, None, "is not there"),
        ({"name": "shared"}, None, "the field 'hash' is missing"),
        ({"name": 3, "hash": ""}, None, "shares.name"),
        (None, lambda t: {k: v * float("nan") for k, v in t.items()}, "holds NaN"),
        (None, lambda t: {k.replace("zeros.0", "zeros.77"): v for k, v in t.items()}, "zeros.77 is no layer"),
        (None, lambda t: {k: v[..., :1].contiguous() if "zeros.0.lora_A" in k else v for k, v in t.items()}, "does not fit shared"),
    ],
)
def test_a_damaged_small_file_is_refused(card, spoil, said, runs, tmp_path):
    folder, session = runs
    shutil.copytree(folder / "shared", tmp_path / "shared")
    file = tmp_path / "shared" / "edges.safetensors"
    tensors, told = load_file(file), json.loads(metadata(file)[CARD])
    told |= {} if card is None else {"shares": card}
    save_file(tensors if spoil is None else spoil(tensors), file, {CARD: json.dumps(told)})
    with pytest.raises(UserError, match=said):
        open_control(file, session.system.base)


@pytest.mark.parametrize("more", [{"rank": 0}, {"hints": ()}, {"reward": "soft_edges()"}])
def test_what_is_shared_has_kinds_and_a_rank(more):
    recipe = small_recipe("avatars-shared", **more)
    with pytest.raises(UserError, match="--shared is of several --hints"):
        recipe.prepare(recipe.pictures())


def test_every_layer_of_a_control_can_be_changed():
    for control in controls():
        made = adapt(control, 2, convolutions=True)
        linear = [m for m in control.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        assert made == len(linear)
