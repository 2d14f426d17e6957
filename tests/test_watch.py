"""Watching while a suspect is asked: it stops on exposure, keeps its level, resumes at the same places."""

from __future__ import annotations

import numpy as np
import pytest
from fake_endpoint import fake, good

from watermark.detect import detect
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.outputs import Output, Outputs
from watermark.probe import Endpoint, Limits, ask
from watermark.prompts import Prompt
from watermark.schemes import GreenList
from watermark.watch import Watch


def _answers(rows: np.ndarray, first: int = 0) -> list[Output]:
    return [Output(str(first + i), token_ids=tuple(row)) for i, row in enumerate(rows.tolist())]


@pytest.fixture(scope="module")
def marked(source, binding) -> tuple[Watermark, list[Output]]:
    """Answers of a suspect that learned its lesson well: text under the mark itself."""
    mark = Watermark(GreenList(window=2), next(iter(decoy_keys(b"watch", 1))), binding)
    rows = source.sample(96, 30, np.random.default_rng(3), tilt=mark.tilt)
    return mark, _answers(rows)


def test_exposure_stops_the_asking_and_nothing_stops_it_without(marked, source, tokenizer):
    mark, answers = marked
    watch = Watch(mark, tokenizer, alpha=0.001)
    looks = [watch(answers[i : i + 5]) for i in range(0, 96, 5)]
    assert looks[-1]
    assert watch.log10_e >= 3
    assert not looks[0]  # fewer answers than one look takes
    innocent = Watch(mark, tokenizer, alpha=0.001)
    assert not innocent(_answers(source.sample(96, 30, np.random.default_rng(4))))


def test_resuming_looks_at_the_same_places(marked, tokenizer):
    mark, answers = marked
    one, other = Watch(mark, tokenizer, alpha=1e-9), Watch(mark, tokenizer, alpha=1e-9)
    one(answers[:48])
    for i in range(0, 48, 7):
        other(answers[i : min(48, i + 7)])
    assert one.log10_e == other.log10_e > 0


@pytest.mark.slow
def test_watching_keeps_its_level(source, tokenizer, binding, holds_level):
    """300 keys watch innocent answers come in; each may stop whenever it likes."""
    texts = [_answers(source.sample(64, 20, np.random.default_rng(50 + i))) for i in range(6)]
    stopped = []
    for number, key in enumerate(decoy_keys(b"watch level", 300)):
        watch = Watch(Watermark(GreenList(window=1), key, binding), tokenizer, alpha=0.05)
        stopped.append(-2.0 if watch(texts[number % 6]) else 0.0)
    assert np.mean(np.array(stopped) < 0) <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5


def test_a_watched_run_is_judged_by_the_e_process_alone(marked, tokenizer, tmp_path):
    mark, answers = marked
    texts = [tokenizer.texts([answer.token_ids])[0] for answer in answers]
    asked = [Prompt(f"p{i}", f"question {i}", ({"role": "user", "content": f"question {i}"},)) for i in range(96)]
    path, watch = tmp_path / "answers.jsonl", Watch(mark, tokenizer, alpha=0.001)
    with fake(lambda where, body, n: (200, {}, good(where, body, text=texts[n - 1]))) as server:
        suspect = Endpoint.open(server.url, model="small")
        done = ask(suspect, asked, path, stop=watch, limits=Limits(concurrency=1))
    assert done.ended == "stopped early"
    assert 16 <= done.answers < 96
    evidence = detect(path, mark, tokenizer=tokenizer, decoys=99)
    assert evidence.options["stopped"]
    assert evidence.log10_p == pytest.approx(-evidence.anytime.log10_e)
    assert evidence.method.startswith("e-process")
    assert detect(list(Outputs(path)), mark, tokenizer=tokenizer, decoys=99).log10_p != evidence.log10_p


def test_a_watch_needs_a_level(marked, tokenizer):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Watch(marked[0], tokenizer, alpha=0)
