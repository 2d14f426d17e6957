"""Blocks read into cells: the map. Each block gives one file of its distinct cells, in reading order and by name, and
a manifest that says what it was made of. The same block gives the same bytes wherever it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.errors import WorkInvalid
from watermark.files import canonical_json
from watermark.observe.rules import Rules
from watermark.observe.text import BATCH, Reader
from watermark.scale.arrays import read_array, write_arrays
from watermark.scale.corpus import Addressed, records_of
from watermark.schemes import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.outputs import Output
    from watermark.scale.corpus import Corpus
    from watermark.scale.job import Bench
    from watermark.scale.store import Store

FORMAT = "wmark-block/1"
EDGES = 4096  # parts of the range of names between whose beginnings a block's sorted names can be entered
_SHIFT = np.uint64(64 - 12)


def read_block(bench: Bench, index: int, shard: str | None = None) -> dict[str, Any]:
    """Makes a block's file and its manifest, unless they are there. Returns the manifest.

    shard: "i/n", for the manifest to tell. Raises what reading outputs raises, and WorkInvalid if the manifest that
    is there is another run's.
    """
    kept = manifest_of(bench.work, bench.corpus, index)
    if kept is not None:
        return kept
    reader = Reader(Rules(bench.mark, bench.tokenizer, bench.served))
    records = Addressed(path=bench.job.told, skip_bad=bench.job.skip_bad, fields=bench.job.fields)  # type: ignore[arg-type]
    nameless: list[int] = []
    stream = _outputs(bench, index, records, nameless)
    while batch := tuple(islice(stream, BATCH)):
        reader.take(reader.prepared(batch))
    arrays, found = _distinct(bench, reader)
    names: list[str | None] = list(reader.names)
    for number in nameless:
        names[number] = None
    arrays["names"] = _text(names)
    manifest = found | {
        "format": FORMAT,
        "corpus": bench.corpus.digest,
        "outputs": bench.corpus.outputs,
        "reading": bench.corpus.reading,
        "block": index,
        "shard": shard,
        "bad": records.skipped,
        "arrays": write_arrays(bench.work, _file(index), arrays),
    }
    bench.work.write(_manifest(index), [canonical_json(manifest)])
    return manifest


def _outputs(bench: Bench, index: int, records: Addressed, nameless: list[int]) -> Iterator[Output]:
    """A block's outputs. nameless: gets the places of those whose id is their place in the whole input."""
    job, name = bench.job, records.fields.get("id", "id")
    raw = records_of(bench.corpus.blocks[index], bench.source, bench.work, job.told, folder=job.folder)
    last: Any = None

    def noted() -> Iterator[Any]:
        nonlocal last
        for record in raw:
            last = record[1]
            yield record

    for number, output in enumerate(records.parsed(noted())):
        if last.get(name) is None:
            nameless.append(number)
        yield output


def _distinct(bench: Bench, reader: Reader) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The block's arrays and counts: each cell at its first place in the block."""
    windows, choices, documents, positions = reader.cells()
    reader.parts.clear()
    ids = prf.cell_ids(*canonical(bench.mark.scheme, windows, choices))
    order, first = by_name(ids)
    kept = np.sort(order[first])
    place = np.empty(len(ids), dtype=np.uint32)
    place[kept] = np.arange(len(kept), dtype=np.uint32)
    ordinals, names = place[order[first]], ids[order[first]]
    own, owner = positions >= 0, documents[kept]
    answers = len(reader.names)
    arrays: dict[str, NDArray[Any]] = {
        "windows": windows[kept],
        "choices": choices[kept],
        "cells": np.bincount(owner, minlength=answers).astype(np.uint32),
        "tokens": np.concatenate([np.empty(0, dtype=np.int64), *reader.lengths]).astype(np.uint32),
        "aside": np.flatnonzero(~own[kept]).astype(np.uint32),
        "ids": names,
        "ordinals": ordinals,
        "edges": np.searchsorted(names >> _SHIFT, np.arange(EDGES + 1, dtype=np.uint64)).astype(np.uint32),
    }
    arrays["shown"] = _text(
        [
            {"token_ids": ids.tolist(), "positions": positions[kept][owner == number].tolist()}
            for number, (_, ids) in enumerate(reader.shown)
        ]
    )
    return arrays, {
        "answers": answers,
        "kept": len(kept),
        "own": int(own.sum()),
        "prompts_known": reader.prompts_known,
        "templated": reader.templated,
        "restored": reader.restored,
        "skipped": reader.rules.skipped,
    }


