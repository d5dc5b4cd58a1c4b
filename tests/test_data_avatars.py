"""Avatars: the law of the attributes, the truth of the captions, the packaged part. Nothing here needs node or a network."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from reverie.data import HELD_OUT, PHRASES, STYLES, SUPPORT, VALUES, VOCABULARY, avatars, caption, draw, held_out, words
from reverie.data.avatar_parts import job, retouch
from reverie.data.avatar_styles import COLLECTION, nearest_colour
from reverie.data.avatar_styles import phrases as said_of
from reverie.data.avatar_words import COLOR_WORDS, HAIR_COLOR_WORDS, SOME_GLASSES, caption_and_told
from reverie.data.avatars import plan
from reverie.data.render import render
from reverie.errors import UserError


@pytest.fixture(scope="module")
def drawn():
    return [draw(np.random.default_rng([7, k])) for k in range(3000)]


@pytest.fixture(scope="module")
def captions(drawn):
    return [(a, caption(a, np.random.default_rng([8, k]))) for k, a in enumerate(drawn)]


@pytest.fixture(scope="module")
def packaged():
    return avatars()


COLOURS = {w for table in (COLOR_WORDS, HAIR_COLOR_WORDS) for some in table.values() for w in some}


def said(phrase, text):
    """Whether the phrase stands in the text, with a colour or without one."""
    pattern = re.escape(re.sub(r"^an? ", "", phrase)).replace(r"\{c\}\ ", r"(?:[a-z-]+ )?")
    return re.search(rf"(?<![\w-]){pattern}(?![\w-])", text) is not None


def test_attributes_are_of_the_vocabulary_and_of_what_the_style_supports(drawn):
    for a in drawn:
        for name, value in a.items():
            assert value in VALUES[name]
            assert value in SUPPORT[a["style"]].get(name, VALUES[name])
        assert ("hat_color" in a) == (a["hair"] in ("hat", "beanie", "turban", "hijab"))
        assert ("hair_color" in a) == (("hat_color" not in a and a["hair"] != "bald") or a["facial_hair"] != "none")


def test_every_value_of_every_attribute_is_drawn(drawn):
    for name, values in VALUES.items():
        assert {a[name] for a in drawn if name in a} == set(values)


def test_held_out_combinations_are_never_drawn_and_can_be_asked_for(drawn):
    assert not any(map(held_out, drawn))
    rng = np.random.default_rng(0)
    assert all(held_out(draw(rng, only_held_out=True)) for _ in range(50))
    assert all(map(held_out, HELD_OUT))
    assert held_out({"style": "micah", "hair": "mohawk", "hair_color": "green"})
    assert not held_out({"style": "micah", "hair": "mohawk", "hair_color": "blue"})


def test_a_picture_is_planned_by_seed_and_index_alone():
    assert plan(1, 17) == plan(1, 17)
    assert plan(1, 17) != plan(2, 17)
    assert [plan(0, k)[0]["style"] for k in range(4)] == list(STYLES)
    # a change here changes every data set made so far
    assert plan(0, 0)[0] == {
        "style": "avataaars",
        "hair": "curly",
        "hair_color": "purple",
        "skin": "dark",
        "glasses": "round",
        "facial_hair": "none",
        "expression": "smiling",
        "clothing": "t-shirt",
        "clothing_color": "pink",
    }


def test_every_job_leaves_nothing_to_chance(drawn):
    for k, a in enumerate(drawn[:400]):
        options = job(a, np.random.default_rng(k))["options"]
        for name, value in options.items():
            assert name == "seed" or value in (0, 100) or (isinstance(value, list) and len(value) <= 1), name


def test_no_phrase_says_two_values_of_one_attribute():
    for name in {name for name, _ in PHRASES}:
        owner = {}
        for (other, value), phrases in PHRASES.items():
            for phrase in set(phrases.all()) if other == name else ():
                assert owner.setdefault(phrase, value) == value, phrase
    for table in (COLOR_WORDS, HAIR_COLOR_WORDS):
        everything = [w for some in table.values() for w in set(some)]
        assert len(everything) == len(set(everything))


def bare(phrase):
    return re.sub(r"^an? ", "", phrase.replace("{c} ", ""))


def lies(name, value):
    """A pattern of every phrase for another value of the attribute that is not part of a phrase for this one."""
    true = [bare(p) for p in PHRASES[name, value].all()]
    if name == "glasses" and value in ("round", "square"):
        true += SOME_GLASSES
    others = {bare(p) for (n, v), phrases in PHRASES.items() if n == name and v != value for p in phrases.all()}
    false = [p for p in others if not any(re.search(rf"\b{re.escape(p)}\b", t) for t in true)]
    return re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, false)) + r")(?![\w-])")


def test_captions_tell_nothing_but_the_truth(captions):
    patterns = {key: lies(*key) for key in PHRASES}
    assert patterns["hair", "long"].search("a red mohawk")
    assert not patterns["hair", "long"].search("long red hair")
    assert patterns["glasses", "none"].search("he wears shades")
    for a, text in captions:
        told = re.sub(rf"\b(?:{'|'.join(COLOURS)})\b ?", "", text)  # "short red hair" is "short hair"
        for name, value in a.items():
            if (name, value) in patterns:
                lie = patterns[name, value].search(told)
                assert lie is None, f"{lie} in {text!r}, but {name} is {value}"


def test_captions_tell_the_true_colours(captions):
    hair_words = {w: c for c, some in HAIR_COLOR_WORDS.items() for w in some}
    told = 0
    for a, text in captions:
        for word in re.findall(
            r"([a-z-]+?)[ -](?:curly hair|long hair|hair\b|haired|beard|mustache|moustache|afro|mohawk|bun|bob)", text
        ):
            if word in hair_words:
                told += 1
                assert a["hair_color"] == hair_words[word], text
        for word in re.findall(
            r"([a-z]+) (?:t-shirt|tee|hoodie|sweater|jumper|overalls|top(?! knot)|clothes|outfit|blazer)\b", text
        ):
            if word in COLOR_WORDS:
                told += 1
                assert a["clothing_color"] == word, text
    assert told > 1500


def test_what_a_caption_tells_is_known():
    """What is listed as told is true and in the text; what is not, is not: the text is the same whatever its value."""
    for k in range(400):
        a = draw(np.random.default_rng([9, k]))
        text, told = caption_and_told(a, np.random.default_rng([10, k]))
        for name, values in told.items():
            assert a[name] in values
            if values == ("round", "square"):
                assert any(w in text for w in SOME_GLASSES)
            elif (name, value := values[0]) in PHRASES:
                plain = text if name == "skin" else re.sub(rf"\b(?:{'|'.join(COLOURS)})\b ?", "", text)
                assert any(bare(p) in plain for p in PHRASES[name, value].all()), (text, name)
        silent = "clothing_color" if "clothing_color" not in told else "hair_color" if "hair_color" not in told else None
        if silent in a:
            other = next(v for v in VALUES[silent] if v != a[silent])
            assert caption(a | {silent: other}, np.random.default_rng([10, k])) == text
        for name in ("hair_color", "clothing_color"):
            if name in told:
                other = next(v for v in VALUES[name] if v != a[name])
                assert caption(a | {name: other}, np.random.default_rng([10, k])) != text


def test_captions_vary_and_tell_most(captions):
    a = captions[0][0]
    many = {caption(a, np.random.default_rng(k)) for k in range(100)}
    assert len(many) > 90
    styled = np.mean([any(said(p, text) for p in PHRASES["style", a["style"]].all()) for a, text in captions])
    assert 0.5 < styled < 0.75
    happy = [(a, t) for a, t in captions if a["expression"] == "sad"]
    assert 0.6 < np.mean([any(said(p, t) for p in PHRASES["expression", "sad"].all()) for _, t in happy]) < 0.95
    assert caption(a, np.random.default_rng(3)) == caption(a, np.random.default_rng(3))


def test_the_vocabulary_is_complete(captions):
    used = {w for _, text in captions for w in words(text)}
    assert used <= VOCABULARY
    assert len(VOCABULARY) < 400
    assert len(used) > 0.9 * len(VOCABULARY)


def test_retouching_adds_what_the_style_lacks():
    base = dict(style="pixel-art", hair="mohawk", hair_color="blue", skin="tan", glasses="none", facial_hair="beard",
                expression="angry", clothing="t-shirt", clothing_color="red")  # fmt: skip
    blank = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"></svg>'
    picture = render([retouch(blank, base)], 32)[0].transpose(1, 2, 0)
    assert tuple(picture[3, 16]) == (0x2F, 0x6F, 0xE0)  # the crest
    assert tuple(picture[22, 16]) == (0x2F, 0x6F, 0xE0)  # the chin
    assert tuple(picture[19, 16]) == (255, 255, 255)  # room for the mouth


def test_render_pads_to_a_square_on_white():
    wide = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"><rect width="20" height="10" fill="#f00"/></svg>'
    (picture,) = render([wide], 32)
    assert picture.shape == (3, 32, 32)
    assert (picture[:, 0, 16] == 255).all()
    assert picture[:, 16, 16].tolist() == [255, 0, 0]
    with pytest.raises(UserError, match="drawing 1"):
        render([wide, "<not"], 8)


def test_the_packaged_part(packaged):
    assert len(packaged) >= 8000
    assert packaged.images.shape[1:] == (3, 64, 64)
    counts = np.bincount(packaged.labels, minlength=len(STYLES))
    assert counts.min() >= 2000
    assert packaged.classes == STYLES
    assert not any(map(held_out, packaged.attributes))
    assert "CC BY 4.0" in packaged.licence
    assert "Micah Lanier" in packaged.credit


def test_the_packaged_part_is_what_the_plan_says(packaged):
    for k in (0, 1, 2, 3, 4999, 7998):
        assert packaged.attributes[k] == plan(0, k)[0]


@pytest.mark.parametrize("style", STYLES)
def test_the_packaged_pictures_show_their_hair_colour(packaged, style):
    """Pictures of blue hair are bluer at the top than those of red hair."""
    blue, red = (
        np.mean([packaged.images[k][:, :32] for k, a in enumerate(packaged.attributes[:4000]) if a["style"] == style
                 and a.get("hair_color") == colour and a["hair"] in ("long", "short", "bob")], axis=(0, 2, 3))
        for colour in ("blue", "red")
    )  # fmt: skip
    assert blue[2] - blue[0] > red[2] - red[0] + 20


def test_importing_the_room_does_not_import_torch():
    code = "import sys, json, reverie.data; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False


@pytest.mark.parametrize(
    ("count", "styles", "what"),
    [
        (0, STYLES, "count"),
        (4, ("mikah",), "Did you mean 'micah'.*adventurer.*toon-head"),
        (4, ("micah", "openPeeps"), "'open-peeps'"),
        (-1, ("micah",), "count"),
    ],
)
def test_impossible_requests_are_refused(tmp_path, count, styles, what):
    from reverie.data import generate_file

    with pytest.raises(UserError, match=what):
        generate_file(tmp_path / "a.safetensors", count, styles=styles)


def test_a_missing_npm_is_said_plainly(tmp_path, monkeypatch):
    from reverie.data import generate

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="npm was not found"):
        generate(1)


SCHEMA = {
    "hair": ["short01"], "hairProbability": 100,
    "hairColor": ["ab2a18", "0e0e0e"], "glasses": ["variant01"],
    "glassesProbability": 20, "glassesColor": ["000000", "ff0000"], "mouth": ["happy01"], "mouthColor": ["000000"],
    "eyes": ["variant01"], "head": ["head"],
}  # fmt: skip
ROBOT = {"backgroundType": "solid", "backgroundRotation": "7", "hair": "long20", "hairColor": "#ab2a18", "glassesColor": "#000000",
         "mouth": "happyMouth03", "mouthColor": "#000000", "eyes": "variant07", "head": "head", "skinColor": "#6e4023"}  # fmt: skip


def test_a_style_without_words_of_ours_is_told_by_the_names_of_its_parts():
    assert set(said_of(ROBOT, SCHEMA)) == {"red long hair", "happy mouth", "brown skin"}  # no colour of glasses that are not there
    assert "black glasses" in said_of(ROBOT | {"glasses": "variant02"}, SCHEMA)
    neutral = {"primaryBackgroundColor": "#2f6fd8", "secondaryBackgroundColor": "#d8342c"}
    assert said_of(neutral, {"backgroundColor": ["2f6fd8", "d8342c"]}) == ["blue background"]
    assert said_of({"primaryBackgroundColor": "transparent", "eyes": "variant01"}, SCHEMA) == []


@pytest.mark.parametrize(
    ("code", "word"),
    [("000000", "black"), ("ffffff", "white"), ("ff0000", "red"), ("ab2a18", "red"), ("8b4513", "brown"), ("f2d3b1", "beige"),
     ("00ff00", "green"), ("0000ff", "blue"), ("ffb6c1", "pink"), ("808080", "gray"), ("5e35b1", "purple"), ("fb8c00", "orange")],
)  # fmt: skip
def test_colours_have_the_name_a_person_would_give(code, word):
    assert nearest_colour(code) == word


@pytest.fixture
def program(monkeypatch):
    """In place of the drawing program: every avatar is a red square."""
    meta = {"title": "Lorelei", "creator": "Somebody", "homepage": "https://some.where", "license": {"name": "CC0 1.0."}}
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="8" height="8" fill="#f00"/></svg>'
    extra = {**ROBOT, "backgroundRotation": 7}
    monkeypatch.setattr("reverie.data.npm.modules", lambda packages: None)
    monkeypatch.setattr(
        sys.modules["reverie.data.avatars"],  # the room has a function of that name
        "_ask",
        lambda jobs, modules: [
            {"svg": svg, "extra": extra} if "options" in job else {"meta": meta, "defaults": SCHEMA} for job in jobs
        ],
    )


def test_any_style_of_the_collection_is_made_kept_and_read_again(program, tmp_path):
    from reverie.data import generate, generate_file

    styles = ("lorelei", "micah")
    generate_file(tmp_path / "a.safetensors", 5, 16, styles=styles)
    kept, made = avatars(tmp_path / "a.safetensors"), generate(5, 16, styles=styles)
    assert kept.licence == made.licence and kept.licence.endswith("; lorelei: CC0 1.0")
    assert kept.credit == made.credit and "Lorelei by Somebody (https://some.where)" in kept.credit
    assert kept.classes == styles and kept.labels.tolist() == [0, 1, 0, 1, 0]
    assert kept.attributes == made.attributes
    assert kept.attributes[0] == ROBOT | {"style": "lorelei"} and kept.attributes[1] == plan(0, 1, styles)[0]
    told = [[some.caption(i, np.random.default_rng(k)) for i in range(5) for k in range(20)] for some in (kept, made)]
    assert told[0] == told[1]
    assert {"red long hair", "brown skin", "lorelei style"} <= {part for text in told[0] for part in text.split(", ")}


def test_every_style_can_be_planned_and_is_planned_by_its_index_alone():
    jobs = [plan(3, k, COLLECTION)[1] for k in range(2 * len(COLLECTION))]
    assert [job["style"] for job in jobs] == [*COLLECTION, *COLLECTION]
    seeds = [job["options"]["seed"] for job in jobs if job["style"] not in STYLES]
    assert len(set(seeds)) == len(seeds) and all(re.fullmatch("[A-Z]{6} [A-Z]{6}", seed) for seed in seeds)


def test_letters_are_drawn_without_any_font_of_the_machine():
    text = '<text x="4" y="28" font-family="Arial, sans-serif" font-size="30">AB</text>'
    (picture,) = render([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48">{text}</svg>'], 48)
    assert 0.02 < np.mean(picture < 128) < 0.5
