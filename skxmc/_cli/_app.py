"""The commands."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import scipy.sparse as sp
import typer

import skxmc
from skxmc._cli import _data, _errors, _estimators, _output, _store
from skxmc._cli._errors import DATA, USAGE, CommandError, data_error, stage, usage_error
from skxmc._parallel import effective_n_jobs
from skxmc._progress import progress
from skxmc.ops.topk import TopK, topk_to_csr
from skxmc.serving._answers import answer, final_estimator, set_threads, takes_text

# For the page of an evaluation: rows whose trade-off is drawn, candidates of each, and the
# characters of a text that are kept.
_CANDIDATE_ROWS, _CANDIDATES, _TEXT = 4000, 50, 1000

app = typer.Typer(
    name="skxmc",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Extreme multi-label classification: train, tag, measure, calibrate, look, serve.",
    epilog=(
        "Exit codes: 0 done, 1 defect of skxmc, 2 wrong option, 3 bad data, 4 bad model, "
        "5 memory limit, 130 interrupted. --debug with any command shows the traceback of an error."
    ),
)

Model = Annotated[str, typer.Argument(help="Folder of the model.", metavar="MODEL")]
Data = Annotated[str, typer.Argument(help="Data file or folder; - is standard input.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", "-f", help=f"Format of the data: {', '.join(_data.FORMATS)}. Found by itself."
    ),
]
Labels = Annotated[
    str | None,
    typer.Option("--labels", help="File with the labels of each line of a text file."),
]
Separator = Annotated[
    str, typer.Option("--separator", help="Between the labels of a line (tsv, text).")
]
Split = Annotated[str, typer.Option("--split", help="Part of a data folder: train or test.")]
Memory = Annotated[
    str | None,
    typer.Option("--memory-limit", help="Refuse what takes more, such as 4GB or 512MiB."),
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", help="Threads; -1: all processors.")]
Progress = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", help="Progress bars; default: on a terminal."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")]


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
):
    if version:
        typer.echo(skxmc.__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


# ------------------------------------------------------------------ fit


@app.command()
def fit(
    data: Data,
    model: Annotated[str, typer.Option("--model", "-m", help="Folder to be made.")],
    estimator: Annotated[
        str,
        typer.Option(
            "--estimator", "-e", help=f"{', '.join(_estimators.ESTIMATORS)}, or the class."
        ),
    ] = "parabel",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Parameter of the estimator, key=value. Repeatable."),
    ] = None,
    params: Annotated[
        str | None, typer.Option("--params", help="Parameters as a JSON object.")
    ] = None,
    vectorizer: Annotated[
        str | None,
        typer.Option(
            "--vectorizer",
            help="Of texts: tfidf, hashing, or none (the estimator takes texts). "
            "Default: none where it does, else tfidf.",
        ),
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option("--tokens", help="Parameter of the vectorizer, key=value. Repeatable."),
    ] = None,
    label_text: Annotated[
        str | None,
        typer.Option("--label-text", help="File of name<TAB>text: what the labels mean."),
    ] = None,
    format: Format = None,
    labels: Labels = None,
    separator: Separator = ",",
    split: Split = "train",
    seed: Annotated[int, typer.Option("--seed", help="random_state of the estimator.")] = 0,
    jobs: Jobs = -1,
    memory_limit: Memory = None,
    compress: Annotated[
        bool, typer.Option("--compress", help="About half the size; not mapped into memory.")
    ] = False,
    weights_dtype: Annotated[
        str | None, typer.Option("--weights-dtype", help="float16 halves the weights.")
    ] = None,
    overwrite: Overwrite = False,
    show_progress: Progress = None,
):
    """Train a model on rows with labels and save it."""
    limit = _output.parse_size(memory_limit)
    verbose = _wants_progress(show_progress)
    classifier = _estimators.make_estimator(
        *(estimator, _estimators.parse_options(set_, params)),
        jobs=jobs,
        seed=seed,
        memory_limit=limit,
        verbose=int(verbose),
        label_text=label_text is not None,
    )
    _check_target(model, overwrite)
    reads_text = takes_text(classifier)
    source = _source(data, format, labels, separator, split, prefer_text=reads_text or None)
    if source.is_text:
        kind = vectorizer or ("none" if reads_text else "tfidf")
        if kind == "none" and not reads_text:
            raise usage_error(f"{type(classifier).__name__} does not take texts: use tfidf.")
        if kind != "none" and reads_text:
            raise usage_error(f"{type(classifier).__name__} takes texts: leave out --vectorizer.")
        tokens = _estimators.parse_options(tokens, None)
        classifier = _estimators.with_vectorizer(classifier, kind, tokens)
    elif reads_text:
        raise usage_error(f"{type(classifier).__name__} needs texts, not {source.format} data.")
    elif vectorizer or tokens:
        raise usage_error("--vectorizer and --tokens are for texts.")
    with stage(DATA), _bar(source, "read", verbose) as bar:
        table = _data.read_table(source, bar=bar)
    _output.check_memory(limit, "The data")
    if table.Y is None:
        raise data_error(f"{data}: the rows have no labels to learn from.")
    fit_params = _label_text_of(classifier, label_text, table)
    start = time.perf_counter()
    with stage(DATA, f"Fit on {data}"), _remaining_memory(classifier, limit):
        try:
            classifier.fit(table.X, table.Y, **fit_params)
        except OSError as error:  # the data are read: a parameter names a folder
            raise usage_error(f"--estimator {estimator}: {error}") from error
    seconds = time.perf_counter() - start
    counts = np.bincount(table.Y.indices, minlength=table.Y.shape[1])
    store = _store.Store(classifier, table.names, counts, table.Y.shape[0])
    with stage(USAGE):
        _store.save(
            *(store, model), overwrite=overwrite, compress=compress, weights_dtype=weights_dtype
        )
    _say(
        f"{model}: {_model_name(classifier)}, {table.Y.shape[0]:,} rows, "
        f"{table.Y.shape[1]:,} labels, fitted in {seconds:.1f} s, {_folder_bytes(model) / 1e6:,.1f}"
        " MB"
    )


@contextlib.contextmanager
def _remaining_memory(classifier, limit):
    """Let the estimator, which counts only what it takes itself, have what the data have left."""
    if limit is None:
        yield
        return
    last = final_estimator(classifier)
    last.set_params(memory_limit=max(1, limit - (_output.resident_bytes() or 0)))
    try:
        yield
    finally:
        last.set_params(memory_limit=limit)


def _label_text_of(classifier, path, table):
    """The parameter ``label_text`` of fit, where the estimator has it."""
    last = final_estimator(classifier)
    if not _estimators.takes_label_text(last):
        if path is not None:
            raise usage_error(f"{type(last).__name__} does not use texts of labels.")
        return {}
    if path is None and not takes_text(last):
        return {}  # optional there
    names = table.names or [str(j) for j in range(table.Y.shape[1])]
    texts = {**dict(zip(names, names)), **table.label_texts}
    if path is not None:
        with stage(DATA):
            read = _data.read_label_texts(path)
            if read.keys().isdisjoint(names):
                raise ValueError(f"{path} has the text of none of the {len(names):,} labels.")
        texts.update(read)
    prefix = "" if last is classifier else "classifier__"
    return {f"{prefix}label_text": [texts[name] for name in names]}


# ------------------------------------------------------------------ predict


@app.command()
def predict(
    model: Model,
    data: Data,
    output: Annotated[
        str, typer.Option("--output", "-o", help="File; - is standard output.")
    ] = "-",
    k: Annotated[int, typer.Option("-k", help="Answers for each row.")] = 5,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Leave out answers with a lower score.")
    ] = None,
    scores: Annotated[
        str, typer.Option("--scores", help="Scores of the answers: probability or margin.")
    ] = "probability",
    output_format: Annotated[
        str | None,
        typer.Option("--output-format", help="tsv or jsonl; default: by the name, else tsv."),
    ] = None,
    format: Format = None,
    split: Split = "test",
    memory_limit: Memory = None,
    show_progress: Progress = None,
):
    """Tag rows with their best labels, in chunks: the file may be larger than memory."""
    if k < 1:
        raise usage_error(f"-k must be at least 1; got {k}.")
    if scores not in ("probability", "margin"):
        raise usage_error(f"--scores is probability or margin; got {scores!r}.")
    form = output_format or ("jsonl" if output.endswith((".jsonl", ".ndjson")) else "tsv")
    if form not in ("tsv", "jsonl"):
        raise usage_error(f"--output-format is tsv or jsonl; got {form!r}.")
    limit = _output.parse_size(memory_limit)
    store = _store.load(model)
    source = _source_for(store, data, format, None, ",", split)
    verbose = _wants_progress(show_progress)
    n_rows = 0
    with _output_stage(output), _output.open_output(output) as stream:
        for chunk, answers in _answers(store, source, k, scores, limit, verbose):
            if threshold is not None:
                answers = answers._replace(
                    labels=np.where(answers.scores >= threshold, answers.labels, -1)
                )
            _output.write_answers(stream, answers, store, form, n_rows, chunk.ids)
            stream.flush()
            n_rows += chunk.n_rows
    if output != "-":
        _say(f"{output}: {n_rows:,} rows")


@contextlib.contextmanager
def _output_stage(path):
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise usage_error(f"{path} cannot be written: {error}") from error


def _answers(store, source, k, scores, limit, verbose):
    """Yield each chunk with its answers."""
    size = _chunk_bytes(limit)
    with stage(DATA), _bar(source, "rows", verbose) as bar:
        for chunk in source.chunks(n_features=store.n_features, chunk_bytes=size):
            answers = answer(store.model, chunk.X, k, scores=scores)
            _output.check_memory(limit, f"{source.path}")
            yield chunk, answers
            bar.update(chunk.n_bytes)


def _chunk_bytes(limit):
    """Bytes of the file to read at a time: a chunk takes up to 16 times as much when parsed."""
    if limit is None:
        return _data.CHUNK_BYTES
    _output.check_memory(limit, "The model")
    free = limit - (_output.resident_bytes() or 0)
    return int(min(_data.CHUNK_BYTES, max(free // 16, 1 << 16)))


# ------------------------------------------------------------------ evaluate


@app.command()
def evaluate(
    model: Model,
    data: Data,
    ks: Annotated[str, typer.Option("--ks", help="Numbers of answers, such as 1,3,5.")] = "1,3,5",
    html: Annotated[
        str | None, typer.Option("--html", help="Write a report: one self-contained page.")
    ] = None,
    json_output: Annotated[
        str | None, typer.Option("--json", help="Write the figures as JSON; - is the output.")
    ] = None,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", help="Samples for the intervals; 0: no intervals.")
    ] = 1000,
    title: Annotated[str | None, typer.Option("--title", help="Of the report.")] = None,
    format: Format = None,
    labels: Labels = None,
    separator: Separator = ",",
    split: Split = "test",
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap samples.")] = 0,
    memory_limit: Memory = None,
    show_progress: Progress = None,
):
    """Compare the answers of a model with known labels."""
    from skxmc.inspection import XMCReport

    numbers = _ks(ks)
    if bootstrap < 0:
        raise usage_error("--bootstrap must be at least 0.")
    limit = _output.parse_size(memory_limit)
    store = _store.load(model)
    source = _source_for(store, data, format, labels, separator, split)
    verbose = _wants_progress(show_progress)
    with stage(DATA, data):
        parts = _collect(store, source, numbers[-1], limit, verbose, for_page=bool(html))
    if parts.n_unknown:
        _say(f"{parts.n_unknown:,} labels of the data are unknown to the model: counted as missed.")
    with stage(DATA, data), _quiet():
        report = XMCReport.from_predictions(
            *(parts.Y, parts.answers),
            ks=numbers,
            candidates=parts.candidates,
            label_counts=parts.counts,
            n_train=store.n_train,
            label_names=parts.names,
            texts=parts.texts,
            n_bootstrap=bootstrap,
            random_state=seed,
            model_name=_model_name(store.model),
            title=title or f"{Path(model).name} on {Path(data).name}",
        )
    if html:
        with _output_stage(html), stage(USAGE), _output.open_output(html) as stream:
            stream.write(report.to_html())
        _say(f"{html}: report of {parts.Y.shape[0]:,} rows")
    if json_output:
        with _output_stage(json_output), _output.open_output(json_output) as stream:
            stream.write(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n")
    if json_output != "-" and html != "-":
        typer.echo(report.to_text())


class _Collected(NamedTuple):
    """Answers and labels of all rows: what an evaluation needs, and no more."""

    Y: sp.csr_array
    answers: TopK
    candidates: sp.csr_array | None
    names: list | None
    texts: list | None
    counts: np.ndarray | None
    n_unknown: int


def _collect(store, source, k, limit, verbose, for_page):
    topk, truth, texts, candidates = [], [], [], []
    n_rows = 0
    for chunk, answers in _answers(store, source, k, "probability", limit, verbose):
        if chunk.labels is None:
            raise data_error(f"{source.path}: the rows have no labels to compare with.")
        topk.append(answers)
        truth.append(chunk.labels)
        if for_page and source.is_text:
            texts += [text[:_TEXT] for text in chunk.X]
        if for_page and n_rows < _CANDIDATE_ROWS:
            first = chunk.X[: _CANDIDATE_ROWS - n_rows]
            candidates.append(answer(store.model, first, max(k, _CANDIDATES)))
        n_rows += chunk.n_rows
    if not topk:
        raise data_error(f"{source.path}: the file holds no rows.")
    n_labels, names = store.n_labels, store.names
    if source.is_text:
        rows = [row for part in truth for row in part]
        names = _data.extended(names or [str(j) for j in range(n_labels)], rows)
        Y = _data.indicator(rows, names)
    else:
        width = max([n_labels, *(part.shape[1] for part in truth)])
        Y = sp.vstack([_data.widen(part, width) for part in truth], format="csr")
        if names is not None:
            names = names + [str(j) for j in range(n_labels, width)]
    counts = store.counts
    n_unknown = Y.shape[1] - n_labels
    if counts is not None and n_unknown:
        counts = np.concatenate([counts, np.zeros(n_unknown, dtype=counts.dtype)])
    return _Collected(
        Y,
        _stacked(topk),
        topk_to_csr(_stacked(candidates), Y.shape[1]) if candidates else None,
        names,
        texts or None,
        counts,
        n_unknown,
    )


def _stacked(parts):
    return TopK(*(np.concatenate(part) for part in zip(*parts)))


def _ks(text):
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise usage_error(f"--ks are numbers such as 1,3,5; got {text!r}.") from None
    if numbers[0] < 1:
        raise usage_error("--ks must be at least 1.")
    return numbers


# ------------------------------------------------------------------ calibrate


@app.command()
def calibrate(
    model: Model,
    data: Annotated[str, typer.Argument(help="Rows with labels that the model was not fitted on.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the new model.")],
    method: Annotated[
        str, typer.Option("--method", help="isotonic, platt, temperature or beta.")
    ] = "isotonic",
    grouping: Annotated[
        str, typer.Option("--grouping", help="auto, pooled, frequency or label.")
    ] = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Parameter of the calibrator, key=value. Repeatable."),
    ] = None,
    format: Format = None,
    labels: Labels = None,
    separator: Separator = ",",
    split: Split = "test",
    seed: Annotated[int, typer.Option("--seed", help="random_state of the calibrator.")] = 0,
    jobs: Jobs = -1,
    memory_limit: Memory = None,
    compress: Annotated[bool, typer.Option("--compress", help="As for fit.")] = False,
    overwrite: Overwrite = False,
    show_progress: Progress = None,
):
    """Learn probabilities from held-out rows; the ranking stays as it is."""
    from sklearn.frozen import FrozenEstimator

    from skxmc import IsotonicXMCCalibrator

    limit = _output.parse_size(memory_limit)
    options = _estimators.parse_options(set_, None)
    known = set(IsotonicXMCCalibrator._get_param_names()) - {"estimator"}
    unknown = set(options) - known
    if unknown:
        raise usage_error(_estimators._unknown("parameter", min(unknown), sorted(known)))
    _check_target(output, overwrite)
    store = _store.load(model)
    source = _source_for(store, data, format, labels, separator, split)
    verbose = _wants_progress(show_progress)
    with stage(DATA), _bar(source, "read", verbose) as bar:
        table = _data.read_table(
            source,
            names=store.names,
            n_labels=store.n_labels,
            n_features=store.n_features,
            bar=bar,
        )
    _output.check_memory(limit, "The data")
    if table.Y is None:
        raise data_error(f"{data}: the rows have no labels to learn from.")
    Y = table.Y[:, : store.n_labels]
    calibrator = IsotonicXMCCalibrator(
        FrozenEstimator(store.model),
        **{
            "method": method,
            "grouping": grouping,
            "random_state": seed,
            "n_jobs": jobs,
            **options,
        },
    )
    with stage(DATA, data):
        calibrator.fit(table.X, Y)
    with stage(USAGE):
        _store.save(
            store._replace(model=calibrator), output, overwrite=overwrite, compress=compress
        )
    _say(f"{output}: calibrated on {Y.shape[0]:,} rows, maps by {calibrator.grouping_}")


# ------------------------------------------------------------------ inspect


@app.command()
def inspect(
    model: Model,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
):
    """Say what a model is: its class, parameters, labels and size."""
    store = _store.load(model)
    description = _description(store, model)
    if json_output:
        typer.echo(json.dumps(description, indent=1, ensure_ascii=False, default=str))
        return
    width = max(map(len, description))
    for key, value in description.items():
        if key == "parameters":
            typer.echo(f"{key}:")
            for name, setting in value.items():
                typer.echo(f"  {name} = {setting}")
        elif value is not None:
            shown = f"{value:,}" if type(value) is int else value
            typer.echo(f"{key + ':':<{width + 1}} {shown}")


def _description(store, path):
    header = json.loads((Path(path) / "model.json").read_text(encoding="utf-8"))
    last = final_estimator(store.model)
    params = last.get_params(deep=False)
    shown = {
        name: value if isinstance(value, (int, float, str, type(None))) else repr(value)[:200]
        for name, value in params.items()
    }
    frequencies = None
    if store.counts is not None:
        quartiles = np.percentile(store.counts, [0, 25, 50, 75, 100])
        frequencies = " ".join(f"{value:g}" for value in quartiles)
    return {
        "model": _model_name(store.model),
        "input": "text" if store.takes_text else "features",
        "features": store.n_features,
        "labels": store.n_labels,
        "label names": None
        if store.names is None
        else ", ".join(store.names[:5]) + (", ..." if len(store.names) > 5 else ""),
        "training rows": store.n_train,
        "rows of a label (min, quartiles, max)": frequencies,
        "bytes": _folder_bytes(path),
        "format version": header["format_version"],
        "written by skxmc": header.get("skxmc_version"),
        "parameters": shown,
    }


# ------------------------------------------------------------------ serve


@app.command()
def serve(
    model: Model,
    host: Annotated[
        str, typer.Option("--host", help="Address; others than 127.0.0.1 open it to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="0: any that is free.")] = 8000,
    max_k: Annotated[int, typer.Option("--max-k", help="Most answers for a row.")] = 100,
    max_rows: Annotated[int, typer.Option("--max-rows", help="Most rows in a request.")] = 1000,
    max_body: Annotated[str, typer.Option("--max-body", help="Largest request.")] = "8MiB",
    max_batch: Annotated[int, typer.Option("--max-batch", help="Rows computed together.")] = 256,
    max_wait: Annotated[
        float, typer.Option("--max-wait", help="Milliseconds to wait for a fuller batch.")
    ] = 0.0,
    max_queue: Annotated[
        int, typer.Option("--max-queue", help="Rows that may wait; more are refused with 503.")
    ] = 4096,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds for an answer.")] = 30.0,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", help="Threads that compute a batch; -1: all processors.")
    ] = 1,
):
    """Answer requests over HTTP: /predict, /health, /metrics."""
    with stage(USAGE):
        from skxmc.serving import create_app, run_app

        effective_n_jobs(jobs)  # refuses 0
        store = _store.load(model)
        set_threads(store.model, jobs)
        service = create_app(
            *(store.model, store.names),
            max_k=max_k,
            max_rows=max_rows,
            max_body_bytes=_output.parse_size(max_body),
            max_batch_rows=max_batch,
            max_wait_ms=max_wait,
            max_queue_rows=max_queue,
            timeout_s=timeout,
        )
    run_app(service, host, port, announce=_say)


# ------------------------------------------------------------------ what they share


def run(arguments):
    """Run a command and return the exit code; errors are told, not raised."""
    arguments = list(arguments)
    debug = "--debug" in arguments or os.environ.get("SKXMC_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, prog_name="skxmc", standalone_mode=False)
        sys.stdout.flush()
        if code == _errors.INTERRUPTED:  # typer has caught the KeyboardInterrupt
            return _errors.report(KeyboardInterrupt(), debug)
        return code if isinstance(code, int) else _errors.OK
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else _errors.INTERNAL
    except BrokenPipeError as error:
        # Python would try to write again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _errors.report(error, debug)
    except BaseException as error:
        if hasattr(error, "format_message"):  # an option that typer refuses
            error.show(file=sys.stderr)
            return error.exit_code
        if isinstance(error, typer.Exit):
            return error.exit_code
        return _errors.report(error, debug)


def _say(message):
    typer.echo(message, err=True)


def _wants_progress(choice):
    return sys.stderr.isatty() if choice is None else choice


def _bar(source, description, verbose):
    return progress(source.n_bytes, description, verbose)


def _source(path, format, labels, separator, split, prefer_text):
    if split not in ("train", "test"):
        raise usage_error(f"--split is train or test; got {split!r}.")
    with stage(DATA):
        return _data.Source(
            path,
            format,
            labels=labels,
            separator=separator,
            split=split,
            prefer_text=prefer_text,
        )


def _source_for(store, path, format, labels, separator, split):
    """A data file whose rows are of the kind that a model takes."""
    text = store.takes_text
    if format is None and text and path != "-" and labels is None and not os.path.isdir(path):
        guess = _source(path, None, None, separator, split, text).format
        format = "text" if guess == "repository" and not path.endswith(".xmc") else guess
    source = _source(path, format, labels, separator, split, text)
    with stage(DATA):
        is_text = source.is_text
    if is_text != text:
        wanted = "texts" if text else "features"
        raise CommandError(
            f"The model takes {wanted}, but {path} is {source.format} data"
            f"{' of texts' if is_text else ' of features'}.",
            DATA,
        )
    return source


def _check_target(path, overwrite):
    """Refuse before the work what would be refused after it."""
    if os.path.exists(path) and not overwrite and (not os.path.isdir(path) or os.listdir(path)):
        raise usage_error(f"{path} exists; --overwrite replaces a model.")


def _model_name(model):
    """Classes of a model, from the outside to the inside."""
    from sklearn.pipeline import Pipeline

    if isinstance(model, Pipeline):
        return " + ".join(_model_name(step) for step in model.named_steps.values())
    inner = getattr(model, "estimator", None)
    if inner is None:
        return type(model).__name__
    if type(model).__name__ == "FrozenEstimator":
        return _model_name(inner)
    return f"{type(model).__name__}({_model_name(inner)})"


def _folder_bytes(path):
    return sum(file.stat().st_size for file in Path(path).iterdir() if file.is_file())


@contextlib.contextmanager
def _quiet():
    """Warnings as one line each."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        _say(f"warning: {message}")
