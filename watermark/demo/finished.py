"""What of a story is finished: each step with digests of what it read and wrote, so that a second telling repeats none.

`finished.json` in the story's folder. A step is done again if a file it read or wrote is another now, or if the package
is: what it would have written might be another then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import watermark
from watermark.files import canonical_json, readable_json, sha256_of, write_whole

T = TypeVar("T")
NAME = "finished.json"
_SOURCES = (".py", ".html", ".css", ".json")


class Finished:
    """The steps that are done in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._package = _package()
        try:
            self._steps = json.loads((folder / NAME).read_bytes())
        except (OSError, ValueError):
            self._steps = {}

    def once(self, step: str, make: Callable[[], T], *, reads: list[Path], writes: list[str]) -> T:
        """What a step tells: as it was noted if it is finished, else made now and noted. As by `told` and `note`."""
        told: T | None = self.told(step, reads=reads, writes=writes)
        if told is None:
            told = make()
            self.note(step, told, reads=reads, writes=writes)
        return told

    def told(self, step: str, *, reads: list[Path], writes: list[str]) -> Any:
        """What `note` was told of a step that is finished, None if it is not.

        reads: files and folders it takes; writes: names of those it leaves in the folder. A step that has nothing to
        tell is noted with True.
        """
        noted = self._steps.get(step)
        if not isinstance(noted, dict) or noted.get("seen") != self._seen(reads, writes):
            return None
        return noted.get("told")

    def note(self, step: str, told: Any = True, *, reads: list[Path], writes: list[str]) -> None:
        """Keeps that a step is finished, and what it told (JSON values)."""
        self._steps[step] = {"seen": self._seen(reads, writes), "told": told}
        write_whole(self._folder / NAME, readable_json(self._steps) + b"\n")

    def _seen(self, reads: list[Path], writes: list[str]) -> dict[str, Any]:
        found = {str(number): _digest(path) for number, path in enumerate(reads)}
        return {"package": self._package} | found | {name: _digest(self._folder / name) for name in writes}


def _digest(path: Path) -> str | None:
    return sha256_of(path) if path.exists() else None


def _package() -> str:
    """SHA-256 over the package's own sources and templates."""
    import hashlib

    root = Path(watermark.__file__).parent
    files = [path for path in sorted(root.rglob("*")) if path.suffix in _SOURCES and "__pycache__" not in path.parts]
    return hashlib.sha256(canonical_json([[str(p.relative_to(root)), sha256_of(p)] for p in files])).hexdigest()
