"""What is published of a key set: every key's commitment, in the order in which they were made, as one chain.

Each entry's link is SHA-256 over the link before and the entry, the first link over the set's name and its scheme. So
a later publication extends an earlier one or is not of the same set: no key can be left out, put in or moved without
changing every link after it. A date comes from a time-stamp on the file (RFC 3161), not from what it says of itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from watermark.errors import MarkInvalid
from watermark.files import canonical_json, write_new
from watermark.keyring.dates import told
from watermark.sealed import Refusal, Sealed, read_sealed

FORMAT = "wmark-commitments/1"
_CHAIN = b"wmark-keys-v1"
_REFUSAL = Refusal(
    MarkInvalid,
    "a file of commitments",
    complete="a complete file of commitments",
    other="make one with `wmark key export-commitment`",
    changed="use the file as it was published",
)


@dataclass(frozen=True)
class Committed:
    """One key in public. nbf, exp: seconds since 1970. Chained are epoch, kid, commitment, created and nbf; when it
    ends, and whether it was revoked, may change."""

    epoch: str
    kid: str
    commitment: str
    created: str
    nbf: int
    exp: int | None
    revoked: bool

    def link(self, before: str) -> str:
        fixed = [before, self.epoch, self.kid, self.commitment, self.created, self.nbf]
        return hashlib.sha256(canonical_json(fixed)).hexdigest()


@dataclass(frozen=True)
class Commitments(Sealed):
    """All keys of a set. mark: scheme, keyed function and vocabulary. head: the chain's last link."""

    format: ClassVar[str] = FORMAT

    set: str
    mark: dict[str, Any]
    keys: list[Committed]
    head: str

    @classmethod
    def of(cls, name: str, mark: dict[str, Any], keys: list[Committed]) -> Commitments:
        return cls(name, mark, keys, heads(name, mark, keys)[-1])

    def save(self, path: str | Path) -> None:
        """Writes the file that is published: the same bytes for the same keys. Raises MarkInvalid if it exists."""
        try:
            write_new(Path(path), self.published())
        except FileExistsError:
            raise MarkInvalid(f"{path} exists; commitments are not written over", hint="choose another name") from None

    def published(self) -> bytes:
        return canonical_json(self.to_json()) + b"\n"

    def check_extends(self, earlier: Commitments) -> None:
        """Raises MarkInvalid unless this set holds all that was published earlier, in the same order."""
        links = heads(self.set, self.mark, self.keys)
        place = len(earlier.keys)
        if (self.set, self.mark) != (earlier.set, earlier.mark):
            raise MarkInvalid(f"the sets {self.set} and {earlier.set} differ in name, scheme or vocabulary")
        if place > len(self.keys) or links[place] != earlier.head:
            raise MarkInvalid(
                f"the set {self.set} does not hold the {place} keys that were published with head "
                f"{earlier.head[:16]}…, in their order"
            )

    def lines(self) -> list[str]:
        """For reading: one line a key."""
        return [
            f"{key.kid}  {key.epoch:<12} {told(key.nbf)} to {told(key.exp) if key.exp is not None else 'no end':<25} "
            f"{key.commitment}{'  revoked' if key.revoked else ''}"
            for key in self.keys
        ]


def heads(name: str, mark: dict[str, Any], keys: list[Committed]) -> list[str]:
    """The chain: its first link, of the set without keys, and then one for each key."""
    links = [hashlib.sha256(_CHAIN + canonical_json([name, mark])).hexdigest()]
    for key in keys:
        links.append(key.link(links[-1]))
    return links


def read_commitments(path: str | Path) -> Commitments:
    """Reads a published file. Raises MarkInvalid if it was changed, or if its chain does not lead to its head."""
    found = read_sealed(path, FORMAT, _built, _REFUSAL)
    if found.head != heads(found.set, found.mark, found.keys)[-1]:
        raise MarkInvalid(f"{path}: the chain of its keys does not lead to the head it states")
    return found


def _built(body: dict[str, Any]) -> Commitments:
    return Commitments(**body | {"keys": [Committed(**key) for key in body["keys"]]})


def public(key: Committed) -> dict[str, Any]:
    return dataclasses.asdict(key)
