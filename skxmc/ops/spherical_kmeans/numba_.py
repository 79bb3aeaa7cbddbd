"""Spherical k-means on CSR rows, compiled.

All clusterings work on a copy of the rows made by `compact_rows`: small entries left out, features
renumbered by falling frequency, so that the part of a centroid that most entries meet stays in the
first level cache, and every row padded to a multiple of four entries, so that the innermost loop
has no remainder.
"""

import itertools
from collections import deque
from typing import NamedTuple

import numpy as np

from skxmc._parallel import map_chunks
from skxmc.ops._jit import jit
from skxmc.ops._lanes import LANES, aligned_zeros, row_times_block
from skxmc.ops._memory import new_zeros

# Constants of splitmix64 (Steele, Lea, Flood 2014), a random generator that is one function.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
# Numba tests signed indices for being negative, in the innermost loops too: these are unsigned.
_ONE, _TWO, _THREE, _FOUR = (np.uint64(i) for i in range(1, 5))
# Cells of the grid of values, and how a float32 read as uint32 is shifted to be its cell.
_N_CELLS = 64
_PLUS, _MINUS = np.float32(1.0), np.float32(-1.0)
_ONE_BIT, _TO_GRID = np.uint32(1), np.uint32(22)


class CompactRows(NamedTuple):
    """CSR rows as the kernels of this module want them; see `compact_rows`.

    Attributes
    ----------
    data, indices, indptr : ndarray
        The arrays of the rows, features without entries left out.
    n_features : int
        Features that are left.
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    n_features: int


@jit
def _cell(bits):
    """The place of a float32, given as uint32, on a grid of four cells per power of two.

    From 0 (below 2^-15) to 63 (1 and above); the sign does not count.
    """
    cell = np.int32((bits << _ONE_BIT) >> _TO_GRID) - np.int32(127 * 4 - (_N_CELLS - 1))
    return min(max(cell, np.int32(0)), np.int32(_N_CELLS - 1))


@jit(allocates=True)
def _choose_entries(data, bits, indices, indptr, keep, first, last, lowest_cell, counts, frequency):
    """Find the lowest cell to keep of each row, the padded row lengths and feature frequencies."""
    mass = np.empty(2 * _N_CELLS, dtype=np.float32)
    for row in range(first, last):
        begin, end = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
        lowest = 0
        if keep < 1.0:
            for cell in range(len(mass)):
                mass[cell] = 0.0
            p = begin
            while p < end:  # two histograms: equal values in a row need not wait for each other
                mass[(np.uint64(_cell(bits[p])) << _ONE) | (p & _ONE)] += data[p] * data[p]
                p += _ONE
            total = np.float32(0.0)
            for cell in range(len(mass)):
                total += mass[cell]
            missing = keep * total
            lowest = _N_CELLS
            while lowest > 0 and missing > 0.0:
                lowest -= 1
                missing -= mass[2 * lowest] + mass[2 * lowest + 1]
        n_kept = 0
        p = begin
        while p < end:
            kept = _cell(bits[p]) >= lowest
            frequency[np.uint32(indices[p])] += kept
            n_kept += kept
            p += _ONE
        lowest_cell[row] = lowest
        counts[row] = (n_kept + 3) & ~3


@jit
def _copy_entries(
    data, bits, indices, indptr, rank, lowest_cell, first, last, out_data, out_indices, out_indptr
):
    for row in range(first, last):
        lowest = lowest_cell[row]
        position = np.uint64(out_indptr[row])
        stop = np.uint64(out_indptr[row + 1])
        p, end = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
        while p < end:
            if _cell(bits[p]) >= lowest:
                out_data[position] = data[p]
                out_indices[position] = rank[np.uint32(indices[p])]
                position += _ONE
            p += _ONE
        while position < stop:
            out_data[position] = 0.0
            out_indices[position] = 0
            position += _ONE


def compact_rows(data, indices, indptr, n_features, *, keep=1.0, n_jobs=1):
    """Copy CSR rows into the form in which they are clustered.

    Parameters
    ----------
    data : ndarray of shape (n_entries,), float32
        Values of the rows, each row of length one (or empty).
    indices : ndarray of shape (n_entries,), int32
        Their features.
    indptr : ndarray of shape (n_rows + 1,), int64
        The entries of row i are ``indptr[i]`` to ``indptr[i + 1] - 1``.
    n_features : int
        Larger than every feature number.
    keep : float, default=1.0
        Each row keeps its largest entries (by absolute value), at least as many as hold this share
        of its squared length, in (0, 1]. Entries less than a factor of 1.25 apart may be kept or
        left out together.
    n_jobs : int, default=1
        Number of threads.

    Returns
    -------
    CompactRows
        ``data`` float32, ``indices`` uint32 and ``indptr`` int64, with rows of a multiple of four
        entries, the last of them possibly zeros of feature 0; ``n_features``, the number of
        features that are left, which are numbered by falling frequency.

    Notes
    -----
    Two passes over the entries.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.spherical_kmeans import compact_rows
    >>> data = np.array([0.6, 0.8, 1.0], dtype=np.float32)
    >>> rows = compact_rows(data, np.array([2, 5, 5], dtype=np.int32), np.array([0, 2, 3]), 9)
    >>> rows.indptr, rows.n_features, rows.indices[[0, 1, 4]]
    (array([0, 4, 8]), 2, array([1, 0, 0], dtype=uint32))
    """
    if not 0.0 < keep <= 1.0:
        raise ValueError(f"keep must be in (0, 1], got {keep!r}.")
    n_rows = len(indptr) - 1
    data = np.ascontiguousarray(data, dtype=np.float32)
    indices = np.ascontiguousarray(indices, dtype=np.int32)
    indptr = np.ascontiguousarray(indptr, dtype=np.int64)
    bits = data.view(np.uint32)
    keep = np.float32(keep)
    lowest_cell = np.empty(n_rows, dtype=np.int32)
    counts = np.empty(n_rows, dtype=np.int64)
    chunks = _chunks(n_rows, n_jobs)

    def choose(chunk):
        frequency = np.zeros(n_features, dtype=np.int32)
        _choose_entries(
            *(data, bits, indices, indptr, keep, chunk.start, chunk.stop),
            *(lowest_cell, counts, frequency),
        )
        return frequency

    frequency = np.zeros(n_features, dtype=np.int64)
    for part in map_chunks(choose, chunks, n_jobs):
        frequency += part
    by_frequency = np.argsort(-frequency, kind="stable")
    rank = np.empty(n_features, dtype=np.uint32)
    rank[by_frequency] = np.arange(n_features)
    out_indptr = np.zeros(n_rows + 1, dtype=np.int64)
    np.cumsum(counts, out=out_indptr[1:])
    out_data = new_zeros(out_indptr[-1], np.float32)
    out_indices = new_zeros(out_indptr[-1], np.uint32)

    def copy(chunk):
        _copy_entries(
            *(data, bits, indices, indptr, rank, lowest_cell, chunk.start, chunk.stop),
            *(out_data, out_indices, out_indptr),
        )

    deque(map_chunks(copy, chunks, n_jobs), maxlen=0)
    return CompactRows(out_data, out_indices, out_indptr, int(np.count_nonzero(frequency)))


@jit
def _mix(state):
    """A random 64-bit number that depends on `state` (uint64) alone."""
    z = state + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def _take_rows(data, indices, indptr, rows):
    """Copy rows to consecutive places: they are read many times."""
    out_indptr = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(indptr[rows + 1] - indptr[rows], out=out_indptr[1:])
    out_data = new_zeros(out_indptr[-1], np.float32)
    out_indices = new_zeros(out_indptr[-1], np.uint32)
    _copy_rows(data, indices, indptr, rows, out_data, out_indices)
    return out_data, out_indices, out_indptr


@jit
def _copy_rows(data, indices, indptr, rows, out_data, out_indices):
    position = _ONE - _ONE
    for i in range(len(rows)):
        p, end = np.uint64(indptr[rows[i]]), np.uint64(indptr[rows[i] + 1])
        while p < end:
            out_data[position] = data[p]
            out_indices[position] = indices[p]
            position += _ONE
            p += _ONE


@jit
def _dot(data, indices, start, stop, dense):
    """Product of a padded row with a dense vector; four sums hide the latency of an addition."""
    a = b = c = d = np.float32(0.0)
    p, end = np.uint64(start), np.uint64(stop)
    while p < end:
        a += data[p] * dense[indices[p]]
        b += data[p + _ONE] * dense[indices[p + _ONE]]
        c += data[p + _TWO] * dense[indices[p + _TWO]]
        d += data[p + _THREE] * dense[indices[p + _THREE]]
        p += _FOUR
    return (a + b) + (c + d)


@jit
def _add_row(data, indices, start, stop, scale, dense):
    p, end = np.uint64(start), np.uint64(stop)
    while p < end:
        dense[indices[p]] += scale * data[p]
        p += _ONE


@jit
def _clear(indices, dense):
    """Set what the entries point to to zero; costs nothing in the number of all features."""
    for p in range(len(indices)):
        dense[indices[p]] = 0.0


@jit
def _kth_smallest(values, low, high, k):
    """The k-th smallest value (from 0) if it lies between the positions `low` and `high`.

    Quickselect; `values` is permuted.
    """
    while low < high:
        # median of three, so that sorted values cost no more than others
        a, pivot, c = values[low], values[(low + high) >> 1], values[high]
        pivot = max(min(a, pivot), min(max(a, pivot), c))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@jit
def _smallest_right(scores, k, buffer):
    """The k-th smallest score (from 0): of many, only those near it by a sample are selected from.

    A loop without a branch finds these, which is several times faster than quickselect on all.
    """
    n = len(scores)
    if n >= 2048:
        size = 512
        for i in range(size):
            buffer[i] = scores[i * n // size]
        middle = k * size // n
        # 60 ranks are more than two and a half standard deviations of the rank in the sample
        low = _kth_smallest(buffer, 0, size - 1, max(middle - 60, 0))
        high = _kth_smallest(buffer, 0, size - 1, min(middle + 60, size - 1))
        n_below = n_between = 0
        for i in range(n):
            score = scores[i]
            buffer[n_between] = score
            n_below += score < low
            n_between += (score >= low) & (score <= high)
        if n_below <= k < n_below + n_between:
            return _kth_smallest(buffer, 0, n_between - 1, k - n_below)
    for i in range(n):  # `buffer[:] = scores` would compile for four seconds
        buffer[i] = scores[i]
    return _kth_smallest(buffer, 0, n - 1, k)


@jit
def _cut(scores, n_left, buffer, right):
    """Set `right[i]` for all but the `n_left` smallest scores, ties by position."""
    n = len(scores)
    threshold = _smallest_right(scores, n_left, buffer)  # 0 < n_left < n
    n_below = n_ties = 0
    for i in range(n):
        right[i] = scores[i] >= threshold
        n_below += scores[i] < threshold
        n_ties += scores[i] == threshold
    n_ties_left = n_left - n_below
    i = 0
    while n_ties_left > 0:  # rarely more than one round
        if scores[i] == threshold:
            right[i] = False
            n_ties_left -= 1
        i += 1


@jit(allocates=True)
def _bisect(data, indices, indptr, n_left, sums, seed, eps, max_iter, right):
    """Balanced spherical 2-means of all rows of a compact CSR: set `right`, return the rounds.

    With S the sum of the rows on the right and T the sum of all, the score of a row x is
    x.(S/|S| - (T-S)/|T-S|), so two products suffice, of which x.T never changes; and the norms
    follow from sums of these products over the rows on the right.

    `sums` (n_features,) is zero, and is again on return.
    """
    n = len(indptr) - 1
    n_full = 0
    for i in range(n):
        n_full += indptr[i + 1] > indptr[i]
        right[i] = i >= n_left
    if n_full < 2:
        return 0
    scores = np.empty(n, dtype=np.float32)
    buffer = np.empty(n, dtype=np.float32)
    to_all = np.empty(n, dtype=np.float32)
    to_right = np.empty(n, dtype=np.float32)
    new_right = np.empty(n, dtype=np.bool_)

    _add_row(data, indices, indptr[0], indptr[n], _PLUS, sums)
    square_all = 0.0
    for i in range(n):
        to_all[i] = _dot(data, indices, indptr[i], indptr[i + 1], sums)
        square_all += to_all[i]
    _clear(indices, sums)
    # In round 0 the centroids are two different rows that are not empty; nothing is on the right.
    a = np.int64(_mix(seed) % np.uint64(n_full))
    b = np.int64(_mix(seed + _ONE) % np.uint64(n_full - 1))
    b += b >= a
    place = 0
    for i in range(n):
        if indptr[i + 1] > indptr[i]:
            if place in (a, b):
                sign = _MINUS if place == a else _PLUS
                _add_row(data, indices, indptr[i], indptr[i + 1], sign, sums)
            place += 1
        right[i] = False

    objective = 0.0
    iteration = 0
    last = False
    while not last:
        for i in range(n):
            to_right[i] = _dot(data, indices, indptr[i], indptr[i + 1], sums)
        by_right, by_left = _PLUS, np.float32(0.0)
        # Sums over the rows on the right, without branches: half of them would be guessed wrong.
        square_right = cross = right_to_all = 0.0
        for i in range(n):
            square_right += to_right[i] * right[i]
            cross += to_all[i] * right[i]
            right_to_all += to_right[i]
        if iteration > 0:
            square_left = square_all - 2.0 * cross + square_right
            # A half whose rows cancel out has no direction.
            by_right = np.float32(1.0 / np.sqrt(square_right) if square_right > 1e-12 else 0.0)
            by_left = np.float32(1.0 / np.sqrt(square_left) if square_left > 1e-12 else 0.0)
        else:
            _clear(indices, sums)
        for i in range(n):
            scores[i] = to_right[i] * by_right - (to_all[i] - to_right[i]) * by_left
        _cut(scores, n_left, buffer, new_right)
        # sum over the rows of the similarity to the centroid of their new half
        new_objective = (square_all - right_to_all) * by_left
        n_moved = 0
        for i in range(n):
            new_objective += scores[i] * new_right[i]
            n_moved += new_right[i] != right[i]
        gain = new_objective - objective
        last = iteration >= max_iter or (
            iteration > 0 and (n_moved == 0 or gain < eps * abs(objective))
        )
        for i in range(n):
            if new_right[i] != right[i] and not last:
                sign = _PLUS if new_right[i] else _MINUS
                _add_row(data, indices, indptr[i], indptr[i + 1], sign, sums)
            right[i] = new_right[i]
        objective = new_objective if iteration > 0 else 0.0
        iteration += 1
    _clear(indices, sums)
    return iteration


@jit(allocates=True)
def _seeds(state, first, count):
    """A seed for each of the numbers `first` to `first + count - 1`."""
    seeds = np.empty(count, dtype=np.uint64)
    for j in range(count):
        seeds[j] = _mix(state + _mix(np.uint64(first + j)))
    return seeds


@jit(allocates=True)
def _choose(candidates, count, seed):
    """`count` of the candidates at random, or all: the first places of a random permutation."""
    count = min(count, len(candidates))
    for c in range(count):
        other = c + np.int64(_mix(seed + np.uint64(c)) % np.uint64(len(candidates) - c))
        candidates[c], candidates[other] = candidates[other], candidates[c]
    return candidates[:count]


def _chunks(n_nodes, n_jobs):
    """Slices of nodes; several for each thread, since nodes differ in their number of entries."""
    n_chunks = 1 if n_jobs == 1 else min(n_nodes, 4 * n_jobs)
    cuts = [n_nodes * i // n_chunks for i in range(n_chunks + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(cuts)]


def _as_subset(rows, subset):
    """A new int32 array of row numbers."""
    if subset is None:
        return np.arange(len(rows.indptr) - 1, dtype=np.int32)
    return np.array(subset, dtype=np.int32)


def balanced_bisection(rows, n_clusters, *, subset=None, seed=0, eps=1e-4, max_iter=20, n_jobs=1):
    """Cut rows into clusters of equal size by repeated spherical 2-means.

    A node of m clusters is cut into one of ``m // 2`` and one of ``m - m // 2`` clusters, with rows
    in that proportion: 2-means in which the rows are sorted by the difference of their similarities
    to the two centroids, and cut at the given place, until nothing changes.

    Parameters
    ----------
    rows : CompactRows
        The rows to be clustered, from `compact_rows`.
    n_clusters : int
        The sizes of the clusters differ by at most one row; a cluster is empty only if there are
        fewer rows than clusters.
    subset : array-like of int, default=None
        The numbers of the rows to be clustered, ascending and each once. None takes all.
    seed : int, default=0
        Of the random start; the result depends on nothing else but the data.
    eps : float, default=1e-4
        A node stops when its objective, the sum of the similarities of its rows to the centroid of
        their part, rises by less than this share of itself.
    max_iter : int, default=20
        Largest number of rounds in a node.
    n_jobs : int, default=1
        Threads; they share the nodes of a level.

    Returns
    -------
    order : ndarray of shape (n_clustered_rows,), int32
        The row numbers, cluster after cluster, ascending in each.
    bounds : ndarray of shape (n_clusters + 1,), int64
        Cluster c is ``order[bounds[c]:bounds[c + 1]]``. Neighbours are more alike: with a power of
        two, clusters 2c and 2c + 1 come from one node.

    Notes
    -----
    One round costs O(entries + rows) and there are log2(n_clusters) levels; the number of rounds is
    3 to 20 on real data. Memory: a copy of the rows of a node in each thread. Rows with equal
    scores are told apart by their number; empty rows score 0.

    References
    ----------
    Y. Prabhu et al. Parabel: Partitioned label trees for extreme classification with application to
    dynamic search advertising. WWW 2018. https://doi.org/10.1145/3178876.3185998

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.spherical_kmeans import balanced_bisection, compact_rows
    >>> data = np.ones(4, dtype=np.float32)
    >>> rows = compact_rows(data, np.array([0, 1, 0, 1], dtype=np.int32), np.arange(5), 2)
    >>> order, bounds = balanced_bisection(rows, n_clusters=2, seed=1)
    >>> sorted([order[:2].tolist(), order[2:].tolist()]), bounds
    ([[0, 2], [1, 3]], array([0, 2, 4]))
    """
    order = _as_subset(rows, subset)
    state = np.uint64(seed % 2**64)
    bounds = len(order) * np.arange(n_clusters + 1) // n_clusters
    # A node is a range of clusters; it is known by its place, so its seed depends on no other node.
    first, last, n_done = np.array([0]), np.array([n_clusters]), 0
    while len(first):
        middle = (first + last) // 2
        nodes = np.stack([bounds[first], bounds[middle], bounds[last]], axis=1)
        seeds = _seeds(state, n_done, len(nodes))

        def run(chunk, nodes=nodes, seeds=seeds):
            sums = np.zeros(rows.n_features, dtype=np.float32)
            for (start, middle, stop), node_seed in zip(nodes[chunk].tolist(), seeds[chunk]):
                if not start < middle < stop:
                    continue
                node = order[start:stop]
                right = np.empty(len(node), dtype=np.bool_)
                # all rows are still in their order: they need no copy
                whole = len(node) == len(rows.indptr) - 1
                entries = rows[:3] if whole else _take_rows(*rows[:3], node)
                _bisect(*entries, middle - start, sums, node_seed, eps, max_iter, right)
                order[start:stop] = np.concatenate([node[~right], node[right]])

        deque(map_chunks(run, _chunks(len(nodes), n_jobs), n_jobs), maxlen=0)
        n_done += len(nodes)
        first, last = (
            np.stack([first, middle], axis=1).ravel(),
            np.stack([middle, last], axis=1).ravel(),
        )
        splits = last - first > 1
        first, last = first[splits], last[splits]
    return order, bounds


@jit
def _renumber(indices, number):
    """Renumber features in place in the order of their meeting; return how many there are.

    `number` (n_features,) int32 is zero, and not on return.
    """
    n_local = 0
    for p in range(len(indices)):
        feature = indices[p]
        if number[feature] == 0:
            n_local += 1
            number[feature] = n_local
        indices[p] = number[feature] - 1
    return n_local


@jit
def _move_row(data, indices, start, stop, sign, blocks, cluster, squares):
    """Add a row to the sum of a cluster, or take it out, and keep its squared length."""
    block, lane = blocks[cluster // LANES], cluster % LANES
    change = 0.0
    for p in range(start, stop):
        old = block[indices[p], lane]
        new = old + sign * data[p]
        block[indices[p], lane] = new
        change += np.float64(new) * new - np.float64(old) * old
    squares[cluster] += change


@jit
def _nearest(data, indices, indptr, blocks, scale, best, best_score, out):
    """The cluster of largest similarity of each row, -1 if none is positive; ties: the first."""
    n = len(indptr) - 1
    for i in range(n):
        best[i] = -1
        best_score[i] = 0.0
    for b in range(len(blocks)):  # a block stays in cache for all rows
        for i in range(n):
            row_times_block(indices, data, blocks[b], out, 0, indptr[i], indptr[i + 1])
            threshold = best_score[i]
            n_better = np.int32(0)  # a loop without a branch, which becomes one SIMD comparison
            for lane in range(LANES):
                out[0, lane] *= scale[b, lane]
                n_better += np.int32(out[0, lane] > threshold)
            if n_better > 0:
                for lane in range(LANES):
                    if out[0, lane] > best_score[i]:
                        best_score[i] = out[0, lane]
                        best[i] = b * LANES + lane


@jit(allocates=True)
def _kmeans(data, indices, indptr, blocks, start, eps, max_iter, min_size, cluster, similarity):
    """Spherical k-means of all rows of a compact CSR, from the rows `start` as centroids.

    Sets the `cluster` of each row (-1: similar to none) and its similarity to the centroid.
    `blocks` (n_blocks, n_features, LANES) is zero.
    """
    n = len(indptr) - 1
    n_lanes = len(blocks) * LANES
    squares = np.zeros(n_lanes)
    scale = np.zeros((len(blocks), LANES), dtype=np.float32)
    size = np.zeros(n_lanes, dtype=np.int64)
    best = np.empty(n, dtype=np.int32)
    out = np.empty((1, LANES), dtype=np.float32)
    for i in range(n):
        cluster[i] = best[i] = -1
        similarity[i] = 0.0
    for c in range(len(start)):
        best[start[c]] = c
    objective = 0.0
    iteration = 0
    last = closing = False
    while True:
        if iteration > 0:
            for c in range(n_lanes):
                # An emptied cluster, or one whose rows cancel out, stays empty.
                alive = size[c] > closing * (min_size - 1) and squares[c] > 1e-12
                scale[c // LANES, c % LANES] = 1.0 / np.sqrt(squares[c]) if alive else 0.0
            _nearest(data, indices, indptr, blocks, scale, best, similarity, out)
        if closing:
            for i in range(n):
                if cluster[i] >= 0 and size[cluster[i]] < min_size:
                    cluster[i] = best[i]
            return iteration
        new_objective = 0.0
        n_moved = 0
        for i in range(n):
            new_objective += similarity[i]
            n_moved += best[i] != cluster[i]
        if iteration > 0:
            gain = new_objective - objective
            last = n_moved == 0 or iteration >= max_iter or gain < eps * objective
        objective = new_objective
        for i in range(n):
            for side in range(2):  # out of the old cluster, into the new one
                c = best[i] if side == 1 else cluster[i]
                if best[i] != cluster[i] and c >= 0:
                    sign = _PLUS if side == 1 else _MINUS
                    size[c] += 2 * side - 1
                    _move_row(data, indices, indptr[i], indptr[i + 1], sign, blocks, c, squares)
            cluster[i] = best[i]
        if last:
            n_small = n_large = 0
            for c in range(n_lanes):
                n_small += 0 < size[c] < min_size
                n_large += size[c] >= min_size
            closing = n_small > 0 and n_large > 0
            if not closing:
                return iteration
        iteration += 1


def spherical_kmeans(rows, n_clusters, *, subset=None, seed=0, eps=1e-4, max_iter=20, min_size=1):
    """Cluster rows by spherical k-means; the clusters may be of any size.

    It begins with random rows as centroids. In each round every row goes to the centroid with the
    largest inner product (of equal ones the first), and the centroids become the sums of their
    rows, scaled to length one. A cluster that loses all rows is dropped, so there may be fewer than
    ``n_clusters``. Rows that are similar to no centroid, as empty rows are, take no part, and are
    dealt out to the clusters in turn at the end.

    Parameters
    ----------
    rows : CompactRows
        The rows to be clustered, from `compact_rows`.
    n_clusters : int
        Largest number of clusters.
    subset : array-like of int, default=None
        The numbers of the rows to be clustered, ascending and each once. None takes all.
    seed : int, default=0
        Of the random start; the result depends on nothing else but the data.
    eps : float, default=1e-4
        Stop when the objective, the sum of the similarities of all rows to their centroid, rises by
        less than this share of itself.
    max_iter : int, default=20
        Largest number of rounds.
    min_size : int, default=1
        Rows of smaller clusters go to the nearest cluster that is not smaller, if there is one.

    Returns
    -------
    order : ndarray of shape (n_clustered_rows,), int32
        The row numbers, cluster after cluster, ascending in each.
    bounds : ndarray of shape (n_found_clusters + 1,), int64
        Cluster c is ``order[bounds[c]:bounds[c + 1]]``; none is empty.

    Notes
    -----
    One round costs O(entries * n_clusters / 16), the centroids 4 bytes a cluster and a feature that
    occurs.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.spherical_kmeans import compact_rows, spherical_kmeans
    >>> data = np.ones(5, dtype=np.float32)
    >>> rows = compact_rows(data, np.array([0, 1, 0, 0, 1], dtype=np.int32), np.arange(6), 2)
    >>> order, bounds = spherical_kmeans(rows, n_clusters=2, seed=5)
    >>> [order[start:stop].tolist() for start, stop in zip(bounds[:-1], bounds[1:])]
    [[0, 2, 3], [1, 4]]
    """
    subset = _as_subset(rows, subset)
    if len(subset) == 0:
        return subset, np.zeros(1, dtype=np.int64)
    data, indices, indptr = _take_rows(rows.data, rows.indices, rows.indptr, subset)
    n_local = _renumber(indices, np.zeros(rows.n_features, dtype=np.int32))
    start = _choose(np.flatnonzero(np.diff(indptr)), n_clusters, np.uint64(seed % 2**64))
    cluster = np.empty(len(subset), dtype=np.int32)
    # A feature of 16 centroids is one cache line.
    blocks = aligned_zeros((-(-len(start) // LANES), n_local, LANES))
    similarity = np.empty(len(subset), dtype=np.float32)
    _kmeans(data, indices, indptr, blocks, start, eps, max_iter, min_size, cluster, similarity)
    placed = cluster >= 0
    found, cluster[placed] = np.unique(cluster[placed], return_inverse=True)
    n_left_over = len(subset) - np.count_nonzero(placed)
    n_found = max(len(found), 1)
    cluster[~placed] = np.arange(n_left_over) % n_found
    bounds = np.zeros(n_found + 1, dtype=np.int64)
    np.cumsum(np.bincount(cluster, minlength=n_found), out=bounds[1:])
    return subset[np.argsort(cluster, kind="stable")], bounds
