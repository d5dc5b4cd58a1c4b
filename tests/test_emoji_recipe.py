"""reverie-emoji: its words, what it never sees, and its training, at toy size."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_data_sets import colours

from reverie.codec import Latent
from reverie.data.emoji import emoji
from reverie.data.emoji_prompts import COMBINATIONS, HELD_OUT, PARAPHRASES, Wish, often, unsaid, wishes
from reverie.data.packed import Packed, write
from reverie.data.phrases import atoms, lemmas, phrases
from reverie.encode import Letters
from reverie.encode.letters import EMPTY, FIRST, runs, words
from reverie.errors import UserError
from reverie.measure import features
from reverie.measure.matching import Matcher
from reverie.nets.autoencoder import AutoencoderConfig
from reverie.nets.dit import DiTConfig
from reverie.nets.letters import LettersConfig
from reverie.systems.emoji import words as wording
from reverie.systems.emoji.kept import kept
from reverie.systems.recipes import RECIPES
from reverie.systems.shipped import open_reader
from reverie.systems.system import Part
from reverie.systems.weights import load, load_any, save
from reverie.tasks import judges
from reverie.tasks.evaluate import evaluate
from reverie.tasks.generate import generate
from reverie.tasks.train import Session
from reverie.train import Run, Training, fit
from reverie.train.aligning import Aligned
from reverie.train.distilling import Distilling, begin
from reverie.train.loop import Key
from reverie.train.matching import Matching, contrast

KNOWN = ("red", "apple", "a", "phrase", "cat")
TINY = LettersConfig(words=40, rows=500, narrow=16, width=32, depth=1, heads=2, length=8, runs=12, out=16)
TAGS = {"cat": ["kitty", "pet"], "fox": ["animal"], "flag: japan": ["JP"]}
TRAINING = {"steps": 3, "batch": 4, "holdout": 8, "snapshots": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing is kept in the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A file of 24 emoji: cats, foxes, which are held out, and flags."""
    path = tmp_path_factory.mktemp("emoji") / "set.safetensors"
    kinds = (("animals-nature", "cat"), ("animals-nature", "fox"), ("flags", "flag: japan"))
    known = tuple({"style": ("noto", "fluent-3d")[k % 2], "group": g, "label": label} for k in range(8) for g, label in kinds)
    values = {name: sorted({a[name] for a in known}) for name in ("style", "group", "label")}
    write(path, Packed("emoji", "-", "-", colours(24, 64), known, extra={"tags": TAGS}, values=values))
    return path


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """An untrained text encoder and an untrained autoencoder, as their runs would leave them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pieces")
    net = AutoencoderConfig(patch=4, channels=8, mult=(1,), blocks=1, latent=6, groups=4, straight=True)
    save(Part(encoders={"prompt": Letters(KNOWN, TINY)}), folder / "words.safetensors")
    save(Part(codec=Latent(net)), folder / "codec.safetensors")
    return {"wording": str(folder / "words.safetensors"), "codec": str(folder / "codec.safetensors")}


def recipe(drawn, pieces, **changes):
    net = DiTConfig(in_channels=6, size=16, patch=2, width=32, depth=2, heads=2, learn_sigma=False, context_dim=32, vector_dim=16)
    training = replace(RECIPES["emoji"].training, **TRAINING)
    return replace(RECIPES["emoji"], data=str(drawn), net=net, training=training, align_block=1, **pieces, **changes)


class ByLetters:
    """A teacher for tests: phrases that share letters are alike."""

    def __call__(self, some):
        each = (torch.tensor([zlib.crc32(c.encode()) % 16 for c in p]) for p in some)
        return torch.nn.functional.normalize(torch.stack([torch.bincount(k, minlength=16) for k in each]).float(), dim=1)

    def common(self):
        return ["the", "old"]

    def pieces(self, word):
        return [ord(c) for c in word[::4]]


# -- words


def test_words_are_spelt_the_same_on_every_machine():
    assert runs("cat", 500, 5) == (474, 437, 85, 401, 30)
    assert len(runs("honorificabilitudinitatibus" * 9, 500, 12)) == 12
    assert words("a 🐱's Hat") == ["a", "cat", "face", "s", "hat"]


def test_a_known_word_is_looked_up_and_another_spelt():
    encoder = Letters(KNOWN, TINY)
    ids = encoder.tokenise(["red appel"])[0][0]
    assert ids[0].tolist() == [FIRST, *[0] * 12]
    assert ids[1, 0] == 0 and tuple(ids[1, 1:].tolist()) == runs("appel", 500, 12)
    assert encoder.tokenise(["red"], lambda: True)[0][0, 0, 0] == 0
    with pytest.raises(ValueError, match="do not fit"):
        Letters(KNOWN * 9, TINY)


def test_the_table_begins_as_what_the_teacher_makes_of_each_word():
    """Its rows have the same distances as the teacher's vectors, whose dimensions are as many."""
    torch.manual_seed(0)
    encoder, told = Letters(KNOWN, TINY), torch.randn(len(KNOWN), 16)
    begin(encoder, told)
    rows = encoder.table.weight[FIRST : FIRST + len(KNOWN)].detach()
    apart, wanted = torch.pdist(rows), torch.pdist(told)
    torch.testing.assert_close(apart / apart.mean(), wanted / wanted.mean())
    assert not encoder.table.weight[0].any()


