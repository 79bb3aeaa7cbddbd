"""A file of your own
==================

Train on a file of your own and write the predictions to a file.

The format is that of the extreme classification repository: after a header ``rows features labels``
one row a line, ``label,label feature:value feature:value``. To have a file, this example writes one
first.

::

    python examples/own_data.py
    python examples/own_data.py train.txt test.txt predictions.txt
"""

import sys
import tempfile
from pathlib import Path

from skxmc import DismecClassifier
from skxmc.datasets import dump_xmc_repository, load_emoji, load_xmc_repository
from skxmc.metrics import evaluate_topk, format_evaluation


# %%
def main(train_file, test_file, predictions_file):
    """Train on one file, answer the rows of the other, and evaluate."""
    X_train, Y_train = load_xmc_repository(train_file)
    # Without a header the largest index would set the width; the training data know it better.
    n_features, n_labels = X_train.shape[1], Y_train.shape[1]
    X_test, Y_test = load_xmc_repository(test_file, n_features=n_features, n_labels=n_labels)
    print(f"Read {X_train.shape[0]:,} rows, {n_features:,} features, {n_labels:,} labels")

    # Rows need not have unit length: the classifier scales them (normalize="l2").
    model = DismecClassifier(n_jobs=-1).fit(X_train, Y_train)

    # A line a row, "label:score label:score ...", best first.
    answers = model.predict_topk(X_test, k=5)
    with open(predictions_file, "w", encoding="ascii") as file:
        for labels, scores in zip(answers.labels, answers.scores, strict=True):
            row = (f"{j}:{s:.4f}" for j, s in zip(labels, scores, strict=True) if j >= 0)
            file.write(" ".join(row) + "\n")
    print(f"Wrote {Path(predictions_file).name}")
    print(format_evaluation(evaluate_topk(Y_test, answers), ["P", "R", "nDCG"]))


def write_example_files(folder, n_labels=3498):
    """Write two small files in repository format; return their paths."""
    data = load_emoji(return_tfidf=True)
    train_file, test_file = Path(folder) / "train.txt", Path(folder) / "test.txt"
    dump_xmc_repository(data.X_train, data.Y_train[:, :n_labels], train_file)
    dump_xmc_repository(data.X_test, data.Y_test[:, :n_labels], test_file)
    return train_file, test_file


# %%
if __name__ == "__main__":
    if len(sys.argv) == 4:
        main(*sys.argv[1:])
    elif len(sys.argv) == 1:
        with tempfile.TemporaryDirectory() as folder:
            main(*write_example_files(folder), Path(folder) / "predictions.txt")
    else:
        sys.exit(__doc__)
