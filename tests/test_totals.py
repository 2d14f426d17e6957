"""Totals under many keys: the compiled kernel, its numpy text and a plain loop over scores give the same integers."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from watermark import prf
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.prf import devices, reference
from watermark.schemes import GreenList, Gumbel, Tournament

KEYS = list(decoy_keys(b"totals", 70))  # more than one block of keys, and a part of one


def cells(window: int, statistics: int, *, count: int = 3_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows that recur, ids of 0 and beyond 2^16, weights of both signs with zeros among them."""
    rng = np.random.default_rng(window * 10 + statistics)
    some = rng.integers(0, 2**32, (400, window)).astype(np.uint32)
    some[0], some[1] = 0, 2**32 - 1
    windows = some[rng.integers(0, len(some), count)]
    choices = rng.choice(np.array([0, 1, 7, 2**16, 2**16 + 7, 128_255, 2**32 - 1], dtype=np.uint32), count)
    return windows, choices, rng.integers(-60, 61, (statistics, count)).astype(np.int32)


def naive(mark: Watermark, windows: np.ndarray, choices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.stack([weights.astype(np.int64) @ mark.rekeyed(key).score(windows, choices) for key in KEYS])


@pytest.mark.parametrize("backend", ["1", "0"], ids=["numba", "numpy"])
@pytest.mark.parametrize("window, statistics", [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (8, 1)])
def test_totals_are_the_weighted_sums_of_scores(monkeypatch, backend, window, statistics):
    monkeypatch.setenv("WMARK_NUMBA", backend)
    mark, given = Watermark(GreenList(window=window), KEYS[0]), cells(window, statistics)
    found = mark.totals(*given, KEYS)
    assert found.dtype == np.int64
    assert found.shape == (70, statistics)
    assert np.array_equal(found, naive(mark, *given))
    assert np.array_equal(found[:3], mark.totals(*given, KEYS[:3]))  # so few that cells are not grouped
    assert len(np.unique(found[:, 0])) > 10


@pytest.mark.parametrize("backend", ["1", "0"], ids=["numba", "numpy"])
@pytest.mark.parametrize("scheme", [Gumbel(window=1), Tournament(window=2), Tournament(window=5, depth=7)], ids=str)
def test_totals_of_graded_scores_are_their_weighted_sums(monkeypatch, backend, scheme):
    monkeypatch.setenv("WMARK_NUMBA", backend)
    mark, given = Watermark(scheme, KEYS[0]), cells(scheme.window, 3)
    found = mark.totals(*given, KEYS)
    assert np.array_equal(found, naive(mark, *given))
    assert np.array_equal(found[:9], mark.totals(*given, KEYS[:9]))
    assert len(np.unique(found[:, 0])) > 60


@pytest.mark.parametrize("backend", ["1", "0"], ids=["numba", "numpy"])
@pytest.mark.parametrize("count", [1, 15, 16, 31, 32, 33, 64, 65, 70])
@pytest.mark.parametrize("threads", ["1", "5"])
def test_any_number_of_keys_in_any_number_of_threads(monkeypatch, backend, count, threads):
    monkeypatch.setenv("WMARK_NUMBA", backend)
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    mark, given = Watermark(GreenList(), KEYS[0]), cells(2, 2)
    assert np.array_equal(mark.totals(*given, KEYS[:count]), naive(mark, *given)[:count])


@pytest.mark.parametrize("backend", ["1", "0"], ids=["numba", "numpy"])
@pytest.mark.parametrize("largest", [2**16, 2**24, 2**31 - 1])
@pytest.mark.parametrize("scheme", [GreenList(gamma=0.9), Tournament()], ids=["greenlist", "tournament"])
def test_weights_of_any_size_do_not_overflow(monkeypatch, backend, largest, scheme):
    monkeypatch.setenv("WMARK_NUMBA", backend)
    windows, choices, _ = cells(2, 1, count=5_000)
    rng = np.random.default_rng(largest)
    weights = np.stack([np.full(5_000, largest), np.full(5_000, -largest - 1), rng.integers(-largest, largest, 5_000)])
    mark = Watermark(scheme, KEYS[0])
    found = mark.totals(windows, choices, weights, KEYS)
    assert np.array_equal(found, naive(mark, windows, choices, weights.astype(np.int32)))
    assert abs(found).max() > 2**31 or largest < 2**20


@pytest.mark.parametrize("twin", ["compiled", "reference"])
@pytest.mark.parametrize("highest", [200, 300, 70_000])
def test_levels_of_any_size_are_counted(twin, highest):
    twin = pytest.importorskip(f"watermark.prf.{twin}")
    rng = np.random.default_rng(highest)
    counting = reference.Counting(high=rng.integers(0, highest, 2**16), low=rng.integers(0, highest, 2**16))
    windows, choices, weights = cells(3, 2)
    words = np.stack([prf.key_words(key.derive("any")) for key in KEYS])
    found = twin.totals(windows, choices, weights, words, counting)
    for sums, key in zip(found, words):
        drawn = prf.uniforms(windows, choices, key)
        levels = counting.high[drawn >> 16] + counting.low[drawn & 0xFFFF]
        assert np.array_equal(sums, weights.astype(np.int64) @ levels)


@pytest.mark.parametrize("backend", ["1", "0"], ids=["numba", "numpy"])
@pytest.mark.parametrize("windows", [1, 40, 50_000], ids=lambda n: f"{n} windows")
def test_cells_are_cut_into_blocks_wherever_windows_end(monkeypatch, backend, windows):
    """One window with more cells than a block holds, some, and none that comes twice."""
    monkeypatch.setenv("WMARK_NUMBA", backend)
    rng = np.random.default_rng(windows)
    some = rng.integers(0, 2**32, (windows, 2)).astype(np.uint32)[rng.integers(0, windows, 70_000)]
    choices = rng.integers(0, 2**32, 70_000).astype(np.uint32)
    mark, weights = Watermark(GreenList(), KEYS[0]), rng.integers(-9, 10, (2, 70_000)).astype(np.int32)
    found = mark.totals(some, choices, weights, KEYS[:40])
    for sums, key in zip(found[::13], KEYS[:40:13]):
        assert np.array_equal(sums, weights.astype(np.int64) @ mark.rekeyed(key).score(some, choices))


LEVELS = reference.Counting(high=np.arange(2**16) % 251, low=np.arange(2**16) % 77)
COUNTINGS = pytest.mark.parametrize("counting", [reference.Counting(1), reference.Counting(3 << 30), LEVELS])


def _words(keys=KEYS):
    return np.stack([prf.key_words(key.derive("any")) for key in keys])


@COUNTINGS
@pytest.mark.parametrize("window", [1, 2, 4, 5, 8])
def test_tensors_add_up_to_the_same(counting, window):
    windows, choices, weights = cells(window, 3)
    weights[0, :9] = -(2**31)
    found = devices.totals(windows, choices, weights, _words(), counting, "cpu")
    assert np.array_equal(found, reference.totals(windows, choices, weights, _words(), counting))


def test_tensors_are_cut_into_blocks(monkeypatch):
    from watermark.prf import tensors

    monkeypatch.setattr(tensors, "_LANES", 64 * 100)
    windows, choices, weights = cells(2, 2)
    found = devices.totals(windows, choices, weights, _words(), LEVELS, "cpu")
    assert np.array_equal(found, reference.totals(windows, choices, weights, _words(), LEVELS))


@COUNTINGS
@pytest.mark.parametrize("window, statistics", [(1, 1), (2, 3), (4, 1), (5, 2), (8, 1)])
def test_the_fused_kernel_adds_up_to_the_same(monkeypatch, counting, window, statistics):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fused = pytest.importorskip("watermark.prf.fused")
    monkeypatch.setattr(fused, "_CELLS", 16)
    windows, choices, weights = cells(window, statistics, count=40)
    given = [each.view(np.int32) for each in (windows, choices, weights, _words(KEYS[:5]))]
    found = fused.totals(*(torch.from_numpy(each).to(device) for each in given), counting).cpu().numpy()
    assert np.array_equal(found, reference.totals(windows, choices, weights, _words(KEYS[:5]), counting))


@pytest.mark.parametrize("limit", ["LARGE", "LOADED"])
def test_a_gpu_is_asked_for_large_totals_alone(monkeypatch, limit):
    """For smaller ones where torch is loaded already."""
    asked, modules = [], dict(sys.modules)
    modules.pop("torch", None)
    monkeypatch.setattr(devices.sys, "modules", modules if limit == "LARGE" else modules | {"torch": object()})
    monkeypatch.setattr(devices, "chosen", lambda: "cpu")
    monkeypatch.setattr(devices, "totals", lambda *given: asked.append(given[-1]) or reference.totals(*given[:-1]))
    mark, given = Watermark(GreenList(), KEYS[0]), cells(2, 1)
    expected = mark.totals(*given, KEYS)
    assert asked == []
    monkeypatch.setattr(devices, limit, 70 * 3_000)
    assert np.array_equal(mark.totals(*given, KEYS), expected)
    assert asked == ["cpu"]
    mark.totals(*given, KEYS[:69])
    assert asked == ["cpu"]


def test_a_device_that_counts_otherwise_is_left_alone(monkeypatch):
    devices.trusted.cache_clear()
    assert devices.trusted("cpu")
    devices.trusted.cache_clear()
    right = devices.totals
    monkeypatch.setattr(devices, "totals", lambda *given: right(*given) + 1)
    with pytest.warns(UserWarning, match="not those of the processor"):
        assert not devices.trusted("cpu")
    devices.trusted.cache_clear()
    monkeypatch.setattr(devices, "totals", lambda *given: 1 / 0)
    with pytest.warns(UserWarning, match="failed with ZeroDivisionError"):
        assert not devices.trusted("cpu")
    devices.trusted.cache_clear()


def test_without_a_driver_or_by_wish_no_gpu_is_chosen(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "none")
    assert devices.chosen() is None
    monkeypatch.setattr(devices, "_DRIVER", tmp_path)
    monkeypatch.setattr(devices, "trusted", lambda device: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert devices.chosen() == "cuda"
    monkeypatch.setenv("WMARK_CUDA", "0")
    assert devices.chosen() is None


def test_memory_is_that_of_the_cells_and_never_cells_times_keys(monkeypatch):
    import tracemalloc

    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    mark, (windows, choices, weights) = Watermark(GreenList(), KEYS[0]), cells(2, 1, count=100_000)
    for backend in ("1", "0"):
        monkeypatch.setenv("WMARK_NUMBA", backend)
        mark.totals(windows[:99], choices[:99], weights[:, :99], KEYS)  # compiled
        tracemalloc.start()
        mark.totals(windows, choices, weights, KEYS)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 * 100_000  # bytes for a cell; under 70 keys they would be 280 for the uniforms alone


def test_one_row_of_weights_is_one_statistic():
    mark, (windows, choices, weights) = Watermark(GreenList(), KEYS[0]), cells(2, 1)
    assert np.array_equal(
        mark.totals(windows, choices, weights[0], KEYS), mark.totals(windows, choices, weights, iter(KEYS))
    )


def test_the_order_of_cells_and_the_threads_change_nothing(monkeypatch):
    mark, (windows, choices, weights) = Watermark(GreenList(), KEYS[0]), cells(2, 2)
    shuffled = np.random.default_rng(1).permutation(len(choices))
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        found.append(mark.totals(windows[shuffled], choices[shuffled], weights[:, shuffled], KEYS))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], mark.totals(windows, choices, weights, KEYS))


