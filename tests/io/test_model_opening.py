"""Mapped models: opened without reading the weights, which are checked when they are first used."""

import json
import multiprocessing
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from skxmc import DismecClassifier, ParabelTree, load_model, save_model
from skxmc.datasets import make_xmc_classification
from skxmc.exceptions import ModelFormatError
from skxmc.io import _arrays

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/PID/smaps")

MODELS = {
    "dismec": DismecClassifier(prune_threshold=0.3),
    "dismec-binary": DismecClassifier(),
    "parabel": ParabelTree("parabel", n_trees=2, max_leaf=8, random_state=0),
    "bonsai": ParabelTree("bonsai", n_trees=1, max_leaf=6, arity=4, random_state=0),
    "plt": ParabelTree("plt", max_leaf=6, random_state=0),
    "exact": ParabelTree("bonsai", n_trees=2, search="exact", max_leaf=6, random_state=0),
}


@pytest.fixture(scope="module")
def data():
    made = make_xmc_classification(300, 200, 40, random_state=0)
    return made.X, made.Y


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    """``saved(name)``: a fitted model and where it is saved."""
    folder, done = tmp_path_factory.mktemp("saved"), {}

    def get(name):
        if name not in done:
            X, Y = data
            y = Y[:, [0]].toarray().ravel() if name == "dismec-binary" else Y
            model = MODELS[name].fit(X, y)
            save_model(model, folder / name)
            done[name] = model, folder / name
        return done[name]

    return get


def answers(model, X):
    """All that a model answers, as arrays."""
    found = [*model.predict_topk(X, k=7), *model.predict_topk(X[:1], k=3)]
    found += [*model.predict_topk(X.toarray()[:2], k=3)]
    every_third = np.arange(X.shape[0] * len(model.classes_)) % 3 == 0
    pattern = sp.csr_array(every_third.reshape(X.shape[0], -1))
    found += [*model.predict_topk(X, k=7, candidates=pattern)]
    for method in (model.predict, model.predict_proba, model.decision_function):
        out = method(X)
        found += [out.indptr, out.indices, out.data] if sp.issparse(out) else [out]
    if isinstance(model, ParabelTree):
        found += [model.predict_above(X, 0.3).indices]
        found += [model.explain(X[[0]], 3)[-1].contributions]
    return found


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert_array_equal(x, y)


@pytest.mark.parametrize("name", MODELS)
def test_answers_and_weights_are_those_of_the_model_that_was_saved(saved, data, tmp_path, name):
    model, path = saved(name)
    X, Y = data
    for mmap in (True, False):
        loaded = load_model(path, mmap=mmap)
        assert_same(answers(loaded, X), answers(model, X))
        save_model(loaded, tmp_path / f"again-{mmap}")
        assert_same(answers(load_model(tmp_path / f"again-{mmap}"), X), answers(model, X))
        assert_same(answers(pickle.loads(pickle.dumps(loaded)), X), answers(model, X))
        if isinstance(model, ParabelTree):
            for a, b in zip(loaded.weights_, model.weights_, strict=True):
                assert_same(a, b)
        else:
            for part in ("indptr", "indices", "data"):
                a, b = getattr(loaded.coef_, part), getattr(model.coef_, part)
                assert a.dtype == b.dtype
                assert_array_equal(a, b)
    loaded = load_model(path)
    y = Y[:, [0]].toarray().ravel() if name == "dismec-binary" else Y
    assert_same(answers(loaded.fit(X, y), X), answers(model, X))
    compact = tmp_path / "compact"
    save_model(load_model(path), compact, compress=True)
    assert_same(answers(load_model(compact), X), answers(model, X))


def test_a_mapped_tree_grows_and_changes_its_link(saved, data):
    model, path = saved("bonsai")
    X, Y = data
    more = sp.hstack([Y, Y[:, :3]], format="csr")
    grown = pickle.loads(pickle.dumps(model)).add_labels(X, more)
    assert_same(answers(load_model(path).add_labels(X, more), X), answers(grown, X))
    for link in ("logistic", "l3-hinge"):
        mine = pickle.loads(pickle.dumps(model)).set_params(link=link)
        assert_same(
            answers(load_model(path).set_params(link=link), X),
            answers(mine, X),
        )


