"""Arrays on disk: round trips, atomic writing, damage of every kind."""

import itertools
import os
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from skxmc.exceptions import ModelFormatError
from skxmc.io import _arrays
from skxmc.io._arrays import (
    check_compressed,
    compact_indices,
    expand_indices,
    read_arrays,
    read_npy,
    write_arrays_atomic,
    write_npy,
)

ARRAYS = {
    "float32": np.linspace(0, 1, 7, dtype=np.float32).reshape(7, 1),
    "float16 with nan": np.array([1, np.nan, -np.inf], dtype=np.float16),
    "int64 scalar": np.array(-3),
    "no rows": np.zeros((0, 5), dtype=np.int32),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
    "strided": np.arange(10)[::3],
    "bool": np.array([True, False]),
    "text": np.array(["a", "größer"]),
}


@pytest.mark.parametrize("compress", [False, True])
def test_archive_round_trip(tmp_path, compress):
    path = tmp_path / "shard.npz"
    meta = {"labels": [0, 3], "tolerance": 0.1, "name": "ä"}
    write_arrays_atomic(path, ARRAYS, meta=meta, compress=compress)
    arrays, found_meta = read_arrays(path)
    assert found_meta == meta
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize("compress", [False, True])
def test_archive_with_any_damage_is_refused_or_unharmed(tmp_path, compress):
    path = tmp_path / "shard.npz"
    written = {"a": np.arange(20, dtype=np.float32), "b": np.arange(3)}
    write_arrays_atomic(path, written, meta=[1, 2], compress=compress)
    content = path.read_bytes()
    refused = 0
    damaged = [content[:n] for n in range(0, len(content), 7)]
    damaged += [
        content[:i] + bytes([content[i] ^ (1 << i % 8)]) + content[i + 1 :]
        for i in range(0, len(content), 3)
    ]
    for variant in damaged:
        path.write_bytes(variant)
        try:
            arrays, meta = read_arrays(path)
        except ModelFormatError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        # The zip format has fields that nothing reads: a change there does no harm.
        assert meta == [1, 2]
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, written[name])
    assert refused > len(damaged) / 2


def test_archive_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "none.npz")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "shard.npz"
    write_arrays_atomic(path, {"a": np.arange(3)})

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(_arrays.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_arrays_atomic(path, {"a": np.arange(4)})
    monkeypatch.undo()
    np.testing.assert_array_equal(read_arrays(path)[0]["a"], np.arange(3))
    assert os.listdir(tmp_path) == ["shard.npz"]


def test_objects_and_reserved_names_are_refused(tmp_path):
    with pytest.raises(TypeError, match="'a' has dtype object"):
        write_arrays_atomic(tmp_path / "x.npz", {"a": np.array([{}])})
    with pytest.raises(ValueError, match="reserved"):
        write_arrays_atomic(tmp_path / "x.npz", {"__meta__": np.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_pickled_array_is_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    np.savez(tmp_path / "x.npz", __meta__=np.zeros(1, np.uint8), a=np.array([Bomb()]))
    with pytest.raises(ModelFormatError):
        read_arrays(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", np.array([Bomb()]))
    with pytest.raises(ModelFormatError):
        read_npy(tmp_path / "x.npy", "|O", [1])
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", list(ARRAYS))
def test_npy_round_trip(tmp_path, name, mmap):
    array = ARRAYS[name]
    write_npy(tmp_path / "a.npy", array)
    found = read_npy(tmp_path / "a.npy", array.dtype.str, array.shape, mmap)
    assert type(found) is np.ndarray
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    if mmap and array.size:
        assert not found.flags.writeable


@pytest.mark.parametrize("mmap", [False, True])
def test_npy_in_fortran_order_and_later_versions(tmp_path, mmap):
    array = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    found = read_npy(tmp_path / "a.npy", "<f8", [3, 4], mmap)
    np.testing.assert_array_equal(found, array)
    assert found.flags.f_contiguous
    with open(tmp_path / "b.npy", "wb") as file:
        np.lib.format.write_array(file, array, version=(2, 0))
    np.testing.assert_array_equal(read_npy(tmp_path / "b.npy", "<f8", [3, 4], mmap), array)
    np.save(tmp_path / "c.npy", np.float32(3))
    assert read_npy(tmp_path / "c.npy", "<f4", [], mmap) == 3


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:9],
        lambda content: b"",
        lambda content: content.replace(b"(5,)", b"(6,)"),
        lambda content: content.replace(b"<f4", b"<i4"),
        lambda content: content.replace(b"'shape'", b"'shipe'"),
        lambda content: content.replace(b"(5,)", b"(5.)"),
        lambda content: b"\x93NUMPY\x09" + content[7:],
    ],
)
def test_damaged_npy_is_refused(tmp_path, damage, mmap):
    path = tmp_path / "a.npy"
    write_npy(path, np.arange(5, dtype=np.float32))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelFormatError, match=r"a\.npy"):
        read_npy(path, "<f4", [5], mmap)


