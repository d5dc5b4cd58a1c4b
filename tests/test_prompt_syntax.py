"""The syntax of prompts: what the signs mean, which text is heard when, and what of it an encoder cannot hear."""

import pytest
import torch
from published import clip, clip_words, t5, t5_words
from small import small_system

from reverie.denoiser import Cond, OneByOne
from reverie.encode import Classes, syntax
from reverie.encode.asked import notes, read
from reverie.encode.clip import Clip
from reverie.encode.syntax import Said, appended, composed, emphasis, extras, said, schedule, unbalanced
from reverie.encode.t5 import T5
from reverie.encode.weighted import weighted
from reverie.errors import UserError
from reverie.guide import cfg
from reverie.guide.composed import Composed
from reverie.guide.guidance import step_of
from reverie.guide.scheduled import Scheduled, heeding
from reverie.process import grids, schedules
from reverie.rng import Rng
from reverie.solve import named, sample, trace
from reverie.systems.flux.prompt import PromptFlux
from reverie.systems.sd3.prompt import PromptSD3
from reverie.systems.stable_diffusion.prompt import PromptXL

F64 = torch.float64
T3 = torch.tensor(0.3, dtype=F64)

SCHEDULES = {  # what A1111's own examples say, for ten steps
    "test": [(10, "test")],
    "a [b:3]": [(3, "a "), (10, "a b")],
    "a [b: 3]": [(3, "a "), (10, "a b")],
    "a [[[b]]:2]": [(2, "a "), (10, "a [[b]]")],
    "[(a:2):3]": [(3, ""), (10, "(a:2)")],
    "a [b : c : 1] d": [(1, "a b  d"), (10, "a  c  d")],
    "a[b:[c:d:2]:1]e": [(1, "abe"), (2, "ace"), (10, "ade")],
    "a [unbalanced": [(10, "a [unbalanced")],
    "a [b:.5] c": [(5, "a  c"), (10, "a b c")],
    "a [{b|d{:.5] c": [(5, "a  c"), (10, "a {b|d{ c")],
    "((a][:b:c [d:3]": [(3, "((a][:b:c "), (10, "((a][:b:c d")],
    "[a|(b:1.1)]": [(k, "a" if k % 2 else "(b:1.1)") for k in range(1, 11)],
    "[fe|]male": [(k, "female" if k % 2 else "male") for k in range(1, 11)],
    "[fe|||]male": [(k, "female" if k % 4 == 1 else "male") for k in range(1, 11)],
    "[a::3] b": [(3, "a b"), (10, " b")],
    "[a:b:1.0]": [(10, "a")],
    "[a:b:0]": [(10, "b")],
    "[a:b:25]": [(10, "a")],
    "[a:b]": [(10, "[a:b]")],
    r"\[a:b:3\]": [(10, r"\[a:b:3\]")],
    "at 10:30 (a|b) [c:d:2]": [(2, "at 10:30 (a|b) c"), (10, "at 10:30 (a|b) d")],
}


@pytest.mark.parametrize("prompt", SCHEDULES)
def test_schedules_are_those_of_a1111(prompt):
    assert schedule(prompt, 10) == SCHEDULES[prompt]


EMPHASES = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.5730000000000004),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641000000000006),
        (".", 1.1),
    ],
    "a (house:1.3) [on] a (hill:0.5), sun, (((sky)))": [
        ("a ", 1.0),
        ("house", 1.3),
        (" ", 1.0),
        ("on", 1 / 1.1),
        (" a ", 1.0),
        ("hill", 0.5),
        (", sun, ", 1.0),
        ("sky", 1.1 * 1.1 * 1.1),
    ],
    "a BREAK (b)": [("a", 1.0), ("BREAK", -1.0), ("b", 1.1)],
    "(a BREAK b)": [("a", 1.1), ("BREAK", -1.0), ("b", 1.1)],
    "BREAKING": [("BREAKING", 1.0)],
    r"a\\b": [("a\\b", 1.0)],
    "a) b]": [("a) b]", 1.0)],
    "()": [("", 1.0)],
    "(a:1.2.3)": [("a:1.2.3", 1.1)],
    "": [("", 1.0)],
}


@pytest.mark.parametrize("text", EMPHASES)
def test_weights_are_those_of_a1111(text):
    found = emphasis(text)
    assert [words for words, _ in found] == [words for words, _ in EMPHASES[text]]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in EMPHASES[text]], abs=1e-12)


