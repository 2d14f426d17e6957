"""The page on paper: PDF/A-3 from the same HTML, with the evidence attached as the JSON file that it came from.

PDF/A-3 (ISO 19005-3) is made to be kept and filed: fonts inside, no script, nothing fetched, and attachments allowed,
so that paper and numbers travel in one file. Tagged (3a), so that it can be read aloud. The same evidence gives the
same bytes with the same fonts and versions: every date in it is the evidence's own, its identifier the digest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.errors import ExtraMissing
from watermark.files import readable_json, write_whole
from watermark.report.page import page

if TYPE_CHECKING:
    from watermark.attribute import Attribution
    from watermark.evidence import Evidence
    from watermark.scoring.evidence import ScoreEvidence

ATTACHED = "evidence.json"
_PAPER = ".tokens span { display: inline-block; white-space: pre-wrap; }"  # a line may end after any token
_CLOCK = threading.Lock()


def render_pdf(evidence: Evidence | ScoreEvidence | Attribution, path: str | Path) -> None:
    """Writes the printed form to `path`, whole or not at all. Raises ExtraMissing without WeasyPrint."""
    write_whole(Path(path), printed(evidence))


def printed(evidence: Evidence | ScoreEvidence | Attribution) -> bytes:
    """The PDF. It fetches nothing, whatever the suspect's text says."""
    library = _library()
    made = datetime.fromisoformat(evidence.created).astimezone(UTC)
    attached = library.Attachment(
        string=readable_json(evidence.to_json()) + b"\n",
        name=ATTACHED,
        description="the evidence, as `wmark verify` reads it",
        created=made,
        modified=made,
        relationship="Source",
    )
    with _dated(made):
        document = library.HTML(string=page(evidence), url_fetcher=_nothing(library), base_url=None)
        written: bytes = document.write_pdf(
            pdf_variant="pdf/a-3a",
            stylesheets=[library.CSS(string=_PAPER)],
            attachments=[attached],
            pdf_identifier=bytes.fromhex(evidence.digest)[:16],
        )
    return written


@contextmanager
def _dated(made: datetime) -> Iterator[None]:
    """The clock that the library reads (reproducible-builds.org), set to when the evidence was made; one at a time."""
    with _CLOCK:
        before = os.environ.get("SOURCE_DATE_EPOCH")
        os.environ["SOURCE_DATE_EPOCH"] = str(int(made.timestamp()))
        try:
            yield
        finally:
            if before is None:
                del os.environ["SOURCE_DATE_EPOCH"]
            else:
                os.environ["SOURCE_DATE_EPOCH"] = before


def _nothing(library: Any) -> Any:
    """Opens no address of any kind; one that is met ends the printing."""
    return library.urls.URLFetcher(allowed_protocols=(), fail_on_errors=True)


def _library() -> Any:
    try:
        import weasyprint
    except (ImportError, OSError):  # OSError where Pango, a library of the system, is missing
        raise ExtraMissing("WeasyPrint (with Pango, a library of the system)", "pdf", "the printed form") from None
    return weasyprint
