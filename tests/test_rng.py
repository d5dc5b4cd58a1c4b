"""Streams: the same numbers everywhere and always."""

import hashlib
import math

import numpy as np
import pytest
import torch

from reverie.rng import Rng, digest

F64 = torch.float64
MASK = 2**64 - 1


def philox(counter, key):
    """Philox 4x64-10 in plain integers (Salmon et al. 2011, section 3.3): four words."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * c[2], 2**64)
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return c


def test_philox_is_the_published_one():
    """The known answers of its authors' Random123 (kat_vectors)."""
    assert philox([0] * 4, (0, 0)) == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox([MASK] * 4, (MASK, MASK)) == [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]


def bits(words, count):
    """53-bit fractions of the stream keyed by the words; numpy counts from 1."""
    key = int.from_bytes(hashlib.blake2b("\x1f".join(words).encode(), digest_size=16).digest(), "little")
    raw = [w for i in range(1, count // 4 + 2) for w in philox([i, 0, 0, 0], (key & MASK, key >> 64))]
    return [((r >> 11) + 0.5) * 2.0**-53 for r in raw[:count]]


def test_a_stream_is_philox_keyed_by_seed_purpose_and_step():
    rng = Rng.of(7, dtype=F64).fold("step", 3).fold("bridge")
    assert rng.uniform((1, 10))[0].tolist() == bits(["7", "step:3", "bridge:0"], 10)


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_normals_are_box_muller(count):
    half = (count + 1) // 2
    u = bits(["7"], 2 * half)
    pairs = [(math.sqrt(-2 * math.log(a)), 2 * math.pi * b) for a, b in zip(u[:half], u[half:], strict=True)]
    truth = [r * math.cos(a) for r, a in pairs] + [r * math.sin(a) for r, a in pairs]
    assert Rng.of(7, dtype=F64).normal((1, count))[0].tolist() == pytest.approx(truth[:count], abs=1e-14)


def test_narrow_types_are_the_wide_draw_rounded():
    wide = Rng.of(3, 4, dtype=F64).normal((4, 100))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(Rng.of(3, 4, dtype=dtype).normal((4, 100)), wide.to(dtype))


def test_asking_twice_gives_the_same_and_folding_another():
    rng = Rng.of(0, 2)
    a, b = rng.fold("a"), rng.fold("b")
    names = [rng, a, b, rng.fold("a", 1), a.fold("a"), a.fold("b"), b.fold("a")]
    drawn = [tuple(r.normal((2, 3)).flatten().tolist()) for r in names]
    assert drawn == [tuple(r.normal((2, 3)).flatten().tolist()) for r in names]
    assert len(set(drawn)) == len(names)
    assert digest("ab", "c") != digest("a", "bc") != digest("c", "ab")


def test_seeds_count_upwards_or_are_given():
    assert Rng.of(7, 4).seeds == (7, 8, 9, 10) and Rng.of(7).seeds == (7,)
    assert Rng.of([3, 1, 4]).seeds == (3, 1, 4) and Rng.of(range(2)).seeds == (0, 1)
    assert Rng.of(7, 4)[1:3].seeds == (8, 9)


def test_the_batch_needs_a_seed_for_each():
    with pytest.raises(ValueError, match="3 seeds for a batch of 4"):
        Rng.of(0, 3).normal((4, 2))


def test_whole_draws_one_stream_for_all():
    whole, alone = Rng.of(5, 1, whole=True, dtype=F64), Rng.of(5, dtype=F64)
    assert torch.equal(whole.uniform((6, 2)).flatten(), alone.uniform((1, 12)).flatten())
    assert torch.equal(whole.normal((6, 2)).flatten(), alone.normal((1, 12)).flatten())
    assert not torch.equal(whole.normal((2, 2))[1], Rng.of(5, 2, dtype=F64).normal((2, 2))[1])


def test_draws_have_their_moments():
    rng, n = Rng.of(1, whole=True, dtype=F64), 40_000
    u, z, c = rng.fold("u").uniform((n,)), rng.fold("z").normal((n,)), rng.fold("c").chi2(6.0, (n,))
    for draw, mean, variance, fourth in ((u, 0.5, 1 / 12, 1 / 80), (z, 0, 1, 3), (c, 6, 12, 12 * 12 * 5)):
        assert abs(float(draw.mean()) - mean) < 4.5 * (variance / n) ** 0.5
        assert abs(float(draw.var()) - variance) < 4.5 * ((fourth - variance**2) / n) ** 0.5
    assert float(u.min()) > 0 and float(u.max()) < 1
    assert abs(float(np.corrcoef(z[::2], z[1::2])[0, 1])) < 4.5 / (n / 2) ** 0.5
    two = Rng.of(1, 2, dtype=F64).normal((2, n))  # neighbours in seed are strangers
    assert abs(float((two[0] * two[1]).mean())) < 4.5 / n**0.5


@pytest.mark.parametrize("dimensions", [0.5, 1.0, 2.0, 3.7, 64.0])
def test_chi_squared_has_its_law(dimensions):
    """Mean D, variance 2 D, fourth central moment 12 D (D + 4); for D = 2 it is exponential, and for D = 1 a squared normal."""
    n = 40_000
    c = Rng.of(2, whole=True, dtype=F64).chi2(dimensions, (n,))
    assert float(c.min()) > 0
    assert abs(float(c.mean()) - dimensions) < 4.5 * (2 * dimensions / n) ** 0.5
    fourth = 12 * dimensions * (dimensions + 4)
    assert abs(float(c.var()) - 2 * dimensions) < 4.5 * ((fourth - 4 * dimensions**2) / n) ** 0.5
    laws = {1.0: lambda x: math.erf((x / 2) ** 0.5), 2.0: lambda x: -math.expm1(-x / 2)}
    for x in (0.01, 0.5, 2.0, 6.0) if dimensions in laws else ():
        p = laws[dimensions](x)
        assert abs(float((c < x).double().mean()) - p) < 4.5 * (p * (1 - p) / n) ** 0.5


def test_chi_squared_is_made_of_our_own_bits():
    """The first trial by hand (Marsaglia and Tsang), and pinned: numpy's own chi-squared may change with its version."""
    u, w, test = bits(["7", "trial:0"], 3)
    d = 3.0 - 1 / 3
    z = math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * w)
    v = (1 + z / math.sqrt(9 * d)) ** 3
    assert math.log(test) < z**2 / 2 + d - d * v + d * math.log(v)  # the usual case
    found = Rng.of(7, dtype=F64).chi2(6.0, (1, 1))
    assert float(found) == pytest.approx(2 * d * v, rel=1e-13)
    assert float(found) == pytest.approx(20.29454591129214, rel=1e-13)
    assert Rng.of(7, dtype=F64).chi2(0.5, (1, 3))[0].tolist() == pytest.approx(
        [0.016912071688304598, 0.6404717883647361, 0.031461595150093814], rel=1e-12
    )


def test_chi_squared_needs_degrees_of_freedom():
    with pytest.raises(ValueError, match="more than 0"):
        Rng.of(0).chi2(0.0, (1, 1))
