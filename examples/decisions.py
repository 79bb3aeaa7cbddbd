"""Which five tags to answer?
==========================

Which five tags to answer? Decisions that fit the metric, on real data.

The five most probable tags are the best answer if every hit counts the same. If every *tag* counts
the same, however rare it is, other answers are better, and the probabilities are enough to find
them: nothing is trained anew. `MacroAtKPredictor` does it for a whole batch of rows at once, or
learns a rule for rows that come one by one.

::

    python examples/decisions.py
    python examples/decisions.py tradeoff.png     draws into a file, without a window
"""

import sys
import time

import numpy as np
from sklearn.frozen import FrozenEstimator

from skxmc import ParabelTree
from skxmc.datasets import load_debtags
from skxmc.decision import MacroAtKPredictor
from skxmc.inspection import TradeoffDisplay
from skxmc.metrics import evaluate_topk, format_evaluation

K = 5
METRICS = ("macro_precision", "macro_recall", "macro_f1", "coverage")


# %%
# One model, and decisions for several metrics from its probabilities.
def main(figure=None, every=3, show=False):
    """Decide about each ``every``-th document; draw into the file ``figure``."""
    data = load_debtags(return_tfidf=True)
    X, Y = data.X_train[::every], data.Y_train[::every]
    X_test, Y_test = data.X_test[::every], data.Y_test[::every]
    print(f"{X.shape[0]:,} package descriptions to learn from, {X_test.shape[0]:,} to decide about")
    tree = ParabelTree("plt", random_state=0, n_jobs=-1).fit(X, Y)

    # ---- one set of probabilities, many decisions
    evaluations = {f"the {K} most probable": evaluate(Y_test, tree.predict_topk(X_test, k=K))}
    model = MacroAtKPredictor(FrozenEstimator(tree), k=K, random_state=0).fit(X, Y)
    for metric in METRICS:
        model.set_params(metric=metric, alpha=1.0)
        evaluations[f"{metric} alone"] = evaluate(Y_test, model.predict(X_test))
    model.set_params(metric="macro_f1", alpha=0.9)
    start = time.perf_counter()
    decision = model.predict(X_test)
    seconds = time.perf_counter() - start
    evaluations["0.9 macro_f1 + 0.1 precision"] = evaluate(Y_test, decision)
    print(
        f"\nThe same probabilities, decided for different metrics (one decision: {seconds:.1f} s):"
    )
    print(format_evaluation(evaluations, ["P", "macro-P", "macro-R", "macro-F1", "coverage"]))

    # ---- row by row: a rule learned in fit, from probabilities of rows the model has not seen
    rule = MacroAtKPredictor(
        ParabelTree("plt", random_state=0), method="frank-wolfe", k=K, cv=3, random_state=0
    ).fit(X, Y)
    one_by_one = [rule.predict(X_test[[i]]) for i in range(20)]
    together = rule.predict(X_test)
    same = all((row != together[[i]]).nnz == 0 for i, row in enumerate(one_by_one))
    value = evaluate(Y_test, together)[f"macro-F1@{K}"]
    print(
        f"\nFrank-Wolfe: top-{K} rules of the weights {np.round(rule.weight_, 2)}, "
        f"macro-F1@{K} {100 * value:.1f}"
    )
    print(f"a row alone gets the answer that it gets among others: {same}")

    # ---- what does the decision change? tags that are answered at all
    before = distinct(tree.predict_topk(X_test, k=K).labels)
    after = distinct(decision.indices)
    print(f"\n{before} different tags are answered by the most probable, {after} by the mixture.")

    # ---- the price of each mixture, against weighting by the label frequency
    display = TradeoffDisplay.from_estimator(
        model, X_test, Y_test, metric="macro_f1", alphas=[0, 0.5, 0.8, 0.9, 0.95, 1], plot=False
    )
    print(f"\nprecision@{K} and macro-F1@{K}, in percent, over the share of macro F1:")
    for name, (precision, value) in display.curves.items():
        points = zip(precision, value, strict=True)
        print(f"  {name:<8}" + "  ".join(f"{100 * p:.1f} / {100 * v:.1f}" for p, v in points))
    if figure is not None or show:
        draw(display, figure)
    return evaluations, display


# %%
# The picture has what each mixture gains in macro F1 and what it costs in precision.
def draw(display, figure=None):
    """Draw the trade-off; show it if no file is given."""
    import matplotlib.pyplot as plt

    picture, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    display.plot(ax=axes)
    if figure is None:
        plt.show()
    else:
        picture.savefig(figure, dpi=150)
        print(f"\nDrawn to {figure}")


# %%
def evaluate(Y, answers):
    """Return the metrics at K of ranked answers, or of decisions with K answers a row."""
    return evaluate_topk(Y, answers, ks=(K,))


def distinct(labels):
    """Return the number of different labels among answers, -1 not counted."""
    return len(np.unique(labels[labels >= 0]))


# %%
if __name__ == "__main__":
    main(*sys.argv[1:2], show=len(sys.argv) == 1)
