"""The keyed function: four implementations agree to the bit, and what they draw looks like independent draws.

Correlations are held to three sigma for the whole family of comparisons of a test (Bonferroni): with m
comparisons each may stray by the normal quantile of 0.0027 / m. Seeds are fixed and the arithmetic is exact, so
that these tests give the same verdict on every machine. Each statistical check is also run on a deliberately weak
function, linear in the ids and reduced modulo a small prime, and must reject it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from watermark import prf
from watermark.prf import compiled, reference, tensors

VECTORS = Path(__file__).parent / "vectors"
GAMMA = 0.25
CELLS = 200_000
Drawing = Callable[[np.ndarray, np.ndarray, bytes], np.ndarray]

ids = st.integers(0, 2**32 - 1)
subkeys = st.binary(min_size=32, max_size=32)


def _oracle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vectors", VECTORS / "make_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracle = _oracle()


def _random_cells(width: int, count: int, seed: int, top: int = 2**32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, top, (count, width), dtype=np.uint32), rng.integers(0, top, count, dtype=np.uint32)


def _subkey(number: int) -> bytes:
    return np.random.default_rng([99, number]).bytes(32)


# --- the twins -----------------------------------------------------------------------------------------


def test_stored_vectors_are_what_the_command_makes():
    assert json.loads((VECTORS / "arx32-v1.json").read_text()) == oracle.vectors()


def test_reference_agrees_with_golden_vectors():
    stored = json.loads((VECTORS / "arx32-v1.json").read_text())
    assert stored["recipe"] == prf.RECIPE
    tokens = np.array(stored["tokens"], dtype=np.uint32)
    for vector in stored["vectors"]:
        words = prf.key_words(bytes.fromhex(vector["subkey"]))
        window = np.array([vector["window"]], dtype=np.uint32)
        assert [f"{w:08x}" for w in reference.window_states(window, words)[0]] == vector["state"]
        windows = np.repeat(window, len(tokens), axis=0)
        assert [f"{u:08x}" for u in reference.uniforms(windows, tokens, words)] == vector["uniforms"]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 9])
def test_reference_agrees_with_whole_number_arithmetic(width):
    windows, tokens = _random_cells(width, 500, seed=width)
    subkey = _subkey(width)
    drawn = reference.uniforms(windows, tokens, prf.key_words(subkey))
    expected = [oracle.uniform(subkey, tuple(w), t) for w, t in zip(windows.tolist(), tokens.tolist())]
    assert drawn.tolist() == expected


@given(subkey=subkeys, window=st.lists(ids, min_size=1, max_size=9), token=ids)
@settings(max_examples=200, deadline=None)
def test_every_twin_agrees_with_whole_number_arithmetic(subkey, window, token):
    expected = oracle.uniform(subkey, tuple(window), token)
    words = prf.key_words(subkey)
    windows, tokens = np.array([window], dtype=np.uint32), np.array([token], dtype=np.uint32)
    assert reference.uniforms(windows, tokens, words)[0] == expected
    assert compiled.uniforms(windows, tokens, words)[0] == expected
    assert compiled.window_states(windows, words)[0].tolist() == oracle.state(subkey, tuple(window))
    state = tensors.as_unsigned(tensors.window_states(torch.tensor([window]), words))[0]
    assert state.tolist() == oracle.state(subkey, tuple(window))


@pytest.mark.parametrize("width", [1, 2, 4, 5, 8])
def test_numba_agrees_with_numpy_to_the_bit(width):
    windows, tokens = _random_cells(width, 30_000, seed=20 + width)
    words = prf.key_words(_subkey(width))
    assert np.array_equal(compiled.uniforms(windows, tokens, words), reference.uniforms(windows, tokens, words))
    assert np.array_equal(compiled.window_states(windows, words), reference.window_states(windows, words))


@pytest.mark.parametrize("width", [1, 2, 4, 5, 8])
def test_torch_agrees_with_numpy_to_the_bit(width):
    windows, _ = _random_cells(width, 25, seed=40 + width)
    words = prf.key_words(_subkey(width))
    states = reference.window_states(windows, words)
    twin = tensors.window_states(torch.from_numpy(windows.astype(np.int64)), words)
    assert np.array_equal(tensors.as_unsigned(twin), states)
    rows = reference.uniform_rows(states, 5_000)
    assert np.array_equal(tensors.as_unsigned(tensors.uniform_rows(twin, 5_000)), rows)


def test_rows_are_the_uniforms_of_every_token():
    windows, _ = _random_cells(3, 4, seed=1)
    words, width = prf.key_words(_subkey(0)), 20_000
    rows = prf.uniform_rows(prf.window_states(windows, words), width)
    for window, row in zip(windows, rows):
        each = prf.uniforms(np.repeat(window[None], width, axis=0), np.arange(width, dtype=np.uint32), words)
        assert np.array_equal(row, each)


def test_torch_compares_as_unsigned():
    edges = [0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1]
    drawn = np.concatenate([np.array(edges, np.uint32), _random_cells(1, 100_000, seed=5)[1]])
    for limit in [1, 2**30, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1]:
        found = tensors.below(torch.from_numpy(drawn.view(np.int32)), limit).numpy()
        assert np.array_equal(found, drawn < limit), limit


@given(gamma=st.floats(0.001, 0.999))
def test_threshold_is_gamma_to_a_part_in_four_billion(gamma):
    assert abs(prf.threshold(gamma) / 2**32 - gamma) <= 2**-33


def test_environment_turns_numba_off(monkeypatch):
    monkeypatch.delenv("WMARK_NUMBA", raising=False)
    assert prf.backend() == "numba"
    monkeypatch.setenv("WMARK_NUMBA", "0")
    assert prf.backend() == "numpy"


def test_both_backends_draw_the_same(monkeypatch):
    windows, tokens = _random_cells(2, 1_000, seed=3)
    words = prf.key_words(_subkey(3))
    fast = prf.uniforms(windows, tokens, words)
    monkeypatch.setenv("WMARK_NUMBA", "0")
    assert np.array_equal(prf.uniforms(windows, tokens, words), fast)


def test_inputs_survive_untouched():
    windows, tokens = _random_cells(5, 100, seed=4)
    words = prf.key_words(_subkey(4))
    kept = windows.copy(), tokens.copy(), words.copy()
    prf.uniforms(windows, tokens, words)
    reference.uniforms(windows, tokens, words)
    prf.uniform_rows(prf.window_states(windows, words), 50)
    assert all(np.array_equal(a, b) for a, b in zip(kept, (windows, tokens, words)))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_subkey_of_another_length_is_refused(length):
    with pytest.raises(ValueError, match=f"32 bytes, found {length}"):
        prf.key_words(bytes(length))


def test_windows_of_one_width_up_to_four_never_share_a_state():
    grid = np.stack(np.meshgrid(*[np.arange(32, dtype=np.uint32)] * 3), axis=-1).reshape(-1, 3)
    states = prf.window_states(grid, prf.key_words(_subkey(6)))
    assert len(np.unique(states, axis=0)) == len(grid)


def test_public_names_tell_windows_and_cells_apart():
    grid = np.stack(np.meshgrid(np.arange(500), np.arange(500)), axis=-1).reshape(-1, 2).astype(np.uint32)
    names = prf.window_ids(grid)
    assert len(np.unique(names)) == len(grid)
    assert not np.isin(prf.window_ids(np.arange(100_000, dtype=np.uint32)[:, None]), names).any()
    cells = np.concatenate([prf.cell_ids(grid, np.full(len(grid), token)) for token in (0, 1, 65536)])
    assert len(np.unique(cells)) == 3 * len(grid)


# --- what they draw ------------------------------------------------------------------------------------


def keyed(windows: np.ndarray, tokens: np.ndarray, subkey: bytes) -> np.ndarray:
    """The function under test."""
    return prf.uniforms(windows, tokens, prf.key_words(subkey))


def one_mod_8191(windows: np.ndarray, tokens: np.ndarray, subkey: bytes) -> np.ndarray:
    """A weak function for comparison: u = (H mod 8191) / 8191 with H linear in key, window and token."""
    words = [int(word) % 8191 for word in prf.key_words(subkey)]
    linear = words[0] + words[1] * (tokens.astype(np.int64) % 8191)
    for place, column in enumerate(windows.T.astype(np.int64)):
        linear = linear + (words[2 + place % 6] + place) * (column % 8191)
    return (linear % 8191 * 2**32 // 8191).astype(np.uint32)


def strays(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The largest |z| of a correlation between green bits, over the bound for so many comparisons."""
    bound = norm.isf(0.0027 / 2 / len(pairs))
    largest = 0.0
    for left, right in pairs:
        a, b = left < prf.threshold(GAMMA), right < prf.threshold(GAMMA)
        centred = (a - GAMMA) * (b - GAMMA)
        z = centred.sum() / (GAMMA * (1 - GAMMA) * np.sqrt(len(a)))
        largest = max(largest, abs(float(z)))
    return largest / bound


