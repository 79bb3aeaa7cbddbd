"""The benchmarks of label trees: models by name, synthetic data, levels for libpecos, the scripts.

No peer is needed: the scripts run with estimators of skxmc, and must report peers as missing.
"""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.label_space import LabelTree

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


# ------------------------------------------------------------------ models by name
def test_models_by_name_and_by_expression(module):
    Model = module("trees").Model
    assert Model("xr-linear").fit_request(seed=3) == {
        "estimator": "ParabelTree",
        "params": {"random_state": 3, "preset": "xr-linear"},
    }
    bonsai = Model("omikuji-bonsai")
    assert bonsai.is_peer
    assert bonsai.params == {"cluster_k": 100, "cluster_balanced": False, "max_depth": 3}
    assert bonsai.title == "omikuji, cluster_k=100, cluster_balanced=False, max_depth=3"
    given = Model('ParabelTree(preset="bonsai", n_trees=1, random_state=7)')
    assert given.fit_request(seed=3)["params"] == {
        "preset": "bonsai",
        "n_trees": 1,
        "random_state": 7,
    }
    assert given.title == "ParabelTree(preset='bonsai', n_trees=1, random_state=7)"
    assert Model("pecos(Cp=2.0)").fit_request(seed=3) == {"library": "pecos", "params": {"Cp": 2.0}}


@pytest.mark.parametrize("name", ["pecoss", "pecos(2.0)", "pecos(Cp=x)", "a.b()", "pecos(", ""])
def test_unknown_model_says_what_there_is(module, name):
    with pytest.raises(SystemExit, match="omikuji-bonsai"):
        module("trees").Model(name)


def test_random_state_only_where_the_estimator_has_one(module):
    make = module("trees").make
    assert make("DismecClassifier", {"random_state": 0, "C": 2.0}, 2).get_params()["C"] == 2.0
    with pytest.raises(TypeError, match="no_such"):
        make("DismecClassifier", {"no_such": 1}, 2)


# ------------------------------------------------------------------ levels
def random_weights(tree, n_features, rng):
    """Return weights in chunks (root's first) and the same as a dense array (nodes, features)."""
    dense = rng.normal(size=(tree.n_nodes, n_features)).astype(np.float32)
    dense *= rng.random(dense.shape) < 0.6
    chunk_indptr, row_feature, row_indptr, child, weight = [0], [], [0], [], []
    for node in range(tree.n_nodes):
        block = dense[tree.child_start[node] : tree.child_start[node + 1]]
        for feature in np.flatnonzero(block.any(axis=0)):
            row_feature.append(feature)
            child.extend(np.flatnonzero(block[:, feature]))
            weight.extend(block[block[:, feature] != 0, feature])
            row_indptr.append(len(child))
        chunk_indptr.append(len(row_feature))
    dense[0] = 0
    arrays = {
        "chunk_indptr": np.array(chunk_indptr, np.int64),
        "row_feature": np.array(row_feature, np.int32),
        "row_indptr": np.array(row_indptr, np.int64),
        "child": np.array(child, np.uint16),
        "weight": np.array(weight, np.float32),
        "bias": rng.normal(size=tree.n_nodes).astype(np.float32),
    }
    return SimpleNamespace(**arrays), dense


def test_levels_hold_the_scores_of_every_path(module):
    rng = np.random.default_rng(0)
    label = np.full(20, -1)
    label[8:] = rng.permutation(12)
    tree = LabelTree([1, 3, 6, 8, 11, 13, 15, 18, 20, *[20] * 12], label)
    weights, dense = random_weights(tree, 9, rng)
    never = tree.leaf_of[5]
    weights.bias[never] = -np.inf
    levels = list(module("trees").levels(tree, weights, 9))
    assert [W.shape for W, _ in levels] == [(10, 2), (10, 5), (10, 12)]

    X = rng.normal(size=(4, 9)).astype(np.float32)
    scores = X @ dense.T + weights.bias
    augmented = np.hstack([X, np.ones((4, 1), np.float32)])
    for answer in range(12):
        column, node = answer, tree.leaf_of[answer]
        for W, parent in reversed(levels):
            expected = np.maximum(scores[:, node], -1000) if node == never else scores[:, node]
            np.testing.assert_allclose(
                (augmented @ W.toarray())[:, column],
                expected,
                rtol=1e-5,
                atol=5 if node == never else 1e-5,
            )
            column, node = parent[column], tree.parent[node]
        assert node == 0
        assert column == 0


