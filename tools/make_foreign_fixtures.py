"""Make the fixtures of tests/io/test_foreign_models.py, and check our exports, with the libraries.

    python tools/make_foreign_fixtures.py [--check] pecos=PYTHON omikuji=PYTHON napkinxc=PYTHON

PYTHON is the interpreter of an environment in which that library is installed (libpecos 1.2.8,
omikuji 0.5.2, napkinxc 0.7.2 made those that are there). Without ``--check`` each trains small
models and writes them and what it predicts with them to tests/io/foreign/. With ``--check``
skxmc exports models of each kind, the library loads them, and its probabilities are compared with
those of skxmc; this runs where skxmc is installed. Exits with 1 if one differs by more than 1e-5.

Two trainings of omikuji or napkinXC differ, so the fixtures do too: models and predictions always
come together.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "io" / "foreign"
N_FEATURES, N_LABELS, N_ASKED = 40, 30, 15
WIDE = 700  # features of the data on which weights are stored sparsely
TOLERANCE = 1e-5


def make_data(n_features=N_FEATURES, density=0.15):
    """Rows and labels; label 7 never occurs, and is not the last."""
    rng = np.random.default_rng(0)
    topics = (rng.random((N_LABELS, n_features)) < density) * rng.uniform(
        0.5, 2, (N_LABELS, n_features)
    )
    X, Y = np.zeros((160, n_features)), np.zeros((160, N_LABELS))
    usable = np.setdiff1d(np.arange(N_LABELS), [7])
    for i in range(len(X)):
        labels = rng.choice(usable, rng.integers(1, 4), replace=False)
        Y[i, labels] = 1
        X[i] = topics[labels].sum(0) * (rng.random(n_features) < 0.8)
    X = np.round(X, 3)
    X[X.sum(axis=1) == 0, 0] = 1
    return sp.csr_matrix(X.astype(np.float32)), sp.csr_matrix(Y.astype(np.float32))


def asked(X):
    """The rows for which there are predictions."""
    return sp.csr_matrix(X[:N_ASKED])


# ------------------------------------------------------------------ what runs in the peers


class Pecos:
    """libpecos."""

    def train(self, folder):
        from pecos.xmc import Indexer, LabelEmbeddingFactory
        from pecos.xmc.xlinear.model import XLinearModel

        X, Y = make_data()
        features = LabelEmbeddingFactory.create(Y, X, method="pifa")
        C = Indexer.gen(
            features, indexer_type="hierarchicalkmeans", nr_splits=2, max_leaf_size=4, seed=0
        )
        cases = {
            "tree": {"C": C},
            "tree-sigmoid": {"C": C, "solver_type": "L2R_LR_DUAL", "post": "sigmoid"},
            "tree-log-l2": {"C": C, "post": "log-l2-hinge"},
            "tree-no-bias": {"C": C, "bias": -1.0},
            "flat": {"C": None},
            "flat-sigmoid": {"C": None, "bias": 2.0, "post": "sigmoid"},
        }
        for name, options in cases.items():
            post = options.pop("post", "l3-hinge")
            model = XLinearModel.train(X, Y.tocsc(), threads=1, **options)
            for level in model.model.model_chain:
                level.pred_params.post_processor = post
                level.pred_params.only_topk = 6
            model.save(str(folder / name))
        found = {name: self.predict(folder / name, X) for name in cases}
        found["tree-log-l2"] = self.predict(folder / "tree-log-l2", X, absent=-np.inf)
        return found

    def predict(self, folder, X, beam=None, absent=0.0):
        from pecos.xmc.xlinear.model import XLinearModel

        model = XLinearModel.load(str(folder), is_predict_only=True)
        X = asked(X)
        X.sort_indices()
        answers = model.predict(X, only_topk=N_LABELS, beam_size=beam, threads=1)
        scores = np.full(answers.shape, absent, np.float32)
        scores[np.repeat(np.arange(len(scores)), np.diff(answers.indptr)), answers.indices] = (
            answers.data
        )
        return scores

    def predict_export(self, folder, X):
        norms = np.sqrt(np.asarray(X.multiply(X).sum(axis=1))).ravel()
        scaled = sp.csr_matrix(sp.diags(1 / norms) @ X, dtype=np.float32)
        return self.predict(folder, scaled, beam=1000)


class Omikuji:
    """omikuji."""

    def train(self, folder):
        import omikuji

        loss = omikuji.LossType
        cases = {
            "hinge": {"n_trees": 2, "min_branch_size": 5},
            "log": {"n_trees": 1, "min_branch_size": 5, "linear_loss_type": loss.LOG.value},
            "uneven": {
                "n_trees": 1,
                "min_branch_size": 4,
                "cluster_k": 3,
                "cluster_balanced": False,
            },
            "wide": {"n_trees": 1, "min_branch_size": 15},
        }
        found = {}
        for name, options in cases.items():
            X, Y = make_data(WIDE, 0.008) if name == "wide" else make_data()
            params = omikuji.Model.default_hyper_param()
            for key, value in options.items():
                setattr(params, key, value)
            with tempfile.TemporaryDirectory() as temporary:
                file = Path(temporary) / "data.txt"
                file.write_text("\n".join(_lines(X, Y)) + "\n")
                model = omikuji.Model.train_on_data(str(file), params, 1)
            model.save(str(folder / name))
            found[name] = self.predict(folder / name, X, 1000)
            if name == "uneven":
                found["uneven-beam-2"] = self.predict(folder / name, X, 2)
        return found

    def predict(self, folder, X, beam):
        import omikuji

        model = omikuji.Model.load(str(folder))
        scores = np.zeros((N_ASKED, N_LABELS), np.float32)
        for i in range(N_ASKED):
            row = sp.csr_matrix(X[i])
            pairs = list(zip(row.indices.tolist(), row.data.tolist(), strict=True))
            for label, score in model.predict(pairs, beam, N_LABELS):
                scores[i, label] = score
        return scores

    def predict_export(self, folder, X):
        return self.predict(folder, X, 1000)


class NapkinXC:
    """napkinXC."""

    def train(self, folder):
        cases = {
            "plt": ("PLT", {"max_leaves": 4}),
            "plt-hinge-ensemble": ("PLT", {"max_leaves": 6, "loss": "l2", "ensemble": 2}),
            "br": ("BR", {}),
            "br-hinge": ("BR", {"loss": "l2"}),
            "ovr": ("OVR", {}),
            "br-bias-2": ("BR", {"bias": 2.0, "norm": False}),
            "wide": ("PLT", {"max_leaves": 16}),
            "hsm": ("HSM", {}),
        }
        found = {}
        for name, (cls, options) in cases.items():
            X, Y = make_data(WIDE, 0.008) if name == "wide" else make_data()
            labels = [int(y) for y in np.asarray(Y.argmax(axis=1)).ravel()]
            model = self._model(cls, folder / name, options)
            model.fit(X, labels if cls in ("OVR", "HSM") else Y)
            found[name] = self._predict(model, X)
        return found

    def _model(self, cls, folder, options):
        import napkinxc.models

        return getattr(napkinxc.models, cls)(str(folder), threads=1, **options)

    def _predict(self, model, X):
        model.load()
        scores = np.zeros((N_ASKED, N_LABELS), np.float32)
        for i, row in enumerate(model.predict_proba(asked(X), top_k=N_LABELS)):
            for label, score in row:  # padded with (0, 0)
                scores[i, label] = max(score, scores[i, label])
        return scores

    def predict_export(self, folder, X):
        members = len(list(folder.glob("member_*")))
        is_tree = members or (folder / "tree.bin").exists()
        options = {"ensemble": members} if members else {}
        return self._predict(self._model("PLT" if is_tree else "BR", folder, options), X)


PEERS = {"pecos": Pecos, "omikuji": Omikuji, "napkinxc": NapkinXC}


def _lines(X, Y):
    yield f"{X.shape[0]} {X.shape[1]} {Y.shape[1]}"
    for i in range(X.shape[0]):
        row, labels = sp.csr_matrix(X[i]), sp.csr_matrix(Y[i]).indices
        pairs = zip(row.indices, row.data, strict=True)
        yield ",".join(map(str, labels)) + " " + " ".join(f"{j}:{v:.7g}" for j, v in pairs)


def train(peer, folder):
    """Train and store the models of one library, and what it predicts."""
    folder.mkdir(parents=True, exist_ok=True)
    found = PEERS[peer]().train(folder)
    np.savez_compressed(
        folder / "expected.npz", **{k: v.astype(np.float32) for k, v in found.items()}
    )


# ------------------------------------------------------------------ our exports


def export_all(folder, peer):
    """Export one model of each kind that the library can express; return what skxmc predicts."""
    from skxmc import DismecClassifier, ParabelTree
    from skxmc.io import export_model

    X, Y = (sp.csr_array(part) for part in make_data())
    common = {"random_state": 0, "search": "exact", "top_k": N_LABELS}
    cases = {
        "one-tree": ParabelTree("xr-linear", max_leaf=4, arity=2, link="l2-hinge", **common),
        "uneven": ParabelTree("bonsai", max_leaf=4, arity=4, n_trees=1, link="l2-hinge", **common),
        "root": ParabelTree("plt", max_leaf=4, random_state=0, top_k=N_LABELS),
        "linear": DismecClassifier(top_k=N_LABELS),
    }
    if peer == "pecos":
        cases["l3"] = ParabelTree("xr-linear", max_leaf=4, **common)
    else:
        cases["two-trees"] = ParabelTree("parabel", max_leaf=4, n_trees=2, **common)
    found = {}
    for name, model in cases.items():
        model.fit(X, Y)
        export_model(model, folder / name, format=peer)
        found[name] = model.predict_proba(X[:N_ASKED]).toarray()
    return found


def check(peer, interpreter):
    """Return whether the library predicts with our exports what skxmc predicts."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        expected = export_all(folder, peer)
        _run(interpreter, "--predict", peer, folder, *expected)
        found = np.load(folder / "found.npz")
        largest = {name: float(np.abs(found[name] - expected[name]).max()) for name in expected}
    print(peer, json.dumps(largest))
    return max(largest.values()) <= TOLERANCE


def _run(interpreter, *arguments):
    command = [interpreter, __file__, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main(arguments):
    """Run the steps that the arguments name, and return the exit status."""
    if arguments[:1] == ["--train"]:
        train(arguments[1], Path(arguments[2]))
        return 0
    if arguments[:1] == ["--predict"]:
        peer, folder = PEERS[arguments[1]](), Path(arguments[2])
        X = make_data()[0]
        found = {name: peer.predict_export(folder / name, X) for name in arguments[3:]}
        np.savez(folder / "found.npz", **found)
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("peers", nargs="+", metavar="PEER=PYTHON")
    options = parser.parse_args(arguments)
    good = True
    for peer, _, interpreter in (part.partition("=") for part in options.peers):
        if peer not in PEERS:
            parser.error(f"{peer!r} is none of {', '.join(PEERS)}")
        if options.check:
            good &= check(peer, interpreter)
        else:
            _run(interpreter, "--train", peer, FOLDER / peer)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
