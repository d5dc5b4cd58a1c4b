"""What diffusers' `scheduler_config.json` says of the process: its path, what the net's output means, and how it is best stepped.

The schedulers are many, the processes two: a table of betas (DDIM, PNDM, Euler, DPM-Solver, ... alike), and a straight line between
data and noise (rectified flow), whose nets are told 1000 sigma.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from reverie.card import Card, parse
from reverie.denoiser import Clock, Denoiser, c_noise, timestep
from reverie.errors import UserError
from reverie.process import rules, schedules
from reverie.process.path import Path
from reverie.process.rules import Rule
from reverie.systems.system import Sampling

RULES = {"epsilon": rules.eps, "v_prediction": rules.v, "sample": rules.x0}
TABLES: Mapping[str, Callable[..., Path]] = {
    "scaled_linear": schedules.scaled_linear_table,
    "linear": schedules.linear_table,
    "squaredcos_cap_v2": schedules.cosine_table,
}
WHERE = "scheduler_config.json"
EDM = {"EDMEulerScheduler": "euler", "EDMDPMSolverMultistepScheduler": "dpmpp-2m"}
"""Those of the process of EDM (arXiv:2206.00364), and the solver of each."""
FEW = {"LCMScheduler": "lcm", "TCDScheduler": "tcd"}
"""Those of nets that were distilled to few steps, and their solvers."""
KNOWN = (
    *(None, "DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler"),
    *("LMSDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("DPMSolverSDEScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler", "IPNDMScheduler"),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", *FEW, *EDM),
)
"""Classes whose process is one of ours; others (VE, consistency models, the cosine curve of audio) are not read as these."""


def is_flow(said: Mapping[str, Any]) -> bool:
    """Whether the process is a rectified flow."""
    flow = (
        "FlowMatch" in str(said.get("_class_name")),
        said.get("use_flow_sigmas"),
        said.get("prediction_type") == "flow_prediction",
    )
    return any(flow)


def process(said: Mapping[str, Any]) -> tuple[Path, Rule, Clock]:
    """The path, the rule and the clock of a net that was trained under this configuration; UserError where it is none of ours."""
    if (cls := said.get("_class_name")) not in KNOWN:
        raise UserError(f"{WHERE}: the process of {cls} is none of ours; known are {', '.join(k for k in KNOWN if k)}")
    if cls in EDM:
        if (told := said.get("prediction_type", "epsilon")) != "epsilon":
            raise UserError(f"{WHERE}: prediction_type is '{told}'; with {cls} we know 'epsilon' only")
        return schedules.edm(said.get("sigma_max", 80.0)), rules.edm(said.get("sigma_data", 0.5)), c_noise()
    if is_flow(said):
        return schedules.flow(), rules.velocity(), timestep(1000.0)
    kind = said.get("beta_schedule", "linear")
    if kind not in TABLES or said.get("trained_betas") is not None:
        raise UserError(f"{WHERE}: beta_schedule is '{kind}'; known are {', '.join(TABLES)}, without trained_betas")
    if (told := said.get("prediction_type", "epsilon")) not in RULES:
        raise UserError(f"{WHERE}: prediction_type is '{told}'; known are {', '.join(RULES)}")
    steps = said.get("num_train_timesteps", 1000)
    ends = () if kind == "squaredcos_cap_v2" else (said.get("beta_start", 1e-4), said.get("beta_end", 0.02))
    path = TABLES[kind](steps, *ends)
    return schedules.zero_snr(path) if said.get("rescale_betas_zero_snr") else path, RULES[told](), timestep(steps, -1)


def denoiser(net: nn.Module, said: Mapping[str, Any], **more: Any) -> Denoiser:
    """The net under this configuration's process; more: as of `Denoiser`."""
    path, rule, clock = process(said)
    sigma_data = float(said.get("sigma_data", 0.5)) if said.get("_class_name") in EDM else None
    return Denoiser(net, path, rule, clock, sigma_data=sigma_data, **more)


