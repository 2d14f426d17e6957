"""What the evidence weighs: an e-value that never exaggerates, its words, and no probability of exposure."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad

from watermark.evidence import Anytime, Evidence, Weighted
from watermark.keys import decoy_keys
from watermark.report import weight
from watermark.report.planned import Banner
from watermark.report.weight import (
    BANDS,
    NO_SUPPORT,
    RANGES,
    WHAT_IT_IS,
    Weight,
    band,
    calibrated,
    from_pvalue,
    in_a_word,
    most,
    weighing,
    weight_of,
)
from watermark.stats.laws import Bernoulli


def test_the_calibrator_is_the_mean_over_kappa() -> None:
    """Vovk and Wang 2021: each kappa p^(kappa - 1) is a calibrator; here their mean, integrated by scipy."""
    for p in (1.0, 0.7, 0.05, 0.001, 1e-6):
        mean, _ = quad(lambda kappa, p=p: kappa * p ** (kappa - 1), 0, 1)
        assert 10 ** calibrated(math.log10(p)) == pytest.approx(mean, rel=1e-7)


def test_the_calibrated_e_value_has_mean_one_under_chance() -> None:
    """Over a uniform p, with x = -ln p: the integral of F(e^-x) e^-x over x."""
    mean, _ = quad(lambda x: 10 ** calibrated(-x / math.log(10)) * math.exp(-x), 0, 700, limit=500)
    rest = 1 / 700  # of the integral beyond, 1/x²
    assert mean + rest == pytest.approx(1, abs=1e-6)


def test_the_calibrated_e_value_is_no_larger_than_one_over_p_and_falls_with_p() -> None:
    grid = -np.concatenate([[0.0, 1e-12, 4.3e-4, 4.4e-4], np.geomspace(1e-3, 400, 200)])
    made = np.array([calibrated(x) for x in grid])
    assert (np.diff(made) >= 0).all()
    assert (made[1:] <= np.maximum(-grid[1:], 0)).all()
    assert 10 ** made[0] == pytest.approx(0.5)


def test_exact_tests_calibrated_hold_their_level_as_bets() -> None:
    """The mean of E over the exact law of a count is at most 1: 400 cells, every total."""
    law, n = Bernoulli(0.25), 400
    from scipy.stats import binom

    chances = binom.pmf(np.arange(n + 1), n, 0.25)
    values = np.array([10 ** calibrated(law.log10_pvalue(total, n)) for total in range(n + 1)])
    assert 0.3 < float((chances * values).sum()) <= 1


def test_a_p_value_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or below"):
        calibrated(0.1)
    with pytest.raises(ValueError, match="0 or below"):
        calibrated(math.nan)


def test_the_upper_bound_is_that_of_sellke_bayarri_and_berger() -> None:
    """Their table 1: p = 0.05, 0.01, 0.001 give Bayes factors in favour of the null of 0.407, 0.125 and 0.0188."""
    for p, bound in ((0.05, 0.407), (0.01, 0.125), (0.001, 0.0188)):
        assert 10 ** -(most(math.log10(p)) or 0) == pytest.approx(bound, rel=0.01)
    assert most(math.log10(0.5)) is None
    for log10_p in (-0.5, -1.0, -3.0, -20.0):
        assert calibrated(log10_p) < (most(log10_p) or 0)


@pytest.mark.parametrize(
    "e, words",
    [
        (0.0, NO_SUPPORT),
        (0.001, NO_SUPPORT),
        (1.0, NO_SUPPORT),
        (1.99, NO_SUPPORT),
        (2.0, "weak support"),
        (9.99, "weak support"),
        (10.0, "moderate support"),
        (99.9, "moderate support"),
        (100.0, "moderately strong support"),
        (999.0, "moderately strong support"),
        (1e3, "strong support"),
        (9999.0, "strong support"),
        (1e4, "very strong support"),
        (999_999.0, "very strong support"),
        (1e6, "extremely strong support"),
        (1e300, "extremely strong support"),
    ],
)
def test_bands_are_those_of_the_guideline(e: float, words: str) -> None:
    assert band(math.log10(e) if e else -math.inf) == words


def test_a_number_that_is_none_has_no_band() -> None:
    with pytest.raises(ValueError, match="NaN"):
        band(math.nan)


def test_the_table_of_the_page_has_the_bounds_of_the_bands() -> None:
    for (least, _), text in zip(BANDS, RANGES, strict=True):
        assert float(text.split(" to ")[0].split(" and ")[0].replace(",", "")) == pytest.approx(10**least)


def test_no_likelihood_ratio_speaks_for_the_alternative() -> None:
    """An e-value below 1 is a lost bet, not support for Hd: weak exposure looks the same."""
    told = weighing(Weight(-5.0, "mean e-value", 0.0), what="these outputs", mark="its mark")
    assert told.band == NO_SUPPORT
    assert "do not support Hd either" in told.sentence
    assert "support for neither" in in_a_word(from_pvalue(0.0))


def test_nothing_becomes_a_probability_of_exposure() -> None:
    told = weighing(from_pvalue(-9.0), what="these outputs", mark="its mark")
    words = " ".join([*(getattr(told, f.name) for f in dataclasses.fields(told) if f.name != "scale"), WHAT_IT_IS])
    assert "not the probability of either proposition" in words
    assert not re.search(r"\d %|per cent|probability that|probability of exposure", words)


def test_one_row_of_the_scale_is_this_evidence() -> None:
    for log10_p in (0.0, -1.5, -3.0, -5.0, -30.0):
        told = weighing(from_pvalue(log10_p), what="these outputs", mark="its mark")
        (here,) = [words for _, words, this in told.scale if this]
        assert here.startswith(told.band)


def test_an_exploratory_run_is_told_that_its_weight_may_be_too_large() -> None:
    banner = Banner("Exploratory", "", [], True, [])
    assert "E is too large" in weighing(from_pvalue(-9.0), what="these outputs", mark="m", plan=banner).caveat
    assert weighing(from_pvalue(-9.0), what="these outputs", mark="m").caveat == ""
    assert "unless something was chosen after looking" in in_a_word(from_pvalue(-9.0), banner)
    assert "unless" not in in_a_word(from_pvalue(-9.0))


def _evidence(**changed: Any) -> Evidence:
    """Evidence of which nothing is asked here but what decides."""
    held = dict.fromkeys(field.name for field in dataclasses.fields(Evidence))
    return Evidence(**held | {"log10_p": -4.0, "options": {}} | changed)  # type: ignore[arg-type]


def _weighted(log10_e: float) -> Weighted:
    return Weighted("logits", None, log10_e, min(0.0, -log10_e), 0.01, [], {})


def test_votes_are_weighed_by_their_p_value_and_e_values_by_themselves() -> None:
    assert weight_of(_evidence()) == from_pvalue(-4.0)
    deep = weight_of(_evidence(weighted=_weighted(7.5), log10_p=-7.5))
    assert (deep.log10_e, deep.origin, deep.limit) == (7.5, "mean e-value", None)
    running = Anytime(3.25, None, [])
    stopped = _evidence(weighted=_weighted(7.5), anytime=running, options={"stopped": True}, log10_p=-3.25)
    assert (weight_of(stopped).log10_e, weight_of(stopped).origin) == (3.25, "e-process")


def test_of_a_set_of_keys_the_mean_weighs_and_a_revoked_key_nothing() -> None:
    each = [{"log10_e": 5.0, "revoked": False}, {"log10_e": 9.0, "revoked": True}, {"log10_e": -1.0, "revoked": False}]
    found = weight_of(_evidence(weighted=_weighted(5.0), keys={"each": each, "tested": 3}))
    assert 10**found.log10_e == pytest.approx((1e5 + 0 + 0.1) / 3)
    none = weight_of(_evidence(weighted=_weighted(5.0), keys={"each": each[1:2], "tested": 1}))
    assert none.log10_e == -math.inf
    assert weight.shown(none.log10_e) == "0"
    assert none.band == NO_SUPPORT


def test_of_several_keys_the_propositions_speak_of_all() -> None:
    told = weighing(from_pvalue(-5.0), what="these outputs", mark="its mark", keys=4)
    assert "depend on one of these 4 keys" in told.hp
    assert "each of these keys is one more random key" in told.hd
    assert "this key" in weighing(from_pvalue(-5.0), what="these outputs", mark="its mark").hp


def test_two_sided_and_bonferroni_p_values_enter_as_they_stand() -> None:
    """What weighs is the p-value that decides, with every correction in it."""
    assert weight_of(_evidence(log10_p=-2.0, keys={"each": [], "tested": 50})).log10_e == calibrated(-2.0)


def test_decoy_keys_weigh_nothing_on_average() -> None:
    """999 keys that marked nothing, put to one text's cells: the mean of their e-values is near 1, far under 3."""
    from watermark.mark import Watermark
    from watermark.schemes import GreenList

    rng = np.random.default_rng(5)
    windows, choices = rng.integers(0, 500, (600, 2)), rng.integers(0, 500, 600)
    keys = list(decoy_keys(b"weights of keys that marked nothing", 999))
    votes = np.ones((1, 600), dtype=np.int32)
    totals = Watermark(GreenList(), keys[0]).totals(windows, choices, votes, keys)[:, 0]
    law = Bernoulli(0.25)
    values = [10 ** calibrated(law.log10_pvalue(int(total), 600)) for total in totals]
    assert 0.5 < float(np.mean(values)) < 3
    assert np.mean([band(math.log10(value)) != NO_SUPPORT for value in values]) < 0.15
