"""A basis reads the same inputs alike, whatever they come in, and refuses others with a reason."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas
import polars
import pytest
import torch

from watermark.errors import MarkInvalid, OutputsInvalid, ProfileMismatch, TooFewObservations
from watermark.keys import decoy_keys
from watermark.scores import Basis, Direction, Marker, table
from watermark.scores.table import Table


def numbers(n=2400, seed=0):
    """(n, 7): normal, log-normal, whole numbers, half zeros, missing, rare ones, constant."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(n, 7))
    found[:, 1] = np.exp(2 * found[:, 1])
    found[:, 2] = np.round(found[:, 2])
    found[:, 3] = np.maximum(found[:, 3], 0)
    found[rng.random(n) < 0.1, 4] = np.nan
    found[:, 5] = rng.random(n) < 0.02
    found[:, 6] = 3.0
    return found


def mixed(n=2400, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "age": rng.normal(40, 12, n),
        "income": np.where(rng.random(n) < 0.15, np.nan, np.exp(rng.normal(10, 1, n))),
        "city": rng.choice(["Bern", "Oslo", "Rome", ""], n, p=[0.5, 0.3, 0.15, 0.05]),
        "children": rng.integers(0, 5, n).astype(float),
    }


@pytest.fixture(scope="module")
def basis():
    return Basis.fit(numbers(), size=40)


@pytest.fixture(scope="module")
def mixed_basis():
    return Basis.fit(mixed(), size=40)


def test_features_are_white_on_inputs_like_the_reference(basis):
    found = basis.features(numbers())
    assert found.shape == (2400, 40)
    assert np.abs(found.mean(axis=0)).max() < 1e-6
    assert np.abs(np.cov(found.T) - np.eye(40)).max() < 1e-3


def test_plain_arrays_and_the_table_give_the_same_bits(basis):
    fresh = numbers(100, seed=1)
    fresh[0] = np.nan
    fresh[1:20] *= 50
    by_table = basis.coordinates(table(fresh))
    assert (basis.coordinates(fresh) == by_table).all()
    assert (np.vstack([basis.coordinates(fresh[i : i + 1]) for i in range(100)]) == by_table).all()
    assert (basis.coordinates(np.asfortranarray(fresh)) == by_table).all()


def test_marked_answers_are_the_same_by_array_and_by_table(basis):
    fresh, answers = numbers(300, seed=2), np.random.default_rng(3).dirichlet(np.ones(3), 300)
    mark = Marker(Direction(channels=3, own=0.3), basis, next(iter(decoy_keys(b"basis", 1))))
    assert (mark.tilt(answers, fresh) == mark.tilt(answers, table(fresh))).all()
    single = np.vstack([mark.tilt(answers[i : i + 1], fresh[i : i + 1]) for i in range(300)])
    np.testing.assert_allclose(single, mark.tilt(answers, fresh), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.bool_])
def test_arrays_of_any_number_type_agree_with_the_table(basis, dtype):
    fresh = np.abs(np.nan_to_num(numbers(50, seed=4))).astype(dtype)
    assert (basis.coordinates(fresh) == basis.coordinates(table(fresh))).all()


def test_a_row_alone_is_placed_as_among_others(mixed_basis):
    fresh = mixed(60, seed=15)
    wanted = mixed_basis.coordinates(fresh)
    for i in range(60):
        alone = {name: [None if value != value else value] for name, values in fresh.items() for value in [values[i]]}
        assert (mixed_basis.coordinates(alone)[0] == wanted[i]).all()


def test_frames_tensors_and_arrays_agree(basis):
    fresh = numbers(50, seed=5)
    frame = pandas.DataFrame(fresh, columns=basis.names)
    wanted = basis.coordinates(fresh)
    for given in (frame, polars.DataFrame(frame), torch.from_numpy(fresh), table(frame), fresh.tolist()):
        assert (basis.coordinates(given) == wanted).all()


def test_order_of_named_columns_does_not_matter(mixed_basis):
    fresh = mixed(60, seed=6)
    wanted = mixed_basis.features(fresh)
    for names in itertools.permutations(fresh):
        given = {name: fresh[name] for name in names}
        assert (mixed_basis.features(given) == wanted).all()
        assert (mixed_basis.features(pandas.DataFrame(given)) == wanted).all()
        assert (mixed_basis.features(polars.DataFrame(given)) == wanted).all()


