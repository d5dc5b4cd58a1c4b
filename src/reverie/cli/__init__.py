"""The command line: parse -> system -> task -> save. Nothing heavy is imported before a command needs it."""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

from reverie.errors import UserError, nearest

COMMANDS = {
    "generate": "pictures from words",
    "edit": "a picture changed as words say",
    "inpaint": "a part of a picture drawn anew",
    "outpaint": "a picture on a larger canvas",
    "upscale": "a picture enlarged, its details drawn",
    "restore": "a picture from what is left of it: blurred, shrunk, masked, grey, squeezed",
    "compare": "two settings side by side: a grid of pictures, and a table",
    "train": "train a model: reverie train RECIPE --help",
    "distill": "a model that draws in a few steps, from one that takes many",
    "adapt": "your style or your thing: a LoRA from a handful of pictures",
    "repro": "what was learnt, learnt again by the recipe inside its file, and compared",
    "tune": "fit a solver of few steps to a model",
    "evaluate": "measure a model: distances, agreement with the prompts, time",
    "data": "make or look at a set of pictures",
    "solvers": "the samplers, and what other tools call them",
    "systems": "the published models that can be opened, and what they need",
    "doctor": "what a LoRA is, and whether it fits a model",
    "convert": "a published model as a folder that diffusers opens",
    "studio": "a page to make pictures in, and HTTP APIs for programs",
}


def _help() -> str:
    lines = [f"  {name:<10} {about}" for name, about in COMMANDS.items()]
    return "\n".join(["usage: reverie COMMAND [options]   (reverie COMMAND --help says more)", "", *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; what the user can mend is one line on stderr and exit code 2."""
    try:
        try:
            _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()  # here, where a reader that has gone can be met, and not while Python ends
    except BrokenPipeError:
        _hush()
        sys.exit(141)  # as a shell says of a command that wrote to nobody


def _run(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("reverie"))
        return
    _report()
    try:
        _command(arguments[0])(arguments[1:])
    except UserError as error:
        print(f"reverie: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("reverie: stopped", file=sys.stderr)
        sys.exit(130)


def _report() -> None:
    """What the library reports, such as how much of a file was applied, goes to stderr, a line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("reverie: %(message)s"))
    log = logging.getLogger("reverie")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def _hush() -> None:
    """What is still in the buffers goes nowhere: Python would complain of it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _command(name: str) -> Callable[[Sequence[str]], None]:
    if name not in COMMANDS:
        raise UserError(f"there is no command '{name}'.{nearest(name, COMMANDS)}")
    command: Callable[[Sequence[str]], None] = importlib.import_module(f"reverie.cli.{name}").main
    return command
