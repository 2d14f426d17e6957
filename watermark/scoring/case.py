"""Case: everything that was read before a key is asked, in one file, so that a stranger can recompute the test.

Inputs, the owner's clean answers, the suspect's answers, surrogates' predictions, and the public basis; a NumPy archive
without pickles. It holds no key and nothing that was made with one.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.errors import OutputsInvalid, ReportInvalid
from watermark.files import canonical_json, write_whole
from watermark.scores import keyed
from watermark.scores.basis import Basis
from watermark.scores.direction import Direction, as_rows, scheme_from_json, scheme_to_json
from watermark.scores.table import Table, has_names, table
from watermark.scoring.answers import Answers, suspect_answers
from watermark.scoring.residual import Residual, channels_of, label_residual, residual

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CASE = "wmark-score-case/1"


@dataclass(frozen=True, eq=False)
class Case:
    """One suspect, read. Rows are distinct inputs that were answered, in the order they were asked.

    inputs: their columns; clean, suspect: (n, channels); surrogates: (n, S, channels) or None. controls: other
    models' answers (n, channels) by name. shows: what the suspect shows, "scores" or "labels". asked: digests of all
    distinct inputs, answered or not. rows: which of the `given` rows are here, None in a case read from its file.
    """

    scheme: Direction
    basis: Basis
    inputs: Table
    clean: NDArray[np.float64]
    suspect: NDArray[np.float64]
    surrogates: NDArray[np.float64] | None
    shows: str
    controls: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    duplicates: int = 0
    unanswered: int = 0
    notes: tuple[str, ...] = ()
    asked: dict[str, str] = field(default_factory=dict)
    rows: NDArray[np.intp] | None = None
    given: int = 0

    def __len__(self) -> int:
        return len(self.clean)

    @cached_property
    def coordinates(self) -> NDArray[np.float64]:
        return self.basis.coordinates(self.inputs)

    @cached_property
    def features(self) -> NDArray[np.float64]:
        return self.basis.at(self.coordinates)

    @cached_property
    def residual(self) -> Residual:
        return self.residual_of(self.suspect)

    def residual_of(self, answers: NDArray[np.float64], count: int | None = None) -> Residual:
        """What answers (n, channels) hold beyond the key-free, on the first `count` inputs."""
        some, scheme = slice(count), self.scheme
        surrogates = None if self.surrogates is None else self.surrogates[some]
        if scheme.output == "embeddings":
            from watermark.scoring.vectors import vector_residual

            return vector_residual(answers[some], self.clean[some], self.features[some], surrogates)
        channels = channels_of(answers[some], scheme)
        clean = channels_of(self.clean[some], scheme)
        surrogates = None if surrogates is None else channels_of(surrogates, scheme)
        if self.shows == "labels":
            return label_residual(channels, clean, self.features[some], surrogates)
        return residual(channels, clean, self.features[some], surrogates)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that was read; decoys are seeded by it, so that nobody can choose them."""
        told = [CASE, self.basis.digest, scheme_to_json(self.scheme), self.shows, self.duplicates, self.unanswered]
        digest = hashlib.sha256(canonical_json([*told, list(self.notes)]))
        digest.update(table_digest(self.inputs).encode())
        for name, part in (
            ("clean", self.clean),
            ("suspect", self.suspect),
            ("surrogates", self.surrogates),
            *sorted(self.controls.items()),
        ):
            digest.update(name.encode() + (b"" if part is None else _bytes(part)))
        return digest.hexdigest()

    @property
    def committed(self) -> dict[str, str]:
        """Digests of what should have been fixed before the suspect was asked, whether it answered or not."""
        return self.asked if self.unanswered else self.committed_to(len(self))

    def committed_to(self, count: int) -> dict[str, str]:
        """The same of the first `count` rows."""
        return committed(self.basis, self.inputs, self.clean, self.surrogates, count)

    def save(self, path: str | Path) -> None:
        """Writes the case, whole or not at all."""
        described = {
            "format": CASE,
            "scheme": scheme_to_json(self.scheme),
            "basis": self.basis.to_json(),
            "columns": self.inputs.names,
            "shows": self.shows,
            "controls": list(self.controls),
            "duplicates": self.duplicates,
            "unanswered": self.unanswered,
            "notes": list(self.notes),
            "asked": self.asked,
        }
        arrays: dict[str, Any] = {f"input_{i}": column for i, column in enumerate(self.inputs.columns.values())}
        arrays |= {f"control_{i}": answers for i, answers in enumerate(self.controls.values())}
        arrays |= {"clean": self.clean, "suspect": self.suspect}
        if self.surrogates is not None:
            arrays["surrogates"] = self.surrogates
        buffer = io.BytesIO()
        np.savez_compressed(buffer, described=np.frombuffer(canonical_json(described), dtype=np.uint8), **arrays)
        write_whole(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Case:
        """Reads a case. Raises ReportInvalid."""
        try:
            if not zipfile.is_zipfile(path):
                raise ReportInvalid(f"{path} is no readable case of scores: it is no NumPy archive")
            with np.load(Path(path), allow_pickle=False) as held:
                described = json.loads(held["described"].tobytes())
                if described.get("format") != CASE:
                    raise ReportInvalid(f"{path} is no case of scores (its format should be {CASE})")
                columns = {name: held[f"input_{i}"] for i, name in enumerate(described["columns"])}
                return cls(
                    scheme=scheme_from_json(described["scheme"]),
                    basis=Basis.from_json(described["basis"]),
                    inputs=Table(columns),
                    clean=held["clean"],
                    suspect=held["suspect"],
                    surrogates=held.get("surrogates"),
                    shows=described["shows"],
                    controls={name: held[f"control_{i}"] for i, name in enumerate(described["controls"])},
                    duplicates=described["duplicates"],
                    unanswered=described["unanswered"],
                    notes=tuple(described["notes"]),
                    asked=described["asked"],
                )
        except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise ReportInvalid(f"{path} is no readable case of scores: {error}") from None


def read_case(
    scheme: Direction,
    basis: Basis,
    inputs: Any,
    answers: Any,
    clean: Any,
    *,
    surrogates: Any | None = None,
    controls: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] = (),
) -> Case:
    """A case from a suspect's answers to `inputs`, row by row.

    inputs: a table (see `scores.table`) that holds the basis' columns; for embeddings the owner's clean embeddings.
    answers: the suspect's, as it gave them (`suspect_answers`). clean: the owner's unmarked answers. surrogates:
    (n, S, channels) or (n, S) predictions of models that the owner trained on clean answers. Raises OutputsInvalid
    if rows do not match or clean answers are unusable, ProfileMismatch if the inputs are not those of the basis.
    """
    found = inputs if isinstance(inputs, Table) else _as_table(inputs, basis)
    said = suspect_answers(answers, scheme, labels=labels)
    owner = _clean(clean, scheme)
    predictions = _predictions(surrogates, scheme)
    others = {name: suspect_answers(given, scheme, labels=labels) for name, given in (controls or {}).items()}
    _same_rows(found, said, owner, predictions, others)
    answered = said.answered & np.all([other.answered for other in others.values()] or [said.answered], axis=0)
    coordinates = basis.coordinates(found)
    first = np.zeros(len(found), dtype=bool)
    first[keyed.distinct(coordinates)] = True
    kept = np.flatnonzero(answered & first)
    wanted = Table({name: found.columns[name] for name in basis.names})
    once = np.flatnonzero(first)
    owners = None if predictions is None else predictions[once]
    return Case(
        scheme=scheme,
        basis=basis,
        inputs=wanted.rows(kept),
        clean=owner[kept],
        suspect=said.values[kept],
        surrogates=None if predictions is None else predictions[kept],
        shows=said.shows,
        controls={name: other.values[kept] for name, other in others.items()},
        duplicates=int((~first).sum()),
        unanswered=int((~answered & first).sum()),
        notes=said.notes,
        asked=committed(basis, wanted.rows(once), owner[once], owners, len(once)),
        rows=kept,
        given=len(found),
    )