def test_large_weights_do_not_overflow():
    mark = Watermark(GreenList(gamma=0.9), KEYS[0])
    windows, choices = np.arange(40_000, dtype=np.uint32).reshape(-1, 2), np.arange(20_000, dtype=np.uint32)
    weights = np.full(20_000, -(2**31), dtype=np.int64)
    assert mark.totals(windows, choices, weights, KEYS[:3]).max() < -(2**31) * 17_000


@pytest.mark.skipif(prf.backend() != "numba", reason="numba is not installed")
@pytest.mark.parametrize("named, expected", [({"NUMBA_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, 3),
                                             ({"OMP_NUM_THREADS": "2"}, 2), ({"OMP_NUM_THREADS": "0"}, 1)])  # fmt: skip
def test_threads_are_those_the_environment_states(monkeypatch, named, expected):
    from watermark.prf import compiled

    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    assert compiled.threads() == expected


def test_no_cells_and_no_keys_are_nothing():
    mark, none = Watermark(GreenList(), KEYS[0]), np.empty(0, dtype=np.uint32)
    assert np.array_equal(mark.totals(none.reshape(0, 2), none, np.empty((3, 0), np.int32), KEYS), np.zeros((70, 3)))
    assert mark.totals(none.reshape(0, 2), none, np.empty((3, 0), np.int32), []).shape == (0, 3)


class Plain:
    """A scheme without totals of its own."""

    name, version, window = "plain", 1, 2
    null = GreenList().null

    def tilt(self, logits, contexts, key):
        return GreenList().tilt(logits, contexts, key)

    def score(self, contexts, choices, key):
        return GreenList().score(contexts, choices, key)


class Halves(Plain):
    def score(self, contexts, choices, key):
        return super().score(contexts, choices, key) / 2


def test_a_scheme_without_totals_is_scored_key_by_key():
    given = cells(2, 3)
    assert np.array_equal(
        Watermark(Plain(), KEYS[0]).totals(*given, KEYS), Watermark(GreenList(), KEYS[0]).totals(*given, KEYS)
    )


def test_scores_that_are_no_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="whole numbers"):
        Watermark(Halves(), KEYS[0]).totals(*cells(2, 1), KEYS)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda w, c, k: (w[:, :1], c, k), r"windows should have shape \(3000, 2\)"),
        (lambda w, c, k: (w, c, k[:, :-1]), r"weights should have shape \(S, 3000\)"),
        (lambda w, c, k: (w, c, k.astype(float)), "whole numbers"),
        (lambda w, c, k: (w, c, k.astype(np.int64) + 2**32), "within 32 bits"),
    ],
)
def test_misshapen_input_is_refused_in_words(change, says):
    with pytest.raises(ValueError, match=says):
        Watermark(GreenList(), KEYS[0]).totals(*change(*cells(2, 1)), KEYS)


