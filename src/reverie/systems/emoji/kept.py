"""What is computed once and needed again whenever a run goes on: tensors in the user's cache, by what they were made from."""

import hashlib
from collections.abc import Callable

from torch import Tensor

from reverie.data.npm import cache
from reverie.files import load_tensors, save_tensors


def kept(name: str, source: bytes, make: Callable[[], Tensor]) -> Tensor:
    """What `make` gives, made only where no file of this name and for this source is in the cache."""
    path = cache().parent / "kept" / f"{name}-{hashlib.sha256(source).hexdigest()[:16]}.safetensors"
    if path.exists():
        return load_tensors(path, "delete it")[0][name]
    made = make().contiguous()  # as it will be read: sums over another order of memory round differently
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {name: made}, {})
    return made
