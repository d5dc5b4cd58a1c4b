"""Further clocks of a net: numbers that it is told beside its time, as the time a jump aims at, or a scale of guidance.

    e = s(c_0) + sum_k W_k s(c_k),   s: sinusoids, c_0 the clock of t        before the two layers of the embedding   (1)

After Luo et al., "Latent consistency models", arXiv:2310.04378, section 4.2, whose one W is that of the guidance scale. Every W_k
starts at zero: a net that is told more is at first the net itself, bit for bit.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from reverie.nets.blocks import TimeEmbedding, sinusoids, zeroed

WIDTH = 256
"""Of the sinusoids of a further clock."""


class Clocks(TimeEmbedding):
    """c (B, 1 + K) -> (B, out), equation (1): an embedding of time that takes in the clocks `names`."""

    def __init__(self, own: TimeEmbedding, names: Sequence[str]) -> None:
        nn.Module.__init__(self)
        self.dim, self.max_period, self.sine_first, self.shift = own.dim, own.max_period, own.sine_first, own.shift
        self.mlp, self.names = own.mlp, tuple(names)
        self.more = nn.ModuleDict({name: zeroed(nn.Linear(WIDTH, own.dim, bias=False)) for name in names})
        first = next(own.mlp.parameters())
        self.more.to(first.device, first.dtype)

    def forward(self, t: Tensor) -> Tensor:
        if t.ndim != 2 or t.shape[1] != 1 + len(self.names):
            raise ValueError(
                f"t: expected (B, {1 + len(self.names)}), the clocks of t and {', '.join(self.names)}, got {tuple(t.shape)}"
            )
        own = next(self.mlp.parameters()).dtype
        e = sinusoids(t[:, 0], self.dim, max_period=self.max_period, sine_first=self.sine_first, shift=self.shift).to(own)
        for k, layer in enumerate(self.more.values(), 1):
            e = e + layer(sinusoids(t[:, k], WIDTH, sine_first=True, shift=1).to(own))
        out: Tensor = self.mlp(e)
        return out


def tell(net: nn.Module, names: Sequence[str]) -> nn.Module:
    """The same net, which is told the clocks `names` from now on: t is (B, 1 + K). One that is told some already keeps those."""
    place, own = next((n, m) for n, m in net.named_modules() if n.split(".")[-1] == "time" and isinstance(m, TimeEmbedding))
    known = dict(own.more.items()) if isinstance(own, Clocks) else {}
    if fresh := [name for name in names if name not in known]:
        made = Clocks(own, [*known, *fresh])
        made.more.update(known)
        net.get_submodule(place.rpartition(".")[0]).time = made
    return net


def hears(net: nn.Module) -> tuple[str, ...]:
    """The clocks that a net is told beside its time."""
    return next((m.names for m in net.modules() if isinstance(m, Clocks)), ())
