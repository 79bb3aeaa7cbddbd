"""Label trees of other libraries as workers: libpecos XR-Linear, omikuji, napkinXC.

Runs in the environment of the library, so nothing of skxmc is imported here. Each library is
called as its documentation says; what differs between them is written where it happens.
"""

import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from harness import Meter, batch, folder_mb, median_latency_ms, run_script
from peers import _save_answers

K = 5


class Pecos:
    """libpecos: PIFA label features, hierarchical k-means, then XR-Linear on the tree."""

    def __init__(self, params):
        from pecos.xmc import Indexer, LabelEmbeddingFactory  # not part of what is timed
        from pecos.xmc.xlinear.model import XLinearModel

        self._classes = XLinearModel, Indexer, LabelEmbeddingFactory
        self._params = params

    def read(self, X, Y, text):
        self._X, self._Y = sp.load_npz(X), sp.load_npz(Y)

    def fit(self, folder, threads):
        model_class, indexer, embedding = self._classes
        start = time.perf_counter()
        features = embedding.create(self._Y, self._X, method="pifa", threads=threads)
        clusters = indexer.gen(features, indexer_type="hierarchicalkmeans", threads=threads)
        self.cluster_s = time.perf_counter() - start
        del features
        self._model = model_class.train(
            self._X, self._Y.tocsc(), C=clusters, threads=threads, **self._params
        )

    def save(self, folder):
        self._model.save(str(folder))

    def describe(self):
        return {
            "cluster_s": self.cluster_s,
            "nnz": sum(int(layer.W.nnz) for layer in self._model.model.model_chain),
        }

    def load(self, folder, threads):
        self._model = self._classes[0].load(
            str(folder), is_predict_only=True, weight_matrix_type="BINARY_SEARCH_CHUNKED"
        )
        self._threads = threads

    def set_threads(self, threads):
        self._threads = threads

    def topk(self, X, beam):
        return self._model.predict(X, only_topk=K, beam_size=beam, threads=self._threads)


class Omikuji:
    """omikuji: trains from a text file, predicts one row of Python pairs a call.

    Its fit therefore includes parsing the file, which is written before. Parameters are fields of
    its ``HyperParam``. Weights are made dense where 10 % are stored, the default of its program.
    """

    def __init__(self, params):
        import omikuji

        self._library, self._params = omikuji, params

    def read(self, X, Y, text):
        self._text = text

    def fit(self, folder, threads):
        hyper = self._library.Model.default_hyper_param()
        for name, value in self._params.items():
            setattr(hyper, name, value)
        self._model = self._library.Model.train_on_data(self._text, hyper, threads)

    def save(self, folder):
        self._model.save(str(folder))

    def describe(self):
        return {}

    def load(self, folder, threads):
        self._model = self._library.Model.load(str(folder))
        self.set_threads(threads)
        self._model.densify_weights(0.1)

    def set_threads(self, threads):
        self._model.init_prediction_thread_pool(threads)

    def topk(self, X, beam):
        answers = []
        for i in range(X.shape[0]):
            row = slice(X.indptr[i], X.indptr[i + 1])
            pairs = list(zip(X.indices[row].tolist(), X.data[row].tolist()))
            answers.append(self._model.predict(pairs, beam, K))
        return answers


class NapkinXC:
    """napkinXC: a probabilistic label tree. Its fit writes the model; its search is exact."""

    def __init__(self, params):
        from napkinxc.models import PLT

        self._class, self._params = PLT, params

    def read(self, X, Y, text):
        self._X, self._Y = sp.load_npz(X), sp.load_npz(Y)

    def fit(self, folder, threads):
        self._class(str(folder), threads=threads, **self._params).fit(self._X, self._Y)

    def save(self, folder):
        pass

    def describe(self):
        return {}

    def load(self, folder, threads):
        self._folder = str(folder)
        self.set_threads(threads)

    def set_threads(self, threads):  # a parameter of its constructor
        self._model = self._class(self._folder, threads=threads, **self._params)
        self._model.load()

    def topk(self, X, beam):
        return self._model.predict_proba(X, top_k=K)


LIBRARIES = {"pecos": Pecos, "omikuji": Omikuji, "napkinxc": NapkinXC}


# ------------------------------------------------------------------ tasks
def fit(library, params, X, Y, text, threads, folder):
    """Train, save, and say what it cost."""
    peer = LIBRARIES[library](params)
    peer.read(X, Y, text)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with Meter() as meter:
        peer.fit(folder, threads)
    peer.save(folder)
    return {**meter.record("fit"), **peer.describe(), "model_mb": folder_mb(folder)}


def predict(library, params, folder, X, threads, beam, latency_rows, answers):
    """Load a saved model, answer all rows, then one row at a time with one thread."""
    peer = LIBRARIES[library](params)
    X = sp.load_npz(X)
    with Meter() as loading:
        peer.load(folder, threads)
    peer.topk(X[:50], beam)
    scores, cost = batch(lambda: peer.topk(X, beam))
    _save_answers(as_csr(scores, X.shape[0]), answers, k=K)
    peer.set_threads(1)
    return {
        **loading.record("load"),
        **cost,
        **median_latency_ms(lambda row: peer.topk(row, beam), X, latency_rows),
    }


def adopt(levels, folder, post_processor):
    """Write a predict-only libpecos model that holds the given weights, a level a layer.

    ``levels`` names .npz files with ``W`` (features + bias row, nodes of the level) as CSC arrays
    and ``parent``, the number of each node's parent within the level above.
    """
    from pecos.xmc import MLModel
    from pecos.xmc.base import HierarchicalMLModel
    from pecos.xmc.xlinear.model import XLinearModel

    chain = []
    for level in levels:
        with np.load(level) as arrays:
            shape = tuple(int(size) for size in arrays["shape"])
            W = sp.csc_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
            parent = arrays["parent"]
        members = np.ones(len(parent), dtype=np.float32)
        C = sp.csc_matrix((members, (np.arange(len(parent)), parent)))
        chain.append(MLModel(W=W, C=C, bias=1.0, pred_params={"post_processor": post_processor}))
    Path(folder).mkdir(parents=True, exist_ok=True)
    XLinearModel(HierarchicalMLModel(chain)).save(str(folder))
    return {"nnz": sum(int(layer.W.nnz) for layer in chain), "model_mb": folder_mb(folder)}


def as_csr(answers, n_rows):
    """Return lists of (label, score) pairs as CSR; CSR stays as it is."""
    if sp.issparse(answers):
        return answers
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in answers])]).astype(np.int64)
    labels = np.array([label for row in answers for label, _ in row], dtype=np.int32)
    scores = np.array([score for row in answers for _, score in row], dtype=np.float32)
    n_labels = int(labels.max()) + 1 if len(labels) else 1
    return sp.csr_matrix((scores, labels, indptr), shape=(n_rows, n_labels))


if __name__ == "__main__":
    run_script(None, {"fit": fit, "predict": predict, "adopt": adopt})
