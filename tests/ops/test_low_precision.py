import numpy as np
import pytest

from skxmc.ops._jit import jit
from skxmc.ops.sparse_head import _scalars
from skxmc.ops.sparse_head._random import mix32, random_bits, step_key
from skxmc.ops.sparse_head.low_precision import STORAGE, decode, encode

FORMATS = ("bfloat16", "float8")
LARGEST = {"bfloat16": 2.0**127 * (2 - 2.0**-7), "float8": 448.0}
SMALLEST = {"bfloat16": 2.0**-133, "float8": 2.0**-9}
SMALLEST_NORMAL = {"bfloat16": 2.0**-126, "float8": 2.0**-6}
ALL_BITS = 0xFFFFFFFF


def torch_dtype(precision):
    import torch

    return {
        "bfloat16": torch.bfloat16,
        "float8": torch.float8_e4m3fn,
    }[precision]


def torch_decode(codes, precision):
    import torch

    integers = codes.view(np.int16 if codes.itemsize == 2 else np.uint8)
    return torch.from_numpy(integers.copy()).view(torch_dtype(precision)).float().numpy()


def torch_encode(values, precision):
    import torch

    integer = torch.int16 if STORAGE[precision].itemsize == 2 else torch.uint8
    codes = torch.from_numpy(values).to(torch_dtype(precision)).view(integer).numpy()
    return codes.view(STORAGE[precision])


def all_codes(precision):
    dtype = STORAGE[precision]
    return np.arange(1 << 8 * dtype.itemsize).astype(dtype)


def finite_values(precision):
    """The numbers of a format, rising, one zero."""
    values = decode(all_codes(precision), precision)
    return np.unique(values[np.isfinite(values)])


def awkward_values(n=200_000):
    """Float32 of all magnitudes, with what is special in one of the formats and its neighbours."""
    rng = np.random.default_rng(0)
    any_bits = rng.integers(0, 1 << 32, n, dtype=np.uint64).astype(np.uint32).view(np.float32)
    usual = (rng.normal(size=n) * 10.0 ** rng.uniform(-9, 5, n)).astype(np.float32)
    powers = np.float32(2.0) ** np.arange(-30, 20, dtype=np.float32)
    edges = [0, 1e-45, 448, 464, 480, 57344, 61440, 65536, LARGEST["bfloat16"], 3.4028235e38]
    special = np.concatenate([powers, powers * np.float32(1.0625), np.array(edges, np.float32)])
    with np.errstate(over="ignore"):
        beside = [np.nextafter(special, np.float32(side)) for side in (0, np.inf)]
    special = np.concatenate([special, *beside])
    nan = np.array([np.inf, np.nan, 0.0], dtype=np.float32)
    low_payload = np.array([0x7F800001, 0xFFFFFFFF], dtype=np.uint32).view(np.float32)
    return np.concatenate([any_bits, usual, special, -special, nan, -nan, low_payload])


def same_bits(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a.view(f"u{a.dtype.itemsize}"), b.view(f"u{b.dtype.itemsize}"))


@pytest.mark.parametrize("precision", FORMATS)
def test_decode_agrees_with_torch_for_every_code(precision):
    codes = all_codes(precision)
    values, expected = decode(codes, precision), torch_decode(codes, precision)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)  # NaN in the same places
    number = ~np.isnan(values)
    np.testing.assert_array_equal(np.signbit(values[number]), np.signbit(expected[number]))


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("bits", [None, 0, ALL_BITS, "random"])
def test_a_number_of_the_format_is_never_changed(precision, bits):
    codes = all_codes(precision)
    values = decode(codes, precision)
    codes, values = codes[~np.isnan(values)], values[~np.isnan(values)]
    if bits == "random":
        bits = random_bits(5, np.arange(len(codes)))
    elif bits is not None:
        bits = np.full(len(codes), bits, dtype=np.uint32)
    same_bits(encode(values, precision, bits), codes)


@pytest.mark.parametrize("precision", FORMATS)
def test_nearest_agrees_with_torch_between_all_neighbours(precision):
    numbers = finite_values(precision).astype(np.float64)
    middle = ((numbers[1:] + numbers[:-1]) / 2).astype(np.float32)  # exact in float32
    beside = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.concatenate([middle, *beside])
    values = values[values != 0]  # the sign of zero: the next test
    same_bits(encode(values, precision), torch_encode(values, precision))


