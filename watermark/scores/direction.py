"""Direction: a secret direction on the basis moves every answer by its sign there; scores' counterpart of a green list.

mark(x) = tanh(4 z(x)), z = phi(x) . U, U a standard normal matrix from the key. A part of z's energy may go to the
account (`account`) and to the single input (`own`), which only that account's logged queries reveal. Three members as
in every scheme: `tilt` on the way out, `score` (the cosine) on the way back, `null` for its law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from watermark.errors import MarkInvalid, OutputsInvalid
from watermark.scores import keyed, perturb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.keys import Key
    from watermark.scores.basis import Basis

Output = Literal["probabilities", "values", "embeddings", "labels"]
OUTPUTS = ("probabilities", "values", "embeddings", "labels")
SATURATION = 4.0
_ROWS = 512  # marked at a time: their cosines stay in the cache


@dataclass(frozen=True)
class Direction:
    """output: what is answered. channels: classes (2 or more), values, or an embedding's dimensions.

    epsilon: the most that a probability moves; in standard deviations for values; in lengths for embeddings.
    labels: how near to a coin toss an answer must be for the key to decide it; off unless this output is chosen.
    own, account: shares of the mark's energy that go to the single input and to the account, the rest to the
    deployment's direction. scale: standard deviation of each value, of values alone.
    """

    name: ClassVar[str] = "direction"
    version: ClassVar[int] = 1

    output: Output = "probabilities"
    channels: int = 2
    epsilon: float = 0.02
    own: float = 0.0
    account: float = 0.0
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, found {self.output!r}")
        least = {"probabilities": 2, "labels": 2, "embeddings": 4, "values": 1}[self.output]
        if type(self.channels) is not int or self.channels < least:
            raise ValueError(f"{self.output} need at least {least} channels, found {self.channels!r}")
        if not (math.isfinite(self.epsilon) and 0 < self.epsilon <= 0.5):
            raise ValueError(f"epsilon must be above 0 and at most 0.5, found {self.epsilon!r}")
        if not (0 <= self.own <= 0.9 and 0 <= self.account <= 0.9 and self.own + self.account <= 0.9):
            raise ValueError("own and account are shares of the energy, at most 0.9 together")
        object.__setattr__(self, "scale", tuple(float(s) for s in self.scale))
        wanted = self.channels if self.output == "values" else 0
        if len(self.scale) != wanted or not all(math.isfinite(s) and s > 0 for s in self.scale):
            raise ValueError(f"values need one positive scale for each channel ({wanted}), found {self.scale}")

    @property
    def width(self) -> int:
        """Columns of the key's matrix: one for two classes, whose probabilities mirror each other."""
        return 1 if self.channels == 2 and self.output in ("probabilities", "labels") else self.channels

    @property
    def zero_sum(self) -> bool:
        """Whether the matrix' rows sum to zero, as shifts of three or more classes do."""
        return self.output in ("probabilities", "labels") and self.channels > 2

    def dimensions(self, size: int) -> int:
        """Dimensions of the sphere that a direction is uniform on, for a basis of `size` functions."""
        return size * (self.width - 1 if self.zero_sum else self.width)

    def matrix(self, key: Key, size: int, *, part: str = "deployment") -> NDArray[np.float64]:
        """The key's direction (size, width), of length sqrt(size) a column on average. part: whose it is."""
        found = keyed.direction(key, f"{self.name}/{self.version}/{part}", (size, self.width))
        return self._centred(found)

    def numbers(self, key: Key, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        """The secret numbers of single inputs (n, width)."""
        label = f"{self.name}/{self.version}/input"
        return self._centred(keyed.input_numbers(key, label, coordinates, self.width))

    def score(self, coefficients: NDArray[np.float64], key: Key, *, part: str = "deployment") -> float:
        """Cosine between coefficients (size, width), whatever was read, and the key's direction."""
        direction = self.matrix(key, len(coefficients), part=part)
        return cosine(self._centred(coefficients), direction)

    def moved(self, answers: NDArray[np.float64], marks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Answers (n, channels) under the mark's raw values z (n, width); a new array.

        Embeddings move along z itself, the others by tanh(4 z) within their room.
        """
        if self.output == "embeddings":
            return perturb.vectors(answers, marks / math.sqrt(self.channels), self.epsilon)
        signs = np.tanh(SATURATION * marks)
        if self.output == "values":
            return perturb.values(answers, signs, self.epsilon, np.array(self.scale))
        if self.output == "labels":
            return perturb.dithered(answers, both(signs), self.epsilon).astype(np.float64)
        if self.channels == 2:
            second = perturb.binary(answers[:, 1], signs[:, 0], self.epsilon)
            return np.column_stack([1 - second, second])
        return perturb.classes(answers, signs, self.epsilon)

    def _centred(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return matrix - matrix.mean(axis=1, keepdims=True) if self.zero_sum else matrix


def both(signs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signs of two classes from those of the second one."""
    return np.column_stack([-signs[:, 0], signs[:, 0]]) if signs.shape[1] == 1 else signs


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of two arrays of one shape; 0 where one of them is zero."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum() / lengths) if lengths > 0 else 0.0


def scheme_to_json(scheme: Direction) -> dict[str, Any]:
    import dataclasses

    held = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(scheme).items()}
    return {"name": scheme.name, "version": scheme.version, "parameters": held}


def scheme_from_json(described: Any) -> Direction:
    """Raises MarkInvalid."""
    if not isinstance(described, dict) or described.get("name") != Direction.name:
        raise MarkInvalid("this is no scheme of scores")
    if described.get("version") != Direction.version:
        raise MarkInvalid(f"scheme direction version {described.get('version')!r} is not known here")
    try:
        return Direction(**described["parameters"])
    except (TypeError, ValueError, KeyError) as error:
        raise MarkInvalid(f"scheme direction has unusable parameters: {error}") from None


class Marker:
    """What marks answers: a scheme, a basis and the keys, with their product folded once.

    deployment: the key all answers share. account: that of the account served; without one its part of the energy
    stays with the deployment. One is made per served account and may be shared by threads.
    """

    def __init__(self, scheme: Direction, basis: Basis, deployment: Key, account: Key | None = None) -> None:
        self.scheme, self.basis = scheme, basis
        self._deployment, self._account = deployment, account
        smooth = math.sqrt(1 - scheme.own) * self._smooth()
        self._weights, self._offset = basis.folded(smooth)

    def __reduce__(self) -> Any:
        raise TypeError("a marker holds a key and is not pickled; save its watermark to a file instead")

    def _smooth(self) -> NDArray[np.float64]:
        """The whole smooth direction, scaled so that z has unit variance on the reference."""
        size, scheme = self.basis.size, self.scheme
        shared = scheme.matrix(self._deployment, size)
        if self._account is None or not scheme.account:
            return shared / math.sqrt(size)
        share = scheme.account / (1 - scheme.own)
        own = scheme.matrix(self._account, size, part="account")
        return (math.sqrt(1 - share) * shared + math.sqrt(share) * own) / math.sqrt(size)

    def marks(self, inputs: Any) -> NDArray[np.float64]:
        """z (n, width): of zero mean and about unit variance over inputs like the reference."""
        coordinates = self.basis.coordinates(inputs)
        found = np.empty((len(coordinates), self.scheme.width))
        for start in range(0, len(coordinates), _ROWS):
            few = slice(start, start + _ROWS)
            found[few] = self.basis.cosines(coordinates[few]) @ self._weights - self._offset
        if self.scheme.own:
            key = self._deployment if self._account is None else self._account
            found = found + math.sqrt(self.scheme.own) * self.scheme.numbers(key, coordinates)
        return found

    def tilt(self, answers: Any, inputs: Any) -> NDArray[np.float64]:
        """Marked answers. answers: (n, channels), or (n,) for one class of two or one value; the same shape returns.

        Raises OutputsInvalid for answers that are no probabilities, are not finite, or do not match the inputs.
        """
        given = np.asarray(answers, dtype=np.float64)
        rows = as_rows(given, self.scheme)
        marks = self.marks(inputs)
        if len(rows) != len(marks):
            raise OutputsInvalid(f"{len(rows)} answers for {len(marks)} inputs; there should be one for each")
        moved = self.scheme.moved(rows, marks)
        if self.scheme.output == "labels":
            return moved
        if given.ndim == 2:
            return moved
        return moved[:, 1] if self.scheme.output == "probabilities" else moved[:, 0]


def as_rows(answers: NDArray[np.float64], scheme: Direction) -> NDArray[np.float64]:
    """Answers as (n, channels), checked. Raises OutputsInvalid."""
    if not np.isfinite(answers).all():
        bad = int((~np.isfinite(answers.reshape(len(answers), -1)).all(axis=1)).sum())
        raise OutputsInvalid(f"{bad} answers are not finite numbers")
    if answers.ndim == 1 and scheme.output in ("probabilities", "labels") and scheme.channels == 2:
        answers = np.column_stack([1 - answers, answers])
    if answers.ndim == 1 and scheme.output == "values":
        answers = answers[:, None]
    if answers.ndim != 2 or answers.shape[1] != scheme.channels:
        raise OutputsInvalid(f"answers have shape {answers.shape}, the mark was made for {scheme.channels} channels")
    if scheme.output in ("probabilities", "labels"):
        off = np.abs(answers.sum(axis=1) - 1) > 1e-6
        if (answers < 0).any() or (answers > 1).any() or off.any():
            row = int(np.argmax((answers < 0).any(axis=1) | (answers > 1).any(axis=1) | off))
            raise OutputsInvalid(
                f"the answer in row {row + 1} is no distribution: {np.round(answers[row], 4).tolist()}",
                hint="the embedder marks probabilities that sum to one, before they are rounded or cut",
            )
    return answers
