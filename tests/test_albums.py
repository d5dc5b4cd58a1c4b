"""Albums: folders and data sets in TOML as pictures to learn from; captions, masks, buckets, hashes, what is refused."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from reverie.data import folder
from reverie.data.album import Choices, open_album
from reverie.data.captions import Saying
from reverie.data.kohya import WITHOUT, batch_size
from reverie.data.shapes import Shapes
from reverie.errors import UserError


def picture(path, size=(32, 32), colour=(200, 30, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def rng(seed=0):
    return np.random.default_rng(seed)


def said(album):
    return [shot.said(rng()) for shot in album.shots]


# -- captions


def test_tags_are_shuffled_behind_those_that_stay():
    saying = Saying(shuffle=True, keep=2)
    many = [saying("sks, dog,red , green,blue", rng(k)) for k in range(200)]
    assert all(text.startswith("sks, dog, ") for text in many)
    counts = Counter(text.removeprefix("sks, dog, ") for text in many)
    assert len(counts) == 6 and min(counts.values()) > 12  # each order of three, as often as any
    assert all(sorted(text.split(", ")) == ["blue", "dog", "green", "red", "sks"] for text in many)


def test_a_mark_says_which_tags_stay_and_is_never_said():
    saying = Saying(shuffle=True, keep=0, keep_mark="|||")
    many = {saying("sks, dog ||| red, green", rng(k)) for k in range(20)}
    assert many == {"sks, dog, red, green", "sks, dog, green, red"}
    assert Saying(keep_mark="|||")("sks ||| red", rng()) == "sks, red"


def test_tags_are_left_out_by_their_chance_and_kept_ones_never():
    saying = Saying(keep=1, drop_tags=0.25)
    many = [saying("sks, a, b, c, d", rng(k)) for k in range(500)]
    assert all(text.startswith("sks") for text in many)
    assert 0.7 < sum(len(text.split(", ")) - 1 for text in many) / 2000 < 0.8
    assert Saying(drop_tags=1.0)("a, b", rng()) == ""


def test_a_template_is_around_all_that_varies():
    saying = Saying(shuffle=True, prefix="photo of", suffix="in the sun", template="{}, in the style of sks")
    assert {saying("a, b", rng(k)) for k in range(9)} == {
        f"photo of {pair} in the sun, in the style of sks" for pair in ("a, b", "b, a")
    }
    assert Saying(template="{}, sks")("", rng()) == "sks"


@pytest.mark.parametrize(
    ("wrong", "why"), [({"keep": -1}, "-1 tags"), ({"drop_tags": 1.5}, "1.5"), ({"separator": ""}, "parted by nothing")]
)
def test_captions_that_cannot_be_said(wrong, why):
    with pytest.raises(UserError, match=why):
        Saying(**wrong)


# -- sizes


def test_buckets_have_nearly_one_area_and_sides_in_steps():
    shapes = Shapes(size=(512, 512), buckets=True, step=64)
    sizes = shapes.sizes()
    assert (512, 512) in sizes and (768, 320) in sizes and (320, 768) in sizes
    for h, w in sizes:
        assert h % 64 == w % 64 == 0 and min(h, w) >= 256 and max(h, w) <= 1024
        assert h * w <= 512 * 512 < (h + 64) * (w + 64)
    assert {(w, h) for h, w in sizes} == set(sizes)


def test_a_picture_goes_where_its_shape_changes_least():
    shapes = Shapes(size=(512, 512), buckets=True, step=64)
    made = rng(1)
    for _ in range(200):
        h, w = made.integers(50, 4000, 2)
        h0, w0 = shapes.of(int(h), int(w))
        lost = abs(np.log(w0 / h0) - np.log(w / h))
        assert all(lost <= abs(np.log(b / a) - np.log(w / h)) + 1e-12 for a, b in shapes.sizes())
    assert shapes.of(100, 100) == (512, 512)  # small ones are enlarged


def test_where_nothing_is_enlarged_small_pictures_keep_their_size():
    shapes = Shapes(size=(64, 64), buckets=True, step=8, enlarge=False)
    assert shapes.of(33, 47) == (32, 40)
    assert shapes.of(64, 64) == (64, 64)
    h, w = shapes.of(1000, 500)
    assert (h, w) == (88, 40)
    with pytest.raises(UserError, match="too small"):
        shapes.of(7, 100)


def test_sizes_that_cannot_be():
    with pytest.raises(UserError, match="no bucket of 64x64"):
        Shapes(size=(64, 64), buckets=True, step=8, least=80)
    for wrong in ({"size": (0, 64)}, {"size": (64, 10**9)}, {"size": (64, 64), "buckets": True, "most": 10**9}):
        with pytest.raises(UserError, match="sides between 1 and 16384"):
            Shapes(**wrong)
    assert Shapes(size=(48, 64)).of(10, 1000) == (48, 64)  # without buckets all are cut to one size


# -- folders


def test_a_plain_folder_is_what_it_is_as_pictures(tmp_path):
    made = rng()
    for k in range(4):
        pixels = made.integers(0, 256, (20 + k, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        (tmp_path / f"{k}.txt").write_text(f"number {k}")
    (tmp_path / "bad.png").write_bytes(b"")
    (tmp_path / "bad.txt").write_text("words")
    album, pictures = open_album(str(tmp_path), (16, 16)), folder(tmp_path, 16)
    assert np.array_equal(np.stack([shot.image for shot in album.shots]), pictures.images)
    assert said(album) == [pictures.caption(k, rng()) for k in range(4)]
    assert len(album.problems) == len(pictures.problems) == 1 and "bad.png" in album.problems[0]
    ours, theirs = album.split(1), pictures.split(1)
    for one, two in zip(ours, theirs, strict=True):
        assert np.array_equal(np.stack([shot.image for shot in one.shots]), two.images)


def test_caption_files_of_another_ending(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.caption").write_text("a cat")
    assert said(open_album(str(tmp_path), (8, 8))) == ["a cat"]
    (tmp_path / "a.txt").write_text("a dog")
    assert said(open_album(str(tmp_path), (8, 8))) == ["a dog"]
    assert folder(tmp_path, 8).caption(0, rng()) == "a dog"


def test_folders_named_for_their_repeats(tmp_path):
    picture(tmp_path / "10_sks dog" / "a.png")
    picture(tmp_path / "10_sks dog" / "b.png")
    (tmp_path / "10_sks dog" / "b.txt").write_text("sks dog, asleep")
    picture(tmp_path / "3_cat" / "c.png")
    album = open_album(str(tmp_path), (8, 8))
    assert [(shot.repeats, text) for shot, text in zip(album.shots, said(album), strict=True)] == [
        (10, "sks dog"),
        (10, "sks dog, asleep"),
        (3, "cat"),
    ]
    picture(tmp_path / "birds" / "d.png")  # then they are classes, as any folder has them
    album = open_album(str(tmp_path), (8, 8))
    assert said(album) == ["10_sks dog", "10_sks dog", "3_cat", "birds"]
    assert {shot.repeats for shot in album.shots} == {1}
    (tmp_path / "birds" / "d.png").unlink()
    picture(tmp_path / "0_none" / "e.png")
    with pytest.raises(UserError, match="0 times an epoch"):
        open_album(str(tmp_path), (8, 8))


def test_lines_without_a_caption_take_the_name_of_their_folder(tmp_path):
    for name in "abc":
        picture(tmp_path / "1_dog" / f"{name}.png")
    lines = ['{"file_name": "a.png", "text": "a dog, asleep"}', '{"file_name": "b.png", "text": ""}']
    (tmp_path / "1_dog" / "metadata.jsonl").write_text("\n".join(lines))
    album = open_album(str(tmp_path), (8, 8))
    assert said(album) == ["a dog, asleep", "dog", "dog"] and album.problems == ()


def test_regular_pictures_are_kept_apart_and_never_held_out(tmp_path):
    for k in range(3):
        picture(tmp_path / "own" / f"{k}.png", colour=(k, 0, 0))
        picture(tmp_path / "regular" / "4_dog" / f"{k}.png", colour=(100 + k, 0, 0))
    choices = Choices(regular=str(tmp_path / "regular"), regular_caption="a {}")
    album = open_album(str(tmp_path / "own"), (8, 8), choices=choices, caption="sks")
    assert len(album) == 3 and said(album) == ["sks"] * 3
    assert [(shot.said(rng()), shot.repeats) for shot in album.regular] == [("a dog", 4)] * 3
    train, held = album.split(1)
    assert (len(train), len(held), len(train.regular), len(held.regular)) == (2, 1, 3, 0)
    with pytest.raises(UserError, match="there is no folder"):
        open_album(str(tmp_path / "own"), (8, 8), choices=Choices(regular=str(tmp_path / "none")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no picture in .*empty"):
        open_album(str(tmp_path / "own"), (8, 8), choices=Choices(regular=str(tmp_path / "empty")))


def test_places_that_are_not_there_or_hold_nothing(tmp_path):
    with pytest.raises(UserError, match="--data"):
        open_album("", (8, 8))
    with pytest.raises(UserError, match="there is no folder"):
        open_album(str(tmp_path / "none"), (8, 8))
    with pytest.raises(UserError, match="no picture in"):
        open_album(str(tmp_path), (8, 8))


# -- masks


def half(path, size, left=255, right=0):
    pixels = np.full((size[1], size[0]), right, np.uint8)
    pixels[:, : size[0] // 2] = left
    Image.fromarray(pixels).save(path)


def test_a_mask_is_no_picture_and_is_cut_as_its_picture_is(tmp_path):
    picture(tmp_path / "a.jpg", (32, 16))
    half(tmp_path / "a.mask.png", (64, 32))  # of twice the scale
    picture(tmp_path / "b.mask.png")  # of no picture: a picture with a dot in its name
    album = open_album(str(tmp_path), (8, 8))
    assert len(album) == 2 == len(folder(tmp_path, 8)) and album.problems == ()
    mask = album.shots[0].mask
    assert mask.shape == (8, 8) and (mask[:, :4] == 255).all() and (mask[:, 4:] == 0).all()
    assert album.shots[1].mask is None


def test_masks_that_do_not_fit_skip_their_picture(tmp_path):
    picture(tmp_path / "good.png", (33, 50))
    half(tmp_path / "good.mask.png", (66, 99))  # rounded to whole pixels
    picture(tmp_path / "shape.png", (32, 16))
    half(tmp_path / "shape.mask.png", (16, 32))
    picture(tmp_path / "black.png")
    half(tmp_path / "black.mask.png", (32, 32), left=0)
    picture(tmp_path / "broken.png")
    (tmp_path / "broken.mask.png").write_bytes(b"nothing")
    album = open_album(str(tmp_path), (8, 8))
    assert len(album) == 1
    told = "\n".join(album.problems)
    assert "16x32 for a picture of 32x16" in told and "leaves nothing" in told and "broken.mask.png: cannot be decoded" in told


# -- data sets in TOML


def written(place, text, name="set.toml"):
    (place / name).write_text(text)
    return str(place / name)


WHOLE = """
[general]
caption_extension = ".txt"
shuffle_caption = false
keep_tokens = 1

