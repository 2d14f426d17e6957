"""Every level of access keeps its level: random keys against models that met no mark, through the real path.

Models are toys that copy from their context, loop, or speak at a low temperature (tests/toy.py). Where nothing read
depends on the key, 1,500 keys share one reading; where prompts or texts are marked, they are made anew under each of
300 keys. All runs together are held to two standard errors (ranks, which share decoys, to three); each statistic of a
mode, of which there are some 250 with their levels, to the 99.99 % point of the binomial law; each with one suspect,
a thousand, to the 99.999 % point.
`pytest -s` prints the table that docs/results/calibration.md keeps.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.stats import betabinom, binom
from toy import (
    VOCABULARY,
    Text,
    Toy,
    drifted,
    judged,
    mark_of,
    openings,
    read_all,
    read_top,
    read_written,
    seen_by,
    teacher,
    tilted_by,
)

from watermark.assess import stacked, weighted
from watermark.errors import TooFewObservations
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import Observations, Reading, observe, observe_readings
from watermark.observe.text import VOTES
from watermark.stats.combine import mean_evalue
from watermark.stats.laws import binomial_log10_chernoff
from watermark.stats.rank import rank_pvalue
from watermark.stats.weighted import WeightedSum

LEVELS = (0.05, 0.01, 0.001)
KEYS, DECOYS = 1_500, 999  # for each suspect and mode
MARKED, FEW = 300, 99  # keys with marked prompts and texts, and their decoys
TEACHER = teacher()
GREW = drifted(TEACHER, 5)
REFERENCES: dict[str, Toy | None] = {"": None, " + base": drifted(TEACHER, 6), " + unrelated": teacher(2)}
SUSPECTS = {
    "plain": GREW,
    "copying": dataclasses.replace(GREW, copy=0.6),
    "looping": dataclasses.replace(GREW, copy=0.95),
    "cold": dataclasses.replace(GREW, temperature=0.3),
}
ACCESS = ("text", "samples", "top 1", "top 5", "top 20", "logits")
MODES = [access + reference for access in ACCESS for reference in REFERENCES]


@dataclass
class Rates:
    """Of one mode: log10 p by what gave it ("exact NAME", "Chernoff NAME", "1/E"), and ranks, by suspect."""

    found: dict[str, dict[str, list[np.ndarray]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, group: str, given: dict[str, np.ndarray]) -> None:
        for name, values in given.items():
            self.found[group][name].append(np.atleast_1d(values))

    def of(self, kind: str, group: str | None = None) -> np.ndarray:
        """All log10 p of one kind, its statistics side by side."""
        groups = [self.found[group]] if group else list(self.found.values())
        parts = [np.concatenate(v) for found in groups for name, v in found.items() if name.split()[0] == kind]
        return np.concatenate(parts) if parts else np.empty(0)

    @property
    def runs(self) -> int:
        return sum(len(np.concatenate(next(iter(found.values())))) for found in self.found.values())


def _observed(access: str, texts: list[Text], suspect: Toy, reference: Toy | None, mark: Watermark, own: bool):
    """Observations of one mode. own: the answers are the suspect's."""
    if access == "text" and reference is None:
        return observe([text.output for text in texts], mark)
    return observe_readings(list(_readings(access, texts, suspect, reference, own)), mark)[0]


def _readings(access: str, texts: list[Text], suspect: Toy, reference: Toy | None, own: bool) -> Iterator[Reading]:
    for text in texts:
        expected = seen_by(reference, text)
        if access in ("text", "samples"):
            yield read_written(text, expected)
        elif access == "logits":
            yield read_all(text, seen_by(suspect, text), expected)
        else:
            yield read_top(text, seen_by(suspect, text), expected, int(access.split()[1]), own=own)


def _split(mode: str) -> tuple[str, Toy | None]:
    access, _, reference = mode.partition(" + ")
    return access, REFERENCES[f" + {reference}" if reference else ""]


def _answers(suspect: Toy, prompts: np.ndarray, length: int, times: int, rng: np.random.Generator) -> list[Text]:
    given = prompts.shape[1]
    return [Text(row, given) for row in suspect.write(np.repeat(prompts, times, axis=0), length, rng)]


