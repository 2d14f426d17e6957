"""check_adapter(): whether an adapter makes the mark that `detect` reads, in any engine, by program.

Fixed logits under fixed keys must come out as this package's own numpy text has them, to the bit in every precision,
and what the engine then says must be found. Who writes an adapter of her own passes the same check as ours did
(docs/adapters.md; results for the engines we know: docs/results/conformance.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from watermark.accounts import Accounts
from watermark.detect import detect
from watermark.errors import EmbeddingRefused
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark, contexts_of
from watermark.outputs import Output
from watermark.schemes import GreenList

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watermark.tokenizer import Tokenizer

    Histories = list[list[int]]
    Tilt = Callable[[Watermark, Histories, NDArray[np.float32], str], NDArray[np.float32]]
    Generate = Callable[[Sequence[Watermark | None]], Sequence["Answer"]]

WIDTH, ROWS = 1000, 12
SPECIAL = (0, 1, 2)
# SHA-256 of the tilted float32 logits of all vectors
GOLDEN = "dc6c6774490e84cc817ae59ac5524be9d18ee721c9d5720046bbc6037d07503b"
ENOUGH = -6.0
MOST = 2000


@dataclass(frozen=True)
class Answer:
    """What an engine said to one request. logprobs: whatever numbers it tells of each token, to compare runs by."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class AdapterCheck:
    """The result: print it for words. cells, differing: logits compared with the vectors, and those that differ.

    tokens, log10_p: of the marked answers, None where nothing was generated; untouched: whether unmarked requests
    beside them gave the ids and log-probabilities of a run without any mark.
    """

    engine: str
    precisions: tuple[str, ...]
    cells: int
    differing: int
    tokens: int = 0
    log10_p: float | None = None
    untouched: bool | None = None

    @property
    def passed(self) -> bool:
        found = self.log10_p is None or (self.log10_p <= ENOUGH and self.tokens <= MOST)
        return self.differing == 0 and found and self.untouched is not False

    def require(self) -> None:
        """Raises EmbeddingRefused unless the adapter passed."""
        if not self.passed:
            raise EmbeddingRefused(str(self), hint="do not serve with this adapter: its mark may not be found later")

    def __str__(self) -> str:
        bits = "equal to the bit" if self.differing == 0 else f"{self.differing:,} differ"
        said = [f"{self.engine}: {self.cells:,} logits in {', '.join(self.precisions)}, {bits}"]
        if self.log10_p is not None:
            said.append(f"{self.tokens:,} marked tokens generated and detected with log10 p {self.log10_p:.1f}")
        if self.untouched is not None:
            said.append(f"unmarked requests {'untouched' if self.untouched else 'CHANGED'}")
        return "; ".join(said) + f": {'passed' if self.passed else 'FAILED'}"


def check_adapter(
    tilt: Tilt,
    *,
    engine: str,
    precisions: Sequence[str] = ("float32",),
    generate: Generate | None = None,
    mark: Watermark | None = None,
    tokenizer: Tokenizer | None = None,
) -> AdapterCheck:
    """Runs an adapter on the golden vectors and, with `generate`, on the engine itself.

    tilt: the adapter, `(mark, histories, logits, precision) -> logits`: ids so far of each row, float32 logits (b, V)
    to be handed over in the named precision, and what came back, as float32. The values of the vectors fit every
    precision, so that the result has no tolerance. generate: `marks -> answers`, one request for each mark or None, in
    one batch where the engine has batches; the same prompts and seeds at each call. mark, tokenizer: for generate.
    Raises ValueError if `generate` comes without a mark.
    """
    expected, found = hashlib.sha256(), []
    for given, histories, logits in _vectors():
        wanted = given.tilt(logits, contexts_of(histories, given.scheme.window))
        expected.update(wanted.tobytes())
        found += [int((tilt(given, histories, logits, precision) != wanted).sum()) for precision in precisions]
    if expected.hexdigest() != GOLDEN:
        raise EmbeddingRefused("this installation's own tilt differs from the golden vectors; install wmark anew")
    checked = AdapterCheck(engine, tuple(precisions), len(found) * ROWS * WIDTH, sum(found))
    return checked if generate is None else _round_trip(checked, generate, mark, tokenizer)


def _round_trip(
    checked: AdapterCheck, generate: Generate, mark: Watermark | None, tokenizer: Tokenizer | None
) -> AdapterCheck:
    if mark is None:
        raise ValueError("a round trip needs the mark that is served")
    mixed: list[Watermark | None] = [mark, None, mark, None]
    with_mark, without = generate(mixed), generate([None] * len(mixed))
    outputs = [
        Output(str(n), token_ids=answer.token_ids, prompt_token_ids=())
        for n, (answer, own) in enumerate(zip(with_mark, mixed, strict=True))
        if own is not None
    ]
    plain = [n for n, own in enumerate(mixed) if own is None]
    return AdapterCheck(
        checked.engine,
        checked.precisions,
        checked.cells,
        checked.differing,
        tokens=sum(len(output.token_ids or ()) for output in outputs),
        log10_p=detect(outputs, mark, tokenizer=tokenizer, decoys=99).log10_p,
        untouched=all(with_mark[n] == without[n] for n in plain),
    )


def _vectors() -> Iterator[tuple[Watermark, Histories, NDArray[np.float32]]]:
    """Marks of three widths and one account's, each with twelve histories and rows of logits.

    Logits are multiples of a sixteenth in [-8, 8) and so, with a delta of 2, exact in bfloat16; some are minus
    infinity. Histories are arbitrary ids; some are shorter than a window, or hold special tokens in it.
    """
    binding = Binding("check_adapter", WIDTH, SPECIAL)
    keys = list(decoy_keys(b"check_adapter", 4))
    for number, (window, gamma) in enumerate(((1, 0.25), (2, 0.5), (4, 0.25))):
        yield Watermark(GreenList(window, gamma, 2.0), keys[number], binding), *_rows(number)
    shared = Watermark(GreenList(2, 0.25, 2.0), keys[3], binding, accounts=Accounts())
    yield shared.account("check"), *_rows(3)


def _rows(number: int) -> tuple[Histories, NDArray[np.float32]]:
    cells = np.arange(ROWS * WIDTH, dtype=np.uint64) + np.uint64(number * ROWS * WIDTH)
    drawn = (cells * np.uint64(2654435761) >> np.uint64(7)) % np.uint64(256)
    logits = ((drawn.astype(np.float32) - np.float32(128)) / np.float32(16)).reshape(ROWS, WIDTH)
    logits[:, 5::37] = -np.inf
    histories = [[int(3 + (17 * row + 31 * at + 7 * number) % (WIDTH - 3)) for at in range(row)] for row in range(ROWS)]
    histories[7][-1] = histories[9][-2] = SPECIAL[1]
    return histories, logits
