"""Pictures that follow others: the attention of a source, the words in place of its own, and one word more or less."""

import pytest
import torch
from small import WORDS, small_system
from test_generate import pixels
from test_sum import opened

from reverie.denoiser import Cond, Denoiser
from reverie.encode.pieces import pieces, places
from reverie.errors import UserError
from reverie.guide.following import PLAIN, SOURCE, Following, aligned
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import rules, schedules
from reverie.systems.shipped import open_model
from reverie.tasks import Edit, generate
from reverie.tasks.follow import Follow

SYSTEM = small_system()
GRID = torch.tensor([1.0, 0.6, 0.3, 0.0], dtype=torch.float64)
NETS = {
    "unet": lambda: UNet(
        UNetConfig(in_channels=4, out_channels=4, channels=16, mult=(1, 2), blocks=1, groups=8, head_width=8, context_dim=12)
    ),
    "dit": lambda: DiT(DiTConfig(in_channels=4, width=32, context_dim=12, size=8, depth=2, heads=2, learn_sigma=False)),
    "mmdit": lambda: MMDiT(MMDiTConfig(in_channels=4, width=32, context_dim=12, heads=2, depth=2, size=4, table=4)),
}


@pytest.fixture(params=NETS)
def model(request):
    torch.manual_seed(0)
    net = NETS[request.param]()
    for part in net.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    return Denoiser(net.eval().requires_grad_(False), schedules.flow(), rules.velocity())


def test_words_stand_for_the_words_they_replace():
    assert aligned(["a", "red", "cat", "on", "grass"], ["a", "blue", "cat", "on", "grass"]) == [0, 1, 2, 3, 4]
    assert aligned(["a", "cat"], ["a", "fluffy", "white", "cat"]) == [0, -1, -1, 1]
    assert aligned(["a", "fluffy", "white", "cat"], ["a", "cat"]) == [0, 3]
    assert aligned(["a", "cat"], ["a", "big", "dog"]) == [0, 1, 1], "one word for two: both look where it looked"
    assert aligned([], ["a"]) == [-1] and aligned(["a"], []) == []


def both(model, tokens, echo, stress=None, t=0.9, **shares):
    """(of the source, of what follows, of each alone); tokens (2, L, D): theirs."""
    torch.manual_seed(1)
    x = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1)
    length = tokens.shape[1]
    echo = torch.stack([torch.full((length,), SOURCE), torch.tensor(echo)])
    stress = torch.ones(2, length) if stress is None else torch.stack([torch.ones(length), torch.tensor(stress)])
    follow = Following(model, GRID, **{"cross": 1.0, "own": 1.0} | shares)
    made = follow(x, torch.tensor(t), Cond(tokens=tokens, echo=echo, stress=stress))
    return made[0], made[1], model(x, torch.tensor(t), Cond(tokens=tokens))


def test_the_source_is_as_it_is_alone_and_the_same_words_draw_the_same(model):
    tokens = torch.randn(1, 5, 12).repeat(2, 1, 1)
    source, follows, alone = both(model, tokens, list(range(5)))
    assert torch.equal(source, alone[0])
    torch.testing.assert_close(follows, alone[1], atol=2e-5, rtol=1e-4)


def test_what_follows_is_nearer_to_the_source_and_still_its_own(model):
    torch.manual_seed(2)
    tokens = torch.randn(2, 5, 12)
    source, follows, alone = both(model, tokens, list(range(5)))
    assert (follows - alone[1]).abs().max() > 1e-3 and (follows - source).abs().max() > 1e-4
    _, free, _ = both(model, tokens, [-1] * 5, own=0.0)
    torch.testing.assert_close(free, alone[1], atol=2e-5, rtol=1e-4)
    for part in ({"cross": 0.0}, {"own": 0.0}):
        _, some, _ = both(model, tokens, list(range(5)), **part)
        assert (some - follows).abs().max() > 1e-5 and (some - alone[1]).abs().max() > 1e-5


def test_shares_of_the_way_end(model):
    torch.manual_seed(2)
    tokens = torch.randn(2, 5, 12)
    early = both(model, tokens, list(range(5)), t=1.0, cross=0.5, own=0.3)
    assert (early[1] - early[2][1]).abs().max() > 1e-4
    late = both(model, tokens, list(range(5)), t=0.3, cross=0.5, own=0.3)
    torch.testing.assert_close(late[1], late[2][1], atol=2e-5, rtol=1e-4)


