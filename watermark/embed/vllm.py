"""Adapter for vLLM: one class for both of its logits-processor interfaces, loaded by name when the engine starts.

    export WMARK_MARKS=/etc/wmark/ours.wmark          # watermark.embed.served has all four variables
    vllm serve MODEL --logits-processors watermark.embed.vllm:WatermarkLogitsProcessor
    …  "vllm_xargs": {"wm_kid": "0123456789abcdef"}   # in a request; SamplingParams(extra_args={…}) in Python

Never an entry point: vLLM drops those without a word under speculative decoding, and Model Runner V2 refuses to start
where an installed one has the other interface. V1 (vllm/v1/sample/logits_processor/interface.py) gives lists of ids
and edits rows of a batch that it keeps in order; Model Runner V2 (vllm/v1/worker/gpu/sample/logits_processor/
interface.py, vllm 0.32) gives slots, and ids on the device. Both are read into (row, request, last ids), and one
function tilts. Both run before temperature, min-p, top-k and top-p; the request's temperature is accounted for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watermark import ongpu
from watermark.embed.rows import check_sampling, needed, tilt_each
from watermark.embed.served import ASKED, NONE, Served
from watermark.errors import EmbeddingRefused, WatermarkError

if TYPE_CHECKING:
    import torch

    from watermark.mark import Watermark


def _interfaces() -> tuple[type, ...]:
    """vLLM's abstract classes, as far as this version has them; none where vLLM is not installed."""
    found: list[type] = []
    for home in ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor"):
        try:
            if importlib.util.find_spec("vllm") is not None:
                found.append(importlib.import_module(home).LogitsProcessor)
        except ImportError:  # Model Runner V2 is younger than V1, and V1 will go
            continue
    return tuple(found)


@dataclass(frozen=True)
class _Request:
    """A marked request. prompt, output: its ids, of which vLLM keeps `output` up to date; None under V2."""

    mark: Watermark
    temperature: float
    prompt: Sequence[int] = ()
    output: Sequence[int] | None = None

    def last(self) -> list[int]:
        """V1: the last ids, as many as the mark needs. Raises EmbeddingRefused if the engine has not told them."""
        count = needed(self.mark)
        answer = list((self.output or ())[-count:])
        missing = count - len(answer)
        ids = [*(self.prompt[-missing:] if missing else ()), *answer]
        if min(ids, default=0) < 0:
            raise EmbeddingRefused(
                "vLLM has not told the processor the last token of a request, and its mark would be of no use",
                hint="name the processor in --logits-processors; an entry point is not told",
            )
        return ids