def test_a_phrase_means_the_same_beside_a_longer_one():
    torch.manual_seed(0)
    encoder = Letters(KNOWN, TINY).eval()
    alone, beside = encoder.prompts(["red apple"]), encoder.prompts(["red apple", "a very long phrase about an apple"])
    assert alone.tokens.shape == (1, 8, 32) and alone.vector.shape == (1, 16)
    torch.testing.assert_close(alone.vector[0], beside.vector[0])
    torch.testing.assert_close(alone.vector.square().mean(), torch.tensor(1.0))
    both = encoder.prompts(["apple red", ""])
    assert not torch.allclose(both.vector[0], alone.vector[0], atol=1e-3)  # the order counts
    assert encoder.tokenise([""])[0][0, 0, 0] == EMPTY and int(both.mask[1].sum()) == 1


def test_notes_name_what_cannot_be_read():
    encoder = Letters(KNOWN, TINY)
    assert encoder.notes("red apple") == encoder.notes("") == Letters((*KNOWN, "face"), TINY).notes("a 🐱") == []
    assert encoder.notes("appel") == [
        "'appel' is not a word this model knows, and was guessed by its letters; did you mean 'apple'?"
    ]
    assert "no word" in encoder.notes("?!")[0]
    assert "English" in encoder.notes("красное яблоко")[0]
    assert "--negative" in encoder.notes("not a cat")[0]
    assert "ignored: ten" in encoder.notes("red red red red red red red red ten")[-1]


def test_a_student_learns_what_the_teacher_says(tmp_path):
    """After 150 steps unseen phrases are nearer to the teacher's vectors than any one vector is to all of them."""
    torch.manual_seed(0)
    said = [f"{a} {b}" for a in ("red", "blue", "happy", "old") for b in ("apple", "zebra", "house", "king", "moon", "fish")]
    told = ByLetters()(said)
    job = Distilling(Letters(KNOWN, TINY), said[:20], told[:20], said[20:], told[20:])
    for _ in fit(Run(job, Training(steps=150, batch=16, rate=3e-3, widths=(0.1,), snapshots=0, bf16=False), tmp_path)):
        continue
    mean = torch.nn.functional.normalize(told[:20].mean(0), dim=0)
    assert job.validate() < 0.7 * float(1 - (told[20:] @ mean).mean())


