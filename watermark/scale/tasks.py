"""Tasks: what is done apart, by whichever worker; each writes its result once, and doing it again changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import errors
from watermark.keys import decoy_keys
from watermark.scale.arrays import read_array, write_arrays
from watermark.scale.blocks import block_of, read_block
from watermark.scale.once import counted, part, survivors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.scale.job import Bench

    Argument = dict[str, Any]


def _read(bench: Bench, argument: Argument) -> Argument:
    manifest = read_block(bench, argument["block"], argument["shard"])
    return {"answers": manifest["answers"]}


def _part(bench: Bench, argument: Argument) -> Argument:
    return {"counts": part(bench, argument["part"], argument["of"], argument["slices"])["counts"]}


def _survivors(bench: Bench, argument: Argument) -> Argument:
    found = survivors(bench, argument["block"], argument["of"], argument["slices"])
    return {"kept": found["kept"], "own": found["own"]}


def _decoys(bench: Bench, argument: Argument) -> Argument:
    """Totals of a block's cells under the decoy keys that the corpus's digest draws: no secret is needed for them."""
    index, seed, count = argument["block"], argument["seed"], argument["count"]
    name = decoys_file(index, seed, count)
    if bench.work.size(name) == 8 * count:
        return {}
    windows, choices = cells_of(bench, index)
    ones, keys = np.ones((1, len(choices)), dtype=np.int32), decoy_keys(bytes.fromhex(seed), count)
    totals: list[NDArray[np.int64]] = []
    while some := list(islice(keys, bench.mark.keys_at_once(len(choices)))):
        totals.append(bench.mark.totals(windows, choices, ones, some)[:, 0])
    write_arrays(bench.work, name, {"totals": np.concatenate(totals).astype(np.int64)})
    return {}


TASKS: dict[str, Callable[[Bench, Argument], Argument]] = {
    "read": _read,
    "part": _part,
    "survivors": _survivors,
    "decoys": _decoys,
}


def done(bench: Bench, task: str, argument: Argument) -> Argument:
    """One task's result, or {"error": […]} where it raised one of ours."""
    try:
        return TASKS[task](bench, argument)
    except errors.WatermarkError as error:
        return {"error": [type(error).__name__, str(error), error.hint]}


def raised(told: list[Any]) -> errors.WatermarkError:
    """The error that `done` told of."""
    kind = getattr(errors, told[0])
    error: errors.WatermarkError = kind.__new__(kind)
    errors.WatermarkError.__init__(error, told[1], hint=told[2])
    return error


def cells_of(bench: Bench, index: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Windows and choices of a block's cells that count."""
    file = block_of(bench, index)
    which = counted(bench.work, index, file.kept)
    return file.array("windows")[which], file.array("choices")[which]


def decoys_file(index: int, seed: str, count: int) -> str:
    return f"decoys/{seed[:16]}-{count}/{index:06d}.totals"


def decoy_totals(bench: Bench, blocks: int, seed: str, count: int) -> NDArray[np.int64]:
    """(count,) of all blocks together."""
    totals, table = np.zeros(count, dtype=np.int64), {"totals": ["<i8", [count], 0]}
    for index in range(blocks):
        totals += read_array(bench.work, decoys_file(index, seed, count), table, "totals")
    return totals


def in_order(results: Iterator[tuple[int, Argument]], say: Callable[[int], None], count: int) -> list[Argument]:
    """All results by position. Raises the error of the earliest position that has one."""
    found: dict[int, Argument] = {}
    for position, result in results:
        found[position] = result
        say(len(found))
    for position in sorted(found):
        if "error" in found[position]:
            raise raised(found[position]["error"])
    return [found[position] for position in range(count)]