def by_name(ids: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(order, first): `ids` (n,) in ascending order, equals in the order in which they stand; and which of that order
    are the first of their kind.

    One sort of the ids' upper bits with the places in the lower ones, which is several times as fast as a stable
    argsort; the few ids that agree in the upper bits alone are put right after it.
    """
    bits = np.uint64(max(1, (len(ids) - 1).bit_length()))
    packed = (ids >> bits << bits) | np.arange(len(ids), dtype=np.uint64)
    packed.sort()
    order = (packed & np.uint64((1 << int(bits)) - 1)).astype(np.int64)
    alike = (packed[1:] >> bits) == (packed[:-1] >> bits)
    named = ids[order]
    if (alike & (named[1:] != named[:-1])).any():
        run = np.concatenate([[0], np.cumsum(~alike)])
        mixed = np.isin(run, run[1:][alike & (named[1:] != named[:-1])])
        some = order[mixed]
        order[mixed] = some[np.lexsort((some, ids[some]))]
        named = ids[order]
    first = np.ones(len(ids), dtype=bool)
    first[1:] = named[1:] != named[:-1]
    return order, first


def manifest_of(work: Store, corpus: Corpus, index: int) -> dict[str, Any] | None:
    """The manifest of a block that was read; None if it was not, or not to the end.

    Raises WorkInvalid if it was read by another mark, of other outputs, or by another version.
    """
    name = _manifest(index)
    if work.size(name) is None:
        return None
    try:
        found = json.loads(work.read(name))
        ours = found["corpus"] == corpus.digest
    except (ValueError, KeyError, TypeError):
        return None
    if not ours or found.get("format") != FORMAT:
        raise WorkInvalid(
            f"block {index} in the work folder does not belong to this run: {differing(found, corpus)}",
            hint="remove what was copied there, or work in another folder",
        )
    return found if work.size(_file(index)) == found["arrays"]["bytes"] else None


def differing(found: dict[str, Any], corpus: Corpus) -> str:
    """In what another run differs from this one, in words. found: with `outputs` and `reading`."""
    reading: dict[str, Any] = found.get("reading") or {}
    told = [f"the {what} is another" for what, value in corpus.reading.items() if reading.get(what) != value]
    outputs: dict[str, Any] = found.get("outputs") or {}
    if outputs.get("sha256") != corpus.outputs["sha256"]:
        told.insert(0, f"it read {outputs.get('name')}, whose bytes are others")
    elif outputs.get("name") != corpus.outputs["name"]:
        told.insert(0, f"it read the same bytes under the name {outputs.get('name')}")
    return "; ".join(told) or "its blocks were cut otherwise"


class BlockFile:
    """A block that was read. manifest: its own."""

    def __init__(self, work: Store, manifest: dict[str, Any]) -> None:
        self.work, self.manifest = work, manifest
        self.index, self.kept, self.answers = manifest["block"], manifest["kept"], manifest["answers"]

    def array(self, key: str, low: int = 0, high: int | None = None) -> NDArray[Any]:
        return read_array(self.work, _file(self.index), self.manifest["arrays"], key, low, high)

    def names(self) -> list[str | None]:
        """The answers' ids, None for those that are called by their place in the whole input."""
        found: list[str | None] = json.loads(self.array("names").tobytes())
        return found

    def shown(self) -> list[dict[str, list[int]]]:
        """The first answers: their token ids, and the places in them of the cells that they gave."""
        found: list[dict[str, list[int]]] = json.loads(self.array("shown").tobytes())
        return found


def block_of(bench: Bench, index: int) -> BlockFile:
    """A block that was read. Raises WorkInvalid if it is not there."""
    manifest = bench.manifests.get(index) or manifest_of(bench.work, bench.corpus, index)
    if manifest is None:
        raise WorkInvalid(f"block {index} is gone from {bench.job.work}", hint="run the same command again")
    bench.manifests[index] = manifest
    return BlockFile(bench.work, manifest)


def _text(value: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _file(index: int) -> str:
    return f"blocks/{index:06d}.cells"


def _manifest(index: int) -> str:
    return f"blocks/{index:06d}.json"
