"""Each estimator of the command line, from the data file to the report, and as in Python."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

import skxmc
from skxmc import load_model
from skxmc._cli import _estimators, _output, _store
from skxmc.datasets import (
    dump_folder,
    dump_xmc_repository,
    load_debtags,
    load_xmc_repository,
)
from skxmc.metrics import precision_at_k

pytest.importorskip("typer")
from skxmc._cli._app import run

N_TRAIN, N_TEST, K = 160, 40, 3

# Estimator -> options that make its fit short.
TEXT = {
    "dismec": {},
    "parabel": {"max_leaf": 20},
    "bonsai": {"max_leaf": 20},
    "plt": {"max_leaf": 20},
    "xr-linear": {"max_leaf": 20},
    "sparse-dst": {"epochs": 2, "fan_in": 16},
    "unidec": {"epochs": 2, "dimension": 16},
    "xr-transformer": {"n_steps": 10, "dimension": 16},
}
FEATURES = {
    name: options for name, options in TEXT.items() if name not in ("unidec", "xr-transformer")
}
FEATURES["unidec"] = {**TEXT["unidec"], "encoder": "precomputed", "mode": "classifier"}
SHORT = {
    "dismec": "DismecClassifier",
    "sparse-dst": "SparseDSTClassifier",
    "unidec": "UniDECClassifier",
    "xr-transformer": "XRTransformerClassifier",
}


@pytest.fixture(scope="module")
def corpus():
    """Texts, names of their labels, and the text of each label."""
    data = load_debtags()
    texts = [data.train_texts[i] for i in range(N_TRAIN + N_TEST)]
    names = [str(name) for name in data.label_names]
    labels = [[names[j] for j in data.Y_train[[i]].indices[:4]] for i in range(N_TRAIN + N_TEST)]
    used = sorted({name for row in labels[:N_TRAIN] for name in row})
    meanings = {name: name.replace("::", " ").replace("-", " ") for name in used}
    return texts, labels, used, meanings


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """The same rows in each format."""
    texts, labels, used, meanings = corpus
    folder = tmp_path_factory.mktemp("rows")
    parts = {"train": slice(0, N_TRAIN), "test": slice(N_TRAIN, None)}
    indicators = {}
    for part, rows in parts.items():
        pairs = list(zip(texts[rows], labels[rows], strict=True))
        write(folder / f"{part}.tsv", "".join(f"{t}\t{','.join(y)}\n" for t, y in pairs))
        write(folder / f"{part}.labels", "".join(f"{','.join(y)}\n" for _, y in pairs))
        write(folder / f"{part}.docs", "".join(f"{t}\n" for t, _ in pairs))
        lines = (json.dumps({"text": t, "labels": y}) for t, y in pairs)
        write(folder / f"{part}.jsonl", "".join(f"{line}\n" for line in lines))
        indicators[part] = indicator(labels[rows], used)
    write(folder / "meanings", "".join(f"{name}\t{text}\n" for name, text in meanings.items()))
    X = TfidfVectorizer(max_features=1000, dtype=np.float32).fit_transform(texts)
    for part, rows in parts.items():
        dump_xmc_repository(X[rows], indicators[part], folder / f"{part}.xmc")
    dump_folder(
        {
            "train_texts": texts[:N_TRAIN],
            "test_texts": texts[N_TRAIN:],
            "Y_train": indicators["train"],
            "Y_test": indicators["test"],
            "labels": used,
            "label_texts": list(meanings.values()),
        },
        folder / "folder",
    )
    return folder


def indicator(labels, names):
    dense = np.array([[name in row for name in names] for row in labels], dtype=np.uint8)
    return sp.csr_array(dense)


def write(path, text):
    path.write_text(text, encoding="utf-8")


def call(capsys, *arguments):
    """Run a command; return its exit code, output and messages."""
    code = run([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def done(capsys, *arguments):
    """Run a command that must succeed; return its output."""
    code, out, err = call(capsys, *arguments)
    assert code == 0, err
    assert "Traceback" not in err
    return out


def settings(options):
    """Options of the command line that set parameters."""
    return [part for name, value in options.items() for part in ("--set", f"{name}={value}")]


def in_python(name, options):
    """The estimator that a user would write instead."""
    cls = getattr(skxmc, SHORT.get(name, "ParabelTree"))
    preset = {} if name in SHORT else {"preset": name}
    return cls(**preset, **options, random_state=0) if name != "dismec" else cls(**options)


def names_of(text):
    return [line.split("\t")[::2] for line in text.splitlines()]


def scores_of(text):
    return np.array([line.split("\t")[1::2] for line in text.splitlines()], dtype=float)


# ------------------------------------------------------------------ from the file to the report


def assert_commands_agree(capsys, model, expected, names, Y_test, files, class_name, tmp_path):
    """The commands after ``fit`` say what the model fitted in Python says."""
    test, held_out = files
    wanted = [[names[j] for j in row] for row in expected.labels]
    out = done(capsys, "predict", model, test, "-k", K)
    assert names_of(out) == wanted
    scores = scores_of(out)
    assert scores.shape == expected.labels.shape
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert scores.std() > 0

    page = tmp_path / "page.html"
    out = done(
        *(capsys, "evaluate", model, held_out, "--ks", "1,3", "--json", "-", "--html", page),
        *("--bootstrap", 5),
    )
    report = json.loads(out)
    for k in (1, 3):
        assert report["metrics"][f"P@{k}"]["value"] == pytest.approx(
            precision_at_k(Y_test, expected, k=k)
        )
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")

    description = json.loads(done(capsys, "inspect", model, "--json"))
    assert description["model"].endswith(class_name)
    assert (description["labels"], description["training rows"]) == (len(names), N_TRAIN)
    assert f"labels:{len(names):>{5}}".replace(" ", "") in done(capsys, "inspect", model).replace(
        " ", ""
    )

    calibrated = tmp_path / "calibrated"
    done(capsys, "calibrate", model, held_out, "-o", calibrated, "--grouping", "pooled")
    out = done(capsys, "predict", calibrated, test, "-k", K)
    assert names_of(out) == wanted
    assert not np.array_equal(scores_of(out), scores)


@pytest.mark.parametrize("name", TEXT)
def test_texts(capsys, corpus, folder, tmp_path, name):
    texts, labels, used, _ = corpus
    model = tmp_path / "model"
    done(
        *(capsys, "fit", folder / "train.tsv", "-m", model, "-e", name, "--jobs", 1),
        *settings(TEXT[name]),
    )
    estimator = in_python(name, TEXT[name])
    label_text = {"label_text": used} if name == "unidec" else {}
    if name not in ("unidec", "xr-transformer"):
        estimator = _estimators.with_vectorizer(estimator, "tfidf", {})
    estimator.fit(texts[:N_TRAIN], indicator(labels[:N_TRAIN], used), **label_text)
    X = texts[N_TRAIN:]
    if name not in ("unidec", "xr-transformer"):
        X, estimator = estimator[:-1].transform(X), estimator[-1]
    # one label of the test rows is unknown: it counts as missed
    everything = used + sorted({n for row in labels[N_TRAIN:] for n in row}.difference(used))
    assert_commands_agree(
        *(capsys, model, estimator.predict_topk(X, k=K), used),
        indicator(labels[N_TRAIN:], everything),
        (folder / "test.docs", folder / "test.tsv"),
        type(estimator).__name__,
        tmp_path,
    )
    store = _store.load(model)
    assert store.takes_text
    assert store.names == used


@pytest.mark.parametrize("name", FEATURES)
def test_repository_files(capsys, folder, corpus, tmp_path, name):
    used = corpus[2]
    model = tmp_path / "model"
    done(
        *(capsys, "fit", folder / "train.xmc", "-m", model, "-e", name, "--jobs", 1),
        *settings(FEATURES[name]),
    )
    X, Y = load_xmc_repository(folder / "train.xmc")
    estimator = in_python(name, FEATURES[name]).fit(X, Y)
    X_test, Y_test = load_xmc_repository(folder / "test.xmc")
    assert_commands_agree(
        *(capsys, model, estimator.predict_topk(X_test, k=K), [str(j) for j in range(len(used))]),
        Y_test,
        (folder / "test.xmc", folder / "test.xmc"),
        type(estimator).__name__,
        tmp_path,
    )


@pytest.mark.parametrize("source", ["train.jsonl", "train.docs", "folder"])
def test_each_format_of_texts_trains_the_same_model(capsys, folder, tmp_path, source):
    options = ("-e", "unidec", *settings(TEXT["unidec"]), "--label-text", folder / "meanings")
    labels = ("--labels", folder / "train.labels") if source == "train.docs" else ()
    found = []
    for data, more in ((folder / "train.tsv", ()), (folder / source, labels)):
        model = tmp_path / data.name
        done(capsys, "fit", data, "-m", model, *options, *more)
        found.append(done(capsys, "predict", model, folder / "test.docs", "-k", K))
    assert found[0] == found[1]


def test_the_commands_as_processes(corpus, folder, tmp_path):
    """Only what differs from a call in the same process: a pipe in, a pipe out, exit codes."""
    command = [sys.executable, "-m", "skxmc"]

    def process(*arguments, **options):
        words = [*command, *map(str, arguments)]
        return subprocess.run(words, capture_output=True, timeout=300, **options)

    model = tmp_path / "model"
    options = settings(TEXT["xr-transformer"])
    fitted = process("fit", folder / "train.tsv", "-m", model, "-e", "xr-transformer", *options)
    assert fitted.returncode == 0, fitted.stderr
    assert fitted.stdout == b""
    assert f"{model}: XRTransformerClassifier, {N_TRAIN} rows".encode() in fitted.stderr
    documents = (folder / "test.docs").read_bytes()
    piped = process("predict", model, "-", "-f", "text", "-k", K, input=documents)
    assert piped.returncode == 0, piped.stderr
    assert piped.stderr == b""
    expected = load_model(model).predict_topk(corpus[0][N_TRAIN:], k=K)
    names = _store.load(model).names
    assert names_of(piped.stdout.decode()) == [[names[j] for j in row] for row in expected.labels]
    refused = process("predict", model, folder / "test.xmc")
    assert (refused.returncode, refused.stdout) == (3, b"")
    assert refused.stderr.startswith(b"skxmc: The model takes texts")
    assert refused.stderr.count(b"\n") == 1


# ------------------------------------------------------------------ texts of labels


def test_texts_of_labels_reach_the_dual_encoder(capsys, corpus, folder, tmp_path):
    texts, labels, used, meanings = corpus
    arguments = ("-e", "unidec", *settings(TEXT["unidec"]))
    done(
        *(capsys, "fit", folder / "train.tsv", "-m", tmp_path / "file", *arguments),
        *("--label-text", folder / "meanings"),
    )
    done(capsys, "fit", folder / "folder", "-m", tmp_path / "folder", *arguments)
    done(capsys, "fit", folder / "train.tsv", "-m", tmp_path / "names", *arguments)
    Y = indicator(labels[:N_TRAIN], used)
    of = {}
    for kind, label_text in (("meanings", list(meanings.values())), ("names", used)):
        model = in_python("unidec", TEXT["unidec"])
        model.fit(texts[:N_TRAIN], Y, label_text=label_text)
        ranked = model.predict_topk(texts[N_TRAIN:], k=K)
        of[kind] = [[used[j] for j in row] for row in ranked.labels]
    assert of["meanings"] != of["names"]
    for model, kind in (("file", "meanings"), ("folder", "meanings"), ("names", "names")):
        out = done(capsys, "predict", tmp_path / model, folder / "test.docs", "-k", K)
        assert names_of(out) == of[kind]


def test_texts_of_labels_reach_a_tree_behind_a_vectorizer(capsys, corpus, folder, tmp_path):
    texts, labels, used, meanings = corpus
    done(
        *(capsys, "fit", folder / "train.tsv", "-m", tmp_path / "m", "-e", "parabel"),
        *("--label-text", folder / "meanings", "-s", "max_leaf=20"),
    )
    tree = skxmc.ParabelTree(
        "parabel", label_representation="pifa+text", max_leaf=20, random_state=0
    )
    model = _estimators.with_vectorizer(tree, "tfidf", {})
    model.fit(
        texts[:N_TRAIN],
        indicator(labels[:N_TRAIN], used),
        classifier__label_text=list(meanings.values()),
    )
    X = model[:-1].transform(texts[N_TRAIN:])
    expected = [[used[j] for j in row] for row in tree.predict_topk(X, k=K).labels]
    out = done(capsys, "predict", tmp_path / "m", folder / "test.docs", "-k", K)
    assert names_of(out) == expected


# ------------------------------------------------------------------ memory limits


@pytest.mark.parametrize("name", ["dismec", "parabel", "sparse-dst"])
def test_a_fit_over_the_limit_is_refused_before_the_work(
    capsys, folder, tmp_path, name, monkeypatch
):
    monkeypatch.setattr(_output, "resident_bytes", lambda: 9_000)
    arguments = ("fit", folder / "train.xmc", "-m", tmp_path / "m", "-e", name)
    arguments += tuple(settings(TEXT[name]))
    code, out, err = call(capsys, *arguments, "--memory-limit", "10KB")
    assert (code, out) == (5, "")
    assert "memory_limit=1,000" in err  # what the data have left
    assert not (tmp_path / "m").exists()
    assert call(capsys, *arguments, "--memory-limit", "8KB")[0] == 5  # the data alone
    done(capsys, *arguments, "--memory-limit", "4GB")
    assert load_model(tmp_path / "m").memory_limit == 4 * 10**9


@pytest.mark.parametrize("name", ["unidec", "xr-transformer"])
def test_a_fit_that_cannot_be_limited_says_so(capsys, folder, tmp_path, name):
    code, _, err = call(
        *(capsys, "fit", folder / "train.tsv", "-m", tmp_path / "m", "-e", name),
        *("--memory-limit", "4GB"),
    )
    assert code == 2
    assert f"{SHORT[name]} has no memory limit: leave out --memory-limit" in err


@pytest.mark.parametrize(
    ("limit", "chunk"), [(None, 1 << 24), ("4GB", 1 << 24), ("33MB", 1_000_000), ("18MB", 1 << 16)]
)
def test_a_memory_limit_makes_chunks_smaller(capsys, folder, tmp_path, monkeypatch, limit, chunk):
    from skxmc._cli import _data

    done(capsys, "fit", folder / "train.xmc", "-m", tmp_path / "m", "-e", "dismec")
    expected = done(capsys, "predict", tmp_path / "m", folder / "test.xmc")
    sizes = []
    chunks = _data.Source.chunks

    def noted(self, **options):
        sizes.append(options["chunk_bytes"])
        return chunks(self, **options)

    monkeypatch.setattr(_data.Source, "chunks", noted)
    monkeypatch.setattr(_output, "resident_bytes", lambda: 17_000_000)
    options = () if limit is None else ("--memory-limit", limit)
    assert done(capsys, "predict", tmp_path / "m", folder / "test.xmc", *options) == expected
    assert sizes == [chunk]


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_other_commands_stop_over_the_limit(capsys, folder, tmp_path, command, monkeypatch):
    done(capsys, "fit", folder / "train.xmc", "-m", tmp_path / "m", "-e", "dismec")
    output = ("-o", tmp_path / "c") if command == "calibrate" else ()
    arguments = (command, tmp_path / "m", folder / "test.xmc", *output, "--memory-limit", "5MB")
    monkeypatch.setattr(_output, "resident_bytes", lambda: 4_000_000)
    done(capsys, *arguments)
    monkeypatch.setattr(_output, "resident_bytes", lambda: 6_000_000)
    code, out, err = call(capsys, *arguments, *(["--overwrite"] if output else []))
    assert (code, out) == (5, "")
    assert "6 MB are in use, over --memory-limit 5 MB" in err


# ------------------------------------------------------------------ refusals


def test_refusals(capsys, folder, tmp_path, monkeypatch):
    write(tmp_path / "no_tab", "one label\n")
    write(tmp_path / "twice", "a\tx\na\ty\n")
    write(tmp_path / "others", "a\tx\n")
    train, rows = folder / "train.tsv", folder / "train.xmc"
    target = ("-m", tmp_path / "m")
    unidec = ("fit", train, *target, "-e", "unidec")
    xr = ("fit", train, *target, "-e", "xr-transformer")
    tree = ("fit", train, *target)
    meanings = ("--label-text", folder / "meanings")
    cases = [
        (2, "'epochs' parameter of UniDEC", *unidec, "-s", "epochs=0"),
        (2, "--estimator unidec: There is no folder nowhere", *unidec, "-s", "encoder=nowhere"),
        (2, "UniDECClassifier takes texts", *unidec, "--vectorizer", "tfidf"),
        (2, "does not take texts: use tfidf", *tree, "--vectorizer", "none"),
        (2, "DismecClassifier does not use texts", *tree, "-e", "dismec", "--label-text", train),
        (2, "XRTransformerClassifier does not use", *xr, "--label-text", train),
        (2, "needs texts", "fit", rows, *target, "-e", "unidec"),
        (2, "are for texts", "fit", rows, *target, "--tokens", "min_df=2"),
        (2, "min_df", *tree, "--tokens", "min_df=-1"),
        (3, "has no config.json", *xr, "-s", f"encoder={tmp_path}"),
        (3, "line 1: expected name<TAB>text", *unidec, "--label-text", tmp_path / "no_tab"),
        (3, "line 2: the label 'a' has a text", *unidec, "--label-text", tmp_path / "twice"),
        (3, "has the text of none of the", *unidec, "--label-text", tmp_path / "others"),
        (3, "no such file", *unidec, "--label-text", tmp_path / "missing"),
        (3, "no such file", *tree, "--label-text", tmp_path / "missing"),
        (3, "does not go with", *tree, *meanings, "-s", "label_representation=pifa"),
        (3, "needs label_text", "fit", rows, *target, "-e", "unidec", "-s", "encoder=precomputed"),
    ]  # fmt: skip
    for code, message, *arguments in cases:
        found, out, err = call(capsys, *arguments)
        assert (found, out, message in err) == (code, "", True), (arguments, found, err)
        assert "Traceback" not in err
        assert not (tmp_path / "m").exists()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n\n")))
    code, _, err = call(capsys, "fit", "-", "-f", "text", *target)
    assert (code, "no labels to learn from" in err) == (3, True)


def test_a_folder_with_two_labels_of_one_name_is_refused(capsys, folder, corpus, tmp_path):
    texts, labels, used, _ = corpus
    Y = indicator(labels[:N_TRAIN], used)
    parts = {"train_texts": texts[:N_TRAIN], "Y_train": Y, "labels": ["same", "same", *used[2:]]}
    dump_folder(parts, tmp_path / "folder")
    code, _, err = call(capsys, "fit", tmp_path / "folder", "-m", tmp_path / "m")
    assert (code, "two labels have the same name" in err) == (3, True)
