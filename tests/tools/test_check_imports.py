"""The lint of the import direction: it must catch each kind of violation, and pass the package."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "check_imports.py"

spec = importlib.util.spec_from_file_location("check_imports", TOOL)
check_imports = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_imports)


def check(source, path):
    return check_imports.check_source(source, Path(path))


@pytest.mark.parametrize(
    ("path", "source", "rule"),
    [
        ("skxmc/ops/topk.py", "import sklearn", "ops must not import sklearn"),
        ("skxmc/ops/topk.py", "from sklearn.utils import shuffle", "must not import sklearn"),
        ("skxmc/ops/topk.py", "def f():\n  import sklearn", "must not import sklearn"),
        ("skxmc/ops/topk.py", "from skxmc.base import f", "ops must not import skxmc.base"),
        ("skxmc/ops/a/b.py", "from skxmc import io", "must not import skxmc.io"),
        ("skxmc/_cli/__init__.py", "import typer", "typer is to be imported inside a function"),
        ("skxmc/linear/a.py", "from skxmc._cli._app import run", "skxmc._cli._app is to be"),
        ("skxmc/serving/__init__.py", "from skxmc.serving.fastapi_app import f", "fastapi_app is"),
        ("skxmc/serving/a.py", "from skxmc.metrics import f", "must not import skxmc.metrics"),
        ("skxmc/inspection/a.py", "import jinja2", "jinja2 is to be imported inside a function"),
        ("skxmc/ops/a/b.py", "from ...linear import X", "ops must not import skxmc.linear"),
        ("skxmc/ops/a/__init__.py", "from ...linear import X", "import skxmc.linear"),
        ("skxmc/ops/__init__.py", "from ..linear import X", "ops must not import skxmc.linear"),
        ("skxmc/datasets/a.py", "import skxmc.label_space", "must not import skxmc.label_space"),
        ("skxmc/label_space/a.py", "from skxmc.metrics import f", "import skxmc.metrics"),
        ("skxmc/linear/a.py", "from skxmc.neural import f", "linear must not import skxmc.neural"),
        ("skxmc/neural/a.py", "from skxmc.decision import f", "must not import skxmc.decision"),
        ("skxmc/linear/a.py", "def f():\n  from .. import metrics", "import skxmc.metrics"),
        ("skxmc/linear/a.py", "from skxmc import DismecClassifier", "DismecClassifier"),
        ("skxmc/metrics/a.py", "from skxmc.decision import f", "must not import skxmc.decision"),
        ("skxmc/io/a.py", "from skxmc.linear import f", "io must not import skxmc.linear"),
        ("skxmc/base.py", "from skxmc.linear import f", "base must not import skxmc.linear"),
        ("skxmc/linear/a.py", "import torch", "torch is to be imported inside a function only"),
        ("skxmc/linear/a.py", "try:\n  import torch.nn\nexcept E:\n  pass", "torch.nn is to be"),
        ("skxmc/linear/a.py", "class A:\n  from torch import nn", "torch is to be imported"),
        ("skxmc/inspection/a.py", "import matplotlib.pyplot as plt", "matplotlib.pyplot is to"),
        ("skxmc/__init__.py", "import transformers", "transformers is to be imported"),
        ("skxmc/ops/topk/__init__.py", "from .torch_ import f", "skxmc.ops.topk.torch_ is to be"),
        ("skxmc/linear/a.py", "from skxmc.ops.topk import torch_", "topk.torch_ is to be"),
        ("skxmc/utils/a.py", "import os", "'utils' is no layer"),
    ],
)
def test_violation_is_found(path, source, rule):
    found = check(source, path)
    assert len(found) == 1
    line, message = found[0]
    assert rule in message
    assert line == (1 if rule.endswith("no layer") or "\n" not in source else 2)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("skxmc/ops/topk.py", "import numba\nimport scipy.sparse\nfrom skxmc.ops._jit import jit"),
        ("skxmc/ops/topk.py", "from skxmc._parallel import map_chunks"),
        ("skxmc/ops/topk.py", "from skxmc.exceptions import MemoryLimitError"),
        ("skxmc/_cli/_app.py", "import typer\nfrom skxmc.linear import f"),
        ("skxmc/serving/fastapi_app.py", "import fastapi\nfrom skxmc.decision import f"),
        ("skxmc/linear/a.py", "def f():\n  import torch\n  from skxmc.ops.topk import torch_"),
        ("skxmc/linear/a.py", "if TYPE_CHECKING:\n  import torch\n  from skxmc import metrics"),
        ("skxmc/linear/a.py", "from skxmc.label_space import f\nfrom skxmc.io._arrays import g"),
        ("skxmc/linear/a.py", "from .b import f\nfrom ..ops import topk\nimport sklearn"),
        ("skxmc/metrics/a.py", "from skxmc.label_space import f\nfrom skxmc import ops"),
        ("skxmc/ops/topk/torch_.py", "import torch\nfrom .triton_ import f"),
        ("skxmc/io/a.py", "import skxmc\nfrom skxmc import __version__"),
        ("skxmc/linear/a.py", "import torchlike\nimport matplotlib_inline"),
        ("skxmc/__main__.py", "from skxmc._cli import main"),
    ],
)
def test_allowed_imports_pass(path, source):
    assert check(source, path) == []


def test_layers_have_no_cycle():
    order = []
    remaining = dict(check_imports.LAYERS)
    while remaining:
        free = [layer for layer, below in remaining.items() if not set(below) & set(remaining)]
        assert free, f"a cycle among {sorted(remaining)}"
        order += free
        for layer in free:
            del remaining[layer]
    flow = ["datasets", "label_space", "linear", "calibration", "decision", "inspection"]
    assert sorted(flow, key=order.index) == flow


def test_command_reports_place_and_status(tmp_path):
    package = tmp_path / "skxmc" / "ops"
    package.mkdir(parents=True)
    (package / "good.py").write_text("import numpy\n")
    command = [sys.executable, str(TOOL), str(tmp_path)]
    good = subprocess.run(command, capture_output=True, text=True)
    assert (good.returncode, good.stdout) == (0, "imports follow the layers\n")
    (package / "bad.py").write_text("import numpy\n\nimport sklearn\n")
    bad = subprocess.run(command, capture_output=True, text=True)
    assert bad.returncode == 1
    path = Path("skxmc", "ops", "bad.py")
    assert bad.stdout == f"{path}:3: ops must not import sklearn\n"
    nothing = subprocess.run([*command[:2], str(package)], capture_output=True, text=True)
    assert nothing.returncode == 2


def test_the_package_passes():
    assert check_imports.check_tree(ROOT) == []
