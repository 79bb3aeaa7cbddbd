"""The SIMD primitives against NumPy in float64."""

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.ops._jit import jit
from skxmc.ops._lanes import (
    LANES,
    add_row_to_block,
    aligned_zeros,
    over_rows,
    row_times_block,
    row_times_block_plus,
)

EPS = np.finfo(np.float32).eps
#: Row lengths around the unrolled loop (four entries at a time) and its remainder.
LENGTHS = [*range(10), 33]


@jit
def _gather(indptr, indices, data, block, out):
    for i in range(len(indptr) - 1):
        row_times_block(indices, data, block, out, i, indptr[i], indptr[i + 1])


@jit
def _scatter(indptr, indices, data, block, factors):
    for i in range(len(indptr) - 1):
        add_row_to_block(indices, data, block, factors, i, indptr[i], indptr[i + 1])


@jit
def _gather_plus(indptr, indices, data, block, out, added, scales):
    for i in range(len(scales)):
        row_times_block_plus(
            indices, data, block, out, i, indptr[i], indptr[i + 1], added, scales[i]
        )


def rows_of_all_lengths(n_features=40, index_type=np.int32, seed=0):
    rng = np.random.default_rng(seed)
    indptr = np.cumsum([0, *LENGTHS])
    indices = np.concatenate([np.sort(rng.permutation(n_features)[:k]) for k in LENGTHS])
    data = rng.standard_normal(indptr[-1]).astype(np.float32)
    return indptr, indices.astype(index_type), data


def random_block(n_rows, seed=1):
    block = aligned_zeros((n_rows, LANES))
    block[:] = np.random.default_rng(seed).standard_normal(block.shape)
    return block


def dense_rows(indptr, indices, data, n_features):
    X = sp.csr_array((data.astype(np.float64), indices.astype(np.int32), indptr))
    X.resize((len(indptr) - 1, n_features))
    return X.toarray()


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


# --- sparse rows and blocks ------------------------------------------------------------------


@pytest.mark.parametrize("index_type", [np.int32, np.uint32])
def test_row_times_block_is_the_product(index_type):
    indptr, indices, data = rows_of_all_lengths(index_type=index_type)
    block = random_block(40)
    before = block.copy()
    out = np.full((len(LENGTHS), LANES), np.nan, np.float32)  # every row is overwritten
    _gather(indptr, indices, data, block, out)
    dense = dense_rows(indptr, indices, data, 40)
    bound = 40 * EPS * (abs(dense) @ abs(block.astype(np.float64)))
    assert (abs(out - dense @ block.astype(np.float64)) <= bound).all()
    np.testing.assert_array_equal(out[0], 0)  # the row without entries
    np.testing.assert_array_equal(block, before)


@pytest.mark.parametrize("index_type", [np.int32, np.uint32])
def test_add_row_to_block_is_the_transpose(index_type):
    indptr, indices, data = rows_of_all_lengths(index_type=index_type)
    block, factors = random_block(40), random_block(len(LENGTHS), seed=2)
    before = block.astype(np.float64)
    _scatter(indptr, indices, data, block, factors)
    dense = dense_rows(indptr, indices, data, 40)
    expected = before + dense.T @ factors.astype(np.float64)
    bound = 12 * EPS * (abs(before) + abs(dense).T @ abs(factors.astype(np.float64)))
    assert (abs(block - expected) <= bound).all()


@pytest.mark.parametrize("lane", [0, 7, LANES - 1])
def test_add_row_to_block_with_one_factor_changes_one_lane(lane):
    indptr, indices, data = rows_of_all_lengths()
    block = random_block(40)
    before = block.copy()
    factors = aligned_zeros((len(LENGTHS), LANES))
    _scatter(indptr, indices, data, block, factors)
    np.testing.assert_array_equal(block.view(np.int32), before.view(np.int32))  # all are zero
    factors[5, lane] = 2.0
    _scatter(indptr, indices, data, block, factors)
    row = slice(indptr[5], indptr[6])
    changed = np.zeros_like(block, bool)
    changed[indices[row], lane] = True
    np.testing.assert_array_equal(block[~changed], before[~changed])
    np.testing.assert_allclose(
        block[indices[row], lane], before[indices[row], lane] + 2 * data[row], rtol=1e-6, atol=1e-6
    )


