"""The package as a whole: light import, public names, data in the distribution."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import skxmc

ROOT = Path(__file__).parents[1]


def modules_after(statement):
    """Return the top-level modules that are loaded in a new process after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(result.stdout.split())


def test_import_loads_nothing_heavy():
    loaded = modules_after("import skxmc")
    assert "skxmc" in loaded
    heavy = {"numpy", "scipy", "sklearn", "numba", "joblib", "tqdm", "torch", "matplotlib"}
    assert loaded & heavy == set()


def test_estimator_import_loads_nothing_optional():
    loaded = modules_after("from skxmc import DismecClassifier")
    assert "sklearn" in loaded
    assert loaded & {"torch", "matplotlib", "transformers", "tqdm"} == set()


def test_model_files_need_no_kernels():
    assert "numba" not in modules_after("from skxmc import load_model, save_model")


@pytest.mark.parametrize("name", skxmc.__all__)
def test_public_name_resolves(name):
    assert name in dir(skxmc)
    value = getattr(skxmc, name)
    assert getattr(value, "__name__", name).split(".")[-1] in (name, "str")


def test_unknown_name():
    with pytest.raises(AttributeError, match="'skxmc' has no attribute 'Nothing'"):
        _ = skxmc.Nothing


def test_every_public_object_has_a_docstring():
    for name in skxmc.__all__:
        if name != "__version__":
            assert (getattr(skxmc, name).__doc__ or "").strip(), name


def test_version_is_valid():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", skxmc.__version__)


def test_dependencies_of_the_tests_are_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = project["dependencies"] + extras["test"]
    for requirement in required:  # which grows by what the extras of skxmc itself stand for
        if extra := re.fullmatch(r"skxmc\[(\w+)\]", requirement):
            required += extras[extra.group(1)]
    required = [requirement for requirement in required if not requirement.startswith("skxmc[")]
    assert any(requirement.startswith("torch>") for requirement in required)
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "tests" / "constraints.txt").read_text(), re.M)
    for requirement in required:
        assert re.match(r"[\w-]+", requirement).group() in pinned
