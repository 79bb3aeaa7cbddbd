"""The contract of every skxmc classifier, as checks that run on any estimator instance.

scikit-learn's own checks never feed a sparse ``Y``; these do. A test module runs them so::

    from contract import contract_params


    @pytest.mark.parametrize(("estimator", "check"), contract_params([DismecClassifier()]))
    def test_contract(estimator, check):
        check(estimator)

Each check takes an unfitted instance, works on clones of it and on small generated data, and fails
with an assertion. An estimator that by its nature breaks a rule names the check in ``without``
(with the reason), and one that needs other limits passes them in ``options``.
"""

import functools
import gc
import inspect
import pickle
import tempfile
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer
from traced import traced_memory

from skxmc.exceptions import DenseOutputError

N_SAMPLES, N_FEATURES, N_LABELS = 48, 30, 9

SPARSE_CONTAINERS = [
    sp.csr_array,
    sp.csr_matrix,
    sp.csc_array,
    sp.csc_matrix,
    sp.coo_array,
    sp.coo_matrix,
    sp.lil_array,
    sp.dok_array,
]
TARGET_DTYPES = [bool, np.uint8, np.int64, np.float32, np.float64]


# ------------------------------------------------------------------ data


def make_data(n_samples=N_SAMPLES, n_features=N_FEATURES, n_labels=N_LABELS, seed=0):
    """Sparse rows whose features tell their labels.

    Every row has a label; every label has at least two positives and is not everywhere. The values
    are multiples of 1/64, so that float32, float64 and sums of halves of them are exact.
    """
    rng = np.random.default_rng(seed)
    Y = rng.random((n_samples, n_labels)) < 0.2
    Y[np.arange(n_samples), np.arange(n_samples) % n_labels] = True
    signature = rng.random((n_labels, n_features)) < 0.2
    X = Y @ (signature * rng.integers(32, 96, size=signature.shape))
    noise = (rng.random(X.shape) < 0.1) * rng.integers(8, 64, size=X.shape)
    X = (X + noise) / 64
    X[:, 0] += 0.25  # no empty rows or columns: these have a check of their own
    X[0] += 0.125
    return sp.csr_array(X.astype(np.float32)), sp.csr_array(Y.astype(np.int64))


def _fitted(estimator, X, Y, **params):
    return clone(estimator).set_params(**params).fit(X, Y)


def _outputs(model, X, k=N_LABELS):
    """All that a model fitted with a sparse ``Y`` answers, as a dictionary of arrays."""
    answers = model.predict_topk(X, k=k)
    out = {"labels": answers.labels, "scores": answers.scores}
    for method in ("predict_proba", "decision_function", "predict"):
        result = sp.csr_array(getattr(model, method)(X))
        for part in ("data", "indices", "indptr"):
            out[f"{method}.{part}"] = getattr(result, part)
    return out


def _assert_same(first, second):
    """Bit-identical outputs."""
    assert first.keys() == second.keys()
    for name in first:
        assert_array_equal(first[name], second[name], err_msg=name)


def _assert_same_answers(first, second, tolerance=1e-5):
    """The same labels in the same order, with margins equal up to rounding."""
    assert_array_equal(first.labels, second.labels)
    assert_allclose(first.scores, second.scores, rtol=tolerance, atol=tolerance)


def _assert_valid_scores(model, X):
    """Outputs without NaN, probabilities strictly inside (0, 1)."""
    answers = model.predict_topk(X, k=3)
    assert not np.isnan(answers.scores).any()
    assert ((answers.labels == -1) == (answers.scores == -np.inf)).all()
    proba = model.predict_proba(X)
    assert (proba.data > 0).all()
    assert (proba.data < 1).all()
    assert not np.isnan(model.decision_function(X).data).any()
    assert set(np.unique(model.predict(X).data)) <= {0, 1}


def _snapshot(*arrays):
    """Bytes of everything inside the given matrices, to see whether they change."""
    parts = []
    for A in arrays:
        if sp.issparse(A):
            names = ("row", "col", "data") if A.format == "coo" else ("data", "indices", "indptr")
            parts += [np.asarray(getattr(A, name)).copy() for name in names]
        else:
            parts.append(np.asarray(A).copy())
    return parts


def _read_only(A):
    """The same matrix on read-only arrays."""
    A = A.copy()
    if sp.issparse(A):
        for part in (A.data, A.indices, A.indptr):
            part.flags.writeable = False
    else:
        A.flags.writeable = False
    return A


# ------------------------------------------------------------------ containers


