"""Canonical sparse matrices: against scipy's own conversions, with damaged and unusual input."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skxmc.ops.csr import (
    canonical_csr,
    canonical_indicator,
    canonical_pattern,
    check_finite,
    check_sparse_structure,
    subtract_pattern,
    take_rows,
    to_dense,
)

FORMATS = ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"]


def random_sparse(shape=(13, 7), density=0.3, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 17, size=shape) / 4
    return sp.csr_array(np.where(rng.random(shape) < density, values, 0).astype(dtype))


def unchecked_csr(data, indices, indptr, shape):
    """A csr_array on arrays that its constructor would refuse."""
    A = sp.csr_array(shape, dtype=np.asarray(data).dtype)
    A.data, A.indices, A.indptr = np.asarray(data), np.asarray(indices), np.asarray(indptr)
    return A


def assert_canonical(A, dtype):
    assert type(A) is sp.csr_array
    assert A.data.dtype == dtype
    assert A.indices.dtype == np.int32
    assert A.indptr.dtype == np.int64
    assert A.indptr[0] == 0
    assert A.indptr[-1] == len(A.indices) == len(A.data)
    for i in range(A.shape[0]):
        columns = A.indices[A.indptr[i] : A.indptr[i + 1]]
        assert (np.diff(columns) > 0).all()
        assert ((columns >= 0) & (columns < A.shape[1])).all()


@st.composite
def messy_csr(draw, values):
    """A CSR with unsorted and repeated columns, empty rows and explicit zeros."""
    n_rows, n_columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    rows = draw(
        st.lists(
            st.lists(st.tuples(st.integers(0, n_columns - 1), values), max_size=8),
            min_size=n_rows,
            max_size=n_rows,
        )
    )
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.array([j for row in rows for j, _ in row], dtype=np.int64)
    data = np.array([v for row in rows for _, v in row], dtype=np.float64)
    return unchecked_csr(data, indices, indptr, (n_rows, n_columns))


# ------------------------------------------------------------------ canonical_csr


@settings(max_examples=200, deadline=None)
@given(messy_csr(st.integers(-3, 3)))
def test_canonical_csr_is_the_same_matrix(A):
    before = [A.data.copy(), A.indices.copy(), A.indptr.copy()]
    B = canonical_csr(A)
    assert_canonical(B, np.float32)
    expected = np.zeros(A.shape)
    np.add.at(expected, (np.repeat(np.arange(A.shape[0]), np.diff(A.indptr)), A.indices), A.data)
    assert_array_equal(B.toarray(), expected)
    for old, new in zip(before, [A.data, A.indices, A.indptr], strict=True):
        assert_array_equal(old, new)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float32, np.float64])
def test_canonical_csr_of_each_format(fmt, kind, dtype):
    A = getattr(sp, f"{fmt}_{kind}")(random_sparse(dtype=dtype))
    B = canonical_csr(A)
    assert_canonical(B, np.float32)
    assert_array_equal(B.toarray(), A.toarray().astype(np.float32))


def test_canonical_csr_shares_what_needs_no_conversion():
    A = random_sparse()
    B = canonical_csr(A)
    assert np.shares_memory(A.data, B.data)
    assert np.shares_memory(A.indices, B.indices)
    assert canonical_csr(B) is B
    assert A.indptr.dtype == np.int32  # the input was not changed
    assert not np.shares_memory(canonical_csr(A.astype(np.float64)).data, A.data)


def test_canonical_csr_does_not_trust_flags():
    A = unchecked_csr([1.0, 2.0, 3.0], [2, 0, 2], [0, 3], (1, 3))
    A.has_canonical_format = True
    assert_array_equal(canonical_csr(A).toarray(), [[2, 0, 4]])


def test_canonical_csr_keeps_explicit_zeros_and_drops_unused_space():
    A = unchecked_csr([0.0, 2.0, 9.0, 9.0], [1, 2, 77, -5], [0, 2], (1, 3))
    B = canonical_csr(A)
    assert_array_equal(B.data, [0, 2])
    assert_array_equal(B.indices, [1, 2])


def test_canonical_csr_of_read_only_input():
    A = random_sparse()
    unsorted = unchecked_csr(A.data.copy(), A.indices[::-1].copy() * 0 + 1, A.indptr, A.shape)
    for B in (A, unsorted):
        for part in (B.data, B.indices, B.indptr):
            part.flags.writeable = False
        assert_array_equal(canonical_csr(B).toarray(), B.toarray())


def test_canonical_csr_empty():
    for shape in ((0, 3), (3, 0), (1, 1), (0, 0)):
        B = canonical_csr(sp.csr_array(shape, dtype=np.float64))
        assert B.shape == shape
        assert B.nnz == 0
        assert B.dtype == np.float32


def test_canonical_csr_float64_and_wide():
    A = sp.csr_array(([0.1], ([0], [2**31 - 1])), shape=(1, 2**31))
    B = canonical_csr(A, np.float64)
    assert B.indices.dtype == np.int32
    assert B.data[0] == 0.1
    wide = sp.csr_array(([0.1], ([0], [2**31])), shape=(1, 2**31 + 1))
    assert canonical_csr(wide).indices.dtype == np.int64


@pytest.mark.parametrize("fmt", ["csr", "csc", "coo"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_canonical_csr_not_finite(fmt, value):
    A = random_sparse()
    A.data[9] = value
    row, column = np.argwhere(~np.isfinite(A.toarray()))[0]
    word = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(ValueError, match=rf"{word} \(row {row}, column {column}\)"):
        canonical_csr(A.asformat(fmt))


def test_canonical_csr_value_too_large_for_float32():
    A = sp.csr_array([[0.0, 1.0], [1e39, 0.0]])
    with pytest.raises(ValueError, match=r"1e\+39 \(row 1, column 0\).*too large for float32"):
        canonical_csr(A)
    assert canonical_csr(A, np.float64).data[1] == 1e39
    # a sum that overflows although every value is finite
    assert canonical_csr(sp.csr_array(np.full((4, 4), 3e38))).nnz == 16


def test_canonical_csr_refuses_other_types():
    with pytest.raises(TypeError, match="sparse"):
        canonical_csr(np.eye(3))
    with pytest.raises(ValueError, match="Complex"):
        canonical_csr(sp.csr_array(np.eye(3) * 1j))


# ------------------------------------------------------------------ structure


def damaged():
    good = {"data": np.ones(4), "indices": np.array([0, 2, 1, 0])}
    good["indptr"] = np.array([0, 2, 2, 4])
    cases = [
        ({"indices": np.array([0, 2, 1, 3])}, "row 2 has the column index 3"),
        ({"indices": np.array([0, -1, 1, 0])}, "row 0 has the column index -1"),
        ({"indptr": np.array([0, 3, 2, 4])}, "decreases at row 1"),
        ({"indptr": np.array([1, 2, 2, 4])}, "starts at 1"),
        ({"indptr": np.array([0, 2, 4])}, "3 elements, but 3 rows need 4"),
        ({"indptr": np.array([0, 2, 2, 6])}, "6 entries.*row 2"),
        ({"data": np.ones(3)}, "3 values"),
        ({"indptr": np.array([0, 2, 2, -1])}, "decreases at row 2"),
    ]
    return [pytest.param({**good, **change}, match, id=match) for change, match in cases]


@pytest.mark.parametrize(("arrays", "match"), damaged())
def test_damaged_csr(arrays, match):
    A = unchecked_csr(arrays["data"], arrays["indices"], arrays["indptr"], (3, 3))
    for function in (check_sparse_structure, canonical_csr, canonical_indicator, to_dense):
        with pytest.raises(ValueError, match=match):
            function(A)
    with pytest.raises(ValueError, match=f"exclude.*{match}"):
        canonical_pattern(A, (3, 3), name="exclude")


@pytest.mark.parametrize(("arrays", "match"), damaged())
def test_damaged_csc(arrays, match):
    A = sp.csc_array((3, 3))
    A.data, A.indices, A.indptr = arrays["data"], arrays["indices"], arrays["indptr"]
    swapped = match.replace("row", "X").replace("column", "row").replace("X", "column")
    with pytest.raises(ValueError, match=swapped):
        canonical_csr(A)


def test_damaged_coo_and_bsr():
    A = sp.coo_array(random_sparse())
    A.col[4] = 7
    with pytest.raises(ValueError, match="entry 4 has the column index 7, but there are 7"):
        canonical_csr(A)
    A.col[4] = 0
    A.row[2] = -1
    with pytest.raises(ValueError, match="entry 2 has the row index -1"):
        canonical_indicator(A)
    B = sp.bsr_array(np.eye(4), blocksize=(2, 2))
    B.indices[1] = 2
    with pytest.raises(ValueError, match="block row 1 has the block column index 2"):
        canonical_csr(B)


def test_one_dimensional_sparse_array():
    A = sp.coo_array(np.array([1.0, 0.0, 2.0]))
    if A.ndim == 2:  # scipy before 1.13 knows no other
        A.ndim = 1
    for function in (canonical_csr, canonical_indicator):
        with pytest.raises(ValueError, match="two-dimensional"):
            function(A)


# ------------------------------------------------------------------ check_finite


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_check_finite(dtype):
    values = np.full((5, 4), np.finfo(dtype).max)
    check_finite(values)  # the sum overflows, the values do not
    check_finite(np.empty((0, 4), dtype=dtype))
    for value, word in ((np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "-infinity")):
        bad = np.zeros((5, 4), dtype=dtype)
        bad[3, 2] = value
        with pytest.raises(ValueError, match=rf"{word} \(row 3, column 2\)"):
            check_finite(bad)
        with pytest.raises(ValueError, match=r"row 3, column 2"):
            check_finite(np.asfortranarray(bad))
    both = np.zeros((2, 2), dtype=dtype)
    both[0, 1], both[1, 1] = np.inf, -np.inf
    with pytest.raises(ValueError, match=r"infinity \(row 0, column 1\)"):
        check_finite(both)


# ------------------------------------------------------------------ canonical_indicator


def random_indicator(shape=(11, 6), seed=0):
    return np.random.default_rng(seed).random(shape) < 0.3


@pytest.mark.parametrize("fmt", [None, *FORMATS])
@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64, np.float32, np.float64])
def test_indicator_of_each_format(fmt, dtype):
    dense = random_indicator()
    Y = dense.astype(dtype)
    if fmt is not None:
        Y = sp.csr_array(Y).asformat(fmt)
    indicator = canonical_indicator(Y)
    assert_canonical(indicator, np.uint8)
    assert (indicator.data == 1).all()
    assert_array_equal(indicator.toarray(), dense)


@settings(max_examples=200, deadline=None)
@given(messy_csr(st.integers(0, 1)))
def test_indicator_merges_booleans_and_refuses_repeated_numbers(A):
    boolean = unchecked_csr(A.data != 0, A.indices, A.indptr, A.shape)
    indicator = canonical_indicator(boolean)
    assert_canonical(indicator, np.uint8)
    counts = np.zeros(A.shape)
    np.add.at(counts, (np.repeat(np.arange(A.shape[0]), np.diff(A.indptr)), A.indices), A.data)
    assert_array_equal(indicator.toarray(), counts > 0)
    assert (indicator.data == 1).all()
    if counts.max() > 1:
        with pytest.raises(ValueError, match="more than once") as error:
            canonical_indicator(A)
        row, column = np.argwhere(counts > 1)[0]
        assert f"row {row} and column {column}" in str(error.value)
    else:
        assert_array_equal(canonical_indicator(A).toarray(), counts)


@pytest.mark.parametrize("value", [2, -1, 0.5, np.nan, np.inf, 256.0])
@pytest.mark.parametrize("fmt", [None, "csr", "csc", "coo", "lil"])
def test_indicator_refuses_other_values(value, fmt):
    Y = random_indicator().astype(np.float64)
    Y[4, 3] = value
    if fmt is not None:
        Y = sp.csr_array(Y).asformat(fmt)
    with pytest.raises(ValueError, match=f"row 4, column 3 holds {value}"):
        canonical_indicator(Y)


def test_indicator_of_repeated_coo_entries():
    # 256 + 1 copies of a uint8 would add up to 1
    pairs = (np.zeros(257, dtype=int), np.zeros(257, dtype=int))
    Y = sp.coo_array((np.ones(257, dtype=np.uint8), pairs), shape=(1, 2))
    with pytest.raises(ValueError, match="row 0, column 0 holds 257"):
        canonical_indicator(Y)
    merged = canonical_indicator(Y.astype(bool))
    assert_array_equal(merged.toarray(), [[1, 0]])


def test_indicator_refuses_what_is_not_a_number():
    with pytest.raises(ValueError, match="MultiLabelBinarizer"):
        canonical_indicator(np.array([["a", "b"]]))
    with pytest.raises(ValueError, match="not numbers"):
        canonical_indicator(np.array([["a", 1]], dtype=object))
    with pytest.raises(ValueError, match="MultiLabelBinarizer"):
        canonical_indicator(sp.csr_array(np.eye(2) * 1j))
    with pytest.raises(ValueError, match="two-dimensional"):
        canonical_indicator(np.ones(3))
    mixed = np.array([[True, 0], [0.0, True]], dtype=object)
    assert_array_equal(canonical_indicator(mixed).toarray(), np.eye(2))


def test_indicator_without_entries():
    for shape in ((0, 3), (3, 0), (2, 2)):
        for Y in (np.zeros(shape), sp.csr_array(shape)):
            assert canonical_indicator(Y).nnz == 0
            assert canonical_indicator(Y).shape == shape


# ------------------------------------------------------------------ patterns


@settings(max_examples=200, deadline=None)
@given(messy_csr(st.sampled_from([0.0, 1.0, -1.0, np.nan, np.inf, 0.25])))
def test_pattern_is_the_set_of_stored_pairs(A):
    stored = np.zeros(A.shape, dtype=bool)
    rows = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    stored[rows[A.data != 0], A.indices[A.data != 0]] = True
    coo = sp.coo_array((A.data, (rows, A.indices)), shape=A.shape)
    for form in (A, coo):
        pattern = canonical_pattern(form, A.shape)
        assert_canonical(pattern, np.uint8)
        assert_array_equal(pattern.toarray(), stored)
        assert (pattern.data == 1).all()


def test_pattern_refuses():
    A = random_sparse()
    with pytest.raises(ValueError, match=r"exclude.*\(13, 8\); got \(13, 7\)"):
        canonical_pattern(A, (13, 8), name="exclude")
    with pytest.raises(TypeError, match="candidates"):
        canonical_pattern(A.toarray(), (13, 7))


@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("other", [0.0, 0.5, 1.0])
def test_subtract_pattern(density, other):
    rng = np.random.default_rng(0)
    A, B = rng.random((9, 5)) < density, rng.random((9, 5)) < other
    difference = subtract_pattern(
        canonical_pattern(sp.csr_array(A), A.shape), canonical_pattern(sp.csr_array(B), B.shape)
    )
    assert_canonical(difference, np.uint8)
    assert_array_equal(difference.toarray(), A & ~B)


# ------------------------------------------------------------------ take_rows, to_dense


ROW_CHOICES = [
    np.array([3, 0, 3, 12]),
    np.array([], dtype=np.intp),
    np.arange(13),
    slice(2, 5),
    slice(0, 13),
    slice(5, 5),
    slice(10, 99),
    slice(7, 3),
    slice(1, 12, 3),
    slice(None, None, -1),
]


@pytest.mark.parametrize("rows", ROW_CHOICES, ids=str)
def test_take_rows(rows):
    dense = random_sparse().toarray()
    dense[[0, 4, 12]] = 0
    X = canonical_csr(sp.csr_array(dense))
    taken = take_rows(X, rows)
    assert_canonical(taken, np.float32)
    assert_array_equal(taken.toarray(), dense[rows])
    assert_array_equal(take_rows(dense, rows), dense[rows])
    assert take_rows(dense, rows).flags.c_contiguous


@settings(max_examples=100, deadline=None)
@given(messy_csr(st.integers(-3, 3)), st.sampled_from([-np.inf, 0.0, -7.5]))
def test_to_dense(A, fill):
    stored = np.zeros(A.shape, dtype=bool)
    expected = np.zeros(A.shape)
    rows = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    stored[rows, A.indices] = True
    np.add.at(expected, (rows, A.indices), A.data)
    expected[~stored] = fill
    before = A.data.copy()
    assert_array_equal(to_dense(A, fill), expected)
    assert_array_equal(A.data, before)


def test_to_dense_dtype():
    A = sp.csr_matrix(np.array([[0, 2]]))
    with pytest.raises(ValueError, match="cannot hold"):
        to_dense(A)
    assert_array_equal(to_dense(A, dtype=np.float32), np.array([[-np.inf, 2]], dtype=np.float32))
    assert to_dense(A, fill=0).dtype == A.dtype
    with pytest.raises(TypeError, match="sparse"):
        to_dense(A.toarray())


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix])
@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
def test_a_single_row_is_as_the_row_of_a_larger_matrix(kind, index_dtype):
    # one row takes shorter ways through the checks
    A = kind(np.array([[0.0, 2.5, 0.0, -1.0], [1.0, 0.0, 0.0, 0.0]], dtype=np.float32))
    row = A[[0]]
    row.indices, row.indptr = row.indices.astype(index_dtype), row.indptr.astype(index_dtype)
    B = canonical_csr(row)
    assert isinstance(B, sp.csr_array)
    assert B.shape == (1, 4)
    assert B.has_canonical_format
    assert (B.indptr.dtype, B.indices.dtype, B.data.dtype) == (np.int64, np.int32, np.float32)
    np.testing.assert_array_equal(B.toarray(), A.toarray()[:1])
    np.testing.assert_array_equal((B @ np.eye(4)), A.toarray()[:1])
    # results do not share what they hold, though an empty row was copied for both
    C = canonical_csr(kind(np.ones((1, 4), dtype=np.float32)))
    np.testing.assert_array_equal(B.toarray(), A.toarray()[:1])
    assert (C.nnz, canonical_csr(kind((1, 4), dtype=np.float32)).nnz) == (4, 0)


@pytest.mark.parametrize("n_rows", [1, 2])
@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("indices", [0, 4], "row 0 has the column index 4"),
        ("indices", [0, -1], "row 0 has the column index -1"),
        ("data", [1.0, np.nan], "contains NaN .row 0, column 2"),
        ("data", [np.inf, 1.0], "contains infinity .row 0, column 1"),
        ("indptr", [0, -1], "indptr decreases at row 0"),
        ("indptr", [1, 2], "indptr starts at 1"),
        ("indptr", [0, 3], "indptr counts 3 entries"),
    ],
)
def test_a_single_row_is_checked_in_full(n_rows, part, value, message):
    A = sp.csr_array(np.array([[0.0, 2.5, 1.0, 0.0], [0.0] * 4][:n_rows], dtype=np.float32))
    value = np.array(value, dtype=getattr(A, part).dtype)
    if part == "indptr" and n_rows == 2:
        value = np.append(value, value[-1])
    setattr(A, part, value)
    with pytest.raises(ValueError, match=message):
        canonical_csr(A)


@pytest.mark.parametrize("indices", [[2, 1], [2, 2]])
def test_a_single_row_is_sorted_and_merged(indices):
    A = sp.csr_array((np.array([1.0, 2.0]), indices, [0, 2]), shape=(1, 4))
    expected = A.toarray()
    B = canonical_csr(A)
    assert (np.diff(B.indices) > 0).all()
    np.testing.assert_array_equal(B.toarray(), expected)
