"""Options that several commands of `wmark scores` share."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from . import console


class OutputKind(enum.StrEnum):
    probabilities = "probabilities"
    values = "values"
    embeddings = "embeddings"
    labels = "labels"


class Kind(enum.StrEnum):
    kernel = "kernel"
    additive = "additive"


Classes = Annotated[str | None, typer.Option(help="The classes' names in the mark's order, separated by commas.")]
Columns = Annotated[str | None, typer.Option(help="Use these columns of the inputs, separated by commas.")]


def listed(text: str | None) -> tuple[str, ...]:
    """Names from an option, separated by commas."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def numbers(text: str, option: str) -> list[float]:
    """Numbers from an option, separated by commas."""
    try:
        found = [float(part) for part in listed(text)]
    except ValueError:
        found = []
    if not found:
        raise typer.BadParameter(f"{option} takes numbers separated by commas, found {text!r}")
    return found


def stages(*, quiet: bool) -> Callable[[str], None] | None:
    """A function that shows, in place on a terminal, which step of a long run is under way."""
    if quiet or not sys.stderr.isatty():
        return None

    def show(text: str) -> None:
        console.clear()
        print(f"{text} …", end="", file=sys.stderr, flush=True)

    return show
