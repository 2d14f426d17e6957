"""Cells on disk, so that evidence read from a model can be recomputed without the model; and windows counted.

The file is numpy's .npz (no pickle): windows (n, h), choices (n,), documents (n,) and `weight.NAME` (n,) each.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.errors import OutputsInvalid, ReportInvalid
from watermark.ledger import Selection, read_ledger
from watermark.ledger.filters import BITS, WindowFilter, is_filter, write_filter
from watermark.observe.readings import digest_of
from watermark.observe.rules import Rules, require_record
from watermark.observe.text import Observations
from watermark.schemes import merged

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from watermark.ledger import Record
    from watermark.mark import Watermark
    from watermark.outputs import Output
    from watermark.schemes import Scheme
    from watermark.tokenizer import Tokenizer

    Counts = tuple[NDArray[np.uint64], NDArray[np.int64]]

_WEIGHT = "weight."
_MOST_BYTES = 4 * 2**30
_ANSWERS = 1000


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
        found.append(_names(ids, mark.scheme))
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
        found.append(_names(require_record(record, mark), mark.scheme))
    names, counts = np.unique(np.concatenate(found), return_counts=True)
    return names, counts.astype(np.int64)


def served_windows(records: Iterable[Record], mark: Watermark) -> NDArray[np.uint64]:
    """The names of all windows in served answers, sorted. Raises as `counted_records`."""
    return np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *_served(records, mark)]))


def served_in(ledger: str | Path, mark: Watermark) -> NDArray[np.uint64] | WindowFilter:
    """The windows served in a ledger, or those of a filter that was made from one.

    Raises as `served_windows`; ProfileMismatch for another mark's filter.
    """
    if is_filter(ledger):
        return WindowFilter(ledger).check_mark(mark)
    return served_windows(read_ledger(ledger), mark)


def filter_ledger(
    ledger: str | Path,
    mark: Watermark,
    path: str | Path,
    *,
    chosen: Selection | None = None,
    bits: int = BITS,
    progress: Callable[[int], None] | None = None,
) -> WindowFilter:
    """Writes the filter of the windows served in a ledger, in bounded memory, however long the ledger is.

    mark: whose records they are; chosen: which, e.g. an account's of a period. bits: as for `write_filter`.
    progress: called with the number of records read. Raises as `served_windows` and `write_filter`.
    """
    read, head = 0, ""

    def records() -> Iterator[Record]:
        nonlocal read, head
        for record in read_ledger(ledger, chosen):
            read, head = read + 1, record.hash
            if progress is not None:
                progress(read)
            yield record

    return write_filter(_served(records(), mark), path, mark, told=lambda: (read, head), chosen=chosen, bits=bits)


def _served(records: Iterable[Record], mark: Watermark) -> Iterator[NDArray[np.uint64]]:
    """The names of all windows in served answers, some at a time, each at least once."""
    rest, window = iter(records), mark.scheme.window
    while some := list(islice(rest, _ANSWERS)):
        answers = [np.asarray(require_record(record, mark), dtype=np.uint32) for record in some]
        lengths, ids = np.array([len(answer) for answer in answers]), np.concatenate(answers)
        position = np.arange(len(ids)) - np.repeat(lengths.cumsum() - lengths, lengths)
        at = np.flatnonzero(position >= window - 1)
        yield prf.window_ids(np.stack([ids[at - window + 1 + step] for step in range(window)], axis=1))


def _names(token_ids: Iterable[int], scheme: Scheme) -> NDArray[np.uint64]:
    """Each window of one answer once; windows that the keyed function takes for one have one name."""
    ids = np.asarray(token_ids, dtype=np.uint32)
    if len(ids) < scheme.window:
        return np.empty(0, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(ids, scheme.window)
    return np.unique(prf.window_ids(merged(scheme, windows)))
