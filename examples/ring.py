"""The whole of a diffusion model on one screen: points on a ring, learnt and drawn again in about ten seconds.

python examples/ring.py [steps]
"""

import sys

import torch

from reverie import Denoiser, Exponential, Rng, denoising, sample
from reverie.nets.mlp import MLP, MLPConfig
from reverie.process import grids, rules, schedules
from reverie.systems.toy.recipe import ring

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 1500

torch.manual_seed(0)
path = schedules.flow()  # x_t = (1 - t) x_0 + t n; try edm(), vp(), cosine(): nothing else changes
model = Denoiser(MLP(MLPConfig()), path, rules.velocity())  # what the net's output means; try rules.x0(), rules.v()
optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)

data = ring(Rng.of(0, 20_000))  # (20000, 2): radius 1, deviation 0.1 around eight places
for _ in range(STEPS):
    x0 = data[torch.randint(len(data), (256,))]
    loss = denoising(model, x0, torch.rand(256).double().clamp(1e-3), torch.randn_like(x0)).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

rng = Rng.of(1, 2000)  # one stream per point: its picture does not depend on who is drawn beside it
grid = grids.uniform()(path, 20)
points = sample(model, path.prior((2000, 2), rng=rng), grid, Exponential(depth=2), rng=rng)
radius = points.norm(dim=1)
print(f"radius {radius.mean():.3f} +- {radius.std():.3f}")  # radius 1.0 +- 0.1, as the data's
