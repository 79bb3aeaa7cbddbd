"""Kernels of the search: one row and one parent at a time, everything else is built upon that.

Nothing here checks bounds: the arrays of the tree have passed `check_tree_arrays`, or, where they
are mapped from a file, `is_sound` when a search first comes to a node.

A list of the best so far is a binary heap with the worst at its root. Its entries are *keys*,
64-bit integers that rank as the pair (score, smaller number first), with an *item* each that holds
a node and its path score. Ties so need no comparison of their own, and the order in which entries
are offered changes nothing. With the keys negated the heap is a queue with the best at its root.
"""

import math

import numpy as np

from skxmc.ops._jit import jit
from skxmc.ops.tree_search._simd import LANES, add_scaled_blocks, prefetch

_LOGISTIC, _L1_HINGE, _L2_HINGE = 0, 1, 2
# Children that are answers.
_NONE, _LEAVES, _ALL = 0, 1, 2

# What is known of the chunk of a node.
UNKNOWN, SOUND, DAMAGED = 0, 1, 2

_ALL_BITS = 0xFFFFFFFF
_MAX_INT32 = 0x7FFFFFFF
_SHORT_BUCKET = 8
# To find a feature in a chunk costs as much as to note the place of so many.
_FIND_COST = 8.0
_ROUNDING = 1 + 1e-12

# ---------------------------------------------------------------------------- keys and heaps


@jit
def _bits_of(value):
    number = np.float32(value)
    return np.int64(number.view(np.int32))


@jit
def _float_of(bits):
    number = np.int32(bits)
    return number.view(np.float32)


@jit
def pack_key(score, number):
    """An integer that is larger for a larger score, and of equal scores for a smaller number."""
    bits = _bits_of(score + np.float32(0))  # -0 + 0 = 0
    if bits < 0:
        bits ^= _MAX_INT32  # negative floats: falling bits
    return (bits << 32) | (_MAX_INT32 - np.int64(number))


@jit
def key_score(key):
    bits = key >> 32
    return _float_of(bits ^ _MAX_INT32 if bits < 0 else bits)


@jit
def key_number(key):
    return _MAX_INT32 - (key & _ALL_BITS)


@jit
def pack_item(node, path):
    return (np.int64(node) << 32) | (_bits_of(path) & _ALL_BITS)


@jit
def item_path(item):
    return _float_of(item & _ALL_BITS)


@jit
def _sift_down(keys, items, size, key, item):
    """Put an entry in the place of the root of a heap of `size` entries."""
    hole = 0
    while True:
        below = 2 * hole + 1
        if below >= size:
            break
        if below + 1 < size and keys[below + 1] < keys[below]:
            below += 1
        if keys[below] >= key:
            break
        keys[hole] = keys[below]
        items[hole] = items[below]
        hole = below
    keys[hole] = key
    items[hole] = item


@jit
def _offer(keys, items, size, capacity, key, item):
    """Offer an entry to a heap of the `capacity` largest; return its size."""
    if size == capacity:
        if size > 0 and key > keys[0]:
            _sift_down(keys, items, size, key, item)
        return size
    hole = size
    while hole > 0:
        above = (hole - 1) >> 1
        if keys[above] <= key:
            break
        keys[hole] = keys[above]
        items[hole] = items[above]
        hole = above
    keys[hole] = key
    items[hole] = item
    return size + 1


@jit
def _sort(keys, items, size):
    """Turn a heap into a list, largest key first."""
    for end in range(size - 1, 0, -1):
        key, item = keys[end], items[end]
        keys[end], items[end] = keys[0], items[0]
        _sift_down(keys, items, end, key, item)


@jit
def write_answers(keys, sizes, k, labels, scores):
    """Turn sorted keys into labels and scores, padded up to k."""
    for i in range(len(sizes)):
        found = min(k, sizes[i])
        for j in range(found):
            labels[i, j] = key_number(keys[i, j])
            scores[i, j] = key_score(keys[i, j])
        for j in range(found, k):
            labels[i, j] = -1
            scores[i, j] = -np.inf


# ---------------------------------------------------------------------------- mapped trees