@pytest.mark.parametrize("precision", FORMATS)
def test_nearest_agrees_with_torch_for_any_float32(precision):
    values = awkward_values()
    values = values[np.abs(values) <= LARGEST[precision]]
    assert len(values) > 100_000
    same_bits(encode(values, precision), torch_encode(values, precision))


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("bits", [None, 0, ALL_BITS])
def test_finite_numbers_saturate_and_the_rest_keeps_its_kind(precision, bits):
    largest = np.float32(LARGEST[precision])
    values = np.array([3.4028235e38, -3.4028235e38, largest, np.inf, -np.inf], dtype=np.float32)
    values = np.append(values, np.nextafter(largest, np.float32(np.inf)))
    stored = None if bits is None else np.full(len(values), bits, dtype=np.uint32)
    infinity = largest if precision == "float8" else np.inf
    np.testing.assert_array_equal(
        decode(encode(values, precision, stored), precision),
        [largest, -largest, largest, infinity, -infinity, largest],
    )
    nan = np.array([np.nan, -np.nan, 0, 0, 0], dtype=np.float32)
    nan[2:] = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF], dtype=np.uint32).view(np.float32)
    stored = None if bits is None else np.full(len(nan), bits, dtype=np.uint32)
    assert np.isnan(decode(encode(nan, precision, stored), precision)).all()


@pytest.mark.parametrize("precision", FORMATS)
def test_rounding_is_symmetric_in_the_sign_down_to_zero(precision):
    values = np.abs(awkward_values())
    values = np.append(values, np.float32(0))
    bits = random_bits(1, np.arange(len(values)))
    sign = np.array(1 << 8 * STORAGE[precision].itemsize - 1, dtype=STORAGE[precision])
    for stored in (None, bits):
        same_bits(encode(-values, precision, stored), encode(values, precision, stored) ^ sign)


def between(precision, n, seed=0):
    """Neighbours a < b of a format, of all magnitudes."""
    numbers = finite_values(precision).astype(np.float64)
    a, b = numbers[:-1], numbers[1:]
    usual = (np.maximum(-a, b) < 1e30) & (b - a > 1e-30)  # so that float32 has all between them
    pick = np.random.default_rng(seed).choice(np.flatnonzero(usual), n, replace=False)
    return a[pick], b[pick]


@pytest.mark.parametrize("precision", FORMATS)
def test_expected_value_and_variance_over_all_random_bits(precision):
    # The share of the way is a multiple of 2^-6, and the leading 6 of the bits that count run
    # through all values: then the average over the bits is the expected value, without error.
    a, b = between(precision, 100)
    # Float8 below its smallest normal number counts all bits, from the first; bfloat16 has the
    # exponents of float32.
    below = np.abs(a + b) / 2 < SMALLEST_NORMAL[precision]
    share = np.random.default_rng(1).integers(0, 64, len(a)) / 64
    x = a + share * (b - a)
    values = x.astype(np.float32)
    assert (values == x).all()
    assert below.any() == (precision != "bfloat16")
    dropped = {"bfloat16": 16, "float8": 20}[precision]
    got = []
    for lead in range(64):
        bits = np.where(below, lead << 26, lead << (dropped - 6)).astype(np.uint32)
        got.append(decode(encode(values, precision, bits), precision).astype(np.float64))
    got = np.array(got)
    assert ((got == a) | (got == b)).all()
    np.testing.assert_array_equal(got.mean(axis=0), x)
    np.testing.assert_allclose(got.var(axis=0), (x - a) * (b - x), rtol=1e-12)


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("magnitude", ["subnormal", "smallest normal", "one", "largest"])
def test_expected_value_and_variance_with_the_random_bits_in_use(precision, magnitude):
    smallest = SMALLEST[precision]
    low, high = {
        "subnormal": (0.0, 2.0**-126 if precision == "bfloat16" else 8 * smallest),
        "smallest normal": (smallest * 4, smallest * 32),
        "one": (0.5, 2.0),
        "largest": (LARGEST[precision] / 4, LARGEST[precision]),
    }[magnitude]
    rng = np.random.default_rng(3)
    values = np.append(rng.uniform(low, high, 20), low + (high - low) / 3).astype(np.float32)
    values = np.concatenate([values, -values])
    n = 20_000
    numbers = finite_values(precision).astype(np.float64)
    place = np.searchsorted(numbers, values, side="right")
    a, b = numbers[place - 1], numbers[np.minimum(place, len(numbers) - 1)]
    bits = random_bits(step_key(7, 8, 9), np.arange(n * len(values)).reshape(n, -1))
    rounded = decode(encode(np.tile(values, (n, 1)), precision, bits), precision)
    rounded = rounded.astype(np.float64)
    unit = b - a
    assert ((rounded == a) | (rounded == b)).all()
    share = (values - a) / unit  # probability of b
    deviation = np.sqrt(share * (1 - share))
    up = ((rounded - a) / unit).mean(axis=0)
    assert (np.abs(up - share) <= 5 * deviation / np.sqrt(n) + 1e-12).all()
    variance = ((rounded - a) / unit).var(axis=0)
    np.testing.assert_allclose(variance, deviation**2, atol=5 * 0.5 / np.sqrt(n))


