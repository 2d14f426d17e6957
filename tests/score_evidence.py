"""Evidence of scores, made through the real path: what tests of its page and of its check need."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from test_report import HOSTILE, words_of

from watermark.keys import Key
from watermark.report import page
from watermark.scores.basis import Basis
from watermark.scores.direction import Direction
from watermark.scoring.detect import detect_scores
from watermark.scoring.evidence import ScoreEvidence
from watermark.scoring.mark import ScoreWatermark
from watermark.scoring.plan import plan_scores

COLUMNS = ["age", "income", HOSTILE, "debt"]
MARK = ScoreWatermark(
    Direction(epsilon=0.05, own=0.2),
    Basis.fit(dict(zip(COLUMNS, np.random.default_rng(0).normal(size=(4, 1000)))), size=40),
    Key(bytes(range(32)), kid="0123456789abcdef", salt=bytes(16)),
    created="2026-01-01T00:00:00+00:00",
)


@dataclass(frozen=True)
class Bench:
    """A teacher, whoever learned from it, and what was asked. found: a student of marked answers, nothing: of
    unmarked ones, logged: asked what it was served, planned: found again under a plan.
    """

    folder: Path
    found: ScoreEvidence
    nothing: ScoreEvidence
    logged: ScoreEvidence
    planned: ScoreEvidence

    pages: dict[str, str] = field(default_factory=dict)

    def case(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def page(self, name: str) -> str:
        """Rendered once."""
        if name not in self.pages:
            self.pages[name] = page(getattr(self, name))
        return self.pages[name]

    def words(self, name: str) -> str:
        return words_of(self.page(name))


def columns(x: Any) -> dict[str, Any]:
    return {name: x[:, i] for i, name in enumerate(COLUMNS)}


@cache
def bench_in(base: Path) -> Bench:
    """3,000 rows, a boosted teacher and boosted students: a few seconds, once for all that ask in one place."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    folder, rng = base / "score evidence", np.random.default_rng(1)
    folder.mkdir(exist_ok=True)

    def asked(n: int) -> Any:
        return rng.normal(size=(n, 4))

    def labels(x: Any) -> Any:
        f = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] - 0.7 * x[:, 3]
        return (rng.random(len(x)) < 1 / (1 + np.exp(-1.5 * f))).astype(int)

    def student(x: Any, answers: Any, seed: int) -> Any:
        fitted = HistGradientBoostingRegressor(max_iter=120, random_state=seed).fit(x, answers)
        return lambda inputs: fitted.predict(inputs).clip(0, 1)

    x = asked(3000)
    teacher = HistGradientBoostingClassifier(max_iter=50, random_state=0).fit(x, labels(x))

    def clean(inputs: Any) -> Any:
        return teacher.predict_proba(inputs)[:, 1]

    served, others, fresh = asked(3000), asked(3000), asked(2000)
    learned = student(served, MARK.tilt(clean(served), columns(served)), 1)
    unmarked = student(served, clean(served), 2)
    surrogate = student(others, clean(others), 3)
    control = {f"control {HOSTILE}": student(x, clean(x), 4)(fresh)}

    def detected(name: str, suspect: Any, inputs: Any, **options: Any) -> ScoreEvidence:
        return detect_scores(
            MARK,
            columns(inputs),
            suspect(inputs),
            clean(inputs),
            surrogates=surrogate(inputs)[:, None],
            decoys=199,
            case=folder / f"{name}.npz",
            **options,
        )

    plan = plan_scores(MARK, columns(fresh), clean(fresh), surrogates=surrogate(fresh)[:, None], alpha=0.01)
    plan.save(folder / "plan.json")
    other = plan_scores(MARK, columns(served), clean(served), surrogates=surrogate(served)[:, None])
    other.save(folder / "other.json")
    return Bench(
        folder,
        found=detected("found", learned, fresh, controls=control, truth=labels(fresh)),
        nothing=detected("nothing", unmarked, fresh, controls=control),
        logged=detected("logged", learned, served, logged=True),
        planned=detected("planned", learned, fresh, plan=plan),
    )
