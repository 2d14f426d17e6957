"""wmark report: the page of an evidence file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import console


def report(
    evidence: Annotated[
        Path, typer.Argument(help="What `wmark detect`, `wmark scores detect` or `wmark attribute` wrote.")
    ],
    output: Annotated[Path, typer.Option(help="Write the page here.")] = Path("report.html"),
    pdf: Annotated[
        Path | None, typer.Option(help="Also write it as PDF/A-3, with the evidence attached, here.")
    ] = None,
    certification: Annotated[
        Path | None,
        typer.Option(
            help="Also write a template, unsigned, for certifying the records under FRE 902(13) and (14), here."
        ),
    ] = None,
) -> None:
    """Write the evidence as one self-contained page.

    Example: wmark report evidence.json --output report.html --pdf report.pdf --certification certification.md
    """
    from watermark.report import load_evidence, render

    found = load_evidence(evidence)
    render(found, output)
    console.say(f"report written to {output}")
    if pdf is not None:
        from watermark.report.printed import render_pdf

        render_pdf(found, pdf)
        console.say(f"printed form written to {pdf}")
    if certification is not None:
        from watermark.report.certification import render_certification

        render_certification(found, certification)
        console.say(f"template of a certification, to be adapted by a lawyer, written to {certification}")