def test_rows_of_zeros_are_left_out_but_nan_is_not():
    indices, data = np.array([1], np.int32), np.array([np.inf], np.float32)
    indptr = np.array([0, 1])
    block = aligned_zeros((2, LANES))
    factors = aligned_zeros((1, LANES))
    factors[0, 3] = -0.0
    _scatter(indptr, indices, data, block, factors)
    np.testing.assert_array_equal(block, 0)  # 0 inf would be NaN
    factors[0, 3] = np.nan
    _scatter(indptr, indices, data, block, factors)
    assert np.isnan(block[1]).all()
    np.testing.assert_array_equal(block[0], 0)


def test_an_index_may_occur_twice():
    indices, data = np.array([1, 1, 1, 1, 1], np.int32), np.arange(1, 6, dtype=np.float32)
    indptr = np.array([0, 5])
    block, out = aligned_zeros((2, LANES)), aligned_zeros((1, LANES))
    factors = aligned_zeros((1, LANES))
    factors[0] = np.arange(LANES)
    _scatter(indptr, indices, data, block, factors)
    np.testing.assert_array_equal(block, [np.zeros(LANES), 15.0 * np.arange(LANES)])
    _gather(indptr, indices, data, block, out)
    np.testing.assert_array_equal(out[0], 225.0 * np.arange(LANES))


def test_lanes_do_not_depend_on_each_other():
    indptr, indices, data = rows_of_all_lengths()
    block = random_block(40)
    out, moved = (aligned_zeros((len(LENGTHS), LANES)) for _ in range(2))
    _gather(indptr, indices, data, block, out)
    order = np.random.default_rng(0).permutation(LANES)
    _gather(indptr, indices, data, np.ascontiguousarray(block[:, order]), moved)
    np.testing.assert_array_equal(moved.view(np.int32), out[:, order].view(np.int32))


