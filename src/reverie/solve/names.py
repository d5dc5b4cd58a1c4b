"""Solvers by the names people ask for."""

from collections.abc import Callable, Mapping

from reverie.errors import UserError, nearest
from reverie.solve.ancestral import DDIM
from reverie.solve.exponential import Exponential
from reverie.solve.loop import Solver
from reverie.solve.runge_kutta import euler, heun, midpoint, rk4

SOLVERS: Mapping[str, Callable[[], Solver]] = {
    "ddpm": lambda: DDIM(eta=1.0),
    "ddim": lambda: DDIM(),
    "euler": euler,
    "heun": heun,
    "midpoint": midpoint,
    "rk4": rk4,
    "dpmpp-1m": lambda: Exponential(order=1),
    "dpmpp-2m": lambda: Exponential(order=2, published=True),
    "dpmpp-3m": lambda: Exponential(order=3, start="heun"),
    "dpmpp-2m-sde": lambda: Exponential(order=2, eta=1.0, published=True),
    "dpmpp-3m-sde": lambda: Exponential(order=3, eta=1.0),
}


def named(name: str) -> Solver:
    """The solver of that name; an unknown name is an error that says the nearest known one."""
    if name not in SOLVERS:
        raise UserError(f"no solver is called '{name}'.{nearest(name, SOLVERS)}")
    return SOLVERS[name]()
