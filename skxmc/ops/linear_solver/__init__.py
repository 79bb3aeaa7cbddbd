"""One-vs-all training of linear models: the one sparse solver of the package."""

from skxmc.ops.linear_solver._lanes import LANES
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
    "prepare",
    "solve",
    "work_bytes",
]
