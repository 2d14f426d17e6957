"""The printed form: the same bytes each time, the evidence attached as it is, nothing fetched, made to be kept."""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from keyring_tools import fixed_set
from toy import BINDING, openings, teacher

from watermark.accounts import Accounts
from watermark.attribute import Attribution, attribute
from watermark.detect import detect
from watermark.errors import ExtraMissing
from watermark.evidence import Evidence, ShownDocument, ShownToken
from watermark.observe import observe
from watermark.outputs import Output
from watermark.report import page, printed, verify

try:
    import weasyprint
except (ImportError, OSError):
    pytest.skip("no WeasyPrint, or no Pango, here", allow_module_level=True)


@pytest.fixture(scope="module")
def found() -> Evidence:
    keys, rng = fixed_set(b"printed", 3, binding=BINDING), np.random.default_rng(61)
    ids = teacher().write(openings(8, rng), 80, rng, keys.watermark(keys.epochs[0]).tilt)
    outputs = [Output(f"a{n}", token_ids=tuple(row[2:].tolist())) for n, row in enumerate(ids)]
    return dataclasses.replace(detect(outputs, keys), created="2026-05-04T03:02:01+00:00")


@pytest.fixture(scope="module")
def paper(found) -> bytes:
    return printed.printed(found)


def _streams(pdf: bytes) -> list[bytes]:
    """Every stream of a PDF, inflated where it is deflated."""
    found = []
    for match in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            found.append(zlib.decompress(match[1]))
        except zlib.error:
            found.append(match[1])
    return found


def test_the_same_evidence_gives_the_same_bytes(found, paper, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert printed.printed(found) == paper
    assert __import__("os").environ["SOURCE_DATE_EPOCH"] == "1"


def test_other_evidence_gives_another_file(found, paper):
    other = dataclasses.replace(found, created="2026-05-04T03:02:02+00:00")
    assert printed.printed(other) != paper


def test_the_evidence_is_attached_and_verifies(found, paper, tmp_path):
    (attached,) = [s for s in _streams(paper) if s.lstrip().startswith(b"{") and b'"wmark-evidence/2"' in s]
    (tmp_path / "e.json").write_bytes(attached)
    assert Evidence.load(tmp_path / "e.json") == found
    verify(tmp_path / "e.json")
    assert b"/AFRelationship /Source" in paper or any(b"/AFRelationship /Source" in s for s in _streams(paper))


def test_it_says_that_it_is_tagged_pdf_a_3(paper):
    everything = b"\n".join([paper, *_streams(paper)])
    assert re.search(rb'pdfaid:part(="|>)3', everything)
    assert re.search(rb'pdfaid:conformance(="|>)A', everything)
    assert b"/MarkInfo" in everything
    assert b"/Lang" in everything
    assert b"/JavaScript" not in everything
    assert b"/Launch" not in everything


def test_every_date_in_it_is_the_evidence_s_own(paper):
    everything = b"\n".join([paper, *_streams(paper)])
    dates = re.findall(rb"D:(\d{14})", everything)
    assert set(dates) <= {b"20260504030201"}


def test_nothing_is_fetched_whatever_the_suspect_says(found, monkeypatch):
    """A suspect's text is text: no address in it is opened, though the printer could read addresses."""
    asked: list[str] = []
    monkeypatch.setattr(weasyprint.urls.URLFetcher, "fetch", lambda self, url, headers=None: asked.append(url))
    hostile = [
        '<img src="http://127.0.0.1:9/x.png">', '<link rel=attachment href="file:///etc/passwd">',
        "<style>@import url(http://127.0.0.1:9/a.css)</style>",
    ]  # fmt: skip
    shown = [ShownDocument("x", [ShownToken(text, 1) for text in hostile])]
    paper = printed.printed(dataclasses.replace(found, shown=shown))
    assert asked == []
    assert b"root:" not in b"".join(_streams(paper))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x.png", "file:///etc/hostname", "data:image/png;base64,AA"])
def test_an_address_in_the_page_itself_would_end_the_printing(found, monkeypatch, address):
    monkeypatch.setattr(printed, "page", lambda evidence: f'<html lang="en"><img src="{address}" alt="x"></html>')
    with pytest.raises(weasyprint.urls.FatalURLFetchingError):
        printed.printed(found)


def test_a_set_of_keys_is_weighed_together(found):
    text = page(found)
    assert f"{found.mark['kid']}, the foremost of the 3 keys of set" in text
    assert "depend on one of these 3 keys" in text
    assert "a revoked key counts, and can show nothing" in text


def test_the_command_writes_both_forms(found, tmp_path, monkeypatch):
    from wmark_cli.report import report

    found.save(tmp_path / "e.json")
    report(tmp_path / "e.json", output=tmp_path / "r.html", pdf=tmp_path / "r.pdf")
    assert (tmp_path / "r.pdf").read_bytes() == printed.printed(found)
    assert json.loads((tmp_path / "e.json").read_text())["digest"] in (tmp_path / "r.html").read_text("utf-8")


@pytest.mark.slow
def test_an_attribution_has_a_printed_form_too(tmp_path):
    mark = fixed_set(b"printed", 1, binding=BINDING).watermark(fixed_set(b"printed", 1, binding=BINDING).epochs[0])
    owned = dataclasses.replace(mark, accounts=Accounts())
    rng = np.random.default_rng(3)
    ids = teacher().write(openings(6, rng), 120, rng, owned.account("bob").tilt)
    outputs = [Output(f"a{n}", token_ids=tuple(row[2:].tolist())) for n, row in enumerate(ids)]
    made = attribute(observe(outputs, owned.account("ada")), owned, ["ada", "bob"], decoys=19)
    paper = printed.printed(made)
    assert paper == printed.printed(made)
    (attached,) = [s for s in _streams(paper) if s.lstrip().startswith(b"{") and b'"wmark-attribution/1"' in s]
    (tmp_path / "a.json").write_bytes(attached)
    assert Attribution.load(tmp_path / "a.json") == made


def test_without_weasyprint_one_sentence_says_what_to_install(found, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "weasyprint", None)
    with pytest.raises(ExtraMissing) as refused:
        printed.render_pdf(found, tmp_path / "r.pdf")
    assert refused.value.hint == "pip install 'wmark[pdf]'"
    assert not Path(tmp_path / "r.pdf").exists()
