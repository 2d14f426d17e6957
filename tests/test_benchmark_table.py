"""The benchmark's table: the absent are named, the faster are named, a page keeps what stands around its table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def table():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import table
    finally:
        sys.path.remove(str(BENCHMARKS))
    return table


def row(table, own, other, *, kind="peer", most=None):
    return table.Row("marking", "ours", "the peer", kind, own, other, "rows", most)


def test_ratio_is_their_time_over_ours_turn_by_turn(table):
    found = row(table, [1.0, 2.0, 1.0], [3.0, 2.0, 2.0])
    assert found.ratios == [1.0, 2.0, 3.0]
    assert found.ratio == 2.0
    assert table.line(found).endswith("| 1 rows | 0 | 2 (1–3) |")


def test_the_end_names_who_is_faster_and_who_was_absent(table):
    rows = [
        row(table, [1.0], [3.0]),
        row(table, [4.0], [3.0]),
        row(table, [4.0], [1.0], kind="limit", most=5.0),
        row(table, [4.0], [1.0], kind="limit", most=3.0),
        table.Absent("reading", "nobody's detector", "no module named nobody"),
    ]
    first, held, missed, absent = table.verdicts(rows)
    assert "Of 2 rows beside a peer, or another way of ours, we are slower in 1; ours beside the peer: 0.75." in first
    assert held.endswith("4.000 of the peer, asked at most 5: held.")
    assert missed.endswith("asked at most 3: MISSED.")
    assert absent == "Absent: nobody's detector."
    assert "absent: no module named nobody" in table.line(rows[-1])


def test_peers_that_are_not_here_are_said_to_be_absent(table, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "TIMED", {name: table.TIMED[name] for name in ("owmark/green-red", "textseal/gumbel")})
    for peers in (None, tmp_path):
        found = list(table.reading(table.QUICK, peers))
        assert [type(each) for each in found] == [table.Absent] * 2
        assert all(each.why for each in found)
    (gone,) = table.cut_marking(table.QUICK, None)
    assert gone.beside.startswith("synthid-text")


def test_turns_count_calls_and_units(table, monkeypatch):
    """A clock that each call of the work moves by 10 ms: 2 units a call are 5 ms a unit."""
    now = [0.0]
    monkeypatch.setattr(table.time, "process_time", lambda: now[0])

    def work() -> None:
        now[0] += 0.01

    size = table.Size(3, 0.05, (), (), (), ())
    (spent,) = table.by_turns([(work, 2)], size)
    assert spent == pytest.approx([0.005] * 3)
    assert now[0] == pytest.approx(0.01 * (2 + 3 * 5))


def test_a_page_keeps_what_stands_around_the_table(table, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n{table.START}\nold\n{table.END}\nbelow\n")
    table.written(page, ["new", "table"])
    assert page.read_text() == f"above\n{table.START}\nnew\ntable\n{table.END}\nbelow\n"
    assert table.START in (BENCHMARKS.parent / "docs/results/performance.md").read_text("utf-8")
