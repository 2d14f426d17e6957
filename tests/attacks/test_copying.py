"""Copying and repeating: an answer that parrots a marked prompt, or itself, raises no false alarm.

The suspect never learned from marked text; it only finds it in its prompt. Each attack is played under 300 or
more keys, and each is shown to raise the alarm once the rule against it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from watermark.errors import TooFewObservations
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import observe
from watermark.outputs import Output
from watermark.schemes import GreenList

Attack = Callable[[list[int], list[int], int], tuple[list[int], list[int]]]


def _log10_p(outputs: list[Output], mark: Watermark, **given: object) -> float:
    """The p-value; 0 where nothing is left to score."""
    try:
        seen = observe(outputs, mark, **given)  # type: ignore[arg-type]
    except TooFewObservations:
        return 0.0
    green = int(mark.score(seen.windows, seen.choices).sum())
    return mark.scheme.null.log10_pvalue(green, len(seen))


def _verbatim(marked: list[int], plain: list[int], number: int) -> tuple[list[int], list[int]]:
    return marked, marked + plain[:8]


def _shifted(marked: list[int], plain: list[int], number: int) -> tuple[list[int], list[int]]:
    """The copy starts a few tokens late, and ends early."""
    return marked, plain[:2] + marked[1 + number % 5 : -1 - number % 3] + plain[2:10]


def _continued(marked: list[int], plain: list[int], number: int) -> tuple[list[int], list[int]]:
    """The prompt opens with words of its own, the answer quotes the middle and goes on alone."""
    return plain[:6] + marked + plain[6:12], marked[8:24] + plain[12:]


ATTACKS: list[Attack] = [_verbatim, _shifted, _continued]


@pytest.fixture(scope="module")
def plain(source) -> np.ndarray:
    """Unmarked rows of the same source."""
    return source.sample(48 * 16, 30, np.random.default_rng(21))


def _rows(plain: np.ndarray, number: int) -> list[list[int]]:
    return plain[number % 16 * 48 :][:48].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda f: f.__name__[1:])
def test_answer_that_copies_its_marked_prompt_raises_no_alarm(attack, served, plain, holds_level):
    ruled, unruled = [], []
    for number, case in enumerate(served[:300]):
        pairs = [attack(m, p, i) for i, (m, p) in enumerate(zip(case.ids.tolist(), _rows(plain, number)))]
        outputs = [Output("", token_ids=tuple(a), prompt_token_ids=tuple(p)) for p, a in pairs]
        ruled.append(_log10_p(outputs, case.mark))
        unruled.append(_log10_p([Output("", token_ids=o.token_ids) for o in outputs], case.mark))
    holds_level(ruled, "copied from the prompt")
    assert np.mean(np.array(unruled) <= -3) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("lead", ["", " ", "\n\n", '"'])
def test_text_that_copies_its_marked_prompt_raises_no_alarm(lead, served, plain, tokenizer, holds_level):
    """As text: decoded, copied with another beginning (so that the first tokens differ), read back."""

    def said(rows: list[list[int]]) -> list[str]:
        return [tokenizer._backend.decode(row) for row in rows]

    ruled, unruled = [], []
    for number, case in enumerate(served[:300]):
        marked, own = said(case.ids.tolist()), said(_rows(plain, number))
        outputs = [
            Output("", text=f"{lead}{m.strip()}. {p}", prompt=f"Please repeat: {m}") for m, p in zip(marked, own)
        ]
        ruled.append(_log10_p(outputs, case.mark, tokenizer=tokenizer))
        bare = [Output("", text=output.text) for output in outputs]
        unruled.append(_log10_p(bare, case.mark, tokenizer=tokenizer))
    holds_level(ruled, f"copied from the prompt behind {lead!r}")
    assert np.mean(np.array(unruled) <= -3) > 0.9


@pytest.mark.slow
def test_answer_that_only_copies_leaves_nothing_to_score(served):
    for case in served[:20]:
        outputs = [Output("", token_ids=tuple(row), prompt_token_ids=tuple(row)) for row in case.ids.tolist()]
        with pytest.raises(TooFewObservations, match="^0 distinct cells"):
            observe(outputs, case.mark)


def _looping(source, rng: np.random.Generator) -> list[list[int]]:
    """Short answers said over and over."""
    return [row * 12 for row in source.sample(24, 15, rng).tolist()]


def _cold(source, rng: np.random.Generator) -> list[list[int]]:
    """Sampled at a low temperature: most answers run into the same few phrases."""
    return source.sample(60, 80, rng, temperature=0.3).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("repeating", [_looping, _cold], ids=lambda f: f.__name__[1:])
def test_repetitive_answers_raise_no_alarm(repeating, width, source, binding, holds_level):
    """Unmarked; and counting each position instead of each cell would raise it."""
    rng = np.random.default_rng(22)
    texts = [repeating(source, rng) for _ in range(10)]
    once, every = [], []
    for number, key in enumerate(decoy_keys(b"repeating", 400)):
        mark, rows = Watermark(GreenList(window=width), key, binding), texts[number % 10]
        once.append(_log10_p([Output("", token_ids=tuple(row)) for row in rows], mark))
        windows = np.concatenate([np.lib.stride_tricks.sliding_window_view(np.array(row), width + 1) for row in rows])
        green = int(mark.score(windows[:, :width], windows[:, width]).sum())
        every.append(mark.scheme.null.log10_pvalue(green, len(windows)))
    holds_level(once, "repetitive answers")
    assert np.mean(np.array(every) <= math.log10(0.001)) > 0.02
