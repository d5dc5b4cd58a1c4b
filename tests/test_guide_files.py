"""Guides that name files: readers of noised points are trained, kept and opened; weak models come with their own encoder; ADM's."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small import small_system

from reverie.card import parse
from reverie.denoiser import log_snr
from reverie.encode import Concepts
from reverie.errors import UserError
from reverie.guide import Asked, guided, scored
from reverie.measure.noisy import NoisyReader, Scorer
from reverie.nets import unets
from reverie.nets.noisy_classifier import NoisyClassifier, NoisyClassifierConfig
from reverie.nets.text import TextConfig
from reverie.nets.unet import UNetConfig
from reverie.process import schedules
from reverie.process.grids import uniform
from reverie.rng import Rng
from reverie.systems.adm import classifier as adm
from reverie.systems.adm import original
from reverie.systems.guides import opened
from reverie.systems.names import taken
from reverie.systems.opening import Opening
from reverie.systems.shipped import open_model, open_reader
from reverie.systems.system import Part
from reverie.systems.weights import load_any, save
from reverie.tasks.generate import generate
from reverie.tasks.settings import settle
from reverie.tasks.start import begun
from reverie.train.loop import Run, fit
from reverie.train.noisy import Noised, NoisyMatching, NoisyReading
from reverie.train.objective import log_normal
from reverie.train.training import Training

F64 = torch.float64
BODY = UNetConfig(in_channels=1, channels=8, mult=(1, 2), blocks=1, attention=(), middle=False, groups=4, head_width=8)
NET = NoisyClassifierConfig(body=BODY, size=8, classes=2)
PATH = schedules.edm()


def reader():
    torch.manual_seed(0)
    return NoisyReader(NET, ("dark", "bright"), log_snr(), 0.5)


def scorer():
    torch.manual_seed(0)
    said = ("a", "bright", "dark", "picture")
    words = Concepts(said, TextConfig(vocabulary=6, width=16, depth=1, heads=2, length=6), {"tone": ("dark", "bright")})
    return Scorer(replace(NET, classes=128), words, log_snr(), 0.5)


def shades(count):
    """Pictures of one shade each, dark or bright, and which."""
    labels = np.arange(count) % 2
    make = torch.Generator().manual_seed(3)
    tones = torch.from_numpy(labels * 1.2 - 0.6).float()[:, None, None, None]
    return tones + 0.1 * torch.randn(count, 1, 8, 8, generator=make), labels


def noised():
    (data, labels), (held, shown) = shades(64), shades(16)
    return Noised(data, held, PATH, log_normal(0.0, 1.8)), labels, shown


def trained(job, folder, steps):
    for _ in fit(run := Run(job, Training(steps=steps, batch=16, rate=3e-3, warmup=5, snapshots=0, bf16=False), folder)):
        pass
    return run.job.module.eval().requires_grad_(False)


def test_a_classifier_learns_and_guides(tmp_path):
    seen, labels, shown = noised()
    job = NoisyReading(one := reader(), seen, labels, shown)
    before = job.validate()
    trained(job, tmp_path, 60)
    found = job.finish()["accuracy"]
    assert job.validate() < 0.6 * before and found["0.5"] > 0.9 and found["0.1"] > 0.9
    x, t = PATH.prior((4, 1, 8, 8), rng=Rng.of(0, 4)), PATH.t_of_lam(torch.tensor(-0.7))

    class Grey:
        path = PATH

        def __call__(self, x, t, cond=None):
            return 0 * x

    save(Part(reader=one), tmp_path / "reader.safetensors")
    for guide in (opened(f"classifier(reader='{tmp_path / 'reader.safetensors'}', scale=1)"),):
        model = guided(Asked(plain=Grey(), grid=uniform()(PATH, 4), said=("dark", "bright", 0, "1")), [guide])
        tones = model(2 * x / x.std(), t).mean((1, 2, 3))
        assert bool(((tones > 0) == torch.tensor([False, True, False, True])).all())
    with pytest.raises(UserError, match=r"knows no class 'brigt'.*bright"):
        one.wanted(["brigt"])
    with pytest.raises(UserError, match="train one on this model's space"):
        one.log_prob(torch.zeros(1, 1, 16, 16), t, PATH, one.wanted([0]))


def test_a_scorer_learns_which_caption_fits(tmp_path):
    seen, labels, shown = noised()
    captions = ("a dark picture", "a bright picture")
    job = NoisyMatching(
        one := scorer(), seen, lambda i, rng: captions[labels[i]], lambda i, rng: captions[shown[i]]
    )  # what is said twice in a batch is right both times
    kept = {k: v.clone() for k, v in one.words.state_dict().items()}
    trained(job, tmp_path, 60)
    x, t = seen.fixed(PATH.t_of_lam(torch.tensor(0.0))), PATH.t_of_lam(torch.tensor(0.0))
    dark, bright = (one.log_prob(x, t, PATH, one.wanted([said] * len(x))) for said in captions)
    assert float(((bright > dark) == torch.from_numpy(shown == 1)).double().mean()) > 0.9
    assert all(torch.equal(v, kept[k]) for k, v in one.words.state_dict().items())
    assert set(job.finish()["retrieval"]) == {"among", "0.1", "0.5", "1", "2", "5"}


@pytest.mark.parametrize("make", [reader, scorer])
def test_readers_of_noised_points_are_kept_whole(make, tmp_path):
    one, path = make().eval(), tmp_path / "reader.safetensors"
    save(Part(reader=one, about={"name": "noisy"}), path)
    again = load_any(path).reader
    x, t, wanted = torch.randn(2, 1, 8, 8), torch.tensor([0.01, 0.2], dtype=F64), one.wanted(["dark", "bright"])
    assert type(again) is type(one) and torch.equal(again.wanted(["dark", "bright"]), wanted)
    assert torch.allclose(again.log_prob(x, t, PATH, wanted), one.log_prob(x, t, PATH, wanted), atol=1e-5)
    with pytest.raises(UserError, match="not a reader"):
        open_reader(path)


def test_a_reader_says_the_same_on_every_path():
    one, flow = reader().double().eval(), schedules.flow()
    x, t = torch.randn(3, 1, 8, 8, dtype=F64), torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    wanted, s = one.wanted([0, 1, 0]), PATH.t_of_lam(flow.lam(t))
    y = x / flow(t)[0][:, None, None, None]  # alpha is 1 on the other path
    assert torch.allclose(one.log_prob(x, t, flow, wanted), one.log_prob(y, s, PATH, wanted), atol=1e-6)


def test_a_weak_model_hears_with_its_own_encoder(tmp_path):
    weak, system = small_system(), small_system()
    for module in (weak.denoiser, *weak.encoders.values()):
        for p in module.parameters():
            p.mul_(0.8)
    save(weak, tmp_path / "model-0.2.safetensors")
    asked = f"autoguide(weak='{tmp_path / 'model-0.2.safetensors'}', scale=3.0)"
    said = ("a man", "red hair")
    own, theirs = (next(iter(s.encoders.values())).prompts(said) for s in (system, weak))
    guide = opened(asked, Opening(precision="float32"))
    assert guide.card == parse(asked) and opened(parse(asked)).card == guide.card
    model = guided(Asked(plain=system.denoiser, grid=uniform()(PATH, 4), said=said, cond=own), [guide])
    x, t = PATH.prior((2, 3, 16, 16), rng=Rng.of(0, 2)) / 80, torch.tensor(0.02, dtype=F64)
    c, worse = system.denoiser(x, t, own), weak.denoiser(x, t, theirs)
    assert torch.allclose(model(x, t, own), c + 2 * (c - worse), atol=1e-5)
    assert not torch.allclose(worse, weak.denoiser(x, t, own), atol=1e-4)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("said", ["a [red:bald:0.5] man", "a man AND red :0.5", "a (red:1.3) man"])
def test_a_model_is_not_guided_away_from_itself(said, plain, tmp_path):
    save(small_system(), tmp_path / "same.safetensors")
    system = open_model(str(tmp_path / "same.safetensors"))  # in the same numbers as what guides it
    guide = (f"autoguide(weak='{tmp_path / 'same.safetensors'}', scale=3)",)
    asked = {"guidance": 1.0, "negative": "hair", "plain": plain, "height": 24}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this encoder weighs nothing, and knows no brackets
        (alone,), (guided_,) = (generate(system, said, **asked, guide=own) for own in ((), guide))
    assert np.abs(np.asarray(alone, int) - np.asarray(guided_, int)).max() <= 1


def test_a_witness_is_told_words_without_signs():
    system, heard = small_system(), []

    class Hears:
        def wanted(self, said):
            heard.append(list(said))
            return torch.zeros(len(said))

        def log_prob(self, x, t, path, wanted):
            return x.flatten(1).sum(1)

    def model(prompt, **settings):
        return begun(system, settle(system, prompt, settings), guides=[scored(Hears())]).model

    model(["a (red:1.3) man", "a [bald] man<lora:x:1>", r"a \(red\) man"])
    model("a (red:1.3) man", plain=True)
    assert heard == [["a red man", "a bald man", "a (red) man"], ["a (red:1.3) man"]]
    for prompt in ("a [red:bald:0.5] man", "a [red|bald] man", "a man AND red"):
        with pytest.raises(UserError, match="one prompt for all of the way"):
            model(prompt)


def test_files_that_are_something_else_are_named(tmp_path):
    save(small_system(), tmp_path / "model.safetensors")
    save(Part(reader=reader()), tmp_path / "reader.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for call, said in (
        ("classifier(reader='{}/model.safetensors')", "judges no noised points"),
        ("scored(scorer='{}/other.safetensors')", "judges no noised points"),
        ("autoguide(weak='{}/reader.safetensors')", "one part of a model"),
        ("classifier(reader='{}/absent.safetensors')", "absent"),
        ("apg(eta=0, norm=-1)", "norm is -1"),
    ):
        with pytest.raises(UserError, match=said):
            opened(call.format(tmp_path))


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_the_shapes_of_adms_classifiers_are_told_by_their_files(size):
    config = NoisyClassifierConfig(body=getattr(unets, f"CLASSIFIER_{size}"), size=size)
    with torch.device("meta"):
        theirs = taken(NoisyClassifier(config), original.classifier(config))
    assert adm.shape({k: tuple(v.shape) for k, v in theirs.items()}) == config


def test_adms_classifier_guides(tmp_path):
    body = UNetConfig(channels=64, mult=(1, 1, 1, 1), blocks=2, attention=(3,), head_width=64, scale_shift=True, biggan=True)
    config = NoisyClassifierConfig(body=body, size=64, classes=5)
    torch.manual_seed(0)
    net = NoisyClassifier(config).eval()
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    save_file(taken(net, original.classifier(config)), tmp_path / "classifier.safetensors")
    path = schedules.linear_table()

    class Grey:
        def __init__(self):
            self.path = path

        def __call__(self, x, t, cond=None):
            return 0 * x

    guide = opened(f"classifier(reader='{tmp_path / 'classifier.safetensors'}', scale=2.0)")
    model = guided(Asked(plain=Grey(), grid=uniform()(path, 4), said=(3,)), [guide])
    x, t = torch.randn(1, 3, 64, 64), torch.tensor(0.4, dtype=F64)
    y = x.clone().requires_grad_()
    net(y, torch.tensor([1000 * 0.4 - 1])).log_softmax(1)[0, 3].backward()
    alpha, sigma = path(t)
    assert torch.allclose(model(x, t), 2 * float(sigma**2 / alpha) * y.grad, rtol=1e-3, atol=1e-6)
