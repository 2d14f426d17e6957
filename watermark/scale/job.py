"""Job: what a worker must know to read blocks, as JSON; and the bench at which it then works.

The key is no part of it: reading needs none. The one exception is a mark with accounts, whose windows are shared out
by a keyed bit: workers of this machine then get that key through a pipe, and no file ever holds it.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.accounts import Accounts
from watermark.errors import WorkInvalid
from watermark.keys import Key, decoy_keys
from watermark.ledger.filters import WindowFilter
from watermark.mark import Binding, Watermark
from watermark.markfile import exported
from watermark.scale.corpus import Corpus, kept_corpus
from watermark.scale.store import Folder, store_at
from watermark.schemes import scheme_from_json, scheme_to_json
from watermark.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watermark.scale.store import Store

SERVED = "served.filter"
_ANY_KEY = b"the key of a reader who needs none"


@dataclass(frozen=True)
class Job:
    """work, source: addresses of the work folder and of the input's files. told, folder: as of `corpus.Input`.

    skip_bad, fields: of the outputs. mark: its scheme, binding and accounts, without a key. routing: the key that
    shares out the windows of accounts, for a pipe alone. tokenizer: how a worker gets it. served: a ledger filters.
    """

    work: str
    source: str
    told: str
    folder: bool
    skip_bad: bool
    fields: Mapping[str, str]
    mark: dict[str, Any]
    routing: dict[str, str] | None
    tokenizer: dict[str, str] | None
    served: bool

    @property
    def secret(self) -> bool:
        """Whether it holds a key, so that it must not leave this machine."""
        return self.routing is not None

    def to_json(self) -> str:
        return json.dumps(self.__dict__ | {"fields": dict(self.fields)})

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))

    def __repr__(self) -> str:
        return f"Job(work={self.work!r}, told={self.told!r})"


def keyless(mark: Watermark) -> dict[str, Any]:
    """The mark as `Job.mark` holds it."""
    bound, accounts = mark.binding, mark.accounts
    return {
        "scheme": scheme_to_json(mark.scheme),
        "binding": None if bound is None else [bound.digest, bound.logits_width, list(bound.special_ids)],
        "share": None if accounts is None else accounts.share,
        "account": mark.shared is not None,
    }


def routing_of(mark: Watermark) -> dict[str, str] | None:
    """The key by which windows are shared among accounts; None without accounts."""
    if mark.accounts is None:
        return None
    key = mark.shared or mark.key
    return {"kid": key.kid} | exported(key)


def carried(tokenizer: Tokenizer | None) -> dict[str, str] | None:
    """How a worker gets the tokenizer: as JSON where it has that form, else from where it was found."""
    if tokenizer is None:
        return None
    if hasattr(tokenizer._backend, "to_str"):
        return {"json": tokenizer._backend.to_str(), "digest": tokenizer.digest, "source": tokenizer.source}
    return {"source": tokenizer.source, "digest": tokenizer.digest}


@dataclass
class Bench:
    """A job, opened: the stores, the corpus, the mark and tokenizer to read with, and blocks' manifests once read.

    ready: the tokenizer, where it is at hand.
    """

    job: Job
    ready: Tokenizer | None = None
    manifests: dict[int, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def work(self) -> Store:
        return store_at(self.job.work)

    @cached_property
    def source(self) -> Store:
        return store_at(self.job.source)

    @cached_property
    def corpus(self) -> Corpus:
        found = kept_corpus(self.work)
        if found is None:
            raise WorkInvalid(f"{self.job.work} holds no corpus", hint="do all machines see the same work folder?")
        return found

    @cached_property
    def mark(self) -> Watermark:
        told, key = self.job.mark, next(decoy_keys(_ANY_KEY, 1))
        bound, routing = told["binding"], self.job.routing
        made = Watermark(
            scheme_from_json(told["scheme"]),
            key,
            None if bound is None else Binding(bound[0], bound[1], tuple(bound[2])),
            accounts=None if told["share"] is None else Accounts(told["share"]),
        )
        if routing is None:
            return made
        shared = Key(bytes.fromhex(routing["key"]), kid=routing["kid"], salt=bytes.fromhex(routing["salt"]))
        if told["account"]:
            return Watermark(made.scheme, key, made.binding, accounts=made.accounts, shared=shared)
        return made.rekeyed(shared)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        told = self.job.tokenizer
        if told is None or self.ready is not None:
            return self.ready
        found = Tokenizer.from_text(told["json"], told["source"]) if "json" in told else Tokenizer.load(told["source"])
        if found.digest != told["digest"]:
            raise WorkInvalid(
                f"a worker found another tokenizer at {told['source']!r} than the run began with",
                hint="give every machine the same one",
            )
        return found

    @cached_property
    def served(self) -> WindowFilter | None:
        """The filter of a ledger's windows, mapped from the work folder; from a copy of it where that is an address."""
        if not self.job.served:
            return None
        if isinstance(self.work, Folder):
            return WindowFilter(self.work.root / SERVED)
        self.copied = tempfile.TemporaryDirectory(prefix="wmark-")
        copy = Path(self.copied.name) / SERVED
        copy.write_bytes(self.work.read(SERVED))
        return WindowFilter(copy)
