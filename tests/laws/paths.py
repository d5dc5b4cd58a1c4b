"""The paths the laws run on, and the mixture whose truth they know."""

import torch

from reverie import oracle
from reverie.process import Path, grids, schedules

F64 = torch.float64

PATHS = {
    "vp": schedules.vp(),
    "scaled_linear": schedules.scaled_linear(),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "ve": schedules.ve(),
    "sub_vp": schedules.sub_vp(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
    "flow_shift_3": schedules.flow(3.0),
    "vp_zero_snr": schedules.zero_snr(schedules.vp()),
    "ve_zero_snr": schedules.zero_snr(schedules.ve()),
    "linear_table": schedules.linear_table(),
    "scaled_linear_table": schedules.scaled_linear_table(),
    "cosine_table": schedules.cosine_table(),
    "table_zero_snr": schedules.zero_snr(schedules.scaled_linear_table()),
}
SMOOTH = {k: v for k, v in PATHS.items() if "table" not in k}  # a table has kinks, which cap the order


def mixture(path: Path) -> oracle.Mixture:
    """Three Gaussians in the plane."""
    means = torch.tensor([[1.2, 0.3], [-0.8, 1.0], [0.1, -1.1]], dtype=F64)
    return oracle.Mixture(path, means, torch.tensor([0.35, 0.25, 0.45], dtype=F64), torch.tensor([0.5, 0.3, 0.2], dtype=F64))


def grid_of(make, steps):
    """The grid with its defaults; of a user's own list, one with that many steps."""
    listed = {grids.knots: (1 - k / steps for k in range(steps)), grids.ratios: (3 * 0.5**k for k in range(steps))}
    return make(*listed.get(make, ()))
