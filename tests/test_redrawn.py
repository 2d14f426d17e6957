"""Redrawing a row: what is quick for a large vocabulary, or for a row cut by top-k, is what the formula says."""

import math

import numpy as np
import pytest
import torch

from watermark import prf
from watermark.keys import decoy_keys
from watermark.prf import tensors
from watermark.schemes import Gumbel, Tournament
from watermark.schemes.gumbel import _bounds, _noise
from watermark.schemes.redrawn import log_sum

KEY = next(decoy_keys(b"redrawn", 1))
SCHEMES = [Gumbel(), Tournament(), Tournament(depth=13), Tournament(depth=1)]
BACKENDS = pytest.mark.parametrize("backend", ["1", "0"], ids=["numba", "numpy"])


def rows(count: int, width: int, *, spread: float = 3.0) -> np.ndarray:
    return np.random.default_rng(width).standard_normal((count, width)).astype(np.float32) * np.float32(spread)


def cut(logits: np.ndarray, kept: int) -> np.ndarray:
    """Only the largest `kept` of each row, as top-k leaves them."""
    made = np.full_like(logits, -np.inf)
    best = np.argpartition(logits, -kept, axis=1)[:, -kept:]
    np.put_along_axis(made, best, np.take_along_axis(logits, best, axis=1), axis=1)
    return made


def contexts(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 1_000, (count, 2))


def drawn_for(scheme, ids: np.ndarray, width: int) -> np.ndarray:
    words = prf.key_words(KEY.derive(f"{scheme.name}/1"))
    return prf.uniform_rows(prf.window_states(ids.astype(np.uint32), words), width)


def by_the_formula(scheme, row: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Chances of each token, layer by layer or by the largest sum, over the whole row and in whole precision."""
    given = row.astype(np.float64)
    chances = np.exp(given - log_sum(given[given > -np.inf]))
    if isinstance(scheme, Gumbel):
        return (np.arange(len(row)) == np.argmax(given + _noise(drawn))).astype(float)
    for layer in range(scheme.depth):
        coins = (drawn >> np.uint32(31 - layer)) & np.uint32(1)
        chances = chances * (1 + coins - (chances * coins).sum())
    return chances


@BACKENDS
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("width, kept", [(30_000, 30_000), (30_000, 50), (30_000, 29_000), (500, 500), (500, 1)])
def test_a_redrawn_row_is_what_the_formula_says(monkeypatch, backend, scheme, width, kept):
    monkeypatch.setenv("WMARK_NUMBA", backend)
    logits, ids = cut(rows(6, width), kept), contexts(6)
    tilted = scheme.tilt(logits, ids, KEY)
    assert np.array_equal(tilted > -np.inf, logits > -np.inf) or isinstance(scheme, Gumbel)
    for row, made, drawn in zip(logits, tilted, drawn_for(scheme, ids, width)):
        expected = by_the_formula(scheme, row, drawn)
        found = np.exp(made.astype(np.float64) - log_sum(made[made > -np.inf].astype(np.float64)))
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-9)
        whole = row[row > -np.inf].astype(np.float64)
        assert math.isclose(log_sum(made[made > -np.inf].astype(np.float64)), log_sum(whole), abs_tol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_both_backends_redraw_alike(monkeypatch, scheme):
    """Gumbel to the bit; a tournament's chances, in 32 bits under numba, to some hundred-thousandths of each."""
    made = []
    for backend in ("1", "0"):
        monkeypatch.setenv("WMARK_NUMBA", backend)
        made.append(scheme.tilt(rows(5, 20_000), contexts(5), KEY))
    if isinstance(scheme, Gumbel):
        assert np.array_equal(*made)
    else:
        np.testing.assert_allclose(*(np.exp(each.astype(np.float64)) for each in made), rtol=2e-5, atol=0)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 29, 30])
def test_three_layers_at_once_are_what_single_ones_are(depth):
    """Also where one token has nearly all the chance, and where its chances fall below what 32 bits hold."""
    scheme = Tournament(depth=depth)
    logits = rows(3, 5_000)
    logits[0, 9], logits[1, 17] = 25, 60
    logits[2, ::3] -= 300
    for row, made, drawn in zip(logits, scheme.tilt(logits, contexts(3), KEY), drawn_for(scheme, contexts(3), 5_000)):
        expected, whole = by_the_formula(scheme, row, drawn), log_sum(row.astype(np.float64))
        assert np.isfinite(made).all()
        np.testing.assert_allclose(np.exp(made.astype(np.float64) - whole), expected, rtol=2e-5, atol=1e-36)


