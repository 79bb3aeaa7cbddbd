"""Compiled loops over groups of labels: margins, losses, gradients and updates.

All arrays are flat. The features, and the gradient with respect to them, are in tiles of rows: a
tile holds for each input, and for one more input of zeros, the values of ``width`` rows, a multiple
of ``LANES``, side by side. Slots of a group are padded to a multiple of ``LANES`` with the input of
zeros and the weight 0, labels of a group to a multiple of four with weights of 0.

Weights, indices and compensation come as bytes, so that one version of the kernels serves all
formats. ``shape`` stands for (n_slots, n_padded, group_size, n_group_rows, index_stride, n_inputs,
width, code, wide): slots of a label, the same padded, labels of a group, the same padded, slots
between the indices of two groups (0 for a dense part, whose groups all have the same), inputs, rows
of a tile, format of the weights (0 float32, 1 bfloat16, 2 float8), whether indices have 32 bits.
"""

import math

import numpy as np

from skxmc.ops._jit import jit
from skxmc.ops.sparse_head._simd import (
    LANES,
    add_gradients_1,
    add_gradients_4,
    add_input_gradients_4x4,
    add_input_gradients_16x1,
    add_margins_1x1,
    add_margins_1x4,
    add_margins_4x1,
    add_margins_4x4,
    add_weight_gradients_1x16,
    add_weight_gradients_4x4,
    any_at_least,
    bce_of_negatives,
    fence,
    fill,
    interleave,
    nonzero_vectors,
    prefetch_for_writing,
    squared_hinge_of_negatives,
    sum_vectors,
    transpose_block,
    transpose_block_past_caches,
)
from skxmc.ops.sparse_head._simd_update import (
    adam_update,
    add_decay,
    decode_bfloat16,
    decode_float8,
    decode_float32,
    load_offsets_int32,
    load_offsets_uint16,
    momentum_update,
    scale_update,
    store_bfloat16,
    store_bfloat16_compensated,
    store_float8,
    store_float8_compensated,
    store_float32,
)

# Not to be called from Python: without the wrappers for that they compile in half the time.
_helper = jit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
# What is called for each group of labels, which may be one label: a call hands over an array as
# seven numbers, on the stack, and took half of the time of such a group.
_inlined = jit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
#: Slots that are treated in one go: their rows of 128 floats fill two thirds of a first cache.
_SLAB = 64
# A position that Numba, unlike for a literal 0, does not compile a version of its own for.
_NONE = np.int64(0)
#: A margin without loss, whichever the loss is.
_FAR = np.float32(-1e30)


@_helper
def _bisect(values, begin, end, value):
    """The first position from ``begin`` to ``end`` whose value is not below ``value``."""
    while begin < end:
        middle = (begin + end) // 2
        if values[middle] < value:
            begin = middle + 1
        else:
            end = middle
    return begin


# ---------------------------------------------------------------------------- transposition


@jit(no_cfunc_wrapper=True)
def transpose(
    source, source_at, source_stride, n_rows, n_columns, out, out_at, out_stride, past_caches
):
    """``out[j, i] = source[i, j]`` for a part of two flat arrays, given where they begin.

    ``past_caches`` is allowed where ``out`` begins on a cache line and ``out_stride`` is a multiple
    of ``LANES``, and asks for a `fence`.
    """
    for i in range(0, n_rows, LANES):
        for j in range(0, n_columns, LANES):
            a, b = source_at + i * source_stride + j, out_at + j * out_stride + i
            if i + LANES <= n_rows and j + LANES <= n_columns:
                if past_caches and b % LANES == 0:
                    transpose_block_past_caches(source, a, source_stride, out, b, out_stride)
                    continue
                transpose_block(source, a, source_stride, out, b, out_stride)
            else:
                for p in range(min(LANES, n_rows - i)):
                    for q in range(min(LANES, n_columns - j)):
                        out[b + q * out_stride + p] = source[a + p * source_stride + q]


# ---------------------------------------------------------------------------- margins


@_helper
def _decode(code, weights, start, n_slots, out, out_at):
    """float32 of the stored weights of a row, padded with zeros."""
    if code == 0:
        decode_float32(weights, start, n_slots, out, out_at)
    elif code == 1:
        decode_bfloat16(weights, start, n_slots, out, out_at)
    else:
        decode_float8(weights, start, n_slots, out, out_at)


