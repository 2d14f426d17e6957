"""wmark: the command line. Imports typer and nothing heavy, so that help appears at once."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from . import (
    attribute,
    calibrate,
    clash,
    console,
    demo,
    detect,
    doctor,
    evidence,
    generate,
    key,
    keygen,
    ledger,
    plan,
    probe,
    profile,
    prompts,
    report,
    score,
    scores,
    verify,
)

app = typer.Typer(
    name="wmark",
    help="Watermark a model's answers; find out from a suspect's answers whether it was trained on them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    keygen.keygen,
    generate.generate,
    plan.plan,
    prompts.prompts,
    probe.probe,
    score.score,
    detect.detect,
    calibrate.calibrate,
    attribute.attribute,
    report.report,
    verify.verify,
    demo.demo,
    doctor.doctor,
):
    app.command()(command)
app.add_typer(key.app, name="key")
app.add_typer(ledger.app, name="ledger")
app.add_typer(evidence.app, name="evidence")
app.add_typer(profile.app, name="profile")
app.add_typer(scores.app, name="scores")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"wmark {version('wmark')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run() -> None:
    """The `wmark` command: exit 0 it ran, 1 it failed, 2 misuse, 3 something did not verify, 130 interrupted."""
    warning = clash.other_watermark()
    if warning:
        console.say(f"wmark: warning: {warning}")
    try:
        from watermark.errors import LedgerInvalid, ReportInvalid, RunInterrupted, WatermarkError
    except ImportError:
        console.fail(
            "the installed package 'watermark' is not ours",
            "pip uninstall watermark; pip install --force-reinstall wmark",
        )
        sys.exit(1)
    signal.signal(signal.SIGINT, _interrupted)
    try:
        app()
    except (ReportInvalid, LedgerInvalid) as error:
        _end(str(error), error.hint, 3)
    except RunInterrupted as error:
        _end(str(error), error.hint, 130)
    except WatermarkError as error:
        _end(str(error), error.hint, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _end(f"{where}{error.strerror or error}", "free some space" if error.errno == 28 else None, 1)
    except MemoryError:
        _end("out of memory", "use a smaller --batch", 1)
    except Exception as error:
        if os.environ.get("WMARK_DEBUG"):
            raise
        text = str(error).splitlines()[0] if str(error) else ""
        _end(
            f"unexpected {type(error).__name__}: {text}", "run again with WMARK_DEBUG=1 to see where, and report it", 1
        )


def _interrupted(number: int, frame: object) -> None:
    from watermark.errors import RunInterrupted

    raise RunInterrupted("interrupted; finished work is on disk", hint="run the same command again to go on")


def _end(message: str, hint: str | None, code: int) -> None:
    console.clear()
    console.fail(message, hint)
    sys.exit(code)
