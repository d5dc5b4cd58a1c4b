"""Cards: constructors that remember how they were called, and the way back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest
import torch

from reverie.card import card_of, parse, rebuild, remembers
from reverie.denoiser import CLOCKS
from reverie.errors import UserError, nearest
from reverie.process import grids, noise, rules, schedules
from reverie.process.grids import GRIDS
from reverie.process.path import Path
from reverie.train.objective import TIMES, WEIGHTS

NOISES = (noise.gaussian, noise.offset, noise.student_t)
MAKERS = (*schedules.SCHEDULES, *NOISES)
T = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)


def made(make):
    """The result of a constructor with the fewest arguments."""
    if make is schedules.zero_snr:
        return make(schedules.vp(0.2))
    if make in (grids.knots, grids.ratios):
        return make(1.0, 0.5)
    return make(4.0) if make is noise.student_t else make()


@pytest.mark.parametrize("family", [MAKERS, rules.RULES, GRIDS, CLOCKS, WEIGHTS, TIMES])
def test_every_named_constructor_goes_through_json_and_back(family):
    for make in family:
        card = made(make).card
        again = rebuild(json.loads(json.dumps(card)), family)
        assert card["name"] == make.__name__ and again.card == card


@pytest.mark.parametrize("make", schedules.SCHEDULES)
def test_a_rebuilt_path_is_the_same_path(make):
    path = made(make)
    again = rebuild(json.loads(json.dumps(card_of(path))), MAKERS)
    assert all(torch.equal(a, b) for a, b in zip(path(T), again(T), strict=True))


def test_arguments_are_remembered_by_name_with_their_defaults():
    assert card_of(schedules.ve(0.02)) == {"name": "ve", "sigma_min": 0.02, "sigma_max": 50.0, "noise": {"name": "gaussian"}}
    heavy = schedules.edm(noise=noise.student_t(8.0))
    assert card_of(heavy)["noise"] == {"name": "student_t", "dimensions": 8.0}
    again = rebuild(card_of(heavy), MAKERS)
    assert not again.noise.gaussian and again.noise.card == heavy.noise.card


def test_a_call_written_as_text():
    assert parse("flow") == {"name": "flow"}
    assert parse(" flow(shift=3) ") == {"name": "flow", "shift": 3}
    nested = parse("zero_snr(path=vp(beta_max=10.5, noise=student_t(dimensions=8)))")
    assert nested == {"name": "zero_snr", "path": {"name": "vp", "beta_max": 10.5, "noise": {"name": "student_t", "dimensions": 8}}}
    assert rebuild(nested, MAKERS).card["path"]["beta_max"] == 10.5
    assert parse("f(a='x', b=-1.5, c=None, d=(1, 2))") == {"name": "f", "a": "x", "b": -1.5, "c": None, "d": (1, 2)}


def test_a_list_needs_no_names():
    for text in ("knots(1, 0.6, 0.2)", "knots(times=(1, 0.6, 0.2))"):
        assert rebuild(parse(text), GRIDS).card == {"name": "knots", "times": [1, 0.6, 0.2]}
    with pytest.raises(UserError, match=r"knots has no field 'time'. Did you mean 'times'"):
        rebuild(parse("knots(time=1)"), GRIDS)
    with pytest.raises(UserError, match=r"card.times is .* it must be a list, each a number"):
        rebuild(parse("knots('a')"), GRIDS)
    with pytest.raises(UserError, match="not a constructor"):
        rebuild(parse("knots(1, times=(0.5,))"), GRIDS)


NO_CALLS = [
    "flow(",
    "",
    "flow(3)",
    "flow(shift=__import__('os'))",
    "a.b()",
    "flow(shift=1+1)",
    "x = 1",
    "[f() for f in g]",
    "3",
    "{}",
    "{[]: 1}",
]


@pytest.mark.parametrize("text", NO_CALLS)
def test_what_is_not_a_call_is_refused(text):
    with pytest.raises(UserError, match="not a constructor"):
        rebuild(parse(text), MAKERS)


def half(of):
    return float(of) / 2


def test_unknown_names_and_fields_name_the_nearest():
    with pytest.raises(UserError, match=r"path: unknown name 'flwo'. Did you mean 'flow'"):
        rebuild(parse("flwo(shift=3)"), MAKERS, "path")
    with pytest.raises(UserError, match=r"flow has no field 'shfit'. Did you mean 'shift'"):
        rebuild(parse("flow(shfit=3)"), MAKERS, "path")
    with pytest.raises(UserError, match=r"path.path: unknown name 'vq'. Did you mean 'vp'"):
        rebuild(parse("zero_snr(path=vq())"), MAKERS, "path")
    with pytest.raises(UserError, match="student_t cannot be made: its field 'dimensions' is missing"):
        rebuild(parse("student_t"), MAKERS)
    with pytest.raises(UserError, match=r"path: half cannot be made from .*'of': 'x'"):
        rebuild(parse("half(of='x')"), [half], "path")
    with pytest.raises(UserError, match="unknown name 'eval'"):
        rebuild({"name": "eval", "source": "1"}, MAKERS)


OTHER_KINDS = {
    "gaussian()": r"path: unknown name 'gaussian'\..* Known: vp, ",
    "flow(noise=3)": "path.noise is 3; it must be made by one of: gaussian, offset, student_t",
    "flow(noise=None)": "path.noise is None; it must be made by",
    "flow(noise=vp())": "path.noise: unknown name 'vp'. Known: gaussian",
    "zero_snr(path=student_t(dimensions=3))": "path.path: unknown name 'student_t'",
    "zero_snr(path=(1, 2))": "path.path is .* it must be made by one of: vp",
    "zero_snr(path=vp(beta_min='x'))": "path.path.beta_min is 'x'; it must be a number",
    "flow(shift=True)": "path.shift is True; it must be a number",
    "linear_table(steps=10.5)": "path.steps is 10.5; it must be a whole number",
}


@pytest.mark.parametrize("text", OTHER_KINDS)
def test_a_constructor_of_another_kind_is_refused(text):
    with pytest.raises(UserError, match=OTHER_KINDS[text]):
        rebuild(parse(text), MAKERS, "path", Path)


@dataclass(frozen=True)
class Config:
    width: int = 3
    mult: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Room:
    config: Config | None = None
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)
    size: tuple[int, int] = (1, 2)
    how: Literal["open", "shut"] = "open"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("config", "x", "room.config is 'x'; it must be made by one of: Config or none"),
        ("config", {"name": "Config", "mult": 3}, "room.config.mult is 3; it must be a list, each a whole number"),
        ("config", {"width": 3}, "room.config is .* it must be made by one of: Config"),
        ("named", {"a": "text"}, "room.named is .* it must be a mapping to a list, each text"),
        ("named", [1], "room.named is"),
        ("size", [1], "room.size is .* 2 values, each a whole number"),
        ("how", "ajar", "room.how is 'ajar'; it must be one of open, shut"),
    ],
)
def test_every_value_is_of_the_kind_its_annotation_says(field, value, said):
    with pytest.raises(UserError, match=said):
        rebuild({"name": "Room", field: value}, [Room], "room")


def test_what_fits_is_made():
    made = Room(Config(4, (1,)), {"name": ("b",)}, (3, 4), "shut")
    assert rebuild(json.loads(json.dumps(card_of(made))), [Room]) == Room(Config(4, (1,)), {"name": ["b"]}, (3, 4), "shut")
    for given in (float("nan"), "1", None):
        with pytest.raises(UserError, match="shift is"):
            rebuild({"name": "flow", "shift": given}, MAKERS, kind=Path)
    for card in ("flow", 3, None, [], {"shift": 3}, {"name": 3}):
        with pytest.raises(UserError, match="it must be made by one of"):
            rebuild(card, MAKERS)


def test_what_has_no_card_cannot_be_written():
    with pytest.raises(UserError, match="named constructors"):
        card_of(lambda t: t)


def test_dataclasses_and_containers_have_cards():
    card = card_of(Config(width=4))
    assert card == {"name": "Config", "width": 4, "mult": [1, 2]}
    assert rebuild(json.loads(json.dumps(card)), [Config]) == Config(width=4)
    assert card_of({"a": (1, None), "b": Config()}) == {"a": [1, None], "b": {"name": "Config", "width": 3, "mult": [1, 2]}}


def test_remembering_changes_nothing_else():
    @remembers
    def pair(a: int, b: int = 2) -> Config:
        """Its docstring."""
        return Config(a, (b,))

    @remembers
    class Base:
        """Its docstring."""

        def __init__(self, a: int) -> None:
            self.a = a

    @remembers
    class Derived(Base):
        def __init__(self, a: int, *, b: Config) -> None:
            super().__init__(a + 1)

    made = Derived(1, b=Config())
    assert isinstance(made, Base) and made.a == 2 and Base.__doc__ == "Its docstring."
    assert made.card == {"name": "Derived", "a": 1, "b": card_of(Config())} and Base(3).card == {"name": "Base", "a": 3}
    assert rebuild(made.card, [Base, Derived]).card == made.card

    assert pair(1) == Config(1, (2,)) and pair.__doc__ == "Its docstring."
    assert pair(1, b=5).card == {"name": "pair", "a": 1, "b": 5}
    with pytest.raises(TypeError):
        pair()


def test_nearest_lists_what_is_known():
    assert nearest("micha", ["micah", "pixel-art"]) == " Did you mean 'micah'? Known: micah, pixel-art."
    assert nearest("zzz", ["micah"]) == " Known: micah."
