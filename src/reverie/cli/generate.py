"""`reverie generate "a smiling woman with red hair" --style micah --count 4`: pictures, with everything needed to repeat them."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from reverie.cli.parse import parse
from reverie.errors import UserError
from reverie.systems import System
from reverie.systems.shipped import open_model
from reverie.tasks import metadata
from reverie.tasks.generate import Picture, Preview, Settings, run, settle


@dataclass(frozen=True)
class Generate:
    """Pictures from words. Image k of a call has seed `seed + k`; every PNG carries what made it."""

    prompt: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """What to draw; several prompts give `count` pictures each."""
    style: str = ""
    """A style of the model, by name."""
    count: int = 1
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    """u + w (c - u): 1 = plain conditional."""
    negative: str = ""
    """What to steer away from."""
    solver: str | None = None
    grid: str | None = None
    """Times of the steps, as karras(rho=7)."""
    model: str = "reverie-avatars"
    """A shipped model, or a .safetensors file that `reverie train` wrote."""
    out: str = "out"
    """Folder of the pictures."""
    batch: int = 16
    strict: bool = False
    """One picture at a time: the same to the last bit whatever the count and batch."""
    from_: Annotated[str, tyro.conf.arg(name="from")] = ""
    """A picture whose settings are taken; what else is given changes them."""
    json: bool = False
    """One JSON line per picture on stdout."""


def main(arguments: Sequence[str]) -> None:
    """Generates and saves."""
    asked = parse(Generate, arguments, "reverie generate", Generate())
    settings, name = _settings(asked)
    system = open_model(name)
    settings = settle(system, settings.prompt, {k: v for k, v in vars(settings).items() if k != "prompt"})
    folder = _folder(Path(asked.out))
    for prompt in settings.prompt:
        for note in system.encoder.notes(prompt) if system.encoder is not None else []:
            print(f"reverie: {note}", file=sys.stderr)
    for event in _shown(system, settings):
        for picture in event:
            _keep(picture, system, folder, asked.json)


def _settings(asked: Generate) -> tuple[Settings, str]:
    """Settings of the call, on top of those of the picture named by --from."""
    names = ("style", "count", "seed", "steps", "guidance", "negative", "solver", "grid", "batch", "strict")
    given = {k: v for k in names if (v := getattr(asked, k)) != getattr(Generate(), k)}
    if not asked.from_:
        return Settings(prompt=asked.prompt or ("",), **given), asked.model
    settings, model = metadata.read(Path(asked.from_))
    changed = given | ({"prompt": asked.prompt} if asked.prompt else {})
    return replace(settings, **changed), asked.model if asked.model != Generate().model else model or asked.model


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".reverie.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror}): choose another folder with --out") from None
    return path


def _shown(system: System, settings: Settings) -> Any:
    """The batches of pictures as they come, with a bar over all steps."""
    total = len(settings.texts()) * int(settings.steps or 0)
    bar = tqdm(total=total, unit="step", file=sys.stderr, dynamic_ncols=True, leave=False)
    for event in run(system, settings):
        if isinstance(event, Preview):
            bar.update(len(event.step.x))
        else:
            yield event
    bar.close()


def _keep(picture: Picture, system: System, folder: Path, as_json: bool) -> None:
    words = "-".join("".join(c if c.isalnum() else " " for c in str(picture.prompt)).split())[:60] or system.name
    path = folder / f"{picture.seed:05d}-{words}.png"
    metadata.save(picture, system, path)
    line = {"file": str(path), "seed": picture.seed, "nfe": picture.nfe, "seconds": round(picture.seconds, 3)}
    print(json.dumps(line) if as_json else path, flush=True)
