"""DismecClassifier: its optimum, its losses, its files; the contract is in test_contract.py."""

import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from skxmc import DismecClassifier, load_model, save_model
from skxmc.datasets import load_debtags, make_xmc_classification
from skxmc.exceptions import CheckpointError, MemoryLimitError
from skxmc.label_space import inverse_propensity, jpv_propensity
from skxmc.metrics import evaluate_topk


def _problem(n_samples=300, n_features=60, n_labels=20, seed=0):
    data = make_xmc_classification(
        n_samples, n_features, n_labels, avg_features_per_sample=12, random_state=seed
    )
    return data.X, data.Y


def _objective(w, b, X, positive, C, loss="squared_hinge", weight=1.0, ridge=1.0):
    y = np.where(positive, 1.0, -1.0)
    costs = np.where(positive, weight, 1.0)
    margins = y * (X @ w + b)
    losses = (
        np.maximum(0, 1 - margins) ** 2 if loss == "squared_hinge" else np.logaddexp(0, -margins)
    )
    return 0.5 * w @ w + 0.5 * ridge * b * b + C * costs @ losses


@pytest.mark.parametrize("C", [0.1, 1.0, 10.0])
def test_optimum_is_that_of_linear_svc(C):
    X, Y = _problem()
    model = DismecClassifier(C=C, tol=1e-6, prune_threshold=0).fit(X, Y)
    rows = normalize(X.astype(np.float64))
    for label in range(Y.shape[1]):
        positive = Y[:, [label]].toarray().ravel() > 0
        if not positive.any() or positive.all():
            continue
        svc = LinearSVC(C=C, dual=False, tol=1e-9, max_iter=10_000).fit(rows, positive)
        best = _objective(svc.coef_[0], svc.intercept_[0], rows, positive, C)
        w = model.coef_[[label]].toarray().ravel().astype(np.float64)
        reached = _objective(w, float(model.intercept_[label]), rows, positive, C)
        assert reached == pytest.approx(best, rel=1e-6)


def test_logistic_optimum_is_that_of_logistic_regression():
    X, Y = _problem()
    model = DismecClassifier(loss="logistic", tol=1e-6, prune_threshold=0).fit(X, Y)
    rows = normalize(X.astype(np.float64))
    for label in range(0, Y.shape[1], 4):
        positive = Y[:, [label]].toarray().ravel() > 0
        if not positive.any():
            continue
        peer = LogisticRegression(solver="liblinear", tol=1e-9, max_iter=10_000)
        peer.fit(rows, positive)
        best = _objective(peer.coef_[0], peer.intercept_[0], rows, positive, 1.0, "logistic")
        w = model.coef_[[label]].toarray().ravel().astype(np.float64)
        b = float(model.intercept_[label])
        assert _objective(w, b, rows, positive, 1.0, "logistic") == pytest.approx(best, rel=1e-6)


def test_intercept_options():
    X, Y = _problem()
    rows = normalize(X.astype(np.float64))
    positive = Y[:, [0]].toarray().ravel() > 0
    y = Y[:, [0]].toarray()
    Y1 = sp.csr_array(y)
    without = DismecClassifier(fit_intercept=False, tol=1e-6, prune_threshold=0).fit(X, Y1)
    svc = LinearSVC(dual=False, fit_intercept=False, tol=1e-9).fit(rows, positive)
    assert without.intercept_[0] == 0
    assert_allclose(without.coef_.toarray(), svc.coef_, atol=1e-3)
    scaled = DismecClassifier(intercept_scaling=3.0, tol=1e-6, prune_threshold=0).fit(X, Y1)
    svc = LinearSVC(dual=False, intercept_scaling=3.0, tol=1e-9).fit(rows, positive)
    assert_allclose(scaled.intercept_, svc.intercept_, atol=1e-3)
    # the free intercept is stationary: sum of the slopes is zero
    free = DismecClassifier(regularize_intercept=False, tol=1e-6, prune_threshold=0).fit(X, Y1)
    margins = rows @ free.coef_.toarray()[0].astype(np.float64) + float(free.intercept_[0])
    signs = np.where(positive, 1.0, -1.0)
    slack = np.maximum(0, 1 - signs * margins)
    assert abs(signs @ slack) < 1e-3 * slack.sum()


