"""The command line: what the commands do, and how they refuse."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from skxmc import load_model
from skxmc._cli import _data, _output, _store
from skxmc.datasets import (
    dump_folder,
    dump_svmlight_multilabel,
    dump_xmc_repository,
    load_debtags,
    make_xmc_classification,
)
from skxmc.metrics import evaluate_topk

pytest.importorskip("typer")
from skxmc._cli._app import run

N_TRAIN, N_TEST = 240, 60


@pytest.fixture(scope="module")
def data():
    return make_xmc_classification(N_TRAIN + N_TEST, 80, 20, random_state=0)


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    """Training and test rows in each format, and a model of the repository file."""
    folder = tmp_path_factory.mktemp("files")
    train, test = slice(0, N_TRAIN), slice(N_TRAIN, None)
    dump_xmc_repository(data.X[train], data.Y[train], folder / "train.txt")
    dump_xmc_repository(data.X[test], data.Y[test], folder / "test.txt")
    dump_svmlight_multilabel(data.X[test], data.Y[test], folder / "test.svm")
    parts = {"X_test": data.X[test], "Y_test": data.Y[test]}
    dump_folder({**parts, "X_train": data.X[train], "Y_train": data.Y[train]}, folder / "folder")
    code = run(["fit", str(folder / "train.txt"), "-m", str(folder / "model"), "-e", "dismec"])
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Texts in each format, and a model of them."""
    folder = tmp_path_factory.mktemp("texts")
    data = load_debtags()
    rows = {"train": range(300), "test": range(300, 360)}
    for part, numbers in rows.items():
        texts = [data.train_texts[i] for i in numbers]
        labels = [
            [str(data.label_names[j]) for j in data.Y_train[[i]].indices[:4]] for i in numbers
        ]
        pairs = list(zip(texts, labels, strict=True))
        write(folder / f"{part}.tsv", "".join(f"{t}\t{','.join(y)}\n" for t, y in pairs))
        write(folder / f"{part}.labels", "".join(f"{','.join(y)}\n" for _, y in pairs))
        write(folder / f"{part}.docs", "".join(f"{t}\n" for t, _ in pairs))
        lines = [
            json.dumps({"text": t, "labels": y, "id": f"d{i}"}) for i, (t, y) in enumerate(pairs)
        ]
        write(folder / f"{part}.jsonl", "\n".join(lines) + "\n")
    code = run(["fit", str(folder / "train.tsv"), "-m", str(folder / "model"), "-e", "dismec"])
    assert code == 0
    return folder


def write(path, text):
    path.write_text(text, encoding="utf-8")


