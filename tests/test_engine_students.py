"""A student of answers that vLLM or SGLang marked themselves is found by its text; one of unmarked answers is not.

The student is the toy teacher with the trigrams that it learned, each weighed against the teacher by how often it was
seen. benchmarks/engine_students.py does the same with language models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from toy import VOCABULARY, Tilt, Toy, openings, teacher

from watermark.detect import detect
from watermark.engines import import_mark
from watermark.mark import Watermark
from watermark.outputs import Output

ROWS, STEPS = 500, 80
CONFIGS = {
    "vllm": {"key": 0x1D872B41F3A09C55, "context_width": 2},
    "sglang": {"key": "1d872b41f3a09c55", "context_window": 2},
}


@dataclass(frozen=True, eq=False)
class Student(Toy):
    """counts (V * V, V): how often each token followed each pair of tokens; prior: what the teacher weighs beside."""

    counts: np.ndarray | None = None
    prior: float = 4.0

    def logits(self, contexts: np.ndarray) -> np.ndarray:
        before = super().logits(contexts)
        before = np.exp(before - before.max(axis=1, keepdims=True))
        assert self.counts is not None
        seen = self.counts[contexts[:, 0] * VOCABULARY + contexts[:, 1]]
        learned = seen + self.prior * before / before.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore"):  # of a special token that nobody says
            return np.log(learned).astype(np.float32)


def engine(mark: Watermark) -> Tilt:
    """Leaves of the logits the token that the engine draws, where the answer has not met the window before."""
    seen: list[set[tuple[int, ...]]] = [set() for _ in range(ROWS)]

    def drawn(logprobs: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        forced = np.full_like(logprobs, -np.inf)
        forced[np.arange(ROWS), mark.scheme.draw(logprobs, contexts, mark.key)] = 0  # type: ignore[attr-defined]
        known = [tuple(window) in met for window, met in zip(contexts.tolist(), seen, strict=True)]
        for window, met in zip(contexts.tolist(), seen, strict=True):
            met.add(tuple(window))
        return np.where(np.array(known)[:, None], logprobs, forced)

    return drawn


def taught(answers: np.ndarray) -> Student:
    base, counts = teacher(), np.zeros((VOCABULARY**2, VOCABULARY), dtype=np.float32)
    pairs = answers[:, :-2] * VOCABULARY + answers[:, 1:-1]
    np.add.at(counts, (pairs.ravel(), answers[:, 2:].ravel()), 1)
    return Student(base.near, base.far, counts=counts)


def said(student: Toy, seed: int) -> list[Output]:
    rng = np.random.default_rng(seed)
    rows = student.write(openings(ROWS, rng), STEPS, rng)
    return [
        Output(str(n), token_ids=tuple(row[2:]), prompt_token_ids=tuple(row[:2])) for n, row in enumerate(rows.tolist())
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_student_of_an_engines_answers_is_found_and_an_honest_one_is_not(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS[name]))
    mark = import_mark(path, name).mark
    found = {}
    for kind, rule in (("taught", engine(mark)), ("honest", None)):
        rng = np.random.default_rng(7)
        answers = teacher().write(openings(ROWS, rng), STEPS, rng, tilt=rule)
        found[kind] = detect(said(taught(answers), 8), mark, decoys=99)
    assert found["taught"].log10_p < -6
    assert found["taught"].verdict == "evidence found"
    assert found["honest"].log10_p > -2
    assert found["honest"].verdict != "evidence found"