def test_conjunctions_are_those_of_a1111():
    assert composed("a fox AND snow :0.5 AND SAND:-1.5") == [("a fox", 1.0), ("snow", 0.5), ("SAND", -1.5)]
    assert composed("a fox AND ") == [("a fox", 1.0), ("", 1.0)]
    assert composed("half past 10:30") == [("half past 10:30", 1.0)], "without AND there is no weight"
    assert (
        appended("a fox AND snow :0.5", ", ink") == "a fox, ink :1 AND snow, ink :0.5"
        and appended("b :0.00000012 AND c:12345678", "!") == "b! :0.00000012 AND c! :12345678"
        and appended("a fox", ", ink") == "a fox, ink"
    )


def test_files_are_taken_out():
    text, files = extras("a <lora:ink:0.8:0.5>fox <hypernet:old> at <3")
    assert text == "a fox  at <3"
    assert [(f.kind, f.name, f.weights, f.text) for f in files] == [
        ("lora", "ink", ("0.8", "0.5"), "<lora:ink:0.8:0.5>"),
        ("hypernet", "old", (), "<hypernet:old>"),
    ]


def test_brackets_without_another_half_are_named():
    assert unbalanced("a (b [c] d)") == unbalanced(r"a \(b") == []
    assert unbalanced("(a [b") == ["(", "["] and unbalanced("a) b] :1.3)") == [")", "]", ")"]


def test_words_with_weights_are_text_to_those_who_cannot_weigh():
    weighed = said("a (red:1.3) fox BREAK snow")
    assert isinstance(weighed, Said) and weighed.weighed and str.__eq__(weighed, "a red fox snow") and weighed.split()[1] == "red"
    assert (
        weighed != "a red fox snow"
        and weighed == said("a (red:1.3) fox BREAK snow")
        and weighed != said("a (red:1.2) fox BREAK snow")
    )
    assert len({weighed, "a red fox snow", said("a (red:1.3) fox BREAK snow")}) == 2
    assert type(said(r"a \(red\) fox")) is str and said(r"a \(red\) fox") == "a (red) fox"
    assert not said("a BREAK b").weighed


def test_no_prompt_is_too_odd():
    for odd in ("(" * 3000, "[" * 3000 + "]" * 3000, "[" * 3000, "a:b|" * 3000, "\\", "[:::]", "[|]", ":" * 5000 + ")" * 5000):
        assert emphasis(odd) and schedule(odd, 5)
    with pytest.raises(UserError, match="more than 50 changes"):
        schedule("[a:" * 60 + "b" + ":2]" * 60, 10)


# encoders


@pytest.fixture(scope="module")
def near():
    torch.manual_seed(0)
    return Clip(clip(24, projected=True), clip_words())


@torch.no_grad()
def test_clip_weighs_tokens_and_restores_the_mean(near):
    plain, pooled = near.read(["a fox, snow"])
    made, same = near.read([said("a (fox:1.5), snow")])
    assert torch.equal(pooled, same)
    weights = torch.ones(77)
    weights[2:5] = 1.5  # f, o and x, behind the mark of the beginning and a
    wanted = plain * weights[None, :, None]
    wanted = wanted * (plain.mean() / wanted.mean())
    torch.testing.assert_close(made, wanted)
    assert (made - plain).abs().max() > 1e-2
    assert torch.equal(near.read([said("a (fox:1.0), snow")])[0], plain)
    both = near.read([said("a (fox:1.5), snow"), "a fox, snow"])[0]
    torch.testing.assert_close(both, torch.cat([made, plain]))
    long = near.read([said("(" + " ".join("abcdefghij" * 8) + ":1.2) z")])[0]
    assert long.shape[1] == 2 * 77


@torch.no_grad()
def test_break_fills_a_chunk(near):
    made, pooled = near.read([said("a fox BREAK snow")])
    first, second = near.read(["a fox"]), near.read(["snow"])
    torch.testing.assert_close(made, torch.cat([first[0], second[0]], 1))
    torch.testing.assert_close(pooled, first[1])
    assert [len(c) for c in near.chunks(said("a fox BREAK"))] == [4] and [len(c) for c in near.chunks(said("BREAK a"))] == [0, 1]


