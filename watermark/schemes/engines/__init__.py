"""Marks that inference engines make themselves, each read by its exact recipe: `ENGINES` lists them by name."""

from __future__ import annotations

from typing import Any

from watermark.schemes.engines.hf import HuggingFaceLeftHash
from watermark.schemes.engines.lm_watermarking import LmWatermarking
from watermark.schemes.engines.markllm import MarkLlmKgw, MarkLlmUnigram
from watermark.schemes.engines.owmark import Owmark
from watermark.schemes.engines.sbw import SbwLeftHash
from watermark.schemes.engines.three_bricks import ThreeBricks

__all__ = ["ENGINES"]

ENGINES: dict[str, type[Any]] = {
    HuggingFaceLeftHash.name: HuggingFaceLeftHash,
    LmWatermarking.name: LmWatermarking,
    MarkLlmKgw.name: MarkLlmKgw,
    MarkLlmUnigram.name: MarkLlmUnigram,
    Owmark.name: Owmark,
    SbwLeftHash.name: SbwLeftHash,
    ThreeBricks.name: ThreeBricks,
}
