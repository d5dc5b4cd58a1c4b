"""What the commands that draw pictures share: options, the model, a bar, files with everything needed to repeat them."""

import itertools
import json
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tqdm import tqdm

from reverie.cli.parse import parse
from reverie.errors import UserError
from reverie.files import free
from reverie.solve.names import SOLVERS, ambiguity
from reverie.systems import System
from reverie.systems.opening import USUAL, Opening
from reverie.systems.shipped import fast, open_model
from reverie.tasks import metadata
from reverie.tasks.cascade import cascade, enlarger
from reverie.tasks.control import opened as controls
from reverie.tasks.control import wished
from reverie.tasks.follow import Follow, stressed
from reverie.tasks.generate import Picture, Preview, notes
from reverie.tasks.regions import Regions, parted
from reverie.tasks.settings import TUNED, Settings, meant, wanted
from reverie.tasks.start import Task
from reverie.tasks.vary import Vary

TAKEN = (
    "style",
    "count",
    "seed",
    "steps",
    "guidance",
    "negative",
    "solver",
    "grid",
    "handover",
    "height",
    "width",
    "batch",
    "strict",
    "guide",
    "plain",
)


RETOLD = ("vary", "follow")
"""Tasks of every command that --from takes again."""
FEW = 8
"""Steps of models that were distilled, mostly without guidance."""


G = TypeVar("G", bound="Drawing")


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn. Image k of a call has seed `seed + k`; every PNG carries what made it."""

    style: str = ""
    """A style of the model, by name."""
    count: int = 1
    """Pictures of each prompt."""
    seed: int = 0
    """Of the first picture; the others count on from it."""
    steps: int | None = None
    """Of the solver; the model's own where they are not given."""
    guidance: float | None = None
    """u + w (c - u): 1 = plain conditional."""
    negative: str = ""
    """What to steer away from."""
    guide: tuple[str, ...] = ()
    """Wishes about the guidance, as "apg(eta=0)" "interval(low=0.2, high=0.8)": docs/guidance.md lists them."""
    control: tuple[str, ...] = ()
    """Controls and image prompts, as "control(net='edges.safetensors', image='photo.png', take='edges()', weight=0.8)"."""
    region: tuple[str, ...] = ()
    """Prompts of parts of the picture, as "region(mask='left.png', prompt='a red hat')": white in the mask is where it holds."""
    regions_by: Literal["estimates", "attention"] = "estimates"
    """How regions are told apart: by composing estimates, with every model, or by what each place looks at."""
    plain: bool = False
    """Brackets and AND in a prompt are words, and no signs."""
    solver: str | None = None
    """A name of ours or of A1111, ComfyUI, diffusers or InvokeAI, as "DPM++ 2M Karras": `reverie solvers` lists them."""
    grid: str | None = None
    """Times of the steps, as karras(rho=7) or knots(1.0, 0.6, 0.2)."""
    model: str = "reverie-avatars"
    """A shipped model, a file that `reverie train` wrote, or a published one: a folder in diffusers' layout, or a single file."""
    fast: bool = False
    """With the model's variant that draws in a few steps."""
    lora: tuple[str, ...] = ()
    """Changes of the model's weights, each a file or a file and its weight, as "lcm.safetensors:0.8"."""
    embedding: tuple[str, ...] = ()
    """Words that were learnt, each a file, or a file and what the word is called, as "sks=learned_embeds.safetensors"."""
    then: tuple[str, ...] = ()
    """Models that enlarge, one after the other, what this one drew: a cascade."""
    refiner: str = ""
    """A model that draws the end of the way, as Stable Diffusion XL's refiner."""
    handover: float = 0.8
    """The share of the way before the refiner takes over."""
    height: int | None = None
    """Pixels; what the model was trained on where it is not given."""
    width: int | None = None
    """Likewise."""
    out: str = "out"
    """Folder of the pictures; a file that is there is kept, and the new one gets another name."""
    batch: int = 16
    """Pictures that are drawn at once; fewer take less memory."""
    vary: float = 0.0
    """How much of the noise is that of --vary-seed and those after it: variations of one picture. A seed alone takes 0.2."""
    vary_seed: int | None = None
    """See --vary."""
    follow: str = ""
    """Other words, whose picture of the same seed is followed: what both say alike stays where it is (prompt-to-prompt)."""
    stress: tuple[str, ...] = ()
    """Words of the prompt, each with a weight of the attention to it, as "glasses=3" "beard=0"."""
    strict: bool = False
    """One picture at a time: the same to the last bit whatever the count and batch."""
    from_: Annotated[str, tyro.conf.arg(name="from")] = ""
    """A picture whose settings are taken; what else is given changes them."""
    json: bool = False
    """One JSON line per picture on stdout."""
    opening: Annotated[Opening, tyro.conf.arg(name="")] = USUAL

    @property
    def prompts(self) -> tuple[str, ...]:
        """What to draw; each command has its own place for it."""
        return ()

    def saying(self: G, prompt: tuple[str, ...]) -> G:
        """With this prompt where none is given."""
        given: dict[str, Any] = {"prompt": self.prompts or prompt}
        return replace(self, **given)

    def retold(self: G, made: metadata.Made) -> G:
        """With what a picture tells that is not among the settings."""
        larger = [task for task in made.tasks if task.get("name") == "enlarge" and isinstance(task.get("model"), Mapping)]
        taken = [task for task in made.tasks if task.get("name") in RETOLD or task in larger or self.answers(task)]
        if left := [str(task.get("name")) for task in made.tasks if task not in taken]:
            print(f"reverie: {self.from_} was made by {' and '.join(left)}, which --from does not take", file=sys.stderr)
        known = {str(task.get("name")): task for task in made.tasks}
        more: dict[str, Any] = {}
        if self.vary_seed is None and not self.vary and isinstance(seed := known.get("vary", {}).get("seed"), int):
            more = {"vary_seed": seed, "vary": float(known["vary"].get("share", Vary.share))}
        if not (self.follow or self.stress) and (task := known.get("follow")):
            weights = [f"{word}={weight}" for word, weight in dict(task.get("stress") or {}).items()]
            more |= {"follow": str(task.get("said") or ""), "stress": tuple(weights)}
        if not self.then:
            more |= {"then": tuple(str(task["model"].get("given")) for task in larger)}
        return replace(self.saying(made.settings.prompt), **more)

    def answers(self, task: Mapping[str, Any]) -> bool:
        """Whether this command does what a task of a picture did."""
        return False

    def early(self) -> None:
        """What can be refused before a model is loaded."""
        for text in self.control:
            wished(text)
        for text in self.region:
            parted(text)
        stressed(self.stress)
        if self.regions_by != "estimates" and not self.region:
            raise UserError("--regions-by says how regions are told apart, and none is given: give them by --region")

    def tasks(self, system: System) -> tuple[list[Task], dict[str, Any]]:
        """What is done besides drawing from words, and the size that this asks for."""
        tasks: list[Task] = [Follow(self.follow or None, stress=stressed(self.stress))] if self.follow or self.stress else []
        if self.vary and self.vary_seed is None:
            raise UserError("--vary mixes two seeds: name the other one with --vary-seed")
        if self.vary_seed is not None:
            tasks.append(Vary(self.vary_seed, self.vary or Vary.share))
        if self.region:
            tasks.append(Regions(tuple(map(parted, self.region)), self.regions_by))
        return [*tasks, *controls([wished(text) for text in self.control], system, self.opening)], {}