def check_output_container(estimator):
    """Sparse Y in, sparse out: the kind (array or matrix) and the dtype of Y are kept."""
    X, Y = make_data()
    expected = _outputs(_fitted(estimator, X, Y), X)
    for container in SPARSE_CONTAINERS:
        Y_in = container(Y)
        model = _fitted(estimator, X, Y_in)
        kind = sp.csr_matrix if sp.isspmatrix(Y_in) else sp.csr_array
        for method in ("predict", "predict_proba", "decision_function"):
            result = getattr(model, method)(X)
            assert isinstance(result, kind), (container, method, type(result))
            assert result.shape == Y.shape
            assert result.has_sorted_indices
        _assert_same(expected, _outputs(model, X))
    for dtype in TARGET_DTYPES:
        model = _fitted(estimator, X, Y.astype(dtype))
        assert model.predict(X).dtype == dtype
        assert model.predict_proba(X).dtype == np.float32
        _assert_same(expected, _outputs(model, X))


def check_sparse_outputs(estimator):
    """The top_k best labels of each row are kept; predict is probability > 0.5, complete."""
    X, Y = make_data()
    model = _fitted(estimator, X, Y, top_k=4)
    assert_array_equal(model.classes_, np.arange(N_LABELS))
    answers = model.predict_topk(X, k=4)
    margins, proba = model.decision_function(X), model.predict_proba(X)
    assert_array_equal(margins.indices, proba.indices)
    for i in range(N_SAMPLES):
        row = slice(margins.indptr[i], margins.indptr[i + 1])
        kept = answers.labels[i] >= 0
        order = np.argsort(answers.labels[i][kept])
        assert_array_equal(margins.indices[row], answers.labels[i][kept][order])
        assert_array_equal(margins.data[row], answers.scores[i][kept][order])
    # probabilities rise with margins, and 0.5 is where the margin is 0
    order = np.argsort(margins.data)
    assert (np.diff(proba.data[order]) >= 0).all()
    assert (proba.data[margins.data > 1e-3] > 0.5).all()
    assert (proba.data[margins.data < -1e-3] < 0.5).all()
    everything = _fitted(estimator, X, Y, top_k=N_LABELS)
    above = everything.predict_proba(X)
    above.data = above.data > 0.5
    above.eliminate_zeros()
    assert above.nnz > 0
    for top_k in (1, 2, N_LABELS):
        predicted = _fitted(estimator, X, Y, top_k=top_k).predict(X)
        assert_array_equal(predicted.toarray(), above.toarray())


def check_dense_target(estimator):
    """Dense Y in, dense out, with the same ranks as a sparse Y."""
    X, Y = make_data()
    sparse = _fitted(estimator, X, Y)
    for dtype in TARGET_DTYPES:
        dense = _fitted(estimator, X, Y.toarray().astype(dtype))
        assert isinstance(dense.predict(X), np.ndarray)
        assert dense.predict(X).dtype == dtype
        assert_array_equal(dense.predict(X), sparse.predict(X).toarray())
    _assert_same_answers(sparse.predict_topk(X, k=N_LABELS), dense.predict_topk(X, k=N_LABELS), 0)
    for method in ("predict_proba", "decision_function"):
        result = getattr(dense, method)(X)
        assert isinstance(result, np.ndarray)
        assert result.dtype.kind == "f"
        assert result.shape == Y.shape
        stored = getattr(sparse, method)(X).tocoo()
        assert_allclose(result[stored.row, stored.col], stored.data, rtol=1e-5, atol=1e-6)
    proba = dense.predict_proba(X)
    assert proba.min() > 0
    assert proba.max() < 1
    assert_array_equal(dense.predict(X), proba > 0.5)
    lists = _fitted(estimator, X, Y.toarray().tolist())
    assert_array_equal(lists.predict(X), dense.predict(X))


def check_dense_output_limit(estimator):
    """Dense outputs over the limit are refused, with the way out; sparse ones are not."""
    X, Y = make_data()
    dense = _fitted(estimator, X, Y.toarray(), max_dense_bytes=N_SAMPLES * N_LABELS)
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(DenseOutputError, match="csr_array"):
            getattr(dense, method)(X)
    assert dense.predict_topk(X, k=2).labels.shape == (N_SAMPLES, 2)
    sparse = _fitted(estimator, X, Y, max_dense_bytes=N_SAMPLES * N_LABELS)
    assert sp.issparse(sparse.predict_proba(X))
    none_left = _fitted(estimator, X, Y, max_dense_bytes=0)
    with pytest.raises(DenseOutputError, match="predict_topk"):
        none_left.predict(X)


