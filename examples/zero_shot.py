"""Tags without a labelled row
===========================

Tag texts without a labelled row: a teacher answers questions, a small encoder learns from it.

LMTXClassifier has package descriptions and the texts of the tags. It asks a teacher whether a tag
fits a description, ten questions a description at most, and trains a bi-encoder on the answers. The
encoder asks about the tags that it thinks near, so it asks better as it learns. True tags are used
to measure, and to play the teacher: here it knows them, but every tenth answer is wrong. A language
model takes its place when a chat-completions endpoint is given::

    python examples/zero_shot.py [url model]

The answers are then kept in a folder, zero_shot_answers, and not asked for again. Needs the extra
"text": pip install "skxmc[text]", for its tokenizer; there is no torch in it.
"""

import sys
import time
import warnings

import numpy as np

from skxmc.datasets import load_debtags
from skxmc.metrics import evaluate_topk, format_evaluation
from skxmc.neural import ChatTeacher, LMTXClassifier

PROMPT = (
    "A package of Debian is described so: {text}\n\nDoes the tag '{label}' fit the package? Answer "
    "with one word, yes or no."
)


# %%
class ErringTeacher:
    """Knows the true tags; a share of its answers is wrong, always the same ones."""

    def __init__(self, texts, labels, Y, errors=0.1):
        self.rows = {text: i for i, text in enumerate(texts)}
        self.columns = {label: j for j, label in enumerate(labels)}
        wrong = np.random.default_rng(0).random(Y.shape) < errors
        self.answers = (Y.toarray() > 0) ^ wrong

    def __call__(self, texts, label_texts):
        rows = [self.rows[text] for text in texts]
        return self.answers[rows, [self.columns[label] for label in label_texts]]


# %%
def main(url=None, model=None, every=8):
    """Learn from each `every`-th description; return the evaluations and the classifier."""
    data = load_debtags()
    texts, test_texts = data.train_texts[::every], data.test_texts[::every]
    Y_test = data.Y_test[::every]
    if url is None:
        teacher = ErringTeacher(texts, data.label_texts, data.Y_train[::every])
        folder = None
    else:
        teacher = ChatTeacher(url, model, PROMPT)
        folder = "zero_shot_answers"
    print(f"{len(texts):,} descriptions, {len(data.label_texts)} tags, no labels\n")

    start = time.perf_counter()
    classifier = LMTXClassifier(
        teacher, n_rounds=5, n_questions=10, cache_dir=folder, random_state=0, n_jobs=2
    )
    classifier.fit(texts, label_text=data.label_texts)
    seconds = time.perf_counter() - start

    print("round  questions  answered yes  best tag is right, says the teacher")
    for number, row in enumerate(classifier.history_):
        kept = "  <- kept" if number == classifier.best_round_ else ""
        print(
            f"{number:5d} {row['questions']:10,d} {row['yes']:13.0%} "
            f"{row['judged P@1']:36.0%}{kept}"
        )
    print(f"\n{classifier.n_teacher_calls_:,} questions, {seconds:.0f} s\n")

    untrained = LMTXClassifier(no_teacher, n_rounds=1, n_questions=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the teacher said yes to nothing
        untrained.fit(texts, label_text=data.label_texts)
    evaluations = {
        name: evaluate_topk(Y_test, one.predict_topk(test_texts, k=5))
        for name, one in (("untrained", untrained), ("trained", classifier))
    }
    print(f"On {len(test_texts):,} other descriptions, by their true tags:\n")
    print(format_evaluation(evaluations, ["P", "nDCG", "coverage@5"]))
    print("\nA description, and the tags that are found for it:")
    text = test_texts[0]
    print(f"  {text[:150]}...")
    for label in classifier.predict_topk([text], k=3).labels[0]:
        print(f"    {data.label_texts[label]}")
    return evaluations, classifier


def no_teacher(texts, label_texts):
    """Answer nothing: what is left is the encoder as it begins."""
    return np.zeros(len(texts))


# %%
def draw(history):
    """Draw how the judgement of the teacher rises with the questions."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    asked = [row["questions"] for row in history]
    axes.plot(asked, [100 * row["judged P@1"] for row in history], "o-", label="best tag is right")
    yes = [100 * row["yes"] for row in history]
    axes.plot(asked[1:], yes[1:], "s--", label="questions answered yes so far")
    axes.set(xlabel="questions so far", ylabel="percent, says the teacher", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend()
    plt.show()


# %%
# What was asked about already is not asked again, and still the share of yeses hardly falls: the
# encoder asks better as it learns.
if __name__ == "__main__":
    draw(main(*sys.argv[1:3])[1].history_)
