"""Another interpreter of our own, that finds the modules which this one finds and none that lies in the way."""

from __future__ import annotations

import os
import sys


def command(module: str) -> list[str]:
    """The command that runs one of our modules; -P, lest a numpy.py in the working directory be taken for numpy."""
    return [sys.executable or "python", "-P", "-m", module]


def environment() -> dict[str, str]:
    """This process's environment, with the places where it finds modules."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