def sampling(said: Mapping[str, Any], usual: Sampling) -> Sampling:
    """How a net is best sampled: as usual, unless the configuration is of EDM, or of few steps, without guidance.

    Turbo is told by ancestral steps that stand at the ends of their parts of the way.
    """
    cls, spacing = said.get("_class_name"), said.get("timestep_spacing")
    if cls in EDM:
        ends = said.get("rho", 7.0), said.get("sigma_min", 0.002), said.get("sigma_max", 80.0)
        kind = "exponential(" if said.get("sigma_schedule") == "exponential" else f"karras(rho={ends[0]}, "
        return replace(usual, solver=EDM[str(cls)], grid=f"{kind}smallest={ends[1]}, largest={ends[2]})")
    if cls in FEW:
        return replace(usual, solver=FEW[str(cls)], grid="trailing()", steps=4, guidance=1.0)
    if cls == "EulerAncestralDiscreteScheduler" and spacing == "trailing":
        return replace(usual, solver="euler-a", grid="trailing()", steps=4, guidance=1.0)
    return usual


def bound(said: Mapping[str, Any]) -> float | None:
    """Within what the clean estimate is kept; those of DDPM and DDIM do so unless they say otherwise."""
    usual = said.get("_class_name") in ("DDPMScheduler", "DDIMScheduler")
    return float(said.get("clip_sample_range", 1.0)) if said.get("clip_sample", usual) else None


def grid(said: Mapping[str, Any], usual: str) -> str:
    """The times of the steps that the configuration asks of a flow; `usual` for a table of betas."""
    if not is_flow(said):
        return usual
    if said.get("use_dynamic_shifting"):
        return f"flux_shift(low={said.get('base_shift', 0.5)}, high={said.get('max_shift', 1.15)})"
    return f"shifted(shift={float(said.get('shift', said.get('flow_shift', 1.0)))})"


def written(model: Denoiser, grid: str) -> dict[str, Any]:
    """The configuration for a denoiser of ours, read by diffusers; UserError where it has no such process."""
    card: Card = model.path.card
    if card["name"] == "edm" and model.rule.card["name"] == "edm" and model.clock.card == c_noise().card:  # type: ignore[attr-defined]
        ends = {"sigma_min": 0.002, "sigma_max": card["sigma_max"], "sigma_data": model.sigma_data}
        return {"_class_name": "EDMDPMSolverMultistepScheduler", **ends, "prediction_type": "epsilon"}
    if card["name"] == "flow" and model.rule.card["name"] == "velocity":  # type: ignore[attr-defined]
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, **_shift(grid)}
    whole = card["name"] == "zero_snr"
    inner = card["path"] if whole else card
    kinds = {make.__name__: kind for kind, make in TABLES.items()}
    told = {make.__name__: name for name, make in RULES.items()}
    rule = model.rule.card["name"]  # type: ignore[attr-defined]
    if inner["name"] not in kinds or rule not in told:
        raise UserError(f"diffusers has no scheduler for the path '{inner['name']}' with the rule '{rule}': it cannot be written")
    told_time, number = (getattr(clock, "card", None) for clock in (model.clock, timestep(inner["steps"], -1)))
    if told_time != number:
        raise UserError(f"diffusers tells nets the number of the step, but this one is told {told_time}: it cannot be written")
    betas = {"beta_start": inner["first"], "beta_end": inner["last"]} if "first" in inner else {}
    return {
        "_class_name": "DDIMScheduler",
        "beta_schedule": kinds[inner["name"]],
        **betas,
        "num_train_timesteps": inner["steps"],
        "prediction_type": told[rule],
        "rescale_betas_zero_snr": whole,
        "timestep_spacing": "trailing" if whole else "leading",
        "clip_sample": model.bound is not None,
        "clip_sample_range": model.bound or 1.0,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }


def _shift(grid: str) -> dict[str, Any]:
    said = parse(grid)
    if said["name"] == "flux_shift":
        return {"use_dynamic_shifting": True, "base_shift": said.get("low", 0.5), "max_shift": said.get("high", 1.15), "shift": 1.0}
    return {"use_dynamic_shifting": False, "shift": said.get("shift", 1.0)}
