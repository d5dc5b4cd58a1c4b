"""What prompts say of absence: read where captions spoke of it, and named where it cannot be read."""

import pytest
import torch
from small import WORDS

import reverie
from reverie.encode import Words
from reverie.encode.words import split
from reverie.nets.text import TextConfig


@pytest.fixture(scope="module")
def encoder():
    return reverie.load("reverie-avatars").prompt_encoder


@pytest.mark.parametrize("absent", ["without", "without a", "Without  any", "w/o", "w/o an", "sans", "lacking a", "with no"])
def test_absence_has_many_words_in_english_and_one_here(absent, encoder):
    prompt = f"a man {absent} beard"
    assert split(prompt) == ["a", "man", "with", "no", "beard"]
    assert encoder.understood(prompt) == {"facial_hair": "none"}
    assert encoder.notes(prompt) == []


def test_words_that_only_contain_one_of_absence_stay():
    for word in ("withouts", "slacking", "sansa", "lackingly"):
        assert split(word) == [word]


def test_the_shipped_model_hears_glasses_that_are_not_there(encoder):
    assert encoder.understood("a woman without glasses") == encoder.understood("a woman with no glasses") == {"glasses": "none"}
    several = {"hair": "bald", "glasses": "none", "facial_hair": "none"}
    assert encoder.understood("someone with no hair, without a beard and w/o glasses") == several


@pytest.mark.parametrize("word", ["not", "never", "isn't", "isn\N{RIGHT SINGLE QUOTATION MARK}t", "don't", "non"])
def test_a_negation_that_cannot_be_read_is_said_without_a_nearest_word(word, encoder):
    (note,) = encoder.notes(f"a man {word} smiling")
    assert "cannot be told what something is not" in note and "--negative" in note and "did you mean" not in note


def test_a_model_whose_captions_never_said_no_cannot_be_told_so():
    torch.manual_seed(0)
    encoder = Words(WORDS, TextConfig(vocabulary=2 + len(WORDS), width=8, depth=1, heads=1, length=8))
    assert "no" not in WORDS
    assert any("'no'" in note and "--negative" in note for note in encoder.notes("a man without hair"))


@pytest.mark.parametrize(("prompt", "thing"), [("a man with no hat", "hat"), ("a man without a mustache, black hair", "mustache")])
def test_an_absence_that_is_read_as_presence_is_said(prompt, thing, encoder):
    assert thing in encoder.understood(prompt).values()
    (note,) = encoder.notes(prompt)
    assert note.startswith(f"'no {thing}' is read as '{thing}'") and "--negative" in note
