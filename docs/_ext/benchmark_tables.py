"""Tables of ``benchmarks/results/*.csv`` for the page of benchmarks, made when the page is built.

The directive ``{benchmark} train`` shows ``bench_train.csv``: for each setting the medians over the
rounds of its latest run, and below them the machine, the versions and the dates of these rows.
"""

import csv
import statistics
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


class Table(NamedTuple):
    """What is shown of a file: columns that tell rows apart, and columns with figures."""

    keys: dict  # column -> title
    figures: dict  # column -> (title, decimals), or (title, decimals, factor)
    without: tuple = ()  # methods that are left out


_QUALITY = {name: (name, 2) for name in ("P@1", "P@3", "P@5", "PSP@1", "PSP@3", "PSP@5")}
_FIT = {"fit_s": ("fit, s", 1), "fit_peak_mb": ("memory of the fit, MB", 0)}
_DATA = {"data": "data", "method": "method"}
_LAYER = {
    "layer_mb": ("layer, MB", 0),
    "forward_s": ("forward, ms", 2, 1e3),
    "backward_s": ("backward, ms", 2, 1e3),
    "step_bce_s": ("step, cross-entropy, ms", 2, 1e3),
    "step_hinge_s": ("step, squared hinge, ms", 2, 1e3),
}
TABLES = {
    "train": Table(_DATA, {**_FIT, "scaled_s": ("scaled to all labels, s", 1), **_QUALITY}),
    "predict": Table(
        _DATA,
        {
            "predict_s": ("test set, s", 2),
            "row_ms": ("one row, ms", 2),
            "load_s": ("load, s", 3),
            "model_mb": ("model, MB", 1),
        },
        without=("saved plain", "saved compressed", "saved compressed float16"),
    ),
    "scaling": Table(
        {"method": "rows x labels"},
        {**_FIT, "predicted_mb": ("predicted, MB", 0), "model_mb": ("model, MB", 1)},
    ),
    "tree_train": Table(
        _DATA, {**_FIT, "predict_s": ("test set, s", 2), "model_mb": ("model, MB", 1), **_QUALITY}
    ),
    "tree_predict": Table(
        {**_DATA, "beam": "beam", "form": "on disk"},
        {
            "rows_per_s": ("rows a second", 0),
            "row_ms": ("one row, ms", 2),
            "load_s": ("load, s", 3),
            "model_mb": ("model, MB", 1),
            "P@1": ("P@1", 2),
            "P@5": ("P@5", 2),
        },
    ),
    "tree_scale": Table(
        {"n_labels": "labels", "method": "method"},
        {
            "fit_s": ("fit, s", 1),
            "fit_gib": ("whole process, GiB", 1),
            "row_ms": ("one row, ms", 2),
            "model_mb": ("model, MB", 0),
            "P@1": ("P@1", 2),
        },
    ),
    "decisions": Table(
        {**_DATA, "k": "k"},
        {
            "decide_s": ("decide, s", 2),
            "sweep_s": ("one sweep, s", 2),
            "expected": ("expected value", 4),
            "true": ("on the true labels", 4),
        },
    ),
    "calibration": Table(
        {"data": "data", "method": "method", "protocol": "held-out rows", "grouping": "maps"},
        {
            **{f"ece@{k} before": (f"ECE@{k} before", 3) for k in (1, 3, 5)},
            **{f"ece@{k} after": (f"after, @{k}", 3) for k in (1, 3, 5)},
            "fit_s": ("fit, s", 1),
            "apply_s": ("apply, s", 2),
        },
    ),
    "sparse_head": Table({"method": "layer"}, _LAYER, without=("peak", "torch.mm")),
    "sparse_head_gpu": Table({"method": "layer"}, _LAYER, without=("peak", "torch.mm")),
    "dst_memory": Table(
        {"n_labels": "labels", "method": "weights"},
        {
            "arithmetic_mib": ("layer, MiB", 0),
            "predicted_mib": ("fit, predicted, MiB", 0),
            "fit_peak_mib": ("fit, measured, MiB", 0),
            "fit_total_mib": ("whole process, MiB", 0),
            "step_ms": ("step, ms", 0),
        },
    ),
    "dst_accuracy": Table(
        {"data": "data", "features": "features", "method": "layer", "params": "parameters"},
        {**_FIT, "head_weights": ("weights of the layer", 0), **_QUALITY},
    ),
    "serve": Table(
        {"data": "data", "clients": "clients", "max_wait_ms": "longest wait for others, ms"},
        {
            "requests_per_s": ("requests a second", 0),
            "p50_ms": ("median, ms", 1),
            "p99_ms": ("99 % within, ms", 1),
            "rows_per_batch": ("rows a batch", 1),
        },
    ),
    "model_files": Table(
        {"method": "model"},
        {
            "files_mb": ("files, MB", 0),
            "open_ms": ("opens, ms", 1),
            "first_row_ms": ("first row, ms", 1),
            "next_row_ms": ("next rows, ms", 1),
            "mapped_mb": ("mapped after the first row, MB", 0),
            "private_all_rows_mb": ("private after 50 rows, MB", 0),
            "verify_s": ("opens with all data verified, s", 1),
        },
    ),
    "cluster": Table(
        {**_DATA, "where": "workers"},
        {"fit_s": ("fit, s", 1), "sent_mb": ("sent, MB", 1), "model_mb": ("model, MB", 1)},
    ),
    "gandalf": Table(_DATA, {**_FIT, **_QUALITY}),
    "unidec": Table(
        {**_DATA, "params": "parameters"}, {"train_cpu_s": ("fit, processor s", 0), **_QUALITY}
    ),
    "xr_transformer": Table(_DATA, {"fit_cpu_s": ("fit, processor s", 0), **_QUALITY}),
    "lmtx": Table(
        {**_DATA, "n_documents": "documents"},
        {"fit_cpu_s": ("fit, processor s", 0), "calls": ("questions a document", 1), **_QUALITY},
    ),
}