def test_words_are_trained_from_a_run_to_a_file(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(wording, "MiniLM", ByLetters)
    preset = RECIPES["emoji-words"]
    training = replace(preset.training, **TRAINING)
    session = Session.open(replace(preset, data=str(drawn), words=TINY, phrases=60, wordnet="", training=training), tmp_path, False)
    assert all(np.isfinite(now.loss) for now in session)
    encoder = load_any(tmp_path / "model.safetensors").encoders["prompt"]
    assert {"cat", "kitty"} <= set(encoder.vocabulary)
    monkeypatch.setattr(ByLetters, "__call__", None)  # a run that goes on does not ask the teacher again
    Session.open(session.recipe, tmp_path, True)
    assert encoder.prompts(["blue apple"]).vector.shape == (1, 16)


def test_phrases_are_fixed_and_all_different(drawn, tmp_path):
    lines = "  a licence\n00000001 13 n 02 hot_dog 0 Frank 0 000 | food\n00000002 26 n 01 state 0 000 | not food\n"
    (tmp_path / "data.noun").write_text(lines)
    assert lemmas(tmp_path) == ["hot dog"]
    with pytest.raises(UserError, match="apt-get install wordnet-base"):
        lemmas(tmp_path / "nowhere")
    some = phrases(emoji(drawn), lemmas(tmp_path), ["house"], 80)
    assert some == phrases(emoji(drawn), lemmas(tmp_path), ["house"], 80) and len(set(some)) == len(some) == 80
    assert {"cat", "kitty", "hot dog", "house"} <= set(some) and "cat" in atoms(emoji(drawn))


# -- what is kept for judging


def test_two_hundred_prompts():
    asked = wishes()
    assert [sum(w.kind == kind for w in asked) for kind in ("name", "paraphrase", "combination")] == [100, 60, 40]
    assert len({w.text for w in asked}) == 200 and not HELD_OUT & set(PARAPHRASES.values())
    held = {word for label in HELD_OUT for word in label.split()}
    assert not any(held & set(text.split()) for text in COMBINATIONS)


def test_captions_do_not_say_what_is_judged():
    assert unsaid("pet, kitty, cat, noto style", "cat") == "pet, cat, noto style"
    assert unsaid("kitty, bunny", "cat") == "cat"


def test_what_is_judged_is_not_trained_on(drawn, pieces):
    train, held = recipe(drawn, pieces).split(emoji(drawn))
    assert {a["label"] for a in train.attributes} == {"cat", "flag: japan"} and {a["label"] for a in held.attributes} == {"fox"}
    rng = np.random.default_rng(0)
    assert "kitty" not in " ".join(train.caption(i, rng) for i in range(len(train)) for _ in range(20))
    assert sum(often(train.attributes)) == 8 * 3 + 8


# -- training


def test_the_emoji_recipe_trains_and_generates(drawn, pieces, tmp_path):
    session = Session.open(recipe(drawn, pieces), tmp_path, False)
    job = session.run.job
    assert isinstance(job, Aligned) and job.size == 32 and job.seen.shape == (16, 64, 432)
    assert all(np.isfinite(now.loss) for now in session)
    again = load_any(tmp_path / "model.safetensors")
    assert again.denoiser.net.config.context_dim == 32 and not any("project" in k for k in again.denoiser.state_dict())
    assert generate(again, "red apple", steps=2)[0].size == (64, 64)


def test_a_run_goes_on_bit_for_bit(drawn, pieces, tmp_path):
    whole = Session.open(recipe(drawn, pieces), tmp_path / "whole", False)
    list(whole)
    for now in (part := Session.open(recipe(drawn, pieces), tmp_path / "part", False)):
        part.run.stop = now.step == 1
    assert part.run.step == 1
    rest = Session.open(recipe(drawn, pieces), tmp_path / "part", True)
    list(rest)
    for name, tensor in whole.run.job.module.state_dict().items():
        assert torch.equal(tensor, rest.run.job.module.state_dict()[name]), name


def test_alignment_pulls_the_hidden_layer(drawn, pieces):
    """The loss is the sum of both, and the aligned block, not those behind it, hears of the second."""
    some = replace(recipe(drawn, pieces), align=1.0)
    job, plain = some.prepare(emoji(drawn))[1], replace(some, align=0.0).prepare(emoji(drawn))[1]
    index, key = np.arange(4), Key(0, 0)
    far = job.loss(index, key) - plain.loss(index, key)
    assert not isinstance(plain, Aligned) and bool((far > 0.5).all() and (far < 1.5).all())  # of what is not alike at all
    far.sum().backward()
    first, second = (next(block.down.parameters()).grad for block in job.denoiser.net.blocks)
    job.module.zero_grad()
    assert second is None or not second.any()
    assert first is not None
    with pytest.raises(UserError, match="no block 9"):
        replace(some, align_block=9).prepare(emoji(drawn))


def test_what_was_computed_is_kept_for_the_same_source_only():
    first, again, other = (kept("x", source, lambda k=k: torch.tensor([k])) for k, source in enumerate((b"a", b"a", b"b")))
    assert (first, again, other) == (0, 0, 2)


def test_other_pictures_are_refused(drawn, pieces):
    pictures = replace(emoji(drawn), attributes=None)
    with pytest.raises(UserError, match="reverie data emoji"):
        recipe(drawn, pieces).split(pictures)
    with pytest.raises(UserError, match="not the set of all emoji"):
        recipe(drawn, pieces).split(emoji(drawn).take([0, 3, 6]))


def test_places_see_where_something_is():
    """A black square in the upper left corner is seen there, and not in the lower right one."""
    plain = colours(6, 64)
    marked = plain.copy()
    marked[0, :, :16, :16] = 0
    seen = (features.places(np.concatenate([plain, marked[:1]]), 8)[[0, 6]]).float().unflatten(1, (8, 8))
    apart = (seen[0] - seen[1]).square().mean(-1)
    assert seen.shape == (2, 8, 8, 432) and apart[:2, :2].mean() > 4 * apart[-2:, -2:].mean()


# -- the judge


def test_contrast_is_the_cross_entropy_where_each_has_one_partner_and_least_where_several_agree():
    u, one = torch.eye(4), torch.eye(4, dtype=torch.bool)
    wanted = -torch.tensor(2.0).exp().div(torch.tensor(2.0).exp() + 3).log()
    torch.testing.assert_close(contrast(u, u, one, torch.tensor(0.5)), wanted.expand(4))
    both = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    same = both @ both.T > 0
    assert contrast(both, both, same, torch.tensor(0.01))[0] < contrast(both, both, one, torch.tensor(0.01))[0] + 1e-4
    assert contrast(both, both.flip(0), same, torch.tensor(0.1))[0] > 9  # told what it is not


def test_a_matcher_finds_what_it_has_never_seen(tmp_path):
    """Pictures are a turned copy of their sentences' vectors: 12 concepts teach the turn, and 4 others are found by it."""
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(44, 6), dim=1)
    seen = vectors @ torch.randn(6, 1280)
    matcher = Matcher("prompt", [f"thing {k}" for k in range(4)], hidden=32)
    sentences = [v[None] for v in vectors[:40]]
    job = Matching(matcher, seen[None, :40], np.arange(40), sentences, vectors[40:], seen[40:], np.arange(4))
    before = job.validate()
    for _ in fit(Run(job, Training(steps=150, batch=40, rate=3e-3, widths=(0.1,), snapshots=0, bf16=False), tmp_path)):
        continue
    matcher.eval()
    assert job.validate() == 0 < before