def test_levels_refuse_leaves_at_different_depths(module):
    tree = LabelTree([1, 3, 5, 5, 5, 5], [-1, -1, 1, 0, 2])
    weights, _ = random_weights(tree, 4, np.random.default_rng(0))
    with pytest.raises(SystemExit, match="same depth"):
        list(module("trees").levels(tree, weights, 4))


# ------------------------------------------------------------------ synthetic catalogue
def test_catalogue_is_what_it_says(module, monkeypatch):
    catalogue = module("catalogue")
    monkeypatch.setattr(catalogue, "_BLOCK", 700)  # several blocks
    X, Y = catalogue.make_catalogue(2000, 500, 3000, seed=1)
    assert X.shape == (2000, 3000)
    assert Y.shape == (2000, 500)
    assert X.dtype == Y.dtype == np.float32
    assert set(Y.data) == {1}
    assert Y.getnnz(axis=1).min() >= 1
    assert 4 < Y.nnz / 2000 <= 5
    np.testing.assert_allclose(np.sqrt(X.multiply(X).sum(axis=1)), 1, rtol=1e-5)
    counts = Y.getnnz(axis=0)  # frequent labels first
    assert counts[:100].sum() > 1.5 * counts[-100:].sum()
    again = catalogue.make_catalogue(2000, 500, 3000, seed=1)
    assert (again[0] != X).nnz == 0
    assert (again[1] != Y).nnz == 0
    assert (catalogue.make_catalogue(2000, 500, 3000, seed=2)[1] != Y).nnz > 0


def test_labels_of_a_topic_share_words(module):
    X, Y = module("catalogue").make_catalogue(4000, 320, 4000, seed=0)
    profile = (Y.T @ X).toarray()
    profile /= np.linalg.norm(profile, axis=1, keepdims=True)
    similar = np.sort(profile @ profile.T, axis=1)[:, ::-1]
    # a topic has 32 labels: itself and 31 others are near, the rest is not
    assert (similar[:, 28].mean() - similar[:, 36].mean()) > 0.1


# ------------------------------------------------------------------ scripts
def test_batch_repeats_what_is_short(module):
    harness, calls = module("harness"), []
    answer, cost = harness.batch(lambda: calls.append(1) or len(calls), least_s=10, most=4)
    assert (answer, len(calls)) == (4, 4)
    assert cost["predict_s"] >= 0
    calls.clear()
    harness.batch(lambda: calls.append(1), least_s=0)
    assert len(calls) == 1


def worker_script(folder):
    path = folder / "worker.py"
    path.write_text(
        f"import sys, time\nsys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import harness, numpy\n"
        "def nap(seconds):\n    time.sleep(seconds)\n    return {}\n"
        "def take(n):\n    return {'sum': float(numpy.ones(n).sum())}\n"
        "harness.run_script(None, {'nap': nap, 'take': take})\n"
    )
    return path


def test_failed_worker_is_left_out_and_the_others_go_on(module, tmp_path, capsys):
    harness = module("harness")
    args = SimpleNamespace(threads=1, rounds=1, output=tmp_path)
    script = worker_script(tmp_path)
    with harness.Session(args, script) as session:
        assert session.attempt("slow", "nap", seconds=60, timeout=1) is None
        assert "stopped after 1 s" in session.failures["slow"]
        n_calls = session._n_calls
        assert session.attempt("slow", "nap", seconds=0) is None
        assert session._n_calls == n_calls
        assert session.attempt("broken", "no_such_task") is None
        assert "KeyError" in session.failures["broken"]
        assert session.attempt("good", "take", n=10)["sum"] == 10
        assert "left out" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            session.call("no_such_task")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of allocated memory are Linux only")
def test_memory_limit_fails_the_worker(module, tmp_path):
    harness = module("harness")
    args = SimpleNamespace(threads=1, rounds=1, output=tmp_path)
    with harness.Session(args, worker_script(tmp_path)) as session:
        assert session.attempt("fits", "take", n=1000, limit_gib=1) is not None
        assert session.attempt("too large", "take", n=2**28, limit_gib=1) is None
        assert "MemoryError" in session.failures["too large"]


