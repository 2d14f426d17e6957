"""Green lists keep the contract, and the contract refuses what breaks it."""

import dataclasses

import numpy as np
import pytest
import torch

from watermark import GreenList, Key, Scheme, check_scheme
from watermark.errors import MarkInvalid
from watermark.keys import decoy_keys
from watermark.schemes import SCHEMES, scheme_from_json, scheme_to_json

(OURS,) = decoy_keys(b"schemes", 1)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 8])
def test_green_list_keeps_the_contract(window):
    check_scheme(GreenList(window=window))


@pytest.mark.parametrize("gamma, delta", [(0.1, 4.0), (0.5, 1.0), (0.9, 2.0)])
def test_green_list_keeps_the_contract_at_other_settings(gamma, delta):
    check_scheme(GreenList(window=1, gamma=gamma, delta=delta))


def test_contract_holds_without_numba(monkeypatch):
    monkeypatch.setenv("WMARK_NUMBA", "0")
    check_scheme(GreenList())


def test_numba_and_numpy_tilt_to_the_same_bits(monkeypatch):
    logits = np.random.default_rng(0).standard_normal((5, 4096)).astype(np.float32)
    contexts, key = np.arange(10).reshape(5, 2), Key.generate()
    monkeypatch.setenv("WMARK_NUMBA", "1")
    fast = GreenList().tilt(logits, contexts, key)
    monkeypatch.setenv("WMARK_NUMBA", "0")
    assert np.array_equal(fast, GreenList().tilt(logits, contexts, key))


class Leaky(GreenList):
    def score(self, contexts, choices, key):
        return super().score(np.zeros_like(contexts), choices, key)


class Greedy(GreenList):
    def score(self, contexts, choices, key):
        return np.maximum(super().score(contexts, choices, key), np.asarray(choices) % 10 == 0)


class Clumsy(GreenList):
    def tilt(self, logits, contexts, key):
        tilted = super().tilt(logits, contexts, key)
        logits[:] = 0
        return tilted


class Unmasking(GreenList):
    def tilt(self, logits, contexts, key):
        return super().tilt(logits.clip(-1e9), contexts, key)


class Idle(GreenList):
    def tilt(self, logits, contexts, key):
        return logits + 0


class Moody(GreenList):
    def tilt(self, logits, contexts, key):
        return (
            super().tilt(logits, np.asarray(contexts)[::-1].copy(), key)
            if len(logits) == 4
            else super().tilt(logits, contexts, key)
        )


@pytest.mark.parametrize(
    "broken, says",
    [
        (Leaky, "share a token are not independent"),
        (Greedy, "miss the mean"),
        (Clumsy, "changes its inputs"),
        (Unmasking, "un-masks -inf"),
        (Idle, "needed are 3"),
        (Moody, "differs from its rows"),
    ],
)
def test_contract_names_what_is_broken(broken, says):
    with pytest.raises(AssertionError, match=says):
        check_scheme(broken())


@pytest.mark.parametrize(
    "parameters",
    [{"window": 0}, {"window": 9}, {"window": 1.0}, {"window": True}, {"gamma": 0.0}, {"gamma": 1.0},
     {"delta": 0.0}, {"delta": -1.0}, {"delta": float("nan")}, {"delta": float("inf")}],
)  # fmt: skip
def test_unusable_parameters_are_refused(parameters):
    with pytest.raises(ValueError, match="must"):
        GreenList(**parameters)


def test_every_scheme_survives_json():
    for kind in SCHEMES.values():
        assert isinstance(kind(), Scheme)
        assert scheme_from_json(scheme_to_json(kind())) == kind()


@pytest.mark.parametrize(
    "change, says",
    [({"name": "purple"}, "unknown scheme 'purple'"), ({"version": 9}, "version 9"),
     ({"parameters": {"gamma": 2.0}}, "unusable parameters"), ({"parameters": {"colour": 1}}, "unusable parameters")],
)  # fmt: skip
def test_descriptions_that_are_not_ours_are_refused(change, says):
    with pytest.raises(MarkInvalid, match=says):
        scheme_from_json(scheme_to_json(GreenList()) | change)


def test_every_parameter_changes_the_tilt():
    logits, contexts, key = torch.randn(3, 512), torch.arange(9).reshape(3, 3), Key.generate()
    plain = GreenList(window=2).tilt(logits, contexts[:, :2], key)
    for changed in (GreenList(window=3), GreenList(gamma=0.5), GreenList(delta=1.0)):
        assert not torch.equal(changed.tilt(logits, contexts[:, : changed.window], key), plain)
    assert {field.name for field in dataclasses.fields(GreenList)} == {"window", "gamma", "delta", "gate"}


def test_share_of_green_tokens_is_gamma_and_binomial():
    """Lists differ in size as coins do: the count of a window's green tokens has the binomial variance."""
    rows = 400
    zeros = np.zeros((rows, 2000), dtype=np.float32)
    green = (GreenList().tilt(zeros, np.arange(2 * rows).reshape(rows, 2), OURS) > 0).sum(axis=1)
    assert abs(green.mean() - 500) < 4 * np.sqrt(375 / rows)
    assert 0.75 < green.var() / 375 < 1.3
