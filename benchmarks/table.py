"""The whole table: each of our paths beside the peer a user would take instead, and beside physical limits.

    python benchmarks/table.py --quick                          about five minutes on two cores
    python benchmarks/table.py --peers PEERS                    PEERS: folder of the peers' code, see engine_peers.py
    python benchmarks/table.py --peers PEERS --full --page docs/results/performance.md

Both sides of a row do the same work in one process and by turns, one thread each unless the row says otherwise; seconds
are CPU seconds of the process. A ratio is the other side's time over ours, 1 where both take as long: the median of the
turns, with the lowest and the highest. A peer that is not here is said to be absent. A limit is something that a user
pays anyway or that nobody can undercut (a copy of memory, the tokenizer alone, one softmax); its ratio is read alike.
The last lines name every peer that is faster than we are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sysconfig
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from engine_throughput import TIMED, text
from engine_throughput import ours as read_by_us

from watermark import prf
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.observe import observe
from watermark.outputs import Outputs
from watermark.schemes import GreenList, Gumbel, Tournament

VOCABULARY = 128_256
KEY = next(iter(decoy_keys(b"benchmarks/table", 1)))
START, END = "<!-- begin: python benchmarks/table.py -->", "<!-- end -->"
LIBRARIES = ("numpy", "scipy", "torch", "transformers", "numba", "tokenizers", "scikit-learn", "pyarrow")
PEER_VERSIONS = "vLLM 0.33.0, SGLang 0.5.23, TextSeal 0.0.5, owmark 0.8.1, synthid-text addb4a1"
Work = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """What was done, by whom beside us, and seconds a unit of work of both, turn by turn.

    kind: "peer", who does the same, "own", another way of ours to it, or "limit".
    most: of limits, how many times the limit's time we may take.
    """

    part: str
    what: str
    beside: str
    kind: Literal["peer", "own", "limit"]
    own: list[float]
    other: list[float]
    unit: str
    most: float | None = None

    @property
    def ratios(self) -> list[float]:
        return sorted(other / own for own, other in zip(self.own, self.other, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Absent:
    """A peer that could not be asked, and why."""

    part: str
    beside: str
    why: str


@dataclass(frozen=True)
class Size:
    """How much is measured. turns: of each row; least: seconds that a turn lasts at least."""

    turns: int
    least: float
    lengths: tuple[int, ...]
    tokens: tuple[int, ...]
    keys: tuple[int, ...]
    batches: tuple[int, ...]
    vocabularies: tuple[int, ...] = (32_000, 64_000, 128_256, 256_000)


QUICK = Size(5, 0.03, (1_000,), (10**4, 10**5, 10**6), (1, 10, 100, 1_000, 10_000), (1, 4, 16, 64))
WHOLE = Size(5, 0.08, (1_000,), (10**4, 10**5, 10**6, 10**7), (1, 10, 100, 1_000, 10_000), (1, 4, 16, 64, 256))
FULL = Size(7, 0.2, (200, 1_000, 5_000), tuple(10**n for n in range(4, 9)), tuple(10**n for n in range(6)),
            (1, 4, 16, 64, 256))  # fmt: skip


def by_turns(works: Sequence[tuple[Work, float]], size: Size) -> list[list[float]]:
    """CPU seconds a unit of each work (with its units a call), turn by turn; each runs once before the clock does."""
    calls = []
    for work, _ in works:
        work()
        start = time.process_time()
        work()
        calls.append(max(1, round(size.least / max(1e-7, time.process_time() - start))))
    spent: list[list[float]] = [[] for _ in works]
    for _ in range(size.turns):
        for (work, units), count, times in zip(works, calls, spent, strict=True):
            start = time.process_time()
            for _ in range(count):
                work()
            times.append((time.process_time() - start) / count / units)
    return spent


# ---- marking: one step of a server


def logits_of(batch: int, vocabulary: int, window: int = 4) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(1)
    drawn = rng.standard_normal((batch, vocabulary), dtype=np.float32) * 3
    return torch.from_numpy(drawn), rng.integers(1, vocabulary - 2, (batch, window))


def sampling(logits: torch.Tensor) -> Work:
    return lambda: torch.multinomial(torch.softmax(logits, dim=-1), 1)


def mark_of(scheme: Any, vocabulary: int = VOCABULARY) -> Watermark:
    return Watermark(scheme, KEY, Binding("benchmark", vocabulary, (vocabulary - 2, vocabulary - 1)))


def tilted(mark: Watermark, logits: torch.Tensor, contexts: np.ndarray) -> Work:
    given = contexts[:, -mark.scheme.window :]
    return lambda: mark.tilt(logits, given)


def marking(size: Size, peers: Path | None) -> Iterator[Row | Absent]:
    from transformers import SynthIDTextWatermarkLogitsProcessor, WatermarkLogitsProcessor

    batch = size.batches[-1] if size.batches[-1] <= 64 else 64
    logits, contexts = logits_of(batch, VOCABULARY)
    part, ids = f"marking, {batch} × {VOCABULARY:,} logits", torch.from_numpy(contexts)
    green = tilted(mark_of(GreenList(window=1)), logits, contexts)
    theirs = WatermarkLogitsProcessor(VOCABULARY, "cpu", 0.25, 2.0, 15485863, "lefthash", 1)
    copy = torch.empty_like(logits)
    found = by_turns(
        [
            (green, batch),
            (lambda: theirs(ids, logits), batch),
            (sampling(logits), batch),
            (lambda: copy.copy_(logits), batch),
        ],
        size,
    )
    yield Row(part, "green list", "transformers WatermarkLogitsProcessor", "peer", found[0], found[1], "rows")
    yield Row(part, "green list", "softmax + multinomial", "limit", found[0], found[2], "rows", most=0.1)
    yield Row(part, "green list", "copy of the logits (memory)", "limit", found[0], found[3], "rows")
    few, narrow = logits[:4].clone(), contexts[:4]
    part = f"marking, 4 × {VOCABULARY:,} logits"
    slow = SynthIDTextWatermarkLogitsProcessor(
        ngram_len=3, keys=list(range(1, 31)), sampling_table_size=2**16, sampling_table_seed=0,
        context_history_size=1024, device=torch.device("cpu"),
    )  # fmt: skip
    given = torch.from_numpy(narrow)
    found = by_turns(
        [
            (tilted(mark_of(Tournament(window=2)), few, narrow), 4),
            (lambda: slow(given, few), 4),
            (tilted(mark_of(Gumbel(window=2)), few, narrow), 4),
            (sampling(few), 4),
        ],
        size,
    )
    yield Row(part, "tournament, 30 layers", "transformers SynthID processor", "peer", found[0], found[1], "rows")
    yield Row(part, "tournament, 30 layers", "softmax + multinomial", "limit", found[0], found[3], "rows")
    yield Row(part, "gumbel", "softmax + multinomial", "limit", found[2], found[3], "rows")
    yield from cut_marking(size, peers)


def cut_marking(size: Size, peers: Path | None) -> Iterator[Row | Absent]:
    """Four rows of which top-k left 40 tokens, beside synthid-text's processor, which cuts by itself."""
    part, beside = f"marking, 4 × {VOCABULARY:,} logits cut to 40", "synthid-text SynthIDLogitsProcessor (top_k=40)"
    try:
        if peers is None:
            raise FileNotFoundError("no folder of peers was given")
        import sys

        sys.path.insert(0, str(peers / "synthid-text" / "src"))
        from synthid_text.logits_processing import SynthIDLogitsProcessor

        theirs = SynthIDLogitsProcessor(
            ngram_len=3, keys=list(range(1, 31)), context_history_size=1024, temperature=1.0, top_k=40,
            device=torch.device("cpu"),
        )  # fmt: skip
    except (ImportError, FileNotFoundError) as error:
        yield Absent(part, beside, str(error))
        return
    logits, contexts = logits_of(4, VOCABULARY)
    ids, least = torch.from_numpy(contexts), logits.topk(40).values[:, -1:]
    cut = torch.where(logits < least, -torch.inf, logits)
    works = [
        (tilted(mark_of(Tournament(window=2)), cut, contexts), 4),
        (lambda: theirs.watermarked_call(ids, logits), 4),
    ]
    own, other = by_turns(works, size)
    yield Row(part, "tournament, 30 layers", beside, "peer", own, other, "rows")


