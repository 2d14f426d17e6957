"""Two ways to serve a mark with SGLang: its own Gumbel mark under an account's key, or ours on its logits.

**Native.** `request_fields(mark)` gives the field that makes SGLang (started with `--enable-watermark`) mark one
request under the key of `mark`, of the scheme `sglang-gumbel/single`; an account has a mark of its own, made with
`rekeyed(key.subkey(tenant=…))`. A gateway adds the field and removes what a client sent. It is the better way where it
exists: speculation, the overlap scheduler and CUDA graphs stay on.

**Logits.** `WatermarkLogitProcessor` is a CustomLogitProcessor (sglang 0.5.23, srt/sampling/custom_logit_processor.py):

    python -m sglang.launch_server … --enable-custom-logit-processor --disable-overlap-schedule
    {"custom_logit_processor": WatermarkLogitProcessor.to_str(), "sampling_params": {"custom_params": {"wm_kid": KID}}}

`to_str` names this class, which the server imports, so that wmark must be installed there; marks come from the server's
environment (`watermark.embed.served`). The flag lets clients run code of theirs on the server: only a gateway that
removes `custom_logit_processor` from what clients send may stand before it. It is passed over under EAGLE and NGRAM
speculation; start the server without.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from watermark import ongpu
from watermark.embed.rows import needed, tilt_each
from watermark.embed.served import Served
from watermark.errors import EmbeddingRefused
from watermark.schemes.engines.sglang import SglangGumbel

if TYPE_CHECKING:
    import torch

    from watermark.mark import Watermark


def request_fields(mark: Watermark) -> dict[str, Any]:
    """{"watermark": {"key", "context_window"}} for `/generate` and the OpenAI routes: **it holds the key**.

    The key is the mark's as `detect` reads it (`Key.engine_words`): 64 bits, which SGLang folds into 32. Raises
    EmbeddingRefused for a mark of another scheme, or one with accounts, which SGLang cannot route.
    """
    scheme = mark.scheme
    if not isinstance(scheme, SglangGumbel) or mark.accounts is not None:
        found = "has accounts" if mark.accounts is not None else f"is of scheme {scheme.name}"
        raise EmbeddingRefused(
            f"mark {mark.key.kid} {found}; SGLang itself makes {SglangGumbel.name} under one key",
            hint="give each account a mark of its own, with `wmark keygen --from --tenant`",
        )
    (word,) = mark.key.engine_words(1, f"{scheme.name}/{scheme.version}")
    return {"watermark": {"key": f"{word:016x}", "context_window": scheme.window}}


def _interface() -> tuple[type, ...]:
    """SGLang's abstract class; none where SGLang is not installed."""
    if importlib.util.find_spec("sglang") is None:
        return ()
    return (importlib.import_module("sglang.srt.sampling.custom_logit_processor").CustomLogitProcessor,)


class WatermarkLogitProcessor(*_interface()):  # type: ignore[misc]
    """Our mark on the requests that name one in `custom_params`; made by SGLang, without arguments.

    Raises EmbeddingRefused where the last id would not be known when a token is drawn.
    """

    def __init__(self) -> None:
        self._served = Served.from_environment()
        self._width: int | None = None
        context = importlib.import_module("sglang.srt.runtime_context")
        if not context.get_schedule().disable_overlap_schedule:
            raise EmbeddingRefused(
                "SGLang's overlap scheduler draws a token before the processor is told the one before it",
                hint="start the server with --disable-overlap-schedule, or use the native mark",
            )

    def __call__(
        self, logits: torch.Tensor, custom_param_list: Sequence[Mapping[str, Any] | None] | None = None
    ) -> torch.Tensor:
        """logits: (n, V), rows of the requests that came with this processor; custom_param_list: n, with `__req__`.

        Raises EmbeddingRefused for a request that may not be served as it asks, and for draft rows of speculation.
        """
        self._check_width(logits.shape[-1])
        told = [
            (row, mark, _last(request, needed(mark)), float(request.sampling_params.temperature))
            for row, (params, request) in enumerate(_told(custom_param_list, len(logits)))
            if (mark := self._served.asked(params)) is not None
        ]
        if told:
            at, marks, ids, temperatures = (list(each) for each in zip(*told, strict=True))
            rows = slice(None) if len(at) == len(logits) else ongpu.sent(at, logits.device)
            logits[rows] = tilt_each(marks, ids, logits[rows], temperatures)
        return logits

    def _check_width(self, width: int) -> None:
        if self._width != width:
            self._served.check_model(width=width)
            self._served.prepare(width)
            self._width = width


def _told(listed: Sequence[Mapping[str, Any] | None] | None, rows: int) -> list[tuple[Mapping[str, Any], Any]]:
    """(custom_params, request) of each row. SGLang tells the request only to those that came with `custom_params`."""
    given = list(listed or [])
    if len(given) != rows or any(not isinstance(params, Mapping) or "__req__" not in params for params in given):
        raise EmbeddingRefused(
            "a request came with the processor and without custom_params, so that its ids are not known",
            hint='send "custom_params": {"wm_kid": …} with it',
        )
    requests = [params["__req__"] for params in given if params is not None]
    if len({request.rid for request in requests}) < rows:
        raise EmbeddingRefused(
            "speculation asks for several tokens of a request at once, and its drafts are not told",
            hint="start the server without speculation, or use the native mark",
        )
    return list(zip([params for params in given if params is not None], requests, strict=True))


def _last(request: Any, count: int) -> list[int]:
    answer = [int(token) for token in request.output_ids[-count:]]
    missing = count - len(answer)
    prompt = [int(token) for token in request.origin_input_ids[-missing:]] if missing else []
    return [*prompt, *answer]
