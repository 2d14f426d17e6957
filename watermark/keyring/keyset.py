"""KeySet: the masters and epochs of one mark, as a JWK Set (RFC 7517). Epochs are only ever added.

A master marks nothing. Each epoch's key is drawn from a master by HKDF under the epoch's label, so that a backup of
one file covers all epochs, that epochs can be committed to before they begin, and that opening one before an expert
says nothing of another. What ends a leak is a fresh master: `rotated(fresh=True)`; old epochs stay, for detection.
"""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Literal

from watermark import prf
from watermark.errors import KeyUnusable, MarkInvalid
from watermark.files import canonical_json
from watermark.keyring.commitments import Commitments, Committed
from watermark.keyring.dates import now as today
from watermark.keyring.dates import told
from watermark.keyring.provider import FileProvider, drawn
from watermark.keys import Key
from watermark.mark import Binding, Watermark
from watermark.schemes import Scheme, scheme_from_json, scheme_to_json

if TYPE_CHECKING:
    from watermark.tokenizer import Tokenizer

FORMAT = "wmark-keys/1"
ALGORITHM = "WM-HKDF-SHA256"
Status = Literal["planned", "active", "retired", "revoked"]
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Epoch:
    """One period's key. label: what it is drawn under. master: kid of the master. nbf, exp: seconds since 1970 from
    which and until which it marks, exp None for no end. revoked: others have had it; it marks and shows no more."""

    label: str
    key: Key
    master: str
    created: str
    nbf: int
    exp: int | None = None
    revoked: bool = False

    def status(self, now: int) -> Status:
        if self.revoked:
            return "revoked"
        if now < self.nbf:
            return "planned"
        return "retired" if self.exp is not None and now >= self.exp else "active"


