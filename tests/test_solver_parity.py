"""Parity: our solvers take the steps of diffusers 0.42.1 and of k-diffusion 0.1.1, to rounding, along whole trajectories.

docs/parity.md says what differs, and why.
"""

import pytest
import torch
from peers import (
    BETAS,
    EDM,
    F64,
    FLOW,
    VP,
    against_diffusers,
    by_diffusers,
    by_k_diffusion,
    error,
    k_diffusion,
    ours,
    scheduler,
    turns,
)

from reverie.process import grids, rules
from reverie.solve import DDIM, Churn, Corrected, Exponential, Learned, Renoise, Single, euler, heun, ipndm, lms, plms, pndm, unipc

pytestmark = [  # of diffusers with numpy 2, and of its own algorithm types
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*dpmsolver:FutureWarning"),
]
TRAILING, LEADING = ({**BETAS, "timestep_spacing": name} for name in ("trailing", "leading"))
KEEP = {"clip_sample": False}  # what our models say of the data is never clipped
FULL = {"lower_order_final": False}
ABOVE = {**FULL, "final_sigmas_type": "sigma_min"}  # the grid ends above 0
ROUNDED = ("Euler", "EDMEuler", "KDPM2", "DPMSolverMultistep", "FlowMatch", "LCM")  # in float32, or with a c_skip


def noise(order, **options):
    return Exponential(order, of="noise", **options)


def three(**options):
    """DPM-Solver++(3M) as k-diffusion and `heun` of diffusers take it: the exact weight in the second step."""
    return turns(*[Exponential(3, **options)] * 2, Exponential(3, published=True, **options))


def dpm(solver, order, algorithm="dpmsolver++", **options):
    above = ABOVE if "++" not in algorithm else FULL
    return solver, "DPMSolverMultistep", {**TRAILING, **above, "solver_order": order, "algorithm_type": algorithm, **options}


def sa(depth, tau):
    return Corrected(depth, "sa", eta=tau**2)


def sa_options(depth, tau):
    own = {"predictor_order": depth, "corrector_order": depth + 1, "tau_func": lambda t: torch.tensor(tau, dtype=F64)}
    return {**TRAILING, **FULL, **own}