def test_stress_weighs_one_token_for_the_whole_way(model):
    torch.manual_seed(2)
    tokens = torch.randn(1, 5, 12).repeat(2, 1, 1)
    moved = [
        (both(model, tokens, list(range(5)), [1.0, 1.0, w, 1.0, 1.0], t=0.1, cross=0.2, own=0.2)[1]).clone()
        for w in (1.0, 2.0, 4.0)
    ]
    gaps = [float((m - moved[0]).abs().mean()) for m in moved[1:]]
    assert 0 < gaps[0] < gaps[1]


def test_rows_that_do_not_belong_together_are_plain_or_an_error(model):
    torch.manual_seed(2)
    tokens, x, t = torch.randn(2, 5, 12), torch.randn(2, 4, 8, 8), torch.tensor(0.9)
    ones = torch.ones(2, 5)
    follow = Following(model, GRID)
    plain = Cond(tokens=tokens, echo=torch.full((2, 5), PLAIN), stress=ones)
    assert torch.equal(follow(x, t, plain), model(x, t, Cond(tokens=tokens)))
    lonely = Cond(tokens=tokens, echo=torch.tensor([[PLAIN] * 5, [0] * 5]), stress=ones)
    with pytest.raises(UserError, match="leave out strict"):
        follow(x, t, lonely)
    with pytest.raises(UserError, match=r"cross is 1\.5"):
        Following(model, GRID, cross=1.5)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux-dev", "pixart", "sana"])
def test_every_row_of_tokens_stands_for_something(name, tmp_path):
    encoder = opened(name, tmp_path).prompt_encoder
    prompt = "a red fox, 2 hats"
    rows = pieces(encoder, prompt)
    assert len(rows) == encoder.prompts([prompt], (32, 32)).tokens.shape[1]
    fox = places(encoder, "fox", prompt)
    assert fox and not set(fox) & set(places(encoder, "hats", prompt)) and places(encoder, "dog", prompt) == []
    assert [rows[i] for i in fox] == [piece for piece in pieces(encoder, "fox") if piece not in pieces(encoder, "")]


def drawn(prompt, *tasks, **settings):
    return pixels(generate(SYSTEM, prompt, tasks=tasks, **{"seed": 3, "steps": 3, "count": 2} | settings))


def test_the_task():
    same = drawn("a man with red hair", Follow("a man with red hair", cross=1.0, own=1.0))
    assert abs(same - drawn("a man with red hair")).max() <= 1
    plain, follows = drawn("a bald man"), drawn("a bald man", Follow("a man with red hair", cross=1.0, own=1.0))
    assert abs(follows - plain).max() > 1
    stressed = drawn("a man with red hair", Follow("a man with red hair", stress={"red": 3.0}))
    assert abs(stressed - same).max() > 1
    assert (drawn("a bald man", Follow("a man"), batch=1) == drawn("a bald man", Follow("a man"))).all()


def test_what_the_task_cannot_do_is_said():
    assert "hat" not in WORDS
    for prompt, task, said in (
        ("a man", [Follow("a man", stress={"red": 2.0})], "'red' is not in the prompt"),
        ("a [man:red:0.5]", [Follow("a man")], "one prompt, for all of it and all of the way"),
    ):
        with pytest.raises(UserError, match=said):
            drawn(prompt, *task)
    with pytest.raises(UserError, match="leave out strict"):
        drawn("a man", Follow("a man"), strict=True)
    with pytest.raises(UserError, match=r"cross is 2\.0"):
        Follow("a man", cross=2.0)
    with pytest.raises(UserError, match="the stress of 'red' is 1000"):
        Follow("red", stress={"red": 1000.0})


def test_a_mask_after_it_keeps_what_is_black():
    from test_editing import box, photo

    made = drawn("a bald man", Follow("a man"), Edit(photo(), 1.0, box()))
    assert (made[:, :4] == pixels([photo()])[:, :4]).all()


def test_of_words_that_are_one_vector_the_picture_alone_is_followed():
    system = open_model("reverie-avatars")
    one, two = (generate(system, "a bald man", tasks=tasks, steps=2, seed=1) for tasks in ([Follow("a woman with a bob")], []))
    assert (pixels(one) != pixels(two)).any()
    with pytest.raises(UserError, match="hears its prompt as one vector, of which no word can be stressed"):
        generate(system, "a bald man", tasks=[Follow(stress={"bald": 2})], steps=1)
