"""Fits on the workers of joblib's backends are those of one process, bit for bit."""

import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from model_state import arrays_of
from numpy.testing import assert_array_equal
from workers_of import BACKENDS, kill_after_first, two_workers

from skxmc import DismecClassifier, IsotonicXMCCalibrator, ParabelTree
from skxmc.datasets import make_xmc_classification
from skxmc.linear._dismec import _Checkpoint
from skxmc.model_selection import cross_val_predict_topk
from skxmc.ops.linear_solver import PreparedRows

ESTIMATORS = {
    "dismec": DismecClassifier(),
    "parabel": ParabelTree("parabel", max_leaf=10, n_trees=2, random_state=0),
    "plt": ParabelTree("plt", max_leaf=10, random_state=0),
    "matcher": ParabelTree(
        "xr-linear", max_leaf=10, negatives="teacher+matcher", n_matcher=2, random_state=0
    ),
    "generator": ParabelTree("bonsai", arity=5, max_leaf=10, n_trees=2),
    "calibrator": IsotonicXMCCalibrator(DismecClassifier(), cv=3, random_state=0),
}


def make(name):
    estimator = ESTIMATORS[name]
    if name == "generator":  # a generator that the trees share
        return ParabelTree(**{**estimator.get_params(), "random_state": np.random.RandomState(3)})
    return estimator


@pytest.fixture(scope="module")
def data():
    return make_xmc_classification(400, 300, 150, random_state=0)


@pytest.fixture(scope="module")
def expected(data):
    arrays = {name: arrays_of(make(name).fit(data.X, data.Y)) for name in ESTIMATORS}
    for found in arrays.values():
        assert any(array.dtype == np.float32 and len(array) for array in found.values())
    return arrays


@pytest.fixture(scope="module", params=BACKENDS)
def pids(request):
    with two_workers(request.param) as pids:
        yield pids


def assert_same(model, expected):
    got = arrays_of(model)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert_array_equal(got[name], array, err_msg=name)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_model_is_the_local_one(pids, data, expected, name):
    assert_same(make(name).fit(data.X, data.Y), expected[name])


def test_backends_that_return_all_results_together(data, expected):
    """As that of ray does."""
    from joblib._parallel_backends import MultiprocessingBackend

    assert not MultiprocessingBackend.supports_return_generator
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        assert_same(make("dismec").fit(data.X, data.Y), expected["dismec"])
        assert_same(make("parabel").fit(data.X, data.Y), expected["parabel"])


@pytest.mark.parametrize(
    "name",
    [
        "dismec",
        pytest.param("parabel", marks=pytest.mark.slow),
        pytest.param("calibrator", marks=pytest.mark.slow),
    ],
)
def test_a_worker_is_killed_in_the_middle(pids, data, expected, name, monkeypatch):
    killed = kill_after_first(monkeypatch, pids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # loky: tasks are run again
        model = make(name).fit(data.X, data.Y)
    assert killed
    assert_same(model, expected[name])


def test_rows_go_to_dask_once(data, monkeypatch):
    distributed = pytest.importorskip("distributed")
    sent = []
    scatter = distributed.Client.scatter

    def noted(self, parts, **options):
        sent.extend((type(part), options["broadcast"]) for part in parts)
        return scatter(self, parts, **options)

    with two_workers("dask"):
        monkeypatch.setattr(distributed.Client, "scatter", noted)
        DismecClassifier().fit(data.X, data.Y)
        assert sent.count((PreparedRows, True)) == 1
        sent.clear()
        make("parabel").fit(data.X, data.Y)
        # label features for the clustering of two trees, and rows for the training of both
        assert sum(issubclass(kind, sp.csr_array) for kind, _ in sent) == 2
        assert all(broadcast for _, broadcast in sent)


def test_growth_on_workers(pids, data):
    old = sp.csr_array(data.Y[:, :120])
    with joblib.parallel_config("threading", n_jobs=1):
        local = make("parabel").fit(data.X, old).add_labels(data.X, data.Y)
    assert_same(make("parabel").fit(data.X, old).add_labels(data.X, data.Y), arrays_of(local))


def test_finished_shards_are_kept_when_the_fit_is_given_up(data, expected, monkeypatch, tmp_path):
    written = []
    write = _Checkpoint.write

    def write_two(self, shard, solution):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.start)
        write(self, shard, solution)

    model = DismecClassifier(checkpoint_dir=tmp_path)
    with two_workers("loky"):
        monkeypatch.setattr(_Checkpoint, "write", write_two)
        with pytest.raises(KeyboardInterrupt):
            model.fit(data.X, data.Y)
        monkeypatch.setattr(_Checkpoint, "write", write)
        assert len(list(tmp_path.glob("*/labels-*.npz"))) == 2
        model.fit(data.X, data.Y)
    assert_same(model, expected["dismec"])
    assert not list(tmp_path.glob("*/labels-*.npz"))


def test_folds_by_default_processes(data):
    options = {"cv": 3, "k": 4}
    one = cross_val_predict_topk(DismecClassifier(), data.X, data.Y, **options)
    two = cross_val_predict_topk(DismecClassifier(), data.X, data.Y, n_jobs=2, **options)
    assert_array_equal(one.labels, two.labels)
    assert_array_equal(one.scores, two.scores)