[[datasets]]
resolution = [96, 64]
batch_size = 4
enable_bucket = true
min_bucket_reso = 32
max_bucket_reso = 128
bucket_reso_steps = 16
validation_split = 0.5

  [[datasets.subsets]]
  image_dir = "dogs"
  class_tokens = "sks dog"
  num_repeats = 5
  shuffle_caption = true
  flip_aug = true
  caption_dropout_rate = 0.25

  [[datasets.subsets]]
  image_dir = "sub/any"
  is_reg = true
  class_tokens = "dog"

[[datasets]]
resolution = 48

  [[datasets.subsets]]
  image_dir = "masked"
  conditioning_data_dir = "masks"
  alpha_mask = true
"""


def test_a_whole_data_set(tmp_path):
    for k, size in enumerate(((90, 60), (60, 90), (60, 60), (200, 40))):
        picture(tmp_path / "dogs" / f"{k}.png", size)
    (tmp_path / "dogs" / "1.txt").write_text("one, two, three")
    picture(tmp_path / "sub" / "any" / "r.png", (90, 90))
    picture(tmp_path / "masked" / "m.png", (60, 60))
    picture(tmp_path / "masked" / "lonely.png", (60, 60))
    (tmp_path / "masks").mkdir()
    half(tmp_path / "masks" / "m.png", (60, 60))
    album = open_album(written(tmp_path, WHOLE), (64, 64), 8, caption="{}, here")
    dogs = album.shots[:4]
    assert [shot.size for shot in dogs] == [(64, 96), (96, 64), (80, 64), (32, 128)]  # of at most 96 * 64 pixels
    assert {(shot.repeats, shot.flip, shot.drop, shot.held, shot.saying.keep) for shot in dogs} == {(5, True, 0.25, 0.5, 1)}
    assert said(album)[0] == "sks dog, here"
    assert {dogs[1].said(rng(k)) for k in range(9)} == {"one, two, three, here", "one, three, two, here"}
    masked = album.shots[4]
    assert masked.size == (48, 48) and masked.held is None and masked.mask[:, :20].all() and not masked.mask[:, 28:].any()
    assert [shot.said(rng()) for shot in album.regular] == ["dog"] and album.regular[0].size == (80, 64)
    assert len(album.problems) == 1 and "no mask lonely.png" in album.problems[0]
    assert batch_size(tmp_path / "set.toml") == 4
    train, held = album.split(1)
    assert (len(train), len(held)) == (2, 3)  # half of the dogs, and the only one of those that say nothing


def test_the_transparent_part_of_a_picture_is_a_mask_where_that_is_asked_for(tmp_path):
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, :10, 3] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "a.png")
    picture(tmp_path / "a" / "b.png")
    sub = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\n'
    one, two = open_album(written(tmp_path, sub + "alpha_mask = true"), (20, 20)).shots
    assert (one.mask[:, :10] == 255).all() and not one.mask[:, 10:].any() and two.mask is None
    assert {shot.mask is None for shot in open_album(written(tmp_path, sub), (20, 20)).shots} == {True}


SUBSET = '[[datasets.subsets]]\nimage_dir = "a"\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[datasets]]\nresolutoin = 8\n" + SUBSET, "no field 'resolutoin' here. Did you mean 'resolution'"),
        ("[general]\nimage_dir = 'a'\n[[datasets]]\n" + SUBSET, "no field 'image_dir'"),
        ("[[datasets]]\n" + SUBSET + "flip = true", "Did you mean 'flip_aug'"),
        ("[[datasets]]\n" + SUBSET + "flip_aug = 1", "flip_aug is 1; it is true or false"),
        ("[[datasets]]\n" + SUBSET + "num_repeats = true", "num_repeats is True; it is a whole number"),
        ("[[datasets]]\n" + SUBSET + "num_repeats = 0", "subset 1: .*0 times an epoch"),
        ("[[datasets]]\n" + SUBSET + "caption_dropout_rate = 2", "share of 2"),
        ("[[datasets]]\n" + SUBSET + "caption_extension = 'txt'", "with its dot"),
        ("[[datasets]]\nresolution = [8, 8, 8]\n" + SUBSET, "resolution is"),
        (
            "[[datasets]]\nbucket_reso_steps = 10\n" + SUBSET,
            "bucket_reso_steps is 10; this model's pictures have sides in steps of 8",
        ),
        ("[[datasets]]\nbucket_reso_steps = 0\n" + SUBSET, "bucket_reso_steps is 0"),
        ('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "gone"', "there is no folder .*gone: paths are relative to the file"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1", "no image_dir"),
        ("[[datasets]]\n" + SUBSET + "metadata_file = 'x.json'", "metadata_file is not read here"),
        ("[[datasets]]\nbatch_size = 1", "no \\[\\[datasets.subsets\\]\\]"),
        ("[[dataset]]\n" + SUBSET, "no table 'dataset' here. Did you mean 'datasets'"),
        ("[general]\n", "has no data set"),
        ("datasets = 3", "has no data set"),
        ("[[datasets", "is no TOML"),
        ("[[datasets]]\nresolution = 0\n" + SUBSET, "sides between 1 and"),
        ("[[datasets]]\nresolution = -8\n" + SUBSET, "sides between 1 and"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, text, why):
    picture(tmp_path / "a" / "a.png")
    with pytest.raises(UserError, match=why) as error:
        open_album(written(tmp_path, text), (64, 64), 8)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.toml"):
        open_album(str(tmp_path / "none.toml"), (8, 8))


def test_fields_that_do_nothing_here_are_said_one_line_each(tmp_path):
    picture(tmp_path / "a" / "a.png")
    text = (
        "[general]\ncolor_aug = true\nrandom_crop = false\ntoken_warmup_min = 1\n[[datasets]]\n" + SUBSET + "enable_wildcard = true"
    )
    found = open_album(written(tmp_path, text), (8, 8)).problems
    assert len(found) == 2 and "[general]: color_aug does nothing here" in found[0] and "subset 1: enable_wildcard" in found[1]
    every = "\n".join(f"{name} = 7" for name in WITHOUT)
    assert len(open_album(written(tmp_path, f"[general]\n{every}\n[[datasets]]\n{SUBSET}"), (8, 8)).problems) == len(WITHOUT)


def test_batches_of_two_sizes_are_refused(tmp_path):
    picture(tmp_path / "a" / "a.png")
    file = written(tmp_path, f"[[datasets]]\nbatch_size = 2\n{SUBSET}[[datasets]]\nbatch_size = 4\n{SUBSET}")
    with pytest.raises(UserError, match="batches of 2 and 4"):
        batch_size(tmp_path / "set.toml")
    assert len(open_album(file, (8, 8))) == 2


# -- the record


def test_a_record_is_of_content_alone(tmp_path):
    for place in ("one", "two/deep"):
        for k in range(3):
            picture(tmp_path / place / f"{k if place == 'one' else 9 - k}.png", colour=(k, 0, 0))
            (tmp_path / place / f"{k if place == 'one' else 9 - k}.txt").write_text(f"number {k}")
    one, two = (open_album(str(tmp_path / place), (8, 8)).record() for place in ("one", "two/deep"))
    assert one == two and one["count"] == 3 and len(one["sha256"]) == 64
    assert "one" not in str(one["pictures"]) and not any("number" in word for line in one["pictures"] for word in line)
    assert open_album(str(tmp_path / "one"), (16, 16)).record() == one  # whatever size they are learnt in
    (tmp_path / "one" / "0.txt").write_text("number 0!")
    assert open_album(str(tmp_path / "one"), (8, 8)).record()["sha256"] != one["sha256"]
    picture(tmp_path / "two/deep" / "9.png", colour=(0, 0, 1))
    assert open_album(str(tmp_path / "two/deep"), (8, 8)).record()["sha256"] != one["sha256"]
