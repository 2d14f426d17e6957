"""Exactness of score tests as a rate: thousands of keys against suspects that never saw them.

The suspects include what breaks a naive correlation test: smooth students, independent models, students of another key,
an overfitted one, and one that hardly varies.
"""

import numpy as np
import pytest
from scorebench import bench, boosted, inputs, scores

from watermark.keys import decoy_keys
from watermark.scores import Basis, Direction, Marker
from watermark.scores.direction import cosine
from watermark.scoring.case import read_case
from watermark.scoring.detect import looks_at
from watermark.scoring.mark import ScoreWatermark
from watermark.stats.sphere import DirectionProcess, log10_pvalue

pytestmark = pytest.mark.slow
KEYS = 4000
LEVELS = (0.05, 0.01, 0.001)
OTHERS = list(decoy_keys(b"others", 3))


@pytest.fixture(scope="module")
def world():
    thief, a, probes, b, predictions = bench()
    basis = Basis.fit(thief, size=100)
    other = Marker(Direction(epsilon=0.05), basis, OTHERS[0])
    rng = np.random.default_rng(0)
    suspects = {
        "clean student": boosted(thief, a)(probes),
        "another clean student": boosted(thief[:2000], a[:2000], 1, 40)(probes),
        "student of another key": boosted(thief, other.tilt(a, thief))(probes),
        "independent model": boosted(thief, (rng.random(len(a)) < a).astype(float), 2)(probes),
        "overfitted": boosted(probes, (rng.random(len(b)) < b).astype(float), 3, 400)(probes),
        "hardly varies": 0.3 + 1e-4 * probes[:, 0],
        "one column": 1 / (1 + np.exp(-probes[:, 2])),
    }
    return basis, probes, b, predictions, suspects


def rates(log10_p):
    return [float((np.asarray(log10_p) <= np.log10(level)).mean()) for level in LEVELS]


def within(found, runs):
    """Each rate at most its level and two standard errors."""
    return all(rate <= level + 2 * np.sqrt(level * (1 - level) / runs) for rate, level in zip(found, LEVELS))


def many(read, scheme, seed, dimensions, count=KEYS):
    keys = decoy_keys(bytes([seed]) * 32, count)
    return [log10_pvalue(scheme.score(read, key), dimensions) for key in keys]


def test_every_innocent_suspect_is_accused_at_the_stated_rate(world):
    basis, probes, b, predictions, suspects = world
    scheme, pooled = Direction(), []
    for number, (name, answers) in enumerate(suspects.items()):
        case = read_case(scheme, basis, probes, answers, b, surrogates=predictions)
        log10_p = many(case.residual.coefficients, scheme, number, scheme.dimensions(basis.size))
        pooled += log10_p
        found = rates(log10_p)
        print(f"{name:24} {found}")
        # seven suspects, three levels: two standard errors for the pool, three for each
        assert all(r <= lv + 3 * np.sqrt(lv * (1 - lv) / KEYS) for r, lv in zip(found, LEVELS)), name
    print(f"{'all':24} {rates(pooled)} of {len(pooled)} runs")
    assert within(rates(pooled), len(pooled))
    assert rates(pooled)[0] > 0.045  # exact, not merely conservative


def test_a_naive_correlation_accuses_the_innocent(world):
    from scipy import stats

    basis, probes, b, predictions, suspects = world
    phi = basis.features(probes)
    case = read_case(Direction(), basis, probes, suspects["independent model"], b, surrogates=predictions)
    rest, rejected = case.residual.rest[:, 0], 0
    for key in decoy_keys(b"\x07" * 32, 400):
        z = phi @ Direction().matrix(key, basis.size)[:, 0]
        rejected += stats.pearsonr(np.tanh(4 * z / z.std()), rest, alternative="greater").pvalue <= 0.01
    print(f"naive Pearson test at .01: {rejected / 400:.3f}")
    assert rejected / 400 > 0.05


def test_two_sided_and_less_hold_too(world):
    basis, probes, b, _, suspects = world
    scheme = Direction()
    read = read_case(scheme, basis, probes, suspects["clean student"], b).residual.coefficients
    keys = list(decoy_keys(b"\x11" * 32, KEYS))
    for alternative in ("less", "two-sided"):
        found = rates([log10_pvalue(scheme.score(read, k), 100, alternative=alternative) for k in keys])
        assert within(found, KEYS), alternative


