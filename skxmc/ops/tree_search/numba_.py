"""Search in trees of linear models in Numba: what checks, shares out and joins the kernels' work.

All searches rest on one primitive that scores the children of a node for a row, so a score is the
same bit for bit in every search, batch, chunk and thread. Three things make it fast:

* The weights of all children are stored together, so that a row meets a chunk once (Etter et al.
  2022, arXiv 2106.02697). A feature with weights for many of the children is a dense row, added
  with SIMD instructions.
* The rows of a batch that expand the same node do so one after the other, with the places of the
  chunk's features noted in an array of all features. A single row finds its features through
  buckets of about one entry each.
* Children that cannot enter a list of the best are passed over before exp and log.
"""

import numbers
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc._parallel import map_chunks
from skxmc.ops.csr import canonical_pattern, subtract_pattern
from skxmc.ops.topk import TopK, topk_csr
from skxmc.ops.topk._types import check_k, check_n_threads
from skxmc.ops.tree_search import _kernels
from skxmc.ops.tree_search._layout import frozen, raise_if_damaged
from skxmc.ops.tree_search._simd import LANES

#: Rows that are searched together, and entries of their lists that are held at a time.
_BLOCK_ROWS = 4096
_BLOCK_ENTRIES = 1 << 20
#: So few rows look features up in the chunks.
_FEW_ROWS = 16
_INT64, _INT32, _FLOAT32 = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.float32)
_NO_FLOATS = frozen(np.empty(0, dtype=np.float64))[0]


class LabelGains(NamedTuple):
    """Gains and offsets of labels with their bounds in trees; made by `prepare_gains`.

    Attributes
    ----------
    gain, offset : ndarray of shape (n_labels,), float64
    bounds : tuple of (ndarray, ndarray)
        For each tree the largest gain and offset at or below each node.
    """

    gain: np.ndarray
    offset: np.ndarray
    bounds: tuple


def prepare_gains(trees, gain=None, offset=None):
    """Bounds of the gains and offsets of labels, for `search_topk` to use again and again.

    Parameters
    ----------
    trees : sequence of SearchTree
    gain : array-like of shape (n_labels,), default=None
        At least 0. None: 1 for all labels.
    offset : array-like of shape (n_labels,), default=None
        Of any sign. None: 0 for all labels.

    Returns
    -------
    LabelGains

    Raises
    ------
    ValueError
        If a shape is wrong, a value is not finite or a gain is negative.

    Notes
    -----
    Time and memory O(nodes).

    Examples
    --------
    See `skxmc.ops.tree_search`.
    """
    trees = _check_trees(trees)
    n_labels = trees[0].n_labels
    values = []
    for array, default, name in ((gain, 1.0, "gain"), (offset, 0.0, "offset")):
        array = np.full(n_labels, default) if array is None else np.asarray(array, np.float64)
        if array.shape != (n_labels,):
            raise ValueError(
                f"{name} must have one value for each of the {n_labels} labels; got the shape "
                f"{array.shape}."
            )
        wrong = ~np.isfinite(array) | ((name == "gain") & (array < 0))
        if wrong.any():
            label = int(np.argmax(wrong))
            raise ValueError(f"{name} of label {label} is {array[label]}.")
        values.append(np.ascontiguousarray(array))
    values = frozen(*values)
    bounds = []
    for tree in trees:
        nodes = np.full((2, tree.n_nodes), -np.inf)
        _kernels.bound_nodes(*frozen(tree.parent, tree.arrays[10]), *values, *nodes)
        bounds.append(frozen(*nodes))
    return LabelGains(*values, tuple(bounds))


# ---------------------------------------------------------------------------- inputs


class _Rows(NamedTuple):
    """Rows as the kernels take them, and the entries of the longest one."""

    arrays: tuple
    longest: int

    @property
    def n_rows(self):
        return len(self.arrays[0]) - 1


def _check_trees(trees):
    trees = tuple(trees)
    if not trees:
        raise ValueError("trees is empty: give at least one tree.")
    for number, tree in enumerate(trees[1:], start=1):
        for name in ("n_features", "n_labels"):
            if getattr(tree, name) != getattr(trees[0], name):
                raise ValueError(
                    f"Tree {number} has {name}={getattr(tree, name)}, tree 0 has "
                    f"{getattr(trees[0], name)}."
                )
    return trees


