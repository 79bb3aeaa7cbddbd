"""Splits and cross-validation that accept a sparse Y."""

from skxmc.model_selection._split import (
    IterativeStratifiedKFold,
    IterativeStratifiedShuffleSplit,
    iterative_train_test_split,
)
from skxmc.model_selection._validation import (
    cross_val_predict_sparse,
    cross_val_predict_topk,
    cross_validate_sparse,
)

__all__ = [
    "IterativeStratifiedKFold",
    "IterativeStratifiedShuffleSplit",
    "cross_val_predict_sparse",
    "cross_val_predict_topk",
    "cross_validate_sparse",
    "iterative_train_test_split",
]
