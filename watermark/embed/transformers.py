"""Embedder for Hugging Face transformers: `embedder.wrap(model.generate)`, or `watermarking_config=embedder.config`.

The mark goes through a `BaseWatermarkingConfig`, so its processor runs last: after temperature, top-k and top-p,
in sampling, greedy, beam and assisted decoding; a scheme that redraws the next token (`gumbel`, `tournament`) needs
sampling, and `wrap` refuses the others. The processor is a pure function of the ids, and the key stays out of
generation_config.json, logs and `repr`.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.generation.configuration_utils import BaseWatermarkingConfig
from transformers.generation.logits_process import LogitsProcessor

from watermark.errors import EmbeddingRefused
from watermark.schemes import marks_once

if TYPE_CHECKING:
    from watermark.ledger import Ledger
    from watermark.mark import Watermark


@dataclass(frozen=True)
class Receipt:
    """What happened to one response. tokens: its length; tokens_marked: those drawn under the mark with a window
    inside the response, which is what can be detected. reason: why nothing was marked, or None. kid: of the account's
    key in the mark of an account; shared_kid: then that of the mark it was drawn from."""

    scheme: str
    kid: str
    engine: str
    applied: bool
    reason: str | None
    tokens: int
    tokens_marked: int
    shared_kid: str | None = None


class WatermarkProcessor(LogitsProcessor):
    """Tilts each row by its last h ids; no state, so any order of calls gives the same scores.

    proxy: a model that stands in for a student, under a scheme that asks for its logits; it reads all ids at each step.
    """

    def __init__(self, mark: Watermark, proxy: Any = None) -> None:
        self._mark, self._proxy = mark, proxy

    @property
    def supports_continuous_batching(self) -> bool:
        """Continuous batching hands over one id a row: enough for h = 1, refused for more."""
        if marks_once(self._mark.scheme):
            raise EmbeddingRefused(
                f"continuous batching shows a processor one token, {self._mark.scheme.name} must see the whole answer",
                hint="use generate(), or a mark with `--scheme greenlist --window 1`",
            )
        if self._mark.scheme.window > 1:
            raise EmbeddingRefused(
                f"continuous batching shows a processor one token, this mark needs {self._mark.scheme.window}",
                hint="use generate(), or a mark with --window 1",
            )
        return True

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids: (b, t) ids so far, or (b,) last ids under continuous batching; scores: (b, V)."""
        window = self._mark.scheme.window
        if input_ids.dim() == 1:
            input_ids = input_ids[:, None]
        if input_ids.shape[1] < window:
            return scores
        rows = scores.reshape(-1, scores.shape[-1])
        met = self._mark.met(input_ids) if marks_once(self._mark.scheme) else None
        beside = None if self._proxy is None else self._beside(input_ids, rows)
        tilted: torch.Tensor = self._mark.tilt(rows, input_ids[:, -window:], met=met, proxy=beside)
        return tilted.reshape(scores.shape)

    def _beside(self, input_ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The proxy's logits for the next token of each row; padding on the left is not attended to."""
        pad = self._proxy.generation_config.pad_token_id
        seen = torch.ones_like(input_ids) if pad is None else (input_ids != pad).cumsum(-1).clamp(max=1)
        given = {"input_ids": input_ids, "attention_mask": seen, "position_ids": (seen.cumsum(-1) - 1).clamp(min=0)}
        with torch.inference_mode():
            made = self._proxy(**{name: value.to(self._proxy.device) for name, value in given.items()}).logits[:, -1]
        if made.shape[-1] != rows.shape[-1]:
            raise EmbeddingRefused(
                f"the proxy's logits have {made.shape[-1]} columns, the model's {rows.shape[-1]}",
                hint="a proxy has the vocabulary of the model that is marked",
            )
        found: torch.Tensor = made.to(rows).masked_fill(rows == -torch.inf, -torch.inf)
        return found


class WatermarkConfig(BaseWatermarkingConfig):
    """The door into `generate`. Shows scheme, kid and commitment wherever transformers prints or saves it."""

    def __init__(self, mark: Watermark, proxy: Any = None) -> None:
        self._mark, self._proxy = mark, proxy

    def validate(self) -> None:
        """Nothing left to check: the mark was validated when it was made."""

    def construct_processor(self, vocab_size: int, device: Any) -> WatermarkProcessor:
        """Raises ProfileMismatch unless the model's logits have the mark's width."""
        self._mark.check_width(vocab_size)
        return WatermarkProcessor(self._mark, self._proxy)

    def to_dict(self) -> dict[str, Any]:
        key = self._mark.key
        return {"scheme": self._mark.scheme.name, "kid": key.kid, "commitment": key.commitment}

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        yield from self.to_dict().items()

    def __repr__(self) -> str:
        return f"WatermarkConfig({self._mark.scheme.name}, kid={self._mark.key.kid})"

    def __deepcopy__(self, memo: dict[int, Any]) -> WatermarkConfig:
        return self

    def update(self, **kwargs: Any) -> None:
        raise EmbeddingRefused("a mark's settings are fixed; make another mark")


class Embedder:
    """Marks what a transformers model generates, and keeps a receipt of every response.

    ledger: an open Ledger; each response served through `wrap` is recorded in it. proxy: a smaller model of the same
    vocabulary that stands in for a student, under the scheme `antidistill`; by default the marked model does.
    """

    def __init__(self, mark: Watermark, *, ledger: Ledger | None = None, proxy: Any = None) -> None:
        if proxy is not None and "proxy" not in inspect.signature(mark.scheme.tilt).parameters:
            raise EmbeddingRefused(f"{mark.scheme.name} asks no proxy model", hint="the scheme `antidistill` does")
        self.mark = mark
        self.ledger = ledger
        self.config = WatermarkConfig(mark, proxy)
        self.receipts: list[Receipt] = []

    def wrap(self, generate: Callable[..., Any], *, tokenizer: Any = None) -> Callable[..., Any]:
        """`generate` with the mark: same arguments, same result; `self.receipts` holds those of the last call.

        tokenizer: turns prompts back into text for the ledger; without it their ids are recorded.
        Raises EmbeddingRefused where `generate` cannot carry the mark.
        """
        owner = getattr(generate, "__self__", None)
        if getattr(generate, "__name__", "") != "generate" or owner is None:
            raise EmbeddingRefused(
                f"wrap takes a model's generate method, found {getattr(generate, '__name__', generate)!r}",
                hint="for continuous batching set generation_config.watermarking_config = embedder.config",
            )

        @functools.wraps(generate)
        def marked(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("watermarking_config") not in (None, self.config):
                raise EmbeddingRefused("generate was given another watermarking_config; remove one of the two")
            self.check_sampling(**_sampling(owner, kwargs))
            served = generate(*args, **kwargs | {"watermarking_config": self.config})
            self._record(_prompt_ids(generate, args, kwargs), served, owner, tokenizer, _ends(owner, kwargs))
            return served

        return marked

    def check_sampling(self, *, sampled: bool, beams: int = 1) -> None:
        """Raises EmbeddingRefused where the scheme needs sampling and the answer is not drawn at random."""
        if marks_once(self.mark.scheme) and (not sampled or beams > 1):
            found = "greedy decoding" if beams <= 1 else f"a search over {beams} beams"
            raise EmbeddingRefused(
                f"{self.mark.scheme.name} stands in for the sampler, and {found} draws nothing",
                hint="sample (do_sample=True, num_beams=1), or make a mark with `--scheme greenlist`",
            )

    def receipt(self, response: list[int], prompt: list[int] | None = None) -> Receipt:
        """The receipt of one response: a pure function of its ids, those of the prompt where known, and the mark."""
        marked = self._marked(response, prompt or [])
        reason = None if marked else f"no token has a full window of {self.mark.scheme.window} before it"
        return Receipt(
            scheme=f"{self.mark.scheme.name}/{self.mark.scheme.version}",
            kid=self.mark.key.kid,
            engine="transformers",
            applied=marked > 0,
            reason=reason,
            tokens=len(response),
            tokens_marked=marked,
            shared_kid=self.mark.shared.kid if self.mark.shared else None,
        )

    def _marked(self, response: list[int], prompt: list[int]) -> int:
        window = self.mark.scheme.window
        if len(response) <= window:
            return 0
        ids = torch.tensor(response)
        windows = ids.unfold(0, window, 1)[:-1].numpy()
        marked = self.mark.marks(windows) & ~self.mark.holds_special(ids[window:, None].numpy())
        if marks_once(self.mark.scheme):
            marked &= _first_there(prompt + response, window)[len(prompt) :]
        return int(marked.sum())

    def _record(self, prompts: torch.Tensor | None, served: Any, owner: Any, tokenizer: Any, ends: set[int]) -> None:
        sequences = served if isinstance(served, torch.Tensor) else served.sequences
        rows = _responses(prompts, sequences, owner, ends)
        self.receipts = [self.receipt(response, prompt) for prompt, response in rows]
        if self.ledger is None:
            return
        for (prompt, response), receipt in zip(rows, self.receipts, strict=True):
            shown = tokenizer.decode(prompt) if tokenizer is not None else json.dumps(prompt)
            self.ledger.append(
                f"{self.ledger.length}",
                kid=receipt.kid,
                receipt=asdict(receipt),
                prompt=shown,
                token_ids=response,
            )


def _first_there(ids: list[int], window: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each window of `ids` but the last is the first of its kind."""
    windows = np.lib.stride_tricks.sliding_window_view(np.array(ids), window)[:-1]
    first = np.zeros(len(windows), dtype=bool)
    first[np.unique(windows, axis=0, return_index=True)[1]] = True
    return first


def _sampling(owner: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Whether one call of generate samples, and its beams: its own options, its generation config's, the model's."""
    config = kwargs.get("generation_config") or owner.generation_config
    sampled, beams = (kwargs.get(name, getattr(config, name, None)) for name in ("do_sample", "num_beams"))
    return {"sampled": bool(sampled), "beams": beams or 1}


def _prompt_ids(generate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    if "input_ids" in kwargs:
        given = kwargs["input_ids"]
    else:
        given = inspect.signature(generate).bind_partial(*args).arguments.get("inputs", kwargs.get("inputs"))
    return given if isinstance(given, torch.Tensor) else None


def _ends(owner: Any, kwargs: dict[str, Any]) -> set[int]:
    """The end tokens in force for one call: its own, else its generation config's, else the model's."""
    own = getattr(kwargs.get("generation_config"), "eos_token_id", None)
    stated = (kwargs.get("eos_token_id"), own, owner.generation_config.eos_token_id)
    given: Any = next((end for end in stated if end is not None), [])
    return set(torch.as_tensor(given).reshape(-1).tolist())


def _responses(
    prompts: torch.Tensor | None, sequences: torch.Tensor, owner: Any, ends: set[int]
) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, response ids) of each row: padding cut off on the left, and everything after the end token."""
    config = owner.generation_config
    encoder = bool(getattr(owner.config, "is_encoder_decoder", False))
    start = 1 if encoder else 0 if prompts is None else prompts.shape[1]
    copies = 1 if prompts is None else sequences.shape[0] // prompts.shape[0]
    rows = []
    for index, row in enumerate(sequences.tolist()):
        prompt = [] if prompts is None else prompts[index // copies].tolist()
        while prompt and prompt[0] == config.pad_token_id:
            prompt = prompt[1:]
        response = row[start:]
        stop = next((i for i, token in enumerate(response) if token in ends), len(response))
        rows.append((prompt, response[:stop]))
    return rows
