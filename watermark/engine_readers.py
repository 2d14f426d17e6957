"""Engines' configurations by name: which fields make which recipe, with the defaults of the version that is named.

One field read wrongly, and marked text shows as unmarked: what is not known is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from watermark.engine_config import Config, Model
from watermark.errors import ProfileMismatch

MILLIONTH = 15485863  # the millionth prime, the key that many of these engines come with
REPOSITORY = "vLLM's repository has this recipe, no released server up to 0.33.0 does"

Read = tuple[str, dict[str, Any], list[int]]  # the scheme's name, its parameters, the key's words


def _hf(config: Config, model: Model) -> Read:
    """transformers 5.23.0, generation/configuration_utils.py, WatermarkingConfig; also in a generation_config.json."""
    if config.has("ngram_len"):
        raise config.refused("is a configuration of SynthID", hint="say --from hf-synthid")
    seeding = config.choice("seeding_scheme", ("lefthash", "selfhash"), "lefthash")
    width, key = config.whole("context_width", 1), config.word("hashing_key", public=MILLIONTH)
    lists = _lists(config, model.columns(), gamma=("greenlist_ratio", 0.25), delta=("bias", 2.0))
    config.cpu()
    salted = {"context_width": width} if seeding == "selfhash" else {}
    return f"hf-kgw/{seeding}", lists | salted, [key]


def _hf_synthid(config: Config, model: Model) -> Read:
    """transformers 5.23.0, SynthIDTextWatermarkingConfig; also synthid-text 0.2.1, the same recipe."""
    if config.has("greenlist_ratio") or config.has("hashing_key"):
        raise config.refused("is a configuration of green lists", hint="say --from hf")
    words = config.words("keys")
    made = {"window": config.whole("ngram_len") - 1, "depth": len(words)}
    table = {
        "table_size": config.whole("sampling_table_size", 65536),
        "table_seed": config.whole("sampling_table_seed", 0),
    }
    config.leave("context_history_size", "skip_first_ngram_calls", "debug_mode")
    return "hf-synthid/table" + "-cuda" * config.cuda(), made | table, words


def _synthid_text(config: Config, model: Model) -> Read:
    """synthid-text at addb4a1, DEFAULT_WATERMARKING_CONFIG of synthid_mixin.py, whose hash needs no table."""
    words = config.words("keys")
    config.leave("context_history_size", "skip_first_ngram_calls", "debug_mode", "device")
    return "synthid-text/iterated", {"window": config.whole("ngram_len") - 1, "depth": len(words)}, words


def _vllm(config: Config, model: Model) -> Read:
    """vllm 0.33.0, vllm/config/watermarking.py (--watermark-config); "sbw" and "hmac_sha256" are its repository's."""
    algorithm = config.choice("algorithm", ("gumbel", "dual_key_gumbel", "sbw"), "gumbel")
    config.leave("deduplicate_contexts", "deduplicate_contexts_max_history", "allow_target_only_watermarking")
    hashed = config.choice("prf", ("philox", "hmac_sha256"), "philox")
    if algorithm == "sbw":
        return _vllm_sbw(config)
    config.leave("sbw_scheme", "sbw_gamma", "sbw_delta")
    width = {"window": config.whole("context_width", 4)}
    if algorithm == "dual_key_gumbel":
        if hashed != "philox":
            raise config.refused("has two keys with a prf other than philox, which is not read")
        return "vllm-gumbel/dual", width | {"alpha": config.number("alpha", 0.1)}, [config.word("key")]
    config.leave("alpha")
    if hashed == "philox":
        return "vllm-gumbel/single", width, [config.word("key")]
    config.warn(REPOSITORY)
    return "vllm-gumbel/hmac", width, config.quarters("key")


def _vllm_sbw(config: Config) -> Read:
    config.choice(
        "sbw_scheme", ("lefthash",), "selfhash", why=" (which ids a self-hashed seed is made from depends on the key)"
    )
    config.leave("alpha")
    config.warn(REPOSITORY)
    made = {"gamma": config.share("sbw_gamma", 0.5), "delta": config.number("sbw_delta", 2.0)}
    return "sbw/lefthash", made | {"window": config.whole("context_width", 1)}, [config.word("key")]


