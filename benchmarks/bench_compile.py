"""What do importing skxmc and compiling its kernels cost?

    python benchmarks/bench_compile.py

Each measurement is a new process. "cold" has an empty ``NUMBA_CACHE_DIR``, "warm" the one that the
cold run filled. Compilation is the time of a first call minus that of the same call again.
"""

import sys
import time

import harness
import numpy as np


def import_only(statement):
    """Time one import statement; say which heavy modules it brought in."""
    start = time.perf_counter()
    exec(statement)
    wall = time.perf_counter() - start
    heavy = [name for name in ("torch", "matplotlib", "sklearn", "numba") if name in sys.modules]
    return {"import_s": wall, "imports": " ".join(heavy) or "-"}


def first_calls(params, dense):
    """Time the first and the second small fit and prediction of this process."""
    start = time.perf_counter()
    from skxmc import DismecClassifier
    from skxmc.datasets import make_xmc_classification

    imported = time.perf_counter() - start
    data = make_xmc_classification(300, 200, 40, random_state=0)
    X = data.X.toarray() if dense else data.X
    Y = np.asarray(data.Y.toarray()) if dense else data.Y
    result = {"import_s": imported}
    for call in ("first", "second"):
        with harness.Meter() as fitting:
            model = DismecClassifier(**params).fit(X, Y)
        with harness.Meter() as predicting:
            model.predict_topk(X, k=5)
            model.predict_proba(X)
        result.update(fitting.record(f"{call}_fit"), **predicting.record(f"{call}_predict"))
    for step in ("fit", "predict"):
        result[f"compile_{step}_s"] = result[f"first_{step}_s"] - result[f"second_{step}_s"]
    return result


IMPORTS = ("import skxmc", "from skxmc import DismecClassifier")


def main():
    """Parse the command line, measure, report."""
    parser = harness.parser(__doc__.splitlines()[0], data=False, rounds=5)
    args = parser.parse_args()
    with harness.Session(args, __file__) as session:
        for r in range(args.rounds):
            for statement in IMPORTS:
                session.add(statement, session.call("import", statement=statement), round=r)
            for dense in (False, True):
                kind = "dense" if dense else "sparse"
                cache = session.scratch / f"cache-{kind}-{r}"
                cache.mkdir()
                for state in ("cold", "warm"):
                    result = session.call(
                        "first_calls",
                        params=args.params,
                        dense=dense,
                        env={"NUMBA_CACHE_DIR": str(cache)},
                    )
                    session.add(f"{state}, {kind} X and Y", result, round=r)
        session.save()
        report(session)


def report(session):
    """Print two tables: imports, and first calls."""
    imports, calls = [], []
    for method in dict.fromkeys(row["method"] for row in session.rows):
        rows = session.of(method)
        line = {"method": method, "imports": rows[0].get("imports")}
        keys = {key for row in rows for key in row if key.endswith("_s")}
        line.update((key, harness.median_of(rows, key)) for key in keys)
        (imports if method in IMPORTS else calls).append(line)
    columns = {"cache, input": "method"}
    for step in ("fit", "predict"):
        columns[f"first {step} s"] = (f"first_{step}_s", ".3f")
        columns[f"second {step} s"] = (f"second_{step}_s", ".3f")
        columns[f"{step}: compile or load s"] = (f"compile_{step}_s", ".3f")
    columns["whole process s"] = ("process_s", ".2f")
    harness.print_report(
        session,
        "Imports and compilation",
        harness.markdown(
            imports,
            {
                "statement": "method",
                "s": ("import_s", ".3f"),
                "whole process s": ("process_s", ".2f"),
                "of torch, matplotlib, sklearn, numba": "imports",
            },
        ),
        harness.markdown(calls, columns),
    )


if __name__ == "__main__":
    harness.run_script(main, {"import": import_only, "first_calls": first_calls})
