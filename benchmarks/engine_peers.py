"""The engines' own detectors, each as a function of token ids, for `engine_levels` and `engine_throughput`.

    cd PEERS                                                                # as engine_vectors_greenlists.py says
    pip download --no-deps vllm==0.33.0 sglang==0.5.23 textseal==0.0.5      # wheels unzipped here
    git clone https://github.com/google-deepmind/synthid-text               # at addb4a1

They run on the CPU, without their engines and models: only the modules with the detector's arithmetic are loaded, and
what these import for generation is left out. transformers is installed with this project's development tools.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from engine_rules import RULES, WORDS, Reading
from engine_vectors_greenlists import loaded, markllm_module

from watermark.keys import Key
from watermark.schemes.engines import ENGINES

NUMBER = 15485863
Peer = Callable[[list[int]], float]  # ids -> the p-value, or the mean where it has none


def words_of(name: str) -> list[int]:
    """The numbers of a recipe's key, the same for both sides."""
    return [NUMBER + 104_729 * at for at in range(WORDS.get(name, 1))]


def hf_kgw(scheme: str, *, once: bool = False) -> Callable[[Path, int], Peer]:
    """transformers' WatermarkDetector with its defaults, or with each n-gram once."""

    def make(peers: Path, vocabulary: int) -> Peer:
        import torch
        from transformers import WatermarkDetector, WatermarkingConfig

        model = SimpleNamespace(vocab_size=vocabulary, bos_token_id=-1, is_encoder_decoder=False)
        config = WatermarkingConfig(seeding_scheme=scheme, hashing_key=NUMBER)
        detector = WatermarkDetector(model, "cpu", config, ignore_repeated_ngrams=once)
        return lambda ids: float(detector(torch.tensor([ids]), return_dict=True).p_value[0])

    return make


def lm_watermarking(scheme: str) -> Callable[[Path, int], Peer]:
    """Its WatermarkDetector's scoring of ids, each n-gram once; its cache is emptied each time."""

    def make(peers: Path, vocabulary: int) -> Peer:
        import torch

        processor = loaded(peers / "lm-watermarking", "extended_watermark_processor")
        detector = processor.WatermarkDetector(
            vocab=list(range(vocabulary)),
            gamma=0.25,
            seeding_scheme=scheme,
            device=torch.device("cpu"),
            tokenizer=object(),
        )

        def read(ids: list[int]) -> float:
            type(detector)._get_ngram_score_cached.cache_clear()
            return float(detector._score_sequence(torch.tensor(ids), return_z_at_T=False)["p_value"])

        return read

    return make


def three_bricks(peers: Path, vocabulary: int) -> Peer:
    """Its MarylandDetector, each pair once ("v2")."""
    detector = loaded(peers / "three_bricks", "wm.detector").MarylandDetector
    made = detector(_tokenizer(vocabulary), seed=NUMBER, gamma=0.5)
    return lambda ids: float(made.get_pvalues(made.get_scores_by_t([ids], scoring_method="v2"))[0, 0])


def markllm_kgw(peers: Path, vocabulary: int) -> Peer:
    """Its z of a sequence, every position, as a normal tail."""
    import torch
    from scipy.stats import norm

    config = SimpleNamespace(device="cpu", hash_key=NUMBER, vocab_size=vocabulary, f_scheme="time", gamma=0.5)
    config.__dict__.update(prefix_length=1, window_scheme="left")
    made = markllm_module(peers, "kgw.kgw").KGWUtils(config)
    return lambda ids: float(norm.sf(made.score_sequence(torch.tensor(ids))[0]))


def markllm_unigram(peers: Path, vocabulary: int) -> Peer:
    """Its mask and its z of a sequence, every position, as a normal tail."""
    import torch
    from scipy.stats import norm

    utils = markllm_module(peers, "unigram.unigram").UnigramUtils
    config = SimpleNamespace(gamma=0.5, vocab_size=vocabulary, hash_key=NUMBER)
    return lambda ids: float(norm.sf(utils(config).score_sequence(torch.tensor(ids))[0]))


