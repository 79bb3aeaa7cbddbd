"""Kernels for fixed fan-in: every label has its own inputs (thesis 5.3, algorithm 1).

Features are feature-major (inputs, columns), so that the values of one input in the whole batch
lie side by side; margins and their gradients are (labels, columns). ``n_columns`` is the batch
size, rounded up to a multiple of 16 and filled with zeros.
"""

import triton
import triton.language as tl

from skxmc.ops.sparse_head.triton_bits import decode
from skxmc.ops.sparse_head.triton_update import NOT_SPECIALIZED, update_tile


@triton.jit(do_not_specialize=["n_labels"])
def fixed_scores(
    features_ptr,
    weights_ptr,
    indices_ptr,
    bias_ptr,
    margins_ptr,
    n_labels,
    fan_in,
    n_columns,
    BLOCK_L: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Margins of a tile of labels and columns."""
    labels = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    columns = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    mask = labels < n_labels
    inside = mask[:, None] & (columns < n_columns)[None, :]
    slots = labels * fan_in
    total = tl.zeros([BLOCK_L, BLOCK_B], dtype=tl.float32)
    for slot in range(fan_in):
        inputs = tl.load(indices_ptr + slots + slot, mask=mask, other=0).to(tl.int32)
        w = decode(tl.load(weights_ptr + slots + slot, mask=mask, other=0), PRECISION)
        x = tl.load(
            features_ptr + inputs[:, None] * n_columns + columns[None, :], mask=inside, other=0.0
        )
        total = tl.fma(x, tl.broadcast_to(w[:, None], [BLOCK_L, BLOCK_B]), total)
    total += tl.load(bias_ptr + labels, mask=mask, other=0.0)[:, None]
    tl.store(margins_ptr + labels[:, None] * n_columns + columns[None, :], total, mask=inside)


@triton.jit
def _gradient_of_label(
    features_ptr,
    dmargins_ptr,
    indices_ptr,
    label,
    slots,
    fan_in,
    n_columns,
    BLOCK_F: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Gradient of the weights of one label at ``slots``, summed over the batch."""
    mask = slots < fan_in
    inputs = tl.load(indices_ptr + label * fan_in + slots, mask=mask, other=0).to(tl.int32)
    total = tl.zeros([BLOCK_F, BLOCK_B], dtype=tl.float32)
    for start in range(0, n_columns, BLOCK_B):
        columns = start + tl.arange(0, BLOCK_B)
        real = columns < n_columns
        g = tl.load(dmargins_ptr + label * n_columns + columns, mask=real, other=0.0)
        x = tl.load(
            features_ptr + inputs[:, None] * n_columns + columns[None, :],
            mask=mask[:, None] & real[None, :],
            other=0.0,
        )
        total = tl.fma(x, tl.broadcast_to(g[None, :], [BLOCK_F, BLOCK_B]), total)
    return tl.sum(total, axis=1)


@triton.jit
def fixed_grad_weights(
    features_ptr,
    dmargins_ptr,
    indices_ptr,
    gradient_ptr,
    fan_in,
    n_columns,
    BLOCK_F: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Gradient of the weights, stored: one program for each label and block of slots."""
    label = tl.program_id(0)
    slots = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    gradient = _gradient_of_label(
        features_ptr,
        dmargins_ptr,
        indices_ptr,
        label,
        slots,
        fan_in,
        n_columns,
        BLOCK_F,
        BLOCK_B,
    )
    tl.store(gradient_ptr + label * fan_in + slots, gradient, mask=slots < fan_in)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def fixed_update(
    features_ptr,
    dmargins_ptr,
    active_ptr,
    indices_ptr,
    weights_ptr,
    momentum_ptr,
    second_ptr,
    compensation_ptr,
    n_compensated,
    fan_in,
    n_columns,
    first_offset,
    key,
    rate,
    decay,
    keep1,
    add1,
    keep2,
    add2,
    scale,
    epsilon,
    BLOCK_F: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    KAHAN: tl.constexpr,
    SKIP_IDLE: tl.constexpr,
):
    """Gradient of the weights of a label, and their update; the gradient is never stored.

    With ``SKIP_IDLE`` labels without gradient are left alone, unless they are compensated.
    """
    label = tl.program_id(0)
    slots = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    works = True
    if SKIP_IDLE:
        works = (tl.load(active_ptr + label) != 0) | (label < n_compensated)
    if works:
        gradient = _gradient_of_label(
            features_ptr,
            dmargins_ptr,
            indices_ptr,
            label,
            slots,
            fan_in,
            n_columns,
            BLOCK_F,
            BLOCK_B,
        )
        mask = slots < fan_in
        update_tile(
            gradient,
            label * fan_in + slots,
            (slots >= 0) & (label < n_compensated),
            mask,
            weights_ptr,
            momentum_ptr,
            second_ptr,
            compensation_ptr,
            first_offset,
            key,
            rate,
            decay,
            keep1,
            add1,
            keep2,
            add2,
            scale,
            epsilon,
            PRECISION,
            OPTIMIZER,
            KAHAN,
        )


@triton.jit
def sum_by_input(
    rows_ptr,
    active_ptr,
    weights_ptr,
    slots_ptr,
    starts_ptr,
    gradient_ptr,
    fan_in,
    n_columns,
    BLOCK_S: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SKIP_IDLE: tl.constexpr,
):
    """Add to each input's gradient what comes through the slots that have this input.

    The slots are sorted by their input, so that one program sums all of an input, in the order of
    the slots: the same result in every run, without atomic additions.

    With ``WEIGHTED`` a slot (label, f) brings its weight times the label's row of ``rows``, the
    gradients of the margins; without, row number "slot" as it is.
    """
    feature = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    real = columns < n_columns
    start = tl.load(starts_ptr + feature)
    stop = tl.load(starts_ptr + feature + 1)
    total = tl.zeros([BLOCK_S, BLOCK_B], dtype=tl.float32)
    for position in range(start, stop, BLOCK_S):
        places = position + tl.arange(0, BLOCK_S)
        mask = places < stop
        slots = tl.load(slots_ptr + places, mask=mask, other=0)
        if WEIGHTED:
            rows = slots // fan_in
            if SKIP_IDLE:
                mask = mask & (tl.load(active_ptr + rows, mask=mask, other=0) != 0)
            w = decode(tl.load(weights_ptr + slots, mask=mask, other=0), PRECISION)
        else:
            rows = slots
        g = tl.load(
            rows_ptr + rows[:, None] * n_columns + columns[None, :],
            mask=mask[:, None] & real[None, :],
            other=0.0,
        )
        if WEIGHTED:
            total = tl.fma(g, tl.broadcast_to(w[:, None], [BLOCK_S, BLOCK_B]), total)
        else:
            total += g
    place = gradient_ptr + feature * n_columns + columns
    before = tl.load(place, mask=real, other=0.0)
    tl.store(place, before + tl.sum(total, axis=0), mask=real)


@triton.jit
def fixed_scatter(
    dmargins_ptr,
    active_ptr,
    weights_ptr,
    indices_ptr,
    gradient_ptr,
    fan_in,
    n_columns,
    BLOCK_F: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
    SKIP_IDLE: tl.constexpr,
):
    """Gradient of the inputs by atomic additions: needs no sorted slots, but is NOT deterministic.

    The order of the additions, and with it the rounding, changes from run to run.
    """
    label = tl.program_id(0)
    slots = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    mask = slots < fan_in
    works = True
    if SKIP_IDLE:
        works = tl.load(active_ptr + label) != 0
    if works:
        inputs = tl.load(indices_ptr + label * fan_in + slots, mask=mask, other=0).to(tl.int32)
        w = decode(tl.load(weights_ptr + label * fan_in + slots, mask=mask, other=0), PRECISION)
        for start in range(0, n_columns, BLOCK_B):
            columns = start + tl.arange(0, BLOCK_B)
            real = columns < n_columns
            g = tl.load(dmargins_ptr + label * n_columns + columns, mask=real, other=0.0)
            tl.atomic_add(
                gradient_ptr + inputs[:, None] * n_columns + columns[None, :],
                w[:, None] * g[None, :],
                mask=mask[:, None] & real[None, :],
                sem="relaxed",
            )
