"""Scores of sparse linear models in Numba: an inverted index from features to labels.

A row has few features and a feature has weights for few labels, so the weights are kept by feature:
the scores of a row are the intercepts plus the weights of its features, added up in one array of
all labels that stays in cache. Three things make it fast:

* A feature that has weights for a good part of all labels is kept as a dense row of weights, zeros
  included: added with SIMD instructions, four features at a time, a weight costs a small part of
  what a scattered one does.
* A row that reaches few labels does not look at the others: labels without any weight for it rank
  by their intercept, whose order is known beforehand.
* Pairs that are asked for one by one are looked up in the lists of the features by bisection.

Each score is summed in one order, the intercept and then the features by column, every product and
sum rounded to float32. Adding the zeros of a dense row changes nothing, so a score is the same bit
for bit in every batch, chunk and layout, and however it is asked for.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc._parallel import map_chunks
from skxmc.ops._jit import jit
from skxmc.ops.csr import canonical_csr, canonical_pattern, subtract_pattern
from skxmc.ops.topk import TopK, select_topk_dense_row, topk_csr, topk_dense
from skxmc.ops.topk._types import check_k, check_n_threads

#: A feature with weights for this share of the labels may become a dense row.
_DENSE_SHARE = 1 / 8
#: Bytes of dense rows for each byte of the weights and label ids in CSR.
_DENSE_BUDGET = 1.0

#: A dense weight costs about this part of a scattered one.
_DENSE_COST = 1 / 8
#: A row that adds fewer weights than this share of the labels does not look at all labels.
_FEW_WEIGHTS = 1 / 16
#: A step of a bisection in terms of a scattered weight.
_BISECTION_COST = 2.0

#: With more answers than this, the rows are sorted instead of kept as lists of the best.
_LARGEST_LIST = 256
#: Scores, or values of a dense X, that are held at a time where rows have to be taken in blocks.
_BLOCK_SIZE = 1 << 20
#: Rows in a chunk of work: enough to hide the cost of a call, few enough to share the work evenly.
_CHUNK_ROWS = 256


class LinearScorer(NamedTuple):
    """Weights of linear models by feature; made by `prepare_scorer`, not to be written to.

    Attributes
    ----------
    n_features, n_labels : int
    intercept : ndarray of shape (n_labels,), float32
        -inf for a label that is never answered.
    order : ndarray of shape (n_labels,), int32
        The labels by falling intercept, ties by the smaller label.
    indptr : ndarray of shape (n_features + 1,), int64
        Where the entries of a feature begin in ``labels`` and ``weights``.
    labels : ndarray of shape (n_entries,), uint32
        Labels with a weight for the feature, ascending.
    weights : ndarray of shape (n_entries,), float32
    dense_row : ndarray of shape (n_features,), int32
        Row of ``dense`` that holds the weights of the feature instead, or -1.
    dense : ndarray of shape (n_dense, n_labels), float32
    """

    n_features: int
    n_labels: int
    intercept: np.ndarray
    order: np.ndarray
    indptr: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    dense_row: np.ndarray
    dense: np.ndarray

    @property
    def nbytes(self):
        """Bytes held."""
        return sum(field.nbytes for field in self if isinstance(field, np.ndarray))


def _frozen(*arrays):
    """Read-only views: Numba compiles one version, whether an array was writable or not."""
    views = [array.view(np.ndarray) for array in arrays]
    for view in views:
        view.flags.writeable = False
    return tuple(views)


# ---------------------------------------------------------------------------- layout


@jit
def _count_features(indptr, indices, usable, counts):
    for label in range(len(usable)):
        if usable[label]:
            for p in range(indptr[label], indptr[label + 1]):
                counts[indices[p]] += 1


@jit
def _fill(indptr, indices, data, usable, dense_row, dense, cursor, labels, weights):
    """Distribute the weights to the features; `cursor` is where each feature's entries begin."""
    for label in range(len(usable)):
        if not usable[label]:
            continue
        for p in range(indptr[label], indptr[label + 1]):
            feature = indices[p]
            row = dense_row[feature]
            if row >= 0:
                dense[row, label] = data[p]
            else:
                position = cursor[feature]
                labels[position] = label
                weights[position] = data[p]
                cursor[feature] = position + 1


