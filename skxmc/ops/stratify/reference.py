"""Iterative stratification in plain NumPy: slow, legible, the definition of what is meant."""

import numpy as np


def assign_folds_reference(Y, weights, draws):
    """Assign each row of a label matrix to a fold; Algorithm 1 of Sechidis et al. (2011).

    The label with the fewest remaining rows (at least one) goes first, the smaller label id on a
    tie. Its rows go, one by one in ascending order, to the fold that

    1. lacks the most rows of this label; folds that lack less than one row less than that are
       ties, because a row cannot be divided;
    2. among those is the least filled in proportion to its weight;
    3. among those is number ``int(draw * number of ties)`` in ascending order.

    Rows without labels go last, in ascending order, by rules 2 and 3. With equal weights rules 1
    and 2 are word for word those of the paper: what the folds lack then differs by whole rows.
    With unequal weights the paper's literal rule gives each label with one positive to the
    largest fold, so that on a long tail the small fold stays nearly empty.

    Parameters
    ----------
    Y : sparse array of shape (n_rows, n_labels)
        Canonical 0/1 indicator. It is densified here.
    weights : ndarray of int64 of shape (n_folds,)
        Size of each fold relative to the others, positive. Integers keep every comparison exact.
    draws : ndarray of float64 of shape (n_rows,)
        Numbers in [0, 1), one for each row, that decide the last ties.

    Returns
    -------
    folds : ndarray of int32 of shape (n_rows,)
        Fold of each row.

    Notes
    -----
    O(n_rows * n_labels ** 2) time, O(n_rows * n_labels) memory.

    References
    ----------
    Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011,
    Algorithm 1. https://doi.org/10.1007/978-3-642-23808-6_10

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.stratify import assign_folds_reference
    >>> Y = sp.csr_array(np.array([[1, 0], [1, 0], [0, 1], [0, 1]]))
    >>> assign_folds_reference(Y, np.array([1, 1]), np.zeros(4))
    array([0, 1, 0, 1], dtype=int32)
    """
    Y = np.asarray(Y.toarray()) != 0
    n_rows = Y.shape[0]
    weights = [int(w) for w in weights]
    total = sum(weights)
    all_folds = range(len(weights))
    folds = np.full(n_rows, -1, dtype=np.int32)

    def place(row, candidates):
        # Sizes are compared as the integers size_a * weight_b and size_b * weight_a.
        sizes = [int((folds == fold).sum()) for fold in all_folds]
        ties = [
            a
            for a in candidates
            if all(sizes[a] * weights[b] <= sizes[b] * weights[a] for b in candidates)
        ]
        folds[row] = ties[int(draws[row] * len(ties))]

    while True:
        remaining = Y[folds < 0].sum(axis=0)
        if not remaining.any():
            break
        label = min((count, j) for j, count in enumerate(remaining) if count)[1]
        rows = np.flatnonzero(Y[:, label])
        for row in rows[folds[rows] < 0]:
            # What fold f lacks of the label, times the sum of the weights.
            lack = [
                len(rows) * weights[f] - total * int((folds[rows] == f).sum()) for f in all_folds
            ]
            place(row, [f for f in all_folds if lack[f] > max(lack) - total])
    for row in np.flatnonzero(folds < 0):
        place(row, all_folds)
    return folds
