"""A step of `trace` on disk, so that a picture goes on, bit for bit, in another process: see `trace`'s `begin`."""

import json
from pathlib import Path
from typing import Any

import torch

from reverie.errors import UserError
from reverie.files import load_tensors, save_tensors
from reverie.solve.linear import State
from reverie.solve.loop import Step

_STEP = ("t", "s", "x", "x0")


def save_step(step: Step, path: Path, about: dict[str, Any] | None = None) -> None:
    """Writes the step and what its solver carries, the whole file or none of it; about: JSON of the caller's own."""
    tensors = {name: getattr(step, name) for name in _STEP}
    said: dict[str, Any] = {"index": step.index, "steps": step.steps, "nfe": step.nfe, "about": about or {}}
    if isinstance(step.state, State):
        tensors |= {f"kept.{k}": kept for k, kept in enumerate(step.state.kept)}
        said["times"] = step.state.times
    elif step.state is not None:
        tensors["state"] = step.state
    own = {name: v.clone(memory_format=torch.contiguous_format) for name, v in tensors.items()}  # x0 may be kept, too
    save_tensors(path, own, {"step": json.dumps(said)})


def load_step(path: Path) -> tuple[Step, dict[str, Any]]:
    """(the step, about); UserError where the file is no whole one of these."""
    tensors, found = load_tensors(path, "begin the picture anew")
    try:
        said = found["step"]
        state: Any = tensors.get("state")
        if "times" in said:
            times = tuple(tuple(t) if isinstance(t, list) else t for t in said["times"])
            state = State(times, tuple(tensors[f"kept.{k}"] for k in range(sum(name.startswith("kept.") for name in tensors))))
        step = Step(said["index"], said["steps"], **{name: tensors[name] for name in _STEP}, nfe=said["nfe"], state=state)
        return step, said["about"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} holds no step of a picture ({error}): begin the picture anew") from None