def _sglang(config: Config, model: Model) -> Read:
    """sglang 0.5.23, srt/sampling/watermarking/config.py (--watermark-config); keys are 1 to 16 hexadecimal digits."""
    names = ["key", "key_b"] if config.has("key_b") else ["key"]
    keys = [int(config.digits(name, most=16), 16) for name in names]
    config.leave("default_enabled", "enforce_all")
    if config.number("max_probability", 1.0) < 1:
        config.warn("tokens likelier than max_probability are unmarked, and scored all the same: more text is needed")
    width = {"window": config.whole("context_window", 4)}
    if len(keys) == 1:
        config.fixed("mixing_probability", 0.5, why="it needs a second key, 'key_b', which is missing")
        return "sglang-gumbel/single", width, keys
    return "sglang-gumbel/dual", width | {"mixing": config.share("mixing_probability", 0.5)}, keys


def _textseal(config: Config, model: Model) -> Read:
    """textseal 0.0.5, common/watermark/core.py, WatermarkConfig. Its default type has changed, and must be stated."""
    aliases = {"maryland": "greenlist", "openai": "gumbelmax"}
    named = config.choice(
        "watermark_type",
        ("greenlist", "maryland", "gumbelmax", "openai"),
        why=" (the layers of its SynthID and the keys of its dual form are shifts of one sum modulo 8,191)",
    )
    config.leave(
        "method", "alpha", "depth", "after_topp", "k_morphmark", "p_0", "chunk_size", "num_drafts", "base_watermark",
        "attenuation", "attenuation_weight", "backprop_on_nonzero", "scoring_method",
    )  # fmt: skip
    key, width = config.word("secret_key", public=42, signed=True), {"window": config.whole("ngram", 1)}
    if aliases.get(named, named) == "gumbelmax":
        config.leave("gamma", "delta")
        return "textseal/gumbel", width, [key]
    lists = {"gamma": config.share("gamma", 0.5), "delta": config.number("delta", 2.0)}
    return "textseal/greenlist", width | lists, [key]


def _lm_watermarking(config: Config, model: Model) -> Read:
    """jwkirchenbauer/lm-watermarking at fb602de: the arguments of its WatermarkLogitsProcessor.

    seeding_scheme and gamma have one default in watermark_processor.py, another in extended_watermark_processor.py,
    and must be stated.
    """
    function, width, salted, own = _seeding(config)
    config.fixed("select_green_tokens", True, why="the last places of the permutation are green then")
    config.fixed("use_gpu", False, why="lists drawn on CUDA are not read (state false if the run had no GPU)")
    config.leave("store_spike_ents")
    stated = config.word("hash_key", public=MILLIONTH) if own is None or config.has("hash_key") else own
    if own is not None and own != stated:
        raise config.unkeyed("the key in 'seeding_scheme' is not the one in 'hash_key'")
    lists = _lists(config, model.stated(config) or model.listed(), gamma=("gamma", None), delta=("delta", 2.0))
    config.cpu()
    if salted:
        return "lm-watermarking/selfhash", lists | {"context_width": width}, [stated]
    return "lm-watermarking", lists | {"function": function, "window": width}, [stated]


def _seeding(config: Config) -> tuple[str, int, bool, int | None]:
    """(function, context width, self-salted, key or None) of a seeding scheme; "ff-…" may hold the key."""
    named = config.text("seeding_scheme")
    known = {
        "simple_1": "ff-additive_prf-1-False", "lefthash": "ff-additive_prf-1-False",
        "selfhash": "ff-anchored_minhash_prf-4-True", "algorithm-3": "ff-anchored_minhash_prf-4-True",
        "skipgram": "ff-skipgram_prf-5-False",
    }  # fmt: skip
    parts = known.get(named, named).split("-")
    if parts[0] != "ff" or len(parts) not in (4, 5) or not parts[2].isdigit():
        raise config.refused(f"has a seeding_scheme that is not read; what is: {', '.join(known)}, ff-…")
    if len(parts) == 5 and not parts[4].isdigit():
        raise config.unkeyed("the key in 'seeding_scheme' should be a whole number")
    function, salted = parts[1].removesuffix("_prf"), parts[3] == "True"
    if salted != (function == "anchored_minhash") or function not in (
        "anchored_minhash", "additive", "minfunc", "position", "skipgram",
    ):  # fmt: skip
        raise config.refused(
            f"has seeding_scheme {'-'.join(parts[:4])}, which is not read (which ids it uses depends on the key); what "
            "is: anchored_minhash_prf with self-salt; additive_prf, minfunc_prf, position_prf, skipgram_prf without"
        )
    own = int(parts[4]) if len(parts) == 5 else None
    if own is not None and own >= 2**64:
        raise config.unkeyed("the key in 'seeding_scheme' should be a whole number of 64 bits")
    return function, int(parts[2]), salted, own