def check_one_dimensional_target(estimator):
    """One class a row: numbers or strings, two classes or more, a column vector with a warning."""
    X, _ = make_data()
    names = np.array([f"class {c}" for c in range(N_LABELS)])
    best = np.arange(N_SAMPLES) % N_LABELS
    for y in (best, names[best], names[best].tolist(), (best % 2), names[best % 2]):
        model = _fitted(estimator, X, y)
        classes = np.unique(y)
        assert_array_equal(model.classes_, classes)
        predicted, proba = model.predict(X), model.predict_proba(X)
        assert predicted.shape == (N_SAMPLES,)
        assert predicted.dtype == classes.dtype
        assert proba.shape == (N_SAMPLES, len(classes))
        assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
        assert_array_equal(classes[proba.argmax(axis=1)], predicted)
        margins = model.decision_function(X)
        answers = model.predict_topk(X, k=len(classes) + 1)
        assert_array_equal(classes[answers.labels[:, 0]], predicted)
        assert (answers.labels[:, -1] == -1).all()
        assert_array_equal(np.sort(answers.labels[:, :-1], axis=1)[0], np.arange(len(classes)))
        if len(classes) == 2:
            assert margins.shape == (N_SAMPLES,)
            assert_array_equal(classes[(margins > 0).astype(int)], predicted)
        else:
            assert margins.shape == (N_SAMPLES, len(classes))
            assert_array_equal(classes[margins.argmax(axis=1)], predicted)
        excluded = sp.csr_array(
            (np.ones(N_SAMPLES), (np.arange(N_SAMPLES), answers.labels[:, 0])),
            shape=(N_SAMPLES, len(classes)),
        )
        second = model.predict_topk(X, k=1, exclude=excluded)
        assert_array_equal(second.labels[:, 0], answers.labels[:, 1])
        first = model.predict_topk(X, k=2, candidates=excluded)
        assert_array_equal(first.labels[:, 0], answers.labels[:, 0])
        assert (first.labels[:, 1] == -1).all()
    with pytest.warns(DataConversionWarning):
        column = _fitted(estimator, X, best[:, None])
    assert_array_equal(column.predict(X), _fitted(estimator, X, best).predict(X))
    with pytest.raises(ValueError, match="class"):
        _fitted(estimator, X, np.ones(N_SAMPLES))


# ------------------------------------------------------------------ invariances


def check_row_invariance(estimator):
    """A row gets the same answer, bit for bit, alone, in a batch and in another order."""
    X, Y = make_data()
    for X_in in (X, X.toarray()):
        model = _fitted(estimator, X_in, Y, top_k=4)
        batch = model.predict_topk(X_in, k=4)
        proba = model.predict_proba(X_in).toarray()
        predicted = model.predict(X_in).toarray()
        for i in range(0, N_SAMPLES, 5):
            row = X_in[i : i + 1]
            alone = model.predict_topk(row, k=4)
            assert_array_equal(alone.labels[0], batch.labels[i])
            assert_array_equal(alone.scores[0], batch.scores[i])
            assert_array_equal(model.predict_proba(row).toarray()[0], proba[i])
            assert_array_equal(model.predict(row).toarray()[0], predicted[i])
        order = np.random.default_rng(1).permutation(N_SAMPLES)
        shuffled = model.predict_topk(X_in[order], k=4)
        assert_array_equal(shuffled.labels, batch.labels[order])
        assert_array_equal(shuffled.scores, batch.scores[order])


def check_dense_features(estimator, tolerance=1e-4):
    """Dense X, float32 or float64, gives what the same X as CSR gives, at fit and at predict."""
    X, Y = make_data()
    sparse = _fitted(estimator, X, Y)
    expected = sparse.predict_topk(X, k=3).scores
    for dtype in (np.float32, np.float64):
        for order in ("C", "F"):
            X_dense = np.asarray(X.toarray(), dtype=dtype, order=order)
            dense = _fitted(estimator, X_dense, Y)
            for model, X_in in ((sparse, X_dense), (dense, X_dense), (dense, X)):
                assert_allclose(
                    model.predict_topk(X_in, k=3).scores, expected, rtol=tolerance, atol=tolerance
                )


def check_label_permutation(estimator, tolerance=1e-5):
    """Renumbered labels give renumbered answers."""
    X, Y = make_data()
    order = np.random.default_rng(2).permutation(N_LABELS)
    margins = _fitted(estimator, X, Y.toarray()).decision_function(X)
    permuted = _fitted(estimator, X, Y.toarray()[:, order]).decision_function(X)
    assert_allclose(permuted, margins[:, order], rtol=tolerance, atol=tolerance)
    answers = _fitted(estimator, X, sp.csr_array(Y.toarray()[:, order])).predict_topk(X, k=N_LABELS)
    gaps = np.abs(np.diff(answers.scores, axis=1)).min(axis=1)
    clear = gaps > 10 * tolerance  # ties follow the numbers
    assert clear.any()
    expected = _fitted(estimator, X, Y).predict_topk(X, k=N_LABELS)
    assert_array_equal(order[answers.labels[clear]], expected.labels[clear])


def check_deterministic(estimator):
    """The same fit twice, and with other numbers of threads, gives the same bits."""
    X, Y = make_data()
    known = estimator.get_params()
    fixed = {"random_state": 0} if "random_state" in known else {}
    expected = _outputs(_fitted(estimator, X, Y, **fixed), X)
    _assert_same(expected, _outputs(_fitted(estimator, X, Y, **fixed), X))
    if "n_jobs" in known:
        for n_jobs in (1, 2):
            model = _fitted(estimator, X, Y, n_jobs=n_jobs, **fixed)
            _assert_same(expected, _outputs(model, X))


