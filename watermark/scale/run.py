"""A run over a work folder: lay out the input, read its blocks, count each cell once. What is done stays done."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from watermark import prf
from watermark.errors import WorkInvalid
from watermark.files import canonical_json
from watermark.keyring.keyset import KeySet
from watermark.ledger import described
from watermark.ledger.filters import WindowFilter, is_filter
from watermark.observe import filter_ledger
from watermark.observe.restored import RECIPE
from watermark.outputs import Outputs
from watermark.probe.log import was_watched
from watermark.scale.blocks import EDGES, FORMAT, block_of, differing, manifest_of
from watermark.scale.corpus import BLOCK_BYTES, Addressed, Corpus, Input, input_at, kept_corpus, scanned
from watermark.scale.engines import Here, Ray, Workers
from watermark.scale.job import SERVED, Bench, Job, carried, keyless, routing_of
from watermark.scale.once import parts_for
from watermark.scale.store import Folder, placed, store_at
from watermark.scale.streamed import Streamed, streamed
from watermark.scale.tasks import decoy_totals, in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.mark import Watermark
    from watermark.scale.engines import Engine
    from watermark.scale.store import Store
    from watermark.tokenizer import Tokenizer

    Say = Callable[[str, int], None]

_STAMPS = "stamps.json"
BAD, FIELDS = "rule for bad records", "list of field names"  # what a run is read by, in words


@dataclass(frozen=True)
class Scale:
    """Where and by whom a corpus is read. work: a folder, or an address that fsspec knows; what is done is kept there.

    workers: processes of this machine. engine: "ray" for a cluster at `address` (by default one on this machine).
    block_bytes: of input that are read at once by each worker.
    """

    work: str | Path
    workers: int = 1
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    block_bytes: int = BLOCK_BYTES

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"at least one worker is needed, found {self.workers}")
        if self.engine not in ("local", "ray"):
            raise ValueError(f"engine must be local or ray, found {self.engine!r}")
        if self.engine == "local" and self.address is not None:
            raise ValueError("an address is that of a Ray cluster: pass engine='ray' too")


def score(
    outputs: str | Path | Outputs,
    mark: Watermark | KeySet,
    *,
    scale: Scale,
    tokenizer: Tokenizer | None = None,
    ledger: str | Path | None = None,
    shard: tuple[int, int] = (1, 1),
    progress: Say | None = None,
) -> int:
    """Reads one shard of a corpus into the work folder; `detect` takes it from there.

    shard: (i, n), the i-th of n, i from 1; any machine may do any shard, in any order, and again. Returns the number of
    its blocks. Raises WorkInvalid where the folder is another run's; and as reading outputs does.
    """
    place, of = shard
    if not 1 <= place <= of:
        raise ValueError(f"a shard is i of n with i from 1 to n, found {place} of {of}")
    say = progress or (lambda word, count: None)
    one = mark.watermark(mark.epochs[0]) if isinstance(mark, KeySet) else mark  # as `detect` reads under a set
    run = _begun(outputs, one, tokenizer, ledger, scale, say)
    with run.at_work():
        count = len(run.bench.corpus.blocks)
        Addressed(path=run.bench.job.told).require(count, 0)  # type: ignore[arg-type]
        blocks = [index for index in range(count) if index % of == place - 1]
        run.read(blocks, say, shard=f"{place}/{of}")
    return len(blocks)


@contextmanager
def gathered(
    outputs: str | Path | Outputs | None,
    mark: Watermark,
    *,
    scale: Scale,
    tokenizer: Tokenizer | None = None,
    ledger: str | Path | None = None,
    progress: Say | None = None,
) -> Iterator[Gathered]:
    """What a corpus shows, each cell counted once; blocks that were not read yet are read now.

    outputs: None if all blocks were read by `score`. Raises WorkInvalid for a folder of another run, or one in which
    blocks are missing; TooFewObservations; and as reading outputs does.
    """
    say = progress or (lambda word, count: None)
    run = _begun(outputs, mark, tokenizer, ledger, scale, say)
    with run.at_work():
        if outputs is None:
            run.require_all()
        run.read(range(len(run.bench.corpus.blocks)), say)
        seen = run.reduced(say, filtered=ledger is not None)
        yield Gathered(seen, run)


@dataclass(frozen=True)
class Gathered:
    """seen: what was read. run: for what the engine does next."""

    seen: Streamed
    run: Run

    @property
    def corpus(self) -> Corpus:
        return self.run.bench.corpus

    def decoys(self, count: int, say: Say) -> NDArray[np.int64]:
        """(count, 1) totals of the cells under the decoy keys that their digest draws."""
        blocks, seed = len(self.corpus.blocks), self.seen.digest
        arguments = [{"block": index, "seed": seed, "count": count} for index in range(blocks)]
        self.run.all("decoys", arguments, "blocks scored under the decoys", say)
        return decoy_totals(self.run.bench, blocks, seed, count)[:, None]


class Run:
    """A corpus, the bench of this process, and the engine."""

    def __init__(self, bench: Bench, scale: Scale) -> None:
        self.bench, self.scale = bench, scale
        self.engine: Engine | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self.engine is not None:
                self.engine.close()

    def all(self, task: str, arguments: list[dict[str, Any]], word: str, say: Say) -> list[dict[str, Any]]:
        """One task for every argument; results in their order. Raises the error of the first that has one."""
        results = self._engine(len(arguments)).run(task, arguments)
        return in_order(results, lambda count: say(word, count), len(arguments))

    def _engine(self, tasks: int) -> Engine:
        """The engine, begun when there is something to do."""
        if self.engine is None:
            if not tasks:
                return Here(self.bench)
            job, workers = self.bench.job, min(self.scale.workers, len(self.bench.corpus.blocks))
            if self.scale.engine == "ray":
                self.engine = Ray(job, self.scale.address)
            else:
                self.engine = Workers(job, workers) if workers > 1 else Here(self.bench)
        return self.engine

    def read(self, blocks: Iterable[int], say: Say, *, shard: str | None = None) -> None:
        """Reads those of some blocks that are not there yet."""
        corpus, work = self.bench.corpus, self.bench.work
        missing = [index for index in blocks if manifest_of(work, corpus, index) is None]
        self.all("read", [{"block": index, "shard": shard} for index in missing], "blocks read", say)

    def require_all(self) -> None:
        """Raises WorkInvalid, naming what is missing, unless every block was read."""
        corpus, work = self.bench.corpus, self.bench.work
        found = [manifest_of(work, corpus, index) for index in range(len(corpus.blocks))]
        missing = [index for index, manifest in enumerate(found) if manifest is None]
        if not missing:
            return
        counts = {int(m["shard"].partition("/")[2]) for m in found if m is not None and m["shard"]}
        shards = ""
        if len(counts) == 1:
            of = counts.pop()
            names = sorted({f"{index % of + 1}/{of}" for index in missing}, key=lambda name: int(name.split("/")[0]))
            shards = f" (of shard{'s' * (len(names) > 1)} {', '.join(names)})"
        some = ", ".join(map(str, missing[:8])) + (" …" if len(missing) > 8 else "")
        raise WorkInvalid(
            f"{len(missing)} of {len(found)} blocks are missing from {self.bench.job.work}: {some}{shards}",
            hint="run `wmark score` for them, or pass the outputs, so that they are read now",
        )

    def reduced(self, say: Say, *, filtered: bool) -> Streamed:
        """Each cell once. filtered: by a ledger."""
        bench, blocks = self.bench, len(self.bench.corpus.blocks)
        files = [block_of(bench, index) for index in range(blocks)]
        answers = sum(file.answers for file in files)
        records = Addressed(path=bench.job.told)  # type: ignore[arg-type]
        records.require(answers, sum(file.manifest["bad"] for file in files))
        of = parts_for(sum(file.kept for file in files))
        edges = np.stack([file.array("edges")[:: EDGES // of] for file in files]).astype(np.int64)
        arguments = [
            {"part": number, "of": of, "slices": edges[:, number : number + 2].tolist()} for number in range(of)
        ]
        counts = np.array([each["counts"] for each in self.all("part", arguments, "parts reduced", say)])
        ends = np.cumsum(counts, axis=1)
        dropped = np.stack([ends - counts, ends], axis=2)
        arguments = [{"block": index, "of": of, "slices": dropped[:, index].tolist()} for index in range(blocks)]
        kept = self.all("survivors", arguments, "blocks counted once", say)
        return streamed(bench, kept, filtered=filtered, say=lambda count: say("columns of blocks digested", count))


def _begun(
    outputs: str | Path | Outputs | None,
    mark: Watermark,
    tokenizer: Tokenizer | None,
    ledger: str | Path | None,
    scale: Scale,
    say: Say,
) -> Run:
    """The run: its corpus laid out now, or found as it was laid out. Raises WorkInvalid if another run's is there."""
    if tokenizer is not None:
        mark.check_tokenizer(tokenizer)
    work = store_at(scale.work)
    if isinstance(work, Folder) and work.root.is_file():
        raise WorkInvalid(f"{scale.work} is a file, needed is a folder to work in", hint="choose another --work")
    skip_bad, fields = getattr(outputs, "skip_bad", False), dict(getattr(outputs, "fields", {}))
    corpus = kept_corpus(work)
    reading = _reading(mark, tokenizer, ledger, skip_bad, fields)
    if outputs is None:
        if corpus is None:
            raise WorkInvalid(f"nothing was read into {scale.work} yet", hint="pass the suspect's outputs")
        skip_bad, fields = corpus.reading[BAD], corpus.reading[FIELDS]
        reading |= {BAD: skip_bad, FIELDS: fields}
        _same(corpus, reading, corpus.outputs, scale)
        source, told, folder = work.address, corpus.outputs["name"], False
    else:
        given = _input(outputs)
        source, told, folder = given.store.address, given.told, given.folder
        if folder and f"{work.address.rstrip('/')}/".startswith(f"{source.rstrip('/')}/"):
            raise WorkInvalid(
                f"the work folder {scale.work} lies in the folder of the outputs, whose bytes it would change",
                hint="put it beside them",
            )
        corpus = _laid_out(given, outputs, reading, corpus, work, scale, say)
    job = Job(
        work=work.address,
        source=source,
        told=told,
        folder=folder,
        skip_bad=skip_bad,
        fields=fields,
        mark=keyless(mark),
        routing=routing_of(mark),
        tokenizer=carried(tokenizer),
        served=ledger is not None,
    )
    if ledger is not None and work.size(SERVED) is None:
        _filter(ledger, mark, work, say)
    return Run(Bench(job, tokenizer), scale)


