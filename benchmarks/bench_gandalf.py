"""What do label texts as training rows (Gandalf) gain for the linear models, and what do they cost?

    python benchmarks/bench_gandalf.py --data DATA/debian_related_titles
    python benchmarks/bench_gandalf.py --data DATA/debian_related_titles --validate

Tables 1.2 and 1.7 of Kharbanda's thesis (2024) for ParabelTree and DismecClassifier: no label text,
the label texts alone, one-hot targets, and soft targets from co-occurrence, GLaS and random walks
at several thresholds. All variants have the same features: tf-idf of the words of training texts
and label texts. Each measurement is a process of its own; times are processor time, and the ratio
is to the same model without label texts. Pairs of ``filter_test`` are left out of all answers.

``--validate`` takes a sixth of the training rows as test rows, to choose settings by. Texts with
the same first word, cut at its second hyphen, stay on one side: names of one family of packages.
``--tokens`` says what a word is: scikit-learn's default, or hyphens, dots and plus signs inside.
"""

import json
import zlib

import harness
import numpy as np
import scipy.sparse as sp

MODELS = ("ParabelTree", "DismecClassifier")
METRICS = ("P@1", "P@3", "P@5", "PSP@1", "PSP@3", "PSP@5")
TOKENS = {"words": r"(?u)\b\w\w+\b", "compounds": r"(?u)\b\w[\w.+-]*\w\b"}

#: Parameters of GandalfAugmenter by the name of the row; None: no label texts.
VARIANTS = {
    "no label text": None,
    "label texts alone, one-hot": {"targets": "one-hot", "alone": True},
    "label texts alone, random walk 0.1": {"targets": "random-walk", "alone": True},
    "one-hot": {"targets": "one-hot"},
    "co-occurrence 0.1 (eq. 1.6)": {"targets": "cooccurrence", "smoothing": 0.0},
    "co-occurrence 0.5 (eq. 1.6)": {"targets": "cooccurrence", "smoothing": 0.0, "delta": 0.5},
    "co-occurrence 0.1, smoothing 1": {"targets": "cooccurrence"},
    "co-occurrence 0.4, smoothing 1": {"targets": "cooccurrence", "delta": 0.4},
    "GLaS 0.1 (eq. 1.9)": {"targets": "glas"},
    "GLaS 0.5 (eq. 1.9)": {"targets": "glas", "delta": 0.5},
    "random walk 0.02": {"targets": "random-walk", "delta": 0.02},
    "random walk 0.05": {"targets": "random-walk", "delta": 0.05},
    "random walk 0.1": {"targets": "random-walk"},
    "random walk 0.2": {"targets": "random-walk", "delta": 0.2},
    "random walk 0.1, half of the labels": {"targets": "random-walk", "fraction": 0.5},
    "random walk 0.1, rarer half": {"targets": "random-walk", "fraction": 0.5, "sampling": "tail"},
}


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__, rounds=1, params=False)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--params", type=json.loads, default={}, help="of the models, as JSON")
    parser.add_argument("--tokens", default="words", choices=TOKENS)
    parser.add_argument("--validate", action="store_true", help="test rows from the training rows")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds a process may take")
    args = parser.parse_args()
    with harness.Session(args, __file__) as session:
        for r in range(args.rounds):
            for model in args.models:
                for variant in args.variants:
                    result = session.attempt(
                        *(f"{model}, {variant}", "fit"),
                        data=str(args.data.resolve()),
                        model=model,
                        params=args.params,
                        augmenter=VARIANTS[variant],
                        seed=r,
                        threads=args.threads,
                        validate=args.validate,
                        n_labels=args.labels,
                        pattern=TOKENS[args.tokens],
                        timeout=args.timeout,
                    )
                    if result is not None:
                        session.add(
                            *(f"{model}, {variant}", result),
                            model=model,
                            variant=variant,
                            round=r,
                            tokens=args.tokens,
                            rows_of="train" if args.validate else "test",
                        )
                        session.flush()
        if not session.rows:
            raise SystemExit("No model was trained:\n" + "\n".join(session.failures.values()))
        session.save()
        report(session, args)