def committed(
    basis: Basis, inputs: Table, clean: NDArray[np.float64], surrogates: NDArray[np.float64] | None, count: int
) -> dict[str, str]:
    """SHA-256 of the basis, and of the first `count` inputs, clean answers and surrogates' predictions."""
    some = slice(count)
    return {
        "basis": basis.digest,
        "queries": table_digest(inputs.rows(some)),
        "clean": hashlib.sha256(_bytes(clean[some])).hexdigest(),
        "surrogates": "" if surrogates is None else hashlib.sha256(_bytes(surrogates[some])).hexdigest(),
    }


def look_points(answers: int, size: int) -> list[int]:
    """How many answers each look has: from the fewest that can be read on, half as many more each time."""
    points, count = [], float(max(100, size))
    while count < answers / 1.2:
        points.append(round(count))
        count *= 1.5
    return [*points, answers]


def table_digest(found: Table) -> str:
    """SHA-256 over a table's columns, their names and values, in order of names."""
    digest = hashlib.sha256()
    for name in sorted(found.columns):
        column = found.columns[name]
        digest.update(canonical_json([name, column.dtype.kind, len(column)]))
        digest.update(_bytes(column) if column.dtype.kind == "f" else canonical_json([str(v) for v in column]))
    return digest.hexdigest()


