"""`reverie distill fast --teacher MODEL --steps 2`: a student that draws in a few steps; stops and goes on at any moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from reverie.cli.learning import Learning, learn
from reverie.errors import UserError, nearest
from reverie.systems.distilled import KINDS, Distillation
from reverie.systems.shipped import open_model

PROG = "reverie distill"
DEFAULT = "fast"


@dataclass(frozen=True, kw_only=True)
class Distill(Learning):
    """A student of a model, which draws in a few steps."""

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD")] = DEFAULT
    """A method, or a call of it, as "ect(rounds=4)"."""
    teacher: str = "reverie-avatars"
    """The model to learn from: shipped, or a file."""
    begin: str = ""
    """The model that the student begins as, as one that was reflowed before `one_step`; '' = the teacher."""
    steps: int = 2
    """Steps that a picture of the student takes."""
    guidance: float | None = None
    """The teacher's guidance, which the student learns; none = its own default."""
    scales: tuple[float, ...] = ()
    """Two scales of guidance, between which the student is told one when it draws; none = it has learnt --guidance."""
    source: str = ""
    """Kind of data: avatars, emoji, fashion-mnist, folder; '' = that which the teacher learnt from."""
    data: str = ""
    """Where it is: a folder or file; '' = the packaged or installed set."""
    alone: bool = False
    """Methods that need no teacher begin from its weights, and do not ask it."""
    as_lora: int = 0
    """The rank of a LoRA that learns in place of the whole net, of methods that tell it no further time; 0 = none."""
    pairs: int = 2000
    """Pictures that the teacher makes, for methods that learn from pairs."""
    minutes: float = 30.0
    rate: float = 2e-4
    batch: int = 16

    @property
    def name(self) -> str:
        """Of the method, without its arguments."""
        return self.method.partition("(")[0]

    @property
    def place(self) -> str:
        return f"{self.name}-{self.steps}"

    @classmethod
    def begun(cls, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
        if not {"teacher", "method", "draws"} <= recipe.keys():
            return None
        own = {name: recipe[name] for name in ("method", "teacher", "begin", "source", "data", "pairs")}
        named = {"steps": recipe["draws"], "guidance": recipe["scale"], "alone": recipe["data_alone"]}
        return own | named | {"scales": tuple(recipe["scales"]), "as_lora": recipe.get("rank", 0)}

    def recipe(self) -> Distillation:
        """What is asked for, on the data of the teacher."""
        if self.name not in KINDS:
            raise UserError(f"no method is called '{self.name}'.{nearest(self.name, KINDS)}")
        if self.steps < 1:
            raise UserError(f"--steps is {self.steps}; a picture takes 1 step or more")
        if len(self.scales) not in (0, 2):
            raise UserError(f"--scales takes two scales of guidance, the least and the most, and {len(self.scales)} are given")
        base = open_model(self.teacher)
        learnt: dict[str, Any] = dict(base.about.get("recipe") or {})
        source = self.source or learnt.get("source", "")
        if not source:
            raise UserError(f"{base.name} does not say what it learnt from: name data with --source and --data")
        return Distillation(
            name=f"{base.name}-{self.place}",
            about=f"{base.name} in {self.steps} steps",
            source=source,
            data=self.data or (learnt.get("data", "") if not self.source else ""),
            size=base.defaults.size[0],
            teacher=self.teacher,
            method=self.method if "(" in self.method else f"{self.method}()",
            begin=self.begin,
            draws=self.steps,
            scale=self.guidance,
            scales=tuple(self.scales),
            data_alone=self.alone,
            rank=self.as_lora,
            pairs=self.pairs,
            training=self.training(),
        )


def main(arguments: Sequence[str]) -> None:
    """Distils a model."""
    if arguments and arguments[0] in ("-h", "--help"):
        names = "\n".join(f"  {name:<18} {kind.about}" for name, kind in KINDS.items())
        print(f"methods, by default {DEFAULT}:\n\n{names}\n")
    learn(Distill, arguments, PROG)
