"""The training loop: a generator, like the sampling loop.

Nothing random is carried from step to step: the data order, noise, times and dropout of step k are functions of (seed, k), so a
run that was stopped anywhere goes on bit for bit from its last checkpoint (weights, averages, optimiser, step).
"""

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from reverie.errors import UserError
from reverie.files import load_tensors, save_tensors
from reverie.rng import digest
from reverie.train.ema import PowerEma
from reverie.train.training import Training


@dataclass(frozen=True)
class Key:
    """The randomness of one step, and the share of the run that lies behind it; 0 while its length is not known."""

    seed: int
    step: int
    share: float = 0.0

    def torch(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(digest(self.seed, purpose, self.step) % 2**63)

    def numpy(self, purpose: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=digest(self.seed, purpose, self.step)))


class Job(Protocol):
    """What is trained: a module, a loss per sample, and a number for the held-out data, with fixed noise and times. It may say how
    many of its first steps are `slow`, so that the length of a run is not told by them."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def size(self) -> int: ...

    def loss(self, index: np.ndarray, key: Key) -> Tensor: ...

    def validate(self) -> float: ...


@runtime_checkable
class Finishing(Protocol):
    """A job that measures something once the averaged weights are in their places; what it says goes into the file's card."""

    def finish(self) -> Mapping[str, Any]: ...


@runtime_checkable
class Watching(Protocol):
    """A job that sees for itself whether what it makes now is worth keeping."""

    def astray(self) -> str:
        """What is wrong with it, in a few words; '' where nothing is."""
        ...


@runtime_checkable
class Showing(Protocol):
    """A job with pictures of its own to show, (N, C, H, W) in [-1, 1] in rows of eight, where it makes no generator."""

    def shown(self) -> Tensor: ...


