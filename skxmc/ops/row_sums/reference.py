"""Sums of groups of sparse rows in plain NumPy: the definition."""

import itertools

import numpy as np


def sum_row_groups(X, rows, group_indptr, row_weight):
    """Return the dense sums; see `skxmc.ops.row_sums.sum_row_groups`."""
    dense = X.toarray().astype(np.float64) * np.asarray(row_weight)[:, None]
    groups = [rows[start:stop] for start, stop in itertools.pairwise(group_indptr)]
    return np.array([dense[group].sum(axis=0) for group in groups]).reshape(-1, X.shape[1])


def unit_rows(dense):
    """Return the rows scaled to length one; a row of zeros stays."""
    length = np.linalg.norm(dense, axis=1, keepdims=True)
    return dense / np.where(length > 0, length, 1.0)
