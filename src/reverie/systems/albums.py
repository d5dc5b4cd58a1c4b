"""A training of a model on an album: its pictures in the space of the diffusion, by their sizes, and what is said of each."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from reverie.data.album import Album, Choices
from reverie.data.shapes import Size
from reverie.data.subsets import Shot
from reverie.encode import Classes
from reverie.encode.apart import Apart
from reverie.errors import UserError
from reverie.systems.recipe import encode
from reverie.systems.system import System
from reverie.train.batches import Batches
from reverie.train.jobs import Prompt
from reverie.train.mixed import Mixed, Points, Sized
from reverie.train.objective import TimeLaw


def teaching(
    base: System, train: Album, held: Album, *, times: TimeLaw, choices: Choices, batch: int, frozen: bool = True
) -> Mixed:
    """The training job of `base` on an album; its `module` is the denoiser with the encoder, for the caller to narrow.

    Where nothing is held out, what is learnt is what it is watched by. frozen: the encoder of prompts stays as it is, so that each
    caption is encoded once. UserError where the model does not take the sizes of the pictures, or a batch has no room for regular
    ones.
    """
    train = train.matched()
    watched = held if len(held) else train
    sizes = [size for size in train.sizes if any(shot.size == size for shot in train.shots)]
    sizes += [size for size in watched.sizes if size not in sizes and any(shot.size == size for shot in watched.shots)]
    _check(base, train.name, sizes)
    encoder = base.prompt_encoder
    told = Apart(encoder) if frozen and encoder is not None else encoder
    jobs, own, regular, first = [], [], [], 0
    for size in sizes:
        mine, beside, kept = (_of(shots, size) for shots in (train.shots, train.regular, watched.shots))
        seen = _points(base, size, [*mine, *beside], choices, len(mine))
        watch = _points(base, size, kept, choices, len(kept))
        jobs.append(Sized(base.denoiser, seen, watch, sides=size, times=times, encoder=told))
        if mine:
            own.append(_rows(mine, first))
            regular.append(_rows(beside, first + len(mine)))
        first += len(mine) + len(beside)
    batches = Batches(own, regular if train.regular else (), choices.regular_share)
    batches.parts(batch)
    parts = {"denoiser": base.denoiser} | ({"encoder": encoder} if isinstance(encoder, nn.Module) else {})
    return Mixed(jobs, batches, nn.ModuleDict(parts))


def _check(base: System, name: str, sizes: Sequence[Size]) -> None:
    for height, width in sizes:
        try:
            base.check_size(height, width)
        except UserError as error:
            raise UserError(f"pictures of {name} would be learnt as {width}x{height}: {error}") from None


def _of(shots: Sequence[Shot], size: Size) -> list[Shot]:
    return [shot for shot in shots if shot.size == size]


def _rows(shots: Sequence[Shot], first: int) -> np.ndarray:
    """The numbers of examples from `first` on, each as often as an epoch sees it."""
    return np.repeat(np.arange(first, first + len(shots)), [shot.repeats for shot in shots])


def _points(base: System, size: Size, shots: Sequence[Shot], choices: Choices, own: int) -> Points:
    """Pictures of one size as examples, `own` to be learnt and then regular ones."""
    flips = np.array([shot.flip for shot in shots], bool)
    mirrored = _latents(base, size, [shot.image[..., ::-1] for shot in shots]) if flips.any() else None
    weights = torch.ones(len(shots))
    weights[own:] = choices.regular_weight
    return Points(
        x0=_latents(base, size, [shot.image for shot in shots]),
        prompt=_said(base, shots),
        mask=masks(base, shots),
        mirrored=mirrored,
        flips=flips if flips.any() else None,
        weights=weights if own < len(shots) else None,
        drop=np.array([choices.drop if shot.drop is None else shot.drop for shot in shots]) if shots else 0.0,
    )


def _latents(base: System, size: Size, images: Sequence[np.ndarray]) -> Tensor:
    return encode(base.codec, np.stack(images)) if images else torch.zeros(0, *base.codec.shape(*size))


def masks(base: System, shots: Sequence[Shot]) -> Tensor | None:
    """(n, 1, h, w): the mean of each mask over the pixels that a place of the space stands for; None where there is none."""
    if all(shot.mask is None for shot in shots):
        return None
    whole = [np.full(shot.size, 255, np.uint8) if shot.mask is None else shot.mask for shot in shots]
    return nn.functional.avg_pool2d(torch.from_numpy(np.stack(whole))[:, None].float() / 255, base.codec.factor)


def _said(base: System, shots: Sequence[Shot]) -> Prompt | None:
    """What is said of picture i; of a model that knows classes, the class it is called."""
    if base.prompt_encoder is None:
        return None
    if isinstance(base.prompt_encoder, Classes):
        return (lambda i, rng: shots[i].text or "") if any(shot.text for shot in shots) else None
    return lambda i, rng: shots[i].said(rng)
