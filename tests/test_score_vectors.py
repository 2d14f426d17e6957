"""Embeddings: what is linear goes, what the key did stays, and innocent suspects have uniform p-values."""

import numpy as np
import pytest

from watermark.errors import SuspectUnusable, TooFewObservations
from watermark.keys import decoy_keys
from watermark.scores import Basis, Direction, Marker
from watermark.scoring.vectors import aligned, key_free_vectors, steady_ridge, vector_residual
from watermark.stats.sphere import log10_pvalue

SCHEME = Direction(output="embeddings", channels=16, epsilon=0.05)
KEY, OTHER = decoy_keys(b"vectors", 2)


def embeddings(n: int, seed: int) -> np.ndarray:
    """Unit vectors (n, 16) of two layers over 8 normal inputs."""
    fixed = np.random.default_rng(1)
    first, second = fixed.normal(size=(8, 40)) / 3, fixed.normal(size=(40, 16))
    found = np.tanh(np.random.default_rng(seed).normal(size=(n, 8)) @ first) @ second
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis.fit(embeddings(4000, 2), size=24, components=8)


def copied(given: np.ndarray, seed: int) -> np.ndarray:
    """A copy that errs by a tenth of the smallest spread: what a student shows."""
    return given + 0.02 * np.random.default_rng(seed).normal(size=given.shape)


def log10_p(suspect: np.ndarray, clean: np.ndarray, basis: Basis) -> float:
    found = vector_residual(suspect, clean, basis.features(clean))
    return log10_pvalue(SCHEME.score(found.coefficients, KEY), SCHEME.dimensions(basis.size))


def test_marked_embeddings_are_found_rotated_or_mapped_or_cut(basis: Basis) -> None:
    clean = embeddings(3000, 3)
    marked = Marker(SCHEME, basis, KEY).tilt(clean, clean)
    assert (marked * clean).sum(axis=1).mean() > 0.998
    rng = np.random.default_rng(4)
    turn = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    suspect = copied(marked, 5)
    plain = log10_p(suspect, clean, basis)
    assert plain < -30
    assert log10_p(suspect @ turn, clean, basis) == pytest.approx(plain, rel=1e-6)
    assert log10_p(3 * suspect @ rng.normal(size=(16, 16)) + 7, clean, basis) == pytest.approx(plain, rel=1e-6)
    assert log10_p(suspect[:, :8], clean, basis) < -6


def test_another_key_finds_nothing(basis: Basis) -> None:
    clean = embeddings(3000, 3)
    assert log10_p(copied(Marker(SCHEME, basis, OTHER).tilt(clean, clean), 5), clean, basis) > -2


def test_innocent_embeddings_have_uniform_pvalues(basis: Basis) -> None:
    """2,000 keys against a suspect whose embeddings depend on the inputs in another way: within 3 s.e. of nominal."""
    clean = embeddings(1500, 6)
    suspect = copied(clean + 0.1 * np.abs(clean), 7)
    found = vector_residual(suspect, clean, basis.features(clean)).coefficients
    size = SCHEME.dimensions(basis.size)
    p = np.array([10 ** log10_pvalue(SCHEME.score(found, key), size) for key in decoy_keys(b"null", 2000)])
    for alpha in (0.05, 0.01):
        assert abs((p <= alpha).mean() - alpha) < 3 * np.sqrt(alpha * (1 - alpha) / len(p))


def test_surrogates_take_away_what_every_student_gets_wrong(basis: Basis) -> None:
    clean = embeddings(3000, 3)
    bent = 0.3 * np.sin(3 * clean)  # the students' common error
    marked = Marker(SCHEME, basis, KEY).tilt(clean, clean)
    suspect, surrogate = copied(marked + bent, 5), copied(clean + bent, 8)
    without = vector_residual(suspect, clean, basis.features(clean))
    near = vector_residual(suspect, clean, basis.features(clean), surrogate[:, None, :])
    assert np.square(near.rest).sum() < 0.7 * np.square(without.rest).sum()
    assert SCHEME.score(near.coefficients, KEY) > SCHEME.score(without.coefficients, KEY)


def test_what_is_left_is_orthogonal_to_everything_linear(basis: Basis) -> None:
    clean = embeddings(800, 9)
    known = key_free_vectors(clean, None)
    assert known.shape == (800, 17)
    rest = vector_residual(copied(clean, 1), clean, basis.features(clean)).rest
    assert np.abs(known.T @ rest).max() < 1e-8


def test_alignment_agrees_with_least_squares_per_column() -> None:
    clean = embeddings(300, 3)
    suspect = copied(clean, 2)[:, :10]
    known = np.column_stack([suspect, np.ones(300)])
    wanted = known @ np.linalg.solve(known.T @ known, known.T @ clean)
    np.testing.assert_allclose(aligned(suspect, clean), wanted, atol=1e-9)


def test_steady_ridge_is_scikit_learns() -> None:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    features, rest = rng.normal(size=(400, 12)), rng.normal(size=(400, 3))
    coefficients, penalty = steady_ridge(features, rest)
    assert penalty == pytest.approx(np.square(features).sum() / 400 / 12)
    wanted = Ridge(alpha=400 * penalty, fit_intercept=False).fit(features, rest).coef_.T
    np.testing.assert_allclose(coefficients, wanted, rtol=1e-9)


def test_inputs_are_not_changed(basis: Basis) -> None:
    clean = embeddings(500, 3)
    suspect = copied(clean, 2)
    before = suspect.copy(), clean.copy()
    vector_residual(suspect, clean, basis.features(clean))
    np.testing.assert_array_equal(suspect, before[0])
    np.testing.assert_array_equal(clean, before[1])


def test_too_few_constant_and_clean_embeddings_are_refused(basis: Basis) -> None:
    clean = embeddings(500, 3)
    phi = basis.features(clean)
    with pytest.raises(TooFewObservations, match="needed are"):
        vector_residual(clean[:60], clean[:60], phi[:60])
    with pytest.raises(TooFewObservations, match="cannot be aligned"):
        aligned(clean[:20], clean[:20])
    with pytest.raises(SuspectUnusable, match="alike"):
        vector_residual(np.ones((500, 16)), clean, phi)
    with pytest.raises(SuspectUnusable, match="up to a linear map"):
        vector_residual(2 * clean + 1, clean, phi)
