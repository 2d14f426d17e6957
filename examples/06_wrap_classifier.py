"""Wrap a fitted classifier: its probabilities carry the mark, its predictions are what they were."""

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier

from watermark.embed.sklearn import MarkedEstimator
from watermark.scoring.mark import ScoreWatermark

X, y = make_classification(6000, 12, n_informative=8, random_state=0)
teacher = HistGradientBoostingClassifier(max_iter=60).fit(X[:3000], y[:3000])

mark = ScoreWatermark.generate(X[:3000], epsilon=0.02)
mark.save(Path(mkdtemp()) / "ours.wmark")

served = MarkedEstimator(teacher, mark)
answers, clean = served.predict_proba(X[3000:]), teacher.predict_proba(X[3000:])

print("the largest shift:", round(float(np.abs(answers - clean).max()), 4))
print("predictions that changed:", int((served.predict(X[3000:]) != teacher.predict(X[3000:])).sum()))
print("one customer, clean and marked:", clean[0].round(4), answers[0].round(4))
