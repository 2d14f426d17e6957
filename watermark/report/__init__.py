"""The report: one HTML page that strangers can read, doubt and recompute, and the check that does so."""

from __future__ import annotations

from watermark.report.page import page, render
from watermark.report.scores import load_evidence, scores_taken_as_stated, verify_scores
from watermark.report.verify import taken_as_stated, verify

__all__ = [
    "load_evidence",
    "page",
    "render",
    "scores_taken_as_stated",
    "taken_as_stated",
    "verify",
    "verify_scores",
]
