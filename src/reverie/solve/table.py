"""The table of names: our solvers, and what A1111, ComfyUI, diffusers and InvokeAI call them.

One entry is one solver, and adding one is enough: order, evaluations and noise are measured from the solver itself. Names of a
tool stand in one string, parted by '; ', the one to write first. A name of diffusers is a class, with what of its configuration
differs from the class's own default. `note` says where a tool that has the name takes another step, and is empty where the whole
trajectory agrees (ends aside: some tools take the last steps at lower order).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial as of
from typing import Any

from reverie.solve.adams import deis, gradient_estimation, ipndm, lms, plms, pndm
from reverie.solve.adaptive import adaptive_sde, rk23, rk45
from reverie.solve.analytic import Analytic
from reverie.solve.ancestral import DDIM, Learned, Renoise
from reverie.solve.churn import Restart
from reverie.solve.corrected import sa_solver, unipc
from reverie.solve.er_sde import ERSDE
from reverie.solve.exponential import Exponential
from reverie.solve.langevin import Langevin
from reverie.solve.runge_kutta import euler, heun, midpoint, rk4
from reverie.solve.sde import Maruyama
from reverie.solve.single import Single

TOOLS = ("a1111", "comfyui", "diffusers", "invokeai")
"""In this order where two tools mean different solvers by one name; `tool:name` asks for one of them."""


@dataclass(frozen=True)
class Row:
    """A solver by our name, its maker and family, the names that the tools have for it, and how theirs differ."""

    name: str
    make: Callable[[], Any]
    family: str
    a1111: str = ""
    comfyui: str = ""
    diffusers: str = ""
    invokeai: str = ""
    note: str = ""

    def names(self, tool: str) -> tuple[str, ...]:
        """What the tool calls it, the name to write first."""
        return listed(getattr(self, tool))


def listed(text: str) -> tuple[str, ...]:
    """The names of a string of this table."""
    return tuple(text.split("; ")) if text else ()


def _dpm(cls: str, **config: Any) -> str:
    return f"{cls}({', '.join(f'{k}={v!r}' for k, v in config.items())})" if config else cls


MULTI, ONE, UNI, DEIS = (f"{n}Scheduler" for n in ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep"))
EDM = "EDMDPMSolverMultistepScheduler"
SDE = "sde-dpmsolver++"
OWN_STEPS = "between two knots of the grid it takes as many steps as its tolerance asks for"
TREE = "the tools couple the noises of a step by a Brownian tree in sigma, these are one Brownian path of the process"

# fmt: off
ROWS = (
    Row("ddpm", of(DDIM, 1.0), "ancestral", "", "ddpm", "DDPMScheduler; DDPMParallelScheduler", "ddpm"),
    Row("ddpm-large", of(DDIM, 1.0, share=1.0), "ancestral", "", "", _dpm("DDPMScheduler", variance_type="fixed_large")),
    Row("ddpm-learned", Learned, "ancestral", "", "", _dpm("DDPMScheduler", variance_type="learned_range"),
        note="for nets that learnt their variance"),
    Row("ddim", DDIM, "ancestral", "DDIM", "ddim", "DDIMScheduler; DDIMParallelScheduler", "ddim"),
    Row("euler", euler, "runge-kutta", "Euler; k_euler", "euler",
        "EulerDiscreteScheduler; EDMEulerScheduler; FlowMatchEulerDiscreteScheduler", "euler"),
    Row("heun", heun, "runge-kutta", "Heun; k_heun", "heun", "HeunDiscreteScheduler; FlowMatchHeunDiscreteScheduler", "heun"),
    Row("midpoint", midpoint, "runge-kutta", note="its middle is in sigma / alpha; that of the tools' DPM2 is in its log: dpm-2s"),
    Row("rk4", rk4, "runge-kutta"),
    Row("dpm-2s", of(Single, 2, of="noise"), "single-step", "DPM2; k_dpm_2", "dpm_2",
        f"KDPM2DiscreteScheduler; {_dpm(ONE, algorithm_type='dpmsolver')}", "kdpm_2",
        f"{ONE} counts evaluations as steps and takes its middles from the grid"),
    Row("dpm-3s", of(Single, 3, of="noise"), "single-step", "", "", _dpm(ONE, algorithm_type="dpmsolver", solver_order=3), "",
        f"{ONE} counts evaluations as steps and takes its middles from the grid"),
    Row("dpmpp-2s", of(Single, 2), "single-step", "", "", ONE, "dpmpp_2s",
        "diffusers counts evaluations as steps and takes its middles from the grid"),
    Row("dpmpp-3s", of(Single, 3), "single-step", "", "", _dpm(ONE, solver_order=3), "",
        "diffusers counts evaluations as steps and takes its middles from the grid"),
    Row("dpmpp-sde", of(Single, 2, eta=1.0), "single-step", "DPM++ SDE; k_dpmpp_sde", "dpmpp_sde; dpmpp_sde_gpu",
        "DPMSolverSDEScheduler", "dpmpp_sde", TREE),
    Row("seeds-2", of(Single, 2, eta=1.0), "single-step", "", "seeds_2"),
    Row("seeds-3", of(Single, 3, eta=1.0), "single-step", "", "seeds_3"),
    Row("dpmpp-1m", of(Exponential, 1), "multistep", "", "", f"{_dpm(MULTI, solver_order=1)}; {_dpm(EDM, solver_order=1)}",
        note="the same steps as ddim"),
    Row("dpmpp-2m", of(Exponential, 2, published=True), "multistep", "DPM++ 2M; k_dpmpp_2m", "dpmpp_2m",
        f"{MULTI}; {EDM}", "dpmpp_2m"),
    Row("dpmpp-3m", of(Exponential, 3, start="heun"), "multistep",
        note="ours: exact weights, the first two steps by Heun; the tools' 3M is dpmpp-3m-published"),
    Row("dpmpp-3m-published", of(Exponential, 3, published=True), "multistep", "", "",
        f"{_dpm(MULTI, solver_order=3)}; {_dpm(EDM, solver_order=3)}", "dpmpp_3m"),
    Row("dpmpp-2m-sde", of(Exponential, 2, 1.0, published=True), "multistep", "DPM++ 2M SDE; k_dpmpp_2m_sde",
        "dpmpp_2m_sde; dpmpp_2m_sde_gpu", f"{_dpm(MULTI, algorithm_type=SDE)}; CosineDPMSolverMultistepScheduler", "dpmpp_2m_sde"),
    Row("dpmpp-2m-sde-heun", of(Exponential, 2, 1.0), "multistep", "DPM++ 2M SDE Heun; k_dpmpp_2m_sde_heun",
        "dpmpp_2m_sde_heun; dpmpp_2m_sde_heun_gpu", _dpm(MULTI, algorithm_type=SDE, solver_type="heun")),
    Row("dpmpp-3m-sde", of(Exponential, 3, 1.0), "multistep",
        note="ours: exact weights; the tools' 3M SDE is dpmpp-3m-sde-published"),
    Row("dpmpp-3m-sde-published", of(Exponential, 3, 1.0, published=True), "multistep", "DPM++ 3M SDE; k_dpmpp_3m_sde",
        "dpmpp_3m_sde; dpmpp_3m_sde_gpu", _dpm(MULTI, algorithm_type=SDE, solver_order=3),
        note="in diffusers 0.42 half of the last weight has the wrong sign"),
    Row("dpm-2m", of(Exponential, 2, of="noise", published=True), "multistep", "", "", _dpm(MULTI, algorithm_type="dpmsolver")),
    Row("dpm-3m", of(Exponential, 3, of="noise", published=True), "multistep", "", "",
        _dpm(MULTI, algorithm_type="dpmsolver", solver_order=3)),
    Row("dpm-2m-sde", of(Exponential, 2, 1.0, of="noise", published=True), "multistep", "", "",
        _dpm(MULTI, algorithm_type="sde-dpmsolver")),
    Row("res-multistep", of(Exponential, 2), "multistep", "", "res_multistep", _dpm(MULTI, solver_type="heun")),
    Row("deis-2", of(Exponential, 2, of="noise"), "multistep", "", "", DEIS, "deis"),
    Row("deis-3", of(Exponential, 3, of="noise"), "multistep", "", "deis", _dpm(DEIS, solver_order=3), "",
        "the polynomial is in lam, as in diffusers; ComfyUI's is in the time of a linear-beta VP process"),
    Row("unipc-1", of(unipc, 1), "unipc", "", "", _dpm(UNI, solver_order=1)),
    Row("unipc-2", unipc, "unipc", "", "", UNI, "unipc"),
    Row("unipc-2-bh1", of(unipc, 2, "bh1"), "unipc", "", "", _dpm(UNI, solver_type="bh1")),
    Row("unipc-3", of(unipc, 3), "unipc", "", "uni_pc_bh2", _dpm(UNI, solver_order=3), "",
        "ComfyUI ends at sigma = 0.001 and lowers the order of the last steps"),
    Row("unipc-3-bh1", of(unipc, 3, "bh1"), "unipc", "UniPC", "uni_pc", _dpm(UNI, solver_order=3, solver_type="bh1"), "",
        "A1111 takes its times from a grid of its own; ComfyUI ends at sigma = 0.001; both lower the order of the last steps"),
    Row("sa-solver", sa_solver, "sa-solver", "", "sa_solver", "SASolverScheduler", "",
        "noise where 0.05 <= sigma / alpha <= 1, as published for EDM's nets; the tools choose that range by times, and diffusers "
        "takes bh1's weights through two estimates: Corrected(by='sa')"),
    Row("er-sde-1", of(ERSDE, 1), "er-sde"),
    Row("er-sde-2", of(ERSDE, 2), "er-sde"),
    Row("er-sde-3", of(ERSDE, 3), "er-sde", "", "er_sde", "", "er_sde", "the tools' third order leaves the slope at the second's"),
    Row("lms", lms, "adams", "LMS; k_lms", "lms", "LMSDiscreteScheduler", "lms"),
    Row("ipndm", ipndm, "adams", "", "ipndm", "IPNDMScheduler", "", "ComfyUI's last step is DDIM's"),
    Row("ipndm-afs", of(Analytic, ipndm()), "adams", note="with the analytical first step: one evaluation less than steps"),
    Row("plms", plms, "adams", "PLMS", "", _dpm("PNDMScheduler", skip_prk_steps=True)),
    Row("pndm", pndm, "adams", "", "", "PNDMScheduler", "pndm"),
    Row("deis-t-2", of(deis, 2), "adams"),
    Row("deis-t-3", of(deis, 3), "adams", note="tAB-DEIS as published, the polynomial in t"),
    Row("gradient-estimation", gradient_estimation, "adams", "", "gradient_estimation", "", "", "ComfyUI's last step is DDIM's"),
    Row("euler-a", of(Renoise, euler()), "ancestral", "Euler a; k_euler_a; k_euler_ancestral", "euler_ancestral",
        "EulerAncestralDiscreteScheduler", "euler_a",
        "the same steps as ddpm; for flow models ComfyUI steps down in sigma, not in sigma / alpha"),
    Row("dpm2-a", of(Renoise, Single(2, of="noise")), "ancestral", "DPM2 a; k_dpm_2_a", "dpm_2_ancestral",
        "KDPM2AncestralDiscreteScheduler", "kdpm_2_a", "for flow models ComfyUI steps down in sigma, not in sigma / alpha"),
    Row("dpmpp-2s-a", of(Renoise, Single(2)), "ancestral", "DPM++ 2S a; k_dpmpp_2s_a", "dpmpp_2s_ancestral",
        note="for flow models ComfyUI steps down in sigma, not in sigma / alpha"),
    Row("lcm", of(Renoise, DDIM(), gamma=1.0), "re-noising", "LCM; k_lcm", "lcm",
        "LCMScheduler; FlowMatchLCMScheduler; CMStochasticIterativeScheduler", "lcm",
        "diffusers adds the boundary terms of the distilled net, which are part of the denoiser here"),
    Row("rk23", rk23, "adaptive", note=OWN_STEPS),
    Row("rk45", rk45, "adaptive", note=OWN_STEPS),
    Row("adaptive-sde", adaptive_sde, "adaptive", note=OWN_STEPS),
    Row("restart", of(Restart, heun()), "churn", "Restart", note="A1111 chooses how often by the number of steps"),
    Row("euler-maruyama", Maruyama, "sde"),
    Row("heun-sde", of(Maruyama, heun=True), "sde"),
    Row("predictor-corrector", of(Langevin, DDIM(1.0)), "langevin"),
    Row("langevin", of(Langevin, None, 20), "langevin"),
    Row("tcd", of(Renoise, DDIM(), gamma=0.3), "re-noising", "", "", "TCDScheduler", "tcd"),
)
# fmt: on


@dataclass(frozen=True)
class Schedule:
    """A grid, as text, by the names that the tools have for it; `diffusers` are flags, invokeai's is a suffix."""

    grid: str
    a1111: str = ""
    comfyui: str = ""
    diffusers: str = ""
    invokeai: str = ""


