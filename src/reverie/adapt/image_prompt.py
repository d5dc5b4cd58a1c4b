"""Pictures as prompts (IP-Adapter, arXiv:2308.06721): the net is `nets.image_prompt`, and looks in at the attentions."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.adapt.adapted import Adapted
from reverie.adapt.when import When
from reverie.denoiser import Cond, Denoiser
from reverie.errors import UserError
from reverie.nets.image_prompt import ImagePromptNet
from reverie.nets.looking import Attend, Kind, Look, Site, looking
from reverie.nets.precision import inside
from reverie.process.path import time


class Eye(Protocol):
    """An encoder of pictures."""

    def said(self, pictures: Tensor, places: bool) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> (B, E), or of each place (B, L, E)."""
        ...

    def unsaid(self, pictures: Tensor, places: bool) -> Tensor:
        """The same of no picture, as the adapters were trained with."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImagePrompt(When):
    """An image prompt adapter with the encoder of its pictures; weight, start, stop: as of `When`."""

    net: ImagePromptNet
    eye: Eye
    name: str = "image prompt"

    @torch.no_grad()
    def tokens(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], of any size -> what `Cond.images` has of them, (B, M, D)."""
        return self._tokens(self.eye.said, pictures)

    @torch.no_grad()
    def empty(self, pictures: Tensor) -> Tensor:
        """The same of no picture, for the other half of guidance."""
        return self._tokens(self.eye.unsaid, pictures)

    def _tokens(self, see: Callable[[Tensor, bool], Tensor], pictures: Tensor) -> Tensor:
        own = next(self.net.tokens.parameters())
        out: Tensor = self.net(see(pictures, self.net.config.kind != "projection").to(own))
        return out.float()


class ImagePrompted(Adapted):
    """The model with image prompts; `Cond.images` has the tokens (B, M, D) of all of them, one after the other.

    Where none acts, or the condition has no images, the model itself is asked, bit for bit. Nets with attentions take one adapter
    or several.
    """

    def __init__(self, model: Denoiser, prompts: Sequence[ImagePrompt]) -> None:
        super().__init__(model)
        self.prompts = tuple(prompts)
        self.nets = nn.ModuleList(prompt.net for prompt in prompts)

    def raw(self, x: Tensor, t: Tensor | float, cond: Cond | None = None) -> Tensor:
        t = time(t).expand(x.shape[0])
        if cond is None or cond.images is None:
            return self.model.raw(x, t, cond)
        counts = [prompt.net.config.tokens for prompt in self.prompts]
        if cond.images.shape[1] != sum(counts):
            raise UserError(
                f"the image prompts have {cond.images.shape[1]} tokens, and their adapters read {sum(counts)}: "
                "give one picture for each"
            )
        each = cond.images.to(x.device).split(counts, 1)
        looks = [self._look(p, c, on) for p, c in zip(self.prompts, each, strict=True) if bool((on := p.acts(t)).any())]
        told = replace(cond, images=None, vector=self._vector(cond.vector, t, each))
        with looking(*looks) as eyes:
            if looks and eyes.skips:
                raise UserError(
                    "beside an image prompt no layers can be left out, for it knows the attentions by their numbers: leave out "
                    "slg, or the picture"
                )
            return self.model.raw(x, t, told)

    def _vector(self, vector: Tensor | None, t: Tensor, each: Sequence[Tensor]) -> Tensor | None:
        """What is said in words, and by those pictures that the net hears so, each beyond what the words say."""
        said = vector
        for prompt, tokens in zip(self.prompts, each, strict=True):
            if (word := prompt.net.word) is not None:
                told = tokens.new_zeros(len(t), prompt.net.config.vector) if said is None else said.to(tokens)
                more = prompt.weight * prompt.acts(t).to(tokens.device)[:, None] * word(tokens.float(), told.float())
                vector = more if vector is None else vector.to(more) + more
        return vector

    def _look(self, prompt: ImagePrompt, tokens: Tensor, on: Tensor) -> Look:
        strength = on.to(tokens.device)[:, None, None, None] * prompt.weight
        number = itertools.count()

        def look(site: Site, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            y = attend(q, k, v, mask)
            if site.kind != prompt.net.config.at:
                return y
            with inside(self.autocast, q.device):
                more = prompt.net.answer(next(number), q[:, :, site.text :], tokens.to(self._own(prompt.net)))
            return y + strength.to(y) * F.pad(more.to(y), (0, 0, site.text, 0))

        return look

    def _own(self, net: ImagePromptNet) -> torch.dtype:
        return torch.float32 if self.autocast is not None else next(net.k.parameters()).dtype


@torch.no_grad()
def sites(model: Denoiser, x: Tensor, cond: Cond | None) -> tuple[Kind, tuple[int, ...]]:
    """Which of the model's attentions an image prompt is to look in at, and their widths in order: those to text, else those of
    text and picture to both, else those of the picture to itself. UserError where it has none."""
    found: dict[Kind, list[int]] = {"cross": [], "joint": [], "self": []}

    def look(site: Site, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        found[site.kind].append(q.shape[1] * q.shape[3])
        return attend(q, k, v, mask)

    with looking(look):
        model.raw(x, 0.5, cond)
    for kind, widths in found.items():
        if widths:
            return kind, tuple(widths)
    raise UserError("this model has no attention, so that no picture can be a prompt")
