"""Estimators that take soft targets: what they mean, which Y is one, and who refuses them."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skxmc import DismecClassifier, ParabelTree, SparseDSTClassifier
from skxmc.calibration import IsotonicXMCCalibrator
from skxmc.datasets import make_xmc_classification
from skxmc.io import load_model, save_model
from skxmc.label_space import label_features
from skxmc.ops.csr import canonical_targets

ACCEPTING = [
    DismecClassifier(),
    DismecClassifier(loss="logistic", init="multi-positive", weighting="propensity"),
    ParabelTree(random_state=0),
    ParabelTree("plt", max_leaf=4, random_state=0),
    ParabelTree("xr-linear", max_leaf=4, relevance="induce", relevance_norm="l1", random_state=0),
    ParabelTree("parabel", max_leaf=4, negatives="teacher+matcher", n_matcher=2, random_state=0),
]


@pytest.fixture(scope="module")
def data():
    data = make_xmc_classification(150, 60, 20, random_state=0)
    quarters = np.random.default_rng(0).integers(1, 5, data.Y.nnz)
    T = sp.csr_array((quarters / 4, data.Y.indices, data.Y.indptr), shape=data.Y.shape)
    drawn = []
    for draw in range(4):
        D = sp.csr_array((quarters > draw, T.indices, T.indptr), shape=T.shape).astype(np.uint8)
        D.eliminate_zeros()
        drawn.append(D)
    return data.X, T, drawn


@pytest.mark.parametrize("loss", ["squared_hinge", "logistic"])
def test_one_vs_all_is_the_mean_over_drawn_labels(data, loss):
    X, T, drawn = data
    options = {"loss": loss, "tol": 1e-6, "prune_threshold": 0.0}
    soft = DismecClassifier(C=4.0, **options).fit(X, T)
    hard = DismecClassifier(C=1.0, **options).fit(sp.vstack([X] * 4), sp.vstack(drawn))
    assert_allclose(soft.coef_.toarray(), hard.coef_.toarray(), rtol=1e-3, atol=1e-3)
    assert_allclose(soft.intercept_, hard.intercept_, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("estimator", ACCEPTING, ids=repr)
def test_targets_of_one_are_labels(data, estimator):
    X, T, _ = data
    hard = clone(estimator).fit(X, (T > 0).astype(np.uint8))
    same = clone(estimator).fit(X, (T > 0).astype(np.float64))
    assert_array_equal(hard.predict_topk(X, 20).scores, same.predict_topk(X, 20).scores)


@pytest.mark.parametrize("estimator", ACCEPTING, ids=repr)
def test_lower_targets_lower_the_probability(data, estimator):
    X, T, _ = data
    means = []
    for target in (0.2, 0.6, 1.0):
        model = clone(estimator).fit(X, T.sign() * target)
        proba = model.set_params(max_dense_bytes=2**30).predict_topk(X, 20, candidates=T)
        means.append(np.mean(proba.scores[proba.labels >= 0]))
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize("estimator", ACCEPTING, ids=repr)
def test_containers_threads_and_files(data, estimator, tmp_path):
    """All containers of Y mean the same, any number of threads too, and a model file keeps it."""
    X, T, _ = data
    expected = clone(estimator).fit(X, T)
    topk = expected.predict_topk(X, 5)
    containers = (T.tocsc(), T.tocoo(), sp.csr_matrix(T), T.astype(np.float32), T.toarray())
    for Y in (*containers, T.tolil(), T.toarray().astype(object)):
        found = clone(estimator).fit(X, Y).predict_topk(X, 5)
        assert_array_equal(found.labels, topk.labels)
        assert_array_equal(found.scores, topk.scores)
    many = clone(estimator).set_params(n_jobs=3).fit(X, T).predict_topk(X, 5)
    assert_array_equal(many.scores, topk.scores)
    save_model(expected, tmp_path / "model")
    assert_array_equal(load_model(tmp_path / "model").predict_topk(X, 5).scores, topk.scores)
    prediction = expected.predict(X)
    assert prediction.dtype == T.dtype
    assert set(np.unique(prediction.data)) <= {1.0}
    assert expected.estimate_memory(X, T) > 0


@pytest.mark.parametrize("estimator", [ACCEPTING[0], ACCEPTING[2]], ids=repr)
def test_values_outside_of_zero_to_one_are_refused_with_their_place(data, estimator):
    X, T, _ = data
    row, column = 4, int(T[[4]].indices[0])
    for value in (1.5, -0.25, np.nan, np.inf):
        bad = T.copy()
        bad.data[bad.indptr[row]] = value
        for Y in (bad, bad.tocsc(), bad.toarray()):
            with pytest.raises(ValueError, match=f"row {row}, column {column} holds {value}"):
                clone(estimator).fit(X, Y)
    corrupt = T.copy()
    corrupt.indices[corrupt.indptr[row]] = 10**6
    with pytest.raises(ValueError, match="corrupt: row 4"):
        clone(estimator).fit(X, corrupt)
    with pytest.raises(ValueError, match="no positive at all"):
        clone(estimator).fit(X, T * 0.0)


@pytest.mark.parametrize(
    "estimator",
    [SparseDSTClassifier(epochs=1), IsotonicXMCCalibrator(DismecClassifier(), cv=3)],
    ids=["sparse-dst", "calibrator"],
)
def test_other_estimators_refuse_soft_targets(data, estimator):
    X, T, _ = data
    with pytest.raises(ValueError, match="only 0 and 1; row"):
        estimator.fit(X, T)


def test_torch_refuses_soft_targets(data):
    pytest.importorskip("torch")
    X, T, _ = data
    model = DismecClassifier(backend="torch")
    with pytest.raises(ValueError, match='soft targets, which backend="torch" cannot train on'):
        model.fit(X, T)
    with pytest.raises(NotFittedError):
        model.predict_topk(X)


def test_a_tree_grows_with_soft_targets(data):
    X, T, _ = data
    model = ParabelTree("xr-linear", max_leaf=8, random_state=0).fit(X, T[:, :15])
    model.add_labels(X, T)
    assert model.n_labels_ == 20
    assert (model.predict_topk(X, 5).labels >= 15).any()


def test_a_killed_fit_goes_on_with_the_same_targets_only(data, tmp_path):
    X, T, _ = data
    plain = DismecClassifier().fit(X, T)
    model = DismecClassifier(checkpoint_dir=tmp_path).fit(X, T)
    assert_array_equal(plain.coef_.data, model.coef_.data)
    other = DismecClassifier(checkpoint_dir=tmp_path).fit(X, T.sign() * 0.5)
    assert abs(other.intercept_ - model.intercept_).max() > 1e-3


@pytest.mark.parametrize("row_norm", [True, False])
def test_features_of_labels_are_weighted_sums(data, row_norm):
    X, T, _ = data
    dense = T.toarray()
    if row_norm:
        dense = dense / np.sqrt(np.maximum(dense.sum(axis=1, keepdims=True), 1e-12))
    expected = dense.T @ X.toarray()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = label_features(X, T, row_norm=row_norm)
    assert_allclose(found.toarray(), expected, rtol=1e-4, atol=1e-6)


def test_canonical_targets():
    stored = sp.coo_array(([0.25, 0.25, 0.0, 1.0], ([0, 0, 1, 1], [1, 1, 0, 2])), shape=(2, 3))
    found = canonical_targets(stored)  # added up, as scipy reads it; the zero goes
    assert found.dtype == np.float32
    assert found.indptr.dtype == np.int64
    assert found.indices.dtype == np.int32
    assert_array_equal(found.toarray(), [[0, 0.5, 0], [0, 0, 1]])
    assert found.nnz == 2
    assert canonical_targets(np.eye(2)).dtype == np.uint8
    assert canonical_targets(np.array([[0.5]])).dtype == np.float32
    read_only = sp.csr_array([[0.5, 0.0]])
    read_only.data.flags.writeable = False
    assert_array_equal(canonical_targets(read_only).data, [0.5])
    for bad in (np.array([[2]]), np.array([["a"]]), np.ones((1, 1, 1)) / 2):
        with pytest.raises(ValueError, match=r"must contain only 0 and 1|two-dimensional"):
            canonical_targets(bad)
