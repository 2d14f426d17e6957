"""Tails of many totals at once are the tails of each."""

import numpy as np
import pytest

from watermark.stats import many
from watermark.stats.many import upper_tails
from watermark.stats.weighted import WeightedSum

RNG = np.random.default_rng(3)
LAWS = {
    "votes": (np.ones(700, dtype=np.int32), 0.25),
    "weights of both signs": (RNG.integers(-40, 60, 900).astype(np.int32), 0.25),
    "a common factor": ((6 * RNG.integers(-9, 30, 300)).astype(np.int32), 0.1),
    "one heavy cell": (np.append(RNG.integers(1, 9, 300), 2_000).astype(np.int32), 0.5),
    "few cells": (np.array([3, -2, 5, 5, 1], dtype=np.int32), 0.3),
    "zeros among them": (np.array([0, 4, 0, -7, 9] * 40, dtype=np.int32), 0.75),
}


@pytest.mark.parametrize("name", LAWS)
def test_many_tails_are_each_tail(name):
    law = WeightedSum(*LAWS[name])
    around = np.linspace(law.mean - 6 * law.sd, law.mean + 8 * law.sd, 61).astype(np.int64)
    totals = np.clip(around, law.lowest, law.highest)
    alone = np.array([law.log10_pvalue(int(total)) for total in totals])
    assert np.abs(upper_tails(law, totals) - alone).max() < 1e-8
    assert (alone < -4).any() or name == "few cells"


def test_the_table_serves_common_totals_and_the_law_rare_ones(monkeypatch):
    law = WeightedSum(*LAWS["weights of both signs"])
    asked = []
    monkeypatch.setattr(WeightedSum, "log10_pvalue", lambda self, total: asked.append(total) or -9.0)
    totals = np.array([law.mean - law.sd, law.mean + 3 * law.sd, law.mean + 4.5 * law.sd], dtype=np.int64)
    found = upper_tails(law, totals)
    assert asked == [totals[2]]
    assert found[2] == -9.0
    assert -4 < found[1] < found[0] < 0


def test_a_lattice_too_wide_for_the_table_is_asked_of_the_law(monkeypatch):
    law = WeightedSum(*LAWS["votes"])
    whole = upper_tails(law, [150, 180])
    monkeypatch.setattr(many, "_WIDEST", 32)
    assert np.allclose(upper_tails(law, [150, 180]), whole, atol=1e-9)


def test_no_weight_is_no_evidence():
    assert upper_tails(WeightedSum(np.zeros(9, dtype=np.int32), 0.25), [0, 0]).tolist() == [0.0, 0.0]