def test_trees_are_those_that_were_saved(saved, data):
    model, path = saved("bonsai")
    (tree,), (mine,) = load_model(path).trees_, model.trees_
    assert tree == mine
    assert pickle.loads(pickle.dumps(tree)) == mine
    for name in ("child_start", "label", "parent", "depth", "leaf_of", "leaf_clusters"):
        array = getattr(tree, name)
        assert array.dtype == getattr(mine, name).dtype
        assert_array_equal(array, getattr(mine, name))
        assert not array.flags.writeable
    assert_array_equal(tree.path(7), mine.path(7))


def test_arrays_of_the_other_byte_order_are_converted(saved, data, tmp_path):
    model, path = saved("dismec")
    forged = forge(path, tmp_path / "x", "_by_feature.weights", lambda a: a.astype(">f4"))
    assert_same(answers(load_model(forged), data[0]), answers(model, data[0]))


# ---------------------------------------------------------------------------- forged files


def forge(path, target, entry, change):
    """A copy in which an array is changed and has the checksum of what it is now."""
    header = json.loads((path / "model.json").read_text())
    (name,) = [n for n in header["arrays"] if n == entry or n.endswith(f".{entry}")]
    target.mkdir(parents=True)
    for file in path.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    array = np.ascontiguousarray(change(np.load(path / f"{name}.npy")))
    np.save(target / f"{name}.npy", array)
    header["arrays"][name] = {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "crc32": _arrays.crc32(array),
    }
    (target / "model.json").write_text(json.dumps(header))
    return target


def put(value, where=-1):
    def change(array):
        array = array.copy()
        array[where] = value
        return array

    return change


DISMEC = {
    "label out of range": ("labels", put(40)),
    "label far out of range": ("labels", put(2**32 - 1, 0)),
    "label twice": ("labels", lambda a: np.zeros_like(a)),
    "labels of another dtype": ("labels", lambda a: a.astype(np.int32)),
    "too few labels": ("labels", lambda a: a[:-1]),
    "weight not finite": ("weights", put(np.nan, slice(None))),
    "list past the end": ("indptr", lambda a: a + (np.arange(len(a)) > 0) * 10**12),
    "list before the beginning": ("indptr", put(-5, 0)),
    "lists that overlap": ("indptr", put(10**15, 5)),
    "dense row out of range": ("dense_row", put(10**6, 3)),
    "dense row negative": ("dense_row", put(-2, 3)),
    "dense value not finite": ("dense", put(np.inf, (slice(None), 7))),
    "dense rows too narrow": ("dense", lambda a: a[:, :-1]),
    "order out of range": ("order", put(40, 0)),
    "order twice": ("order", put(0, slice(None))),
    "order of other intercepts": ("order", lambda a: a[::-1]),
}


@pytest.mark.parametrize("what", DISMEC)
def test_forged_linear_model(saved, data, tmp_path, what):
    """Checksums that are right and indices that are wrong: an error, wherever they are met."""
    _, path = saved("dismec")
    entry, change = DISMEC[what]
    forged = forge(path, tmp_path / "model", f"_by_feature.{entry}", change)
    refuse_everywhere(forged, data[0], lambda model: (model.coef_, pickle.dumps(model)))


