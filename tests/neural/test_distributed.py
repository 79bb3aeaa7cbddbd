"""Two processes that share the labels of a layer train the model of one."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from contract import make_data
from numpy.testing import assert_allclose, assert_array_equal

from skxmc import SparseDSTClassifier, load_model
from skxmc.datasets import make_xmc_classification

pytest.importorskip("torch")

X, Y = make_data()
COMMON = {"epochs": 4, "random_state": 0, "fan_in": 6, "n_jobs": 1}
REWIRED = {"rewire_interval": 5, "rewire_fraction": 0.3}
TEXTS = [" ".join("abcdefg"[(7 * i + j) % 7] * (1 + j % 2) for j in range(3)) for i in range(48)]
SCENARIOS = {
    "identity": {"hidden": None, **REWIRED},
    "groups": {
        "hidden": 16,
        "layout": "group",
        "group_size": 2,
        "dense_head": 0.3,
        "dynamics": "rigl",
        "auxiliary": 0.4,
        "validation_fraction": 0.25,
        **REWIRED,
    },
    "bce": {"hidden": 16, "loss": "bce", "optimizer": "sgd", "weighting": "vanilla"},
    "torch": {"hidden": 16, "backend": "torch", "dynamics": "rigl", **REWIRED},
    "low precision": {"hidden": 16, "precision": "bfloat16", "kahan": 0.5, "dynamics": "static"},
    "text": {"encoder": "letters", "dropout": 0.0, "front_learning_rate": 0.01},
}


def build(name, **params):
    options = {**COMMON, **SCENARIOS[name], **params}
    if options.get("encoder") == "letters":
        options["encoder"] = letters()
    return SparseDSTClassifier(**options)


def letters():
    import torch

    class Letters(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(128, 16)

        def forward(self, ids, mask):
            return self.embedding(ids)

    torch.manual_seed(0)
    return (lambda texts: [[ord(c) for c in text] for text in texts]), Letters()


def rows(name):
    return TEXTS if name == "text" else X


def outcome(model, X):
    margins = model.decision_function(X)
    margins = margins.toarray() if sp.issparse(margins) else margins
    return {"margins": margins, "history": json.dumps(model.history_), "best": model.best_epoch_}


# ------------------------------------------------------------------ what each process does


def main(rank, port, folder):
    """Train all scenarios in this process and its sibling."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    results = {}
    for name in SCENARIOS:
        model = build(name, distributed=True).fit(rows(name), Y)
        results[name] = outcome(model, rows(name))
    results["interrupted"] = outcome(interrupted(folder), X)
    results["continued"] = outcome(continued(folder), X)
    results["partial"] = outcome(partial(), X)
    other = sp.csr_array(Y.toarray()[:, : 9 - rank])
    results["errors"] = {
        "other data": message(lambda: build("identity", distributed=True).fit(X, other)),
        "other part": message(lambda: build("bce", distributed=True).partial_fit(X, other)),
        "few labels": message(lambda: build("identity", distributed=True).fit(X, Y[:, [1]])),
    }
    results["layer"] = one_layer()
    np.save(Path(folder) / f"{rank}.npy", results, allow_pickle=True)
    dist.destroy_process_group()


def message(function):
    try:
        function()
    except ValueError as error:
        return str(error)
    return "nothing was raised"


def interrupted(folder):
    """Stopped by one process in the fifth step, and begun again."""
    from skxmc.neural import _training

    step = _training.Trainer._step

    def press_key(trainer, *arguments):
        step(trainer, *arguments)
        if trainer.n_steps == 5 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), 2)

    options = {"distributed": True, "checkpoint_dir": Path(folder) / "checkpoints"}
    _training.Trainer._step = press_key
    try:
        build("groups", **options).fit(X, Y)
    except KeyboardInterrupt:
        assert len(list((Path(folder) / "checkpoints").glob("*/training.npz"))) == 1
    else:
        raise AssertionError("the training went on")
    finally:
        _training.Trainer._step = step
    return build("groups", **options).fit(X, Y)


def continued(folder):
    """From a checkpoint that one process has left."""
    options = {"distributed": True, "checkpoint_dir": Path(folder) / "alone"}
    return build("groups", **options).fit(X, Y)


def partial():
    model = build("identity", distributed=True)
    for _ in range(3):
        model.partial_fit(X, Y)
    return model


def one_layer():
    """Steps, answers and the state of a layer alone."""
    from skxmc.neural.torch_distributed import Processes, ShardedOutputLayer

    parts, options = layer_parts()
    layer = ShardedOutputLayer(Processes(), parts, *options, compensated=0.4, seed=3)
    steps = [train(layer, step) for step in range(5)]
    state = layer.state()
    again = ShardedOutputLayer(Processes(), parts, *options, compensated=0.4, seed=3)
    again.load_state(state)
    same = train(layer, 5), train(again, 5)
    answers = layer.topk(FEATURES, 50)
    n_own = len(layer._labels)
    return {"steps": steps, "same": same, "answers": tuple(answers), "n_own": n_own, **state}


FEATURES = np.random.default_rng(1).standard_normal((13, 20)).astype(np.float32)


