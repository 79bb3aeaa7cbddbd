"""Top-k selection: the compiled version and the reference against a brute-force sort."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from skxmc.ops.topk import (
    TopK,
    reference,
    select_topk_dense_row,
    select_topk_pairs,
    topk_csr,
    topk_dense,
    topk_to_csr,
)

CSR_FUNCTIONS = [topk_csr, reference.topk_csr]
DENSE_FUNCTIONS = [topk_dense, reference.topk_dense]


def brute_force(rows, k):
    """`rows` is a list of {label: score}; the answer as two lists of lists."""
    labels, scores = [], []
    for row in rows:
        ranked = sorted((-float(s), j) for j, s in row.items() if s > -np.inf)[:k]
        missing = k - len(ranked)
        labels.append([j for _, j in ranked] + [-1] * missing)
        scores.append([-s for s, _ in ranked] + [-np.inf] * missing)
    return np.array(labels).reshape(-1, k), np.array(scores, dtype=np.float32).reshape(-1, k)


def assert_topk(topk, expected):
    assert isinstance(topk, TopK)
    assert topk.labels.dtype == np.int32
    assert topk.scores.dtype == np.float32
    np.testing.assert_array_equal(topk.labels, expected[0])
    np.testing.assert_array_equal(topk.scores, expected[1])


def csr_from_rows(rows, n_labels, dtype=np.float32, shuffle=None):
    """CSR with exactly these stored entries, explicit zeros included."""
    indptr, indices, data = [0], [], []
    for row in rows:
        items = sorted(row.items())
        if shuffle is not None:
            shuffle.shuffle(items)
        indices += [j for j, _ in items]
        data += [s for _, s in items]
        indptr.append(len(indices))
    return sp.csr_array(
        (np.array(data, dtype=dtype), np.array(indices, dtype=np.int32), np.array(indptr)),
        shape=(len(rows), n_labels),
    )


# Few distinct values, so that ties are the rule; -inf is no candidate, +inf is.
few_scores = st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 0.5, np.inf])


@st.composite
def sparse_rows(draw):
    n_labels = draw(st.integers(1, 12))
    row = st.dictionaries(st.integers(0, n_labels - 1), few_scores)
    return draw(st.lists(row, min_size=0, max_size=5)), n_labels


@pytest.mark.parametrize("function", CSR_FUNCTIONS)
@settings(max_examples=60, deadline=None)
@given(problem=sparse_rows(), k=st.integers(1, 15), seed=st.integers(0, 3))
def test_csr_is_brute_force(function, problem, k, seed):
    rows, n_labels = problem
    shuffle = None if seed == 0 else np.random.default_rng(seed)
    scores = csr_from_rows(rows, n_labels, shuffle=shuffle)
    assert_topk(function(scores, k), brute_force(rows, k))


@pytest.mark.parametrize("function", DENSE_FUNCTIONS)
@settings(max_examples=60, deadline=None)
@given(
    scores=st.integers(1, 12).flatmap(
        lambda n: st.lists(st.lists(few_scores, min_size=n, max_size=n), min_size=1, max_size=5)
    ),
    k=st.integers(1, 15),
)
def test_dense_is_brute_force(function, scores, k):
    expected = brute_force([dict(enumerate(row)) for row in scores], k)
    assert_topk(function(np.array(scores), k), expected)


# Around the block of 256 scores tested at once, and around the k above which rows are sorted.
@pytest.mark.parametrize("n_labels", [1, 3, 255, 256, 257, 1000])
@pytest.mark.parametrize("k", [1, 2, 7, 100, 255, 256, 257, 1001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("values", ["continuous", "ties", "equal", "ascending", "none"])
def test_sizes(n_labels, k, dtype, values):
    rng = np.random.default_rng(n_labels * 7 + k)
    scores = {
        "continuous": rng.normal(size=(2, n_labels)),
        "ties": rng.integers(-2, 3, size=(2, n_labels)),
        "equal": np.full((2, n_labels), 0.5),
        "ascending": np.tile(np.arange(n_labels), (2, 1)),
        "none": np.full((2, n_labels), -np.inf),
    }[values].astype(dtype)
    rows = [dict(enumerate(row)) for row in scores]
    expected = brute_force(rows, k)
    assert_topk(topk_dense(scores, k), expected)
    assert_topk(topk_csr(csr_from_rows(rows, n_labels, dtype), k), expected)


@pytest.mark.parametrize("k", [1, 5, 300])
def test_independent_of_threads_and_chunks(k):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 40, size=(23, 400)).astype(np.float32)
    dense = topk_dense(scores, k)
    sparse = sp.csr_array(scores)
    from_csr = topk_csr(sparse, k)
    for n_threads in (2, 3, 64):
        assert_topk(topk_dense(scores, k, n_threads=n_threads), dense)
        assert_topk(topk_csr(sparse, k, n_threads=n_threads), from_csr)
    for start, stop in [(0, 1), (3, 17), (22, 23)]:
        part = slice(start, stop)
        assert_topk(topk_dense(scores[part], k), (dense.labels[part], dense.scores[part]))
        assert_topk(topk_csr(sparse[part], k), (from_csr.labels[part], from_csr.scores[part]))


@pytest.mark.parametrize("dense", [True, False])
def test_compares_at_input_precision(dense):
    # All three are the same number in float32; in float64 they are not.
    scores = np.array([[1.0, 1.0 + 1e-12, 1.0 + 2e-12]])
    topk = topk_dense(scores, 3) if dense else topk_csr(sp.csr_array(scores), 3)
    assert_topk(topk, ([[2, 1, 0]], np.ones((1, 3))))
    rounded = scores.astype(np.float32)
    topk = topk_dense(rounded, 3) if dense else topk_csr(sp.csr_array(rounded), 3)
    assert_topk(topk, ([[0, 1, 2]], np.ones((1, 3))))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64, np.float16, np.float64])
def test_score_dtypes(dtype):
    scores = np.array([[0, 1, 0, 1]]).astype(dtype)
    assert_topk(topk_dense(scores, 3), ([[1, 3, 0]], [[1, 1, 0]]))
    if dtype != np.float16:  # SciPy has no sparse float16
        assert_topk(topk_csr(sp.csr_array(scores), 3), ([[1, 3, -1]], [[1, 1, -np.inf]]))


def test_signed_zeros_are_equal():
    assert_topk(topk_dense([[-0.0, 0.0]], 2), ([[0, 1]], [[0, 0]]))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_no_rows_or_no_labels(shape):
    expected = (np.full((shape[0], 2), -1), np.full((shape[0], 2), -np.inf))
    assert_topk(topk_dense(np.zeros(shape), 2), expected)
    assert_topk(topk_csr(sp.csr_array(shape), 2), expected)


@pytest.mark.parametrize("function", CSR_FUNCTIONS)
def test_csr_containers(function):
    rows = [{0: 0.5, 3: -1.0}, {}, {2: 0.0, 1: 0.0, 4: 2.0}]
    expected = brute_force(rows, 2)
    scores = csr_from_rows(rows, 5)
    assert_topk(function(scores, 2), expected)
    assert_topk(function(sp.csr_matrix(scores), 2), expected)
    assert_topk(function(scores.tocsc(), 2), expected)
    assert_topk(function(scores.tocoo(), 2), expected)
    wide = scores.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    assert_topk(function(wide, 2), expected)


def test_read_only_memory_mapped_and_strided(tmp_path):
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(6, 50)).astype(np.float32)
    expected = topk_dense(scores, 4)
    np.save(tmp_path / "scores.npy", scores)
    assert_topk(topk_dense(np.load(tmp_path / "scores.npy", mmap_mode="r"), 4), expected)
    assert_topk(topk_dense(np.asfortranarray(scores), 4), expected)
    assert_topk(topk_dense(np.repeat(scores, 2, axis=1)[:, ::2], 4), expected)

    sparse = sp.csr_array(scores)
    for array in (sparse.data, sparse.indices, sparse.indptr):
        array.flags.writeable = False
    assert_topk(topk_csr(sparse, 4), expected)


def test_duplicates_are_summed_and_the_input_is_untouched():
    data = np.array([1.0, 2.0, 1.5])
    indices = np.array([3, 0, 3], dtype=np.int32)
    scores = sp.csr_array((data, indices, np.array([0, 3])), shape=(1, 4))
    assert_topk(topk_csr(scores, 2), ([[3, 0]], [[2.5, 2.0]]))
    np.testing.assert_array_equal(scores.data, [1.0, 2.0, 1.5])
    np.testing.assert_array_equal(scores.indices, [3, 0, 3])


@pytest.mark.parametrize("function", CSR_FUNCTIONS + DENSE_FUNCTIONS)
@pytest.mark.parametrize(("n_labels", "column"), [(3, 0), (3, 2), (700, 1), (700, 699), (700, 300)])
@pytest.mark.parametrize("k", [2, 300])
def test_nan_names_the_row(function, n_labels, column, k):
    scores = np.ones((4, n_labels), dtype=np.float32)
    scores[2:, column] = np.nan
    if function in CSR_FUNCTIONS:
        scores = sp.csr_array(scores)
    with pytest.raises(ValueError, match="row 2 holds NaN"):
        function(scores, k)


@pytest.mark.parametrize("function", CSR_FUNCTIONS + DENSE_FUNCTIONS)
@pytest.mark.parametrize(
    ("k", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)],
)
def test_bad_k(function, k, error):
    scores = np.ones((2, 3))
    scores = sp.csr_array(scores) if function in CSR_FUNCTIONS else scores
    with pytest.raises(error, match="k must be"):
        function(scores, k)


def test_bad_input():
    with pytest.raises(TypeError, match="use topk_csr"):
        topk_dense(sp.csr_array(np.ones((2, 3))), 1)
    with pytest.raises(TypeError, match="use topk_dense"):
        topk_csr(np.ones((2, 3)), 1)
    with pytest.raises(ValueError, match=r"two dimensions .* shape \(3,\)"):
        topk_dense(np.ones(3), 1)
    with pytest.raises(TypeError, match="dtype complex128"):
        topk_dense(np.ones((2, 3)) * 1j, 1)
    with pytest.raises(TypeError, match="dtype <U1"):
        topk_dense(np.array([["a"]]), 1)
    with pytest.raises(TypeError, match="n_threads must be"):
        topk_dense(np.ones((2, 3)), 1, n_threads=None)
    with pytest.raises(ValueError, match="n_threads must be at least 1"):
        topk_csr(sp.csr_array(np.ones((2, 3))), 1, n_threads=0)


@pytest.mark.parametrize("index", [3, -1])
def test_index_out_of_range(index):
    scores = sp.csr_array(np.ones((2, 3)))
    scores.indices[4] = index
    with pytest.raises(ValueError, match="row 1 has the column index"):
        topk_csr(scores, 1)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.dictionaries(st.integers(0, 30), few_scores, max_size=20),
    k=st.integers(1, 25),
    order=st.randoms(use_true_random=False),
)
def test_pairs_primitive(pairs, k, order):
    items = list(pairs.items())
    order.shuffle(items)
    # Longer buffers than needed, filled with what must not be read or must be left alone.
    labels = np.array([j for j, _ in items] + [-7, -7], dtype=np.int32)
    scores = np.array([s for _, s in items] + [99.0, 99.0], dtype=np.float32)
    out_labels, out_scores = np.full(k + 1, 77, np.int32), np.full(k + 1, 77, np.float32)
    found = select_topk_pairs(labels, scores, len(items), k, out_labels, out_scores)
    expected = brute_force([pairs], k)
    assert found == np.sum(expected[0] >= 0)
    np.testing.assert_array_equal(out_labels, np.append(expected[0], 77))
    np.testing.assert_array_equal(out_scores, np.append(expected[1], 77).astype(np.float32))


def test_dense_primitive():
    scores = np.array([0.1, np.inf, -np.inf, 0.1], dtype=np.float32)
    out_labels, out_scores = np.empty(5, np.int32), np.empty(5, np.float32)
    assert select_topk_dense_row(scores, 5, out_labels, out_scores) == 3
    np.testing.assert_array_equal(out_labels, [1, 0, 3, -1, -1])
    scores[3] = np.nan
    assert select_topk_dense_row(scores, 5, out_labels, out_scores) == -1
    assert select_topk_pairs(np.arange(4), scores, 4, 1, out_labels, out_scores) == -1


@pytest.mark.parametrize("function", [topk_to_csr, reference.topk_to_csr])
@settings(max_examples=40, deadline=None)
@given(problem=sparse_rows(), k=st.integers(1, 15))
def test_topk_to_csr(function, problem, k):
    rows, n_labels = problem
    topk = TopK(*brute_force(rows, k))
    result = function(topk, n_labels, dtype=np.float64)
    assert isinstance(result, sp.csr_array)
    assert result.dtype == np.float64
    assert result.shape == (len(rows), n_labels)
    for i in range(len(rows)):
        kept = {
            int(j): float(s) for j, s in zip(topk.labels[i], topk.scores[i], strict=True) if j >= 0
        }
        stored = slice(result.indptr[i], result.indptr[i + 1])
        assert result.indices[stored].tolist() == sorted(kept)
        assert result.data[stored].tolist() == [kept[j] for j in sorted(kept)]


def test_round_trip_keeps_explicit_zeros():
    rows = [{4: 0.0, 1: 0.0, 2: -1.0}, {}]
    scores = csr_from_rows(rows, 6)
    result = topk_to_csr(topk_csr(scores, 3), 6)
    assert result.nnz == 3
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result.indices, scores.indices)
    np.testing.assert_array_equal(result.data, scores.data)
    assert result.has_canonical_format


def test_topk_to_csr_bad_input():
    topk = TopK(np.array([[0, 1], [2, 5]]), np.ones((2, 2)))
    with pytest.raises(ValueError, match="row 1 holds label 5, but n_labels is 5"):
        topk_to_csr(topk, 5)
    with pytest.raises(ValueError, match="same shape"):
        topk_to_csr(TopK(topk.labels, np.ones((2, 3))), 6)
