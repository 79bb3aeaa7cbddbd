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
from skxmc.exceptions import ModelFormatError
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
    checked : ndarray of shape (n_features,), uint8, or None
        Whether the entries of a feature are known to be in order, where they come from a file; see
        `mapped_scorer`. None: all are.
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
    checked: np.ndarray | None = None

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


#: The arrays of a `LinearScorer` that a file holds.
STORED = ("intercept", "order", "indptr", "labels", "weights", "dense_row", "dense")


def mapped_scorer(arrays):
    """Make a scorer of arrays that come from a file, without reading the weights.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Those named by ``STORED``, as `prepare_scorer` made them; read-only or memory-mapped too.

    Returns
    -------
    LinearScorer
        On these arrays. What it was not told to trust, the entries of a feature, is checked when a
        row meets the feature for the first time: labels ascending and in range, weights finite.
        Then every call raises `ModelFormatError` where they are not, before a kernel, which does
        not check bounds, looks at them.

    Raises
    ------
    ModelFormatError
        If the other arrays are wrong, or do not fit together.

    Notes
    -----
    Time and memory O(n_features + n_labels); a check costs about what a scoring does, once for each
    feature.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.linear_scores import STORED, mapped_scorer, prepare_scorer, topk
    >>> scorer = prepare_scorer(sp.csr_array([[1.0, 0.0], [0.0, 2.0]]), [-1, -1])
    >>> again = mapped_scorer({name: getattr(scorer, name) for name in STORED})
    >>> topk(again, sp.csr_array([[0.5, 1.0]]), k=1)
    TopK(labels=array([[1]], dtype=int32), scores=array([[1.]], dtype=float32))
    """
    if not isinstance(arrays, dict) or set(arrays) != set(STORED):
        raise ModelFormatError(f"A linear model by feature has the arrays {', '.join(STORED)}.")
    intercept, order, indptr, labels, _, dense_row, dense = (arrays[n] for n in STORED)
    n_labels, n_features = np.size(intercept), np.size(indptr) - 1
    n_entries, n_dense = np.size(labels), np.shape(dense)[0] if np.ndim(dense) == 2 else -1
    for name, dtype, shape in (
        ("intercept", np.float32, (n_labels,)),
        ("order", np.int32, (n_labels,)),
        ("indptr", np.int64, (n_features + 1,)),
        ("labels", np.uint32, (n_entries,)),
        ("weights", np.float32, (n_entries,)),
        ("dense_row", np.int32, (n_features,)),
        ("dense", np.float32, (n_dense, n_labels)),
    ):
        array = arrays[name]
        # Of native byte order and contiguous: the kernels are compiled for such.
        fits = isinstance(array, np.ndarray) and array.dtype == np.dtype(dtype)
        if not fits or array.shape != shape or not array.flags.c_contiguous:
            raise ModelFormatError(f"{name} must be a {np.dtype(dtype).name} array of {shape}.")
    if np.isnan(intercept).any() or (intercept == np.inf).any():
        raise ModelFormatError("intercept has values that are NaN or infinite.")
    rises = len(indptr) and indptr[0] == 0 and indptr[-1] == n_entries
    if not rises or (indptr[1:] < indptr[:-1]).any():
        raise ModelFormatError(f"indptr does not rise from 0 to the {n_entries} weights.")
    if n_features and not -1 <= dense_row.min() <= dense_row.max() < n_dense:
        raise ModelFormatError(f"dense_row leads out of the {n_dense} dense rows.")
    in_range = n_labels == 0 or 0 <= order.min() <= order.max() < n_labels
    if not in_range or (np.bincount(order, minlength=n_labels) != 1).any():
        raise ModelFormatError("order does not hold each label once.")
    ranked = intercept[order]
    falls = ranked[1:] < ranked[:-1]
    if not (falls | ((ranked[1:] == ranked[:-1]) & (order[1:] > order[:-1]))).all():
        raise ModelFormatError("order is not that of the intercepts.")
    checked = np.zeros(n_features, dtype=np.uint8)
    return LinearScorer(n_features, n_labels, *(arrays[n] for n in STORED), checked)


