"""A template for the certification of records under Federal Rules of Evidence 902(13) and 902(14).

Facts that the evidence holds are filled in: hashes, versions, method. Name, signature and date never are, nor anything
that its signer alone can know; those are blanks. It is plain Markdown, the same bytes from the same evidence.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.files import write_whole
from watermark.report.shell import dated, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watermark.attribute import Attribution
    from watermark.evidence import Evidence
    from watermark.scoring.evidence import ScoreEvidence

BLANK = "______________"
_PLAIN = {c: f"\\{c}" for c in "\\|`*[]#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

_NOTE = """\
# Certification of records, Federal Rules of Evidence 902(13) and 902(14)

**Template, not signed.** It is to be adapted by a lawyer to the case, the court and the facts, and signed only by
somebody who knows these to be true. Square brackets hold what that person alone can say; strike out what does not
apply. It certifies how records came about and that copies are true. It certifies no conclusion: what the result means,
an expert says under Rule 702. Rule 902(11), to which both rules refer, asks for reasonable written notice to the other
side before trial, and that record and certification be open to inspection.
"""
_DECLARANT = f"""\
## 1. Who declares

I, {BLANK} [name], of {BLANK} [employer, address], declare:

1. My position is {BLANK} [title]. I am qualified to make this certification by {BLANK}
   [training and experience with the system and with digital records].
2. What follows I know [of my own knowledge / from records kept in the regular course of business, namely: {BLANK}].
"""
_PROCESS = f"""\
3. The program was run on {BLANK} [computer, place], on {BLANK} [date], by {BLANK} [person].
4. [State why the process gives an accurate result, as far as you know it yourself: how the program was checked on
   this computer, by whom and when; for instance that `wmark verify` was run and what it printed.] {BLANK}
5. The record was made by this process, and was not changed since: its digest, which the program computes over all its
   contents, is the one stated above.
"""
_COPIES = f"""\
6. The files named below were copied from {BLANK} [system, medium or file] on {BLANK} [date] by {BLANK} [person].
7. Each has a hash value (SHA-256, FIPS 180-4). I compared the values below, on {BLANK} [date], with those computed
   with {BLANK} [tool] from [the originals / the copies produced in this matter], and they were identical. Files of
   different content do not, in practice, have the same value.
"""
_SIGNED = f"""\
## 5. Declaration

[28 U.S.C. § 1746, within the United States:] I declare under penalty of perjury that the foregoing is true and correct.
[Outside the United States add after “perjury”: under the laws of the United States of America.]

Executed on: {BLANK} [date]

At: {BLANK} [place]

Signature: {BLANK}

Name: {BLANK}
"""


def render_certification(evidence: Evidence | ScoreEvidence | Attribution, path: str | Path) -> None:
    """Writes the template to `path`, whole or not at all."""
    write_whole(Path(path), certification(evidence).encode())


def certification(evidence: Evidence | ScoreEvidence | Attribution) -> str:
    """The template with the facts of this evidence."""
    parts = [
        _NOTE,
        _DECLARANT,
        f"## 2. The process that made the record, Rule 902(13)\n\n{_record(evidence)}\n\n{_PROCESS}",
        f"## 3. Copies of digital data, Rule 902(14)\n\n{_COPIES}\n{_files(evidence)}\n",
        f"## 4. How the other side checks it\n\n{_check(evidence)}\n",
        _SIGNED,
    ]
    return "\n".join(parts)


def _record(evidence: Evidence | ScoreEvidence | Attribution) -> str:
    plan = getattr(evidence, "plan", None)
    rows = [
        ("Record", f"evidence in the format {evidence.format}"),
        ("Digest of the record, SHA-256", evidence.digest),
        ("Time stated in it", dated(evidence.created)),
        *sorted(evidence.software.items()),
        ("Method stated in it", evidence.method),
        ("Null hypothesis stated in it", evidence.null),
        ("Level stated in it, alpha", f"{evidence.alpha:g}"),
        ("Key, by its commitment", str(evidence.mark.get("commitment"))),
        ("Plan, by its digest", "none" if plan is None else str(plan.get("digest"))),
    ]
    return _table(("Fact", "Value"), rows)


def _files(evidence: Evidence | ScoreEvidence | Attribution) -> str:
    named = [
        (role, str(file.get("name")), str(file.get("bytes")), str(file.get("sha256")))
        for role, file in sorted(_inputs(evidence).items())
    ]
    blank = [
        ("the record, as a file", BLANK, BLANK, BLANK),
        ("manifest of the bundle, if there is one", "manifest-sha256.txt", BLANK, BLANK),
    ]
    return _table(("File", "Name", "Bytes", "SHA-256"), [*named, *blank])


def _check(evidence: Evidence | ScoreEvidence | Attribution) -> str:
    read = ", ".join(sorted(_inputs(evidence))) or "none; what was read was handed over in memory"
    return (
        "The record and these files are open to inspection. `sha256sum FILE` gives a file’s hash value; `wmark "
        "verify` recomputes the record’s digest and what follows from it, and with the files that were read "
        f"({_cell(read)}) what it says of them. A bundle also holds `verify.py`, which needs nothing of this "
        f"program.\n\nNotice was given to {BLANK} on {BLANK} [date]."
    )


def _inputs(evidence: Evidence | ScoreEvidence | Attribution) -> dict[str, dict[str, Any]]:
    """The files that the record names; an attribution names none."""
    return getattr(evidence, "inputs", {})


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines: list[tuple[str, ...]] = [head, ("---",) * len(head), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that stays in its cell and is no markup: names of files come from whoever gave them."""
    plain = " ".join(visible(text).split())
    return "".join(_PLAIN.get(c, c) for c in plain)
