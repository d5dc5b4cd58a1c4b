"""Contact sheets: pictures in rows, optionally with words below."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw


def sheet(images: Sequence[Image.Image], columns: int = 0, labels: Sequence[str] = (), scale: int = 1, gap: int = 4) -> Image.Image:
    """One RGB picture of many; labels (one per picture) stand below, cut to the width."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    width, height = (scale * v for v in images[0].size)
    foot = 14 if labels else 0
    rows = math.ceil(len(images) / columns)
    out = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap + foot) + gap), "white")
    pen = ImageDraw.Draw(out)
    for i, image in enumerate(images):
        x, y = gap + (i % columns) * (width + gap), gap + (i // columns) * (height + gap + foot)
        out.paste(image.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (x, y))
        if labels:
            pen.text((x, y + height), labels[i][: width // 6], fill="black")
    return out
