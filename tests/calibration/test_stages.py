"""The e-process over real stages: 10,000 keys that marked nothing, and what it may look at.

Many keys share what was read, so weights and ψ are worked out once per stage, and the bettors' arithmetic runs over
all keys at once; a few keys are played through `assess.anytime` itself, and must give the same wealth.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from toy import (
    BINDING,
    Text,
    Toy,
    drifted,
    mark_of,
    openings,
    read_all,
    read_top,
    seen_by,
    teacher,
    tilted_by,
)

from watermark import prf
from watermark.assess import anytime
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import Reading, Stage, observe_readings
from watermark.observe.weights import weigh
from watermark.stats.anytime import _BOLDEST, _GRID
from watermark.stats.weighted import WeightedSum

LEVELS = (0.05, 0.01, 0.001)
RUNS, KEEP = 10_000, 0.1
TEACHER = teacher()
BASE = drifted(TEACHER, 6)
SUSPECT = drifted(TEACHER, 5)


def _texts(toy: Toy, rows: int, seed: int, length: int = 60) -> list[Text]:
    rng = np.random.default_rng(seed)
    return [Text(row, 2) for row in toy.write(openings(rows, rng), length, rng)]


def _open(texts: list[Text], suspect: Toy, reference: Toy | None) -> list[Reading]:
    return [read_all(text, seen_by(suspect, text), seen_by(reference, text)) for text in texts]


def _listed(texts: list[Text], suspect: Toy, reference: Toy | None) -> list[Reading]:
    return [read_top(text, seen_by(suspect, text), seen_by(reference, text), 5, own=True) for text in texts]


COPYING = dataclasses.replace(SUSPECT, copy=0.6)
READ = {
    "logits against the base": (_open, SUSPECT, BASE),
    "logits alone, looping": (_open, dataclasses.replace(SUSPECT, copy=0.95), None),
    "five listed, copying": (_listed, COPYING, BASE),
    "five listed, cold": (_listed, dataclasses.replace(SUSPECT, temperature=0.3), None),
}


def _staged(name: str) -> list[Stage]:
    read, suspect, reference = READ[name]
    texts = _texts(suspect, 40, list(READ).index(name))
    return list(observe_readings(read(texts, suspect, reference), mark_of(next(iter(decoy_keys(b"any", 1)))))[1])


class Bettors:
    """`EProcess`'s arithmetic for one statistic under m keys at once; log wealth (m,)."""

    def __init__(self, keys: int) -> None:
        self.fixed, self.adaptive = np.zeros((keys, len(_GRID))), np.zeros(keys)
        self.excess, self.variance, self.chunks = np.zeros(keys), 0.0, 0

    def play(self, law: WeightedSum, excess: np.ndarray) -> None:
        bets = _GRID / law.sd
        if self.chunks:
            bold = np.clip(self.excess / (self.variance * (1 + 1 / self.chunks)), 0, _BOLDEST / law.sd)
            self.adaptive = self.adaptive + bold * excess - law.log_mgf(bold)
        self.fixed = self.fixed + np.outer(excess, bets) - law.log_mgf(bets)
        if not self.chunks:
            self.adaptive = self._mean_fixed()
        self.excess, self.variance, self.chunks = self.excess + excess, self.variance + law.variance, self.chunks + 1

    def _mean_fixed(self) -> np.ndarray:
        return np.logaddexp.reduce(self.fixed, axis=1) - math.log(len(_GRID))

    @property
    def log_wealth(self) -> np.ndarray:
        return np.logaddexp(self._mean_fixed(), self.adaptive) - math.log(2)


def _wealth(parts: list[Stage], keys: list, mark: Watermark) -> np.ndarray:
    """log10 of the wealth after each stage, (stages, m)."""
    gamma, names = mark.scheme.null.mean, list(parts[0].weights)
    bettors = [Bettors(len(keys)) for _ in names]
    mixture, wealth, peak, steps = np.zeros(len(keys)), np.zeros(len(keys)), np.zeros(len(keys)), []
    looked, looks = np.full(len(keys), -np.inf), 0
    for part in parts:
        for look in part.looks:
            laws = [WeightedSum(look.weights[name], gamma) for name in names]
            totals = mark.totals(look.windows, look.choices, np.stack([law.weights for law in laws]), keys)
            each = [law.log10_evalue(column) * math.log(10) for law, column in zip(laws, totals.T)]
            assert looks < 12
            looked = np.logaddexp(looked, np.logaddexp.reduce(each, axis=0) - math.log(16 * len(names)))
            looks += 1
        weights = np.stack([part.weights[name] for name in names])
        totals = mark.totals(part.windows, part.choices, weights, keys)
        for bettor, line, column in zip(bettors, weights, totals.T):
            law = WeightedSum(line, gamma)
            if law.sd:
                bettor.play(law, column - law.mean)
        now = np.logaddexp.reduce([b.log_wealth for b in bettors], axis=0) - math.log(len(names))
        floor = math.log(KEEP) + peak
        with np.errstate(divide="ignore"):
            staked = wealth + np.log1p(-np.exp(np.minimum(floor - wealth, 0.0)))
        wealth = np.logaddexp(floor, staked + now - mixture)
        mixture, peak = now, np.maximum(peak, wealth)
        steps.append((np.logaddexp(wealth, looked) - math.log(2)) / math.log(10))
    assert looks >= 2
    return np.stack(steps)


