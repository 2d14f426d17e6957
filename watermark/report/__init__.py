"""The report: one HTML page that strangers can read, doubt and recompute, and the check that does so."""

from __future__ import annotations

from watermark.report.page import page, render
from watermark.report.verify import taken_as_stated, verify

__all__ = ["page", "render", "taken_as_stated", "verify"]
