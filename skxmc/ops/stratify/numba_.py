"""Iterative stratification on CSR and CSC structure: nothing of size rows x labels."""

import numpy as np
import scipy.sparse as sp

from skxmc.ops._jit import jit


def assign_folds(Y, weights, draws):
    """Assign each row of a sparse label matrix to a fold by iterative stratification.

    The result equals that of :func:`~skxmc.ops.stratify.assign_folds_reference`, which states the
    rule.

    Parameters
    ----------
    Y : sparse array of shape (n_rows, n_labels)
        Canonical 0/1 indicator (no duplicates, no explicit zeros). Only its structure is read.
    weights : array-like of int of shape (n_folds,)
        Size of each fold relative to the others, positive; their sum times ``n_rows`` is
        less than 2 ** 63.
    draws : array-like of float of shape (n_rows,)
        Numbers in [0, 1), one for each row, that decide the last ties.

    Returns
    -------
    folds : ndarray of int32 of shape (n_rows,)
        Fold of each row.

    Raises
    ------
    ValueError
        If a weight is not positive, or ``draws`` has another length than ``Y`` or leaves [0, 1).

    Notes
    -----
    Time O(nnz log(n_used_labels) + (n_rows + n_used_labels) n_folds); memory about 25 bytes an
    entry of ``Y`` and 40 a row and a used label. Columns without positives cost nothing.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> Y = sp.csr_array(np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0], [0, 0]]))
    >>> assign_folds(Y, weights=[1, 1], draws=np.zeros(6))
    array([0, 1, 0, 1, 0, 1], dtype=int32)
    """
    Y = sp.csr_array(Y)
    n_rows = Y.shape[0]
    weights = np.ascontiguousarray(weights, dtype=np.int64)
    draws = np.ascontiguousarray(draws, dtype=np.float64)
    if weights.ndim != 1 or len(weights) == 0 or weights.min() <= 0:
        raise ValueError(f"weights must be a vector of positive integers, got {weights}.")
    if draws.shape != (n_rows,):
        raise ValueError(f"draws has shape {draws.shape}, expected ({n_rows},).")
    if n_rows and not (draws.min() >= 0 and draws.max() < 1):
        raise ValueError("draws must lie in [0, 1).")
    indptr = Y.indptr.astype(np.int64)
    indices, n_used = compact_labels(Y.indices, Y.shape[1])
    structure = sp.csr_array(
        (np.ones(len(indices), dtype=np.int8), indices, indptr), shape=(n_rows, n_used)
    )
    by_label = structure.tocsc()  # row ids ascend within a column
    label_indptr = by_label.indptr.astype(np.int64)
    label_rows = by_label.indices.astype(np.int32, copy=False)
    # A binary heap of labels with the key (remaining rows, label id); sorted, so already a heap.
    remaining = np.diff(label_indptr)
    heap = np.argsort(remaining, kind="stable")
    place = np.empty_like(heap)
    place[heap] = np.arange(n_used)
    folds = np.full(n_rows, -1, dtype=np.int32)
    _assign(
        indptr, indices, label_indptr, label_rows, heap, place, remaining, weights, draws, folds
    )
    return folds


def compact_labels(indices, n_labels):
    """Renumber the labels that occur as 0, 1, ..., n_used - 1, in their order.

    Parameters
    ----------
    indices : ndarray of int of shape (nnz,)
        Label ids in [0, n_labels).
    n_labels : int
        Number of labels.

    Returns
    -------
    compact : ndarray of int32 of shape (nnz,)
        New id of each entry.
    n_used : int
        Number of labels that occur.

    Notes
    -----
    Memory O(nnz) even where ``n_labels`` is much larger; time O(nnz), O(nnz log nnz) in that case.

    Examples
    --------
    >>> import numpy as np
    >>> compact_labels(np.array([7, 2, 7]), 1_000_000)
    (array([1, 0, 1], dtype=int32), 2)
    """
    if n_labels <= len(indices):
        used = np.zeros(n_labels, dtype=bool)
        used[indices] = True
        new_ids = np.cumsum(used, dtype=np.int32) - np.int32(1)
        return new_ids[indices], int(used.sum())
    used, inverse = np.unique(indices, return_inverse=True)
    return inverse.astype(np.int32), len(used)


@jit(allocates=True)
def _assign(
    indptr, indices, label_indptr, label_rows, heap, place, remaining, weights, draws, folds
):
    total = weights.sum()
    sizes = np.zeros(len(weights), dtype=np.int64)  # rows in each fold
    positives = np.zeros(len(weights), dtype=np.int64)  # of them with the label at hand
    size = len(heap)
    while size > 0:
        label = heap[0]
        size -= 1
        _sift_down(heap, place, remaining, size)
        place[label] = -1
        if remaining[label] == 0:
            continue
        start, stop = label_indptr[label], label_indptr[label + 1]
        positives[:] = 0
        for p in range(start, stop):
            if folds[label_rows[p]] >= 0:
                positives[folds[label_rows[p]]] += 1
        for p in range(start, stop):
            row = label_rows[p]
            if folds[row] >= 0:
                continue
            fold = _choose(stop - start, positives, sizes, weights, total, draws[row])
            folds[row] = fold
            positives[fold] += 1
            sizes[fold] += 1
            for q in range(indptr[row], indptr[row + 1]):
                remaining[indices[q]] -= 1  # the key falls: one move towards the root
                if place[indices[q]] >= 0:
                    _sift_up(heap, place, remaining, place[indices[q]])
    positives[:] = 0
    for row in range(len(folds)):
        if folds[row] < 0:
            folds[row] = _choose(0, positives, sizes, weights, total, draws[row])
            sizes[folds[row]] += 1


@jit
def _choose(n_positives, positives, sizes, weights, total, draw):
    """Pick the fold of a row; with ``n_positives`` = 0 only the sizes count."""
    n_folds = len(weights)
    most = n_positives * weights[0] - total * positives[0]
    for f in range(1, n_folds):
        most = max(most, n_positives * weights[f] - total * positives[f])
    # First pass: the best fold and the number of its equals. Second pass: the drawn one of them.
    best = -1
    n_ties = 0
    for f in range(n_folds):
        if n_positives * weights[f] - total * positives[f] <= most - total:
            continue
        if best < 0 or sizes[f] * weights[best] < sizes[best] * weights[f]:
            best = f
            n_ties = 1
        elif sizes[f] * weights[best] == sizes[best] * weights[f]:
            n_ties += 1
    skip = int(draw * n_ties)
    for f in range(best, n_folds):
        if n_positives * weights[f] - total * positives[f] <= most - total:
            continue
        if sizes[f] * weights[best] == sizes[best] * weights[f]:
            if skip == 0:
                return f
            skip -= 1
    return best


@jit
def _before(a, b, remaining):
    return remaining[a] < remaining[b] or (remaining[a] == remaining[b] and a < b)


@jit
def _sift_up(heap, place, remaining, i):
    label = heap[i]
    while i > 0:
        parent = (i - 1) >> 1
        if _before(heap[parent], label, remaining):
            break
        heap[i] = heap[parent]
        place[heap[i]] = i
        i = parent
    heap[i] = label
    place[label] = i


@jit
def _sift_down(heap, place, remaining, size):
    """Drop the root: move the last of the heap's former ``size + 1`` labels in from the top."""
    if size == 0:
        return
    label = heap[size]
    i = 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and _before(heap[child + 1], heap[child], remaining):
            child += 1
        if _before(label, heap[child], remaining):
            break
        heap[i] = heap[child]
        place[heap[i]] = i
        i = child
    heap[i] = label
    place[label] = i