@jit
def _check_chunk(node, tree):
    """Check all that a search reads for a node: rows, children, weights, buckets, dense rows."""
    child_start, chunk_indptr, row_feature, row_indptr, child, weight = tree[:6]
    shift, bucket_indptr, bucket = tree[7:10]
    dense_row, dense, n_features = tree[11], tree[12], tree[14]
    n_children = np.int64(child_start[node + 1] - child_start[node])
    n_blocks = (n_children + (LANES - 1)) // LANES
    last_bucket = bucket_indptr[node + 1] - 1
    position, width = bucket_indptr[node], np.int64(shift[node])
    begin, end = chunk_indptr[node], chunk_indptr[node + 1]
    first_bucket = position
    previous = np.int64(-1)
    for r in range(begin, end):
        feature = np.int64(row_feature[r])
        first, last = row_indptr[r], row_indptr[r + 1]
        if feature <= previous or feature >= n_features or first < 0 or last < first:
            return False
        if last > len(child):
            return False
        previous = feature
        # A bucket says where the features from its own first one begin.
        while position <= first_bucket + (feature >> width):
            if np.int64(bucket[position]) != r:
                return False
            position += 1
        c = np.int64(-1)
        for q in range(first, last):
            if np.int64(child[q]) <= c or not abs(weight[q]) < np.inf:
                return False
            c = np.int64(child[q])
        if c >= n_children:
            return False
        block = np.int64(dense_row[r])
        if block >= 0:
            if (block + n_blocks) * LANES > len(dense):
                return False
            for j in range(block * LANES, (block + n_blocks) * LANES):
                if not abs(dense[j]) < np.inf:
                    return False
    while position <= last_bucket:
        if np.int64(bucket[position]) != end:
            return False
        position += 1
    return True


@jit
def is_sound(node, tree):
    """Can the chunk of a node be searched? Checked once, when it is first asked."""
    checked = tree[13]
    if checked[node] == UNKNOWN:
        # Set when all is checked: another thread may rely on it at once.
        checked[node] = SOUND if _check_chunk(node, tree) else DAMAGED
    return checked[node] == SOUND


@jit
def check_nodes(nodes, tree):
    for v in nodes:
        is_sound(np.int64(v), tree)


# ---------------------------------------------------------------------------- scores


@jit
def _edge(score, link):
    """Logarithm of the probability of a child given its parent, float32."""
    if link == _LOGISTIC:
        if score >= 0:
            return -math.log1p(math.exp(-score))
        return score - math.log1p(math.exp(score))
    short = np.float32(1) - score
    if short <= 0:
        return np.float32(0)
    if link == _L1_HINGE:
        return -short
    if link == _L2_HINGE:
        return -(short * short)
    return -(short * short * short)


@jit
def _find(feature, node, tree):
    """The row of a feature in the chunk of a node, or -1."""
    row_feature, (shift, bucket_indptr, bucket) = tree[2], tree[7:10]
    position = np.uint64(bucket_indptr[node] + (feature >> np.int64(shift[node])))
    row, last = np.int64(bucket[position]), np.int64(bucket[position + np.uint64(1)])
    while last - row > _SHORT_BUCKET:
        middle = (row + last) >> 1
        if row_feature[middle] <= feature:
            row = middle
        else:
            last = middle
    while row < last and row_feature[row] < feature:
        row += 1
    if row < last and row_feature[row] == feature:
        return row
    return np.int64(-1)


