"""Marks that inference engines make themselves, each read by its exact recipe: `ENGINES` lists them by name."""

from __future__ import annotations

from typing import Any

from watermark.schemes.engines.hf import HuggingFaceLeftHash
from watermark.schemes.engines.lm_watermarking import LmWatermarking
from watermark.schemes.engines.markllm import MarkLlmKgw, MarkLlmUnigram
from watermark.schemes.engines.owmark import Owmark
from watermark.schemes.engines.sbw import SbwLeftHash
from watermark.schemes.engines.selfhash import HuggingFaceSelfHash, LmWatermarkingSelfHash
from watermark.schemes.engines.sglang import SglangDualGumbel, SglangGumbel
from watermark.schemes.engines.synthid import HfSynthid, SynthidText
from watermark.schemes.engines.synthid_cuda import HfSynthidCuda
from watermark.schemes.engines.textseal import TextsealGreenList, TextsealGumbel
from watermark.schemes.engines.three_bricks import ThreeBricks
from watermark.schemes.engines.vllm import VllmDualGumbel, VllmGumbel, VllmHmacGumbel, VllmSynthid

__all__ = ["ENGINES"]

ENGINES: dict[str, type[Any]] = {
    HuggingFaceLeftHash.name: HuggingFaceLeftHash,
    HuggingFaceSelfHash.name: HuggingFaceSelfHash,
    LmWatermarking.name: LmWatermarking,
    LmWatermarkingSelfHash.name: LmWatermarkingSelfHash,
    MarkLlmKgw.name: MarkLlmKgw,
    MarkLlmUnigram.name: MarkLlmUnigram,
    Owmark.name: Owmark,
    SbwLeftHash.name: SbwLeftHash,
    ThreeBricks.name: ThreeBricks,
    VllmGumbel.name: VllmGumbel,
    VllmDualGumbel.name: VllmDualGumbel,
    VllmHmacGumbel.name: VllmHmacGumbel,
    VllmSynthid.name: VllmSynthid,
    SglangGumbel.name: SglangGumbel,
    SglangDualGumbel.name: SglangDualGumbel,
    TextsealGreenList.name: TextsealGreenList,
    TextsealGumbel.name: TextsealGumbel,
    HfSynthid.name: HfSynthid,
    HfSynthidCuda.name: HfSynthidCuda,
    SynthidText.name: SynthidText,
}
