"""Basis: public, smooth functions of the input that any student of the scores has to learn.

Kernel eigenfunctions: random cosines of the columns' normal scores, at `spread` radians for each standard deviation,
whitened on the owner's reference inputs; the first `size` principal functions are kept. A mark with a flat spectrum on
them is as hidden as white noise and is learned like signal; white noise for each input is learned by nobody who does
not memorise (docs/scores.md has the figures). The basis says nothing of a key and may be published.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from watermark.errors import MarkInvalid, ProfileMismatch, TooFewObservations
from watermark.files import canonical_json
from watermark.scores.table import Table, has_names, table

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "wmark-basis/1"
Kind = Literal["kernel", "additive"]
_GRID = 257  # points of a column's quantile function
_FEW = 20  # distinct numbers up to which a column counts as discrete
_LEVELS = 50  # categories that have a place of their own
_WIDE = 40  # encoded columns above which principal components stand in for them
_LOW, _HIGH = 0.003, 0.997  # ranks beyond these are drawn in: normal scores of at most 2.75
_FAR = 1e4  # deviations beyond which a scaled number is drawn in
_SINGLES = 8  # rows up to which counting a grid's points is faster than searching it


@dataclass(frozen=True)
class Column:
    """How one column becomes coordinates. kind: "ranked" (normal scores), "scaled" (few numbers), "levels", "constant".

    A constant column has no coordinate, but keeps its place in an array. grid: (257,) quantiles of a ranked column;
    mean and deviation of a scaled one; levels of a category. missing: share of the reference rows without a value; a
    column that misses some has one more coordinate, that says so.
    """

    name: str
    kind: str
    grid: tuple[float, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0
    levels: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    missing: float = 0.0

    @property
    def width(self) -> int:
        return 0 if self.kind == "constant" else (len(self.levels) or 1) + (self.missing > 0)

    def category(self, values: NDArray[np.str_]) -> NDArray[np.float64]:
        """(n, width) of a category's values (n,). A missing or unseen one lies at the origin."""
        shares, found = np.array(self.shares), values[:, None] == np.array(self.levels)
        placed = (found - shares) / np.sqrt(shares * (1 - shares) * len(shares))
        placed = np.where(found.any(axis=1, keepdims=True), placed, 0.0)
        return placed if self.missing == 0 else np.column_stack([placed, _said(values == "", self.missing)])