@jit
def _expand(x_indices, x_data, begin, end, node, tree, place, hits, total):
    """Scores of all children of a node: `total` gets the sums in feature order plus the bias.

    `total` has room for whole blocks, `hits` for the entries of the row. `place` is empty, or holds
    for each feature in the chunk its row plus 1, for others at most ``chunk_indptr[node]``.
    Where the chunk is damaged the scores are NaN, which every search reports.
    """
    child_start, chunk_indptr = tree[0], tree[1]
    row_indptr, child, weight, bias = tree[3:7]
    dense_row, dense = tree[11:13]
    hit_rows, hit_x = hits
    first = child_start[node]
    n_children = np.int64(child_start[node + 1] - first)
    n_blocks = (n_children + (LANES - 1)) // LANES
    if not is_sound(node, tree):
        for j in range(n_children):
            total[j] = np.nan
        return
    for j in range(n_blocks * LANES):
        total[j] = 0
    # First all look-ups and then all sums: so the processor does not wait for one of them. Weights
    # that no row has met lately are far away, and the time of a single row is that of fetching
    # them: each step has the memory of the next one fetched for all features at once.
    n_hits = np.uint64(0)
    if len(place) > 0:
        first_row = np.uint32(chunk_indptr[node])
        for p in range(np.uint64(begin), np.uint64(end)):
            number = place[np.uint64(x_indices[p])]
            hit_rows[n_hits] = number - np.uint32(1)
            hit_x[n_hits] = x_data[p]
            n_hits += np.uint64(number > first_row)
    elif chunk_indptr[node] < chunk_indptr[node + 1]:
        shift, bucket_indptr, bucket = tree[7:10]
        width, first_bucket = np.int64(shift[node]), bucket_indptr[node]
        for p in range(np.uint64(begin), np.uint64(end)):
            prefetch(bucket, first_bucket + (np.int64(x_indices[p]) >> width))
        for p in range(np.uint64(begin), np.uint64(end)):
            position = np.uint64(first_bucket + (np.int64(x_indices[p]) >> width))
            prefetch(tree[2], np.int64(bucket[position]))
        for p in range(np.uint64(begin), np.uint64(end)):
            row = _find(np.int64(x_indices[p]), node, tree)
            hit_rows[n_hits] = row
            hit_x[n_hits] = x_data[p]
            n_hits += np.uint64(row >= 0)
            prefetch(dense_row, row)
            prefetch(row_indptr, row)
        for h in range(n_hits):
            row = np.uint64(hit_rows[h])
            block = np.int64(dense_row[row])
            if block >= 0:
                prefetch(dense, block * LANES)
            else:
                prefetch(child, row_indptr[row])
                prefetch(weight, row_indptr[row])
    for h in range(n_hits):
        row, x = np.uint64(hit_rows[h]), hit_x[h]
        block = np.int64(dense_row[row])
        if block >= 0:
            add_scaled_blocks(total, dense, block, n_blocks, x)
        else:
            for q in range(np.uint64(row_indptr[row]), np.uint64(row_indptr[row + np.uint64(1)])):
                total[child[q]] += x * weight[q]
    for j in range(n_children):
        total[j] += bias[first + j]


@jit
def _close_hinges(total, n_children, path, link):
    """Turn scores of children into path scores, but for the logistic link: leave them.

    A hinge is cheap and done for all children at once; exp and log are left to the few that need
    them. NaN stays NaN.
    """
    if link == _L1_HINGE:
        for j in range(n_children):
            short = np.float32(1) - total[j]
            total[j] = path - (np.float32(0) if short <= 0 else short)
    elif link == _L2_HINGE:
        for j in range(n_children):
            short = np.float32(1) - total[j]
            short = np.float32(0) if short <= 0 else short
            total[j] = path - short * short
    elif link != _LOGISTIC:
        for j in range(n_children):
            short = np.float32(1) - total[j]
            short = np.float32(0) if short <= 0 else short
            total[j] = path - short * short * short


@jit
def _fill_place(node, tree, place):
    if not is_sound(node, tree):
        return
    for row in range(tree[1][node], tree[1][node + 1]):
        place[tree[2][row]] = row + 1