def test_order_and_further_columns_of_a_numeric_frame_do_not_matter(basis):
    frame = pandas.DataFrame(numbers(50, seed=7), columns=basis.names)
    turned = frame[frame.columns[::-1]].assign(more=1.0)
    assert (basis.coordinates(turned) == basis.coordinates(frame)).all()
    assert (basis.coordinates(turned.assign(name="a")) == basis.coordinates(frame)).all()


@pytest.mark.parametrize("relative", [1e-12, 1e-7, 1e-4])
def test_near_duplicates_have_near_features(basis, relative):
    """Also where many rows share one value: half of the fourth column is zero, and every row moves off it."""
    fresh, rng = numbers(400, seed=8), np.random.default_rng(9)
    near = fresh * (1 + relative * rng.choice([-1, 1], fresh.shape)) + relative * rng.choice([-1, 1], fresh.shape)
    moved = np.abs(basis.coordinates(near) - basis.coordinates(fresh)).max(axis=1)
    assert np.median(moved) < 30 * relative
    assert moved.max() < 3000 * relative


def test_ranks_are_continuous_and_rising_through_a_shared_value():
    rng = np.random.default_rng(0)
    reference = np.where(rng.random(1000) < 0.5, 2.0, rng.normal(2, 3, 1000))
    basis = Basis.fit({"a": reference, "b": rng.normal(size=1000)}, size=10)
    line = np.linspace(-10, 14, 200_001)
    found = basis.coordinates({"a": line, "b": np.zeros(len(line))})[:, 0]
    assert (np.diff(found) >= 0).all()
    assert np.diff(found).max() < 0.05
    assert np.ptp(found) > 5


def test_unseen_category_and_missing_one_lie_at_the_origin(mixed_basis):
    rows = {"age": [40.0] * 3, "income": [2e4] * 3, "city": ["Paris", "", "Bern"], "children": [1.0] * 3}
    found = mixed_basis.coordinates(rows)
    assert (found[0, 3:6] == 0).all()
    assert (found[1, 3:6] == 0).all()
    assert (found[2, 3:6] != 0).all()
    assert found[0, 6] != found[1, 6]  # the one says that its value is missing


def test_a_missing_value_lies_at_the_origin_whether_the_column_knew_it_or_not(basis):
    row = np.full((1, 7), np.nan)
    found = basis.coordinates(row)[0]
    assert found.shape == (7,)
    assert (found[[0, 1, 2, 3, 4, 6]] == 0).all()
    assert found[5] > 0
    assert np.isfinite(basis.features(row)).all()


def test_a_category_column_without_one_value_is_missing(mixed_basis):
    rows = {"age": [40.0], "income": [2e4], "children": [1.0]}
    wanted = mixed_basis.coordinates(rows | {"city": [""]})
    assert (mixed_basis.coordinates(rows | {"city": [None]}) == wanted).all()
    assert (mixed_basis.coordinates(rows | {"city": [float("nan")]}) == wanted).all()


def test_a_category_that_looks_like_a_number_is_found_alone_too():
    rng = np.random.default_rng(1)
    reference = {"zone": rng.choice(["7", "12", "A1"], 600), "x": rng.normal(size=600)}
    basis = Basis.fit(reference, size=20)
    both = basis.coordinates({"zone": ["12", "A1", "99"], "x": [0.0, 0.0, 0.0]})
    assert (basis.coordinates({"zone": ["12"], "x": [0.0]})[0] == both[0]).all()
    assert (basis.coordinates({"zone": [12.0, 99.0], "x": [0.0, 0.0]}) == both[[0, 2]]).all()


def test_json_keeps_digest_and_features(basis, mixed_basis):
    for made, inputs in ((basis, numbers(80, seed=10)), (mixed_basis, mixed(80, seed=10))):
        back = Basis.from_json(json.loads(json.dumps(made.to_json())))
        assert back.digest == made.digest
        assert (back.features(inputs) == made.features(inputs)).all()


def test_one_seed_one_basis_and_another_seed_another():
    assert Basis.fit(numbers(), size=20).digest == Basis.fit(numbers(), size=20).digest
    assert Basis.fit(numbers(), size=20).digest != Basis.fit(numbers(), size=20, seed=1).digest


def test_wide_inputs_become_components():
    rng = np.random.default_rng(2)
    wide = rng.normal(size=(1500, 5)) @ rng.normal(size=(5, 60)) + 0.05 * rng.normal(size=(1500, 60))
    basis = Basis.fit(wide, size=50)
    assert basis.coordinates(wide).shape == (1500, 24)
    assert basis.size == 50
    np.testing.assert_allclose(basis.coordinates(table(wide)), basis.coordinates(wide), rtol=0, atol=1e-12)
    assert Basis.fit(wide, size=50, components=5).coordinates(wide).shape == (1500, 5)
    back = Basis.from_json(json.loads(json.dumps(basis.to_json())))
    assert (back.features(wide) == basis.features(wide)).all()