def _check_rows(tree, indptr, indices, data):
    indptr, indices, data = np.asarray(indptr), np.asarray(indices), np.asarray(data)
    for array, dtype, name in (
        (indptr, _INT64, "indptr"),
        (indices, _INT32, "indices"),
        (data, _FLOAT32, "data"),
    ):
        if array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(
                f"{name} must be a contiguous one-dimensional {dtype.name} array; got "
                f"{array.dtype} {array.shape}: use skxmc.ops.csr.canonical_csr."
            )
    longest = -1
    if len(indptr) == 2:
        longest = int(indptr[1]) - int(indptr[0])
    elif len(indptr) > 0:
        lengths = np.diff(indptr)
        longest = -1 if lengths.min(initial=0) < 0 else int(lengths.max(initial=0))
    fit = longest >= 0 and indptr[0] >= 0 and indptr[-1] <= len(indices) == len(data)
    if not fit:
        raise ValueError("indptr, indices and data of X do not fit together.")
    # unsigned: negative ones are too large as well
    if len(indices) and indices.view(np.uint32).max() >= tree.n_features:
        raise ValueError(
            f"X has an entry outside the {tree.n_features} features that the trees know."
        )
    return _Rows(frozen(indptr, indices, data), max(longest, 1))


def _check_input(trees, indptr, indices, data, n_threads):
    """What all searches take: the trees, `_Rows` and the number of threads."""
    trees, n_threads = _check_trees(trees), check_n_threads(n_threads)
    return trees, _check_rows(trees[0], indptr, indices, data), n_threads


def _check_width(value, name):
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer of at least 1, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return int(value)


def _take(rows, chosen):
    """The CSR arrays `indptr, indices(, data)` of the chosen rows."""
    indptr, *parts = rows
    begins, lengths = indptr[chosen], indptr[chosen + 1] - indptr[chosen]
    taken = np.zeros(len(chosen) + 1, dtype=np.int64)
    np.cumsum(lengths, out=taken[1:])
    entries = np.arange(taken[-1]) + np.repeat(begins - taken[:-1], lengths)
    return frozen(taken, *(part[entries] for part in parts))


