"""Rows as the linear estimators take them: sparse, and of unit length if asked for."""

import numpy as np
import scipy.sparse as sp

from skxmc.io._arrays import make_compressed

# Rows whose lengths are summed at a time.
_BLOCK_ROWS = 1 << 14


def scaled_rows(X, normalize):
    """CSR float32 rows of ``X``, divided by their l2 norms for ``normalize="l2"``.

    ``X`` as `XMCClassifierMixin` hands it over; a sparse ``X`` that is not normalised comes back as
    it is.
    """
    if not sp.issparse(X):
        X = _sparse_rows(X)
    if normalize is None:
        return X
    data = X.data * np.repeat(_inverse_norms(X), np.diff(X.indptr))
    return make_compressed(data, X.indices, X.indptr, X.shape)


def _sparse_rows(X):
    """CSR float32 of a dense array, its zeros left out."""
    sparse = sp.csr_array(X, dtype=np.float32)
    return make_compressed(
        sparse.data, sparse.indices.astype(np.int32), sparse.indptr.astype(np.int64), X.shape
    )


def _inverse_norms(X):
    """1 / ||x_i|| in float32, 1 for empty rows; summed in float64 in the order of the entries."""
    norms = np.ones(X.shape[0], dtype=np.float32)
    for first in range(0, X.shape[0], _BLOCK_ROWS):
        indptr = X.indptr[first : first + _BLOCK_ROWS + 1]
        filled = np.flatnonzero(np.diff(indptr))
        if len(filled):
            squares = X.data[indptr[0] : indptr[-1]].astype(np.float64) ** 2
            lengths2 = np.add.reduceat(squares, indptr[:-1][filled] - indptr[0])
            lengths2[lengths2 == 0] = 1
            norms[first + filled] = 1 / np.sqrt(lengths2)
    return norms
