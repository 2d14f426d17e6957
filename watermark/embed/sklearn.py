"""Score marks around a scikit-learn estimator: `MarkedEstimator(fitted, mark)` answers as it does, marked.

Wrap the outermost estimator, a pipeline say, so that the mark sees the inputs as they arrive. Pickles and deep copies
leave the mark behind; `attach` puts it back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from watermark.embed.calls import ScoreMark, marked
from watermark.errors import EmbeddingRefused, ExtraMissing

try:
    from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.utils import get_tags
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.validation import check_is_fitted
except ImportError:
    raise ExtraMissing("scikit-learn 1.6 or later", "sklearn", "marking an estimator") from None

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _answers(method: str, *outputs: str) -> Callable[[MarkedEstimator], bool]:
    """Whether the inner estimator has a method, and the mark, if there is one, is for such outputs."""

    def available(self: MarkedEstimator) -> bool:
        return hasattr(self.estimator, method) and (self.mark is None or self.mark.scheme.output in outputs)

    return available


class MarkedEstimator(MetaEstimatorMixin, BaseEstimator):
    """A fitted classifier or regressor, or a transformer that answers embeddings, with its answers marked.

    mark: of probabilities or labels for a classifier, of values for a regressor, of embeddings for a transformer. `fit`
    fits the inner estimator itself. Methods whose answers would leave unmarked do not exist here. A clone holds the
    same mark; pickles and deep copies hold none and refuse to answer until `attach(mark)`.
    """

    def __init__(self, estimator: Any, mark: ScoreMark | None = None) -> None:
        self.estimator = estimator
        self.mark = mark

    def attach(self, mark: ScoreMark) -> Self:
        """Sets the mark, of a copy that came without one say."""
        self.mark = mark
        return self

    def fit(self, X: Any, y: Any = None, **options: Any) -> Self:
        """Fits the inner estimator, in place."""
        self.estimator.fit(X, **options) if y is None else self.estimator.fit(X, y, **options)
        return self

    @available_if(_answers("predict_proba", "probabilities"))
    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Marked probabilities (n, K), of the same argmax as the clean ones."""
        return np.asarray(self._marked("predict_proba", X, "probabilities"))

    @available_if(_answers("predict_proba", "probabilities"))
    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Logarithms of the marked probabilities."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    @available_if(_answers("predict_proba", "probabilities"))
    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Log-odds of the second of two classes (n,), log-probabilities of more: never the inner, unmarked ones."""
        logs = self.predict_log_proba(X)
        return logs[:, 1] - logs[:, 0] if logs.shape[1] == 2 else logs

    @available_if(_answers("predict", "probabilities", "labels", "values"))
    def predict(self, X: Any) -> NDArray[Any]:
        """The marked probabilities' argmax, the label under a mark of labels, or a regressor's marked values."""
        output = self._attached().scheme.output
        if output == "values":
            return np.asarray(self._marked("predict", X, "values"))
        if output == "labels":
            labels = self._marked("predict_proba", X, "labels")
            return np.asarray(self.classes_[labels])
        first = self._marked("predict_proba", X, "probabilities").argmax(axis=1)
        return np.asarray(self.classes_[first])

    @available_if(_answers("transform", "embeddings"))
    def transform(self, X: Any) -> NDArray[np.float64]:
        """Marked embeddings (n, d); the mark's inputs are the clean embeddings."""
        mark, clean = self._attached(), np.asarray(self.estimator.transform(X))
        return np.asarray(marked(clean, clean, mark))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of a classifier's labels, R2 of a regressor's values, as marked."""
        measure = accuracy_score if is_classifier(self) else r2_score
        return float(measure(y, self.predict(X), sample_weight=sample_weight))

    @property
    def classes_(self) -> NDArray[Any]:
        return np.asarray(self.estimator.classes_)

    @property
    def n_features_in_(self) -> int:
        return int(self.estimator.n_features_in_)

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        return np.asarray(self.estimator.feature_names_in_)

    def _marked(self, method: str, X: Any, output: str) -> Any:
        """The inner answers to X, marked. Raises EmbeddingRefused if the estimator has none that fit the mark."""
        mark = self._attached()
        check_is_fitted(self.estimator)
        if (output == "values") == is_classifier(self.estimator):
            kind = "classifier" if is_classifier(self.estimator) else "regressor"
            raise EmbeddingRefused(
                f"the mark is for {output}, the estimator is a {kind}",
                hint="a classifier takes a mark of probabilities or labels, a regressor one of values",
            )
        if not hasattr(self.estimator, method):
            raise EmbeddingRefused(
                f"{type(self.estimator).__name__} has no {method}, which a mark of {output} moves",
                hint="labels alone carry no mark; calibrate the classifier: CalibratedClassifierCV(estimator)",
            )
        return marked(getattr(self.estimator, method)(X), X, mark)

    def _attached(self) -> ScoreMark:
        if self.mark is None:
            raise EmbeddingRefused(
                "this estimator has no mark; copies and pickles leave it behind",
                hint="load the watermark and attach it: estimator.attach(mark)",
            )
        return self.mark

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.estimator)

    def __sklearn_is_fitted__(self) -> bool:
        from sklearn.exceptions import NotFittedError

        try:
            check_is_fitted(self.estimator)
        except NotFittedError:
            return False
        return True

    def __sklearn_clone__(self) -> MarkedEstimator:
        return type(self)(clone(self.estimator), self.mark)

    def __getstate__(self) -> dict[str, Any]:
        return dict(super().__getstate__()) | {"mark": None}
