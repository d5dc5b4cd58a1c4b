"""What a control is shown of a picture: edges, a sketch, shading, regions, a small picture, colours.

Each is a named constructor that gives a function from pixels (H, W, 3) uint8 to a hint (H, W, 3) uint8, the same for the same
picture. They are scikit-image's and Pillow's (the extra `control`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from reverie.card import remembers
from reverie.errors import UserError

Hint = Callable[[np.ndarray], np.ndarray]
NEAR = 12.0
"""Distance in CIELAB below which two colours are the same ground."""


def _skimage() -> Any:
    try:
        import skimage
    except ImportError:
        raise UserError("hints are drawn by scikit-image: pip install 'reverie[control]'") from None
    return skimage


@remembers
def edges(sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> Hint:
    """White where Canny finds an edge (IEEE PAMI 8(6), 1986), else black; low, high: of the gradient, in shares of its range."""
    if not 0 <= sigma <= 50 or not 0 <= low <= high <= 1:
        raise UserError(f"edges: sigma is {sigma}, low {low}, high {high}; 0 <= sigma <= 50 and 0 <= low <= high <= 1")

    def hint(pixels: np.ndarray) -> np.ndarray:
        found = [_skimage().feature.canny(pixels[..., k] / 255, sigma, low, high) for k in range(3)]  # of colours, too
        return _grey(np.any(found, 0) * 255.0)

    return hint


@remembers
def sketch(sigma: float = 0.7) -> Hint:
    """Dark lines on white, as dark as the change of colour is strong."""
    if not 0 <= sigma <= 50:
        raise UserError(f"sketch: sigma is {sigma}; it lies between 0 and 50")

    def hint(pixels: np.ndarray) -> np.ndarray:
        filters = _skimage().filters
        strength = np.max([filters.sobel(filters.gaussian(pixels[..., k] / 255, sigma)) for k in range(3)], 0)
        return _grey(255 * (1 - np.clip(strength / max(float(np.quantile(strength, 0.98)), 1e-3), 0, 1)))

    return hint


@remembers
def shading() -> Hint:
    """Like a depth: black is the ground, which is what has the colour of the corners; what lies on it is lighter to its middle."""

    def hint(pixels: np.ndarray) -> np.ndarray:
        skimage = _skimage()
        lab = skimage.color.rgb2lab(pixels)
        corners = [lab[0, 0], lab[0, -1], lab[-1, 0], lab[-1, -1]]
        figure = np.min([np.linalg.norm(lab - corner, axis=-1) for corner in corners], 0) > NEAR
        if not figure.any():
            return np.zeros_like(pixels)
        height = skimage.morphology.medial_axis(np.pad(figure, 1), return_distance=True, rng=0)[1][1:-1, 1:-1]
        top = max(float(height.max()), 1.0)
        return _grey(255 * np.sqrt(height / top))

    return hint


@remembers
def regions(count: int = 12) -> Hint:
    """Patches of one colour each: superpixels (SLIC, IEEE PAMI 34(11), 2012)."""
    if not 2 <= count <= 1000:
        raise UserError(f"regions: count is {count}; it lies between 2 and 1000")

    def hint(pixels: np.ndarray) -> np.ndarray:
        labels = _skimage().segmentation.slic(pixels, n_segments=count, compactness=5, start_label=0, channel_axis=-1)
        out = np.zeros_like(pixels)
        for label in np.unique(labels):
            out[labels == label] = np.rint(pixels[labels == label].mean(0)).astype(np.uint8)
        return out

    return hint


@remembers
def low(side: int = 8) -> Hint:
    """The picture of so many squares each way."""
    if not 1 <= side <= 1024:
        raise UserError(f"low: side is {side}; it lies between 1 and 1024")

    def hint(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        small = Image.fromarray(pixels).resize((min(side, width), min(side, height)), Image.Resampling.BOX)
        return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))

    return hint


@remembers
def palette(colours: int = 6, side: int = 8) -> Hint:
    """Its main colours, and roughly where: each of so many squares each way in the commonest of them there.

    The spatial palette of T2I-Adapter (arXiv:2302.08453, section 3.3), in colours that the picture has, and no mixtures of them.
    """
    if not (1 <= colours <= 64 and 1 <= side <= 1024):
        raise UserError(f"palette: colours is {colours} and side {side}; 1 to 64 colours, and 1 to 1024 squares")

    def hint(pixels: np.ndarray) -> np.ndarray:
        few = Image.fromarray(pixels).quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        which = np.asarray(few)
        rows, columns = (np.arange(n) * min(side, n) // n for n in which.shape)
        square = rows[:, None] * (columns.max() + 1) + columns
        votes = np.zeros((square.max() + 1, colours), int)
        np.add.at(votes, (square.ravel(), which.ravel()), 1)
        known = np.array(few.getpalette(), np.uint8).reshape(-1, 3)
        return known[votes.argmax(1)][square]

    return hint


HINTS = (edges, sketch, shading, regions, low, palette)


def _grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(levels).astype(np.uint8)[..., None], 3, -1)