def check_clone_and_refit(estimator):
    """Fit returns the estimator, keeps its parameters, forgets the fit before; clone drops it."""
    X, Y = make_data()
    model = clone(estimator)
    params = {name: repr(value) for name, value in model.get_params().items()}
    assert model.fit(X[:, :7], Y[:, :3]) is model
    assert model.fit(X, Y) is model
    assert {name: repr(value) for name, value in model.get_params().items()} == params
    _assert_same(_outputs(_fitted(estimator, X, Y), X), _outputs(model, X))
    with pytest.raises(NotFittedError):
        clone(model).predict_topk(X)


def check_failed_fit(estimator):
    """An estimator whose last fit failed is not fitted."""
    X, Y = make_data()
    model = _fitted(estimator, X, Y)
    with pytest.raises(ValueError, match="positive"):
        model.fit(X, Y * 0)
    with pytest.raises(NotFittedError):
        model.predict(X)


# ------------------------------------------------------------------ forms of the same matrix


def _same_matrix_forms(A):
    """``(name, matrix)`` of other ways to store the CSR ``A``; the explicit zeros come last."""
    coo = A.tocoo()
    forms = [(c.__name__, c(A)) for c in SPARSE_CONTAINERS]
    forms.append(("float64", A.astype(np.float64)))
    wide = A.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    forms.append(("int64 indices", wide))
    reverse = np.concatenate(
        [np.arange(b - 1, a - 1, -1) for a, b in zip(A.indptr, A.indptr[1:], strict=False)]
    )
    unsorted = sp.csr_array((A.data[reverse], A.indices[reverse], A.indptr), shape=A.shape)
    forms.append(("unsorted", unsorted))
    halves = np.repeat(A.data / 2, 2)
    doubled = sp.csr_array((halves, np.repeat(A.indices, 2), 2 * A.indptr), shape=A.shape)
    forms.append(("duplicates", doubled))
    pairs = (np.repeat(coo.row, 2), np.repeat(coo.col, 2))
    forms.append(("coo duplicates", sp.coo_array((halves, pairs), shape=A.shape)))
    return forms


def _with_explicit_zeros(A):
    """The same matrix with a zero stored in every fifth free place."""
    rows, columns = np.nonzero(A.toarray() == 0)
    rows, columns = rows[::5], columns[::5]
    coo = A.tocoo()
    data = np.concatenate([coo.data, np.zeros(len(rows), dtype=A.dtype)])
    index = (np.concatenate([coo.row, rows]), np.concatenate([coo.col, columns]))
    zeros = sp.csr_array((data, index), shape=A.shape)
    assert zeros.nnz == A.nnz + len(rows) > A.nnz
    return zeros


def check_feature_forms(estimator):
    """X in another sparse format, index type or order, or with entries in parts: the same bits."""
    X, Y = make_data()
    model = _fitted(estimator, X, Y)
    expected = _outputs(model, X)
    for name, X_in in _same_matrix_forms(X):
        before = _snapshot(X_in) if X_in.format in ("csr", "csc", "coo") else None
        _assert_same(expected, _outputs(_fitted(estimator, X_in, Y), X))
        _assert_same(expected, _outputs(model, X_in))
        if before is not None:
            for old, new in zip(before, _snapshot(X_in), strict=True):
                assert_array_equal(old, new, err_msg=name)
    zeros = _with_explicit_zeros(X)
    answers = model.predict_topk(X, k=3)
    _assert_same_answers(answers, model.predict_topk(zeros, k=3))
    _assert_same_answers(answers, _fitted(estimator, zeros, Y).predict_topk(X, k=3), 1e-4)


def check_target_forms(estimator):
    """Y with int64 or unsorted indices, zeros, merged repetitions: the same bits; else an error."""
    X, Y = make_data()
    expected = _outputs(_fitted(estimator, X, Y), X)
    for name, Y_in in _same_matrix_forms(Y):
        if "duplicates" not in name:
            before = _snapshot(Y_in) if Y_in.format in ("csr", "csc", "coo") else None
            _assert_same(expected, _outputs(_fitted(estimator, X, Y_in), X))
            if before is not None:
                for old, new in zip(before, _snapshot(Y_in), strict=True):
                    assert_array_equal(old, new, err_msg=name)
    _assert_same(expected, _outputs(_fitted(estimator, X, _with_explicit_zeros(Y)), X))
    repeated = (np.repeat(Y.indices, 2), 2 * Y.indptr)
    merged = sp.csr_array((np.ones(2 * Y.nnz, dtype=bool), *repeated), shape=Y.shape)
    _assert_same(expected, _outputs(_fitted(estimator, X, merged), X))
    twice = sp.csr_array((np.ones(2 * Y.nnz), *repeated), shape=Y.shape)
    for Y_in in (twice, twice.tocoo()):
        with pytest.raises(ValueError, match=f"row 0.* column {Y.indices[0]}"):
            _fitted(estimator, X, Y_in)


