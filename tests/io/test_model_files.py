"""Saving and loading models: everything comes back, and nothing damaged gets through."""

import json
import os
import pickle
import random
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skxmc import (
    DismecClassifier,
    IsotonicXMCCalibrator,
    MacroAtKPredictor,
    ParabelTree,
    __version__,
    load_model,
    save_model,
)
from skxmc.datasets import make_xmc_classification
from skxmc.exceptions import ModelFormatError
from skxmc.io import _model


class ToyModel(BaseEstimator):
    """Has an attribute of every kind that is stored."""

    _weight_attributes = ("coef_", "bias_")

    def __init__(self, C=1.0, loss="hinge", base=None, top_k=None, random_state=None):
        self.C = C
        self.loss = loss
        self.base = base
        self.top_k = top_k
        self.random_state = random_state

    def fit(self, n_labels=30, n_features=50):
        rng = np.random.default_rng(0)
        shape = (n_labels, n_features)
        W = sp.csr_array(rng.normal(size=shape) * (rng.random(shape) < 0.2)).astype(np.float32)
        W.indices, W.indptr = W.indices.astype(np.int32), W.indptr.astype(np.int64)
        self.coef_ = W
        self.bias_ = rng.normal(size=n_labels).astype(np.float32)
        self.by_feature_ = sp.csc_matrix(W)
        self.unsorted_ = sp.csr_array(
            (np.array([1, 2, 3]), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3)
        )
        self.empty_ = sp.csr_array((0, 7), dtype=np.float32)
        self.classes_ = np.array(["zebra", "ant"])
        self.feature_names_in_ = np.array(["a", "b/ü"], dtype=object)
        self.n_features_in_ = n_features
        self.score_ = np.float32(0.1)
        self.history_ = [1.5, float("inf"), {"steps": (1, 2), 3: None}]
        self._kind = "sparse"
        self._dtype = np.dtype(np.int8)
        self._flag = True
        return self

    def _check_loaded_model(self):
        if self.coef_.shape[1] != self.n_features_in_:
            raise ValueError("coef_ does not have n_features_in_ columns")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(_model.MODEL_CLASSES, "ToyModel", __name__)