# ---- reading: a suspect's answers


def reading(size: Size, peers: Path | None) -> Iterator[Row | Absent]:
    """Our reading of each engine's mark beside the engine's own detector, from ids to the p-value."""
    for name, peer in TIMED.items():
        part = "reading ids, one text"
        try:
            if peers is None and not name.startswith("hf-"):
                raise FileNotFoundError("no folder of peers was given")
            theirs, own = peer(peers or Path("."), VOCABULARY), read_by_us(name)
            for length in size.lengths:
                ids = text(length)
                works = [(lambda ids=ids, own=own: own(ids), length), (lambda ids=ids, it=theirs: it(ids), length)]
                found = by_turns(works, size)
                yield Row(part, f"{name}, {length:,} tokens", label_of(name), "peer", found[0], found[1], "tokens")
        except (ImportError, FileNotFoundError) as error:
            yield Absent(part, f"{label_of(name)} ({name})", str(error).splitlines()[0])


def label_of(name: str) -> str:
    known = {
        "hf-kgw": "transformers WatermarkDetector", "hf-synthid": "transformers SynthID g-values",
        "vllm-gumbel": "vLLM's detector", "sglang-gumbel": "SGLang's detector", "textseal": "TextSeal's detector",
        "owmark": "owmark's detector", "synthid-text": "synthid-text g-values",
    }  # fmt: skip
    family = name.split("/")[0]
    return known.get(family, f"{family}'s detector")