def check_read_only_inputs(estimator):
    """Read-only and memory-mapped inputs work, give the same bits, and no input is ever changed."""
    X, Y = make_data()
    expected = _outputs(_fitted(estimator, X, Y), X)
    allowed = sp.csr_array(np.ones(Y.shape))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.joblib"
        joblib.dump((X, Y, X.toarray(), Y.toarray(), allowed), path)
        mapped = joblib.load(path, mmap_mode="r")
        frozen = tuple(_read_only(A) for A in (X, Y, X.toarray(), Y.toarray(), allowed))
        for X_in, Y_in, X_dense, Y_dense, allowed_in in (frozen, mapped):
            before = _snapshot(X_in, Y_in, X_dense, Y_dense, allowed_in)
            model = _fitted(estimator, X_in, Y_in)
            _assert_same(expected, _outputs(model, X_in))
            model.predict_topk(X_in, k=3, exclude=allowed_in)
            model.predict_topk(X_dense, k=3, candidates=allowed_in)
            dense = _fitted(estimator, X_dense, Y_dense)
            for method in ("predict", "predict_proba", "decision_function"):
                getattr(dense, method)(X_dense)
            after = _snapshot(X_in, Y_in, X_dense, Y_dense, allowed_in)
            for old, new in zip(before, after, strict=True):
                assert_array_equal(old, new)
        del mapped, X_in, Y_in, X_dense, Y_dense, allowed_in, model, dense
        gc.collect()  # closes the mapped file before its folder goes


# ------------------------------------------------------------------ unusual data


def check_empty_rows_and_columns(estimator):
    """Rows without features and features without rows, at fit and at predict."""
    X, Y = make_data()
    X = X.toarray()
    X[[0, 7, N_SAMPLES - 1]] = 0
    X[:, [0, 3, N_FEATURES - 1]] = 0
    X = sp.csr_array(X)
    model = _fitted(estimator, X, Y)
    _assert_valid_scores(model, X)
    nothing = sp.csr_array((2, N_FEATURES), dtype=np.float32)
    _assert_valid_scores(model, nothing)
    empty = model.predict_topk(nothing, k=3)
    assert_array_equal(empty.labels[0], empty.labels[1])
    assert_array_equal(model.predict_topk(X, k=3).labels[7], empty.labels[0])
    # features never seen in fit say nothing, or at least nothing wrong
    unseen = sp.csr_array(([1.0], ([0], [3])), shape=(1, N_FEATURES))
    _assert_valid_scores(model, unseen)


def check_unusual_labels(estimator):
    """Labels without positives and with only positives, and rows without labels."""
    X, Y = make_data()
    Y = Y.toarray()
    never, always = 2, 5
    Y[:, never] = 0
    Y[[1, 8]] = 0
    Y[:, always] = 1
    model = _fitted(estimator, X, sp.csr_array(Y))
    _assert_valid_scores(model, X)
    predicted = model.predict(X).toarray()
    assert predicted.shape == Y.shape
    assert not predicted[:, never].any()
    assert predicted[:, always].mean() > 0.5
    Y[:, always] = 0  # now rows without any label
    _assert_valid_scores(_fitted(estimator, X, sp.csr_array(Y)), X)
    dense = _fitted(estimator, X, Y)
    proba = dense.predict_proba(X)
    assert (proba > 0).all()
    assert (proba < 1).all()
    assert not dense.predict(X)[:, never].any()
    assert not np.isnan(dense.decision_function(X)).any()


def check_single_label_and_row(estimator):
    """A single label, a single row, and both, at fit."""
    X, Y = make_data()
    one_label = _fitted(estimator, X, Y[:, [1]])
    _assert_valid_scores(one_label, X)
    assert one_label.predict(X).shape == (N_SAMPLES, 1)
    assert one_label.predict_topk(X, k=2).labels.shape == (N_SAMPLES, 2)
    for Y_in in (Y[[0]], Y[[0]][:, [0]]):
        assert Y_in.nnz > 0
        one_row = _fitted(estimator, X[[0]], Y_in)
        _assert_valid_scores(one_row, X)
        assert one_row.predict(X).shape == (N_SAMPLES, Y_in.shape[1])
    single = _fitted(estimator, X[[0]], Y[[0]].toarray())
    assert single.predict(X).shape == (N_SAMPLES, N_LABELS)