def test_read_only_and_unaligned_arrays_are_accepted():
    indptr, indices, data = rows_of_all_lengths()
    block = random_block(40)
    expected = aligned_zeros((len(LENGTHS), LANES))
    _gather(indptr, indices, data, block, expected)
    shifted = np.zeros(40 * LANES + 1, np.float32)[1:].reshape(40, LANES)
    shifted[:] = block
    out = np.zeros(len(LENGTHS) * LANES + 1, np.float32)[1:].reshape(-1, LANES)
    _gather(frozen(indptr), frozen(indices), frozen(data), frozen(shifted), out)
    np.testing.assert_array_equal(out, expected)
    for arrays in [(indptr, indices, data), map(frozen, (indptr, indices, data))]:
        block[:] = 0
        _scatter(*arrays, block, frozen(expected))
        dense = dense_rows(indptr, indices, data, 40)
        np.testing.assert_allclose(block, dense.T @ expected.astype(float), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_place", [False, True])
def test_row_times_block_plus(in_place):
    indptr, indices, data = rows_of_all_lengths()
    block, added = random_block(40), random_block(len(LENGTHS), seed=3)
    out = added if in_place else random_block(len(LENGTHS), seed=4)
    scales = np.linspace(-2, 2, len(LENGTHS), dtype=np.float32)
    expected = dense_rows(indptr, indices, data, 40) @ block.astype(np.float64)
    expected += scales[:, None] * added.astype(np.float64)
    _gather_plus(indptr, indices, data, block, out, added, scales)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


# --- row by row over blocks ------------------------------------------------------------------


@over_rows(2)
def _difference_and_sums(blocks, vectors):
    x, y, _ = blocks
    scale, shift = vectors
    return {1: x - y, 2: x * scale + shift}, [x * y, x.wide() * y.wide()]


@over_rows(0)
def _double(blocks, vectors):
    (x,) = blocks
    return {0: 2.0 * x}, []


@jit
def _run_difference(x, y, out, scale, shift, n_rows, sums):
    _difference_and_sums((x, y, out), (scale, shift), n_rows, sums)


@jit
def _run_double(x, n_rows, sums):
    _double((x,), (), n_rows, sums)


@pytest.mark.parametrize("n_rows", [0, 1, 7])
def test_over_rows_stores_and_sums_the_first_rows(n_rows):
    x, y, out = (random_block(7, seed=k) for k in range(3))
    x0, y0, out0 = x.copy(), y.copy(), out.copy()
    scale, shift = np.random.default_rng(5).standard_normal((2, LANES)).astype(np.float32)
    sums = np.full((3, LANES), np.nan)
    _run_difference(x, y, out, scale, shift, n_rows, sums)
    done, rest = slice(n_rows), slice(n_rows, None)
    np.testing.assert_array_equal(x, x0)
    np.testing.assert_array_equal(y[done], (x0 - y0)[done])
    np.testing.assert_allclose(out[done], (x0 * scale + shift)[done], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(y[rest], y0[rest])
    np.testing.assert_array_equal(out[rest], out0[rest])
    exact = (x0[done].astype(np.float64) * y0[done]).sum(axis=0)
    np.testing.assert_allclose(sums[0], exact, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(sums[1], exact, rtol=1e-14, atol=1e-14)
    assert np.isnan(sums[2]).all()  # more than the kernel has


def test_sums_over_rows_are_in_float64():
    n = 100_000
    x, y, out = (aligned_zeros((n, LANES)) for _ in range(3))
    x[:] = 1
    y[:] = np.float32(0.1)
    zeros = np.zeros(LANES, np.float32)
    sums = np.zeros((2, LANES))
    _run_difference(x, y, out, zeros, zeros, n, sums)
    np.testing.assert_allclose(sums, n * np.float64(np.float32(0.1)), rtol=1e-12)


def test_over_rows_without_vectors_and_sums():
    x = random_block(5)
    before, sums = x.copy(), np.full((1, LANES), 3.0)
    _run_double(x, 4, sums)
    np.testing.assert_array_equal(x[:4], 2 * before[:4])
    np.testing.assert_array_equal(x[4:], before[4:])
    np.testing.assert_array_equal(sums, 3.0)


# --- functions of the lanes ------------------------------------------------------------------


@over_rows(0)
def _exp_and_log1p(blocks, vectors):
    x, _, _ = blocks
    e = x.exp()
    return {1: e, 2: e.log1p()}, []


@over_rows(0)
def _log1p(blocks, vectors):
    x, _ = blocks
    return {1: x.log1p()}, []


@over_rows(0)
def _choices(blocks, vectors):
    x, *_ = blocks
    positive = x.positive()
    return {
        1: x.sign(),
        2: x.where(positive, 5.0),
        3: x.clip_below(-1.5),
        4: x.absolute(),
        5: -x,
        6: (3.0 - x) / 4.0,
        7: 1.0 + x * x,
    }, []


@jit
def _run_exp(x, e, log, n_rows, sums):
    _exp_and_log1p((x, e, log), (), n_rows, sums)


@jit
def _run_log1p(x, log, n_rows, sums):
    _log1p((x, log), (), n_rows, sums)


@jit
def _run_choices(x, a, b, c, d, e, f, g, n_rows, sums):
    _choices((x, a, b, c, d, e, f, g), (), n_rows, sums)


NO_SUMS = np.zeros((1, LANES))


def as_block(values):
    values = np.asarray(values, np.float32)
    block = aligned_zeros((-(-len(values) // LANES), LANES))
    block.reshape(-1)[: len(values)] = values
    return block


def exp_of(values):
    x = as_block(values)
    e, log = np.empty_like(x), np.empty_like(x)
    _run_exp(x, e, log, len(x), NO_SUMS)
    return e.reshape(-1)[: len(values)], log.reshape(-1)[: len(values)]


def test_exp_is_accurate_where_it_is_defined():
    rng = np.random.default_rng(0)
    halves = -(np.arange(126) + 0.5) * np.log(2)  # where the power of two changes
    x = np.concatenate(
        [
            np.linspace(-87, 0, 200_000),
            -(10.0 ** rng.uniform(-40, 1.9, 20_000)),
            halves,
            np.nextafter(halves.astype(np.float32), np.float32(0)),
            np.nextafter(halves.astype(np.float32), np.float32(-100)),
            [0.0, -0.0, -87.0],
        ]
    ).astype(np.float32)
    e, _ = exp_of(x)
    expected = np.exp(x.astype(np.float64))
    assert (abs(e - expected) / expected).max() <= 2e-7
    assert (exp_of([0.0, -0.0])[0] == 1).all()


def test_exp_of_values_that_float32_cannot_hold_is_next_to_zero():
    e, log = exp_of([-87.0, -87.5, -100.0, -1e30, -np.finfo(np.float32).max, -np.inf])
    assert (e >= 0).all()
    assert (e <= 2e-38).all()
    np.testing.assert_allclose(log, e, rtol=2e-7)


def test_log1p_is_accurate_on_the_unit_interval():
    x = np.concatenate([np.linspace(0, 1, 200_001), 10.0 ** np.linspace(-37, 0, 20_000)])
    x = x.astype(np.float32)
    block = as_block(x)
    out = np.empty_like(block)
    _run_log1p(block, out, len(block), NO_SUMS)
    expected = np.log1p(x.astype(np.float64))
    error = abs(out.reshape(-1)[: len(x)] - expected)
    assert (error <= 4e-7 * expected).all()


def test_log1p_of_exp_is_the_logistic_loss():
    x = np.linspace(-60, 0, 50_000, dtype=np.float32)
    _, log = exp_of(x)
    np.testing.assert_allclose(log, np.logaddexp(0, x.astype(np.float64)), rtol=6e-7)


def test_choices_and_arithmetic_of_lanes():
    values = [0.0, -0.0, 1.0, -1.0, -1.5, -2.0, 3.5, np.inf, -np.inf, 1e-45, -1e-45, np.nan]
    x = as_block(values)
    outs = [np.empty_like(x) for _ in range(7)]
    _run_choices(x, *outs, len(x), NO_SUMS)
    v = x.reshape(-1)
    sign, where, clipped, absolute, minus, quarter, square = (out.reshape(-1) for out in outs)
    np.testing.assert_array_equal(sign, np.where(v > 0, 1, -1))
    np.testing.assert_array_equal(where, np.where(v > 0, v, 5))
    np.testing.assert_array_equal(clipped, np.where(v > -1.5, v, np.float32(-1.5)))
    np.testing.assert_array_equal(absolute, abs(v))
    np.testing.assert_array_equal(minus, -v)
    np.testing.assert_array_equal(quarter, (3 - v) / 4)
    np.testing.assert_array_equal(square, 1 + v * v)


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(0, LANES), (1, LANES), (33, LANES), (3, 5, LANES), (4000, LANES)]
)
def test_small_blocks_begin_on_a_cache_line(shape):
    for block in [aligned_zeros(shape) for _ in range(5)]:
        assert block.shape == shape
        assert block.dtype == np.float32
        assert block.flags.c_contiguous
        assert block.flags.writeable
        assert block.size == 0 or block.ctypes.data % 64 == 0
        assert not block.any()


@pytest.mark.parametrize("n_rows", [4096, 40_000, 100_001])
def test_large_blocks_begin_on_a_huge_page(n_rows):
    block = aligned_zeros((n_rows, LANES))
    assert block.shape == (n_rows, LANES)
    assert block.ctypes.data % (1 << 21) == 0
    block[0], block[-1] = 1, 2  # both ends are there
    assert block.sum() == 3 * LANES


def test_blocks_do_not_share_memory():
    blocks = [aligned_zeros((5, LANES)) for _ in range(3)]
    blocks[1][:] = 1
    assert not blocks[0].any()
    assert not blocks[2].any()
