"""Choose C by cross-validation with a sparse Y
============================================

Shows GridSearchCV over a pipeline from text to tags, with metrics of ranked answers
(`get_topk_scorer`) and folds that spread rare labels evenly (`IterativeStratifiedKFold`).

::

    python examples/grid_search.py
"""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skxmc import DismecClassifier
from skxmc.datasets import load_emoji
from skxmc.metrics import get_topk_scorer, precision_at_k
from skxmc.model_selection import IterativeStratifiedKFold


# %%
def main(n_splits=3, Cs=(0.1, 1.0, 10.0)):
    """Search, print the table of results, and test the best model."""
    data = load_emoji()  # names of emoji -> keywords
    # Keywords with fewer names than there are folds cannot be in each of them: leave them out.
    frequent = np.flatnonzero(data.Y_train.sum(axis=0) >= 5)
    Y_train, Y_test = data.Y_train[:, frequent], data.Y_test[:, frequent]
    print(f"{Y_train.shape[0]:,} names, {Y_train.shape[1]} keywords")

    pipeline = Pipeline(
        [("tfidf", TfidfVectorizer(sublinear_tf=True)), ("classifier", DismecClassifier(n_jobs=-1))]
    )
    search = GridSearchCV(
        pipeline,
        {"classifier__C": Cs},  # parameters of any step: "tfidf__ngram_range" and so on
        scoring={name: get_topk_scorer(name) for name in ("precision@1", "ndcg@5")},
        refit="ndcg@5",  # the metric that decides
        cv=IterativeStratifiedKFold(n_splits),
    )
    search.fit(data.train_texts, Y_train)

    print(f"mean of {n_splits} folds, in percent\n{'C':>8} {'P@1':>7} {'nDCG@5':>7}")
    results = search.cv_results_
    columns = (results[f"mean_test_{name}"] for name in ("precision@1", "ndcg@5"))
    for C, p1, ndcg in zip(Cs, *columns, strict=True):
        print(f"{C:8g} {100 * p1:7.2f} {100 * ndcg:7.2f}")

    print(f"\nBest by nDCG@5: {search.best_params_}")
    # The best parameters have been fitted on all training rows; predict_proba is sparse, as Y was.
    p1 = precision_at_k(Y_test, search.predict_proba(data.test_texts), k=1)
    print(f"P@1 on the test set: {100 * p1:.2f} %")
    return search


# %%
def draw(search):
    """Draw both metrics over C, with the standard deviation over the folds."""
    import matplotlib.pyplot as plt

    results = search.cv_results_
    Cs = [parameters["classifier__C"] for parameters in results["params"]]
    _, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name in ("precision@1", "ndcg@5"):
        mean, std = (100 * results[f"{part}_test_{name}"] for part in ("mean", "std"))
        axes.errorbar(Cs, mean, std, marker="o", capsize=4, label=name)
    axes.set(xscale="log", xlabel="C", ylabel="mean ± std of the folds, percent")
    axes.legend()
    plt.show()


# %%
if __name__ == "__main__":
    draw(main())
