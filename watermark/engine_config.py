"""The fields of an engine's configuration file, each asked for once, and what is known of the model it serves.

Nothing here repeats a key, nor the value of a field that may hold one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.errors import KeyUnusable, MarkInvalid, ProfileMismatch

if TYPE_CHECKING:
    from watermark.tokenizer import Tokenizer

NESTED = ("watermarking_config", "watermark_config", "watermark-config", "watermark")
DEPTHS = (
    654, 400, 836, 123, 340, 443, 597, 160, 57, 29, 590, 639, 13, 715, 468, 990, 966, 226, 324, 585, 118, 504, 421, 521,
    129, 669, 732, 225, 90, 960,
)  # fmt: skip  # SynthID's example keys, those of every engine's documentation
CUDA = (
    "what is read is drawn on a CPU; this engine draws on the device that it runs on, and text it marked on CUDA shows "
    "as unmarked"
)


class Config:
    """Fields of a configuration, each asked for once; `close` refuses what nobody asked for."""

    def __init__(self, fields: dict[str, Any], path: str | Path) -> None:
        self._left = {name: value for name, value in fields.items() if value is not None}
        self._path = path
        self._defaults: list[str] = []
        self.warnings: list[str] = []

    def close(self) -> None:
        """Raises MarkInvalid for fields that are left; says which defaults were taken."""
        if self._left:
            names = ", ".join(sorted(map(str, self._left)))
            raise self.refused(
                f"has fields that are not known here and may change the recipe: {names}",
                hint="is it the file of another engine or version? leave out what does not belong to the mark",
            )
        if self._defaults:
            self.warnings.append(f"not in the file, so the engine's defaults are taken: {', '.join(self._defaults)}")

    def has(self, name: str) -> bool:
        return name in self._left

    def refused(self, found: str, *, hint: str | None = None) -> MarkInvalid:
        return MarkInvalid(f"{self._path} {found}", hint=hint)

    def unkeyed(self, found: str) -> KeyUnusable:
        return KeyUnusable(f"{self._path}: {found}")

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def leave(self, *names: str) -> None:
        """Fields that say nothing of the recipe."""
        for name in names:
            self._left.pop(name, None)

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._value(name, default)
        if type(value) is not int:
            raise self.refused(f"should have a whole number in {name!r}, found {type(value).__name__}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._value(name, default)
        if type(value) not in (int, float):
            raise self.refused(f"should have a number in {name!r}, found {type(value).__name__}")
        return float(value)

    def share(self, name: str, default: float | None = None) -> float:
        """A number between 0 and 1, neither included."""
        value = self.number(name, default)
        if not 0 < value < 1:
            raise self.refused(f"should have a number between 0 and 1 in {name!r}, found {value:g}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.refused(f"should have a word in {name!r}, found {type(value).__name__}")
        return value

    def choice(self, name: str, known: Iterable[str], default: str | None = None, *, why: str = "") -> str:
        """One of the words that are read. why: what keeps the others from being read."""
        value, known = self.text(name, default), tuple(known)
        if value not in known:
            shown = re.sub(r"\d{3,}", "…", value)  # a seeding scheme may end with its key
            raise self.refused(f"has {name} {shown!r}, which is not read{why}; what is: {', '.join(known)}")
        return value

    def fixed(self, name: str, needed: Any, *, why: str) -> None:
        """A field that may be absent and must else have this value."""
        if name in self._left and self._left.pop(name) != needed:
            raise self.refused(f"has {name} other than {needed!r}: {why}")

    def cpu(self) -> None:
        """Refuses a device other than the CPU where one is named; else says what would follow."""
        device = str(self._left.pop("device", "")).strip()
        if device and not device.startswith("cpu"):
            raise self.refused("has a device other than the CPU: there other lists are drawn, which are not read")
        if not device:
            self.warn(CUDA)

    def cuda(self) -> bool:
        """Whether the file names a CUDA device, for a recipe that is read on both; says what follows if it has none."""
        device = str(self._left.pop("device", "")).strip()
        if device and not device.startswith(("cpu", "cuda")):
            raise self.refused("has a device other than the CPU or CUDA: there another table is drawn")
        if not device:
            self.warn('taken for a mark made on a CPU; if it was made on a GPU, add "device": "cuda" to the file')
        return device.startswith("cuda")

    def word(self, name: str, *, public: int | None = None, signed: bool = False) -> int:
        """A key, a whole number of 64 bits, never shown. public: the engine's default, taken if none is stated."""
        value = self._key(name, public)
        if type(value) is not int or not (-(2**63) if signed else 0) <= value < 2**64:
            raise self.unkeyed(f"the key, {name!r}, should be a whole number of 64 bits" + ", from 0 on" * (not signed))
        if value == public:
            self.warn(f"{public} is the key that the engine comes with: who else left it unchanged has the same mark")
        return value

    def words(self, name: str) -> list[int]:
        """A key for each layer of SynthID."""
        values = self._left.pop(name, None)
        if not isinstance(values, list) or not values:
            raise self.unkeyed(f"{name!r} should be a list of whole numbers, one a layer")
        if any(type(value) is not int or not -(2**63) <= value < 2**64 for value in values):
            raise self.unkeyed(f"{name!r} should hold whole numbers of 64 bits alone")
        if tuple(values) == DEPTHS[: len(values)]:
            self.warn(f"these {name} are the documentation's: who else copied them has the same mark")
        return values

    def quarters(self, name: str) -> list[int]:
        """A key of 256 bits as four words, the least significant first."""
        value = self._key(name, None)
        if type(value) is not int or not 0 <= value < 2**256:
            raise self.unkeyed(f"the key, {name!r}, should be a whole number of 256 bits")
        return [value >> shift & (2**64 - 1) for shift in (0, 64, 128, 192)]

    def digits(self, name: str, *, most: int) -> str:
        """A key of at most `most` hexadecimal digits, "0x" before them left off."""
        value = self._key(name, None)
        found = re.fullmatch(r"(?:0[xX])?([0-9a-fA-F]+)", value) if isinstance(value, str) else None
        if found is None or len(found[1]) > most:
            raise self.unkeyed(f"the key, {name!r}, should be 1 to {most} hexadecimal digits in quotes")
        return found[1]

    def _key(self, name: str, public: int | None) -> Any:
        value = self._left.pop(name, public)
        if value is None:
            raise self.unkeyed(f"the key, {name!r}, is missing; needed is the one that marked the answers")
        return value

    def _value(self, name: str, default: Any) -> Any:
        if name not in self._left:
            if default is None:
                raise self.refused(f"has no {name!r}, which the recipe needs")
            self._defaults.append(f"{name} {default}")
        return self._left.pop(name, default)


