"""Multilabel svmlight files, against scikit-learn's reader and writer."""

import gzip
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from skxmc.datasets import dump_svmlight_multilabel, load_svmlight_multilabel


def load(text, **options):
    data = text if isinstance(text, bytes) else text.encode()
    return load_svmlight_multilabel(io.BytesIO(data), **options)


def dump(X, Y, **options):
    stream = io.BytesIO()
    dump_svmlight_multilabel(X, Y, stream, **options)
    return stream.getvalue()


@st.composite
def data_sets(draw):
    n, d, n_labels = draw(st.integers(1, 6)), draw(st.integers(2, 7)), draw(st.integers(2, 5))
    values = st.one_of(st.just(0.0), st.floats(width=32, allow_nan=False, allow_infinity=False))
    X = draw(arrays(np.float32, (n, d), elements=values))
    X[:, 0] = 1  # scikit-learn's reader drops empty rows
    return X, draw(arrays(np.uint8, (n, n_labels), elements=st.integers(0, 1)))


def indicator(tuples, n_labels):
    Y = np.zeros((len(tuples), n_labels), dtype=np.uint8)
    for i, labels in enumerate(tuples):
        Y[i, np.array(labels, dtype=int)] = 1
    return Y


@given(data_sets(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_reads_what_scikit_learn_writes(data, zero_based):
    X, Y = data
    stream = io.BytesIO()
    dump_svmlight_file(
        csr_array(X), csr_array(Y), stream, multilabel=True, zero_based=zero_based, comment="x: 1"
    )
    X2, Y2 = load(
        stream.getvalue(), zero_based=zero_based, n_features=X.shape[1], n_labels=Y.shape[1]
    )
    stream.seek(0)
    expected, tuples = load_svmlight_file(
        stream, multilabel=True, zero_based=zero_based, n_features=X.shape[1], dtype=np.float32
    )
    np.testing.assert_array_equal(X2.toarray(), expected.toarray())
    np.testing.assert_array_equal(Y2.toarray(), indicator(tuples, Y.shape[1]))
    np.testing.assert_array_equal(Y2.toarray(), Y)


@given(data_sets(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_scikit_learn_reads_what_is_written(data, zero_based):
    X, Y = data
    text = dump(X, Y, zero_based=zero_based)
    X2, tuples = load_svmlight_file(
        io.BytesIO(text), multilabel=True, zero_based=zero_based, n_features=X.shape[1]
    )
    np.testing.assert_array_equal(X2.toarray().astype(np.float32), X)
    np.testing.assert_array_equal(indicator(tuples, Y.shape[1]), Y)


def test_round_trip_keeps_empty_rows_and_gzip(tmp_path):
    X = csr_array(np.array([[0, 0], [0, 1.5], [0, 0]], dtype=np.float32))
    Y = csr_array([[0, 0], [0, 0], [0, 1]])
    path = tmp_path / "data.svm.gz"
    dump_svmlight_multilabel(X, Y, path)
    assert gzip.decompress(path.read_bytes()) == b" \n 1:1.5\n1 \n"
    X2, Y2 = load_svmlight_multilabel(path, zero_based=True)
    np.testing.assert_array_equal(X2.toarray(), X.toarray())
    np.testing.assert_array_equal(Y2.toarray(), Y.toarray())


def test_comments_and_blank_lines():
    X, Y = load("# head 1:2\n\n0,2 1:0.5#tail, 3:4\n  # only a comment\n \n1:7 # no label\n")
    np.testing.assert_array_equal(X.toarray(), [[0.5], [0], [7]])
    np.testing.assert_array_equal(Y.toarray(), [[1, 0, 1], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("text", "options", "width", "first"),
    [
        ("0 1:1 3:1\n", {}, 3, 0),  # no feature 0: counts from 1
        ("0 0:1 3:1\n", {}, 4, 0),
        ("0 1:1 3:1\n", {"zero_based": True}, 4, 1),
        ("0 1:1 3:1\n", {"zero_based": False}, 3, 0),
    ],
)
def test_zero_based(text, options, width, first):
    X, Y = load(text, **options)
    assert X.shape[1] == width
    assert X.indices[0] == first
    assert Y.toarray().tolist() == [[1]]  # labels are never shifted


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("# c\n\n0 1:1\n0 qid:3 1:1\n", {}, r"line 4: feature index in 'qid:3' is not"),
        ("# c\n1.5 1:1\n", {}, r"line 2: label '1.5' is not"),
        ("# c\n-1 1:1\n", {}, r"line 2: negative label"),
        ("# c\n\n0 4:1\n", {"n_features": 3}, r"line 3: feature index 4 is out of range, 1 to 3"),
        ("# c\n\n9 1:1\n", {"n_labels": 9}, r"line 3: label 9 is out of range, 0 to 8"),
        ("# c\n\n0 0:1\n", {"zero_based": False}, r"line 3: feature index 0 .* one-based"),
        ("# c\n\n0 2:1 2:1 \n", {}, r"line 3: feature 2 occurs twice"),
        ("# c\n\n0 2:1e99 \n", {}, r"line 3: the value of feature 2 is too large"),
        ("0 1:1\n", {"zero_based": 7}, r"zero_based must be"),
    ],
)
def test_malformed_files_name_the_line(text, options, message):
    with pytest.raises(ValueError, match=message):
        load(text, **options)


@given(st.text("0123456789,:.# \t\r\n-+eqx", max_size=80))
@settings(max_examples=300, deadline=None)
def test_garbage_never_does_more_than_raise(text):
    try:
        X, Y = load(text)
    except ValueError:
        return
    X.check_format(full_check=True)
    Y.check_format(full_check=True)
    assert X.shape[0] == Y.shape[0]
