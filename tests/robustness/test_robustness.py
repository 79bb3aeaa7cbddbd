"""What must hold whatever happens: kills, threads, memory limits, and any data at all.

Long: `python -m pytest -m robustness`. The number of kills of each estimator is SKXMC_KILLS, 25 by
default: 200 over the eight.
"""

import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_state import answers_digest, arrays_of, digest
from numpy.testing import assert_array_equal
from robustness.small_fits import FITS
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skxmc import (
    DismecClassifier,
    IsotonicXMCCalibrator,
    MacroAtKPredictor,
    ParabelTree,
    SparseDSTClassifier,
    load_model,
    save_model,
)

pytestmark = pytest.mark.robustness
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KILLS = os.environ.get("SKXMC_KILLS", "25")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc or forks")


def run_script(name, *arguments, timeout):
    return subprocess.run(
        [sys.executable, HERE / name, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


# ------------------------------------------------------------------ kills


@linux_only
@pytest.mark.parametrize("name", FITS)
def test_killed_fits_and_saves(name):
    done = run_script("kill_fits.py", "--estimator", name, "--kills", KILLS, timeout=3600)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == [], done.stderr
    assert report["kills"] == int(KILLS)
    assert report["steps"] >= 15  # a file for each array, the header, the exchange, the removal
    assert done.returncode == 0


# ------------------------------------------------------------------ threads


@pytest.mark.parametrize("loaded", [False, True], ids=["copied", "loaded"])
@pytest.mark.parametrize("name", FITS)
def test_eight_threads_predict_as_one(name, loaded, tmp_path):
    estimator, make = FITS[name]
    X, Y, options = make()
    model = clone(estimator).fit(X, Y, **options)
    expected = answers_digest(model, X)
    save_model(model, tmp_path / "model")
    for _ in range(3):  # a new model each time: what it makes on first use is made by all at once
        shared = load_model(tmp_path / "model") if loaded else pickle.loads(pickle.dumps(model))
        start, found = threading.Barrier(8), []

        def predict(shared=shared, start=start, found=found):
            start.wait()
            found.extend(answers_digest(shared, X) for _ in range(3))

        threads = [threading.Thread(target=predict) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [expected] * 24


# ------------------------------------------------------------------ memory


# What the allocator may round up (2 MB were seen): `memory_footprint` counts the arrays themselves.
ROUNDED = {"sparse-dst": 8 << 20}


@linux_only
@pytest.mark.parametrize("name", ["dismec", "dismec-2", "parabel", "bonsai-2", "sparse-dst"])
def test_memory_limit_is_honoured(name):
    """A fit that starts stays below the limit; one that would not does not start."""
    for share, refused in (("1.0", False), ("0.5", True)):
        done = run_script("measure_fit.py", name, share, timeout=1200)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["refused"] == refused
        assert report["taken"] <= report["limit"] + ROUNDED.get(name, 0)


# ------------------------------------------------------------------ any data

ESTIMATORS = {
    "dismec": DismecClassifier(),
    "logistic": DismecClassifier(loss="logistic", weighting="propensity", prune_threshold=0.0),
    "tree": ParabelTree(max_leaf=3, random_state=0),
    "bonsai": ParabelTree("bonsai", arity=3, max_leaf=2, random_state=0),
    "plt": ParabelTree("plt", max_leaf=2, random_state=0),
    "sparse-dst": SparseDSTClassifier(epochs=2, random_state=0),
    "macro-at-k": MacroAtKPredictor(DismecClassifier(), k=2, cv=2),
    "calibrator": IsotonicXMCCalibrator(DismecClassifier(), cv=2, random_state=0),
}
ANY_DATA = settings(
    max_examples=int(os.environ.get("SKXMC_EXAMPLES", "25")),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
CONTAINERS = [sp.csr_array, sp.csr_matrix, sp.csc_array, sp.coo_matrix]
VALUES = st.floats(-4, 4, width=32, allow_subnormal=False)


@st.composite
def problems(draw):
    """Rows, and a target with a label or more; some rows, labels and features may be empty."""
    n_samples, n_features = draw(st.integers(4, 24)), draw(st.integers(1, 12))
    n_labels = draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.standard_normal((n_samples, n_features)) * draw(st.sampled_from([1e-6, 1.0, 1e6]))
    X[rng.random(X.shape) > draw(st.sampled_from([0.0, 0.3, 1.0]))] = 0
    X = X.astype(draw(st.sampled_from([np.float32, np.float64])))
    Y = (rng.random((n_samples, n_labels)) < draw(st.sampled_from([0.05, 0.3, 0.9]))).astype(int)
    Y[0, 0] = Y[1, 1] = 1
    twins = draw(st.booleans())  # rows and labels that are all alike
    if twins:
        X[:] = X[0]
    X = draw(st.sampled_from([np.asarray, *CONTAINERS]))(X)
    return X, draw(st.sampled_from(CONTAINERS))(Y)


def quiet_fit(estimator, X, Y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)  # a NaN on its way
        warnings.simplefilter("ignore", ConvergenceWarning)
        return clone(estimator).fit(X, Y)


def check_answers(answers, shape, k, allowed):
    n_samples, n_labels = shape
    assert answers.labels.shape == answers.scores.shape == (n_samples, k)
    assert answers.labels.dtype == np.int32
    assert answers.scores.dtype == np.float32
    assert not np.isnan(answers.scores).any()
    assert ((answers.labels == -1) == np.isneginf(answers.scores)).all()
    assert answers.labels.min(initial=0) >= -1
    assert answers.labels.max(initial=0) < n_labels
    for labels, scores, may in zip(answers.labels, answers.scores, allowed, strict=True):
        labels = labels[labels >= 0]
        scores = scores[: len(labels)]
        assert len(set(labels)) == len(labels)
        assert may[labels].all()
        order = np.lexsort((labels, -scores))
        assert_array_equal(order, np.arange(len(labels)))  # best first, then by number


@pytest.mark.parametrize("name", ESTIMATORS)
def test_any_data_gives_a_valid_model(name, tmp_path_factory):
    @ANY_DATA
    @given(problems(), st.integers(1, 15), st.integers(0, 2**32 - 1))
    def check(problem, k, seed):
        X, Y = problem
        model = quiet_fit(ESTIMATORS[name], X, Y)
        shape = Y.shape
        everything = np.ones(shape, dtype=bool)
        answers = model.predict_topk(X, k=k)
        sorts = name != "macro-at-k"  # its scores are gains, whose order is that of the answers
        if sorts:
            check_answers(answers, shape, k, everything)
        rng = np.random.default_rng(seed)
        banned, allowed = rng.random(shape) < 0.4, rng.random(shape) < 0.6
        limited = model.predict_topk(
            X, k=k, exclude=sp.csr_array(banned), candidates=sp.csr_array(allowed)
        )
        if sorts:
            check_answers(limited, shape, k, allowed & ~banned)
            proba = model.predict_proba(X)
            assert sp.isspmatrix(proba) == sp.isspmatrix(Y)
            assert ((proba.data > 0) & (proba.data < 1)).all()
        predicted = model.predict(X)
        assert predicted.shape == shape
        assert sp.isspmatrix(predicted) == sp.isspmatrix(Y)
        assert set(np.unique(predicted.toarray())) <= {0, 1}
        # the same again; in another order of the rows; from a file
        again = quiet_fit(ESTIMATORS[name], X, Y)
        assert digest(arrays_of(again)) == digest(arrays_of(model))
        order = rng.permutation(shape[0])
        rows = X.tocsr()[order] if sp.issparse(X) else X[order]
        shuffled = model.predict_topk(rows, k=k)
        assert_array_equal(shuffled.labels, answers.labels[order])
        assert_array_equal(shuffled.scores, answers.scores[order])
        folder = tmp_path_factory.mktemp("any") / "model"
        save_model(model, folder)
        assert answers_digest(load_model(folder), X, k) == answers_digest(model, X, k)

    check()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_any_damage_is_refused_by_name(name):
    """Bad input is a ValueError or TypeError with a message, at fit and at predict."""
    damages = {
        "NaN": lambda A: A.data.__setitem__(0, np.nan),
        "infinity": lambda A: A.data.__setitem__(-1, np.inf),
        "column": lambda A: A.indices.__setitem__(0, A.shape[1] + 3),
        "negative": lambda A: A.indices.__setitem__(-1, -1),
        "rows": lambda A: A.indptr.__setitem__(1, A.nnz + 5),
        "order": lambda A: A.indptr.__setitem__(slice(1, 3), A.indptr[2:0:-1] + [0, -1]),
    }

    @ANY_DATA
    @given(problems(), st.sampled_from(sorted(damages)), st.booleans())
    def check(problem, damage, of_rows):
        X, Y = (sp.csr_array(part).astype(np.float64) for part in problem)
        X.data[X.data == 0] = 1
        if X.nnz == 0:
            X = X.tolil()
            X[0, 0] = 1.0
            X = X.tocsr()
        model = quiet_fit(ESTIMATORS[name], X, Y) if of_rows else None
        bad = (X if of_rows else Y).copy()
        damages[damage](bad)
        with pytest.raises((ValueError, TypeError)) as refused:
            quiet_fit(ESTIMATORS[name], bad if of_rows else X, Y if of_rows else bad)
        assert len(str(refused.value)) > 20
        if model is not None:
            with pytest.raises((ValueError, TypeError)):
                model.predict_topk(bad)

    check()