def test_weights_that_restore_nothing_change_no_bit():
    tokens = torch.randn(2, 5, 3)
    weights = torch.ones(2, 5)
    assert torch.equal(weighted(tokens, weights), tokens)
    weights[1, 2] = 1.3
    made = weighted(tokens, weights)
    assert torch.equal(made[0], tokens[0]) and not torch.equal(made[1], tokens[1])
    torch.testing.assert_close(made.mean((1, 2)), tokens.mean((1, 2)))


def test_what_does_nothing_is_told(near):
    far = T5(t5(), t5_words(), length=40)
    prompt = "a (fox:1.3) BREAK snow"
    assert notes(near, prompt) == []
    assert "weights do nothing with this model, as 1.3 of 'fox'" in notes(far, prompt)[0] and "BREAK" in notes(far, prompt)[1]
    assert notes(PromptFlux(near, far), prompt) == notes(far, prompt)
    with torch.no_grad():
        one, other = (PromptFlux(near, far).prompts([text]) for text in (said(prompt), "a fox snow"))
    assert torch.equal(one.vector, other.vector) and torch.equal(one.tokens, other.tokens)
    assert notes(PromptSD3([near], far, width=24), prompt)[0] == "weights are heard by CLIP's half of this model, not by T5's"
    assert notes(PromptXL([near], size=(64, 64)), prompt) == [
        "of a prompt with BREAK, the vector of the whole is that of what stands before it"
    ]
    assert notes(near, "a fox) <lora:ink:1>") == [
        "'<lora:ink:1>' is not applied: files are named by --lora, or by the prompt of reverie generate",
        "')' closes nothing in 'a fox) ' and is read as a letter",
    ]
    assert "'(' is not closed" in notes(near, "a (fox")[0]
    assert "AND joins prompts" in notes(near, "a AND b", against=True)[0] and notes(near, "a AND b") == []
    assert "comes after the last of the 10 steps" in notes(near, "[a:b:30]", 10)[0] and notes(near, "[a:b:.3]", 10) == []
    assert notes(near, "a (fox <lora:a:1>", plain=True) == []


# conditions


class Hears:
    """An encoder whose condition of a text is the number of its letters, and of a negative one less 100."""

    weighs = True

    def prompts(self, texts, size=None):
        return Cond(vector=torch.tensor([[float(len(t))] for t in texts], dtype=F64))

    def against(self, texts, size=None):
        return Cond(vector=self.prompts(texts).vector - 100)

    def empty(self, count):
        return self.against([""] * count)

    def notes(self, prompt):
        return []


class Linear:
    """x0 = (1 - t) x + the condition; it keeps what it was told."""

    def __init__(self):
        self.path, self.told = schedules.flow(), []

    def __call__(self, x, t, cond=None):
        self.told.append((float(torch.as_tensor(t).flatten()[0]), cond.vector.flatten().tolist()))
        t = torch.as_tensor(t, dtype=F64).expand(len(x)).reshape(-1, 1, 1, 1)
        return (1 - t) * x + cond.vector[:, :, None, None]

    def with_variance(self, x, t, cond=None):
        mean = self(x, t, cond)
        return mean, cond.vector[:, :, None, None].expand_as(x) / 10


X = Rng.of(0, 3, dtype=F64).normal((3, 1, 4, 4))
GRID = grids.uniform()(schedules.flow(), 10)


def test_a_prompt_without_signs_is_the_plain_condition_of_its_encoder():
    cond = read(Hears(), ["a fox", "snow"], steps=10)
    assert cond.parts is None and torch.equal(cond.vector, torch.tensor([[5.0], [4.0]], dtype=F64))
    signs = read(Hears(), ["[a:b:3] AND (c)"], steps=10, plain=True)
    assert signs.parts is None and signs.vector.item() == 15
    assert read(Hears(), ["[a:b:3] AND c"], steps=10, against=True).parts is not None
    assert read(Hears(), ["a AND c"], against=True).parts is None


