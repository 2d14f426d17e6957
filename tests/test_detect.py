"""detect(): finds what was marked, finds nothing elsewhere, and says so in numbers that others can check."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from watermark.detect import detect
from watermark.errors import ProfileMismatch, ReportInvalid, TooFewObservations
from watermark.evidence import Evidence
from watermark.keys import decoy_keys
from watermark.ledger import Ledger
from watermark.mark import Watermark
from watermark.observe import observe
from watermark.observe.restored import restored
from watermark.outputs import Output, Outputs
from watermark.schemes import GreenList

COLUMNS = 1_000


def _zipf(rng: np.random.Generator) -> np.ndarray:
    """Logits of a Zipf law, in an order of its own."""
    return rng.permutation(-np.log(np.arange(1, COLUMNS + 1))).astype(np.float32)


def _answers(mark: Watermark, *, rows: int, steps: int, seed: int, marked: bool = True) -> list[Output]:
    """Answers drawn token by token from a Zipf law, through mark.tilt."""
    rng, width = np.random.default_rng(seed), mark.scheme.window
    law = _zipf(rng)
    ids = rng.integers(0, COLUMNS, (rows, width))
    for _ in range(steps):
        logits = np.repeat(law[None], rows, axis=0)
        tilted = mark.tilt(logits, ids[:, -width:]) if marked else logits
        drawn = (tilted + rng.gumbel(size=tilted.shape)).argmax(axis=1)
        ids = np.concatenate([ids, drawn[:, None]], axis=1)
    return [Output(f"a{i}", token_ids=tuple(row[width:])) for i, row in enumerate(ids.tolist())]


@pytest.fixture(scope="module")
def free(key) -> Watermark:
    """A mark bound to no tokenizer."""
    return Watermark(GreenList(window=2), key)


@pytest.fixture(scope="module")
def marked(free) -> list[Output]:
    return _answers(free, rows=60, steps=60, seed=1)


@pytest.fixture(scope="module")
def innocent(free) -> list[Output]:
    return _answers(free, rows=60, steps=60, seed=2, marked=False)


@pytest.fixture(scope="module")
def found(marked, free) -> Evidence:
    return detect(marked, free, decoys=199)


def _saved(path: Path, outputs: list[Output]) -> Path:
    path.write_text("".join(json.dumps({"id": o.id, "token_ids": list(o.token_ids or ())}) + "\n" for o in outputs))
    return path


def test_marked_text_is_found(found):
    assert found.verdict == "evidence found"
    assert found.log10_p < -50
    assert found.green_rate > 0.4
    assert found.decoys.rank_pvalue == 1 / 200


def test_pvalue_agrees_with_scipy(marked, innocent, free):
    for evidence in (detect(innocent, free, decoys=99), detect(marked[:12], free, decoys=99)):
        expected = binom.logsf(evidence.green - 1, evidence.cells, evidence.gamma) / math.log(10)
        assert evidence.log10_p == pytest.approx(expected, rel=1e-9)
        interval = binomtest(evidence.green, evidence.cells).proportion_ci(0.95, method="exact")
        assert evidence.green_rate_interval == pytest.approx((interval.low, interval.high), rel=1e-6)


def test_counts_are_those_of_the_cells(marked, free, found):
    seen = observe(marked, free)
    scores = free.score(seen.windows, seen.choices)
    assert (found.cells, found.green) == (len(seen), scores.sum())
    assert found.green_rate == found.green / found.cells
    assert found.z == pytest.approx((found.green - found.cells / 4) / math.sqrt(found.cells * 3 / 16), rel=1e-6)
    assert found.tokens_read == 3_600
    assert found.curve[-1].green == found.green
    assert found.curve[-1].log10_p == found.log10_p
    assert sum(document.green for document in found.documents) <= found.green


def test_wrong_key_gives_no_evidence(marked, free):
    for other in decoy_keys(b"wrong", 5):
        evidence = detect(marked, free.rekeyed(other), decoys=99)
        assert evidence.verdict != "evidence found"
        assert evidence.log10_p > -3


def test_wrong_width_gives_no_evidence(marked, key):
    for width in (1, 3):
        assert detect(marked, Watermark(GreenList(window=width), key), decoys=99).verdict != "evidence found"


def test_innocent_text_gives_no_evidence_and_says_what_would_have_been_found(innocent, free):
    evidence = detect(innocent, free, decoys=199)
    assert evidence.verdict == "no evidence found"
    assert evidence.decoys.rank_pvalue > 0.001
    assert evidence.gamma < evidence.detectable_rate < 0.3


def test_too_little_text_is_inconclusive_or_refused(innocent, free):
    assert detect(innocent[:3], free, decoys=99).verdict == "inconclusive"
    with pytest.raises(TooFewObservations):
        detect([Output("a", token_ids=(1, 2, 3))], free)


def test_suspect_pushed_to_red_is_found_by_less_and_two_sided(key):
    free = Watermark(GreenList(window=2), key)
    rng = np.random.default_rng(4)
    law = _zipf(rng)
    ids = rng.integers(0, COLUMNS, (60, 2))
    for _ in range(60):
        logits = np.repeat(law[None], 60, axis=0)
        away = 2 * logits - free.tilt(logits, ids[:, -2:])
        ids = np.concatenate([ids, (away + rng.gumbel(size=away.shape)).argmax(axis=1)[:, None]], axis=1)
    outputs = [Output(str(i), token_ids=tuple(row)) for i, row in enumerate(ids.tolist())]
    found = {side: detect(outputs, free, decoys=199, alternative=side) for side in ("greater", "less", "two-sided")}
    assert found["greater"].verdict != "evidence found"
    assert found["greater"].log10_p > -0.01
    for side in ("less", "two-sided"):
        assert found[side].verdict == "evidence found"
        assert found[side].decoys.rank_pvalue == 1 / 200
    expected = binom.logcdf(found["less"].green, found["less"].cells, 0.25) / math.log(10)
    assert found["less"].log10_p == pytest.approx(expected, rel=1e-8)
    assert found["two-sided"].log10_p == pytest.approx(expected + math.log10(2), rel=1e-8)
    assert len({evidence.method for evidence in found.values()}) == 3


def test_decoys_can_be_drawn_again_by_a_stranger(marked, free, found):
    seen = observe(marked, free)
    assert found.decoys.seed == seen.digest == found.observations
    keys = decoy_keys(bytes.fromhex(seen.digest), 199)
    assert found.decoys.totals == [int(free.rekeyed(k).score(seen.windows, seen.choices).sum()) for k in keys]


def test_detection_is_repeatable(marked, free, found):
    again = detect(marked, free, decoys=199)
    assert dataclasses.replace(again, created=found.created) == found


def test_every_option_changes_something(innocent, marked, free, tokenizer, tmp_path):
    outputs = innocent[:20] + marked[:1]
    base = detect(outputs, free)
    assert len(base.decoys.totals) == 999
    assert base.alpha == 0.001
    assert len(detect(outputs, free, decoys=120).decoys.totals) == 120
    assert detect(outputs, free, decoys=99, alpha=0.05).detectable_rate < base.detectable_rate
    assert detect(outputs, free, decoys=99, alternative="two-sided").log10_p != base.log10_p
    pieces = [t.piece for t in detect(outputs, free, decoys=99, tokenizer=tokenizer).shown[0].tokens]
    assert pieces != [t.piece for t in base.shown[0].tokens]
    told: list[tuple[str, int]] = []
    detect(outputs, free, decoys=99, progress=lambda *said: told.append(said))
    assert told == [("answers read", 21), ("decoys scored", 99)]
    ledger = _ledger(tmp_path, free, marked[:30])
    filtered = detect(outputs, free, decoys=99, ledger=ledger)
    assert filtered.cells < base.cells
    assert "served in the ledger" in filtered.method
    assert filtered.inputs.keys() == {"ledger"}


def _ledger(folder: Path, mark: Watermark, answers: list[Output], **options: Any) -> Path:
    path = folder / "served.ledger"
    with Ledger(path, **options) as ledger:
        for answer in answers:
            ids = list(answer.token_ids or ())
            ledger.append(answer.id, kid=mark.key.kid, receipt={}, prompt="", token_ids=ids)
    return path


def test_ledger_of_another_key_is_refused(tmp_path, marked, free):
    other = free.rekeyed(next(iter(decoy_keys(b"another", 1))))
    other = other.rekeyed(type(other.key)(bytes(32), kid="f" * 16, salt=bytes(16)))
    with pytest.raises(ProfileMismatch, match="kid"):
        detect(marked, free, ledger=_ledger(tmp_path, other, marked[:3]))


def test_alpha_decides_the_verdict(innocent, free):
    p = detect(innocent, free, decoys=99).p
    assert detect(innocent, free, decoys=99, alpha=min(0.99, p * 1.0001)).verdict == "evidence found"
    assert detect(innocent, free, decoys=99, alpha=p * 0.9999).verdict != "evidence found"


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": 1}, {"alpha": math.nan}, {"decoys": 98}])
def test_impossible_option_is_refused(options, innocent, free):
    with pytest.raises(ValueError, match=r"alpha must|decoys are needed"):
        detect(innocent, free, **options)


@pytest.mark.parametrize("alternative", ["larger", "two_sided", ""])
def test_unknown_alternative_is_refused(alternative, innocent, free):
    with pytest.raises(ValueError, match="alternative"):
        detect(innocent, free, decoys=99, alternative=alternative)


def test_file_and_list_give_the_same_evidence_and_the_file_is_named(tmp_path, marked, free, found):
    path = _saved(tmp_path / "suspect.jsonl", marked)
    for given in (path, str(path), Outputs(path)):
        evidence = detect(given, free, decoys=199)
        assert evidence.inputs["outputs"]["name"] == "suspect.jsonl"
        assert evidence.inputs["outputs"]["bytes"] == path.stat().st_size
        assert (evidence.green, evidence.decoys) == (found.green, found.decoys)
    assert str(tmp_path) not in json.dumps(evidence.to_json())


def test_bad_records_are_counted(tmp_path, marked, free):
    path = _saved(tmp_path / "suspect.jsonl", marked)
    path.write_text("broken\n" + path.read_text() + "[]\n")
    assert detect(Outputs(path, skip_bad=True), free, decoys=99).bad_records == 2


def test_evidence_survives_its_file(tmp_path, found):
    found.save(tmp_path / "e.json")
    again = Evidence.load(tmp_path / "e.json")
    assert again == found
    assert again.digest == found.digest
    assert Evidence.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_very_small_pvalue_is_stored_as_its_logarithm(found, tmp_path):
    deep = dataclasses.replace(found, log10_p=-12_041.2)
    deep.save(tmp_path / "e.json")
    assert Evidence.load(tmp_path / "e.json").log10_p == -12_041.2
    assert deep.p == 0.0


def _values(text: str) -> list[int]:
    """Places in the file where a letter or digit stands, evenly spread."""
    places = [i for i, character in enumerate(text) if character.isalnum()]
    return places[:: max(1, len(places) // 400)]


def test_evidence_edited_by_one_character_is_refused(tmp_path, found):
    """Or says the same as before, where JSON writes one number in two ways."""
    small = dataclasses.replace(found, shown=[], documents=found.documents[:2], curve=found.curve[:2])
    path = tmp_path / "e.json"
    small.save(path)
    text = path.read_text()
    for place in _values(text):
        for other in {"7", "9", "e", text[place].swapcase()} - {text[place]}:
            path.write_text(text[:place] + other + text[place + 1 :])
            try:
                again = Evidence.load(path)
            except ReportInvalid:
                continue
            assert again == small, text[place - 20 : place + 20]


def test_number_made_infinite_is_refused_in_words(tmp_path, found):
    tiny = dataclasses.replace(found, alpha=2.5e-07)
    path = tmp_path / "e.json"
    tiny.save(path)
    path.write_text(path.read_text().replace("2.5e-07", "2.5e907"))
    with pytest.raises(ReportInvalid):
        Evidence.load(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format": "wmark-evidence/2"}', b'{"format": "x"}'])
def test_file_that_is_no_evidence_is_refused(tmp_path, content):
    path = tmp_path / "e.json"
    path.write_bytes(content)
    with pytest.raises(ReportInvalid, match=r"e\.json"):
        Evidence.load(path)


def test_evidence_never_shows_the_key(found, free):
    secret, salt = free.key._export()
    text = json.dumps(found.to_json())
    assert secret.hex() not in text
    assert salt.hex() not in text
    assert free.key.commitment in text


def test_token_ids_and_text_give_the_same_evidence(texts, tokenizer, mark):
    pieces = [texts["code"][i : i + 900] for i in range(0, 45_000, 900)]
    pieces = [piece for piece in pieces if restored(piece) == [piece]]
    ids = [Output(str(i), token_ids=tuple(row)) for i, row in enumerate(tokenizer.encode(pieces))]
    first = detect([Output(str(i), text=t) for i, t in enumerate(pieces)], mark, tokenizer=tokenizer, decoys=99)
    second = detect(ids, mark, tokenizer=tokenizer, decoys=99)
    assert dataclasses.replace(second, created=first.created) == first


def test_text_marked_under_a_tokenizer_is_found_after_decoding(source, tokenizer, mark):
    """The whole way: ids drawn under the mark, decoded to text, and read back by the detector."""
    ids = source.sample(60, 60, np.random.default_rng(5), tilt=mark.tilt)
    outputs = [Output(str(i), text="".join(tokenizer.pieces(row))) for i, row in enumerate(ids.tolist())]
    evidence = detect(outputs, mark, tokenizer=tokenizer, decoys=99)
    assert evidence.verdict == "evidence found"
    plain = source.sample(60, 60, np.random.default_rng(5))
    outputs = [Output(str(i), text="".join(tokenizer.pieces(row))) for i, row in enumerate(plain.tolist())]
    assert detect(outputs, mark, tokenizer=tokenizer, decoys=99).verdict != "evidence found"


def test_repetitive_outputs_are_noted(innocent, free):
    assert not any("repeat" in note for note in detect(innocent, free, decoys=99).notes)
    assert any("repeat" in note for note in detect(innocent * 6, free, decoys=99).notes)
    assert any("without their prompt" in note for note in detect(innocent, free, decoys=99).notes)