@pytest.mark.parametrize("depth", [1, 9, 10, 11, 20, 30])
def test_rows_of_coins_are_walked_as_layers_are(depth):
    scheme, row = Tournament(depth=depth), rows(1, 4_000)[0].astype(np.float64)
    drawn = drawn_for(scheme, contexts(1), 4_000)[0]
    assert np.allclose(
        np.exp(scheme._by_coins(row.copy(), drawn)), np.exp(scheme._by_layers(row, drawn)), rtol=1e-9, atol=1e-12
    )


@BACKENDS
def test_equal_and_extreme_logits_are_won_by_the_same_token(monkeypatch, backend):
    """Bounds of the noise must not lose the first of equals, nor a token under much larger numbers."""
    monkeypatch.setenv("WMARK_NUMBA", backend)
    logits = np.zeros((4, 10_000), dtype=np.float64)
    logits[1] += 1e9  # here all noise below 1e-7 is rounded away, and sums are equal
    logits[2, 7_000] = 30
    logits[3] = -1e30
    for row, made, drawn in zip(
        logits, Gumbel().tilt(logits, contexts(4), KEY), drawn_for(Gumbel(), contexts(4), 10_000)
    ):
        assert np.flatnonzero(made > -np.inf).tolist() == [np.argmax(row + _noise(drawn))]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("kept", [3_000, 40])
def test_tensors_are_redrawn_as_arrays_are(scheme, kept):
    """What runs on a device, here on tensors in memory."""
    logits, ids = cut(rows(7, 3_000), kept), contexts(7)
    words = prf.key_words(KEY.derive(f"{scheme.name}/1"))
    states = tensors.window_states(torch.from_numpy(ids), words)
    there = scheme._redrawn_there(torch.from_numpy(logits.astype(np.float64)), states).numpy()
    here = scheme.tilt(logits.astype(np.float64), ids, KEY)
    assert np.array_equal(there > -np.inf, here > -np.inf)
    assert np.allclose(np.exp(there), np.exp(here), rtol=1e-9, atol=1e-12)


def test_tensors_have_the_noise_of_arrays_to_the_last_bit_of_a_uniform():
    """In 32 bits the largest 128 uniforms would be 1 and their noise endless: whatever they stood at would be drawn."""
    drawn = np.array([2**32 - 1, 0, 5, 2**31, 2**32 - 2, 2**32 - 1], dtype=np.uint32)
    row = np.array([-50.0, 3.0, 2.0, 1.0, -9.0, -np.inf])
    for place in range(len(row)):
        row[place] += 4.0
        here = Gumbel()._redraw(row.copy(), drawn)
        there = Gumbel()._redraw_tensor(torch.from_numpy(row)[None], torch.from_numpy(drawn.astype(np.int64))[None])[0]
        assert np.argmax(here) == int(there.argmax())
        assert np.isclose(here.max(), float(there.max()))
        assert not np.isnan(there.numpy()).any()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("kept", [3_000, 40])
def test_a_row_of_which_nothing_is_left_stays_so(scheme, kept):
    """Top-p leaves the end of the answer alone, say, which is a special token and put back afterwards."""
    logits, ids = cut(rows(4, 3_000), kept).astype(np.float64), contexts(4)
    logits[1] = -np.inf
    states = tensors.window_states(torch.from_numpy(ids), prf.key_words(KEY.derive(f"{scheme.name}/1")))
    for given in (logits, logits[1:2]):
        here = scheme.tilt(given, ids[: len(given)], KEY)
        there = scheme._redrawn_there(torch.from_numpy(given), states[: len(given)]).numpy()
        for made in (here, there):
            assert not np.isnan(made).any()
            assert (made[given == -np.inf] == -np.inf).all()
            assert np.array_equal((made > -np.inf).any(axis=1), (given > -np.inf).any(axis=1))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_of_a_cut_row_only_its_tokens_are_drawn(monkeypatch, scheme):
    asked = []

    def counted(state, tokens):
        asked.append(len(tokens))
        return prf.reference.row_uniforms(state, tokens)

    monkeypatch.setattr(prf, "row_uniforms", counted)
    monkeypatch.setattr(prf, "uniform_rows", None)
    scheme.tilt(cut(rows(3, 20_000), 40), contexts(3), KEY)
    assert asked == [40, 40, 40]