def corpus(size: Size, peers: Path | None) -> Iterator[Row | Absent]:
    """Our own mark in a corpus: ids in memory beside transformers' detector and a copy; text beside its tokenizer."""
    from detector_throughput import ours, theirs, zipf_answers

    few, many = zipf_answers(1_000, VOCABULARY, 1), zipf_answers(500_000, VOCABULARY, 2)
    flat = many.astype(np.uint32).ravel()
    works = [(ours(many), many.size), (theirs(few, VOCABULARY), few.size), (flat.copy, flat.size)]
    own, other, copied = by_turns(works, size)
    part = "detecting in a corpus of ids"
    yield Row(
        part, "green list, each cell once, exact p", "transformers WatermarkDetector", "peer", own, other, "tokens"
    )
    yield Row(part, "green list, each cell once, exact p", "copy of the ids (memory)", "limit", own, copied, "tokens")
    yield from from_files(size, many)
    yield from from_text(size)


def from_files(size: Size, many: np.ndarray) -> Iterator[Row | Absent]:
    """The same ids in a file, to the p-value, beside reading the file alone."""
    mark, part, what = Watermark(GreenList(window=1), KEY), "detecting in a file of ids", "each cell once, exact p"

    def whole(path: Path) -> float:
        seen = observe(Outputs(path), mark)
        return mark.scheme.null.log10_pvalue(int(mark.score(seen.windows, seen.choices).sum()), len(seen))

    with tempfile.TemporaryDirectory() as name:
        lines = Path(name) / "ids.jsonl"
        rows = [{"id": str(n), "token_ids": row} for n, row in enumerate(many[:200].tolist())]
        lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
        count = 200 * many.shape[1]
        parse = (lambda: [json.loads(line) for line in lines.read_bytes().splitlines()], count)
        own, other = by_turns([(lambda: whole(lines), count), parse], size)
        yield Row(part, f"JSON Lines: {what}", "json.loads of every line", "limit", own, other, "tokens")
        try:
            import pyarrow.parquet as pq
            from scale import Writer
        except ImportError as error:
            yield Absent(part, "pyarrow reading Parquet", str(error))
            return
        table = Path(name) / "ids.parquet"
        with Writer(table, "parquet") as out:
            out.put([str(n) for n in range(len(many))], many.astype(np.uint32))
        works = [(lambda: whole(table), many.size), (lambda: pq.read_table(table), many.size)]
        own, other = by_turns(works, size)
        yield Row(part, f"Parquet: {what}", "pyarrow reading the file", "limit", own, other, "tokens")


def documents() -> list[str]:
    """Python's documentation, cut into answers of some 200 words."""
    from pydoc_data.topics import topics

    return answers_of(" ".join(topics[name] for name in sorted(topics)))


