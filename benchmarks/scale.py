"""Detection over a work folder: tokens a second of each stage, peak memory of all processes, and a run killed thrice.

    python benchmarks/scale.py --tokens 1e6 --form parquet --kill        one size
    python benchmarks/scale.py --curve 1e4 1e5 1e6 1e7                   the cost as the input grows

The input is generated here: answers of 600 token ids of 32,768, rare ones rare (Zipf, exponent 1.1), a twentieth of
the answers under the mark. Seconds are CPU seconds of all processes (and wall-clock ones beside); memory is the sum of
the resident sets of the run's processes, sampled, so that pages which they share count more than once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

LENGTH, VOCABULARY, MARKED = 600, 32_768, 20
STAGES = {
    "blocks laid out": "lay out",
    "blocks read": "read",
    "parts reduced": "once",
    "blocks counted once": "once",
    "columns of blocks digested": "digest",
    "blocks scored under the decoys": "judge",
}


def mark_of(window: int):
    from watermark.keys import decoy_keys
    from watermark.mark import Watermark
    from watermark.schemes import GreenList

    key = next(iter(decoy_keys(b"benchmarks/scale", 1)))
    return Watermark(GreenList(window=window), key, created="2026-01-01T00:00:00+00:00")


def written(path: Path, tokens: int, form: str, mark) -> Path:
    """Writes an input of about so many tokens, 512 answers at a time."""
    path = path / f"tokens-{tokens}.{'parquet' if form == 'parquet' else 'jsonl'}"
    if path.exists():
        return path
    rng, draft = np.random.default_rng(7), path.with_suffix(".part")
    chances = 1 / np.arange(1, VOCABULARY + 1) ** 1.1
    ends = np.cumsum(chances / chances.sum())
    rows = max(1, tokens // LENGTH)
    with Writer(draft, form) as out:
        for start in range(0, rows, 512):
            count = min(512, rows - start)
            first, second = (np.searchsorted(ends, rng.random((count, LENGTH))).astype(np.uint32) for _ in range(2))
            ids, under = np.minimum(first, VOCABULARY - 1), np.arange(start, start + count) % MARKED == 0
            h = mark.scheme.window
            for step in range(h, LENGTH):
                red = mark.score(ids[under, step - h : step], ids[under, step]) == 0
                ids[under, step] = np.where(red, np.minimum(second[under, step], VOCABULARY - 1), ids[under, step])
            out.put([f"a{n}" for n in range(start, start + count)], ids)
    os.replace(draft, path)
    return path


class Writer:
    """Parquet (a row group of 4,096 answers) or JSON Lines."""

    def __init__(self, path: Path, form: str) -> None:
        self.path, self.form, self.held = path, form, []

    def __enter__(self) -> Writer:
        if self.form == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            self.schema = pa.schema([("id", pa.string()), ("token_ids", pa.list_(pa.uint32()))])
            self.out = pq.ParquetWriter(self.path, self.schema)
        else:
            self.out = self.path.open("w")
        return self

    def put(self, names: list[str], ids: np.ndarray) -> None:
        if self.form != "parquet":
            for name, row in zip(names, ids.tolist()):
                self.out.write(json.dumps({"id": name, "token_ids": row}) + "\n")
            return
        import pyarrow as pa

        offsets = np.arange(len(ids) + 1, dtype=np.int32) * ids.shape[1]
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids.reshape(-1)))
        self.held.append(pa.table({"id": names, "token_ids": lists}, schema=self.schema))
        if len(self.held) == 8:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self.held:
            self.out.write_table(pa.concat_tables(self.held).combine_chunks())
        self.held = []

    def __exit__(self, *exception: object) -> None:
        if self.form == "parquet":
            self._flush()
        self.out.close()


def child(arguments: argparse.Namespace) -> None:
    """One run; tells its stages as lines of JSON, then the evidence."""
    from watermark.detect import detect
    from watermark.scale import Scale

    def say(word: str, count: int) -> None:
        spent = sum(os.times()[:4]) + sum(_cpu(pid) for pid in _children(os.getpid()))
        print(json.dumps({"word": word, "count": count, "wall": time.monotonic(), "cpu": spent}), flush=True)

    scale = None
    if arguments.engine != "memory":
        engine = "ray" if arguments.engine == "ray" else "local"
        scale = Scale(arguments.work, workers=arguments.workers, engine=engine, address=arguments.address)
    mark = mark_of(arguments.window)
    say("start", 0)
    found = detect(arguments.input, mark, decoys=arguments.decoys, scale=scale, progress=say)
    say("end", 0)
    told = {name: value for name, value in found.to_json().items() if name not in ("created", "digest")}
    print(json.dumps({"evidence": told}), flush=True)


@dataclass
class Run:
    """What a run told: seconds by stage as (cpu, wall), its peak memory in MiB, and its evidence if it came so far."""

    stages: dict[str, list[float]] = field(default_factory=dict)
    peak: float = 0.0
    evidence: dict | None = None


def run(arguments: argparse.Namespace, source: Path, work: Path, *, kill: str = "", after: int = 0) -> Run:
    """A run in a process of its own. kill: the stage in which it is killed, once it has told of `after` steps."""
    command = [
        sys.executable, __file__, "--child", "--input", source, "--work", work, "--workers", arguments.workers,
        "--decoys", arguments.decoys, "--window", arguments.window, "--engine", arguments.engine,
    ]  # fmt: skip
    command += ["--address", arguments.address] if arguments.address else []
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)
    found, last, seen = Run(), None, 0
    os.set_blocking(process.stdout.fileno(), False)
    held = b""
    while True:
        family = [process.pid, *_children(process.pid)]
        found.peak = max(found.peak, sum(_rss(pid) for pid in family))
        held += process.stdout.read() or b""
        *lines, held = held.split(b"\n")
        for line in map(json.loads, lines):
            if "evidence" in line:
                found.evidence = line["evidence"]
                continue
            stage = STAGES.get(line["word"], "judge" if line["word"] == "end" else "lay out")
            if last is not None:
                spent = found.stages.setdefault(stage, [0.0, 0.0])
                spent[0] += line["cpu"] - last["cpu"]
                spent[1] += line["wall"] - last["wall"]
            last = line
            seen += STAGES.get(line["word"]) == kill
            if kill and seen > after:
                process.send_signal(signal.SIGKILL)
                process.wait()
                _gone(family)
                return found
        if process.poll() is not None and not lines:
            if process.returncode:
                raise SystemExit(f"the run ended with code {process.returncode}")
            return found
        time.sleep(0.02)


def _gone(family: list[int]) -> None:
    """Waits until the workers have noticed that whoever started them is gone."""
    deadline = time.monotonic() + 60
    while any(_rss(pid) for pid in family):
        if time.monotonic() > deadline:
            raise SystemExit("a worker outlives its run")
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    try:
        own = [int(c) for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
    except OSError:
        return []
    return own + [grandchild for each in own for grandchild in _children(each)]


def _rss(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(found[0].split()[1]) / 1024 if found else 0.0


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=1e6)
    parser.add_argument("--curve", type=float, nargs="+", help="sizes, one row each")
    parser.add_argument("--form", choices=("parquet", "jsonl"), default="parquet")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--decoys", type=int, default=99)
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--engine", choices=("local", "ray", "memory"), default="local")
    parser.add_argument("--address")
    parser.add_argument("--kill", action="store_true", help="kill it in each stage, go on, and compare the evidence")
    parser.add_argument("--memory", action="store_true", help="compare with the evidence of a run in memory")
    parser.add_argument("--folder", type=Path, default=Path("build/scale"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--input", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    stages = list(dict.fromkeys(STAGES.values()))
    print(
        "| tokens | " + " | ".join(f"{s}, CPU s (wall)" for s in stages) + " | tokens / CPU s | peak MiB | cells | p |"
    )
    print("|--:" * (len(stages) + 5) + "|")
    for tokens in map(int, arguments.curve or [arguments.tokens]):
        source = written(arguments.folder, tokens, arguments.form, mark_of(arguments.window))
        work = arguments.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        whole = run(arguments, source, work)
        row = [whole.stages.get(stage, [0.0, 0.0]) for stage in stages]
        spent, told = sum(cpu for cpu, _ in row), whole.evidence
        print(
            f"| {told['tokens_read']:,} | "
            + " | ".join(f"{cpu:.2f} ({wall:.2f})" for cpu, wall in row)
            + f" | {told['tokens_read'] / spent:,.0f} | {whole.peak:.0f} | {told['cells']:,} | "
            f"10^{told['log10_p']:.1f} |",
            flush=True,
        )
        if arguments.kill:
            killed(arguments, source, work, whole)
        if arguments.memory:
            options = argparse.Namespace(**vars(arguments) | {"engine": "memory"})
            beside = run(options, source, work)
            print(f"in memory: peak {beside.peak:.0f} MiB, the same evidence: {beside.evidence == whole.evidence}")


def killed(arguments: argparse.Namespace, source: Path, work: Path, whole: Run) -> None:
    """Kills runs over a new work folder in each stage in turn, then lets one come to its end."""
    shutil.rmtree(work)
    peak = 0.0
    for stage in ("read", "once", "digest", "judge"):
        peak = max(peak, run(arguments, source, work, kill=stage, after=2).peak)
    last = run(arguments, source, work)
    spent = sum(cpu for cpu, _ in last.stages.values())
    same = last.evidence == whole.evidence
    print(
        f"killed (kill -9) while reading, reducing, digesting and judging, then run to the end in {spent:.1f} CPU s: "
        f"the same evidence but for its date: {same}; peak {max(peak, last.peak):.0f} MiB",
        flush=True,
    )
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