@_inlined
def _load_group(label, n, shape, weights, indices, offsets, w):
    """Fetch a group of ``n`` labels: where its rows begin in a tile, and its weights in float32.

    Returns whether all indices are inputs; where they are not, they must not be used.
    """
    n_slots, n_padded, group_size, n_group_rows, index_stride, n_inputs, width, code, wide = shape
    start = (label // group_size) * index_stride
    if wide:
        right = load_offsets_int32(indices, start, n_slots, n_inputs, width, offsets)
    else:
        right = load_offsets_uint16(indices, start, n_slots, n_inputs, width, offsets)
    if n_slots == n_padded:
        _decode(code, weights, label * n_slots, n * n_slots, w, _NONE)
    else:
        for i in range(n):
            _decode(code, weights, (label + i) * n_slots, n_slots, w, i * n_padded)
    fill(w, n * n_padded, (n_group_rows - n) * n_padded // LANES, np.float32(0))
    return right


@_inlined
def _add_margins(z, z_at, n, shape, x, x_at, offsets, w):
    """Add to the margins ``z`` of a group the products of its weights and the features."""
    n_padded, group_size, width = shape[1], shape[2], shape[6]
    for first in range(0, n_padded, _SLAB):
        stop = min(first + _SLAB, n_padded)
        v = 0
        while v < width:
            wide = v + 4 * LANES <= width
            for label in range(0, n, 4):
                row, w_row = z_at + label * width + v, label * n_padded
                if group_size == 1 and wide:
                    add_margins_1x4(
                        z, row, width, x, x_at + v, offsets, w, w_row, n_padded, first, stop
                    )
                elif group_size == 1:
                    add_margins_1x1(
                        z, row, width, x, x_at + v, offsets, w, w_row, n_padded, first, stop
                    )
                elif wide:
                    add_margins_4x4(
                        z, row, width, x, x_at + v, offsets, w, w_row, n_padded, first, stop
                    )
                else:
                    add_margins_4x1(
                        z, row, width, x, x_at + v, offsets, w, w_row, n_padded, first, stop
                    )
            v += 4 * LANES if wide else LANES


@_inlined
def _margins(label, n, shape, weights, indices, bias, x, x_at, offsets, w, z, z_at):
    """Margins of the ``n`` labels of a group for a tile of rows; whether its indices are right."""
    width, n_group_rows = shape[6], shape[3]
    if not _load_group(label, n, shape, weights, indices, offsets, w):
        return False
    for i in range(n_group_rows):
        start = bias[label + i] if i < n else np.float32(0)
        fill(z, z_at + i * width, width // LANES, start)
    _add_margins(z, z_at, n, shape, x, x_at, offsets, w)
    return True


@jit(no_cfunc_wrapper=True)
def scores_slice(
    first, stop, block, shape, weights, indices, bias, x, tile_stride, n_rows, offsets, w, z, out,
    out_at, out_stride, past_caches,
):  # fmt: skip
    """Margins of the labels ``first`` to ``stop`` into the rows of ``out``.

    ``block``, a multiple of the group size, is how many labels are turned at a time; for
    ``past_caches`` see `transpose`. Returns the first label of the first group with an index that
    is no input, or -1.
    """
    group_size, width = shape[2], shape[6]
    for tile in range(0, n_rows, width):
        x_at = (tile // width) * tile_stride
        for begin in range(first, stop, block):
            end = min(begin + block, stop)
            for label in range(begin, end, group_size):
                n = min(group_size, stop - label)
                z_at = (label - begin) * width
                if not _margins(
                    label, n, shape, weights, indices, bias, x, x_at, offsets, w, z, z_at
                ):
                    return label
            transpose(
                *(z, 0, width, end - begin, min(width, n_rows - tile)),
                *(out, out_at + tile * out_stride + begin, out_stride, past_caches),
            )
    fence()
    return -1


# ---------------------------------------------------------------------------- loss


@_helper
def _loss_of_positive(is_hinge, z, weight):
    """Loss and gradient of a positive, in float64."""
    if is_hinge:
        distance = 1.0 - z
        if distance < 0.0:  # NaN stays
            distance = 0.0
        return weight * distance * distance, -2.0 * weight * distance
    small = math.exp(-abs(z))
    if z > 0:
        return weight * math.log1p(small), -weight * small / (1.0 + small)
    return weight * (math.log1p(small) - z), -weight / (1.0 + small)


@_helper
def _margins_to_gradients(
    is_hinge, label, z, z_at, width, n_valid, tile, labels, rows, q, positive_weight, saved, sums
):
    """Write the gradient of the loss over the margins of a label; add the losses to ``sums``.

    ``labels``, ascending, and ``rows`` are those of all positives, ``q`` the first that may be of
    this label. Returns the first that is of a later one.
    """
    begin = q
    while q < len(labels) and labels[q] == label:
        row = rows[q] - tile
        if 0 <= row < n_valid:
            saved[row] = z[z_at + row]
            z[z_at + row] = _FAR
        q += 1
    for row in range(n_valid, width):
        z[z_at + row] = _FAR
    if is_hinge:
        squared_hinge_of_negatives(z, z_at, width // LANES, sums)
    else:
        bce_of_negatives(z, z_at, width // LANES, sums)
    for row in range(n_valid, width):
        z[z_at + row] = np.float32(0)
    weight = np.float64(positive_weight[label]) if len(positive_weight) > 0 else 1.0
    for p in range(begin, q):
        row = rows[p] - tile
        if 0 <= row < n_valid:
            loss, gradient = _loss_of_positive(is_hinge, np.float64(saved[row]), weight)
            sums[0] += loss
            z[z_at + row] = np.float32(gradient)
    return q


# ---------------------------------------------------------------------------- gradients


@_helper
def _add_gradients_of_label(gw, gw_at, x, gx, x_at, offsets, w, w_at, z, z_at, n_padded, width):
    """Add both gradients of one label, vector by vector; those without gradient cost nothing."""
    nonzero = nonzero_vectors(z, z_at, width // LANES)
    if nonzero == 0:
        return
    for first in range(0, n_padded, _SLAB):
        stop = min(first + _SLAB, n_padded)
        v = 0
        while v < width:
            bits = (nonzero >> (v // LANES)) & 15
            if v + 4 * LANES <= width and bits & (bits - 1):  # two of four or more
                add_gradients_4(
                    gw, gw_at, x, gx, x_at + v, offsets, w, w_at, z, z_at + v, first, stop
                )
                v += 4 * LANES
                continue
            if bits & 1:
                add_gradients_1(
                    gw, gw_at, x, gx, x_at + v, offsets, w, w_at, z, z_at + v, first, stop
                )
            v += LANES


@_helper
def _add_gradients(
    gw, gw_at, gw_trash, x, gx, x_at, offsets, w, z, z_at, z_zero, z_quads, n, n_group_rows,
    n_padded, width, rows,
):  # fmt: skip
    """Add both gradients of the ``n`` labels of a group, whose margins' gradients are in ``z``.

    ``gw_trash``: where a row may be written that nobody reads; ``z_zero``: where a row is zero;
    ``z_quads``: where 16 rows may be written once more. ``rows``: scratch for four lists.
    """
    if n_group_rows == 1:
        _add_gradients_of_label(gw, gw_at, x, gx, x_at, offsets, w, _NONE, z, z_at, n_padded, width)
        return
    size = len(rows) // 4
    gw_rows, w_rows, z_rows, vectors = 0, size, 2 * size, 3 * size
    n_active, nonzero = 0, 0
    for i in range(n):
        row = z_at + i * width
        bits = nonzero_vectors(z, row, width // LANES)
        if bits:
            nonzero |= bits
            rows[gw_rows + n_active] = gw_at + i * n_padded
            rows[w_rows + n_active] = i * n_padded
            rows[z_rows + n_active] = row
            n_active += 1
    if n_active <= 2:
        for k in range(n_active):
            _add_gradients_of_label(
                *(gw, rows[gw_rows + k], x, gx, x_at, offsets, w, rows[w_rows + k]),
                *(z, rows[z_rows + k], n_padded, width),
            )
        return
    n_vectors = 0
    for v in range(width // LANES):
        if (nonzero >> v) & 1:
            rows[vectors + n_vectors] = v * LANES
            n_vectors += 1
    k = 0
    while k < n_active:
        n_labels = 16 if n_active - k > 8 else 4  # twice as fast, so worth some rows of zeros
        for i in range(max(k, n_active), k + n_labels):
            rows[gw_rows + i] = gw_trash
            rows[z_rows + i] = z_zero
        for i in range(0, n_labels, 4):
            interleave(
                *(z, rows, z_rows + k + i, vectors, n_vectors),
                *(z, z_quads + i * LANES // 4, n_labels * LANES // 4),
            )
        if n_labels == 16:
            add_weight_gradients_4x4(
                *(gw, x, x_at, offsets, z, z_quads, rows, gw_rows + k, vectors, n_vectors),
                *(0, n_padded),
            )
        else:
            add_weight_gradients_1x16(
                *(gw, x, x_at, offsets, z, z_quads, rows, gw_rows + k, vectors, n_vectors),
                *(0, n_padded),
            )
        k += n_labels
    for first in range(0, n_padded, _SLAB):
        stop = min(first + _SLAB, n_padded)
        v = 0
        while v < width:
            if v + 4 * LANES <= width:
                add_input_gradients_4x4(
                    gx, x_at + v, offsets, w, z, v, rows, w_rows, z_rows, n_active, first, stop
                )
                v += 4 * LANES
            else:
                if (nonzero >> (v // LANES)) & 1:
                    add_input_gradients_16x1(
                        gx, x_at + v, offsets, w, z, v, rows, w_rows, z_rows, n_active, first, stop
                    )
                v += LANES


# ---------------------------------------------------------------------------- training


@_helper
def _take_off(code, weights, compensation, is_compensated, start, n_slots, update, at, key):
    """Take the updates of a row off the stored weights."""
    if code == 0:
        store_float32(weights, start, n_slots, update, at, key)
    elif code == 1 and is_compensated:
        store_bfloat16_compensated(weights, compensation, start, n_slots, update, at, key)
    elif code == 1:
        store_bfloat16(weights, start, n_slots, update, at, key)
    elif is_compensated:
        store_float8_compensated(weights, compensation, start, n_slots, update, at, key)
    else:
        store_float8(weights, start, n_slots, update, at, key)


@_helper
def _to_update(update, at, count, momentum, second, start, optimizer):
    """Turn a gradient into what the optimiser takes off, without decay."""
    kind, rate, factor, beta1, rest1, beta2, rest2, root, epsilon = optimizer
    if kind == 0:
        scale_update(update, at, count, rate)
    elif kind == 1:
        momentum_update(update, at, count, momentum, start, factor, rate)
    else:
        adam_update(
            *(update, at, count, momentum, second, start, rate, beta1, rest1, beta2, rest2),
            *(root, epsilon),
        )


@jit(no_cfunc_wrapper=True)
def train_slice(
    first, stop, chunk, shape, weights, indices, bias, out, momentum, second, compensation,
    n_compensated, bias_momentum, bias_second, x, gx, tile_stride, n_rows, target_labels,
    target_rows, positive_weight, is_hinge, optimizer, decay, trains_bias, key, offsets, w, z, gw,
    gb, saved, sums, rows,
):  # fmt: skip
    """One training step of the labels ``first`` to ``stop`` of a part, ``chunk`` labels at a time.

    ``out`` holds the weights and the bias once more, writable; targets and their weights are those
    of the part. Adds to ``gx`` the gradient with respect to the features and to ``sums``, which has
    ``LANES`` for each tile, the losses. Returns as `scores_slice` whether all went well.
    """
    n_slots, n_padded, group_size, n_group_rows, _, _, width, code, _ = shape
    skips = optimizer[0] == 0 and decay == np.float32(0)
    z_zero, gw_trash = n_group_rows * width, (chunk + n_group_rows) * n_padded
    q_chunk = _bisect(target_labels, 0, len(target_labels), first)
    q = q_chunk
    for begin in range(first, stop, chunk):
        end = min(begin + chunk, stop)
        fill(gw, 0, (end - begin) * n_padded // LANES, np.float32(0))
        for label in range(begin, end):
            gb[label - begin] = 0.0
        for tile in range(0, n_rows, width):
            x_at = (tile // width) * tile_stride
            n_valid = min(width, n_rows - tile)
            losses = sums[tile // width * LANES : (tile // width + 1) * LANES]
            q = q_chunk
            for label in range(begin, end, group_size):
                n = min(group_size, end - label)
                if not _margins(
                    label, n, shape, weights, indices, bias, x, x_at, offsets, w, z, _NONE
                ):
                    return label
                for i in range(n):
                    q = _margins_to_gradients(
                        *(is_hinge, label + i, z, i * width, width, n_valid, tile, target_labels),
                        *(target_rows, q, positive_weight, saved, losses),
                    )
                    gb[label + i - begin] += sum_vectors(z, i * width, width // LANES)
                _add_gradients(
                    *(gw, (label - begin) * n_padded, gw_trash, x, gx, x_at, offsets, w),
                    *(z, 0, z_zero, z_zero + width, n, n_group_rows, n_padded, width, rows),
                )
        q_chunk = q
        for label in range(begin, end):
            at, start = (label - begin) * n_padded, label * n_slots
            if skips and label >= n_compensated and nonzero_vectors(gw, at, n_padded // LANES) == 0:
                continue
            _to_update(gw, at, n_slots, momentum, second, start, optimizer)
            if decay != np.float32(0):
                _decode(code, weights, start, n_slots, w, _NONE)
                add_decay(gw, at, n_slots, w, 0, decay)
            _take_off(
                *(code, out[0], compensation, label < n_compensated, start, n_slots, gw, at, key),
            )
        if trains_bias:
            for label in range(begin, end):
                gw[label - begin] = np.float32(gb[label - begin])
            _to_update(gw, _NONE, end - begin, bias_momentum, bias_second, begin, optimizer)
            for label in range(begin, end):
                out[1][label] -= gw[label - begin]
    return -1


@_helper
def _copy_rows(source, source_at, source_stride, n_rows, n_columns, out, out_at, out_stride):
    for i in range(n_rows):
        a, b = np.uint64(source_at + i * source_stride), np.uint64(out_at + i * out_stride)
        for j in range(np.uint64(n_columns)):  # unsigned: without a test for negative ones
            out[b + j] = source[a + j]


@jit(no_cfunc_wrapper=True)
def gradients_slice(
    first, stop, chunk, shape, weights, indices, x, gx, tile_stride, n_rows, dmargins, n_labels,
    offsets, w, z, gw, rows, out, spare,
):  # fmt: skip
    """Both gradients of the labels ``first`` to ``stop``, by ``dmargins`` (n_rows, n_labels).

    Adds to ``gx``; writes the gradient of the weights to ``out``, which holds zeros, unless that is
    empty. The row ``spare`` of ``out`` may be written, too.
    """
    n_slots, n_padded, group_size, n_group_rows, _, _, width, _, _ = shape
    z_zero, gw_trash = (chunk + n_group_rows) * width, (chunk + n_group_rows) * n_padded
    is_wanted = len(out) > 0
    # Where one tile and whole vectors are all, nothing has to wait before it is written. Else the
    # gradient of each group may be written over that of the last one, unless tiles are to come.
    is_direct = is_wanted and n_rows <= width and n_slots == n_padded
    gw_stride = n_padded if n_rows > width else 0
    for begin in range(first, stop, chunk):
        end = min(begin + chunk, stop)
        for tile in range(0, n_rows, width):
            x_at = (tile // width) * tile_stride
            n_valid = min(width, n_rows - tile)
            if n_valid < width:
                fill(z, 0, (end - begin) * width // LANES, np.float32(0))
            transpose(
                *(dmargins, tile * n_labels + begin, n_labels, n_valid, end - begin),
                *(z, 0, width, False),
            )
            for label in range(begin, end, group_size):
                n = min(group_size, end - label)
                gw_at = (label - begin) * gw_stride
                if is_wanted:
                    prefetch_for_writing(out, (label + group_size) * n_slots, n * n_slots)
                if tile == 0 and not is_direct:
                    fill(gw, gw_at, n * n_padded // LANES, np.float32(0))
                if not _load_group(label, n, shape, weights, indices, offsets, w):
                    return label
                target, at, trash = gw, gw_at, gw_trash
                if is_direct:
                    target, at, trash = out, label * n_slots, spare * n_slots
                _add_gradients(
                    *(target, at, trash, x, gx, x_at, offsets, w, z, (label - begin) * width),
                    *(z_zero, z_zero + width, n, n_group_rows, n_padded, width, rows),
                )
                if is_wanted and not is_direct and tile + width >= n_rows:
                    _copy_rows(gw, gw_at, n_padded, n, n_slots, out, label * n_slots, n_slots)
    return -1


# ---------------------------------------------------------------------------- top-k


@_helper
def _offer(score, label, labels, scores, start, found, k):
    """Insert a label into the list of the best that begins at ``start``, if it belongs there."""
    position = found
    while position > 0 and (
        score > scores[start + position - 1]
        or (score == scores[start + position - 1] and label < labels[start + position - 1])
    ):
        position -= 1
    if position == k:
        return found
    last = min(found, k - 1)
    for p in range(start + last, start + position, -1):
        labels[p] = labels[p - 1]
        scores[p] = scores[p - 1]
    labels[start + position] = label
    scores[start + position] = score
    return last + 1


@_helper
def _consider(score, label, row, indptr, indices, k, labels, scores, found, bounds):
    """Offer a label to a row unless it is excluded; returns whether the score is NaN."""
    if score < bounds[row] or score == -np.inf:
        return False
    end = indptr[row + 1]
    p = _bisect(indices, indptr[row], end, label)
    if p < end and indices[p] == label:
        return False
    if score != score:
        return True
    found[row] = _offer(score, label, labels, scores, row * k, found[row], k)
    if found[row] == k:
        bounds[row] = scores[row * k + k - 1]
    return False


@jit(no_cfunc_wrapper=True)
def topk_slice(
    first, stop, shape, weights, indices, bias, x, tile_stride, n_rows, ids, excluded_indptr,
    excluded, restricts, pair_labels, pair_rows, k, offsets, w, z, labels, scores, found, bounds,
):  # fmt: skip
    """The ``k`` best of the labels ``first`` to ``stop`` for each row.

    ``ids``: original label of each label of the part. ``excluded``: what is not answered, in CSR,
    by original label. ``pair_labels``, ascending labels of the part, and ``pair_rows``: what may be
    answered where ``restricts``. ``labels``, ``scores``, ``found`` and ``bounds``: lists of the
    best, their lengths and the score to reach, for all rows. Returns (-1, -1), or the first label
    of a group with a wrong index and -1, or a label and a row whose margin is NaN.
    """
    group_size, width = shape[2], shape[6]
    for tile in range(0, n_rows, width):
        x_at = (tile // width) * tile_stride
        n_valid = min(width, n_rows - tile)
        c = _bisect(pair_labels, 0, len(pair_labels), first)
        for group in range(first, stop, group_size):
            n = min(group_size, stop - group)
            c_begin = c
            while c < len(pair_labels) and pair_labels[c] < group + n:
                c += 1
            if restricts and c == c_begin:
                continue
            if not _margins(group, n, shape, weights, indices, bias, x, x_at, offsets, w, z, _NONE):
                return group, -1
            for p in range(c_begin, c):
                label, lane = pair_labels[p], pair_rows[p] - tile
                if 0 <= lane < n_valid:
                    score = z[(label - group) * width + lane]
                    if _consider(
                        *(score, ids[label], tile + lane, excluded_indptr, excluded, k),
                        *(labels, scores, found, bounds),
                    ):
                        return np.int64(label), tile + lane
            if restricts:
                continue
            for label in range(group, group + n):
                row_at = (label - group) * width
                for v in range(0, width, LANES):
                    if any_at_least(z, row_at + v, bounds, tile + v):
                        for lane in range(v, min(v + LANES, n_valid)):
                            score = z[row_at + lane]
                            if _consider(
                                *(score, ids[label], tile + lane, excluded_indptr, excluded, k),
                                *(labels, scores, found, bounds),
                            ):
                                return label, tile + lane
    return -1, -1


@jit(no_cfunc_wrapper=True)
def merge_lists(labels, scores, n_rows, n_lists, kept, k, out_labels, out_scores):
    """Merge lists of the ``kept`` best, (n_lists, n_rows, kept) flat, into one of ``k``."""
    for row in range(n_rows):
        found = 0
        for piece in range(n_lists):
            start = (piece * n_rows + row) * kept
            for p in range(start, start + kept):
                if scores[p] == -np.inf:
                    break
                found = _offer(scores[p], labels[p], out_labels, out_scores, row * k, found, k)
        for p in range(row * k + found, (row + 1) * k):
            out_labels[p] = -1
            out_scores[p] = -np.inf
