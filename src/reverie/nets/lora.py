"""Low-rank changes of linear layers and convolutions, that learn (Hu et al., LoRA, arXiv:2106.09685).

A layer of weights W (out, in, places) gives of x

    y = W x + b + (alpha / r) B A x,   A (r, in, places), B (out, r)                                                (1)

beside W, which stays as it is and needs no gradient. A begins at random and B at 0: at first y is what it was, bit for bit. Once
learnt, B A is added to W for good. With lengths m, one of each row of W (DoRA, Liu et al., arXiv:2402.09353, eq. 5 and 11),

    y = b + m / |W + D| (W + D) x,   D = (alpha / r) B A,   m at first |W|, and no gradient through |W + D|         (2)
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Module):
    """Eq. (1) beside a layer. alpha: None = r. dropout: the share of the entries of x that A does not see while it learns."""

    def __init__(
        self, layer: nn.Module, rank: int, alpha: float | None = None, dropout: float = 0.0, lengths: bool = False
    ) -> None:
        super().__init__()
        out, into, *places = weight(layer).shape
        if not 1 <= rank <= min(out, into):
            raise ValueError(f"rank {rank} of weights {out}x{into}: it lies between 1 and {min(out, into)}")
        self.scale, self.dropout = 1.0 if alpha is None else alpha / rank, dropout
        self.down = nn.Parameter(torch.randn(rank, into, *places) * into**-0.5)
        self.up = nn.Parameter(torch.zeros(out, rank))
        self.length = nn.Parameter(lengths_of(weight(layer).detach())) if lengths else None

    def change(self) -> Tensor:
        """D, in the shape of W."""
        return self.scale * (self.up @ self.down.flatten(1)).view(len(self.up), *self.down.shape[1:])

    def whole(self, own: Tensor) -> Tensor:
        """W' of W."""
        made = own + self.change().to(own.dtype)
        return made if self.length is None else made * self._ratio(own).to(made.dtype)

    def forward(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """What the layer is to give of x, of which it gave y."""
        seen = F.dropout(x, self.dropout, self.training).to(self.down.dtype)
        if isinstance(layer, CONVOLUTIONS):
            inner = layer._conv_forward(seen, self.down, None)
            more = torch.einsum("br...,or->bo...", inner, self.up.to(inner.dtype))
        else:
            more = F.linear(F.linear(seen, self.down), self.up)
        more = (self.scale * more).to(y.dtype)
        if self.length is None:
            return y + more
        ratio, bias = (_shaped(v, layer, y) for v in (self._ratio(weight(layer)), layer.bias))
        return y + (ratio - 1) * (y - bias) + ratio * more

    def _ratio(self, own: Tensor) -> Tensor:
        assert self.length is not None
        with torch.no_grad():
            size = lengths_of(own + self.change().to(own.dtype))
        return self.length / size


class Several(nn.Module):
    """Changes of one layer, of which that of number `which` acts."""

    def __init__(self, every: Sequence[LowRank]) -> None:
        super().__init__()
        self.every, self.which = nn.ModuleList(every), 0

    @property
    def acting(self) -> LowRank:
        """It."""
        found = self.every[self.which]
        assert isinstance(found, LowRank)
        return found

    def forward(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self.acting(layer, x, y)


def _shaped(value: Any, layer: nn.Module, y: Tensor) -> Tensor:
    """A number per row of W, to stand beside y; none is 0."""
    if value is None:
        return y.new_zeros(())
    own: Tensor = value.to(y.dtype)
    return own.view(-1, *[1] * (weight(layer).ndim - 2))


def weight(layer: nn.Module) -> Tensor:
    """W of a layer that `fits`."""
    own: Tensor = layer.weight  # type: ignore[assignment]
    return own


def lengths_of(own: Tensor) -> Tensor:
    """|W| of each row, (out, 1, ...)."""
    fine = torch.promote_types(own.dtype, torch.float32)
    return torch.linalg.vector_norm(own.flatten(1), dim=1, dtype=fine).view(-1, *[1] * (own.ndim - 1))


def fits(layer: nn.Module, convolutions: bool = False) -> bool:
    """Whether a layer can be changed so, and is not yet."""
    kind = isinstance(layer, nn.Linear) or (convolutions and isinstance(layer, CONVOLUTIONS) and layer.groups == 1)
    return kind and not isinstance(getattr(layer, "change", None), (LowRank, Several))


def adapt(
    module: nn.Module,
    rank: int,
    alpha: float | None = None,
    *,
    dropout: float = 0.0,
    lengths: bool = False,
    convolutions: bool = False,
    layers: str = "",
    without: Collection[nn.Module] = (),
    several: int = 0,
) -> int:
    """Gives every linear layer within, which has none yet, an A and a B, of rank r or as high as it allows; how many they are.

    convolutions: those, too, which are not in groups. layers: a regular expression, which some part of a layer's name fits.
    without: layers that have none. several: so many of each, of which `choose` says which acts.
    """
    every = [layer for name, layer in module.named_modules() if fits(layer, convolutions) and re.search(layers, name)]
    named = [layer for layer in every if layer not in without]
    for layer in named:
        most = min(weight(layer).shape[:2])
        made = [LowRank(layer, min(rank, most), alpha, dropout, lengths) for _ in range(several or 1)]
        beside(layer, (Several(made) if several else made[0]).to(weight(layer).device))
    return len(named)


def choose(module: nn.Module, which: int) -> None:
    """Of the layers within that have several changes, those of this number act."""
    for part in module.modules():
        if isinstance(part, Several):
            part.which = which


def beside(layer: nn.Module, change: nn.Module) -> None:
    """From now on the layer gives what `change(layer, x, y)` makes of what it read and gave."""
    layer.change = change
    layer.register_forward_hook(_beside)


def _beside(layer: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
    out: Tensor = layer.change(layer, given[0], y)  # type: ignore[operator]
    return out


def changed(module: nn.Module) -> Iterator[tuple[str, nn.Module, LowRank]]:
    """The layers within that have changes: name, layer, the change that acts."""
    for name, layer in module.named_modules():
        change = getattr(layer, "change", None)
        if isinstance(change := change.acting if isinstance(change, Several) else change, LowRank):
            yield name, layer, change


def changes(module: nn.Module) -> Iterator[LowRank]:
    """Those within."""
    return (change for _, _, change in changed(module))


@torch.no_grad()
def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module by the names that it had before `adapt`, with W' in place of W."""
    out = plain_state(module)
    for name, layer, change in changed(module):
        out[f"{name}.weight" if name else "weight"] = change.whole(weight(layer))
    return out


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The same with W as it is."""
    heads = [f"{name}.change." if name else "change." for name, _, _ in changed(module)]
    return {k: v for k, v in module.state_dict().items() if not k.startswith(tuple(heads))}


@torch.no_grad()
def merge(module: nn.Module) -> None:
    """W' in place of W for good; nothing of A and B is left."""
    for _, layer, change in list(changed(module)):
        weight(layer).copy_(change.whole(weight(layer)))
        del layer.change
        for key in [k for k, hook in layer._forward_hooks.items() if hook is _beside]:
            del layer._forward_hooks[key]


def lora_state(module: nn.Module) -> dict[str, Tensor]:
    """A, B and alpha of every changed layer, as `<layer>.lora_A.weight`, `.lora_B.weight`, `.alpha`, and m as `.dora_scale`."""
    out: dict[str, Tensor] = {}
    for name, _, change in changed(module):
        up = change.up.detach()
        out |= {
            f"{name}.lora_A.weight": change.down.detach(),
            f"{name}.lora_B.weight": up.view(*up.shape, *[1] * (change.down.ndim - 2)),
        }
        out[f"{name}.alpha"] = torch.tensor(change.scale * len(change.down))
        if change.length is not None:
            out[f"{name}.dora_scale"] = change.length.detach()
    return out


def take(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Changes as `lora_state` has them, beside the layers that they name; ValueError where they are of other layers or shapes."""
    own, rest = dict(module.named_modules()), dict(state)
    for name in [k.removesuffix(".lora_A.weight") for k in state if k.endswith(".lora_A.weight")]:
        down, layer = rest.pop(f"{name}.lora_A.weight"), own.get(name)
        up, alpha, length = (rest.pop(f"{name}.{k}", None) for k in ("lora_B.weight", "alpha", "dora_scale"))
        if layer is None or not fits(layer, convolutions=True) or up is None or alpha is None:
            raise ValueError(f"{name} is no layer that could be changed, or its change is not whole")
        change = LowRank(layer, len(down), float(alpha), lengths=length is not None)
        change.load_state_dict({"down": down, "up": up.flatten(1)} | ({} if length is None else {"length": length}))
        beside(layer, change)
    if rest:
        raise ValueError(f"{next(iter(rest))} belongs to no change")
