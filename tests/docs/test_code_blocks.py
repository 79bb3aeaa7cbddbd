"""Code on the pages that is no doctest: programs, commands and requests do what they show."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from skxmc.datasets import dump_folder, dump_xmc_repository, load_debtags, make_xmc_classification

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / "README.md", ROOT / "benchmarks" / "README.md"),
    *(*DOCS.glob("*.md"), *DOCS.glob("how_to/*.md"), *DOCS.glob("user_guide/*.md")),
]
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    """Return the blocks of code of a page in a language, without those that are doctests."""
    text = (DOCS / page).read_text("utf-8")
    found = [
        re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        for indent, of_block, code in _BLOCK.findall(text)
        if of_block == language
    ]
    return [code for code in found if ">>>" not in code]


@pytest.fixture
def texts():
    """Some texts of the bundled data with their tags."""
    data = load_debtags()
    tags = [[str(name) for name in data.label_names[data.Y_train[[i]].indices]] for i in range(120)]
    return data.train_texts[:120], tags


def test_all_blocks_of_python_are_run_by_a_test():
    """Those with ``>>>`` by test_documentation.py, the others below."""
    found = {
        page.relative_to(DOCS).as_posix(): len(blocks(page, "python"))
        for page in PAGES
        if blocks(page, "python")
    }
    assert found == {
        "extending.md": 1,
        "how_to/laptop_to_cluster.md": 1,
        "user_guide/neural.md": 1,
        "user_guide/xr_transformer.md": 1,
        "user_guide/zero_shot.md": 1,
    }


def test_the_squared_hinge_of_extending_is_that_of_the_solver():
    from skxmc.ops.linear_solver.reference import loss_values

    (code,) = blocks("extending.md", "python")
    body = "".join(f"    {line}\n" for line in code.splitlines())
    names = {"np": np}
    exec(f"def squared_hinge(margins):\n{body}", names)
    margins = np.linspace(-2, 3, 11)
    expected = loss_values(margins, "squared_hinge")
    np.testing.assert_array_equal(names["squared_hinge"](margins), expected)


def test_a_fit_on_a_cluster_as_shown():
    distributed = pytest.importorskip("distributed")
    from skxmc import DismecClassifier

    (code,) = blocks("how_to/laptop_to_cluster.md", "python")
    data = make_xmc_classification(100, 60, 12, random_state=0)
    names = {"X": data.X, "Y": data.Y}
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        assert "tcp://scheduler:8786" in code
        exec(code.replace("tcp://scheduler:8786", cluster.scheduler_address), names)
        names["client"].close()
    assert (names["model"].coef_ != DismecClassifier().fit(data.X, data.Y).coef_).nnz == 0


def test_parameters_of_the_large_encoder_exist():
    from skxmc.neural import XRTransformerClassifier

    (code,) = blocks("user_guide/xr_transformer.md", "python")
    names = {"XRTransformerClassifier": XRTransformerClassifier}
    exec(code, names)
    names["model"]._validate_params()


def test_the_teacher_of_zero_shot_asks_as_shown(monkeypatch):
    (code,) = blocks("user_guide/zero_shot.md", "python")
    names = {}
    exec(code, names)
    teacher, asked = names["teacher"], []

    def answer(request, timeout):
        asked.append((request.full_url, dict(request.header_items()), json.loads(request.data)))
        raise ConnectionError

    monkeypatch.setenv("MY_KEY", "a-key")
    monkeypatch.setattr("urllib.request.urlopen", answer)
    teacher.retries = 0
    with pytest.raises(Exception, match="localhost:8000"):
        teacher(["A soup"], ["vegan"])
    ((url, headers, question),) = asked
    assert url == "http://localhost:8000/v1/chat/completions"
    assert headers["Authorization"] == "Bearer a-key"
    assert question["model"] == "qwen3-8b"
    assert "A question on cooking: A soup" in question["messages"][-1]["content"]


@pytest.mark.slow
def test_training_in_several_processes_as_shown(tmp_path):
    pytest.importorskip("torch")
    from skxmc import load_model

    (code,) = blocks("user_guide/neural.md", "python")
    commands = blocks("user_guide/neural.md", "")[-1].splitlines()
    data = make_xmc_classification(300, 100, 20, random_state=0)
    dump_folder({"X_train": data.X, "Y_train": data.Y}, tmp_path / "data" / "my-texts")
    assert 'device="cuda"' in code
    (tmp_path / "train.py").write_text(code.replace('device="cuda"', "device=None"))
    program, *arguments = shlex.split(commands[0])
    assert program == "torchrun"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert load_model(tmp_path / "my-model", mmap=False).n_labels_ == 20


# ------------------------------------------------------------------ commands


@pytest.mark.slow
def test_commands_run_as_shown(tmp_path, monkeypatch, texts, capsys):
    pytest.importorskip("typer")
    from skxmc import serving
    from skxmc._cli._app import run

    documents, tags = texts
    lines = [f"{text}\t{','.join(of_text)}\n" for text, of_text in zip(documents, tags)]
    for name, rows in (("train", lines[:80]), ("test", lines[80:100]), ("held_out", lines[100:])):
        (tmp_path / f"{name}.tsv").write_text("".join(rows), encoding="utf-8")
    (tmp_path / "new.txt").write_text("a game of chess\na web server\n", encoding="utf-8")
    data = make_xmc_classification(80, 60, 10, random_state=0)
    dump_xmc_repository(data.X, data.Y, tmp_path / "Train.txt")
    monkeypatch.chdir(tmp_path)
    served = []
    monkeypatch.setattr(serving, "run_app", lambda app, host, port, **_: served.append(port))

    first, second = blocks("user_guide/command_line.md", "text")
    (service, *_) = (b for b in blocks("user_guide/serving.md", "text") if "skxmc serve" in b)
    for block in (first, second, service):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[0] != "skxmc":
                continue  # what a command prints
            if block is second:
                words.append("--overwrite")  # both blocks call their model "tagger"
            code = run(words[1:])
            assert code == 0, (line, capsys.readouterr().err)
    assert len((tmp_path / "tags.tsv").read_text("utf-8").splitlines()) == 2
    assert "<svg" in (tmp_path / "report.html").read_text("utf-8")
    assert served == [8000, 8000]


def test_requests_are_answered_as_shown(texts):
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MultiLabelBinarizer
    from starlette.testclient import TestClient

    from skxmc import DismecClassifier
    from skxmc.serving import create_app

    _, of_texts, of_rows = blocks("user_guide/serving.md", "text")
    command, shown = of_texts.splitlines()
    words = shlex.split(command.removeprefix("$ "))
    assert words[:3] == ["curl", "-s", "localhost:8000/predict"]
    body, header = words[words.index("-d") + 1], words[words.index("-H") + 1]
    binarizer = MultiLabelBinarizer(sparse_output=True)
    Y = binarizer.fit_transform(texts[1])
    model = make_pipeline(TfidfVectorizer(), DismecClassifier()).fit(texts[0], Y)
    with TestClient(create_app(model, list(binarizer.classes_))) as client:
        answer = client.post("/predict", content=body, headers=dict([header.split(": ")]))
    assert answer.status_code == 200
    (shown,), (prediction,) = json.loads(shown)["predictions"], answer.json()["predictions"]
    assert {name: len(values) for name, values in prediction.items()} == {
        name: len(values) for name, values in shown.items()
    }

    data = make_xmc_classification(60, 60, 8, random_state=0)
    with TestClient(create_app(DismecClassifier().fit(data.X, data.Y))) as client:
        answer = client.post("/predict", json=json.loads(of_rows))
    assert answer.status_code == 200
    assert len(answer.json()["predictions"][0]["ids"]) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_targets_and_extras_that_pages_name_exist(page):
    text = page.read_text("utf-8")
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r"(?:skxmc|-e \"?\.)\[([a-z,]+)\]", text):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), extras


def test_getting_started_names_all_extras_for_users():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sentence = re.search(r"^Extras: .*?\.", (DOCS / "getting_started.md").read_text(), re.M)[0]
    for_developers = {"test", "docs", "dev"}
    assert set(re.findall(r"`(\w+)`", sentence)) == (
        set(project["optional-dependencies"]) - for_developers
    )