def test_names_of_classes_are_no_syntax_and_their_schedules_are():
    torch.manual_seed(0)
    encoder = Classes(["drum (kit)", "boot"], 4)
    assert torch.equal(read(encoder, ["drum (kit)"], steps=4).vector, encoder.prompts(["drum (kit)"]).vector)
    assert read(encoder, [1]).parts is None and notes(encoder, "drum (kit)") == []
    changing = read(encoder, ["[drum (kit):boot:1]"], steps=4)
    assert torch.equal(changing.parts[0].vector, encoder.prompts(["drum (kit)"]).vector)
    joined = read(encoder, ["boot AND boot :0.5"], negative=[0])
    assert torch.equal(joined.parts[1].vector, encoder.prompts([0]).vector) and joined.shares.tolist() == [[[1.5, -0.5]]]
    assert changing.shares.tolist() == [[[1, 0], [0, 1], [0, 1], [0, 1]]] and notes(encoder, "[drum (kit):boot:1]", 4) == []


def test_the_step_of_a_time_is_the_one_it_lies_in():
    grid = torch.tensor([1.0, 0.6, 0.5, 0.0], dtype=F64)
    times = torch.tensor([1.0, 0.8, 0.6000001, 0.6 + 1e-12, 0.6, 0.55, 0.5, 0.2, 0.0], dtype=F64)
    assert step_of(grid, times).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert step_of(grid[[0, 3]], torch.tensor([1.0, 0.5, 0.0], dtype=F64)).tolist() == [0, 0, 0]


def test_a_schedule_is_heard_at_its_steps():
    model = Linear()
    cond = read(Hears(), ["[a:four:3]"], steps=10)
    for _ in trace(heeding(model, GRID), X[:1], GRID, named("ddim")[0], cond=cond):
        pass
    assert [told for _, told in model.told] == [[1.0]] * 3 + [[4.0]] * 7
    turns = Linear()
    for _ in trace(heeding(turns, GRID), X[:1], GRID, named("ddim")[0], cond=read(Hears(), ["[a|bb|ccc]"], steps=10)):
        pass
    assert [told for _, told in turns.told] == [[1.0 + k % 3] for k in range(10)]


def test_prompts_of_a_batch_have_schedules_of_their_own_and_rows_of_a_batch_may_stand_at_other_times():
    cond = read(Hears(), ["[a:four:3]", "xx", "[b|ccc]"], steps=10)
    t = torch.tensor([0.95, 0.5, 0.75], dtype=F64)  # steps 0, 5 and 2
    out = heeding(Linear(), GRID)(X, t, cond)
    assert torch.equal(out, Linear()(X, t, Cond(vector=torch.tensor([[1.0], [2.0], [1.0]], dtype=F64))))
    for k in range(3):
        alone = heeding(Linear(), GRID)(X[k : k + 1], t[k : k + 1], cond[k : k + 1])
        assert torch.equal(alone, out[k : k + 1])
    assert torch.equal(OneByOne(heeding(Linear(), GRID))(X, t, cond), out)
    assert torch.equal(heeding(OneByOne(Linear()), GRID)(X, t, cond), out)
    with pytest.raises(ValueError, match="a condition of 10 steps on a grid of 5"):
        heeding(Linear(), GRID[::2])(X, t, cond)
    with pytest.raises(ValueError, match="Scheduled, around this"):
        Composed(Linear())(X, t, cond)


@pytest.mark.parametrize("t", [T3, torch.tensor([0.15, 0.55, 0.95], dtype=F64)])
@pytest.mark.parametrize("w", [0.0, 1.0, 4.0])
def test_conjunction_is_u_plus_the_sum_of_weighted_differences_and_guidance_scales_it(w, t):
    texts = ["a AND four :0.5", "a", "a AND bb :-2 AND [ccc|dddd]"]
    against = ["", "[e:ee:5]", "[e:ee:5]"]
    cond = read(Hears(), texts, steps=10, negative=against)
    no = read(Hears(), against, steps=10, against=True)
    model = Linear()
    out = cfg(heeding(model, GRID), w, no)(X, t, cond)
    assert len(model.told) == 1, "one batch"

    k = step_of(GRID, t.expand(3))
    plain = Linear()

    def at(*values):
        return plain(X, t, Cond(vector=torch.tensor(values, dtype=F64)[:, None]))

    u = at(-100.0, *(-99.0 if k[i] < 5 else -98.0 for i in (1, 2)))
    first, second = at(1.0, 1.0, 1.0), at(4.0, 0.0, 2.0)
    third = at(0.0, 0.0, 3.0 if k[2] % 2 == 0 else 4.0)
    like = torch.tensor
    weights = [like(v, dtype=F64).reshape(3, 1, 1, 1) for v in ([1.0, 1, 1], [0.5, 0, -2], [0.0, 0, 1])]
    c = u + sum(a * (each - u) for a, each in zip(weights, (first, second, third), strict=True))
    torch.testing.assert_close(out, u + w * (c - u), atol=1e-11, rtol=0)


