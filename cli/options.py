"""Options that several commands read alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Tokenizer = Annotated[str | None, typer.Option(help="The teacher's tokenizer; by default where the mark was made.")]
Served = Annotated[
    str | None, typer.Option(help="Score only windows that were served: a ledger, or `wmark ledger filter`.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Count bad records and leave them out.")]
Fields = Annotated[list[str] | None, typer.Option(help="ours=theirs, e.g. text=response; may be repeated.")]
HeldTo = Annotated[Path | None, typer.Option(help="The plan made before the first question; held to it.")]
DepartingRun = Annotated[bool, typer.Option("--exploratory", help="Depart from the plan; the evidence says so.")]
DepartingQuestions = Annotated[bool, typer.Option("--exploratory", help="Depart from the plan; the query log says so.")]
Authority = Annotated[
    list[Path] | None, typer.Option(help="Certificate of the authority that stamped the plan; may be repeated.")
]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help="Requests at once.")]
Rate = Annotated[float | None, typer.Option(min=0.01, help="Requests a minute.")]
Retries = Annotated[int, typer.Option(min=0, help="Further attempts at each request.")]
MaxRequests = Annotated[int | None, typer.Option(min=1, help="Budget of the run, earlier calls counted.")]
StopAt = Annotated[
    float | None, typer.Option(help="Watch the answers, and stop once the e-process passes 1 over this level.")
]
JsonOut = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def named(pairs: list[str]) -> dict[str, str]:
    """{left: right} from "left=right" options."""
    for pair in pairs:
        if "=" not in pair or pair.startswith("=") or pair.endswith("="):
            raise typer.BadParameter(f"this option should read name=value, found {pair!r}")
    found = dict(pair.split("=", 1) for pair in pairs)
    if len(found) < len(pairs):
        raise typer.BadParameter(f"a name stands twice in {' '.join(pairs)}")
    return found
