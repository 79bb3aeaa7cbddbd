"""Top-k selection in Numba: row primitives for use inside other kernels, and whole matrices.

Both primitives keep a sorted list of the at most k best *positions* so far, so that most candidates
cost one comparison with the k-th best. Positions instead of scores in the list mean that
comparisons happen at the precision of the input though the output is float32, and that no scratch
memory is needed: the list lives in the output array of labels. A list and not a heap, because at
the usual k (up to 100) it is as fast and takes a third of the time to compile.
"""

import itertools

import numpy as np
import scipy.sparse as sp

from skxmc._parallel import map_chunks
from skxmc.ops._jit import jit
from skxmc.ops.topk import reference
from skxmc.ops.topk._types import (
    MAX_LABELS,
    TopK,
    check_csr_scores,
    check_dense_scores,
    check_k,
    check_n_threads,
)

# Dense scores tested in one go for "is any of them better": that loop has no branch, so the
# compiler turns it into SIMD comparisons.
_BLOCK = 256

# With more answers than this each row is sorted instead: an insertion costs up to k moves.
_LARGEST_LIST = 256


@jit
def _offer(labels, scores, start, stop, kept, found, k):
    """Offer positions `start` to `stop` to the list `kept` of `found` entries, best first.

    `labels=None` means that a position is its own label; that is decided at compile time.
    Returns the new number of entries, or -1 if a NaN was met.
    """
    for position in range(start, stop):
        score = scores[position]
        if found == k and score < scores[kept[k - 1]]:
            continue  # where most candidates end
        if score != score:
            return -1
        if score == -np.inf:
            continue
        hole = found
        while hole > 0:
            above = kept[hole - 1]
            # Without labels: positions come in ascending order.
            if scores[above] > score or (
                scores[above] == score and (labels is None or labels[above] < labels[position])
            ):
                break
            if hole < k:
                kept[hole] = above
            hole -= 1
        if hole < k:
            kept[hole] = position
            found = min(found + 1, k)
    return found


@jit
def _finish(labels, scores, kept, found, k, out_scores):
    """Turn positions into labels (in place) and scores, and pad both up to `k`."""
    for j in range(found):
        position = kept[j]
        out_scores[j] = scores[position]
        if labels is not None:
            kept[j] = labels[position]
    for j in range(found, k):
        kept[j] = -1
        out_scores[j] = -np.inf


@jit
def select_topk_pairs(labels, scores, count, k, out_labels, out_scores):
    """Select the k best of `count` (label, score) pairs of one row; nogil, no allocation.

    Order: larger score first, then smaller label. Pairs with score -inf are skipped. The labels
    must differ from each other and need not be sorted. Nothing else is checked: the arrays must
    be long enough.

    Parameters
    ----------
    labels : int ndarray of shape (>= count,)
        Labels of the pairs.
    scores : ndarray of shape (>= count,), float32 or float64
        Scores of the pairs.
    count : int
        Number of pairs to look at, below 2^31.
    k : int
        At least 1.
    out_labels : ndarray of shape (>= k,), int32
        Written: best labels first, padded with -1 up to `k`. Must not overlap `labels`.
    out_scores : ndarray of shape (>= k,), float32
        Written: their scores, padded with -inf up to `k`. Must not overlap `scores`.

    Returns
    -------
    n_found : int
        Number of answers before the padding; -1 if a score is NaN, the outputs are then undefined.

    Notes
    -----
    Time O(count + m k), m the number of pairs that enter the list of the best so far: about
    k ln(count / k) of them if the order is random, `count` at worst. Meant for k up to some 100.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.topk import select_topk_pairs
    >>> labels, scores = np.array([7, 3], np.int32), np.array([0.5, 0.5], np.float32)
    >>> best, best_scores = np.empty(1, np.int32), np.empty(1, np.float32)
    >>> select_topk_pairs(labels, scores, 2, 1, best, best_scores), best[0]
    (1, np.int32(3))
    """
    found = _offer(labels, scores, 0, count, out_labels, 0, k)
    if found >= 0:
        _finish(labels, scores, out_labels, found, k, out_scores)
    return found


