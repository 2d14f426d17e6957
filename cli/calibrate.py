"""wmark calibrate: from control students of known shares to a calibration of doses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import console


def calibrate(
    students: Annotated[
        list[str], typer.Argument(help="EVIDENCE.json=SHARE for each control student, e.g. small.json=0.05.")
    ],
    output: Annotated[Path, typer.Option(help="Write the calibration here, as JSON.")],
    statistic: Annotated[
        str | None, typer.Option(help="The statistic to read; by default the best one that all have.")
    ] = None,
) -> None:
    """What an effect means: learned from students whose marked share is known, tested as the suspect will be.

    Example: wmark calibrate none.json=0 some.json=0.05 all.json=1 … --output calibration.json
    """
    from watermark.calibrate import calibrate as run

    made = run([shared(student) for student in students], statistic=statistic)
    made.save(output)
    console.say(f"calibration written to {output}")
    print(f"statistic     {made.way.statistic}, read from {made.way.access}")
    for student in sorted(made.students, key=lambda s: s.share):
        print(f"student       share {student.share:.3g}: effect {student.effect:.3f} ± {student.se:.3f}")


def shared(given: str) -> tuple[Path, float]:
    """(file, share) from "file=share"."""
    name, equals, share = given.rpartition("=")
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if not equals or not name or not 0 <= value <= 1:
        raise typer.BadParameter(
            f"each student should read EVIDENCE.json=SHARE, the share from 0 to 1, found {given!r}"
        )
    return Path(name), value