def test_default_tolerance_ranks_like_the_optimum():
    bunch = load_debtags(return_tfidf=True)
    keep = np.argsort(-np.bincount(bunch.Y_train.indices, minlength=bunch.Y_train.shape[1]))[:40]
    rows = np.random.default_rng(0).permutation(bunch.X_train.shape[0])[:4000]
    X, Y = bunch.X_train[rows], sp.csr_array(bunch.Y_train[rows][:, keep])
    model = DismecClassifier().fit(X, Y)
    scores = np.column_stack(
        [
            # the dual solver: the same optimum, for a fortieth of the time
            LinearSVC(dual=True, tol=1e-5, max_iter=100_000, random_state=0)
            .fit(X, Y[:, [label]].toarray().ravel())
            .decision_function(bunch.X_test)
            for label in range(Y.shape[1])
        ]
    )
    Y_test = sp.csr_array(bunch.Y_test[:, keep])
    ours = evaluate_topk(Y_test, model.predict_topk(bunch.X_test, k=5))
    theirs = evaluate_topk(Y_test, scores)
    for name in ("P@1", "P@3", "P@5"):
        # 0.1 point, and the noise of 40 labels' pruning on 6,243 rows
        assert ours[name] == pytest.approx(theirs[name], abs=0.002)


def test_weightings_are_the_formulas():
    X, Y = _problem()
    counts = np.bincount(Y.indices, minlength=Y.shape[1])
    p = jpv_propensity(counts, len(X.indptr) - 1)
    balanced = np.array([(1 - 0.9) / (1 - 0.9 ** max(n, 1)) for n in counts])
    cases = [
        ({"weighting": "propensity"}, 2 / p - 1),
        ({"weighting": "class-balanced"}, balanced),
        ({"weighting": "propensity-class-balanced"}, (2 / p - 1) * balanced),
        ({"weighting": "propensity", "propensity": p**2}, 2 / p**2 - 1),
        (
            {"weighting": "propensity", "propensity": ("jpv", 0.6, 2.6)},
            2 / jpv_propensity(counts, X.shape[0], A=0.6, B=2.6) - 1,
        ),
        ({"weighting": "class-balanced", "beta": 0.0}, np.ones(len(counts))),
        ({"weighting": "vanilla"}, np.ones(len(counts))),
    ]
    rows = normalize(X.astype(np.float64))
    for params, weights in cases:
        model = DismecClassifier(tol=1e-5, prune_threshold=0, **params).fit(X, Y)
        given = DismecClassifier(tol=1e-5, prune_threshold=0, weighting=weights).fit(X, Y)
        assert_allclose(model.coef_.toarray(), given.coef_.toarray(), atol=2e-3)
        label = int(np.argmax(counts))
        positive = Y[:, [label]].toarray().ravel() > 0
        svc = LinearSVC(dual=False, tol=1e-9, class_weight={True: weights[label], False: 1.0})
        svc.fit(rows, positive)
        assert_allclose(model.coef_[[label]].toarray(), svc.coef_, atol=5e-3)


def test_propensity_weighting_helps_under_missing_labels():
    data = make_xmc_classification(
        4000, 400, 60, avg_labels_per_sample=4, propensity=0.3, random_state=0
    )
    train, test = slice(0, 2500), slice(2500, None)
    recall = {}
    for name in ("vanilla", "propensity"):
        model = DismecClassifier(weighting=name, propensity=data.propensities)
        model.fit(data.X[train], data.Y[train])
        predicted, true = model.predict(data.X[test]), data.Y_true[test]
        recall[name] = predicted.multiply(true).sum() / true.sum()
    assert recall["propensity"] > recall["vanilla"] + 0.05


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weighting": "no such"}, "weighting"),
        ({"weighting": np.ones(3)}, "one value for each of the 20 labels"),
        ({"weighting": np.zeros(20)}, "label 0"),
        ({"weighting": "propensity", "propensity": np.full(20, 1.5)}, r"in \(0, 1\]"),
        ({"weighting": "propensity", "propensity": "beta"}, "propensity"),
        ({"C": 0}, "C"),
        ({"C": np.nan}, "C"),
        ({"tol": -1}, "tol"),
        ({"max_iter": 0}, "max_iter"),
        ({"loss": "hinge"}, "loss"),
        ({"init": "mean"}, "init"),
        ({"normalize": "l1"}, "normalize"),
        ({"prune_threshold": -0.1}, "prune_threshold"),
        ({"beta": 1.0}, "beta"),
        ({"intercept_scaling": 0}, "intercept_scaling"),
        ({"n_jobs": 0}, "n_jobs"),
        ({"memory_limit": 0}, "memory_limit"),
    ],
)
def test_parameters_out_of_range(params, message):
    X, Y = _problem()
    with pytest.raises(ValueError, match=message):
        DismecClassifier(**params).fit(X, Y)


def test_label_without_positives_has_no_weights_and_no_answers():
    X, Y = _problem()
    Y = sp.csr_array(sp.hstack([Y, sp.csr_array((Y.shape[0], 3), dtype=Y.dtype)]))
    model = DismecClassifier().fit(X, Y)
    empty = np.flatnonzero(np.bincount(Y.indices, minlength=Y.shape[1]) == 0)
    assert set(empty) >= {20, 21, 22}
    assert np.diff(model.coef_.indptr)[empty].sum() == 0
    assert np.isneginf(model.intercept_[empty]).all()
    assert not np.isin(model.predict_topk(X, k=23).labels, empty).any()
    dense = DismecClassifier().fit(X, Y.toarray()).predict_proba(X)
    assert (dense > 0).all()
    assert (dense[:, empty] < 1e-30).all()