ON_VP = {
    "ddim": (DDIM(), "DDIM", {**TRAILING, **KEEP}),
    "ddim-offset": (DDIM(), "DDIM", {**LEADING, **KEEP, "steps_offset": 1}),
    "ddim-half": (DDIM(0.5), "DDIM", {**LEADING, **KEEP}, {"eta": 0.5}),
    "ddim-1": (DDIM(1.0), "DDIM", {**TRAILING, **KEEP}, {"eta": 1.0}),
    "ddpm-small": (DDIM(1.0), "DDPM", {**LEADING, **KEEP}),
    "ddpm-large": (DDIM(1.0, share=1.0), "DDPM", {**LEADING, **KEEP, "variance_type": "fixed_large"}),
    "ddpm-learned": (Learned(), "DDPM", {**LEADING, **KEEP, "variance_type": "learned_range"}),
    "euler": (euler(), "EulerDiscrete", TRAILING),
    "euler-karras": (euler(), "EulerDiscrete", {**TRAILING, "use_karras_sigmas": True}),
    "euler-a": (Renoise(euler()), "EulerAncestralDiscrete", TRAILING),
    "heun": (heun(), "HeunDiscrete", TRAILING),
    "dpm2": (Single(2, of="noise"), "KDPM2Discrete", TRAILING),
    "dpm2-a": (Renoise(Single(2, of="noise")), "KDPM2AncestralDiscrete", TRAILING),
    "lms": (lms(), "LMSDiscrete", TRAILING),
    "lms-2": (lms(2), "LMSDiscrete", TRAILING, {"order": 2}),
    **{f"dpmpp-{n}m": dpm(Exponential(n, published=True), n) for n in (1, 2, 3)},
    **{f"dpmpp-{n}m-sde": dpm(Exponential(n, 1.0, published=True), n, "sde-dpmsolver++") for n in (1, 2)},
    **{f"dpm-{n}m": dpm(noise(n, published=True), n, "dpmsolver") for n in (1, 2, 3)},
    **{f"dpm-{n}m-sde": dpm(noise(n, eta=1.0, published=True), n, "sde-dpmsolver") for n in (1, 2)},
    "dpmpp-2m-heun": dpm(Exponential(2), 2, solver_type="heun"),
    "dpmpp-3m-heun": dpm(three(), 3, solver_type="heun"),
    "dpmpp-2m-sde-heun": dpm(Exponential(2, 1.0), 2, "sde-dpmsolver++", solver_type="heun"),
    "dpm-2m-heun": dpm(noise(2), 2, "dpmsolver", solver_type="heun"),
    "dpm-2m-sde-heun": dpm(noise(2, eta=1.0), 2, "sde-dpmsolver", solver_type="heun"),
    **{
        f"unipc-{p}-{b}": (unipc(p, b), "UniPCMultistep", {**TRAILING, **ABOVE, "solver_order": p, "solver_type": b})
        for p in (1, 2, 3)
        for b in ("bh1", "bh2")
    },
    "unip-2": (Corrected(2, corrector=False), "UniPCMultistep", {**TRAILING, **ABOVE, "disable_corrector": range(10)}),
    "unipc-2-to-0": (unipc(2), "UniPCMultistep", TRAILING),
    "unipc-3-to-0": (turns(*[unipc(3)] * 8, unipc(2)), "UniPCMultistep", {**TRAILING, "solver_order": 3}),
    **{f"deis-{n}": (noise(n), "DEISMultistep", {**TRAILING, **FULL, "solver_order": n}) for n in (1, 2, 3)},
    "ipndm": (ipndm(), "IPNDM", {}),
    "plms": (plms(), "PNDM", {**BETAS, "skip_prk_steps": True, "set_alpha_to_one": True}),
    "pndm": (pndm(), "PNDM", {**BETAS, "set_alpha_to_one": True}),
    **{f"sa-{p}-{tau}": (sa(p, tau), "SASolver", sa_options(p, tau)) for p in (1, 2, 3) for tau in (0.0, 0.6, 1.0)},
    "lcm": (Renoise(DDIM(), gamma=1.0), "LCM", BETAS),
    "tcd": (turns(*[Renoise(DDIM(), gamma=0.3)] * 9, DDIM()), "TCD", BETAS, {"eta": 0.3}),
    "tcd-0": (Renoise(DDIM(), gamma=0.0), "TCD", BETAS, {"eta": 0.0}),
}
AS_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
ON_FLOW = {
    "euler": (euler(), "FlowMatchEulerDiscrete", {}),
    "ddim": (DDIM(), "FlowMatchEulerDiscrete", {"shift": 3.0}),
    "heun": (heun(), "FlowMatchHeunDiscrete", {}),
    "lcm": (Renoise(DDIM(), gamma=1.0), "FlowMatchLCM", {}),
    "lcm-euler": (Renoise(DDIM(), gamma=1.0), "FlowMatchEulerDiscrete", {"stochastic_sampling": True}),
    "dpmpp-2m": (Exponential(2, published=True), "DPMSolverMultistep", {**AS_FLOW, **FULL}),
    "unipc-2": (unipc(2), "UniPCMultistep", AS_FLOW),
}
ON_EDM = {
    "euler": (euler(), "EDMEuler", {}),
    **{f"dpmpp-{n}m": (Exponential(n, published=True), "EDMDPMSolverMultistep", {**FULL, "solver_order": n}) for n in (1, 2, 3)},
    "dpmpp-2m-sde": (Exponential(2, 1.0, published=True), "EDMDPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
}
PAIRS = {
    f"{name}-{pair}": (path, *what)
    for name, path, pairs in (("vp", VP, ON_VP), ("flow", FLOW, ON_FLOW), ("edm", EDM, ON_EDM))
    for pair, what in pairs.items()
}


@pytest.mark.parametrize("pair", PAIRS)
def test_diffusers(pair):
    path, solver, name, *options = PAIRS[pair]
    assert against_diffusers(path, solver, name, *options) < (1e-6 if name.startswith(ROUNDED) else 1e-12)


SINGLE = {
    **{f"dpmpp-{n}s": (Single(n), "dpmsolver++") for n in (1, 2)},
    **{f"dpmpp-{n}s-sde": (Single(n, eta=1.0), "sde-dpmsolver++") for n in (1, 2)},
    **{f"dpm-{n}s": (Single(n, of="noise"), "dpmsolver") for n in (1, 2)},
}


@pytest.mark.parametrize("pair", SINGLE)
def test_diffusers_single_step(pair):
    """Its stages are knots of its grid: they lie where ours do if those are even in lam."""
    solver, algorithm = SINGLE[pair]
    peer, _ = scheduler("DPMSolverSinglestep", VP, 10, **BETAS, **ABOVE, solver_order=solver.stages, algorithm_type=algorithm)
    lam = torch.linspace(-2.5, 3, 11, dtype=F64)
    peer.sigmas = (-lam).exp()
    run = ours(VP, VP.t_of_lam(lam[:: solver.stages]), solver)
    assert error(run, by_diffusers(peer, run, rules.eps())) < 1e-12


TO_K = {
    "euler": (euler(), {}),
    "euler churn": (Churn(euler(), 4.0, 10, high=10.0), {"s_churn": 4.0, "s_tmax": 10.0}),
    "euler_ancestral": (Renoise(euler()), {}),
    "euler_ancestral half": (Renoise(euler(), 0.5), {"eta": 0.5}),
    "heun": (heun(), {}),
    "heun churn": (Churn(heun(), 4.0, 10, high=10.0, swell=1.01), {"s_churn": 4.0, "s_tmax": 10.0, "s_noise": 1.01}),
    "dpm_2": (Single(2, of="noise"), {}),
    "dpm_2_ancestral": (Renoise(Single(2, of="noise")), {}),
    "lms": (lms(), {}),
    "dpmpp_2s_ancestral": (Renoise(Single(2)), {}),
    "dpmpp_sde": (Single(2, eta=1.0), {}),
    "dpmpp_2m": (Exponential(2, published=True), {}),
    "dpmpp_2m_sde": (Exponential(2, 1.0, published=True), {}),
    "dpmpp_2m_sde half": (Exponential(2, 0.5, published=True), {"eta": 0.5}),
    "dpmpp_2m_sde heun": (Exponential(2, 1.0), {"solver_type": "heun"}),
    "dpmpp_3m_sde": (Exponential(3, 1.0, published=True), {}),
    "dpmpp_3m_sde ode": (three(), {"eta": 0.0}),
}


@pytest.mark.parametrize("path", [EDM, VP], ids=["edm", "vp"])
@pytest.mark.parametrize("pair", TO_K)
def test_k_diffusion(pair, path):
    solver, options = TO_K[pair]
    run = ours(path, grids.karras()(path, 10), solver)
    assert error(run, by_k_diffusion(pair.split()[0], run, **options)) < 1e-12


@pytest.fixture
def float64():
    """For tensors that a peer makes of numbers."""
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("evaluations", "orders"), [(9, (3, 3, 2, 1)), (11, (3, 3, 3, 2))])
def test_k_diffusion_dpm_fast(evaluations, orders):
    lam = torch.linspace(-4, 4, len(orders) + 1, dtype=F64)
    run = ours(EDM, EDM.t_of_lam(lam), turns(*(Single(n, of="noise") for n in orders)))
    assert error(run, by_k_diffusion("dpm_fast", run, n=evaluations)) < 1e-12


OUR_GRIDS = {
    "trailing": (VP, grids.trailing(), "DDIM", {"timestep_spacing": "trailing"}),
    "leading": (VP, grids.leading(), "DDIM", {"timestep_spacing": "leading"}),
    "linspace": (VP, grids.linspace(), "DDIM", {"timestep_spacing": "linspace"}),
    "karras": (EDM, grids.karras(), "EDMEuler", {}),
    "exponential": (EDM, grids.exponential(), "EDMEuler", {"sigma_schedule": "exponential"}),
}


@pytest.mark.parametrize("steps", [10, 30])
@pytest.mark.parametrize("name", OUR_GRIDS)
def test_grids(name, steps):
    path, grid, peer, options = OUR_GRIDS[name]
    theirs = scheduler(peer, path, steps, **options)[1]
    torch.testing.assert_close(grid(path, steps), theirs, rtol=1e-5, atol=0)
    if path is EDM:
        sigmas = getattr(k_diffusion, f"get_sigmas_{name}")(steps, 0.002, 80.0).double()
        torch.testing.assert_close(path.sigma(grid(path, steps)), sigmas, rtol=1e-5, atol=0)
