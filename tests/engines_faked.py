"""Engines' ends of an adapter, as small as they get: the shapes, orders and traps of the real ones, without the models.

vLLM: BatchUpdate, persistent batch, LogitsContext and slots of vllm 0.32 (v1/sample/logits_processor/interface.py,
v1/worker/gpu_input_batch.py, v1/worker/gpu/sample/logits_processor/interface.py). SGLang: apply_custom_logit_processor
and Req of sglang 0.5.23. TensorRT-LLM: LogitsProcessor's call of 1.2. llama-cpp-python: the record array and the
assignment of `extend` of 0.3.36. mlx: as much of mlx.core as the adapter touches.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: Sequence[int]
    added: Sequence[tuple[int, Any, list[int] | None, list[int]]]
    moved: Sequence[tuple[int, int, MoveDirectionality]]


@dataclass
class SamplingParams:
    temperature: float = 1.0
    extra_args: dict[str, Any] | None = None
    watermarking: bool | None = None


@dataclass
class Request:
    """What a test knows of a request: its mark's kid, and its ids."""

    params: SamplingParams
    prompt: list[int]
    output: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.output


def config(width: int, tokenizer: str = "") -> SimpleNamespace:
    return SimpleNamespace(model_config=SimpleNamespace(get_vocab_size=lambda: width, tokenizer=tokenizer))


class PersistentBatch:
    """V1's batch: a new request takes the lowest empty row, the last ones slide down, two may swap."""

    def __init__(self) -> None:
        self.rows: list[Request | None] = []

    def change(self, leave: Sequence[int], come: Sequence[Request], swap: bool) -> BatchUpdate:
        removed = sorted(leave)
        for row in removed:
            self.rows[row] = None
        added, moved = [], []
        for request in come:
            row = removed.pop(0) if removed else len(self.rows)
            self.rows[row : row + 1] = [request]
            added.append((row, request.params, request.prompt, request.output))
        gone = list(removed)
        for hole in gone:
            while self.rows and self.rows[-1] is None:
                self.rows.pop()
            if hole >= len(self.rows):
                break
            moved.append((len(self.rows) - 1, hole, MoveDirectionality.UNIDIRECTIONAL))
            self.rows[hole] = self.rows.pop()
        while self.rows and self.rows[-1] is None:
            self.rows.pop()
        if swap and len(self.rows) > 1:
            moved.append((0, len(self.rows) - 1, MoveDirectionality.SWAP))
            self.rows[0], self.rows[-1] = self.rows[-1], self.rows[0]
        return BatchUpdate(len(self.rows), sorted(gone, reverse=True), added, moved)


class Slots:
    """V2's request states: slots from a free list, ids in one tensor, whatever a former occupant left still there."""

    def __init__(self, count: int, longest: int) -> None:
        self.all_token_ids = SimpleNamespace(gpu=torch.full((count, longest), 7, dtype=torch.int32))
        self.total_len = SimpleNamespace(gpu=torch.zeros(count, dtype=torch.int32))
        self.free = list(range(count))
        self.held: dict[int, Request] = {}

    def add(self, request: Request) -> int:
        slot = self.free.pop()
        self.held[slot] = request
        self.tell(slot)
        return slot

    def tell(self, slot: int) -> None:
        ids = self.held[slot].ids
        self.all_token_ids.gpu[slot, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
        self.total_len.gpu[slot] = len(ids)

    def remove(self, slot: int) -> None:
        del self.held[slot]
        self.free.append(slot)


def context(batch: Sequence[tuple[int, Request, list[int]]]) -> tuple[SimpleNamespace, list[list[int]]]:
    """V2's LogitsContext of (slot, request, drafts), and the ids before each row's token."""
    slots, local, fed, before = [], [], [], []
    for slot, request, drafts in batch:
        for place in range(len(drafts) + 1):
            slots.append(slot)
            local.append(place)
            fed.append([request.ids[-1], *drafts][place])
            before.append(request.ids + drafts[:place])
    return (
        SimpleNamespace(
            expanded_idx_mapping=torch.tensor(slots, dtype=torch.int32),
            idx_mapping=torch.tensor([slot for slot, _, _ in batch], dtype=torch.int32),
            idx_mapping_np=np.array([slot for slot, _, _ in batch], dtype=np.int32),
            expanded_local_pos=torch.tensor(local, dtype=torch.int32),
            input_ids=torch.tensor(fed, dtype=torch.int32),
            pos=torch.tensor([len(ids) - 1 for ids in before]),
            seq_lens_upper_bound_np=np.array([len(request.ids) + len(drafts) for _, request, drafts in batch]),
        ),
        before,
    )


@dataclass
class Req:
    """SGLang's request, as far as a processor reads it."""

    rid: str
    origin_input_ids: array
    output_ids: array
    sampling_params: SimpleNamespace

    @classmethod
    def of(cls, rid: str, prompt: Sequence[int], output: Sequence[int], temperature: float = 1.0) -> Req:
        return cls(rid, array("q", prompt), array("q", output), SimpleNamespace(temperature=temperature))


def sglang_apply(logits: torch.Tensor, processor: Any, rows: Sequence[int], params: Sequence[Any]) -> None:
    """Rows with the processor are picked, handed over with their parameters, and written back."""
    indices = torch.tensor(rows)
    result = processor(logits.index_select(0, indices), [params[row] for row in rows])
    logits.index_copy_(0, indices, result.to(logits.dtype))


class Llama:
    """llama-cpp-python's model, drawing the likeliest token of fixed logits."""

    def __init__(self, width: int, draft_model: Any = None) -> None:
        self.draft_model = draft_model
        self.width = width

    def n_vocab(self) -> int:
        return self.width

    def token_eos(self) -> int:
        return 2

    def logits(self, ids: Sequence[int], row: np.ndarray, logits_processor: Any, logit_bias: bool = False) -> Any:
        """A row of logits as the sampler leaves it: a view with gaps, and errors in the callback passed over."""
        if logit_bias:
            logits_processor = logits_processor.extend([lambda ids, scores: scores])
        table = np.zeros(len(row), dtype=[("id", np.intc), ("logit", np.single), ("p", np.single)]).view(np.recarray)
        table.logit[:] = row
        for processor in logits_processor or []:
            table.logit[:] = processor(np.array(ids, dtype=np.intc), table.logit)
        return np.array(table.logit)


class MlxArray:
    """mlx.core.array, on numpy; bfloat16 is float32 cut to its upper half, and has no numpy view."""

    def __init__(self, values: Any, dtype: str | None = None) -> None:
        self.values = np.asarray(values.values if isinstance(values, MlxArray) else values)
        self.dtype = dtype or str(self.values.dtype)

    def astype(self, dtype: str) -> MlxArray:
        values = self.values.astype({"bfloat16": "float32"}.get(dtype, dtype))
        if dtype == "bfloat16":
            values = torch.from_numpy(values).bfloat16().float().numpy()
        return MlxArray(values, dtype)

    def __getitem__(self, at: Any) -> MlxArray:
        return MlxArray(self.values[at], self.dtype)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.dtype == "bfloat16":
            raise RuntimeError("bfloat16 has no numpy view")
        return self.values


def mlx_core() -> Any:
    return SimpleNamespace(array=MlxArray, float32="float32", bfloat16="bfloat16", float16="float16")
