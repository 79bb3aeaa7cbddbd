"""Each example runs, on less data than it takes by itself, and shows what it says it shows."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skxmc.datasets import load_xmc_repository

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def load(name):
    """Return what an example defines, without running it."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def line(text, start):
    return next(row for row in text.splitlines() if row.strip().startswith(start))


def test_demo_prints_what_a_person_wants_to_see(capsys):
    load("demo")["main"](every=12)
    captured = capsys.readouterr()
    out = captured.out
    assert out.startswith("Data: Debian package descriptions, 2,005 for training and 521 for test")
    assert "labels: 100%" in captured.err  # the progress bar
    assert re.search(r"Kernels ready after \d+\.\d s", out)
    for metric, cells in (("P ", 3), ("PSP ", 3), ("nDCG ", 1), ("coverage ", 1)):
        values = numbers(line(out, metric))
        assert len(values) == cells
        assert all(0 < value < 100 for value in values)
    # Always answering the most frequent tag gives 33 % at one.
    assert numbers(line(out, "P "))[0] > 50
    for quantity, unit in (("fit", "s"), ("predict", "s"), ("model", "MB")):
        assert re.search(rf"\d+\.\d {unit}", line(out, quantity))
    assert re.search(r"\d+ MB|n/a", line(out, "peak memory"))
    documents = out.partition("Three test descriptions")[2]
    assert documents.count("true: ") == 3
    assert len(re.findall(r"^    [+ ] +-?\d+\.\d\d   \S+::", documents, re.MULTILINE)) == 15


def test_demo_marks_exactly_the_true_tags(capsys):
    load("demo")["main"](every=24)
    documents = capsys.readouterr().out.partition("Three test descriptions")[2]
    for document in documents.split("\n\n")[1:]:
        true = line(document, "true:").partition(":")[2].strip().split(", ")
        answers = re.findall(r"^    ([+ ]) +-?\d+\.\d\d   (\S+)$", document, re.MULTILINE)
        assert len(answers) == 5
        assert [mark == "+" for mark, _ in answers] == [tag in true for _, tag in answers]


def test_peak_memory_without_the_resource_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows: the import fails
    assert load("demo")["peak_memory"]().strip() == "n/a"


def test_grid_search_finds_the_better_value_of_C(capsys):
    search = load("grid_search")["main"](n_splits=2, Cs=(1e-4, 1.0))
    assert search.best_params_ == {"classifier__C": 1.0}
    scores = search.cv_results_["mean_test_ndcg@5"]
    assert f"{100 * scores[1]:.2f}" in line(capsys.readouterr().out, "1 ")


def test_label_tree_explains_and_grows(capsys):
    models, (row, steps), grown, answers = load("label_tree")["main"](every=12, n_new=30)
    assert [len(models[preset].trees_) for preset in ("bonsai", "xr-linear")] == [3, 1]
    # The shown scores multiply to the probability of the tag that they explain.
    log_probability = sum(step.log_probability for step in steps)
    label = steps[-1].label
    margin = models["xr-linear"].predict_topk(row, k=3)
    shown = margin.scores[margin.labels == label][0]
    assert np.log(np.expm1(-log_probability)) == pytest.approx(-shown, abs=1e-4)
    assert grown.n_labels_ == 567
    assert np.count_nonzero(answers.labels >= 567 - 30) > 0
    out = capsys.readouterr().out
    for preset in models:
        assert 50 < numbers(out.partition(f"{preset}: fitted")[2])[1] < 100  # P@1, after the time
    before = numbers(line(out, "P@5 over all tags"))[-1]
    after = numbers(line(out, "after 30 more were added"))[-1]
    assert before < after
    assert numbers(line(out, "all fitted at once"))[-1] == pytest.approx(after, abs=0.03)
    assert out.count("more\n") == 5  # four clusters and their parent, cut short


def test_missing_labels_propensities_help_where_they_should(capsys):
    complete, recorded, assigned = load("missing_labels")["main"](n_samples=3000, n_labels=100)
    assert set(complete) == set(recorded) == {"vanilla", "propensity"}
    # The weights exceed 1, so margins of positives rise: more labels are assigned.
    assert assigned["propensity"].nnz > assigned["vanilla"].nnz
    # The answers are the same, and what is recorded is a part of what is true.
    for name, evaluation in complete.items():
        assert evaluation["P@5"] > recorded[name]["P@5"]
    assert "vanilla" in capsys.readouterr().out


def test_save_and_serve_restricts_the_answers(capsys):
    best, answers, facet = load("save_and_serve")["main"](every=30, n_calls=5)
    assert set(answers.labels[0]) <= set(facet)
    rows = capsys.readouterr().out.splitlines()
    shown = [re.findall(r"(\S+::\S+) \(-?\d", row) for row in rows[-3:]]
    assert [len(tags) for tags in shown] == [3, 3, 3]
    # Without the best answer, the next ones move up.
    assert shown[1][:2] == shown[0][1:]
    assert shown[0][0] not in shown[1]
    assert all(tag.startswith("role::") for tag in shown[2])
    assert np.all(np.diff(best.scores[0]) <= 0)


def test_own_data_writes_the_predictions_that_it_evaluates(tmp_path, capsys):
    example = load("own_data")
    train_file, test_file = example["write_example_files"](tmp_path, n_labels=200)
    predictions_file = tmp_path / "predictions.txt"
    example["main"](train_file, test_file, predictions_file)
    _, Y_test = load_xmc_repository(test_file)
    rows = predictions_file.read_text().splitlines()
    assert len(rows) == Y_test.shape[0]
    first = [int(row.partition(":")[0]) for row in rows]
    hits = sum(int(Y_test[i, j]) for i, j in enumerate(first))
    printed = numbers(line(capsys.readouterr().out, "P "))[0]
    assert printed == pytest.approx(100 * hits / len(rows), abs=0.005)
    scores = [[float(pair.partition(":")[2]) for pair in row.split()] for row in rows]
    assert all(row == sorted(row, reverse=True) for row in scores)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_examples_say_what_they_show_and_how_to_run_them(script):
    source = script.read_text(encoding="utf-8")
    assert source.startswith('"""')
    assert f"python examples/{script.name}" in source.split('"""')[1]


def run_script(script, *arguments):
    """Run an example as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(EXAMPLES.parent),
            "MPLBACKEND": "Agg",  # a picture opens no window, which matplotlib would say
            "PYTHONWARNINGS": "ignore:FigureCanvasAgg is non-interactive",
        },
        check=False,
    )


def test_own_data_explains_itself_when_called_wrongly():
    run = run_script(EXAMPLES / "own_data.py", "only-one-file")
    assert run.returncode == 1
    assert "repository" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_examples_run_as_they_are(script):
    run = run_script(script)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