def related_keys(draw: Drawing) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each key beside k + 1, k + 2^32, and k with every 16th bit flipped."""
    pairs = []
    windows, tokens = _random_cells(2, CELLS, seed=60, top=128_256)
    for number in range(4):
        subkey = _subkey(number)
        whole = int.from_bytes(subkey, "little")
        changed = [(whole + 1) % 2**256, (whole + 2**32) % 2**256]
        changed += [whole ^ (1 << bit) for bit in range(number, 256, 16)] if number < 2 else []
        base = draw(windows, tokens, subkey)
        pairs += [(base, draw(windows, tokens, other.to_bytes(32, "little"))) for other in changed]
    return pairs


def related_tokens(draw: Drawing) -> list[tuple[np.ndarray, np.ndarray]]:
    """Neighbours in one window, t beside t + 65536, token 0 beside others."""
    pairs = []
    for number in range(4):
        subkey = _subkey(number)
        windows, tokens = _random_cells(2, CELLS, seed=70 + number, top=60_000)
        base, zero = draw(windows, tokens, subkey), draw(windows, np.zeros_like(tokens), subkey)
        pairs += [(base, draw(windows, tokens + np.uint32(step), subkey)) for step in (1, 2, 256, 8192, 65536)]
        pairs += [(zero, draw(windows, np.full_like(tokens, other), subkey)) for other in (1, 2, 65536, 2**31)]
    return pairs


def related_windows(draw: Drawing) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows that differ by one or 65536, in the oldest place only, in their order, or in their width."""
    pairs = []
    for width in (1, 2, 4, 5, 8):
        subkey = _subkey(width)
        windows, tokens = _random_cells(width, CELLS, seed=80 + width, top=128_256)
        base = draw(windows, tokens, subkey)
        for place in {0, width - 1}:
            for step in (1, 65536):
                moved = windows.copy()
                moved[:, place] += np.uint32(step)
                pairs.append((base, draw(moved, tokens, subkey)))
        padded = np.concatenate([windows, np.zeros((len(windows), 1), np.uint32)], axis=1)
        pairs.append((base, draw(padded, tokens, subkey)))
        pairs.append((base, draw(padded[:, ::-1].copy(), tokens, subkey)))
        if width > 1:
            pairs.append((base, draw(windows[:, ::-1].copy(), tokens, subkey)))
    return pairs


