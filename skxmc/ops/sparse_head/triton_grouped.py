"""Kernels for labels that share their inputs: group-shared fan-in (HASTE), and dense parts.

The inputs of a group are gathered once, a tile of (slots, columns) of the feature-major features,
and all labels of the group are multiplied with it by ``tl.dot``, with float32 sums. A dense part
is one group, cut into tiles of labels; its slots are the inputs themselves.
"""

import triton
import triton.language as tl

from skxmc.ops.sparse_head.triton_bits import as_operand, decode, product
from skxmc.ops.sparse_head.triton_update import NOT_SPECIALIZED, update_tile


@triton.jit
def _gather(
    features_ptr,
    indices_ptr,
    group,
    slots,
    columns,
    fan_in,
    n_columns,
    GATHERED: tl.constexpr,
):
    """Features of the group's inputs at ``slots``, (slots, columns), 0 outside."""
    mask = slots < fan_in
    if GATHERED:
        inputs = tl.load(indices_ptr + group * fan_in + slots, mask=mask, other=0).to(tl.int32)
    else:
        inputs = slots
    return tl.load(
        features_ptr + inputs[:, None] * n_columns + columns[None, :],
        mask=mask[:, None] & (columns < n_columns)[None, :],
        other=0.0,
    )


@triton.jit(do_not_specialize=["n_labels"])
def grouped_scores(
    features_ptr,
    weights_ptr,
    indices_ptr,
    bias_ptr,
    margins_ptr,
    n_labels,
    group_size,
    fan_in,
    n_columns,
    BLOCK_G: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
    DOT: tl.constexpr,
    GATHERED: tl.constexpr,
):
    """Margins of (a tile of) a group of labels and a tile of columns."""
    group = tl.program_id(0)
    member = tl.program_id(2) * BLOCK_G + tl.arange(0, BLOCK_G)
    labels = group * group_size + member
    mask = (member < group_size) & (labels < n_labels)
    columns = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    total = tl.zeros([BLOCK_G, BLOCK_B], dtype=tl.float32)
    for start in range(0, fan_in, BLOCK_F):
        slots = start + tl.arange(0, BLOCK_F)
        x = _gather(features_ptr, indices_ptr, group, slots, columns, fan_in, n_columns, GATHERED)
        w = tl.load(
            weights_ptr + labels[:, None] * fan_in + slots[None, :],
            mask=mask[:, None] & (slots < fan_in)[None, :],
            other=0,
        )
        total = product(as_operand(decode(w, PRECISION), DOT), x, total, DOT)
    total += tl.load(bias_ptr + labels, mask=mask, other=0.0)[:, None]
    tl.store(
        margins_ptr + labels[:, None] * n_columns + columns[None, :],
        total,
        mask=mask[:, None] & (columns < n_columns)[None, :],
    )


@triton.jit
def _gradient_of_group(
    features_ptr,
    dmargins_ptr,
    indices_ptr,
    group,
    labels,
    mask,
    slots,
    fan_in,
    n_columns,
    BLOCK_G: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_B: tl.constexpr,
    DOT: tl.constexpr,
    GATHERED: tl.constexpr,
):
    """Gradient of the weights of ``labels`` of a group at ``slots``, summed over the batch."""
    total = tl.zeros([BLOCK_G, BLOCK_F], dtype=tl.float32)
    for start in range(0, n_columns, BLOCK_B):
        columns = start + tl.arange(0, BLOCK_B)
        x = _gather(features_ptr, indices_ptr, group, slots, columns, fan_in, n_columns, GATHERED)
        g = tl.load(
            dmargins_ptr + labels[:, None] * n_columns + columns[None, :],
            mask=mask[:, None] & (columns < n_columns)[None, :],
            other=0.0,
        )
        total = product(as_operand(g, DOT), tl.trans(x), total, DOT)
    return total