def _as_table(inputs: Any, basis: Basis) -> Table:
    if has_names(inputs):
        return table(inputs)
    width = np.asarray(inputs).shape[1] if np.ndim(inputs) == 2 else 0
    return table(inputs, basis.names if width == len(basis.names) else None)


def _clean(clean: Any, scheme: Direction) -> NDArray[np.float64]:
    given = clean.numbers(clean.names) if isinstance(clean, Table) else np.asarray(clean, dtype=np.float64)
    given = given[:, 0] if given.ndim == 2 and given.shape[1] == 1 else given
    try:
        return as_rows(given, scheme)
    except OutputsInvalid as error:
        raise OutputsInvalid(f"the owner's clean answers: {error}", hint=error.hint) from None


def _predictions(surrogates: Any | None, scheme: Direction) -> NDArray[np.float64] | None:
    if surrogates is None:
        return None
    given = np.asarray(surrogates, dtype=np.float64)
    if given.ndim == 2 and scheme.channels == 2 and scheme.output in ("probabilities", "labels"):
        given = np.stack([1 - given, given], axis=-1)
    if given.ndim == 2:
        given = given[:, :, None]
    if given.ndim != 3 or given.shape[2] != scheme.channels or not np.isfinite(given).all():
        raise OutputsInvalid(
            f"surrogates' predictions should be finite and of shape (n, S, {scheme.channels}), found {given.shape}"
        )
    return given


def _same_rows(
    found: Table,
    said: Answers,
    owner: NDArray[np.float64],
    predictions: NDArray[np.float64] | None,
    others: dict[str, Answers],
) -> None:
    counts = {"the suspect's answers": len(said.values), "the clean answers": len(owner)}
    if predictions is not None:
        counts["the surrogates' predictions"] = len(predictions)
    counts |= {f"the answers of control {name}": len(other.values) for name, other in others.items()}
    for what, count in counts.items():
        if count != len(found):
            raise OutputsInvalid(
                f"{what} have {count} rows, the inputs {len(found)}; row by row they should answer the same inputs",
                hint="keep a row for every input, and leave it empty where there is no answer",
            )


def _bytes(values: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(values, dtype="<f8").tobytes() + str(values.shape).encode()
