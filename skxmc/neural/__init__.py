"""Neural estimators: sparse output layers on features, hidden layers or text encoders."""

from skxmc.neural._sparse_dst import SparseDSTClassifier

__all__ = ["SparseDSTClassifier"]
