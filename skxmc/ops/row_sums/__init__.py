"""Sums of groups of sparse rows, such as the features of the training rows of each label.

`reference` is the definition in plain NumPy; what is exported here is the compiled version.
"""

from skxmc.ops.row_sums.numba_ import sum_row_groups, unit_data, unit_rows

__all__ = ["sum_row_groups", "unit_data", "unit_rows"]
