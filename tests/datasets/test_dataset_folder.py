"""The folder layout: round trips, missing parts, files that disagree or are broken."""

import gzip
import io
import json

import numpy as np
import pytest
from scipy.sparse import csr_array, csr_matrix, save_npz

from skxmc.datasets import dump_folder, load_folder


def example():
    rng = np.random.default_rng(0)
    return {
        "X_train": csr_array(rng.poisson(0.5, (4, 3)).astype(np.float32)),
        "Y_train": csr_array(rng.integers(0, 2, (4, 5))),
        "X_test": csr_array(rng.poisson(0.5, (2, 3)).astype(np.float32)),
        "Y_test": csr_array(rng.integers(0, 2, (2, 5))),
        "filter_train": csr_array(np.eye(4, 5)),
        "filter_test": csr_array(np.zeros((2, 5))),
        "labels": ["a", "b", "ç", "", "e f"],
        "label_texts": ["A", "B", "C", "D", "E"],
        "feature_names": ["x", "y\x85\u2028", "z"],
        "train_texts": ["one", "", "three\r", "four"],
        "test_texts": ["five", ""],
        "train_ids": ["1", "2", "3", "4"],
        "test_ids": ["5", "6"],
        "stats": {"L": 5},
    }


def test_round_trip(tmp_path):
    data = example()
    dump_folder(data, tmp_path / "new" / "folder")
    loaded = load_folder(tmp_path / "new" / "folder")
    assert set(loaded) == set(data)
    for name, part in data.items():
        if isinstance(part, csr_array):
            assert isinstance(loaded[name], csr_array)
            assert loaded[name].has_canonical_format
            assert loaded[name].dtype == (np.float32 if name.startswith("X") else np.uint8)
            np.testing.assert_array_equal(loaded[name].toarray(), part.toarray())
        else:
            assert loaded[name] == part


@pytest.mark.parametrize("missing", list(example()))
def test_missing_parts_are_none(tmp_path, missing):
    data = example()
    del data[missing]
    dump_folder(data, tmp_path)
    loaded = load_folder(str(tmp_path))
    assert [name for name, part in loaded.items() if part is None] == [missing]


def test_matrices_become_canonical(tmp_path):
    """As written by others: csr_matrix, unsorted, duplicates, stored zeros, float labels."""
    X = csr_matrix((np.ones(3), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    Y = csr_matrix((np.array([0.0, 1.0]), np.array([1, 0]), np.array([0, 2])), shape=(1, 2))
    save_npz(tmp_path / "X_train.npz", X)
    save_npz(tmp_path / "Y_train.npz", Y)
    data = load_folder(tmp_path)
    np.testing.assert_array_equal(data.X_train.toarray(), [[1, 0, 2]])
    assert data.X_train.indices.tolist() == [0, 2]
    assert data.Y_train.indices.tolist() == [0]
    assert data.Y_train.data.tolist() == [1]


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        ("labels.txt.gz", 4, r"labels\.txt\.gz: 4 labels, but Y_train\.npz has 5"),
        ("label_texts.txt.gz", 6, r"label_texts\.txt\.gz: 6 labels, but Y_train\.npz has 5"),
        ("features.txt.gz", 2, r"features\.txt\.gz: 2 features, but X_train\.npz has 3"),
        ("train_texts.txt.gz", 3, r"train_texts\.txt\.gz: 3 training rows, but X_train\.npz has 4"),
        ("test_ids.txt.gz", 3, r"test_ids\.txt\.gz: 3 test rows, but X_test\.npz has 2"),
    ],
)
def test_lists_of_another_length(tmp_path, file, lines, message):
    dump_folder(example(), tmp_path)
    (tmp_path / file).write_bytes(gzip.compress(b"x\n" * lines, mtime=0))
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("Y_train", (3, 5), r"Y_train\.npz: 3 training rows, but X_train\.npz has 4"),
        ("X_test", (2, 4), r"X_test\.npz: 4 features, but X_train\.npz has 3"),
        ("filter_test", (2, 6), r"filter_test\.npz: 6 labels, but Y_train\.npz has 5"),
    ],
)
def test_matrices_of_another_shape(tmp_path, name, shape, message):
    dump_folder(example(), tmp_path)
    save_npz(tmp_path / f"{name}.npz", csr_array(shape))
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path)
    with pytest.raises(ValueError, match=message):
        dump_folder({**example(), name: csr_array(shape)}, tmp_path / "other")


def npz_bytes(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


BROKEN_CSR = {
    "data": np.ones(2),
    "indices": np.array([0, 77]),  # column 77 of 3
    "indptr": np.array([0, 2, 2, 2, 2]),
    "shape": np.array([4, 3]),
    "format": np.array(b"csr"),
}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("X_train.npz", b"not a zip file"),
        ("X_train.npz", b""),
        ("Y_test.npz", npz_bytes(a=np.zeros(3))),
        ("X_train.npz", npz_bytes(**BROKEN_CSR)),
        ("X_train.npz", npz_bytes(**{**BROKEN_CSR, "indptr": np.array([0, 9, 2, 2, 2])})),
        ("labels.txt.gz", b"plain text"),
        ("labels.txt.gz", gzip.compress(b"a\nb\nc\nd\ne\n", mtime=0)[:-4]),
        ("train_texts.txt.gz", gzip.compress(b"\xff\n\n\n\n", mtime=0)),
        ("stats.json", b"{"),
        ("stats.json", b"\xff"),
    ],
)
def test_broken_files_are_named(tmp_path, file, content):
    dump_folder(example(), tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=file.replace(".", r"\.")):
        load_folder(tmp_path)


def test_values_that_are_not_allowed(tmp_path):
    dump_folder(example(), tmp_path)
    Y = example()["Y_train"].astype(float)
    Y.data[-1] = 2
    save_npz(tmp_path / "Y_train.npz", Y)
    with pytest.raises(ValueError, match=r"Y_train\.npz: 2\.0 in row 3, .*only 0 and 1"):
        load_folder(tmp_path)
    X = csr_array(np.array([[0, np.nan, 0]]))
    with pytest.raises(ValueError, match=r"X_train: nan in row 0, column 1; only finite"):
        dump_folder({"X_train": X}, tmp_path / "other")


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_folder(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"none of the files .*X_train\.npz"):
        load_folder(tmp_path)


def test_data_sets_are_not_mixed(tmp_path):
    dump_folder({"labels": ["a"]}, tmp_path)
    with pytest.raises(FileExistsError, match=r"labels\.txt\.gz"):
        dump_folder({"train_ids": ["a"]}, tmp_path)
    assert load_folder(tmp_path).train_ids is None


def test_wrong_parts(tmp_path):
    with pytest.raises(ValueError, match="unknown parts X_valid"):
        dump_folder({"X_valid": csr_array((1, 1))}, tmp_path)
    with pytest.raises(ValueError, match=r"labels\[1\] must be a str without newline"):
        dump_folder({"labels": ["a", "b\nc"]}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_stats_are_json(tmp_path):
    dump_folder({"stats": {"N": 3}}, tmp_path)
    assert json.loads((tmp_path / "stats.json").read_text()) == {"N": 3}
