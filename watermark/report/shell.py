"""What every page is made of: templates that escape, a style bound to its evidence, and the evidence as JSON in it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import unicodedata
from datetime import datetime
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from watermark.errors import ExtraMissing
from watermark.evidence import Evidence
from watermark.files import canonical_json
from watermark.scoring.evidence import ScoreEvidence

if TYPE_CHECKING:
    from watermark.sealed import Sealed

E = TypeVar("E", Evidence, ScoreEvidence)

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_DATA = re.compile(r'<pre id="evidence-json"[^>]*>(.*?)</pre>', re.DOTALL)


def embedded(text: str) -> Any:
    """The evidence JSON that a page holds. Raises ValueError if it holds none."""
    found = _DATA.search(text)
    if found is None:
        raise ValueError("it holds no evidence")
    return json.loads(html.unescape(found[1]))


def visible(text: str) -> str:
    """Text with its unseen characters named: a suspect's direction marks must not rearrange the page."""
    return "".join(f"‹U+{ord(c):04X}›" if unicodedata.category(c) in _HIDDEN and c not in "\n\t" else c for c in text)


def environment() -> Any:
    """The templates: everything escaped, unseen characters named. Raises ExtraMissing without jinja2."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ExtraMissing("jinja2", "evidence", "writing the report page") from None
    environment = Environment(
        loader=PackageLoader("watermark.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters["comma"] = lambda count: f"{count:,}"
    return environment


def style_of(evidence: Sealed) -> str:
    """The style sheet; each printed sheet of paper carries the digest of its evidence."""
    foot = f'@page {{ @bottom-left {{ content: "evidence {evidence.digest[:32]}…"; font: 8pt sans-serif; }} }}\n'
    return resources.files("watermark.report").joinpath("report.css").read_text("utf-8") + foot


def hash_of(style: str) -> str:
    """What the page's policy allows: this style sheet, by its SHA-256 in base64."""
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def data_of(evidence: Sealed) -> str:
    """The evidence as the JSON that the page holds."""
    return json.dumps(evidence.to_json(), indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False)


def in_one_order(evidence: E) -> E:
    """The evidence with sorted names: fresh from `detect` or read back, it gives the same page."""
    return type(evidence).from_json(json.loads(canonical_json(evidence.to_json())))


def dated(created: str) -> str:
    """A time in words, or as it stands if it is none."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment:%Y-%m-%d, %H:%M} {moment.tzname() or ''}".strip()
