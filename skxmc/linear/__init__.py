"""Linear estimators."""

from skxmc.linear._dismec import DismecClassifier

__all__ = ["DismecClassifier"]