@jit
def _contains(indices, wanted):
    """Is `wanted` among the ascending indices?"""
    low, high = 0, len(indices)
    while low < high:
        middle = (low + high) >> 1
        if indices[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low < len(indices) and indices[low] == wanted


# ---------------------------------------------------------------------------- beam


@jit
def _order_pairs(f_items, f_sizes, low, high, by_parent, cursor, slots):
    """List the entries of all frontiers (row, place in its list), row or parent by parent."""
    n_rows = len(f_items)
    n_pairs = 0
    for i in range(n_rows):
        for j in range(f_sizes[i]):
            slots[n_pairs] = (np.int64(i) << 32) | j
            n_pairs += 1
    if not by_parent:
        return n_pairs
    for v in range(high - low + 1):
        cursor[v] = 0
    for i in range(n_rows):
        for j in range(f_sizes[i]):
            cursor[(f_items[i, j] >> 32) - low + 1] += 1
    for v in range(high - low):
        cursor[v + 1] += cursor[v]
    for i in range(n_rows):
        for j in range(f_sizes[i]):
            v = (f_items[i, j] >> 32) - low
            slots[cursor[v]] = (np.int64(i) << 32) | j
            cursor[v] += 1
    return n_pairs


@jit
def _offer_children(
    total, first, n_children, path, link, tree, bounds, wanted, excluded,
    answers, size, keep, inner, n_inner, beam,
):  # fmt: skip
    """Offer the children of a node to the lists; return the new sizes of both, -1 for NaN.

    Answers are the children that are ``wanted``: leaves, all or none. Inner nodes that are none go
    to the other list.
    """
    bias, label = tree[6], tree[10]
    gain, offset = bounds
    keys, items = answers
    inner_keys, inner_items = inner
    weighted = len(gain) > 0
    worst = key_score(keys[0]) if size == keep else -np.float32(np.inf)
    worst_inner = key_score(inner_keys[0]) if n_inner == beam else -np.float32(np.inf)
    for j in range(n_children):
        c = first + j
        if label[c] >= 0 and wanted == _NONE:
            continue
        is_answer = label[c] >= 0 or wanted == _ALL
        needed = worst if is_answer else worst_inner
        here = path + total[j] if link == _LOGISTIC else total[j]
        # A logistic edge is at most min(0, score): most children need no exp and log.
        if not (here > -np.inf and (weighted or here >= needed)):
            if here != here and bias[c] > -np.inf:
                return np.int64(-1), n_inner
            continue
        if link == _LOGISTIC:
            here = path + _edge(total[j], link)
        value = here
        if weighted:
            value = np.float32(gain[c] * math.exp(np.float64(here)) + offset[c])
        if not (value >= needed and here > -np.inf):
            continue
        item = pack_item(c, here)
        if not is_answer:
            n_inner = _offer(inner_keys, inner_items, n_inner, beam, pack_key(value, c), item)
            if n_inner == beam:
                worst_inner = key_score(inner_keys[0])
            continue
        number = c if wanted == _ALL else np.int64(label[c])
        if not _contains(excluded, number):
            size = _offer(keys, items, size, keep, pack_key(value, number), item)
            if size == keep:
                worst = key_score(keys[0])
    return size, n_inner


@jit
def _look_up_together(pair, n_pairs, slots, items, row_entries, tree):
    """Is it worth while to note the places of a chunk for all the rows of its node?"""
    node = items[slots[pair] >> 32, slots[pair] & _ALL_BITS] >> 32
    # Pairs are sorted by node: there are so many of it if the last of so many is one.
    last = pair + np.int64((tree[1][node + 1] - tree[1][node]) / (_FIND_COST * row_entries))
    return last < n_pairs and items[slots[last] >> 32, slots[last] & _ALL_BITS] >> 32 == node


@jit
def beam_rows(
    x_indptr, x_indices, x_data, start, stop, tree, link, bounds, e_indptr, e_indices,
    depth, beam, keep, frontiers, place, hits, total, out_keys, out_items, out_sizes,
):  # fmt: skip
    """Beam search of the rows `start` to `stop`; return the first row with a NaN, or -1.

    With depth 0 the answers are the best `keep` labels, else the best nodes at that depth. `bounds`
    are upper bounds on gain and offset below each node, those of the label at a leaf; empty: none.
    """
    child_start = tree[0]
    n_rows = stop - start
    both_keys, both_items, both_sizes, slots, cursor = frontiers
    row_entries = max(1.0, (x_indptr[stop] - x_indptr[start]) / max(n_rows, 1))
    for i in range(n_rows):
        both_keys[0, i, 0] = pack_key(np.float32(np.inf), np.int64(0))
        both_items[0, i, 0] = pack_item(np.int64(0), np.float32(0))
        both_sizes[0, i] = 1
        out_sizes[i] = 0
    low, high = np.int64(0), np.int64(1)  # nodes of the level
    level = np.int64(0)
    while True:
        now, then = level & 1, 1 - (level & 1)
        f_items, f_sizes, f_keys = both_items[now], both_sizes[now], both_keys[now]
        g_items, g_sizes, g_keys = both_items[then], both_sizes[then], both_keys[then]
        n_pairs = np.int64(0)
        for i in range(n_rows):
            n_pairs += f_sizes[i]
            g_sizes[i] = 0
        if n_pairs == 0 or (depth > 0 and level == depth):
            return np.int64(-1)
        level += 1
        by_parent = n_pairs >= 2 * (high - low)
        _order_pairs(f_items, f_sizes, low, high, by_parent, cursor, slots)
        wanted = _LEAVES
        if depth > 0:
            wanted = _ALL if level == depth else _NONE
        before, look_up = np.int64(-1), place[:0]
        for pair in range(n_pairs):
            i, slot = slots[pair] >> 32, slots[pair] & _ALL_BITS
            node = f_items[i, slot] >> 32
            if by_parent and node != before and len(place) > 0:
                # Parents come in ascending order, so what others left is below the first row.
                before, look_up = node, place[:0]
                if _look_up_together(pair, n_pairs, slots, f_items, row_entries, tree):
                    look_up = place
                    _fill_place(node, tree, place)
            size = out_sizes[i]
            if size == keep and key_score(f_keys[i, slot]) < key_score(out_keys[i, 0]):
                continue  # nothing below is better
            row = start + i
            _expand(
                *(x_indices, x_data, x_indptr[row], x_indptr[row + 1]),
                *(node, tree, look_up, hits, total),
            )
            first = np.int64(child_start[node])
            n_children = child_start[node + 1] - first
            path = item_path(f_items[i, slot])
            _close_hinges(total, n_children, path, link)
            out_sizes[i], g_sizes[i] = _offer_children(
                *(total, first, n_children, path, link, tree, bounds, wanted),
                e_indices[e_indptr[row] : e_indptr[row + 1]],
                *((out_keys[i], out_items[i]), size, keep),
                *((g_keys[i], g_items[i]), g_sizes[i], beam),
            )
            if out_sizes[i] < 0:
                return row
        low, high = np.int64(child_start[low]), np.int64(child_start[high])


@jit
def sort_answers(keys, items, sizes):
    for i in range(len(sizes)):
        _sort(keys[i], items[i], sizes[i])


# ---------------------------------------------------------------------------- several trees


@jit
def _log_mean(paths, n):
    """Logarithm of the mean of exp of the first n values, float32; exact for equal values."""
    best = paths[0]
    for t in range(1, n):
        best = max(best, paths[t])
    if n == 1 or best == -np.inf:
        return best
    total = 0.0  # expm1 and log1p: near 0 a sum of exp would lose the small differences
    for t in range(n):
        total += math.expm1(np.float64(paths[t]) - np.float64(best))
    return np.float32(np.float64(best) + math.log1p(total / n))


@jit
def _value(paths, n, gain, offset):
    """Gain times the mean probability plus offset, float32."""
    total = 0.0
    for t in range(n):
        total += math.exp(np.float64(paths[t]))
    return np.float32(gain * (total / n) + offset)


@jit
def merge_rows(keys, items, sizes, gain, offset, k, table, slots, paths, out_keys, out_sizes):
    """Join the answers of several trees: the best k by the mean over all trees.

    A label that is not among a tree's answers has the probability 0 there. `table` is a hash table
    of labels with a power of two of places, `slots` lists the ones in use, `paths` holds the path
    scores of the label at a place.
    """
    n_trees, n_rows = sizes.shape
    mask = len(table) - 1
    for i in range(n_rows):
        for slot in range(len(table)):
            table[slot] = -1
        used = 0
        for t in range(n_trees):
            for j in range(sizes[t, i]):
                label = key_number(keys[t, i, j])
                slot = (label * 0x9E3779B1) >> 7 & mask
                while table[slot] >= 0 and table[slot] != label:
                    slot = (slot + 1) & mask
                if table[slot] < 0:
                    table[slot] = label
                    slots[used] = slot
                    used += 1
                    for u in range(n_trees):
                        paths[slot, u] = -np.inf
                paths[slot, t] = item_path(items[t, i, j])
        size = 0
        for j in range(used):
            slot = slots[j]
            label = np.int64(table[slot])
            if len(gain) > 0:
                value = _value(paths[slot], n_trees, gain[label], offset[label])
            else:
                if size == k:
                    best = paths[slot, 0]
                    for t in range(1, n_trees):
                        best = max(best, paths[slot, t])
                    if best < key_score(out_keys[i, 0]):
                        continue  # the mean is no larger
                value = _log_mean(paths[slot], n_trees)
            key = pack_key(value, label)
            size = _offer(out_keys[i], out_keys[i], size, k, key, key)
        _sort(out_keys[i], out_keys[i], size)
        out_sizes[i] = size


@jit
def combine(paths, labels, gain, offset, out):
    """Scores of labels from their path scores in all trees, (n_labels, n_trees)."""
    n_trees = paths.shape[1]
    for i in range(len(out)):
        score = _log_mean(paths[i], n_trees)
        if len(gain) > 0 and score > -np.inf:
            score = _value(paths[i], n_trees, gain[labels[i]], offset[labels[i]])
        out[i] = score


# ---------------------------------------------------------------------------- exact search


@jit
def exact_rows(
    x_indptr, x_indices, x_data, start, stop, tree, link, bounds, e_indptr, e_indices,
    min_label, keep, hits, total, q_keys, q_items, out_keys, out_items, out_sizes,
):  # fmt: skip
    """Best-first search of the rows `start` to `stop`; return the first row with a NaN, or -1.

    A node ranks as the best that may be below it: the bound on its value with its smallest label.
    So a row is done when the best node left ranks behind the last of its answers.
    """
    child_start, bias, label = tree[0], tree[6], tree[10]
    gain, offset = bounds
    weighted = len(gain) > 0
    nowhere = hits[0][:0]
    for row in range(start, stop):
        i = row - start
        keys, items, excluded = (
            out_keys[i],
            out_items[i],
            e_indices[e_indptr[row] : e_indptr[row + 1]],
        )
        size, waiting = np.int64(0), np.int64(1)
        q_keys[0] = -pack_key(np.float32(np.inf), np.int64(0))
        q_items[0] = pack_item(np.int64(0), np.float32(0))
        while waiting > 0:
            if size == keep and -q_keys[0] < keys[0]:
                break
            node, path = q_items[0] >> 32, item_path(q_items[0])
            waiting -= 1
            if waiting > 0:
                _sift_down(q_keys, q_items, waiting, q_keys[waiting], q_items[waiting])
            worst = key_score(keys[0]) if size == keep else -np.float32(np.inf)
            _expand(
                *(x_indices, x_data, x_indptr[row], x_indptr[row + 1]),
                *(node, tree, nowhere, hits, total),
            )
            first = np.int64(child_start[node])
            n_children = child_start[node + 1] - first
            _close_hinges(total, n_children, path, link)
            for j in range(n_children):
                c = first + j
                here = path + total[j] if link == _LOGISTIC else total[j]
                if not (here > -np.inf and (weighted or here >= worst)):  # see _offer_children
                    if here != here and bias[c] > -np.inf:
                        return row
                    continue
                if link == _LOGISTIC:
                    here = path + _edge(total[j], link)
                value = here
                if weighted:
                    # An exp that is not monotone in its last bit must not spoil a bound.
                    share = 1.0 if label[c] >= 0 else _ROUNDING
                    value = np.float32(gain[c] * share * math.exp(np.float64(here)) + offset[c])
                if not (value >= worst and here > -np.inf):
                    continue
                key, item = pack_key(value, np.int64(min_label[c])), pack_item(c, here)
                if label[c] < 0:
                    waiting = _offer(q_keys, q_items, waiting, len(q_keys), -key, item)
                elif not _contains(excluded, np.int64(label[c])):
                    size = _offer(keys, items, size, keep, key, item)
                    if size == keep:
                        worst = key_score(keys[0])
        out_sizes[i] = size
    return np.int64(-1)


@jit
def bound_nodes(parent, label, label_gain, label_offset, gain, offset):
    """Largest gain and offset of the labels at or below each node."""
    for v in range(len(parent) - 1, -1, -1):
        if label[v] >= 0:
            gain[v], offset[v] = label_gain[label[v]], label_offset[label[v]]
        if v > 0:
            gain[parent[v]] = max(gain[parent[v]], gain[v])
            offset[parent[v]] = max(offset[parent[v]], offset[v])


@jit
def threshold_rows(
    x_indptr, x_indices, x_data, start, stop, tree, link, threshold, hits, total, stack, paths,
    counts, out_labels, out_paths, filled,
):  # fmt: skip
    """All labels whose path score reaches the threshold, rows `start` to `stop`.

    `threshold` holds the lowest one below each node. Returns the first row that was not done, for
    want of space in the output, and what is filled; -1 for NaN in that row.
    """
    child_start, bias, label = tree[0], tree[6], tree[10]
    nowhere = hits[0][:0]
    for row in range(start, stop):
        before, waiting = filled, 1
        stack[0], paths[0] = 0, 0
        while waiting > 0:
            waiting -= 1
            node, path = stack[waiting], paths[waiting]
            first = child_start[node]
            n_children = child_start[node + 1] - first
            if filled + n_children > len(out_labels):
                return row, before
            _expand(
                *(x_indices, x_data, x_indptr[row], x_indptr[row + 1]),
                *(node, tree, nowhere, hits, total),
            )
            _close_hinges(total, n_children, path, link)
            for j in range(n_children):
                c = first + j
                here = path + total[j] if link == _LOGISTIC else total[j]
                if link == _LOGISTIC and here >= threshold[c]:
                    here = path + _edge(total[j], link)
                if here != here and bias[c] > -np.inf:
                    return row, -1
                if not (here >= threshold[c] and here > -np.inf):
                    continue
                if label[c] >= 0:
                    out_labels[filled], out_paths[filled] = label[c], here
                    filled += 1
                else:
                    stack[waiting], paths[waiting] = c, here
                    waiting += 1
        counts[row] = filled - before
    return stop, filled


# ---------------------------------------------------------------------------- given labels


@jit
def path_rows(
    x_indptr, x_indices, x_data, start, stop, tree, link, parent, leaf_of, p_indptr, p_labels,
    hits, total, raw, stamp, route, out,
):  # fmt: skip
    """Path scores of the pairs of the rows `start` to `stop`; `out` begins with the first pair.

    A chunk is met once a row: `raw` keeps the scores of its children, `stamp` for which row.
    """
    child_start, bias = tree[0], tree[6]
    nowhere = hits[0][:0]
    for row in range(start, stop):
        for p in range(p_indptr[row], p_indptr[row + 1]):
            node = np.int64(leaf_of[p_labels[p]])
            length = 0
            while node > 0:
                route[length] = node
                length += 1
                node = np.int64(parent[node])
            path = np.float32(0)
            while length > 0 and path > -np.inf:
                length -= 1
                c = route[length]
                node = np.int64(parent[c])
                if stamp[node] != row + 1:
                    stamp[node] = row + 1
                    _expand(
                        *(x_indices, x_data, x_indptr[row], x_indptr[row + 1], node, tree),
                        *(nowhere, hits, total),
                    )
                    for j in range(child_start[node + 1] - child_start[node]):
                        raw[child_start[node] + j] = total[j]
                if bias[c] > -np.inf:
                    path = path + _edge(raw[c], link)
                else:
                    path = -np.float32(np.inf)
            if path != path:
                return row
            out[p - p_indptr[start]] = path
    return -1


@jit
def dense_rows(x_indptr, x_indices, x_data, start, stop, tree, link, paths, hits, total, out):
    """Path scores of all labels for the rows `start` to `stop`; return the first NaN row, or -1."""
    child_start, bias, label = tree[0], tree[6], tree[10]
    nowhere = hits[0][:0]
    paths[0] = 0
    for row in range(start, stop):
        for node in range(len(label)):
            path = paths[node]
            if label[node] >= 0:
                out[row - start, label[node]] = path
                continue
            first = child_start[node]
            n_children = child_start[node + 1] - first
            if path == -np.inf:
                for j in range(n_children):
                    paths[first + j] = path
                continue
            _expand(
                *(x_indices, x_data, x_indptr[row], x_indptr[row + 1]),
                *(node, tree, nowhere, hits, total),
            )
            _close_hinges(total, n_children, path, link)
            for j in range(n_children):
                here = -np.float32(np.inf)
                if bias[first + j] > -np.inf:
                    here = path + _edge(total[j], link) if link == _LOGISTIC else total[j]
                if here != here:
                    return row
                paths[first + j] = here
    return -1
