"""What the benchmarks of label trees share: the models by name, and our workers.

A model is named on the command line by a short name of ``OURS`` or ``PEERS``, or by an expression:
``'ParabelTree(preset="bonsai", n_trees=1)'`` is that estimator, ``'pecos(Cp=2.0)'`` a peer with
parameters of its own.
"""

import argparse
import ast
import functools
import inspect
import sys
import time
from pathlib import Path

import harness
import numpy as np
import scipy.sparse as sp

WORKER = Path(__file__).resolve()
PEER_WORKER = WORKER.with_name("tree_peers.py")
METRICS = tuple(f"{m}@{k}" for m in ("P", "PSP") for k in harness.KS)

OURS = {
    "default": "ParabelTree()",
    **{name: f'ParabelTree(preset="{name}")' for name in ("xr-linear", "parabel", "bonsai", "plt")},
}
PEERS = {
    "pecos": "pecos()",
    "pecos-man": "pecos(negative_sampling_scheme='tfn+man')",
    "pecos-cost": "pecos(rel_mode='induce', rel_norm='l1')",
    "omikuji": "omikuji()",
    "omikuji-bonsai": "omikuji(cluster_k=100, cluster_balanced=False, max_depth=3)",
    "napkinxc": "napkinxc()",
}
PEER_TITLES = {
    "pecos": "libpecos XR-Linear",
    "omikuji": "omikuji",
    "napkinxc": "napkinXC PLT",
}
EVERYTHING = (*OURS, *PEERS)

#: Our ``link`` and what libpecos calls the same function of the margin.
POST_PROCESSORS = {
    "logistic": "sigmoid",
    "l1-hinge": "l1-hinge",
    "l2-hinge": "l2-hinge",
    "l3-hinge": "l3-hinge",
}


def add_arguments(parser, *, models, latency_rows, timeout, models_help=None):
    """Add the arguments that the scripts about trees share, with their defaults."""
    parser.add_argument("--models", nargs="+", default=models, metavar="MODEL", help=models_help)
    parser.add_argument(
        "--latency-rows", type=int, default=latency_rows, help="rows predicted one by one"
    )
    parser.add_argument("--timeout", type=float, default=timeout, help="seconds a process may take")


def measure_each(args, measure):
    """Call ``measure`` with the arguments for each data set of ``args.data``."""
    for folder in args.data:
        measure(argparse.Namespace(**{**vars(args), "data": folder}))


class Model:
    """A model of the command line: whose it is, with which parameters, and how to run it."""

    def __init__(self, name):
        self.name = name
        self.kind, self.params = parse(OURS.get(name) or PEERS.get(name) or name)
        self.is_peer = self.kind in PEER_TITLES
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.params.items())
        title = PEER_TITLES.get(self.kind, self.kind)
        if self.is_peer:
            self.title = f"{title}, {arguments}" if arguments else title
        else:
            self.title = f"{title}({arguments})"

    def where(self, venv_root):
        """Return the arguments of ``Session.call`` that choose script and interpreter."""
        if not self.is_peer:
            return {"script": WORKER}
        return {"script": PEER_WORKER, "python": harness.peer_python(venv_root, self.kind)}

    def fit_request(self, seed):
        """Return what a fit worker must know of the model; ``seed`` is of our estimators."""
        if self.is_peer:
            return {"library": self.kind, "params": self.params}
        return {"estimator": self.kind, "params": {"random_state": seed, **self.params}}

    def predict_request(self):
        """Return what a predict worker must know of the model."""
        return {"library": self.kind, "params": self.params} if self.is_peer else {}