def check_model(coef, intercept):
    """Weights as canonical CSR and intercepts as float32, or an error that says what is wrong."""
    coef = canonical_csr(coef, name="coef")
    n_labels, n_features = coef.shape
    for number, word in ((n_labels, "labels"), (n_features, "features")):
        if number > np.iinfo(np.int32).max:
            raise ValueError(f"At most {np.iinfo(np.int32).max} {word} are supported; got {number}")
    intercept = np.asarray(intercept, dtype=np.float32)
    if intercept.shape != (n_labels,):
        raise ValueError(
            f"intercept must have one value for each of the {n_labels} rows of coef; "
            f"got the shape {intercept.shape}."
        )
    wrong = np.isnan(intercept) | np.isposinf(intercept)
    if wrong.any():
        label = int(np.argmax(wrong))
        raise ValueError(f"intercept of label {label} is {intercept[label]}.")
    return coef, intercept


def prepare_scorer(coef, intercept):
    """Arrange the weights of linear models for prediction.

    Parameters
    ----------
    coef : sparse array of shape (n_labels, n_features)
        Weights, one row a label. Used as it is if it is a canonical CSR array of float32, also
        if read-only or memory-mapped; it is not kept.
    intercept : array-like of shape (n_labels,)
        -inf for a label that must never be answered.

    Returns
    -------
    LinearScorer
        Plain arrays; not views of the input, but for ``intercept``.

    Raises
    ------
    ValueError
        If the shapes do not fit, a weight is not finite, or an intercept is NaN or inf.
    TypeError
        If ``coef`` is not sparse.

    Notes
    -----
    Time O(nnz + n_features + n_labels log n_labels). Memory of the result: at most twice the 8
    bytes a weight that CSR takes, plus 12 bytes a feature and 8 bytes a label. No temporary
    array has the size of the weights.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.linear_scores import prepare_scorer, topk
    >>> scorer = prepare_scorer(sp.csr_array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), [-1, -1, 0])
    >>> topk(scorer, sp.csr_array([[0.5, 1.0]]), k=2)
    TopK(labels=array([[1, 2]], dtype=int32), scores=array([[1., 0.]], dtype=float32))
    """
    coef, intercept = check_model(coef, intercept)
    n_labels, n_features = coef.shape
    # -0 + 0 would be another bit pattern than -0 that nothing is added to.
    intercept = intercept + np.float32(0)
    usable = intercept > -np.inf

    counts = np.zeros(n_features, dtype=np.int64)
    coef_arrays = _frozen(coef.indptr, coef.indices, coef.data)
    _count_features(*coef_arrays[:2], usable, counts)
    dense_features = _choose_dense(counts, n_labels, _DENSE_SHARE, _DENSE_BUDGET)
    dense_row = np.full(n_features, -1, dtype=np.int32)
    dense_row[dense_features] = np.arange(len(dense_features), dtype=np.int32)
    dense = np.zeros((len(dense_features), n_labels), dtype=np.float32)
    counts[dense_features] = 0
    indptr = np.zeros(n_features + 1, dtype=np.int64)
    np.cumsum(counts, out=indptr[1:])
    labels = np.empty(indptr[-1], dtype=np.uint32)
    weights = np.empty(indptr[-1], dtype=np.float32)
    _fill(
        *(*coef_arrays, usable, dense_row),
        *(dense, indptr[:-1].copy(), labels, weights),
    )
    order = np.argsort(-intercept, kind="stable").astype(np.int32)
    return LinearScorer(
        n_features, n_labels, intercept, order, indptr, labels, weights, dense_row, dense
    )