def _laid_out(
    given: Input,
    outputs: Any,
    reading: dict[str, Any],
    corpus: Corpus | None,
    work: Store,
    scale: Scale,
    say: Say,
) -> Corpus:
    """The corpus of an input: what was kept, if the input is still the same, else made by reading it once."""
    stamps = given.stamps()
    if corpus is not None:
        _same(corpus, reading, None, scale)
        stored = json.loads(work.read(_STAMPS)) if work.size(_STAMPS) is not None else {}
        if stored.get("stamps") == stamps and stored.get("corpus") == corpus.digest:
            return corpus
    else:
        work.write(_STAMPS, [canonical_json({})])  # whoever may not write there is told before all is read
    described, blocks = scanned(
        given, work, block_bytes=scale.block_bytes, say=lambda count: say("blocks laid out", count)
    )
    if corpus is None:
        path = None if "://" in given.told else Path(given.told)
        corpus = Corpus(described, reading, path is not None and was_watched(path), blocks)
        corpus.keep(work)
    _same(corpus, reading, described, scale)
    work.write(_STAMPS, [canonical_json({"stamps": stamps, "corpus": corpus.digest})])
    return corpus


def _filter(ledger: str | Path, mark: Watermark, work: Store, say: Say) -> None:
    """Puts a filter of the ledger's windows, with all bits of their names, into the work folder, in bounded memory.

    It is as private as `write_filter` makes it: what was served is nobody else's business.
    """
    beside = work.root if isinstance(work, Folder) else None
    with tempfile.TemporaryDirectory(prefix=".filter-", dir=beside) as folder:
        path = Path(ledger)
        if is_filter(ledger):
            WindowFilter(ledger).check_mark(mark)
        else:
            path = Path(folder) / SERVED
            filter_ledger(ledger, mark, path, progress=lambda count: say("ledger records read", count))
        with path.open("rb") as stream:
            work.write(SERVED, iter(lambda: stream.read(1 << 20), b""), mode=0o600)


