"""Train on labels of which some are missing
=========================================

Annotators skip labels that apply, rare ones above all. This data set is synthetic, so the complete
labels are known and so is the *propensity* of each label, the probability that it was recorded. Two
models learn from the incomplete labels:

* vanilla: what is not recorded counts as wrong;
* weighting="propensity": each recorded label weighs 2 / p - 1, which makes up for those that are
  missing (a convex surrogate of the unbiased loss).

Both are tested on the complete labels, which in practice nobody has, and by propensity-scored
precision (PSP) on the incomplete ones, which tries to estimate that.

::

    python examples/missing_labels.py
"""

from sklearn.metrics import precision_recall_fscore_support

from skxmc import DismecClassifier
from skxmc.datasets import make_xmc_classification
from skxmc.metrics import evaluate_topk, format_evaluation


# %%
def main(n_samples=8_000, n_labels=300):
    """Train both models and print one table a kind of labels."""
    data = make_xmc_classification(
        n_samples,
        n_features=2 * n_labels,
        n_labels=n_labels,
        propensity=("jpv", 0.55, 1.5),
        random_state=0,
    )
    train, test = slice(0, n_samples // 2), slice(n_samples // 2, None)  # rows are independent
    recorded = data.Y.nnz / data.Y_true.nnz
    print(
        f"{n_samples // 2:,} training rows, {n_labels} labels; {100 * recorded:.0f} % of what "
        "applies is recorded\n"
    )

    models = {
        "vanilla": DismecClassifier(n_jobs=-1),
        "propensity": DismecClassifier(
            n_jobs=-1, weighting="propensity", propensity=data.propensities
        ),
    }
    on_complete, on_recorded, assigned = {}, {}, {}
    for name, model in models.items():
        model.fit(data.X[train], data.Y[train])
        answers = model.predict_topk(data.X[test], k=5)
        on_complete[name] = evaluate_topk(data.Y_true[test], answers)
        on_recorded[name] = evaluate_topk(
            data.Y[test], answers, inv_propensity=1 / data.propensities
        )
        assigned[name] = model.predict(data.X[test])

    print("On the complete labels of the test rows, in percent:")
    print(format_evaluation(on_complete, ["P", "R@5", "macro-R@5", "coverage@5"]))
    print("\nOn the recorded labels of the test rows, in percent:")
    print(format_evaluation(on_recorded, ["P", "PSP"]))

    # The weights move margins up, which shows most in what predict assigns.
    print("\nLabels assigned by predict, against the complete ones, in percent:")
    print("            precision  recall     F1")
    for name, Y_predicted in assigned.items():
        scores = precision_recall_fscore_support(
            data.Y_true[test], Y_predicted, average="micro", zero_division=0
        )
        on_complete[name] |= dict(zip(("precision", "recall", "F1"), scores[:3], strict=True))
        precision, recall, f1 = (100 * score for score in scores[:3])
        print(f"{name:<12} {precision:8.2f} {recall:7.2f} {f1:6.2f}")
    return on_complete, on_recorded, assigned


# %%
def draw(on_complete):
    """Draw the quality of the ranking and that of predict, on the complete labels."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
    kinds = {
        "the best labels": ("P@1", "P@5", "R@5"),
        "what predict assigns": ("precision", "recall", "F1"),
    }
    for of_kind, (title, metrics) in zip(axes, kinds.items(), strict=True):
        for shift, (name, values) in zip((-0.2, 0.2), on_complete.items(), strict=True):
            places = [x + shift for x in range(len(metrics))]
            heights = [100 * values[metric] for metric in metrics]
            bars = of_kind.bar(places, heights, 0.4, label=name)
            of_kind.bar_label(bars, fmt="%.0f")
        of_kind.set_xticks(range(len(metrics)), metrics)
        of_kind.set(title=title, ylim=(0, 90))
    axes[0].set_ylabel("on the complete labels, percent")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    plt.show()


# %%
# The weights leave the ranking nearly as it is; more of what applies is assigned.
if __name__ == "__main__":
    draw(main()[0])