def test_weights_that_add_up_to_one_need_no_negative_prompt():
    model = Linear()
    cond = read(Hears(), ["a AND four :0.25 AND b :-0.25"])
    assert len(cond.parts) == 3
    out = Composed(model)(X[:1], T3, cond)
    assert model.told[0][1] == [1.0, 4.0, 1.0]
    torch.testing.assert_close(out, Linear()(X[:1], T3, Cond(vector=torch.tensor([[1.75]], dtype=F64))))


def test_the_same_text_is_evaluated_once():
    model = Linear()
    out = Composed(model)(X[:1], T3, read(Hears(), ["a AND a"]))
    assert model.told[0][1] == [1.0, -100.0]
    torch.testing.assert_close(out, 0.7 * X[:1] + 102)


def test_means_and_variances_go_together():
    cond = read(Hears(), ["[a:four:3]", "a AND four", "a"], steps=10)
    told = heeding(Linear(), GRID)
    mean, variance = told.with_variance(X, T3, cond)
    assert torch.equal(mean, told(X, T3, cond))
    torch.testing.assert_close(variance[:, 0, 0, 0], torch.tensor([0.4, 0.25, 0.1], dtype=F64))
    mean, variance = cfg(told, 2.0, read(Hears(), [""] * 3, against=True)).with_variance(X, T3, cond)
    torch.testing.assert_close(variance[:, 0, 0, 0], torch.tensor([0.4, 0.25, 0.1], dtype=F64))


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "heun", "unipc", "dpmpp-3m-sde", "dpmpp-2s"])
def test_every_kind_of_solver_hears_a_schedule(name):
    """Two halves of a way are those of two prompts, and a prompt that changes to itself is the plain one."""
    solver = named(name)[0]
    same = read(Hears(), ["[aa|bb]"] * 3, steps=10)

    def drawn(model, cond):
        return sample(model, X, GRID, solver, cond=cond, rng=Rng.of(1, 3, dtype=F64))

    assert torch.equal(drawn(heeding(Linear(), GRID), same), drawn(Linear(), Cond(vector=torch.full((3, 1), 2.0, dtype=F64))))
    changed = Linear()
    drawn(heeding(changed, GRID), read(Hears(), ["[aa:bbb:5]"] * 3, steps=10))
    for t, told in changed.told:
        assert told == [2.0 if t > GRID[5] * (1 + 1e-9) else 3.0] * 3, t


@torch.no_grad()
def test_a_real_net_hears_what_its_step_says():
    """A U-Net with tokens, masks and vectors: a schedule's step is bit for bit its text."""
    system = small_system()
    encoder, model = system.prompt_encoder, system.denoiser
    grid = grids.uniform()(model.path, 4)
    x = torch.randn(1, 3, 16, 16)
    cond = read(encoder, ["a [man:bald man:2] with hair"], steps=4)
    told = heeding(model, grid)
    for t, text in ((0.9, "a man with hair"), (0.5, "a bald man with hair"), (0.2, "a bald man with hair")):
        assert torch.equal(told(x, torch.tensor(t), cond), model(x, torch.tensor(t), encoder.prompts([text])))
    no = read(encoder, ["[red|bald]"], steps=4, against=True)
    out = cfg(told, 3.0, no)(x, torch.tensor(0.9), cond)
    wanted = cfg(model, 3.0, encoder.prompts(["red"]))(x, torch.tensor(0.9), encoder.prompts(["a man with hair"]))
    torch.testing.assert_close(out, wanted)
    with pytest.raises(ValueError, match="parts and shares in the condition of a net without an adapter"):
        model(x, torch.tensor(0.9), cond)


def test_a_prompt_of_too_many_texts_is_an_error():
    with pytest.raises(UserError, match="is 80 prompts on the way, and at most 64"):
        read(Hears(), ["[" + "|".join(f"a{k}" for k in range(80)) + "]"], steps=100)
    assert isinstance(heeding(Linear(), GRID), Scheduled) and syntax.UP == 1.1
