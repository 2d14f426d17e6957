"""Cells on disk, so that evidence read from a model can be recomputed without the model; and windows counted.

The file is numpy's .npz (no pickle): windows (n, h), choices (n,), documents (n,) and `weight.NAME` (n,) each.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.errors import OutputsInvalid, ReportInvalid
from watermark.observe.readings import digest_of
from watermark.observe.rules import Rules, require_record
from watermark.observe.text import Observations
from watermark.schemes import merged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.ledger import Record
    from watermark.mark import Watermark
    from watermark.outputs import Output
    from watermark.schemes import Scheme
    from watermark.tokenizer import Tokenizer

    Counts = tuple[NDArray[np.uint64], NDArray[np.int64]]

_WEIGHT = "weight."
_MOST_BYTES = 4 * 2**30


def save_cells(seen: Observations, path: str | Path) -> None:
    """Writes the cells and their weights; `load_cells` reads them back to the same digest."""
    arrays: dict[str, Any] = {"windows": seen.windows, "choices": seen.choices, "documents": seen.documents}
    arrays |= {_WEIGHT + name: values for name, values in seen.weights.items()}
    with Path(path).open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_cells(path: str | Path) -> tuple[NDArray[np.uint32], NDArray[np.uint32], dict[str, NDArray[np.int32]], str]:
    """(windows, choices, weights, digest) of a cells file. Raises ReportInvalid if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
                raise ReportInvalid(f"{path} unpacks to more than {_MOST_BYTES >> 30} GiB")
        with np.load(path, allow_pickle=False) as found:
            windows, choices = found["windows"], found["choices"]
            weights = {name.removeprefix(_WEIGHT): found[name] for name in found.files if name.startswith(_WEIGHT)}
        fits = windows.ndim == 2 and all(values.shape == (len(windows),) for values in (choices, *weights.values()))
        if not fits or windows.dtype != np.uint32 or choices.dtype != np.uint32 or not weights:
            raise ValueError("its arrays do not fit together")
        if any(values.dtype != np.int32 for values in weights.values()):
            raise ValueError("weights should be 32-bit whole numbers")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ReportInvalid(f"{path} is not a file of cells: {error}") from None
    return windows, choices, weights, digest_of(windows, choices, weights)


def counted_windows(texts: Iterable[Output], mark: Watermark, tokenizer: Tokenizer | None) -> Counts:
    """(names, counts) of all windows in some texts: in how many of them each stands; names sorted.

    Windows are named as weights are summed by them (`merged`).
    """
    rules, found = Rules(mark, tokenizer), [np.empty(0, dtype=np.uint64)]
    for ids in rules.tokenized([(o.token_ids, o.text) for o in texts]):
        found.append(_names(ids, mark.scheme, by_cell=True))
    names, counts = np.unique(np.concatenate(found), return_counts=True)
    if not len(names):
        raise OutputsInvalid("the clean text holds no full window", hint="pass longer text")
    return names, counts.astype(np.int64)


def counted_records(records: Iterable[Record], mark: Watermark) -> Counts:
    """(names, counts) of all windows served in a ledger: in how many answers each stands; names sorted.

    Occurrences are not counted: a window with a green way back to itself is served again and again, so their number
    would depend on its own bits; whether an answer ever reaches it does not.
    Raises ProfileMismatch for a ledger of another mark, OutputsInvalid for a hash-only one.
    """
    found = [np.empty(0, dtype=np.uint64)]
    for record in records:
        found.append(_names(require_record(record, mark), mark.scheme, by_cell=True))
    names, counts = np.unique(np.concatenate(found), return_counts=True)
    return names, counts.astype(np.int64)


def served_windows(records: Iterable[Record], mark: Watermark) -> NDArray[np.uint64]:
    """The names of all windows in served answers, sorted. Raises as `counted_records`."""
    found = [_names(require_record(record, mark), mark.scheme, by_cell=False) for record in records]
    return np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *found]))


def _names(token_ids: Iterable[int], scheme: Scheme, *, by_cell: bool) -> NDArray[np.uint64]:
    """Each window of one answer once. by_cell: windows that the keyed function takes for one have one name."""
    ids = np.asarray(token_ids, dtype=np.uint32)
    if len(ids) < scheme.window:
        return np.empty(0, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(ids, scheme.window)
    return np.unique(prf.window_ids(merged(scheme, windows) if by_cell else windows))
