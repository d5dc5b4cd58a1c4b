"""What Stable Diffusion 3 and 3.5 are told (Esser et al., arXiv:2403.03206): the words of three encoders.

tokens = [CLIP-L and bigG side by side, filled up with zeros to T5's width; T5's] one after the other; vector = [CLIP-L's pooled,
bigG's pooled]. Without T5, which may be left out to save memory, its rows are zeros.
"""

from collections.abc import Sequence

import torch
from torch import nn

from reverie.denoiser import Cond
from reverie.encode.clip import Clip
from reverie.encode.pieces import Piece
from reverie.encode.syntax import Said
from reverie.encode.t5 import T5, filled_to

ROWS = 256
"""Tokens of T5, read or not."""


class PromptSD3(nn.Module):
    """Prompts -> Cond with tokens (B, 77 n + 256, width) and vector (B, P). width: of T5."""

    weighs = True

    def __init__(self, clips: Sequence[Clip], t5: T5 | None, *, width: int) -> None:
        super().__init__()
        self.clips, self.t5, self.width = nn.ModuleList(clips), t5, width

    def prompts(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        read = [clip.read(prompts) for clip in self.clips if isinstance(clip, Clip)]
        near = filled_to(torch.cat([tokens for tokens, _ in read], -1), self.width)
        far = near.new_zeros(len(prompts), ROWS, self.width) if self.t5 is None else self.t5.read(prompts)[0].to(near)
        return Cond(vector=torch.cat([pooled for _, pooled in read], 1), tokens=torch.cat([near, far], 1))

    def empty(self, count: int) -> Cond:
        return self.prompts([""] * count)

    def pieces(self, prompt: str) -> list[Piece]:
        """What each row of the tokens stands for: CLIP's, then T5's."""
        last = self.clips[-1]
        assert isinstance(last, Clip)
        return last.pieces(prompt) + ([("t5", 0)] * ROWS if self.t5 is None else self.t5.pieces(prompt))

    def notes(self, prompt: str) -> list[str]:
        cut = [] if self.t5 is None else [f"T5: {note}" for note in self.t5.notes(prompt)]
        last = self.clips[-1]
        if self.t5 is not None and isinstance(prompt, Said) and prompt.weighed:
            cut.append("weights are heard by CLIP's half of this model, not by T5's")
        return cut + (last.shortened(prompt) if isinstance(last, Clip) else [])
