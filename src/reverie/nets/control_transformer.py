"""ControlNet for transformers: a copy of the first blocks hears a picture, and what it says is added after the blocks of the net.

Chen et al., "PixArt-delta", arXiv:2401.05252, section 3.3: with h the patches of x, E an encoder of the picture c whose last layer
starts at zero, B_i copies of the net's blocks, and Z_i linear layers that start at zero,

    h_0 = h + E(c),    h_i = B_i(h_{i-1}),    r_i = Z_i h_i,    patches after block i <- patches + r_i.              (1)

(The paper gives each copy the patches of the net, too; here, as in the published controls of Stable Diffusion 3 and Flux, the
copies go their own way, so that they can be asked beside the net.) Where there are fewer copies than blocks, published controls
`spread` what each says over several blocks.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.nets.blocks import zeroed
from reverie.nets.control import HintEncoder, widths_for
from reverie.nets.dit import DiT, DiTBody, DiTConfig
from reverie.nets.mmdit import MMDiT, MMDiTBody, MMDiTConfig, patch_stem, patches
from reverie.nets.pixart import PixArt, PixArtBody, PixArtConfig
from reverie.nets.precision import Linear
from reverie.nets.sana import Sana, SanaBody, SanaConfig

Transformer = DiT | PixArt | Sana | MMDiT
Spread = Literal["first", "even", "groups"]


@dataclass(frozen=True, kw_only=True)
class ControlTransformerConfig:
    """The shape of a `ControlTransformer`.

    body: of the transformer that it belongs to, the whole of it. blocks: copies of its first (joint) blocks; single: copies of its
    first ones of one stream. spread: how what n copies say goes to N blocks: the first n of them; `even`, block j hears copy
    n j / N (Stable Diffusion 3); `groups`, block j hears copy j / ceil(N / n) (Flux). hint_channels, factor, widths, unit: of the
    picture, as of `ControlNetConfig`. latent: the picture is encoded as the pictures themselves are, and cut into patches. plain:
    it reads no text. unpooled: it is told a vector of zeros.
    """

    body: DiTConfig | PixArtConfig | SanaConfig | MMDiTConfig
    blocks: int
    single: int = 0
    spread: Spread = "first"
    hint_channels: int = 3
    factor: int = 1
    widths: tuple[int, ...] = ()
    unit: bool = False
    latent: bool = False
    plain: bool = False
    unpooled: bool = False

    def __post_init__(self) -> None:
        most = (self.body.depth, self.singles)
        if not (0 <= self.blocks <= most[0] and 0 <= self.single <= most[1] and self.blocks + self.single):
            raise ValueError(f"{self.blocks} and {self.single} copies of a transformer with {most[0]} and {most[1]} blocks")
        if type(self.body) not in BODIES or (not isinstance(self.body, MMDiTConfig) and (self.latent or self.plain)):
            raise ValueError(f"there is no such control of a {type(self.body).__name__.removesuffix('Config')}")
        if not self.widths and not self.latent:
            object.__setattr__(self, "widths", widths_for(self.factor * self.body.patch))

    @property
    def singles(self) -> int:
        """Blocks of one stream of the transformer that it belongs to."""
        return self.body.single if isinstance(self.body, MMDiTConfig) else 0

    @property
    def hearing(self) -> int:
        """Joint blocks of it after which something may be added: in Stable Diffusion 3 not the last."""
        silent = isinstance(self.body, MMDiTConfig) and not self.body.single
        return self.body.depth - silent


BODIES: dict[type, type[nn.Module]] = {DiTConfig: DiTBody, PixArtConfig: PixArtBody, SanaConfig: SanaBody, MMDiTConfig: MMDiTBody}


def _body(c: ControlTransformerConfig) -> Any:
    if isinstance(c.body, MMDiTConfig):
        return MMDiTBody(c.body, c.blocks, c.single, plain=c.plain)
    return BODIES[type(c.body)](c.body, c.blocks)


class ControlTransformer(nn.Module):
    """Equation (1). net(x, t, hint, vector=, tokens=, mask=, guidance=) -> residuals (B, L, D), one per copy.

    x (B, C, H, W), t (B,); hint (B, hint_channels, factor H, factor W) in [-1, 1] or, where it is `latent`, (B, C, H, W). As of
    `ControlNet`, it is net(...) = answered(x, t, heard(hint), ...).
    """

    room = "residuals"

    def __init__(self, config: ControlTransformerConfig) -> None:
        super().__init__()
        self.config = c = config
        self.body = _body(c)
        self.latent, self.hint = c.latent, self._hint()
        self.zeros = nn.ModuleList(zeroed(Linear(c.body.width, c.body.width)) for _ in range(c.blocks + c.single))

    def _hint(self) -> nn.Module:
        c = self.config
        if not c.latent:
            return HintEncoder(c.hint_channels, c.body.width, c.factor * c.body.patch, c.widths)
        assert isinstance(c.body, MMDiTConfig)
        return zeroed(patch_stem(c.body))

    def heard(self, hint: Tensor) -> tuple[Tensor, ...]:
        """E(c), (B, L, D)."""
        c = self.config
        if c.latent:
            assert isinstance(c.body, MMDiTConfig)
            return (patches(self.hint, hint, c.body),)
        return (self.hint((hint + 1) / 2 if c.unit else hint).flatten(2).mT,)

    def answered(
        self,
        x: Tensor,
        t: Tensor,
        heard: Sequence[Tensor],
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> list[Tensor]:
        c = self.config
        told: dict[str, Any] = {"vector": torch.zeros_like(vector) if c.unpooled and vector is not None else vector}
        told |= {} if c.plain else {"tokens": tokens, "mask": mask}
        told |= {"guidance": guidance} if getattr(c.body, "guided", False) else {}
        h, rest = self.body.entered(x, t, **told)
        steps = self.body.walk(h + heard[0].to(h.dtype), rest)
        # in one piece, so that a sample's bias is added before it is rounded in a batch as it is alone
        return [zero(y.contiguous()) for zero, y in zip(self.zeros, steps, strict=True)]

    def forward(self, x: Tensor, t: Tensor, hint: Tensor, **inputs: Any) -> list[Tensor]:
        return self.answered(x, t, self.heard(hint), **inputs)

    def spread(self, said: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What it says, one after each block of the net."""
        c = self.config
        joint = _spread(said[: c.blocks], c.body.depth, c.spread)[: c.hearing]
        if not c.singles:
            return tuple(joint)
        silent = said[0].new_zeros(1).expand_as(said[0])
        joint = [*joint, *[silent] * (c.body.depth - len(joint))]
        return (*joint, *_spread(said[c.blocks :], c.singles, c.spread))

    @property
    def channels(self) -> int:
        """Of x."""
        return self.config.body.in_channels

    def silence(self) -> Iterable[nn.Module]:
        """The layers that start at zero."""
        return (*self.zeros, self.hint if self.latent else self.hint.out)


def _spread(said: Sequence[Tensor], count: int, how: Spread) -> list[Tensor]:
    if not said or how == "first":
        return list(said)
    each = math.ceil(count / len(said)) if how == "groups" else count / len(said)
    return [said[int(j / each)] for j in range(count)]


def control_transformer_of(
    net: Transformer, blocks: int = 0, single: int = 0, factor: int = 1, hint_channels: int = 3, widths: tuple[int, ...] = ()
) -> ControlTransformer:
    """A control of this transformer with its weights, as yet silent. blocks: 0 = half of those that may be copied.

    factor, hint_channels, widths: as of `ControlNetConfig`.
    """
    shape: Any = {"body": net.config, "factor": factor, "hint_channels": hint_channels, "widths": widths}
    most = ControlTransformerConfig(blocks=1, **shape).hearing
    if blocks > most:
        raise ValueError(f"{most} blocks of this transformer can be copied, and {blocks} are asked for")
    made = ControlTransformer(ControlTransformerConfig(blocks=blocks or -(-most // 2), single=single, **shape))
    made.to(next(net.parameters()).device)
    own, theirs = made.body.state_dict(), net.state_dict()
    made.body.load_state_dict({k: theirs[k] for k in own})
    return made
