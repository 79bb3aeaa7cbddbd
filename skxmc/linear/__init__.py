"""Linear estimators."""

from skxmc.linear._dismec import DismecClassifier
from skxmc.linear._parabel import PRESETS, ParabelTree, PathStep

__all__ = ["PRESETS", "DismecClassifier", "ParabelTree", "PathStep"]
