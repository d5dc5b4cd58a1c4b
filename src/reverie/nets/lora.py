"""Low-rank changes of linear layers (Hu et al., LoRA, arXiv:2106.09685).

A layer of weights W (out, in) computes with

    W' = W + (alpha / r) B A,   A (r, in), B (out, r),                                                             (1)

where W stays as it is, A begins at random and B at 0: at first W' = W, bit for bit. Once learnt, it is added to W for good.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """Eq. (1): W (out, in) -> W' (out, in), on as many weights as (out + in) r. alpha: None = r."""

    def __init__(self, out: int, into: int, rank: int, alpha: float | None = None) -> None:
        super().__init__()
        if not 1 <= rank <= min(out, into):
            raise ValueError(f"rank {rank} of weights {out}x{into}: it lies between 1 and {min(out, into)}")
        self.scale = 1.0 if alpha is None else alpha / rank
        self.down = nn.Parameter(torch.randn(rank, into) * into**-0.5)
        self.up = nn.Parameter(torch.zeros(out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down).to(weight.dtype)


def adapt(module: nn.Module, rank: int, alpha: float | None = None) -> int:
    """Gives every linear layer within, which has none yet, an A and a B, of rank r or as high as it allows; how many they are."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear) and not parametrize.is_parametrized(layer)]
    for layer in layers:
        out, into = layer.weight.shape
        change = LowRank(out, into, min(rank, out, into) if rank > 0 else rank, alpha).to(layer.weight.device)
        parametrize.register_parametrization(layer, "weight", change)
    return len(layers)


def changes(module: nn.Module) -> Iterator[LowRank]:
    """Those within."""
    return (part for part in module.modules() if isinstance(part, LowRank))


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module by the names that it had before `adapt`, with W' in place of W."""
    out = dict(module.state_dict())
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight"):
            head = f"{name}." if name else ""
            out = {k: v for k, v in out.items() if not k.startswith(f"{head}parametrizations.weight.")}
            out[f"{head}weight"] = layer.weight.detach()
    return out


def merge(module: nn.Module) -> None:
    """W' in place of W for good; nothing of A and B is left."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def lora_state(module: nn.Module) -> dict[str, Tensor]:
    """A, B and alpha of every changed layer, as `<layer>.lora_A.weight`, `.lora_B.weight` and `.alpha`."""
    out: dict[str, Tensor] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight"):
            change: LowRank = layer.parametrizations.weight[0]  # type: ignore[union-attr, index, assignment]
            out |= {f"{name}.lora_A.weight": change.down.detach(), f"{name}.lora_B.weight": change.up.detach()}
            out[f"{name}.alpha"] = torch.tensor(change.scale * len(change.down))
    return out
