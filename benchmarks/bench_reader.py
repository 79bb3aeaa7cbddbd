"""How many MB/s does the reader of the repository's text format parse on one core?

    python benchmarks/bench_reader.py
    python benchmarks/bench_reader.py --data FOLDER

The file is synthetic, or the training part of ``--data``. scikit-learn's ``load_svmlight_file``
reads the same rows without the header line. All run on one processor, from the page cache.
"""

import contextlib
import gzip
import os
import shutil
from pathlib import Path

import harness

METHODS = ("skxmc", "skxmc, gzip", "scikit-learn")


def make(folder, megabytes, values_digits):
    """Write a file of about the size asked for, and what the readers of it need."""
    from skxmc.datasets import dump_xmc_repository, make_xmc_classification

    per_row = 12 * 60  # bytes: about 60 features of 12 characters
    data = make_xmc_classification(
        *(max(50, int(1e6 * megabytes / per_row)), 50_000, 5_000),
        avg_features_per_sample=60.0,
        random_state=0,
    )
    dump_xmc_repository(data.X, data.Y, Path(folder) / "data.txt", precision=values_digits)
    return _companions(folder)


def convert(folder, data, values_digits):
    """Write the training part of a data set."""
    from skxmc.datasets import dump_xmc_repository, load_folder

    data = load_folder(data)
    path = Path(folder) / "data.txt"
    dump_xmc_repository(data.X_train, data.Y_train, path, precision=values_digits)
    return _companions(folder)


def _companions(folder):
    folder = Path(folder)
    with open(folder / "data.txt", "rb") as source:
        with gzip.open(folder / "data.txt.gz", "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target)
        source.seek(0)
        source.readline()  # svmlight has no header
        with open(folder / "data.svm", "wb") as target:
            shutil.copyfileobj(source, target)
    # the file and its first rows, with which a process warms up
    with open(folder / "data.txt", "rb") as source:
        _, n_features, n_labels = source.readline().split()
        head = [source.readline() for _ in range(20)]
    header = b"%d %s %s\n" % (len(head), n_features, n_labels)
    (folder / "head.txt").write_bytes(header + b"".join(head))
    return {"mb": (folder / "data.txt").stat().st_size / 1e6}


def read(method, folder):
    """Read the file on one processor."""
    with contextlib.suppress(AttributeError):  # Linux only
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    folder = Path(folder)
    if method == "scikit-learn":
        from sklearn.datasets import load_svmlight_file

        path = folder / "data.svm"

        def run():
            X, _ = load_svmlight_file(str(path), multilabel=True, zero_based=True)
            return X
    else:
        from skxmc.datasets import load_xmc_repository

        path = folder / ("data.txt.gz" if method.endswith("gzip") else "data.txt")
        load_xmc_repository(folder / "head.txt")

        def run():
            X, _ = load_xmc_repository(path)
            return X

    path.read_bytes()
    with harness.Meter() as meter:
        X = run()
    return {**meter.record("read"), "nnz": int(X.nnz), "rows": X.shape[0]}


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__.splitlines()[0], data=False)
    parser.add_argument("--data", type=Path, help="a data set instead of a synthetic one")
    parser.add_argument("--mb", type=float, default=200.0, help="size of the synthetic file")
    parser.add_argument("--digits", type=int, default=6, help="significant digits of a value")
    args = parser.parse_args()
    with harness.Session(args, __file__) as session:
        folder = session.scratch
        if args.data:
            made = session.call("convert", folder=folder, data=args.data, values_digits=args.digits)
        else:
            made = session.call("make", folder=folder, megabytes=args.mb, values_digits=args.digits)
        session.call("read", method="skxmc", folder=folder)  # compiles
        for r in range(args.rounds):
            for method in METHODS:
                result = session.call("read", method=method, folder=folder)
                result["mb"] = made["mb"]
                result["mb_per_s"] = made["mb"] / result["read_s"]
                session.add(method, result, round=r)
        session.save()
        lines = []
        for method in METHODS:
            rows = session.of(method)
            keys = ("mb", "rows", "nnz", "read_s", "mb_per_s", "read_peak_mb")
            line = {"method": method, **{key: harness.median_of(rows, key) for key in keys}}
            line["ratio"] = harness.median_ratio(rows, session.of(METHODS[0]), "read_s")
            lines.append(line)
        columns = {
            "reader": "method",
            "MB of text": ("mb", ".1f"),
            "rows": ("rows", ".0f"),
            "features stored": ("nnz", ".0f"),
            "s": ("read_s", ".2f"),
            "MB/s": ("mb_per_s", ".1f"),
            "time / ours": ("ratio", ".2f"),
            "peak MB": ("read_peak_mb", ".0f"),
        }
        harness.print_report(
            session, "Reading the repository's format", harness.markdown(lines, columns)
        )


if __name__ == "__main__":
    harness.run_script(main, {"make": make, "convert": convert, "read": read})