def test_numbers_of_single_inputs_are_exact(world):
    basis, probes, b, _, suspects = world
    scheme = Direction(own=0.3)
    some = slice(400)
    case = read_case(scheme, basis, probes[some], suspects["overfitted"][some], b[some])
    rest = case.residual.rest
    found = [
        log10_pvalue(cosine(rest, scheme.numbers(key, case.coordinates)), len(rest))
        for key in decoy_keys(b"\x12" * 32, KEYS)
    ]
    assert within(rates(found), KEYS)


def test_five_classes_are_exact():
    x, own = inputs(3000, 4), inputs(3000, 5)
    p, scheme = scores(x, 5), Direction(channels=5)
    basis = Basis.fit(own, size=60)
    said = np.column_stack([boosted(own, scores(own, 5)[:, c], rounds=40)(x) for c in range(5)])
    said /= said.sum(axis=1, keepdims=True)
    case = read_case(scheme, basis, x, said, p)
    log10_p = many(case.residual.coefficients, scheme, 9, scheme.dimensions(basis.size))
    assert within(rates(log10_p), KEYS)
    assert rates(log10_p)[0] > 0.035


def test_labels_alone_are_exact(world):
    basis, probes, b, predictions, suspects = world
    scheme = Direction()
    labels = (suspects["student of another key"] > 0.5).astype(float)
    case = read_case(scheme, basis, probes, labels, b, surrogates=predictions)
    assert case.shows == "labels"
    assert within(rates(many(case.residual.coefficients, scheme, 10, 100)), KEYS)


def test_embeddings_are_exact():
    rng = np.random.default_rng(3)
    x = inputs(4000, 6)
    e = np.tanh((x - x.mean(axis=0)) / x.std(axis=0) @ rng.normal(size=(10, 40)) / 2) @ rng.normal(size=(40, 16)) / 6
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    mark = ScoreWatermark.generate(e, output="embeddings", channels=16, epsilon=0.1, size=20)
    other = mark.rekeyed(OTHERS[1]).tilt(e, e)
    turned = other @ np.linalg.qr(rng.normal(size=(16, 16)))[0] + 0.02 * rng.normal(size=e.shape)
    case = read_case(mark.scheme, mark.basis, e, turned, e)
    log10_p = many(case.residual.coefficients, mark.scheme, 13, mark.dimensions, 20_000)
    assert within(rates(log10_p), 20_000)


def test_the_e_process_crosses_no_more_often_than_it_may(world):
    """sup of E over growing batches, 10,000 keys against one suspect that answers to another key."""
    basis, probes, b, predictions, suspects = world
    scheme = Direction()
    case = read_case(scheme, basis, probes, suspects["student of another key"], b, surrogates=predictions)
    reads = [case.residual_of(case.suspect, n).coefficients[:, 0] for n in (200, 600, 1800, len(case))]
    sup = []
    for key in decoy_keys(b"\x14" * 32, 10_000):
        process, direction = DirectionProcess(basis.size), scheme.matrix(key, basis.size)[:, 0]
        sup.append(max(process.update(read, direction) for read in reads))
    crossed = [float((np.array(sup) >= -np.log10(level)).mean()) for level in LEVELS]
    print(f"sup of E crosses 20, 100, 1000 in {crossed} of 10,000")
    assert all(rate <= level for rate, level in zip(crossed, LEVELS))


def test_the_library_bets_as_this_test_does(world):
    basis, probes, b, _, suspects = world
    mark = ScoreWatermark(Direction(), basis, OTHERS[2])
    case = read_case(mark.scheme, basis, probes, suspects["clean student"], b)
    looks, process = looks_at(mark, case, "greater", stopped=False), DirectionProcess(basis.size)
    for look in looks:
        read = case.residual_of(case.suspect, look.answers).coefficients[:, 0]
        expected = process.update(read, mark.scheme.matrix(mark.key, basis.size)[:, 0])
        assert look.log10_e == pytest.approx(expected)
