"""The public face: names, start-up weight, wheels."""

import subprocess
import sys

import pytest

import watermark

HEAVY = ("torch", "transformers", "scipy", "numba", "tokenizers", "matplotlib", "jinja2", "pyarrow")


def _modules_after(code: str) -> set[str]:
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(shown.stdout.split("\n")[-2].split())


def test_all_is_sorted_and_importable():
    assert watermark.__all__ == sorted(watermark.__all__)
    for name in watermark.__all__:
        assert getattr(watermark, name) is not None
    assert set(watermark.__all__) == set(watermark._HOMES)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        watermark.nothing  # noqa: B018


def test_functions_are_not_shadowed_by_their_rooms():
    code = "import watermark.detect, watermark.observe, watermark; assert callable(watermark.detect); print()"
    assert "watermark.detect" in _modules_after(code)


def test_import_watermark_loads_nothing_heavy():
    assert not _modules_after("import watermark") & set(HEAVY)


def test_import_watermark_loads_few_modules():
    fresh = _modules_after("") | {"__future__"}
    assert len(_modules_after("import watermark") - fresh) < 40


def test_help_loads_nothing_heavy():
    code = "from wmark_cli.main import app\ntry: app(['--help'])\nexcept SystemExit: pass"
    loaded = _modules_after(code)
    assert not loaded & {*HEAVY, "numpy", "rich", "watermark"}
    assert len(loaded) < 300


def test_verifying_a_ledger_loads_no_torch(tmp_path):
    from watermark import Ledger

    with Ledger(tmp_path / "l.jsonl") as ledger:
        ledger.append("1", kid="0" * 16, receipt={}, prompt="p", token_ids=[1])
    code = (
        f"from wmark_cli.main import app\ntry: app(['verify', {str(tmp_path / 'l.jsonl')!r}])\nexcept SystemExit: pass"
    )
    assert not _modules_after(code) & {"torch", "transformers", "scipy"}
