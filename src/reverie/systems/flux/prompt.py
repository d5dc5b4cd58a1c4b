"""What Flux is told: T5's words as tokens, and CLIP-L's pooled vector."""

from collections.abc import Sequence

from torch import nn

from reverie.denoiser import Cond
from reverie.encode.clip import Clip, words
from reverie.encode.pieces import Piece
from reverie.encode.t5 import T5


class PromptFlux(nn.Module):
    """Prompts -> Cond with tokens (B, L, D) and vector (B, P)."""

    def __init__(self, clip: Clip, t5: T5) -> None:
        super().__init__()
        self.clip, self.t5 = clip, t5

    def prompts(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        plain = [str(words(p)) for p in prompts]  # weights and chunks are nothing to the vector
        return Cond(vector=self.clip.read(plain)[1], tokens=self.t5.read(plain)[0])

    def empty(self, count: int) -> Cond:
        return self.prompts([""] * count)

    def pieces(self, prompt: str) -> list[Piece]:
        """What each row of the tokens stands for."""
        return self.t5.pieces(str(words(prompt)))

    def notes(self, prompt: str) -> list[str]:
        return self.t5.notes(prompt) + self.clip.shortened(str(prompt))
