"""ScoreWatermark: a scheme, a basis and a key in one file; what a Watermark is to text, it is to scores.

The file is secret (0600, never overwritten); the profile is the same without the key; the basis is public and has a
file of its own beside them, so that a stranger can recompute what was tested.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.accounts import check_names
from watermark.errors import MarkInvalid, ProfileMismatch
from watermark.files import write_new
from watermark.keys import Key
from watermark.markfile import SCORE_FORMAT, exported, named, opened, pretty, read_mark_file
from watermark.scores.basis import Basis
from watermark.scores.direction import Direction, Marker, as_rows, scheme_from_json, scheme_to_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROFILE_FORMAT = "wmark-score-profile/1"


@dataclass(frozen=True)
class ScoreWatermark:
    """scheme: how answers move. basis: the public functions of the input. key: the deployment's, or an account's.

    shared: in the mark of one account, the deployment's key; `key` is then the account's own.
    """

    scheme: Direction
    basis: Basis = field(repr=False)
    key: Key
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    shared: Key | None = None

    @classmethod
    def generate(
        cls,
        reference: Any,
        *,
        answers: Any | None = None,
        output: str = "probabilities",
        channels: int = 2,
        epsilon: float = 0.02,
        own: float = 0.0,
        account: float = 0.0,
        **basis: Any,
    ) -> ScoreWatermark:
        """A new mark under a new key, its basis fitted on reference inputs.

        reference: inputs like those that will be served (embeddings: clean embeddings). answers: clean answers to
        them; needed for values, whose scale they give, and else they say how many channels there are. basis: options
        of `Basis.fit`. Raises ValueError for unusable parameters, TooFewObservations for too few inputs.
        """
        scale: tuple[float, ...] = ()
        if answers is not None:
            found = np.asarray(answers, dtype=np.float64)
            found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 and output != "values" else found
            channels = found.shape[1] if found.ndim == 2 else (1 if output == "values" else 2)
            if output == "values":
                scale = tuple(float(s) for s in np.atleast_1d(found.std(axis=0)))
        elif output == "values":
            raise ValueError("a mark of values needs `answers`, whose deviation is its scale")
        if output == "embeddings":
            basis = {"size": 24, "components": 12, "spread": 1.1} | basis
        scheme = Direction(output, channels, epsilon, own, account, scale)  # type: ignore[arg-type]
        return cls(scheme, Basis.fit(reference, **basis), Key.generate())

    def rekeyed(self, key: Key) -> ScoreWatermark:
        """The same mark under another key."""
        return replace(self, key=key)

    def account(self, name: str, *, epoch: str = "") -> ScoreWatermark:
        """The mark that serves one account: the shared direction, and the account's own part beside it.

        Raises MarkInvalid unless this is a mark whose energy has a part for accounts or inputs.
        """
        if self.shared is not None or not (self.scheme.account or self.scheme.own):
            raise MarkInvalid(
                f"mark {self.key.kid} has no part that accounts could own",
                hint="make one with a share for accounts, `wmark scores keygen --account 0.2`, before it serves",
            )
        check_names([name])
        return replace(self, key=self.key.subkey(tenant=name, epoch=epoch), shared=self.key)

    def tilt(self, answers: Any, inputs: Any) -> NDArray[np.float64]:
        """Marked answers, of the shape given. See `Marker.tilt`."""
        return self._marker.tilt(answers, inputs)

    def marks(self, inputs: Any) -> NDArray[np.float64]:
        """The mark's raw values z (n, width) at inputs."""
        return self._marker.marks(inputs)

    def score(self, coefficients: NDArray[np.float64]) -> float:
        """Cosine of what was read of a suspect with this key's direction: the deployment's, or the account's own."""
        return self.scheme.score(coefficients, self.key, part=self.part)

    @property
    def part(self) -> str:
        return "deployment" if self.shared is None else "account"

    @property
    def dimensions(self) -> int:
        return self.scheme.dimensions(self.basis.size)

    @cached_property
    def _marker(self) -> Marker:
        if self.shared is None:
            return Marker(self.scheme, self.basis, self.key)
        return Marker(self.scheme, self.basis, self.shared, self.key)

    def rows(self, answers: Any) -> NDArray[np.float64]:
        """Answers as (n, channels), checked. Raises OutputsInvalid."""
        return as_rows(np.asarray(answers, dtype=np.float64), self.scheme)

    def profile(self) -> dict[str, Any]:
        """What may be published: everything but the secret, with the key's commitment and the basis' digest."""
        of = self.shared
        return {
            "format": PROFILE_FORMAT,
            "created": self.created,
            "scheme": scheme_to_json(self.scheme),
            "kid": self.key.kid,
            "commitment": self.key.commitment,
            "shared": None if of is None else {"kid": of.kid, "commitment": of.commitment},
            "basis": {"digest": self.basis.digest, "size": self.basis.size, "columns": self.basis.names},
        }

    def check_basis(self, basis: Basis) -> None:
        """Raises ProfileMismatch unless this is the mark's basis."""
        if basis.digest != self.basis.digest:
            raise ProfileMismatch(
                f"the basis (digest {basis.digest[:12]}…, {basis.size} functions) is not that of mark {self.key.kid} "
                f"(digest {self.basis.digest[:12]}…, {self.basis.size}); every cosine would be chance",
                hint="use the basis that was committed with this mark",
            )

    def save(self, path: str | Path) -> None:
        """Writes the watermark file, readable by its owner alone. Raises MarkInvalid if `path` exists."""
        described = self.profile() | {"format": SCORE_FORMAT, "basis": self.basis.to_json()} | exported(self.key)
        if self.shared:
            described["shared"] = described["shared"] | exported(self.shared)
        try:
            write_new(Path(path), pretty(described), mode=0o600)
        except FileExistsError:
            raise MarkInvalid(
                f"{path} exists; a watermark file is never overwritten", hint="choose another name"
            ) from None

    @classmethod
    def load(cls, path: str | Path) -> ScoreWatermark:
        """Reads a watermark file. Raises KeyUnusable if others can read it, MarkInvalid if it is malformed."""
        described = read_mark_file(Path(path), formats=(SCORE_FORMAT,), kind="watermark file of scores")
        try:
            key = opened(described, path)
            shared = None if described["shared"] is None else opened(described["shared"], path)
            scheme, basis = scheme_from_json(described["scheme"]), Basis.from_json(described["basis"])
            return cls(scheme, basis, key, str(described["created"]), shared)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MarkInvalid(f"{path} is not a complete watermark file: {named(error)}") from None


def save_score_profile(mark: ScoreWatermark, path: str | Path) -> None:
    """Writes the public profile. Raises MarkInvalid if `path` exists."""
    try:
        write_new(Path(path), pretty(mark.profile()))
    except FileExistsError:
        raise MarkInvalid(f"{path} exists; choose another name for the profile") from None


def save_basis(basis: Basis, path: str | Path) -> None:
    """Writes the public basis. Raises MarkInvalid if `path` exists."""
    try:
        write_new(Path(path), json.dumps(basis.to_json(), sort_keys=True).encode() + b"\n")
    except FileExistsError:
        raise MarkInvalid(f"{path} exists; choose another name for the basis") from None


def load_basis(path: str | Path) -> Basis:
    """Reads a basis. Raises MarkInvalid."""
    try:
        return Basis.from_json(json.loads(Path(path).read_bytes()))
    except (OSError, ValueError) as error:
        raise MarkInvalid(f"{path} is not a readable basis: {error}") from None
