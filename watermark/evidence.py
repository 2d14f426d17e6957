"""Evidence: a p-value with its method, its null, and everything a stranger needs to recompute and doubt it.

JSON, format `wmark-evidence/2`; schema in report/evidence.schema.json. `log10_p` is stored, never a rounded zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from watermark.errors import ReportInvalid
from watermark.sealed import Kept, Refusal
from watermark.stats.graded import Levels, law_of
from watermark.stats.laws import Bernoulli

FORMAT = "wmark-evidence/2"
Verdict = Literal["evidence found", "no evidence found", "inconclusive"]
_REFUSAL = Refusal(
    ReportInvalid,
    "evidence",
    unreadable="write it again with `wmark detect --output`",
    other="pass the file that `wmark detect --output` wrote",
)


@dataclass(frozen=True)
class Decoys:
    """Totals of m keys that marked nothing. seed: hex, from which `keys.decoy_keys` draws them again.

    rank_pvalue: (1 + b) / (1 + m), in the direction of the test.
    """

    seed: str
    rank_pvalue: float
    totals: list[int]


@dataclass(frozen=True)
class Step:
    """The evidence after the first `documents` answers: descriptive, not a stopping rule."""

    documents: int
    tokens: int
    cells: int
    green: int
    log10_p: float


@dataclass(frozen=True)
class Document:
    """Green cells of one answer (only those first counted there)."""

    id: str
    tokens: int
    cells: int
    green: int


@dataclass(frozen=True)
class ShownToken:
    """One token of an answer on display. score: 1 green, 0 red, None not scored."""

    piece: str
    score: int | None


@dataclass(frozen=True)
class ShownDocument:
    id: str
    tokens: list[ShownToken]


@dataclass(frozen=True)
class Statistic:
    """One weighted statistic: the green weight `total`, its law under the null, and what each answer says of it.

    cells: those with weight; effective_cells: as many equal weights would vary as steadily. tail: what log10_p is,
    "exact lattice" or "Chernoff bound".
    """

    name: str
    cells: int
    effective_cells: float
    total: int
    mean: float
    sd: float
    z: float
    log10_p: float
    tail: str
    log10_chernoff: float
    log10_e: float
    rank_pvalue: float


@dataclass(frozen=True)
class Weighted:
    """All weighted statistics together: log10_e of their mean e-value, log10_p = -log10_e, its rank among decoys.

    access: what was read. reference: the model that was subtracted, if any. decoy_totals: by statistic.
    """

    access: str
    reference: str | None
    log10_e: float
    log10_p: float
    rank_pvalue: float
    statistics: list[Statistic]
    decoy_totals: dict[str, list[int]]


@dataclass(frozen=True)
class Growth:
    """The e-process after `documents` answers; cells: new ones bet on in this stage."""

    documents: int
    tokens: int
    cells: int
    log10_e: float


@dataclass(frozen=True)
class Anytime:
    """The e-process: valid whenever one stops. reached_at: tokens read when it first passed 1/alpha, else None."""

    log10_e: float
    reached_at: int | None
    steps: list[Growth]


@dataclass(frozen=True)
class Control:
    """Another model through the same code: its e-value, and z by statistic."""

    name: str
    log10_e: float
    log10_p: float
    z: dict[str, float]


@dataclass(frozen=True)
class Evidence(Kept):
    """What `detect` found. Counts are whole numbers; rates lie in [0, 1]; `log10_p` is base 10.

    Where a scheme's scores are graded, `levels` holds the chance of each score 0 ... L under the null (None, and left
    out of the JSON, where they are 0 and 1); `green` is then the total score, every `green` of a part too, and `gamma`,
    `green_rate` and `detectable_rate` are mean scores as shares of L.

    cells, green and what follows from them count one vote a cell; where weights were read (`weighted`), the verdict
    and log10_p are those of the mean e-value. access: what was read of the suspect. plan: digest of the
    pre-registered plan and whether the run kept to it ("confirmatory" or "exploratory"), if there is one.
    green_rate_interval: 95 %, Clopper and Pearson. detectable_rate: the green rate that this test would have
    found with probability `power`, None if none. keys: where every key of a set was tested (`watermark.inforce`), the
    list of them with the result of each; log10_p is then theirs together.
    inputs: name, bytes and SHA-256 of each file read.
    """

    format: ClassVar[str] = FORMAT
    refusal: ClassVar[Refusal] = _REFUSAL
    noun: ClassVar[str] = "evidence"

    verdict: Verdict
    alpha: float
    method: str
    null: str
    alternative: str
    log10_p: float
    cells: int
    green: int
    gamma: float
    green_rate: float
    green_rate_interval: tuple[float, float]
    z: float
    log10_chernoff: float
    detectable_rate: float | None
    power: float
    access: str
    weighted: Weighted | None
    anytime: Anytime | None
    controls: list[Control]
    dose: dict[str, Any] | None
    plan: dict[str, Any] | None
    decoys: Decoys
    documents_read: int
    tokens_read: int
    prompts_known: int
    bad_records: int
    skipped: dict[str, int]
    curve: list[Step]
    documents: list[Document]
    shown: list[ShownDocument]
    observations: str
    mark: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    options: dict[str, Any]
    notes: list[str]
    software: dict[str, str]
    created: str
    levels: list[float] | None = None
    keys: dict[str, Any] | None = None

    @property
    def level(self) -> float:
        """Alpha, shared among the keys tested."""
        return self.alpha if self.keys is None else self.alpha / int(self.keys["tested"])

    @property
    def law(self) -> Bernoulli | Levels:
        """The law of one score under the null, as stated."""
        return law_of(self.levels, self.gamma)

    @property
    def p(self) -> float:
        """The p-value as a float: for reading only, it underflows where `log10_p` does not."""
        return float(10.0**self.log10_p)

    def content(self) -> dict[str, Any]:
        held = super().content() | {"green_rate_interval": list(self.green_rate_interval)}
        return {name: value for name, value in held.items() if value is not None or name not in ("levels", "keys")}

    @classmethod
    def built(cls, body: dict[str, Any]) -> Evidence:
        for name in ("mark", "inputs", "options", "skipped", "software"):
            if not isinstance(body[name], dict):
                raise TypeError(f"{name} is no object")
        low, high = body["green_rate_interval"]
        deep, running = body["weighted"], body["anytime"]
        shown = [ShownDocument(s["id"], [ShownToken(**token) for token in s["tokens"]]) for s in body["shown"]]
        return cls(
            **body
            | {
                "green_rate_interval": (low, high),
                "weighted": deep and Weighted(**deep | {"statistics": [Statistic(**s) for s in deep["statistics"]]}),
                "anytime": running and Anytime(**running | {"steps": [Growth(**g) for g in running["steps"]]}),
                "controls": [Control(**control) for control in body["controls"]],
                "decoys": Decoys(**body["decoys"]),
                "curve": [Step(**step) for step in body["curve"]],
                "documents": [Document(**document) for document in body["documents"]],
                "shown": shown,
            }
        )