def parse(expression):
    """Return name and keyword arguments of an expression like ``pecos(Cp=2.0)``."""
    try:
        call = ast.parse(expression, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            return call.func.id, {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError):
        pass
    raise SystemExit(
        f"{expression!r} is not a model: pass one of {', '.join(EVERYTHING)}, or an expression "
        'with literal keyword arguments like ParabelTree(preset="bonsai", n_trees=1)'
    )


def choose(names, venv_root, session):
    """Return the models of these names; a peer without an environment is reported and left out."""
    chosen = []
    for name in names:
        model = Model(name)
        try:
            model.where(venv_root)
        except SystemExit as error:
            session.failures[model.title] = str(error)
            continue
        chosen.append(model)
    return chosen


def text_file(session, task):
    """Return the path of the training rows as text for omikuji, which refuses empty rows."""
    from skxmc.datasets import dump_xmc_repository

    path = session.scratch / "train.txt"
    if not path.exists():
        X = sp.csr_matrix(sp.load_npz(task.X_train))
        Y = sp.csr_matrix(sp.load_npz(task.labels_file(task.subset(None))))
        rows = np.flatnonzero(np.diff(X.indptr) > 0)
        dump_xmc_repository(X[rows], Y[rows], path, precision=7)
    return str(path)


def fit_model(session, task, model, venv_root, *, seed, folder, **limits):
    """Train a model in a process of its own; None if that failed.

    ``limits`` are ``timeout`` in seconds and ``limit_gib`` of memory.
    """
    return session.attempt(
        *(model.title, "fit"),
        **model.where(venv_root),
        **model.fit_request(seed),
        X=task.X_train,
        Y=task.labels_file(task.subset(None)),
        text=text_file(session, task) if model.kind == "omikuji" else None,
        threads=session.args.threads,
        folder=str(folder),
        **limits,
    )


def predict_model(session, task, model, venv_root, *, title=None, **request):
    """Answer the test rows with a saved model; the result has P@k and PSP@k. None: it failed."""
    answers = session.scratch / "answers.npz"
    result = session.attempt(
        *(title or model.title, "predict"),
        **model.where(venv_root),
        **model.predict_request(),
        X=task.X_test,
        threads=session.args.threads,
        answers=str(answers),
        **request,
    )
    if result is not None:
        result.update(task.evaluate(answers, task.subset(None)))
    return result


# ------------------------------------------------------------------ our workers
def make(estimator, params, n_jobs):
    """Return an unfitted estimator of skxmc; parameters that it does not have are an error."""
    import skxmc

    params = dict(params)
    known = inspect.signature(getattr(skxmc, estimator)).parameters
    if "random_state" not in known:
        params.pop("random_state", None)
    return getattr(skxmc, estimator)(**{"n_jobs": n_jobs, **params})


def fit(estimator, params, X, Y, threads, folder, text=None):
    """Train, save, and say what it cost; kernels are loaded or compiled before."""
    from skxmc import save_model

    warm_up_s = harness.warm_up(make(estimator, params, threads).get_params(), estimator, 120)
    X, Y = sp.load_npz(X), sp.load_npz(Y)
    model = make(estimator, params, threads)
    parts = watch(("label_features", "build_tree"))
    with harness.Meter() as meter:
        model.fit(X, Y)
    save_model(model, folder, overwrite=True)
    return {
        **meter.record("fit"),
        **describe(model),
        "cluster_s": sum(parts) if parts else None,
        "warm_up_s": warm_up_s,
        "model_mb": harness.folder_mb(folder),
    }


def watch(names):
    """Return a list that gets the seconds of each call from skxmc.linear to these functions."""
    seconds = []

    def timed(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - start)

        return call

    for module_name, module in list(sys.modules.items()):
        for name in names:
            if module_name.startswith("skxmc.linear") and name in vars(module):
                setattr(module, name, timed(getattr(module, name)))
    return seconds


def describe(model):
    """Return the size of a fitted model: stored weights, nodes, depth."""
    if not hasattr(model, "trees_"):
        return {"nnz": int(model.coef_.nnz)}
    return {
        "nnz": sum(len(weights.weight) for weights in model.weights_),
        "n_trees": len(model.trees_),
        "n_nodes": sum(int(tree.n_nodes) for tree in model.trees_),
        "max_depth": max(int(tree.max_depth) for tree in model.trees_),
    }


def predict(folder, X, threads, latency_rows, answers, beam=None, search=None):
    """Load a saved model, answer all rows, then one row at a time with one thread."""
    import skxmc
    import skxmc.linear  # loading is timed, importing is not

    X = sp.load_npz(X)
    with harness.Meter() as loading:
        model = skxmc.load_model(folder)
    chosen = {"n_jobs": threads, "beam_size": beam, "search": search}
    known = model.get_params()
    model.set_params(**{k: v for k, v in chosen.items() if v is not None and k in known})
    k = min(5, model.n_labels_)
    model.predict_topk(X[:50], k=k)
    topk, cost = harness.batch(lambda: model.predict_topk(X, k=k))
    np.savez(answers, labels=topk.labels, scores=topk.scores)
    model.set_params(n_jobs=1)
    return {
        **loading.record("load"),
        **cost,
        **harness.median_latency_ms(lambda row: model.predict_topk(row, k=k), X, latency_rows),
    }


def resave(folder, variant, options):
    """Save a model again in another form; return its size."""
    from skxmc import load_model, save_model

    save_model(load_model(folder), variant, overwrite=True, **options)
    return {"model_mb": harness.folder_mb(variant)}


def export_levels(folder, prefix):
    """Write the levels of the only tree of a model for ``tree_peers.adopt``.

    libpecos keeps a tree as levels, so all leaves must lie at the same depth.
    """
    from skxmc import load_model

    model = load_model(folder)
    if len(model.trees_) != 1:
        raise SystemExit(f"libpecos holds one tree, this model has {len(model.trees_)}")
    tree, weights = model.trees_[0], model.weights_[0]
    files = []
    for number, (W, parent) in enumerate(levels(tree, weights, model.n_features_in_)):
        files.append(f"{prefix}.{number}.npz")
        np.savez(
            files[-1], data=W.data, indices=W.indices, indptr=W.indptr, shape=W.shape, parent=parent
        )
    return {"levels": files, "post_processor": POST_PROCESSORS[link_of(model)]}


def levels(tree, weights, n_features):
    """Yield (W, parent) of each level below the root; columns of the last are the labels.

    W has a row a feature and a last row of offsets; an offset of -inf, which libpecos does not
    take, becomes -1000: the label is never among the answers either way. ``parent[j]`` is the
    column, one level above, of the parent of column j.
    """
    length = np.diff(weights.row_indptr)
    chunk = np.repeat(np.arange(tree.n_nodes), np.diff(weights.chunk_indptr))
    node = np.repeat(tree.child_start[chunk].astype(np.int64), length) + weights.child
    feature = np.repeat(weights.row_feature, length)
    column = np.zeros(tree.n_nodes, dtype=np.int64)  # of each node within its level
    for depth in range(1, tree.max_depth + 1):
        nodes = np.flatnonzero(tree.depth == depth)
        if depth == tree.max_depth:
            nodes = nodes[np.argsort(tree.label[nodes])]
        elif (tree.label[nodes] >= 0).any():
            raise SystemExit("libpecos keeps levels: all leaves must lie at the same depth")
        column[nodes] = np.arange(len(nodes))
        here = tree.depth[node] == depth
        bias = np.maximum(weights.bias[nodes], -1e3)
        values = np.concatenate([weights.weight[here], bias]).astype(np.float32)
        rows = np.concatenate([feature[here], np.full(len(nodes), n_features)])
        columns = np.concatenate([column[node[here]], np.arange(len(nodes))])
        W = sp.csc_matrix((values, (rows, columns)), shape=(n_features + 1, len(nodes)))
        W.sort_indices()
        yield W, column[tree.parent[nodes]]


def link_of(model):
    """Return the link of a ParabelTree, whether it was given or is the preset's."""
    return model.preset_["link"] if model.link == "preset" else model.link


if __name__ == "__main__":
    harness.run_script(
        None, {"fit": fit, "predict": predict, "resave": resave, "export_levels": export_levels}
    )