def test_pruning_by_threshold():
    X, Y = _problem()
    full = DismecClassifier(prune_threshold=0).fit(X, Y)
    pruned = DismecClassifier(prune_threshold=0.2).fit(X, Y)
    expected = full.coef_.toarray()
    expected[np.abs(expected) < 0.2] = 0
    assert_array_equal(pruned.coef_.toarray(), expected)
    assert pruned.coef_.nnz < full.coef_.nnz


@pytest.mark.parametrize("loss", ["squared_hinge", "logistic"])
def test_pruning_by_loss_keeps_the_fewest_weights_within_the_bound(loss):
    X, Y = _problem()
    full = DismecClassifier(loss=loss, prune_threshold=0, C=10).fit(X, Y)
    pruned = DismecClassifier(loss=loss, prune_tolerance=0.05, C=10).fit(X, Y)
    rows = normalize(X.astype(np.float64))
    n_dropped = 0
    for label in np.flatnonzero(np.isfinite(full.intercept_)):
        positive = Y[:, [label]].toarray().ravel() > 0

        def data_loss(w, label=label, positive=positive):
            w = w.astype(np.float64)
            value = _objective(w, float(full.intercept_[label]), rows, positive, 10, loss)
            return value - 0.5 * w @ w - 0.5 * float(full.intercept_[label]) ** 2

        w = full.coef_[[label]].toarray().ravel()
        kept = pruned.coef_[[label]].toarray().ravel()
        bound = 1.05 * data_loss(w) + 1e-5
        assert data_loss(kept) <= bound * (1 + 1e-5)
        dropped = (w != 0) & (kept == 0)
        n_dropped += dropped.sum()
        assert_array_equal(kept[~dropped], w[~dropped])
        if dropped.any() and kept.any():
            assert np.abs(w[dropped]).max() <= np.abs(kept[kept != 0]).min()
        if kept.any():  # one more would break the bound
            smallest = np.flatnonzero(kept)[np.argmin(np.abs(kept[kept != 0]))]
            kept[smallest] = 0
            assert data_loss(kept) > bound * (1 - 1e-5)
    assert n_dropped > 0


def test_normalisation_is_applied_to_both_sides():
    X, Y = _problem()
    scaled = sp.csr_array(sp.diags_array(np.linspace(0.1, 50, X.shape[0])) @ X)
    model = DismecClassifier(prune_threshold=0, tol=1e-5).fit(X, Y)
    again = DismecClassifier(prune_threshold=0, tol=1e-5).fit(scaled, Y)
    assert_allclose(again.coef_.toarray(), model.coef_.toarray(), atol=5e-3)
    assert_allclose(
        model.decision_function(scaled).toarray(), model.decision_function(X).toarray(), atol=5e-3
    )
    raw = DismecClassifier(normalize=None, prune_threshold=0).fit(X, Y)
    expected = X @ raw.coef_.toarray().T + raw.intercept_
    assert_allclose(raw.predict_topk(X, k=1).scores[:, 0], expected.max(axis=1), rtol=1e-4)


def test_dense_rows_work_as_sparse_ones():
    X, Y = _problem()
    sparse = DismecClassifier().fit(X, Y)
    dense = DismecClassifier().fit(X.toarray(), Y)
    assert_array_equal(dense.coef_.toarray(), sparse.coef_.toarray())
    answers = dense.predict_topk(X.toarray(), k=4)
    assert_array_equal(answers.labels, sparse.predict_topk(X, k=4).labels)
    embedded = np.random.default_rng(0).normal(size=(300, 8))
    first = (embedded[:, :5] > 0.5).astype(int)
    model = DismecClassifier().fit(embedded, first)
    assert (model.predict(embedded) == first).mean() > 0.9


def test_unfinished_labels_are_reported():
    X, Y = _problem()
    with pytest.warns(ConvergenceWarning, match="labels did not reach"):
        DismecClassifier(max_iter=1, tol=1e-6).fit(X, Y)


def test_start_does_not_change_the_solution():
    X, Y = _problem()
    expected = DismecClassifier(tol=1e-6, prune_threshold=0).fit(X, Y)
    for init in ("zero", "multi-positive"):
        other = DismecClassifier(tol=1e-6, prune_threshold=0, init=init).fit(X, Y)
        assert_allclose(other.coef_.toarray(), expected.coef_.toarray(), atol=2e-3)


