"""The optimiser step of a tile of weights, and the kernel that updates biases.

The operations are those of ``reference._update`` in float32 and in the same order, division and
root rounded correctly. Compiled with ``enable_fp_fusion=False``, equal gradients give equal bits;
kernels that call `update_tile` therefore write the multiply-adds they want as ``tl.fma``.
"""

import triton
import triton.language as tl

from skxmc.ops.sparse_head.triton_bits import (
    decode,
    encode_stochastic,
    nearest_bfloat16,
    random_bits,
)

NOT_SPECIALIZED = ("n_labels", "first_offset", "key", "n_compensated", "rate", "decay")


@triton.jit
def update_tile(
    gradient,
    offsets,
    compensated,
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
    PRECISION: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    KAHAN: tl.constexpr,
):
    """Update the weights at ``offsets`` of the chunk by a gradient that is in registers only.

    Weights are decoded, moved in float32, rounded and stored. ``compensated`` marks those that have
    a Kahan compensation: the first labels of the part.
    """
    w = decode(tl.load(weights_ptr + offsets, mask=mask, other=0), PRECISION)
    update = optimizer_step(
        gradient,
        offsets,
        mask,
        momentum_ptr,
        second_ptr,
        rate,
        keep1,
        add1,
        keep2,
        add2,
        scale,
        epsilon,
        OPTIMIZER,
    )
    update += decay * w
    random = random_bits(key.to(tl.uint32), offsets.to(tl.int64) + first_offset)
    if KAHAN:
        mask_c = mask & compensated
        c = tl.load(compensation_ptr + offsets, mask=mask_c, other=0)
        correction = decode(c, "bfloat16") - update
        target = tl.where(compensated, w + correction, w - update)
        stored = encode_stochastic(target, random, PRECISION)
        lost = (w - decode(stored, PRECISION)) + correction
        tl.store(compensation_ptr + offsets, nearest_bfloat16(lost), mask=mask_c)
    else:
        stored = encode_stochastic(w - update, random, PRECISION)
    tl.store(weights_ptr + offsets, stored, mask=mask)


@triton.jit
def optimizer_step(
    gradient,
    offsets,
    mask,
    momentum_ptr,
    second_ptr,
    rate,
    keep1,
    add1,
    keep2,
    add2,
    scale,
    epsilon,
    OPTIMIZER: tl.constexpr,
):
    """Advance the optimiser's state at ``offsets``; return what is to be subtracted."""
    if OPTIMIZER == "adam":
        m = keep1 * tl.load(momentum_ptr + offsets, mask=mask, other=0.0) + add1 * gradient
        v = tl.load(second_ptr + offsets, mask=mask, other=0.0)
        v = keep2 * v + (add2 * gradient) * gradient
        tl.store(momentum_ptr + offsets, m, mask=mask)
        tl.store(second_ptr + offsets, v, mask=mask)
        return tl.div_rn(rate * m, tl.sqrt_rn(v) * scale + epsilon)
    elif OPTIMIZER == "momentum":
        m = keep1 * tl.load(momentum_ptr + offsets, mask=mask, other=0.0) + gradient
        tl.store(momentum_ptr + offsets, m, mask=mask)
        return rate * m
    else:
        return rate * gradient


@triton.jit(do_not_specialize=["n_labels"])
def update_bias(
    dmargins_ptr,
    bias_ptr,
    momentum_ptr,
    second_ptr,
    n_labels,
    n_columns,
    rate,
    keep1,
    add1,
    keep2,
    add2,
    scale,
    epsilon,
    BLOCK_L: tl.constexpr,
    BLOCK_B: tl.constexpr,
    OPTIMIZER: tl.constexpr,
):
    """Update biases by the sums of the rows of ``dmargins`` (labels, columns)."""
    labels = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    mask = labels < n_labels
    total = tl.zeros([BLOCK_L, BLOCK_B], dtype=tl.float32)
    for start in range(0, n_columns, BLOCK_B):
        columns = start + tl.arange(0, BLOCK_B)
        total += tl.load(
            dmargins_ptr + labels[:, None] * n_columns + columns[None, :],
            mask=mask[:, None] & (columns < n_columns)[None, :],
            other=0.0,
        )
    update = optimizer_step(
        tl.sum(total, axis=1),
        labels,
        mask,
        momentum_ptr,
        second_ptr,
        rate,
        keep1,
        add1,
        keep2,
        add2,
        scale,
        epsilon,
        OPTIMIZER,
    )
    bias = tl.load(bias_ptr + labels, mask=mask, other=0.0)
    tl.store(bias_ptr + labels, bias - update, mask=mask)
