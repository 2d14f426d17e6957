"""Watermark: a scheme and a key in one file, bound to a tokenizer, so that nobody retypes settings.

The watermark file holds the secret (0600, never overwritten); the profile is the same without it. A mark with
accounts is the shared one; `account(name)` is what serves one of them (`watermark.accounts` says how and why).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import ongpu, prf
from watermark.accounts import Accounts, check_names
from watermark.errors import MarkInvalid, ProfileMismatch
from watermark.files import write_new
from watermark.keys import Key
from watermark.markfile import exported, named, opened, pretty, read_mark_file
from watermark.schemes import Scheme, marks_once, scheme_from_json, scheme_to_json
from watermark.schemes.gate import entropies
from watermark.schemes.redrawn import without

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from watermark.tokenizer import Tokenizer

FORMATS = ("wmark-watermark/1", "wmark-watermark/2")  # the second one has accounts
PROFILE_FORMATS = ("wmark-profile/1", "wmark-profile/2")


@dataclass(frozen=True)
class Binding:
    """The vocabulary a mark was made for. logits_width: columns of the model's logits.

    special_ids: tokens excluded on both sides. source: where the tokenizer was found, a convenience that is
    kept out of the profile.
    """

    digest: str
    logits_width: int
    special_ids: tuple[int, ...]
    source: str = ""

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """The special ids that the logits have columns for."""
        return np.array([each for each in self.special_ids if each < self.logits_width], dtype=np.int64)

    @cached_property
    def is_special(self) -> NDArray[np.bool_]:
        """Whether an id is special, for each below some number, and False for that one."""
        table = np.zeros(max(self.special_ids, default=-1) + 2, dtype=np.bool_)
        table[list(self.special_ids)] = True
        return table


@dataclass(frozen=True)
class Watermark:
    """A scheme and a key. `binding` names the tokenizer; without one, only token ids can be handled.

    accounts: how windows are shared between this mark and its accounts. shared: in the mark of one account, the key
    of the mark it was drawn from; `key` is then the account's own, and its kid is what receipts and ledgers name.
    """

    scheme: Scheme
    key: Key
    binding: Binding | None = None
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    accounts: Accounts | None = None
    shared: Key | None = None

    def __post_init__(self) -> None:
        if self.shared is not None and self.accounts is None:
            raise ValueError("a shared key needs `accounts`, which say what windows it marks")

    @classmethod
    def generate(cls, scheme: Scheme, *, tokenizer: Tokenizer, logits_width: int | None = None) -> Watermark:
        """A new mark under a new key. logits_width: columns of the logits, by default the vocabulary's size.

        Raises ProfileMismatch if the vocabulary does not fit into the logits.
        """
        width = tokenizer.size if logits_width is None else logits_width
        if width < tokenizer.size:
            raise ProfileMismatch(f"the tokenizer has {tokenizer.size} ids, the logits only {width} columns")
        bound = Binding(tokenizer.digest, width, tokenizer.special_ids, tokenizer.source)
        return cls(scheme, Key.generate(), bound)

    def __hash__(self) -> int:
        return hash(self.key)

    def rekeyed(self, key: Key) -> Watermark:
        """The same mark under another key."""
        return replace(self, key=key)

    def account(self, name: str, *, epoch: str = "") -> Watermark:
        """The mark that serves one account: windows of the shared key under it, the others under the account's.

        Raises MarkInvalid unless this is a mark with accounts, AccountsInvalid for an unusable name.
        """
        if self.accounts is None or self.shared is not None:
            found = "has no accounts" if self.accounts is None else "is the mark of one account"
            raise MarkInvalid(
                f"mark {self.key.kid} {found}; needed is a mark that accounts are drawn from",
                hint="make one with `wmark keygen --accounts` before the first answer is served",
            )
        check_names([name])
        return replace(self, key=self.key.subkey(tenant=name, epoch=epoch), shared=self.key)

    def owned(self, windows: ArrayLike) -> NDArray[np.bool_]:
        """Whether each window (n, h) is one that this mark's key marks, so that it may be scored under it.

        All are, without accounts. A filter by windows alone, independent of the green bits (`watermark.accounts`).
        """
        if self.accounts is None:
            return np.ones(len(np.asarray(windows)), dtype=bool)
        routed = self.accounts.routed(windows, self.key if self.shared is None else self.shared)
        return ~routed if self.shared is None else routed

    def marks(self, windows: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether tokens after each window (n, h) are served under the mark, whichever of its keys that is."""
        held = ~self.holds_special(windows)
        return held & self.owned(windows) if self.shared is None else held

    @property
    def special_ids(self) -> tuple[int, ...]:
        return self.binding.special_ids if self.binding else ()

    def tilt(self, logits: Any, contexts: ArrayLike, *, met: ArrayLike | None = None, proxy: Any = None) -> Any:
        """Logits (b, V) biased under the key; contexts (b, h) are each row's last h ids, oldest first.

        Rows whose context holds a special token, or whose entropy is under the scheme's gate, and the columns of
        special tokens are left alone. met: (b,), rows that an answer held before, from `met`; a scheme that marks once
        leaves them alone. proxy: logits (b, V) of a student's stand-in, for a scheme that asks for one. Returns a new
        array of the same kind. Raises ProfileMismatch if V is not the bound logits width.
        """
        self.check_width(logits.shape[-1])
        if ongpu.takes(self, logits):
            return ongpu.tilt([self], logits, contexts, met=met, proxy=proxy)
        ids = _on_host(contexts)
        unmarked = self.holds_special(ids)
        if met is not None and marks_once(self.scheme):
            unmarked |= np.asarray(_on_host(met), dtype=bool)
        gate = getattr(self.scheme, "gate", 0.0)
        if gate:
            unmarked |= entropies(logits) < gate
        kept = self.binding.columns if self.binding else np.empty(0, dtype=np.int64)
        beside = {} if proxy is None else {"proxy": proxy}
        given = logits
        if getattr(self.scheme, "shuts", False):
            beside["shut"] = kept
        elif marks_once(self.scheme):
            given = without(logits, kept)
        tilted = self._tilted(given, np.where(unmarked[:, None], 0, ids), beside)
        for row in np.flatnonzero(unmarked):
            tilted[int(row)] = logits[int(row)]
        if len(kept):
            made, before = _arrays(tilted, logits)
            made[:, kept] = before[:, kept]
        return tilted

    def met(self, histories: Any) -> Any:
        """Whether each row's last window stood in it before: histories (b, t), an array, or b lists of ids.

        What a scheme that marks once must know; a pure function of the ids so far, the prompt's among them. Returns
        (b,) bools, an array, or of ids on CUDA a tensor there.
        """
        window = self.scheme.window
        if hasattr(histories, "detach") and ongpu.there(histories):
            return ongpu.stood_before(histories, window)
        if hasattr(histories, "shape"):
            return _stood_before(_on_host(histories), window)
        return np.array([_listed_before(row, window) for row in histories], dtype=bool)

    def _tilted(self, logits: Any, ids: NDArray[Any], beside: dict[str, Any]) -> Any:
        """Each row under the key that its window goes to; without an account, the accounts' rows stay as they are."""
        if self.accounts is None:
            return self.scheme.tilt(logits, ids, self.key, **beside)
        own = self.owned(ids)
        tilted = logits.copy() if isinstance(logits, np.ndarray) else logits.clone()
        for rows, key in ((np.flatnonzero(own), self.key), (np.flatnonzero(~own), self.shared)):
            if len(rows) and key is not None:
                at = rows.tolist()
                some = beside | ({"proxy": beside["proxy"][at]} if "proxy" in beside else {})
                tilted[at] = self.scheme.tilt(logits[at], ids[rows], key, **some)
        return tilted

    def score(self, contexts: ArrayLike, choices: ArrayLike) -> NDArray[Any]:
        """The scheme's scores of cells (n, h), (n,) under this key."""
        return self.scheme.score(contexts, choices, self.key)

    def totals(
        self, windows: ArrayLike, choices: ArrayLike, weights: ArrayLike, keys: Iterable[Key]
    ) -> NDArray[np.int64]:
        """Totals of S statistics under m keys: weights times scores added up, as exact integers.

        windows: (n, h) ids; choices: (n,) ids; weights: (S, n) or (n,) integers within int32, any sign; keys: m, of
        which this mark's own is one only if it is among them. Returns (m, S). A scheme that has a `totals` of its
        own is asked at once for all keys; of any other the scores, whole numbers, are taken key by key. Raises
        ValueError if shapes do not match or weights are not whole numbers.
        """
        ids = np.asarray(windows).astype(np.uint32, copy=False)
        tokens = np.asarray(choices).astype(np.uint32, copy=False)
        counted = _counted(weights, len(tokens))
        if ids.shape != (len(tokens), self.scheme.window):
            raise ValueError(f"windows should have shape {(len(tokens), self.scheme.window)}, found {ids.shape}")
        asked = list(keys)
        if not asked:
            return np.empty((0, len(counted)), dtype=np.int64)
        together = getattr(self.scheme, "totals", None)
        if together is not None:
            found: NDArray[np.int64] = together(ids, tokens, counted, asked)
            return found
        return np.stack([_weighed(self.scheme.score(ids, tokens, key), counted) for key in asked])

    def keys_at_once(self, cells: int) -> int:
        """Keys to ask `totals` for at once, by those who tell how far they are: many where the scheme takes them
        together, for which it puts the cells in order each time; few where the scores are taken key by key."""
        return min(4096, max(256, 2**32 // max(1, cells))) if hasattr(self.scheme, "totals") else 50

    def holds_special(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each window (n, h) holds a special token (or padding below zero)."""
        held = ids < 0
        if self.special_ids:
            special = self.binding.is_special  # type: ignore[union-attr]
            held |= special[np.clip(ids, 0, len(special) - 1)]
        return np.asarray(held.any(axis=1))

    def check_width(self, width: int) -> None:
        """Raises ProfileMismatch unless `width` is the logits width of the binding."""
        if self.binding and width != self.binding.logits_width:
            raise ProfileMismatch(
                f"the logits have {width} columns, mark {self.key.kid} was made for {self.binding.logits_width}",
                hint="make a mark for this model with `wmark keygen --model`",
            )

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raises ProfileMismatch unless this is the tokenizer of the binding."""
        if self.binding and tokenizer.digest != self.binding.digest:
            raise ProfileMismatch(
                f"the tokenizer at {tokenizer.source!r} (digest {tokenizer.digest[:12]}…, {tokenizer.size} ids) is not "
                f"that of mark {self.key.kid} (digest {self.binding.digest[:12]}…, "
                f"{self.binding.logits_width} logits); scores would be chance",
                hint="pass the tokenizer of the model that served the answers",
            )

    def profile(self) -> dict[str, Any]:
        """What may be published: everything but the secret, with the key's commitment."""
        described: dict[str, Any] = {
            "format": PROFILE_FORMATS[self.accounts is not None],
            "created": self.created,
            "scheme": scheme_to_json(self.scheme),
            "prf": prf.RECIPE,
            "kid": self.key.kid,
            "commitment": self.key.commitment,
            "tokenizer": None,
        }
        if self.binding:
            described["tokenizer"] = {
                "digest": self.binding.digest,
                "logits_width": self.binding.logits_width,
                "special_ids": list(self.binding.special_ids),
            }
        if self.accounts:
            of = self.shared
            described["accounts"] = {
                "share": self.accounts.share,
                "shared": None if of is None else {"kid": of.kid, "commitment": of.commitment},
            }
        return described

    def tokenizer(self, source: str | Path | None = None) -> Tokenizer | None:
        """The tokenizer to read a suspect's text with: from `source`, or from where the mark was made.

        None if the mark is bound to none and no source is given. Raises ProfileMismatch or OutputsInvalid.
        """
        from watermark.tokenizer import Tokenizer

        if source is None and self.binding is None:
            return None
        found = Tokenizer.load(source if source is not None else self.binding.source)  # type: ignore[union-attr]
        self.check_tokenizer(found)
        return found

    def check_profile(self, profile: dict[str, Any]) -> None:
        """Raises ProfileMismatch unless `profile` is this mark's, naming each field that differs."""
        differing = [name for name, value in self.profile().items() if profile.get(name) != value]
        if differing:
            raise ProfileMismatch(
                f"the profile of kid {profile.get('kid')} is not that of mark {self.key.kid}: "
                f"{', '.join(differing)} differ",
                hint="use the watermark file whose profile was published",
            )

    def save(self, path: str | Path) -> None:
        """Writes the watermark file, readable by its owner alone. Raises MarkInvalid if `path` exists."""
        described = self.profile() | {"format": FORMATS[self.accounts is not None]} | exported(self.key)
        if self.shared:
            opened = described["accounts"]["shared"] | exported(self.shared)
            described["accounts"] = described["accounts"] | {"shared": opened}
        if self.binding:
            described["tokenizer"] = described["tokenizer"] | {"source": self.binding.source}
        try:
            write_new(Path(path), pretty(described), mode=0o600)
        except FileExistsError:
            raise MarkInvalid(
                f"{path} exists; a watermark file is never overwritten", hint="choose another name"
            ) from None

    @classmethod
    def load(cls, path: str | Path) -> Watermark:
        """Reads a watermark file. Raises KeyUnusable if others can read it, MarkInvalid if it is malformed."""
        described = read_mark_file(Path(path), formats=FORMATS, kind="watermark file")
        try:
            key = opened(described, path)
            scheme, made = scheme_from_json(described["scheme"]), str(described["created"])
            binding = _binding(described["tokenizer"])
            accounts, shared = _accounts(described, path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MarkInvalid(f"{path} is not a complete watermark file: {named(error)}") from None
        return cls(scheme, key, binding, made, accounts, shared)


def load_profile(path: str | Path) -> dict[str, Any]:
    """Reads a published profile. Raises MarkInvalid."""
    try:
        described = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MarkInvalid(f"{path} is not a readable profile: {error}") from None
    if not isinstance(described, dict) or described.get("format") not in PROFILE_FORMATS:
        raise MarkInvalid(f"{path} is not a profile (its format should be {' or '.join(PROFILE_FORMATS)})")
    return described


def save_profile(mark: Watermark, path: str | Path) -> None:
    """Writes the public profile. Raises MarkInvalid if `path` exists."""
    try:
        write_new(Path(path), pretty(mark.profile()))
    except FileExistsError:
        raise MarkInvalid(f"{path} exists; choose another name for the profile") from None


def contexts_of(ids: Iterable[Iterable[int]], window: int) -> NDArray[np.int64]:
    """Each row's last `window` ids, left-filled with -1 where a row is shorter. Returns (b, window)."""
    rows = [list((row if isinstance(row, Sequence) else list(row))[-window:]) for row in ids]
    return np.array([[-1] * (window - len(row)) + row for row in rows], dtype=np.int64)


def _counted(weights: ArrayLike, cells: int) -> NDArray[np.int32]:
    """Weights as (S, n) int32. Raises ValueError for another shape or kind."""
    given = np.atleast_2d(np.asarray(weights))
    if given.ndim != 2 or given.shape[1] != cells:
        raise ValueError(f"weights should have shape (S, {cells}) or ({cells},), found {np.shape(weights)}")
    counted = given.astype(np.int32, copy=False)
    if counted is given:
        return counted
    if not np.issubdtype(given.dtype, np.integer) or (counted != given).any():
        raise ValueError(f"weights should be whole numbers within 32 bits, found {given.dtype}")
    return counted


def _weighed(scores: NDArray[Any], weights: NDArray[np.int32]) -> NDArray[np.int64]:
    """Totals of scores (n,) under weights (S, n). Returns (S,). Raises ValueError for broken scores."""
    levels = np.asarray(scores)
    green = levels == 1
    if (green | (levels == 0)).all():
        found: NDArray[np.int64] = weights.sum(axis=1, where=green, dtype=np.int64)
        return found
    if not np.issubdtype(levels.dtype, np.integer) or (levels < 0).any():
        raise ValueError("totals need a scheme whose scores are whole numbers, 0 or more")
    graded: NDArray[np.int64] = weights.astype(np.int64) @ levels.astype(np.int64)
    return graded


def _stood_before(ids: NDArray[Any], window: int) -> NDArray[np.bool_]:
    """Whether the last `window` ids of each row (b, t) stand in it earlier, overlapping or not."""
    if ids.shape[1] <= window:
        return np.zeros(len(ids), dtype=bool)
    windows = np.lib.stride_tricks.sliding_window_view(ids, window, axis=1)
    found: NDArray[np.bool_] = (windows[:, :-1] == windows[:, -1:]).all(axis=2).any(axis=1)
    return found


def _listed_before(ids: Sequence[int], window: int) -> bool:
    """The same of one list: a look for its last id finds the few places that are worth comparing."""
    ids = ids if isinstance(ids, list) else list(ids)
    last, place = ids[-window:], window - 1
    while True:
        try:
            place = ids.index(last[-1], place, len(ids) - 1)
        except (ValueError, IndexError):
            return False
        if ids[place - window + 1 : place + 1] == last:
            return True
        place += 1


def _arrays(*tensors: Any) -> Any:
    """Tensors in memory as arrays over the same numbers, whose columns are quicker to name; others as they are."""
    if any(isinstance(each, np.ndarray) or each.device.type != "cpu" or each.requires_grad for each in tensors):
        return tensors
    return tensors if any("bfloat16" in str(each.dtype) for each in tensors) else [each.numpy() for each in tensors]


def _on_host(ids: Any) -> NDArray[Any]:
    """Ids as a numpy array, from wherever a tensor lies."""
    return np.asarray(ids.detach().cpu() if hasattr(ids, "detach") else ids)


def _accounts(described: dict[str, Any], path: str | Path) -> tuple[Accounts | None, Key | None]:
    if described["format"] == FORMATS[0]:
        return None, None
    found = described["accounts"]
    return Accounts(found["share"]), None if found["shared"] is None else opened(found["shared"], path)


def _binding(described: dict[str, Any] | None) -> Binding | None:
    if described is None:
        return None
    return Binding(
        digest=str(described["digest"]),
        logits_width=int(described["logits_width"]),
        special_ids=tuple(int(i) for i in described["special_ids"]),
        source=str(described.get("source", "")),
    )
