"""Accounts: one keyed bit for each window sends it to the shared key or to the key of the account that is served.

Windows of the shared key carry one mark in everybody's answers: whether a suspect learned from any of them is tested
at the full pooled dose, however many accounts took part. Windows of account keys carry a mark for each account, from
which `attribute` says whose answers they were.

Why every test stays exact. The routing bits R are drawn from the shared key under a label of their own, the shared
green bits G from it under the scheme's label, and an account's green bits from its own subkey: HKDF outputs under
different labels, so R, G and each account's bits are independent of one another.
- "Any answers of ours": if the suspect's outputs do not depend on the shared key, they depend on neither R nor G.
  Given the outputs and R, the shared windows are fixed and the bits of G on them are still independent
  Bernoulli(gamma): R is a filter by windows that knows nothing of G.
- "Answers to account a": whatever the suspect learned of R, G and other accounts' bits, given all that the bits of a
  are independent Bernoulli(gamma) unless its outputs depend on the key of a.
So decoys are scored on the same windows: R stays as it is and only green bits are drawn anew. For the first test
drawing R anew would be exact too, but on other windows, with totals of unequal laws; for the second it would not be,
for R has left its traces in the outputs of a suspect who learned from anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from watermark import prf
from watermark.errors import AccountsInvalid

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.keys import Key

_LABEL = "accounts/1"


@dataclass(frozen=True)
class Accounts:
    """The key layout of a mark with accounts. share: of windows that go to the account's key; public."""

    share: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.share, (int, float)) or not 0.01 <= self.share <= 0.99:
            raise ValueError(f"the accounts' share must lie between 0.01 and 0.99, found {self.share!r}")

    def routed(self, windows: ArrayLike, shared: Key) -> NDArray[np.bool_]:
        """Whether each window (n, h) goes to the account's key: a bit drawn from the shared key. Returns (n,)."""
        ids = np.asarray(windows).astype(np.uint32)
        drawn = prf.uniforms(ids, np.zeros(len(ids), dtype=np.uint32), self.words(shared))
        return drawn < np.uint32(prf.threshold(self.share))

    def words(self, shared: Key) -> NDArray[np.uint32]:
        """The key words (8,) that windows are routed by."""
        return prf.key_words(shared.derive(_LABEL))


def read_accounts(path: str | Path) -> list[str]:
    """Account names from a text file, one a line; blank lines are left out. Raises AccountsInvalid."""
    path = Path(path)
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise AccountsInvalid(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AccountsInvalid(f"{path} is not a text file in UTF-8; needed is one account name a line") from None
    names = [line.strip() for line in lines if line.strip()]
    if names and names[0][0] in "{[":
        raise AccountsInvalid(f"{path} looks like JSON, needed is plain text with one account name a line")
    if not names:
        raise AccountsInvalid(f"{path} names no account; write one account name a line")
    check_names(names)
    return names


def check_names(names: list[str]) -> None:
    """Raises AccountsInvalid for no names, a name twice, or one that is empty or has blanks around it."""
    if not names:
        raise AccountsInvalid("no accounts were named", hint="name every account that the answers may come from")
    seen: set[str] = set()
    for name in names:
        if not name or name != name.strip() or "\n" in name:
            raise AccountsInvalid(f"an account name is one line without blanks around it, found {name!r}")
        if name in seen:
            raise AccountsInvalid(f"account {name!r} is named twice; each is one hypothesis, counted once")
        seen.add(name)
