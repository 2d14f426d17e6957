"""wmark doctor: what is installed, what runs where, and what is wrong."""

from __future__ import annotations

import importlib.util
import platform
import stat
from pathlib import Path
from typing import Annotated, Any

import typer

from . import clash, console

_LIBRARIES = (
    "wmark", "numpy", "scipy", "torch", "transformers", "tokenizers", "typer",
    "numba", "jinja2", "matplotlib", "pyarrow", "zstandard", "scikit-learn", "onnxruntime",
    "pyrage", "keyring", "python-pkcs11", "psycopg", "ray", "weasyprint",
)  # fmt: skip
_EXTRAS = {
    "numba": "fast", "matplotlib": "evidence", "pyarrow": "scale", "zstandard": "scale", "scikit-learn": "sklearn",
    "onnxruntime": "onnx", "pyrage": "keys", "keyring": "keys", "python-pkcs11": "hsm", "weasyprint": "pdf",
    "psycopg": "pg", "ray": "ray",
}  # fmt: skip


def doctor(
    folder: Annotated[Path, typer.Argument(help="Also look at the watermark files here.")] = Path("."),
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Print versions and the chosen backend, and warn of clashes and readable keys.

    Example: wmark doctor
    """
    found: dict[str, Any] = {"python": platform.python_version(), "libraries": versions(), "warnings": []}
    from watermark import prf

    found["prf"], found["prf_backend"], found["prf_machine"] = prf.RECIPE, prf.backend(), prf.machine()
    warning = clash.other_watermark()
    found["warnings"] += [warning] if warning else []
    found["warnings"] += [f"{path} can be read by others: chmod 600 {path}" for path in readable_keys(folder)]
    if json:
        console.emit(found)
        return
    print(f"python          {found['python']}")
    for name, version in found["libraries"].items():
        print(f"{name:<15} {version or 'not installed' + hint(name)}")
    print(f"keyed function  {found['prf']}, on {running(**found['prf_machine'])}")
    for warning in found["warnings"]:
        console.say(f"wmark: warning: {warning}")
    print("no problems found" if not found["warnings"] else f"{len(found['warnings'])} problem(s), see above")


def versions() -> dict[str, str | None]:
    """Version of each library, None where it is missing."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "present" if importlib.util.find_spec(name) else None
    return found


def running(*, backend: str, threads: int, vector_bits: int | None, device: str | None, kernels: str | None) -> str:
    """What the keyed function runs on, in words."""
    vectors = (
        f", vectors of {vector_bits} bits"
        if vector_bits
        else "; with numba (pip install 'wmark[fast]') it takes a tenth of the time"
    )
    return f"{backend}, {threads} thread{'s' * (threads != 1)}{vectors}" + (
        f"; large totals on {device}, and tilts of logits there, in {kernels}" if device else ""
    )


def hint(name: str) -> str:
    extra = _EXTRAS.get(name)
    return f"   (pip install 'wmark[{extra}]')" if extra else ""


def readable_keys(folder: Path) -> list[Path]:
    """Watermark files and key sets directly in `folder` that others can read."""
    held = sorted([*folder.glob("*.wmark"), *folder.glob("*.jwks.age*")])
    return [path for path in held if stat.S_IMODE(path.stat().st_mode) & 0o077]
