"""SynthID's table of bits as a CUDA device draws it: `torch.randint(0, 2, (size,))` of a CUDA generator, as arithmetic.

torch gives each thread its own Philox4x32-10 stream (aten/src/ATen/native/cuda/DistributionTemplates.h, with cuRAND's
curand_init and curand4; Salmon et al. 2011): thread i of a fresh generator has the counter (0, 0, i, 0) under the key
(seed low, seed high), and where there is a thread for each entry, entry i is the first word of thread i, modulo 2.

There is one for each where the device runs as many blocks of 256 threads at once as the table has, 256 for 65,536
entries: its multiprocessors times the threads of each over 256. V100, A100, H100, L4, A10, RTX 3090 and 4090 do; a T4
runs 160, and its table is another from entry 40,960 on. Checked on texts that MarkLLM's authors marked and published
(tests/conformance), and on an H100 entry by entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from watermark.schemes.engines.philox import halves, philox10
from watermark.schemes.engines.synthid import FEW, HfSynthid, placed

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 2**16
_DEVICE = (
    "The table is that of a CUDA device which runs 256 blocks of 256 threads at once (a T4 does not); a mark whose "
    "table was drawn on a CPU or on a smaller device is not seen, or seen weakly."
)


@dataclass(frozen=True)
class HfSynthidCuda(HfSynthid):
    """`HfSynthid` with the table of a CUDA device: all else, and what its p-values rest on, is the same.

    Two cells' reads are correlated by 0.003 on average and 0.019 at most, over all distances (the CPU's: 0.016).
    """

    name: ClassVar[str] = "hf-synthid/table-cuda"
    version: ClassVar[int] = 1
    recipe: ClassVar[str] = "hf-synthid/lcg-table-cuda-v1"
    remarks: ClassVar[tuple[str, ...]] = (FEW, _DEVICE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table_size > LARGEST:
            raise ValueError(
                f"table_size must be at most {LARGEST:,} for a table drawn on CUDA, found {self.table_size}: larger "
                "ones differ from device to device"
            )

    def bits(self) -> NDArray[np.uint8]:
        """The table, (table_size,), as a CUDA device draws it."""
        return cuda_table(self.table_size, self.table_seed)

    def bits_by_place(self) -> NDArray[np.uint8]:
        """The same as a layer's sums reach it, (table_size,)."""
        return _by_place(self.table_size, self.table_seed)


@lru_cache(maxsize=4)
def cuda_table(size: int, seed: int) -> NDArray[np.uint8]:
    """The low bit of the first word of each thread's stream, (size,). Read-only."""
    threads, none = np.arange(size, dtype=np.uint64), np.zeros(size, dtype=np.uint64)
    first = philox10((none, none, threads, none), halves(seed))[0]
    bits: NDArray[np.uint8] = (first & np.uint64(1)).astype(np.uint8)
    bits.setflags(write=False)
    return bits


@lru_cache(maxsize=4)
def _by_place(size: int, seed: int) -> NDArray[np.uint8]:
    return placed(cuda_table(size, seed))
