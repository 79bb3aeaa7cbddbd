"""Fit in this process under a memory limit and print what the fit took, as JSON.

    python tests/robustness/measure_fit.py ESTIMATOR SHARE

The limit is SHARE times what ``estimate_memory`` or ``memory_footprint`` says. Linux only: the peak
of the resident memory is reset and read in /proc.
"""

import gc
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.base import clone

sys.path.insert(0, str(Path(__file__).parents[2]))

from skxmc import DismecClassifier, ParabelTree, SparseDSTClassifier
from skxmc.datasets import make_xmc_classification
from skxmc.exceptions import MemoryLimitError

FITS = {
    "dismec": (DismecClassifier(), (5_000, 20_000, 300)),
    "dismec-2": (DismecClassifier(n_jobs=2), (5_000, 20_000, 300)),
    "parabel": (ParabelTree("parabel", random_state=0), (5_000, 20_000, 1_000)),
    "bonsai-2": (
        ParabelTree("bonsai", n_jobs=2, max_leaf=50, random_state=0),
        (5_000, 20_000, 1_000),
    ),
    "sparse-dst": (SparseDSTClassifier(epochs=1, random_state=0), (4_000, 10_000, 40_000)),
}


def status(key):
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise LookupError(key)


def predicted(estimator, data):
    if hasattr(estimator, "estimate_memory"):
        return estimator.estimate_memory(data.X, data.Y)
    n_labels = len(np.unique(data.Y.indices))
    n_samples, n_features = data.X.shape
    return estimator.memory_footprint(n_labels, n_features, n_samples=n_samples, sparse=True).total


def main(name, share):
    estimator, (n_samples, n_features, n_labels) = FITS[name]
    small = make_xmc_classification(300, 200, 40, random_state=0)
    clone(estimator).fit(small.X, small.Y)  # compiles
    data = make_xmc_classification(n_samples, n_features, n_labels, random_state=0)
    needed = predicted(estimator, data)
    limit = int(share * needed)
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    try:
        estimator.set_params(memory_limit=limit).fit(data.X, data.Y)
        refused = False
    except MemoryLimitError:
        refused = True
    taken = status("VmHWM") - before
    print(json.dumps({"needed": needed, "limit": limit, "taken": taken, "refused": refused}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
