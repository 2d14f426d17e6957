"""Does an engine's mark accuse innocent text? Our p-values and the engine's own detector on the same texts and keys.

    python benchmarks/engine_levels.py --texts FOLDER --tokenizer TOKENIZER.json --rows levels.jsonl
    python benchmarks/engine_levels.py --rows levels.jsonl --page PAGE.md  # the tables of what was measured, in a page
    python benchmarks/engine_levels.py --texts FOLDER --tokenizer TOKENIZER.json --spread       # of related cells
    python benchmarks/engine_levels.py --texts FOLDER --tokenizer TOKENIZER.json --peers PEERS  # rules beside peers

Each run is one slice of a text and one random key; no text ever met a mark. Slices overlap
where a text is too short, and are read under several keys from 5,000 tokens on; no key is used twice. Three kinds, a
third of the runs each: prose (the .txt files of FOLDER, packed by gzip or not; by default Python's own documentation),
code (its standard library) and tables (its character sets and entities: thousands of lines that differ by a number), of
each at most 4 million characters. Without a tokenizer, words and signs are numbered by their ranks. Rows that are there
already are not computed again.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import math
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from engine_rules import RULES, WORDS, Reading

from watermark.keys import Key
from watermark.schemes.engines import ENGINES

LENGTHS = (200, 1_000, 5_000, 20_000)
LEVELS = (0.05, 0.01, 0.001)
KINDS = ("prose", "code", "tables")
MARK = "<!-- tables: engine_levels.py --page -->"
CHARACTERS = 4_000_000
KEYS = {200: 1, 1_000: 1, 5_000: 3, 20_000: 12}  # for each slice, for want of so many texts of such length
RELATED = ("textseal/greenlist", "textseal/gumbel", "synthid-text/iterated", "hf-synthid/table")
LIBRARY = Path(sysconfig.get_paths()["stdlib"])


def texts(folder: Path | None) -> dict[str, str]:
    """The three kinds of text."""
    tables = [*sorted((LIBRARY / "encodings").glob("*.py")), LIBRARY / "html" / "entities.py"]
    code = [path for path in sorted(LIBRARY.rglob("*.py")) if "encodings" not in path.parts and "test" not in str(path)]
    prose = documentation() if folder is None else "\n".join(_read(path) for path in _prose(folder))
    return {"prose": prose[:CHARACTERS], "code": _joined(code)[:CHARACTERS], "tables": _joined(tables)[:CHARACTERS]}


def documentation() -> str:
    """The language reference that `help()` shows, and the docstrings of the standard library."""
    from pydoc_data.topics import topics

    found = [topics[name] for name in sorted(topics)]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for path in sorted(LIBRARY.glob("*.py")):
        nodes = (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, documented))
        found += [text for text in map(ast.get_docstring, nodes) if text and len(text) > 80]
    return "\n\n".join(found)


def tokenized(kinds: dict[str, str], tokenizer: Path | None) -> tuple[dict[str, np.ndarray], int]:
    """(token ids of each kind, the vocabulary's length)."""
    if tokenizer is not None:
        from tokenizers import Tokenizer

        made = Tokenizer.from_file(str(tokenizer))
        pieces = {kind: [text[at : at + 20_000] for at in range(0, len(text), 20_000)] for kind, text in kinds.items()}
        encoded = {
            kind: np.concatenate([e.ids for e in made.encode_batch(parts, add_special_tokens=False)])
            for kind, parts in pieces.items()
        }
        return encoded, made.get_vocab_size()
    words = {kind: re.findall(r"\w+|[^\w\s]", text) for kind, text in kinds.items()}
    counts = Counter(word for found in words.values() for word in found)
    rank = {word: 1 + at for at, (word, _) in enumerate(counts.most_common())}
    return {kind: np.array([rank[word] for word in found]) for kind, found in words.items()}, len(rank) + 1


def scheme_of(name: str, vocabulary: int) -> Any:
    """A recipe with its engine's defaults."""
    kind = ENGINES[name]
    return kind(**{"vocabulary": vocabulary} if "vocabulary" in {field.name for field in fields(kind)} else {})


def random_keys(name: str, seed: list[int]) -> Iterator[Key]:
    """The engine's keys of odd numbers, 64 bits each: a recipe that multiplies by its key refuses many even ones."""
    rng, count = np.random.default_rng([*seed, *name.encode()]), WORDS.get(name, 1)
    while True:
        yield Key.of_engine([int(word) | 1 for word in rng.integers(0, 2**64, count, dtype=np.uint64)])


def slices(ids: np.ndarray, length: int, runs: int, seed: list[int]) -> Iterator[np.ndarray]:
    """`runs` slices; where a text has fewer that do not overlap, they do."""
    for start in np.random.default_rng(seed).integers(0, len(ids) - length, runs):
        yield ids[start : start + length]


def measure(name: str, length: int, corpora: dict[str, np.ndarray], vocabulary: int, runs: int) -> dict[str, Any]:
    """One row: p-values and verdicts of all runs of a recipe at one length."""
    scheme, rule, spent = scheme_of(name, vocabulary), RULES[name], time.process_time()
    row: dict[str, Any] = {"recipe": name, "length": length, "vocabulary": vocabulary, "kinds": {}}
    for kind in KINDS:
        keys, each = random_keys(name, [length, KINDS.index(kind)]), KEYS.get(length, 1)
        cut = slices(corpora[kind], length, -(-runs // len(KINDS) // each), [length, KINDS.index(kind)])
        read = (Reading.of(rule, scheme, ids) for ids in cut)
        found = [text.judged(next(keys)) for text in read for _ in range(each)]
        ours, theirs, verdict = (list(column) for column in zip(*found, strict=True))
        row["kinds"][kind] = {
            "ours": [round(p, 4) for p in ours],
            "theirs": [None if math.isnan(p) else float(f"{p:.4g}") for p in theirs],
            "verdicts": sum(verdict),
        }
    return row | {"seconds": round(time.process_time() - spent, 1)}


def rates(row: dict[str, Any], whose: str, kinds: tuple[str, ...] = KINDS) -> list[float] | None:
    """Shares of runs rejected at each level; None where the peer has no p-value."""
    found = [p for kind in kinds for p in row["kinds"][kind][whose]]
    if None in found:
        return None
    p = 10 ** np.array(found) if whose == "ours" else np.array(found)
    return [float((p <= level * (1 + 1e-9)).mean()) for level in LEVELS]


def bound(level: float, runs: int) -> float:
    """The level and two standard errors."""
    return level + 2 * math.sqrt(level * (1 - level) / runs)


def table(rows: list[dict[str, Any]]) -> str:
    """Recipes and lengths: our rejections, those of the peer's p-value, and its own verdict."""
    lines = [
        "| recipe | tokens | runs | ours .05 | .01 | .001 | theirs .05 | .01 | .001 | its own verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        runs, rule = sum(len(kind["ours"]) for kind in row["kinds"].values()), RULES[row["recipe"]]
        ours, theirs = rates(row, "ours") or [], rates(row, "theirs")
        cells = [f"{rate:.4f}{'' if rate <= bound(level, runs) else ' !'}" for rate, level in zip(ours, LEVELS)]
        cells += ["–"] * 3 if theirs is None else [f"{rate:.4f}" for rate in theirs]
        verdict = "–" if rule is None or rule.threshold == "none" else f"{_verdicts(row) / runs:.4f}"
        lines.append(f"| {row['recipe']} | {row['length']:,} | {runs} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines)


def table_of_kinds(rows: list[dict[str, Any]]) -> str:
    """Rejections at 0.01 in each kind of text, ours / theirs."""
    lines = ["| recipe | tokens | prose | code | tables |", "|---|---|---|---|---|"]
    for row in rows:
        cells = []
        for kind in KINDS:
            ours, theirs = rates(row, "ours", (kind,)) or [], rates(row, "theirs", (kind,))
            cells.append(f"{ours[1]:.3f} / " + ("–" if theirs is None else f"{theirs[1]:.3f}"))
        lines.append(f"| {row['recipe']} | {row['length']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def pooled(rows: list[dict[str, Any]]) -> str:
    """All recipes together, by length and in all: our rejections beside the level and two standard errors."""
    lines = ["| tokens | runs | .05 (bound) | .01 (bound) | .001 (bound) |", "|---|---|---|---|---|"]
    for length in (*sorted({row["length"] for row in rows}), None):
        some = [row for row in rows if length in (None, row["length"])]
        p = 10 ** np.array([p for row in some for kind in row["kinds"].values() for p in kind["ours"]])
        cells = [f"{(p <= level * (1 + 1e-9)).mean():.5f} ({bound(level, len(p)):.5f})" for level in LEVELS]
        lines.append(f"| {'all' if length is None else f'{length:,}'} | {len(p):,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_page(page: Path, rows: list[dict[str, Any]]) -> None:
    """Replaces what stands below the mark in a page by the tables of some rows."""
    order = {name: at for at, name in enumerate(RULES)}
    rows.sort(key=lambda row: (order[row["recipe"]], row["length"]))
    parts = ["## All recipes together, ours", pooled(rows), "## Recipe by recipe", table(rows)]
    parts += [
        "## Rejected at 0.01 by kind of text, ours / theirs",
        table_of_kinds(rows),
        "## Rules of the peers",
        rules(),
    ]
    page.write_text(page.read_text("utf-8").split(MARK)[0] + MARK + "\n\n" + "\n\n".join(parts) + "\n", "utf-8")


def rules() -> str:
    """What each peer counts and when it says that a text is marked."""
    lines = ["| recipe | from | counts | its verdict |", "|---|---|---|---|"]
    for name, rule in RULES.items():
        said = (
            "no detector of its own | – | –" if rule is None else f"{rule.source} | {rule.counting} | {rule.threshold}"
        )
        lines.append(f"| {name} | {said} |")
    return "\n".join(lines)


def spread(corpora: dict[str, np.ndarray], vocabulary: int, *, count: int = 12, keys: int = 400) -> str:
    """Of recipes whose cells are related: the total's variance over keys beside the binomial's, text by text."""
    lines = ["| recipe | tokens | texts | least | median | most |", "|---|---|---|---|---|---|"]
    for name in RELATED:
        scheme = scheme_of(name, vocabulary)
        for length in (1_000, 20_000):
            ratios = []
            for kind in KINDS:
                for ids in slices(corpora[kind], length, count, [9, length]):
                    text = Reading.of(None, scheme, ids)
                    windows, choices = text.windows[text.mine], text.choices[text.mine]
                    drawn = islice(random_keys(name, [length]), keys)
                    totals = [scheme.score(windows, choices, key).sum() for key in drawn]
                    ratios.append(np.var(totals, ddof=1) / (len(choices) * scheme.null.variance))
            low, middle, high = np.quantile(ratios, [0, 0.5, 1])
            lines.append(f"| {name} | {length:,} | {len(ratios)} | {low:.2f} | {middle:.2f} | {high:.2f} |")
    return "\n".join(lines)


def _verdicts(row: dict[str, Any]) -> int:
    return sum(kind["verdicts"] for kind in row["kinds"].values())


def _prose(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.name.endswith((".txt", ".txt.gz"))]


def _read(path: Path) -> str:
    packed = path.read_bytes()
    return (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode("utf-8")


def _joined(paths: list[Path]) -> str:
    return "\n".join(path.read_text("utf-8", errors="replace") for path in paths)


def _stored(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--texts", type=Path, help="folder of .txt files, packed or not; default: Python's documentation"
    )
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json; default: words numbered by their ranks")
    parser.add_argument("--rows", type=Path, default=Path("engine-levels.jsonl"), help="where rows are kept")
    parser.add_argument("--runs", type=int, default=1_002, help="for each recipe and length")
    parser.add_argument("--recipes", nargs="*", default=list(RULES), help="of which recipes; default: all")
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    parser.add_argument("--page", type=Path, help="write the tables of these rows below the mark in a page, and stop")
    parser.add_argument("--spread", action="store_true", help="measure the variance of related cells instead")
    parser.add_argument("--peers", type=Path, help="compare rules with the peers' own detectors in this folder instead")
    given = parser.parse_args()
    rows = _stored(given.rows)
    if given.page is not None:
        write_page(given.page, rows)
        return
    if given.peers is not None:
        from engine_peers import compare

        corpora, vocabulary = tokenized(texts(given.texts), given.tokenizer)
        compare(given.peers, {kind: ids[1_000:1_400] for kind, ids in corpora.items()}, vocabulary, given.recipes)
        return
    corpora, vocabulary = tokenized(texts(given.texts), given.tokenizer)
    print({kind: len(ids) for kind, ids in corpora.items()}, vocabulary, flush=True)
    if given.spread:
        print(spread(corpora, vocabulary))
        return
    done = {(row["recipe"], row["length"]) for row in rows}
    for length in given.lengths:
        for name in given.recipes:
            if (name, length) in done:
                continue
            row = measure(name, length, corpora, vocabulary, given.runs)
            with given.rows.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            print(table([row]).splitlines()[-1], f"{row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