def test_save_and_load(tmp_path):
    X, Y = _problem()
    Y = sp.csr_array(sp.hstack([Y, sp.csr_array((Y.shape[0], 1), dtype=Y.dtype)]))
    model = DismecClassifier().fit(X, Y)
    expected = model.predict_topk(X, k=7)
    for options in ({}, {"compress": True}):
        path = tmp_path / f"model-{len(options)}"
        save_model(model, path, **options)
        for mmap in (True, False):
            answers = load_model(path, mmap=mmap).predict_topk(X, k=7)
            assert_array_equal(answers.labels, expected.labels)
            assert_array_equal(answers.scores, expected.scores)


def test_memory_limit():
    X, Y = _problem()
    needed = DismecClassifier().estimate_memory(X, Y)
    assert needed > 0
    DismecClassifier(memory_limit=needed).fit(X, Y)
    with pytest.raises(MemoryLimitError, match="memory_limit"):
        DismecClassifier(memory_limit=needed // 2).fit(X, Y)
    # more rows, labels or threads need more
    assert DismecClassifier(n_jobs=4).estimate_memory(X, Y) > needed
    wide = sp.csr_array(sp.hstack([Y, Y]))
    assert DismecClassifier().estimate_memory(X, wide) > needed


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    import skxmc.linear._dismec as module
    from skxmc import DismecClassifier
    from skxmc.datasets import make_xmc_classification

    module._SHARD = 16
    data = make_xmc_classification(400, 80, 100, avg_features_per_sample=12, random_state=0)
    write, written = module._Checkpoint.write, []

    def write_and_die(self, shard, solution):
        write(self, shard, solution)
        written.append(shard)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    module._Checkpoint.write = write_and_die
    DismecClassifier(checkpoint_dir=sys.argv[1]).fit(data.X, data.Y)
    """
)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_fit_resumes_to_the_same_bits(tmp_path, monkeypatch):
    import skxmc.linear._dismec as module

    monkeypatch.setattr(module, "_SHARD", 16)
    data = make_xmc_classification(400, 80, 100, avg_features_per_sample=12, random_state=0)
    expected = DismecClassifier().fit(data.X, data.Y)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    shards = list(tmp_path.glob("*/labels-*.npz"))
    assert len(shards) == 3  # nothing finished was lost
    solved = []
    solve = module.linear_solver.solve
    monkeypatch.setattr(
        module.linear_solver,
        "solve",
        lambda rows, indptr, *args, **kwargs: (
            solved.append(len(indptr) - 1) or solve(rows, indptr, *args, **kwargs)
        ),
    )
    resumed = DismecClassifier(checkpoint_dir=tmp_path, n_jobs=2).fit(data.X, data.Y)
    n_labels = np.isfinite(expected.intercept_).sum()
    assert sum(solved) == n_labels - 48
    for name in ("data", "indices", "indptr"):
        assert_array_equal(getattr(resumed.coef_, name), getattr(expected.coef_, name))
    assert_array_equal(resumed.intercept_, expected.intercept_)
    assert_array_equal(resumed.n_iter_, expected.n_iter_)
    assert not list(tmp_path.glob("*/labels-*.npz"))  # a complete fit leaves nothing behind


def test_checkpoints_of_other_fits_are_not_used(tmp_path, monkeypatch):
    X, Y = _problem()
    with monkeypatch.context() as patch:
        patch.setattr("skxmc.linear._dismec._Checkpoint.remove", lambda self: None)
        DismecClassifier(checkpoint_dir=tmp_path).fit(X, Y)
    shard = next(tmp_path.glob("*/labels-*.npz"))
    expected = DismecClassifier(C=2.0).fit(X, Y)
    other = DismecClassifier(C=2.0, checkpoint_dir=tmp_path).fit(X, Y)
    assert_array_equal(other.coef_.data, expected.coef_.data)
    changed = X.copy()
    changed.data = changed.data * np.float32(1.5)
    DismecClassifier(checkpoint_dir=tmp_path).fit(changed, Y)
    assert shard.exists()
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="delete it"):
        DismecClassifier(checkpoint_dir=tmp_path).fit(X, Y)


def test_real_documents():
    bunch = load_debtags(return_tfidf=True)
    rows = np.random.default_rng(0).permutation(bunch.X_train.shape[0])[:6000]
    model = DismecClassifier(n_jobs=2).fit(bunch.X_train[rows], bunch.Y_train[rows])
    answers = model.predict_topk(bunch.X_test, k=5)
    result = evaluate_topk(
        bunch.Y_test, answers, inv_propensity=inverse_propensity(bunch.Y_train[rows])
    )
    # 80 % with all rows; the most frequent tag alone reaches 21 %
    assert result["P@1"] > 0.7
    assert result["PSP@5"] > 0.5
