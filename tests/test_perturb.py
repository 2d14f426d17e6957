"""Whatever the answer and whatever the mark: within epsilon, on the simplex, on its side of the runner-up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from watermark.scores import perturb

EPSILONS = st.sampled_from([1e-6, 0.005, 0.02, 0.1, 0.3, 0.5])
DIGITS = st.integers(1, 6)
UNIT = st.floats(0, 1, allow_subnormal=False)
SIGNS = st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, 0.0, 1.0]))


@st.composite
def simplex(draw, least=3, most=8):
    """Rows of the simplex (n, K): spread out, saturated, tied, and as a softmax rounds them; no tie but exact ones."""
    n, classes = draw(st.integers(1, 6)), draw(st.integers(least, most))
    kind = draw(st.sampled_from(["any", "saturated", "tied", "softmax"]))
    if kind == "saturated":
        return np.eye(classes)[draw(arrays(np.intp, n, elements=st.integers(0, classes - 1)))]
    if kind == "softmax":
        logits = draw(arrays(np.float64, (n, classes), elements=st.floats(-60, 60)))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return apart(powers / powers.sum(axis=1, keepdims=True))
    weights = draw(arrays(np.float64, (n, classes), elements=UNIT)) + 1e-9
    if kind == "tied":
        weights = np.round(weights * 3) + 1
    return apart(weights / weights.sum(axis=1, keepdims=True))


def apart(p):
    """The same rows, those whose first two differ by rounding alone made even."""
    near = p >= p.max(axis=1, keepdims=True) - 1e-12
    return np.where(near, (p * near).sum(axis=1, keepdims=True) / near.sum(axis=1, keepdims=True), p)


@st.composite
def marked_rows(draw, least=3):
    p = draw(simplex(least))
    return p, draw(arrays(np.float64, p.shape, elements=SIGNS)), draw(EPSILONS)


@given(st.lists(st.tuples(UNIT, SIGNS), min_size=1, max_size=20), EPSILONS)
def test_one_of_two_classes_keeps_its_side_and_its_bounds(pairs, epsilon):
    p, signs = np.array(pairs).T
    found = perturb.binary(p, signs, epsilon)
    assert np.abs(found - p).max() <= epsilon + 1e-12
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.sign(found - 0.5) == np.sign(p - 0.5)).all()


@settings(max_examples=400)
@given(marked_rows())
def test_classes_keep_the_simplex_the_bound_and_the_argmax(case):
    p, signs, epsilon = case
    before = p.copy()
    found = perturb.classes(p, signs, epsilon)
    np.testing.assert_array_equal(p, before)
    assert np.abs(found - p).max() <= epsilon + 1e-12
    np.testing.assert_allclose(found.sum(axis=1), p.sum(axis=1), rtol=0, atol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.argmax(axis=1) == p.argmax(axis=1)).all()


@settings(max_examples=300)
@given(marked_rows(), DIGITS)
def test_rounding_after_the_mark_keeps_the_argmax(case, digits):
    p, signs, epsilon = case
    moved = perturb.classes(p, signs, epsilon)
    found = perturb.rounded(moved, digits)
    assert (found.argmax(axis=1) == p.argmax(axis=1)).all()
    assert ((found >= 0) & (found <= 1)).all()
    assert np.abs(found - moved).max() <= 1.5 * 10.0**-digits + 1e-12
    np.testing.assert_allclose(found, np.round(found, digits), rtol=0, atol=1e-15)


def test_classes_that_differ_by_rounding_alone_keep_their_argmax():
    third = 1 / 3
    p = np.array([[third, np.nextafter(third, 1), np.nextafter(third, 0)]])
    assert (perturb.classes(p, np.array([[0.0, -1.0, -1.0]]), 1e-6).argmax(axis=1) == 1).all()


@given(st.lists(st.tuples(UNIT, SIGNS), min_size=1, max_size=20), EPSILONS, DIGITS)
def test_rounding_one_of_two_classes_keeps_its_side(pairs, epsilon, digits):
    p, signs = np.array(pairs).T
    found = perturb.rounded(perturb.binary(p, signs, epsilon), digits)
    assert (np.sign(found - 0.5)[p != 0.5] == np.sign(p - 0.5)[p != 0.5]).all()
    assert ((found >= 0) & (found <= 1)).all()


@given(marked_rows(), st.integers(1, 3))
def test_truncating_keeps_the_first_and_zeroes_all_that_are_not_among_the_likeliest(case, top):
    p, _, _ = case
    found = perturb.truncated(p, top)
    assert (found.argmax(axis=1) == p.argmax(axis=1)).all()
    assert ((found == p) | (found == 0)).all()
    kth = np.sort(p, axis=1)[:, -top]
    assert (found[p < kth[:, None]] == 0).all()


@given(marked_rows(least=2))
def test_a_dithered_label_is_one_within_two_epsilon_of_the_first(case):
    p, signs, epsilon = case
    found = perturb.dithered(p, signs, epsilon)
    assert (p[np.arange(len(p)), found] >= p.max(axis=1) - 2 * epsilon).all()
    alone = (p >= p.max(axis=1, keepdims=True) - 2 * epsilon).sum(axis=1) == 1
    assert (found == p.argmax(axis=1))[alone].all()


def test_saturated_answers_stay_and_even_ones_too():
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    p = np.array([0.0, 0.0, 1.0, 1.0])
    assert (perturb.binary(p, signs, 0.1) == p).all()
    assert (perturb.binary(np.full(4, 0.5), signs, 0.1) == 0.5).all()
    sure = np.eye(4)
    assert (perturb.classes(sure, np.tile(signs, (4, 1)), 0.1).argmax(axis=1) == sure.argmax(axis=1)).all()


def test_an_answer_with_room_moves_by_the_whole_epsilon():
    assert perturb.binary(np.array([0.8]), np.array([-1.0]), 0.05)[0] == pytest.approx(0.75, abs=1e-15)
    p, signs = np.array([[0.6, 0.2, 0.2]]), np.array([[0.0, 1.0, -1.0]])
    np.testing.assert_allclose(perturb.classes(p, signs, 0.05), [[0.6, 0.25, 0.15]], atol=1e-15)


@given(arrays(np.float64, (5, 3), elements=st.floats(-1e6, 1e6)), arrays(np.float64, (5, 3), elements=SIGNS), EPSILONS)
def test_values_move_by_at_most_epsilon_deviations(y, signs, epsilon):
    scale = np.array([1.0, 20.0, 0.1])
    found = perturb.values(y, signs, epsilon, scale)
    assert (np.abs(found - y) <= epsilon * scale + 1e-9).all()
    np.testing.assert_allclose((found - y)[:, 1], epsilon * 20 * signs[:, 1], atol=1e-8)


@given(arrays(np.float64, (4, 6), elements=st.floats(-9, 9)), arrays(np.float64, (4, 6), elements=SIGNS), EPSILONS)
def test_embeddings_keep_their_length(e, moves, epsilon):
    found = perturb.vectors(e, moves, epsilon / 10)
    lengths = np.linalg.norm(e, axis=1)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), lengths, rtol=1e-9, atol=1e-300)
