"""Asking a suspect, whether it is a model folder or an address: bounded, paced, resumable, every request logged."""

from __future__ import annotations

from watermark.probe.asking import Asked, ask, default_prompts, open_suspect
from watermark.probe.endpoint import Endpoint
from watermark.probe.local import LocalModel
from watermark.probe.log import is_log, log_path, read_log, verify_log, was_watched
from watermark.probe.pace import Limits
from watermark.probe.question import Draw, Suspect

__all__ = [
    "Asked",
    "Draw",
    "Endpoint",
    "Limits",
    "LocalModel",
    "Suspect",
    "ask",
    "default_prompts",
    "is_log",
    "log_path",
    "open_suspect",
    "read_log",
    "verify_log",
    "was_watched",
]
