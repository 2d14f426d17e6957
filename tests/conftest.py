"""What many tests share: a small tokenizer trained on the spot, innocent corpora, a source to sample from.

Nothing is downloaded. The text is that of the installed Python: its documentation (English), its modules
(code), and text generated from templates.
"""

from __future__ import annotations

import ast
import os
import random
import signal
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels for a GPU are run all the same, in Triton's interpreter

import numpy as np
import pytest
from hypothesis import settings
from scipy.stats import binom

from watermark.keys import Key, decoy_keys
from watermark.mark import Binding, Watermark
from watermark.schemes import GreenList
from watermark.tokenizer import Tokenizer

settings.register_profile("gate", derandomize=True)  # a submission is judged by the same examples each time
if os.environ.get("CI"):
    settings.load_profile("gate")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would the tests

VOCABULARY = 2048
LIBRARY = Path(sysconfig.get_paths()["stdlib"])


@dataclass(frozen=True)
class Bigrams:
    """A language model of one matrix: logits (V, V) of the next id given the last."""

    logits: np.ndarray
    start: np.ndarray

    def sample(
        self,
        rows: int,
        steps: int,
        rng: np.random.Generator,
        *,
        tilt: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        window: int = 2,
        temperature: float = 1.0,
    ) -> np.ndarray:
        """(rows, window + steps) ids; the first `window` are unmarked. tilt: logits, contexts -> logits."""
        ids = rng.choice(self.start, (rows, 1))
        for step in range(window - 1 + steps):
            logits = self.logits[ids[:, -1]] / np.float32(temperature)
            if tilt is not None and step >= window - 1:
                logits = tilt(logits, ids[:, -window:])
            noise = -np.log(rng.standard_exponential(logits.shape, dtype=np.float32) + np.float32(1e-30))
            ids = np.concatenate([ids, (logits + noise).argmax(axis=1)[:, None]], axis=1)
        return ids


def _english() -> str:
    """The language reference that `help()` shows, and the docstrings of the standard library."""
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)]
    for path in sorted(LIBRARY.glob("*.py")):
        tree = ast.parse(path.read_bytes())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
        texts += [text for text in found if text and len(text) > 80]
    return "\n\n".join(texts)


def _code() -> str:
    folders = ("asyncio", "concurrent", "email", "http", "importlib", "json", "logging", "unittest", "xml")
    paths = [path for folder in folders for path in sorted((LIBRARY / folder).rglob("*.py"))]
    return "\n".join(path.read_text("utf-8") for path in paths)


def _templated() -> str:
    """Logs and form letters: few templates, many copies, small differences."""
    rng, lines = random.Random(7), []
    names = ["Adams", "Baker", "Clarke", "Dutta", "Evans", "Fischer", "Garcia", "Hansen"]
    for number in range(9_000):
        code, spent = rng.choice([200, 200, 200, 404, 503]), rng.randrange(1, 400)
        lines.append(
            f'{{"time": "2026-01-{number % 28 + 1:02d}T10:{number % 60:02d}:00Z", "level": "info", '
            f'"route": "/v1/orders/{rng.randrange(10_000)}", "status": {code}, "ms": {spent}}}'
        )
        if number % 9 == 0:
            lines.append(
                f"Dear Dr {rng.choice(names)},\n\nThank you for your order number {rng.randrange(10_000)}. "
                f"It will be sent to you within {rng.randrange(2, 9)} days. If you have any questions, please "
                "do not hesitate to contact us.\n\nYours sincerely,\nThe customer service team\n"
            )
    return "\n".join(lines)


@pytest.fixture(scope="session")
def texts() -> dict[str, str]:
    """Innocent text of three kinds: real English, code, templates."""
    return {"english": _english(), "code": _code(), "templated": _templated()}


@pytest.fixture(scope="session")
def teacher_folder(texts: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokenizer.json: byte-level BPE of 2,048 ids, the last two special."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([text[:300_000] for text in texts.values()], trainer)
    made.add_special_tokens(["<|end|>", "<|user|>"])
    folder = tmp_path_factory.mktemp("teacher")
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tokenizer(teacher_folder: Path) -> Tokenizer:
    return Tokenizer.load(teacher_folder)


@pytest.fixture(scope="session")
def binding(tokenizer: Tokenizer) -> Binding:
    return Binding(tokenizer.digest, tokenizer.size, tokenizer.special_ids, tokenizer.source)


@pytest.fixture(scope="session")
def key() -> Key:
    return next(iter(decoy_keys(b"the tests' own key", 1)))


@pytest.fixture(scope="session")
def mark(key: Key, binding: Binding) -> Watermark:
    """Green list of width 2 under a fixed key, bound to the small tokenizer."""
    return Watermark(GreenList(window=2, gamma=0.25, delta=2.0), key, binding)


@pytest.fixture(scope="session")
def corpora(texts: dict[str, str], tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """The three texts as token ids, up to about half a million each."""
    tokenized = {}
    for name, text in texts.items():
        pieces = [text[i : i + 20_000] for i in range(0, min(len(text), 1_600_000), 20_000)]
        tokenized[name] = np.concatenate([np.array(ids) for ids in tokenizer.encode(pieces)])
    return tokenized


@pytest.fixture(scope="session")
def source(corpora: dict[str, np.ndarray], tokenizer: Tokenizer) -> Bigrams:
    """A bigram model of the English corpus, smoothed with single counts; it never says a special token."""
    ids = corpora["english"]
    single = np.bincount(ids, minlength=tokenizer.size)
    pairs = np.bincount(ids[:-1] * tokenizer.size + ids[1:], minlength=tokenizer.size**2)
    share = single / single.sum()
    counts = pairs.reshape(tokenizer.size, -1) + 0.5 * share
    with np.errstate(divide="ignore"):
        logits = np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    return Bigrams(logits, ids)


@dataclass(frozen=True)
class Served:
    """Answers sampled under a mark: ids (rows, length)."""

    mark: Watermark
    ids: np.ndarray


@pytest.fixture(scope="session")
def served(source: Bigrams, binding: Binding) -> list[Served]:
    """400 keys, each with 48 marked answers of 32 tokens; widths 1 and 2 by turns."""
    rng, made = np.random.default_rng(11), []
    for number, key in enumerate(decoy_keys(b"served", 400)):
        mark = Watermark(GreenList(window=1 + number % 2), key, binding)
        made.append(Served(mark, source.sample(48, 30, rng, tilt=mark.tilt, window=mark.scheme.window)))
    return made


@pytest.fixture(scope="session")
def holds_level() -> Callable[[Any, str], None]:
    """Checks that p-values (given as log10) keep their level at 0.05, 0.01 and 0.001.

    The count of rejections may not pass the 99.9 % point of its binomial law at the nominal level.
    """

    def check(log10_p: Any, what: str) -> None:
        found = np.asarray(log10_p)
        for level in (0.05, 0.01, 0.001):
            count, most = int((found <= np.log10(level)).sum()), int(binom.ppf(0.999, len(found), level))
            assert count <= most, f"{what}: {count} of {len(found)} rejected at {level}, {most} would still be chance"

    return check
