"""Kernels that write the gradient of the loss over the margins of a chunk of labels.

Three launches: the positives are taken out (their margin becomes -inf, which as a negative costs
nothing and has gradient 0), all pairs are treated as negatives, the gradients of the positives are
put back. Each pair is written by one program at a time and each sum has a fixed order.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n_pairs"])
def take_positives(
    margins_ptr,
    labels_ptr,
    rows_ptr,
    weight_ptr,
    gradient_ptr,
    loss_ptr,
    n_pairs,
    n_columns,
    BLOCK: tl.constexpr,
    LOSS: tl.constexpr,
):
    """Loss and gradient of each positive pair (label, row); its margin becomes -inf.

    ``weight_ptr``: weight of each pair, or None.
    """
    pairs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = pairs < n_pairs
    labels = tl.load(labels_ptr + pairs, mask=mask, other=0)
    place = margins_ptr + labels * n_columns + tl.load(rows_ptr + pairs, mask=mask, other=0)
    margin = tl.load(place, mask=mask, other=0.0)
    value, slope = loss_of_negatives(-margin, LOSS)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + pairs, mask=mask, other=0.0)
        value *= weight
        slope *= weight
    tl.store(loss_ptr + pairs, value, mask=mask)
    tl.store(gradient_ptr + pairs, -slope, mask=mask)
    tl.store(place, float("-inf"), mask=mask)


@triton.jit(do_not_specialize=["n_pairs"])
def put_positives(
    margins_ptr,
    labels_ptr,
    rows_ptr,
    gradient_ptr,
    active_ptr,
    n_pairs,
    n_columns,
    BLOCK: tl.constexpr,
):
    """Write the gradients of the positive pairs, and mark their labels as active."""
    pairs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = pairs < n_pairs
    labels = tl.load(labels_ptr + pairs, mask=mask, other=0)
    gradient = tl.load(gradient_ptr + pairs, mask=mask, other=0.0)
    rows = tl.load(rows_ptr + pairs, mask=mask, other=0)
    tl.store(margins_ptr + labels * n_columns + rows, gradient, mask=mask)
    one = tl.full([BLOCK], 1, tl.int8)
    tl.store(active_ptr + labels, one, mask=mask & (gradient != 0.0))


@triton.jit(do_not_specialize=["n_labels", "n_rows"])
def negatives(
    margins_ptr,
    loss_ptr,
    active_ptr,
    n_labels,
    n_rows,
    n_columns,
    BLOCK_L: tl.constexpr,
    BLOCK_B: tl.constexpr,
    LOSS: tl.constexpr,
):
    """Turn margins (labels, columns) into the gradients of negatives, in place.

    Writes the loss of each label, summed over the rows, and whether it has a gradient at all.
    Columns beyond ``n_rows`` are filling and get gradient 0.
    """
    labels = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    mask = labels < n_labels
    total = tl.zeros([BLOCK_L, BLOCK_B], dtype=tl.float32)
    steepest = tl.zeros([BLOCK_L, BLOCK_B], dtype=tl.float32)
    for start in range(0, n_columns, BLOCK_B):
        columns = start + tl.arange(0, BLOCK_B)
        place = margins_ptr + labels[:, None] * n_columns + columns[None, :]
        inside = mask[:, None] & (columns < n_columns)[None, :]
        value, slope = loss_of_negatives(tl.load(place, mask=inside, other=0.0), LOSS)
        real = (columns < n_rows)[None, :]
        slope = tl.where(real, slope, 0.0)
        tl.store(place, slope, mask=inside)
        total += tl.where(real, value, 0.0)
        # NaN is not 0: a label whose margins are not numbers has to be seen.
        steepest = tl.where(slope != 0.0, 1.0, steepest)
    tl.store(loss_ptr + labels, tl.sum(total, axis=1), mask=mask)
    tl.store(active_ptr + labels, tl.max(steepest, axis=1).to(tl.int8), mask=mask)


@triton.jit
def loss_of_negatives(margin, LOSS: tl.constexpr):
    """Return the loss of negatives with these margins and its derivative.

    max(0, 1 + z)^2 and 2 max(0, 1 + z); or log(1 + exp z) and the logistic function of z. Positives
    are the same with -z and the opposite derivative.
    """
    if LOSS == "squared_hinge":
        distance = tl.maximum(1.0 + margin, 0.0, propagate_nan=tl.PropagateNan.ALL)
        return distance * distance, 2.0 * distance
    else:
        small = tl.exp(-tl.abs(margin))
        shifted = 1.0 + small
        # log(1 + e) to full precision: the rounding of 1 + e cancels (W. Kahan).
        ratio = tl.div_rn(small, tl.where(shifted > 1.0, shifted - 1.0, 1.0))
        log1p = tl.where(shifted > 1.0, tl.log(shifted) * ratio, small)
        value = tl.maximum(margin, 0.0, propagate_nan=tl.PropagateNan.ALL) + log1p
        slope = tl.div_rn(tl.where(margin < 0.0, small, 1.0), shifted)
        return value, tl.where(margin == margin, slope, margin)
