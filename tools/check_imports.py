"""Check that the imports of skxmc follow its layers.

    python tools/check_imports.py [folder that holds skxmc]

Prints ``file:line: rule`` for each violation and exits with 1 if there is one. Needs nothing but
Python.

The rules:

1. A module imports its own layer and those that LAYERS lists for it, nothing else of skxmc. This
holds for imports
   inside functions too; only those under ``if TYPE_CHECKING:`` are free.
2. ``ops`` never imports scikit-learn: kernels know arrays, not estimators. 3. What is slow to
import or optional (LAZY) is imported inside functions only. A module that is itself loaded late
   (LAZY_FILES) may import it at its top, and is in turn imported inside functions only.
"""

import ast
import sys
from pathlib import Path

# What every layer may use.
_FOUNDATION = ("exceptions", "_parallel", "_progress", "ops", "io", "base")

# Layer -> the layers it may import. The data flow
# datasets -> label_space -> linear | neural -> calibration -> decision -> metrics -> inspection.
LAYERS = {
    "exceptions": (),
    "_parallel": (),
    "_progress": (),
    "ops": ("_parallel", "exceptions"),  # which know nothing of the package
    "io": ("exceptions", "ops"),
    "base": ("exceptions", "_parallel", "_progress", "ops", "io"),
    "datasets": _FOUNDATION,
    "label_space": (*_FOUNDATION, "datasets"),
    "model_selection": (*_FOUNDATION, "datasets", "label_space"),
    "linear": (*_FOUNDATION, "datasets", "label_space"),
    "neural": (*_FOUNDATION, "datasets", "label_space", "linear"),
    # what calibration and decision share as meta-estimators
    "_meta": (*_FOUNDATION, "label_space", "model_selection"),
    "calibration": (*_FOUNDATION, "_meta", "label_space", "model_selection", "linear", "neural"),
    "decision": (
        *(*_FOUNDATION, "_meta", "label_space", "model_selection"),
        *("linear", "neural", "calibration"),
    ),
    "metrics": (*_FOUNDATION, "label_space"),
    "inspection": (
        *_FOUNDATION,
        "_meta",
        "datasets",
        "label_space",
        "model_selection",
        "linear",
        "neural",
        "calibration",
        "decision",
        "metrics",
    ),
    "serving": (*_FOUNDATION, "_meta", "decision"),
}
# These stand above the layers and may import all of them.
TOP = ("_cli", "__main__")

LAZY = {
    *("torch", "triton", "transformers", "faiss", "matplotlib", "dask", "tqdm"),
    *("typer", "jinja2", "fastapi", "starlette", "pydantic", "uvicorn"),
}
# Beginnings of the names of modules, and of packages with all that is in them.
LAZY_FILES = ("torch_", "triton_", "fastapi_", "_cli", "__main__")

PACKAGE = "skxmc"


def check_source(source, path):
    """Return the violations of one file.

    Parameters
    ----------
    source : str
        The text of the module.
    path : Path
        Its path from the folder that holds the package, such as ``skxmc/linear/_dismec.py``.

    Returns
    -------
    list of (int, str)
        Line and rule.
    """
    module = _module_name(path)
    layer = _layer(module)
    if layer and layer not in LAYERS and layer not in TOP:
        return [(1, f"{layer!r} is no layer; give it a line in LAYERS of tools/check_imports.py")]
    found = []
    for node, in_function in _imports(ast.parse(source)):
        for name in _imported_names(node, path, module):
            rule = _broken_rule(name, layer, in_function, _is_lazy_file(path))
            if rule:
                found.append((node.lineno, rule))
    return found


def check_tree(root):
    """Return ``file:line: rule`` for each violation in the package under ``root``."""
    violations = []
    for file in sorted((root / PACKAGE).rglob("*.py")):
        path = file.relative_to(root)
        for line, rule in check_source(file.read_text(encoding="utf-8"), path):
            violations.append(f"{path}:{line}: {rule}")
    return violations


def _broken_rule(name, layer, in_function, lazy_file):
    top, *rest = name.split(".")
    late = top in LAZY or (top == PACKAGE and any(part.startswith(LAZY_FILES) for part in rest))
    if late and not in_function and not lazy_file:
        return f"{name} is to be imported inside a function only"
    if layer == "ops" and top == "sklearn":
        return "ops must not import sklearn"
    if top != PACKAGE or not rest or layer is None or layer in TOP:
        return None
    if rest[0] in ("__version__", layer) or rest[0] in LAYERS.get(layer, ()):
        return None
    return f"{layer} must not import {PACKAGE}.{rest[0]}"


def _module_name(path):
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _layer(module):
    """Return the layer of a module, None for the package's own ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def _is_lazy_file(path):
    """Whether a module is itself loaded late; what begins a lazy package is not."""
    if path.stem == "__init__":
        return any(part.startswith(LAZY_FILES) for part in path.parts[1:-2])
    return any(part.startswith(LAZY_FILES) for part in path.with_suffix("").parts[1:])


def _imports(tree):
    """Yield each import statement with whether it stands in a function, but for type checking."""

    def visit(node, in_function):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, in_function
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            in_function = True
        children = ast.iter_child_nodes(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            children = node.orelse
        for child in children:
            yield from visit(child, in_function)

    yield from visit(tree, False)


def _imported_names(node, path, module):
    """Return the full dotted names that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = module.split(".")
        if path.stem != "__init__":
            package = package[:-1]
        package = package[: len(package) - node.level + 1]
        base = ".".join(package + ([base] if base else []))
    names = [f"{base}.{alias.name}" for alias in node.names]
    if base == PACKAGE:  # `from skxmc import x`: x may be a layer
        return names
    # `from skxmc.ops.topk import torch_` imports a module, `from torch import nn` counts as torch.
    return [name if name.split(".")[-1].startswith(LAZY_FILES) else base for name in names]


def main(arguments):
    """Check the tree, print what is wrong, and return the exit status."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1]
    if not (root / PACKAGE).is_dir():
        print(f"There is no {PACKAGE} in {root}.", file=sys.stderr)
        return 2
    violations = check_tree(root)
    print("\n".join(violations) if violations else "imports follow the layers")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