def sources() -> list[str]:
    """The standard library's modules and packages, code and comments, cut alike."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return answers_of("\n".join(path.read_text("utf-8") for path in paths))


def answers_of(text: str) -> list[str]:
    words = text.split(" ")
    return [" ".join(words[start : start + 200]) for start in range(0, len(words), 200)]


def from_text(size: Size) -> Iterator[Row | Absent]:
    """JSON Lines on disk to the p-value, beside the tokenizer alone over the same texts.

    Each turn has tokenizers of its own, loaded before the clock: what either remembers of a text is of that turn.
    """
    import tokenizers

    from watermark.tokenizer import Tokenizer, model_path

    described = Path(model_path("demo")) / "tokenizer.json"
    for kind, texts in (("documentation", documents()), ("documentation and code", documents() + sources())):
        own, other = [], []
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "answers.jsonl"
            lines = (json.dumps({"id": str(n), "text": said}, ensure_ascii=False) for n, said in enumerate(texts))
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            for turn in range(size.turns + 1):
                ready, plain = Tokenizer.load(described.parent), tokenizers.Tokenizer.from_file(str(described))
                start = time.process_time()
                tokens = read_whole(path, ready)
                between = time.process_time()
                plain.encode_batch_fast(texts, add_special_tokens=False)
                if turn:  # the first compiles
                    own.append((between - start) / tokens)
                    other.append((time.process_time() - between) / tokens)
        part, what = "detecting in text", f"{kind}, {tokens:,} tokens: JSON Lines to exact p"
        yield Row(part, what, "the tokenizer alone", "limit", own, other, "tokens", most=1 / 0.9)


def read_whole(path: Path, tokenizer: Any) -> int:
    """Detects in a file of texts; returns how many tokens they have as they came."""
    mark = Watermark(GreenList(window=2), KEY)
    seen = observe(Outputs(path), mark, tokenizer=tokenizer)
    mark.scheme.null.log10_pvalue(int(mark.score(seen.windows, seen.choices).sum()), len(seen))
    return int(seen.tokens.sum())


# ---- many keys


def cells(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    windows = rng.integers(0, VOCABULARY, (count, 2)).astype(np.uint32)
    return windows, rng.integers(0, VOCABULARY, count).astype(np.uint32), np.ones((1, count), dtype=np.int32)


def keys_of(count: int) -> list[Any]:
    return list(islice(decoy_keys(b"benchmarks/table", count), count))


def many_keys(size: Size, peers: Path | None) -> Iterator[Row | Absent]:
    """Totals under 1,000 keys, beside asking key by key and beside adding up bytes that lie ready."""
    given, keys, mark = cells(20_000), keys_of(1_000), mark_of(GreenList(window=2))
    ready = np.random.default_rng(4).integers(0, 2, (100, 20_000), dtype=np.uint8)

    def looped() -> None:
        for key in keys[:10]:
            mark.rekeyed(key).score(given[0], given[1]).sum()

    works = [
        (lambda: mark.totals(*given, keys), 1_000 * 20_000),
        (looped, 10 * 20_000),
        (lambda: ready.sum(axis=1, dtype=np.uint32), ready.size),
    ]
    own, other, added = by_turns(works, size)
    part, what = "totals under 1,000 keys", "20,000 cells, one vote each"
    yield Row(part, what, "key by key", "own", own, other, "keys × cells")
    yield Row(part, what, "adding up that many bytes", "limit", own, added, "keys × cells")
    more = cells(1_000_000)
    one = (lambda: mark.totals(*more, keys[:1]), 1_000_000)
    own, other = by_turns([one, (lambda: mark.score(more[0], more[1]).sum(), 1_000_000)], size)
    yield Row("totals under one key", "1,000,000 cells", "scores, summed", "own", own, other, "cells")


# ---- scores, and what was served


def scores(size: Size, peers: Path | None) -> Iterator[Row | Absent]:
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as error:
        yield Absent("marking scores", "scikit-learn predict_proba", str(error))
        return
    from watermark.scores import Basis, Direction, Marker

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(5_000, 20))
    teacher = HistGradientBoostingClassifier(max_iter=100).fit(inputs, inputs @ rng.normal(size=20) > 0)
    mark, answers = Marker(Direction(channels=2), Basis.fit(inputs, size=200), KEY), teacher.predict_proba(inputs)
    for rows in (5_000, 1):
        asked, said = inputs[:rows], answers[:rows]
        works = [
            (lambda asked=asked, said=said: mark.tilt(said, asked), rows),
            (lambda asked=asked: teacher.predict_proba(asked), rows),
        ]
        own, other = by_turns(works, size)
        part = f"marking scores, {rows:,} row{'s' * (rows > 1)}"
        yield Row(part, "direction on a basis of 200", "predict_proba of 100 trees", "limit", own, other, "rows")


def serving(size: Size, peers: Path | None) -> Iterator[Row | Absent]:
    """Records of 200 tokens, 64 at a time: SQLite with the chain beside SQLite without; reading beside parsing JSON."""
    import sqlite3

    from ledger_stores import answers as made

    from watermark.ledger import Ledger, copy_ledger, read_ledger

    given = made(64)
    with tempfile.TemporaryDirectory() as name:
        path, plain = Path(name) / "l.sqlite", sqlite3.connect(Path(name) / "plain.sqlite", isolation_level=None)
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE t (id, line)"):
            plain.execute(statement)
        with Ledger(path) as ledger:

            def inserted() -> None:
                plain.execute("BEGIN")
                plain.executemany("INSERT INTO t VALUES (?, ?)", [(a.id, json.dumps(vars(a))) for a in given])
                plain.execute("COMMIT")

            own, other = by_turns([(lambda: ledger.append_many(given), 64), (inserted, 64)], size)
            yield Row(
                "ledger", "records appended, SQLite", "JSON into SQLite, no chain", "limit", own, other, "records"
            )
            for _ in range(30):
                ledger.append_many(given)
            count = ledger.length
        plain.close()
        copy_ledger(path, Path(name) / "l.jsonl")
        lines = (Path(name) / "l.jsonl").read_bytes().splitlines()
        works = [(lambda: sum(1 for _ in read_ledger(path)), count), (lambda: [json.loads(x) for x in lines], count)]
        own, other = by_turns(works, size)
        yield Row("ledger", "records read, every hash checked", "parsing as much JSON", "limit", own, other, "records")


PARTS: dict[str, Callable[[Size, Path | None], Iterator[Row | Absent]]] = {
    "marking": marking, "corpus": corpus, "reading": reading, "keys": many_keys, "scores": scores, "serving": serving,
}  # fmt: skip


# ---- curves: the cost as the work grows


def curves(size: Size) -> Iterator[str]:
    yield from tokens_curve(size)
    yield from keys_curve(size)
    yield from tilt_curve("batch", [(batch, VOCABULARY) for batch in size.batches], size)
    yield from tilt_curve("vocabulary", [(16, width) for width in size.vocabularies], size)


def tokens_curve(size: Size) -> Iterator[str]:
    """`detect` over a work folder, in a process of its own, by benchmarks/scale.py: 99 decoys, one worker."""
    try:
        import scale
    except ImportError as error:
        yield f"\nTokens: absent, {error}"
        return
    yield "\n| tokens, `detect` in blocks with 99 decoys | tokens / CPU s | peak memory, MiB |\n|--:|--:|--:|"
    with tempfile.TemporaryDirectory() as name:
        asked = Namespace(workers=1, decoys=99, window=2, engine="local", address=None)
        for tokens in size.tokens:
            source = scale.written(Path(name), tokens, "parquet", scale.mark_of(2))
            done = scale.run(asked, source, Path(name) / "work")
            shutil.rmtree(Path(name) / "work", ignore_errors=True)
            source.unlink()
            spent, read = sum(cpu for cpu, _ in done.stages.values()), done.evidence["tokens_read"]
            yield f"| {read:,} | {read / spent:,.0f} | {done.peak:.0f} |"


def keys_curve(size: Size) -> Iterator[str]:
    yield "\n| keys, totals over 10,000 cells | CPU ms | ns a key and cell |\n|--:|--:|--:|"
    given, mark = cells(10_000), mark_of(GreenList(window=2))
    for count in size.keys:
        keys = keys_of(count)
        (spent,) = by_turns([(lambda keys=keys: mark.totals(*given, keys), 1)], size)
        took = statistics.median(spent)
        yield f"| {count:,} | {1e3 * took:,.2f} | {1e9 * took / count / 10_000:.2f} |"


def tilt_curve(grows: str, sizes: Iterable[tuple[int, int]], size: Size) -> Iterator[str]:
    names = ("green list", "gumbel", "tournament")
    yield (
        f"\n| {grows}: rows × logits | softmax + multinomial, ms | "
        + " | ".join(f"{name}, share of it" for name in names)
        + " |\n|--:|--:|"
        + "--:|" * len(names)
    )
    for batch, width in sizes:
        logits, contexts = logits_of(batch, width)
        schemes = [GreenList(window=2), Gumbel(window=2), Tournament(window=2)]
        works = [(tilted(mark_of(scheme, width), logits, contexts), 1.0) for scheme in schemes]
        sampled, *found = by_turns([(sampling(logits), 1.0), *works], size)
        shares = [sorted(a / b for a, b in zip(each, sampled, strict=True)) for each in found]
        told = " | ".join(f"{statistics.median(s):.3f} ({s[0]:.3f}–{s[-1]:.3f})" for s in shares)
        yield f"| {batch} × {width:,} | {1e3 * statistics.median(sampled):.2f} | {told} |"


# ---- what is printed


def head() -> str:
    return "| part | ours | beside | ours, a second | theirs | ratio |\n|---|---|---|--:|--:|--:|"


def line(found: Row | Absent) -> str:
    if isinstance(found, Absent):
        return f"| {found.part} | – | {found.beside} | – | – | absent: {found.why} |"
    low, high = found.ratios[0], found.ratios[-1]
    own, other = (1 / statistics.median(times) for times in (found.own, found.other))
    mark = {"peer": "", "own": "ours: ", "limit": "limit: "}[found.kind]
    return (
        f"| {found.part} | {found.what} | {mark}{found.beside} | {own:,.0f} {found.unit} | {other:,.0f} | "
        f"{found.ratio:.3g} ({low:.3g}–{high:.3g}) |"
    )


def verdicts(rows: list[Row | Absent]) -> Iterator[str]:
    """Every peer that is faster, every limit that was asked for and missed, and who was absent."""
    measured = [row for row in rows if isinstance(row, Row)]
    beside = [row for row in measured if row.kind != "limit"]
    slower = [row for row in beside if row.ratio < 1]
    yield (
        f"\nOf {len(beside)} rows beside a peer, or another way of ours, we are slower in {len(slower)}"
        + "".join(f"; {row.what} beside {row.beside}: {row.ratio:.2f}" for row in slower)
        + "."
    )
    for row in measured:
        if row.most is not None:
            taken = 1 / row.ratio
            kept = "held" if taken <= row.most else "MISSED"
            yield f"{row.part}, {row.what}: {taken:.3f} of {row.beside}, asked at most {row.most:.3g}: {kept}."
    gone = [row for row in rows if isinstance(row, Absent)]
    if gone:
        yield "Absent: " + "; ".join(f"{row.beside}" for row in gone) + "."


def machine() -> str:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next((int(line.split()[1]) >> 20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return (
        f"{model}, {os.cpu_count()} cores, {memory} GiB, {platform.system()}; Python {platform.python_version()}, "
        f"{', '.join(found)}; keyed function on {prf.backend()}; peers, where present: {PEER_VERSIONS}."
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def written(page: Path, told: list[str]) -> None:
    """Puts the table between its marks in a page."""
    whole = page.read_text(encoding="utf-8")
    before, rest = whole.split(START)
    _, after = rest.split(END, 1)
    page.write_text(f"{before}{START}\n" + "\n".join(told) + f"\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="about five minutes on two cores")
    sizes.add_argument(
        "--full", action="store_true", help="texts of 200 to 5,000 tokens, 10^8 tokens, 10^5 keys: hours"
    )
    parser.add_argument("--peers", type=Path, help="folder of the peers' code, as engine_peers.py says")
    parser.add_argument("--only", nargs="*", choices=[*PARTS, "curves"], help="some parts of the table")
    parser.add_argument("--page", type=Path, help="write the table into this page, between its marks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    size = QUICK if given.quick else FULL if given.full else WHOLE
    told = [machine(), ""]
    print(told[0] + "\n\n" + head(), flush=True)
    told.append(head())
    rows: list[Row | Absent] = []
    for name, part in PARTS.items():
        if given.only is None or name in given.only:
            for row in part(size, given.peers):
                rows.append(row)
                told.append(line(row))
                print(told[-1], flush=True)
    for source in (verdicts(rows), curves(size) if given.only is None or "curves" in given.only else iter(())):
        for said in source:
            told.append(said)
            print(said, flush=True)
    if given.page:
        written(given.page, told)


if __name__ == "__main__":
    main()
