"""What every page is made of: templates that escape, a style bound to its evidence, and the evidence as JSON in it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import unicodedata
from datetime import datetime
from html.parser import HTMLParser
from importlib import resources
from typing import Any, TypeVar

from watermark.errors import ExtraMissing
from watermark.files import canonical_json
from watermark.sealed import Kept

K = TypeVar("K", bound=Kept)

_HEADINGS = ("h1", "h2", "h3")
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_DATA = re.compile(r'<pre id="evidence-json"[^>]*>(.*?)</pre>', re.DOTALL)


def embedded(text: str) -> Any:
    """The evidence JSON that a page holds. Raises ValueError if it holds none."""
    found = _DATA.search(text)
    if found is None:
        raise ValueError("it holds no evidence")
    return json.loads(html.unescape(found[1]))


def first_difference(stated: str, computed: str) -> tuple[str, str, str] | None:
    """(heading, words of the one page, words of the other) where two pages first read otherwise; None if they do not.

    Styles and the evidence itself are left aside; what is drawn is not read, but every picture has its table.
    """
    one, other = _Words(stated).found, _Words(computed).found
    for (_, said), (heading, says) in zip(one, other):
        if said != says:
            return heading, said, says
    if len(one) == len(other):
        return None
    heading, words = max(one, other, key=len)[min(len(one), len(other))]
    return (heading, words, "") if len(one) > len(other) else (heading, "", words)


class _Words(HTMLParser):
    """Every piece of text that a page shows, with the heading it stands under."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._heading, self._within = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = "json" if tag == "pre" and dict(attrs).get("id") == "evidence-json" else tag
        if tag in _HEADINGS:
            self._heading = ""

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        words = " ".join(data.split())
        if not words or self._within in ("style", "json"):
            return
        self._heading = words if self._within in _HEADINGS else self._heading
        self.found.append((self._heading, words))


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
    environment.filters["ticked"] = ticked
    return environment


def ticked(text: str) -> Any:
    """What stands between backticks as code, all of it escaped: what one types looks like it."""
    from markupsafe import Markup, escape

    parts = visible(text).split("`")
    if len(parts) % 2 == 0:
        return escape(visible(text))
    code = Markup("<code>{}</code>").format
    return Markup("").join(code(part) if place % 2 else escape(part) for place, part in enumerate(parts))


def style_of(evidence: Kept) -> str:
    """The style sheet; each printed sheet of paper carries the digest of its evidence."""
    foot = f'@page {{ @bottom-left {{ content: "evidence {evidence.digest[:32]}…"; font: 8pt sans-serif; }} }}\n'
    return resources.files("watermark.report").joinpath("report.css").read_text("utf-8") + foot


def hash_of(style: str) -> str:
    """What the page's policy allows: this style sheet, by its SHA-256 in base64."""
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def data_of(evidence: Kept) -> str:
    """The evidence as the JSON that the page holds."""
    return json.dumps(evidence.to_json(), indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False)


def in_one_order(evidence: K) -> K:
    """The evidence with sorted names: fresh from `detect` or read back, it gives the same page."""
    return type(evidence).from_json(json.loads(canonical_json(evidence.to_json())))


def dated(created: str) -> str:
    """A time in words, or as it stands if it is none."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment:%Y-%m-%d, %H:%M} {moment.tzname() or ''}".strip()