def assert_same(a, b):
    """Compare types, dtypes and values to any depth."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif sp.issparse(a):
        assert a.shape == b.shape
        for name in ("data", "indices", "indptr"):
            assert_same(getattr(a, name), getattr(b, name))
    elif isinstance(a, BaseEstimator):
        assert_same(vars(a), vars(b))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize(("compress", "mmap"), [(False, True), (False, False), (True, True)])
def test_round_trip(tmp_path, compress, mmap):
    base = ToyModel(C=float("nan")).fit(3, 4)
    base.C = 0.25
    model = ToyModel(C=np.float64(2.0), base=base, top_k=7).fit()
    save_model(model, tmp_path / "model", compress=compress)
    loaded = load_model(tmp_path / "model", mmap=mmap)
    assert_same(loaded, model)
    writeable = not mmap or compress
    assert loaded.coef_.data.flags.writeable == writeable
    assert loaded.coef_.has_canonical_format
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_loaded_model_can_be_saved_over_itself_while_mapped(tmp_path):
    model = ToyModel().fit()
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    save_model(loaded, tmp_path / "model", overwrite=True)
    assert_same(loaded, model)
    assert_same(load_model(tmp_path / "model"), model)


def test_loaded_model_can_be_pickled(tmp_path):
    model = ToyModel().fit()
    save_model(model, tmp_path / "model")
    assert_same(pickle.loads(pickle.dumps(load_model(tmp_path / "model"))), model)


def folder_size(path):
    return sum(p.stat().st_size for p in path.iterdir())


@pytest.mark.parametrize("compress", [False, True])
def test_float16_weights(tmp_path, compress):
    model = ToyModel().fit(300, 500)
    model.by_feature_ = None
    save_model(model, tmp_path / "full", compress=compress)
    save_model(model, tmp_path / "half", compress=compress, weights_dtype="float16")
    loaded = load_model(tmp_path / "half")
    assert loaded.coef_.dtype == np.float32
    np.testing.assert_array_equal(
        loaded.coef_.data, model.coef_.data.astype(np.float16).astype(np.float32)
    )
    np.testing.assert_array_equal(loaded.coef_.indices, model.coef_.indices)
    assert folder_size(tmp_path / "full") - folder_size(tmp_path / "half") > model.coef_.nnz


def test_compression_makes_the_model_smaller(tmp_path):
    model = ToyModel().fit(300, 500)
    save_model(model, tmp_path / "plain")
    save_model(model, tmp_path / "small", compress=True)
    assert folder_size(tmp_path / "small") < 0.7 * folder_size(tmp_path / "plain")


def test_weight_too_large_for_float16(tmp_path):
    model = ToyModel().fit()
    model.coef_.data[3] = -1e5
    with pytest.raises(ValueError, match="A weight of coef_ has the size 100000"):
        save_model(model, tmp_path / "model", weights_dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_float32_weights_of_a_float64_model(tmp_path):
    model = ToyModel().fit()
    model.bias_ = model.bias_.astype(np.float64) / 3
    save_model(model, tmp_path / "model", weights_dtype="float32")
    loaded = load_model(tmp_path / "model")
    assert loaded.bias_.dtype == np.float64
    np.testing.assert_array_equal(loaded.bias_, model.bias_.astype(np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.set_params(random_state=np.random.RandomState(0)), "random_state.*integer"),
        (lambda m: m.set_params(loss=len), "loss is of type builtins"),
        (lambda m: setattr(m, "extra_", [{"x": object()}]), r"extra_\.0\.x is of type"),
        (lambda m: setattr(m, "extra_", np.array([1, "a"], dtype=object)), "extra_ is of type"),
        (lambda m: setattr(m, "extra_", sp.coo_array((2, 2))), "extra_ is of type"),
        (lambda m: setattr(m, "extra_", np.zeros(2, dtype="f4,i4")), "extra_ is of type"),
        (lambda m: m.set_params(base=DummyClassifier()), "base is of type sklearn"),
    ],
)
def test_what_cannot_be_stored_is_named(tmp_path, change, message):
    model = ToyModel().fit()
    change(model)
    with pytest.raises(TypeError, match=message):
        save_model(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_only_fitted_models_of_skxmc(tmp_path):
    with pytest.raises(NotFittedError):
        save_model(ToyModel(), tmp_path / "model")
    with pytest.raises(TypeError, match=r"stores .*; got sklearn\.dummy.*joblib"):
        save_model(DummyClassifier(), tmp_path / "model")
    with pytest.raises(ValueError, match="weights_dtype must be"):
        save_model(ToyModel().fit(), tmp_path / "model", weights_dtype="int8")


def test_nothing_but_a_model_is_overwritten(tmp_path):
    model = ToyModel().fit()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    link = tmp_path / "link"
    save_model(model, tmp_path / "model")
    link.symlink_to(tmp_path / "model")
    for path in (folder, file, link):
        for overwrite in (False, True):
            with pytest.raises(FileExistsError):
                save_model(model, path, overwrite=overwrite)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_model(model, tmp_path / "model")
    assert (folder / "thesis.tex").read_text() == file.read_text() == "mine"
    (tmp_path / "empty").mkdir()
    save_model(model, tmp_path / "empty")
    save_model(model, tmp_path / "new" / "parents" / "model")
    assert_same(load_model(tmp_path / "empty"), model)


def test_failed_write_leaves_the_old_model_and_nothing_else(tmp_path, monkeypatch):
    model = ToyModel(C=1.0).fit()
    path = tmp_path / "model"
    save_model(model, path)
    rename = os.rename

    def failing_rename(source, target):
        if target == path and not str(source).endswith(".old"):
            raise OSError("disk on fire")
        rename(source, target)

    monkeypatch.setattr(_model._arrays, "_exchange", lambda *_: False)  # as on other systems
    monkeypatch.setattr(_model.os, "rename", failing_rename)
    with pytest.raises(OSError, match="on fire"):
        save_model(ToyModel(C=2.0).fit(), path, overwrite=True)
    monkeypatch.setattr(_model._arrays, "write_npy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(ToyModel(C=2.0).fit(), path, overwrite=True)
    assert load_model(path).C == 1.0
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange directories")
def test_a_model_is_replaced_in_one_step(tmp_path, monkeypatch):
    """No moment at which a kill would leave nothing at the path."""
    path = tmp_path / "model"
    save_model(ToyModel(C=1.0).fit(), path)
    monkeypatch.setattr(_model.os, "rename", lambda *_: 1 / 0)
    save_model(ToyModel(C=2.0).fit(), path, overwrite=True)
    assert load_model(path).C == 2.0
    assert os.listdir(tmp_path) == ["model"]


def edit(path, change):
    header = json.loads((path / "model.json").read_text())
    change(header)
    (path / "model.json").write_text(json.dumps(header))


def attributes(header):
    return header["model"]["attributes"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(format_version=3), r"format version 3.*reads up to version 2.*Upgrade"),
        (lambda h: h.update(format_version="1"), "does not say so"),
        (lambda h: h.update(format="other"), "not a model of skxmc"),
        (lambda h: h["model"].update({"class": "Popen"}), "knows no model of class 'Popen'"),
        (lambda h: h["model"].update({"class": "os.system"}), "knows no model"),
        (lambda h: h["model"]["params"].update(depth=3), "no parameter 'depth'.*newer"),
        (lambda h: attributes(h).update(C=3), "'C' is not the name of an attribute"),
        (lambda h: attributes(h).update(__class__=3), "'__class__' is not the name"),
        (lambda h: attributes(h).update(n_features_in_=49), "n_features_in_ columns"),
        (lambda h: h["arrays"].update({"../x": h["arrays"]["bias_"]}), "'../x' is not the name"),
        (lambda h: h["arrays"].pop("bias_"), "bias_"),
        (lambda h: h["arrays"]["bias_"].update(dtype="|O"), "not an array of numbers"),
        (lambda h: h["arrays"]["bias_"].update(shape=[-1]), "not an array of numbers"),
        (lambda h: h["arrays"]["bias_"].update(crc32=1), "CRC-32"),
        (lambda h: attributes(h)["coef_"].update(shape=[30, 49]), "index 49 in row"),
        (lambda h: attributes(h)["coef_"].update(shape=[31, 50]), "31 row pointers for 31 rows"),
        (lambda h: attributes(h)["coef_"].update(shape=[30]), "not a sparse array"),
        (lambda h: attributes(h)["coef_"].update(format="coo"), "not a sparse array"),
        (lambda h: attributes(h)["coef_"].update(dtype="<f2"), "float32 stands for float16"),
        (lambda h: attributes(h)["coef_"].update(dtype="|O"), "stands for"),
        (lambda h: attributes(h)["unsorted_"].update(increasing=True), "row 0 do not increase"),
        (lambda h: attributes(h)["_dtype"].update({"$type": "code"}), "unknown kind"),
        (lambda h: attributes(h)["_dtype"].update({"$type": 3}), "unknown kind"),
        (lambda h: attributes(h)["score_"].update(dtype="|O"), "not the dtype of a number"),
        (lambda h: h.update(model=3), "holds no estimator"),
        (lambda h: h.pop("arrays"), "damaged"),
    ],
)
def test_wrong_header_is_refused(tmp_path, change, message):
    path = tmp_path / "model"
    save_model(ToyModel().fit(), path)
    edit(path, change)
    with pytest.raises(ModelFormatError, match=message) as caught:
        load_model(path, mmap=False)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("compress", [False, True])
def test_random_damage_is_refused_or_harmless(tmp_path, compress):
    """Whatever byte of whatever file changes: ModelFormatError, or a model that is sound."""
    model = ToyModel().fit(5, 6)
    path = tmp_path / "model"
    save_model(model, path, compress=compress)
    rng = random.Random(0)
    refused = 0
    for n in range(600):
        file = rng.choice([f for f in sorted(path.iterdir()) if n % 2 or f.name == "model.json"])
        content = file.read_bytes()
        position = rng.randrange(len(content))
        if rng.random() < 0.2:
            file.write_bytes(content[:position])
        else:
            new = rng.randrange(256) if rng.random() < 0.5 else rng.choice(b'0123456789[]{}",:-.e')
            file.write_bytes(content[:position] + bytes([new]) + content[position + 1 :])
        try:
            loaded = load_model(path, mmap=False)
        except ModelFormatError:
            refused += 1
        else:
            for name in ("coef_", "by_feature_"):
                A = getattr(loaded, name, None)
                if A is not None and sp.issparse(A):
                    A.check_format(full_check=True)
                    assert np.isfinite(A.data).all()
        file.write_bytes(content)
    assert refused > 200


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = ToyModel().fit()
    model.coef_.data[0] = np.nan
    save_model(model, tmp_path / "model")
    with pytest.raises(ModelFormatError, match="coef_: there are values that are not finite"):
        load_model(tmp_path / "model", verify=True)


def test_mapped_model_checks_what_kernels_rely_on(tmp_path):
    path = tmp_path / "model"
    save_model(ToyModel().fit(), path)
    indices = np.load(path / "coef_.indices.npy")
    indices[-1] = 1_000_000
    np.save(path / "coef_.indices.npy", indices)
    with pytest.raises(ModelFormatError, match="coef_: index 1000000 in row"):
        load_model(path)


def test_verify_finds_a_changed_weight_in_a_mapped_model(tmp_path):
    path = tmp_path / "model"
    save_model(ToyModel().fit(), path)
    data = np.load(path / "coef_.data.npy")
    data[0] += 1
    np.save(path / "coef_.data.npy", data)
    load_model(path)  # not looked at, as documented
    with pytest.raises(ModelFormatError, match=r"coef_\.data.*CRC-32"):
        load_model(path, verify=True)


@pytest.mark.parametrize("name", ["coef_.data.npy", "model.json"])
def test_missing_file(tmp_path, name):
    path = tmp_path / "model"
    save_model(ToyModel().fit(), path)
    (path / name).unlink()
    with pytest.raises(ModelFormatError, match=name.replace(".", r"\.")):
        load_model(path)


def test_not_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model"):
        load_model(tmp_path / "nothing")
    with pytest.raises(ModelFormatError, match="not a model"):
        load_model(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelFormatError, match="not a model"):
        load_model(tmp_path / "file")
    with pytest.raises(TypeError, match="mmap must be True or False"):
        load_model(tmp_path, mmap="r+")


def test_header_is_readable_and_tells_the_version(tmp_path):
    save_model(ToyModel(C=0.5).fit(), tmp_path / "model")
    header = json.loads((tmp_path / "model" / "model.json").read_text())
    assert header["format"] == "skxmc-model"
    assert header["skxmc_version"] == __version__
    assert header["model"]["params"]["C"] == 0.5


def test_every_registered_class_names_a_module_of_skxmc():
    for name, module in _model.MODEL_CLASSES.items():
        if name != "ToyModel":
            assert module.split(".")[0] in ("skxmc", "sklearn")


META_ESTIMATORS = [
    IsotonicXMCCalibrator(DismecClassifier(), cv=3, random_state=0),
    IsotonicXMCCalibrator(FrozenEstimator(DismecClassifier())),
    MacroAtKPredictor(ParabelTree(random_state=0), k=3, random_state=0),
    MacroAtKPredictor(
        IsotonicXMCCalibrator(DismecClassifier(), cv=3),
        k=3,
        method="frank-wolfe",
        metric="macro_gmean",
        random_state=0,
    ),
]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("model", META_ESTIMATORS)
def test_wrapped_estimators_are_saved_with_what_wraps_them(tmp_path, model, compress):
    data = make_xmc_classification(200, 100, 20, random_state=0)
    model = clone(model)
    if isinstance(model.estimator, FrozenEstimator):
        model.estimator.estimator.fit(data.X, data.Y)
    model.fit(data.X, data.Y)
    save_model(model, tmp_path / "model", compress=compress)
    loaded = load_model(tmp_path / "model")
    for method in ("predict", "predict_proba", "decision_function"):
        first, second = getattr(model, method)(data.X), getattr(loaded, method)(data.X)
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(first, part), getattr(second, part))
    # an array that stands in two places, such as that of a frozen estimator, is stored once
    header = json.loads((tmp_path / "model" / "model.json").read_text())
    assert len([name for name in header["arrays"] if name.endswith("coef_.data")]) <= 1


def test_an_unfitted_model_in_a_file_is_refused(tmp_path):
    path = tmp_path / "model"
    data = make_xmc_classification(60, 40, 12, random_state=0)
    save_model(DismecClassifier().fit(data.X, data.Y), path)

    def make_template(header):
        header["model"]["attributes"].pop("_fit_done")

    edit(path, make_template)
    with pytest.raises(ModelFormatError, match="not fitted"):
        load_model(path)
