"""The data sets that the package carries."""

from importlib.resources import files

import numpy as np
import pytest
from scipy.sparse import csr_array

from skxmc.datasets import dump_folder, load_debtags, load_emoji
from skxmc.datasets._bundled import _pack

DATA = files("skxmc.datasets").joinpath("data")


@pytest.fixture(scope="module")
def debtags():
    return load_debtags(return_tfidf=True)


@pytest.fixture(scope="module")
def emoji():
    return load_emoji(return_tfidf=True)


def rows(Y, i):
    return Y.indices[Y.indptr[i] : Y.indptr[i + 1]]


def check(data, n_train, n_test, n_labels, n_features):
    for split, n in (("train", n_train), ("test", n_test)):
        Y, X = data[f"Y_{split}"], data[f"X_{split}"]
        assert isinstance(Y, csr_array)
        assert Y.shape == (n, n_labels)
        assert Y.dtype == np.uint8
        Y.check_format(full_check=True)
        assert Y.has_canonical_format
        assert (Y.data == 1).all()
        assert len(data[f"{split}_texts"]) == len(data[f"{split}_ids"]) == n
        assert all(data[f"{split}_texts"])
        assert X.shape == (n, n_features)
        assert X.dtype == np.float32
        norms = np.sqrt(np.asarray(X.multiply(X).sum(axis=1)))
        np.testing.assert_allclose(norms[norms > 0], 1, rtol=1e-5)
    assert len(set(data.train_ids) | set(data.test_ids)) == n_train + n_test
    assert data.label_names.shape == (n_labels,)
    assert data.label_names.dtype.kind == "U"
    assert data.label_names.tolist() == sorted(set(data.label_names.tolist()))
    assert len(data.label_texts) == n_labels
    assert data.feature_names.shape == (n_features,)
    assert np.bincount(data.Y_train.indices, minlength=n_labels).min() >= 1


def test_debtags(debtags):
    """Sizes and averages are those published with the data set."""
    check(debtags, 24050, 6243, 567, 26316)
    assert round(debtags.Y_train.nnz / 24050, 3) == 3.661
    assert round(debtags.Y_test.nnz / 6243, 3) == 3.658
    counts = np.bincount(debtags.Y_train.indices)
    assert ((counts >= 1) & (counts <= 4)).sum() == 82
    assert round(debtags.X_train.nnz / 24050, 1) == 44.2
    assert "Debian" in debtags.DESCR


def test_debtags_labels_belong_to_their_texts(debtags):
    i = debtags.train_ids.index("0ad")
    assert debtags.train_texts[i].startswith("Real-time strategy game of ancient warfare. 0 A.D.")
    assert "game::strategy" in debtags.label_names[rows(debtags.Y_train, i)]
    j = debtags.label_names.tolist().index("accessibility::screen-magnify")
    assert debtags.label_texts[j] == "accessibility: screen magnify"
    # A tag of the text's own words marks texts with these words far more often than others.
    for name, word in (("devel::lang:perl", "perl"), ("uitoolkit::gtk", "gtk")):
        tagged = debtags.Y_test[:, [debtags.label_names.tolist().index(name)]].toarray()[:, 0] > 0
        has_word = np.array([word in text.lower() for text in debtags.test_texts])
        assert has_word[tagged].mean() > 5 * has_word[~tagged].mean()


def test_emoji(emoji):
    check(emoji, 1569, 384, 3498, 1412)
    assert round(emoji.Y_train.nnz / 1569, 3) == 5.713
    assert round(emoji.Y_test.nnz / 384, 3) == 4.391
    i = emoji.train_ids.index("{")
    assert emoji.train_texts[i] == "open curly bracket"
    assert "brace" in emoji.label_names[rows(emoji.Y_train, i)]
    assert "Unicode" in emoji.DESCR


def test_tfidf_is_computed_on_request_only():
    data = load_emoji()
    assert not {"X_train", "X_test", "feature_names"} & set(data)


def test_every_call_returns_its_own_arrays():
    load_emoji().Y_train.data[:] = 0
    assert (load_emoji().Y_train.data == 1).all()


def test_packed_size_and_licences():
    sizes = {entry.name: len(entry.read_bytes()) for entry in DATA.iterdir() if entry.is_file()}
    assert sum(sizes.values()) < 4e6
    readme = DATA.joinpath("README.md").read_text(encoding="utf-8")
    for name in sizes:
        assert name == "README.md" or name in readme
    licence = DATA.joinpath("LICENSE-UNICODE.txt").read_text(encoding="utf-8")
    assert licence.startswith("UNICODE LICENSE V3")


def test_pack_writes_what_the_package_carries(tmp_path, emoji):
    """The packed file can be made again from a folder, byte for byte."""
    parts = ["train_texts", "test_texts", "train_ids", "test_ids", "Y_train", "Y_test"]
    dump_folder(
        {"labels": emoji.label_names.tolist(), **{name: emoji[name] for name in parts}}, tmp_path
    )
    _pack(tmp_path, tmp_path / "emoji.tsv.xz")
    assert (tmp_path / "emoji.tsv.xz").read_bytes() == DATA.joinpath("emoji.tsv.xz").read_bytes()


def test_pack_refuses_what_it_cannot_hold(tmp_path):
    parts = {"labels": ["a,b"], "train_texts": ["x"], "train_ids": ["1"], "Y_train": [[1]]}
    test = {"test_texts": ["y"], "test_ids": ["2"], "Y_test": [[1]]}
    dump_folder({**parts, **test}, tmp_path)
    with pytest.raises(ValueError, match="comma in train row 0"):
        _pack(tmp_path, tmp_path / "out")
