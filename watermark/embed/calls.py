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

_DOUBLE = float(np.finfo(np.float64).eps)
_STEPS = 64  # of the answers' precision, by which a row's sum may miss one
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
    clean, step = _numbers(answers)
    output = mark.scheme.output
    if output in ("probabilities", "labels"):
        moved = mark.tilt(_summing_to_one(clean, step), inputs)
    else:
        moved = mark.tilt(clean, inputs)
    if output == "labels":
        return _like(answers, moved.astype(np.int64))
    if output == "probabilities" and step > _DOUBLE:
        moved = _same_argmax(_in_precision(answers, moved), clean)
    return _like(answers, moved)


def _numbers(answers: Any) -> tuple[NDArray[np.float64], float]:
    """The answers in double precision, and the relative step of their own."""
    if hasattr(answers, "detach"):
        import torch

        tensor = answers.detach().cpu()
        step = float(torch.finfo(tensor.dtype).eps) if tensor.is_floating_point() else _DOUBLE
        return np.asarray(tensor.double(), dtype=np.float64), step
    found = _array(answers)
    if found.dtype.kind not in "fiub":
        raise OutputsInvalid(
            f"the answers hold {found.dtype}, needed are numbers: probabilities, values or embeddings",
            hint="mark the function that answers probabilities, not the one that answers labels",
        )
    return found.astype(np.float64), float(np.finfo(found.dtype).eps) if found.dtype.kind == "f" else _DOUBLE


def _array(answers: Any) -> NDArray[Any]:
    return np.asarray(answers.to_numpy() if hasattr(answers, "to_numpy") else answers)


def _summing_to_one(clean: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Rows (n, K) that miss one by their precision alone are brought there; others are left for `tilt` to refuse."""
    if clean.ndim != 2 or step <= _DOUBLE or not clean.size:
        return clean
    totals = clean.sum(axis=1, keepdims=True)
    near = np.abs(totals - 1) <= min(_STEPS * step, _LOOSEST)
    return np.asarray(np.divide(clean, totals, out=clean.copy(), where=near))


def _in_precision(answers: Any, moved: NDArray[np.float64]) -> NDArray[np.float64]:
    """Marked answers rounded to the precision of the clean ones."""
    if hasattr(answers, "detach"):
        import torch

        return np.asarray(torch.from_numpy(moved).to(answers.dtype).double(), dtype=np.float64)
    return moved.astype(_array(answers).dtype).astype(np.float64)


def _same_argmax(moved: NDArray[np.float64], clean: NDArray[np.float64]) -> NDArray[np.float64]:
    """A row whose argmax was lost to rounding keeps its own answer."""
    if moved.ndim == 1:
        return np.where((moved > 0.5) == (clean > 0.5), moved, clean)
    kept = moved.argmax(axis=1) == clean.argmax(axis=1)
    return np.where(kept[:, None], moved, clean)


def _like(answers: Any, found: NDArray[Any]) -> Any:
    """`found` in the container of `answers`; labels of a frame's rows are a series."""
    if hasattr(answers, "detach"):
        return _tensor(answers, found)
    clean = _array(answers)
    if clean.dtype.kind == "f" and found.dtype.kind == "f":
        found = found.astype(clean.dtype)
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