def _choose_dense(counts, n_labels, share, budget):
    """The features to keep as dense rows: the most frequent ones, as far as the budget goes."""
    features = np.flatnonzero(counts >= max(1, share * n_labels))
    # 4 bytes a dense value against 8 bytes a weight and its label id
    n_affordable = int(budget * 2 * counts.sum() // max(n_labels, 1))
    by_count = features[np.argsort(-counts[features], kind="stable")]
    return np.sort(by_count[:n_affordable])


# ---------------------------------------------------------------------------- kernels
# Unsigned numbers index without the test for negative ones, which slows down short inner loops.
# Positions instead of slices, and loops instead of assignments to slices, because Numba takes long
# to compile the latter.


@jit
def _copy(source, target):
    for j in range(len(target)):
        target[j] = source[j]


@jit
def _add_dense_1(total, x, a):
    for j in range(len(total)):
        total[j] += x * a[j]


@jit
def _add_dense_4(total, x0, x1, x2, x3, a, b, c, d):
    for j in range(len(total)):
        total[j] = (((total[j] + x0 * a[j]) + x1 * b[j]) + x2 * c[j]) + x3 * d[j]


@jit
def _add_row(total, x_indices, x_data, begin, end, index):
    """Add the weights of the features at the positions begin to end of a row, in their order."""
    indptr, labels, weights, dense_row, dense = index
    p = begin
    while p < end:
        feature, x = x_indices[p], x_data[p]
        row = dense_row[feature]
        if row < 0:
            for q in range(np.uint64(indptr[feature]), np.uint64(indptr[feature + 1])):
                total[labels[q]] += x * weights[q]
            p += 1
            continue
        if p + 4 <= end:
            row_1 = dense_row[x_indices[p + 1]]
            row_2 = dense_row[x_indices[p + 2]]
            row_3 = dense_row[x_indices[p + 3]]
            if row_1 >= 0 and row_2 >= 0 and row_3 >= 0:
                _add_dense_4(
                    *(total, x, x_data[p + 1], x_data[p + 2], x_data[p + 3]),
                    *(dense[row], dense[row_1], dense[row_2], dense[row_3]),
                )
                p += 4
                continue
        _add_dense_1(total, x, dense[row])
        p += 1


@jit
def _score_rows(x_indptr, x_indices, x_data, start, stop, intercept, index, out):
    """Scores of all labels for the rows `start` to `stop`."""
    for i in range(start, stop):
        total = out[i - start]
        _copy(intercept, total)
        _add_row(total, x_indices, x_data, x_indptr[i], x_indptr[i + 1], index)


@jit
def _insert(label, score, out_labels, out_scores, found, k):
    """Insert a label into the list of the best, if it belongs there; return the list's length."""
    position = found
    while position > 0 and (
        score > out_scores[position - 1]
        or (score == out_scores[position - 1] and label < out_labels[position - 1])
    ):
        position -= 1
    if position == k:
        return found
    last = min(found, k - 1)
    for q in range(last, position, -1):
        out_labels[q] = out_labels[q - 1]
        out_scores[q] = out_scores[q - 1]
    out_labels[position] = label
    out_scores[position] = score
    return last + 1


@jit
def _select_reached(
    total, intercept, order, x_indices, begin, end, index, k, out_labels, out_scores
):
    """Select the best labels where few are reached, and set `total` back to the intercepts.

    `total` holds the scores, and -inf for what is excluded. Returns the number of answers, or -1
    if a score is NaN.
    """
    indptr, labels = index[0], index[1]
    found, has_nan = 0, False
    for p in range(begin, end):
        feature = x_indices[p]
        for q in range(indptr[feature], indptr[feature + 1]):
            label = labels[q]
            score = total[label]
            has_nan |= score != score
            if score > -np.inf and (found < k or score >= out_scores[k - 1]):
                found = _insert(np.int64(label), score, out_labels, out_scores, found, k)
            total[label] = -np.inf  # dealt with
    n_others = 0
    for label in order:
        score = intercept[label]
        if n_others == k or score == -np.inf or (found == k and score < out_scores[k - 1]):
            break
        if total[label] > -np.inf:
            found = _insert(np.int64(label), score, out_labels, out_scores, found, k)
            n_others += 1
    for p in range(begin, end):
        feature = x_indices[p]
        for q in range(indptr[feature], indptr[feature + 1]):
            total[labels[q]] = intercept[labels[q]]
    for j in range(found, k):
        out_labels[j] = -1
        out_scores[j] = -np.inf
    return -1 if has_nan else found


@jit
def _topk_rows(
    x_indptr, x_indices, x_data, start, stop, intercept, index, order, e_indptr, e_indices,
    few, total, k, out_labels, out_scores,
):  # fmt: skip
    """Fill the rows `start` to `stop` of the answers; return the first row with a NaN, or -1."""
    indptr, dense_row = index[0], index[3]
    clean = False  # total holds the intercepts
    for i in range(start, stop):
        begin, end = x_indptr[i], x_indptr[i + 1]
        e_begin, e_end = e_indptr[i], e_indptr[i + 1]
        answers = i - start
        if not clean:
            _copy(intercept, total)
        _add_row(total, x_indices, x_data, begin, end, index)
        n_weights, has_dense = 0, False
        for p in range(begin, end):
            n_weights += indptr[x_indices[p] + 1] - indptr[x_indices[p]]
            has_dense |= dense_row[x_indices[p]] >= 0  # reaches all labels
        clean = n_weights <= few and not has_dense
        for p in range(e_begin, e_end):
            total[e_indices[p]] = -np.inf
        if clean:
            found = _select_reached(
                *(total, intercept, order, x_indices, begin, end, index),
                *(k, out_labels[answers], out_scores[answers]),
            )
            for p in range(e_begin, e_end):
                total[e_indices[p]] = intercept[e_indices[p]]
        else:
            found = select_topk_dense_row(total, k, out_labels[answers], out_scores[answers])
        if found < 0:
            return i
    return -1


@jit
def _look_up_row(x_indices, x_data, begin, end, index, wanted, out):
    """Add to `out`, which holds the intercepts, the weights of the labels `wanted`."""
    indptr, labels, weights, dense_row, dense = index
    for p in range(begin, end):
        feature, x = x_indices[p], x_data[p]
        row = dense_row[feature]
        low, last = indptr[feature], indptr[feature + 1]
        for j in range(len(wanted)):
            label = wanted[j]
            if row >= 0:
                out[j] += x * dense[row, label]
                continue
            high = last
            while low < high:  # labels of both lists ascend: low never goes back
                middle = (low + high) >> 1
                if labels[middle] < label:
                    low = middle + 1
                else:
                    high = middle
            if low < last and labels[low] == label:
                out[j] += x * weights[low]


@jit
def _score_pairs(
    x_indptr, x_indices, x_data, start, stop, intercept, index, p_indptr, p_indices,
    bisection_cost, dense_cost, out,
):  # fmt: skip
    """Scores of the pairs in the rows `start` to `stop`; `out` begins with the first of them."""
    indptr, dense_row = index[0], index[3]
    n_labels = len(intercept)
    total = np.empty(0, dtype=np.float32)
    for i in range(start, stop):
        begin, end = x_indptr[i], x_indptr[i + 1]
        wanted = p_indices[p_indptr[i] : p_indptr[i + 1]]
        scores_of_row = out[p_indptr[i] - p_indptr[start] : p_indptr[i + 1] - p_indptr[start]]
        one_label, all_labels = 0.0, 2 * dense_cost * n_labels
        for p in range(begin, end):
            feature = x_indices[p]
            n_entries = indptr[feature + 1] - indptr[feature]
            if dense_row[feature] >= 0:
                one_label += bisection_cost
                all_labels += dense_cost * n_labels
            elif n_entries > 0:
                one_label += bisection_cost * (1 + math.log2(n_entries))
                all_labels += n_entries
        if one_label * len(wanted) <= all_labels:
            for j in range(len(wanted)):
                scores_of_row[j] = intercept[wanted[j]]
            _look_up_row(x_indices, x_data, begin, end, index, wanted, scores_of_row)
            continue
        if len(total) == 0:
            total = np.empty(n_labels, dtype=np.float32)
        _copy(intercept, total)
        _add_row(total, x_indices, x_data, begin, end, index)
        for j in range(len(wanted)):
            scores_of_row[j] = total[wanted[j]]


# ---------------------------------------------------------------------------- calls


def _check_rows(scorer, X):
    """X as canonical CSR float32 or as a two-dimensional ndarray."""
    if sp.issparse(X):
        X = canonical_csr(X)
    else:
        X = np.asarray(X)
        if X.ndim != 2:
            raise ValueError(f"X must be two-dimensional; got an array of shape {X.shape}.")
    if X.shape[1] != scorer.n_features:
        raise ValueError(
            f"X has {X.shape[1]} features, but the models have {scorer.n_features} weights each."
        )
    return X


def _row_arrays(X, start, stop):
    """`(indptr, indices, data), first, last`: CSR arrays that hold the rows start to stop of X."""
    if sp.issparse(X):
        return _frozen(X.indptr, X.indices, X.data), start, stop
    with np.errstate(over="ignore"):
        block = X[start:stop].astype(np.float32, copy=False)
    if not np.isfinite(block).all():
        row, column = np.argwhere(~np.isfinite(block))[0]
        raise ValueError(
            f"X holds {X[start + row, column]} in row {start + row}, column {column}: not a finite "
            "float32."
        )
    rows, indices = np.nonzero(block)
    indptr = np.zeros(len(block) + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=len(block)), out=indptr[1:])
    return _frozen(indptr, indices.astype(np.int32), block[rows, indices]), 0, len(block)