def call(capsys, *arguments):
    """Run a command; return its exit code, output and messages."""
    code = run([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def answers_of(text):
    """Names and scores of the lines of a TSV."""
    rows = [line.split("\t") for line in text.splitlines()]
    return [row[::2] for row in rows], [[float(v) for v in row[1::2]] for row in rows]


# ------------------------------------------------------------------ fit and predict


def test_predict_gives_the_answers_of_the_model(capsys, files, data):
    code, out, _ = call(capsys, "predict", files / "model", files / "test.txt", "-k", 3)
    assert code == 0
    model = load_model(files / "model")
    expected = model.predict_topk(data.X[N_TRAIN:], k=3)
    proba = model.predict_proba(data.X[N_TRAIN:]).toarray()
    names, scores = answers_of(out)
    assert names == [[str(label) for label in row] for row in expected.labels]
    wanted = np.take_along_axis(proba, expected.labels.astype(np.int64), axis=1)
    np.testing.assert_allclose(scores, wanted, rtol=1e-4)


@pytest.mark.parametrize("name", ["test.svm", "folder", "packed"])
def test_formats_of_features_agree(capsys, files, name):
    if name == "packed":
        name = "test.xmc.gz"
        with gzip.open(files / name, "wb") as stream:
            stream.write((files / "test.txt").read_bytes())
    expected = call(capsys, "predict", files / "model", files / "test.txt")
    assert call(capsys, "predict", files / "model", files / name)[:2] == expected[:2]


@pytest.mark.parametrize("source", ["test.tsv", "test.jsonl", "test.docs"])
def test_formats_of_texts_agree(capsys, texts, source):
    expected = call(capsys, "predict", texts / "model", texts / "test.tsv")
    assert expected[0] == 0
    assert len(expected[1].splitlines()) == N_TEST
    assert call(capsys, "predict", texts / "model", texts / source)[:2] == expected[:2]


def test_labels_from_a_second_file_train_the_same_model(capsys, texts, tmp_path):
    code, _, _ = call(
        *(capsys, "fit", texts / "train.docs", "--labels", texts / "train.labels"),
        *("-m", tmp_path / "model", "-e", "DismecClassifier"),
    )
    assert code == 0
    first, second = (_store.load(path / "model") for path in (texts, tmp_path))
    assert first.names == second.names
    np.testing.assert_array_equal(first.counts, second.counts)
    arguments = ("predict", texts / "model", texts / "test.docs")
    expected = call(capsys, *arguments)[1]
    assert call(capsys, "predict", tmp_path / "model", *arguments[2:])[1] == expected


def test_chunks_do_not_change_the_answers(capsys, files, monkeypatch):
    expected = call(capsys, "predict", files / "model", files / "test.txt")
    monkeypatch.setattr(_data, "CHUNK_BYTES", 500)
    assert call(capsys, "predict", files / "model", files / "test.txt") == expected


def test_a_file_is_read_in_chunks(files):
    source = _data.Source(str(files / "test.txt"))
    sizes = [chunk.n_rows for chunk in source.chunks(chunk_bytes=2000)]
    assert len(sizes) > 5
    assert sum(sizes) == N_TEST
    assert sum(chunk.n_bytes for chunk in source.chunks(chunk_bytes=2000)) == source.n_bytes


@pytest.mark.parametrize("tail", ["", "\n\n"])
def test_empty_lines_inside_are_rows_and_at_the_end_are_not(tmp_path, tail):
    write(tmp_path / "a.xmc", "0 1:1\n\n\n1 0:2\n" + tail)
    source = _data.Source(str(tmp_path / "a.xmc"))
    for size in (1, 7, 1000):
        chunks = list(source.chunks(n_features=3, chunk_bytes=size))
        assert sum(chunk.n_rows for chunk in chunks) == 4
        assert np.concatenate([chunk.X.toarray() for chunk in chunks]).tolist() == [
            [0, 1, 0],
            [0, 0, 0],
            [0, 0, 0],
            [2, 0, 0],
        ]


def test_standard_input_and_jsonl_output(capsys, texts, monkeypatch):
    lines = (texts / "test.jsonl").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    code, out, _ = call(
        *(capsys, "predict", texts / "model", "-", "-f", "jsonl", "--output-format", "jsonl"),
        *("-k", 2, "--scores", "margin"),
    )
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in rows] == [f"d{i}" for i in range(N_TEST)]
    assert [row["row"] for row in rows] == list(range(N_TEST))
    assert all(len(row["labels"]) == len(row["scores"]) == 2 for row in rows)
    assert min(row["scores"][1] for row in rows) < 0


def test_threshold_leaves_out_answers(capsys, files):
    whole = answers_of(call(capsys, "predict", files / "model", files / "test.txt")[1])[1]
    arguments = ("predict", files / "model", files / "test.txt", "--threshold", 0.5)
    kept = answers_of(call(capsys, *arguments)[1])[1]
    assert kept == [[score for score in row if score >= 0.5] for row in whole]
    assert 0 < sum(map(len, kept)) < sum(map(len, whole))


def test_output_file_appears_only_when_complete(capsys, files, tmp_path):
    bad = tmp_path / "bad.xmc"
    write(bad, "0 1:1\n0 1:x\n")
    code, _, err = call(capsys, "predict", files / "model", bad, "-o", tmp_path / "out.tsv")
    assert (code, os.listdir(tmp_path)) == (3, ["bad.xmc"])
    assert "line 2" in err
    assert (
        call(capsys, "predict", files / "model", files / "test.txt", "-o", tmp_path / "o")[0] == 0
    )
    assert len((tmp_path / "o").read_text().splitlines()) == N_TEST


def test_parameters_reach_the_estimator(capsys, files, tmp_path):
    code, _, _ = call(
        *(capsys, "fit", files / "train.txt", "-m", tmp_path / "m", "-e", "xr-linear"),
        *("--params", '{"arity": 4}', "-s", "beam_size=7", "-s", "clustering=bisect"),
        *("--seed", 3, "--memory-limit", "2GB", "-j", 1),
    )
    assert code == 0
    model = load_model(tmp_path / "m")
    assert (model.preset, model.arity, model.beam_size) == ("xr-linear", 4, 7)
    assert (model.random_state, model.n_jobs, model.memory_limit) == (3, 1, 2_000_000_000)


# ------------------------------------------------------------------ evaluate, calibrate, inspect


def test_evaluate_gives_the_metrics_of_the_answers(capsys, files, data):
    code, out, _ = call(
        capsys, "evaluate", files / "model", files / "test.txt", "--json", "-", "--bootstrap", 20
    )
    assert code == 0
    report = json.loads(out)
    Y, proba = data.Y[N_TRAIN:], load_model(files / "model").predict_proba(data.X[N_TRAIN:])
    counts = np.bincount(data.Y[:N_TRAIN].indices, minlength=20)
    from skxmc.label_space import inverse_propensity

    expected = evaluate_topk(
        Y, proba, inv_propensity=inverse_propensity(counts, N_TRAIN), calibration=True
    )
    for name in ("P@1", "nDCG@5", "PSP@3", "macro-F1@5", "coverage@5"):
        assert report["metrics"][name]["value"] == pytest.approx(expected[name])
    assert report["calibration"]["ECE@3"]["value"] == pytest.approx(expected["ECE@3"], abs=1e-5)
    value = report["metrics"]["P@1"]
    assert value["low"] < value["value"] < value["high"]


def test_labels_unknown_to_the_model_count_as_missed(capsys, texts, tmp_path):
    rows = (texts / "test.tsv").read_text(encoding="utf-8").splitlines()
    write(tmp_path / "a.tsv", "".join(f"{row.split(chr(9))[0]}\tnew label\n" for row in rows))
    code, out, err = call(capsys, "evaluate", texts / "model", tmp_path / "a.tsv", "--json", "-")
    assert code == 0, err
    assert "1 labels of the data are unknown" in err
    assert json.loads(out)["metrics"]["R@5"]["value"] == 0


def test_evaluate_writes_a_page_and_a_table(capsys, texts, tmp_path):
    pytest.importorskip("jinja2")
    page = tmp_path / "report.html"
    code, out, _ = call(
        capsys, "evaluate", texts / "model", texts / "test.jsonl", "--html", page, "--bootstrap", 9
    )
    assert code == 0
    assert out.splitlines()[1].split()[0] == "P"
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert 'id="tradeoff"' in text


def test_calibrate_keeps_ranking_and_names(capsys, texts, tmp_path):
    out = tmp_path / "calibrated"
    code, _, err = call(
        *(capsys, "calibrate", texts / "model", texts / "test.tsv", "-o", out),
        *("--grouping", "pooled", "--method", "platt"),
    )
    assert code == 0, err
    before, after = (
        answers_of(call(capsys, "predict", path, texts / "test.tsv")[1])
        for path in (texts / "model", out)
    )
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert type(load_model(out)).__name__ == "IsotonicXMCCalibrator"


def test_inspect(capsys, texts):
    code, out, _ = call(capsys, "inspect", texts / "model", "--json")
    assert code == 0
    description = json.loads(out)
    store = _store.load(texts / "model")
    assert description["labels"] == len(store.names)
    assert description["input"] == "text"
    assert description["training rows"] == 300
    assert description["parameters"]["C"] == 1.0
    code, out, _ = call(capsys, "inspect", texts / "model")
    assert code == 0
    assert "DismecClassifier" in out


# ------------------------------------------------------------------ refusals


# ruff: noqa: E501
def test_every_refusal_has_its_code_and_says_why(capsys, files, texts, tmp_path):
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "empty.tsv", "")
    write(tmp_path / "short.xmc", "5 80 20\n0 1:1\n")
    write(tmp_path / "wide.xmc", "0 80:1\n")
    write(tmp_path / "other.xmc", "1 81 20\n0 1:1\n")
    write(tmp_path / "nan.xmc", "0 1:nan\n")
    write(tmp_path / "bare.jsonl", '{"text": "a"}\n{"text": 1}\n')
    write(tmp_path / "half.jsonl", '{"text": "a", "labels": ["x"]}\n{"text": "b"}\n')
    write(tmp_path / "three.tsv", "a\tb\tc\n")
    (tmp_path / "latin.tsv").write_bytes(b"caf\xe9\tx\n")
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(b"a\tx\n" * 100)[:-9])
    write(tmp_path / "few.labels", "x\n")
    (tmp_path / "not_a_model").mkdir()
    write(tmp_path / "not_a_model" / "model.json", "{}")
    model, text_model, train = files / "model", texts / "model", files / "train.txt"
    target = ("-m", tmp_path / "new")
    cases = [
        (2, "no estimator 'parabell'. Did you mean 'parabel'", "fit", train, *target, "-e", "parabell"),
        (2, "no parameter of ParabelTree 'beam'", "fit", train, *target, "-s", "beam=3"),
        (2, "key=value", "fit", train, *target, "-s", "beam_size"),
        (2, "not JSON", "fit", train, *target, "--params", "{"),
        (2, "beam_size", "fit", train, *target, "-s", "beam_size=-3"),
        (2, "is a number with a unit", "fit", train, *target, "--memory-limit", "many"),
        (2, "has no memory limit", "fit", train, *target, "-e", "unidec", "--memory-limit", "1GB"),
        (2, "needs texts", "fit", train, *target, "-e", "xr-transformer"),
        (2, "exists", "fit", train, "-m", model),
        (2, "vectorizer 'bpe'", "fit", texts / "train.tsv", *target, "--vectorizer", "bpe"),
        (2, "'min'", "fit", texts / "train.tsv", *target, "--tokens", "min=2"),
        (2, "--split", "fit", train, *target, "--split", "dev"),
        (2, "--format is one of", "fit", train, *target, "-f", "csv"),
        (2, "No such option", "fit", train, *target, "--bogus"),
        (2, "--format is needed", "predict", model, "-"),
        (2, "-k must be", "predict", model, files / "test.txt", "-k", 0),
        (2, "--output-format", "predict", model, files / "test.txt", "--output-format", "xml"),
        (2, "cannot be written", "predict", model, files / "test.txt", "-o", tmp_path / "no" / "o"),
        (2, "--ks", "evaluate", model, files / "test.txt", "--ks", "1,a"),
        (2, "method", "calibrate", model, train, "-o", tmp_path / "c", "--method", "magic"),
        (3, "no such file", "fit", tmp_path / "missing.txt", *target),
        (3, "empty", "fit", tmp_path / "empty.txt", *target, "-f", "repository"),
        (3, "no rows", "fit", tmp_path / "empty.tsv", *target),
        (3, "not UTF-8", "fit", tmp_path / "latin.tsv", *target),
        (3, "gzip data is", "fit", tmp_path / "cut.tsv.gz", *target),
        (3, "line 1: 3 columns", "fit", tmp_path / "three.tsv", *target),
        (3, "line 2: no labels", "fit", tmp_path / "half.jsonl", *target),
        (3, "no labels to learn", "fit", texts / "test.docs", *target),
        (3, "ends before line 2", "fit", texts / "train.docs", *target, "--labels", tmp_path / "few.labels"),
        (3, "header says 5 rows, the file has 1", "predict", model, tmp_path / "short.xmc"),
        (3, "line 1: feature index 80", "predict", model, tmp_path / "wide.xmc"),
        (3, "81 features, the model has 80", "predict", model, tmp_path / "other.xmc"),
        (3, "line 1", "predict", model, tmp_path / "nan.xmc"),
        (3, 'line 2: expected an object with a string "text"', "predict", text_model, tmp_path / "bare.jsonl"),
        (3, "takes features", "predict", model, texts / "test.tsv"),
        (3, "takes texts", "predict", text_model, files / "test.svm"),
        (3, "no labels to compare", "evaluate", text_model, texts / "test.docs"),
        (4, "no model at", "predict", tmp_path / "missing", files / "test.txt"),
        (4, "not a model", "predict", tmp_path / "not_a_model", files / "test.txt"),
        (4, "", "inspect", files / "train.txt"),
        (5, "in use, over --memory-limit", "predict", model, files / "test.txt", "--memory-limit", "1MB"),
        (5, "The data: ", "fit", train, *target, "-e", "dismec", "--memory-limit", "1KB"),
    ]  # fmt: skip
    for code, message, *arguments in cases:
        found, out, err = call(capsys, *arguments)
        assert (found, message in err) == (code, True), (arguments, found, err)
        assert out == "" or arguments[-1] == tmp_path / "short.xmc"  # found out at its end
        assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        '{"format": "other"}',
        '{"format": "skxmc-labels", "version": 2}',
        '{"format": "skxmc-labels", "version": 1, "names": ["a"]}',
        '{"format": "skxmc-labels", "version": 1, "names": 3}',
        '{"format": "skxmc-labels", "version": 1, "counts": [1], "n_train": 1}',
        '{"format": "skxmc-labels", "version": 1, "counts": "x", "n_train": 1}',
        "[" * 100_000,
    ],
)
def test_damaged_names_are_a_damaged_model(capsys, files, tmp_path, text):
    store = _store.load(files / "model")
    _store.save(store, tmp_path / "m")
    write(tmp_path / "m" / "labels.json", text)
    code, _, err = call(capsys, "predict", tmp_path / "m", files / "test.txt")
    assert code == 4
    assert "labels.json is damaged" in err