def draw(asked: Drawing, made: metadata.Made | None) -> None:
    """Draws and saves what is asked."""
    wishes = wanted(asked.prompts or ("",), {name: getattr(asked, name) for name in TAKEN})
    _check_folder(Path(asked.out))
    asked.early()
    if asked.fast:
        asked = replace(asked, model=fast(asked.model))
    system = opened(asked, made)
    larger = [open_model(name, asked.opening) for name in asked.then]
    larger = [replace(each, about={**each.about, "given": name}) for each, name in zip(larger, asked.then, strict=True)]
    for each in larger:
        enlarger(each)
    tasks, size = asked.tasks(system)
    settings = replace(wishes, **size).filled(system)
    folder = _folder(Path(asked.out))
    for line in [
        *notes(system, settings, tasks),
        *unheeded(system, asked.negative, asked.guidance),
        *of_solver(asked.solver, settings),
    ]:
        print(f"reverie: {line}", file=sys.stderr)
    with closing(_shown([system, *larger], settings, tasks)) as batches:  # closed before an error is said, so that the bar is gone
        for picture in itertools.chain.from_iterable(batches):
            _keep(picture, system, folder, asked)


def read(kind: type[G], arguments: Sequence[str], prog: str) -> tuple[G, metadata.Made | None]:
    """What is asked, and what the picture named by --from tells: that is the default, so whatever is given wins."""
    asked = parse(kind, arguments, prog, kind())
    if not asked.from_:
        return asked, None
    made = metadata.read(Path(asked.from_))
    told = {name: value for name in TAKEN if (value := getattr(made.settings, name)) is not None}
    if asked.solver and (meant(asked.solver)[1] or told.get("grid") == TUNED):
        told.pop("grid", None)  # "DPM++ 2M Karras" says a grid as well, and a tuned solver's is its own
    asked = parse(kind, arguments, prog, replace(kind(), **of_model(made, kind().model), **told))
    return asked.retold(made), made


