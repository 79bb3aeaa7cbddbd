"""How good is UniDECClassifier, by which half, and what is each of its parts worth?

    python benchmarks/bench_unidec.py --data FOLDER
    python benchmarks/bench_unidec.py --data FOLDER --ablations --params '{"epochs": 15}'
    python benchmarks/bench_unidec.py --data FOLDER --held-out 12 --params '{"temperature": 0.07}'

Trains on texts and label texts, and scores by both halves, by the dual encoder and by the
classifier (tables 2.4 and 2.5 of Kharbanda's thesis). Pairs of ``filter_test`` are left out of all
answers. ``--ablations`` are the rows of tables 2.4 to 2.6 and, as in chapter 1, the label texts as
further rows; ``--models`` takes some of them by name.

``--held-out N`` never looks at the test rows: of the training rows one in N is kept out and
answered, all of those with the same first word (but for what surrounds a name, such as "lib" and
"-dev") together. Settings are to be chosen by it.
"""

import hashlib
import json
import re

import harness
import numpy as np
import scipy.sparse as sp

#: What differs from the default, by name.
MODELS = {
    "unidec": {},
    "SC, SC": {"loss": "supcon"},
    "SC, SC+BCE": {"loss": "supcon", "classifier_loss": "supcon+bce"},
    "DS, BCE": {"classifier_loss": "bce"},
    "DS, DS+BCE": {"classifier_loss": "decoupled+bce"},
    "no hard negatives": {"n_hard_negatives": 0, "n_positives": 6},
    "DePSL": {"mode": "encoder"},
    "DePSL, one direction": {"mode": "encoder", "lambda_encoder": 1.0},
    "DePSL, SC": {"mode": "encoder", "loss": "supcon"},
    "DePSL, SC, one direction": {"mode": "encoder", "loss": "supcon", "lambda_encoder": 1.0},
    "classifier alone": {"mode": "classifier"},
    "classifier from zeros": {"classifier_init": "zeros"},
    "GLaS": {"glas": 1.0},
    "label texts as rows": {"gandalf": "one-hot"},
    "Gandalf": {"gandalf": "random-walk"},
}
HALVES = ("both", "encoder", "classifier")
METRICS = tuple(f"{metric}@{k}" for metric in ("P", "PSP") for k in harness.KS)

# What surrounds the name of a package.
_PREFIX = re.compile(
    r"^(lib|python3?-|golang-|github-|node-|ruby-|r-cran-|r-bioc-|fonts-|gir1\.2-|elpa-|php-)+"
)


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__, rounds=1)
    parser.add_argument("--ablations", action="store_true", help="all models, not the default only")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), metavar="MODEL")
    parser.add_argument("--held-out", type=int, help="one in so many training rows is the test")
    parser.add_argument(
        "--encoder", type=json.loads, default={}, help="parameters of StaticEncoder, as JSON"
    )
    parser.add_argument("--timeout", type=float, default=7200, help="seconds a process may take")
    args = parser.parse_args()
    names = args.models or (list(MODELS) if args.ablations else ["unidec"])
    with harness.Session(args, __file__) as session:
        for r in range(args.rounds):
            for name in names:
                result = session.attempt(
                    name,
                    "fit",
                    folder=str(args.data.resolve()),
                    params={**args.params, **MODELS[name]},
                    encoder=args.encoder,
                    held_out=args.held_out,
                    threads=args.threads,
                    seed=r,
                    timeout=args.timeout,
                )
                if result is None:
                    continue
                shown = result.pop("params")
                for half, metrics in result.pop("halves").items():
                    row = {**result, **metrics, "round": r, "half": half, "params": shown}
                    session.add(f"{name} / {half}", row, held_out=args.held_out)
                session.flush()
        session.save()
        report(session, args)


def report(session, args):
    """Print the table."""
    methods = dict.fromkeys(row["method"] for row in session.rows)
    rows = []
    for method in methods:
        own = session.of(method)
        name, half = method.split(" / ")
        row = {"name": name, "half": half}
        row |= {key: harness.median_of(own, key) for key in ("train_s", "predict_s", *METRICS)}
        rows.append(row)
    columns = {"model": "name", "scored by": "half", "train s": ("train_s", ".0f")}
    columns |= {"predict s": ("predict_s", ".1f")}
    columns |= {metric: (metric, ".2f") for metric in METRICS}
    where = "held-out training rows" if args.held_out else "test rows"
    title = f"UniDECClassifier on {session._common['data']}, {where}"
    harness.print_report(session, title, harness.markdown(rows, columns))


# ------------------------------------------------------------------ worker side
def fit(folder, params, encoder, held_out, threads, seed):
    """Train, answer by each half, evaluate."""
    from skxmc import UniDECClassifier
    from skxmc.datasets import load_folder
    from skxmc.label_space import inverse_propensity
    from skxmc.metrics import precision_at_k, psp_at_k
    from skxmc.neural import StaticEncoder

    data = load_folder(folder)
    weights = inverse_propensity(data.Y_train)
    texts, Y = list(data.train_texts), sp.csr_array(data.Y_train)
    new, truth = list(data.test_texts), sp.csr_array(data.Y_test)
    exclude = data.get("filter_test")
    label_text = list(data.label_texts)
    if held_out:
        out = np.array([_group(text, held_out) for text in texts])
        new, texts = ([text for text, o in zip(texts, out) if o == wanted] for wanted in (1, 0))
        truth, Y = Y[out], Y[~out]
        exclude = data.get("filter_train")
        exclude = None if exclude is None else sp.csr_array(exclude)[out]
    params = dict(params)
    shown = json.dumps(params, sort_keys=True)
    gandalf = params.pop("gandalf", None)
    if gandalf is not None:
        from skxmc.label_space import GandalfAugmenter

        augmenter = GandalfAugmenter(gandalf, random_state=seed)
        texts, Y = augmenter.fit_resample(texts, Y, label_text)
    if encoder:
        params["encoder"] = StaticEncoder(**encoder)
    model = UniDECClassifier(**{"random_state": seed, "n_jobs": threads, **params})
    with harness.Meter() as meter:
        model.fit(texts, Y, label_text=label_text)
    result = {"train_s": meter.wall_s, "train_cpu_s": meter.cpu_s, "train_mb": meter.peak_mb}
    result |= {"halves": {}, "params": shown, "epochs": model.n_iter_}
    for half in HALVES if model.mode == "both" else (model.mode,):
        model.set_params(score_with=half)
        with harness.Meter() as meter:
            answers = model.predict_topk(new, 5, exclude=exclude)
        metrics = {"predict_s": meter.wall_s}
        for k in harness.KS:
            metrics[f"P@{k}"] = 100 * precision_at_k(truth, answers, k=k)
            metrics[f"PSP@{k}"] = 100 * psp_at_k(truth, answers, weights, k=k)
        result["halves"][half] = metrics
    return result


def _group(text, n):
    """Whether a text is among the one in n that are kept out."""
    name = re.split(r"[\s:,]", text.lower(), maxsplit=1)[0]
    stem = re.split(r"[-.0-9]", _PREFIX.sub("", name), maxsplit=1)[0] or name
    return int(hashlib.md5(stem.encode()).hexdigest()[:8], 16) % n == 0


if __name__ == "__main__":
    harness.run_script(main, {"fit": fit})
