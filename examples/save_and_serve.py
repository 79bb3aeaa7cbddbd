"""Save, load and answer single requests
=====================================

Save a model, map it into a server's memory, and answer single requests.

Shows `save_model` and `load_model`, the time of one-row calls, and how to restrict the answers of a
row: `exclude` for pairs that must not be answered, `candidates` for the only ones that may.

::

    python examples/save_and_serve.py
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from skxmc import DismecClassifier, load_model, save_model
from skxmc.datasets import load_debtags


# %%
def main(every=2, n_calls=200):
    """Train on each ``every``-th document, save, load, and serve ``n_calls`` requests."""
    data = load_debtags(return_tfidf=True)
    model = DismecClassifier(n_jobs=-1).fit(data.X_train[::every], data.Y_train[::every])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tagger"
        save_model(model, path)
        size = sum(file.stat().st_size for file in path.iterdir())
        start = time.perf_counter()
        served = load_model(path)  # mmap=True: several processes share the memory
        load_ms = 1e3 * (time.perf_counter() - start)
        print(f"Model of {size / 1e6:.1f} MB, opened in {load_ms:.1f} ms")

        served.predict_topk(data.X_test[[0]], k=5)  # the first call reads and arranges the weights
        times = []
        for i in range(n_calls):
            row = data.X_test[[i]]
            start = time.perf_counter()
            served.predict_topk(row, k=5)
            times.append(1e3 * (time.perf_counter() - start))
        print(f"One row: median {statistics.median(times):.2f} ms, slowest {max(times):.2f} ms")

        row = data.X_test[[0]]
        print(f"\n{data.test_texts[0][:80]}...")
        best = served.predict_topk(row, k=3)
        show("best three", best, data.label_names)

        # Already tagged with the first answer: do not suggest it again. Three answers still come.
        known = best.labels[0, :1]
        exclude = pairs(known, model.n_labels_)
        show(
            f"without {data.label_names[known[0]]}",
            served.predict_topk(row, k=3, exclude=exclude),
            data.label_names,
        )

        # Only tags of one facet may be answered.
        facet = np.flatnonzero(np.char.startswith(data.label_names, "role::"))
        candidates = pairs(facet, model.n_labels_)
        answers = served.predict_topk(row, k=3, candidates=candidates)
        show("of role:: only", answers, data.label_names)
        del served  # unmap the files before the folder is removed (Windows insists on it)
    return best, answers, facet


# %%
def pairs(labels, n_labels):
    """Return a one-row sparse matrix that stores the given labels."""
    return sp.csr_array(
        (np.ones(len(labels), dtype=np.uint8), (np.zeros(len(labels), dtype=np.int32), labels)),
        shape=(1, n_labels),
    )


def show(title, answers, names):
    """Print the first row of answers."""
    tags = zip(answers.labels[0], answers.scores[0], strict=True)
    print(f"  {title + ':':<32}" + ", ".join(f"{names[j]} ({score:.2f})" for j, score in tags))


# %%
if __name__ == "__main__":
    main()
