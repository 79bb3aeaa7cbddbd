"""Probabilities that mean something
=================================

Probabilities that mean something: calibrate two models on real data.

"This tag applies with 80 % probability" should be right in 80 % of the cases. The scores of a
linear classifier and of a label tree are not like that: they rank the tags well, but nothing made
them frequencies. `IsotonicXMCCalibrator` learns the step from score to probability on rows that the
model was not trained on. The ranking stays what it was, so precision@k does too.

Which rows are held out together matters. Packages of one source, such as frozen-bubble and
frozen-bubble-data, have much the same description. New packages lack such siblings, so a row must
not find its own among the rows of training either: it would be scored too well, and the
probabilities would become too high. The rows are sorted by name: `KFold` keeps neighbours together.

::

    python examples/calibration.py
    python examples/calibration.py reliability.png     draws into a file, without a window
"""

import sys
import time

from sklearn.model_selection import KFold

from skxmc import DismecClassifier, ParabelTree
from skxmc.calibration import IsotonicXMCCalibrator
from skxmc.datasets import load_debtags
from skxmc.metrics import evaluate_topk, format_evaluation

RANGES = [(0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0)]


# %%
# Two models, each raw and calibrated, are measured on descriptions that neither has seen.
def main(figure=None, every=4, n_splits=5, show=False):
    """Calibrate two models on each ``every``-th document; draw into the file ``figure``."""
    data = load_debtags(return_tfidf=True)
    X, Y = data.X_train[::every], data.Y_train[::every]
    X_test, Y_test = data.X_test[::every], data.Y_test[::every]
    print(f"{X.shape[0]:,} package descriptions to learn from, {X_test.shape[0]:,} to test on")

    evaluations, probabilities = {}, {}
    for name, model in {
        "linear": DismecClassifier(n_jobs=-1),
        "tree": ParabelTree("parabel", random_state=0, n_jobs=-1),
    }.items():
        start = time.perf_counter()
        # a fit for each fold, which scores the rows it has not seen; then one on all rows
        calibrated = IsotonicXMCCalibrator(model, cv=KFold(n_splits), random_state=0).fit(X, Y)
        print(f"{name}: fitted and calibrated in {time.perf_counter() - start:.1f} s")
        raw = calibrated.estimator_
        for state, of_state in (("raw", raw), ("calibrated", calibrated)):
            key = f"{name}, {state}"
            probabilities[key] = of_state.predict_proba(X_test)
            evaluations[key] = evaluate_topk(Y_test, probabilities[key], calibration=True)

    print("\nPrecision (larger is better) and calibration errors (smaller is better), in percent:")
    print(format_evaluation(evaluations, ["P@1", "P@5", "ECE", "Brier@5"]))

    print("\nHow often was a tag right that was given with a probability of ...? In percent:")
    print(" " * 18 + "".join(f"{low:9.1f} to {high:.1f}" for low, high in RANGES))
    for key, of_key in probabilities.items():
        rates = [100 * hit_rate(Y_test, of_key, *limits) for limits in RANGES]
        print(f"{key:<18}" + "".join(f"{rate:16.1f}" for rate in rates))

    if figure is not None or show:
        draw(Y_test, probabilities, figure)
    return evaluations, probabilities


def hit_rate(Y, probabilities, low, high):
    """Return which fraction of the pairs with a probability in (low, high] is in ``Y``."""
    above, beyond = probabilities > low, probabilities > high
    n_right = Y.multiply(above).sum() - Y.multiply(beyond).sum()
    return n_right / (above.sum() - beyond.sum())


# %%
# A reliability diagram has the probability that was said on one axis and how often it came true on
# the other. On the diagonal, the two are the same; below it, the model promised too much.
def draw(Y, probabilities, figure=None):
    """Draw a reliability diagram for each model, raw and calibrated; show it without a file."""
    import matplotlib.pyplot as plt

    from skxmc.inspection import ReliabilityDisplay

    models = list(dict.fromkeys(key.partition(",")[0] for key in probabilities))
    picture, axes = plt.subplots(
        *(2, len(models)), height_ratios=[4, 1], figsize=(9, 5), sharex=True, layout="constrained"
    )
    for name, of_model in zip(models, axes.T):
        for state in ("raw", "calibrated"):
            ReliabilityDisplay.from_predictions(
                *(Y, probabilities[f"{name}, {state}"]), name=state, ax=of_model, random_state=0
            )
        of_model[0].set_title(f"{name}, 5 best tags")
    if figure is None:
        plt.show()
    else:
        picture.savefig(figure)
        print(f"\nDrawn to {figure}")


# %%
if __name__ == "__main__":
    main(*sys.argv[1:2], show=len(sys.argv) == 1)