def test_npy_that_claims_to_be_huge_allocates_nothing(tmp_path):
    path = tmp_path / "a.npy"
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (4_000_000_000_000_000,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"four")
    with pytest.raises(ModelFormatError, match="takes 4000000000000128 bytes, not 132"):
        read_npy(path, "|u1", [4000000000000000])
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(path, "a.npy")
    with pytest.raises(ModelFormatError, match="takes 4000000000000128 bytes, not 132"):
        read_arrays(tmp_path / "a.npz")


def is_sound(indices, indptr, n_columns, increasing):
    """Say in plain loops whether CSR arrays are sound."""
    if indptr[0] != 0 or indptr[-1] != len(indices):
        return False
    for a, b in itertools.pairwise(indptr):
        if a > b:
            return False
    for a, b in itertools.pairwise(indptr):
        row = list(indices[a:b])
        if any(not 0 <= i < n_columns for i in row):
            return False
        if increasing and row != sorted(set(row)):
            return False
    return True


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_check_compressed_agrees_with_plain_loops(data):
    n_columns = data.draw(st.integers(1, 5))
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    rows = [
        data.draw(
            st.one_of(
                st.lists(st.integers(0, n_columns - 1), unique=True, max_size=n).map(sorted),
                st.lists(st.integers(-1, n_columns), min_size=n, max_size=n),
            )
        )
        for n in lengths
    ]
    indices = np.array([i for row in rows for i in row], dtype=np.int32)
    if data.draw(st.booleans()):
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    if data.draw(st.booleans()) and len(indptr) > 2:
        indptr[data.draw(st.integers(1, len(indptr) - 2))] += data.draw(st.integers(-3, 3))
    increasing = data.draw(st.booleans())
    shape = (len(indptr) - 1, n_columns)
    values = np.ones(len(indices), dtype=np.float32)
    block = _arrays._CHECK_BLOCK
    _arrays._CHECK_BLOCK = data.draw(st.integers(1, 6))
    try:
        check_compressed(values, indices, indptr, shape, increasing=increasing, where="A")
        accepted = True
    except ModelFormatError as error:
        assert str(error).startswith("A: ")
        accepted = False
    finally:
        _arrays._CHECK_BLOCK = block
    assert accepted == is_sound(indices, indptr, n_columns, increasing)


@pytest.mark.parametrize(
    ("indices", "indptr", "message"),
    [
        ([0, 5, 1], [0, 1, 2, 3], "index 5 in row 1 is outside of 0 to 3"),
        ([0, -1, 1], [0, 1, 2, 3], "index -1 in row 1"),
        ([0, 1, 1], [0, 1, 1, 3], "the indices of row 2 do not increase"),
        ([0, 1, 1], [0, 2, 1, 3], "decrease at row 1"),
        ([0, 1, 1], [0, 1, 3], "3 row pointers for 3 rows"),
        ([0, 1, 1], [0, 1, 2, 4], "row pointers from 0 to 4"),
        ([0.0, 1.0, 2.0], [0, 1, 2, 3], "vectors of numbers"),
    ],
)
def test_check_compressed_names_the_place(indices, indptr, message):
    with pytest.raises(ModelFormatError, match=message):
        check_compressed(
            np.ones(3), np.array(indices), np.array(indptr), (3, 4), increasing=True, where="A"
        )


@settings(max_examples=100, deadline=None)
@given(
    n_rows=st.integers(0, 6),
    n_columns=st.sampled_from([1, 3, 300, 70_000, 2**31 - 1]),
    seed=st.integers(0, 2**32 - 1),
    index_dtype=st.sampled_from(["<i4", "<i8"]),
)
def test_compact_indices_round_trip(n_rows, n_columns, seed, index_dtype):
    rng = np.random.default_rng(seed)
    rows = [np.unique(rng.integers(0, n_columns, rng.integers(0, 5))) for _ in range(n_rows)]
    indptr = np.cumsum([0] + [len(row) for row in rows]).astype("<i8")
    indices = np.concatenate([np.zeros(0, int), *rows]).astype(index_dtype)
    steps, lengths = compact_indices(indices, indptr)
    found_indices, found_indptr = expand_indices(steps, lengths, index_dtype, "<i8")
    np.testing.assert_array_equal(found_indices, indices)
    np.testing.assert_array_equal(found_indptr, indptr)
    assert found_indices.dtype == index_dtype


def test_compact_indices_are_small():
    A = sp.csr_array(np.random.default_rng(0).random((200, 1000)) < 0.1)
    steps, lengths = compact_indices(A.indices, A.indptr)
    assert steps.itemsize <= 2
    assert lengths.itemsize == 1


@pytest.mark.parametrize(
    ("steps", "lengths", "message"),
    [
        (np.ones(3, np.uint8), np.array([1, 1], np.uint8), "add up to 2, not to 3"),
        (np.ones(3, np.int8), np.array([1, 2], np.uint8), "unsigned"),
        (np.ones((3, 1), np.uint8), np.array([1, 2], np.uint8), "vectors"),
        (np.array([1, 2**31, 2], np.uint32), np.array([1, 2], np.uint8), "does not fit"),
    ],
)
def test_expand_indices_refuses_damage(steps, lengths, message):
    with pytest.raises(ModelFormatError, match=message):
        expand_indices(steps, lengths, "<i4", "<i8")
