"""Tilts on a GPU by kernels that are told all at once: ids, keys, special tokens, which rows to leave alone.

They serve logits on CUDA under a scheme of ours (one with `tilt_fused`), for one mark or for a batch of accounts, and
nothing is asked back from the device. Before they are first believed a sample has to agree with the processor's; else
a warning says so, and torch does the work as on any device. WMARK_CUDA=0 leaves the kernels alone.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark import prf
from watermark.keys import decoy_keys
from watermark.schemes import marks_once

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from watermark.mark import Watermark

_SAMPLE = (12, 5_000)  # more than a block of tokens


def takes(mark: Watermark, logits: Any) -> bool:
    """Whether `tilt` serves logits (b, V) under a mark: on CUDA, by a scheme that has kernels, which can be trusted."""
    kind: Any = type(mark)
    scheme: Any = mark.scheme
    if isinstance(logits, np.ndarray) or not there(logits) or not hasattr(scheme, "tilt_fused"):
        return False
    if os.environ.get("WMARK_CUDA", "1") == "0" or logits.requires_grad or str(logits.dtype) not in _TOLERANCES:
        return False
    return importlib.util.find_spec("triton") is not None and trusted(kind, scheme, logits.dtype, logits.device)


def there(tensor: Any) -> bool:
    """Whether a tensor lies on a GPU that kernels run on."""
    return bool(tensor.device.type == "cuda")


def prepare(mark: Watermark, width: int) -> None:
    """Compiles what a tilt of logits of this width needs, where there is a GPU, so that no answer waits for it."""
    import torch

    if torch.cuda.is_available() and hasattr(mark.scheme, "tilt_fused"):
        mark.tilt(torch.zeros((1, width), device="cuda"), np.ones((1, mark.scheme.window), dtype=np.int64))


def alike(mark: Watermark, other: Watermark) -> bool:
    """Whether two marks differ in nothing but their own key, so that one call of `tilt` serves both."""
    return all(
        ours is theirs or ours == theirs
        for ours, theirs in (
            (mark.scheme, other.scheme),
            (mark.binding, other.binding),
            (mark.accounts, other.accounts),
            (mark.shared, other.shared),
        )
    )


def tilt(
    marks: Sequence[Watermark], logits: Any, contexts: Any, *, which: Any = None, met: Any = None, proxy: Any = None
) -> Any:
    """As `Watermark.tilt` for logits (b, V) that it `takes`, row i under marks[which[i]], all `alike`; else the first.

    contexts (b, h), which (b,) and met (b,): arrays, lists or tensors, on the device or on the host. Raises ValueError
    for another number of rows in any of them, which a kernel would not notice.
    """
    import torch

    from watermark.schemes.fused import Rows
    from watermark.schemes.gate import entropies_there

    first, device = marks[0], logits.device
    for name, given in {"contexts": contexts, "which": which, "met": met}.items():
        if given is not None and len(given) != len(logits):
            raise ValueError(f"{name} should have {len(logits)} rows, as the logits have, found {len(given)}")
    if proxy is not None and proxy.shape != logits.shape:
        raise ValueError(f"the proxy's logits should have shape {tuple(logits.shape)}, found {tuple(proxy.shape)}")
    with torch.cuda.device_of(logits):
        windows = _windows(contexts, which, met if marks_once(first.scheme) else None, device)
        gate = getattr(first.scheme, "gate", 0.0)
        if gate:
            windows[:, 0].masked_fill_(entropies_there(logits) < gate, -1)
        routes = 0 if first.accounts is None else 1 if first.shared is None else 2
        share = 0 if first.accounts is None else prf.threshold(first.accounts.share)
        words = _kept_words(first, device) if len(marks) == 1 else sent(_words(tuple(marks)), device)
        rows = Rows(windows, words, _table(first.special_ids, logits.shape[1], device), routes, share)
        beside = {} if proxy is None else {"proxy": proxy}
        return first.scheme.tilt_fused(logits.contiguous(), rows, **beside)  # type: ignore[attr-defined]


def stood_before(ids: Any, window: int) -> Any:
    """Whether the last `window` ids of each row (b, t) stand in it earlier, a tensor (b,) where the ids lie."""
    windows = ids.unfold(1, min(window, ids.shape[1]), 1)
    return (windows[:, :-1] == windows[:, -1:]).all(2).any(1)


def _windows(contexts: Any, which: Any, met: Any, device: torch.device) -> torch.Tensor:
    """(b, 1 + h) int32 on the device: each row's key, -1 if it was met, then its ids."""
    import torch

    if not isinstance(contexts, torch.Tensor):
        ids, there = np.asarray(contexts), isinstance(met, torch.Tensor)
        listed = np.empty((len(ids), 1 + ids.shape[1]), dtype=np.int32)
        listed[:, 0], listed[:, 1:] = 0 if which is None else which, ids
        if met is not None and not there:
            listed[np.asarray(met, dtype=bool), 0] = -1
        made = sent(listed, device)
        return made if met is None or not there else _closed(made, met)
    made = torch.empty((len(contexts), 1 + contexts.shape[1]), dtype=torch.int32, device=device)
    made[:, 0] = 0 if which is None else sent(which, device)
    made[:, 1:] = contexts
    return made if met is None else _closed(made, met if isinstance(met, torch.Tensor) else sent(met, device))


