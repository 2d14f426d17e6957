"""Wrapped scorers answer as before, within epsilon, in the same containers; what cannot be marked does not leave."""

import copy
import io
import json
import logging
import pickle

import numpy as np
import pandas
import polars
import pytest
import torch
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.testclient import TestClient
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted

from watermark.embed.asgi import Request, ScoreMarking
from watermark.embed.calls import mark_calls
from watermark.embed.modules import MarkedModule
from watermark.embed.sklearn import MarkedEstimator
from watermark.errors import EmbeddingRefused, OutputsInvalid, ProfileMismatch
from watermark.keys import decoy_keys
from watermark.scores import Basis, Direction, Marker
from watermark.scoring.mark import ScoreWatermark

KEY = next(iter(decoy_keys(b"embed scores", 1)))
EPSILON = 0.05
NAMES = ["age", "debt", "limit", "rate", "term"]


@pytest.fixture(scope="module")
def data():
    """Inputs (1500, 5), classes of two and three, values."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 5))
    drive = X @ rng.normal(size=5) + 0.5 * rng.normal(size=1500)
    return X, (drive > 0).astype(int), np.array(["high", "low", "mid"])[np.digitize(drive, [-0.8, 0.8])], 30 * drive


@pytest.fixture(scope="module")
def basis(data):
    return Basis.fit(pandas.DataFrame(data[0], columns=NAMES), size=30)


def marker(basis, **options):
    return Marker(Direction(**{"epsilon": EPSILON} | options), basis, KEY)


@pytest.fixture(scope="module")
def two(data, basis):
    return MarkedEstimator(LogisticRegression().fit(data[0], data[1]), marker(basis))


@pytest.fixture(scope="module")
def three(data, basis):
    return MarkedEstimator(LogisticRegression().fit(data[0], data[2]), marker(basis, channels=3))


def secrets(mark):
    """Bytes that must not leave: the key's, and the folded direction's."""
    return KEY._export()[0], mark._weights.tobytes()


# scikit-learn


@pytest.mark.parametrize("which", ["two", "three"])
def test_a_marked_classifier_moves_probabilities_within_epsilon_and_no_prediction(which, data, request):
    marked = request.getfixturevalue(which)
    clean, found = marked.estimator.predict_proba(data[0]), marked.predict_proba(data[0])
    assert found.shape == clean.shape
    assert 0.5 * EPSILON < np.abs(found - clean).max() <= EPSILON + 1e-12
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    assert (marked.predict(data[0]) == marked.estimator.predict(data[0])).all()
    assert (found == marked.mark.tilt(clean, data[0])).all()


@pytest.mark.parametrize("which", ["two", "three"])
def test_decision_function_and_logarithms_are_those_of_the_marked_probabilities(which, data, request):
    marked = request.getfixturevalue(which)
    found = marked.predict_proba(data[0][:50])
    np.testing.assert_allclose(np.exp(marked.predict_log_proba(data[0][:50])), found)
    decision = marked.decision_function(data[0][:50])
    with np.errstate(divide="ignore"):
        wanted = np.log(found[:, 1] / found[:, 0]) if which == "two" else np.log(found)
    np.testing.assert_allclose(decision, wanted, atol=1e-12)
    assert np.abs(decision - marked.estimator.decision_function(data[0][:50])).max() > 0.01


def test_a_marked_regressor_moves_by_at_most_epsilon_deviations(data, basis):
    inner = LinearRegression().fit(data[0], data[3])
    scale = float(inner.predict(data[0]).std())
    marked = MarkedEstimator(inner, marker(basis, output="values", channels=1, scale=(scale,)))
    moved = marked.predict(data[0]) - inner.predict(data[0])
    assert 0.5 * EPSILON * scale < np.abs(moved).max() <= EPSILON * scale + 1e-9
    assert is_regressor(marked)
    assert not hasattr(marked, "predict_proba")
    assert marked.score(data[0], data[3]) == pytest.approx(inner.score(data[0], data[3]), abs=0.01)


def test_a_mark_of_labels_decides_only_where_the_answer_is_a_coin_toss(data, basis):
    inner = LogisticRegression().fit(data[0], data[2])
    marked = MarkedEstimator(inner, marker(basis, output="labels", channels=3))
    clean, found = inner.predict(data[0]), marked.predict(data[0])
    ordered = np.sort(inner.predict_proba(data[0]), axis=1)
    changed = found != clean
    assert set(found) <= set(inner.classes_)
    assert 0 < changed.mean() < 0.1
    assert (ordered[changed, -1] - ordered[changed, -2] <= 2 * EPSILON).all()
    assert not hasattr(marked, "predict_proba")
    assert not hasattr(marked, "decision_function")


def test_marked_embeddings_find_their_place_by_the_clean_ones(data):
    inner = PCA(4).fit(data[0])
    clean = inner.transform(data[0])
    mark = ScoreWatermark.generate(clean, output="embeddings", channels=4, epsilon=0.05)
    found = MarkedEstimator(inner, mark).transform(data[0])
    assert 0.001 < np.abs(found - clean).max() < 1
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(clean, axis=1))
    np.testing.assert_array_equal(mark_calls(inner.transform, mark)(data[0]), found)


def test_it_looks_like_the_estimator_inside(two, data, basis):
    assert is_classifier(two)
    assert not is_regressor(two)
    assert (two.classes_ == [0, 1]).all()
    assert two.n_features_in_ == 5
    assert not hasattr(two, "feature_names_in_")
    assert two.__sklearn_tags__().classifier_tags is not None
    assert two.score(data[0], data[1]) == two.estimator.score(data[0], data[1])
    check_is_fitted(two)
    frame = pandas.DataFrame(data[0], columns=NAMES)
    named = MarkedEstimator(LogisticRegression(), marker(basis)).fit(frame, data[1])
    assert (named.feature_names_in_ == NAMES).all()
    assert (named.predict_proba(frame) == named.predict_proba(frame)).all()


def test_parameters_are_read_and_set_as_in_any_meta_estimator(data, basis):
    marked = MarkedEstimator(LogisticRegression(C=2.0), marker(basis))
    assert marked.get_params()["estimator__C"] == 2.0
    assert set(marked.get_params(deep=False)) == {"estimator", "mark"}
    assert marked.set_params(estimator__C=3.0) is marked
    assert marked.estimator.C == 3.0
    with pytest.raises(ValueError, match="Invalid parameter"):
        marked.set_params(epsilon=1)


def test_a_clone_is_unfitted_and_holds_the_same_mark(two, data):
    made = clone(two)
    assert made.mark is two.mark
    assert made.estimator is not two.estimator
    with pytest.raises(Exception, match="not fitted"):
        made.predict_proba(data[0])
    assert (made.fit(data[0], data[1]).predict_proba(data[0]) == two.predict_proba(data[0])).all()
    assert len(cross_val_score(two, data[0], data[1], cv=3, scoring="neg_log_loss")) == 3


@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])  # noqa: S301
def test_a_copy_refuses_to_answer_until_the_mark_is_attached(two, data, copied):
    made = copied(two)
    assert made.mark is None
    assert two.mark is not None
    for answer in (made.predict_proba, made.predict, made.decision_function):
        with pytest.raises(EmbeddingRefused, match="no mark") as refused:
            answer(data[0])
        assert "attach(mark)" in refused.value.hint
    assert made.attach(two.mark) is made
    assert (made.predict_proba(data[0]) == two.predict_proba(data[0])).all()


def test_nothing_that_is_written_holds_the_secret(two):
    pipeline = make_pipeline(StandardScaler(), two)
    written = pickle.dumps(two) + pickle.dumps(pipeline)
    shown = (repr(two) + repr(pipeline) + two._repr_html_() + str(two.get_params())).encode()
    for secret in secrets(two.mark):
        assert secret not in written
        assert secret not in shown
        assert secret.hex().encode() not in shown


def test_frames_of_any_order_are_answered_alike(data, basis):
    frame = pandas.DataFrame(data[0], columns=NAMES)
    inner = make_pipeline(StandardScaler(), LogisticRegression()).fit(data[0], data[1])

    def scores(rows):
        return inner.predict_proba(np.asarray(rows[NAMES]))

    call = mark_calls(scores, marker(basis))
    wanted = call(frame)
    np.testing.assert_allclose(call(frame[NAMES[::-1]]), wanted, atol=1e-13)
    np.testing.assert_allclose(call(polars.DataFrame(frame)), wanted, atol=1e-13)


def test_it_stands_in_a_pipeline_and_around_one(data, basis):
    inner = make_pipeline(StandardScaler(), LogisticRegression()).fit(data[0], data[1])
    around = MarkedEstimator(inner, marker(basis))
    assert 0 < np.abs(around.predict_proba(data[0]) - inner.predict_proba(data[0])).max() <= EPSILON + 1e-12
    scaled = Basis.fit(StandardScaler().fit_transform(data[0]), size=30)
    last = make_pipeline(StandardScaler(), MarkedEstimator(LogisticRegression(), marker(scaled))).fit(data[0], data[1])
    assert 0 < np.abs(last.predict_proba(data[0]) - inner.predict_proba(data[0])).max() <= EPSILON + 1e-12
    assert (last.predict(data[0]) == inner.predict(data[0])).all()
    assert (clone(last).fit(data[0], data[1]).predict_proba(data[0]) == last.predict_proba(data[0])).all()


def test_a_mark_of_other_answers_is_refused(data, basis):
    values = marker(basis, output="values", channels=1, scale=(1.0,))
    with pytest.raises(EmbeddingRefused, match="for values, the estimator is a classifier"):
        MarkedEstimator(LogisticRegression().fit(data[0], data[1]), values).predict(data[0])
    with pytest.raises(EmbeddingRefused, match="for probabilities, the estimator is a regressor"):
        MarkedEstimator(LinearRegression().fit(data[0], data[3]), marker(basis)).predict(data[0])
    with pytest.raises(OutputsInvalid, match="made for 3 channels"):
        MarkedEstimator(LogisticRegression().fit(data[0], data[1]), marker(basis, channels=3)).predict_proba(data[0])
    margins = LinearSVC().fit(data[0], data[1])
    with pytest.raises(EmbeddingRefused, match="LinearSVC has no predict_proba") as refused:
        MarkedEstimator(margins, marker(basis)).predict(data[0])
    assert "CalibratedClassifierCV" in refused.value.hint
    assert not hasattr(MarkedEstimator(margins, marker(basis)), "decision_function")
    calibrated = CalibratedClassifierCV(LinearSVC(), cv=2).fit(data[0], data[1])
    assert MarkedEstimator(calibrated, marker(basis)).predict_proba(data[0]).shape == (1500, 2)


# any callable


def containers():
    return {
        "numpy": (np.asarray, np.ndarray, lambda a: a),
        "pandas": (lambda p: pandas.DataFrame(p, columns=["no", "yes"], index=range(7, 7 + len(p))), pandas.DataFrame,
                   lambda a: a.to_numpy()),
        "polars": (lambda p: polars.DataFrame(p, schema=["no", "yes"]), polars.DataFrame, lambda a: a.to_numpy()),
        "torch": (torch.from_numpy, torch.Tensor, lambda a: a.numpy()),
        "lists": (lambda p: p.tolist(), list, np.asarray),
    }  # fmt: skip


@pytest.mark.parametrize("name", containers())
def test_a_wrapped_call_answers_in_the_container_of_the_clean_answers(name, two, data):
    into, kind, back = containers()[name]
    X = data[0][:40]
    found = mark_calls(lambda rows: into(two.estimator.predict_proba(rows)), two.mark)(X)
    assert isinstance(found, kind)
    assert (back(found) == two.predict_proba(X)).all()
    if name in ("pandas", "polars"):
        assert list(found.columns) == ["no", "yes"]
    if name == "pandas":
        assert list(found.index) == list(range(7, 47))


@pytest.mark.parametrize("series", [lambda p: pandas.Series(p, name="risk"), lambda p: polars.Series("risk", p)])
def test_one_score_a_row_stays_a_series(series, two, data):
    found = mark_calls(lambda rows: series(two.estimator.predict_proba(rows)[:, 1]), two.mark)(data[0])
    assert found.name == "risk"
    np.testing.assert_allclose(found.to_numpy(), two.predict_proba(data[0])[:, 1], atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_answers_keep_their_precision_and_argmax(dtype, three, data):
    kind = getattr(torch, dtype)

    def scores(rows):
        return torch.softmax(torch.from_numpy(rows @ three.estimator.coef_.T).to(kind), dim=1)

    clean, found = scores(data[0]), mark_calls(scores, three.mark)(data[0])
    assert found.dtype == kind
    assert (found.argmax(dim=1) == clean.argmax(dim=1)).all()
    step = torch.finfo(kind).eps
    assert 0.5 * EPSILON < (found - clean).abs().max() <= EPSILON + 2 * step


def test_single_precision_keeps_the_argmax_of_near_ties(basis, data):
    p = np.full((1500, 3), 1 / 3, dtype=np.float32)
    p[:, 1] = np.nextafter(np.float32(1 / 3), np.float32(1))
    found = mark_calls(lambda rows: p, marker(basis, channels=3, epsilon=0.5))(data[0])
    assert (found.argmax(axis=1) == 1).all()


def test_labels_come_back_as_class_indices(basis, three, data):
    mark = marker(basis, output="labels", channels=3)
    labels = mark_calls(three.estimator.predict_proba, mark)(data[0])
    assert labels.dtype == np.int64
    assert (three.classes_[labels] == MarkedEstimator(three.estimator, mark).predict(data[0])).all()
    tensor = mark_calls(lambda rows: torch.from_numpy(three.estimator.predict_proba(rows)), mark)(data[0])
    assert (tensor.numpy() == labels).all()


BAD = {
    "a column fewer": (lambda X: X[:, :4], lambda p: p, "4 columns, the mark was made for 5"),
    "infinity": (lambda X: np.where(np.isin(X, X[2, 3]), np.inf, X), lambda p: p, "column rate holds 1 infinities"),
    "other sums": (lambda X: X, lambda p: p * 1.1, "row 1 is no distribution"),
    "percentages": (lambda X: X, lambda p: p * 100, "is no distribution"),
    "rounded": (lambda X: X, lambda p: np.round(p + 0.003, 2), "is no distribution"),
    "other classes": (lambda X: X, lambda p: np.hstack([p / 2, p / 2]), "made for 2 channels"),
    "fewer answers": (lambda X: X, lambda p: p[:-1], "39 answers for 40 inputs"),
    "not a number": (lambda X: X, lambda p: np.where(p > 0.9, np.nan, p), "not finite"),
    "labels": (lambda X: X, lambda p: np.where(p[:, 1] > 0.5, "yes", "no"), "needed are numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_calls_are_refused_with_a_reason(name, two, data):
    spoil, answer, says = BAD[name]
    X = data[0][:40]
    with pytest.raises(OutputsInvalid, match=says):
        mark_calls(lambda rows: answer(two.estimator.predict_proba(X)), two.mark)(spoil(X))


def test_missing_renamed_and_retyped_columns_are_refused_and_missing_values_are_not(two, data):
    frame = pandas.DataFrame(data[0][:20], columns=NAMES)
    call = mark_calls(lambda rows: two.estimator.predict_proba(data[0][:20]), two.mark)
    for spoiled, says in (
        (frame.drop(columns="debt"), "no column debt"),
        (frame.rename(columns={"debt": "Debt"}), "no column debt"),
        (frame.assign(debt="much"), "debt holds words"),
    ):
        with pytest.raises(ProfileMismatch, match=says):
            call(spoiled)
    holes = frame.mask(frame > 1)
    assert holes.isna().any().any()
    assert np.isfinite(call(holes)).all()


# torch


class Net(torch.nn.Module):
    def __init__(self, weights, *, logits):
        super().__init__()
        self.linear = torch.nn.Linear(5, len(weights), dtype=torch.float64)
        self.linear.weight.data = torch.as_tensor(weights)
        self.logits = logits

    def forward(self, x, extra=None):
        found = self.linear(x)
        return found if self.logits else torch.softmax(found, dim=1)


def test_a_marked_module_answers_marked_probabilities_without_gradients(three, data):
    net = Net(three.estimator.coef_, logits=False)
    x = torch.from_numpy(data[0])
    clean, found = net(x).detach(), MarkedModule(net, three.mark)(x)
    assert not found.requires_grad
    assert 0.5 * EPSILON < (found - clean).abs().max() <= EPSILON + 1e-12
    assert (found.argmax(dim=1) == clean.argmax(dim=1)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_marked_logits_keep_their_logsumexp_and_hold_the_marked_probabilities(three, data, dtype):
    net = Net(three.estimator.coef_, logits=True).to(dtype)
    x = torch.from_numpy(data[0]).to(dtype)
    clean, found = net(x).detach(), MarkedModule(net, three.mark, answers="logits")(x)
    assert found.dtype == dtype
    close = 1e-9 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(torch.logsumexp(found, 1), torch.logsumexp(clean, 1), atol=close)
    wanted = three.mark.tilt(torch.softmax(clean.double(), 1).numpy(), x.double())
    np.testing.assert_allclose(torch.softmax(found.double(), 1), wanted, atol=close)
    assert (found.argmax(dim=1) == clean.argmax(dim=1)).all()


def test_one_logit_is_that_of_the_second_class_and_saturated_ones_stay(two, data):
    net = Net(two.estimator.coef_, logits=True)
    x = torch.from_numpy(data[0])
    found = MarkedModule(net, two.mark, answers="logits")(x)
    wanted = two.mark.tilt(torch.sigmoid(net(x).detach()).numpy().ravel(), data[0])
    assert found.shape == (1500, 1)
    np.testing.assert_allclose(torch.sigmoid(found).numpy().ravel(), wanted, atol=1e-12)
    sure = Net(1e6 * two.estimator.coef_, logits=True)
    far = x[net(x).detach().abs()[:, 0] > 0.1]
    assert torch.equal(MarkedModule(sure, two.mark, answers="logits")(far), sure(far).detach())


def test_a_modules_inputs_are_picked_and_its_mark_stays_behind(three, data):
    net, x = Net(three.estimator.coef_, logits=False), torch.from_numpy(data[0])
    marked = MarkedModule(net, three.mark, inputs=lambda args: args[1])
    frame = pandas.DataFrame(data[0], columns=NAMES)
    assert torch.equal(marked(x, frame), MarkedModule(net, three.mark)(x))
    assert set(marked.state_dict()) == {"model.linear.weight", "model.linear.bias"}
    stored = io.BytesIO()
    torch.save(marked.state_dict(), stored)
    plain = MarkedModule(net, three.mark)
    written = pickle.dumps(plain) + stored.getvalue() + repr(plain).encode()
    assert not any(secret in written for secret in secrets(three.mark))
    made = copy.deepcopy(plain)
    with pytest.raises(EmbeddingRefused, match="its mark stayed behind"):
        made(x)
    assert torch.equal(made.attach(three.mark)(x), plain(x))
    with pytest.raises(EmbeddingRefused, match="for probabilities, the module answers values"):
        MarkedModule(net, three.mark, answers="values")
    with pytest.raises(ValueError, match="answers must be"):
        MarkedModule(net, three.mark, answers="odds")


# JSON over ASGI


@pytest.fixture(scope="module")
def app(two, three):
    """An API with many shapes of answers."""
    api = FastAPI()

    def rows(body):
        return np.array([list(row.values()) if isinstance(row, dict) else row for row in body["rows"]], dtype=float)

    @api.post("/score")
    @api.post("/elsewhere")
    async def score(body: dict):
        found = two.estimator.predict_proba(rows(body))[:, 1]
        return {"model": "é1", "scores": found.tolist(), "count": len(found)}

    @api.post("/classes")
    async def classes(body: dict):
        found = three.estimator.predict_proba(rows(body)).tolist()
        return {"results": [{"id": i, "p": dict(zip(three.classes_, row))} for i, row in enumerate(found)]}

    @api.post("/matrix")
    async def matrix(body: dict):
        return {"p": three.estimator.predict_proba(rows(body)).tolist()}

    @api.post("/alone")
    async def alone(body: dict):
        return {"score": float(two.estimator.predict_proba([[body[name] for name in NAMES]])[0, 1])}

    @api.post("/odd/{kind}")
    async def odd(kind: str, body: dict):
        if kind == "error":
            raise HTTPException(422, "no such rows")
        if kind == "text":
            return PlainTextResponse("0.5")
        if kind == "stream":
            pieces = [b'{"scores": [0.', b"25]", b"}"]
            return StreamingResponse(iter(pieces), media_type="application/json", headers={"etag": "x"})
        if kind == "zipped":
            return JSONResponse({"scores": [0.25]}, headers={"content-encoding": "br"})
        answer = {"field": {"other": [0.25]}, "long": {"scores": [0.25, 0.5]}, "percent": {"scores": [25.0]}}
        return answer.get(kind, {"scores": [None] if kind == "null" else 0.25 if kind == "bare" else ["0.25"]})

    @api.get("/score")
    async def health():
        return {"scores": [0.25]}

    return api


def client(app, mark, **options):
    given = {"paths": ["/score", "/odd/*"], "inputs": "rows", "answers": "scores"} | options
    return TestClient(ScoreMarking(app, mark, **given), raise_server_exceptions=False)


def test_the_scores_in_a_json_answer_are_marked_and_all_else_is_kept(app, two, data):
    X = data[0][:30]
    found = client(app, two.mark).post("/score", json={"rows": X.tolist()})
    assert found.status_code == 200
    assert int(found.headers["content-length"]) == len(found.content)
    assert found.json().keys() == {"model", "scores", "count"}
    assert (found.json()["model"], found.json()["count"]) == ("é1", 30)
    np.testing.assert_allclose(found.json()["scores"], two.predict_proba(X)[:, 1], atol=1e-15)


def test_rows_by_column_name_are_marked_as_rows_in_order(app, two, data):
    X = data[0][:10]
    frames = [dict(zip(NAMES, row)) for row in X.tolist()]
    found = client(app, two.mark).post("/score", json={"rows": frames}).json()["scores"]
    np.testing.assert_allclose(found, two.predict_proba(X)[:, 1], atol=1e-15)
    by_function = client(app, two.mark, inputs=lambda body: np.array([list(r.values()) for r in body["rows"]]))
    assert by_function.post("/score", json={"rows": frames}).json()["scores"] == found


def test_objects_by_class_inside_a_list_are_marked_by_their_names(app, three, data):
    X = data[0][:10]
    body = {"rows": X.tolist()}
    options = {"paths": ["/classes"], "answers": "results.p", "classes": ["high", "low", "mid"]}
    found = client(app, three.mark, **options).post("/classes", json=body).json()["results"]
    assert [row["id"] for row in found] == list(range(10))
    wanted = three.predict_proba(X)
    np.testing.assert_allclose([[row["p"][name] for name in three.classes_] for row in found], wanted, atol=1e-15)
    refused = client(app, three.mark, **options | {"classes": None}).post("/classes", json=body)
    assert refused.status_code == 500
    refused = client(app, three.mark, **options | {"classes": ["high", "low", "none"]}).post("/classes", json=body)
    assert refused.status_code == 500


def test_one_row_alone_is_marked(app, two, data):
    marked = client(app, two.mark, paths=["/alone"], inputs="", answers="score")
    found = marked.post("/alone", json=dict(zip(NAMES, data[0][3].tolist()))).json()["score"]
    assert found == pytest.approx(two.predict_proba(data[0][3:4])[0, 1], abs=1e-15)
    assert found != pytest.approx(two.estimator.predict_proba(data[0][3:4])[0, 1], abs=1e-6)


def test_rounding_and_truncation_come_after_the_mark(app, three, data):
    X = data[0][:200]
    options = {"paths": ["/matrix"], "answers": "p"}
    full = client(app, three.mark, **options).post("/matrix", json={"rows": X.tolist()}).json()["p"]
    rounded = client(app, three.mark, digits=2, **options).post("/matrix", json={"rows": X.tolist()}).json()["p"]
    cut = client(app, three.mark, top=1, digits=2, **options).post("/matrix", json={"rows": X.tolist()}).json()["p"]
    assert (np.array(rounded) == np.round(rounded, 2)).all()
    assert np.abs(np.array(rounded) - full).max() <= 0.015
    assert (np.argmax(rounded, axis=1) == three.estimator.predict_proba(X).argmax(axis=1)).all()
    assert ((np.array(cut) > 0).sum(axis=1) == 1).all()
    assert (np.argmax(cut, axis=1) == np.argmax(full, axis=1)).all()


def test_a_mark_of_labels_answers_class_names(app, three, basis, data):
    mark = marker(basis, output="labels", channels=3)
    options = {"paths": ["/matrix"], "answers": "p"}
    names = client(app, mark, classes=list(three.classes_), **options)
    found = names.post("/matrix", json={"rows": data[0].tolist()}).json()["p"]
    assert found == list(MarkedEstimator(three.estimator, mark).predict(data[0]))
    found = client(app, mark, **options).post("/matrix", json={"rows": data[0].tolist()}).json()["p"]
    assert set(found) == {0, 1, 2}


def test_each_account_is_served_by_its_own_mark(app, two, data):
    mark = ScoreWatermark.generate(data[0], size=30, epsilon=EPSILON, account=0.5)
    seen = []

    def account(request: Request):
        seen.append(request)
        return request.headers.get("x-account")

    marked = client(app, mark, account=account)
    body = {"rows": data[0][:20].tolist()}
    clean = two.estimator.predict_proba(data[0][:20])[:, 1]
    for headers, served in (({"x-account": "acme"}, mark.account("acme")), ({}, mark)):
        found = marked.post("/score", json=body, headers=headers).json()["scores"]
        np.testing.assert_allclose(found, served.tilt(clean, data[0][:20]), atol=1e-15)
    assert (seen[0].path, seen[0].body) == ("/score", body)
    assert marked.post("/score", json=body, headers={"x-account": ""}).status_code == 500
    with pytest.raises(EmbeddingRefused, match="no accounts"):
        client(app, two.mark, account=account)


def test_other_paths_methods_errors_and_texts_pass_untouched(app, two, data):
    body = {"rows": data[0][:5].tolist()}
    plain, marked = TestClient(app), client(app, two.mark)
    for method, path in (("POST", "/elsewhere"), ("GET", "/score"), ("POST", "/odd/error"), ("POST", "/odd/text"),
                         ("GET", "/nowhere"), ("GET", "/openapi.json")):  # fmt: skip
        wanted = plain.request(method, path, json=body)
        found = marked.request(method, path, json=body)
        assert (found.status_code, found.content) == (wanted.status_code, wanted.content)
        assert found.headers == wanted.headers
    found = marked.post("/score", content=b"{not json", headers={"content-type": "application/json"})
    assert found.status_code == 422


def test_a_streamed_answer_is_marked_whole(app, two, data):
    found = client(app, two.mark).post("/odd/stream", json={"rows": data[0][:1].tolist()})
    assert found.json()["scores"] == pytest.approx([two.mark.tilt(np.array([0.25]), data[0][:1])[0]], abs=1e-15)
    assert "etag" not in found.headers
    assert int(found.headers["content-length"]) == len(found.content)


@pytest.mark.parametrize("kind", ["field", "long", "percent", "null", "words", "bare", "zipped"])
def test_an_answer_that_cannot_be_marked_is_withheld_and_logged(kind, app, two, data, caplog):
    with caplog.at_level(logging.ERROR, logger="watermark.embed.asgi"):
        found = client(app, two.mark).post(f"/odd/{kind}", json={"rows": data[0][:1].tolist()})
    assert found.status_code == 500
    assert found.json() == {"error": "the answer could not be marked and was withheld"}
    assert f"/odd/{kind} withheld" in caplog.text
    assert not any(secret.hex() in caplog.text for secret in secrets(two.mark))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"rows": []},
        {"rows": [[1, 2, 3, 4]]},
        {"rows": [[1, 2, 3, 4, "five"]]},
        {"rows": [[1, 2, 3, 4, 5], [1, 2]]},
        {"rows": [{"age": 1, "debt": 1, "limit": 1, "rate": 1, "time": 1}]},
        {"rows": [dict.fromkeys(NAMES, 1), dict.fromkeys(NAMES[:4], 1)]},
        {"rows": "many"},
    ],
)
def test_requests_whose_rows_cannot_be_read_are_withheld(body, two):
    api = FastAPI()

    @api.post("/score")
    async def score(body: dict):
        return {"scores": [0.3] * max(1, len(body.get("rows", [])))}

    found = client(api, two.mark).post("/score", json=body)
    assert found.status_code == 500
    assert "0.3" not in found.text


def test_missing_values_are_null(two, data):
    api = FastAPI()

    @api.post("/score")
    async def score(body: dict):
        return {"scores": [0.3, 0.6]}

    rows = data[0][:2].tolist()
    rows[0][2] = None
    found = client(api, two.mark).post("/score", json={"rows": rows}).json()["scores"]
    wanted = two.mark.tilt(np.array([0.3, 0.6]), np.array(rows, dtype=float))
    assert found == pytest.approx(list(wanted), abs=1e-15)


def test_a_mark_that_breaks_withholds_too(app, two, data, caplog):
    class Broken:
        scheme = two.mark.scheme

        def tilt(self, answers, inputs):
            raise RuntimeError("out of luck")

    found = client(app, Broken()).post("/score", json={"rows": data[0][:2].tolist()})
    assert found.status_code == 500
    assert "scores" not in found.json()
    assert "out of luck" in caplog.text
    assert "luck" not in found.text


def test_an_app_that_fails_midway_sends_nothing_of_its_answer(two):
    async def api(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"scores": [0.3', "more_body": True})
        raise RuntimeError("gone")

    found = client(api, two.mark).post("/score", json={"rows": [[0] * 5]})
    assert found.status_code == 500
    assert "0.3" not in found.text


def test_a_file_sent_in_place_of_a_body_is_withheld(two):
    async def api(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"application/json")]})
        await send({"type": "http.response.pathsend", "path": "/scores.json"})

    assert client(api, two.mark).post("/score", json={"rows": [[0] * 5]}).status_code == 500


def test_a_long_request_in_pieces_reaches_the_app_whole(app, two, data):
    body = json.dumps({"rows": data[0].tolist()}).encode()
    pieces = (body[i : i + 1000] for i in range(0, len(body), 1000))
    found = client(app, two.mark).post("/score", content=pieces, headers={"content-type": "application/json"})
    np.testing.assert_allclose(found.json()["scores"], two.predict_proba(data[0])[:, 1], atol=1e-15)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"digits": 0}, "digits must be"),
        ({"top": 1}, "top=1 does not fit a mark of 2"),
        ({"classes": ["a", "b", "c"]}, "3 names of classes, needed are 2"),
        ({"classes": ["a", "a"]}, "2 different"),
    ],
)
def test_options_that_do_not_fit_the_mark_are_refused_before_anything_is_served(options, says, app, two):
    with pytest.raises(EmbeddingRefused, match=says):
        client(app, two.mark, **options)


def test_one_path_given_as_a_word_is_refused(app, two):
    with pytest.raises(ValueError, match="list of one path"):
        client(app, two.mark, paths="/score")


def test_it_is_added_to_an_app_as_any_middleware(two, data):
    api = FastAPI()

    @api.post("/score")
    async def score(body: dict):
        return {"scores": two.estimator.predict_proba(np.array(body["rows"]))[:, 1].tolist()}

    api.add_middleware(ScoreMarking, mark=two.mark, paths=["/score"], inputs="rows", answers="scores")
    with TestClient(api) as served:
        found = served.post("/score", json={"rows": data[0][:4].tolist()}).json()["scores"]
    np.testing.assert_allclose(found, two.predict_proba(data[0][:4])[:, 1], atol=1e-15)
