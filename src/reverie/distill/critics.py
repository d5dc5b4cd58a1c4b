"""Critics: nets that learn to tell real pictures from made ones, each from another look at them.

    the critic     relu(1 - D(real)) + relu(1 + D(made)) + r1 |D(real) - D(real + 0.1 n)|^2
    the student    -D(made)                                                                                        (1)

Patches    patches of slightly noised points, as beside autoencoders
Features   what each attention of a diffusion model says of noised points (LADD, Sauer et al., arXiv:2403.12015, section 3)
Steps      a step's two ends: x_s beside the x_t that it began at (denoising diffusion GANs, Xiao et al., arXiv:2112.07804, eq. 5)

The last term of (1) keeps D flat where data are, without second derivatives (arXiv:2501.08316, eq. 5).
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from reverie.denoiser import Cond, Model
from reverie.distill.shown import Shown
from reverie.errors import UserError
from reverie.nets.looking import Attend, Site, looking, unseen
from reverie.nets.patchgan import PatchGAN, PatchGANConfig
from reverie.process.path import like
from reverie.train.objective import TimeLaw

FLAT = 0.1
"""How far from real points D is to be flat, in their own units."""


def noise(shown: Shown, purpose: str, x: Tensor) -> Tensor:
    """Of x's shape, of deviation 1."""
    return torch.randn(x.shape, generator=shown.key.torch(purpose), dtype=x.dtype)


def learns(critic: nn.Module, real: Tensor, made: Tensor, shown: Shown, r1: float = 0.0) -> Tensor:
    """What the critic learns, (B,)."""
    said = critic(real, shown, "real")
    loss = F.relu(1 - said) + F.relu(1 + critic(made, shown, "made"))
    if r1:
        loss = loss + r1 * (said - critic(real + FLAT * noise(shown, "flat", real), shown, "real")).square()
    return loss


def fools(critic: nn.Module, made: Tensor, shown: Shown) -> Tensor:
    """What the student learns of it, (B,); the critic stays as it is."""
    out: Tensor = -functional_call(critic, held(critic), (made, shown, "made"))
    return out


def held(module: nn.Module) -> dict[str, Tensor]:
    """Its weights, without a gradient to them."""
    return {k: v.detach() for k, v in (*module.named_parameters(), *module.named_buffers())}


def still(model: Any, x: Tensor, t: Tensor, cond: Cond | None) -> Tensor:
    """An estimate whose gradient goes to x alone."""
    out: Tensor = functional_call(model, held(model), (x, t, cond)) if isinstance(model, nn.Module) else model(x, t, cond)
    return out


class Patches(nn.Module):
    """(x (B, C, H, W), shown, purpose) -> (B,): the mean over patches. light: the most noise that is put on x, of deviation 1."""

    def __init__(self, channels: int, light: float = 0.5) -> None:
        super().__init__()
        self.light = light
        self.net = PatchGAN(PatchGANConfig(in_channels=channels + 1, channels=32, layers=2))

    def forward(self, x: Tensor, shown: Shown, purpose: str) -> Tensor:
        u = self.light * shown.uniform("light")
        out: Tensor = self.net(levelled(x + like(u, x) * noise(shown, purpose, x), u)).flatten(1).mean(1)
        return out


class Steps(nn.Module):
    """(x_s, x_t and t beside each other (B, 2 C + 1, H, W), shown, purpose) -> (B,): the mean over patches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = PatchGAN(PatchGANConfig(in_channels=2 * channels + 1, channels=32, layers=2))

    def forward(self, step: Tensor, shown: Shown, purpose: str) -> Tensor:
        out: Tensor = self.net(step).flatten(1).mean(1)
        return out


class Features(nn.Module):
    """(x (B, C, ...), shown, purpose) -> (B,): heads on what each attention of a model says of noised x. It learns nothing."""

    def __init__(self, model: Model, widths: dict[int, int], times: TimeLaw, hidden: int = 64) -> None:
        super().__init__()
        self.model = [model]  # beside, not within
        self.times = times
        self.heads = nn.ModuleDict(
            {str(site): nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 1)) for site, width in widths.items()}
        )

    def forward(self, x: Tensor, shown: Shown, purpose: str) -> Tensor:
        t = shown.times(self.times, self.model[0].path, "look")
        x_t = self.model[0].path.mix(x, noise(shown, purpose, x), t)
        seen = features(self.model[0], x_t, t, plain(shown.cond))
        said = [head(seen[int(site)]).mean((1, 2)) for site, head in self.heads.items()]
        return torch.stack(said).mean(0)


def features(model: Model, x: Tensor, t: Tensor, cond: Cond | None) -> dict[int, Tensor]:
    """What each attention of a model answers, by its number: (B, rows, heads times E), without a gradient to the model."""
    seen: dict[int, Tensor] = {}

    def look(site: Site, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = attend(q, k, v, mask)
        seen[site.index] = out.transpose(1, 2).flatten(2).float()
        return out

    with unseen(), looking(look):
        still(model, x, t, cond)
    return seen


def features_of(model: Model, shown: Shown, times: TimeLaw) -> Features:
    """A critic by the model's features, whose widths any batch tells. UserError where it has no attention."""
    x, half = shown.x0, torch.full((len(shown.x0),), 0.5, dtype=torch.float64)
    with torch.no_grad():
        widths = {site: h.shape[-1] for site, h in features(model, x, half, plain(shown.cond)).items()}
    if not widths:
        raise UserError("this model has no attention, whose answers the critic would read: choose add in place of ladd")
    return Features(model, widths, times)


def plain(cond: Cond | None) -> Cond | None:
    """What a model is told that hears no further clocks."""
    return cond and replace(cond, guidance=None, target=None)


def levelled(x: Tensor, level: Tensor) -> Tensor:
    """x (B, C, H, W) with level (B,) as a channel more."""
    return torch.cat([x, like(level, x).expand(-1, 1, *x.shape[2:])], 1)


def channels(shown: Shown) -> int:
    """Of points; UserError where they are no pictures."""
    if shown.x0.ndim != 4:
        raise UserError(f"the critic judges pictures, and these points are of shape {tuple(shown.x0.shape[1:])}: choose ladd")
    return shown.x0.shape[1]