def test_the_smallest_share_that_counts_in_a_subnormal_is_2_to_the_minus_24():
    # Exact arithmetic: float32 would round 7 + (1 - 2^-24) to 8.
    spacing = 2.0**-9
    largest_u = np.array([ALL_BITS], dtype=np.uint32)
    for whole in range(8):
        exact = np.array([whole * spacing], dtype=np.float32)
        assert decode(encode(exact, "float8", largest_u), "float8") == exact
    for share, up in ((2.0**-24, True), (2.0**-25, False), (2.0**-100, False)):
        value = np.array([share * spacing], dtype=np.float32)
        assert decode(encode(value, "float8", largest_u), "float8") == (spacing if up else 0)


def test_encode_takes_any_shape_and_read_only_arrays():
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    values.flags.writeable = False
    bits = random_bits(0, np.arange(60).reshape(values.shape))
    for precision in FORMATS:
        codes = encode(values, precision, bits)
        assert codes.shape == decode(codes, precision).shape == values.shape
        flat = encode(values.ravel(), precision, bits.ravel())
        same_bits(codes.ravel(), flat)
        same_bits(encode(values[:, ::2], precision, bits[:, ::2]), codes[:, ::2])
        assert encode(np.float32(1), precision).shape == ()
        assert encode(np.empty((0, 3), np.float32), precision).shape == (0, 3)
    assert encode(values, "float32") is values
    assert decode(values, "float32") is values


def test_encode_and_decode_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"one of float32, bfloat16, .*'half'"):
        encode([1.0], "half")
    with pytest.raises(ValueError, match="precision must be one of"):
        decode(np.zeros(1, np.uint8), "e4m3")
    with pytest.raises(ValueError, match=r"bits must have the shape of values, \(2,\)"):
        encode([1.0, 2.0], "float8", np.zeros(1, np.uint32))
    with pytest.raises(TypeError, match="bfloat16 numbers are stored as uint16; got uint8"):
        decode(np.zeros(1, np.uint8), "bfloat16")


# ---------------------------------------------------------------------- compiled scalar functions


@jit(cache=False)
def _map_random(key, offsets, out):
    for i in range(len(offsets)):
        out[i] = _scalars.random_bits(key, offsets[i])


# ------------------------------------------------------------------------------------ random bits


def python_mix(x):
    x &= 0xFFFFFFFF
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


OFFSETS = [0, 1, 63, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 12345]


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 + 5, -1])
@pytest.mark.parametrize(("step", "part"), [(0, 0), (1, 0), (0, 1), (2**32 - 1, 0xFFFFFFFD)])
def test_random_bits_are_those_of_the_formula(seed, step, part):
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    key = python_mix(python_mix(low ^ python_mix(high + part)) + step)
    assert step_key(seed, step, part) == key
    expected = [
        python_mix(python_mix((p & 0xFFFFFFFF) ^ key) + (p >> 32) * 0x9E3779B9 + key)
        for p in OFFSETS
    ]
    offsets = np.array(OFFSETS, dtype=np.int64)
    np.testing.assert_array_equal(random_bits(key, offsets), np.array(expected, np.uint32))
    compiled = np.empty(len(offsets), dtype=np.uint32)
    _map_random(np.uint32(key), offsets, compiled)
    np.testing.assert_array_equal(compiled, np.array(expected, np.uint32))


def test_mix32_is_one_to_one():
    # Different inputs, in steps that reach all bits. (Random ones would meet about 8 times.)
    inputs = (np.arange(1 << 18, dtype=np.uint64) * 16381).astype(np.uint32)
    assert len(np.unique(inputs)) == len(np.unique(mix32(inputs))) == 1 << 18


def standardised_counts(values, n_bins):
    counts = np.bincount(values, minlength=n_bins)
    expected = len(values) / n_bins
    return (counts - expected) / np.sqrt(expected)


@pytest.mark.parametrize("varied", ["offset", "step", "seed", "part", "high offset"])
def test_random_bits_are_uniform_and_uncorrelated_whatever_varies(varied):
    n = 1 << 13
    if varied == "offset":
        bits = random_bits(step_key(1, 2, 3), np.arange(n))
    elif varied == "high offset":
        bits = random_bits(step_key(1, 2, 3), np.arange(n) << 32)
    else:
        base = {"seed": 1, "step": 2, "part": 3}
        keys = [step_key(**{**base, varied: value}) for value in range(n)]
        bits = np.array([random_bits(key, np.array([17]))[0] for key in keys])
    # Each byte is uniform: the sum of 256 squared deviations is about chi-square of 255.
    for shift in (0, 8, 16, 24):
        deviations = standardised_counts((bits >> np.uint32(shift)) & np.uint32(0xFF), 256)
        assert abs((deviations**2).sum() - 255) < 6 * np.sqrt(2 * 255)
    # Each bit is one half of the time 1 and tells nothing about the bits of the neighbour.
    single = (bits[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    signs = 2.0 * single - 1
    assert np.abs(signs.mean(axis=0)).max() < 6 / np.sqrt(n)
    same = signs.T @ signs / n - np.eye(32)
    following = signs[1:].T @ signs[:-1] / n
    assert max(np.abs(same).max(), np.abs(following).max()) < 6 / np.sqrt(n)
