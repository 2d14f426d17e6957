"""Each cell once over the whole corpus: the reduce, by parts of the cells' 64-bit names.

A part holds the names of one range from all blocks; the blocks keep theirs sorted, so it is read in slices. What stays
is a name's first cell in reading order; the others are noted by block, and become one bit a cell.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.files import canonical_json
from watermark.scale.arrays import read_array, write_arrays
from watermark.scale.blocks import EDGES, block_of, by_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scale.job import Bench
    from watermark.scale.store import Store

_CELLS = 1 << 20  # of a part, about


def parts_for(cells: int) -> int:
    """How many parts a corpus of so many cells is cut into: a power of two, at most the edges that blocks have."""
    return min(EDGES, 1 << max(0, (cells // _CELLS).bit_length()))


def part(bench: Bench, number: int, of: int, slices: list[list[int]]) -> dict[str, Any]:
    """Which cells of each block are not the first of their name. slices: of the sorted names, one for each block.

    Writes the ordinals and returns {"counts": by block}.
    """
    kept = _kept(bench.work, f"{_part(number, of)}.json", bench.corpus.digest)
    if kept is not None:
        return kept
    files = [_Slice(bench, index, low, high) for index, (low, high) in enumerate(slices)]
    ids = np.concatenate([np.empty(0, np.uint64), *(each.read("ids") for each in files)])
    order, first = by_name(ids)
    again = np.sort(order[~first])
    starts = np.cumsum([0, *(high - low for low, high in slices)])
    bounds = np.searchsorted(again, starts)
    dropped = [
        each.read("ordinals")[again[low:high] - start] if high > low else np.empty(0, np.uint32)
        for each, start, low, high in zip(files, starts[:-1], bounds[:-1], bounds[1:], strict=True)
    ]
    arrays = {"dropped": np.concatenate([np.empty(0, np.uint32), *dropped])}
    table = write_arrays(bench.work, _part(number, of), arrays)
    found = {"corpus": bench.corpus.digest, "counts": np.diff(bounds).tolist(), "arrays": table}
    bench.work.write(f"{_part(number, of)}.json", [canonical_json(found)])
    return found


def survivors(bench: Bench, index: int, of: int, slices: list[list[int]]) -> dict[str, Any]:
    """One bit for each cell of a block: whether it counts. slices: of what each part dropped, this block's.

    Returns {"kept": how many cells count, "own": those among them that are an answer's own reading}.
    """
    found = _kept(bench.work, f"kept/{index:06d}.json", bench.corpus.digest)
    if found is not None:
        return found
    file = block_of(bench, index)
    counts = np.ones(file.kept, dtype=bool)
    for number, (low, high) in enumerate(slices):
        if high > low:
            table = {"dropped": ["<u4", [high], 0]}
            counts[read_array(bench.work, _part(number, of), table, "dropped", low, high)] = False
    aside = counts[file.array("aside")].sum()
    bench.work.write(f"kept/{index:06d}.bits", [np.packbits(counts).tobytes()])
    found = {"corpus": bench.corpus.digest, "kept": int(counts.sum()), "own": int(counts.sum() - aside)}
    bench.work.write(f"kept/{index:06d}.json", [canonical_json(found)])
    return found


def counted(work: Store, index: int, cells: int) -> NDArray[np.bool_]:
    """Which cells of a block count, (cells,)."""
    bits = np.frombuffer(work.read(f"kept/{index:06d}.bits"), dtype=np.uint8)
    return np.unpackbits(bits, count=cells).view(np.bool_)


class _Slice:
    """The slice of a block's sorted names that lies in a part."""

    def __init__(self, bench: Bench, index: int, low: int, high: int) -> None:
        self.file, self.low, self.high = block_of(bench, index), low, high

    def read(self, key: str) -> NDArray[Any]:
        return self.file.array(key, self.low, self.high)


def _kept(work: Store, name: str, corpus: str) -> dict[str, Any] | None:
    """What was noted when a step was done; None if it was not done for this corpus."""
    if work.size(name) is None:
        return None
    found: dict[str, Any] = json.loads(work.read(name))
    return found if found.get("corpus") == corpus else None


def _part(number: int, of: int) -> str:
    return f"once/{number:04d}-of-{of}"
