"""The numbers of docs/parity.md, so that a version of diffusers that differs from 0.42.1 says so here."""

import diffusers
import pytest
import torch
from peers import BETAS, EDM, F64, VP, against_diffusers, by_diffusers, error, ours, scheduler

from reverie.process import rules
from reverie.solve import DDIM, Churn, Exponential, Single, euler, unipc

pytestmark = [  # of diffusers with numpy 2, and of its own algorithm types
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*dpmsolver:FutureWarning"),
]
TRAILING = {**BETAS, "timestep_spacing": "trailing"}
THIRD = {**TRAILING, "solver_order": 3}
KEEP = {"clip_sample": False}
ABOVE = {"final_sigmas_type": "sigma_min", "lower_order_final": False}
SDE = {"algorithm_type": "sde-dpmsolver++", "lower_order_final": False}


def made(name, steps=10, **options):
    """A scheduler as it comes, in float32."""
    peer = getattr(diffusers, f"{name}Scheduler")(**options)
    peer.set_timesteps(steps)
    return peer


def single(order, solver_type):
    """DPMSolverSinglestep's distance from DPM-Solver++(2S) or (3S), at the same stages."""
    options = {**BETAS, **ABOVE, "solver_order": order, "solver_type": solver_type}
    peer, _ = scheduler("DPMSolverSinglestep", VP, 12, **options)
    lam = torch.linspace(-2.5, 3, 13, dtype=F64)
    peer.sigmas = (-lam).exp()
    run = ours(VP, VP.t_of_lam(lam[::order]), Single(order))
    return error(run, by_diffusers(peer, run, rules.eps()))


def first_step():
    """iPNDM's first step with an estimate of 0.5 from x = 0.8, over the estimate's weight; 0.5 if it were DDIM's."""
    peer = made("IPNDM")
    x = peer.step(torch.tensor([-0.5]), peer.timesteps[0], torch.tensor([0.8])).prev_sample  # v = -x0 where nothing is left of it
    return (x - peer.betas[1] * 0.8) / peer.alphas[1]


def rounding():
    """Relative error of the first sigma of a table in float32."""
    a, (alpha, sigma) = made("DDIM", **BETAS).alphas_cumprod[0], VP(1e-3)
    return abs(((1 - a) / a).sqrt() * alpha / sigma - 1)


MEASURED = {
    "flow sigmas shifted twice": (lambda: made("FlowMatchEulerDiscrete", shift=3.0).sigmas[-2], 0.008929),
    "ddim linspace": (lambda: against_diffusers(VP, DDIM(), "DDIM", {**BETAS, **KEEP, "timestep_spacing": "linspace"}), 6.35e-2),
    "ddim trailing of 30": (lambda: against_diffusers(VP, DDIM(), "DDIM", {**TRAILING, **KEEP}, steps=30), 3.33e-3),
    "first timestep of ddim": (lambda: made("DDIM", **BETAS).timesteps[0], 900),
    "first timestep of euler": (lambda: made("EulerDiscrete", **BETAS).timesteps[0], 999),
    "leading of euler ends": (lambda: 1 + made("EulerDiscrete", **BETAS, timestep_spacing="leading").timesteps[-1], 1),
    "leading of dpm ends": (lambda: 1 + made("DPMSolverMultistep", **BETAS, timestep_spacing="leading").timesteps[-1], 91),
    "deis ends": (lambda: made("DEISMultistep", **BETAS).sigmas[-1], 0.02917),
    "deis on flow ends": (lambda: made("DEISMultistep", 4, use_flow_sigmas=True).sigmas[-1], 0.24975),
    "flow-match flow begins": (lambda: made("FlowMatchEulerDiscrete", 4).sigmas[1], 0.667),
    "dpm flow begins": (lambda: made("DPMSolverMultistep", 4, use_flow_sigmas=True).sigmas[1], 0.74925),
    "karras of euler": (lambda: made("EulerDiscrete", **TRAILING, use_karras_sigmas=True).sigmas[-2], 0.34167),
    "karras of dpm": (lambda: made("DPMSolverMultistep", **TRAILING, use_karras_sigmas=True).sigmas[-2], 0.02917),
    "sde 3m": (lambda: against_diffusers(VP, Exponential(3, 1.0, published=True), "DPMSolverMultistep", {**THIRD, **SDE}), 0.232),
    "dpmpp-3m lower at the end": (
        lambda: against_diffusers(VP, Exponential(3, published=True), "DPMSolverMultistep", THIRD),
        0.01134,
    ),
    "unipc-3 lower at the end": (lambda: against_diffusers(VP, unipc(3), "UniPCMultistep", THIRD), 0.01547),
    "single 3 midpoint": (lambda: single(3, "midpoint"), 3.02e-3),
    "single 3 heun": (lambda: single(3, "heun"), 5.20e-3),
    "single 2 heun": (lambda: single(2, "heun"), 1.385e-2),
    "churn of euler": (
        lambda: against_diffusers(
            VP, Churn(euler(), 4.0, 10, high=5.0), "EulerDiscrete", TRAILING, {"s_churn": 4.0, "s_tmax": 5.0}
        ),
        0.531,
    ),
    "churn of edm": (
        lambda: against_diffusers(EDM, Churn(euler(), 4.0, 10, high=5.0), "EDMEuler", {}, {"s_churn": 4.0, "s_tmax": 5.0}),
        0.188,
    ),
    "noise on the data": (
        lambda: against_diffusers(VP, DDIM(1.0, share=1.0), "DDPM", {**TRAILING, **KEEP, "variance_type": "fixed_large"}),
        0.314,
    ),
    "ipndm's first estimate": (first_step, 0.0),
    "tcd ends": (lambda: (1 - made("TCD").alphas_cumprod[0]).sqrt(), 0.02915),
    "lcm's skip at 19": (lambda: made("LCM").get_scalings_for_boundary_condition_discrete(19)[0], 6.925e-6),
    "float32": (rounding, 1.28e-5),
}


@pytest.mark.parametrize("quirk", MEASURED)
def test_measured(quirk):
    measure, value = MEASURED[quirk]
    assert float(measure()) == pytest.approx(value, rel=0.01, abs=1e-6)


@pytest.mark.parametrize(
    ("path", "name", "options"),
    [
        (VP, "DPMSolverMultistep", {**THIRD, **ABOVE, "algorithm_type": "sde-dpmsolver"}),
        (EDM, "EDMDPMSolverMultistep", {**SDE, "solver_order": 3}),
    ],
)
def test_third_order_without_a_formula(path, name, options):
    with pytest.raises(UnboundLocalError, match="x_t"):
        against_diffusers(path, Exponential(3, 1.0), name, options)
