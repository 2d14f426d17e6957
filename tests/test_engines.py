"""Engines' marks through the common path: a mark file, observations, evidence."""

import numpy as np
import pytest

from watermark import Output, Watermark, detect
from watermark.errors import KeyUnusable, MarkInvalid, SuspectUnusable
from watermark.keys import Key, decoy_keys
from watermark.mark import Binding
from watermark.observe import Reading, observe, observe_readings
from watermark.schemes import canonical, confuses, merged, scheme_from_json, scheme_to_json, summable
from watermark.schemes.engines import ENGINES
from watermark.watch import Watch

V = 4096
BOUND = Binding("d" * 64, V, ())


def made(name):
    kind = ENGINES[name]
    fields = {"vocabulary": V} if "vocabulary" in kind.__dataclass_fields__ else {}
    return kind(**fields)


def key_for(scheme):
    """A key that the recipe can work with: MarkLLM's, for one, must share no factor with the vocabulary."""
    while True:
        key = Key.generate()
        try:
            getattr(scheme, "check_key", lambda _: None)(key)
        except KeyUnusable:
            continue
        return key


def marked(mark, answers=20, length=60, greedy=0.75, seed=0):
    """Token ids that lean to green: of eight random tokens the first green one, three times in four."""
    rng, h = np.random.default_rng(seed), mark.scheme.window
    rows = []
    for _ in range(answers):
        ids = list(rng.integers(0, V, h))
        while len(ids) < length:
            some = rng.integers(0, V, 8)
            green = mark.score(np.tile(ids[-h:], (8, 1)), some) == 1
            ids.append(int(some[green][0]) if green.any() and rng.random() < greedy else int(some[0]))
        rows.append([int(i) for i in ids])
    return [Output(id=str(n), token_ids=row) for n, row in enumerate(rows)]


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_a_marked_text_is_found_and_another_key_finds_nothing(name, tmp_path):
    mark = Watermark(made(name), key_for(made(name)), BOUND)
    mark.save(tmp_path / "m.wmark")
    mark = Watermark.load(tmp_path / "m.wmark")
    outputs = marked(mark)
    found = detect(outputs, mark, decoys=99)
    assert found.log10_p < -6, name
    assert found.mark["scheme"]["name"] == name
    assert [note for note in getattr(mark.scheme, "remarks", ()) if note not in found.notes] == []
    assert detect(outputs, mark.rekeyed(key_for(mark.scheme)), decoys=99).log10_p > -5


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_a_scheme_survives_its_description(name):
    scheme = made(name)
    assert scheme_from_json(scheme_to_json(scheme)) == scheme


def test_what_an_engine_confuses_is_one_cell():
    """Of two answers whose cells the keyed function cannot tell apart the second one has no vote."""
    for name in sorted(ENGINES):
        scheme = made(name)
        if not hasattr(scheme, "canonical"):
            continue
        rng = np.random.default_rng(1)
        windows, choices = rng.integers(1, V, (4000, scheme.window)), rng.integers(1, V, 4000)
        named = np.column_stack(canonical(scheme, windows, choices))
        mark = Watermark(scheme, Key.generate(), BOUND)
        outputs = [
            Output(id=str(n), token_ids=[*map(int, window), int(choice)])
            for n, (window, choice) in enumerate(zip(windows, choices))
        ]
        seen = observe(outputs, mark)
        assert len(seen) == len(np.unique(named, axis=0)), name
        if name.endswith("selfhash"):  # one vote for each token, whatever stands before it
            continue
        scores = mark.score(windows, choices)
        _, first, which = np.unique(named, axis=0, return_index=True, return_inverse=True)
        assert (scores == scores[first][which]).all(), name


def test_a_mark_that_confuses_windows_is_read_from_text_alone(tmp_path):
    name = next(n for n in sorted(ENGINES) if not summable(made(n)))
    assert confuses(made(name))
    assert not confuses(made("hf-kgw/lefthash"))
    assert not confuses(made("vllm-gumbel/single"))
    from watermark.access import Request, read

    class Any:
        digest = "d" * 64

    request = Request([], Watermark(made(name), Key.generate()), Any())
    with pytest.raises(SuspectUnusable, match="from text alone"):
        read(request, "logits", suspect="x", reference=None, controls={}, say=lambda *_: None)


