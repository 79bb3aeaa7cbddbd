"""One-vs-all training of linear models: the one sparse solver of the package."""

from skxmc.ops.linear_solver.numba_ import (
    LOSSES,
    STARTS,
    LinearSolution,
    PreparedRows,
    prepare,
    solve,
)

__all__ = ["LOSSES", "STARTS", "LinearSolution", "PreparedRows", "prepare", "solve"]