@jit
def select_topk_dense_row(scores, k, out_labels, out_scores):
    """Select the k best labels of one dense row of scores; nogil, no allocation.

    As `select_topk_pairs` with the label of a score being its position.

    Parameters
    ----------
    scores : ndarray of shape (n_labels,), float32 or float64, contiguous
        Score of each label.
    k : int
        At least 1; may exceed `n_labels`.
    out_labels : ndarray of shape (>= k,), int32
        Written: best labels first, padded with -1 up to `k`.
    out_scores : ndarray of shape (>= k,), float32
        Written: their scores, padded with -inf up to `k`. Must not overlap `scores`.

    Returns
    -------
    n_found : int
        Number of answers before the padding; -1 if a score is NaN, the outputs are then undefined.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.topk import select_topk_dense_row
    >>> scores = np.array([0.2, 0.9, 0.4], np.float32)
    >>> best, best_scores = np.empty(2, np.int32), np.empty(2, np.float32)
    >>> select_topk_dense_row(scores, 2, best, best_scores), best
    (2, array([1, 2], dtype=int32))
    """
    n_labels = len(scores)
    found = 0
    for start in range(0, n_labels, _BLOCK):
        stop = min(start + _BLOCK, n_labels)
        if found == k:
            threshold = scores[out_labels[k - 1]]
            block = scores[start:stop]
            n_hits = np.int32(0)  # a 32-bit count fills the SIMD lanes as the scores do
            for i in range(len(block)):
                n_hits = np.int32(n_hits + np.int32(not (block[i] <= threshold)))
            # A score equal to the k-th best comes later, so its label is larger: not better.
            # NaN compares false, so it counts as a hit and is found below.
            if n_hits == 0:
                continue
        found = _offer(None, scores, start, stop, out_labels, found, k)
        if found < 0:
            return found
    _finish(None, scores, out_labels, found, k, out_scores)
    return found


@jit
def _topk_dense_rows(scores, start, stop, k, labels, out):
    """Fill rows `start` to `stop`; return the first row that holds a NaN, or -1."""
    for i in range(start, stop):
        if select_topk_dense_row(scores[i], k, labels[i], out[i]) < 0:
            return i
    return -1


@jit
def _topk_csr_rows(data, indices, indptr, start, stop, k, labels, out):
    """Fill rows `start` to `stop`; return the first row that holds a NaN, or -1."""
    for i in range(start, stop):
        row = slice(indptr[i], indptr[i + 1])
        count = indptr[i + 1] - indptr[i]
        if select_topk_pairs(indices[row], data[row], count, k, labels[i], out[i]) < 0:
            return i
    return -1


def _run(kernel, n_rows, k, n_threads):
    """Run `kernel(start, stop, labels, scores)` over row chunks; raise on the first NaN row."""
    labels = np.empty((n_rows, k), dtype=np.int32)
    scores = np.empty((n_rows, k), dtype=np.float32)
    bounds = np.linspace(0, n_rows, min(n_threads, max(n_rows, 1)) + 1).astype(np.int64)
    chunks = list(itertools.pairwise(bounds.tolist()))
    nan_rows = map_chunks(lambda chunk: kernel(*chunk, labels, scores), chunks, len(chunks))
    nan_rows = [row for row in nan_rows if row >= 0]
    if nan_rows:
        raise ValueError(f"scores: row {min(nan_rows)} holds NaN.")
    return TopK(labels, scores)


def topk_dense(scores, k, *, n_threads=1):
    """Select the k best labels of each row of a dense score matrix.

    Larger scores come first, and of equal scores the smaller label id. A score of -inf is no
    candidate. Scores are compared at the precision they come in (float32 or float64; float16 is
    compared as float32, integers and bool as float64).

    Parameters
    ----------
    scores : array-like of shape (n_samples, n_labels)
        Scores in any unit, larger is better.
    k : int
        Number of answers per row, at least 1; more than `n_labels` gives padding.
    n_threads : int, default=1
        Number of threads; the result does not depend on it.

    Returns
    -------
    topk : TopK
        `labels` (n_samples, k) int32 padded with -1, `scores` (n_samples, k) float32 padded with
        -inf.

    Raises
    ------
    ValueError
        If a score is NaN (the row is named), `k` < 1, or `scores` is not two-dimensional.
    TypeError
        If `scores` is sparse or not real, or `k` is not an integer.

    Notes
    -----
    Time O(n_samples * n_labels) for k up to 256, with a factor log n_labels and in one thread
    above. Memory O(n_samples * k) besides the input.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.topk import topk_dense
    >>> topk_dense(np.array([[0.1, 0.7, 0.7], [0.3, -np.inf, -np.inf]]), k=2).labels
    array([[ 1,  2],
           [ 0, -1]], dtype=int32)
    """
    scores, k, n_threads = check_dense_scores(scores), check_k(k), check_n_threads(n_threads)
    if min(k, scores.shape[1]) > _LARGEST_LIST:
        return reference.topk_dense(scores, k)

    def kernel(start, stop, labels, out):
        return _topk_dense_rows(scores, start, stop, k, labels, out)

    return _run(kernel, scores.shape[0], k, n_threads)