def _three_bricks(config: Config, model: Model) -> Read:
    """facebookresearch/three_bricks at ee9c7a2, arguments of main_watermark.py; also radioactive-watermark's."""
    config.choice("method", ("maryland",), why=" (the Gumbel form draws floating-point numbers)")
    config.choice("seeding", ("hash",), "hash", why=" (it looks into a table that each process draws anew)")
    config.fixed("hash_key", 35317, why="another factor of the polynomial is not read")
    config.leave("method_detect", "scoring_method", "payload_max")
    made = {"window": config.whole("ngram", 4), "payload": config.whole("payload", 0)}
    lists = _lists(config, model.columns(), gamma=("gamma", 0.25), delta=("delta", 4.0))
    return "three-bricks/maryland", lists | made, [config.word("seed", public=0)]


def _owmark(config: Config, model: Model) -> Read:
    """owmark 0.8.1, genmark/green_red.py, GenConfig: the key as hexadecimal digits, at most 32 bytes."""
    digits = config.digits("key", most=64)
    if len(digits) % 2:
        raise config.unkeyed("the key, 'key', should be whole bytes, two hexadecimal digits each")
    padded = bytes.fromhex(digits).ljust(32, b"\0")  # as HMAC pads it
    words = [int.from_bytes(padded[i : i + 8], "little") for i in range(0, 32, 8)]
    return "owmark/green-red", {"gamma": config.share("gamma", 0.25), "delta": config.number("delta", 2.0)}, words


def _markllm(config: Config, model: Model) -> Read:
    """THU-BPM/MarkLLM at 112fa74, config/KGW.json, Unigram.json and SynthID.json."""
    algorithm = config.choice("algorithm_name", ("KGW", "Unigram", "SynthID"))
    config.leave("z_threshold")
    if algorithm == "SynthID":
        config.leave("watermark_mode", "num_leaves", "detector_type", "threshold")
        return _hf_synthid(config, model)
    key, vocabulary = config.word("hash_key", public=MILLIONTH), model.stated(config)
    if vocabulary is None and model.listed() != model.columns():
        raise ProfileMismatch(
            "the lists run over the vocab_size of MarkLLM's TransformersConfig, which the file lacks: the tokenizer "
            f"has {model.listed()} tokens, the model {model.columns()} logits",
            hint='add "vocab_size" to the file: the tokenizer\'s length unless another was passed',
        )
    lists = _lists(config, vocabulary or model.columns(), gamma=("gamma", 0.5), delta=("delta", 2.0))
    if algorithm == "Unigram":
        return "markllm/unigram", lists, [key]
    config.choice("window_scheme", ("left",), "left", why=" (its lists are found by trying every token)")
    functions = ("time", "additive", "skip")
    function = config.choice("f_scheme", functions, "time", why=" (which id it uses depends on the key)")
    config.cpu()
    return "markllm/kgw", lists | {"function": function, "window": config.whole("prefix_length", 1)}, [key]


def _sbw(config: Config, model: Model) -> Read:
    """sbw 1.0.0, sbw/batch.py, arguments of WatermarkBatch."""
    if not config.text("seeding_scheme", "simple_1").startswith("gpu-fused-simple_4"):
        raise config.refused("has a seeding_scheme that is not read; what is: gpu-fused-simple_4, also with -…")
    config.leave("device", "profile", "vocab")
    made = {"gamma": config.share("gamma", 0.5), "delta": config.number("delta", 2.0), "window": 4}
    return "sbw/lefthash", made, [config.word("hash_key", public=MILLIONTH)]


READERS: dict[str, Callable[[Config, Model], Read]] = {
    "hf": _hf,
    "hf-synthid": _hf_synthid,
    "vllm": _vllm,
    "sglang": _sglang,
    "textseal": _textseal,
    "lm-watermarking": _lm_watermarking,
    "three-bricks": _three_bricks,
    "owmark": _owmark,
    "markllm": _markllm,
    "sbw": _sbw,
    "synthid-text": _synthid_text,
}


def _lists(
    config: Config, vocabulary: int, *, gamma: tuple[str, float | None], delta: tuple[str, float]
) -> dict[str, Any]:
    """Parameters that permuted lists share; gamma, delta: the engine's name for each and its default."""
    return {"vocabulary": vocabulary, "gamma": config.share(*gamma), "delta": config.number(*delta)}
