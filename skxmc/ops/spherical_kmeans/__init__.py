"""Spherical k-means on sparse rows: balanced clusters by bisection, and clusters of any size.

`reference` is the definition in plain NumPy; what is exported here is the compiled version.
"""

from skxmc.ops.spherical_kmeans.numba_ import (
    CompactRows,
    balanced_bisection,
    compact_rows,
    spherical_kmeans,
)

__all__ = ["CompactRows", "balanced_bisection", "compact_rows", "spherical_kmeans"]
