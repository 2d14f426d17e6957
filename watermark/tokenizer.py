"""Tokenizer: text to ids exactly as the teacher's vocabulary has it, and a digest that tells vocabularies apart.

Reads a folder's `tokenizer.json` without transformers; other kinds of tokenizer go through transformers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.errors import OutputsInvalid
from watermark.files import canonical_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from watermark.chunks import Chunks

DEMO = "demo"
_SAID = ("__call__", "_encode_plus", "_batch_encode_plus", "decode", "_decode")  # how a text is read and written
_SIGNS = [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_FIRST_BLANK = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_MUCH = 1 << 17  # characters from which on looking up what recurs is worth its preparation


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary with its encoder. digest: SHA-256 of the sorted (id, token) pairs, added tokens included.

    special_ids: tokens that are never marked and never scored: special ones and those a template adds.
    """

    digest: str
    size: int
    special_ids: tuple[int, ...]
    source: str
    _backend: Any

    @classmethod
    def load(cls, source: str | Path) -> Tokenizer:
        """From a model folder, a .gguf file, "demo" for the embedded model, or a hub name.

        Raises OutputsInvalid if none can be read.
        """
        folder = model_path(source)
        described = folder / "tokenizer.json"
        if described.is_file():
            origin = DEMO if str(source) == DEMO else str(folder.resolve())
            return cls._from_file(described, origin)
        if folder.suffix == ".gguf" and folder.is_file():
            return replace(cls._from_hub(str(folder.parent), gguf_file=folder.name), source=str(folder.resolve()))
        return cls._from_hub(str(source))

    @classmethod
    def wrap(cls, tokenizer: Any) -> Tokenizer:
        """From a transformers tokenizer, or a Tokenizer as it is."""
        if isinstance(tokenizer, Tokenizer):
            return tokenizer
        special = set(tokenizer.all_special_ids)
        special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        return cls._made(tokenizer.get_vocab(), special, str(tokenizer.name_or_path or ""), tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, nothing added. Raises OutputsInvalid for half a character (a lone surrogate)."""
        if not texts:
            return []
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            raise OutputsInvalid("a text holds half a character (a lone surrogate); was it cut short?") from None
        if self.shareable:
            return [e.ids for e in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        encoded: list[list[int]] = self._backend(list(texts), add_special_tokens=False)["input_ids"]
        return encoded

    def arrays(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """As `encode`, one array a text; of many texts, words that recur are encoded once (`watermark.chunks`)."""
        import numpy as np

        few = "_chunks" not in vars(self) and sum(map(len, texts)) < _MUCH
        if few or self._chunks is None:
            return [np.array(ids, dtype=np.uint32) for ids in self.encode(texts)]
        try:
            ids, ends = self._chunks.encode(texts)
        except UnicodeEncodeError:
            raise OutputsInvalid("a text holds half a character (a lone surrogate); was it cut short?") from None
        return [ids[start:end] for start, end in pairwise([0, *ends.tolist()])]

    @cached_property
    def _chunks(self) -> Chunks | None:
        from watermark.chunks import Chunks

        return Chunks.of(self._backend) if self.shareable else None

    @property
    def shareable(self) -> bool:
        """Whether several threads may use it at once, which transformers' own tokenizers are not made for."""
        return hasattr(self._backend, "encode_batch_fast")

    @property
    def writes_bytes(self) -> bool:
        """Whether the text of some ids is that of their bytes end to end."""
        return type(getattr(self._backend, "decoder", None)).__name__ == "ByteLevel"

    @property
    def writes_signs(self) -> bool:
        """Whether the text of some ids is that of each behind another, end to end, but for a blank at its beginning:
        "▁" is read as a blank and <0x0A> as a byte, by the decoder of SentencePiece's vocabularies."""
        decoder = getattr(self._backend, "decoder", None) if self.shareable else None
        steps = json.loads(decoder.__getstate__()).get("decoders") if decoder is not None else None
        return steps is not None and steps[:3] == _SIGNS and steps[3:] in ([], [_FIRST_BLANK])

    def behind(self, ids: Sequence[int]) -> list[str]:
        """The text of each id where another stands before it, blanks included; "\ufffd" for a part of a character."""
        other = self.encode(["a"])[0][-1]
        (head,) = self.texts([[other]])
        found = self.texts([[other, index] for index in ids])
        return [text[len(head) :] if text.startswith(head) else "\ufffd" for text in found]

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of ids, every blank as the ids have it."""
        if hasattr(self._backend, "decode_batch"):
            decoded: list[str] = self._backend.decode_batch([list(row) for row in rows], skip_special_tokens=False)
            return decoded
        plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return [self._backend.decode(list(row), **plain) for row in rows]

    def spellings(self) -> list[bytes | None]:
        """The bytes that each id stands for, by id; None for special tokens and ids that are not used.

        With them, tokens of two vocabularies are the same where their bytes are.
        """
        whole = self._backend if hasattr(self._backend, "encode_batch") else self._backend.backend_tokenizer
        special, read = set(self.special_ids), _spelling(json.loads(whole.to_str()).get("decoder"))
        found: list[bytes | None] = [None] * self.size
        for token, index in whole.get_vocab(with_added_tokens=True).items():
            if index not in special and index < self.size:
                found[index] = read(token)
        return found

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id by itself, for display."""
        return self.texts([[i] for i in ids])

    @classmethod
    def from_text(cls, described: str, source: str) -> Tokenizer:
        """From the content of a tokenizer.json. source: where it was found."""
        import tokenizers

        return cls._ready(tokenizers.Tokenizer.from_str(described), source)

    @classmethod
    def _from_file(cls, described: Path, source: str) -> Tokenizer:
        import tokenizers

        try:
            backend = tokenizers.Tokenizer.from_file(str(described))
        except Exception as error:  # the library raises bare Exception
            raise OutputsInvalid(f"{described} is not a readable tokenizer: {error}") from None
        return cls._ready(backend, source)

    @classmethod
    def _ready(cls, backend: Any, source: str) -> Tokenizer:
        backend.no_padding()
        backend.no_truncation()
        special = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        return cls._made(backend.get_vocab(with_added_tokens=True), special, source, backend)

    @classmethod
    def _from_hub(cls, source: str, **options: str) -> Tokenizer:
        from transformers import AutoTokenizer

        try:
            return cls.wrap(AutoTokenizer.from_pretrained(source, **options))._alone()
        except Exception as error:  # hub, cache and format errors share no base
            raise OutputsInvalid(
                f"no tokenizer found at {source!r}: {first_line(error)}",
                hint="pass the teacher's model folder (it holds tokenizer.json)",
            ) from None

    def _alone(self) -> Tokenizer:
        """The same without transformers, where that adds nothing: the tokenizer within it reads faster, several threads
        may use it, and another machine gets it as JSON. Whose it was stays as it is."""
        if not _adds_nothing(self._backend):
            return self
        try:
            found = self.from_text(self._backend.backend_tokenizer.to_str(), self.source)
        except Exception:  # parts written in Python have no JSON; the library raises bare Exception
            return self
        same = (found.digest, found.size, found.special_ids) == (self.digest, self.size, self.special_ids)
        return found if same else self

    @classmethod
    def _made(cls, vocabulary: dict[str, int], special: set[int], source: str, backend: Any) -> Tokenizer:
        pairs = sorted((index, token) for token, index in vocabulary.items())
        digest = hashlib.sha256(canonical_json(pairs)).hexdigest()
        size = max(vocabulary.values()) + 1
        return cls(digest, size, tuple(sorted(special)), source, backend)


def _adds_nothing(wrapped: Any) -> bool:
    """Whether a transformers tokenizer encodes and decodes as the `tokenizers.Tokenizer` within it does: its class
    says nothing of its own on that (Code Llama's and Whisper's do), and special tokens in a text are read as such.

    What else tokenizer_config.json may say (a blank before the text, tokens added) is in the inner one already; lengths
    and padding are set anew for every call (transformers 5.23, tokenization_utils_tokenizers.py, `_encode_plus`).
    """
    from transformers import PreTrainedTokenizerFast as Common

    if not isinstance(wrapped, Common) or wrapped.backend_tokenizer.encode_special_tokens:
        return False
    return all(getattr(type(wrapped), name, None) is getattr(Common, name, None) for name in _SAID)


def _spelling(decoder: Any) -> Callable[[str], bytes]:
    """How a vocabulary writes bytes: GPT-2's alphabet of printable stand-ins, or SentencePiece's "▁" and "<0x0A>"."""
    if "ByteLevel" in json.dumps(decoder):
        return lambda token: b"".join(_STAND_INS.get(c) or c.encode() for c in token)

    def read(token: str) -> bytes:
        fallback = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
        return bytes([int(fallback[1], 16)]) if fallback else token.replace("\u2581", " ").encode()

    return read


def _stand_ins() -> dict[str, bytes]:
    """GPT-2's byte alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 onwards, in order."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(b): bytes([b]) for b in shown} | {chr(0x100 + n): bytes([b]) for n, b in enumerate(hidden)}


_STAND_INS = _stand_ins()


def demo_model() -> Path:
    """The folder of the embedded model."""
    return Path(__file__).parent / "demo" / "model"


def model_path(source: str | Path) -> Path:
    """Where a model lies: the embedded one for "demo", else `source` itself, which may also be a hub's name.

    Raises OutputsInvalid for a path that does not exist, before anyone asks a hub for it.
    """
    if str(source) == DEMO:
        return demo_model()
    if not Path(source).exists() and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(source)):
        raise OutputsInvalid(f"no model folder at {str(source)!r}", hint="pass a model folder, or 'demo'")
    return Path(source)


def first_line(error: Exception) -> str:
    """What an error of another library says, shortly."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def logits_width(source: str | Path) -> int | None:
    """Columns of a model's logits, from its config.json; None where no config is at hand."""
    folder = model_path(source)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except OSError:
        return None if folder.exists() else _hub_width(str(source))
    except ValueError:
        raise OutputsInvalid(f"{folder / 'config.json'} is not JSON") from None
    width = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    return int(width) if width else None


def _hub_width(source: str) -> int | None:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source)
    except Exception:  # hub, cache and format errors share no base
        return None
    return int(config.get_text_config().vocab_size)
