"""Check the docstring of every public name with numpydoc's validation.

    python tools/check_docstrings.py [name ...]

Public is what the ``__all__`` of each package holds, with the methods that a class does not take
from another library. Examples are run by the tests, not here.
"""

import enum
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

from api_pages import PACKAGES, own_methods, public_names  # noqa: E402

# Checks of numpydoc that are not made, and why.
SWITCHED_OFF = {
    "ES01": "an extended summary: one sentence says it all of a small function",
    "SA01": "a section See Also: the page of the package lists what is beside it",
    "SS05": "an infinitive at the start: 'Margins of all labels' is taken for a verb",
    "RT02": "no name for a single result: a name can say more than its type",
}
# Not made for methods: the example of the class shows them.
SWITCHED_OFF_FOR_METHODS = {"EX01"}
# Not made for compiled operations: arguments with the same name mean the same in all functions of
# an operation, and are explained in the one that a reader meets first.
SWITCHED_OFF_FOR_OPS = {"PR03", "PR04", "PR07", "PR08", "RT03", "RT04"}


def objects_to_check():
    """Return {full name: object} of all public classes, their methods, and functions."""
    found = {}
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            continue
        module = importlib.import_module(package)
        for name in public_names(package):
            thing = getattr(module, name)
            if not callable(thing) or any(thing is other for other in found.values()):
                continue
            found[f"{package}.{name}"] = thing
            if isinstance(thing, type):
                for method in own_methods(thing):
                    found[f"{package}.{name}.{method}"] = inspect.getattr_static(thing, method)
    return found


def switched_off(name, thing):
    """Return the codes of the checks that are not made for an object."""
    codes = set(SWITCHED_OFF)
    package = max((other for other in PACKAGES if name.startswith(other + ".")), key=len)
    if name.count(".") > package.count(".") + 1:
        codes |= SWITCHED_OFF_FOR_METHODS
    if package.startswith("skxmc.ops."):
        codes |= SWITCHED_OFF_FOR_OPS
    if isinstance(thing, type) and issubclass(thing, enum.Enum):
        codes |= {"PR01", "EX01"}  # names of values, which a table explains
    if isinstance(thing, type) and hasattr(thing, "_fields"):
        # a result of named parts: they are attributes, and the function that returns it is shown
        codes |= {"PR01", "EX01"}
    shown = "\n".join(re.findall(r"^(?:>>>|\.\.\.) .*$", sys.modules[package].__doc__, re.M))
    if re.search(rf"\b{name.rpartition('.')[2]}\b", shown):
        codes.add("EX01")  # in the example of the package
    return codes


def errors(name, thing):
    """Return what is wrong with the docstring of an object, one string each."""
    from numpydoc.validate import validate

    off = switched_off(name, thing)
    found = [f"{code} {text}" for code, text in validate(name)["errors"] if code not in off]
    if isinstance(thing, type) and hasattr(thing, "_fields"):
        attributes = (thing.__doc__ or "").partition("Attributes\n")[2]
        missing = [field for field in thing._fields if not re.search(rf"\b{field}\b", attributes)]
        if missing:
            found.append(f"fields {', '.join(missing)} not documented under Attributes")
    return found


def main(names=()):
    """Print what is wrong; return the number of errors."""
    things = objects_to_check()
    n_errors = 0
    for name in names or things:
        for error in errors(name, things[name]):
            n_errors += 1
            print(f"{name}: {error}")
    print(f"{len(names or things)} docstrings, {n_errors} errors")
    return n_errors


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
