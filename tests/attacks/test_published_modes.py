"""Published ways to read a suspect that accuse the innocent: played on a model that met no mark, beside our own path.

The suspect copies from its context, as any language model does, and never saw a marked text before the test. Each
mode is written out plainly here; nothing in the package can be told to do the same, and the last tests say so.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from toy import (
    LISTED,
    VOCABULARY,
    Text,
    Toy,
    drifted,
    judged,
    mark_of,
    openings,
    read_all,
    record,
    seen_by,
    teacher,
    tilted_by,
)
from wmark_cli.detect import detect as command

from watermark.detect import detect
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import Reading, observe, observe_readings, served_windows
from watermark.observe.rules import Rules
from watermark.observe.weights import votes, weigh

ROOT = Path(__file__).parents[2]
KEYS, ROWS, LENGTH = 300, 6, 240
CHOSEN = 12  # texts of 72 tokens that the key chose
PLAYED = 120  # keys on which the invalid modes are played
TEACHER = teacher()
BASE = drifted(TEACHER, 6)
SUSPECT = dataclasses.replace(drifted(TEACHER, 5), copy=0.6)


@dataclass(frozen=True)
class Case:
    """One key with texts (ROWS, 2 + LENGTH) and what suspect and base make of them, as readings."""

    mark: Watermark
    ids: np.ndarray
    readings: list[Reading]


def _read(ids: np.ndarray, suspect: Toy = SUSPECT) -> list[Reading]:
    texts = [Text(row, 2) for row in ids]
    return [read_all(text, seen_by(suspect, text), seen_by(BASE, text)) for text in texts]


def _marks() -> list[Watermark]:
    return [mark_of(key) for key in decoy_keys(b"published modes", KEYS)]


@pytest.fixture(scope="module")
def marked() -> list[Case]:
    """Texts marked under each key, put before the suspect."""
    marks, rng = _marks(), np.random.default_rng(31)
    ids = TEACHER.write(openings(KEYS * ROWS, rng), LENGTH, rng, tilted_by(marks, ROWS)).reshape(KEYS, ROWS, -1)
    return [Case(mark, rows, _read(rows)) for mark, rows in zip(marks, ids)]


@pytest.fixture(scope="module")
def clean() -> list[list[Reading]]:
    """Unmarked texts, 20 sets."""
    rng = np.random.default_rng(32)
    return [_read(rows) for rows in TEACHER.write(openings(20 * ROWS, rng), LENGTH, rng).reshape(20, ROWS, -1)]


@pytest.fixture(scope="module")
def chosen() -> list[tuple[Watermark, np.ndarray]]:
    """Texts in which every eight tokens are the greenest of eight candidates: unmarked draws, chosen by the key."""
    rng, marks = np.random.default_rng(33), _marks()
    ids = openings(KEYS * CHOSEN, rng)
    for _ in range(9):
        many = np.repeat(ids[:, -2:], 8, axis=0)
        drawn = TEACHER.write(many, 8, rng)
        windows = np.lib.stride_tricks.sliding_window_view(drawn, 3, axis=1)
        each = windows.reshape(KEYS, -1, 3)
        green = np.concatenate([m.score(w[:, :2], w[:, 2]).reshape(-1, 8).sum(axis=1) for m, w in zip(marks, each)])
        best = green.reshape(-1, 8).argmax(axis=1) + np.arange(len(ids)) * 8
        ids = np.concatenate([ids, drawn[best, 2:]], axis=1)
    return list(zip(marks, ids.reshape(KEYS, CHOSEN, -1)))


def _positions(readings: list[Reading]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Windows (n, 2), places of the rows, likeliest tokens (n,) and the first-in-text mask, with no rule applied."""
    windows, rows, first = [], [], []
    for number, reading in enumerate(readings):
        ids, seen = reading.token_ids, set()
        for place in range(2, len(ids)):
            window = (int(ids[place - 2]), int(ids[place - 1]))
            windows.append(window)
            rows.append((number, place))
            first.append(window not in seen)
            seen.add(window)
    best = [int(readings[n].tokens[p][readings[n].suspect[p].argmax()]) for n, p in rows]
    return np.array(windows), np.array(rows), np.array(best), np.array(first)