def owmark(peers: Path, vocabulary: int) -> Peer:
    """Its detector, each pair once."""
    green_red = loaded(peers / "owmark", "owmark.genmark.green_red")
    key = b"".join(word.to_bytes(8, "little") for word in words_of("owmark/green-red"))
    config = green_red.GenConfig(key=key)
    return lambda ids: float(green_red.detect(ids, config).p_value)


def sbw(peers: Path, vocabulary: int) -> Peer:
    """Its detector with "gpu-fused-simple_4", each n-gram once; its Philox as it stands, not compiled."""
    import torch

    module = loaded(peers / "sbw", "sbw.detector")
    sys.modules["sbw.batch"]._philox4x32_10_compiled = sys.modules["sbw.batch"]._philox4x32_10  # type: ignore[attr-defined]
    detector = module.WatermarkDetector(
        device=torch.device("cpu"),
        tokenizer=object(),
        vocab=list(range(vocabulary)),
        gamma=0.25,
        seeding_scheme="gpu-fused-simple_4",
        hash_key=NUMBER,
        normalizers=[],
    )
    return lambda ids: float(detector._score_sequence(torch.tensor(ids))["p_value"])


def vllm(name: str) -> Callable[[Path, int], Peer]:
    """Its detectors of one key, of two, and of one with HMAC; each window once."""

    def make(peers: Path, vocabulary: int) -> Peer:
        gumbel = _vllm_module(peers)
        (word,) = words_of("vllm-gumbel/single")
        if name == "dual":
            detector = gumbel.DualKeyGumbelWatermarkDetector(word)
        elif name == "hmac":
            prf = sys.modules["vllm.v1.watermarking.prfs.hmac_sha256"].HMACSHA256PRF
            whole = sum(word << 64 * at for at, word in enumerate(words_of("vllm-gumbel/hmac")))
            detector = gumbel.GumbelWatermarkDetector(0, prf=prf(whole))
        else:
            detector = gumbel.GumbelWatermarkDetector(word)
        return lambda ids: float(detector.detect(ids).p_value)

    return make


def sglang(name: str) -> Callable[[Path, int], Peer]:
    """Its detector of one key, or of two ("combined"); each window once, 4,096 at most."""

    def make(peers: Path, vocabulary: int) -> Peer:
        stand_in = types.ModuleType("msgspec")
        stand_in.Struct = _Struct  # type: ignore[attr-defined]
        sys.modules.setdefault("msgspec", stand_in)
        module = loaded(peers, "sglang.srt.sampling.watermarking.detector")
        keys = [f"{word:016x}" for word in words_of(f"sglang-gumbel/{name}")]
        detector = module.WatermarkDetector(keys[0], key_b=keys[1] if name == "dual" else None)
        return lambda ids: float(detector.detect_tokens(ids).combined.p_value)

    return make


def textseal(name: str) -> Callable[[Path, int], Peer]:
    """Its detectors, each n-gram once ("v2")."""

    def make(peers: Path, vocabulary: int) -> Peer:
        module = loaded(peers, "textseal.posthoc.detector")
        arguments = sys.modules["textseal.common.watermark.core"].WatermarkConfig(
            secret_key=NUMBER, watermark_type=name, gamma=0.5
        )
        detector = module.build_detector(_tokenizer(vocabulary), arguments)

        def read(ids: list[int]) -> float:
            scores = detector.get_scores_by_t([ids], scoring_method="v2", seen_windows=set())[0]
            return float(detector.get_pvalue(sum(scores), len(scores), eps=1e-200))

        return read

    return make


def hf_synthid(peers: Path, vocabulary: int) -> Peer:
    """transformers' g-values and its mask of repeated contexts; their mean."""
    from transformers import SynthIDTextWatermarkLogitsProcessor

    made = SynthIDTextWatermarkLogitsProcessor(
        ngram_len=5,
        keys=words_of("hf-synthid/table"),
        sampling_table_size=2**16,
        sampling_table_seed=0,
        context_history_size=1024,
        device=_cpu(),
    )
    return _mean(made)


def synthid_text(peers: Path, vocabulary: int) -> Peer:
    """The repository's g-values and its mask of repeated contexts; their mean (its `mean_score`, which needs jax)."""
    sys.path.insert(0, str(peers / "synthid-text" / "src"))
    from synthid_text.logits_processing import SynthIDLogitsProcessor

    made = SynthIDLogitsProcessor(
        ngram_len=5,
        keys=words_of("synthid-text/iterated"),
        context_history_size=1024,
        temperature=1.0,
        top_k=40,
        device=_cpu(),
    )
    return _mean(made)