@dataclass(frozen=True)
class KeySet:
    """All keys of one mark. name: public and random, 16 hex digits. recipients: to whom its file is sealed, none if by
    a passphrase. generation: how often it was written. epochs: in the order in which they were made."""

    name: str
    scheme: Scheme
    binding: Binding | None
    masters: tuple[Key, ...]
    epochs: tuple[Epoch, ...]
    recipients: tuple[str, ...] = ()
    generation: int = 1

    @classmethod
    def new(
        cls,
        scheme: Scheme,
        binding: Binding | None,
        *,
        epoch: str | None = None,
        expires: int | None = None,
        recipients: tuple[str, ...] = (),
        now: int | None = None,
    ) -> KeySet:
        """A set with a new master and its first epoch. epoch: its label, by default the day's date."""
        begun = cls(os.urandom(8).hex(), scheme, binding, (Key.generate(),), (), recipients, 0)
        return begun.rotated(epoch, expires=expires, now=now)

    def rotated(
        self,
        label: str | None = None,
        *,
        starts: int | None = None,
        expires: int | None = None,
        fresh: bool = False,
        revoke: str | None = None,
        now: int | None = None,
    ) -> KeySet:
        """The set with one more epoch; those before it end where it begins and stay, for detection.

        label: by default the date on which it begins. starts, expires: seconds since 1970, by default at once and
        never. fresh: a new master first, where the old one may have leaked. revoke: label of an epoch that leaked.
        Raises KeyUnusable for a label that is taken, or times that make no period.
        """
        at = today() if now is None else now
        begins = at if starts is None else starts
        made = self.revoking(revoke) if revoke is not None else self
        named = _named(begins, [e.label for e in self.epochs]) if label is None else label
        made._check_period(named, begins, expires, at)
        masters = (*made.masters, Key.generate()) if fresh else made.masters
        key = drawn(FileProvider(masters[-1]), epoch=named)
        kept = tuple(e if e.exp is not None and e.exp <= begins else replace(e, exp=begins) for e in made.epochs)
        added = Epoch(named, key, masters[-1].kid, told(at), begins, expires)
        return replace(made, masters=masters, epochs=(*kept, added), generation=self.generation + 1)

    def revoking(self, label: str) -> KeySet:
        """The set with one epoch marked as known to others."""
        leaked = self.epoch(label)
        epochs = tuple(replace(e, revoked=True) if e is leaked else e for e in self.epochs)
        return replace(self, epochs=epochs)

    def epoch(self, name: str) -> Epoch:
        """By label or kid. Raises KeyUnusable, naming those there are."""
        found = [e for e in self.epochs if name in (e.label, e.key.kid)]
        if not found:
            raise KeyUnusable(
                f"the set {self.name} has no epoch {name!r}; it has {', '.join(e.label for e in self.epochs)}"
            )
        return found[0]

    def serving(self, now: int | None = None) -> Epoch:
        """The epoch that marks answers now. Raises KeyUnusable if none does."""
        at = today() if now is None else now
        active = [e for e in self.epochs if e.status(at) == "active"]
        if not active:
            raise KeyUnusable(
                f"no key of the set {self.name} is active: the last ones are "
                + ", ".join(f"{e.label} ({e.status(at)})" for e in self.epochs[-3:]),
                hint="add an epoch with `wmark key rotate`",
            )
        return active[-1]

    def watermark(self, epoch: Epoch, *, tenant: str = "") -> Watermark:
        """The mark under an epoch's key, or under a tenant's that is drawn from it."""
        return Watermark(self.scheme, epoch.key.subkey(tenant=tenant), self.binding, epoch.created)

    def tokenizer(self, source: str | None = None) -> Tokenizer | None:
        """The tokenizer to read a suspect's text with, as `Watermark.tokenizer` finds it."""
        return self.watermark(self.epochs[0]).tokenizer(source)

    def commitments(self) -> Commitments:
        """What may be published: no secret, every key ever made."""
        return Commitments.of(
            self.name,
            self.profile(),
            [Committed(e.label, e.key.kid, e.key.commitment, e.created, e.nbf, e.exp, e.revoked) for e in self.epochs],
        )

    def profile(self) -> dict[str, Any]:
        """Scheme, keyed function and vocabulary, as a mark's profile has them."""
        described = self.watermark(self.epochs[0]).profile()
        return {name: described[name] for name in ("scheme", "prf", "tokenizer")}

    def content(self, now: int | None = None) -> bytes:
        """The JWK Set, with every secret: to be sealed, never to be written as it is."""
        at = today() if now is None else now
        tokenizer = self.profile()["tokenizer"]
        source = {} if self.binding is None else {"source": self.binding.source}
        return canonical_json(
            {
                "format": FORMAT,
                "set": self.name,
                "generation": self.generation,
                "recipients": list(self.recipients),
                "scheme": scheme_to_json(self.scheme),
                "prf": prf.RECIPE,
                "tokenizer": None if tokenizer is None else tokenizer | source,
                "keys": [_jwk(key, {"role": "master"}, "active") for key in self.masters]
                + [
                    _jwk(
                        e.key,
                        {"role": "epoch", "epoch": e.label, "from": e.master, "created": e.created},
                        e.status(at),
                    )
                    | {"nbf": e.nbf}
                    | ({} if e.exp is None else {"exp": e.exp})
                    for e in self.epochs
                ],
            }
        )

    @classmethod
    def of_content(cls, content: bytes, *, name: str) -> KeySet:
        """From `content`; every key is checked against its commitment, and each epoch drawn from its master anew.

        name: of the file, for messages. Raises MarkInvalid, without any value that it found.
        """
        try:
            stored = json.loads(content)
        except ValueError:
            raise MarkInvalid(f"{name} was opened, and what it holds is not JSON") from None
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise MarkInvalid(f"{name} was opened, and is not a key set (its format should be {FORMAT})")
        if stored.get("prf") != prf.RECIPE:
            raise MarkInvalid(f"{name} uses another keyed function than this version's {prf.RECIPE!r}")
        try:
            found = _built(stored)
        except (KeyError, TypeError, ValueError, AttributeError, KeyUnusable):
            raise MarkInvalid(
                f"{name} was opened, and is not a complete key set: a field is missing or wrong"
            ) from None
        found._check(name)
        return found

    def _check(self, name: str) -> None:
        masters = {key.kid: key for key in self.masters}
        labels, kids = [e.label for e in self.epochs], [*masters, *(e.key.kid for e in self.epochs)]
        if not labels or len(set(labels)) < len(labels) or len(set(kids)) < len(kids):
            raise MarkInvalid(f"{name} has no epoch, or names one twice")
        for epoch in self.epochs:
            master = masters.get(epoch.master)
            if master is None or drawn(FileProvider(master), epoch=epoch.label) != epoch.key:
                raise MarkInvalid(f"{name}: the key of epoch {epoch.label} is not the one its master gives")

    def _check_period(self, label: str, begins: int, expires: int | None, now: int) -> None:
        if not _LABEL.fullmatch(label):
            raise KeyUnusable(f"an epoch is named by up to 64 letters, digits, dots and hyphens, found {label!r}")
        if label in [e.label for e in self.epochs]:
            raise KeyUnusable(f"the set has an epoch {label!r} already; a label is used once")
        if begins < now:
            raise KeyUnusable(f"an epoch cannot begin in the past ({told(begins)}); it is made now, {told(now)}")
        if expires is not None and expires <= begins:
            raise KeyUnusable(f"the epoch would end ({told(expires)}) before it begins ({told(begins)})")
        late = [e for e in self.epochs if e.nbf > begins]
        if late:
            raise KeyUnusable(
                f"epoch {late[0].label} begins later, on {told(late[0].nbf)}; epochs are added in their order",
                hint="name a later start",
            )

    def __repr__(self) -> str:
        return f"KeySet({self.name!r}, {len(self.epochs)} epochs)"