@dataclass(frozen=True)
class Basis:
    """The fitted functions. Arrays are float64; see `fit` for their making.

    turned, middle, middle_grid: principal components of wide inputs and their quantiles, empty for narrow ones.
    waves (m, F), phases (F,): the cosines; centre (F,), whitening (F, B). reference: rows it was fitted on.
    """

    columns: tuple[Column, ...]
    kind: Kind
    turned: NDArray[np.float64]
    middle: NDArray[np.float64]
    middle_grid: NDArray[np.float64]
    waves: NDArray[np.float64]
    phases: NDArray[np.float64]
    centre: NDArray[np.float64]
    whitening: NDArray[np.float64]
    reference: int

    @classmethod
    def fit(
        cls,
        inputs: Any,
        *,
        size: int = 200,
        kind: Kind = "kernel",
        spread: float = 0.7,
        components: int | None = None,
        seed: int = 0,
        rows: int = 20_000,
    ) -> Basis:
        """A basis of `size` functions for inputs like these (a table, see `scores.table`).

        kind: "kernel", or "additive" (cosines of each column's rank alone; trees learn them best, networks worst).
        spread: radians for one standard deviation along a random direction; 1.0 is about where students cease to
        learn. components: principal components in place of the columns, by default 24 where there are more than 40.
        Raises TooFewObservations unless there are ten rows for each function.
        """
        found = table(inputs)
        if len(found) < 10 * size:
            raise TooFewObservations(
                f"{len(found)} reference inputs for a basis of {size} functions, needed are {10 * size}",
                hint=f"pass more inputs, or a smaller basis: size={max(8, len(found) // 10)}",
            )
        rng = np.random.default_rng(seed)
        if len(found) > rows:
            found = found.rows(np.sort(rng.choice(len(found), rows, replace=False)))
        columns = tuple(_described(name, found.columns[name]) for name in found.names)
        if not any(column.width for column in columns):
            raise TooFewObservations("every column of the reference inputs is constant; there is nothing to build on")
        empty = np.zeros((0, 0))
        raw = cls(columns, kind, empty, empty, empty, empty, np.zeros(0), np.zeros(0), empty, len(found))
        placed = raw._by_name(found)
        raw = raw._components(placed, components)
        placed = raw._turned(placed)
        raw = raw._cosines(placed.shape[1], max(512, 5 * size // 2), spread, rng)
        return raw._whitened(raw._raw(placed), size)

    @property
    def size(self) -> int:
        return int(self.whitening.shape[1])

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def coordinates(self, inputs: Any) -> NDArray[np.float64]:
        """(n, m) coordinates of inputs: columns by name, in any order; an array has the reference's order.

        Raises ProfileMismatch if a column is missing or has another type.
        """
        array = _array_of(inputs, self.names) if self._numbers.all else None
        if array is None or not self._numbers.plain(array):
            return self._turned(self._by_name(inputs))
        return self._turned(self._numbers.coordinates(array.astype(np.float64, copy=False)))

    @cached_property
    def _numbers(self) -> _Numbers:
        """What places all columns of numbers at once."""
        return _Numbers.of(self.columns)

    @cached_property
    def _parts(self) -> _Grids:
        """The quantiles of the principal components."""
        return _Grids.of(self.middle_grid)

    def _by_name(self, inputs: Any) -> NDArray[np.float64]:
        """(n, m') of the columns' own coordinates, found by name."""
        found = inputs if isinstance(inputs, Table) else table(inputs, None if has_names(inputs) else self.names)
        used = [column for column in self.columns if column.width]
        absent = [column.name for column in used if column.name not in found.columns]
        if absent:
            raise ProfileMismatch(
                f"the inputs have no column {', '.join(absent)}; the mark was made for {', '.join(self.names)}",
                hint=f"found are {', '.join(found.names)}",
            )
        numbers, categories = np.zeros((len(found), len(self.columns))), []
        for index, (column, start) in enumerate(zip(self.columns, self._numbers.starts, strict=True)):
            if column.kind == "levels":
                categories.append((start, column.category(_as(column, found.columns[column.name]))))
            elif column.width:
                numbers[:, index] = _as(column, found.columns[column.name])
        placed = self._numbers.coordinates(numbers)
        for start, levels in categories:
            placed[:, start : start + levels.shape[1]] = levels
        return placed

    def features(self, inputs: Any) -> NDArray[np.float64]:
        """phi, (n, size): of zero mean and unit covariance on inputs like the reference."""
        return self.at(self.coordinates(inputs))

    def at(self, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        """phi at coordinates (n, m)."""
        return (self._raw(coordinates) - self.centre) @ self.whitening

    def folded(self, directions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(F, C) and (C,) such that phi @ directions = cosines @ folded - offset: one narrow product a row."""
        weights = self.whitening @ directions
        return weights, self.centre @ weights

    def cosines(self, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        """The raw functions (n, F), before centring and whitening."""
        return self._raw(coordinates)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the basis."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        arrays = ("turned", "middle", "middle_grid", "waves", "phases", "centre", "whitening")
        return {
            "format": FORMAT,
            "kind": self.kind,
            "reference": self.reference,
            "columns": [_column_json(column) for column in self.columns],
        } | {name: _packed(getattr(self, name)) for name in arrays}

    @classmethod
    def from_json(cls, stored: Any) -> Basis:
        """Raises MarkInvalid if it is malformed or of another version."""
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            found = stored.get("format") if isinstance(stored, dict) else None
            raise MarkInvalid(f"this is not a basis of this version: its format is {found!r}, needed is {FORMAT!r}")
        try:
            columns = tuple(_column_of(column) for column in stored["columns"])
            arrays = ("turned", "middle", "middle_grid", "waves", "phases", "centre", "whitening")
            unpacked = {name: _unpacked(stored[name]) for name in arrays}
            if stored["kind"] not in ("kernel", "additive"):
                raise ValueError("its kind is unknown")
            return cls(columns=columns, kind=stored["kind"], reference=int(stored["reference"]), **unpacked)
        except (KeyError, TypeError, ValueError) as error:
            raise MarkInvalid(f"the basis is not complete: {error}") from None

    def _components(self, placed: NDArray[np.float64], wanted: int | None) -> Basis:
        """With principal components, if the inputs are wide or some are wanted."""
        if wanted is None and placed.shape[1] <= _WIDE:
            return self
        count = min(placed.shape[1], 24 if wanted is None else wanted)
        middle = placed.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov((placed - middle).T))
        kept = [i for i in np.argsort(-values)[:count] if values[i] > 1e-9 * values.max()]
        turned = _signed(vectors[:, kept])
        grid = np.quantile((placed - middle) @ turned, np.linspace(0, 1, _GRID), axis=0).T
        return replace(self, turned=_rounded(turned), middle=middle[None], middle_grid=grid)

    def _turned(self, placed: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.turned.size:
            return placed
        parts = (placed - self.middle[0]) @ self.turned
        return self._parts.normal(parts)

    def _cosines(self, width: int, count: int, spread: float, rng: np.random.Generator) -> Basis:
        if self.kind == "additive":
            waves, phases = _each_alone(width, max(4, min(12, count // width)))
            return replace(self, waves=waves, phases=phases)
        waves = rng.normal(size=(width, count))
        waves *= spread / np.linalg.norm(waves, axis=0)
        return replace(self, waves=_rounded(waves), phases=_rounded(rng.uniform(0, 2 * np.pi, count)))

    def _raw(self, placed: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.kind == "additive":
            from scipy.special import ndtr

            placed = ndtr(placed)
        return np.asarray(np.cos(placed @ self.waves + self.phases))

    def _whitened(self, cosines: NDArray[np.float64], size: int) -> Basis:
        """The first `size` principal functions, each of unit variance; fewer if the cosines have not so many."""
        centre = cosines.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov((cosines - centre).T))
        kept = [i for i in np.argsort(-values)[:size] if values[i] > 1e-9 * values.max()]
        whitening = _signed(vectors[:, kept]) / np.sqrt(values[kept])
        return replace(self, centre=_rounded(centre), whitening=_rounded(whitening))


@dataclass(frozen=True)
class _Numbers:
    """All columns of numbers placed together. starts: each column's first coordinate; width: of all coordinates.

    all: whether there are no categories beside them. ranked, scaled, unsure (those that miss values): indices of
    columns; *_at: of their coordinates.
    """

    starts: NDArray[np.intp]
    width: int
    all: bool
    ranked: NDArray[np.intp]
    ranked_at: NDArray[np.intp]
    grids: _Grids
    scaled: NDArray[np.intp]
    scaled_at: NDArray[np.intp]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    unsure: NDArray[np.intp]
    unsure_at: NDArray[np.intp]
    missing: NDArray[np.float64]

    @classmethod
    def of(cls, columns: tuple[Column, ...]) -> _Numbers:
        ends = np.cumsum([column.width for column in columns])
        starts = ends - [column.width for column in columns]
        kinds = np.array([column.kind for column in columns])
        missing = np.array([column.missing for column in columns])
        ranked, scaled = np.flatnonzero(kinds == "ranked"), np.flatnonzero(kinds == "scaled")
        unsure = np.flatnonzero((missing > 0) & ((kinds == "ranked") | (kinds == "scaled")))
        return cls(
            starts=starts,
            width=int(ends[-1]),
            all="levels" not in kinds,
            ranked=ranked,
            ranked_at=starts[ranked],
            grids=_Grids.of(np.array([columns[i].grid for i in ranked]).reshape(len(ranked), _GRID)),
            scaled=scaled,
            scaled_at=starts[scaled],
            means=np.array([columns[i].mean for i in scaled]),
            deviations=np.array([columns[i].deviation for i in scaled]),
            unsure=unsure,
            unsure_at=starts[unsure] + 1,
            missing=missing[unsure],
        )

    def plain(self, inputs: NDArray[Any]) -> bool:
        """Whether an array holds finite or missing numbers, a column for each; others the table reads or refuses."""
        shaped = inputs.ndim == 2 and inputs.shape[1] == len(self.starts) and inputs.dtype.kind in "fiub"
        return shaped and not np.isinf(inputs).any()

    def coordinates(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, width) of numbers (n, columns); zeros for what is no number's. A missing value lies at the origin."""
        placed = np.zeros((len(values), self.width))
        if self.ranked.size:
            placed[:, self.ranked_at] = self.grids.normal(values[:, self.ranked])
        if self.scaled.size:
            placed[:, self.scaled_at] = _scaled(values[:, self.scaled], self.means, self.deviations)
        if self.unsure.size:
            placed[:, self.unsure_at] = _said(np.isnan(values[:, self.unsure]), self.missing)
        return np.where(np.isnan(placed), 0.0, placed)


@dataclass(frozen=True)
class _Grids:
    """Quantile functions of several columns: points, their ranks and the slopes after them, each (k, g).

    A value that many rows share is several points; each has their mean rank, so that ranks are continuous in the value.
    """

    points: NDArray[np.float64]
    ranks: NDArray[np.float64]
    slopes: NDArray[np.float64]

    @classmethod
    def of(cls, points: NDArray[np.float64]) -> _Grids:
        found = (np.searchsorted(grid, grid, "left") + np.searchsorted(grid, grid, "right") - 1 for grid in points)
        ranks = np.array(list(found), dtype=np.float64).reshape(points.shape) / 2 / (points.shape[1] - 1)
        gaps, rises = np.diff(points, axis=1), np.diff(ranks, axis=1)
        slopes = np.zeros(points.shape)
        np.divide(rises, gaps, out=slopes[:, :-1], where=gaps > 1e-300)
        return cls(np.ascontiguousarray(points), ranks, slopes)

    def normal(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Normal scores (n, k) by the quantiles; in between linear, so that near inputs have near scores."""
        from scipy.special import ndtri

        count, size = self.points.shape
        values = np.minimum(np.maximum(values, self.points[:, 0]), self.points[:, -1])
        flat = self._below(values) + np.arange(0, count * size, size)
        ranks = self.ranks.take(flat) + (values - self.points.take(flat)) * self.slopes.take(flat)
        return np.asarray(ndtri(np.minimum(np.maximum(ranks, _LOW), _HIGH)))

    def _below(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Index (n, k) of the last point at or below each value; any index where the value is missing."""
        if len(values) <= _SINGLES:
            reached = (values[:, :, None] >= self.points).sum(axis=2, dtype=np.intp)
            return np.asarray(np.maximum(reached - 1, 0))
        found = [grid.searchsorted(column, side="right") for grid, column in zip(self.points, values.T, strict=True)]
        return np.stack(found, axis=1) - 1


def _scaled(
    values: NDArray[np.float64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.asarray(np.minimum(np.maximum((values - mean) / deviation, -_FAR), _FAR))


def _said(absent: NDArray[np.bool_], missing: Any) -> NDArray[np.float64]:
    """The coordinate that says whether a value is missing, of unit variance. missing: its share, or each column's."""
    return np.asarray((absent - missing) / np.sqrt(missing * (1 - missing)))


def _described(name: str, values: NDArray[Any]) -> Column:
    """How a column is read."""
    if values.dtype.kind != "f":
        missing = float((values == "").mean())
        names, counts = np.unique(values[values != ""], return_counts=True)
        if len(names) < 2 and not (len(names) == 1 and missing > 0):
            return Column(name, "constant")
        order = np.argsort(-counts, kind="stable")[:_LEVELS]
        shares = counts[order] / len(values)
        return Column(
            name,
            "levels",
            levels=tuple(str(v) for v in names[order]),
            shares=tuple(float(s) for s in np.clip(shares, 1e-4, 1 - 1e-4)),
            missing=missing,
        )
    missing = float(np.isnan(values).mean())
    present = values[~np.isnan(values)]
    distinct = np.unique(present)
    if len(distinct) < 2 and not (len(distinct) == 1 and missing > 0):
        return Column(name, "constant")
    if len(distinct) <= _FEW:
        return Column(
            name, "scaled", mean=float(present.mean()), deviation=float(present.std()) or 1.0, missing=missing
        )
    grid = np.quantile(present, np.linspace(0, 1, _GRID))
    return Column(name, "ranked", grid=tuple(float(q) for q in grid), missing=missing)


def _each_alone(width: int, frequencies: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """cos(pi f rank) of each column by itself, f = 1 … frequencies."""
    waves = np.zeros((width, width * frequencies))
    for column in range(width):
        waves[column, column * frequencies : (column + 1) * frequencies] = np.pi * np.arange(1, frequencies + 1)
    return waves, np.zeros(width * frequencies)


def _signed(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns with their largest entry positive, so that a basis does not depend on a library's choice of sign."""
    largest = np.abs(vectors).argmax(axis=0)
    return np.asarray(vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])]))


def _as(column: Column, values: NDArray[Any]) -> NDArray[Any]:
    """Values as this column reads them. Raises ProfileMismatch if they are of the other type.

    Categories that look like numbers ("12" beside "A1") arrive as numbers where no other stands beside them.
    """
    numbers = values.dtype.kind == "f"
    if numbers == (column.kind != "levels"):
        return values
    spelled = {value: level for level in column.levels if (value := _number(level)) is not None}
    if not numbers or not (spelled or np.isnan(values).all()):
        raise ProfileMismatch(
            f"column {column.name} holds {'numbers' if numbers else 'words'}, the mark was made for "
            f"{'categories' if numbers else 'numbers'}"
        )
    return np.array(["" if value != value else spelled.get(value, repr(value)) for value in values.tolist()], np.str_)


def _number(level: str) -> float | None:
    try:
        return float(level)
    except ValueError:
        return None


def _array_of(inputs: Any, names: list[str]) -> NDArray[Any] | None:
    """An array's, a tensor's or a frame's values, the columns in the order of `names`; None for the table to read."""
    if isinstance(inputs, np.ndarray):
        return inputs
    if hasattr(inputs, "detach"):
        return np.asarray(inputs.detach().cpu())
    if not (hasattr(inputs, "columns") and hasattr(inputs, "to_numpy")):
        return None
    has = [str(name) for name in inputs.columns]
    if len(set(has)) < len(has) or not set(names) <= set(has):
        return None
    values = np.asarray(inputs.to_numpy())
    return values if has == names else values[:, [has.index(name) for name in names]]


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """As it will be stored: single precision."""
    return values.astype(np.float32).astype(np.float64)


def _column_json(column: Column) -> dict[str, Any]:
    import dataclasses

    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(column).items()}


def _column_of(stored: dict[str, Any]) -> Column:
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()}
    column = Column(**fields)
    if column.kind not in ("ranked", "scaled", "levels", "constant"):
        raise ValueError(f"column {column.name} is of an unknown kind")
    if column.kind == "ranked" and len(column.grid) != _GRID:
        raise ValueError(f"column {column.name} has {len(column.grid)} quantiles, needed are {_GRID}")
    return column


def _packed(values: NDArray[np.float64]) -> dict[str, Any]:
    """Little-endian bytes: single precision where that is exact, else double."""
    single = values.astype("<f4")
    exact = bool((single.astype(np.float64) == values).all())
    kept = single if exact else values.astype("<f8")
    return {
        "dtype": "<f4" if exact else "<f8",
        "shape": list(values.shape),
        "data": base64.b64encode(kept.tobytes()).decode(),
    }


def _unpacked(stored: dict[str, Any]) -> NDArray[np.float64]:
    if stored["dtype"] not in ("<f4", "<f8"):
        raise ValueError("an array of the basis has an unknown type")
    raw = np.frombuffer(base64.b64decode(stored["data"], validate=True), dtype=stored["dtype"])
    return raw.reshape([int(n) for n in stored["shape"]]).astype(np.float64)