def test_rows_are_written_as_they_come(module, tmp_path):
    harness = module("harness")
    args = SimpleNamespace(threads=1, rounds=1, output=tmp_path)
    with harness.Session(args, tmp_path / "script.py") as session:
        for number in range(3):
            session.add("m", {"load": 0.0, "fit_s": float(number)})
            session.flush()
            with open(tmp_path / "script.csv", newline="") as stream:
                assert [float(row["fit_s"]) for row in csv.DictReader(stream)] == [
                    float(n) for n in range(number + 1)
                ]
        session.save()
    assert (tmp_path / "script.csv").read_text().count("\n") == 4


@pytest.mark.slow
def test_train_reports_missing_peers_and_goes_on(data_folder, tmp_path, run):
    out, rows = run(
        *("bench_tree_train.py", "--data", data_folder, "--rounds", 2, "--latency-rows", 5),
        *("--models", "DismecClassifier()", "DismecClassifier(no_such=1)", "pecos", "omikuji"),
        *("--venv-root", tmp_path),
        output=tmp_path,
    )
    assert [(row["method"], row["round"]) for row in rows] == [
        ("DismecClassifier()", "0"),
        ("DismecClassifier()", "1"),
    ]
    for row in rows:
        assert 0 < float(row["P@1"]) <= 100
        assert float(row["model_mb"]) > 0
        assert float(row["row_ms"]) > 0
    assert "- libpecos XR-Linear failed" in out
    assert "- omikuji failed" in out
    assert "DismecClassifier(no_such=1) failed" in out
    assert "| DismecClassifier() |" in out


@pytest.mark.slow
def test_predict(data_folder, tmp_path, run):
    out, rows = run(
        *("bench_tree_predict.py", "--data", data_folder, "--rounds", 1, "--latency-rows", 5),
        *("--models", "DismecClassifier()", "--beams", 10, "--prune", 0.1),
        output=tmp_path,
    )
    assert [(row["beam"], row["form"]) for row in rows] == [
        *(("10", ""), ("exact", "")),
        *(("10", form) for form in ("plain", "float16", "compressed", "compressed float16")),
    ]
    assert float(rows[0]["lost"]) == 0  # there is no beam: nothing is lost
    assert float(rows[0]["rows_per_s"]) == pytest.approx(
        100 / float(rows[0]["predict_s"]), rel=1e-4
    )
    assert float(rows[3]["model_mb"]) < float(rows[2]["model_mb"])
    assert "compressed float16" in out


def test_lost_answers(module):
    lost = module("bench_tree_predict").lost_answers
    true = np.array([[1, 2, 3], [4, 5, -1]])
    assert lost(true, true) == 0
    assert lost(true, np.array([[3, 1, 9], [5, -1, -1]])) == pytest.approx(40)
    assert lost(np.full((2, 3), -1), true) == 0


@pytest.mark.slow
def test_scale(tmp_path, run):
    out, rows = run(
        *("bench_tree_scale.py", "--models", "DismecClassifier()", "--rows", 600),
        *("--label-counts", 100, 200, "--together", 200, "--features", 1000),
        *("--latency-rows", 5),
        output=tmp_path,
    )
    assert {(row["n_rows"], row["n_labels"]) for row in rows} == {
        *(("600", "100"), ("600", "200"), ("200", "200")),
    }
    assert all(float(row["fit_total_mb"]) > float(row["fit_peak_mb"]) for row in rows)
    assert "as many rows as labels:" in out


def test_growth_is_a_power_of_the_labels(module):
    scale = module("bench_tree_scale")
    rows = [
        {"method": "m", "n_rows": 5, "n_labels": n, "fit_s": n**1.5, "fit_total_mb": 7.0}
        for n in (10, 100)
    ]
    session = SimpleNamespace(of=lambda title: [row for row in rows if row["method"] == title])
    first, second = scale.grow(session, "m", [(5, 10), (5, 100), (5, 1000)])
    assert "fit_s growth" not in first
    assert second["fit_s growth"] == pytest.approx(1.5)
    assert second["fit_total_mb growth"] == pytest.approx(0)
    assert second["ms_per_label"] == pytest.approx(1e3 * 100**1.5 / 100)
    assert json.dumps(second)  # plain numbers


def test_predicted_pairs_become_rows(module):
    as_csr = module("tree_peers").as_csr
    scores = as_csr([[(4, 0.5), (1, 0.25)], [], [(0, 1.0)]], 3)
    np.testing.assert_array_equal(
        scores.toarray(), [[0, 0.25, 0, 0, 0.5], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    )
    assert as_csr([[], []], 2).nnz == 0
    sparse = sp.csr_matrix(np.eye(2))
    assert as_csr(sparse, 2) is sparse
