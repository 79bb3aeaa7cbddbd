"""The peers as workers: libpecos and scikit-learn, each called as its documentation says.

Runs in the environment of the peer, so nothing of skxmc is imported here.
"""

import multiprocessing
import time
import warnings

import numpy as np
import scipy.sparse as sp
from harness import Meter, folder_mb, median_latency_ms, run_script


# ------------------------------------------------------------------ libpecos
def pecos_fit(X, Y, threads, save=None, X_test=None, answers=None):
    """Train flat one-vs-all (no clustering: ``C=None``), libpecos' defaults otherwise."""
    from pecos.xmc.xlinear.model import XLinearModel

    X, Y = sp.load_npz(X), sp.load_npz(Y).tocsc()
    with Meter() as meter:
        model = XLinearModel.train(X, Y, C=None, threads=threads)
    result = {**meter.record("fit"), "nnz": int(model.model.model_chain[0].W.nnz)}
    if save is not None:
        model.save(save)
    if answers is not None:
        scores = model.predict(sp.load_npz(X_test), only_topk=5, threads=threads)
        _save_answers(scores, answers)
    return result


def pecos_adopt(coef, intercept, save):
    """Write a predict-only libpecos model that holds the given weights (labels x features)."""
    from pecos.xmc import MLModel
    from pecos.xmc.base import HierarchicalMLModel
    from pecos.xmc.xlinear.model import XLinearModel

    coef = sp.csr_matrix(sp.load_npz(coef), dtype=np.float32)
    # Labels without positives have an intercept of -inf; libpecos wants finite weights.
    bias = np.maximum(np.load(intercept), -1e3).astype(np.float32)
    bias = sp.csr_matrix(bias[:, None])
    W = sp.hstack([coef, bias]).T.tocsc()  # libpecos: the last row of W is the bias
    W.sort_indices()
    C = sp.csc_matrix(np.ones((W.shape[1], 1), dtype=np.float32))
    XLinearModel(HierarchicalMLModel([MLModel(W=W, C=C, bias=1.0)])).save(save)
    return {"nnz": int(W.nnz)}


def pecos_predict(model, X, threads, latency_rows, matrix_type, answers):
    """Load a predict-only model, predict all rows, then one row at a time with one thread."""
    from pecos.xmc.xlinear.model import XLinearModel

    X = sp.load_npz(X)
    with Meter() as loading:
        loaded = XLinearModel.load(model, is_predict_only=True, weight_matrix_type=matrix_type)
    start = time.perf_counter()
    loaded.predict(X[:1], only_topk=5, threads=threads)
    first = time.perf_counter() - start
    loaded.predict(X[:50], only_topk=5, threads=threads)
    with Meter() as meter:
        scores = loaded.predict(X, only_topk=5, threads=threads)
    _save_answers(scores, answers)
    return {
        **loading.record("load"),
        **meter.record("predict"),
        "first_row_ms": 1e3 * first,
        **median_latency_ms(
            lambda row: loaded.predict(row, only_topk=5, threads=1), X, latency_rows
        ),
        "model_mb": folder_mb(model),
    }


def _save_answers(scores, path, k=5):
    """Save CSR scores as ranked answers, ties by the smaller label."""
    labels = np.full((scores.shape[0], k), -1, np.int32)
    values = np.full((scores.shape[0], k), -np.inf, np.float32)
    for i in range(scores.shape[0]):
        row = slice(scores.indptr[i], scores.indptr[i + 1])
        order = np.lexsort((scores.indices[row], -scores.data[row]))[:k]
        labels[i, : len(order)] = scores.indices[row][order]
        values[i, : len(order)] = scores.data[row][order]
    np.savez(path, labels=labels, scores=values)


# ------------------------------------------------------------------ LinearSVC
def linear_svc_fit(X, Y, threads, tol):
    """Fit one ``LinearSVC(dual=False)`` per label in ``threads`` processes.

    Processes, not threads, because only a part of its fit releases the GIL. They are forked with
    the data in memory, so nothing is copied to them, and only the fits are timed.
    """
    from sklearn.svm import LinearSVC

    X, Y = sp.load_npz(X).astype(np.float64), sp.load_npz(Y).tocsc()
    targets = [Y.indices[Y.indptr[j] : Y.indptr[j + 1]] for j in range(Y.shape[1])]
    # Labels that all rows or none have cannot be fitted; they cost nothing here.
    targets = [rows for rows in targets if 0 < len(rows) < X.shape[0]]
    warnings.simplefilter("ignore")
    _shared.update(X=X, estimator=LinearSVC(dual=False, tol=tol))
    with multiprocessing.get_context("fork").Pool(threads) as pool:
        pool.map(_fit_one, [np.array([0])] * threads)  # the processes have started
        start = time.perf_counter()
        cpu = sum(pool.map(_fit_one, targets, chunksize=1))
        wall = time.perf_counter() - start
    return {"fit_s": wall, "fit_cpu_s": cpu, "fitted": len(targets)}


_shared = {}


def _fit_one(rows):
    start = time.process_time()
    y = np.zeros(_shared["X"].shape[0], np.int64)
    y[rows] = 1
    _shared["estimator"].fit(_shared["X"], y)
    return time.process_time() - start


if __name__ == "__main__":
    run_script(
        None,
        {
            "pecos_fit": pecos_fit,
            "pecos_adopt": pecos_adopt,
            "pecos_predict": pecos_predict,
            "linear_svc_fit": linear_svc_fit,
        },
    )
