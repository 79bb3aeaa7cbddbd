"""Sparse output layers: size against accuracy
===========================================

Sparse output layers on real data: how much a label needs to see, and what it costs.

A dense output layer has a weight for each label and feature. This example trains layers with few
weights for each label on package descriptions, with inputs that are random, that change in
training, or that are chosen by the data, and compares accuracy and memory.

::

    python examples/sparse_head.py
"""

import time

import numpy as np

from skxmc import SparseDSTClassifier
from skxmc.datasets import load_debtags
from skxmc.metrics import precision_at_k

LAYERS = {
    "random, static": {"connections": "random", "dynamics": "static"},
    "random, SET": {"connections": "random", "dynamics": "set"},
    "random, RigL": {"connections": "random", "dynamics": "rigl"},
    "by covariance": {"connections": "data", "dynamics": "static"},
    "groups of 16": {"connections": "data", "dynamics": "static", "layout": "group"},
    "bfloat16": {"connections": "data", "dynamics": "static", "precision": "bfloat16"},
}


# %%
def main(every=5, fan_in=64, epochs="auto"):
    """Train on each ``every``-th document with ``fan_in`` words for each tag."""
    data = load_debtags(return_tfidf=True)
    X, Y = data.X_train[::every], data.Y_train[::every]
    X_test, Y_test = data.X_test[::every], data.Y_test[::every]
    common = np.bincount(X.indices, minlength=X.shape[1]) >= 3  # the others teach hardly anything
    X, X_test = X[:, common], X_test[:, common]
    n_features, n_labels = X.shape[1], Y.shape[1]
    print(f"{X.shape[0]:,} package descriptions, {n_features:,} words, {n_labels} tags")
    options = {"fan_in": fan_in, "epochs": epochs, "random_state": 0, "n_jobs": -1}
    options |= {"rewire_interval": 20, "rewire_fraction": 0.3}

    footprint = SparseDSTClassifier(**options).memory_footprint(n_labels, n_features, sparse=True)
    print(f"\nWhat a training takes with {fan_in} words for each tag:\n{footprint}")
    million = SparseDSTClassifier(hidden=16_384, optimizer="sgd").memory_footprint(670_091, 768)
    layer = million.weights + million.indices + million.optimizer
    dense = 8 * 670_091 * 16_384
    print(f"\n670,091 labels, 16,384 hidden units: {layer / 2**20:,.0f} MiB of output layer and")
    print(f"momentum; with all weights it would be {dense / 2**20:,.0f} MiB")

    print(f"\n{'layer':<16}{'P@1':>7}{'P@5':>7}{'seconds':>9}")
    found = {}
    for name, layer in LAYERS.items():
        start = time.perf_counter()
        model = SparseDSTClassifier(**{**options, **layer}).fit(X, Y)
        seconds = time.perf_counter() - start  # the first ones compile kernels
        answers = model.predict_topk(X_test, k=5)
        found[name] = [100 * precision_at_k(Y_test, answers, k=k) for k in (1, 5)]
        print(f"{name:<16}{found[name][0]:7.2f}{found[name][1]:7.2f}{seconds:9.1f}")
    return found, model


# %%
def draw(found):
    """Draw precision at 1 and 5 of each layer."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(figsize=(7.5, 3.5), layout="constrained")
    for shift, column, name in ((-0.2, 0, "P@1"), (0.2, 1, "P@5")):
        heights = [values[column] for values in found.values()]
        axes.bar_label(
            axes.bar([x + shift for x in range(len(found))], heights, 0.4, label=name), fmt="%.0f"
        )
    axes.set_xticks(range(len(found)), [name.replace(", ", ",\n") for name in found])
    axes.set(ylabel="precision, percent", ylim=(0, 100))
    axes.legend(loc="upper left", ncols=2)
    plt.show()


# %%
# Inputs that the data choose are better than random ones, also than random ones that change.
if __name__ == "__main__":
    draw(main()[0])