def _closed(windows: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    windows[:, 0].masked_fill_(rows.to(windows.device), -1)
    return windows


def sent(listed: Any, device: torch.device) -> torch.Tensor:
    """Few numbers on their way to the device, behind the work that waits there: the host does not wait for it."""
    import torch

    return torch.as_tensor(np.asarray(listed)).to(device, non_blocking=True)


@lru_cache(maxsize=256)
def _kept_words(mark: Watermark, device: torch.device) -> torch.Tensor:
    """`_words` of one mark on the device; waited for once, so that any stream may read them."""
    import torch

    return torch.from_numpy(_words((mark,))).to(device)


@lru_cache(maxsize=1024)
def _words(marks: tuple[Watermark, ...]) -> NDArray[np.int32]:
    """(2 + k, 8): the routing key, the shared key, the marks' own."""
    first, none = marks[0], np.zeros(8, dtype=np.uint32)
    scheme: Any = first.scheme
    common = [none, none]
    if first.accounts is not None:
        shared = first.shared or first.key
        common = [first.accounts.words(shared), scheme._words(shared)]
    stacked = np.stack([*common, *(scheme._words(mark.key) for mark in marks)])
    return stacked.view(np.int32)


@lru_cache(maxsize=64)
def _table(special: tuple[int, ...], width: int, device: torch.device) -> torch.Tensor:
    """Ones at special tokens (V,) on the device."""
    import torch

    table = torch.zeros(max(width, *(each + 1 for each in special)) if special else width, dtype=torch.uint8)
    table[list(special)] = 1
    return table.to(device)


_TOLERANCES = {"torch.float32": 1e-4, "torch.float16": 0.02, "torch.bfloat16": 0.15}  # of a chance, by one last bit


@lru_cache(maxsize=64)
def trusted(kind: Any, scheme: Any, dtype: Any, device: torch.device) -> bool:
    """Whether the kernels give what the processor does of a sample of rows and windows; else it warns."""
    import torch

    rng = np.random.default_rng(1)
    (rows, width), window = _SAMPLE, scheme.window
    mark = kind(scheme, next(iter(decoy_keys(b"on gpu", 1))))
    logits = torch.from_numpy(rng.standard_normal((rows, width)).astype(np.float32) * 3)
    logits[1:3, ::2], logits[3, 50:] = -torch.inf, -torch.inf
    ids = rng.integers(5, width, (rows, window))
    ids[4] = -1
    met = np.arange(rows) == 6
    given = logits.to(dtype)
    expected = torch.from_numpy(mark.tilt(given.float().numpy(), ids, met=met))
    try:
        found = tilt([mark], given.to(device), ids, met=met).cpu()
    except Exception as error:  # whatever a driver or compiler fails with, torch can do it
        warnings.warn(
            f"the GPU's kernels are left alone, they failed with {type(error).__name__}: {error}", stacklevel=2
        )
        return False
    chances = (
        (each.double() - given.double().logsumexp(-1, keepdim=True)).exp() for each in (found, expected.to(dtype))
    )
    agreed: bool = torch.allclose(*chances, rtol=_TOLERANCES[str(dtype)], atol=1e-12, equal_nan=True)
    if not agreed:
        warnings.warn("the GPU's kernels are left alone: their tilt is not that of the processor", stacklevel=2)
    return agreed
