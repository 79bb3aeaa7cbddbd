"""The first inputs of sparse labels, chosen by what their rows have in common."""

import numpy as np
import scipy.sparse as sp

from skxmc.neural._front import IdentityFront, rows_of
from skxmc.neural._output_layer import to_numpy
from skxmc.ops.sparse_head.initial import index_dtype

# Numbers of the covariances, and of the features, that exist at a time.
_CHUNK = 1 << 20
# Entries of sparse rows that are added up at a time, and the bytes that one of their sums takes.
_ENTRIES, _ENTRY_BYTES = 1 << 18, 88


def connect_to_data(parts, front, X, targets):
    r"""Give each row of the sparse parts the inputs that tell its labels best; in place.

    These are the ones with the largest covariance with the labels of the row (one label, or those
    of a group, each as much as it has positives):
    :math:`\sum_{i: Y_{il} = 1} (h_i - \bar h)`, the gradient of the first step, by which RigL would
    grow them, over centred features. Equal ones: the smaller input.

    Parameters
    ----------
    parts : tuple of Part
        On NumPy arrays.
    front : Front
        As it is before the training.
    X : csr_array, ndarray or sequence
        Training rows.
    targets : canonical csr_array of shape (n_rows, n_labels)
        Labels in the order of the parts.

    Notes
    -----
    O(positives * n_inputs) time and the features of each row once for each million numbers of
    (rows of the parts, inputs) in which it has a label; 12 MiB. Of sparse rows that are the
    features themselves O(entries of the rows of each label), and 22 MiB.
    """
    first = 0
    for part in parts:
        stop = first + part.n_labels
        if part.indices is not None and part.fan_in < front.n_outputs:
            by_row = _members(targets, first, stop, part.group_size, len(part.indices))
            if is_sparse_identity(front, X):
                _connect_to_entries(part.indices, X, by_row)
            else:
                _connect(part.indices, front, X, by_row)
        first = stop


def is_sparse_identity(front, X):
    """Whether the features are sparse rows as they are, whose entries alone have to be seen."""
    return isinstance(front, IdentityFront) and sp.issparse(X)


def connection_bytes(plan, n_inputs, n_samples, *, sparse=False):
    """What `connect_to_data` takes for a moment beside the parts, in bytes.

    Features and what they are without their mean; covariances and an argument of 64 bits for each.
    Of sparse rows without a front the sums of some entries, and the means.

    Parameters
    ----------
    plan : list of (n_labels, fan_in or None, group_size)
    n_inputs, n_samples : int
    sparse : bool, default=False
        Whether `is_sparse_identity`.
    """
    if sparse:
        chooses = any(fan_in is not None and fan_in < n_inputs for _, fan_in, _ in plan)
        return chooses * (_ENTRY_BYTES * max(_ENTRIES, n_inputs) + 16 * n_inputs)
    features = _block_size(n_samples, n_inputs) * n_inputs
    sizes = [
        _block_size(-(-n_labels // group_size), n_inputs) * n_inputs
        for n_labels, fan_in, group_size in plan
        if fan_in is not None and fan_in < n_inputs
    ]
    largest = max(sizes, default=0)
    if not largest:
        return 0
    return 4 * max(2 * features + largest, features + 2 * largest, 3 * largest)


def _members(targets, first, stop, group_size, n_groups):
    """How many labels of each group each row has, (n_rows, n_groups)."""
    rows = np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr))
    own = (targets.indices >= first) & (targets.indices < stop)
    groups = (targets.indices[own] - first) // group_size
    ones = np.ones(len(groups), dtype=np.float32)
    return sp.csr_array((ones, (rows[own], groups)), shape=(targets.shape[0], n_groups))


def _connect(indices, front, X, by_row):
    n_rows, n_inputs = by_row.shape[0], front.n_outputs
    mean = np.zeros(n_inputs)
    for rows in _blocks(np.arange(n_rows), n_inputs):
        mean += _features(front, X, rows).sum(axis=0, dtype=np.float64)
    mean = (mean / n_rows).astype(np.float32)
    fan_in = indices.shape[1]
    size = _block_size(len(indices), n_inputs)
    for first in range(0, len(indices), size):
        groups = slice(first, min(first + size, len(indices)))
        members = by_row[:, groups]
        covariance = np.zeros((members.shape[1], n_inputs), dtype=np.float32)
        for rows in _blocks(np.flatnonzero(np.diff(members.indptr)), n_inputs):
            covariance += members[rows].T @ (_features(front, X, rows) - mean)
        np.negative(covariance, out=covariance)
        # a stable partition by value, then by number
        best = np.argsort(covariance, axis=1, kind="stable")[:, :fan_in]
        known = np.diff(members.tocsc().indptr) > 0  # others keep their random inputs
        best = np.sort(best, axis=1).astype(index_dtype(n_inputs))
        indices[groups][known] = best[known]


def _connect_to_entries(indices, X, by_row):
    """The same from the entries of sparse rows; an input that they lack is minus its mean."""
    fan_in = indices.shape[1]
    mean = np.asarray(X.sum(axis=0, dtype=np.float64)).ravel() / X.shape[0]
    rarest = np.argsort(mean, kind="stable")
    members = by_row.tocsc()
    entries = (members != 0).T @ np.diff(X.indptr).astype(np.int64)  # of the rows of each group
    ends = np.cumsum(entries)
    first = 0
    while first < len(indices):
        stop = np.searchsorted(ends, ends[first] - entries[first] + _ENTRIES, side="right")
        groups = slice(first, max(first + 1, int(stop)))
        sums = sp.csr_array(members[:, groups].T @ X)
        count = members[:, groups].sum(axis=0, dtype=np.float64)
        row = np.repeat(np.arange(sums.shape[0]), np.diff(sums.indptr))
        covariance = sums.data - count[row] * mean[sums.indices]
        order = np.lexsort((sums.indices, -covariance, row))
        is_above = covariance > -count[row] * mean[rarest[0]]  # all that a lacking input may have
        n_above = np.bincount(row[is_above], minlength=sums.shape[0])
        for i in np.flatnonzero(count):
            best = order[sums.indptr[i] : sums.indptr[i + 1]]
            chosen = sums.indices[best[:fan_in]]
            if n_above[i] < fan_in:  # inputs that no row has may come before frequent ones
                lacking = rarest[: fan_in + len(best)]
                lacking = lacking[~np.isin(lacking, sums.indices[best])][:fan_in]
                inputs = np.concatenate([sums.indices[best], lacking])
                values = np.concatenate([covariance[best], -count[i] * mean[lacking]])
                chosen = inputs[np.lexsort((inputs, -values))[:fan_in]]
            indices[first + i] = np.sort(chosen)
        first = groups.stop


def _features(front, X, rows):
    return to_numpy(front.transform(rows_of(X, rows)))


def _block_size(n_rows, n_inputs):
    return max(1, min(n_rows, _CHUNK // n_inputs))


def _blocks(rows, n_inputs):
    size = _block_size(len(rows), n_inputs)
    return [rows[first : first + size] for first in range(0, len(rows), size)]
