"""The API reference, made from the ``__all__`` of each package when Sphinx starts.

Each public name has a page in ``docs/api/generated/``, and each package one that lists its names.
Files are written only where something changed, so that Sphinx reads nothing twice. A name that two
packages export is described once, under the shorter path.
"""

import importlib
import importlib.util
import inspect
from pathlib import Path

from docutils import nodes

# Package -> title, in the order of the table of contents.
PACKAGES = {
    "skxmc": "Estimators and models",
    "skxmc.datasets": "Data",
    "skxmc.label_space": "Labels",
    "skxmc.linear": "Linear estimators",
    "skxmc.neural": "Neural estimators",
    "skxmc.calibration": "Calibration",
    "skxmc.decision": "Decisions",
    "skxmc.metrics": "Metrics",
    "skxmc.model_selection": "Model selection",
    "skxmc.inspection": "Inspection",
    "skxmc.io": "Models on disk",
    "skxmc.serving": "Service",
    "skxmc.exceptions": "Exceptions",
}
OPS = (
    *("contrastive", "glas", "linear_scores", "linear_solver", "macro_at_k", "missing_labels"),
    *("row_sums", "sparse_head", "spherical_kmeans", "stratify", "topk", "tree_search"),
)
PACKAGES |= {f"skxmc.ops.{name}": f"ops.{name}" for name in OPS}


def public_names(package):
    """Return the public names of a package but for modules, in order."""
    module = importlib.import_module(package)
    return [
        name
        for name in getattr(module, "__all__", ())
        if not name.startswith("__") and not inspect.ismodule(getattr(module, name))
    ]


def public_objects():
    """Return {package: {name: (object, full path of its page)}} of what is installed."""
    pages, found = {}, {}
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            continue
        module = importlib.import_module(package)
        of_package = found[package] = {}
        for name in public_names(package):
            thing = getattr(module, name)
            # constants may be equal without being the same thing
            key = (name, thing.__module__) if callable(thing) else (name, package)
            of_package[name] = thing, pages.setdefault(key, f"{package}.{name}")
    return found


def own_methods(cls):
    """Return the public methods and properties of a class, those of other packages left out."""
    names = {}
    for base in cls.__mro__:
        if base.__module__.startswith("skxmc"):
            names.update(dict.fromkeys(name for name in vars(base) if not name.startswith("_")))
    kept = (inspect.getattr_static(cls, name) for name in names)
    kinds = property, staticmethod, classmethod
    return [
        name
        for name, thing in zip(names, kept, strict=True)
        if (inspect.isfunction(thing) or isinstance(thing, kinds)) and inspect.getdoc(thing)
    ]


def object_page(path, thing):
    """Return the source of the page of one name."""
    package, _, name = path.rpartition(".")
    lines = [name, "=" * len(name), "", f".. currentmodule:: {package}", ""]
    if inspect.isclass(thing):
        methods = own_methods(thing)
        if methods and not issubclass(thing, BaseException):
            lines += [".. autosummary::", "", *(f"   {name}.{method}" for method in methods), ""]
        lines += [f".. autoclass:: {name}"]
        lines += [f"   :members: {', '.join(methods)}"] if methods else ["   :no-members:"]
    elif callable(thing):
        lines += [f".. autofunction:: {name}"]
    else:
        lines += [f".. autodata:: {name}"]
    return "\n".join([*lines, ""])


def package_page(package, objects):
    """Return the source of the page of a package: what its docstring says, and its names."""
    title = PACKAGES[package]
    heading = f"``{package}``" if title.startswith("ops.") else f"{title} (``{package}``)"
    lines = [heading, "=" * len(heading), "", f".. automodule:: {package}", "   :no-members:", ""]
    kinds = {"Classes": [], "Functions": [], "Values": []}
    for thing, path in objects.values():
        is_class = inspect.isclass(thing)
        kinds["Classes" if is_class else "Functions" if callable(thing) else "Values"].append(path)
    here = [path for _, path in objects.values() if path.rpartition(".")[0] == package]
    lines += [f".. currentmodule:: {package}", ""]
    for kind, paths in kinds.items():
        if paths:
            lines += [f".. rubric:: {kind}", "", ".. autosummary::", ""]
            for path in paths:
                lines += [f"   {path.removeprefix(package + '.') if path in here else path}"]
            lines += [""]
    lines += [".. toctree::", "   :hidden:", "", *(f"   {path}" for path in sorted(here)), ""]
    return "\n".join(lines)


def contents(packages):
    """Return the tables of contents of the reference, for ``docs/api/index.md``."""
    tables = {"For use": [], "For those who build on it": []}
    for package in packages:
        is_op = package.startswith("skxmc.ops.")
        tables["For those who build on it" if is_op else "For use"].append(package)
    lines = []
    for title, of_table in tables.items():
        lines += [f"## {title}", "", "```{toctree}", ":maxdepth: 1", ""]
        lines += [f"generated/package-{package}" for package in of_table] + ["```", ""]
    return "\n".join(lines)


def write_pages(app):
    """Write all pages, and remove those of names that are gone."""
    folder = Path(app.srcdir) / "api" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    found = public_objects()
    pages = {"contents.inc": contents(found)}
    for package, objects in found.items():
        pages[f"package-{package}.rst"] = package_page(package, objects)
        for thing, path in objects.values():
            pages[f"{path}.rst"] = object_page(path, thing)
    for old in folder.iterdir():
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    app.skxmc_paths = short_names(found)


def short_names(found):
    """Return {name or path: path of its page} for all ways in which a docstring may say it."""
    paths, ambiguous = {}, set()
    for package, objects in found.items():
        for name, (_, path) in objects.items():
            paths[f"{package}.{name}"] = path
            if paths.setdefault(name, path) != path:
                ambiguous.add(name)
    return {name: path for name, path in paths.items() if name not in ambiguous}


def resolve(app, env, node, contnode):
    """Lead ``DismecClassifier`` and ``skxmc.linear.DismecClassifier`` to the one page they have."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].lstrip(".").removesuffix("()")
    path = app.skxmc_paths.get(target)
    if path is None:  # a method, perhaps
        owner, _, method = target.rpartition(".")
        if owner not in app.skxmc_paths:
            return None
        path = f"{app.skxmc_paths[owner]}.{method}"
    domain = env.get_domain("py")
    known = domain.objects.get(path)
    if known is None:
        return None
    uri = app.builder.get_relative_uri(node["refdoc"], known.docname)
    return nodes.reference("", "", contnode, internal=True, refuri=f"{uri}#{known.node_id}")


def setup(app):
    """Write the pages before Sphinx looks for sources."""
    app.connect("builder-inited", write_pages, priority=100)
    app.connect("missing-reference", resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
