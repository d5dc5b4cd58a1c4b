"""Training on albums: which examples a step sees, masks, mirror images, regular pictures, remembered words, exact resumption."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_system

from reverie.cli import main
from reverie.data.album import Choices, open_album
from reverie.denoiser import Denoiser
from reverie.encode.apart import Apart
from reverie.errors import UserError
from reverie.files import load_tensors
from reverie.nets.lora import adapt, changes
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.systems import save
from reverie.systems.adapted import Adapting
from reverie.systems.albums import masks, teaching
from reverie.systems.recipe import encode
from reverie.tasks.train import Session, restored, stored
from reverie.train import Training
from reverie.train.batches import Batches, cycle
from reverie.train.jobs import Diffusion
from reverie.train.loop import Key, Run, fit, order
from reverie.train.mixed import Sized
from reverie.train.objective import denoising, heeded, uniform

SIZES = (7, 3, 11, 1)
BATCH = 4


def buckets(sizes=SIZES, first=0):
    edges = first + np.cumsum([0, *sizes])
    return [np.arange(a, b) for a, b in pairwise(edges)]


# -- which examples a step sees


def test_one_bucket_has_the_order_of_the_loop():
    alone = Batches(buckets((7,)))
    assert all(np.array_equal(alone.order(4, k, 5), order(7, 4, k, 5)) for k in range(30))


def test_every_batch_is_of_one_bucket_and_all_are_seen_equally_often():
    own = buckets()
    batches, seen, where = Batches(own), Counter(), Counter()
    total = sum(SIZES)
    for step in range(3 * total):
        index = batches.order(BATCH, step, 0)
        inside = [b for b, rows in enumerate(own) if np.isin(index, rows).all()]
        assert len(index) == BATCH and len(inside) == 1
        seen.update(index.tolist())
        where[inside[0]] += 1
        for rows in own:  # at any time
            visits = [seen[int(k)] for k in rows]
            assert max(visits) - min(visits) <= 1
        for b, size in enumerate(SIZES):
            assert abs(where[b] - (step + 1) * size / total) < 2
        if (step + 1) % total == 0:  # exactly, after as many steps as there are rows
            assert set(seen.values()) == {BATCH * (step + 1) // total} and len(seen) == total


def test_an_example_with_more_rows_is_seen_so_much_oftener():
    batches, seen = Batches([np.array([0, 0, 0, 1]), np.array([2, 2])]), Counter()
    for step in range(6):
        seen.update(batches.order(4, step, 1).tolist())
    assert seen == {0: 12, 1: 4, 2: 8}


def test_a_step_is_a_function_of_seed_and_step_alone():
    first = [Batches(buckets()).order(BATCH, k, 3).tolist() for k in range(60)]
    cycle.cache_clear()
    again = Batches(buckets())
    back = {k: again.order(BATCH, k, 3).tolist() for k in reversed(range(60))}
    assert first == [back[k] for k in range(60)]
    assert first != [again.order(BATCH, k, 4).tolist() for k in range(60)]
    one, two = (cycle((7, 3, 11, 1), 3, k)[0].tolist() for k in range(2))
    assert one != two and sorted(one) == sorted(two)  # each cycle is fresh


def test_every_batch_has_its_share_of_regular_examples_of_its_own_bucket():
    own, regular = buckets((6, 4)), buckets((3, 2), first=10)
    batches, seen = Batches(own, regular, 0.25), Counter()
    for step in range(200):
        index = batches.order(8, step, 0)
        b = int(index[0] >= 6)
        assert np.isin(index[:6], own[b]).all() and np.isin(index[6:], regular[b]).all()
        seen.update(index[6:].tolist())
    assert sum(seen.values()) == 400 and max(seen.values()) - min(seen.values()) <= 2
    assert Batches(own, regular, 0.01).parts(8) == (7, 1) and Batches(own, regular, 1.0).parts(8) == (1, 7)
    assert Batches(own, regular, 0.0).parts(1) == (1, 0)
    with pytest.raises(UserError, match="no room for regular"):
        Batches(own, regular).order(1, 0, 0)


# -- masks


def test_the_loss_is_the_mean_over_what_a_mask_leaves():
    torch.manual_seed(0)
    error, mask = torch.rand(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    mask[0, :, :2], mask[1, :, 0, 0], mask[1, :, 3, 3] = 1, 0.25, 0.75
    found = heeded(error, mask)
    assert torch.allclose(found[0], error[0, :, :2].mean())
    assert torch.allclose(found[1], 0.25 * error[1, :, 0, 0].mean() + 0.75 * error[1, :, 3, 3].mean())
    assert torch.allclose(heeded(error, torch.ones_like(mask)), error.flatten(1).mean(1))


class Through(torch.nn.Module):
    """A net that gives back what it is given, and a bias of every place."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1, 3, 16, 16))

    def forward(self, x, *told, **more):
        return x + self.bias


