"""What Stable Diffusion XL and its refiner are told (Podell et al., arXiv:2307.01952): two encoders' words, and numbers.

tokens = [CLIP-L, bigG] side by side, each from its layer before the last; vector = [bigG's pooled, sinusoids of the numbers], where
the numbers are the size of the picture before it was scaled, the corner where it was cut out, and the size asked for, or for the
refiner, which has bigG alone, the size, the corner, and how beautiful it was found.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reverie.denoiser import Cond
from reverie.encode.clip import Clip
from reverie.encode.pieces import Piece
from reverie.nets.blocks import sinusoids

BEAUTY, UGLINESS = 6.0, 2.5
"""The score that the refiner is told of what is wanted, and of what is not."""


class PromptXL(nn.Module):
    """Prompts -> Cond with tokens (B, 77 n, D) and vector (B, P + numbers * times).

    times: entries of the sinusoids of each number. size: of the picture where none is said. refiner: whether it is told a score.
    zeros: the empty negative prompt is zeros, and not what the encoders make of it.
    """

    weighs = True

    def __init__(
        self, clips: Sequence[Clip], *, times: int = 256, size: tuple[int, int], refiner: bool = False, zeros: bool = True
    ) -> None:
        super().__init__()
        self.clips = nn.ModuleList(clips)
        self.times, self.size, self.refiner, self.zeros = times, size, refiner, zeros

    def prompts(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        return self._told(prompts, size, BEAUTY, [1.0] * len(prompts))

    def against(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        """Of negative prompts: the refiner is told that they are ugly, and the empty one may be zeros."""
        return self._told(prompts, size, UGLINESS, [0.0 if self.zeros and p == "" else 1.0 for p in prompts])

    def empty(self, count: int) -> Cond:
        return self.against([""] * count)

    def pieces(self, prompt: str) -> list[Piece]:
        """What each row of the tokens stands for."""
        last = self.clips[-1]
        assert isinstance(last, Clip)
        return last.pieces(prompt)

    def notes(self, prompt: str) -> list[str]:
        last = self.clips[-1]
        return last.shortened(prompt) if isinstance(last, Clip) else []

    def _told(self, prompts: Sequence[str], size: tuple[int, int] | None, score: float, heard: Sequence[float]) -> Cond:
        height, width = size or self.size
        numbers = [height, width, 0, 0, *([score] if self.refiner else [height, width])]
        read = [clip.read(prompts) for clip in self.clips if isinstance(clip, Clip)]
        pooled = read[-1][1]
        kept = torch.tensor(heard, device=pooled.device)[:, None]
        vector = torch.cat([pooled * kept, self._waves(numbers).to(pooled).expand(len(prompts), -1)], 1)
        return Cond(vector=vector, tokens=torch.cat([tokens for tokens, _ in read], -1) * kept[..., None])

    def _waves(self, numbers: Sequence[float]) -> Tensor:
        return sinusoids(torch.tensor(numbers, dtype=torch.float32), self.times).reshape(1, -1)
