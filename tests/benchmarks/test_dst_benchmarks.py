"""The benchmarks of sparse output layers: embeddings, methods by name, arithmetic, the scripts."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.datasets import dump_folder, make_xmc_classification

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


# ------------------------------------------------------------------ embeddings
def test_batches_hold_every_row_once_and_not_too_many_tokens(module):
    lengths = np.random.default_rng(0).integers(1, 40, 500)
    seen = []
    for batch in module("embed").batches(lengths, 100):
        padded = len(batch) * lengths[batch].max()
        assert padded <= 100 or len(batch) == 1
        seen.extend(batch)
    assert sorted(seen) == list(range(500))
    assert list(module("embed").batches([], 100)) == []
    assert [batch.tolist() for batch in module("embed").batches([0, 300], 100)] == [[1], [0]]


def test_mean_over_the_tokens_that_are_there(module):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(4, 5, 3)).astype(np.float32)
    n_tokens = [5, 2, 1, 0]
    mask = np.arange(5) < np.array(n_tokens)[:, None]
    pooled = module("embed").mean_pool(hidden, mask)
    assert pooled.dtype == np.float32
    for row, states, n in zip(pooled, hidden, n_tokens):
        mean = states[:n].mean(axis=0) if n else np.zeros(3)
        np.testing.assert_allclose(row, mean / max(np.linalg.norm(mean), 1e-12), rtol=1e-5)


def test_embeddings_are_in_the_order_of_the_texts(module):
    texts = ["x" * n for n in np.random.default_rng(0).integers(0, 30, 70)]
    sizes = []

    def encode(rows):
        sizes.append(len(rows))
        return np.array([[len(row), 1] for row in rows], dtype=np.float32)

    embedded = module("embed").embed(
        texts, (lambda block: [list(text) for text in block], encode), batch_tokens=60, block=32
    )
    np.testing.assert_array_equal(embedded, [[len(text), 1] for text in texts])
    assert max(sizes) > 1


def test_every_line_is_a_text(module, tmp_path):
    with gzip.open(tmp_path / "t.txt.gz", "wt", encoding="utf-8", newline="") as stream:
        stream.write("one\n\nthree\x0cé\n")
    assert module("embed").read_texts(tmp_path / "t.txt.gz") == ["one", "", "three\x0cé"]


def test_what_is_embedded_already_is_left_alone(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    command = [sys.executable, BENCHMARKS / "embed.py", "--data", data, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "train_texts.txt.gz" in done.stderr
    (data / "test_texts.txt.gz").write_bytes(gzip.compress(b"text\n"))
    (out / "X_test.npy").write_bytes(b"old")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout
    assert (out / "X_test.npy").read_bytes() == b"old"


# ------------------------------------------------------------------ speed
def test_methods_by_name(module):
    head = module("bench_sparse_head")
    assert head.parse("numba group bfloat16") == {
        "backend": "numba",
        "layout": "group",
        "precision": "bfloat16",
    }
    assert head.parse("torch fixed")["precision"] == "float32"
    assert head.parse("torch.nn.Linear")["layout"] == "dense"
    shape = {"n_labels": 10, "n_inputs": 7, "fan_in": 3}
    assert head.weights_of(head.parse("torch.mm"), shape) == 70
    assert head.weights_of(head.parse("numba fixed"), shape) == 30


@pytest.mark.parametrize("name", ["", "numba", "numba sparse", "cupy fixed", "numba fixed int8"])
def test_unknown_method_says_what_there_is(module, name):
    with pytest.raises(SystemExit, match=r"numba.*float8"):
        module("bench_sparse_head").parse(name)


def test_batch_is_what_it_says(module):
    features, targets, full, few = module("bench_sparse_head").make_batch(50, 30, 400)
    assert features.shape == (50, 30)
    assert targets.shape == full.shape == few.shape == (50, 400)
    assert targets.has_sorted_indices
    assert set(targets.data) == {1}
    assert 1 <= targets.count_nonzero(axis=1).min() <= targets.count_nonzero(axis=1).max() <= 5
    assert np.all(full != 0)
    assert 0.005 < np.mean(few != 0) < 0.015
    np.testing.assert_array_equal(few[few != 0], full[few != 0])


def test_margins_of_the_first_labels(module):
    from skxmc.ops.sparse_head import reference
    from skxmc.ops.sparse_head.initial import initialise

    head = module("bench_sparse_head")
    features = np.random.default_rng(0).random((6, 20), dtype=np.float32)
    for fan_in, group_size in ((4, 1), (4, 8), (None, 1)):
        part = initialise(50, 20, fan_in, group_size)
        margins = head.reference_margins(features, part, n_labels=30)
        assert margins.shape == (6, 32 if group_size == 8 else 30)
        expected = reference.scores(features, (part,))[:, : margins.shape[1]]
        np.testing.assert_allclose(margins, expected, rtol=1e-6)
        assert head.reference_margins(features, part, n_labels=99).shape == (6, 50)


def test_calls_may_time_themselves(module):
    calls = []
    assert module("bench_sparse_head").timed(lambda: calls.append(1) or 7.0, 10, 3) == 7.0
    assert len(calls) == 4  # the first does not count
    assert module("bench_sparse_head").timed(lambda: None, 0, 9) < 1


def test_ratios_leave_out_what_a_method_does_not_do(module):
    head = module("bench_sparse_head")
    rows = [{"round": r, "forward_s": 4.0, "backward_s": 2.0} for r in range(2)]
    assert head.with_sums(rows[0])["both_s"] == 6
    assert head.with_sums({"forward_s": 1.0}) == {"forward_s": 1.0}
    others = [{"round": 0, "forward_s": 2.0}, {"round": 1}]
    assert head.ratio(rows, others, "backward_s") is None


@pytest.mark.slow
def test_speed_of_the_layouts(tmp_path, run):
    out, rows = run(
        *("bench_sparse_head.py", "--methods", "reference fixed", "numba group", "numba dense"),
        *("--n-labels", 70, "--n-inputs", 20, "--fan-in", 4, "--group-size", 8, "--batch", 6),
        *("--rounds", 1, "--least-s", 0, "--peak-size", 64),
        output=tmp_path,
    )
    peak, fixed, group, dense = rows
    assert [row["method"] for row in rows] == [
        "peak",
        "reference fixed",
        "numba group",
        "numba dense",
    ]
    assert float(fixed["layer_mb"]) == pytest.approx((70 * 4 * 6 + 4 * 70) / 1e6, rel=1e-4)
    assert float(group["layer_mb"]) == pytest.approx((70 * 4 * 4 + 9 * 4 * 2 + 4 * 70) / 1e6)
    assert float(dense["layer_mb"]) == pytest.approx((70 * 20 * 4 + 4 * 70) / 1e6, rel=1e-4)
    gflops = float(group["forward_gflops"])
    assert gflops == pytest.approx(2 * 70 * 4 * 6 / float(group["forward_s"]) / 1e9, rel=1e-3)
    assert float(group["forward_share"]) == pytest.approx(
        gflops / float(peak["peak_gflops"]), rel=1e-3
    )
    assert "| numba group |" in out
    assert "fixed / group, forward" in out


# ------------------------------------------------------------------ memory
def test_dense_layer_on_paper(module):
    line = module("bench_dst_memory").dense_on_paper("d", 2**20, 1024, 4, 4)
    assert line["weights_mib"] == 4096
    assert line["state_mib"] == 4096 + 4
    assert line["arithmetic_mib"] == 8192 + 8


def test_targets_have_a_few_labels_in_each_row(module):
    Y = module("bench_dst_memory").random_targets(300, 1000, np.random.default_rng(0))
    assert Y.shape == (300, 1000)
    assert set(Y.data) == {1}
    assert 1 <= Y.count_nonzero(axis=1).min() <= Y.count_nonzero(axis=1).max() == 5
    counts = Y.count_nonzero(axis=0)
    assert counts[:500].sum() > 1.5 * counts[500:].sum()


@pytest.mark.slow
def test_memory_of_layer_and_training(tmp_path, run):
    out, rows = run(
        *("bench_dst_memory.py", "--settings", "groups, bfloat16", "--n-labels", 40_000),
        *("--hidden", 300, "--n-features", 20, "--fan-in", 16, "--batch", 8, "--batches", 2),
        output=tmp_path,
    )
    (row,) = rows
    expected = 40_000 * (16 * 2 + 4) + 2500 * 16 * 2 + 40_000 * 0
    assert float(row["arithmetic_mib"]) == pytest.approx(expected / 2**20, rel=1e-4)
    assert float(row["arrays_mib"]) == pytest.approx(expected / 2**20, rel=1e-4)
    if sys.platform == "linux":
        assert float(row["layer_peak_mib"]) > 0.9 * float(row["arrays_mib"])
        assert float(row["fit_total_mib"]) > float(row["fit_peak_mib"])
    assert float(row["predicted_mib"]) > float(row["arrays_mib"])
    assert "| dense, float32, momentum (on paper) |" in out


# ------------------------------------------------------------------ accuracy
def arguments(**changes):
    given = {
        "params": {"epochs": 2},
        "shrink": 8,
        "hidden": 64,
        "hidden_embeddings": 0,
        "sparsities": [0.5, 0.9],
        "dynamics": ["static", "rigl"],
        "auxiliary": 0.4,
        "layout": "group",
        "encoder": Path("E"),
    }
    return SimpleNamespace(**{**given, **changes})


def test_sparse_models_have_a_share_of_the_weights(module):
    model_of = module("bench_dst_accuracy").model_of
    tfidf = SimpleNamespace(features="tfidf", n_features=500)
    embeddings = SimpleNamespace(features="embeddings", n_features=384)
    assert model_of("group-float8", arguments(), tfidf) == {
        "estimator": "SparseDSTClassifier",
        "params": {
            "hidden": 64,
            "epochs": 2,
            "layout": "group",
            "precision": "float8",
            "fan_in": 8,
        },
    }
    assert model_of("fixed", arguments(), embeddings)["params"] == {
        "hidden": None,
        "epochs": 2,
        "layout": "fixed",
        "fan_in": 48,
    }
    assert "fan_in" not in model_of("dense", arguments(), embeddings)["params"]
    own = 'SparseDSTClassifier(hidden=32, fan_in=3, layout="group", epochs=9)'
    assert model_of(own, arguments(), embeddings)["params"] == {
        "hidden": 32,
        "epochs": 9,
        "layout": "group",
        "fan_in": 3,
    }
    text = SimpleNamespace(features="text", n_features=384)
    params = model_of("fixed", arguments(), text)["params"]
    assert (params["encoder"], params["hidden"], params["fan_in"]) == ("E", None, 48)
    assert model_of("parabel", arguments(), tfidf) == {"estimator": "ParabelTree", "params": {}}
    with pytest.raises(SystemExit, match="takes no text"):
        model_of("parabel", arguments(), text)
    with pytest.raises(SystemExit, match="not a model"):
        model_of("no such", arguments(), tfidf)


def test_curves_have_a_model_for_each_sparsity(module):
    accuracy = module("bench_dst_accuracy")
    models = accuracy.curve_models(arguments(), SimpleNamespace(features="tfidf", n_features=500))
    assert list(models) == [
        "dense",
        *(f"{c}, 50%" for c in ("static", "static + auxiliary", "rigl", "rigl + auxiliary")),
        *(f"{c}, 90%" for c in ("static", "static + auxiliary", "rigl", "rigl + auxiliary")),
    ]
    sparse = models["rigl + auxiliary, 90%"]
    assert sparse["params"] == {
        "hidden": 64,
        "epochs": 2,
        "layout": "group",
        "dynamics": "rigl",
        "auxiliary": 0.4,
        "fan_in": 6,
    }
    assert models["rigl, 90%"]["params"]["auxiliary"] == 0
    assert sparse["sparsity"] == 0.9
    fixed = accuracy.curve_models(arguments(), SimpleNamespace(features="embeddings", n_features=9))
    assert list(fixed) == ["dense", "static, 50%", "rigl, 50%", "static, 90%", "rigl, 90%"]


def test_differences_are_taken_within_each_round(module):
    difference = module("bench_dst_accuracy").difference
    rows = [{"round": r, "P@1": p} for r, p in enumerate([50.0, 61.0, 40.0])]
    dense = [{"round": r, "P@1": p} for r, p in enumerate([51.0, 60.0])]
    assert difference(rows, dense, "P@1") == pytest.approx(0.0)
    assert difference(rows, [], "P@1") is None


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data folder with pairs that are no answers, and the folder of its embeddings."""
    data = make_xmc_classification(400, 120, 25, random_state=0)
    root = tmp_path_factory.mktemp("dst")
    parts = {"filter_test": sp.csr_array(data.Y[300:])}  # for all that it tells: the true labels
    rng = np.random.default_rng(0)
    projected = (data.X @ rng.normal(size=(120, 16))).astype(np.float32)
    (root / "emb" / "tiny").mkdir(parents=True)
    for part, rows in (("train", slice(0, 300)), ("test", slice(300, 400))):
        parts[f"X_{part}"], parts[f"Y_{part}"] = data.X[rows], data.Y[rows]
        np.save(root / "emb" / "tiny" / f"X_{part}.npy", projected[rows])
    dump_folder(parts, root / "tiny")
    return root / "tiny", root / "emb"


