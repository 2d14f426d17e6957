"""Schemes: pairs of mirror-image functions over one keyed function, and the one list of them.

A scheme is a frozen dataclass with `name`, `version`, `window` and its parameters as fields, and three members:
`tilt` on the way out, `score` on the way back, `null` for the law of one score when the key is independent of
the text. One that redraws says `once`; if its `tilt` also takes `shut`, columns to leave out, and it says `shuts`,
special tokens cost no copy of the logits. Deduplication, tokenizing, p-values, files and reports come from the
shared path.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np

from watermark.errors import MarkInvalid
from watermark.schemes.antidistill import AntiDistill
from watermark.schemes.greenlist import GreenList
from watermark.schemes.gumbel import Gumbel
from watermark.schemes.tournament import Tournament

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key
    from watermark.stats.laws import Law

__all__ = [
    "SCHEMES",
    "AntiDistill",
    "GreenList",
    "Gumbel",
    "Scheme",
    "Tournament",
    "canonical",
    "confuses",
    "keyless",
    "marks_once",
    "merged",
    "scheme_from_json",
    "scheme_to_json",
    "summable",
]

Logits = TypeVar("Logits", "NDArray[Any]", "torch.Tensor")


@runtime_checkable
class Scheme(Protocol):
    """What a scheme author writes. `window` is the context width h, in tokens."""

    name: ClassVar[str]
    version: ClassVar[int]

    @property
    def window(self) -> int: ...

    def tilt(self, logits: Logits, contexts: ArrayLike, key: Key) -> Logits:
        """Logits (b, V) biased under the key, given each row's last h ids (b, h); a new array."""

    def score(self, contexts: ArrayLike, choices: ArrayLike, key: Key) -> NDArray[Any]:
        """One score for each cell: contexts (n, h) and choices (n,) token ids. Returns (n,)."""

    @property
    def null(self) -> Law:
        """The law of one score when the key is independent of contexts and choices."""


SCHEMES: dict[str, type[Any]] = {scheme.name: scheme for scheme in (GreenList, Gumbel, Tournament, AntiDistill)}


def marks_once(scheme: Scheme) -> bool:
    """Whether the scheme redraws a window's next token, once in an answer: it needs sampling, and all ids so far."""
    return bool(getattr(scheme, "once", False))


def canonical(scheme: Scheme, windows: Any, choices: Any) -> tuple[Any, Any]:
    """Cells (n, h), (n,) by what the scheme's keyed function really uses of them: the same for all that it confuses.

    Of most schemes the cells themselves; an engine whose function forgets part of its input has a `canonical` of its
    own, which needs no key.
    """
    own = getattr(scheme, "canonical", None)
    return (windows, choices) if own is None else own(windows, choices)


def confuses(scheme: Scheme) -> bool:
    """Whether the scheme's keyed function takes some distinct windows for one, so that cells are not its windows'."""
    if not hasattr(scheme, "canonical"):
        return False
    windows = np.random.default_rng(0).integers(1, 1000, (512, scheme.window)).astype(np.uint32)
    same, tokens = canonical(scheme, windows, np.arange(512, dtype=np.uint32))
    return not (np.array_equal(same, windows) and np.array_equal(tokens, np.arange(512)))


def summable(scheme: Scheme) -> bool:
    """Whether weights of cells can be summed by `merged` windows: each window is its own cell, or the scheme says that
    `canonical` names windows that score alike, and leaves the tokens as they are (`alike`)."""
    return bool(getattr(scheme, "alike", False)) or not confuses(scheme)


def merged(scheme: Scheme, windows: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Windows (n, h) by what the keyed function uses of them, where weights are summed; of most schemes as they are."""
    if not getattr(scheme, "alike", False):
        return windows
    named: NDArray[np.uint32] = canonical(scheme, windows, np.zeros(len(windows), dtype=np.uint32))[0]
    return named


def keyless(scheme: Scheme, windows: NDArray[Any]) -> NDArray[np.bool_]:
    """Which windows (n, h) have the same scores under every key of an engine; they say nothing and are not counted."""
    own = getattr(scheme, "keyless", None)
    return np.zeros(len(windows), dtype=bool) if own is None else np.asarray(own(windows), dtype=bool)


def _engines() -> dict[str, type[Any]]:
    from watermark.schemes.engines import ENGINES

    return ENGINES


def scheme_to_json(scheme: Scheme) -> dict[str, Any]:
    """{"name", "version", "parameters"} of a scheme; a gate that is off is left out, as before there was one."""
    parameters = dataclasses.asdict(scheme)  # type: ignore[call-overload]
    if parameters.get("gate") == 0:
        del parameters["gate"]
    return {"name": scheme.name, "version": scheme.version, "parameters": parameters}


def scheme_from_json(described: dict[str, Any]) -> Scheme:
    """The scheme that `scheme_to_json` described. Raises MarkInvalid on an unknown name or parameter."""
    found = described.get("name") if isinstance(described, dict) else described
    kind = SCHEMES.get(found) or _engines().get(found) if isinstance(found, str) else None
    if kind is None:
        known = ", ".join([*SCHEMES, *_engines()])
        raise MarkInvalid(f"unknown scheme {found!r}; this version knows {known}")
    if described.get("version") != kind.version:
        raise MarkInvalid(
            f"scheme {kind.name} version {described.get('version')!r} is not known here, this is version "
            f"{kind.version}; use the wmark release that made the mark"
        )
    try:
        made: Scheme = kind(**described.get("parameters", {}))
    except (TypeError, ValueError) as error:
        raise MarkInvalid(f"scheme {kind.name} has unusable parameters: {error}") from None
    return made