def _coarse(law: Callable[[int], float], totals: np.ndarray, z: np.ndarray) -> np.ndarray:
    """log10 p of totals, up to the level it falls under: 0, -1.3, -2 or -3. A tail is monotone in its total."""
    values, which = np.unique(totals, return_inverse=True)
    order = {int(value): float(z[np.argmax(totals == value)]) for value in values}
    known: dict[int, float] = {}

    def tail(at: int) -> float:
        if at not in known:
            known[at] = law(int(values[at]))
        return known[at]

    found = np.zeros(len(values))
    for level, guess in zip(LEVELS, (1.64, 2.33, 3.09)):
        at = int(np.searchsorted([order[int(v)] for v in values], guess))
        low, high, step = at - 1, at, 1
        while low >= 0 and tail(low) <= math.log10(level):
            low, high, step = low - step, low, 2 * step
        step = 1
        while high < len(values) and tail(high) > math.log10(level):
            low, high, step = high, high + step, 2 * step
        low, high = max(low, -1), min(high, len(values))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if tail(middle) <= math.log10(level) else (middle, high)
        found[high:] = math.log10(level)
    return found[which.ravel()]


def _shared(seen: Observations, mark: Watermark, keys: list) -> dict[str, np.ndarray]:
    """log10 p (KEYS,) under many keys that share what was read; decoys are those of `detect`."""
    gamma, names = mark.scheme.null.mean, [name for name in seen.weights if name != VOTES]
    decoys = list(decoy_keys(bytes.fromhex(seen.digest), DECOYS))
    totals = mark.totals(seen.windows, seen.choices, stacked(seen), keys + decoys)
    law, n, m = mark.scheme.null, int((seen.weights[VOTES] != 0).sum()), len(keys)
    z = (totals[:m, 0] - n * law.mean) / math.sqrt(n * law.variance)
    found = {"exact votes": _coarse(lambda green: law.log10_pvalue(green, n), totals[:m, 0], z)}
    if not names:
        found["Chernoff votes"] = _coarse(lambda t: binomial_log10_chernoff(t, n, law.mean), totals[:m, 0], z)
        found["rank"] = np.log10([rank_pvalue(t, totals[m:, 0]) for t in totals[:m, 0]])
        return found
    evalues = []
    for name, column in zip(names, totals[:, 1:].T):
        law = WeightedSum(seen.weights[name], gamma)
        z = (column[:m] - law.mean) / law.sd
        found[f"exact {name}"] = _coarse(law.log10_pvalue, column[:m], z)
        assert (found[f"exact {name}"][z <= 1.2] == 0).all()  # `judged` leaves these out
        found[f"Chernoff {name}"] = _coarse(law.log10_chernoff, column[:m], z)
        evalues.append(law.log10_evalue(column))
    together = mean_evalue(np.stack(evalues), axis=0)
    found["1/E"] = np.minimum(0.0, -together[:m])
    found["rank"] = np.log10([rank_pvalue(e, together[m:]) for e in together[:m]])
    _agrees(seen, totals[0, 1:], totals[m:, 1:], gamma, found)
    return found


def _agrees(seen, totals, decoys, gamma: float, found: dict[str, np.ndarray]) -> None:
    """The package's own answer for the first key."""
    alone = weighted(seen, totals, decoys, gamma=gamma, access="", reference=None, alternative="greater")
    assert alone.log10_p == pytest.approx(found["1/E"][0], abs=1e-9)
    assert math.log10(alone.rank_pvalue) == pytest.approx(found["rank"][0], abs=1e-9)
    for each in alone.statistics:
        for kind, value in (("exact", each.log10_p), ("Chernoff", each.log10_chernoff)):
            reached = found[f"{kind} {each.name}"][0]
            assert value <= reached
            assert reached < 0 or value > math.log10(0.05)