def test_what_a_mask_hides_teaches_nothing():
    system = small_system()
    torch.manual_seed(0)
    x0, n, t = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.6], dtype=torch.float64)
    mask = torch.ones(2, 1, 16, 16)
    mask[..., :5, :] = 0
    model = type(system.denoiser)(Through(), system.denoiser.path, system.denoiser.rule, system.denoiser.clock, sigma_data=0.5)
    denoising(model, x0, t, n, mask=mask).sum().backward()
    gradient = model.net.bias.grad[0]
    assert not gradient[:, :5].any() and (gradient[:, 5:] != 0).all()


# -- jobs


def noise_picture(path, size, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def shelf(tmp_path):
    """Seven pictures in three shapes with captions, two with masks, four regular ones, and a model of 16 px."""
    shapes = [(20, 20)] * 3 + [(32, 16)] * 3 + [(16, 32)]
    for k, size in enumerate(shapes):
        noise_picture(tmp_path / "own" / f"{k}.png", size, k)
        (tmp_path / "own" / f"{k}.txt").write_text(f"man, red, {'hair' if k % 2 else 'bald'}")
    for k in (0, 3):
        mask = np.zeros((shapes[k][1], shapes[k][0]), np.uint8)
        mask[:, : shapes[k][0] // 2] = 255
        Image.fromarray(mask).save(tmp_path / "own" / f"{k}.mask.png")
    for k in range(4):
        noise_picture(tmp_path / "regular" / f"{k}.png", (24, 24), 10 + k)
    save(small_system(), tmp_path / "model.safetensors")
    return tmp_path


def job_of(album, system=None, *, held=0, batch=4, choices=None):
    return teaching(system or small_system(), *album.split(held), times=uniform(), choices=choices or Choices(), batch=batch)


@torch.no_grad()
def test_pictures_of_one_size_are_learnt_as_any_diffusion_learns(shelf):
    system, choices = small_system(), Choices(drop=0.5)
    for k in (0, 3):
        (shelf / "own" / f"{k}.mask.png").unlink()
    album = open_album(str(shelf / "own"), (16, 16), system.step, choices)
    train, held = album.split(2)
    mixed = job_of(album, system, held=2, choices=choices)

    def job(shots):
        return encode(system.codec, np.stack([shot.image for shot in shots])), lambda i, rng: shots[i].said(rng)

    (x, said), (y, told) = job(train.shots), job(held.shots)
    plain = Diffusion(
        system.denoiser, x, y, times=uniform(), encoder=system.prompt_encoder, prompt=said, held_prompt=told, drop=0.5
    )
    for step in range(5):
        index = mixed.order(4, step, 9)
        assert np.array_equal(index, order(plain.size, 4, step, 9))
        assert torch.equal(mixed.loss(index, Key(9, step)), plain.loss(index, Key(9, step)))
    assert mixed.validate() == plain.validate()


def test_mirrored_examples_come_with_mirrored_masks(shelf):
    choices = Choices(flip=True, buckets=True)
    job = job_of(open_album(str(shelf / "own"), (16, 16), 4, choices), choices=choices)
    turned, whole = 0, 0
    for part in job.jobs:
        index = np.arange(part.size)
        for step in range(40):
            x, mask = part.points(index, Key(0, step)), part.mask(index, Key(0, step))
            for k in index:
                straight = torch.equal(x[k], part.data[k])
                assert straight or torch.equal(x[k], part.data[k].flip(-1))
                turned, whole = turned + (not straight), whole + 1
                if part.seen.mask is not None:
                    assert torch.equal(mask[k], part.seen.mask[k] if straight else part.seen.mask[k].flip(-1))
    assert 0.4 < turned / whole < 0.6
    assert sum(part.seen.mask is not None for part in job.jobs) == 2
    still = job_of(open_album(str(shelf / "own"), (16, 16), 4))
    assert all(torch.equal(part.points(np.arange(part.size), Key(0, k)), part.data) for part in still.jobs for k in range(5))


def test_masks_are_averaged_to_the_places_of_the_codec(shelf):
    system = small_system()
    system.codec.factor = 4  # of a codec that makes one place of 4 x 4 pixels
    album = open_album(str(shelf / "own"), (16, 16), 4)
    mask = masks(system, album.shots)
    assert mask.shape == (7, 1, 4, 4) and torch.equal(mask[0, 0, 0], torch.tensor([1.0, 1, 0, 0])) and (mask[1] == 1).all()


@torch.no_grad()
def test_a_mask_changes_the_loss_of_its_picture_alone(shelf):
    choices = Choices(buckets=True)
    job = job_of(open_album(str(shelf / "own"), (16, 16), 4, choices), choices=choices)
    changed = []
    for part in job.jobs:
        index, key = np.arange(part.size), Key(0, 0)
        mask, loss, watched = part.seen.mask, part.loss(index, key), part.validate()
        bare = Sized(part.denoiser, replace(part.seen, mask=None), replace(part.kept, mask=None), sides=part.sides,
                     times=part.times, encoder=part.encoder)  # fmt: skip
        whole = bare.loss(index, key)
        if mask is None:
            assert torch.equal(loss, whole) and watched == bare.validate()
        else:
            hidden = (mask < 1).flatten(1).any(1)
            assert torch.allclose(loss[~hidden], whole[~hidden]) and ((loss - whole)[hidden].abs() > 1e-3).all()
            assert abs(watched - bare.validate()) > 1e-3
            changed += hidden.tolist()
    assert sum(changed) == 2


def test_a_picture_is_seen_as_often_as_its_folder_says(shelf):
    for k, name in enumerate(("3_a man", "1_red hair")):
        noise_picture(shelf / "named" / name / "a.png", (16, 16), k)
    job, seen = job_of(open_album(str(shelf / "named"), (16, 16), 4)), Counter()
    for step in range(5):
        seen.update(job.order(4, step, 0).tolist())
    assert sorted(seen.values()) == [5, 15]


def test_sizes_that_a_net_does_not_take_are_refused_with_the_reason(shelf):
    system, placed = small_system(), MMDiT(MMDiTConfig(in_channels=3, width=16, heads=1, depth=1, context_dim=16, size=8, table=8))
    own = system.denoiser
    system = replace(system, denoiser=Denoiser(placed, own.path, own.rule, own.clock, sigma_data=0.5))
    with pytest.raises(
        UserError, match="own would be learnt as 12x20: 12x20 is too large for small, which knows places up to 16x16"
    ):
        job_of(open_album(str(shelf / "own"), (16, 16), 4, Choices(buckets=True)), system)


def test_regular_pictures_fall_to_the_sizes_that_are_learnt(shelf):
    choices = Choices(buckets=True, regular=str(shelf / "regular"), regular_caption="a man", regular_weight=0.0)
    album = open_album(str(shelf / "own"), (16, 16), 4, choices)
    matched = album.matched()
    count = Counter(shot.size for shot in matched.regular)
    assert set(count) == {shot.size for shot in album.shots} and sum(count.values()) == 4
    assert {shot.picture for shot in matched.regular} == {shot.picture for shot in album.regular}
    job = job_of(album, choices=choices)
    for step in range(6):
        index = job.order(4, step, 0)
        loss = job.loss(index, Key(0, step))
        assert (loss[:2] > 0).all() and not loss[2:].any()  # half of the batch, whose weight is 0
    with pytest.raises(UserError, match="no room"):
        job_of(album, choices=choices, batch=1)


def trained(job, net, steps=5):
    """The changes that a few steps make."""
    job.module = torch.nn.ModuleDict({str(k): change for k, change in enumerate(changes(net))})
    run = Run(job, Training(steps=steps, batch=4, rate=1e-2, warmup=1, widths=(0.05,), snapshots=0, save_minutes=99), job.folder)
    list(fit(run))
    return {k: v.clone() for k, v in job.module.state_dict().items()}


@pytest.mark.parametrize("shuffle", [False, True])
def test_remembered_words_change_no_bit(shelf, shuffle):
    made = []
    for remember in (True, False):
        system, choices = small_system(), Choices(buckets=True, shuffle=shuffle, keep=1, drop=0.3)
        torch.manual_seed(1)
        adapt(system.denoiser.net, 2, None)
        job = job_of(open_album(str(shelf / "own"), (16, 16), 4, choices), system, held=1, choices=choices)
        for part in job.jobs:
            part.encoder = Apart(system.prompt_encoder, remember=remember)
        job.folder = shelf / f"run{remember}"
        made.append(trained(job, system.denoiser.net))
        assert any(part.encoder.known for part in job.jobs) is remember
    assert all(torch.equal(v, made[1][k]) for k, v in made[0].items()) and any(v.any() for v in made[0].values())


@pytest.mark.parametrize(
    ("learns", "kept"), [({}, True), ({"word": "sks", "caption": "a sks man"}, False), ({"encoder": True}, False)]
)
def test_words_are_remembered_only_where_nothing_of_them_learns(shelf, learns, kept):
    recipe = Adapting(name="x", model=str(shelf / "model.safetensors"), data=str(shelf / "own"), size=16, rank=2, **learns)
    job = recipe.prepare(recipe.pictures())[1]
    assert all(isinstance(part.encoder, Apart) is kept for part in job.jobs)
    words = [p for name, p in job.module.named_parameters() if p.requires_grad]
    for step in range(2):
        job.loss(job.order(4, step, 0), Key(0, step)).mean().backward()
    assert all(p.grad is not None for p in words)


@torch.no_grad()
def test_words_sound_the_same_alone_and_among_others():
    system = small_system()
    texts = ["a man", "", "red hair", "a man"]
    together, alone = Apart(system.prompt_encoder).prompts(texts), system.prompt_encoder.prompts(["red hair"])
    assert torch.equal(together.tokens[2:3], alone.tokens) and torch.equal(together.vector[0], together.vector[3])
    assert not together.tokens.requires_grad


# -- runs


TOML = """
[general]
caption_extension = ".txt"
shuffle_caption = true
keep_tokens = 1
flip_aug = true
enable_bucket = true
color_aug = true

[[datasets]]
resolution = 16
batch_size = 4
bucket_reso_steps = 4

  [[datasets.subsets]]
  image_dir = "own"
  num_repeats = 2

  [[datasets.subsets]]
  image_dir = "regular"
  is_reg = true
  class_tokens = "a man"
"""


def run(shelf, out, *words):
    main(["adapt", "lora", *words, "--threads", "1", "--out", str(out)])
    return out / "lora.safetensors"


def given(shelf):
    return ["--data", str(shelf / "set.toml"), "--model", str(shelf / "model.safetensors"), "--rank", "2"]


def test_a_data_set_in_toml_is_learnt_and_goes_on_bit_for_bit(shelf, capsys):
    (shelf / "set.toml").write_text(TOML)
    whole = run(shelf, shelf / "whole", *given(shelf), "--updates", "8")
    assert "color_aug does nothing here" in capsys.readouterr().err
    recipe = restored(Adapting(name="small-set", model=""), stored(shelf / "whole"))
    assert recipe.training.batch == 4
    session = Session.open(recipe, shelf / "broken", False)
    for now in session:
        session.run.stop = now.step == 3
    sizes = {part.data.shape[2:] for part in session.run.job.jobs}
    assert len(sizes) == 3 and len(session.run.job.batches.regular) >= 2
    again = run(shelf, shelf / "broken", "--resume")
    one, two = (load_tensors(file)[0] for file in (whole, again))
    assert all(torch.equal(v, two[k]) for k, v in one.items())


def test_what_a_lora_learnt_from_is_in_its_file_and_names_no_place(shelf):
    (shelf / "set.toml").write_text(TOML)
    file = run(shelf, shelf / "run", *given(shelf), "--updates", "1")
    about = load_tensors(file)[1]
    told = json.dumps(about)
    record = open_album(str(shelf / "set.toml"), (16, 16), 4).record()
    assert record["count"] == 7 and record["regular"] == 4 and record["sha256"] in told
    assert all(line[0] in told for line in record["pictures"])
    assert str(shelf) not in told and str(shelf) in (shelf / "run" / "recipe.json").read_text()


def test_one_picture_learns_where_nothing_is_held_out(shelf):
    noise_picture(shelf / "one" / "a.png", (16, 16), 0)
    (shelf / "set.toml").write_text('[[datasets]]\nvalidation_split = 0\n[[datasets.subsets]]\nimage_dir = "one"')
    assert run(shelf, shelf / "run", *given(shelf), "--updates", "2").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--drop", "2"], "drop is 2.0; it is a share"),
        (["--regular", "nowhere"], "there is no folder nowhere"),
        (["--regular-weight", "-1"], "regular weight is -1.0"),
        (["--keep", "-1"], "-1 tags cannot be kept"),
        (["--regular", "{}/regular", "--batch", "1"], "give --batch 2 or more"),
        (["--data", "{}/odd.toml"], "pictures of odd would be learnt as 15x15: width is 15 and height is 15"),
        (["--data", "{}/none.toml"], "cannot read"),
        (["--data", "{}/zero.toml"], "batch is 0"),
    ],
)
def test_what_cannot_be_is_one_line(shelf, words, said, capsys):
    (shelf / "odd.toml").write_text('[[datasets]]\nresolution = 15\n[[datasets.subsets]]\nimage_dir = "own"')
    (shelf / "zero.toml").write_text('[[datasets]]\nbatch_size = 0\n[[datasets.subsets]]\nimage_dir = "own"')
    base = ["--data", str(shelf / "own"), "--model", str(shelf / "model.safetensors"), "--out", str(shelf / "run")]
    with pytest.raises(SystemExit):
        main(["adapt", "lora", *base, "--updates", "1", *(word.replace("{}", str(shelf)) for word in words)])
    assert said in capsys.readouterr().err