def _same(corpus: Corpus, reading: dict[str, Any], outputs: dict[str, Any] | None, scale: Scale) -> None:
    """Raises WorkInvalid unless a work folder's corpus is that of this run."""
    ours = Corpus(outputs or corpus.outputs, reading, corpus.watched, [])
    if corpus.reading != ours.reading or corpus.outputs != ours.outputs:
        told = differing({"reading": corpus.reading, "outputs": corpus.outputs}, ours)
        raise WorkInvalid(
            f"{scale.work} holds another run's work: {told}",
            hint="work in another folder, or pass what that run was given",
        )


def _reading(
    mark: Watermark, tokenizer: Tokenizer | None, ledger: str | Path | None, skip_bad: bool, fields: dict[str, str]
) -> dict[str, Any]:
    """What a corpus is read by. A run that differs in any of it reads other cells, or may."""
    try:
        ours = version("wmark")
    except PackageNotFoundError:
        ours = "not installed"
    return {
        "mark": hashlib.sha256(canonical_json(mark.profile())).hexdigest(),
        "tokenizer": None if tokenizer is None else tokenizer.digest,
        "ledger": None if ledger is None else described(ledger)["sha256"],
        BAD: skip_bad,
        FIELDS: fields,
        "version of wmark": ours,
        "recipe": [prf.RECIPE, RECIPE, FORMAT],
    }


def _input(outputs: str | Path | Outputs) -> Input:
    told = str(outputs.path if isinstance(outputs, Outputs) else outputs)
    if "://" not in told:
        path = Path(told)
        return input_at(told, folder=store_at(path) if path.is_dir() else None, file=placed(told))
    inner = store_at(told)
    file = placed(told)
    is_file = file[0].size(file[1]) is not None and not inner.names()
    return input_at(told, folder=None if is_file else inner, file=file)