def _counted(mark: Watermark, windows: np.ndarray, tokens: np.ndarray) -> float:
    return mark.scheme.null.log10_pvalue(int(mark.score(windows, tokens).sum()), len(tokens))


def _code(windows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """One number for each (window of two, token)."""
    return (windows[:, 0] * VOCABULARY + windows[:, 1]) * VOCABULARY + tokens


def _once(windows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return np.unique(_code(windows, tokens), return_index=True)[1]


def _rejects(log10_p: list[float]) -> float:
    return float((np.array(log10_p) <= np.log10(0.05)).mean())


def _every_argmax(case: Case) -> float:
    windows, _, best, _ = _positions(case.readings)
    return _counted(case.mark, windows, best)


def _argmax_once_per_cell(case: Case) -> float:
    windows, _, best, _ = _positions(case.readings)
    at = _once(windows, best)
    return _counted(case.mark, windows[at], best[at])


def _difference_over_all_positions(case: Case) -> float:
    """p_s - p_base summed by cell over every position; a normal tail."""
    from scipy.stats import norm

    windows, rows, _, _ = _positions(case.readings)
    tokens = np.concatenate([case.readings[n].tokens[p] for n, p in rows])
    apart = np.concatenate(
        [np.exp(case.readings[n].suspect[p]) - np.exp(case.readings[n].reference[p]) for n, p in rows]
    )
    windows = np.repeat(windows, LISTED, axis=0)
    _, first, which = np.unique(_code(windows, tokens), return_index=True, return_inverse=True)
    weight = np.bincount(which, weights=apart)
    gamma = case.mark.scheme.null.mean
    excess = weight @ (case.mark.score(windows[first], tokens[first]) - gamma)
    return float(norm.logsf(excess / np.sqrt(gamma * (1 - gamma) * weight @ weight)) / np.log(10))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [_every_argmax, _argmax_once_per_cell, _difference_over_all_positions])
def test_published_mode_accuses_a_model_that_copies_from_the_marked_text_it_is_shown(mode, marked):
    assert _rejects([mode(case) for case in marked[:PLAYED]]) >= 0.9


@pytest.mark.slow
def test_our_path_over_the_same_marked_texts_keeps_its_level(marked, holds_level):
    found = [judged(observe_readings(case.readings, case.mark)[0], case.mark) for case in marked]
    for name in found[0]:
        holds_level([each[name] for each in found], name)


@pytest.mark.slow
def test_filter_by_window_and_token_accuses_on_any_text_and_ours_does_not(marked, clean, holds_level):
    """Pairs seen in marked text are green ones; windows seen there are not."""
    theirs, ours = [], []
    for number, case in enumerate(marked):
        readings = clean[number % len(clean)]
        records = [record(case.mark, row[2:]) for row in case.ids.tolist()]
        seen, _ = observe_readings(readings, case.mark, served=served_windows(records, case.mark))
        ours.append(judged(seen, case.mark, exact=False))
        windows, _, best, first = _positions(readings)
        served = {tuple(row[i : i + 3]) for row in case.ids.tolist() for i in range(2, len(row) - 2)}
        kept = np.array([(*w, t) in served for w, t in zip(windows.tolist(), best.tolist())]) & first
        at = np.flatnonzero(kept)[_once(windows[kept], best[kept])]
        theirs.append(_counted(case.mark, windows[at], best[at]))
    assert _rejects(theirs[:PLAYED]) >= 0.9
    for name in ours[0]:
        holds_level([each[name] for each in ours], name)


@pytest.mark.slow
def test_texts_chosen_by_the_key_accuse_though_each_window_is_read_once(chosen):
    """A choice that looks ahead reaches windows *because* what follows them is green: the rules cannot see that.

    No scheme here chooses among texts (`schemes` tilts one token at a time), and docs/validity.md asks for texts that
    the key had no part in choosing.
    """
    found = []
    for mark, ids in chosen[:PLAYED]:
        windows, _, best, first = _positions(_read(ids, dataclasses.replace(SUSPECT, copy=0.0)))
        at = np.flatnonzero(first)[_once(windows[first], best[first])]
        found.append(_counted(mark, windows[at], best[at]))
    assert _rejects(found) >= 0.9


@pytest.mark.slow
def test_answers_to_prompts_chosen_by_the_key_keep_the_level(chosen, holds_level):
    """The same texts as prompts: their windows are left out, and the answers were not chosen."""
    rng = np.random.default_rng(34)
    prompts = np.concatenate([ids for _, ids in chosen])
    written = SUSPECT.write(prompts, 40, rng).reshape(KEYS, CHOSEN, -1)
    found, counted = [], []
    for (mark, ids), rows in zip(chosen, written):
        texts = [Text(row, ids.shape[1]) for row in rows]
        readings = [read_all(text, seen_by(SUSPECT, text), seen_by(BASE, text)) for text in texts]
        found.append(judged(observe_readings(readings, mark)[0], mark, exact=False))
        seen = observe([text.output for text in texts], mark)
        counted.append(_counted(mark, seen.windows, seen.choices))
    for name in found[0]:
        holds_level([each[name] for each in found], name)
    holds_level(counted, "text")


# No way to ask for any of it.

ALLOWED: dict[Callable[..., object], set[str]] = {
    detect: {
        "outputs", "mark", "tokenizer", "ledger", "suspect", "reference", "controls", "logprobs", "samples", "clean",
        "cells", "decoys", "alpha", "alternative", "stopped", "plan", "exploratory", "calibration", "ambient",
        "scale",  # where and by whom text is read: the evidence is the same to the bit (tests/test_scale.py)
        "progress",
    },
    observe: {"outputs", "mark", "tokenizer", "served", "progress"},
    observe_readings: {"readings", "mark", "tokenizer", "served", "often", "progress"},
    Rules: {"mark", "tokenizer", "served", "first", "loosely", "skipped"},
    weigh: {"rows", "often"},
    votes: {"rows"},
    served_windows: {"records", "mark"},
}  # fmt: skip


@pytest.mark.parametrize("function", ALLOWED, ids=lambda f: f.__name__)
def test_nothing_offers_to_leave_a_rule_out(function):
    """A new parameter fails here, so that somebody asks what it does to the proof."""
    extra = set(inspect.signature(function).parameters) - ALLOWED[function]
    assert not extra, f"does {sorted(extra)} keep the rules of docs/validity.md? then list it here"


def test_command_line_offers_no_more_than_python():
    found = set(inspect.signature(command).parameters)
    options = {
        *ALLOWED[detect], "control", "profile", "output", "report", "skip_bad", "field", "exit_code", "json", "quiet",
        "work", "workers", "engine", "address",  # the same
        "authority",  # whose time stamp on the plan counts: it can only make a run exploratory
    }  # fmt: skip
    assert not found - options, f"does {sorted(found - options)} keep the rules of docs/validity.md? then list it here"


@pytest.mark.parametrize("path", ["watermark/observe/readings.py", "watermark/observe/text.py"])
def test_rules_are_applied_the_same_way_to_everyone(path):
    """`Rules` is made in one place for each way of reading; log-probabilities always with rule 5."""
    made = [line for line in (ROOT / path).read_text("utf-8").splitlines() if "Rules(mark" in line]
    assert len(made) == 1
    assert ("first=True" in made[0]) == path.endswith("readings.py")


def test_ledger_filters_by_windows_alone():
    """Two ledgers that reach the same windows by other tokens filter alike."""
    mark = mark_of(next(iter(decoy_keys(b"windows", 1))))
    rows = [[1, 2, 3, 4], [2, 3, 9], [1, 2, 8], [3, 4, 5]]
    other = [[3, 4], [2, 3, 4], [1, 2, 3], [2, 8], [3, 9], [4, 5]]
    here, there = (served_windows([record(mark, r) for r in given], mark) for given in (rows, other))
    assert here.tolist() == there.tolist()
    assert here.dtype == np.uint64
    assert here.ndim == 1
