"""How far one set of pictures is from another, in a space of features. Arrays in, numbers out; numpy and float64 throughout.

Frechet distance of the Gaussians with the sets' means and covariances (Heusel et al., arXiv:1706.08500):

    d = |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a^1/2 S_b S_a^1/2)^1/2                                           (1)

Kernel distance, KID (Binkowski et al., arXiv:1801.01401), the unbiased squared maximum mean discrepancy of m and m features:

    k(x, y) = (x.y / F + 1)^3                                                                                      (2)
    d = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)                          (3)

Precision and recall (Kynkaanniemi et al., arXiv:1904.06991): a set's support is the union of balls around its points, each
as wide as the distance to the k-th neighbour; precision is the share of generated points in the support of the real ones,
recall the reverse.

Frechet distances grow as samples become fewer, so compare only those of the same count; KID does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reverie.errors import UserError


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Eq. (1) of two sets of features (N, F) and (M, F), at least two each. In squared units of the features."""
    _check(a, b, 2)
    return frechet_of(a.mean(0), covariance(a), b.mean(0), covariance(b))


def covariance(features: np.ndarray) -> np.ndarray:
    """Unbiased, (F, F) float64."""
    gap = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    return np.asarray(gap.T @ gap / (len(gap) - 1))


def frechet_of(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Eq. (1) of means (F,) and covariances (F, F), which may lack rank: only symmetric matrices are decomposed."""
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    middle = root @ cov_b @ root
    cross = np.sqrt(np.linalg.eigvalsh((middle + middle.T) / 2).clip(0)).sum()
    gap = mean_a - mean_b
    return float(max(0.0, gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


def kid(a: np.ndarray, b: np.ndarray, *, subsets: int = 50, size: int = 500, seed: int = 0) -> tuple[float, float]:
    """Eq. (3) averaged over random subsets of `size` (or as many as there are): (mean, standard deviation over the subsets).

    It may be slightly negative, as an unbiased estimate of nought must. Where the subset is the whole of both sets, there is
    only one, and the deviation is nought.
    """
    _check(a, b, 2)
    size = min(size, len(a), len(b))
    if size == len(a) == len(b):
        return discrepancy(a, b), 0.0
    rng = np.random.default_rng(seed)
    draws = [discrepancy(a[rng.permutation(len(a))[:size]], b[rng.permutation(len(b))[:size]]) for _ in range(subsets)]
    return float(np.mean(draws)), float(np.std(draws))


def discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    """Eq. (3) of (N, F) and (M, F)."""
    n, m = len(a), len(b)
    aa, bb, ab = _kernel(a, a), _kernel(b, b), _kernel(a, b)
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)


@dataclass(frozen=True)
class Support:
    """The union of balls around points (N, F), the i-th of squared radius radii[i]."""

    points: np.ndarray
    radii: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, k: int = 3) -> "Support":
        """Radii are the distances to the k-th neighbour, the point itself not counted."""
        _check(points, points, k + 1)
        radii = [np.partition(block, k, axis=1)[:, k] for block in _squares(points, points)]
        return cls(points, np.concatenate(radii))

    def share(self, others: np.ndarray) -> float:
        """Share of others (M, F) that lie in it."""
        inside = [(block <= self.radii).any(1) for block in _squares(others, self.points)]
        return float(np.concatenate(inside).mean())


def precision_recall(real: np.ndarray, made: np.ndarray, k: int = 3) -> tuple[float, float]:
    """(precision, recall) of `made` (M, F) against `real` (N, F), each in [0, 1]."""
    _check(real, made, k + 1)
    return Support.of(real, k).share(made), Support.of(made, k).share(real)


def nearest(points: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(N,) the distance of each point (N, F) to the nearest of `among` (M, F)."""
    _check(points, among, 1)
    return np.sqrt(np.concatenate([block.min(1) for block in _squares(points, among)]))


def copies(made: np.ndarray, training: np.ndarray, held: np.ndarray, quantile: float = 0.05) -> float:
    """Share of `made` (M, F) that lie nearer to a training picture than all but a `quantile` of real pictures that were held out.

    A model that generalises as the world does scores about `quantile`; one that recites scores near 1. Arrays (N, F) of one space.
    """
    return nearer(made, training, copy_limit(training, held, quantile))


def copy_limit(training: np.ndarray, held: np.ndarray, quantile: float = 0.05) -> float:
    """The distance to the nearest training picture that a `quantile` of held-out real pictures stay within."""
    return float(np.quantile(nearest(held, training), quantile))


def nearer(made: np.ndarray, training: np.ndarray, limit: float) -> float:
    """Share of `made` (M, F) with a training picture (N, F) within `limit`."""
    return float((nearest(made, training) <= limit).mean())


def _squares(a: np.ndarray, b: np.ndarray, block: int = 64) -> Iterator[np.ndarray]:
    """Squared distances (block, M) from some of a to all of b, in a's order."""
    b_norms = np.einsum("ij,ij->i", b, b)
    for i in range(0, len(a), block):
        some = a[i : i + block]
        yield (np.einsum("ij,ij->i", some, some)[:, None] + b_norms - 2 * some @ b.T).clip(0)


def _check(a: np.ndarray, b: np.ndarray, least: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features are (N, F) of one space, not {a.shape} and {b.shape}")
    if min(len(a), len(b)) < least:
        raise UserError(f"{min(len(a), len(b))} pictures are too few to measure: give at least {least}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError("a picture's features hold NaN or infinity: the pictures or the feature network are damaged")