TREE = {
    "child out of range": ("child", lambda a: a + np.uint16(1000)),
    "children descend": ("child", lambda a: a[::-1]),
    "feature out of range": ("row_feature", put(10**9, slice(None, None, 2))),
    "feature negative": ("row_feature", put(-1, slice(None))),
    "features twice": ("row_feature", lambda a: np.zeros_like(a)),
    "row past the end": ("row_indptr", put(2**40, slice(1, -1))),
    "row before the beginning": ("row_indptr", put(-(2**40), slice(1, -1))),
    "chunk past the end": ("chunk_indptr", put(2**40, slice(1, -1))),
    "bucket out of range": ("bucket", put(2**32 - 1, slice(None))),
    "bucket of others": ("bucket", lambda a: np.zeros_like(a)),
    "buckets overlap": ("bucket_indptr", lambda a: a // 2),
    "shift too large": ("shift", put(200, slice(None))),
    "shift too small": ("shift", put(0, slice(None))),
    "dense row out of range": ("dense_row", put(2**31 - 1, slice(None))),
    "dense values not finite": ("dense", put(np.nan, slice(None))),
    "dense values missing": ("dense", lambda a: a[:16]),
    "weight not finite": ("weight", put(np.inf, slice(None))),
    "bias not finite": ("bias", put(np.nan, slice(None))),
    "too few weights": ("weight", lambda a: a[:-1]),
    "too few buckets": ("bucket", lambda a: a[:-1]),
}


@pytest.mark.parametrize("name", ["parabel", "exact"])
@pytest.mark.parametrize("what", TREE)
def test_forged_tree(saved, data, tmp_path, what, name):
    _, path = saved(name)
    entry, change = TREE[what]
    forged = forge(path, tmp_path / "model", f"0.{entry}", change)
    X, Y = data
    refuse_everywhere(
        forged,
        X,
        lambda model: model.add_labels(X, sp.hstack([Y, Y[:, :1]], format="csr")),
        lambda model: pickle.dumps(model),
        lambda model: [model.explain(X[[0]], label) for label in range(40)],
        lambda model: save_model(model, tmp_path / "again"),
    )


def refuse_everywhere(path, X, *uses):
    with pytest.raises(ModelFormatError):
        load_model(path, mmap=False)
    with pytest.raises(ModelFormatError):
        load_model(path, verify=True)
    uses = [
        lambda model: model.predict_topk(X, k=5),
        lambda model: [model.predict_topk(X[[i]], k=5) for i in range(X.shape[0])],
        lambda model: model.predict_topk(X.toarray(), k=5),
        lambda model: model.predict_topk(X, k=40, candidates=sp.csr_array(np.ones((300, 40)))),
        lambda model: model.predict(X),
        lambda model: model.predict_proba(X),
        lambda model: model.decision_function(X),
        *uses,
    ]
    for use in uses:
        with pytest.raises(ModelFormatError):
            use(load_model(path))


SHAPES = {
    "children before their parent": ("child_start", put(0, 3)),
    "children past the end": ("child_start", put(10**6, 3)),
    "too few nodes": ("child_start", lambda a: a[:-1]),
    "another dtype": ("child_start", lambda a: a.astype(np.int64)),
    "label twice": ("label", lambda a: np.where(a > 0, 1, a)),
    "label out of range": ("label", put(40)),
    "no root": ("label", put(0, 0)),
}


@pytest.mark.parametrize("what", SHAPES)
def test_forged_shape_of_a_tree(saved, tmp_path, what):
    """Nodes and labels are checked at once: a kernel follows them without a look."""
    _, path = saved("parabel")
    entry, change = SHAPES[what]
    forged = forge(path, tmp_path / "model", f"tree_shapes.1.{entry}", change)
    for mmap in (True, False):
        with pytest.raises(ModelFormatError):
            load_model(forged, mmap=mmap)


def test_arrays_of_a_search_come_from_one_place(saved, data, tmp_path):
    """An attribute that would be taken for what has been checked is left out."""
    model, _ = saved("bonsai")
    save_model(model, tmp_path / "compact", weights_dtype="float32")
    header = json.loads((tmp_path / "compact" / "model.json").read_text())
    attributes = header["model"]["attributes"]
    assert "tree_index" in attributes
    attributes["_mapped"] = [{"$type": "dict", "items": []}]
    attributes["_search"] = {"$type": "dict", "items": [["logistic", 3], ["l2-hinge", 3]]}
    (tmp_path / "compact" / "model.json").write_text(json.dumps(header))
    X = data[0]
    assert_same(answers(load_model(tmp_path / "compact"), X), answers(model, X))


def test_what_is_damaged_but_not_met_does_no_harm(saved, data, tmp_path):
    """One feature with a wrong label: rows without it are answered, rows with it refused."""
    model, path = saved("dismec")
    indptr = np.load(path / "_by_feature.indptr.npy")
    feature = int(np.flatnonzero(np.diff(indptr))[0])
    last = int(indptr[feature + 1]) - 1
    forged = load_model(forge(path, tmp_path / "x", "_by_feature.labels", put(10**9, last)))
    X = data[0]
    has = X[:, [feature]].toarray().ravel() != 0
    assert 0 < has.sum() < len(has)
    assert_same(forged.predict_topk(X[~has], k=5), model.predict_topk(X[~has], k=5))
    for _ in range(2):  # a check that fails is not taken for done
        with pytest.raises(ModelFormatError, match=f"feature {feature} are damaged"):
            forged.predict_topk(X[has], k=5)


# ---------------------------------------------------------------------------- pages


def mapped(path, process="self"):
    """Kilobytes of the file's mappings: a dictionary of the fields of smaps."""
    total, inside = {}, False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.endswith(" kB"):
            field, kilobytes = line.removesuffix(" kB").split(":")
            total[field] = total.get(field, 0) + int(kilobytes)
    return total


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model of 32 MB whose features have weights for few labels each."""
    n_labels, n_features, n_weights = 20_000, 200_000, 20
    rng = np.random.default_rng(0)
    X = sp.random_array((50, n_features), density=1e-4, format="csr", dtype=np.float32, rng=rng)
    Y = sp.csr_array(np.eye(50, 3, dtype=np.uint8))
    model = DismecClassifier().fit(X, Y)
    indices = np.sort(rng.integers(0, n_labels // n_weights, (n_features, n_weights)), axis=1)
    indices += np.arange(n_weights) * (n_labels // n_weights)
    by_feature = sp.csr_array(
        (
            rng.normal(size=indices.size).astype(np.float32),
            indices.ravel().astype(np.int32),
            np.arange(n_features + 1) * n_weights,
        ),
        shape=(n_features, n_labels),
    )
    model.coef_ = by_feature.T.tocsr()
    model.intercept_ = rng.normal(size=n_labels).astype(np.float32)
    model.n_labels_, model.classes_, model._scorer = n_labels, np.arange(n_labels), None
    path = tmp_path_factory.mktemp("large") / "model"
    save_model(model, path)
    return model, path, X


@LINUX
def test_opening_reads_no_weights_and_a_row_only_its_own(large):
    model, path, X = large
    loaded = load_model(path)
    files = [path / "_by_feature.weights.npy", path / "_by_feature.labels.npy"]
    for file in files:
        assert file.stat().st_size > 15_000_000
        assert mapped(file)["Rss"] == 0
    X = sp.csr_array(([1.0, 0.5], ([0, 0], [10_000, 11_000])), shape=(1, X.shape[1]))
    assert_same(loaded.predict_topk(X, k=5), model.predict_topk(X, k=5))
    for file in files:  # the system maps up to 2 MB around a page that is touched
        assert 0 < mapped(file)["Rss"] < 0.4 * mapped(file)["Size"]


def _open_and_wait(path, X, pipe):
    model = load_model(path)
    model.predict_topk(X, k=5)
    pipe.send(mapped(Path(path) / "_by_feature.weights.npy"))
    pipe.recv()
    pipe.send(mapped(Path(path) / "_by_feature.weights.npy"))


@LINUX
def test_processes_share_the_pages(large):
    _, path, X = large
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(2):
        mine, theirs = context.Pipe()
        process = context.Process(target=_open_and_wait, args=(str(path), X, theirs), daemon=True)
        process.start()
        pipes.append(mine)
        processes.append(process)
    for pipe in pipes:
        assert pipe.poll(120)
        pipe.recv()
    seen = []
    for pipe in pipes:  # both have read them: what one had alone is shared now
        pipe.send("go on")
        assert pipe.poll(60)
        seen.append(pipe.recv())
    for process in processes:
        process.join(60)
    shared = seen[0]
    assert shared["Shared_Clean"] > 0
    assert shared["Private_Dirty"] == shared["Private_Clean"] == 0
    assert shared["Pss"] <= 0.6 * shared["Rss"]