@pytest.fixture
def judge(drawn, tmp_path, monkeypatch):
    """The file of a judge trained for three steps."""
    monkeypatch.setattr("reverie.systems.emoji.reader.MiniLM", ByLetters)
    preset = replace(RECIPES["emoji-reader"], data=str(drawn), training=replace(RECIPES["emoji-reader"].training, **TRAINING))
    assert all(np.isfinite(now.loss) for now in Session.open(preset, tmp_path / "judge", False))
    return tmp_path / "judge" / "model.safetensors"


def test_the_judge_is_a_reader_of_prompts(judge, drawn):
    reader = open_reader(judge)
    assert reader.told.abs().sum() > 0 and len(reader.values["prompt"]) == 200
    told = reader.read(emoji(drawn).images[:3])
    assert all(t["prompt"] in reader.values["prompt"] for t in told)


def test_emoji_are_judged_by_retrieval(judge, drawn, pieces, tmp_path, monkeypatch):
    list(Session.open(recipe(drawn, pieces), tmp_path / "run", False))
    few = [Wish("fox", "fox", "name"), Wish("kitty", "cat", "paraphrase"), Wish("blue apple", "", "combination")]
    monkeypatch.setattr(judges, "wishes", lambda: few)
    monkeypatch.setattr(judges, "HELD_OUT", frozenset(["fox"]))
    monkeypatch.setattr(judges, "READERS", {"emoji": judge})
    monkeypatch.setattr(judges, "open_reader", lambda name: open_reader(judge))
    found = evaluate(load(tmp_path / "run" / "model.safetensors"), 10, steps=1, guidance=1.0)
    asked = {kind: sum(mark.asked.values()) for kind, mark in found.marks.items()}
    new, said, both = "concepts never trained on", "paraphrases", "new combinations"
    assert asked == {new: 1, f"{new}, in real pictures": 8, said: 1, f"{said}, in real pictures": 8, both: 1}
    assert found.rows[0].copies is not None and "R@1" in found.rows[0].note
    monkeypatch.setattr(judges, "READERS", {})
    assert "without the judge" in evaluate(load(tmp_path / "run" / "model.safetensors"), 10, steps=1).rows[0].note
