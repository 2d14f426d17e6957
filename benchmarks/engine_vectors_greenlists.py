"""Vectors of the green-list engines' own code, for tests/conformance/test_greenlists.py: run once.

    cd PEERS
    git clone https://github.com/jwkirchenbauer/lm-watermarking             # at fb602de
    git clone https://github.com/facebookresearch/three_bricks              # at ee9c7a2
    git clone https://github.com/facebookresearch/radioactive-watermark     # at 19c6dc9
    git clone https://github.com/THU-BPM/MarkLLM                            # at 112fa74
    pip download --no-deps owmark==0.8.1 sbw==1.0.0                         # each wheel unzipped into owmark/, sbw/
    python benchmarks/engine_vectors_greenlists.py PEERS tests/vectors/engines/greenlists.json

What is stored for each case: the scheme's parameters, the key, some windows, and the SHA-256 of the packed bits
"green or not" of every token after every window, as the peer's own functions gave them.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

SIZES = ((32_000, 10), (128_256, 4))  # vocabulary, windows
KEYS = (15485863, 2**31 + 11, 42)
Mask = Callable[[list[int]], np.ndarray]


def cases(scheme: str, key: list[int], parameters: dict[str, Any], mask: Mask, *, seed: int) -> dict[str, Any]:
    """One case: windows drawn here, of which the last repeats one token, and the digest of their lists."""
    vocabulary, count = parameters["vocabulary"], dict(SIZES)[parameters["vocabulary"]]
    width = parameters.get("window", 1)
    windows = np.random.default_rng([seed, width]).integers(1, vocabulary, (count, width))
    windows[-1] = windows[-1, 0]
    rows = [np.packbits(np.asarray(mask(window), dtype=bool)) for window in windows.tolist()]
    digest = hashlib.sha256(np.stack(rows).tobytes()).hexdigest()
    return {
        "scheme": scheme,
        "key": key,
        "parameters": parameters,
        "windows": windows.tolist(),
        "cells": count * vocabulary,
        "sha256": digest,
    }


def lm_watermarking(peers: Path) -> Iterator[dict[str, Any]]:
    """Lists of WatermarkBase for the freeform name of each function and width."""
    processor = loaded(peers / "lm-watermarking", "extended_watermark_processor")
    forms = [("additive", 1), ("additive", 4), ("minfunc", 3), ("position", 3), ("skipgram", 5)]
    for (vocabulary, _), (function, width), key in _crossed(forms):
        made = processor.WatermarkBase(
            vocab=list(range(vocabulary)), gamma=0.25, seeding_scheme=f"ff-{function}_prf-{width}-False-{key}"
        )
        made.rng = torch.Generator()
        parameters = {"vocabulary": vocabulary, "function": function, "window": width, "gamma": 0.25}

        def mask(window: list[int], made: Any = made, vocabulary: int = vocabulary) -> np.ndarray:
            return _marked(made._get_greenlist_ids(torch.tensor(window)), vocabulary)

        yield cases("lm-watermarking", [key], parameters, mask, seed=1)


def three_bricks(peers: Path) -> Iterator[dict[str, Any]]:
    """Lists of three_bricks' detector, of radioactive-watermark's generator, and of three_bricks' with a payload."""
    detector = loaded(peers / "three_bricks", "wm.detector")
    for (vocabulary, _), width, key in _crossed([1, 2, 4]):
        made = detector.MarylandDetector(SimpleNamespace(vocab_size=vocabulary), ngram=width, seed=key, gamma=0.5)
        parameters = {"vocabulary": vocabulary, "window": width, "gamma": 0.5}

        def mask(window: list[int], made: Any = made) -> np.ndarray:
            return np.asarray(made.score_tok(window, 0)) == 1

        yield cases("three-bricks/maryland", [key], parameters, mask, seed=2)
    for name, payload in (("three_bricks", 1234), ("radioactive-watermark", 0)):
        generator = loaded(peers / name, "wm.generator").MarylandGenerator
        for (vocabulary, _), width, key in _crossed([2, 3]):
            sender = generator.__new__(generator)
            sender.__dict__.update(rng=torch.Generator(), seed=key, seeding="hash", salt_key=35317)
            sender.__dict__.update(gamma=0.25, delta=1.0, payload=payload)
            parameters = {"vocabulary": vocabulary, "window": width, "gamma": 0.25, "payload": payload}

            def paid(window: list[int], sender: Any = sender, vocabulary: int = vocabulary) -> np.ndarray:
                biased = sender.logits_processor(torch.zeros(1, vocabulary), torch.tensor([window]))
                return np.asarray(biased[0] > 0)

            yield cases("three-bricks/maryland", [key], parameters, paid, seed=3)


def markllm(peers: Path) -> Iterator[dict[str, Any]]:
    """Lists of KGWUtils, and the mask of UnigramUtils."""
    kgw, unigram = markllm_module(peers, "kgw.kgw"), markllm_module(peers, "unigram.unigram")
    forms = [("time", 1), ("time", 3), ("additive", 2), ("skip", 2)]
    for (vocabulary, _), (function, width), key in _crossed(forms):
        config = SimpleNamespace(
            device="cpu", hash_key=key, vocab_size=vocabulary, f_scheme=function, window_scheme="left"
        )
        config.__dict__.update(prefix_length=width, gamma=0.5)
        made = kgw.KGWUtils(config)
        parameters = {"vocabulary": vocabulary, "function": function, "window": width, "gamma": 0.5}

        def mask(window: list[int], made: Any = made, vocabulary: int = vocabulary) -> np.ndarray:
            return _marked(made.get_greenlist_ids(torch.tensor(window)), vocabulary)

        yield cases("markllm/kgw", [key], parameters, mask, seed=4)
    for (vocabulary, _), gamma, key in _crossed([0.25, 0.5]):
        utils = unigram.UnigramUtils(SimpleNamespace(gamma=gamma, vocab_size=vocabulary, hash_key=key))
        yield cases(
            "markllm/unigram",
            [key],
            {"vocabulary": vocabulary, "gamma": gamma},
            lambda window, utils=utils: utils.mask,
            seed=5,
        )


