"""Score marks around a call: any function from inputs to answers, on arrays, frames or tensors.

Answers come back in the container and the precision they came in; only their numbers move.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from watermark.errors import OutputsInvalid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scores import Direction

_ROUNDINGS = 64  # of the answers' precision, by which a row's sum may miss one
_LOOSEST = 0.02


class ScoreMark(Protocol):
    """What a wrapper needs of a mark: `ScoreWatermark` and `Marker` are such."""

    @property
    def scheme(self) -> Direction: ...

    def tilt(self, answers: Any, inputs: Any) -> NDArray[np.float64]:
        """Marked answers, of the shape given; class indices (n,) under a mark of labels."""


def mark_calls(function: Callable[[Any], Any], mark: ScoreMark) -> Callable[[Any], Any]:
    """The same function, its answers marked.

    function: from inputs, a table of n rows, to answers (n,) or (n, channels): a numpy array, a pandas or polars frame
    or series, a torch tensor, or lists. Under a mark of labels the answers are probabilities and class indices (n,)
    return; one of embeddings finds its place by the clean embeddings, not by the inputs. Raises what `mark.tilt`
    raises, before any answer has left.
    """

    @functools.wraps(function)
    def marked_function(inputs: Any) -> Any:
        answers = function(inputs)
        return marked(answers, answers if mark.scheme.output == "embeddings" else inputs, mark)

    return marked_function


def marked(answers: Any, inputs: Any, mark: ScoreMark) -> Any:
    """Marked answers in the container of the clean ones. Raises OutputsInvalid for answers that hold no numbers."""
    numbers = _numbers(answers)
    exact = numbers.astype(np.float64)
    if mark.scheme.output in ("probabilities", "labels"):
        exact = _summing_to_one(exact, numbers.dtype)
    moved = mark.tilt(exact, inputs)
    if mark.scheme.output == "labels":
        return _like(answers, moved.astype(np.int64))
    return _like(answers, _in_precision(moved, numbers) if mark.scheme.output == "probabilities" else moved)


def _numbers(answers: Any) -> NDArray[Any]:
    """The answers' array, in their own precision; half precision without an array of its own becomes single."""
    if hasattr(answers, "detach"):
        tensor = answers.detach().cpu()
        return np.asarray(tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor)
    found = np.asarray(answers.to_numpy() if hasattr(answers, "to_numpy") else answers)
    if found.dtype.kind not in "fiub":
        raise OutputsInvalid(
            f"the answers hold {found.dtype}, needed are numbers: probabilities, values or embeddings",
            hint="mark the function that answers probabilities, not the one that answers labels",
        )
    return found


def _summing_to_one(exact: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Rows (n, K) that miss one by their precision alone are brought there; others are left for `tilt` to refuse."""
    if exact.ndim != 2 or dtype.kind != "f" or dtype.itemsize >= 8 or not exact.size:
        return exact
    totals = exact.sum(axis=1, keepdims=True)
    near = np.abs(totals - 1) <= min(_ROUNDINGS * float(np.finfo(dtype).eps), _LOOSEST)
    return np.asarray(np.divide(exact, totals, out=exact.copy(), where=near))


def _in_precision(moved: NDArray[np.float64], clean: NDArray[Any]) -> NDArray[Any]:
    """Marked probabilities in the answers' precision; a row whose argmax that would cost keeps its own answer."""
    if clean.dtype.kind != "f" or clean.dtype.itemsize >= 8:
        return moved
    found = moved.astype(clean.dtype)
    if found.ndim == 1:
        return np.where((found > 0.5) == (clean > 0.5), found, clean)
    kept = found.argmax(axis=1) == clean.argmax(axis=1)
    return np.where(kept[:, None], found, clean)


def _like(answers: Any, found: NDArray[Any]) -> Any:
    """`found` in the container of `answers`; labels of a frame's rows are a series."""
    if hasattr(answers, "detach"):
        return _tensor(answers, found)
    kind = type(answers).__module__.partition(".")[0]
    if kind == "pandas":
        return _pandas(answers, found)
    if kind == "polars":
        return _polars(answers, found)
    return found.tolist() if isinstance(answers, list | tuple) else found


def _tensor(answers: Any, found: NDArray[Any]) -> Any:
    import torch

    wanted = torch.int64 if found.dtype.kind == "i" else answers.dtype
    return torch.from_numpy(np.ascontiguousarray(found)).to(device=answers.device, dtype=wanted)


def _pandas(answers: Any, found: NDArray[Any]) -> Any:
    import pandas

    if found.ndim == 2:
        return pandas.DataFrame(found, index=answers.index, columns=answers.columns)
    return pandas.Series(found, index=answers.index, name=getattr(answers, "name", None))


def _polars(answers: Any, found: NDArray[Any]) -> Any:
    import polars

    if found.ndim == 2:
        return polars.DataFrame(found, schema=list(answers.columns), orient="row")
    return polars.Series(getattr(answers, "name", ""), found)