def test_only_a_model_is_overwritten(capsys, files, tmp_path):
    write(tmp_path / "precious", "text")
    arguments = ("fit", files / "train.txt", "-e", "dismec", "--overwrite", "-m")
    assert call(capsys, *arguments, tmp_path)[0] == 2
    assert (tmp_path / "precious").read_text() == "text"
    assert call(capsys, *arguments, tmp_path / "m")[0] == 0
    assert call(capsys, *arguments, tmp_path / "m")[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["m", "precious"]


def test_defects_are_told_apart_and_debug_shows_where(capsys, files, monkeypatch):
    from skxmc._cli import _app

    def fail(*args, **kwargs):
        raise RuntimeError("something odd")

    monkeypatch.setattr(_app, "answer", fail)
    arguments = ("predict", files / "model", files / "test.txt")
    code, _, err = call(capsys, *arguments)
    assert (code, "defect of skxmc" in err, "Traceback" in err) == (1, True, False)
    code, _, err = call(capsys, *arguments, "--debug")
    assert (code, "Traceback" in err) == (1, True)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(_app, "answer", interrupt)
    assert call(capsys, *arguments)[0] == 130


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("512MiB", 2**29), ("1.5k", 1500), ("77", 77), ("2 TB", 2 * 10**12)],
)
def test_sizes(text, size):
    assert _output.parse_size(text) == size


def test_help_and_version(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for command in ("fit", "predict", "evaluate", "calibrate", "inspect", "serve"):
        assert f"\n  {command} " in out
    assert call(capsys, "--version")[0] == 0
    assert call(capsys)[0] == 2


# ------------------------------------------------------------------ as a process


def process(*arguments, **options):
    command = [sys.executable, "-m", "skxmc", *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, preexec_fn=hear_interrupts, **{**pipes, **options})


def hear_interrupts():
    """A process started in the background of a shell, and all that it starts, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_answers_come_while_the_input_is_open_and_interrupt_ends_it(texts):
    arguments = ("predict", texts / "model", "-", "-f", "text", "--no-progress")
    with process(*arguments) as running:
        running.stdin.write(b"a game\n")
        running.stdin.flush()
        first = running.stdout.readline()
        assert len(first.split(b"\t")) == 10
        time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=120) == 130
        err = running.stderr.read()
        assert b"interrupted" in err
        assert b"Traceback" not in err


def test_without_typer_it_says_what_to_install():
    code = (
        "import sys; sys.modules['typer'] = None\nfrom skxmc._cli import main\nmain(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'skxmc[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
