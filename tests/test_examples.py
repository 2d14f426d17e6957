"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
SAYS = {
    "01_wrap_generate": "1 record in the ledger",
    "02_detect_outputs": "marked: evidence found",
    "03_report_and_verify": "refused:",
    "04_write_a_scheme": "",
    "05_read_an_open_model": "e-process log10 E",
    "06_wrap_classifier": "predictions that changed: 0",
}


def test_every_example_is_known():
    assert [path.stem for path in EXAMPLES] == sorted(SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_is_short(path):
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert SAYS[path.stem] in done.stdout
    assert len(path.read_text("utf-8").splitlines()) <= 30
