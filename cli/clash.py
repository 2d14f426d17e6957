"""Whether another distribution's `watermark` package is installed beside or over ours."""

from __future__ import annotations

import sys
from pathlib import Path


def other_watermark() -> str | None:
    """A warning if another distribution's `watermark` package is installed, else None. One directory listing."""
    for entry in dict.fromkeys(sys.path):
        for found in Path(entry or ".").glob("watermark-[0-9]*.*-info"):
            return (
                f"another distribution, {found.name.rsplit('.', 1)[0]}, also installs a package 'watermark' in "
                f"{found.parent}; whichever was installed last wins: pip uninstall watermark, then reinstall wmark"
            )
    return None
