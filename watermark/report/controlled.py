"""Dose, controls and what could be missed, in one place: what there is of each, and how to get what there is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from watermark.report import weighted
from watermark.report.numbers import percent, pvalue, signed, span
from watermark.report.planned import ambient_of, dose_points, interval_of
from watermark.report.score_words import share_of
from watermark.report.terms import places_of

if TYPE_CHECKING:
    from watermark.evidence import Control, Evidence
    from watermark.report.results import Row
    from watermark.scoring.evidence import ScoreControl, ScoreEvidence

_NONE = "none"
_CALIBRATE = (
    "train students on known shares of marked answers, test them as the suspect was, and pass the file of `wmark "
    "calibrate` as `--calibration`"
)
_SHOWN = 12


def controlled(evidence: Evidence, power: str) -> list[Row]:
    """(what, value, what it says or how to get it) of evidence of text or of a model's predictions. power: in words."""
    return [
        _dose(evidence.dose),
        _ambient(evidence.dose),
        *_students(evidence.dose),
        *_models(evidence),
        _keys(evidence),
        _reach(evidence, power),
    ]


def score_controlled(evidence: ScoreEvidence) -> list[Row]:
    """The same of scores."""
    first = evidence.tests[0]
    carried = evidence.carried
    share = ("Dose: share of the mark carried", _NONE, f"not measured for {evidence.access}")
    reach = (
        "Could be missed",
        "not measured",
        f"how weak a trace would have been found is not known for {evidence.access}",
    )
    if carried is not None:
        share = (
            "Dose: share of the mark carried",
            share_of(carried.share),
            f"95 % interval {share_of(carried.low)} to {share_of(carried.high)}; not the share of training data that "
            "was ours",
        )
        reach = (
            "Could be missed",
            f"below {percent(carried.detectable, 0)}",
            "a share of the mark that is found with probability 90 % (normal approximation); a weaker one more seldom",
        )
    named = [_named(control, evidence.alpha) for control in evidence.controls[:_SHOWN]]
    if not named:
        named = [
            ("Control models", _NONE, "put other models’ answers through the same code with `--control NAME=FILE`")
        ]
    kinds = (
        "Positive control",
        _NONE + " named as such",
        "the evidence does not say how controls were made: name a student of marked scores as one of them",
    )
    return [share, kinds, *named, _decoys(len(first.decoys), first.rank_pvalue), reach]


def _dose(dose: dict[str, Any] | None) -> Row:
    if dose is None:
        return (
            "Dose",
            _NONE,
            f"the strength of evidence is not the share of marked training text; for that, {_CALIBRATE}",
        )
    found = interval_of(dose)
    if found is None:
        return ("Dose", "not estimated", "one was asked for, and the control students did not give one")
    low, share, high = found
    beyond = "at least " if dose.get("beyond") else ""
    return (
        "Dose",
        f"{beyond}{percent(share)}",
        f"{span((low, high))}: share of marked text in what the suspect learned from",
    )


def _ambient(dose: dict[str, Any] | None) -> Row:
    found = ambient_of(dose)
    if found is None:
        return (
            "Ambient dose",
            _NONE,
            "test a model exposed as the public is in the same way, and pass it as `--ambient`",
        )
    low, share, high = found
    return ("Ambient dose", percent(share), f"{span((low, high))}: the same figure of a model exposed as the public is")


def _students(dose: dict[str, Any] | None) -> list[Row]:
    """Control students of the calibration: those of share 0 never met the mark, the others did, at a known share."""
    points = [] if dose is None else dose_points(dose)
    positive, negative = [p for p in points if p[0] > 0], [p for p in points if p[0] == 0]
    return [
        _students_row(
            "Positive controls",
            positive,
            "no student of known exposure was put through this test; they come with a dose, as above",
        ),
        _students_row(
            "Negative controls, students",
            negative,
            "train one on unmarked answers to the same prompts; it goes into the calibration as share 0",
        ),
    ]


def _students_row(name: str, points: list[tuple[float, float, float]], absent: str) -> Row:
    if not points:
        return (name, _NONE, absent)
    seen = sorted({share for share, _, _ in points})
    shares = ", ".join(percent(share).replace(".0", "") for share in seen)
    effects = [effect / error for _, effect, error in points if error > 0]
    told = f"; z from {signed(min(effects), 1)} to {signed(max(effects), 1)}" if effects else ""
    return (name, f"{len(points)}", f"students trained on a known share of marked answers: {shares}{told}")


def _models(evidence: Evidence) -> list[Row]:
    named = [_named(control, evidence.alpha) for control in evidence.controls[:_SHOWN]]
    left = len(evidence.controls) - len(named)
    if left > 0:
        named.append(("Further control models", f"{left}", "not listed here; all are in the evidence below"))
    if named:
        return named
    how = "put other models through the same code: `--control NAME=MODEL`, with `--suspect`"
    if evidence.access != "logits":
        how = "ask other models the same questions, and test their answers in the same way"
    return [("Control models", _NONE, how)]


def _named(control: Control | ScoreControl, alpha: float) -> Row:
    passes = "passes the level" if weighted.passes(control, alpha) else "does not pass the level"
    return (
        f"Control “{control.name}”",
        f"p = {pvalue(control.log10_p)}",
        f"{passes}; whether it should, its maker can say",
    )


def _keys(evidence: Evidence) -> Row:
    return _decoys(len(evidence.decoys.totals), weighted.rank_of(evidence))


def _decoys(count: int, rank: float) -> Row:
    return (
        "Negative controls, keys",
        f"{count:,}",
        f"keys that marked nothing, on the same outputs: {weighted.beaten(rank, count)}",
    )


def _reach(evidence: Evidence, power: str) -> Row:
    if evidence.weighted is not None:
        return ("Could be missed", f"z below {weighted.needed_z(evidence):.1f}", power)
    if evidence.detectable_rate is None:
        return ("Could be missed", "everything", power)
    return ("Could be missed", f"below {percent(evidence.detectable_rate, places_of(evidence))}", power)