def report(session, args):
    """Print a table for each model."""
    tables = []
    for model in args.models:
        plain = session.of(f"{model}, no label text")
        lines = []
        for variant in args.variants:
            rows = session.of(f"{model}, {variant}")
            if rows:
                keys = ("rows", "positives", "fit_cpu_s", "augment_cpu_s", *METRICS)
                line = {key: harness.median_of(rows, key) for key in keys}
                line["variant"] = variant
                line["ratio"] = harness.median_ratio(rows, plain, "fit_cpu_s") if plain else None
                lines.append(line)
        columns = {
            model: "variant",
            **{name: (name, ".2f") for name in METRICS},
            "rows": ("rows", ",.0f"),
            "targets": ("positives", ",.0f"),
            "fit CPU s": ("fit_cpu_s", ".1f"),
            "/ no label text": ("ratio", ".2f"),
            "augment CPU s": ("augment_cpu_s", ".1f"),
        }
        tables.append(harness.markdown(lines, columns))
    where = "held-out training rows" if args.validate else "test rows"
    harness.print_report(session, f"Gandalf, {session.rows[0]['data']}, {where}", *tables)


# ------------------------------------------------------------------ worker
def fit(data, model, params, augmenter, seed, threads, validate, n_labels, pattern):
    """Augment, train, answer the test rows."""
    import skxmc
    from skxmc.label_space import GandalfAugmenter, inverse_propensity
    from skxmc.metrics import precision_at_k, psp_at_k

    texts, Y, label_texts, test_texts, Y_test, exclude = load(data, validate, n_labels, seed)
    X, X_test, Z = features(texts, test_texts, label_texts, pattern)
    if model == "ParabelTree":
        params = {"random_state": seed, **params}
    estimator = getattr(skxmc, model)(n_jobs=threads, **params)
    harness.warm_up(params, model)
    n_rows, alone = X.shape[0], augmenter is not None and augmenter.pop("alone", False)
    with harness.Meter() as augmenting:
        if augmenter is None:
            rows, targets = X, Y
        else:
            rows, targets = GandalfAugmenter(random_state=seed, **augmenter).fit_resample(X, Y, Z)
        if alone:
            rows, targets = rows[n_rows:], targets[n_rows:]
    with harness.Meter() as fitting:
        estimator.fit(rows, targets)
    answers = estimator.predict_topk(X_test, k=5, exclude=exclude)
    weights = inverse_propensity(Y)
    precision = precision_at_k(Y_test, answers, harness.KS)
    scored = psp_at_k(Y_test, answers, weights, harness.KS)
    return {
        **fitting.record("fit"),
        **augmenting.record("augment"),
        **{f"P@{k}": 100 * float(value) for k, value in zip(harness.KS, precision)},
        **{f"PSP@{k}": 100 * float(value) for k, value in zip(harness.KS, scored)},
        "rows": rows.shape[0],
        "positives": targets.nnz,
    }


def load(folder, validate, n_labels, seed):
    """Return texts and labels for training, label texts, and texts, labels, filter for testing."""
    from skxmc.datasets import load_folder

    data = load_folder(folder)
    if data.train_texts is None or data.label_texts is None:
        raise SystemExit(f"{folder} has no texts, or no label texts")
    Y, Y_test = data.Y_train, data.Y_test
    filters = [data.filter_train, data.filter_test]
    label_texts = data.label_texts
    if n_labels is not None and n_labels < Y.shape[1]:
        chosen = np.sort(np.random.default_rng(seed).permutation(Y.shape[1])[:n_labels])
        Y, Y_test = (sp.csr_array(A)[:, chosen] for A in (Y, Y_test))
        filters = [None if A is None else sp.csr_array(A)[:, chosen] for A in filters]
        label_texts = [label_texts[label] for label in chosen]
    if not validate:
        return data.train_texts, Y, label_texts, data.test_texts, Y_test, filters[1]
    held_out = np.array([family(text) % 6 == 0 for text in data.train_texts])
    kept, held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    exclude = None if filters[0] is None else sp.csr_array(filters[0])[held_out]
    return (
        *([data.train_texts[i] for i in kept], Y[kept], label_texts),
        *([data.train_texts[i] for i in held_out], Y[held_out], exclude),
    )


def family(text):
    """Return a number that texts share whose first word begins alike."""
    word = (text.split() or [""])[0]
    return zlib.crc32("-".join(word.split("-")[:2]).encode())


def features(texts, test_texts, label_texts, pattern):
    """Return tf-idf rows of all three; the words are those of training and label texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        sublinear_tf=True, min_df=2, dtype=np.float32, token_pattern=pattern
    )
    vectorizer.fit([*texts, *label_texts])
    return [sp.csr_array(vectorizer.transform(part)) for part in (texts, test_texts, label_texts)]


if __name__ == "__main__":
    harness.run_script(main, {"fit": fit})
