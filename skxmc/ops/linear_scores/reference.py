"""Scores of sparse linear models in plain NumPy: what every other implementation is tested against.

The score of label l for row x is b_l + sum_f x_f w_lf, a label with b_l = -inf having -inf
whatever its weights. The sum is taken from left to right in the order of the columns, each product
and each sum rounded to ``dtype``. With float32 that is, bit for bit, what the compiled version
returns; with float64 it is the yardstick for the rounding error.
"""

import numpy as np
import scipy.sparse as sp

from skxmc.ops.topk import reference as topk_reference


def scores(coef, intercept, X, dtype=np.float64):
    """Scores of all labels, (n_samples, n_labels)."""
    weights = (coef.toarray() if sp.issparse(coef) else np.asarray(coef)).astype(dtype)
    rows = (X.toarray() if sp.issparse(X) else np.asarray(X)).astype(np.float32).astype(dtype)
    intercept = np.asarray(intercept, dtype=dtype)
    out = np.tile(intercept, (rows.shape[0], 1))
    for i, row in enumerate(rows):
        for feature in np.flatnonzero(row):
            out[i] += row[feature] * weights[:, feature]
    out[:, np.isneginf(intercept)] = -np.inf
    return out


def topk(coef, intercept, X, k, exclude=None, candidates=None, dtype=np.float64):
    """See `skxmc.ops.linear_scores.topk`."""
    all_scores = scores(coef, intercept, X, dtype)
    if candidates is not None:
        all_scores[candidates.toarray() == 0] = -np.inf
    if exclude is not None:
        all_scores[exclude.toarray() != 0] = -np.inf
    return topk_reference.topk_dense(all_scores, k)