class WatermarkLogitsProcessor(*_interfaces()):  # type: ignore[misc]
    """The marks of WMARK_MARKS on the requests that name them. Rows of other requests keep their bits.

    Refuses to start (EmbeddingRefused, ProfileMismatch, MarkInvalid, KeyUnusable) without a mark, or where one does not
    fit the model's vocabulary.
    """

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        """V1 passes (vllm_config, device, is_pin_memory), Model Runner V2 (vllm_config, req_states)."""
        self._served = Served.from_environment()
        model = vllm_config.model_config
        self._served.check_model(width=model.get_vocab_size(), tokenizer=getattr(model, "tokenizer", None))
        self._served.prepare(model.get_vocab_size())
        self._states = rest[0] if len(rest) == 1 else None
        self._requests: dict[int, _Request] = {}  # by row under V1, by slot under V2

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError, which vLLM answers with HTTP 400, for a request that may not be served as it asks."""
        try:
            mark = Served.from_environment().asked(_said(sampling_params))
            if mark is not None:
                check_sampling(mark, sampling_params.temperature)
        except WatermarkError as error:
            raise ValueError(f"{error}; {error.hint}" if error.hint else str(error)) from None

    def is_argmax_invariant(self) -> bool:
        """V1: a tilt may change which token is likeliest, so that greedy decoding is marked too."""
        return False

    def update_state(self, batch_update: Any | None) -> None:
        """V1: requests left their rows, came, and moved, in this order (BatchUpdate's docstring)."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._requests.pop(row, None)
        for row, params, prompt, output in batch_update.added:
            self._keep(row, params, prompt or (), output)
        for source, target, direction in batch_update.moved:
            moving, there = self._requests.pop(source, None), self._requests.pop(target, None)
            if moving is not None:
                self._requests[target] = moving
            if there is not None and direction.name == "SWAP":
                self._requests[source] = there

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request takes a slot, whoever had it before. Returns whether it is marked."""
        return self._keep(req_idx, sampling_params, (), None)

    def apply(self, logits: torch.Tensor, ctx: Any | None = None) -> torch.Tensor:
        """Tilts marked rows of logits (n, V) in place; ctx is V2's LogitsContext."""
        if not self._requests:
            return logits
        at, asked = self._listed() if ctx is None else self._in_slots(ctx, len(logits))
        if not at:
            return logits
        marks, temperatures = [each.mark for each in asked], [each.temperature for each in asked]
        every = at == list(range(len(logits)))
        rows = slice(None) if every else ongpu.sent(at, logits.device)
        histories = [each.last() for each in asked] if ctx is None else self._histories(ctx, asked)[rows]
        logits[rows] = tilt_each(marks, histories, logits[rows], temperatures)
        return logits

    def _keep(self, index: int, params: Any, prompt: Sequence[int], output: Sequence[int] | None) -> bool:
        mark = self._served.asked(_said(params))
        self._requests.pop(index, None)
        if mark is not None:
            self._requests[index] = _Request(mark, float(params.temperature), prompt, output)
        return mark is not None

    def _listed(self) -> tuple[list[int], list[_Request]]:
        """V1: the marked rows, and their requests."""
        listed = sorted(self._requests.items())
        return [row for row, _ in listed], [request for _, request in listed]

    def _in_slots(self, ctx: Any, count: int) -> tuple[list[int], list[_Request]]:
        """V2: the same. Under speculation a request owns a row for each draft, and the device is asked which."""
        slots = ctx.idx_mapping_np.tolist()
        if not any(slot in self._requests for slot in slots):
            return [], []
        if count != len(slots):
            slots = ctx.expanded_idx_mapping.cpu().tolist()
        at = [row for row, slot in enumerate(slots) if slot in self._requests]
        return at, [self._requests[slots[row]] for row in at]

    def _histories(self, ctx: Any, asked: Sequence[_Request]) -> torch.Tensor:
        """V2: the last ids of all rows, as many as any of the marked ones needs."""
        longest = int(ctx.seq_lens_upper_bound_np.max())
        return _last_ids(self._states, ctx, min(longest, max(needed(each.mark) for each in asked)))


def _said(params: Any) -> dict[str, Any]:
    """A request's extra arguments. `watermarking: false`, vLLM's own switch, asks for no mark where no kid is named;
    beam search sets it, and chooses by log-probabilities that the mark has not touched."""
    off = {ASKED: NONE} if getattr(params, "watermarking", None) is False else {}
    return {**off, **(params.extra_args or {})}


def _last_ids(states: Any, ctx: Any, count: int) -> torch.Tensor:
    """V2: the last `count` ids before each row's token, (n, count), -1 where there are fewer.

    Before local position p of a request lie its committed ids, `total_len` of them, then p drafts; `input_ids` has the
    last committed id at p = 0 and the drafts after it.
    """
    slots, local = ctx.expanded_idx_mapping.long(), ctx.expanded_local_pos.long()
    known, rows = states.all_token_ids.gpu, local.new_tensor(range(len(local)))
    total = states.total_len.gpu[slots].long()[:, None]
    positions = total + local[:, None] - local.new_tensor(range(count, 0, -1))[None]
    committed = known[slots[:, None], positions.clamp(0, known.shape[1] - 1)].long()
    fed = (rows - local)[:, None] + positions - total + 1
    drafts = ctx.input_ids.long()[fed.clamp(0, len(rows) - 1)]
    return committed.where(positions < total, drafts).masked_fill(positions < 0, -1)