@dataclass(frozen=True)
class Model:
    """What is known of the model that is served."""

    tokenizer: Tokenizer | None
    logits_width: int | None

    def columns(self) -> int:
        """Columns of its logits. Raises ProfileMismatch where they are not known."""
        if self.logits_width is None:
            raise ProfileMismatch(
                "the lists of this recipe run over the model's logits, and how many these are is not known",
                hint="pass --model with the model's folder: its config.json says so",
            )
        return self.logits_width

    def listed(self) -> int:
        """Tokens in the tokenizer's list, gaps not counted. Raises ProfileMismatch without a tokenizer."""
        if self.tokenizer is None:
            raise ProfileMismatch(
                "the lists of this recipe run over the tokenizer's vocabulary, and no tokenizer is known",
                hint="pass --model with the model's folder",
            )
        return sum(spelt is not None for spelt in self.tokenizer.spellings()) + len(self.tokenizer.special_ids)

    def stated(self, config: Config) -> int | None:
        """The file's own `vocab_size`, if it has one. Raises ProfileMismatch if that is beyond the logits."""
        if not config.has("vocab_size"):
            return None
        found = config.whole("vocab_size")
        if self.logits_width is not None and found > self.logits_width:
            raise ProfileMismatch(
                f"the configuration's vocab_size is {found}, the model has {self.logits_width} logits",
                hint="pass --model with the model that this configuration was served with",
            )
        return found


def fields_of(path: Path) -> dict[str, Any]:
    """The fields that describe the mark, of a file that may hold others beside them. Raises MarkInvalid."""
    try:
        raw = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is not text"
        raise MarkInvalid(f"{path} cannot be read: {said}") from None
    fields = _parsed(raw, path)
    nested = next((name for name in NESTED if isinstance(fields, dict) and name in fields), None)
    fields = fields if nested is None else fields[nested]
    if isinstance(fields, str):  # as it would stand on a command line
        fields = _parsed(fields, path.with_suffix(".json"))
    if not isinstance(fields, dict) or not fields:
        raise MarkInvalid(f"{path} holds no configuration of a mark, which would be an object with named fields")
    return fields


def _parsed(raw: str, path: Path) -> Any:
    """The file's content; what a parser says of it is not repeated, for it quotes the line, which may hold the key."""
    if path.suffix in (".yaml", ".yml"):
        import yaml  # type: ignore[import-untyped]

        try:
            return yaml.safe_load(raw)
        except yaml.YAMLError:
            raise MarkInvalid(f"{path} is not YAML") from None
    try:
        return json.loads(raw)
    except ValueError:
        raise MarkInvalid(f"{path} is not JSON", hint="a YAML file should end in .yaml") from None