def layer_parts():
    from skxmc.neural._output_layer import initial_parts
    from skxmc.ops.sparse_head._types import Loss, Optimizer

    plan = [(3, None, 1), (1, 4, 1), (26, 4, 3)]  # one process has no label of the second part
    weight = np.linspace(1, 2, 30, dtype=np.float32)
    return initial_parts(plan, 20, "float32", 0, scale=0.3), (
        20,
        Loss("squared_hinge", weight),
        Optimizer("adam", 0.05, weight_decay=0.1),
    )


def train(layer, step):
    targets = sp.random_array((13, 30), density=0.1, rng=np.random.default_rng(step)).tocsr()
    targets.data[:] = 1
    targets.sort_indices()
    result = layer.train_step(FEATURES, targets, 0.5, step)
    return result.loss, result.grad_features.copy()


# ------------------------------------------------------------------ tests


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What both processes found."""
    folder = tmp_path_factory.mktemp("distributed")
    stop_alone(folder / "alone")
    # a server that imports all once, and forks both processes
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload([__name__, "torch.distributed"])
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    processes = [context.Process(target=main, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return [np.load(folder / f"{rank}.npy", allow_pickle=True).item() for rank in range(2)]


def stop_alone(folder):
    """Leave the checkpoint of a training in one process."""
    from skxmc.neural import _training

    step = _training.Trainer._step

    def stop(trainer, *arguments):
        step(trainer, *arguments)
        if trainer.n_steps == 11:
            os.kill(os.getpid(), 2)

    model = build("groups", checkpoint_dir=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_training.Trainer, "_step", stop)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, Y)


def assert_same_model(found, expected, rtol=1e-3, atol=1e-4):
    assert_allclose(found["margins"], expected["margins"], rtol=rtol, atol=atol)
    assert found["best"] == expected["best"]
    for one, other in zip(
        json.loads(found["history"]), json.loads(expected["history"]), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_train_the_model_of_one(results, name):
    expected = outcome(build(name).fit(rows(name), Y), rows(name))
    if name == "low precision":  # other random bits
        assert_allclose(results[0][name]["margins"], expected["margins"], atol=0.3)
    else:
        assert_same_model(results[0][name], expected)


@pytest.mark.parametrize("name", [*SCENARIOS, "interrupted", "continued", "partial"])
def test_both_processes_have_the_same_bits(results, name):
    assert_array_equal(results[0][name]["margins"], results[1][name]["margins"])
    assert results[0][name]["history"] == results[1][name]["history"]


def test_a_training_goes_on_where_one_process_stopped_it(results):
    assert_array_equal(results[0]["interrupted"]["margins"], results[0]["groups"]["margins"])
    assert results[0]["interrupted"]["history"] == results[0]["groups"]["history"]


def test_a_checkpoint_serves_any_number_of_processes(results):
    assert_same_model(results[0]["continued"], outcome(build("groups").fit(X, Y), X))


def test_partial_fit(results):
    model = build("identity")
    for _ in range(3):
        model.partial_fit(X, Y)
    assert_same_model(results[0]["partial"], outcome(model, X))


def test_errors(results):
    for found in results:
        assert "process 1 are not those of process 0" in found["errors"]["other data"]
        assert "process 1 are not those of process 0" in found["errors"]["other part"]
        assert "start fewer processes" in found["errors"]["few labels"]


def test_a_layer_alone(results):
    from skxmc.neural._output_layer import OutputLayer

    parts, options = layer_parts()
    expected = OutputLayer(parts, *options, compensated=0.4, seed=3)
    for step, (loss, gradient) in enumerate(results[0]["layer"]["steps"]):
        one_loss, one_gradient = train(expected, step)
        assert loss == pytest.approx(one_loss, rel=1e-6)
        assert_allclose(gradient, one_gradient, rtol=1e-4, atol=1e-4)
    state = expected.state()
    for name, array in state.items():
        assert_allclose(results[0]["layer"][name], array, rtol=1e-3, atol=1e-5, err_msg=name)
    train(expected, 5)
    answers = expected.topk(FEATURES, 50)
    for found in results:
        labels, scores = found["layer"]["answers"]
        assert_allclose(scores, answers.scores[:, :30], rtol=1e-3, atol=1e-4)
        assert_array_equal(labels, answers.labels[:, :30])
        (loss, gradient), (other_loss, other_gradient) = found["layer"]["same"]
        assert loss == other_loss
        assert_array_equal(gradient, other_gradient)
    assert sorted(found["layer"]["n_own"] for found in results) == [13, 17]


def test_without_processes():
    with pytest.raises(RuntimeError, match="torchrun"):
        build("identity", distributed=True).fit(X, Y)


@pytest.mark.slow
def test_torchrun_starts_a_training(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(
        f"""
import os
import sys
sys.path[:0] = {sys.path!r}
from skxmc import SparseDSTClassifier, save_model
from skxmc.datasets import make_xmc_classification

data = make_xmc_classification(600, 300, 40, random_state=0)
model = SparseDSTClassifier(distributed=True, random_state=0, epochs=2).fit(data.X, data.Y)
if os.environ["RANK"] == "0":
    save_model(model, {str(tmp_path / "model")!r})
"""
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    data = make_xmc_classification(600, 300, 40, random_state=0)
    alone = SparseDSTClassifier(random_state=0, epochs=2).fit(data.X, data.Y)
    found, expected = (m.predict_topk(data.X, 5) for m in (load_model(tmp_path / "model"), alone))
    assert_allclose(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
