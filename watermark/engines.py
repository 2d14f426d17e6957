"""An engine's own configuration file becomes a watermark: `import_mark`. `check_against` holds it to a profile."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.engine_config import Config, Model, fields_of
from watermark.engine_readers import READERS
from watermark.errors import MarkInvalid, ProfileMismatch
from watermark.keys import Key
from watermark.mark import Binding, Watermark
from watermark.schemes import Scheme
from watermark.schemes.engines import ENGINES

if TYPE_CHECKING:
    from watermark.tokenizer import Tokenizer

__all__ = ["READERS", "Imported", "check_against", "import_mark"]

UNBOUND = "the mark is bound to no tokenizer: pass --model here, or --tokenizer to `wmark detect` with text"


@dataclass(frozen=True)
class Imported:
    """The mark, and sentences on what its owner should know."""

    mark: Watermark
    warnings: tuple[str, ...]


def import_mark(
    path: str | Path, engine: str, *, tokenizer: Tokenizer | None = None, logits_width: int | None = None
) -> Imported:
    """The mark that `engine` (one of `READERS`) makes under its configuration file, JSON or YAML.

    tokenizer, logits_width: of the model that is served; recipes whose lists run over the vocabulary need them.
    Raises MarkInvalid for a file or field that cannot be read, KeyUnusable for a key that cannot be, ProfileMismatch
    if vocabulary and logits do not fit.
    """
    if engine not in READERS:
        raise MarkInvalid(f"no engine {engine!r} is read; known are {', '.join(READERS)}")
    if tokenizer is not None and logits_width is not None and logits_width < tokenizer.size:
        raise ProfileMismatch(f"the tokenizer has {tokenizer.size} ids, the logits only {logits_width} columns")
    config = Config(fields_of(Path(path)), path)
    name, parameters, words = READERS[engine](config, Model(tokenizer, logits_width))
    config.close()
    key = Key.of_engine(words)
    scheme = _checked(name, parameters, key, path)
    bound = None
    if tokenizer is not None:
        bound = Binding(tokenizer.digest, logits_width or tokenizer.size, tokenizer.special_ids, tokenizer.source)
    readable = stat.S_IMODE(Path(path).stat().st_mode) & 0o077
    unsafe = [f"{path} holds the key and can be read by others; chmod 600 {path}"] if readable else []
    unbound = [UNBOUND] if bound is None else []
    return Imported(Watermark(scheme, key, bound), (*config.warnings, *unsafe, *unbound))


def check_against(mark: Watermark, profile: dict[str, Any]) -> None:
    """Raises ProfileMismatch unless `mark` is read as the published profile says, naming what was found and needed.

    Kid and commitment may differ, for an import draws new ones for the same key; delta plays no part in reading.
    """
    found, needed = _flat(mark.profile()), _flat(profile)
    names = sorted({*found, *needed})
    if found["recipe"] != needed["recipe"]:  # whose parameters are not the same things
        names = ["recipe", *(name for name in names if name.startswith("tokenizer "))]
    differing = [
        f"{name} is {_short(found.get(name))} here, needed is {_short(needed.get(name))}"
        for name in names
        if found.get(name) != needed.get(name)
    ]
    if differing:
        raise ProfileMismatch(
            f"this is not the mark of profile {profile.get('kid')}: {'; '.join(differing)}; text marked under one "
            "is read wrongly, mostly as unmarked, under the other",
            hint="import the configuration that the answers were served under, with the model that served them",
        )


def _checked(name: str, parameters: dict[str, Any], key: Key, path: str | Path) -> Scheme:
    try:
        scheme: Scheme = ENGINES[name](**parameters)
    except ValueError as error:
        raise MarkInvalid(f"{path} does not make a mark that is read: {error}") from None
    check: Callable[[Key], None] | None = getattr(scheme, "check_key", None)
    if check is not None:
        check(key)
    return scheme


def _flat(profile: dict[str, Any]) -> dict[str, Any]:
    """What a profile says of how text is read, by name. Raises MarkInvalid for a profile that is not whole."""
    try:
        scheme, bound = profile["scheme"], profile["tokenizer"] or {}
        made: dict[str, Any] = {"recipe": f"{scheme['name']} version {scheme['version']}"} | scheme["parameters"]
        made |= {f"tokenizer {name}": value for name, value in bound.items()}
    except (KeyError, TypeError, AttributeError):
        raise MarkInvalid("the profile is not whole: it should say scheme and tokenizer") from None
    made.pop("delta", None)
    return made


def _short(value: Any) -> str:
    """A value for reading."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"{len(value)} ids"
    shown = "nothing" if value is None else str(value)
    return shown if len(shown) <= 40 else f"{shown[:12]}…"
