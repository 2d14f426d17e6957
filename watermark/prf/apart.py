"""Totals in numpy over several processes: numpy's threads wait for the interpreter's lock after every step.

`python -m watermark.prf.apart` reads cells and subkeys from standard input, for subkeys are secret and never stand in a
file or on a command line, and writes the totals of `reference.totals` to standard output.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from watermark import child
from watermark.prf import reference

if TYPE_CHECKING:
    from numpy.typing import NDArray


def totals(
    windows: NDArray[np.uint32],
    tokens: NDArray[np.uint32],
    weights: NDArray[np.int32],
    words: NDArray[np.uint32],
    counting: reference.Counting,
) -> NDArray[np.int64]:
    """As `reference.totals`, each of `threads()` processes with its share of the keys; this one is among them.

    What a process leaves undone, if it cannot be started or is stopped, is done here.
    """
    own, *others = np.array_split(words, min(reference.threads(), len(words)))
    cells = (windows, tokens, weights, np.array([counting.below]), counting.high, counting.low)
    with contextlib.ExitStack() as stack:
        begun = [_begun(stack, (*cells, share)) for share in others]
        found = [reference.totals(windows, tokens, weights, own, counting)]
        for share, other in zip(others, begun, strict=True):
            made = None if other is None else _answer(other, (len(share), len(weights)))
            found.append(reference.totals(windows, tokens, weights, share, counting) if made is None else made)
    return np.concatenate(found)


def _begun(stack: contextlib.ExitStack, given: tuple[NDArray[Any], ...]) -> subprocess.Popen[bytes] | None:
    try:
        begun = subprocess.Popen(
            child.command("watermark.prf.apart"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child.environment(),
        )
    except OSError:
        return None
    stack.callback(_ended, begun)
    assert begun.stdin is not None
    content = io.BytesIO()
    for array in given:
        np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
    with contextlib.suppress(BrokenPipeError), begun.stdin as stream:
        stream.write(content.getbuffer())
    return begun


def _answer(begun: subprocess.Popen[bytes], shape: tuple[int, int]) -> NDArray[np.int64] | None:
    """What a process found; None if it did not come to its end."""
    assert begun.stdout is not None
    content = begun.stdout.read()
    if begun.wait() or len(content) != 8 * shape[0] * shape[1]:
        return None
    return np.frombuffer(content, dtype="<i8").astype(np.int64).reshape(shape)


def _ended(begun: subprocess.Popen[bytes]) -> None:
    begun.kill()
    begun.wait()
    if begun.stdout is not None:
        begun.stdout.close()


def _serve(given: IO[bytes], made: IO[bytes]) -> None:
    content = io.BytesIO(given.read())
    windows, tokens, weights, below, high, low, words = (
        np.lib.format.read_array(content, allow_pickle=False) for _ in range(7)
    )
    counting = reference.Counting(int(below[0]), high, low)
    made.write(reference.totals(windows, tokens, weights, words, counting).astype("<i8").tobytes())
    made.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
