"""Label trees: presets, reasons, new labels
=========================================

Label trees on real data: two presets, the reasons of a suggestion, new labels in a fitted tree.

A label tree asks a row a few questions on its way to a label, instead of one for each label. This
example trains two presets of `ParabelTree`, shows the upper part of a tree and why a tag was
suggested, and adds tags to a fitted model.

::

    python examples/label_tree.py
"""

import time
import warnings

import numpy as np

from skxmc import ParabelTree
from skxmc.datasets import load_debtags
from skxmc.label_space import PropensityWarning, inverse_propensity
from skxmc.metrics import evaluate_topk, format_evaluation, precision_at_k


# %%
def main(every=3, n_new=60):
    """Train on each ``every``-th document; hold back ``n_new`` tags and add them afterwards."""
    data = load_debtags(return_tfidf=True)
    X, Y = data.X_train[::every], data.Y_train[::every]
    X_test, Y_test = data.X_test[::every], data.Y_test[::every]
    names = data.label_names
    print(f"{X.shape[0]:,} package descriptions, {Y.shape[1]} tags")
    print(f"Kernels compiled in {compile_kernels(X[:200], Y[:200]):.1f} s, not in the times below")

    # ---- two presets: three wide trees, and one balanced tree
    models = {}
    for preset in ("bonsai", "xr-linear"):
        model = ParabelTree(preset, random_state=0, n_jobs=-1)
        start = time.perf_counter()
        model.fit(X, Y)
        fit_s = time.perf_counter() - start
        answers = model.predict_topk(X_test, k=5)
        with warnings.catch_warnings():
            # The usual propensities do not fit these tags, which it says at length: here PSP is no
            # estimate, only an average with more weight for rare tags.
            warnings.simplefilter("ignore", PropensityWarning)
            evaluation = evaluate_topk(Y_test, answers, inv_propensity=inverse_propensity(Y))
        shape = ", ".join(
            f"{tree.n_nodes} nodes in {tree.max_depth} levels" for tree in model.trees_
        )
        print(f"\n{preset}: fitted in {fit_s:.1f} s; trees: {shape}")
        print(format_evaluation(evaluation, ["P", "PSP"]))
        models[preset] = model

    # ---- what the clusters hold
    model = models["xr-linear"]
    print("\nThe first children of each node of the tree, down to the tags:")
    print(model.trees_[0].export_text(names, max_depth=2, max_children=4))

    # ---- why a tag was suggested: the words that moved the score of each node on its path
    row, text = X_test[[0]], data.test_texts[0]
    suggestions = model.predict_topk(row, k=3).labels[0]
    print(f"\n{text[:90]}...")
    print(f"  suggested: {', '.join(names[suggestions])}")
    # every fourth package has role::program; another suggestion says more
    label = next(j for j in suggestions if names[j] != "role::program")
    print(f"  {names[label]}, because:")
    steps = model.explain(row, label, n_features=5)
    for step in steps:
        what = f"cluster {step.node}" if step.label < 0 else names[step.label]
        words = zip(data.feature_names[step.features], step.contributions, strict=True)
        reasons = ", ".join(f"{word} {value:+.2f}" for word, value in words)
        print(f"    {what:<22} score {step.score:5.2f}  bias {step.bias:5.2f}  {reasons}")

    # ---- new tags in a fitted tree: hold some back, fit, add them
    known, new = split_labels(Y, n_new)
    order = np.concatenate([known, new])  # the labels of the model first, new ones after them
    grown = ParabelTree("xr-linear", random_state=0, n_jobs=-1).fit(X, Y[:, known])
    before = precision_at_k(Y_test[:, order], grown.predict_topk(X_test, k=5), k=5)
    start = time.perf_counter()
    grown.add_labels(X, Y[:, order])
    add_s = time.perf_counter() - start
    answers = grown.predict_topk(X_test, k=5)
    after = precision_at_k(Y_test[:, order], answers, k=5)
    at_once = precision_at_k(Y_test, model.predict_topk(X_test, k=5), k=5)
    print(f"\nP@5 over all tags, fitted with {len(known)} of them: {before:.3f}")
    print(f"after {len(new)} more were added in {add_s:.1f} s:     {after:.3f}")
    print(f"all fitted at once:                      {at_once:.3f}")
    return models, (row, steps), grown, answers


# %%
def compile_kernels(X, Y):
    """Train both presets on a few rows and use them; return the seconds it took."""
    start = time.perf_counter()
    for preset in ("bonsai", "xr-linear"):
        ParabelTree(preset, max_leaf=20, arity=4, random_state=0).fit(X, Y).predict_topk(X)
    return time.perf_counter() - start


def split_labels(Y, n_new):
    """Return the labels to begin with and ``n_new`` random ones of at least 10 rows."""
    frequent = np.flatnonzero(np.asarray(Y.sum(axis=0)).ravel() >= 10)
    new = np.sort(np.random.default_rng(0).choice(frequent, n_new, replace=False))
    return np.setdiff1d(np.arange(Y.shape[1]), new), new


# %%
def draw(model):
    """Draw the upper part of a tree."""
    import matplotlib.pyplot as plt

    from skxmc.inspection import plot_tree

    names = load_debtags().label_names
    _, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    plot_tree(model.trees_[0], label_names=names, max_depth=2, max_children=4, ax=axes)
    plt.show()


# %%
if __name__ == "__main__":
    draw(main()[0]["xr-linear"])