KERNELS = pytest.mark.skipif(prf.backend() != "numba", reason="kernels are numba's")


@KERNELS
@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 30.0, 1e6])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_winner_is_always_among_the_contenders_and_they_are_few(spread, kind):
    from watermark.schemes import compiled

    for trial, row in enumerate(rows(12, 20_011, spread=spread).astype(kind)):
        row[trial::7] = -np.inf
        state = np.arange(4 * trial, 4 * trial + 4, dtype=np.uint32) * np.uint32(0x9E3779B1)
        drawn = prf.uniform_rows(state[None], len(row))[0]
        near, uniforms = compiled.contenders(row, state, row.max(), *_bounds())
        assert np.array_equal(uniforms, drawn[near])
        assert np.argmax(row + _noise(drawn)) in near
        assert len(near) < 60


@KERNELS
@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0, 1e4])
def test_a_sum_of_powers_is_right_to_a_float32(spread):
    from watermark.schemes import compiled

    for trial, row in enumerate(rows(5, 10_007, spread=spread)):
        row[: trial * 1_000] = -np.inf
        exact = np.exp(row.astype(np.float64) - float(row.max())).sum()
        assert compiled.exp_sum(row, row.max()) == pytest.approx(exact, rel=2e-6)


@KERNELS
def test_places_that_are_left_and_their_uniforms():
    from watermark.schemes import compiled

    state = np.array([1, 2**32 - 1, 7, 12345], dtype=np.uint32)
    for width, kept in ((1, 1), (255, 30), (256, 32), (257, 32), (70_001, 50), (70_001, 0)):
        row = np.full(width, -np.inf, dtype=np.float32)
        row[np.random.default_rng(width).permutation(width)[:kept]] = -1e30
        places = compiled.kept(row, max(kept, 1))
        assert np.array_equal(places, np.flatnonzero(row > -np.inf))
        assert np.array_equal(prf.row_uniforms(state, places), prf.uniform_rows(state[None], width)[0][places])
        assert kept < 2 or compiled.kept(row, kept - 1) is None


@BACKENDS
@pytest.mark.parametrize("scheme", SCHEMES[:2], ids=str)
@pytest.mark.parametrize("tensor", [False, True])
def test_columns_that_are_shut_are_as_if_they_were_not_there(monkeypatch, backend, scheme, tensor):
    monkeypatch.setenv("WMARK_NUMBA", backend)
    logits, ids = rows(3, 5_000), contexts(3)
    logits[:, 17] = 50.0
    closed = logits.copy()
    closed[:, [17, 4_999]] = -np.inf
    given = torch.from_numpy(logits.copy()) if tensor else logits.copy()
    made = np.asarray(scheme.tilt(given, ids, KEY, shut=[17, 4_999]))
    assert np.array_equal(made, scheme.tilt(closed, ids, KEY))
    assert np.array_equal(np.asarray(given), logits)


@BACKENDS
@pytest.mark.parametrize("scheme", SCHEMES[:2], ids=str)
def test_half_precision_and_no_rows_at_all(monkeypatch, backend, scheme):
    monkeypatch.setenv("WMARK_NUMBA", backend)
    logits, ids = rows(3, 5_000).astype(np.float16), contexts(3)
    made = scheme.tilt(logits, ids, KEY)
    assert made.dtype == np.float16
    assert np.array_equal(made > -np.inf, scheme.tilt(logits.astype(np.float64), ids, KEY).astype(np.float16) > -np.inf)
    assert scheme.tilt(logits[:0], ids[:0], KEY).shape == (0, 5_000)


@BACKENDS
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_row_that_is_no_distribution_stays_none(monkeypatch, backend, broken):
    """A model's own fault is for the sampler to tell, as it does without a mark."""
    monkeypatch.setenv("WMARK_NUMBA", backend)
    logits = rows(1, 5_000)
    logits[0, 40] = broken
    with np.errstate(invalid="ignore"):
        assert np.isnan(Gumbel().tilt(logits, contexts(1), KEY)).any()
