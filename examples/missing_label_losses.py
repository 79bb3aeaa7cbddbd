"""Recall from incomplete labels
=============================

Estimate the recall on complete labels from incomplete ones (figure 3.2 of the thesis).

The data are synthetic, so the complete labels and with them the true recall@5 of a fixed ranking
are known. Each label is then recorded with a probability p, its *propensity*, and the recall is
estimated from what was recorded:

* naive: as if nothing were missing;
* unbiased: the general estimator (thesis eq. 3.20), right on average for every p, but with a
  variance that explodes where p is small;
* bound: its upper bound (eq. 3.23), too large on average, with little variance.

The table shows mean and standard deviation over 100 repetitions of the recording. With matplotlib
the figure is drawn too, into the file that is given or on the screen.

::

    python examples/missing_label_losses.py [figure.png]
"""

import sys

import numpy as np

from skxmc.datasets import make_xmc_classification
from skxmc.metrics import recall_at_k, unbiased_recall_at_k
from skxmc.ops.topk import topk_csr

K = 5
ESTIMATES = ("naive", "unbiased", "bound")
PROPENSITIES = tuple(p / 10 for p in range(1, 11))


# %%
def record(Y, propensity, rng):
    """Keep each label with probability `propensity`, independently of all else."""
    Y = Y.copy()
    Y.data = (rng.random(Y.nnz) < propensity).astype(Y.dtype)
    Y.eliminate_zeros()
    return Y


def simulate(Y_true, answers, propensities, n_repetitions, seed=0):
    """Return the estimates, of shape (propensities, repetitions, 3)."""
    rng = np.random.default_rng(seed)
    estimates = np.empty((len(propensities), n_repetitions, len(ESTIMATES)))
    for i, p in enumerate(propensities):
        inverse = np.full(Y_true.shape[1], 1 / p)
        for repetition in range(n_repetitions):
            Y = record(Y_true, p, rng)
            estimates[i, repetition] = (
                recall_at_k(Y, answers, K),
                unbiased_recall_at_k(Y, answers, inverse, K),
                unbiased_recall_at_k(Y, answers, inverse, K, estimator="bound"),
            )
    return estimates


def print_table(propensities, estimates, recall):
    """Print mean and standard deviation of each estimate at each propensity, in percent."""
    print(f"{'p':>4}" + "".join(f"{name:>24}" for name in ESTIMATES) + "  mean ± std, percent")
    mean, std = 100 * estimates.mean(axis=1), 100 * estimates.std(axis=1, ddof=1)
    for i, p in enumerate(propensities):
        cells = (f"{m:13.2f} ±{s:9.2f}" for m, s in zip(mean[i], std[i], strict=True))
        print(f"{p:4.1f}" + "".join(cells))
    print(f"True recall@{K}: {100 * recall:.2f}")


# %%
def draw(path, propensities, estimates, recall):
    """Write figure 3.2; return False without matplotlib."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for column, name in enumerate(ESTIMATES):
        mean = estimates[:, :, column].mean(axis=1)
        std = estimates[:, :, column].std(axis=1, ddof=1)
        (line,) = axes.plot(propensities, mean, label=name)
        axes.fill_between(propensities, mean - std, mean + std, color=line.get_color(), alpha=0.25)
    axes.axhline(recall, color="black", linewidth=1, label="true recall")
    axes.set(xlabel="propensity", ylabel=f"recall@{K}", ylim=(0, 2))
    axes.legend()
    if path is None:
        plt.show()
    else:
        figure.savefig(path, dpi=150)
    return True


def main(path=None, n_samples=500, n_repetitions=100, propensities=PROPENSITIES, show=False):
    """Print the table, draw the figure if `path` or `show` is given, and return the numbers."""
    data = make_xmc_classification(
        n_samples, n_labels=100, avg_labels_per_sample=4, avg_features_per_sample=40, random_state=0
    )
    # Any ranking will do that knows nothing of the recording: the one by the true probabilities.
    answers = topk_csr(data.marginals, K)
    recall = recall_at_k(data.Y_true, answers, K)
    estimates = simulate(data.Y_true, answers, propensities, n_repetitions)
    print_table(propensities, estimates, recall)
    if path and draw(path, propensities, estimates, recall):
        print(f"Figure: {path}")
    elif show:
        draw(None, propensities, estimates, recall)
    return np.array(propensities), estimates, recall


# %%
# The shaded bands are one standard deviation: the unbiased estimate is of use down to a propensity
# of one half.
if __name__ == "__main__":
    main(*sys.argv[1:2], show=len(sys.argv) == 1)