@pytest.mark.slow
def test_ten_thousand_null_runs_cross_no_more_often_than_promised():
    """P(sup E >= 1/α) <= α over every stage: four ways to read, 2,500 keys each."""
    found = []
    for name in READ:
        parts = _staged(name)
        assert len(parts) >= 6
        keys = list(decoy_keys(name.encode(), RUNS // len(READ)))
        mark = mark_of(keys[0])
        steps = np.concatenate([_wealth(parts, keys[i : i + 500], mark) for i in range(0, len(keys), 500)], axis=1)
        for number in range(5):
            played = anytime(parts, mark.rekeyed(keys[number]), alpha=0.001, gamma=mark.scheme.null.mean,
                             alternative="greater")  # fmt: skip
            assert [step.log10_e for step in played.steps] == pytest.approx(steps[:, number], abs=1e-6)
        found.append(steps.max(axis=0))
    highest = np.concatenate(found)
    for level in LEVELS:
        rate = float((highest >= -math.log10(level)).mean())
        print(f"sup E >= {1 / level:g}: {rate:.5f} of {len(highest)} null runs")
        assert rate <= level + 2 * math.sqrt(level * (1 - level) / len(highest))
    assert (highest > 0.3).mean() > 0.01  # it does bet


@pytest.mark.slow
def test_stages_over_marked_texts_cross_no_more_often_than_promised(holds_level):
    """120 keys: a copying suspect is shown texts that are marked under each."""
    marks, rng, rows = [mark_of(key) for key in decoy_keys(b"staged", 120)], np.random.default_rng(61), 14
    ids = TEACHER.write(openings(rows * len(marks), rng), 60, rng, tilted_by(marks, rows))
    found = []
    for number, mark in enumerate(marks):
        texts = [Text(row, 2) for row in ids[number * rows :][:rows]]
        parts = observe_readings(_open(texts, COPYING, BASE), mark)[1]
        grown = anytime(parts, mark, alpha=0.001, gamma=mark.scheme.null.mean, alternative="greater")
        found.append(-max(step.log10_e for step in grown.steps))
    holds_level(found, "sup E over marked texts")


@pytest.mark.slow
def test_probes_without_signal_cost_at_most_a_factor_ten():
    """A student's texts first, then three times as many before a model that learnt nothing: what was won stays."""
    mark = mark_of(next(iter(decoy_keys(b"student", 1))))
    green = prf_rows(mark)
    for seed in range(2):
        first, rest = _texts(TEACHER, 20, 70 + seed), _texts(TEACHER, 60, 80 + seed)
        learnt = [read_all(text, seen_by(SUSPECT, text) + 1.5 * green(text), seen_by(BASE, text), 64) for text in first]
        dull = _open(rest, SUSPECT, BASE)
        gamma = mark.scheme.null.mean
        won = anytime(observe_readings(learnt, mark)[1], mark, alpha=0.001, gamma=gamma, alternative="greater")
        both = anytime(observe_readings(learnt + dull, mark)[1], mark, alpha=0.001, gamma=gamma, alternative="greater")
        grown = [step.log10_e for step in both.steps]
        assert max(grown) > 3 < won.log10_e
        for number in range(len(grown)):
            assert grown[number] >= max(grown[: number + 1]) - 1 - 1e-9
        assert len([step for step in both.steps if step.documents > 20]) >= 3
        assert both.log10_e >= max(grown) - 1 - 1e-9


def prf_rows(mark: Watermark):
    """Whether each token is green at the answer's positions, (n, V)."""

    def green(text: Text) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(text.ids, 2)[text.given - 2 : -1]
        tokens = np.arange(BINDING.logits_width)
        each = [mark.score(np.repeat(window[None], len(tokens), 0), tokens) for window in windows]
        return np.stack(each).astype(np.float32)

    return green


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("read", [_open, _listed], ids=lambda f: f.__name__[1:])
def test_no_stage_uses_a_cell_whose_coin_is_known(read, seed):
    """Texts that repeat each other: every cell is bet on once, in the stage in which its weight was worth it."""
    few = _texts(COPYING, 12, 90 + seed, length=50)
    rng = np.random.default_rng(seed)
    texts = [few[i] for i in rng.integers(0, len(few), 60)]
    everything, parts = observe_readings(read(texts, COPYING, BASE), mark_of(next(iter(decoy_keys(b"once", 1)))))
    parts = list(parts)
    names = np.concatenate([prf.cell_ids(part.windows, part.choices) for part in parts])
    assert len(parts) >= 5
    assert len(np.unique(names)) == len(names)
    assert np.isin(names, prf.cell_ids(everything.windows, everything.choices)).mean() > 0.9
    for part in parts:  # weights are those of all that was read so far, whoever is betting
        heaviest = np.max([np.abs(values) for values in part.weights.values()], axis=0)
        assert (heaviest >= 8).all()
    ends = [part.documents for part in parts]
    assert ends == sorted(set(ends))


def test_stage_knows_nothing_of_what_was_read_later():
    """Its weights are the same whatever comes after it."""
    texts, mark = _texts(COPYING, 40, 99), mark_of(next(iter(decoy_keys(b"later", 1))))
    whole = list(observe_readings(_open(texts, COPYING, BASE), mark)[1])
    end = whole[2].documents
    other = _texts(SUSPECT, 40, 100)
    changed = list(observe_readings(_open(texts[:end] + other, COPYING, BASE), mark)[1])
    for here, there in zip(whole[:3], changed[:3]):
        assert (here.windows == there.windows).all()
        assert (here.choices == there.choices).all()
        for name in here.weights:
            assert (here.weights[name] == there.weights[name]).all()


def test_weights_know_nothing_of_the_key():
    readings = _open(_texts(COPYING, 10, 101), COPYING, BASE)
    found = [observe_readings(readings, mark_of(key))[0] for key in decoy_keys(b"two", 2)]
    assert found[0].digest == found[1].digest
    assert "key" not in weigh.__annotations__