@jit
def _check_features(features, begin, end, index, n_labels, checked):
    """Check the entries of those features that no one has; return the first wrong one, or -1."""
    indptr, labels, weights, dense_row, dense = index
    for p in range(begin, end):
        feature = features[p]
        if checked[feature]:
            continue
        previous = np.int64(-1)
        for q in range(indptr[feature], indptr[feature + 1]):
            label = np.int64(labels[q])
            if label <= previous or not abs(weights[q]) < np.inf:
                return np.int64(feature)
            previous = label
        if previous >= n_labels:
            return np.int64(feature)
        row = dense_row[feature]
        if row >= 0:
            for j in range(n_labels):
                if not abs(dense[row, j]) < np.inf:
                    return np.int64(feature)
        # After the check: another thread may rely on it at once.
        checked[feature] = 1
    return np.int64(-1)


def _require_sound(scorer, features, begin, end):
    if scorer.checked is None:
        return
    wrong = _check_features(
        *(features, begin, end, _model(scorer)[1], scorer.n_labels, scorer.checked)
    )
    if wrong >= 0:
        raise ModelFormatError(
            f"The weights of feature {wrong} are damaged: the labels must ascend and be below "
            f"{scorer.n_labels}, the weights must be finite."
        )


def check_scorer(scorer):
    """Check all entries of a `mapped_scorer` that no row has met yet.

    Parameters
    ----------
    scorer : LinearScorer
        What to check; one from `prepare_scorer` needs none and passes at once.

    Raises
    ------
    ModelFormatError
        If an entry is wrong.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.linear_scores import check_scorer, prepare_scorer
    >>> check_scorer(prepare_scorer(sp.csr_array([[1.0, 0.0], [0.0, 2.0]]), [-1, -1]))
    """
    features = np.arange(scorer.n_features, dtype=np.int32)
    _require_sound(scorer, *_frozen(features), 0, len(features))


def weights_by_label(scorer):
    """Return the weights that a scorer was prepared from.

    Parameters
    ----------
    scorer : LinearScorer
        Also one from `mapped_scorer`, whose entries are all checked first.

    Returns
    -------
    csr_array of shape (n_labels, n_features), float32
        Canonical, without stored zeros.

    Raises
    ------
    ModelFormatError
        If an entry is wrong.

    Notes
    -----
    Time and memory O(nnz + n_dense * n_labels).

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.linear_scores import prepare_scorer, weights_by_label
    >>> scorer = prepare_scorer(sp.csr_array([[1.0, 0.0], [0.0, 2.0]]), [-1, -1])
    >>> weights_by_label(scorer).toarray()
    array([[1., 0.],
           [0., 2.]], dtype=float32)
    """
    check_scorer(scorer)
    is_list = scorer.dense_row < 0
    lengths = np.where(is_list, np.diff(scorer.indptr), 0)
    if len(scorer.labels) != lengths.sum():
        raise ModelFormatError("A feature has weights both in a list and in a dense row.")
    by_list = sp.csc_array((scorer.n_labels, scorer.n_features), dtype=np.float32)
    by_list.indptr, by_list.data = scorer.indptr, scorer.weights
    by_list.indices = scorer.labels.astype(np.int64)
    features = np.flatnonzero(~is_list)
    dense = sp.coo_array(scorer.dense[scorer.dense_row[features]])
    dense = sp.coo_array((dense.data, (dense.col, features[dense.row])), shape=by_list.shape)
    # Each pair is in one of the two, so nothing is added up.
    return canonical_csr(by_list.tocsr() + dense.tocsr(), np.float32, name="coef")


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


@jit(allocates=True)
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


def _row_arrays(scorer, X, start, stop):
    """`(indptr, indices, data), first, last`: CSR arrays that hold the rows start to stop of X.

    The features that they meet are checked where that is due.
    """
    rows, first, last = _sparse_arrays(X, start, stop)
    _require_sound(scorer, rows[1], rows[0][first], rows[0][last])
    return rows, first, last


def _sparse_arrays(X, start, stop):
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
    intercept, _, *index = _frozen(*scorer[2:9])
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
        arrays, first, last = _row_arrays(scorer, X, *chunk)
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
        arrays, first, last = _row_arrays(scorer, X, start, stop)
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
        arrays, first, last = _row_arrays(scorer, X, start, stop)
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