def topk_csr(scores, k, *, n_threads=1):
    """Select the k best labels of each row among the stored entries of a sparse score matrix.

    Only stored entries are candidates; a stored 0 is one. Larger scores come first, and of equal
    scores the smaller label id. A stored -inf is no candidate. Scores are compared at the
    precision they come in (float32 or float64).

    Parameters
    ----------
    scores : sparse matrix or array of shape (n_samples, n_labels)
        Scores in any unit, larger is better. CSR is used as it is, other formats are converted.
        Unsorted rows are accepted; entries stored twice are summed, as SciPy defines them.
    k : int
        Number of answers per row, at least 1; rows with fewer candidates are padded.
    n_threads : int, default=1
        Number of threads; the result does not depend on it.

    Returns
    -------
    topk : TopK
        `labels` (n_samples, k) int32 padded with -1, `scores` (n_samples, k) float32 padded with
        -inf.

    Raises
    ------
    ValueError
        If a stored score is NaN (the row is named), an index is out of range, or `k` < 1.
    TypeError
        If `scores` is not sparse or not real, or `k` is not an integer.

    Notes
    -----
    Time O(nnz) for k up to 256, with a log factor and in one thread above. Memory
    O(n_samples * k) besides the input.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.topk import topk_csr
    >>> answer = topk_csr(sp.csr_array([[0.0, -2.0, 0.5], [0.0, 0.0, 0.0]]), k=2)
    >>> answer.labels
    array([[ 2,  1],
           [-1, -1]], dtype=int32)
    >>> answer.scores
    array([[ 0.5, -2. ],
           [-inf, -inf]], dtype=float32)
    """
    k, n_threads = check_k(k), check_n_threads(n_threads)
    data, indices, indptr, shape = check_csr_scores(scores)
    if min(k, np.diff(indptr).max(initial=0)) > _LARGEST_LIST:
        return reference.topk_csr(scores, k)

    def kernel(start, stop, labels, out):
        return _topk_csr_rows(data, indices, indptr, start, stop, k, labels, out)

    return _run(kernel, shape[0], k, n_threads)


def topk_to_csr(topk, n_labels, dtype=np.float32):
    """Turn ranked answers into a CSR matrix of scores with sorted column indices.

    Padding is dropped; a score of 0 stays as an explicit entry, because an absent entry means
    "not a candidate".

    Parameters
    ----------
    topk : TopK
        `labels` and `scores` of shape (n_samples, k).
    n_labels : int
        Number of columns of the result.
    dtype : dtype, default=float32
        Dtype of the stored scores.

    Returns
    -------
    scores : csr_array of shape (n_samples, n_labels)
        At most k entries a row.

    Raises
    ------
    ValueError
        If a label is `n_labels` or more (the row is named), or the two arrays differ in shape.

    Notes
    -----
    Time O(n_samples * k log k), memory O(n_samples * k).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.topk import TopK, topk_to_csr
    >>> answer = TopK(np.array([[2, 0]]), np.array([[0.5, 0.0]]))
    >>> topk_to_csr(answer, n_labels=3).indices
    array([0, 2], dtype=int32)
    """
    labels, scores = np.asarray(topk[0]), np.asarray(topk[1])
    if labels.ndim != 2 or labels.shape != scores.shape:
        raise ValueError(
            "labels and scores of a TopK must be two-dimensional and of the same shape, got "
            f"{labels.shape} and {scores.shape}."
        )
    answered = labels >= 0
    too_large = (labels >= n_labels).any(axis=1)
    if too_large.any():
        row = int(np.flatnonzero(too_large)[0])
        raise ValueError(
            f"TopK row {row} holds label {labels[row].max()}, but n_labels is {n_labels}."
        )
    # Padding sorts behind every label and is cut off by the row lengths.
    order = np.argsort(np.where(answered, labels, n_labels), axis=1, kind="stable")
    keep = np.take_along_axis(answered, order, axis=1)
    n_answers = answered.sum(axis=1)
    # SciPy wants both index arrays in one dtype and would copy the smaller one.
    index_dtype = np.int32 if n_answers.sum() <= MAX_LABELS else np.int64
    indptr = np.zeros(len(labels) + 1, dtype=index_dtype)
    np.cumsum(n_answers, out=indptr[1:])
    data = np.take_along_axis(scores, order, axis=1)[keep].astype(dtype, copy=False)
    indices = np.take_along_axis(labels, order, axis=1)[keep].astype(index_dtype, copy=False)
    return sp.csr_array((data, indices, indptr), shape=(len(labels), n_labels))
