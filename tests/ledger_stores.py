"""A PostgreSQL server of one's own for tests: started where the programs are installed, else a reason why not."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def missing_postgres() -> str | None:
    """Why no server can be started here."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'wmark[pg]'"
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        return "no PostgreSQL server here: initdb and pg_ctl are not on the path"
    if os.geteuid() == 0 and _servant() is None:
        return "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it"
    return None


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The address of a fresh server; it listens on a socket in a folder of its own, and is stopped afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="wmark-pg-", dir="/tmp"))  # a socket's path has 107 bytes at most
    user = {"user": _servant()} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, user["user"])
    data = folder / "data"
    run = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, "timeout": 120}
    listening = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=20 -c shared_buffers=16MB"
    try:
        subprocess.run(
            ["initdb", "-D", data, "-U", "wmark", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"], **run, **user
        )
        subprocess.run(["pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", listening, "start"], **run, **user)
        try:
            yield f"postgresql://wmark@/postgres?host={folder}"
        finally:
            subprocess.run(["pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], **run, **user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _servant() -> str | None:
    import pwd

    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return name
    return None
