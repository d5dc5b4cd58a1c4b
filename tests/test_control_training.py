"""Trainings of controls: one for several kinds of hints, low-rank changes of one, and learning from what its pictures show."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_system
from torch import nn

from reverie.adapt import Control, Controlled
from reverie.codec import Pixels
from reverie.data.hints import edges, low, palette, regions
from reverie.data.kinds import only, together, told
from reverie.denoiser import Cond
from reverie.errors import UserError
from reverie.nets.control import control_of
from reverie.nets.control_transformer import control_transformer_of
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.lora import adapt, changes, merge, merged_state
from reverie.systems.control import open_control, save_control
from reverie.systems.recipes import RECIPES
from reverie.tasks import generate
from reverie.tasks.control import Steer, wished
from reverie.tasks.settings import settle
from reverie.tasks.train import Session
from reverie.train import Run, Training, fit
from reverie.train.jobs import to_signal
from reverie.train.loop import Key
from reverie.train.objective import denoising, uniform
from reverie.train.rewarding import Rewarding, patches, soft_edges, squares
from reverie.train.steering import Steering

SYSTEM = small_system()
KINDS = ("edges()", "regions()", "palette()")
SHORT = Training(steps=12, batch=8, rate=1e-2, warmup=1, decay=0, snapshots=0, widths=(0.05,), bf16=False, validate_minutes=1e5)


def scenes(count, size=16):
    """(N, 3, H, W) uint8: rectangles of one colour on a ground of another."""
    rng = np.random.default_rng(0)
    out = np.empty((count, 3, size, size), np.uint8)
    for picture in out:
        picture[:] = rng.integers(0, 256, (3, 1, 1))
        y, x = rng.integers(1, size // 2, 2)
        picture[:, y : y + size // 2, x : x + size // 2] = rng.integers(0, 256, (3, 1, 1))
    return out


SCENES = scenes(24)


def hints(draw, images=SCENES):
    return to_signal(np.stack([draw(p.transpose(1, 2, 0)).transpose(2, 0, 1) for p in images]))


def awake(net, seed=0):
    torch.manual_seed(seed)
    for part in net.parameters():
        if not part.any():
            nn.init.normal_(part, std=0.1)
    return net


def controls():
    """A control of a U-Net and one of a transformer, that have something to say."""
    dit = DiT(DiTConfig(in_channels=3, size=16, patch=4, width=32, depth=2, heads=2, learn_sigma=False))
    return awake(control_of(SYSTEM.denoiser.net)), awake(control_transformer_of(dit))


def asked(control, x):
    body = control.config.body
    width = getattr(body, "vector_dim", None) or body.width
    tokens = torch.ones(len(x), 3, 16) if getattr(body, "context_dim", None) else None
    with torch.no_grad():
        return control(x, torch.full((len(x),), 0.3), x.flip(3), vector=torch.ones(len(x), width), tokens=tokens)


def job(control, kind=Steering, seen=None, parts=(), **more):
    x0 = to_signal(SCENES)
    seen = hints(edges()) if seen is None else seen

    def view(index, rng):
        return seen[index]

    words = {"encoder": SYSTEM.prompt_encoder, "prompt": lambda i, rng: "a man", "held_prompt": lambda i, rng: "a man"}
    model = Controlled(SYSTEM.denoiser, [Control(net=control)])
    return kind(
        model, x0, x0[:8], learnt=control, parts=parts, view=view, held_view=view, times=uniform(), codec=Pixels(3), **words, **more
    )


def values(module):
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def changed(module, before):
    return {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("kind", [Steering, Rewarding])
def test_only_what_is_to_learn_changes_and_the_loss_falls(rank, kind, tmp_path):
    control = control_of(SYSTEM.denoiser.net)
    count = adapt(control, rank) if rank else 0
    parts = [*changes(control), control.hint, *control.silence()] if rank else []
    more = {"reward": soft_edges(), "light": 2.0} if kind is Rewarding else {}
    run = Run(job(control, kind, parts=parts, **more), SHORT, tmp_path)
    base, words, before = values(SYSTEM.denoiser), values(SYSTEM.prompt_encoder), values(control)
    was = run.job.validate()
    for _ in fit(run):
        continue
    assert run.job.validate() < 0.98 * was
    assert not changed(SYSTEM.denoiser, base) and not changed(SYSTEM.prompt_encoder, words)
    moved = changed(control, before)
    assert any(k.startswith("zeros.") for k in moved) and any(k.startswith("hint.") for k in moved)
    if rank:
        assert count == len(list(changes(control))) and sum(k.endswith("change.up") for k in moved) > count / 2
        assert all(k.startswith(("zeros.", "hint.")) or k.endswith(("change.up", "change.down")) for k in moved)
    else:
        assert any(k.startswith("body.") for k in moved)


def test_low_rank_changes_begin_as_nothing_and_merge():
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for control in controls():
        before, names = asked(control, x), set(control.state_dict())
        assert adapt(control, 3) > 0 and adapt(control, 3) == 0
        assert all(torch.equal(a, b) for a, b in zip(before, asked(control, x), strict=True))
        for change in changes(control):
            nn.init.normal_(change.up, std=0.3)
        learnt = asked(control, x)
        assert max(float((a - b).abs().max()) for a, b in zip(before, learnt, strict=True)) > 0.05
        state = merged_state(control)
        merge(control)
        assert set(state) == names == set(control.state_dict()) and not list(changes(control))
        assert all(torch.equal(state[k], v) for k, v in control.state_dict().items())
        gap = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(learnt, asked(control, x), strict=True))
        assert gap < 1e-5, "the same, but for rounding"
    with pytest.raises(ValueError, match="rank 0"):
        adapt(controls()[0], 0)


def test_a_kind_that_is_not_given_says_nothing():
    pictures = {"edges()": hints(edges()), "regions()": hints(regions()), "palette()": hints(palette())}
    whole = together(pictures, KINDS)
    assert told(whole).all() and (to_signal(np.arange(256, dtype=np.uint8)) != 0).all(), "no level of a picture is 0"
    for k, kind in enumerate(KINDS):
        alone = together({kind: pictures[kind]}, KINDS)
        kept = torch.arange(3).expand(len(whole), 3) == k
        assert torch.equal(alone, only(whole, kept)) and torch.equal(told(alone), kept)
    control = awake(control_of(SYSTEM.denoiser.net, hint_channels=9))
    one, other = (only(w, torch.tensor([[True, False, False]])) for w in (whole[:2], torch.cat([whole[:2, :3], whole[2:4, 3:]], 1)))
    assert torch.equal(control.heard(one)[0], control.heard(other)[0])
    assert not torch.equal(control.heard(whole[:2])[0], control.heard(one)[0])


def small_recipe(name, **more):
    training = replace(RECIPES[name].training, steps=2, batch=4, holdout=8, snapshots=0, bf16=False)
    return replace(RECIPES[name], training=training, **more)


def test_hints_of_a_recipe_are_left_out_at_random():
    recipe = small_recipe("avatars-uni")
    seen = recipe.view(SCENES)(np.arange(240) % 24, np.random.default_rng(0))
    shown = told(seen)
    assert seen.shape == (240, 9, 16, 16) and (~shown).all(1).any() and (shown.sum(1) > 1).any()
    assert 0.55 < (shown.sum(1) == 1).float().mean() < 0.82, "half of the time one alone, otherwise each by chance: 0.5 + 0.5 * 3/8"
    assert (replace(recipe, alone=1.0).view(SCENES)(np.arange(24), np.random.default_rng(0)) != 0).any((2, 3)).sum() == 72
    full = replace(recipe, drop_hints=0.0, alone=0.0).view(SCENES)(np.arange(24), np.random.default_rng(0))
    assert torch.equal(full[:, :3], hints(edges())) and torch.equal(full[:, 6:], hints(palette()))
    assert torch.equal(replace(recipe, hints=()).view(SCENES)(np.arange(24), np.random.default_rng(0)), full[:, :3])


def test_the_recipes_that_begin_from_another_control(tmp_path):
    first = Session.open(small_recipe("avatars-edges"), tmp_path / "edges", resume=False)
    list(first)
    base = first.system.base
    told = first.run.job._cond([""] * 2, first.run.job.held_view(np.arange(2), np.random.default_rng(0)))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = open_control(tmp_path / "edges", base)

    def says(control):
        control.eval()
        with torch.no_grad():
            return Controlled(base.denoiser, [Control(net=control)])(x, torch.tensor(0.5), told)

    for name in ("avatars-edges-plus", "avatars-sketch-lora"):
        recipe = small_recipe(name, begin=str(tmp_path / "edges"))
        session = Session.open(recipe, tmp_path / name, resume=False)
        base.denoiser.autocast = session.system.base.denoiser.autocast = None
        assert torch.equal(says(session.system.net), says(before.net)), "at first it is the control that it begins from"
        assert all(np.isfinite(now.loss) for now in session)
        again = open_control(tmp_path / name, base)
        assert again.net.config == before.net.config and set(again.net.state_dict()) == set(before.net.state_dict())
        assert not torch.equal(says(again.net), says(before.net))
    resumed = Session.open(replace(recipe, training=replace(recipe.training, steps=3)), tmp_path / name, resume=True)
    assert resumed.run.step == 2 and [now.step for now in resumed] == [3]
    uni = small_recipe("avatars-uni", begin=str(tmp_path / "edges"))
    session = Session.open(uni, tmp_path / "uni", resume=False)
    many = session.system.net
    lines = before.net.heard(hints(edges())[:2])[0]
    wide = torch.cat([hints(draw)[:2] for draw in (edges(), regions(), palette())], 1)
    assert many.config.hint_channels == 9
    assert torch.allclose(many.heard(wide)[0], lines, atol=1e-6), "edges are heard as before, others not yet"
    list(session)
    with pytest.raises(UserError, match="of one kind from a control of one kind"):
        Session.open(small_recipe("avatars-edges", begin=str(tmp_path / "uni")), tmp_path / "one", resume=False)


AGREED = {
    "edges": (edges(), soft_edges()),
    "low": (low(4), squares(4)),
    "regions": (regions(), patches()),
    "palette": (palette(side=4), patches()),
}


@pytest.mark.parametrize("name", AGREED)
def test_a_reward_is_least_for_the_picture_that_the_hint_was_drawn_from(name):
    draw, reward = AGREED[name]
    seen, real = hints(draw), to_signal(SCENES)
    own, others = reward(real, seen), reward(real.roll(1, 0), seen)
    assert own.shape == (24,) and (own >= 0).all() and own.mean() < 0.3 * others.mean()
    assert torch.allclose(reward(real[3:5], seen[3:5]), own[3:5], atol=1e-6), "each sample alone"
    made = real.roll(1, 0).requires_grad_(True)
    begin = float(reward(made, seen).sum().detach())
    for _ in range(20):
        (slope,) = torch.autograd.grad(reward(made, seen).sum(), made)
        made = (
            (made - 0.05 * slope / slope.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(1e-9)).detach().requires_grad_(True)
        )
    assert float(reward(made, seen).sum().detach()) < begin, "its slope leads to the hint"


def test_the_reward_reaches_the_control_where_the_noise_is_light():
    control = awake(control_of(SYSTEM.denoiser.net))
    x0, seen = to_signal(SCENES[:4]), hints(edges(), SCENES[:4])
    n = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    path = SYSTEM.denoiser.path
    t = path.t_of_lam(-torch.tensor([0.2, 0.5, 0.7, 9.0], dtype=torch.float64).log())
    cond = replace(SYSTEM.prompt_encoder.prompts(["a man"] * 4) or Cond(), hints=(seen,))
    slopes, losses = [], []
    for weight in (0.0, 3.0):
        work = job(control, Rewarding, reward=soft_edges(), weight=weight, light=0.6)
        loss = work.rewarded(work.denoiser, x0, t, n, cond)
        slopes.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss.sum(), [*control.parameters()])]))
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], denoising(work.denoiser, x0, t, n, cond).detach())
    assert torch.equal(losses[0][2:], losses[1][2:]) and (losses[1][:2] > losses[0][:2]).all()
    with torch.no_grad():
        found = soft_edges()(work.denoiser(path.mix(x0, n, t), t, cond), seen)
    torch.testing.assert_close(losses[1][:2] - losses[0][:2], 3 * found[:2], rtol=1e-3, atol=1e-4)
    assert (slopes[0] - slopes[1]).norm() > 1e-3 * slopes[0].norm()
    assert not any(p.requires_grad for p in SYSTEM.denoiser.parameters())
    assert work.loss(np.arange(4), Key(0, 0)).shape == (4,) and work.finish()["reward"] > 0


def test_a_control_of_several_kinds_from_its_file(tmp_path):
    net = awake(control_of(SYSTEM.denoiser.net, hint_channels=9)).eval()
    save_control(net, tmp_path / "uni.safetensors", SYSTEM, {"name": "uni", "hints": list(KINDS)})
    save_control(net, tmp_path / "one.safetensors", SYSTEM, {"name": "one", "hint": "edges(sigma=2.0)"})
    one = open_control(tmp_path / "one.safetensors", SYSTEM)
    for take, said in (("palette()", ["one learnt edges(sigma=2.0), and is shown palette()"]), ("edges()", []), ("", [])):
        steer = Steer((one,), (Image.fromarray(SCENES[0].transpose(1, 2, 0)),), (take,))
        assert steer.notes(settle(SYSTEM, ["a man"], {})) == said
    opened = open_control(tmp_path / "uni.safetensors", SYSTEM)
    assert opened.kinds == KINDS
    photo = Image.fromarray(SCENES[0].transpose(1, 2, 0))
    hint = Image.fromarray(edges()(np.asarray(photo)))

    def drawn(image, take=""):
        return np.asarray(generate(SYSTEM, "a man", tasks=[Steer((opened,), (image,), (take,))], seed=1, steps=2)[0])

    one = drawn(photo, "edges(sigma=1.0)")
    assert (one == drawn({"edges()": hint})).all() and (one == drawn(photo, edges())).all()
    both = drawn(photo, ["edges()", "palette()"])
    assert (one != both).any() and (both == drawn(photo, ("palette()", edges()))).all()
    wish = wished(f"control(net='{tmp_path}/uni.safetensors', image={_saved(hint, tmp_path)}, weight=0.5)").opened(SYSTEM)
    assert wish.controls[0].kinds == KINDS and wish.card["controls"][0]["image"].keys() == {"edges()"}
    assert not wish.notes(settle(SYSTEM, ["a man"], {}))
    for image, take, said in (
        (photo, "", "say by take which"),
        (photo, "shading()", "was not trained on shading"),
        ({"edges()": hint}, "edges()", "leave out take"),
        ({"egdes()": hint}, "", "Did you mean 'edges'"),
        ({}, "", "no picture is given"),
    ):
        with pytest.raises(UserError, match=said):
            drawn(image, take)
    single = Control(net=awake(control_of(SYSTEM.denoiser.net)))
    with pytest.raises(UserError, match="hears one kind of picture"):
        generate(SYSTEM, "", tasks=[Steer((single,), (photo,), (["edges()", "low()"],))], steps=1)
    with pytest.raises(UserError, match="in one size"):
        together({"edges()": torch.zeros(1, 3, 8, 8), "palette()": torch.zeros(1, 3, 16, 16)}, KINDS)


def _saved(image, folder):
    image.save(folder / "hint.png")
    return {"edges()": f"{folder}/hint.png"}


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("avatars-uni", {"hints": ("edges()", "edges(sigma=2.0)")}, r"edges\(\) twice"),
        ("avatars-uni", {"drop_hints": 1.0}, "--drop-hints is 1.0"),
        ("avatars-uni", {"alone": -0.5}, "--alone is -0.5"),
        ("avatars-edges", {"rank": 4}, "--rank changes a control that is trained"),
        ("avatars-edges", {"rank": -1}, "--rank is -1"),
        ("avatars-edges-plus", {"begin": ""}, "--reward changes a control that is trained"),
        ("avatars-edges-plus", {"begin": "nowhere"}, "nowhere is not there"),
        ("avatars-edges-plus", {"hints": KINDS}, "one kind of hint"),
    ],
)
def test_what_does_not_go_together_is_said(name, more, said):
    recipe = small_recipe(name, **more)
    with pytest.raises(UserError, match=said):
        recipe.prepare(recipe.pictures())


def test_rewards_that_cannot_be():
    for make in (
        lambda: soft_edges(level=0),
        lambda: squares(0),
        lambda: job(controls()[0], Rewarding, reward=squares(), light=0),
    ):
        with pytest.raises(UserError):
            make()
