"""Window filters: the same windows as the ledger's, in bounded memory, and refused where they do not fit."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from watermark.accounts import Accounts
from watermark.detect import detect
from watermark.errors import LedgerInvalid, OutputsInvalid, ProfileMismatch
from watermark.keys import decoy_keys
from watermark.ledger import Ledger, selection
from watermark.ledger.filters import WindowFilter, held, is_filter, write_filter
from watermark.mark import Watermark
from watermark.observe import filter_ledger, observe, served_in, served_windows
from watermark.outputs import Output
from watermark.report import verify
from watermark.schemes import GreenList

KEY, OTHER = decoy_keys(b"window filters", 2)
MARK = Watermark(GreenList(window=2), KEY)
RNG = np.random.default_rng(5)


def made(path: Path, names: list[np.ndarray], **options) -> WindowFilter:
    return write_filter(names, path, MARK, told=lambda: (1, "h"), **options)


def ledger(path: Path, mark: Watermark, rows: np.ndarray, **options) -> Path:
    with Ledger(path, **options) as kept:
        for number, row in enumerate(rows.tolist()):
            receipt = {"shared_kid": mark.shared.kid if mark.shared else None}
            kept.append(str(number), kid=mark.key.kid, receipt=receipt, prompt="", token_ids=row)
    return path


@pytest.fixture
def served(tmp_path) -> Path:
    return ledger(tmp_path / "served.sqlite", MARK, RNG.integers(0, 40, (30, 50)))


@pytest.fixture
def outputs() -> list[Output]:
    rows = np.random.default_rng(6).integers(0, 80, (40, 60)).tolist()
    return [Output(str(i), token_ids=tuple(row)) for i, row in enumerate(rows)]


names_of = arrays.arrays(np.uint64, st.integers(0, 60), elements=st.integers(0, 2**64 - 1))


@given(st.lists(names_of, max_size=6), names_of, st.sampled_from([8, 20, 32, 33, 64]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_filter_holds_what_was_given_and_else_only_equal_beginnings(tmp_path_factory, given, asked, bits):
    made_ = made(tmp_path_factory.mktemp("f") / "x", given, bits=bits, room=1)
    names, shift = np.concatenate([np.empty(0, np.uint64), *given]), np.uint64(64 - bits)
    assert made_.holds(names).all()
    assert (made_.holds(asked) == np.isin(asked >> shift, names >> shift)).all()
    assert len(made_) == len(np.unique(names >> shift))


@pytest.mark.parametrize("room", [1, 1 << 14, 1 << 20])
def test_many_runs_are_merged_to_the_same_bytes(tmp_path, room):
    """Runs of 1,024 names and blocks of as many, against all at once."""
    given = [np.random.default_rng(n).integers(0, 2**63, 3000, dtype=np.uint64) for n in range(6)] * 2
    whole = made(tmp_path / "whole", [np.concatenate(given)])
    made(tmp_path / "parts", given[::-1], room=room)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len(whole) == len(np.unique(np.concatenate(given)))
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "parts"}


def test_memory_does_not_grow_with_the_number_of_windows(tmp_path):
    """16 MB of names in 1 MiB of room; numpy counts its arrays for tracemalloc."""
    rng = np.random.default_rng(7)
    tracemalloc.start()
    try:
        made_ = made(
            tmp_path / "f", (rng.integers(0, 2**63, 20_000, dtype=np.uint64) for _ in range(100)), room=1 << 20
        )
        found = made_.holds(rng.integers(0, 2**63, 20_000, dtype=np.uint64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(made_) == 2_000_000
    assert not found.any()
    assert peak < 4 << 20


def test_false_positives_are_as_many_as_stated(tmp_path):
    rng = np.random.default_rng(8)
    coarse = made(tmp_path / "f", [rng.integers(0, 2**64, 4000, dtype=np.uint64)], bits=14)
    found = coarse.holds(rng.integers(0, 2**64, 200_000, dtype=np.uint64)).mean()
    assert found == pytest.approx(coarse.false_positives, rel=0.03)
    assert (tmp_path / "f").stat().st_size == 4096 + 4 * len(coarse)


def test_filter_and_ledger_choose_the_same_cells(tmp_path, served, outputs):
    filter_ledger(served, MARK, tmp_path / "f")
    by = [observe(outputs, MARK, served=served_in(place, MARK)) for place in (served, tmp_path / "f")]
    assert by[0].digest == by[1].digest
    assert by[0].skipped == by[1].skipped
    assert 0 < len(by[0]) < len(observe(outputs, MARK))


def test_evidence_by_filter_is_that_by_ledger_and_verifies(tmp_path, served, outputs):
    made_ = filter_ledger(served, MARK, tmp_path / "served.filter")
    by_ledger, by_filter = (detect(outputs, MARK, ledger=place, decoys=99) for place in (served, made_.path))
    assert by_filter.inputs["ledger"]["name"] == "served.filter"
    left = {"inputs", "created", "digest"}
    one, two = by_ledger.to_json(), by_filter.to_json()
    assert {k: v for k, v in one.items() if k not in left} == {k: v for k, v in two.items() if k not in left}
    verify(by_filter, ledger=made_.path)
    verify(by_ledger, ledger=served)


def test_the_same_ledger_makes_the_same_filter_wherever_it_lies(tmp_path, served):
    from watermark.ledger import copy_ledger

    copy_ledger(served, tmp_path / "copy.jsonl")
    filter_ledger(served, MARK, tmp_path / "one")
    filter_ledger(tmp_path / "copy.jsonl", MARK, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_windows_do_not_span_two_answers(tmp_path):
    rows = np.array([[1, 2, 3], [4, 5, 6]])
    made_ = filter_ledger(ledger(tmp_path / "l.jsonl", MARK, rows), MARK, tmp_path / "f")
    assert len(made_) == 4  # 1 2, 2 3, 4 5, 5 6


def test_an_account_in_a_period_has_its_own_windows(tmp_path):
    shared = Watermark(GreenList(window=2), KEY, accounts=Accounts(0.5))
    one, two = (shared.account(name) for name in ("one", "two"))
    place = ledger(tmp_path / "l.sqlite", one, RNG.integers(0, 40, (5, 40)))
    ledger(place, two, RNG.integers(100, 140, (5, 40)))
    whole = filter_ledger(place, shared, tmp_path / "whole")
    own = filter_ledger(place, shared, tmp_path / "own", chosen=selection([one.key.kid]))
    assert own.contents.records == 5
    assert len(own) < len(whole)
    assert whole.holds(np.array(served_in(own.path, shared)._names)).all()  # type: ignore[union-attr]
    assert own.contents.chosen.kids == (one.key.kid,)
    assert filter_ledger(place, shared, tmp_path / "none", chosen=selection(since="2999-01-01")).contents.count == 0


def test_a_filter_of_another_mark_is_refused(tmp_path, served):
    filter_ledger(served, MARK, tmp_path / "f")
    for other in (MARK.rekeyed(OTHER), Watermark(GreenList(window=3), KEY)):
        with pytest.raises(ProfileMismatch, match="the filter holds windows of 2"):
            served_in(tmp_path / "f", other)
    with pytest.raises(ProfileMismatch, match="the ledger holds answers marked under kid"):
        filter_ledger(served, MARK.rekeyed(OTHER), tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_a_hash_only_ledger_makes_no_filter(tmp_path):
    place = ledger(tmp_path / "l.sqlite", MARK, RNG.integers(0, 9, (2, 9)), mode="hash-only")
    with pytest.raises(OutputsInvalid, match="holds no tokens"):
        filter_ledger(place, MARK, tmp_path / "f")
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"l.sqlite"}


def test_a_changed_ledger_makes_no_filter(tmp_path, served):
    import sqlite3

    with sqlite3.connect(served) as db:
        db.execute("DELETE FROM records WHERE seq = 7")
    db.close()
    with pytest.raises(LedgerInvalid, match="missing, moved or changed"):
        filter_ledger(served, MARK, tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"{}\n" + b[3:], lambda b: b""])
def test_a_file_that_is_no_whole_filter_is_named(tmp_path, spoil):
    made(tmp_path / "f", [RNG.integers(0, 2**63, 10, dtype=np.uint64)])
    (tmp_path / "f").write_bytes(spoil((tmp_path / "f").read_bytes()))
    with pytest.raises(LedgerInvalid, match=r"is not (whole|a filter)"):
        WindowFilter(tmp_path / "f")


def test_a_filter_is_for_its_owner_alone_and_not_written_over(tmp_path):
    made(tmp_path / "f", [])
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert is_filter(tmp_path / "f")
    assert not WindowFilter(tmp_path / "f").holds(np.array([1], dtype=np.uint64)).any()
    with pytest.raises(LedgerInvalid, match="exists already"):
        made(tmp_path / "f", [])


def test_a_worker_gets_the_file_not_the_windows(tmp_path):
    made_ = made(tmp_path / "f", [RNG.integers(0, 2**63, 100_000, dtype=np.uint64)])
    sent = pickle.dumps(made_)
    assert len(sent) < 1000
    assert len(pickle.loads(sent)) == len(made_)  # noqa: S301


def test_names_among_a_sorted_array_are_found():
    ordered = np.array([2, 4, 9], dtype=np.uint64)
    asked = np.array([9, 1, 4, 10, 2, 4], dtype=np.uint64)
    assert held(asked, ordered).tolist() == [True, False, True, False, True, True]
    assert not held(asked, ordered[:0]).any()
    assert len(served_windows([], MARK)) == 0


def test_the_command_makes_a_filter_that_detect_takes(tmp_path, served, outputs):
    MARK.save(tmp_path / "ours.wmark")
    lines = [json.dumps({"id": o.id, "token_ids": list(o.token_ids or ())}) for o in outputs]
    (tmp_path / "outputs.jsonl").write_text("\n".join(lines) + "\n")

    def wmark(*given):
        done = subprocess.run(
            [sys.executable, "-m", "wmark_cli", *given], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    told = wmark("ledger", "filter", "served.sqlite", "--mark", "ours.wmark", "--output", "f", "--bits", "32", "--json")
    assert (told["records"], told["bits"], told["kids"]) == (30, 32, [KEY.kid])
    assert told["false_positives"] == told["count"] / 2**32
    assert wmark("ledger", "show", "f", "--json") == told
    found = wmark("detect", "outputs.jsonl", "--mark", "ours.wmark", "--ledger", "f", "--json")
    assert "windows served in the ledger" in found["method"]
    assert found["cells"] == len(observe(outputs, MARK, served=served_in(served, MARK)))


def test_the_command_takes_an_account_and_a_period(tmp_path):
    from typer.testing import CliRunner
    from wmark_cli.main import app

    shared = Watermark(GreenList(window=2), KEY, accounts=Accounts(0.5))
    shared.save(tmp_path / "ours.wmark")
    for name in ("one", "two", "two"):
        ledger(tmp_path / "l", shared.account(name, epoch="2026"), RNG.integers(0, 40, (2, 40)))
    place, mark = str(tmp_path / "l"), str(tmp_path / "ours.wmark")

    def run(*given, code=0):
        done = CliRunner().invoke(app, ["ledger", *given])
        assert done.exit_code == code, done.output
        return done

    both = ("--mark", mark, "--account", "two", "--epoch", "2026")
    assert json.loads(run("show", place, *both, "--json").stdout)["records"] == 4
    assert json.loads(run("show", place, *both, "--until", "2001-01-01", "--json").stdout)["records"] == 0
    assert json.loads(run("show", place, "--mark", mark, "--account", "two", "--json").stdout)["records"] == 0
    told = json.loads(
        run("filter", place, *both, "--since", "2001-01-01", "--output", str(tmp_path / "f"), "--json", "-q").stdout
    )
    assert told["records"] == 4
    assert told["chosen"]["since"] == "2001-01-01T00:00:00.000+00:00"
    assert "--epoch needs --account" in run("show", place, "--epoch", "2026", code=2).stderr
    assert "--account needs --mark" in run("show", place, "--account", "two", code=2).stderr