@pytest.mark.parametrize("name", ["sglang-gumbel/single", "sglang-gumbel/dual"])
def test_weights_of_windows_that_score_alike_are_summed(name):
    """Two windows that SGLang's 32-bit hash takes for one are one window of what is read from a model."""
    scheme, tokens = made(name), np.arange(V, dtype=np.uint32)
    windows = np.random.default_rng(5).integers(1, V, (300_000, 4)).astype(np.uint32)
    _, first, which = np.unique(merged(scheme, windows)[:, -1], return_index=True, return_inverse=True)
    second = np.flatnonzero(first[which] != np.arange(len(windows)))[0]
    pair = windows[[first[which[second]], second]]
    assert summable(scheme)
    assert not np.array_equal(*pair)
    mark = Watermark(scheme, next(iter(decoy_keys(b"alike", 1))), BOUND)
    assert np.array_equal(*(mark.score(np.tile(window, (V, 1)), tokens) for window in pair))
    both, _ = observe_readings([_reading(n, pair[n % 2], V) for n in range(60)], mark)
    one, _ = observe_readings([_reading(n, pair[0], V) for n in range(60)], mark)
    assert np.array_equal(np.unique(both.windows, axis=0), merged(scheme, pair[:1]))
    assert np.array_equal(both.choices, one.choices)
    assert np.array_equal(both.weights["difference"], one.weights["difference"])


def test_watching_counts_what_an_engine_confuses_once():
    """sbw knows a window by the sum of its ids: the same sums, in another order, are no news."""

    class Reads:
        digest = BOUND.digest
        encode = arrays = texts = staticmethod(lambda given: [])

    mark = Watermark(made("sbw/lefthash"), next(iter(decoy_keys(b"watched", 1))), BOUND)
    rng = np.random.default_rng(3)
    windows, token = rng.integers(1, V, (64, 4)).tolist(), 7
    watch = Watch(mark, Reads(), alpha=1e-9)
    watch([Output(str(n), token_ids=(*window, token)) for n, window in enumerate(windows)])
    before = watch.log10_e
    watch([Output(f"again {n}", token_ids=(*window[::-1], token)) for n, window in enumerate(windows)])
    assert before != 0
    assert watch.log10_e == before
    with pytest.raises(SuspectUnusable, match="from text alone"):
        Watch(mark, Reads(), alpha=0.01, logprobs=True)


def _reading(number, window, count):
    """A text of one window and one token more; the suspect is surer of some tokens than the reference."""
    ids = np.array([*window.tolist(), 5], dtype=np.int64)
    listed = np.arange(1, count, dtype=np.int32)[None]
    flat = np.full(listed.shape, -np.log(count), dtype=np.float32)
    tilted = flat + np.random.default_rng(0).normal(0, 0.5, listed.shape).astype(np.float32)
    at = np.array([len(window)])
    return Reading(
        Output(str(number), token_ids=tuple(ids.tolist())), ids, at, listed, tilted, flat, np.array([5], dtype=np.int32)
    )


def test_an_unknown_scheme_is_named_with_those_that_are_known():
    with pytest.raises(MarkInvalid, match="unknown scheme 'x'.*greenlist.*hf-kgw"):
        scheme_from_json({"name": "x"})


def test_windows_that_no_key_changes_are_not_counted():
    mark = Watermark(made("hf-kgw/lefthash"), Key.generate(), BOUND)
    rng = np.random.default_rng(2)
    rows = [[0, int(i)] for i in rng.integers(1, V, 30)] + [
        [int(i), n + 1] for n, i in enumerate(rng.integers(1, V, 90))
    ]
    seen = observe([Output(id=str(n), token_ids=row) for n, row in enumerate(rows)], mark)
    assert seen.skipped["window that no key changes"] == 30
    assert (seen.windows[:, -1] != 0).all()
