"""wmark: watermark a model's answers, and prove from a suspect's answers that it was trained on them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from watermark.attribute import Attribution, attribute
    from watermark.calibrate import calibrate
    from watermark.conformance import check_adapter
    from watermark.detect import detect
    from watermark.embed.calls import mark_calls
    from watermark.embed.sklearn import MarkedEstimator
    from watermark.embed.transformers import Embedder
    from watermark.errors import WatermarkError
    from watermark.evidence import Evidence
    from watermark.keys import Key
    from watermark.ledger import Ledger, Record, read_ledger
    from watermark.mark import Watermark, load_profile, save_profile
    from watermark.observe import Observations, observe
    from watermark.outputs import Output, Outputs
    from watermark.plan import Plan, plan, read_plan
    from watermark.report.page import render
    from watermark.report.scores import verify_scores
    from watermark.report.verify import verify
    from watermark.schemes import AntiDistill, GreenList, Gumbel, Scheme, Tournament
    from watermark.scoring.attribute import attribute_scores
    from watermark.scoring.calibrate import calibrate_scores
    from watermark.scoring.detect import detect_scores
    from watermark.scoring.evidence import ScoreEvidence
    from watermark.scoring.mark import ScoreWatermark
    from watermark.scoring.plan import plan_scores
    from watermark.testing import check_scheme
    from watermark.tokenizer import Tokenizer

_HOMES = {
    "AntiDistill": "watermark.schemes",
    "Attribution": "watermark.attribute",
    "Embedder": "watermark.embed.transformers",
    "Evidence": "watermark.evidence",
    "GreenList": "watermark.schemes",
    "Gumbel": "watermark.schemes",
    "Key": "watermark.keys",
    "Ledger": "watermark.ledger",
    "MarkedEstimator": "watermark.embed.sklearn",
    "Observations": "watermark.observe",
    "Output": "watermark.outputs",
    "Outputs": "watermark.outputs",
    "Plan": "watermark.plan",
    "Record": "watermark.ledger",
    "Scheme": "watermark.schemes",
    "ScoreEvidence": "watermark.scoring.evidence",
    "ScoreWatermark": "watermark.scoring.mark",
    "Tokenizer": "watermark.tokenizer",
    "Tournament": "watermark.schemes",
    "Watermark": "watermark.mark",
    "WatermarkError": "watermark.errors",
    "attribute": "watermark.attribute",
    "attribute_scores": "watermark.scoring.attribute",
    "calibrate": "watermark.calibrate",
    "calibrate_scores": "watermark.scoring.calibrate",
    "check_adapter": "watermark.conformance",
    "check_scheme": "watermark.testing",
    "detect": "watermark.detect",
    "detect_scores": "watermark.scoring.detect",
    "load_profile": "watermark.mark",
    "mark_calls": "watermark.embed.calls",
    "observe": "watermark.observe",
    "plan": "watermark.plan",
    "plan_scores": "watermark.scoring.plan",
    "read_ledger": "watermark.ledger",
    "read_plan": "watermark.plan",
    "render": "watermark.report",
    "save_profile": "watermark.mark",
    "verify": "watermark.report",
    "verify_scores": "watermark.report.scores",
}

__all__ = [
    "AntiDistill",
    "Attribution",
    "Embedder",
    "Evidence",
    "GreenList",
    "Gumbel",
    "Key",
    "Ledger",
    "MarkedEstimator",
    "Observations",
    "Output",
    "Outputs",
    "Plan",
    "Record",
    "Scheme",
    "ScoreEvidence",
    "ScoreWatermark",
    "Tokenizer",
    "Tournament",
    "Watermark",
    "WatermarkError",
    "attribute",
    "attribute_scores",
    "calibrate",
    "calibrate_scores",
    "check_adapter",
    "check_scheme",
    "detect",
    "detect_scores",
    "load_profile",
    "mark_calls",
    "observe",
    "plan",
    "plan_scores",
    "read_ledger",
    "read_plan",
    "render",
    "save_profile",
    "verify",
    "verify_scores",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when first asked for, so that `import watermark` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'watermark' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """`watermark.detect` is the function, also after the room of that name was imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
