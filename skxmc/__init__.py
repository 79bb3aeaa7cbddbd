"""Extreme multi-label classification for scikit-learn users.

The public names are loaded on first use, so that ``import skxmc`` costs next to nothing.
"""

import importlib

__version__ = "0.1.0.dev0"

# Public name -> the module that defines it.
_PUBLIC_NAMES = {
    "DismecClassifier": "skxmc.linear",
    "GandalfAugmenter": "skxmc.label_space",
    "IsotonicXMCCalibrator": "skxmc.calibration",
    "LMTXClassifier": "skxmc.neural",
    "MacroAtKPredictor": "skxmc.decision",
    "ParabelTree": "skxmc.linear",
    "SparseDSTClassifier": "skxmc.neural",
    "StaticEncoder": "skxmc.neural",
    "TopK": "skxmc.ops.topk",
    "UniDECClassifier": "skxmc.neural",
    "XRTransformerClassifier": "skxmc.neural",
    "load_model": "skxmc.io",
    "save_model": "skxmc.io",
}
_SUBMODULES = (
    *("calibration", "datasets", "decision", "inspection", "io", "label_space", "linear"),
    *("metrics", "model_selection", "neural", "serving"),
)

__all__ = [*_PUBLIC_NAMES, *_SUBMODULES, "__version__"]


def __getattr__(name):
    if name in _PUBLIC_NAMES:
        value = getattr(importlib.import_module(_PUBLIC_NAMES[name]), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f"skxmc.{name}")
    raise AttributeError(f"module 'skxmc' has no attribute {name!r}")


def __dir__():
    return sorted(set(globals()) | set(__all__))
