"""Which examples a step sees, where they are of several sizes: a function of (seed, step) alone, so that a run goes on exactly.

Every batch of B is of one bucket. An example that an epoch is to see r times has r rows; bucket b has n_b of them. With g the
greatest common divisor of all n_b, a cycle is of sum n_b / g batches, m_b = n_b / g of which are of bucket b: its j-th stands at

    (j + u_bj) / m_b,  u_bj uniform in (0, 1)                                                                     (1)

of the cycle, so that all buckets are spread evenly over it. The batches of a bucket are pieces of an endless sequence of fresh
permutations of its rows (`loop.order`): after any number of steps two of its rows differ by one visit at most, and after sum n_b
steps every row of every bucket has been seen exactly B times. One bucket alone has the loop's own order.

Examples that are not to be forgotten (prior preservation, arXiv 2208.12242) fill their share of every batch, from rows of the same
bucket, in an order of their own. Nothing here looks at the examples: they may lie in memory or on disk.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from reverie.errors import UserError
from reverie.rng import digest
from reverie.train.loop import order


@lru_cache(maxsize=4)
def cycle(counts: tuple[int, ...], seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(the bucket of each batch of a cycle, how many of the cycle's batches before it are of that bucket), by eq. (1)."""
    places, buckets = [], []
    for bucket, count in enumerate(counts):
        rng = np.random.Generator(np.random.Philox(key=digest(seed, "cycle", number, bucket)))
        places.append((np.arange(count) + rng.random(count)) / count)
        buckets.append(np.full(count, bucket))
    row = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(buckets)[row], np.concatenate([np.arange(count) for count in counts])[row]


class Batches:
    """own: the rows of each bucket, numbers of examples. regular: rows of the same buckets that fill `share` of every batch."""

    def __init__(self, own: Sequence[np.ndarray], regular: Sequence[np.ndarray] = (), share: float = 0.5) -> None:
        if (
            not own
            or not all(len(rows) for rows in own)
            or (regular and [bool(len(rows)) for rows in regular] != [True] * len(own))
        ):
            raise ValueError("every bucket has rows, and regular ones where there are any")
        self.own, self.regular, self.share = tuple(own), tuple(regular), share
        common = math.gcd(*map(len, own))
        self.counts = tuple(len(rows) // common for rows in own)

    def bucket(self, step: int, seed: int) -> tuple[int, int]:
        """The bucket of a step's batch, and how many batches before are of it."""
        number, place = divmod(step, sum(self.counts))
        buckets, before = cycle(self.counts, seed, number)
        bucket = int(buckets[place])
        return bucket, number * self.counts[bucket] + int(before[place])

    def parts(self, batch: int) -> tuple[int, int]:
        """How many of a batch are own examples, and how many regular. UserError where it has no room for both."""
        if not self.regular or not self.share:
            return batch, 0
        if batch < 2:
            raise UserError(f"a batch of {batch} has no room for regular pictures beside those to learn: give --batch 2 or more")
        regular = min(batch - 1, max(1, round(self.share * batch)))
        return batch - regular, regular

    def order(self, batch: int, step: int, seed: int) -> np.ndarray:
        """The examples (B,) of a step: own ones, then regular ones, all of one bucket."""
        own, regular = self.parts(batch)
        bucket, number = self.bucket(step, seed)
        rows = self.own[bucket]
        out = rows[order(len(rows), own, number, digest(seed, "bucket", bucket) if bucket else seed)]
        if regular:
            beside = self.regular[bucket]
            out = np.concatenate([out, beside[order(len(beside), regular, number, digest(seed, "regular", bucket))]])
        return out