def _in_chunks(run, n_rows, n_threads, entries_of_row=0):
    """Results of ``run(start, stop)`` for chunks of rows, in threads."""
    size = min(_BLOCK_ROWS, -(-n_rows // n_threads))
    if entries_of_row:
        size = min(size, _BLOCK_ENTRIES // entries_of_row)
    size = max(size, 1)
    if size >= n_rows:
        return [run(0, n_rows)] if n_rows else []
    chunks = [(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]
    return list(map_chunks(lambda chunk: run(*chunk), chunks, n_threads))


def _raise_if_nan(row, tree=None, numbers=None):
    """Refuse what a kernel answers with if a score is NaN: the row, or else -1."""
    if row >= 0:
        if tree is not None:
            raise_if_damaged(tree)  # the scores of such a chunk are NaN
        row = row if numbers is None else numbers[row]
        raise ValueError(
            f"Scores of row {row} of X exceed float32: scale the features, or the weights are "
            "wrong."
        )


# ---------------------------------------------------------------------------- top k


class _Query(NamedTuple):
    """What is searched for: rows, pairs that are excluded, and what a label is worth."""

    trees: tuple
    rows: _Rows
    excluded: tuple
    gains: LabelGains | None
    numbers: np.ndarray | None = None  # of the rows, where they are a part of X

    def bounds(self, tree_number):
        return (_NO_FLOATS, _NO_FLOATS) if self.gains is None else self.gains.bounds[tree_number]

    @property
    def label_gains(self):
        return (_NO_FLOATS, _NO_FLOATS) if self.gains is None else self.gains[:2]

    def take(self, chosen):
        """The query of the chosen rows."""
        return self._replace(
            rows=_Rows(_take(self.rows.arrays, chosen), self.rows.longest),
            excluded=_take(self.excluded, chosen) if self.excluded else (),
            numbers=chosen if self.numbers is None else self.numbers[chosen],
        )


def search_topk(
    trees,
    indptr,
    indices,
    data,
    k,
    *,
    beam=10,
    gain=None,
    offset=None,
    exclude=None,
    candidates=None,
    complete=False,
    n_threads=1,
):
    """The k best labels of each row by their probability averaged over the trees.

    Larger scores come first, and of equal scores the smaller label.

    Parameters
    ----------
    trees : sequence of SearchTree
        From `prepare_search`, with the same labels and features.
    indptr, indices, data : ndarray
        Rows in canonical CSR: int64, int32 ascending in each row, float32.
    k : int
        Number of answers a row, at least 1.
    beam : int or None, default=10
        Inner nodes that are expanded at each depth: the best by path score, or by the bound on the
        value where there are gains; of equal ones the smaller node number. None: exact search.
    gain : array-like of shape (n_labels,) or LabelGains, default=None
        The value of a label with the probability p becomes ``gain * p + offset``; at least 0.
    offset : array-like of shape (n_labels,), default=None
        Of any sign.
    exclude : sparse array of shape (n_rows, n_labels), default=None
        Pairs that must not be answered: those with a stored value other than 0.
    candidates : sparse array of shape (n_rows, n_labels), default=None
        The only pairs allowed; ``beam`` has then no meaning, for all of them are scored.
    complete : bool, default=False
        For the beam in several trees. A label that one tree answers may be out of the beam in
        another: False takes its probability there as 0, True works it out.
    n_threads : int, default=1
        Number of threads; the result does not depend on it.

    Returns
    -------
    TopK
        ``labels`` (n_rows, k), int32, padded with -1; ``scores`` (n_rows, k), float32: the
        logarithm of the averaged probability (for one tree the path score itself), or the values
        where there are gains. Labels with the probability 0 because of a score of -inf are never
        answered.

    Raises
    ------
    ValueError
        If the rows do not fit the trees, an argument is out of range, or a score exceeds float32
        so that it is not a number.
    TypeError
        If ``k`` or ``beam`` is not an integer, or ``exclude`` or ``candidates`` not sparse.

    Notes
    -----
    Several trees: each gives its best ``max(2 * k, 4 * beam)`` labels that the beam reaches. A row
    with fewer than k answers, because the beam reaches too few labels that are not excluded, is
    searched exactly instead.

    The exact search is best first in one tree: a path score bounds all below it, since no edge is
    above 0 (Jasinska et al. 2016; with gains: their largest ones below the node). In several
    trees it is the threshold algorithm of Fagin et al. 2003: each tree gives its best labels, they
    are scored in all trees, until no label unseen could be among the best.

    Time of the beam for a row: ``beam * depth`` expansions, each costing its features plus the
    weights these have in the chunk plus the children. Memory: ``48 * beam + 16 * k`` bytes for each
    of up to 4,096 rows and thread; the exact search needs 16 bytes an inner node instead.

    Examples
    --------
    See `skxmc.ops.tree_search`.
    """
    k = check_k(k)
    trees, rows, n_threads = _check_input(trees, indptr, indices, data, n_threads)
    shape = (len(indptr) - 1, trees[0].n_labels)
    if beam is not None:
        beam = _check_width(beam, "beam")
    gains = gain
    if isinstance(gain, LabelGains):
        if offset is not None:
            raise ValueError("offset is part of prepared gains: give it to prepare_gains.")
    elif gain is not None or offset is not None:
        gains = prepare_gains(trees, gain, offset)
    if exclude is not None:
        exclude = canonical_pattern(exclude, shape, name="exclude")
    if candidates is not None:
        candidates = canonical_pattern(candidates, shape, name="candidates")
        if exclude is not None:
            candidates = subtract_pattern(candidates, exclude)
        query = _Query(trees, rows, (), gains)
        return topk_csr(_score_pattern(query, candidates, n_threads), k, n_threads=n_threads)
    if exclude is None:
        excluded = np.zeros(shape[0] + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
    else:
        excluded = exclude.indptr, exclude.indices
    query = _Query(trees, rows, frozen(*excluded), gains)
    answers = _empty_answers(shape[0], k)

    def run(start, stop):
        mine = TopK(answers.labels[start:stop], answers.scores[start:stop])
        if beam is None:
            _exact(query, start, stop, mine)
        else:
            _beam(query, start, stop, beam, complete, mine)

    entries_of_row = min(k, shape[1]) + (0 if beam is None else 4 * len(trees) * beam)
    _in_chunks(run, shape[0], n_threads, entries_of_row)
    return answers


def _beam(query, start, stop, beam, complete, answers):
    """Fill the answers of the rows `start` to `stop`."""
    k, n_labels, n_trees = answers.labels.shape[1], query.trees[0].n_labels, len(query.trees)
    keep = min(k if n_trees == 1 else max(2 * k, 4 * beam), n_labels)
    found = _beam_answers(query, start, stop, 0, beam, keep)
    if n_trees == 1:
        keys, _, sizes = found
        _kernels.write_answers(keys[0], sizes[0], k, *answers)
    elif complete:
        _best_of_union(query.take(np.arange(start, stop)), found, answers)
    else:
        _kernels.write_answers(*_merge(query, found, min(k, n_labels)), k, *answers)
    _search_short_rows(query, start, stop, answers)


def _search_short_rows(query, start, stop, answers):
    """Search the rows exactly where a beam found fewer answers than there are."""
    k, n_labels = answers.labels.shape[1], query.trees[0].n_labels
    if answers.labels[:, -1].min() >= 0:
        return
    excluded = query.excluded[0]
    remaining = n_labels - (excluded[start + 1 : stop + 1] - excluded[start:stop])
    n_wanted = np.minimum(remaining, k)
    few = np.flatnonzero(
        (n_wanted > 0) & (answers.labels[np.arange(stop - start), n_wanted - 1] < 0)
    )
    if len(few):
        found = _empty_answers(len(few), k)
        _exact(query.take(start + few), 0, len(few), found)
        answers.labels[few], answers.scores[few] = found


def _empty_answers(n_rows, k):
    return TopK(np.empty((n_rows, k), dtype=np.int32), np.empty((n_rows, k), dtype=np.float32))


def _space(tree, rows):
    """Room for a row's features in a chunk, and in whole blocks for the scores of children."""
    hits = np.empty(rows.longest, dtype=np.uint32), np.empty(rows.longest, dtype=np.float32)
    return hits, np.empty(tree.max_children + LANES, dtype=np.float32)


def _search_trees(query, n_rows, keep, search):
    """Sorted keys, items and numbers of answers of each tree; ``search(t, out)`` finds them."""
    shape = (len(query.trees), n_rows, keep)
    keys, items = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
    sizes = np.empty(shape[:2], dtype=np.int64)
    for t in range(len(query.trees)):
        out = keys[t], items[t], sizes[t]
        _raise_if_nan(search(t, out), query.trees[t], query.numbers)
        _kernels.sort_answers(*out)
    return keys, items, sizes


def _beam_answers(query, start, stop, depth, beam, keep):
    """Answers of each tree for the rows `start` to `stop`, see `_search_trees`."""
    n_rows = stop - start

    def search(t, out):
        tree = query.trees[t]
        width = min(beam, tree.n_inner)
        frontiers = (
            np.empty((2, n_rows, width), dtype=np.int64),
            np.empty((2, n_rows, width), dtype=np.int64),
            np.empty((2, n_rows), dtype=np.int64),
            np.empty(n_rows * width, dtype=np.int64),
            np.empty(n_rows * width + 2, dtype=np.int64),  # a level may be wider than n_inner
        )
        place = np.zeros(tree.n_features if n_rows >= _FEW_ROWS else 0, dtype=np.uint32)
        return _kernels.beam_rows(
            *(*query.rows.arrays, start, stop, tree.arrays, tree.link, query.bounds(t)),
            *(*query.excluded, depth, width, keep),
            *(frontiers, place, *_space(tree, query.rows), *out),
        )

    return _search_trees(query, n_rows, keep, search)


def _merge(query, found, k):
    """Sorted keys and numbers of the best k labels, one not answered by a tree having p = 0."""
    keys, items, sizes = found
    n_trees, n_rows, keep = keys.shape
    n_slots = 1 << (2 * n_trees * keep - 1).bit_length()
    out_keys = np.empty((n_rows, k), dtype=np.int64)
    out_sizes = np.empty(n_rows, dtype=np.int64)
    _kernels.merge_rows(
        *(keys, items, sizes, *query.label_gains, k),
        *(np.empty(n_slots, dtype=np.int32), np.empty(n_trees * keep, dtype=np.int64)),
        *(np.empty((n_slots, n_trees), dtype=np.float32), out_keys, out_sizes),
    )
    return out_keys, out_sizes


def _best_of_union(query, found, answers):
    """The best of the labels that any tree answers, scored in all trees."""
    keys, _, sizes = found
    labels = [_decode(*of_tree)[0] for of_tree in zip(keys, sizes, strict=True)]
    labels = np.sort(np.concatenate(labels, axis=1), axis=1)
    chosen = labels >= 0
    chosen[:, 1:] &= labels[:, 1:] != labels[:, :-1]
    union = _pattern(
        np.append(0, np.cumsum(chosen.sum(axis=1))),
        labels[chosen],
        (len(labels), query.trees[0].n_labels),
    )
    scores = _score_pattern(query, union, 1)
    best = topk_csr(scores, answers.labels.shape[1])
    answers.labels[:], answers.scores[:] = best


def _decode(keys, sizes):
    labels = np.empty(keys.shape, dtype=np.int32)
    scores = np.empty(keys.shape, dtype=np.float32)
    _kernels.write_answers(keys, sizes, keys.shape[1], labels, scores)
    return labels, scores


def _exact_answers(query, start, stop, keep):
    """Answers of each tree for the rows `start` to `stop`, see `_search_trees`."""

    def search(t, out):
        tree = query.trees[t]
        queue = np.empty(tree.n_inner, dtype=np.int64), np.empty(tree.n_inner, dtype=np.int64)
        return _kernels.exact_rows(
            *(*query.rows.arrays, start, stop, tree.arrays, tree.link, query.bounds(t)),
            *(*query.excluded, *frozen(tree.min_label), keep),
            *(*_space(tree, query.rows), *queue, *out),
        )

    return _search_trees(query, stop - start, keep, search)


def _exact(query, start, stop, answers):
    """Fill the answers of the rows `start` to `stop`."""
    k, n_labels = answers.labels.shape[1], query.trees[0].n_labels
    if len(query.trees) == 1:
        keys, _, sizes = _exact_answers(query, start, stop, min(k, n_labels))
        _kernels.write_answers(keys[0], sizes[0], k, *answers)
        return
    pending, keep = np.arange(stop - start), min(max(2 * k, 16), n_labels)
    while len(pending):
        part = query.take(start + pending)
        found = _exact_answers(part, 0, len(pending), keep)
        best = _empty_answers(len(pending), k)
        _best_of_union(part, found, best)
        answers.labels[pending], answers.scores[pending] = best
        pending = pending[~_is_final(query, found, best)]
        keep = min(4 * keep, n_labels)


def _is_final(query, found, best):
    """Rows where no label that no tree has answered so far could be among the best."""
    keys, _, sizes = found
    keep, k = keys.shape[2], best.labels.shape[1]
    if keep == query.trees[0].n_labels:
        return np.ones(len(best.labels), dtype=bool)
    # The last answer of each tree: what is unseen there ranks behind it.
    last = [_decode(*of_tree) for of_tree in zip(keys, sizes, strict=True)]
    sizes = sizes.T
    last_label = np.stack([labels[:, -1] for labels, _ in last], axis=1)
    last_score = np.stack([scores[:, -1] for _, scores in last], axis=1)
    if query.gains is None:
        bound = np.empty(len(best.labels), dtype=np.float32)
        labels = np.zeros(len(bound), dtype=np.int32)
        _kernels.combine(np.ascontiguousarray(last_score), labels, *query.label_gains, bound)
    else:
        last_score = np.where(sizes < keep, query.gains.offset.max(), last_score.astype(float))
        bound = last_score.mean(axis=1).astype(np.float32)
    score = best.scores[:, k - 1]
    final = (sizes < keep).all(axis=1)
    final |= score > np.nextafter(bound, np.float32(np.inf))
    if query.gains is None:
        # All unseen have p < 1 in some tree or a label larger than the last one of each tree.
        final |= (score == 0) & (bound == 0) & (best.labels[:, k - 1] < last_label.max(axis=1))
    return final


# ---------------------------------------------------------------------------- given pairs


def _pattern(indptr, labels, shape):
    pattern = sp.csr_array(shape, dtype=np.uint8)
    pattern.indptr, pattern.indices = indptr.astype(np.int64), labels.astype(np.int32)
    return pattern


def _score_pattern(query, pattern, n_threads):
    """Scores of the pairs of a pattern as CSR; -inf is stored too."""
    scores = sp.csr_array(pattern.shape, dtype=np.float32)
    scores.indptr, scores.indices = pattern.indptr, pattern.indices
    scores.data = _score_pairs(query, pattern.indptr, pattern.indices, n_threads)
    scores.has_canonical_format = True
    return scores


def _score_pairs(query, pair_indptr, pair_labels, n_threads):
    pairs = frozen(pair_indptr, pair_labels)
    out = np.empty(len(pair_labels), dtype=np.float32)
    n_trees = len(query.trees)

    def run(start, stop):
        begin, end = int(pair_indptr[start]), int(pair_indptr[stop])
        paths = np.empty((n_trees, end - begin), dtype=np.float32)
        for tree, path in zip(query.trees, paths, strict=True):
            row = _kernels.path_rows(
                *(*query.rows.arrays, start, stop, tree.arrays, tree.link),
                *(*frozen(tree.parent, tree.leaf_of), *pairs),
                *(*_space(tree, query.rows), np.empty(tree.n_nodes, np.float32)),
                np.zeros(tree.n_nodes, np.int32),
                *(np.empty(tree.max_depth, np.int64), path),
            )
            _raise_if_nan(row, tree, query.numbers)
        _kernels.combine(
            np.ascontiguousarray(paths.T),
            *(pairs[1][begin:end], *query.label_gains, out[begin:end]),
        )

    _in_chunks(run, query.rows.n_rows, n_threads)
    return out


def path_scores(trees, indptr, indices, data, pair_indptr, pair_labels, *, n_threads=1):
    """Log-probabilities, averaged over the trees, of given (row, label) pairs.

    Parameters
    ----------
    trees, indptr, indices, data, n_threads
        As for `search_topk`.
    pair_indptr : ndarray of shape (n_rows + 1,), int64
    pair_labels : ndarray of shape (n_pairs,), int32
        The labels of row i are ``pair_labels[pair_indptr[i] : pair_indptr[i + 1]]``, in any order.

    Returns
    -------
    ndarray of shape (n_pairs,), float32
        -inf for the probability 0.

    Raises
    ------
    ValueError
        If the arrays do not fit, or a score exceeds float32 so that it is not a number.

    Notes
    -----
    Each node above one of the labels of a row is expanded once. Memory: 8 bytes a node and thread.

    Examples
    --------
    See `skxmc.ops.tree_search`.
    """
    trees, rows, n_threads = _check_input(trees, indptr, indices, data, n_threads)
    pair_indptr = np.ascontiguousarray(pair_indptr, dtype=np.int64)
    pair_labels = np.ascontiguousarray(pair_labels, dtype=np.int32)
    if pair_indptr.shape != (rows.n_rows + 1,) or pair_labels.ndim != 1:
        raise ValueError("pair_indptr must have one entry more than there are rows.")
    if (
        pair_indptr[0] != 0
        or pair_indptr[-1] != len(pair_labels)
        or (np.diff(pair_indptr) < 0).any()
    ):
        raise ValueError("pair_indptr must rise from 0 to the number of pairs.")
    if len(pair_labels) and pair_labels.view(np.uint32).max() >= trees[0].n_labels:
        raise ValueError(f"pair_labels must be labels from 0 to {trees[0].n_labels - 1}.")
    return _score_pairs(_Query(trees, rows, (), None), pair_indptr, pair_labels, n_threads)


def dense_scores(trees, indptr, indices, data, *, n_threads=1):
    """Log-probabilities of all labels, averaged over the trees.

    Parameters
    ----------
    trees, indptr, indices, data, n_threads
        As for `search_topk`.

    Returns
    -------
    ndarray of shape (n_rows, n_labels), float32
        -inf for the probability 0.

    Raises
    ------
    ValueError
        If the rows do not fit the trees, or a score exceeds float32 so that it is not a number.

    Notes
    -----
    Each node is expanded for each row. Memory: the result, 4 bytes a node and thread, and about 4
    MB a tree and thread for several trees.

    Examples
    --------
    See `skxmc.ops.tree_search`.
    """
    trees, rows, n_threads = _check_input(trees, indptr, indices, data, n_threads)
    n_rows, n_labels, n_trees = rows.n_rows, trees[0].n_labels, len(trees)
    out = np.empty((n_rows, n_labels), dtype=np.float32)

    def run(start, stop):
        paths = [out[start:stop]]
        if n_trees > 1:
            paths = np.empty((n_trees, stop - start, n_labels), dtype=np.float32)
        for tree, path in zip(trees, paths, strict=True):
            row = _kernels.dense_rows(
                *(*rows.arrays, start, stop, tree.arrays, tree.link),
                *(np.empty(tree.n_nodes, dtype=np.float32),),
                *(*_space(tree, rows), path),
            )
            _raise_if_nan(row, tree)
        if n_trees > 1:
            for i in range(stop - start):
                _kernels.combine(
                    np.ascontiguousarray(paths[:, i].T),
                    *(np.empty(0, dtype=np.int32), _NO_FLOATS, _NO_FLOATS, out[start + i]),
                )

    _in_chunks(run, n_rows, n_threads, n_labels)
    return out


# ---------------------------------------------------------------------------- all above a threshold


def search_threshold(trees, indptr, indices, data, threshold, *, n_threads=1):
    """All labels whose probability, averaged over the trees, reaches a threshold; exact.

    Parameters
    ----------
    trees, indptr, indices, data, n_threads
        As for `search_topk`.
    threshold : float or array-like of shape (n_labels,)
        Probabilities. A label is taken if its score is at least the logarithm of its threshold,
        both in float32. 0 takes all labels whose probability is not 0.

    Returns
    -------
    indptr : ndarray of shape (n_rows + 1,), int64
    indices : ndarray of shape (n_found,), int32
        Labels, ascending in each row.
    data : ndarray of shape (n_found,), float32
        Their scores: the logarithms of the averaged probabilities.

    Raises
    ------
    ValueError
        If the rows do not fit the trees, a threshold is NaN or has the wrong shape, or a score
        exceeds float32 so that it is not a number.

    Notes
    -----
    A mean reaches a threshold only if one of its terms does: each tree is searched from the root as
    far as path scores reach the lowest threshold below the node, and what any tree finds is scored
    in all.

    Examples
    --------
    See `skxmc.ops.tree_search`.
    """
    trees, rows, n_threads = _check_input(trees, indptr, indices, data, n_threads)
    n_labels = trees[0].n_labels
    threshold = np.asarray(threshold, dtype=np.float64)
    if threshold.shape not in ((), (n_labels,)):
        raise ValueError(
            f"threshold must be a number or have one value for each of the {n_labels} labels; got "
            f"the shape {threshold.shape}."
        )
    if np.isnan(threshold).any():
        raise ValueError("threshold holds NaN.")
    with np.errstate(divide="ignore"):
        threshold = np.log(np.maximum(np.broadcast_to(threshold, n_labels), 0)).astype(np.float32)
    lowest = []  # below each node
    for tree in trees:
        nodes = np.full((2, tree.n_nodes), -np.inf)
        values = frozen(-threshold.astype(np.float64))[0]
        _kernels.bound_nodes(*frozen(tree.parent, tree.arrays[10]), values, values, *nodes)
        lowest.append(frozen((-nodes[0]).astype(np.float32))[0])
    query = _Query(trees, rows, (), None)

    def run(start, stop):
        part = query.take(np.arange(start, stop))
        keys, scores = [], []
        for tree, of_nodes in zip(trees, lowest, strict=True):
            counts, labels, paths = _threshold_answers(tree, part, of_nodes)
            keys.append(np.repeat(np.arange(stop - start), counts) * n_labels + labels)
            scores.append(paths)
        if len(trees) == 1:
            order = np.argsort(keys[0])
            keys, scores = keys[0][order], scores[0][order]
        else:
            keys = np.unique(np.concatenate(keys))
        of_row, labels = np.divmod(keys, max(n_labels, 1))
        if len(trees) > 1:
            indptr = np.append(0, np.cumsum(np.bincount(of_row, minlength=stop - start)))
            scores = _score_pairs(part, indptr, labels.astype(np.int32), 1)
            reached = scores >= threshold[labels]
            of_row, labels, scores = of_row[reached], labels[reached], scores[reached]
        return np.bincount(of_row, minlength=stop - start), labels.astype(np.int32), scores

    found = _in_chunks(run, rows.n_rows, n_threads)
    counts, labels, scores = zip(*found, strict=True) if found else ((), (), ())
    indptr = np.zeros(rows.n_rows + 1, dtype=np.int64)
    np.cumsum(np.concatenate([*counts, np.empty(0, np.int64)]), out=indptr[1:])
    return (
        indptr,
        np.concatenate([*labels, np.empty(0, np.int32)]),
        np.concatenate([*scores, np.empty(0, np.float32)]),
    )


def _threshold_answers(tree, query, threshold):
    """Numbers of labels, labels and path scores of all rows, from one tree."""
    n_rows = query.rows.n_rows
    counts = np.empty(n_rows, dtype=np.int64)
    labels = np.empty(max(4 * n_rows, 1024) + tree.max_children, dtype=np.int32)
    paths = np.empty(len(labels), dtype=np.float32)
    done, filled = 0, 0
    while done < n_rows:
        done, filled_now = _kernels.threshold_rows(
            *(*query.rows.arrays, done, n_rows, tree.arrays, tree.link, threshold),
            *(*_space(tree, query.rows), np.empty(tree.n_inner, np.int64)),
            *(np.empty(tree.n_inner, np.float32), counts, labels, paths, filled),
        )
        _raise_if_nan(done if filled_now < 0 else -1, tree, query.numbers)
        filled = filled_now
        if done < n_rows:
            labels, paths = (
                np.concatenate([part, np.empty_like(part)]) for part in (labels, paths)
            )
    return counts, labels[:filled], paths[:filled]


# ---------------------------------------------------------------------------- nodes


def search_nodes(tree, indptr, indices, data, *, depth, beam, n_keep, n_threads=1):
    """The best nodes at a given depth, by beam search.

    Parameters
    ----------
    tree : SearchTree
        Only the weights of nodes above ``depth`` are used: those below may be missing.
    indptr, indices, data, n_threads
        As for `search_topk`.
    depth : int
        From 1 to the depth of the deepest leaf, the root having the depth 0.
    beam : int
        Inner nodes that are expanded at each depth above.
    n_keep : int
        Nodes wanted, leaves and inner nodes alike.

    Returns
    -------
    indptr : ndarray of shape (n_rows + 1,), int64
    nodes : ndarray of shape (n_found,), int32
        Best first, of equal path scores the smaller node number.
    scores : ndarray of shape (n_found,), float32
        Path scores.

    Raises
    ------
    ValueError, TypeError
        As `search_topk`; or if ``depth`` is out of range.

    Examples
    --------
    See `skxmc.ops.tree_search`.
    """
    (tree,), rows, n_threads = _check_input([tree], indptr, indices, data, n_threads)
    depth, beam = _check_width(depth, "depth"), _check_width(beam, "beam")
    keep = min(_check_width(n_keep, "n_keep"), tree.n_nodes)
    if depth > tree.max_depth:
        raise ValueError(f"depth must be from 1 to {tree.max_depth}, got {depth}.")
    n_rows = rows.n_rows
    excluded = frozen(np.zeros(n_rows + 1, dtype=np.int64), np.empty(0, dtype=np.int32))
    query = _Query((tree,), rows, excluded, None)

    def run(start, stop):
        keys, _, (sizes,) = _beam_answers(query, start, stop, depth, beam, keep)
        nodes, scores = _decode(keys[0], sizes)
        return sizes, nodes[nodes >= 0], scores[nodes >= 0]

    found = _in_chunks(run, n_rows, n_threads, 4 * beam + keep)
    sizes, nodes, scores = zip(*found, strict=True) if found else ((), (), ())
    out_indptr = np.zeros(n_rows + 1, dtype=np.int64)
    np.cumsum(np.concatenate([*sizes, np.empty(0, np.int64)]), out=out_indptr[1:])
    return (
        out_indptr,
        np.concatenate([*nodes, np.empty(0, np.int32)]),
        np.concatenate([*scores, np.empty(0, np.float32)]),
    )