def of_model(made: metadata.Made, usual: str) -> dict[str, Any]:
    """What a picture says of its model."""
    return {"model": made.model or usual, "refiner": made.refiner, "lora": made.loras, "embedding": made.embeddings}


def opened(asked: Drawing, made: metadata.Made | None) -> System:
    """The model; one that is not what made the picture is used, and named."""
    try:
        system = open_model(asked.model, asked.opening, asked.refiner, asked.lora, asked.embedding)
    except UserError as error:
        if made is None or asked.model != made.model:
            raise
        raise UserError(f"{asked.from_} was made by '{made.model}': {error} Name the model with --model") from None
    if made is not None and not made.fits(system):
        print(f"reverie: '{asked.model}' is not the model that made {asked.from_}: the picture will differ", file=sys.stderr)
    return system


def _check_folder(path: Path) -> None:
    """UserError where the folder cannot be made or written to, as far as that is known without making it."""
    there = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        reason = "is a file" if os.path.isfile(there) else "may not be written to"
        raise UserError(f"cannot write to {path} ({there} {reason}): choose another folder with --out")


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".reverie.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror}): choose another folder with --out") from None
    return path


def _shown(systems: Sequence[System], settings: Settings, tasks: Sequence[Task]) -> Generator[list[Picture]]:
    """The batches of pictures as they come, with a bar over all steps."""
    events = cascade(systems, settings, tasks)
    steps = int(settings.steps or 0) + sum(system.defaults.steps for system in systems[1:])
    total = len(settings.prompts()) * steps
    with tqdm(total=total, unit="step", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:
        for event in events:
            if isinstance(event, Preview):
                bar.update(len(event.step.x))
            else:
                yield event


def _keep(picture: Picture, system: System, folder: Path, asked: Drawing) -> None:
    path = free(folder / f"{picture.seed:05d}-{_words(picture.prompt) or system.name}.png")
    metadata.save(picture, system, path, asked.model)
    line = {"file": str(path), "seed": picture.seed, "nfe": picture.nfe, "seconds": round(picture.seconds, 3)}
    print(json.dumps(line) if asked.json else path, flush=True)


def of_solver(name: str | None, settings: Settings) -> list[str]:
    """What the name of a solver leaves open, and what the steps of an adaptive one are; one line each."""
    said = [ambiguity(name)] if name else []
    row = SOLVERS.get(str(settings.solver))
    if row and row.family == "adaptive" and settings.steps != 1:
        said.append(
            f"{row.name} chooses its own steps, within each of the {settings.steps} of the grid: --steps 1 leaves all to it"
        )
    return [line for line in said if line]


def _words(prompt: Any) -> str:
    """A prompt as part of a file's name; disks count bytes, and most take 255."""
    words = "-".join("".join(c if c.isalnum() else " " for c in str(prompt)).split())[:60]
    return words.encode()[:120].decode(errors="ignore")


def unheeded(system: System, negative: Any, guidance: float | None) -> list[str]:
    """What was asked of a model that takes no prompt, and has no effect on it; one line each."""
    if system.prompt_encoder is not None:
        if getattr(system.denoiser, "guided", False):
            deaf = f"{system.name} is told the guidance and evaluated once, so the negative prompt has no effect"
            return [deaf] if negative != "" else []
        scale = system.defaults.guidance if guidance is None else guidance
        if scale != 1 and system.defaults.guidance == 1 and system.defaults.steps <= FEW:
            return [
                f"{system.name} was made to be drawn with guidance 1: guidance {scale:g} takes twice the time, and is seldom better"
            ]
        alone = scale == 1 and "instruct" not in system.encoders  # which keeps the picture by it at any guidance
        return [f"guidance is 1, so the negative prompt has no effect on {system.name}"] if negative != "" and alone else []
    said = [("the negative prompt", negative != ""), (f"guidance {guidance}", guidance not in (None, 1))]
    return [f"{system.name} is unconditional, so {what} has no effect" for what, given in said if given]
