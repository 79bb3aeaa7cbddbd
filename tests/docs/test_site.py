"""What the site is made with: tables of benchmarks, the reference, formulas, the gallery."""

import ast
import csv
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTENSIONS = ROOT / "docs" / "_ext"


@pytest.fixture
def extension(monkeypatch):
    """Import a module of docs/_ext; what it needs may be missing."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))

    def load(name):
        pytest.importorskip("sphinx")
        return importlib.import_module(name)

    return load


# ------------------------------------------------------------------ benchmarks


def test_each_file_of_results_has_a_table_on_the_page(extension):
    tables = extension("benchmark_tables").TABLES
    files = {
        file.stem.removeprefix("bench_") for file in (ROOT / "benchmarks/results").glob("*.csv")
    }
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert files - set(tables) == set()
    assert sorted(re.findall(r"^```\{benchmark\} (\w+)$", page, re.MULTILINE)) == sorted(tables)


def test_each_table_has_figures_and_their_machine(extension):
    module = extension("benchmark_tables")
    for name in module.TABLES:
        if not (module.RESULTS / f"bench_{name}.csv").exists():
            continue
        head, body, used = module.table(name)
        assert body, name
        assert all(len(row) == len(head) for row in body)
        assert all(any(re.match(r"[\d,.]+$", cell) for cell in row) for row in body)
        assert all(
            re.search(r"\d cores(, \d+ threads)?; 20\d\d-", s) for s in module.provenance(used)
        )


def test_a_table_takes_medians_of_the_latest_run(extension, tmp_path, monkeypatch):
    module = extension("benchmark_tables")
    columns = ["date", "git", "cpu", "cores", "threads", "data", "method", "round", "fit_s", "P@1"]
    rows = [
        ["2026-01-01 10:00:00", "old", "CPU", 2, 2, "a", "x", 0, 99, 50],
        ["2026-01-02 10:00:00", "new", "CPU", 2, 2, "a", "x", 0, 1, 60],
        ["2026-01-02 10:00:00", "new", "CPU", 2, 2, "a", "x", 1, 5, 60],
        ["2026-01-02 10:00:00", "new", "CPU", 2, 2, "a", "x", 2, 3, 60],
        ["2026-01-01 10:00:00", "old", "CPU", 8, 8, "a", "y", 0, 7.25, 70],
    ]
    with open(tmp_path / "bench_gandalf.csv", "w", newline="") as file:
        csv.writer(file).writerows([[*columns, "versions"], *([*row, "python 3"] for row in rows)])
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    head, body, used = module.table("gandalf")
    assert head == ["data", "method", "fit, s", "P@1", "rounds"]
    assert body == [["a", "x", "3.0", "60.00", "3"], ["a", "y", "7.2", "70.00", "1"]]
    assert module.provenance(used) == [
        "CPU, 2 cores, 2 threads; 2026-01-02. python 3.",
        "CPU, 8 cores, 8 threads; 2026-01-01. python 3.",
    ]


def test_a_part_of_the_labels_has_a_time_and_no_quality(extension, tmp_path, monkeypatch):
    module = extension("benchmark_tables")
    columns = [
        "date",
        "git",
        "cpu",
        "cores",
        "threads",
        "data",
        "method",
        "fit_s",
        "scaled_s",
        "P@1",
    ]
    row = ["2026-01-01", "a", "CPU", 2, 2, "a", "peer", 10, 1000, 1.5]
    with open(tmp_path / "bench_train.csv", "w", newline="") as file:
        csv.writer(file).writerows([[*columns, "versions"], [*row, "python 3"]])
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    head, body, _ = module.table("train")
    assert "P@1" not in head
    assert "1,000.0" in body[0]


# ------------------------------------------------------------------ reference


def test_each_public_name_has_one_page(extension):
    module = extension("api_pages")
    found = module.public_objects()
    assert "DismecClassifier" in found["skxmc"]
    assert found["skxmc.linear"]["DismecClassifier"][1] == "skxmc.DismecClassifier"
    paths = {}
    for objects in found.values():
        for thing, path in objects.values():
            assert paths.setdefault(path, thing) is thing
            package, _, name = path.rpartition(".")
            assert getattr(importlib.import_module(package), name) is thing
    # a short name in a docstring leads to its page only if no other has the same
    names = module.short_names(found)
    assert names["ParabelTree"] == names["skxmc.linear.ParabelTree"] == "skxmc.ParabelTree"
    assert "LOSSES" not in names


def test_packages_of_the_reference_are_all_there_are(extension):
    module = extension("api_pages")
    folders = [file.parent for file in (ROOT / "skxmc").glob("*/__init__.py")]
    folders += (file.parent for file in (ROOT / "skxmc" / "ops").glob("*/__init__.py"))
    public = {
        ".".join(folder.relative_to(ROOT).parts)
        for folder in folders
        if not folder.name.startswith("_") and folder.name != "ops"
    }
    assert public - set(module.PACKAGES) == set()


def test_methods_of_other_packages_are_left_out(extension):
    from skxmc import DismecClassifier

    methods = extension("api_pages").own_methods(DismecClassifier)
    assert {"fit", "predict_topk", "estimate_memory"} <= set(methods)
    assert not {"get_params", "set_params", "score"} & set(methods)


# ------------------------------------------------------------------ formulas, gallery


def formulas():
    """Return the formulas of all docstrings: (file, TeX)."""
    found = []
    for file in sorted((ROOT / "skxmc").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node) or ""
                blocks = re.findall(r"\.\. math::\n\n((?:    .*(?:\n|$)|\n)+)", text)
                for tex in [*re.findall(r":math:`([^`]+)`", text), *blocks]:
                    found.append((file.name, tex.strip()))
    return found


def test_formulas_can_be_drawn_without_a_script(extension):
    module = extension("mathml")
    found = formulas()
    assert len(found) > 100
    for file, tex in found:
        assert module.tex2mathml(module.complete_tex(tex)).startswith("<math"), (file, tex)


def test_a_fraction_of_digits_is_that_of_tex(extension):
    module = extension("mathml")
    assert module.complete_tex(r"\tfrac12 x + \frac{a}{b}") == r"\tfrac{1}{2} x + \frac{a}{b}"
    drawn = module.tex2mathml(module.complete_tex(r"\tfrac12 x"))
    assert re.search(r"<mfrac[^>]*>\s*<mn>1</mn>\s*<mn>2</mn>\s*</mfrac>", drawn)


def test_the_gallery_has_an_order_for_each_example(extension):
    order = extension("gallery_order").ORDER
    examples = {file.stem for file in (ROOT / "examples").glob("*.py")}
    assert examples - set(order) == set()
    assert len(set(order)) == len(order)


def test_links_of_the_repository_lead_to_pages(extension, tmp_path):
    module = extension("repository_links")

    class App:
        srcdir = ROOT / "docs"

    def target(path):
        return module._target(App, (ROOT / "docs" / path).resolve())

    assert target("../examples/demo.py") == "gallery/demo.rst"
    assert target("../benchmarks/README.md") == "benchmarks_method.md"
    assert target("glossary.md") is None
    assert (ROOT / "docs" / "benchmarks_method.md").exists()
