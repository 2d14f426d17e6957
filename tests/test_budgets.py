"""Budgets of start-up and memory: modules and bytes are counted, seconds never."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from watermark import prf
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import observe
from watermark.outputs import Output
from watermark.schemes import GreenList, Gumbel

MARK = Watermark(GreenList(window=2), next(iter(decoy_keys(b"budgets", 1))))
MODELS = {"torch", "transformers", "matplotlib", "datasets", "ray", "pandas", "sklearn"}


def after(code: str) -> set[str]:
    """Modules that are loaded when some code has run in a fresh interpreter."""
    code += "\nimport sys; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(shown.stdout.splitlines()[-1].split())


def loaded_by(*given: str) -> set[str]:
    """Modules that a command line has loaded when it ends well."""
    return after(
        f"from wmark_cli.main import app\ntry: app({list(given)!r})\nexcept SystemExit as end: assert not end.code"
    )


def commands() -> list[list[str]]:
    """The words of all commands and groups, and of what is in these."""
    from typer.main import get_command
    from wmark_cli.main import app

    def under(command, *words):
        yield list(words)
        for name, inner in getattr(command, "commands", {}).items():
            yield from under(inner, *words, name)

    return list(under(get_command(app)))


def peak_bytes(work) -> int:
    """Most bytes held at once, arrays of numpy among them; the first call, which may compile, is not counted."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_commands_help_loads_what_computes():
    words = commands()
    assert ["scores", "detect"] in words
    asked = "".join(
        f"\ntry: app({[*each, '--help']!r})\nexcept SystemExit as end: assert not end.code" for each in words
    )
    loaded = after(f"from wmark_cli.main import app{asked}")
    assert not loaded & {*MODELS, "numpy", "scipy", "numba", "tokenizers", "pyarrow", "jinja2", "watermark"}
    assert len(loaded) < 330


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A mark and a suspect's answers as ids, on disk."""
    folder = tmp_path_factory.mktemp("budgets")
    MARK.save(folder / "mark.wmark")
    rng = np.random.default_rng(1)
    lines = [json.dumps({"id": str(n), "token_ids": rng.integers(0, 9000, 300).tolist()}) for n in range(20)]
    (folder / "answers.jsonl").write_text("\n".join(lines))
    return folder


def test_detection_its_page_and_its_verification_load_no_model_library(case):
    evidence = str(case / "evidence.json")
    given = ("--mark", str(case / "mark.wmark"), "--decoys", "99", "--output", evidence)
    assert not loaded_by("detect", str(case / "answers.jsonl"), *given) & MODELS
    assert not loaded_by("report", evidence, "--output", str(case / "page.html")) & {"torch", "transformers", "ray"}
    assert not loaded_by("verify", evidence) & MODELS


def cells(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    return rng.integers(0, 50_000, (count, 2)).astype(np.uint32), rng.integers(0, 50_000, count).astype(np.uint32)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("scheme", [GreenList(window=2), Gumbel(window=2)], ids=["bits", "levels"])
def test_totals_hold_the_cells_and_never_cells_times_keys(monkeypatch, backend, scheme):
    if backend == "numba":
        pytest.importorskip("numba")
    monkeypatch.setenv("WMARK_NUMBA", "1" if backend == "numba" else "0")
    assert prf.backend() == backend
    mark, count = Watermark(scheme, MARK.key), 30_000
    (windows, choices), weights = cells(count), np.ones(count, dtype=np.int32)
    few, many = (
        peak_bytes(lambda m=m: mark.totals(windows, choices, weights, list(decoy_keys(b"many", m)))) for m in (50, 400)
    )
    fixed = 6 * 2**20  # blocks that stay in the processor's caches, tables of levels
    assert few < 128 * count + fixed
    assert many < few + 2**20  # 350 keys more: their own bytes, not 350 times 30,000 cells


def test_observing_takes_a_fixed_number_of_bytes_a_token():
    rng = np.random.default_rng(2)
    answers = [Output(str(n), token_ids=tuple(rng.integers(0, 50_000, 500).tolist())) for n in range(400)]
    small, large = peak_bytes(lambda: observe(answers[:100], MARK)), peak_bytes(lambda: observe(answers, MARK))
    assert large < 160 * 200_000
    assert large - small < 160 * 150_000


def test_a_tilt_holds_one_copy_of_the_logits():
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((16, 32_000)).astype(np.float32)
    assert peak_bytes(lambda: MARK.tilt(logits, rng.integers(0, 32_000, (16, 2)))) < 2 * logits.nbytes
