"""Assignment of the rows of a sparse label matrix to folds by iterative stratification."""

from skxmc.ops.stratify.numba_ import assign_folds, compact_labels
from skxmc.ops.stratify.reference import assign_folds_reference

__all__ = ["assign_folds", "assign_folds_reference", "compact_labels"]
