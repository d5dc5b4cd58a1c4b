"""Constructors that remember how they were called, so that a model file can say what it is made of.

`@remembers` gives what a constructor (a function or a class) makes a `card`: its name and arguments as plain JSON. `rebuild` is
the way back. It accepts only constructors it is handed, and checks every argument against its annotation: where a `Path` is wanted
only what makes a `Path` will do, and where a number is wanted only a number. A misspelt name or field names the nearest known one.
"""

import ast
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin

from reverie.errors import UserError, nearest

M = TypeVar("M", bound=Callable[..., Any])
Maker = Callable[..., Any]
Card = dict[str, Any]


def remembers(make: M) -> M:
    """Decorator of a function or a class: the result carries `card = {"name": ..., argument: value, ...}`."""
    signature, maker = inspect.signature(make), typing.cast(Any, make)

    def note(result: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        object.__setattr__(result, "card", {"name": maker.__name__, **{k: card_of(v) for k, v in bound.arguments.items()}})

    if isinstance(make, type):
        maker.__init__ = _noted(maker.__init__, note)
        return make

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        result = make(*args, **kwargs)
        note(result, args, kwargs)
        return result

    return typing.cast(M, made)


def _noted(begin: Callable[..., None], note: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(begin)
    def init(self: object, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        note(self, args, kwargs)  # after the parent's own, so that the class that was called has the last word

    return init


def card_of(value: object) -> Any:
    """The plain form of a value: its card, a dataclass's name and fields, or the value itself."""
    if (card := getattr(value, "card", None)) is not None:
        return card
    if is_dataclass(value) and not isinstance(value, type):
        return {"name": type(value).__name__, **{f.name: card_of(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, (tuple, list)):
        return [card_of(v) for v in value]
    if isinstance(value, Mapping):
        return {k: card_of(v) for k, v in value.items()}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise UserError(f"{value!r} cannot be written into a model card: make it with one of reverie's named constructors")


LIST = "*"  # the field that holds what a call lists without names


def parse(text: str) -> Card:
    """The card written as a call, `flow(shift=3)` or just `flow`; calls may nest.

    Arguments are by name, except for constructors of a list: `knots(1.0, 0.6, 0.2)`.
    """
    try:
        made = _call(ast.parse(text.strip(), mode="eval").body, outer=True)
        if isinstance(made, Mapping) and "name" in made:
            return dict(made)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # the last two: brackets without end
        pass
    raise _no_constructor(text)


def _no_constructor(text: str) -> UserError:
    return UserError(f"'{text}' is not a constructor: write it as name(argument=value, ...), for example flow(shift=3)")


def _call(node: ast.expr, outer: bool = False) -> Any:
    if isinstance(node, ast.Name):
        return {"name": node.id}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (outer or not node.args):
        listed = {LIST: [ast.literal_eval(a) for a in node.args]} if node.args else {}
        return {"name": node.func.id, **listed, **{str(k.arg): _call(k.value) for k in node.keywords}}
    return ast.literal_eval(node)


def rebuild(card: Any, makers: Iterable[Maker], where: str = "card", kind: Any = None) -> Any:
    """The value a card describes; cards may nest, and an argument accepts what its annotation says.

    makers: the constructors there are. kind: an annotation of what is wanted; None = whatever one of `makers` makes.
    Raises UserError where a name, a field or a value is not what is wanted there.
    """
    makers = tuple(makers)
    return _call_of(card, makers, makers, where) if kind is None else _value(card, kind, makers, where)


def _call_of(card: Any, known: Sequence[Maker], makers: Sequence[Maker], where: str) -> Any:
    """What one of the `known` constructors makes of a card's fields."""
    if not isinstance(card, Mapping) or not isinstance(card.get("name"), str):
        raise UserError(f"{where} is {_short(card)}; it must be {_names(known)}")
    named = {make.__name__: make for make in known}
    name, given = card["name"], {k: v for k, v in card.items() if k != "name"}
    if name not in named:
        raise UserError(f"{where}: unknown name '{name}'.{nearest(name, named)}")
    listed, given = _arguments(named[name], given, makers, where)
    try:
        return named[name](*listed, **given)
    except UserError:
        raise
    except Exception as error:  # whatever it says of such arguments, they are the card's
        raise UserError(f"{where}: {name} cannot be made from {_short(given)}: {' '.join(str(error).split())}") from error


def _arguments(make: Maker, given: Card, makers: Sequence[Maker], where: str) -> tuple[list[Any], Card]:
    """(what is listed, what is named) of a call of `make`, each as its annotation asks."""
    name, allowed, hints = make.__name__, inspect.signature(make).parameters, _hints(make)
    variadic = next((p.name for p in allowed.values() if p.kind is p.VAR_POSITIONAL), LIST)
    if LIST in given:
        if variadic == LIST or variadic in given:
            raise _no_constructor(f"{name}({', '.join(map(str, given[LIST]))})")
        given[variadic] = given.pop(LIST)
    for field in given:
        if field not in allowed:
            raise UserError(f"{where}: {name} has no field '{field}'.{nearest(field, allowed)}")
    for field, parameter in allowed.items():
        if parameter.default is parameter.empty and field not in (variadic, *given):
            raise UserError(f"{where}: {name} cannot be made: its field '{field}' is missing")
    made = {
        k: _value(v, Sequence[hints.get(k, Any)] if k == variadic else hints.get(k, Any), makers, f"{where}.{k}")  # type: ignore[misc]
        for k, v in given.items()
    }
    return list(made.pop(variadic, ())), made


def _hints(make: Maker) -> dict[str, Any]:
    return typing.get_type_hints(typing.cast(Any, make).__init__ if isinstance(make, type) else make)


def _value(given: Any, kind: Any, makers: Sequence[Maker], where: str) -> Any:
    """What is given as what the annotation `kind` asks for: made by a constructor, or a plain value."""
    options = get_args(kind) if get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    known = [make for option in options for make in _that_make(option, makers)]
    if isinstance(given, Mapping) and known and (Any not in options or "name" in given):
        return _call_of(given, known, makers, where)
    for option in options:
        if _fits(given, option):
            return _tupled(given)
    raise UserError(f"{where} is {_short(given)}; it must be {' or '.join(_said(option, makers) for option in options)}")


def _that_make(kind: Any, makers: Sequence[Maker]) -> list[Maker]:
    """The constructors whose result is of this kind; a dataclass that none of them makes is its own."""
    if kind is Any:
        return list(makers)
    found = [make for make in makers if _makes(make, kind)]
    return found or ([kind] if isinstance(kind, type) and is_dataclass(kind) else [])


def _makes(make: Maker, kind: Any) -> bool:
    result = make if isinstance(make, type) else _hints(make).get("return")
    return issubclass(result, kind) if isinstance(result, type) and isinstance(kind, type) else result == kind


PLAIN: Mapping[Any, tuple[Any, str]] = {
    float: ((int, float), "a number"),
    int: (int, "a whole number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
    types.NoneType: (types.NoneType, "none"),
}


def _fits(given: Any, kind: Any) -> bool:
    """Whether a plain value is of this kind; NaN is no number, and text no list."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if kind in PLAIN:
        number = isinstance(given, PLAIN[kind][0]) and isinstance(given, bool) == (kind is bool)
        return number and not (isinstance(given, float) and math.isnan(given))
    if origin in (typing.Union, types.UnionType):
        return any(_fits(given, option) for option in inner)
    if origin is typing.Literal:
        return given in inner
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(given, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in given.items())
    if origin is tuple and inner[1:] != (...,):
        return isinstance(given, (list, tuple)) and len(given) == len(inner) and all(map(_fits, given, inner))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(given, (list, tuple)) and all(_fits(v, inner[0]) for v in given)
    return False


def _tupled(given: Any) -> Any:
    return tuple(map(_tupled, given)) if isinstance(given, (list, tuple)) else given


def _said(kind: Any, makers: Sequence[Maker]) -> str:
    """A kind in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in PLAIN:
        return PLAIN[kind][1]
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, inner))}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping of names" if inner[1] is Any else f"a mapping to {_said(inner[1], makers)}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        count = f"{len(inner)} values, each " if origin is tuple and inner[1:] != (...,) else "a list, each "
        return count + _said(inner[0], makers)
    return _names(_that_make(kind, makers))


def _names(known: Sequence[Maker]) -> str:
    return f"made by one of: {', '.join(make.__name__ for make in known)}"


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:77]}..."