def check_wide_target(estimator, n_labels=3_000_000, n_samples=100, max_bytes=None):
    """A label matrix of 3,000,000 columns and 100 rows costs memory for what it holds.

    ``max_bytes`` bounds the peak of what NumPy and Python allocate in fit and in each way to
    predict. The default is 64 bytes a label and 64 MiB: a dense matrix of one byte a pair would
    break it.
    """
    if max_bytes is None:
        max_bytes = 64 * n_labels + 2**26
    assert max_bytes < n_samples * n_labels
    X, _ = make_data(n_samples=n_samples)
    rng = np.random.default_rng(0)
    labels = rng.choice(n_labels, size=3 * n_samples, replace=False)
    rows = np.repeat(np.arange(n_samples), 3)
    Y = sp.csr_array((np.ones(len(rows)), (rows, labels)), shape=(n_samples, n_labels))
    model = clone(estimator)
    steps = [
        lambda: model.fit(X, Y),
        lambda: model.predict_topk(X[:3], k=5),
        lambda: model.predict_proba(X[:3]),
        lambda: model.decision_function(X[:3]),
        lambda: model.predict(X[:3]),
    ]
    with traced_memory() as peak:
        for step in steps:
            result = step()
            n_bytes = peak()
            assert n_bytes <= max_bytes, f"{inspect.getsource(step).strip()} took {n_bytes:,} bytes"
            if sp.issparse(result):
                assert result.shape == (3, n_labels)


# ------------------------------------------------------------------ predict_topk


def check_topk(estimator):
    """Form, order, ties, padding and the refusal of a wrong k."""
    X, Y = make_data()
    model = _fitted(estimator, X, Y)
    full = model.predict_topk(X, k=N_LABELS)
    assert full.labels.dtype == np.int32
    assert full.scores.dtype == np.float32
    assert_array_equal(np.sort(full.labels, axis=1), np.tile(np.arange(N_LABELS), (N_SAMPLES, 1)))
    steps = np.diff(full.scores, axis=1)
    assert (steps <= 0).all()
    assert (np.diff(full.labels, axis=1)[steps == 0] > 0).all()
    for k in (1, 2, np.int64(3), N_LABELS - 1):
        answers = model.predict_topk(X, k=k)
        assert_array_equal(answers.labels, full.labels[:, :k])
        assert_array_equal(answers.scores, full.scores[:, :k])
    assert model.predict_topk(X).labels.shape == (N_SAMPLES, 5)
    padded = model.predict_topk(X, k=N_LABELS + 3)
    assert_array_equal(padded.labels[:, :N_LABELS], full.labels)
    assert (padded.labels[:, N_LABELS:] == -1).all()
    assert (padded.scores[:, N_LABELS:] == -np.inf).all()
    assert padded.labels.dtype == np.int32
    assert padded.scores.dtype == np.float32
    for k in (0, -1, 2.0, "3", None, True, np.nan):
        with pytest.raises(ValueError, match="k must be"):
            model.predict_topk(X, k=k)


