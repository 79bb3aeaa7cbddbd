"""How much better than an untrained bi-encoder is LMTX, where a teacher errs on some answers?

    python benchmarks/bench_lmtx.py --data FOLDER [FOLDER ...] --embeddings EMB

``EMB/<name of the data folder>`` holds what ``embed.py`` wrote: sentence embeddings of documents
and label texts. LMTXClassifier trains a matrix after them (``encoder="precomputed"``) on a random
sample of ``--documents`` training documents whose labels it does not see. The teacher answers from
their true labels, and wrongly on ``--errors`` of the pairs, always the same ones. P@k is taken on
all test documents; "untrained" ranks labels by the cosine of the embeddings, and "relative" is the
gain in P@1 over that.

``--encoder PATH`` encodes the texts by a model folder instead: frozen with a matrix after it, or
all of it trained with ``--fine-tune``. ``--params`` are for LMTXClassifier.
"""

import argparse
import gzip
import json
from pathlib import Path

import harness
import numpy as np
import scipy.sparse as sp

PARTS = ("train", "test")


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__, folders="+", params=False, rounds=3)
    parser.add_argument("--embeddings", type=Path, help="folder of the folders of embed.py")
    parser.add_argument("--encoder", type=Path, help="folder of a text encoder")
    parser.add_argument("--fine-tune", action="store_true", help="train the text encoder too")
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--errors", type=float, default=0.1, help="share of wrong answers")
    parser.add_argument(
        "--params", type=json.loads, default={}, help="parameters of LMTXClassifier as JSON"
    )
    parser.add_argument("--timeout", type=float, default=7200, help="seconds a process may take")
    args = parser.parse_args()
    if (args.embeddings is None) == (args.encoder is None):
        parser.error("give --embeddings or --encoder")
    for folder in args.data:
        measure(argparse.Namespace(**{**vars(args), "data": folder}))


def measure(args):
    """Measure and report one data set."""
    with harness.Session(args, __file__) as session:
        embeddings = args.embeddings and str((args.embeddings / args.data.name).resolve())
        for r in range(args.rounds):
            result = session.call(
                "fit",
                folder=str(args.data.resolve()),
                embeddings=embeddings,
                encoder=args.encoder and str(args.encoder.resolve()),
                fine_tune=args.fine_tune,
                n_documents=args.documents,
                errors=args.errors,
                params=args.params,
                seed=args.seed + r,
                threads=args.threads,
                timeout=args.timeout,
            )
            untrained = result.pop("untrained")
            about = {"round": r, "errors": args.errors, "n_documents": args.documents}
            common = {key: result[key] for key in ("versions", "load")}
            session.add("untrained", {**untrained, **common}, **about)
            params = json.dumps(args.params, sort_keys=True)
            session.add("LMTX", result, **about, fine_tune=args.fine_tune, params=params)
            session.flush()
        session.save()
        report(session, args)


def report(session, args):
    """Print a line for the untrained encoder and one for the trained."""
    base = harness.median_of(session.of("untrained"), "P@1")
    keys = ("P@1", "P@3", "P@5", "calls", "best_round", "yes", "fit_s")
    lines = []
    for method in ("untrained", "LMTX"):
        rows = session.of(method)
        line = {"model": method, **{key: harness.median_of(rows, key) for key in keys}}
        precisions = [row["P@1"] for row in rows]
        line["range"] = f"{min(precisions):.2f} to {max(precisions):.2f}"
        line["relative"] = 100 * (line["P@1"] / base - 1)
        lines.append(line)
    columns = {
        "model": "model",
        **{name: (name, ".2f") for name in ("P@1", "P@3", "P@5")},
        "P@1 of the rounds": "range",
        "relative %": ("relative", "+.1f"),
        "calls a document": ("calls", ".2f"),
        "best round": ("best_round", ".0f"),
        "yes %": ("yes", ".1f"),
        "fit s": ("fit_s", ".1f"),
    }
    harness.print_report(
        session,
        f"Zero-shot, {session.rows[0]['data']}, {args.documents:,} documents, a teacher that errs "
        f"on {args.errors:.0%}",
        harness.markdown(lines, columns),
    )


# ------------------------------------------------------------------ worker
def fit(folder, embeddings, encoder, fine_tune, n_documents, errors, params, seed, threads):
    """Train on a sample of the documents; return the precision on the test documents."""
    from skxmc.neural import LMTXClassifier

    Y = {part: sp.csr_array(sp.load_npz(Path(folder, f"Y_{part}.npz"))) for part in PARTS}
    if encoder is None:
        X = {p: np.load(Path(embeddings, f"X_{p}.npy")).astype(np.float32) for p in PARTS}
        labels = np.load(Path(embeddings, "labels.npy")).astype(np.float32)
        options = {"encoder": "precomputed"}
    else:
        X = {p: np.array(read(Path(folder, f"{p}_texts.txt.gz")), dtype=object) for p in PARTS}
        labels = read(Path(folder, "label_texts.txt.gz"))
        options = {"encoder": encoder, "trainable": fine_tune}
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(len(X["train"]), min(n_documents, len(X["train"])), replace=False))
    documents = X["train"][sample]
    teacher = ErringTeacher(documents, labels, Y["train"][sample], errors, seed)
    model = LMTXClassifier(
        teacher, **{**options, "random_state": seed, "n_jobs": threads, **params}
    )
    with harness.Meter() as meter:
        model.fit(documents, label_text=labels)
    result = precisions(model.predict_topk(X["test"], k=5).labels, Y["test"])
    # one question about each document, of which nothing is learned: the encoder as it began
    untrained = LMTXClassifier(
        lambda texts, label_texts: np.zeros(len(texts)),
        **{**options, "n_rounds": 1, "n_questions": 1, "validation_fraction": 0, "n_jobs": threads},
    )
    untrained.fit(documents[:1], label_text=labels)
    result["untrained"] = precisions(untrained.predict_topk(X["test"], k=5).labels, Y["test"])
    result["calls"] = teacher.n_asked / len(sample)
    result["best_round"] = model.best_round_
    result["yes"] = 100 * model.history_[-1]["yes"]
    result["judged"] = json.dumps([round(r["judged P@1"], 4) for r in model.history_])
    result.update(meter.record("fit"))
    return result


class ErringTeacher:
    """Answers from the true labels, and wrongly on a share of the pairs, always the same ones."""

    def __init__(self, documents, labels, Y, errors, seed):
        self.documents = {_key(row): i for i, row in enumerate(documents)}
        self.labels = {_key(row): j for j, row in enumerate(labels)}
        wrong = np.random.default_rng([seed, 1]).random(Y.shape, dtype=np.float32) < errors
        self.answers = (Y.toarray() > 0) ^ wrong
        self.n_asked = 0

    def __call__(self, documents, labels):
        self.n_asked += len(documents)
        rows = [self.documents[_key(row)] for row in documents]
        return self.answers[rows, [self.labels[_key(row)] for row in labels]]


def _key(row):
    return row if isinstance(row, str) else row.tobytes()


def precisions(labels, Y):
    """Return P@1, P@3 and P@5 in percent."""
    hits = np.stack([np.isin(found, Y[[i]].indices) for i, found in enumerate(labels)])
    return {f"P@{k}": 100 * float(hits[:, :k].mean()) for k in (1, 3, 5)}


def read(path):
    """Return the lines of a compressed text file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        return [line.rstrip("\n") for line in stream]


if __name__ == "__main__":
    harness.run_script(main, {"fit": fit})