@pytest.fixture(scope="module")
def innocent() -> dict[str, Rates]:
    """Nothing read depends on the key: four suspects answer unmarked prompts."""
    done: dict[str, Rates] = {mode: Rates() for mode in MODES}
    for number, (group, suspect) in enumerate(SUSPECTS.items()):
        rng = np.random.default_rng([51, number])
        prompts = TEACHER.write(openings(20, rng), 10, rng)
        once, often = _answers(suspect, prompts, 40, 1, rng), _answers(suspect, prompts[:6], 30, 8, rng)
        for mode in MODES:
            access, reference = _split(mode)
            keys = list(decoy_keys(f"{group} {mode}".encode(), KEYS))
            mark = mark_of(keys[0], window=1 + number % 2)
            texts = often if access == "samples" else once
            done[mode].add(group, _shared(_observed(access, texts, suspect, reference, mark, True), mark, keys))
    return done


@pytest.fixture(scope="module")
def marked() -> dict[str, Rates]:
    """300 keys: a copying suspect answers prompts that are marked, and is shown texts that are."""
    done: dict[str, Rates] = {mode: Rates() for mode in MODES}
    suspect, rng, rows = SUSPECTS["copying"], np.random.default_rng(52), 10
    for width in (1, 2):
        suspect = dataclasses.replace(suspect, match=width)
        marks = [mark_of(key, window=width) for key in decoy_keys(b"marked %d" % width, MARKED // 2)]
        shown = TEACHER.write(openings(rows * len(marks), rng), 40, rng, tilted_by(marks, rows))
        answers = suspect.write(np.repeat(shown, 3, axis=0), 26, rng)
        for number, mark in enumerate(marks):
            forced = [Text(row, 2) for row in shown[number * rows :][:rows]]
            own = [Text(row, shown.shape[1]) for row in answers[number * rows * 3 :][: rows * 3]]
            for mode in MODES:
                access, reference = _split(mode)
                texts = own if access == "samples" else own[::3]
                done[mode].add("marked prompts", _alone(access, texts, suspect, reference, mark, True))
                if access in ("top 5", "logits"):
                    done[mode].add("marked texts", _alone(access, forced, suspect, reference, mark, False))
    return done


def _alone(access, texts, suspect, reference, mark, own) -> dict[str, np.ndarray]:
    """log10 p of one run, by the names that `_shared` uses; nothing is found where too little is left to read."""
    try:
        seen = _observed(access, texts, suspect, reference, mark, own)
    except TooFewObservations:
        return {}
    found = {name: np.array(value) for name, value in judged(seen, mark).items()}
    found = {"exact votes" if name == "votes" else name: value for name, value in found.items()}
    keys = [mark.key, *decoy_keys(bytes.fromhex(seen.digest), FEW)]
    totals = mark.totals(seen.windows, seen.choices, stacked(seen), keys)
    names = [name for name in seen.weights if name != VOTES]
    ranked = totals[:, 0].astype(float)
    if names:
        laws = [WeightedSum(seen.weights[name], mark.scheme.null.mean) for name in names]
        ranked = mean_evalue(np.stack([law.log10_evalue(t) for law, t in zip(laws, totals[:, 1:].T)]), axis=0)
    return found | {"rank": np.log10(rank_pvalue(ranked[0], ranked[1:]))}


def _table(done: dict[str, Rates], what: str) -> str:
    head = f"\n{what:<20}{'runs':>6}" + "".join(f"{kind:>22}" for kind in ("exact", "Chernoff", "1/E", "rank"))
    lines = [head, " " * 26 + "   .05    .01   .001 " * 4]
    for mode in MODES:
        cells = []
        for kind in ("exact", "Chernoff", "1/E", "rank"):
            values = done[mode].of(kind)
            rates = [f"{(values <= math.log10(level)).mean():7.4f}" if len(values) else "      -" for level in LEVELS]
            cells.append("".join(rates) + " ")
        lines.append(f"{mode:<20}{done[mode].runs:>6} " + "".join(cells))
    return "\n".join(lines)


def _within(log10_p: np.ndarray, chance: float, what: object) -> None:
    """The count of rejections may not pass the `chance` point of its binomial law at the nominal level."""
    for level in LEVELS:
        count = int((log10_p <= math.log10(level)).sum())
        assert count <= binom.ppf(chance, len(log10_p), level), (what, level, count, len(log10_p))


def _check(done: dict[str, Rates], mode: str) -> None:
    together: dict[str, list[np.ndarray]] = defaultdict(list)
    for group, found in done[mode].found.items():
        for name, parts in found.items():
            if name != "rank":
                _within(np.concatenate(parts), 0.99999, (mode, group, name))
                together[name] += parts
    for name, parts in together.items():
        _within(np.concatenate(parts), 0.9999, (mode, name))
    for kind in ("1/E", "Chernoff"):  # over all suspects; Chernoff's statistics are safe one by one
        values = done[mode].of(kind)
        for level in LEVELS if len(values) else ():
            rate = (values <= math.log10(level)).mean()
            assert rate <= level + 2 * math.sqrt(level * (1 - level) / done[mode].runs), (mode, kind, level, rate)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_level_holds_in_each_mode(mode, innocent):
    _check(innocent, mode)
    assert innocent[mode].runs == KEYS * len(SUSPECTS)
    for group in SUSPECTS:  # keys that share their decoys: the count is beta-binomial
        ranks = innocent[mode].of("rank", group)
        for level in LEVELS:
            count, k = int((ranks <= math.log10(level) + 1e-9).sum()), round(level * (DECOYS + 1))
            assert count <= betabinom.ppf(0.99999, KEYS, k, DECOYS + 1 - k), (mode, group, level, count)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_level_holds_in_each_mode_where_prompts_or_texts_are_marked(mode, marked):
    _check(marked, mode)
    for group in marked[mode].found:
        ranks = marked[mode].of("rank", group)
        for level in (0.05, 0.01):
            count = int((ranks <= math.log10(level) + 1e-9).sum())
            assert count <= binom.ppf(0.9999, len(ranks), level), (mode, group, level, count)


@pytest.mark.slow
def test_level_holds_over_all_runs_within_two_standard_errors(innocent, marked):
    """Exact tails and ranks spend their level, Chernoff's bound and 1/E stay far below it."""
    for done, what in ((innocent, "nothing marked"), (marked, "prompts or texts marked")):
        print(_table(done, what))
        runs, readings = sum(rates.runs for rates in done.values()), len(MODES) * len(SUSPECTS)
        for kind in ("exact", "Chernoff", "1/E", "rank"):
            values = np.concatenate([rates.of(kind) for rates in done.values()])
            shared = 1 / (readings * DECOYS) if kind == "rank" and done is innocent else 0.0
            for level in LEVELS if kind != "rank" or done is innocent else LEVELS[:2]:
                rate = (values <= math.log10(level) + 1e-9).mean()
                error = math.sqrt(level * (1 - level) * (1 / runs + shared))
                print(f"{what}: {kind:<9}{level:>6}{rate:>9.5f}")
                assert rate <= level + (3 if kind == "rank" else 2) * error, (what, kind, level, rate)
    exact = np.concatenate([rates.of("exact") for rates in innocent.values()])
    assert (exact <= math.log10(0.05)).mean() > 0.045  # not for want of trying


def test_toys_copy_loop_and_repeat():
    """What the suspects are for: they do what they are named after."""
    rng = np.random.default_rng(53)
    prompts = TEACHER.write(openings(40, rng), 30, rng)
    said = {name: suspect.write(prompts, 40, rng) for name, suspect in SUSPECTS.items()}

    def repeats(ids: np.ndarray) -> float:
        codes = ids[:, :-2] * VOCABULARY**2 + ids[:, 1:-1] * VOCABULARY + ids[:, 2:]
        return float(np.mean([1 - len(set(row.tolist())) / len(row) for row in codes]))

    shares = {name: repeats(ids) for name, ids in said.items()}
    assert shares["plain"] < shares["copying"] < shares["looping"]
    assert shares["plain"] < shares["cold"]
    copied = SUSPECTS["copying"]._copied(said["plain"][:, :-1])
    for row, token in zip(said["plain"][:, :-1].tolist(), copied.tolist()):  # the definition, by a loop
        places = [i for i in range(len(row) - 2) if row[i : i + 2] == row[-2:]]
        assert token == (row[places[-1] + 2] if places else -1)
    assert np.allclose(np.exp(SUSPECTS["copying"].read(said["plain"][0])).sum(axis=1), 1, atol=1e-4)
