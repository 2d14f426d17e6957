"""ScoreEvidence: what a suspect's scores say of our direction; a sealed file as for text.

JSON, format `wmark-score-evidence/1`; schema in report/score-evidence.schema.json. `log10_p` is never a rounded zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from watermark.errors import ReportInvalid
from watermark.evidence import Verdict
from watermark.sealed import Kept, Refusal

SCORE_EVIDENCE = "wmark-score-evidence/1"
_REFUSAL = Refusal(
    ReportInvalid,
    "evidence of scores",
    unreadable="write it again with `wmark scores detect --output`",
    other="pass the file that `wmark scores detect --output` wrote",
)


@dataclass(frozen=True)
class KeyTest:
    """One exact test. part: "deployment" or "account" (a direction on the basis), or "input" (logged inputs' own).

    cosine: of what was read with the key's direction, uniform on a sphere of `dimensions` under the null. log10_p:
    exact; log10_e: of an e-value; rank_pvalue and decoys: among keys that marked nothing.
    """

    part: str
    cosine: float
    dimensions: int
    log10_p: float
    log10_e: float
    rank_pvalue: float
    decoys: list[float]


@dataclass(frozen=True)
class Carried:
    """How much of our mark the suspect carries: slope of its residual on ours, 1 is all of it.

    low, high: 95 % by the deviation of the same slope under decoy keys. detectable: the share that this test would
    have found with probability 0.9, approximately (normal law of the slope).
    """

    share: float
    low: float
    high: float
    deviation: float
    detectable: float


@dataclass(frozen=True)
class Look:
    """After the first `answers` distinct inputs: log10_p as if one had stopped there, and the e-process's log10_e."""

    answers: int
    log10_p: float
    log10_e: float


@dataclass(frozen=True)
class ScoreControl:
    """Another model's answers to the same inputs, through the same code."""

    name: str
    cosine: float
    log10_p: float


@dataclass(frozen=True)
class Cost:
    """What the mark costs on these inputs. largest: the most that an answer moved; flips: changed argmax.

    log_loss, brier, ece: marked less clean, against true labels; None without labels.
    """

    largest: float
    root_mean_square: float
    flips: int
    log_loss: float | None
    brier: float | None
    ece: float | None


@dataclass(frozen=True)
class Shown:
    """One input's answers, for the eye: the owner's clean one, what would be served, and the suspect's."""

    row: int
    clean: list[float]
    marked: list[float]
    suspect: list[float]


@dataclass(frozen=True)
class ScoreEvidence(Kept):
    """What `detect_scores` found. log10_p: of the tests together, Bonferroni over them.

    access: what was read, "probabilities", "labels", "values" or "embeddings". queries: distinct inputs tested;
    duplicates, unanswered: rows left out. explained: share of the suspect's deviation that was key-free.
    surrogates: predictions taken away. decoys: seed in hex, from which `keys.decoy_keys` draws them again. stopped:
    whether the e-process decides. inputs: name, bytes and SHA-256 of each file; committed: digests of the queries,
    clean answers and surrogates.
    """

    format: ClassVar[str] = SCORE_EVIDENCE
    refusal: ClassVar[Refusal] = _REFUSAL
    noun: ClassVar[str] = "evidence"

    verdict: Verdict
    alpha: float
    method: str
    null: str
    alternative: str
    log10_p: float
    tests: list[KeyTest]
    access: str
    queries: int
    duplicates: int
    unanswered: int
    surrogates: int
    explained: float
    carried: Carried | None
    looks: list[Look]
    reached_at: int | None
    stopped: bool
    controls: list[ScoreControl]
    cost: Cost | None
    shown: list[Shown]
    plan: dict[str, Any] | None
    seed: str
    committed: dict[str, str]
    mark: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    options: dict[str, Any]
    notes: list[str]
    software: dict[str, str]
    created: str

    @property
    def p(self) -> float:
        """The p-value as a float: for reading only, it underflows where `log10_p` does not."""
        return float(10.0**self.log10_p)

    @classmethod
    def built(cls, body: dict[str, Any]) -> ScoreEvidence:
        carried, cost = body["carried"], body["cost"]
        return cls(
            **body
            | {
                "tests": [KeyTest(**test) for test in body["tests"]],
                "carried": carried and Carried(**carried),
                "looks": [Look(**look) for look in body["looks"]],
                "controls": [ScoreControl(**control) for control in body["controls"]],
                "cost": cost and Cost(**cost),
                "shown": [Shown(**shown) for shown in body["shown"]],
            }
        )
