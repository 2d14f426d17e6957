"""What to expect before asking: a whole table of slopes, and for each mark those that were measured for it."""

from __future__ import annotations

import numpy as np

from watermark.estimate import measured_slopes, slopes_for, statistics_of
from watermark.mark import Watermark
from watermark.observe import Reading, observe_readings
from watermark.outputs import Output
from watermark.schemes import GreenList


def test_statistics_are_those_that_observations_have(mark):
    """The plan names what `observe` will make of each access."""
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 2000, (6, 60))
    for access in ("text", "samples", "log-probabilities", "logits"):
        for reference in (False, True):
            if access == "text" and not reference:
                assert statistics_of(access, reference=False) == ("votes",)
                continue
            suspect = None if access in ("text", "samples") else np.log(rng.uniform(0.1, 0.3, (60, 3))).astype("f4")
            other = np.log(rng.uniform(0.1, 0.3, (60, 3))).astype("f4") if reference else None
            readings = [
                Reading(
                    Output(str(n), token_ids=tuple(row.tolist())), row, np.arange(60),
                    np.stack([row, (row + 1) % 2000, (row + 2) % 2000], axis=1).astype("i4"), suspect, other,
                    row.astype("i4"),
                )
                for n, row in enumerate(ids)
            ]  # fmt: skip
            seen, _ = observe_readings(readings, mark)
            assert set(seen.weights) - {"votes"} == set(statistics_of(access, reference=reference))


def test_the_table_of_slopes_is_whole():
    rows = measured_slopes()
    assert {row.access for row in rows} == {"text", "samples", "log-probabilities", "logits"}
    for row in rows:
        assert row.statistic in statistics_of(row.access, reference=row.reference is not None)
        assert 0 < row.exponent <= 1
        assert row.spread > 0
        assert row.students >= 1
    best = {
        (row.access, row.reference): max(
            r.slope for r in rows if (r.access, r.reference) == (row.access, row.reference)
        )
        for row in rows
        if row.window == 1
    }
    assert best["logits", "base"] > best["text", None], "an open model with its base shows more than its text"


def test_slopes_are_those_of_the_marks_width_and_of_no_larger_delta(key):
    for window, delta in ((1, 2.0), (1, 9.0)):
        found = slopes_for(Watermark(GreenList(window=window, delta=delta), key), "logits", reference=True)
        assert found
        assert {slope.window for slope in found} == {window}
        assert max(slope.delta for slope in found) <= delta
    for window, delta in ((4, 2.0), (1, 0.5)):
        assert slopes_for(Watermark(GreenList(window=window, delta=delta), key), "logits", reference=True) == []
