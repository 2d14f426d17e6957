"""Options that several commands read alike."""

from __future__ import annotations

import typer


def named(pairs: list[str]) -> dict[str, str]:
    """{left: right} from "left=right" options."""
    for pair in pairs:
        if "=" not in pair or pair.startswith("=") or pair.endswith("="):
            raise typer.BadParameter(f"this option should read name=value, found {pair!r}")
    found = dict(pair.split("=", 1) for pair in pairs)
    if len(found) < len(pairs):
        raise typer.BadParameter(f"a name stands twice in {' '.join(pairs)}")
    return found