@triton.jit(do_not_specialize=["n_labels"])
def grouped_grad_weights(
    features_ptr,
    dmargins_ptr,
    indices_ptr,
    gradient_ptr,
    n_labels,
    group_size,
    fan_in,
    n_columns,
    BLOCK_G: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_B: tl.constexpr,
    DOT: tl.constexpr,
    GATHERED: tl.constexpr,
):
    """Gradient of the weights, stored."""
    group = tl.program_id(0)
    slots = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    member = tl.program_id(2) * BLOCK_G + tl.arange(0, BLOCK_G)
    labels = group * group_size + member
    mask = (member < group_size) & (labels < n_labels)
    gradient = _gradient_of_group(
        features_ptr,
        dmargins_ptr,
        indices_ptr,
        group,
        labels,
        mask,
        slots,
        fan_in,
        n_columns,
        BLOCK_G,
        BLOCK_F,
        BLOCK_B,
        DOT,
        GATHERED,
    )
    tl.store(
        gradient_ptr + labels[:, None] * fan_in + slots[None, :],
        gradient,
        mask=mask[:, None] & (slots < fan_in)[None, :],
    )


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def grouped_update(
    features_ptr,
    dmargins_ptr,
    active_ptr,
    indices_ptr,
    weights_ptr,
    momentum_ptr,
    second_ptr,
    compensation_ptr,
    n_compensated,
    n_labels,
    group_size,
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
    BLOCK_G: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    KAHAN: tl.constexpr,
    DOT: tl.constexpr,
    GATHERED: tl.constexpr,
    SKIP_IDLE: tl.constexpr,
):
    """Gradient of a tile of weights of a group, and their update; the gradient is never stored.

    With ``SKIP_IDLE`` tiles whose labels have no gradient are left alone, unless compensated.
    """
    group = tl.program_id(0)
    slots = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    member = tl.program_id(2) * BLOCK_G + tl.arange(0, BLOCK_G)
    labels = group * group_size + member
    mask = (member < group_size) & (labels < n_labels)
    works = True
    if SKIP_IDLE:
        active = tl.load(active_ptr + labels, mask=mask, other=0).to(tl.int32)
        works = tl.max(tl.where(labels < n_compensated, 1, active)) > 0
    if works:
        gradient = _gradient_of_group(
            features_ptr,
            dmargins_ptr,
            indices_ptr,
            group,
            labels,
            mask,
            slots,
            fan_in,
            n_columns,
            BLOCK_G,
            BLOCK_F,
            BLOCK_B,
            DOT,
            GATHERED,
        )
        update_tile(
            gradient,
            labels[:, None] * fan_in + slots[None, :],
            (labels < n_compensated)[:, None],
            mask[:, None] & (slots < fan_in)[None, :],
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


@triton.jit(do_not_specialize=["n_labels"])
def grouped_partial(
    dmargins_ptr,
    active_ptr,
    weights_ptr,
    partial_ptr,
    n_labels,
    group_size,
    fan_in,
    n_columns,
    BLOCK_G: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_B: tl.constexpr,
    PRECISION: tl.constexpr,
    DOT: tl.constexpr,
    SKIP_IDLE: tl.constexpr,
):
    """What each slot of each group brings to its input: (groups * fan_in, columns) float32.

    `sum_by_input` adds these rows up by input in a fixed order; of a dense part, where a "group" is
    a fixed share of the labels, they are summed share by share.
    """
    group = tl.program_id(0)
    slots = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    columns = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    total = tl.zeros([BLOCK_F, BLOCK_B], dtype=tl.float32)
    for start in range(0, group_size, BLOCK_G):
        member = start + tl.arange(0, BLOCK_G)
        labels = group * group_size + member
        mask = (member < group_size) & (labels < n_labels)
        works = True
        if SKIP_IDLE:
            works = tl.max(tl.load(active_ptr + labels, mask=mask, other=0).to(tl.int32)) > 0
        if works:
            w = tl.load(
                weights_ptr + labels[:, None] * fan_in + slots[None, :],
                mask=mask[:, None] & (slots < fan_in)[None, :],
                other=0,
            )
            g = tl.load(
                dmargins_ptr + labels[:, None] * n_columns + columns[None, :],
                mask=mask[:, None] & (columns < n_columns)[None, :],
                other=0.0,
            )
            w = as_operand(decode(w, PRECISION), DOT)
            total = product(tl.trans(w), as_operand(g, DOT), total, DOT)
    rows = group * fan_in + slots
    tl.store(
        partial_ptr + rows[:, None] * n_columns + columns[None, :],
        total,
        mask=(slots < fan_in)[:, None] & (columns < n_columns)[None, :],
    )
