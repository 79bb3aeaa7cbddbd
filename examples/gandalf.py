"""Train on the texts of the labels
================================

Train on the texts of the labels (Gandalf): what it gains, and for which labels.

The data are the names of 1,953 emoji with 3,498 search keywords, two or three training names a
keyword. A keyword is a short text of the kind of the names, so it can be a training row too: with
itself as its label (one-hot), or with soft targets for the keywords that it occurs with.

The table has precision@1 and @5, the propensity-scored precision@5, which counts rare labels more,
and the share of the test names' labels that are found by precision@5, by how many training names
the label has. With matplotlib that last part is drawn, into the file that is given or on the
screen.

::

    python examples/gandalf.py [figure.png]
"""

import itertools
import sys

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from skxmc import ParabelTree
from skxmc.datasets import load_emoji
from skxmc.label_space import GandalfAugmenter, inverse_propensity
from skxmc.metrics import precision_at_k, psp_at_k

K = 5
BINS = (1, 2, 4, 8, 10**9)  # training names of a label, upper ends excluded
VARIANTS = {
    "no label text": None,
    "one-hot": {"targets": "one-hot"},
    "co-occurrence": {"targets": "cooccurrence", "delta": 0.1, "smoothing": 1.0},
    "random walk": {"targets": "random-walk", "delta": 0.05},
}


def found_by_frequency(Y_train, Y_test, answers):
    """Share of the labels of the test rows among the answers, by frequency of the label."""
    counts = np.bincount(Y_train.indices, minlength=Y_train.shape[1])
    rows = np.repeat(np.arange(Y_test.shape[0]), np.diff(Y_test.indptr))
    hit = (answers.labels[rows] == Y_test.indices[:, None]).any(axis=1)
    bin_of = np.searchsorted(BINS, counts[Y_test.indices], side="right") - 1
    total = np.bincount(bin_of, minlength=len(BINS) - 1)
    return np.bincount(bin_of, hit, len(BINS) - 1) / np.maximum(total, 1)


# %%
# The same tree is trained on the names alone, and on the names and the keywords.
def evaluate(variants=VARIANTS):
    """Return {variant: (P@1, P@5, PSP@5, found by frequency)}, in percent."""
    data = load_emoji()
    # The words of the label texts must be known too.
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(data.train_texts + data.label_texts)
    X, X_test = vectorizer.transform(data.train_texts), vectorizer.transform(data.test_texts)
    weights = inverse_propensity(data.Y_train)
    results = {}
    for name, options in variants.items():
        rows, targets = X, data.Y_train
        if options is not None:
            augmenter = GandalfAugmenter(vectorizer=vectorizer, random_state=0, **options)
            rows, targets = augmenter.fit_resample(X, data.Y_train, data.label_texts)
        answers = ParabelTree(random_state=0).fit(rows, targets).predict_topk(X_test, K)
        results[name] = (
            100 * precision_at_k(data.Y_test, answers, 1),
            100 * precision_at_k(data.Y_test, answers, K),
            100 * psp_at_k(data.Y_test, answers, weights, K),
            100 * found_by_frequency(data.Y_train, data.Y_test, answers),
        )
    return results


def bin_names():
    """Name the bins of `BINS`."""
    names = [f"{a}" if b == a + 1 else f"{a} to {b - 1}" for a, b in itertools.pairwise(BINS)]
    return [*names[:-1], f"{BINS[-2]} or more"]


# %%
def draw(path, results):
    """Draw the labels found, by frequency; return False without matplotlib."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    places, width = np.arange(len(BINS) - 1), 0.8 / len(results)
    for number, (name, (*_, found)) in enumerate(results.items()):
        axes.bar(places + (number - len(results) / 2 + 0.5) * width, found, width, label=name)
    axes.set(xlabel="training names of the label", ylabel=f"found among {K} answers, percent")
    axes.set_xticks(places, bin_names())
    axes.legend()
    if path is None:
        plt.show()
    else:
        figure.savefig(path, dpi=150)
    return True


def main(path=None, variants=VARIANTS, show=False):
    """Print the table, draw the picture if `path` or `show` is given, and return the numbers."""
    results = evaluate(variants)
    print(f"{'':16}{'P@1':>8}{'P@5':>8}{'PSP@5':>8}   found, by training names of the label")
    print(f"{'':40}" + "".join(f"{name:>11}" for name in bin_names()))
    for name, (p1, p5, psp5, found) in results.items():
        cells = "".join(f"{share:11.1f}" for share in found)
        print(f"{name:16}{p1:8.2f}{p5:8.2f}{psp5:8.2f}{cells}")
    if path is not None:
        print(f"Picture: {path}" if draw(path, results) else "No picture: matplotlib is missing.")
    elif show:
        draw(None, results)
    return results


# %%
# The rarer a keyword is, the more its own text helps.
if __name__ == "__main__":
    main(*sys.argv[1:2], show=len(sys.argv) == 1)
