"""Training of linear models: the one sparse solver of the package.

`solve` trains labels that all see all rows (one-vs-all), `SiblingSolver` those that share a part of
the rows (the children of a tree node). Both minimise the objective of `reference` with the same
method, truncated Newton, and the same stopping rule.
"""

from skxmc.ops._lanes import LANES
from skxmc.ops.linear_solver._siblings import SiblingSolution, SiblingSolver
from skxmc.ops.linear_solver.numba_ import (
    LOSSES,
    STARTS,
    LinearSolution,
    PreparedRows,
    prepare,
    solve,
    work_bytes,
)

__all__ = [
    "LANES",
    "LOSSES",
    "STARTS",
    "LinearSolution",
    "PreparedRows",
    "SiblingSolution",
    "SiblingSolver",
    "prepare",
    "solve",
    "work_bytes",
]