def _jwk(key: Key, meaning: dict[str, Any], status: str) -> dict[str, Any]:
    """One key as RFC 7517 and RFC 7518, section 6.4, have it; what is ours stands under `wm`."""
    secret, salt = key._export()
    return {
        "kty": "oct",
        "alg": ALGORITHM,
        "kid": key.kid,
        "k": base64.urlsafe_b64encode(secret).decode().rstrip("="),
        "key_ops": ["deriveBits"],
        "status": status,
        "wm": meaning | {"salt": salt.hex(), "commitment": key.commitment},
    }


def _key(jwk: dict[str, Any]) -> Key:
    text = jwk["k"]
    secret = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    key = Key(secret, kid=jwk["kid"], salt=bytes.fromhex(jwk["wm"]["salt"]))
    if jwk["kty"] != "oct" or jwk["alg"] != ALGORITHM or key.commitment != jwk["wm"]["commitment"]:
        raise ValueError("not the key that was committed to")
    return key


def _built(stored: dict[str, Any]) -> KeySet:
    masters, epochs = [], []
    for jwk in stored["keys"]:
        meaning = jwk["wm"]
        if meaning["role"] == "master":
            masters.append(_key(jwk))
            continue
        dates = int(jwk["nbf"]), None if jwk.get("exp") is None else int(jwk["exp"])
        revoked = jwk["status"] == "revoked"
        epochs.append(Epoch(meaning["epoch"], _key(jwk), meaning["from"], meaning["created"], *dates, revoked))
    tokenizer = stored["tokenizer"]
    binding = tokenizer and Binding(
        str(tokenizer["digest"]),
        int(tokenizer["logits_width"]),
        tuple(int(i) for i in tokenizer["special_ids"]),
        str(tokenizer.get("source", "")),
    )
    return KeySet(
        name=str(stored["set"]),
        scheme=scheme_from_json(stored["scheme"]),
        binding=binding,
        masters=tuple(masters),
        epochs=tuple(epochs),
        recipients=tuple(str(each) for each in stored["recipients"]),
        generation=int(stored["generation"]),
    )


def _named(begins: int, taken: list[str]) -> str:
    day = told(begins)[:10]
    more = (f"{day}.{n}" for n in count(2))
    return next(name for name in chain([day], more) if name not in taken)
