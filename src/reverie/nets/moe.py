"""The diffusion transformer whose MLPs are mixtures of experts.

Fei et al., "Scaling diffusion transformers to 16 billion parameters", arXiv:2407.11633. A gate gives each token h the scores
s = softmax(W h); the `top` best of the experts E_i are asked, weighted by their scores as these are, not made to sum to one, and
shared experts are asked by every token:

    y = sum of s_i E_i(h) over the best i, + S(h),   E(h) = W_down (SiLU(W_gate h) * W_up h).                        (1)

That no expert starves is asked for by a term to add to the loss (the paper's weight is 0.01). With f_i the share of all choices
that fell on expert i, and P_i the mean of its score,

    balance = N sum_i f_i P_i, summed over the blocks; where all N experts are used alike it is 1 for each block.     (2)
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.dit import DiT, DiTBlock, DiTConfig
from reverie.nets.precision import Linear, inside


@dataclass(frozen=True, kw_only=True)
class MoEConfig(DiTConfig):
    """The shape of a `MoE`: that of a `DiT`, with experts of hidden width mlp_ratio * width in place of the MLPs.

    experts: how many the gate chooses from. top: how many it chooses. shared: widths of the shared expert's hidden layer. `gelu`
    is not looked at.
    """

    experts: int = 8
    top: int = 2
    shared: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.top <= self.experts:
            raise ValueError(f"top must lie between 1 and the number of experts: got top {self.top}, experts {self.experts}")


MOE_S_2_8E2A = MoEConfig()
MOE_S_2_16E2A = replace(MOE_S_2_8E2A, experts=16)
MOE_B_2_8E2A = MoEConfig(width=768, depth=12, heads=12)
MOE_B_2_16E2A = replace(MOE_B_2_8E2A, experts=16)
MOE_L_2_8E2A = MoEConfig(width=1024, depth=24, heads=16)
MOE_XL_2_8E2A = MoEConfig(width=1152, depth=28, heads=16)
MOE_G_2_16E2A = MoEConfig(width=1408, depth=40, heads=16, experts=16)


class Expert(nn.Module):
    """E of equation (1), (..., width) -> (..., width)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = Linear(width, hidden, bias=False), Linear(width, hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Mixture(nn.Module):
    """Equation (1), (B, L, width) -> (B, L, width); after a forward in training `balance` holds equation (2) for this block."""

    def __init__(self, c: MoEConfig) -> None:
        super().__init__()
        self.top = c.top
        self.gate = Linear(c.width, c.experts, bias=False)
        self.routed = nn.ModuleList(Expert(c.width, int(c.width * c.mlp_ratio)) for _ in range(c.experts))
        self.shared = Expert(c.width, c.shared * c.width) if c.shared else None
        self.balance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(0, 1)  # (T, D)
        score, chosen = self._choose(h)
        y = torch.zeros_like(h)
        for i, expert in enumerate(self.routed):
            token, place = (chosen == i).nonzero(as_tuple=True)
            if token.numel() or torch.is_grad_enabled():  # one that nobody asked still has a gradient, of zero: ranks stay alike
                answer = expert(h[token][None])[0]
                y = y.index_add(0, token, (answer * score[token, place, None]).to(y.dtype))
        y = y.view_as(x)
        return y if self.shared is None else y + self.shared(x)

    def _choose(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The scores (T, top) of the experts chosen for h (T, D), and their numbers.

        A rounded score would send a token elsewhere, so they are computed in float32 whatever the rest is computed in.
        """
        with inside(None, h.device):
            wide = h if h.dtype == torch.float64 else h.float()
            scores = F.linear(wide, self.gate.weight.to(wide.dtype)).softmax(-1)  # (T, N)
        best, chosen = scores.topk(self.top, -1)
        self.balance = None
        if self.training:
            share = F.one_hot(chosen, scores.shape[1]).to(scores.dtype).mean((0, 1))
            self.balance = scores.shape[1] * (share * scores.mean(0)).sum()
        return best, chosen


class MoEBlock(DiTBlock):
    """The block of a `DiT` with a mixture in place of the MLP."""

    def _make_mlp(self, c: DiTConfig) -> None:
        assert isinstance(c, MoEConfig)
        self.experts = Mixture(c)

    def _mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.experts(x)
        return out


class MoE(DiT):
    """net(x, t, vector=, tokens=, mask=): x (B, C, H, W), t (B,) -> (B, out_channels, H, W)."""

    block = MoEBlock

    def _init(self) -> None:
        super()._init()
        for mixture in self._mixtures():
            mixture.gate.reset_parameters()  # small scores that differ little, as published

    def balance(self) -> Tensor:
        """Equation (2) of the last forward, (); it carries a gradient. ValueError unless that was in training mode."""
        terms = [m.balance for m in self._mixtures() if m.balance is not None]
        if len(terms) < len(self.blocks):
            raise ValueError("balance: call the net in training mode first")
        return torch.stack(terms).sum()

    def _mixtures(self) -> list[Mixture]:
        return [block.experts for block in self.blocks if isinstance(block, MoEBlock)]
