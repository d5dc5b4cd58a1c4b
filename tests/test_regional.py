"""Prompts of regions, by attention and by composition, in every family of nets."""

import pytest
import torch
from small import small_system

import reverie
from reverie.denoiser import Cond, Denoiser, OneByOne
from reverie.encode.asked import read
from reverie.errors import UserError
from reverie.guide import cfg
from reverie.guide.composed import Composed
from reverie.guide.regional import Look, Regional, attending, composing, sides
from reverie.guide.scheduled import heeding
from reverie.nets import looking
from reverie.nets.dit import DiT, DiTConfig
from reverie.nets.mmdit import MMDiT, MMDiTConfig
from reverie.nets.pixart import PixArt, PixArtConfig
from reverie.nets.sana import Sana, SanaConfig
from reverie.nets.unet import UNet, UNetConfig
from reverie.process import grids, rules, schedules
from reverie.rng import Rng
from reverie.solve import named, sample

WIDE = {"in_channels": 4, "width": 32, "context_dim": 12}
NETS = {
    "unet": lambda: UNet(
        UNetConfig(in_channels=4, out_channels=4, channels=16, mult=(1, 2), blocks=1, groups=8, head_width=8, context_dim=12)
    ),
    "dit": lambda: DiT(DiTConfig(**WIDE, size=8, depth=2, heads=2, learn_sigma=False)),
    "sd3": lambda: MMDiT(MMDiTConfig(**WIDE, heads=2, depth=2, size=4, table=8, dual=1)),
    "flux": lambda: MMDiT(MMDiTConfig(**WIDE, heads=2, depth=1, single=2, axes=(4, 6, 6), packed=True)),
    "pixart": lambda: PixArt(PixArtConfig(**WIDE, depth=2, heads=2, sizes=False, learn_sigma=False)),
    "sana": lambda: Sana(SanaConfig(**WIDE, depth=2, heads=2, cross_heads=2)),
}
T = torch.tensor(0.5)
HALVES = torch.zeros(2, 8, 8)
HALVES[0, :, :4] = HALVES[1, :, 4:] = 1
ALL = torch.ones(1, 8, 8)