@runtime_checkable
class Ordering(Protocol):
    """A job that says itself which examples a step sees: a function of (seed, step) alone."""

    def order(self, batch: int, step: int, seed: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Progress:
    """The state of a run after a step."""

    step: int
    steps: int  # 0 while the speed is not known yet
    loss: float
    seconds: float  # with all that belongs to it, all sessions together
    validation: float | None = None
    saved: bool = False


def order(size: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Indices of step's batch in an endless sequence of fresh permutations."""
    first = step * batch
    where = np.arange(first, first + batch)
    epochs = {int(e): np.random.Generator(np.random.Philox(key=digest(seed, "order", int(e)))) for e in np.unique(where // size)}
    shuffled = {e: g.permutation(size) for e, g in epochs.items()}
    return np.array([shuffled[int(w) // size][int(w) % size] for w in where])


HOPELESS = 20  # steps in a row without a finite gradient
ASTRAY = 2  # states in a row that a job would not keep


class Run:
    """A job with its optimiser and averages, on disk under `folder`."""

    def __init__(self, job: Job, training: Training, folder: Path) -> None:
        self.job, self.training, self.folder = job, training, folder
        self.parameters = [p for p in job.module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=training.rate, betas=(0.9, training.beta2), weight_decay=training.weight_decay, fused=True
        )
        self.ema = PowerEma(job.module, training.widths)
        self.step, self.steps, self.seconds = 0, training.steps or 0, 0.0
        self.complaint = ""  # what went wrong last, until somebody has said it
        self.skipped = 0  # steps in a row without a finite gradient
        self.refused = 0  # states in a row that were not worth keeping
        self.stop = False  # set it, and the run ends after the step it is in
        self.slow = (0, 0.0)  # the last of the steps that are slower than those that follow, and when it was taken
        self.whole = True  # False inside a step, where weights and step number do not belong together

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def rate(self) -> float:
        """Warm-up, flat, then linear to 0."""
        left = 1.0
        if self.steps and self.training.decay:
            left = min(1.0, (self.steps - self.step) / (self.training.decay * self.steps))
        return self.training.rate * min(1.0, (self.step + 1) / max(1, self.training.warmup)) * left

    def advance(self) -> float:
        """One optimiser step; the mean loss."""
        key = Key(self.training.seed, self.step, self.step / self.steps if self.steps else 0.0)
        self.whole = False
        torch.manual_seed(digest(self.training.seed, "dropout", self.step) % 2**63)
        loss = self.job.loss(self.index(), key).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.training.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        if bool(norm.isfinite()):
            self.optimiser.step()
            self.skipped = 0
        else:
            self.skip()
        self.step += 1
        self.ema.update(self.job.module, self.step)
        self.whole = True
        return float(loss.detach())

    def index(self) -> np.ndarray:
        """The examples of the next step."""
        batch, seed = self.training.batch, self.training.seed
        if isinstance(self.job, Ordering):
            return self.job.order(batch, self.step, seed)
        return order(self.job.size, batch, self.step, seed)

    def skip(self) -> None:
        """A step without a finite gradient changes nothing; many in a row are the end."""
        self.skipped += 1
        self.complaint = f"step {self.step} has no finite gradient and was skipped"
        if self.skipped == HOPELESS:
            raise UserError(
                f"training diverged at step {self.step - HOPELESS + 1}: the last {HOPELESS} steps had no finite gradient; "
                f"{self.remedy}"
            )

    def give_up(self) -> None:
        """UserError where what is learnt has been worthless for a while."""
        if isinstance(self.job, Watching) and self.refused >= ASTRAY:
            raise UserError(f"training diverged: {self.complaint}, nor was what came before it; {self.remedy}")

    @property
    def remedy(self) -> str:
        """What to do about a run that diverged."""
        return (
            f"what was saved before stays in {self.folder}; begin again in another folder, with a smaller rate than "
            f"{self.training.rate:g} or a longer warm-up"
        )

    def spoilt(self) -> str:
        """What is wrong: weights or averages that are no numbers, or, after a step without a finite gradient, have no loss; or
        what the job itself sees."""
        held = itertools.chain(self.parameters, *(average.values() for average in self.ema.averages))
        if not all(bool(p.isfinite().all()) for p in held) or (self.skipped and not math.isfinite(self.job.validate())):
            return "has weights that are spoilt"
        return self.job.astray() if isinstance(self.job, Watching) else ""

    def save(self) -> bool:
        """Writes the checkpoint; where the disk is full, or the weights are spoilt, the run goes on and the older one stays."""
        if wrong := self.spoilt():
            self.complaint = f"step {self.step} {wrong}: it was not saved"
            self.refused += 1
            return False
        self.refused = 0
        tensors = {f"model.{k}": v for k, v in self.job.module.state_dict().items()} | self.ema.state()
        for i, p in enumerate(self.parameters):
            tensors |= {f"optimiser.{i}.{k}": v for k, v in self.optimiser.state.get(p, {}).items()}
        about: dict[str, float | None] = {"step": self.step, "steps": self.steps, "seconds": self.seconds}
        about |= {"seed": self.training.seed, "minutes": None if self.training.steps else self.training.minutes}
        try:
            save_tensors(self.checkpoint, tensors, {"reverie.run": about})
            self.complaint = ""
        except UserError as error:
            self.complaint = str(error)
        return not self.complaint

    def resume(self) -> None:
        """Takes up the checkpoint in the folder, and where it stopped; a foreign or torn one is a UserError."""
        run = self.restore()
        if run["seed"] != self.training.seed:
            raise UserError(
                f"{self.checkpoint} was trained with seed {run['seed']}, not {self.training.seed}: use --seed {run['seed']}"
            )
        before = self.rate()
        self.lengthen(run.get("minutes", self.training.minutes))
        if self.rate() > 1.001 * before:
            self.complaint = f"the run is now {self.steps or 'more'} steps long: its rate had begun to fall, and rises again"

    def restore(self) -> dict[str, Any]:
        """The state of the checkpoint in the folder, in place of what it is now; what is said of it there."""
        tensors, about = load_tensors(self.checkpoint, self._without())
        run = about.get("reverie.run")
        parts = ("model.", "ema.", "optimiser.")
        if run is None or not all(k.startswith(parts) for k in tensors):
            raise UserError(f"{self.checkpoint} is not a checkpoint of a run: name the run's own folder with --out")
        try:
            self.job.module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
            self.ema.load(tensors)
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.checkpoint} belongs to another model ({reason}): give the recipe it was made with") from None
        for i, p in enumerate(self.parameters):
            head = f"optimiser.{i}."
            state = {k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)}
            if state:  # the fused optimiser walks memory: its moments must lie as the weights do, channels innermost or not
                self.optimiser.state[p] = {k: torch.empty_like(p).copy_(v) if v.shape == p.shape else v for k, v in state.items()}
        self.step, self.seconds, self.steps = run["step"], run["seconds"], run["steps"]
        self.skipped = 0
        found: dict[str, Any] = run
        return found

    def _without(self) -> str:
        """What to do about a checkpoint that cannot be read."""
        snapshots = any(self.folder.glob("snapshot-*.safetensors"))
        return "delete it: --resume then begins anew" + (", and --average 0.05 makes a model of the snapshots" if snapshots else "")

    def lengthen(self, minutes: float | None) -> None:
        """Another length for the run, where another was asked for; minutes: what fixed the number of steps it had, if they did."""
        training, over = self.training, False
        if training.steps:
            self.steps, over = training.steps, training.steps < self.step
        elif training.minutes != minutes:
            self.steps, over = 0, self.seconds > 60 * training.minutes
            self.plan()
        if over:
            raise UserError(
                f"{self.folder} is at step {self.step} already, after {self.seconds / 60:.3g} minutes: "
                "--steps and --minutes count from its beginning; give more, or leave them out"
            )

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the module holds its shortest average in place of its weights."""
        module = self.job.module
        own = {k: v.detach().clone() for k, v in module.state_dict().items()}
        training = module.training
        module.load_state_dict(self.ema.averages[0])
        module.eval()
        try:
            yield
        finally:
            module.load_state_dict(own)
            module.train(training)

    def plan(self) -> None:
        """Fixes the number of steps once a twentieth of the time has shown the speed, after slow ones or half of the time."""
        whole, slow = 60 * self.training.minutes, getattr(self.job, "slow", 0)
        self.slow = (slow, self.seconds) if self.step == slow else self.slow
        if self.steps or self.seconds <= min(60.0, whole / 20):
            return
        quick = self.step > 1.2 * slow
        if quick or self.seconds > whole / 2:
            step, seconds = self.slow if quick else (0, 0.0)
            pace = (self.step - step) / (self.seconds - seconds)
            self.steps = max(self.step + 1, int(self.step + (whole - self.seconds) * pace))

    def snapshot(self) -> None:
        """Stores the averages at evenly spaced moments, in half precision."""
        every = max(1, self.steps // max(1, self.training.snapshots)) if self.steps else 0
        if every and self.training.snapshots and (self.step % every == 0 or self.step == self.steps):
            tensors = {k: v.half() if v.is_floating_point() else v for k, v in self.ema.state().items()}
            try:
                save_tensors(self.folder / f"snapshot-{self.step:07d}.safetensors", tensors, {"step": self.step})
            except UserError as error:
                self.complaint = str(error)


def fit(run: Run) -> Iterator[Progress]:
    """Trains to the end, yielding after every step; saves at intervals, at the end, and when it is closed or interrupted."""
    training, module = run.training, run.job.module
    saved_at = validated_at = before = run.seconds
    begin = time.perf_counter()
    module.train()
    try:
        while not run.stop and (not run.steps or run.step < run.steps):
            loss = run.advance()
            run.seconds = before + time.perf_counter() - begin
            run.plan()
            run.snapshot()
            last = run.step == run.steps
            now = Progress(run.step, run.steps, loss, run.seconds)
            due = last or run.seconds - validated_at >= 60 * training.validate_minutes
            if due or run.seconds - saved_at >= 60 * training.save_minutes:  # what is shown was saved before
                now, saved_at = replace(now, saved=run.save()), run.seconds
                run.give_up()
            if due:
                with run.averaged():
                    now, validated_at = replace(now, validation=run.job.validate()), run.seconds
            yield now
    finally:
        if run.step != run.steps and run.whole:
            run.save()
        module.eval()
