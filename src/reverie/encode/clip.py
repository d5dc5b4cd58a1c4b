"""CLIP's text encoder through transformers (Radford et al., arXiv:2103.00020): prompts of any length, in chunks of 75 tokens.

A prompt is cut into chunks, each set between the marks of its beginning and end and filled up to the 77 tokens that CLIP reads; the
chunks are encoded one by one and stand behind each other in `Cond.tokens`, of which nothing is cut away. The pooled vector is the
first chunk's. Prompts whose parts have weights (`syntax.Said`) are weighed as in A1111; the pooled vector is not.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.denoiser import Cond
from reverie.encode.learnt import Learnt, learnt_by, parted
from reverie.encode.pieces import Piece
from reverie.encode.syntax import BREAK, Said, parts
from reverie.encode.weighted import weighted
from reverie.errors import UserError


class Clip(nn.Module):
    """Prompts -> Cond with tokens (B, 77 n, D), n chunks for the longest prompt.

    net: transformers' CLIPTextModel, or CLIPTextModelWithProjection. tokenizer: its CLIPTokenizer. skip: layers left out at the
    end, the final norm kept (A1111's clip skip less 1). raw: what that layer gives, without the norm (Stable Diffusion XL and 3).
    place: where it computes, as of T5 and Gemma; its weights may rest elsewhere.
    """

    place: torch.device = torch.device("cpu")
    weighs = True

    def __init__(self, net: Any, tokenizer: Any, *, skip: int = 0, raw: bool = False) -> None:
        super().__init__()
        layers = net.config.num_hidden_layers
        if not 0 <= skip < layers:
            raise UserError(f"Clip: skip is {skip}; this encoder has {layers} layers, so it lies between 0 and {layers - 1}")
        self.net, self.tokenizer, self.skip, self.raw = net, tokenizer, skip, raw
        self.room = int(net.config.max_position_embeddings) - 2

    def chunks(self, prompt: str) -> list[list[int]]:
        """The prompt's tokens, at most 75 a chunk; one empty chunk for the empty prompt."""
        return [[token for token, _ in chunk] for chunk in self._weighed(prompt)]

    def _weighed(self, prompt: str) -> list[list[tuple[int, float]]]:
        """The same, each token with its weight; BREAK ends a chunk."""
        out: list[list[tuple[int, float]]] = [[]]
        for text, weight in parts(words(prompt)):
            if (text, weight) == BREAK:
                out.append([])
                continue
            for token in self._ids(text):
                if len(out[-1]) == self.room:
                    out.append([])
                out[-1].append((token, weight))
        return out[:-1] if len(out) > 1 and not out[-1] else out

    def _ids(self, text: str) -> Iterator[int]:
        for part, ids in parted(self.net.get_input_embeddings(), text):
            yield from ids or self.tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]

    def learnt(self) -> Learnt:
        """Words that it learnt later."""
        return learnt_by(self.net.get_input_embeddings())

    def initial(self, text: str) -> Tensor:
        """Vectors (n, D) that a new word may begin as: those of known words, or the middle of all."""
        table: Tensor = self.net.get_input_embeddings().weight.detach()
        return table[list(self._ids(text))] if text else table.mean(0, keepdim=True)

    def read(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(tokens (B, 77 n, D), pooled (B, P)); shorter prompts are filled with empty chunks."""
        rows = [self._weighed(p) for p in prompts]
        most = max(map(len, rows))
        chunks = [chunk for row in rows for chunk in (*row, *[[]] * (most - len(row)))]
        tokens, pooled = self._encode([self._marked([token for token, _ in chunk]) for chunk in chunks])
        weights = [[1.0, *(weight for _, weight in chunk), *[1.0] * (self.room + 1 - len(chunk))] for chunk in chunks]
        tokens = weighted(tokens, torch.tensor(weights, dtype=torch.float64))
        return tokens.reshape(len(rows), -1, tokens.shape[-1]), pooled[::most]

    def prompts(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        return Cond(tokens=self.read(prompts)[0])

    def empty(self, count: int) -> Cond:
        return self.prompts([""] * count)

    def notes(self, prompt: str) -> list[str]:
        return []

    def pieces(self, prompt: str) -> list[Piece]:
        """What each row of the tokens stands for."""
        return [("clip", token) for chunk in self.chunks(prompt) for token in self._marked(chunk)]

    def shortened(self, prompt: str) -> list[str]:
        """What those say of a prompt who use the pooled vector: it is of the first chunk."""
        words = "of a prompt of more than {} tokens, the vector of the whole is that of its first {}"
        if len(chunks := self.chunks(prompt)) == 1:
            return []
        if isinstance(prompt, Said) and len(chunks[0]) < self.room:
            return ["of a prompt with BREAK, the vector of the whole is that of what stands before it"]
        return [words.format(self.room, self.room)]

    def _marked(self, ids: list[int]) -> list[int]:
        t = self.tokenizer
        row = [t.bos_token_id, *ids, t.eos_token_id]
        return row + [t.pad_token_id] * (self.room + 2 - len(row))

    def _encode(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        made = self.net(torch.tensor(rows, device=self.place), output_hidden_states=True)
        pooled: Tensor = made.text_embeds if hasattr(made, "text_embeds") else made.pooler_output
        if not self.skip and not self.raw:
            return made.last_hidden_state, pooled
        hidden: Tensor = made.hidden_states[-1 - self.skip]
        return (hidden if self.raw else self._norm(hidden)), pooled

    def _norm(self, hidden: Tensor) -> Tensor:
        inner = getattr(self.net, "text_model", self.net)
        out: Tensor = inner.final_layer_norm(hidden)
        return out


def words(prompt: Any) -> str:
    """The prompt, if it is text; else a UserError."""
    if not isinstance(prompt, str):
        raise UserError(f"a prompt or negative prompt is {prompt!r}; this model reads words: give text")
    return prompt