def markllm_module(peers: Path, name: str) -> Any:
    """One of MarkLLM's algorithms, without its pictures and models."""
    for left_out in ("utils.utils", "utils.transformers_config", "exceptions.exceptions"):
        _stub(left_out)
    _stub("visualize.data_for_visualization")
    return loaded(peers / "MarkLLM", f"watermark.{name}")


def selfhash(peers: Path) -> Iterator[dict[str, Any]]:
    """Colours of random n-grams, each with its own list, of transformers' processor and of WatermarkBase."""
    from transformers import WatermarkLogitsProcessor

    processor = loaded(peers / "lm-watermarking", "extended_watermark_processor")
    vocabulary, count = 32_000, 50_000
    for at, width in enumerate((4, 1, 2)):
        key = KEYS[at]
        made = WatermarkLogitsProcessor(
            vocabulary, "cpu", hashing_key=key, seeding_scheme="selfhash", context_width=width
        )
        yield coloured("hf-kgw/selfhash", key, vocabulary, width, count, made._get_greenlist_ids)
    for at, width in enumerate((4, 3)):
        key = KEYS[at]
        base = processor.WatermarkBase(
            vocab=list(range(vocabulary)), seeding_scheme=f"ff-anchored_minhash_prf-{width}-True-{key}"
        )
        base.rng = torch.Generator()
        yield coloured("lm-watermarking/selfhash", key, vocabulary, width, count, base._get_greenlist_ids)


def coloured(
    scheme: str, key: int, vocabulary: int, width: int, count: int, green: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, Any]:
    """One case of n-grams drawn from `width`, as the test draws them again."""
    ngrams = torch.from_numpy(np.random.default_rng(width).integers(0, vocabulary, (count, width)))
    found = np.array([bool((green(ngram) == ngram[-1]).any()) for ngram in ngrams])
    return {
        "scheme": scheme,
        "key": [key],
        "parameters": {"vocabulary": vocabulary, "context_width": width},
        "cells": count,
        "sha256": hashlib.sha256(np.packbits(found).tobytes()).hexdigest(),
    }


def owmark(peers: Path) -> Iterator[dict[str, Any]]:
    """Green sets of a 32-byte key, here the bytes 0 to 31, as four little-endian numbers."""
    green_red = loaded(peers / "owmark", "owmark.genmark.green_red")
    key = bytes(range(32))
    words = [int.from_bytes(key[at : at + 8], "little") for at in range(0, 32, 8)]
    for gamma in (0.25, 0.1):

        def mask(window: list[int], gamma: float = gamma) -> np.ndarray:
            green = [green_red.is_green(key, window[-1], token, gamma=gamma) for token in range(32_000)]
            return np.asarray(green)

        yield cases("owmark/green-red", words, {"vocabulary": 32_000, "gamma": gamma}, mask, seed=6)


def sbw(peers: Path) -> Iterator[dict[str, Any]]:
    """Green tokens of the left-hash generator over all logits, run as it stands, not compiled."""
    batch = loaded(peers / "sbw", "sbw.batch")
    for (vocabulary, _), (width, gamma), key in _crossed([(4, 0.25), (1, 0.5), (3, 0.1)]):

        def mask(window: list[int], vocabulary: int = vocabulary, gamma: float = gamma, key: int = key) -> np.ndarray:
            biased = batch._simple_fused_inner(torch.tensor([window]), torch.zeros(1, vocabulary), gamma, 1.0, key)
            return np.asarray(biased[0] > 0)

        parameters = {"vocabulary": vocabulary, "window": width, "gamma": gamma}
        yield cases("sbw/lefthash", [key], parameters, mask, seed=7)


def _crossed(forms: list[Any]) -> Iterator[tuple[tuple[int, int], Any, int]]:
    """Each form under one key at each size; keys take turns."""
    for at, form in enumerate(forms):
        for size in SIZES:
            yield size, form, KEYS[at % len(KEYS)]


def _marked(green: torch.Tensor, vocabulary: int) -> np.ndarray:
    mask = np.zeros(vocabulary, dtype=bool)
    mask[green.numpy()] = True
    return mask


def _stub(name: str) -> None:
    """A module that has whatever is imported from it."""
    module = types.ModuleType(name)
    module.__dict__["__getattr__"] = lambda member: type(member, (), {})
    sys.modules[name] = module


def loaded(root: Path, name: str) -> Any:
    """One module of a peer, without running the code of the packages around it; what bore these names comes back."""
    parts = name.split(".")
    ours = {other: sys.modules.pop(other) for other in list(sys.modules) if other.split(".")[0] == parts[0]}
    for depth in range(1, len(parts)):
        package = types.ModuleType(".".join(parts[:depth]))
        package.__path__ = [str(root.joinpath(*parts[:depth]))]
        sys.modules[package.__name__] = package
    sys.path.insert(0, str(root))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(root))
        sys.modules.update(ours)


if __name__ == "__main__":
    torch.set_num_threads(1)
    makers = (lm_watermarking, three_bricks, markllm, owmark, sbw, selfhash)
    stored = [case for part in makers for case in part(Path(sys.argv[1]))]
    lines = ",\n".join(json.dumps(case) for case in stored)
    Path(sys.argv[2]).write_text(f"[\n{lines}\n]\n")