SCHEDULES = (
    Schedule("karras()", "Karras; ka", "karras", "use_karras_sigmas", "k"),
    Schedule("exponential()", "Exponential; Polyexponential", "exponential", "use_exponential_sigmas; use_lu_lambdas"),
    Schedule("sgm_uniform()", "SGM Uniform; SGMUniform", "sgm_uniform"),
    Schedule("normal()", "Normal; Uniform", "normal"),
    Schedule("simple()", "Simple", "simple"),
    Schedule("ddim_uniform()", "DDIM", "ddim_uniform"),
    Schedule("kl_optimal()", "KL Optimal", "kl_optimal"),  # A1111's ends above 0, one step short
    Schedule("align_your_steps()", "Align Your Steps"),
    Schedule("linear_quadratic()", "", "linear_quadratic"),
    Schedule("beta()", "", "beta"),
    Schedule("beta_ratios()", "Beta", "", "use_beta_sigmas"),
)

ABSENT: Mapping[str, str] = {
    name.casefold(): why
    for names, why in (
        ("DPM fast; k_dpm_fast; dpm_fast", "it chooses its own grid and orders by the evaluations: dpm-3s is nearest"),
        ("DPM adaptive; k_dpm_ad; dpm_adaptive", "it chooses its own steps, as rk23 does"),
        ("sa_solver_pece", "it evaluates each corrected point again: sa-solver is nearest"),
        ("heunpp2", "its weights depend on where the grid begins: heun is nearest"),
        ("ipndm_v", "its third weight is not the polynomial's (a parenthesis is misplaced): lms has the exact ones"),
        ("exp_heun_2_x0", "dpmpp-2s is nearest"),
        ("exp_heun_2_x0_sde", "seeds-2 is nearest"),
        ("res_multistep_ancestral", "res-multistep draws no noise, dpmpp-2m-sde-heun does"),
        (
            "DDIM CFG++; ddim_cfgpp; euler_cfg_pp; euler_ancestral_cfg_pp; dpmpp_2s_ancestral_cfg_pp; dpmpp_2m_cfg_pp; "
            "res_multistep_cfg_pp; res_multistep_ancestral_cfg_pp; gradient_estimation_cfg_pp",
            "CFG++ is a form of guidance, not a solver: use the name without it",
        ),
    )
    for name in listed(names)
}
"""Names of the tools that nothing here has, and what to use in their place."""