def one_row_against_the_next(draw: Drawing) -> list[tuple[np.ndarray, np.ndarray]]:
    """Within the vocabulary of few windows: token t beside t + 1 and t + 65536, as a tilted row has them."""
    pairs = []
    for number in range(4):
        windows, tokens = np.full((CELLS, 2), 17 + number, np.uint32), np.arange(CELLS, dtype=np.uint32)
        base = draw(windows, tokens, _subkey(0))
        pairs += [(base[:-step], base[step:]) for step in (1, 2, 3, 65536)]
        pairs.append((base, draw(windows + np.uint32(1), tokens, _subkey(0))))
    return pairs


FAMILIES = [related_keys, related_tokens, related_windows, one_row_against_the_next]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_green_bits_are_uncorrelated(family):
    assert strays(family(keyed)) < 1


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_the_same_check_rejects_a_linear_hash(family):
    assert strays(family(one_mod_8191)) > 10


def _byte_pvalue(drawn: np.ndarray, shift: int) -> float:
    counts = np.bincount((drawn >> np.uint32(shift)) & np.uint32(255), minlength=256)
    expected = len(drawn) / 256
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 255))


def _consecutive(draw: Drawing, number: int) -> np.ndarray:
    """Uniforms of small consecutive ids, the hardest input there is."""
    windows = np.stack(np.divmod(np.arange(CELLS) // 200, 40), axis=1).astype(np.uint32)
    return draw(windows, (np.arange(CELLS) % 200).astype(np.uint32), _subkey(number))


@pytest.mark.parametrize("shift", [24, 16, 8, 0])
def test_uniforms_fill_every_byte_evenly(shift):
    smallest = min(_byte_pvalue(_consecutive(keyed, number), shift) for number in range(8))
    assert smallest > 0.0027 / 8


def test_the_same_check_rejects_a_linear_hash_in_its_low_byte():
    assert _byte_pvalue(_consecutive(one_mod_8191, 0), 0) < 1e-6


def _spread_of_counts(draw: Drawing, number: int) -> float:
    """Variance of the green count per window over the binomial's, in sigma from 1."""
    windows, vocabulary = 2_000, 1_000
    flat = np.repeat(np.arange(windows, dtype=np.uint32)[:, None], vocabulary, axis=0)
    drawn = draw(flat, np.tile(np.arange(vocabulary, dtype=np.uint32), windows), _subkey(number))
    counts = (drawn < prf.threshold(GAMMA)).reshape(windows, vocabulary).sum(axis=1)
    ratio = ((counts - vocabulary * GAMMA) ** 2).mean() / (vocabulary * GAMMA * (1 - GAMMA))
    return float((ratio - 1) / np.sqrt(2 / windows))


def test_green_counts_per_window_are_binomial_not_fixed():
    assert all(abs(_spread_of_counts(keyed, number)) < 3.7 for number in range(4))  # 0.0027 over four


def test_the_same_check_rejects_the_counts_of_a_linear_hash():
    assert abs(_spread_of_counts(one_mod_8191, 0)) > 10


def test_half_of_the_bits_change_when_one_bit_of_the_input_does():
    windows, tokens = _random_cells(2, 20_000, seed=90)
    base = keyed(windows, tokens, _subkey(1))
    for bit in range(32):
        for changed in (windows ^ np.uint32(1 << bit), windows):
            other = keyed(changed, tokens if changed is not windows else tokens ^ np.uint32(1 << bit), _subkey(1))
            flipped = np.unpackbits((base ^ other).view(np.uint8)).mean()
            assert abs(flipped - 0.5) < 0.01, bit
