"""Constructors that remember how they were called, so that a model file can say what it is made of.

`@remembers` gives what a constructor returns a `card`: its name and arguments as plain JSON. `rebuild` is the way back; it
accepts only constructors it is handed, and a misspelt name or field is an error that names the nearest known one.
"""

import ast
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ParamSpec, TypeVar

from reverie.errors import UserError, nearest

P = ParamSpec("P")
T = TypeVar("T")
Card = dict[str, Any]


def remembers(make: Callable[P, T]) -> Callable[P, T]:
    """Decorator: the result carries `card = {"name": ..., argument: value, ...}`."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        result = make(*args, **kwargs)
        object.__setattr__(result, "card", {"name": make.__name__, **{k: card_of(v) for k, v in bound.arguments.items()}})
        return result

    return made


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


def rebuild(card: Any, makers: Iterable[Callable[..., Any]], where: str = "card") -> Any:
    """The value a card describes, made by one of `makers`; cards may nest."""
    makers = tuple(makers)
    if isinstance(card, list):
        return tuple(rebuild(v, makers, where) for v in card)
    if not isinstance(card, Mapping) or "name" not in card:
        return card
    known = {make.__name__: make for make in makers}
    name, given = card["name"], {k: v for k, v in card.items() if k != "name"}
    if name not in known:
        raise UserError(f"{where}: unknown name '{name}'.{nearest(str(name), known)}")
    allowed = inspect.signature(known[name]).parameters
    variadic = next((p.name for p in allowed.values() if p.kind is p.VAR_POSITIONAL), LIST)
    if LIST in given:
        if variadic == LIST or variadic in given:
            raise _no_constructor(f"{name}({', '.join(map(str, given[LIST]))})")
        given[variadic] = given.pop(LIST)
    for field in given:
        if field not in allowed:
            raise UserError(f"{where}: {name} has no field '{field}'.{nearest(field, allowed)}")
    try:
        listed = [rebuild(v, makers, f"{where}.{variadic}") for v in given.pop(variadic, ())]
        return known[name](*listed, **{k: rebuild(v, makers, f"{where}.{k}") for k, v in given.items()})
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{where}: {name} cannot be made from {given}: {error}") from None