def words(seed, length=5, rows=2):
    return Cond(tokens=torch.randn(rows, length, 12, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(params=NETS)
def made(request):
    """(name, denoiser) of a net in which nothing starts at zero."""
    torch.manual_seed(0)
    net = NETS[request.param]()
    for part in net.parameters():
        if not part.any():
            torch.nn.init.normal_(part, std=0.1)
    return request.param, Denoiser(net.eval().requires_grad_(False), schedules.flow(), rules.velocity())


X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def answers(model, x, cond):
    """What the attention at each site that sees text answers to the picture: (B, heads, places, E)."""
    out = []

    def look(site, attend, q, k, v, mask):
        y = attend(q, k, v, mask)
        if site.kind != "self":
            out.append(y[:, :, site.text :])
        return y

    inner = model.model

    class Seen:
        path = inner.path

        def __call__(self, x, t, cond=None):
            with looking.looking(look):  # asked last, so that it sees what the regions made of it
                return inner(x, t, cond)

    seen = Regional(Seen(), model.ratio)
    # the look of the regions is named first, and so is asked by this one
    seen(x, T, cond)
    return out


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_one_region_of_everything_is_the_plain_prompt(made, ratio):
    _, model = made
    plain = model(X, T, words(1))
    out = Regional(model, ratio)(X, T, attending(words(1), [words(1)], ALL))
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-4)
    if ratio == 0:  # then it does not matter what is said of the whole
        torch.testing.assert_close(Regional(model)(X, T, attending(words(7, 3), [words(1)], ALL)), plain, atol=1e-5, rtol=1e-4)
    else:
        assert (Regional(model, ratio)(X, T, attending(words(7, 3), [words(1)], ALL)) - plain).abs().max() > 1e-4


def test_without_regions_it_is_the_model_itself(made):
    _, model = made
    assert torch.equal(Regional(model, 0.3)(X, T, words(1)), model(X, T, words(1)))
    with pytest.raises(ValueError, match="regions and owners in the condition of a net without an adapter"):
        model(X, T, attending(words(1), [words(2)], ALL))


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_a_prompt_reaches_its_own_region_alone(made, ratio):
    """The answers of the first attention: other words of one half change every place there and not a bit of the other half."""
    name, model = made
    told = Regional(model, ratio)
    one = answers(told, X, attending(words(1), [words(2), words(3)], HALVES))[0]
    for left, right in ((4, 3), (2, 4)):
        other = answers(told, X, attending(words(1), [words(left), words(right)], HALVES))[0]
        change = (one - other).abs().amax((0, 1, 3))
        side = int(len(change) ** 0.5)
        halves = change.reshape(side, side).split(side // 2, 1)
        own, foreign = halves if left == 4 else halves[::-1]
        assert bool((foreign == 0).all()) and bool((own > 1e-5).all()), name
    whole = answers(told, X, attending(words(9), [words(2), words(3)], HALVES))[0]
    assert torch.equal(whole, one) == (ratio == 0), "the prompt of the whole is heard by its ratio alone"


def test_text_of_a_region_sees_its_own_places_alone():
    """Joint attention: what the text of the left is answered does not depend on the right half of the picture, nor on its text."""
    torch.manual_seed(0)
    look = Look(HALVES.expand(1, -1, -1, -1), torch.tensor([[0, 0, 1, 1, 2, 2]]), (8, 8), 0.0)
    q, k, v = torch.randn(3, 1, 2, 6 + 16, 4)
    site = looking.Site(0, "joint", 6)

    def attend(q, k, v, mask):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    y = look(site, attend, q, k, v, None)
    right = torch.zeros(6 + 16, dtype=torch.bool)
    right[4:6] = True
    right[6:] = (torch.arange(16) % 4) >= 2
    changed = torch.where(right[:, None], torch.randn_like(v), v)
    again = look(site, attend, q, torch.where(right[:, None], k + 1, k), changed, None)
    assert torch.equal(again[:, :, 2:4], y[:, :, 2:4])
    assert not torch.equal(again[:, :, 4:6], y[:, :, 4:6]) and not torch.equal(again[:, :, 0:2], y[:, :, 0:2])
    assert not torch.equal(again[:, :, 6:], y[:, :, 6:]), "the picture looks at itself everywhere"


def test_the_ratio_mixes_the_answers_of_the_whole_and_of_the_regions():
    """Equation (1), at a cross-attention, with places in one region, in two, and in none."""
    torch.manual_seed(0)
    masks = torch.zeros(1, 2, 2, 2)
    masks[0, 0, 0] = 1  # the upper half
    masks[0, 1, :, 0] = 1  # the left half: the corner lies in both, the last place in none
    owners = torch.tensor([[0, 0, 1, 2, 2]])
    q, k, v = torch.randn(1, 1, 4, 3), torch.randn(1, 1, 5, 3), torch.randn(1, 1, 5, 3)

    def attend(q, k, v, mask):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    y = Look(masks, owners, (2, 2), 0.25)(looking.Site(0, "cross"), attend, q, k, v, None)
    for place, region in enumerate(([2, 3, 4], [2], [3, 4], [0, 1])):
        near, far = (looking.weights(q[:, :, place : place + 1], k[:, :, own]) @ v[:, :, own] for own in (region, [0, 1]))
        torch.testing.assert_close(y[:, :, place : place + 1], 0.25 * far + 0.75 * near)


def test_small_regions_do_not_vanish_where_places_are_few():
    masks = torch.zeros(1, 2, 8, 8)
    masks[0, 0, 1, 1] = 1  # one of 64
    masks[0, 1, :, 3:] = 1  # five columns of eight
    look = Look(masks, torch.zeros(1, 1, dtype=torch.int64), (8, 8), 0.0)
    assert look.belongs(16).reshape(1, 2, 4, 4)[0].tolist() == [
        [[True, False, False, False], *[[False] * 4] * 3],
        [[False, True, True, True]] * 4,
    ]
    assert look.belongs(4).reshape(1, 2, 2, 2)[0, 1].tolist() == [[False, True]] * 2, "a quarter is not half"
    assert not Look(torch.zeros(1, 1, 8, 8), look.owners, (8, 8), 0.0).belongs(16).any(), "no region, as of a negative prompt"


@pytest.mark.parametrize(
    ("places", "size", "found"), [(16, (8, 8), (4, 4)), (24, (48, 32), (6, 4)), (24, (32, 48), (4, 6)), (7, (7, 1), (7, 1))]
)
def test_places_have_the_shape_of_the_picture(places, size, found):
    assert sides(places, size) == found


def test_pictures_that_are_not_square(made):
    _, model = made
    x, left = X[:, :, :4], HALVES[:, :4]
    one, other = (answers(Regional(model), x, attending(words(1), [words(k), words(3)], left))[0] for k in (2, 4))
    change = (one - other).abs().amax((0, 1, 3))
    change = change.reshape(sides(len(change), (4, 8)))
    half = change.shape[1] // 2
    assert change.shape[1] == 2 * change.shape[0] and bool((change[:, half:] == 0).all()) and bool((change[:, :half] > 0).all())


def test_prompts_of_other_lengths_and_with_masks(made):
    name, model = made
    long = words(1, 7)
    short = Cond(tokens=words(2, 3).tokens, mask=torch.tensor([[True, True, False]] * 2))
    if name in ("unet", "dit", "pixart", "sana", "sd3", "flux"):
        cond = attending(long, [short], ALL)
        assert cond.tokens.shape[1] == 10 and cond.mask.sum(1).tolist() == [9, 9] and cond.owners[0].tolist() == [0] * 7 + [1] * 3
        torch.testing.assert_close(Regional(model)(X, T, cond), model(X, T, short), atol=1e-5, rtol=1e-4)


def test_guidance_doubles_regions_and_rows_are_alone_what_they_are_in_a_batch(made):
    _, model = made
    cond = attending(words(1), [words(2), words(3)], HALVES)
    told, c = Regional(model, 0.2), Regional(model, 0.2)(X, T, cond)
    for no in (words(8, 4), words(8, 20)):
        out, u = cfg(told, 3.0, no)(X, T, cond), model(X, T, no)
        torch.testing.assert_close(out, u + 3 * (c - u), atol=1e-4, rtol=1e-4)
    each = torch.cat([told(X[k : k + 1], T, cond[k : k + 1]) for k in range(2)])
    torch.testing.assert_close(each, c, atol=1e-5, rtol=1e-4)
    assert torch.equal(OneByOne(told)(X, T, cond), each)


# composition


@pytest.mark.parametrize("ratio", [0.0, 0.4])
def test_composition_is_the_weighted_sum_of_estimates(made, ratio):
    _, model = made
    base, left, right = words(1), words(2), words(3)
    masks = torch.zeros(2, 8, 8)
    masks[0, :, :4] = masks[1, :, 2:6] = 1  # they overlap, and leave out the last two columns
    masks[1, :, 5] = 0.5
    out = Composed(model)(X, T, composing(base, [left, right], masks, ratio))
    b, first, second = (model(X, T, c) for c in (base, left, right))
    near = torch.cat([first[..., :2], (first + second)[..., 2:4] / 2, second[..., 4:5], (second + b)[..., 5:6] / 2, b[..., 6:]], -1)
    torch.testing.assert_close(out, ratio * b + (1 - ratio) * near, atol=1e-5, rtol=1e-4)


def test_one_region_of_everything_is_the_plain_prompt_to_the_last_bit(made):
    _, model = made
    calls = []

    class Counted:
        path = model.path

        def __call__(self, x, t, cond=None):
            calls.append(len(x))
            return model(x, t, cond)

    out = Composed(Counted())(X, T, composing(words(7), [words(1)], ALL))
    assert torch.equal(out, model(X, T, words(1))) and calls == [2], "what has no place is not evaluated"


def test_the_other_half_does_not_change_by_a_bit(made):
    _, model = made
    one, other = (Composed(model)(X, T, composing(words(1), [words(k), words(3)], HALVES)) for k in (2, 4))
    assert torch.equal(one[..., 4:], other[..., 4:]) and bool((one != other)[..., :4].any())


def test_masks_of_pixels_are_averaged_in_latents(made):
    _, model = made
    fine = HALVES.repeat_interleave(4, 1).repeat_interleave(4, 2)
    one, other = (Composed(model)(X, T, composing(words(1), [words(2), words(3)], masks)) for masks in (HALVES, fine))
    assert torch.equal(one, other)
    one, other = (Regional(model)(X, T, attending(words(1), [words(2), words(3)], masks)) for masks in (HALVES, fine))
    assert torch.equal(one, other)


def test_regions_change_on_the_way_and_hold_conjunctions():
    torch.manual_seed(0)
    system = small_system()
    encoder, model = system.prompt_encoder, system.denoiser
    x, halves = torch.randn(1, 3, 16, 16), HALVES.repeat_interleave(2, 1).repeat_interleave(2, 2)
    grid = grids.uniform()(model.path, 4)
    with torch.no_grad():
        base, left, right = (read(encoder, [text], steps=4) for text in ("a man", "[red hair:bald:2]", "a AND hair"))
        cond = composing(base, [left, right], halves)
        for t, text in ((0.9, "red hair"), (0.2, "bald")):
            out = heeding(model, grid)(x, torch.tensor(t), cond)
            a, b, c, u = (model(x, torch.tensor(t), encoder.prompts([p])) for p in (text, "a", "hair", ""))
            torch.testing.assert_close(out, torch.cat([a[..., :8], (b + c - u)[..., 8:]], -1), atol=1e-5, rtol=1e-4)
        guided = cfg(heeding(model, grid), 3.0, encoder.empty(1))
        drawn = sample(guided, x, grid, named("dpmpp-2m")[0], cond=cond, rng=Rng.of(0, 1))
        assert drawn.isfinite().all()


def test_the_shipped_model_hears_regions_by_composition_alone():
    """It hears a vector: other words on the left leave the estimate of the right to the last bit."""
    system = reverie.load("reverie-avatars")
    model, side = system.denoiser, system.codec.shape(*system.defaults.size)[-1]
    halves = torch.zeros(2, side, side)
    halves[0, :, : side // 2] = halves[1, :, side // 2 :] = 1
    x = torch.randn(1, *system.codec.shape(*system.defaults.size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        base, right, *left = (read(system.prompt_encoder, [p]) for p in ("a man", "blue hair", "red hair", "a bald man"))
        one, other = (Composed(model)(x, T, composing(base, [each, right], halves, 0.3)) for each in left)
        assert torch.equal(one[..., side // 2 :], other[..., side // 2 :]) and not torch.equal(one, other)
        with pytest.raises(UserError, match=r"as one vector.*by composition"):
            attending(base, [right], torch.ones(1, 8, 8))


def test_regions_that_are_none_are_errors():
    base = words(1)
    for how in (attending, composing):
        with pytest.raises(UserError, match="2 prompts of regions and 1 masks"):
            how(base, [words(2), words(3)], ALL)
        with pytest.raises(UserError, match="the mask of region 2 is empty"):
            how(base, [words(2), words(3)], torch.cat([ALL, 0 * ALL]))
        with pytest.raises(UserError, match="outside 0 to 1"):
            how(base, [words(2)], 255 * ALL)
        with pytest.raises(UserError, match="outside 0 to 1"):
            how(base, [words(2)], float("nan") * ALL)
    for ratio in (1.0, -0.1, float("nan")):
        with pytest.raises(UserError, match="share of the whole picture's prompt"):
            composing(base, [words(2)], ALL, ratio)
        with pytest.raises(UserError, match="share of the whole picture's prompt"):
            Regional(None, ratio)
    with pytest.raises(UserError, match="cannot change on the way"):
        attending(base, [composing(base, [words(2)], ALL)], ALL)
