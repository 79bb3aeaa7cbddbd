"""How well calibrated are probabilities before and after IsotonicXMCCalibrator, and what it costs.

    python benchmarks/bench_calibration.py --data FOLDER [FOLDER ...]

ECE@k, Brier@k and NLL@k on rows that neither the classifier nor the maps have seen, by protocol:

random   a random fifth of the training rows is held out; five folds of the others make the maps
test     the test rows of the data; five folds of the training rows make the maps. Where the test
         rows differ from the training rows, so do their probabilities: no map can know that.
frozen   the classifier is fitted on the training rows; ten random folds of the test rows make and
         evaluate the maps in turn

A last table has the time that the maps of ten million out-of-fold scores take.
"""

import argparse

import harness
import trees

PRESETS = ("parabel", "bonsai", "plt")
MODELS = ("DismecClassifier()", *(f'ParabelTree(preset="{name}")' for name in PRESETS))
PROTOCOLS = ("random", "test", "frozen")
METRICS = ("ece", "brier", "nll")
COST = """
Six fits of each classifier for the protocols random and test, one for frozen: about 15 minutes a
protocol for all models of one data set on two cores. A quick look: --labels 300 --protocols frozen.
"""


def calibrate(data, estimator, params, protocol, seed, n_jobs, labels=None):
    """Fit, calibrate and evaluate one classifier."""
    import numpy as np
    import scipy.sparse as sp
    from sklearn.frozen import FrozenEstimator

    import skxmc
    from skxmc.calibration import IsotonicXMCCalibrator
    from skxmc.datasets import load_folder
    from skxmc.metrics import brier_at_k, ece_at_k, nll_at_k, precision_at_k

    data = load_folder(data)
    X, Y = sp.csr_array(data.X_train), sp.csr_array(data.Y_train)
    X_new, Y_new = sp.csr_array(data.X_test), sp.csr_array(data.Y_test)
    rng = np.random.default_rng(seed)
    if labels is not None:
        kept = np.sort(rng.permutation(Y.shape[1])[:labels])
        Y, Y_new = sp.csr_array(Y[:, kept]), sp.csr_array(Y_new[:, kept])
    if protocol == "random":
        order = rng.permutation(X.shape[0])
        new, old = np.split(order, [len(order) // 5])
        X, Y, X_new, Y_new = X[old], Y[old], X[new], Y[new]
    model = getattr(skxmc, estimator)(**params, n_jobs=n_jobs)
    scores = {}
    with harness.Meter() as meter:
        if protocol == "frozen":
            model = FrozenEstimator(model.fit(X, Y))
            order = rng.permutation(X_new.shape[0])
            parts = []
            for new in np.array_split(order, 10):
                old = np.setdiff1d(order, new)
                calibrator = IsotonicXMCCalibrator(model, random_state=seed)
                calibrator.fit(X_new[old], Y_new[old])
                parts.append(calibrator.predict_proba(X_new[new]))
            scores["after"] = sp.vstack(parts, format="csr")[np.argsort(order)]
        else:
            calibrator = IsotonicXMCCalibrator(model, random_state=seed).fit(X, Y)
            scores["after"] = calibrator.predict_proba(X_new)
    result = {**meter.record("fit"), "grouping": calibrator.grouping_}
    scores["before"] = calibrator.estimator_.predict_proba(X_new)
    for when, proba in scores.items():
        for k in harness.KS:
            for name, metric in zip(METRICS, (ece_at_k, brier_at_k, nll_at_k), strict=True):
                result[f"{name}@{k} {when}"] = float(metric(Y_new, proba, k=k))
            result[f"P@{k} {when}"] = 100 * float(precision_at_k(Y_new, proba, k=k))
    result["same"] = all(result[f"P@{k} before"] == result[f"P@{k} after"] for k in harness.KS)
    return result


def scale(n_rows, grouping, n_jobs):
    """Time the maps of ``100 * n_rows`` synthetic scores: to learn them, and to apply them."""
    import numpy as np
    import scipy.sparse as sp
    from scipy.special import expit
    from sklearn.base import BaseEstimator
    from sklearn.frozen import FrozenEstimator

    from skxmc.calibration import IsotonicXMCCalibrator
    from skxmc.ops.topk import TopK

    class Given(BaseEstimator):
        """Answers that were made before."""

        n_labels_ = 100_000
        classes_ = np.arange(n_labels_)

        def __sklearn_is_fitted__(self):
            return True

        def fit(self, X, Y):
            return self

        def predict_topk(self, X, k=5):
            return TopK(labels[: len(X)], scores[: len(X)])

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, (n_rows, 100), dtype=np.int32)
    labels += 1000 * np.arange(100, dtype=np.int32)  # no label twice
    scores = -np.sort(-rng.normal(-2, 2, (n_rows, 100)).astype(np.float32), axis=1)
    rows, columns = np.nonzero(rng.random(labels.shape) < expit(scores))
    pairs = (rows, labels[rows, columns])
    Y = sp.csr_array((np.ones(len(rows), np.uint8), pairs), shape=(n_rows, Given.n_labels_))
    options = {"grouping": grouping, "random_state": 0, "n_jobs": n_jobs}
    calibrator = IsotonicXMCCalibrator(FrozenEstimator(Given()), **options)
    calibrator.fit(np.zeros((100, 1)), Y[:100])  # compiles
    calibrator.predict_topk(np.zeros((100, 1)), k=100)
    X = np.zeros((n_rows, 1))
    with harness.Meter() as fit:
        calibrator.fit(X, Y)
    with harness.Meter() as apply:
        calibrator.predict_topk(X, k=100)
    return {**fit.record("fit"), **apply.record("apply"), "scores": scores.size}


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__, folders="+", params=False, rounds=1, epilog=COST)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL")
    parser.add_argument("--protocols", nargs="+", default=PROTOCOLS, choices=PROTOCOLS)
    parser.add_argument("--scale-rows", type=int, default=100_000, help="rows of 100 scores")
    args = parser.parse_args()
    for folder in args.data:
        measure(argparse.Namespace(**{**vars(args), "data": folder}))
    with harness.Session(argparse.Namespace(**{**vars(args), "data": None}), __file__) as session:
        for grouping in ("pooled", "frequency", "auto"):
            result = session.call(
                "scale", n_rows=args.scale_rows, grouping=grouping, n_jobs=args.threads
            )
            session.add(f"maps, {grouping}", result)
        session.save()
        names = ("method", "scores", "fit_s", "fit_cpu_s", "apply_s", "apply_cpu_s", "fit_peak_mb")
        table = harness.markdown(
            session.rows, {n: n if n == "method" else (n, ".2f") for n in names}
        )
        harness.print_report(session, "Maps of many scores", table)


