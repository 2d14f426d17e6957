"""What can go wrong, as one tree. Every message says what was found, what was needed, what to do.

WatermarkError
├── KeyUnusable          a secret that is missing, malformed or readable by others
├── MarkInvalid          a watermark file or profile that cannot be read
├── ProfileMismatch      the mark was made for another tokenizer, width or scheme
├── AccountsInvalid      account names that cannot be used
├── OutputsInvalid       a suspect's outputs that cannot be read
├── SuspectUnusable      a suspect or reference model that cannot be read: no numbers, or no difference
├── PlanMismatch         a run that is not the one that was planned
├── CalibrationInvalid   control students that do not say what an effect means
├── TooFewObservations   too little text to say anything
├── LedgerInvalid        a ledger whose chain does not verify
├── EmbeddingRefused     a way of generating that cannot carry the mark
├── ReportInvalid        evidence that does not recompute
│   └── BundleInvalid    a bundle, a signature or a time stamp that does not hold
├── WorkInvalid          a work folder of another run, or one that lacks a part
├── RunInterrupted       stopped on request; what was done is kept
└── ExtraMissing         an optional library is needed
"""

from __future__ import annotations


class WatermarkError(Exception):
    """Base of all errors a user can mend. `hint`, if any, says what to try."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class KeyUnusable(WatermarkError):
    """A secret is missing, malformed, or readable by others."""


class MarkInvalid(WatermarkError):
    """A watermark file or a profile cannot be read."""


class ProfileMismatch(WatermarkError):
    """The mark was made for another tokenizer, logits width or scheme."""


class AccountsInvalid(WatermarkError):
    """Names of accounts cannot be used."""


class OutputsInvalid(WatermarkError):
    """A suspect's outputs cannot be read."""


class SuspectUnusable(WatermarkError):
    """A suspect or a reference that cannot be read: no numbers, no log-probabilities, or no difference."""


class PlanMismatch(WatermarkError):
    """A run that is not the one that was planned."""


class CalibrationInvalid(WatermarkError):
    """Control students were tested otherwise than the suspect, or do not tell shares apart."""


class TooFewObservations(WatermarkError):
    """Too few distinct cells to score."""


class LedgerInvalid(WatermarkError):
    """A ledger's hash chain does not verify."""


class EmbeddingRefused(WatermarkError):
    """This way of generating cannot carry the mark."""


class ReportInvalid(WatermarkError):
    """Evidence or a report does not recompute."""


class BundleInvalid(ReportInvalid):
    """A bundle, a signature or a time stamp does not hold."""


class WorkInvalid(WatermarkError):
    """A work folder belongs to another run, lacks a part, or what it was made from has changed."""


class RunInterrupted(WatermarkError):
    """The run was stopped on request; finished work is on disk."""


class ExtraMissing(WatermarkError):
    """An optional library is needed for this."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed",
            hint=f"pip install 'wmark[{extra}]'",
        )