def read(name):
    """Return the rows of a file, as dictionaries of text."""
    with open(RESULTS / f"bench_{name}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row.get("scaled_s", row.get("fit_s")) != row.get("fit_s"):
            # a part of the labels was trained, for the time only: it has no quality to speak of
            row.update(dict.fromkeys(_QUALITY, ""))
    return rows


def latest_runs(rows, keys):
    """Return {values of the keys: rows of the latest run with them}; a run has one state of git."""
    runs = {}
    for row in rows:
        key = tuple(row.get(name) or "" for name in keys)
        group = runs.setdefault(key, [])
        if group and group[-1]["git"] != row["git"]:
            group.clear()
        group.append(row)
    return runs


def median(rows, column, decimals, factor=1.0):
    """Return the median of a column as text; empty if no row has it."""
    values = []
    for row in rows:
        try:
            values.append(factor * float(row.get(column) or ""))
        except ValueError:
            continue
    return f"{statistics.median(values):,.{decimals}f}" if values else ""


def table(name):
    """Return the head and the rows of a table, as text, and the CSV rows that are in it."""
    spec = TABLES[name]
    rows = [row for row in read(name) if row["method"] not in spec.without]
    runs = latest_runs(rows, spec.keys)
    body, used = [], []
    for key, of_run in runs.items():
        cells = [median(of_run, column, *how) for column, (_, *how) in spec.figures.items()]
        if any(cells):
            body.append([*key, *cells, str(len(of_run))])
            used += of_run
    head = [*spec.keys.values(), *(title for title, *_ in spec.figures.values()), "rounds"]
    kept = [i for i in range(len(head)) if any(row[i] for row in body)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in body], used


def provenance(rows):
    """Return one sentence a machine: what the rows were measured on, with what, and when."""
    sentences = []
    machines = dict.fromkeys(
        (row.get("device") or "", row.get("cpu", ""), row.get("cores", ""), row.get("threads", ""))
        for row in rows
    )
    for machine in machines:
        device, cpu, cores, threads = machine
        of_machine = [
            row
            for row in rows
            if (
                row.get("device") or "",
                row.get("cpu", ""),
                row.get("cores", ""),
                row.get("threads", ""),
            )
            == machine
        ]
        days = sorted({row["date"][:10] for row in of_machine})
        versions = sorted(
            {part for row in of_machine for part in (row.get("versions") or "").split("; ")}
        )
        when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        where = f"{device}, beside {cpu}" if device else cpu
        parallel = f", {threads} threads" if threads else ""
        sentences.append(f"{where}, {cores} cores{parallel}; {when}. {', '.join(versions)}.")
    return sentences


class Benchmark(SphinxDirective):
    """``{benchmark} name``: the table of one file of results."""

    required_arguments = 1

    def run(self):
        """Return the nodes of the table and of what was measured with."""
        name = self.arguments[0]
        if not (RESULTS / f"bench_{name}.csv").exists():
            return [nodes.paragraph(text="Results of this benchmark are not kept yet.")]
        self.env.note_dependency(str(RESULTS / f"bench_{name}.csv"))
        head, body, used = table(name)
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=1) for _ in head]
        top, rows = nodes.thead(), nodes.tbody()
        top += _row(head)
        rows += [_row(cells) for cells in body]
        group += [top, rows]
        result = nodes.table(classes=["benchmark"])
        result += group
        notes = nodes.bullet_list(classes=["benchmark-machine"])
        for sentence in provenance(used):
            notes += nodes.list_item("", nodes.paragraph(text=sentence))
        return [result, notes]


def _row(cells):
    row = nodes.row()
    for cell in cells:
        row += nodes.entry("", nodes.paragraph(text=cell))
    return row


def setup(app):
    """Register the directive."""
    app.add_directive("benchmark", Benchmark)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
