"""Labels that have texts
======================

Labels that have texts: a dual encoder and a classifier in one training, and labels without rows.

Names of symbols are tagged with their search keywords; most of the keywords have one or two rows.
The example compares what each half of UniDECClassifier knows with a linear tree that sees no label
text, by how often a keyword was seen in training, and lets it find keywords that it was never
trained on.

::

    python examples/label_text.py
"""

import time

import numpy as np
import scipy.sparse as sp

from skxmc import ParabelTree, UniDECClassifier
from skxmc.datasets import load_emoji
from skxmc.metrics import precision_at_k, recall_at_k


# %%
def main(epochs=40, n_hidden=300):
    """Train for ``epochs``; ``n_hidden`` keywords lose all their rows."""
    data = load_emoji(return_tfidf=True)
    Y, Y_test = sp.csr_array(data.Y_train), sp.csr_array(data.Y_test)
    counts = np.bincount(Y.indices, minlength=Y.shape[1])
    in_test = np.bincount(Y_test.indices, minlength=len(counts)) > 0
    candidates = np.flatnonzero((counts > 0) & in_test)
    hidden = np.random.default_rng(0).choice(candidates, n_hidden, replace=False)
    keep = np.ones(Y.shape[1])
    keep[hidden] = 0
    Y_seen = sp.csr_array(Y @ sp.diags_array(keep))
    Y_seen.eliminate_zeros()
    print(f"{Y.shape[0]:,} names, {Y.shape[1]:,} keywords, {n_hidden} of them without their rows")
    groups = {
        "no row": hidden,
        "1 or 2": np.setdiff1d(np.flatnonzero((counts > 0) & (counts <= 2)), hidden),
        "3 and more": np.setdiff1d(np.flatnonzero(counts > 2), hidden),
    }

    start = time.perf_counter()
    model = UniDECClassifier(
        dimension=128, epochs=epochs, batch_size=128, n_hard_negatives=3, random_state=0
    )
    model.fit(list(data.train_texts), Y_seen, label_text=list(data.label_texts))
    print(f"UniDECClassifier: {time.perf_counter() - start:.0f} s")
    tree = ParabelTree(random_state=0).fit(data.X_train, Y_seen)

    answers = {"ParabelTree": tree.predict_topk(data.X_test, 10)}
    for half in ("classifier", "encoder", "both"):
        model.set_params(score_with=half)
        answers[f"UniDEC, {half}"] = model.predict_topk(list(data.test_texts), 10)
    print(f"\n{'':20s}{'P@1':>7}   recall@10 of keywords with this many rows in training")
    print(f"{'':27s}" + "".join(f"{name:>12}" for name in groups))
    found = {}
    for name, answer in answers.items():
        found[name] = [100 * precision_at_k(Y_test, answer, k=1)]
        found[name] += [100 * _recall(Y_test, answer, labels) for labels in groups.values()]
        print(f"{name:20s}{found[name][0]:7.1f}" + "".join(f"{v:12.1f}" for v in found[name][1:]))

    # a keyword that comes later needs no training at all
    names = [data.label_texts[label] for label in hidden[:3]]
    rest = UniDECClassifier(dimension=64, epochs=5, batch_size=128, random_state=0)
    known = np.setdiff1d(np.arange(Y.shape[1]), hidden[:3])
    rest.fit(list(data.train_texts), Y_seen[:, known], label_text=_texts(data, known))
    rest.add_labels(names)
    print(f"\nadded: {names}; labels {len(known)} to {rest.n_labels_ - 1} of {rest.n_labels_}")
    return found, model


# %%
def _texts(data, labels):
    return [data.label_texts[label] for label in labels]


def _recall(truth, answer, labels):
    """Recall@10 among some of the labels, over the rows that have any of them."""
    only = sp.csr_array(truth @ sp.diags_array(np.isin(np.arange(truth.shape[1]), labels) * 1.0))
    only.eliminate_zeros()
    rows = np.flatnonzero(np.diff(only.indptr))
    some = answer._replace(labels=answer.labels[rows], scores=answer.scores[rows])
    return recall_at_k(only[rows], some, k=10)


def draw(found):
    """Draw the recall of each model, by how often a keyword was seen in training."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    groups = ["no row", "1 or 2", "3 and more"]
    width = 0.8 / len(found)
    for number, (name, (_, *recalls)) in enumerate(found.items()):
        places = [x + (number - len(found) / 2 + 0.5) * width for x in range(len(groups))]
        axes.bar(places, recalls, width, label=name)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(xlabel="training rows of the keyword", ylabel="recall@10, percent")
    axes.legend()
    plt.show()


# %%
# Keywords without a row are found by their text alone, which a tree cannot do.
if __name__ == "__main__":
    draw(main()[0])