def check_topk_ties(estimator):
    """Labels that were positive in the same rows have the same margins and rank by their number."""
    X, Y = make_data()
    twins = sp.csr_array(np.repeat(Y.toarray()[:, :3], 3, axis=1))
    answers = _fitted(estimator, X, twins).predict_topk(X, k=9)
    for i in range(N_SAMPLES):
        for group in range(3):
            members = answers.labels[i][answers.labels[i] // 3 == group]
            assert_array_equal(members, np.arange(3) + 3 * group)


def check_exclude_and_candidates(estimator):
    """Both exclude and candidates are exact: as if the full ranking were filtered."""
    X, Y = make_data()
    rng = np.random.default_rng(3)
    model = _fitted(estimator, X, Y)
    full = model.predict_topk(X, k=N_LABELS)
    shape = (N_SAMPLES, N_LABELS)
    banned, allowed = rng.random(shape) < 0.3, rng.random(shape) < 0.6
    banned[0], allowed[1] = True, False  # rows with nothing left
    banned[2], allowed[2] = False, True
    everything = np.ones(shape, dtype=bool)
    cases = [
        (banned, None, everything & ~banned),
        (None, allowed, allowed),
        (banned, allowed, allowed & ~banned),
        (everything, None, everything & False),
        (None, everything & False, everything & False),
        (everything & False, None, everything),
    ]
    for exclude, candidates, valid in cases:
        given = {
            name: sp.csr_array(pairs * rng.uniform(-2, 2, size=shape))
            for name, pairs in (("exclude", exclude), ("candidates", candidates))
            if pairs is not None
        }
        for k in (1, 3, N_LABELS, N_LABELS + 2):
            answers = model.predict_topk(X, k=k, **given)
            assert answers.labels.shape == (N_SAMPLES, k)
            for i in range(N_SAMPLES):
                kept = valid[i, full.labels[i]]
                labels, scores = full.labels[i][kept][:k], full.scores[i][kept][:k]
                assert_array_equal(answers.labels[i][: len(labels)], labels)
                assert_array_equal(answers.scores[i][: len(labels)], scores)
                assert (answers.labels[i][len(labels) :] == -1).all()
                assert (answers.scores[i][len(labels) :] == -np.inf).all()
    # other ways to store the same pairs; a stored zero is not a pair
    pairs = sp.csr_array(banned.astype(np.float64))
    expected = model.predict_topk(X, k=3, exclude=pairs)
    for name, form in [*_same_matrix_forms(pairs), ("zeros", _with_explicit_zeros(pairs))]:
        answers = model.predict_topk(X, k=3, exclude=form)
        assert_array_equal(answers.labels, expected.labels, err_msg=name)
    for name in ("exclude", "candidates"):
        with pytest.raises(TypeError, match=name):
            model.predict_topk(X, **{name: banned})
        for wrong in (pairs[:-1], pairs[:, :-1]):
            with pytest.raises(ValueError, match=name):
                model.predict_topk(X, **{name: wrong})
        corrupt = pairs.copy()
        corrupt.indices[0] = N_LABELS + 5
        with pytest.raises(ValueError, match=f"{name}.*row {int(np.argmax(banned.any(axis=1)))}"):
            model.predict_topk(X, **{name: corrupt})


# ------------------------------------------------------------------ bad input


def check_bad_features(estimator):
    """NaN, infinity, overflow, corrupt indices in X, at fit and at predict, each with its row."""
    X, Y = make_data()
    model = _fitted(estimator, X, Y)
    row = 4
    position = X.indptr[row]
    column = X.indices[position]
    for value, word in ((np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")):
        bad = X.copy()
        bad.data[position] = value
        for X_bad in (bad, bad.tocsc(), bad.toarray(), bad.toarray().astype(np.float64)):
            for call in (lambda X: _fitted(estimator, X, Y), model.predict, model.predict_topk):
                with pytest.raises(ValueError, match=f"{word}.*row {row}.*column {column}"):
                    call(X_bad)
    large = X.astype(np.float64)
    large.data[position] = 1e300
    corrupt, negative, decreasing = X.copy(), X.copy(), X.copy()
    corrupt.indices[position] = N_FEATURES
    negative.indices[position] = -1
    decreasing.indptr[row + 1] = 0
    for X_bad in (large, corrupt, negative, decreasing):
        for call in (lambda X: _fitted(estimator, X, Y), model.predict, model.predict_topk):
            with pytest.raises(ValueError, match=f"row {row}"):
                call(X_bad)
    for X_bad in (X[:0], X.toarray()[:0]):
        for call in (lambda X: _fitted(estimator, X, Y[:0]), model.predict, model.predict_topk):
            with pytest.raises(ValueError, match="0 sample"):
                call(X_bad)
    with pytest.raises(ValueError, match="0 feature"):
        _fitted(estimator, X[:, :0], Y)
    for X_bad in (X.astype(np.complex64), X.toarray().astype(np.complex64)):
        with pytest.raises(ValueError, match="Complex data not supported"):
            _fitted(estimator, X_bad, Y)
    for X_bad in (X[:, :-1], X.toarray()[:, :-1], sp.hstack([X, X], format="csr")):
        for method in ("predict", "predict_topk", "predict_proba", "decision_function"):
            with pytest.raises(ValueError, match=f"is expecting {N_FEATURES} features"):
                getattr(model, method)(X_bad)


def check_bad_targets(estimator):
    """Other values than 0 and 1 (with their place), wrong numbers of rows, nothing to learn."""
    X, Y = make_data()
    row, column = 3, int(Y[[3]].indices[0])
    for value in (2, -1, 0.5, np.nan, np.inf):
        if value == 0.5 and estimator._accepts_soft_targets:
            continue
        bad = Y.astype(np.float64)
        bad.data[Y.indptr[row]] = value
        for Y_bad in (bad, bad.tocsc(), bad.tocoo(), bad.toarray(), bad.toarray().astype(object)):
            with pytest.raises(ValueError, match=f"row {row}.*column {column}.*{value}"):
                _fitted(estimator, X, Y_bad)
    for Y_bad in (Y[:-1], Y.toarray()[:-1], sp.vstack([Y, Y], format="csr"), np.arange(5)):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            _fitted(estimator, X, Y_bad)
    for Y_bad in (Y * 0, Y.toarray() * 0, sp.csr_array(Y.shape)):
        with pytest.raises(ValueError, match="positive"):
            _fitted(estimator, X, Y_bad)
    for Y_bad in (Y[:, :0], Y.toarray()[:, :0]):
        with pytest.raises(ValueError, match="no labels"):
            _fitted(estimator, X, Y_bad)
    corrupt = Y.copy()
    corrupt.indices[Y.indptr[row]] = 10**6
    with pytest.raises(ValueError, match=f"row {row}"):
        _fitted(estimator, X, corrupt)
    ragged = [[0], [1, 2]] * (N_SAMPLES // 2)
    names = np.full((N_SAMPLES, 3), "tag")
    for Y_bad in (ragged, names):
        with pytest.raises(ValueError, match="MultiLabelBinarizer"):
            _fitted(estimator, X, Y_bad)
    with pytest.raises(ValueError, match="requires y"):
        _fitted(estimator, X, None)
    with pytest.raises(ValueError, match="continuous"):
        _fitted(estimator, X, np.linspace(0, 1, N_SAMPLES))


def check_bad_parameters(estimator):
    """Parameters of the base out of range are refused in fit, by name."""
    X, Y = make_data()
    for name, values in (("top_k", (0, -1, 2.5, "10")), ("max_dense_bytes", (-1, 0.5))):
        for value in values:
            with pytest.raises(ValueError, match=name):
                _fitted(estimator, X, Y, **{name: value})


def check_not_fitted(estimator):
    """Nothing is predicted before fit."""
    X, _ = make_data()
    for method in ("predict", "predict_topk", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(clone(estimator), method)(X)


# ------------------------------------------------------------------ life in scikit-learn


def check_serialisation(estimator):
    """Pickle and joblib, memory-mapped read-only too, give the same bits."""
    X, Y = make_data()
    for Y_in in (Y, sp.csr_matrix(Y)):
        model = _fitted(estimator, X, Y_in)
        expected = _outputs(model, X)
        _assert_same(expected, _outputs(pickle.loads(pickle.dumps(model)), X))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.joblib"
            joblib.dump(model, path)
            _assert_same(expected, _outputs(joblib.load(path), X))
            mapped = joblib.load(path, mmap_mode="r")
            _assert_same(expected, _outputs(mapped, X))
            assert isinstance(mapped.predict(X), type(model.predict(X)))
            del mapped
            gc.collect()
    dense = _fitted(estimator, X, Y.toarray())
    again = pickle.loads(pickle.dumps(dense))
    assert_array_equal(again.predict_proba(X), dense.predict_proba(X))


def check_grid_search(estimator, param_grid=None):
    """GridSearchCV over a Pipeline, with sparse Y."""
    X, Y = make_data()
    param_grid = {"classifier__top_k": [2, 5]} if param_grid is None else param_grid
    search = GridSearchCV(
        Pipeline([("scale", Normalizer()), ("classifier", clone(estimator))]),
        param_grid,
        scoring=make_scorer(f1_score, average="micro"),
        cv=2,
        error_score="raise",
    )
    for Y_in in (Y, sp.csr_matrix(Y)):
        search.fit(X, Y_in)
        assert 0 < search.best_score_ <= 1
        assert sp.isspmatrix(search.predict(X)) == sp.isspmatrix(Y_in)
        assert search.predict(X).format == "csr"
    assert 0 <= search.best_estimator_.score(X, Y) <= 1


def check_feature_names(estimator):
    """Where names were seen in fit, unnamed input warns; a fit without names forgets them.

    That names are read, kept and compared is checked by scikit-learn's suite, where pandas is
    installed.
    """
    X, Y = make_data()
    model = _fitted(estimator, X, Y)
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == N_FEATURES
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = model.predict_topk(X, k=3)
        model.predict_topk(X.toarray(), k=3)
    model.feature_names_in_ = np.array([f"word {j}" for j in range(N_FEATURES)], dtype=object)
    for X_in in (X, X.toarray()):
        with pytest.warns(UserWarning, match="feature names"):
            _assert_same_answers(expected, model.predict_topk(X_in, k=3), 1e-4)
    model.fit(X, Y)
    assert not hasattr(model, "feature_names_in_")


CONTRACT_CHECKS = [
    check_output_container,
    check_sparse_outputs,
    check_dense_target,
    check_dense_output_limit,
    check_one_dimensional_target,
    check_row_invariance,
    check_dense_features,
    check_label_permutation,
    check_deterministic,
    check_clone_and_refit,
    check_failed_fit,
    check_feature_forms,
    check_target_forms,
    check_read_only_inputs,
    check_empty_rows_and_columns,
    check_unusual_labels,
    check_single_label_and_row,
    check_wide_target,
    check_topk,
    check_topk_ties,
    check_exclude_and_candidates,
    check_bad_features,
    check_bad_targets,
    check_bad_parameters,
    check_not_fitted,
    check_serialisation,
    check_grid_search,
    check_feature_names,
]


def contract_params(estimators, *, without=None, options=None, slow=()):
    """``pytest.param(estimator, check)`` for each estimator and each check.

    Parameters
    ----------
    estimators : list of estimator instances
    without : dict of {check name: reason} or None
        Checks that do not apply to these estimators.
    options : dict of {check name: dict of keyword arguments} or None
        Other limits for single checks, for example ``{"check_dense_features": {"tolerance":
        1e-3}}``.
    slow : collection of check names, or "all"
        Checks that `make test` leaves to `make test-slow`.
    """
    without, options = without or {}, options or {}
    known = {check.__name__ for check in CONTRACT_CHECKS}
    slow = known if slow == "all" else set(slow)
    unknown = (set(without) | set(options) | slow) - known
    if unknown:
        raise ValueError(f"There is no contract check named {sorted(unknown)}.")
    return [
        pytest.param(
            estimator,
            functools.partial(check, **options.get(check.__name__, {})),
            id=f"{type(estimator).__name__}-{i}-{check.__name__}",
            marks=[pytest.mark.slow] if check.__name__ in slow else [],
        )
        for i, estimator in enumerate(estimators)
        for check in CONTRACT_CHECKS
        if check.__name__ not in without
    ]
