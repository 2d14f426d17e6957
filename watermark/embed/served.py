"""Which marks a server may apply, and what a request gets: read from the operator's environment, never from a request.

    WMARK_MARKS          watermark files, or folders of *.wmark, separated as in PATH
    WMARK_ACCOUNTS       for marks with accounts: a text file of account names, one a line
    WMARK_DEFAULT_KID    mark of requests that name none; without it they count as asking for "none"
    WMARK_UNMARKED       "refuse" (the default) or "allow": whether a request may be served without a mark

A request names a mark by its kid, 16 public hexadecimal digits (`wm_kid`), or "none". Whatever else it says is
refused: a mark that was not applied cannot be found later, so that every doubt ends before the first token.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from watermark import ongpu
from watermark.accounts import read_accounts
from watermark.errors import EmbeddingRefused, MarkInvalid
from watermark.mark import Watermark
from watermark.tokenizer import Tokenizer

MARKS, ACCOUNTS, DEFAULT, UNMARKED = "WMARK_MARKS", "WMARK_ACCOUNTS", "WMARK_DEFAULT_KID", "WMARK_UNMARKED"
ASKED, NONE = "wm_kid", "none"


@dataclass(frozen=True)
class Served:
    """The marks of one server, by kid. default: kid for requests that name none; unmarked: whether "none" is served."""

    marks: Mapping[str, Watermark]
    default: str = NONE
    unmarked: bool = False

    def __post_init__(self) -> None:
        if self.default != NONE and self.default not in self.marks:
            raise EmbeddingRefused(
                f"{DEFAULT} is {self.default!r}, which is the kid of none of the {len(self.marks)} marks served",
                hint=f"set it to one of them, or leave it out: {', '.join(sorted(self.marks)[:8])}",
            )

    @classmethod
    def from_environment(cls) -> Served:
        """Read once for each setting of the four variables. Raises EmbeddingRefused, MarkInvalid or KeyUnusable."""
        return _read(*(os.environ.get(name, "") for name in (MARKS, ACCOUNTS, DEFAULT, UNMARKED)))

    def asked(self, said: Mapping[str, Any] | None) -> Watermark | None:
        """The mark of a request, from the extra arguments it came with; None where it is to stay unmarked.

        Raises EmbeddingRefused for a kid that is not served, an argument it does not know, or a request without a
        mark where the operator allows none.
        """
        wm = {name: value for name, value in (said or {}).items() if name.startswith("wm_")}
        unknown = sorted(set(wm) - {ASKED})
        if unknown:
            raise EmbeddingRefused(f"unknown argument {unknown[0]!r}", hint=f"the one that is known is {ASKED!r}")
        kid = wm.get(ASKED, self.default)
        if kid == NONE:
            self._check_unmarked(ASKED in wm)
            return None
        if not isinstance(kid, str) or kid not in self.marks:
            raise EmbeddingRefused(f"{ASKED} {kid!r} is not served here", hint="name the kid of a mark in the profile")
        return self.marks[kid]

    def _check_unmarked(self, stated: bool) -> None:
        if self.unmarked:
            return
        found = f'{ASKED} "none"' if stated else f"a request without {ASKED}"
        raise EmbeddingRefused(
            f"{found} is not served here", hint=f"name a kid; the operator may set {UNMARKED}=allow or {DEFAULT}"
        )

    def check_model(self, *, width: int, tokenizer: str | Path | None = None) -> None:
        """Raises ProfileMismatch unless every mark fits the model: columns of its logits, and its tokenizer.

        tokenizer: its folder; one that is not on this machine, or not in a tokenizer.json, is not compared.
        """
        described = None if tokenizer is None else Path(tokenizer) / "tokenizer.json"
        read = Tokenizer.load(described.parent) if described is not None and described.is_file() else None
        for mark in self.marks.values():
            mark.check_width(width)
            if read is not None:
                mark.check_tokenizer(read)
            mark.tilt(np.zeros((1, width), dtype=np.float32), np.ones((1, mark.scheme.window), dtype=np.int64))

    def prepare(self, width: int) -> None:
        """For an engine on a GPU: has the kernels compiled that these marks need, those of accounts once."""
        kinds: list[Watermark] = []
        for mark in self.marks.values():
            if not any(ongpu.alike(mark, kind) for kind in kinds):
                kinds.append(mark)
                ongpu.prepare(mark, width)


@lru_cache(maxsize=8)
def _read(marks: str, accounts: str, default: str, unmarked: str) -> Served:
    if unmarked not in ("", "refuse", "allow"):
        raise EmbeddingRefused(f"{UNMARKED} is {unmarked!r}, it should be 'refuse' or 'allow'")
    paths = [Path(name) for name in marks.split(os.pathsep) if name]
    if not paths:
        raise EmbeddingRefused(f"{MARKS} is not set", hint=f"export {MARKS}=/path/to/ours.wmark first")
    names = read_accounts(accounts) if accounts else []
    served = {mark.key.kid: mark for path in paths for mark in _marks(path, names)}
    return Served(served, default or NONE, unmarked == "allow")


def _marks(path: Path, accounts: list[str]) -> Iterator[Watermark]:
    """The marks of a file, or of a folder's *.wmark; of a mark with accounts those of the accounts."""
    files = sorted(path.glob("*.wmark")) if path.is_dir() else [path]
    if not files:
        raise MarkInvalid(f"{path} holds no *.wmark", hint="make one with `wmark keygen`")
    for file in files:
        mark = Watermark.load(file)
        if mark.accounts is None or mark.shared is not None:
            yield mark
            continue
        if not accounts:
            raise EmbeddingRefused(
                f"{file} has accounts, and answers are served for one of them", hint=f"set {ACCOUNTS} to their names"
            )
        yield from (mark.account(name) for name in accounts)