def _model(scorer):
    """`intercept, index`: the scorer's arrays as the kernels take them."""
    intercept, _, *index = _frozen(*scorer[2:])
    return intercept, tuple(index)


def _chunks(X, n_threads, row_size=0):
    """Row ranges, small enough for `n_threads` blocks of them to be held at a time."""
    n_rows = X.shape[0]
    size = max(_CHUNK_ROWS, -(-n_rows // (8 * n_threads)))
    if not sp.issparse(X):
        row_size = max(row_size, X.shape[1])
    if row_size:
        size = min(size, max(1, _BLOCK_SIZE // row_size))
    return [(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def _raise_nan(row):
    raise ValueError(
        f"Scores of row {row} of X exceed float32: scale the features, or the weights are wrong."
    )


def scores(scorer, X, *, n_threads=1):
    """Scores of all labels.

    Parameters
    ----------
    scorer : LinearScorer
        From `prepare_scorer`.
    X : sparse array or ndarray of shape (n_samples, n_features)
        Rows. CSR float32 and dense arrays are used as they are; values are taken as float32.
    n_threads : int, default=1
        Number of threads; the result does not depend on it.

    Returns
    -------
    ndarray of shape (n_samples, n_labels), float32
        -inf for a label with the intercept -inf.

    Raises
    ------
    ValueError
        If the number of features differs or X holds a value that is not finite.

    Notes
    -----
    Time: see `topk`.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.linear_scores import prepare_scorer, scores
    >>> scorer = prepare_scorer(sp.csr_array([[1.0, 0.0], [0.0, 2.0]]), [-1.0, -np.inf])
    >>> scores(scorer, np.array([[0.5, 1.0]]))
    array([[-0.5, -inf]], dtype=float32)
    """
    X, n_threads = _check_rows(scorer, X), check_n_threads(n_threads)
    out = np.empty((X.shape[0], scorer.n_labels), dtype=np.float32)

    def run(chunk):
        arrays, first, last = _row_arrays(X, *chunk)
        _score_rows(*arrays, first, last, *_model(scorer), out[chunk[0] : chunk[1]])

    for _ in map_chunks(run, _chunks(X, n_threads), n_threads):
        pass
    return out


def pair_scores(scorer, X, pairs, *, n_threads=1):
    """Scores of given (row, label) pairs.

    Parameters
    ----------
    scorer : LinearScorer
        From `prepare_scorer`.
    X : sparse array or ndarray of shape (n_samples, n_features)
        As for `scores`.
    pairs : sparse array of shape (n_samples, n_labels)
        The pairs are those with a stored value other than 0.
    n_threads : int, default=1
        Number of threads; the result does not depend on it.

    Returns
    -------
    csr_array of shape (n_samples, n_labels), float32
        The scores `scores` would give, bit for bit, -inf included; 0 is stored too.

    Raises
    ------
    ValueError
        If a shape differs or X holds a value that is not finite.
    TypeError
        If ``pairs`` is not sparse.

    Notes
    -----
    Time O(row entries * pairs of the row * log(weights of a feature)), or that of `scores` where
    this is less; decided for each row. Memory of the result, and 4 bytes a label and thread.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.linear_scores import pair_scores, prepare_scorer
    >>> scorer = prepare_scorer(sp.csr_array([[1.0, 0.0], [0.0, 2.0]]), [-1.0, -1.0])
    >>> pair_scores(scorer, np.array([[0.5, 1.0]]), sp.csr_array([[0, 1]])).data
    array([1.], dtype=float32)
    """
    X, n_threads = _check_rows(scorer, X), check_n_threads(n_threads)
    pairs = canonical_pattern(pairs, (X.shape[0], scorer.n_labels), name="pairs")
    return _pair_scores(scorer, X, pairs, n_threads)


def _pair_scores(scorer, X, pairs, n_threads):
    data = np.empty(len(pairs.indices), dtype=np.float32)

    def run(chunk):
        start, stop = chunk
        arrays, first, last = _row_arrays(X, start, stop)
        of_chunk = _frozen(pairs.indptr[start - first :], pairs.indices)
        entries = slice(int(pairs.indptr[start]), int(pairs.indptr[stop]))
        _score_pairs(
            *(*arrays, first, last, *_model(scorer), *of_chunk),
            *(_BISECTION_COST, _DENSE_COST, data[entries]),
        )

    for _ in map_chunks(run, _chunks(X, n_threads), n_threads):
        pass
    out = sp.csr_array(pairs.shape, dtype=np.float32)
    out.data, out.indices, out.indptr = data, pairs.indices, pairs.indptr
    out.has_canonical_format = True
    return out


def topk(scorer, X, k, exclude=None, candidates=None, *, n_threads=1):
    """The k labels with the largest scores of each row.

    Larger scores come first, and of equal scores the smaller label. The result is exact: no label
    is left out that a look at all scores would have found.

    Parameters
    ----------
    scorer : LinearScorer
        From `prepare_scorer`.
    X : sparse array or ndarray of shape (n_samples, n_features)
        As for `scores`.
    k : int
        Number of answers a row, at least 1.
    exclude : sparse array of shape (n_samples, n_labels) or None, default=None
        Pairs that must not be answered: those with a stored value other than 0.
    candidates : sparse array of shape (n_samples, n_labels) or None, default=None
        The only pairs allowed, read in the same way.
    n_threads : int, default=1
        Number of threads; the result does not depend on it.

    Returns
    -------
    TopK
        ``labels`` (n_samples, k), int32; ``scores`` (n_samples, k), float32, bit for bit those of
        `scores`. Padded with -1 and -inf. Labels with a score of -inf are never answered.

    Raises
    ------
    ValueError
        If a shape differs, ``k`` < 1, X holds a value that is not finite, or a score exceeds
        float32 so that it is not a number.
    TypeError
        If ``k`` is not an integer, or ``exclude`` or ``candidates`` is not sparse.

    Notes
    -----
    Time of a row: its weights, that is the weights of its features for all labels (a feature in
    a dense row counts for about n_labels / 8 of them), plus a pass over all labels of about
    n_labels / 16 additions; the pass is left out for rows with few weights. With ``candidates``:
    see `pair_scores`. Memory: O(n_samples * k), 4 bytes a label and thread, and the scores of the
    candidates; for dense X or k over 256 some 30 MB more a thread.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.linear_scores import prepare_scorer, topk
    >>> scorer = prepare_scorer(sp.csr_array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]), [-1, -1, -1])
    >>> topk(scorer, np.array([[0.5, 1.0]]), k=2, exclude=sp.csr_array([[0, 1, 0]])).labels
    array([[2, 0]], dtype=int32)
    """
    X, k, n_threads = _check_rows(scorer, X), check_k(k), check_n_threads(n_threads)
    shape = (X.shape[0], scorer.n_labels)
    if exclude is not None:
        exclude = canonical_pattern(exclude, shape, name="exclude")
    if candidates is not None:
        candidates = canonical_pattern(candidates, shape, name="candidates")
        if exclude is not None:
            candidates = subtract_pattern(candidates, exclude)
        return _topk_pairs(scorer, X, k, candidates, n_threads)
    labels = np.empty((X.shape[0], k), dtype=np.int32)
    best = np.empty((X.shape[0], k), dtype=np.float32)
    if exclude is None:
        excluded = np.zeros(X.shape[0] + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
    else:
        excluded = exclude.indptr, exclude.indices
    sort = min(k, scorer.n_labels) > _LARGEST_LIST

    def run(chunk):
        start, stop = chunk
        arrays, first, last = _row_arrays(X, start, stop)
        of_chunk = _frozen(excluded[0][start - first :], excluded[1])
        fill = _sort_rows if sort else _topk_rows
        row = fill(
            *(*arrays, first, last, *_model(scorer), *_frozen(scorer.order), *of_chunk),
            *(_FEW_WEIGHTS * scorer.n_labels, np.empty(scorer.n_labels, dtype=np.float32)),
            *(k, labels[start:stop], best[start:stop]),
        )
        return row if row < 0 else row - first + start

    chunks = _chunks(X, n_threads, scorer.n_labels if sort else 0)
    for row in map_chunks(run, chunks, n_threads):
        if row >= 0:
            _raise_nan(row)
    return TopK(labels, best)


def _sort_rows(
    x_indptr, x_indices, x_data, start, stop, intercept, index, order, e_indptr, e_indices,
    few, total, k, out_labels, out_scores,
):  # fmt: skip
    """As `_topk_rows`, for long lists of answers."""
    block = np.empty((stop - start, len(intercept)), dtype=np.float32)
    _score_rows(x_indptr, x_indices, x_data, start, stop, intercept, index, block)
    excluded = e_indices[e_indptr[start] : e_indptr[stop]]
    block[np.repeat(np.arange(len(block)), np.diff(e_indptr[start : stop + 1])), excluded] = -np.inf
    has_nan = np.isnan(block).any(axis=1)
    if has_nan.any():
        return start + int(np.argmax(has_nan))
    out_labels[:], out_scores[:] = topk_dense(block, k)
    return -1


def _topk_pairs(scorer, X, k, candidates, n_threads):
    found = _pair_scores(scorer, X, candidates, n_threads)
    is_nan = np.isnan(found.data)
    if is_nan.any():
        _raise_nan(int(np.searchsorted(found.indptr, np.argmax(is_nan), side="right")) - 1)
    return topk_csr(found, k, n_threads=n_threads)
