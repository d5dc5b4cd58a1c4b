"""Jobs of kind `learn`: a LoRA, a whole model or a small one of its own, from an album of the library; and of kind `estimate`.

    {"kind": "learn", "album": "cats", "way": "lora", "minutes": 10, "caption": "{}, in the style of sks"}

A run lies in the job's work folder with its checkpoints, so that it goes on where it was paused or killed; what it makes is a LoRA
or a model of the library by the name of the album. Its loss and its previews are results: curve.json and preview.png.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reverie.card import rebuild
from reverie.data.pictures import skipped
from reverie.errors import UserError, nearest
from reverie.files import free, write_whole
from reverie.studio.library import Library
from reverie.studio.queue import Job, Stopped
from reverie.systems.folder.recipe import FOLDER
from reverie.tasks.adapt import Lesson
from reverie.tasks.train import Session
from reverie.train.estimate import advice

if TYPE_CHECKING:
    from reverie.studio.worker import Worker

SMALL = "small"
WAYS = {
    "lora": "low-rank changes of a model's layers: a small file, a handful of pictures",
    "dreambooth": "the whole model: as large a file as its own",
    SMALL: "a small model of its own, from nothing but the pictures: some hundred at least",
}
BOUNDS = {
    "minutes": (0.05, 10_000), "updates": (0, 10_000_000), "rank": (0, 1024),
    "size": (0, 4096), "batch": (1, 4096), "seed": (0, 2**63 - 1),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Learn:
    """A request that has been read: see this module."""

    album: str
    way: str = "lora"
    model: str = "reverie-avatars"
    minutes: float = 10.0
    updates: int = 0
    rank: int = 0
    """0 = what is usual of the way."""
    size: int = 0
    """0 = as the model draws."""
    batch: int = 8
    caption: str = ""
    flip: bool = False
    seed: int = 0

    def recipe(self, library: Library) -> Any:
        """The run that is asked for; opens the model that learns."""
        data = library.album(self.album)
        if self.way == SMALL:
            held = max(1, min(FOLDER.training.holdout, library.albums()[self.album] // 10))
            training = replace(FOLDER.training, minutes=self.minutes, steps=self.updates or None, holdout=held)
            training = replace(training, batch=self.batch, seed=self.seed)
            return replace(FOLDER, data=str(data), size=self.size or FOLDER.size, training=training)
        given = {name: getattr(self, name) for name in ("minutes", "updates", "size", "batch", "caption", "flip", "seed")}
        return Lesson(method=self.way, data=str(data), model=library.model(self.model), rank=self.rank or None, **given).recipe()


def read(asked: Mapping[str, Any], library: Library) -> Learn:
    """UserError for whatever can be known to be wrong before the model is opened."""
    made: Learn = rebuild({**asked, "name": "Learn"}, (Learn,), "job")
    if made.way not in WAYS:
        raise UserError(f"no way to learn is called '{made.way:.80}'.{nearest(made.way[:200], WAYS)}")
    for name, (least, most) in BOUNDS.items():
        if not least <= getattr(made, name) <= most:
            raise UserError(f"{name} is {getattr(made, name)}; it lies between {least} and {most}")
    library.model(made.model), library.album(made.album)
    return made


def do(worker: "Worker", job: Job, asked: Learn) -> Mapping[str, Any]:
    """Learns; {made: what it is called in the library, kind: "loras" or "models", notes}."""
    session = opened(worker, job, asked)
    shown, stopped = Shown(worker, job, session), None
    for now in session:
        shown(now)
        try:
            worker.go_on(job)
        except Stopped as error:  # raised again once what was learnt is on the disk
            stopped, session.run.stop = error, True
    shown.curve()
    if stopped is not None:
        raise stopped
    lora = session.folder / "lora.safetensors"
    kind, made = ("loras", lora) if lora.exists() else ("models", session.folder / "model.safetensors")
    place = free(worker.library.folder / kind / f"{asked.album}.safetensors")
    write_whole(place, lambda part: shutil.copyfile(made, part))
    said = advice(session.folder / "log.jsonl")
    return {"made": place.stem, "kind": kind, "notes": [*skipped(session.problems), *([said] if said else [])]}


def opened(worker: "Worker", job: Job, asked: Learn) -> Session:
    """The run in the job's folder, begun or taken up again; nothing else is in memory with it."""
    worker.forget()
    return Session.open(asked.recipe(worker.library), worker.work(job) / "run", resume=True)


class Shown:
    """What is seen of a run: how far it is at each step, its losses and previews as they come."""

    def __init__(self, worker: "Worker", job: Job, session: Session) -> None:
        self.worker, self.job, self.session = worker, job, session
        self.told: dict[str, Any] = {"job": job.id, "first": 0, "total": 1, "shown": 1}

    def __call__(self, now: Any) -> None:
        self.told |= {"step": now.step, "steps": now.steps or 0, "loss": round(now.loss, 5)}
        if now.validation is not None:
            self.curve()
        self.worker.tell(dict(self.told))

    def curve(self) -> None:
        """curve.json: {loss: [[step, value]...], validation: [...]} of the run's log; preview.png: its newest."""
        folder = self.worker.results(self.job)
        log = self.session.folder / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        curves = {
            name: [[line["step"], line[name]] for line in lines if line.get(name) is not None] for name in ("loss", "validation")
        }
        write_whole(folder / "curve.json", lambda part: part.write_text(json.dumps(curves)))
        if previews := sorted((self.session.folder / "previews").glob("*.png")):
            write_whole(folder / "preview.png", lambda part: shutil.copyfile(previews[-1], part))
            self.worker.tell(self.told | {"curve": self.session.run.step})