def test_additive_basis_is_a_sum_over_columns():
    basis = Basis.fit(numbers(), size=20, kind="additive")
    rows = np.nan_to_num(numbers(2, seed=11))
    a, b = rows
    swapped = np.array([np.r_[a[:1], b[1:]], np.r_[b[:1], a[1:]]])
    np.testing.assert_allclose(basis.features(rows).sum(axis=0), basis.features(swapped).sum(axis=0), atol=1e-9)


def test_too_few_rows_are_refused_with_a_size_that_would_do():
    with pytest.raises(TooFewObservations, match=r"399 reference inputs .* needed are 400") as refused:
        Basis.fit(numbers(399), size=40)
    assert "size=39" in refused.value.hint
    Basis.fit(numbers(399), size=39)


def test_constant_columns_keep_their_place_in_an_array_and_are_not_needed_in_a_frame(basis):
    fresh = numbers(30, seed=12)
    frame = pandas.DataFrame(fresh, columns=basis.names)
    other = fresh.copy()
    other[:, 6] = -1.0
    assert (basis.coordinates(other) == basis.coordinates(fresh)).all()
    assert (basis.coordinates(frame.drop(columns="x6")) == basis.coordinates(fresh)).all()
    with pytest.raises(TooFewObservations, match="constant"):
        Basis.fit(np.ones((500, 3)), size=10)


@pytest.mark.parametrize(
    "given, error, says",
    [
        ({"age": [1.0], "income": [1.0], "children": [1.0]}, ProfileMismatch, "no column city"),
        ({"Age": [1.0], "income": [1.0], "city": ["Bern"], "children": [1.0]}, ProfileMismatch, "no column age"),
        ({"age": ["old"], "income": [1.0], "city": ["Bern"], "children": [1.0]}, ProfileMismatch, "age holds words"),
        ({"age": [1.0], "income": [1.0], "city": [3.0], "children": [1.0]}, ProfileMismatch, "city holds numbers"),
        ({"age": [1.0, 2.0], "income": [1.0], "city": ["B"], "children": [1.0]}, OutputsInvalid, "lengths"),
        ({"age": [np.inf], "income": [1.0], "city": ["B"], "children": [1.0]}, OutputsInvalid, "age holds 1 infin"),
        (np.zeros((3, 3)), OutputsInvalid, "3 columns, the mark was made for 4"),
        (np.zeros(4), OutputsInvalid, "rows of columns"),
    ],
)
def test_other_inputs_are_refused_with_a_reason(mixed_basis, given, error, says):
    with pytest.raises(error, match=says):
        mixed_basis.coordinates(given)


def test_infinities_in_a_plain_array_are_named_by_column_and_row(basis):
    fresh = numbers(5, seed=13)
    fresh[3, 1] = -np.inf
    with pytest.raises(OutputsInvalid, match=r"column x1 holds 1 infinities, the first in row 4"):
        basis.coordinates(fresh)


def test_huge_numbers_have_finite_features(basis):
    far = np.full((2, 7), 1.7e308) * np.array([[1], [-1]])
    assert np.isfinite(basis.features(far)).all()
    assert (basis.coordinates(far) == basis.coordinates(table(far))).all()


def test_no_rows_have_no_features(basis, mixed_basis):
    assert basis.features(np.zeros((0, 7))).shape == (0, 40)
    empty = {name: values[:0] for name, values in mixed(10).items()}
    assert mixed_basis.features(Table(empty)).shape == (0, 40)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"format": "wmark-basis/9"}, "format is 'wmark-basis/9'"),
        ({"kind": "odd"}, "kind is unknown"),
        ({"columns": None}, "not complete"),
        ({"columns": [{"name": "a", "kind": "odd"}]}, "unknown kind"),
        ({"columns": [{"name": "a", "kind": "ranked", "grid": [1.0]}]}, "1 quantiles"),
    ],
)
def test_a_damaged_basis_is_refused_when_it_is_read(basis, change, says):
    with pytest.raises(MarkInvalid, match=says):
        Basis.from_json(basis.to_json() | change)


def test_inputs_are_borrowed(basis):
    fresh = numbers(20, seed=14)
    before = fresh.copy()
    basis.features(fresh)
    np.testing.assert_array_equal(fresh, before)


def test_a_changed_basis_has_another_digest(basis):
    assert replace(basis, kind="additive").digest != basis.digest