@pytest.fixture
def large_work(monkeypatch):
    monkeypatch.setenv("WMARK_NUMBA", "0")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    monkeypatch.setattr(prf, "_LARGE", 1)
    rng = np.random.default_rng(11)
    windows, tokens = rng.integers(0, 9, (700, 2), dtype=np.uint32), rng.integers(0, 2**32, 700, dtype=np.uint32)
    weights = rng.integers(-9, 99, (2, 700), dtype=np.int32)
    words = rng.integers(0, 2**32, (7, 8), dtype=np.uint32)
    return windows, tokens, weights, words


@pytest.mark.parametrize("counting", [prf.Counting(1 << 30), Gumbel()._counting], ids=["bits", "levels"])
def test_processes_find_the_same(large_work, monkeypatch, counting):
    here = []
    alone = reference.totals
    monkeypatch.setattr(reference, "totals", lambda *given: (here.append(len(given[3])), alone(*given))[1])
    assert np.array_equal(prf.totals(*large_work, counting), alone(*large_work, counting))
    assert here == [3]  # the other four keys were somebody else's


@pytest.mark.parametrize("python", ["/nowhere/python", shutil.which("false"), shutil.which("true")])
def test_what_a_process_leaves_undone_is_done_here(large_work, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    found = prf.totals(*large_work, prf.Counting(1 << 30))
    assert np.array_equal(found, reference.totals(*large_work, prf.Counting(1 << 30)))


def test_subkeys_go_through_a_pipe_alone(large_work, monkeypatch):
    begun = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda given, **more: (begun.append((given, more)), popen(given, **more))[1]
    )
    prf.totals(*large_work, prf.Counting(1 << 30))
    assert [given[1:] for given, _ in begun] == [["-P", "-m", "watermark.prf.apart"]] * 2
    assert all(more["stdin"] == subprocess.PIPE for _, more in begun)


def test_a_file_in_the_way_is_not_taken_for_a_module(large_work, monkeypatch, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    alone, here = reference.totals, []
    monkeypatch.setattr(reference, "totals", lambda *given: (here.append(len(given[3])), alone(*given))[1])
    prf.totals(*large_work, prf.Counting(1 << 30))
    assert here == [3]
