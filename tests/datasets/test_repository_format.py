"""The extreme classification repository's format: round trips, exact numbers, malformed files."""

import gzip
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array, csr_matrix

from skxmc.datasets import _sparse_text, dump_xmc_repository, load_xmc_repository


def load(text, **options):
    data = text if isinstance(text, bytes) else text.encode()
    return load_xmc_repository(io.BytesIO(data), **options)


def dump(X, Y, **options):
    stream = io.BytesIO()
    dump_xmc_repository(X, Y, stream, **options)
    return stream.getvalue()


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual.toarray(), expected.toarray())


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def data_sets(draw):
    n, d, n_labels = draw(st.integers(0, 6)), draw(st.integers(0, 7)), draw(st.integers(0, 5))
    X = draw(arrays(np.float32, (n, d), elements=st.one_of(st.just(0.0), FINITE)))
    Y = draw(arrays(np.uint8, (n, n_labels), elements=st.integers(0, 1)))
    return csr_array(X), csr_array(Y)


@given(data_sets(), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_round_trip(data, one_based, header, compressed):
    X, Y = data
    text = dump(X, Y, one_based=one_based, header=header)
    if compressed:
        text = gzip.compress(text)
    sizes = {} if header else {"n_features": X.shape[1], "n_labels": Y.shape[1]}
    X2, Y2 = load(text, one_based=one_based, header=header, **sizes)
    assert_same(X2, X)
    assert_same(Y2, Y)
    assert X2.dtype == np.float32
    assert Y2.dtype == np.uint8
    for matrix in (X2, Y2):
        matrix.check_format(full_check=True)
        fresh = csr_array((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
        assert fresh.has_canonical_format
    assert (Y2.data == 1).all()


@given(data_sets(), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_result_does_not_depend_on_the_block_size(data, size):
    X, Y = data
    text = dump(X, Y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sparse_text, "BLOCK_BYTES", size)
        X2, Y2 = load(text)
    assert_same(X2, X)
    assert_same(Y2, Y)


@given(arrays(np.float64, (1, 5), elements=st.floats(allow_nan=False, allow_infinity=False)))
@settings(max_examples=100, deadline=None)
def test_float64_round_trip_is_exact(X):
    X2, _ = load(dump(X, np.zeros((1, 1), int)), dtype=np.float64)
    np.testing.assert_array_equal(X2.toarray(), X)


def number_tokens():
    digits = st.text("0123456789", min_size=0, max_size=25)
    mantissa = st.builds(
        lambda a, point, b: a + point + b, digits, st.sampled_from(["", "."]), digits
    ).filter(lambda token: token not in ("", "."))
    exponent = st.one_of(
        st.just(""),
        st.builds(
            lambda e, sign, power: f"{e}{sign}{power}",
            st.sampled_from("eE"),
            st.sampled_from(["", "+", "-"]),
            st.integers(0, 60),
        ),
    )
    return st.builds(
        lambda sign, m, e: sign + m + e, st.sampled_from(["", "+", "-"]), mantissa, exponent
    )


@given(st.lists(number_tokens(), min_size=1, max_size=20))
@settings(max_examples=300, deadline=None)
def test_numbers_equal_python_float(tokens):
    """Any spelling of a number gives what Python's float gives, for both dtypes."""
    expected = np.array([float(token) for token in tokens])
    line = "0 " + " ".join(f"{j}:{token}" for j, token in enumerate(tokens))
    X, _ = load(line, dtype=np.float64)
    np.testing.assert_array_equal(X.toarray()[0], expected)
    with np.errstate(over="ignore"):
        expected32 = expected.astype(np.float32)
    if np.isfinite(expected32).all():
        X, _ = load(line)
        np.testing.assert_array_equal(X.toarray()[0], expected32)
    else:
        with pytest.raises(ValueError, match=r"line 1: .*too large for float32"):
            load(line)


def test_numbers_close_to_the_middle_of_two_float32():
    """Where the rounding is decided in the last digits, the slow path must be taken."""
    rng = np.random.default_rng(0)
    low = rng.random(3000, dtype=np.float32)
    middle = (low.astype(np.float64) + np.nextafter(low, np.float32(2)).astype(np.float64)) / 2
    values = np.concatenate([middle, np.nextafter(middle, 0), np.nextafter(middle, 2)])
    tokens = [f"{v:.20f}" for v in values] + [repr(float(v)) for v in values]
    X, _ = load("0 " + " ".join(f"{j}:{token}" for j, token in enumerate(tokens)))
    expected = np.array([float(token) for token in tokens]).astype(np.float32)
    np.testing.assert_array_equal(X.toarray()[0], expected)


@pytest.mark.parametrize("precision", [1, 3, 9])
def test_precision(precision):
    X = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    X2, _ = load(dump(X, np.zeros((4, 1), int), precision=precision))
    expected = np.vectorize(lambda v: float(f"{v:.{precision}g}"))(X.astype(float))
    np.testing.assert_array_equal(X2.toarray(), expected.astype(np.float32))


def test_documented_layout_is_written():
    X = csr_array([[0, 0.5, 0], [0, 0, 0], [2, 0, -1e-8]], dtype=np.float32)
    Y = csr_array([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    assert dump(X, Y) == b"3 3 3\n0,2 1:0.5\n1 \n 0:2.0 2:-1e-08\n"
    assert dump(X, Y, one_based=True, header=False) == b"1,3 2:0.5\n2 \n 1:2.0 3:-1e-08\n"


def test_unsorted_rows_are_sorted_and_repeated_labels_count_once():
    X, Y = load("2 4 5\n4,0,4 3:3 0:1 2:2\n1 1:7\n")
    np.testing.assert_array_equal(X.indices, [0, 2, 3, 1])
    np.testing.assert_array_equal(X.data, [1, 2, 3, 7])
    np.testing.assert_array_equal(Y.toarray(), [[1, 0, 0, 0, 1], [0, 1, 0, 0, 0]])
    assert Y.nnz == 3


@pytest.mark.parametrize(
    "text",
    [
        "2 3 4\n0,3 0:0.5 2:1\n 1:2\n",
        "2 3 4\r\n0,3 0:0.5 2:1\r\n 1:2\r\n",
        "2 3 4\n0,3 0:0.5 2:1  \n 1:2\t \n",
        "2 3 4\n0,3 0:0.5 2:1\n 1:2",
        "2 3 4\n0,3 0:0.5 2:1\n 1:2\n\n",
        "2 3 4\n0,3 0:0.5 2:1\n 1:2\n \n\r\n",
        " 2\t3  4 \n0,3\t0:0.5   2:1\n1:2\n",
        "2 3 4\n000,3 00:+5e-1 2:1.\n 0000000000001:0.2E1\n",
    ],
    ids=["plain", "crlf", "trailing", "no-last-newline", "blank", "blanks", "tabs", "zeros"],
)
def test_spellings_of_one_file(text):
    X, Y = load(text)
    np.testing.assert_array_equal(X.toarray(), [[0.5, 0, 1], [0, 2, 0]])
    np.testing.assert_array_equal(Y.toarray(), [[1, 0, 0, 1], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("text", "n_rows"),
    [
        ("0 0:1\n\n1 0:1\n", 3),
        ("0 0:1\n\n\n", 1),
        ("0 0:1\n \n\n", 2),
        ("0 0:1\n\r\n\r\n", 1),
        ("4 1 2\n0 0:1\n\n\n\n", 4),
        ("0 5 6\n", 0),
    ],
)
def test_empty_lines(text, n_rows):
    X, Y = load(text)
    assert X.shape[0] == Y.shape[0] == n_rows


def test_header_sets_the_width():
    X, Y = load("1 1000000000 2147483647\n0 0:1\n")
    assert X.shape == (1, 1_000_000_000)
    assert Y.shape == (1, 2_147_483_647)


def test_width_parameters_without_header():
    X, Y = load("0 0:1\n", n_features=5, n_labels=7)
    assert X.shape == (1, 5)
    assert Y.shape == (1, 7)
    X, Y = load("3 2:1\n")
    assert X.shape == (1, 3)
    assert Y.shape == (1, 4)
    assert load(b"", header=False, n_features=2)[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "one_based"),
    [
        ("1 3 4\n1,2 1:1 3:1\n", True),  # feature 3 of 3
        ("1 3 4\n4 1:1\n", True),  # label 4 of 4
        ("1 3 4\n1,2 1:1 2:1\n", False),  # ambiguous
        ("1 3 4\n0,2 1:1 2:1\n", False),
        ("1,2 1:1 2:1\n", False),  # no limit known
    ],
)
def test_auto_base(text, one_based):
    for actual, expected in zip(
        load(text, one_based="auto"), load(text, one_based=one_based), strict=True
    ):
        assert_same(actual, expected)


def test_auto_base_with_zero_and_limit_is_an_error():
    with pytest.raises(ValueError, match=r"line 3: feature index 3 is out of range"):
        load("2 3 4\n0 0:1\n1 3:1\n", one_based="auto")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 3 4\nx 0:1\n", r"line 2: label 'x' is not a non-negative integer"),
        ("1 3 4\n1.5 0:1\n", r"line 2: label '1.5' is not"),
        ("1 3 4\n-1 0:1\n", r"line 2: negative label -1"),
        ("1 3 4\n1, 0:1\n", r"line 2: empty label"),
        ("1 3 4\n,1 0:1\n", r"line 2: empty label"),
        ("1 3 4\n1,,2 0:1\n", r"line 2: empty label"),
        ("1 3 4\n1,2:3 0:1\n", r"line 2: label '2:3' is not"),
        ("1 3 4\n4 0:1\n", r"line 2: label 4 is out of range, 0 to 3 allowed; the header"),
        ("1 3 4\n99999999999999999999999 0:1\n", r"line 2: label 9+ is larger than 2147483646"),
        ("2 3 4\n0 0:1\n0 1\n", r"line 3: missing colon in '1'"),
        ("2 3 4\n0 0:1\n0 1:\n", r"line 3: missing value after the colon in '1:'"),
        ("2 3 4\n0 0:1\n0 1: 5\n", r"line 3: missing value after the colon"),
        ("2 3 4\n0 0:1\n0 -1:5\n", r"line 3: negative feature index in '-1:5'"),
        ("2 3 4\n0 0:1\n0 :5\n", r"line 3: feature index in ':5' is not"),
        ("2 3 4\n0 0:1\n0 1.0:5\n", r"line 3: feature index in '1.0:5' is not"),
        ("2 3 4\n0 0:1\n0 3:5\n", r"line 3: feature index 3 is out of range, 0 to 2 allowed"),
        ("2 3 4\n0 0:1\n0 2147483647:5\n", r"line 3: feature index .* larger than 2147483646"),
        ("2 3 4\n0 0:1\n0 18446744073709551617:5\n", r"line 3: .* larger than 2147483646"),
        ("2 3 4\n0 0:1\n0 1:abc\n", r"line 3: value in '1:abc' is not a number"),
        ("2 3 4\n0 0:1\n0 1:1e\n", r"line 3: value in '1:1e' is not a number"),
        ("2 3 4\n0 0:1\n0 1:1.2.3\n", r"line 3: value in '1:1.2.3' is not a number"),
        ("2 3 4\n0 0:1\n0 1:.\n", r"line 3: value in '1:.' is not a number"),
        ("2 3 4\n0 0:1\n0 1:1_0\n", r"line 3: value in '1:1_0' is not a number"),
        ("2 3 4\n0 0:1\n0 1:0x10\n", r"line 3: value in '1:0x10' is not a number"),
        ("2 3 4\n0 0:1\n0 1:nan\n", r"line 3: NaN or infinite value in '1:nan'"),
        ("2 3 4\n0 0:1\n0 1:-Inf\n", r"line 3: NaN or infinite value in '1:-Inf'"),
        ("2 3 4\n0 0:1\n0 1:1e39\n", r"line 3: the value of feature 1 is too large for float32"),
        ("2 3 4\n0 0:1\n0 1:1e999\n", r"line 3: the value of feature 1 is too large"),
        ("2 3 4\n0 0:1\n0 2:1 0:1 2:5\n", r"line 3: feature 2 occurs twice"),
        ("2 3 4\n0 2:1\n0 2:1 2:5\n", r"line 3: feature 2 occurs twice"),
        ("2 3 4\n0 0:1\n", r"header says 2 rows, the file has 1"),
        ("1 3 4\n0 0:1\n\n0 0:1\n", r"line 4: more rows than the 1 that the header says"),
        ("1 3 4\n0 0:1 # comment\n", r"line 2: missing colon in '#'"),
        ("1 3 9999999999\n0 0:1\n", r"line 1: n_labels 9999999999 is too large"),
        ("", r"the file is empty"),
        ("0 0:1\n0 0\xe9:1\n", r"line 2: feature index in '0\xe9:1' is not"),
        ("1 3 4\n0 0:1\r1 0:1\n", r"line 2: value in '0:1' is not a number"),
    ],
)
def test_malformed_files_name_the_line(text, message):
    with pytest.raises(ValueError, match=message):
        load(text)


def test_line_numbers_count_on_across_blocks(monkeypatch):
    monkeypatch.setattr(_sparse_text, "BLOCK_BYTES", 64)
    lines = ["0 0:1 1:2"] * 100
    for bad, message in [
        ("0 x:1", "line 71: feature index"),
        ("0 0:1e50", "line 71: the value of feature 0 is too large"),
        ("0 1:1 1:1", "line 71: feature 1 occurs twice"),
        ("0 7:1", "line 71: feature index 7 is out of range"),
    ]:
        lines[70] = bad
        with pytest.raises(ValueError, match=message):
            load("\n".join(lines), n_features=5)


def test_header_parameter():
    with pytest.raises(ValueError, match=r"line 1: expected a header"):
        load("0 0:1\n", header=True)
    with pytest.raises(ValueError, match=r"line 1: missing colon in '3'"):
        load("1 3 4\n0 0:1\n", header=False)
    with pytest.raises(ValueError, match=r"line 1: the header says n_labels=4, the parameter 5"):
        load("1 3 4\n0 0:1\n", n_labels=5)


def test_zero_in_a_one_based_file():
    with pytest.raises(ValueError, match=r"line 3: feature index 0 in a file read as one-based"):
        load("2 3 4\n1 1:1\n1 0:1\n", one_based=True)
    with pytest.raises(ValueError, match=r"line 2: label 0 in a file read as one-based"):
        load("1 3 4\n0 1:1\n", one_based=True)


@pytest.mark.parametrize("keep", [15, 40, 300, -9, -1])
def test_truncated_gzip(tmp_path, keep):
    rng = np.random.default_rng(0)
    X = csr_array(rng.standard_normal((200, 10)).astype(np.float32))
    packed = gzip.compress(dump(X, np.ones((200, 1), int)))
    path = tmp_path / "data.txt.gz"
    path.write_bytes(packed[:keep])
    with pytest.raises(ValueError, match=r"data\.txt\.gz: the gzip data is truncated in or after"):
        load_xmc_repository(path)


def test_corrupt_gzip():
    packed = bytearray(gzip.compress(b"1 3 4\n0 0:1\n" * 50))
    packed[25] ^= 255
    with pytest.raises(ValueError, match=r"gzip data is (corrupt|truncated)|line \d+"):
        load(bytes(packed))
    with pytest.raises(ValueError, match="gzip data is corrupt"):
        load(gzip.compress(b"1 3 4\n0 0:1\n") + b"garbage")


VALID = b"3 40 50\n0,3,17 0:0.5 2:1.25e-3 39:-7\n 1:2.5\n49 12:12345678901234567890.5\n"


@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(VALID)),
    st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_mutated_files_never_do_more_than_raise(changes, length, compressed):
    data = bytearray(gzip.compress(VALID, mtime=0) if compressed else VALID)
    for position, value in changes:
        data[position % len(data)] = value
    try:
        X, Y = load(bytes(data[:length]))
    except ValueError:
        return
    for matrix in (X, Y):
        matrix.check_format(full_check=True)
    assert X.shape[0] == Y.shape[0]
    assert np.isfinite(X.data).all()


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_garbage_never_does_more_than_raise(data):
    try:
        X, Y = load(data, header=False)
    except ValueError:
        return
    assert X.shape[0] == Y.shape[0]


class OneWay(io.RawIOBase):
    """A stream that cannot seek, such as a pipe."""

    def __init__(self, data):
        self._stream = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._stream.readinto(buffer)


def test_sources(tmp_path):
    X, Y = csr_array([[0, 1.5]], dtype=np.float32), csr_array([[1, 0, 1]])
    for name in ("data.txt", "data.txt.gz"):
        path = tmp_path / name
        dump_xmc_repository(X, Y, path)
        raw = path.read_bytes()
        assert raw.startswith(b"\x1f\x8b") == name.endswith(".gz")
        path.with_suffix(".misnamed").write_bytes(raw)  # gzip is known by its first bytes
        with open(path, "rb") as stream:
            for source in (
                path,
                str(path),
                path.with_suffix(".misnamed"),
                stream,
                io.BytesIO(raw),
                OneWay(raw),
            ):
                X2, Y2 = load_xmc_repository(source)
                assert_same(X2, X)
                assert_same(Y2, Y)


def test_compressed_bytes_are_reproducible(tmp_path):
    for name in ("a.gz", "b.gz"):
        dump_xmc_repository([[1.0]], [[1]], tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_wrong_sources(tmp_path):
    with pytest.raises(TypeError, match="text mode"):
        load_xmc_repository(io.StringIO("1 1 1\n"))
    with pytest.raises(TypeError, match="expected a path or a file"):
        load_xmc_repository(17)
    with pytest.raises(FileNotFoundError):
        load_xmc_repository(tmp_path / "absent.txt")
    with pytest.raises(TypeError, match="binary mode"):
        dump_xmc_repository([[1.0]], [[1]], io.StringIO())


@pytest.mark.parametrize(
    "options",
    [
        {"one_based": "yes"},
        {"header": 1.5},
        {"dtype": np.int32},
        {"n_features": -1},
        {"n_labels": 2**31},
        {"n_labels": 2.5},
    ],
)
def test_wrong_parameters(options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        load("0 0:1\n", **options)


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        ([[np.nan, 1]], [[1]], r"X\[0, 0\] is nan"),
        ([[0, 0], [0, np.inf]], [[1], [1]], r"X\[1, 1\] is inf"),
        ([[1.0]], [[2]], r"Y\[0, 0\] is 2"),
        ([[1.0]], [[1], [0]], r"X has 1 rows, Y has 2"),
        ([[1.0]], [1], r"Y must have two dimensions"),
    ],
)
def test_what_cannot_be_written(X, Y, message):
    with pytest.raises(ValueError, match=message):
        dump(np.array(X), np.array(Y))


def test_writer_takes_any_container_and_leaves_it_alone():
    X = np.array([[0, 2.0, 1], [3, 0, 0]])
    Y = np.array([[0, 1], [1, 1]])
    expected = dump(X, Y)
    unsorted = csr_matrix(
        (np.array([1.0, 2, 3]), np.array([2, 1, 0], dtype=np.int64), np.array([0, 2, 3]))
    )
    unsorted.data.flags.writeable = False
    assert dump(unsorted, csr_array(Y).astype(bool)) == expected
    np.testing.assert_array_equal(unsorted.indices, [2, 1, 0])
    explicit_zero = csr_array((np.array([0, 1, 1, 1]), [0, 1, 0, 1], [0, 2, 4]))
    assert dump(X, explicit_zero) == expected
    assert explicit_zero.nnz == 4