PEERS: dict[str, Callable[[Path, int], Peer]] = {
    "hf-kgw/lefthash": hf_kgw("lefthash"),
    "hf-kgw/selfhash": hf_kgw("selfhash"),
    "lm-watermarking": lm_watermarking("simple_1"),
    "lm-watermarking/selfhash": lm_watermarking("selfhash"),
    "markllm/kgw": markllm_kgw,
    "markllm/unigram": markllm_unigram,
    "owmark/green-red": owmark,
    "sbw/lefthash": sbw,
    "three-bricks/maryland": three_bricks,
    "vllm-gumbel/single": vllm("single"),
    "vllm-gumbel/dual": vllm("dual"),
    "vllm-gumbel/hmac": vllm("hmac"),
    "sglang-gumbel/single": sglang("single"),
    "sglang-gumbel/dual": sglang("dual"),
    "textseal/greenlist": textseal("greenlist"),
    "textseal/gumbel": textseal("gumbelmax"),
    "hf-synthid/table": hf_synthid,
    "synthid-text/iterated": synthid_text,
}


def compare(peers: Path, texts: dict[str, np.ndarray], vocabulary: int, names: list[str]) -> None:
    """Prints, recipe by recipe, by how much a rule's reading of some texts and the peer's own differ at most."""
    for name in [name for name in names if name in PEERS]:
        try:
            peer = PEERS[name](peers, vocabulary)
        except (ImportError, FileNotFoundError) as error:
            print(f"{name}  not here: {error}", flush=True)
            continue
        pairs = [(_by_rule(name, ids, vocabulary), peer(ids.tolist())) for ids in texts.values()]
        off = max(abs(mine / theirs - 1) for mine, theirs in pairs)
        print(f"{name}  {len(pairs)} texts, largest relative difference {off:.1e}", flush=True)


def _by_rule(name: str, ids: np.ndarray, vocabulary: int) -> float:
    kind, rule = ENGINES[name], RULES[name]
    assert rule is not None
    sized = "vocabulary" in {field.name for field in dataclasses.fields(kind)}
    scheme, key = kind(**{"vocabulary": vocabulary} if sized else {}), Key.of_engine(words_of(name))
    text = Reading.of(rule, scheme, ids)
    if rule.value is None:
        values = scheme.score(text.windows, text.choices, key)
    else:
        values = rule.value(scheme, key, text.windows, text.choices)
    p = rule.pvalue(scheme, values[text.theirs])[0]
    return float(values[text.theirs].mean()) if np.isnan(p) else p


def _mean(processor: Any) -> Peer:
    import torch

    def read(ids: list[int]) -> float:
        batch = torch.tensor([ids])
        mask = processor.compute_context_repetition_mask(batch)[0]
        return float(processor.compute_g_values(batch)[0][mask.bool()].double().mean())

    return read


def _vllm_module(peers: Path) -> Any:
    """vLLM's gumbel.py, without its configuration classes' decorator, its logger and its samplers."""
    for name in ("vllm", "vllm.config", "vllm.v1", "vllm.v1.watermarking"):
        _stub(name, __path__=[str(peers.joinpath(*name.split(".")))])
    _stub("vllm.config.utils", config=lambda kind: kind)
    _stub("vllm.logger", init_logger=lambda name: None)
    names = ("DraftContextState", "RandomSampler", "SupportsSpeculativeDecoding", "Watermarker", "WatermarkSample")
    _stub("vllm.v1.watermarking.watermarker", **{name: type(name, (), {}) for name in names})
    importlib.import_module("vllm.v1.watermarking.prfs.hmac_sha256")
    return importlib.import_module("vllm.v1.watermarking.gumbel")


class _Struct:
    """What SGLang's results need of msgspec."""

    def __init_subclass__(cls, **_: Any) -> None:
        dataclasses.dataclass(cls)


def _stub(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


def _tokenizer(vocabulary: int) -> Any:
    """A tokenizer of texts that are ids already."""
    return SimpleNamespace(vocab_size=vocabulary, encode=lambda ids, add_special_tokens: ids)


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