def test_excluded_pairs_have_the_columns_of_the_task(module, folders, tmp_path):
    harness, accuracy = module("harness"), module("bench_dst_accuracy")
    data, emb = folders
    args = SimpleNamespace(
        data=data, embeddings=emb, labels=10, seed=3, threads=1, rounds=1, output=tmp_path
    )
    with harness.Session(args, tmp_path / "s.py") as session:
        task = accuracy.Task(session, args, "embeddings")
        assert task.n_features == 16
        np.testing.assert_array_equal(sp.load_npz(task.exclude).toarray(), task.Y_test.toarray())
        assert accuracy.load(task.X_test).shape == (100, 16)
        args.embeddings = tmp_path
        assert accuracy.Task(session, args, "embeddings").X_train is None
        (tmp_path / "tiny").mkdir()
        for part in ("train", "test"):
            np.save(tmp_path / "tiny" / f"X_{part}.npy", np.zeros((7, 2), np.float32))
        with pytest.raises(SystemExit, match=r"7 rows, not 300"):
            accuracy.Task(session, args, "embeddings")


@pytest.mark.slow
def test_table(folders, tmp_path, run):
    data, emb = folders
    out, rows = run(
        *("bench_dst_accuracy.py", "--data", data, "--embeddings", emb, "--rounds", 1),
        *("--features", "embeddings", "--models", "dense", "group", "parabel"),
        *("--params", '{"epochs": 2}'),
        output=tmp_path,
    )
    assert [row["method"] for row in rows] == ["dense", "group", "parabel"]
    dense, group, _ = rows
    assert (dense["head_weights"], group["head_weights"]) == ("400", "50")
    assert group["epochs"] == "2"
    assert json.loads(group["params"])["fan_in"] == 2
    # what is true is excluded here: nothing that is answered can be right
    assert {float(row["P@1"]) for row in rows} == {0}
    assert "| group |" in out
    assert "8.0" in out


@pytest.mark.slow
def test_curves(folders, tmp_path, run):
    data, emb = folders
    out, rows = run(
        *("bench_dst_accuracy.py", "--data", data, "--embeddings", emb, "--rounds", 1, "--curves"),
        *("--features", "tfidf", "--params", '{"epochs": 2, "rewire_interval": 5}'),
        *("--hidden", 16, "--sparsities", 0.5, "--dynamics", "static", "rigl"),
        output=tmp_path,
    )
    assert [row["method"] for row in rows] == [
        *("dense", "static, 50%", "static + auxiliary, 50%", "rigl, 50%", "rigl + auxiliary, 50%"),
    ]
    assert "| 50% | 8 |" in out


def test_data_without_embeddings_are_left_out(folders, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, BENCHMARKS / "bench_dst_accuracy.py", "--data", folders[0]),
            *("--features", "embeddings", "--output", tmp_path),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "no embeddings, left out" in done.stderr
    assert not list(tmp_path.iterdir())