def measure(args):
    """Measure and report one data set."""
    with harness.Session(args, __file__) as session:
        for r in range(args.rounds):
            for protocol in args.protocols:
                for name in args.models:
                    model = trees.Model(name)
                    params = model.fit_request(r)["params"]
                    if model.kind == "DismecClassifier":
                        params.pop("random_state", None)
                    result = session.attempt(
                        *(model.title, "calibrate"),
                        data=str(args.data.resolve()),
                        estimator=model.kind,
                        params=params,
                        protocol=protocol,
                        seed=args.seed + r,
                        n_jobs=args.threads,
                        labels=args.labels,
                    )
                    if result is not None:
                        session.add(model.title, result, protocol=protocol, round=r)
                        session.flush()
        if not session.rows:
            raise SystemExit("Nothing was measured:\n" + "\n".join(session.failures.values()))
        session.save()
        columns = {"held-out rows": "protocol", "model": "method", "maps": "grouping"}
        for when in ("before", "after"):
            for k in harness.KS:
                columns[f"ECE@{k} {when}"] = (f"ece@{k} {when}", ".4f")
        for name in ("nll@5", "brier@5"):
            for when in ("before", "after"):
                columns[f"{name} {when}"] = (f"{name} {when}", ".4f")
        columns["P@k the same"] = "same"
        title = f"Calibration, {session.rows[0]['data']}"
        harness.print_report(session, title, harness.markdown(session.rows, columns))


if __name__ == "__main__":
    harness.run_script(main, {"calibrate": calibrate, "scale": scale})
