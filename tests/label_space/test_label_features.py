"""Label features against dense formulas."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from skxmc.label_space import label_features
from skxmc.ops.csr import canonical_csr


def problem(seed=0, n=60, d=25, n_labels=17):
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((n, d)) < 0.3, rng.random((n, d)), 0.0).astype(np.float32)
    Y = (rng.random((n, n_labels)) < 0.15).astype(np.uint8)
    Y[:, 3] = 0  # no positives
    Y[5] = 0
    X[8] = 0
    return X, Y


def dense_pifa(X, Y, row_norm):
    """The formula, row by row."""
    Z = np.zeros((Y.shape[1], X.shape[1]))
    for x, y in zip(X.astype(float), Y):
        if y.any():
            Z[y == 1] += x / (np.linalg.norm(y) if row_norm else 1.0)
    return normalize(Z)


@pytest.mark.parametrize("row_norm", [True, False])
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array, sp.csc_matrix, sp.coo_array])
def test_pifa(kind, row_norm):
    X, Y = problem()
    Z = label_features(kind(X), kind(Y), row_norm=row_norm)
    np.testing.assert_allclose(Z.toarray(), dense_pifa(X, Y, row_norm), atol=1e-6)
    assert canonical_csr(Z) is Z
    assert np.diff(Z.indptr)[3] == 0


def test_the_two_norms_differ():
    X, Y = problem()
    assert abs(label_features(X, Y) - label_features(X, Y, row_norm=False)).max() > 0.01


def test_cooccurrence():
    X, Y = problem()
    expected = normalize(Y.T.astype(float) @ Y.astype(float))
    for given in (X, None):
        Z = label_features(given, Y, "cooccurrence")
        np.testing.assert_allclose(Z.toarray(), expected, atol=1e-6)


def test_text_matrix_and_texts():
    _, Y = problem(n_labels=4)
    texts = ["red wine", "white wine", "", "beer and wine"]
    tfidf = TfidfVectorizer().fit_transform(texts)
    for given in (texts, tuple(texts), np.array(texts, dtype=object), tfidf, tfidf.toarray() * 7):
        Z = label_features(None, Y, "text", label_text=given)
        np.testing.assert_allclose(Z.toarray(), tfidf.toarray(), atol=1e-6)


@pytest.mark.parametrize("second", ["text", "cooccurrence"])
def test_joint_representations(second):
    X, Y = problem(n_labels=12)
    text = np.random.default_rng(0).random((12, 9))
    text[[2, 3]] = 0.0
    texts = {"label_text": text} if second == "text" else {}
    Z = label_features(X, Y, "pifa+" + second, **texts).toarray()
    first = label_features(X, Y).toarray()
    other = label_features(X, Y, second, **texts).toarray()
    np.testing.assert_allclose(Z, normalize(np.hstack([first, other])), atol=1e-6)
    length = np.linalg.norm(Z, axis=1)
    np.testing.assert_allclose(length, np.where(np.arange(12) == 3, length[3], 1.0), rtol=1e-6)
    # label 3 has no positives, and neither text nor company
    assert length[3] == 0.0


def test_threads_do_not_matter():
    X, Y = problem(n=300, d=80, n_labels=60)
    one, two = label_features(X, Y), label_features(X, Y, n_jobs=2)
    np.testing.assert_array_equal(one.data, two.data)


def test_input_is_not_changed():
    X, Y = map(sp.csr_array, problem())
    for array in (X.data, X.indices, X.indptr, Y.data, Y.indices, Y.indptr):
        array.flags.writeable = False
    before = X.toarray(), Y.toarray()
    for method in ("pifa", "pifa+cooccurrence"):
        label_features(X, Y, method)
    np.testing.assert_array_equal(X.toarray(), before[0])
    np.testing.assert_array_equal(Y.toarray(), before[1])


def test_bad_input():
    X, Y = problem()
    bad = X.copy()
    bad[4, 2] = np.nan
    cases = [
        ((X, Y, "pift"), {}, "method must be one of"),
        ((X[:50], Y), {}, "X has 50 rows, but Y has 60"),
        ((bad, Y), {}, "NaN"),
        ((X, Y * 2), {}, "only 0 and 1"),
        ((X, Y, "text"), {}, "needs label_text"),
        ((X, Y), {"label_text": ["a"] * 17}, "takes no label_text"),
        ((X, Y, "text"), {"label_text": ["word"] * 16}, "describes 16 labels, but Y has 17"),
        ((X, Y, "text"), {"label_text": [""] * 17}, "no words"),
        ((X[0], Y), {}, "X must be a matrix"),
        ((None, Y), {}, "X must be a matrix"),
        ((X, Y), {"n_jobs": 0}, "n_jobs"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            label_features(*arguments, **options)
    with pytest.raises(TypeError, match="text of label 2 is 5"):
        label_features(X, Y, "text", label_text=["a", "b", 5] + ["c"] * 14)
