"""Sums of groups of sparse rows against SciPy's product and the dense definition."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from skxmc.ops.csr import canonical_csr
from skxmc.ops.row_sums import numba_, reference, sum_row_groups, unit_rows


def problem(n_rows, n_columns, n_groups, seed, density=0.2):
    rng = np.random.default_rng(seed)
    X = sp.random_array(
        (n_rows, n_columns), density=density, format="csr", rng=rng, dtype=np.float32
    )
    members = sp.random_array((n_groups, n_rows), density=density, format="csr", rng=rng)
    weight = rng.random(n_rows).astype(np.float32)
    return canonical_csr(X), members.indices, members.indptr, weight


# 64 columns are one word of the bitmap, 4096 one word of its summary.
@pytest.mark.parametrize("n_columns", [1, 63, 64, 65, 4095, 4097, 9000])
def test_equals_the_reference(n_columns):
    X, rows, group_indptr, weight = problem(30, n_columns, 12, n_columns)
    sums = sum_row_groups(X, rows, group_indptr, weight)
    expected = reference.sum_row_groups(X, rows, group_indptr, weight)
    np.testing.assert_allclose(sums.toarray(), expected, rtol=1e-5, atol=1e-6)
    assert canonical_csr(sums) is sums
    assert (sums.dtype, sums.indices.dtype, sums.indptr.dtype) == (np.float32, np.int32, np.int64)


def test_equals_the_product_of_scipy():
    X, rows, group_indptr, weight = problem(200, 700, 90, 0, density=0.05)
    ones = np.ones(len(rows), dtype=np.float32)
    groups = sp.csr_array((ones, rows, group_indptr), shape=(90, 200))
    product = (groups @ sp.diags_array(weight) @ X).tocsr()
    sums = sum_row_groups(X, rows, group_indptr, weight)
    assert sums.nnz == product.nnz
    np.testing.assert_allclose(sums.toarray(), product.toarray(), rtol=1e-5)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_chunks_do_not_matter(monkeypatch, n_jobs):
    X, rows, group_indptr, weight = problem(80, 100, 40, 1)
    whole = sum_row_groups(X, rows, group_indptr, weight)
    for size in (1, 37, 1000):
        monkeypatch.setattr(numba_, "_CHUNK_ENTRIES", size)
        parts = sum_row_groups(X, rows, group_indptr, weight, n_jobs=n_jobs)
        np.testing.assert_array_equal(parts.data, whole.data)
        np.testing.assert_array_equal(parts.indices, whole.indices)
        np.testing.assert_array_equal(parts.indptr, whole.indptr)


def test_empty_groups_rows_and_matrices():
    X = canonical_csr(sp.csr_array((3, 5), dtype=np.float32))
    sums = sum_row_groups(X, np.array([0, 2]), np.array([0, 0, 2, 2]), np.ones(3))
    assert sums.shape == (3, 5)
    assert sums.nnz == 0
    assert sum_row_groups(X, np.array([], dtype=int), np.array([0]), np.ones(3)).shape == (0, 5)


def test_unit_rows():
    X, *_ = problem(50, 20, 5, 2)
    X = X.tolil()
    X[[0, 7]] = 0
    X = X.tocsr()
    before = X.toarray()
    unit = unit_rows(X)
    np.testing.assert_allclose(unit.toarray(), normalize(before), rtol=1e-6)
    np.testing.assert_allclose(unit.toarray(), reference.unit_rows(before), rtol=1e-6)
    np.testing.assert_array_equal(X.toarray(), before)


def test_unit_rows_of_extreme_values():
    # float32 squares of these would be 0 or infinite
    X = sp.csr_array(np.array([[3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0]]))
    np.testing.assert_allclose(unit_rows(X).toarray(), [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)
