"""Rows as the linear estimators take them: sparse, and of unit length if asked for."""

import numpy as np
import scipy.sparse as sp

from skxmc.io._arrays import make_compressed
from skxmc.ops.row_sums import unit_data


def scaled_rows(X, normalize):
    """CSR float32 rows of ``X``, divided by their l2 norms for ``normalize="l2"``.

    ``X`` as `XMCClassifierMixin` hands it over; a sparse ``X`` that is not normalised comes back as
    it is.
    """
    if sp.issparse(X) and normalize is None:
        return X
    indptr, indices, data = scaled_arrays(X, normalize)
    return make_compressed(data, indices, indptr, X.shape)


def scaled_arrays(X, normalize):
    """``indptr, indices, data`` of `scaled_rows`: for one row, half the time of a new matrix."""
    if not sp.issparse(X):
        X = _sparse_rows(X)
    data = X.data if normalize is None else unit_data(X.data, X.indptr)
    return X.indptr, X.indices, data


def _sparse_rows(X):
    """CSR float32 of a dense array, its zeros left out."""
    sparse = sp.csr_array(X, dtype=np.float32)
    return make_compressed(
        sparse.data, sparse.indices.astype(np.int32), sparse.indptr.astype(np.int64), X.shape
    )
