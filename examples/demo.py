"""From texts to tags
==================

Tag Debian packages from their descriptions: train, predict and evaluate on real data.

::

    python examples/demo.py

The data come with the package: 24,050 descriptions to learn from, 6,243 to be tested on, 567 tags.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline

from skxmc import DismecClassifier, save_model
from skxmc.datasets import load_debtags
from skxmc.label_space import PropensityWarning, inverse_propensity
from skxmc.metrics import evaluate_topk, format_evaluation


# %%
def main(every=1):
    """Run the demo; ``every=10`` takes only each tenth document."""
    data = load_debtags()
    train_texts, Y_train = data.train_texts[::every], data.Y_train[::every]
    test_texts, Y_test = data.test_texts[::every], data.Y_test[::every]
    print(
        f"Data: Debian package descriptions, {len(train_texts):,} for training and "
        f"{len(test_texts):,} for testing, {Y_train.shape[1]} tags, "
        f"{Y_train.sum() / len(train_texts):.1f} tags a description"
    )

    seconds = compile_kernels()
    print(
        f"Kernels ready after {seconds:.1f} s: Numba compiles them when first used and keeps them "
        "on disk. The times below do not contain this."
    )

    # Texts become rows of word weights, and one linear classifier a tag reads them. Y is a sparse
    # matrix of 0 and 1 with a row for each text and a column for each tag.
    model = Pipeline(
        [
            (
                "tfidf",
                TfidfVectorizer(
                    sublinear_tf=True,
                    min_df=2,
                    strip_accents="unicode",
                    token_pattern=r"\w[\w+.#-]*\w|\w",  # keeps c++ and x-window whole
                    dtype=np.float32,
                ),
            ),
            ("classifier", DismecClassifier(n_jobs=-1, verbose=1)),
        ]
    )
    start = time.perf_counter()
    model.fit(train_texts, Y_train)
    fit_s = time.perf_counter() - start

    # The five best tags of each text, best first: two arrays, labels (column numbers) and scores.
    start = time.perf_counter()
    answers = model[-1].predict_topk(model[:-1].transform(test_texts), k=5)
    predict_s = time.perf_counter() - start

    # PSP gives more weight to rare tags; how much follows from their counts in the training data.
    with warnings.catch_warnings():
        # The usual propensities do not fit these tags, which it says at length: PSP is an average
        # with more weight for rare tags here, no estimate.
        warnings.simplefilter("ignore", PropensityWarning)
        evaluation = evaluate_topk(Y_test, answers, inv_propensity=inverse_propensity(Y_train))
    with tempfile.TemporaryDirectory() as folder:
        save_model(model[-1], Path(folder) / "model")
        model_mb = sum(file.stat().st_size for file in Path(folder).rglob("*.*")) / 1e6

    print("\nOn the test descriptions, in percent:")
    print(format_evaluation(evaluation, ["P", "PSP", "nDCG@5", "coverage@5"]))
    print(f"\nfit          {fit_s:8.1f} s    from texts to model")
    print(f"predict      {predict_s:8.1f} s    from texts to five tags each")
    print(f"peak memory  {peak_memory()}    of the whole process")
    print(f"model        {model_mb:8.1f} MB   of the classifier on disk, uncompressed")

    print("\nThree test descriptions. + marks predicted tags that are true; a score above 0 means")
    print("that the classifier would assign the tag.")
    for i in np.random.default_rng(0).choice(len(test_texts), 3, replace=False):
        true = Y_test[[i]].indices
        print(f"\n  {test_texts[i][:90]}...")
        print(f"    true:      {', '.join(data.label_names[true])}")
        for label, score in zip(answers.labels[i], answers.scores[i], strict=True):
            print(f"    {'+' if label in true else ' '} {score:6.2f}   {data.label_names[label]}")


# %%
def compile_kernels():
    """Fit and use a tiny model, so that everything is compiled; return the seconds it took."""
    start = time.perf_counter()
    tiny = sp.eye_array(4, dtype=np.float32, format="csr")
    DismecClassifier().fit(tiny, tiny).predict_topk(tiny)
    return time.perf_counter() - start


def peak_memory():
    """Return the greatest memory that the process has taken so far, as text."""
    try:
        import resource
    except ImportError:  # Windows
        return "     n/a   "
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak / (1e6 if sys.platform == 'darwin' else 1e3):8.0f} MB"  # bytes or KiB


# %%
if __name__ == "__main__":
    main()
