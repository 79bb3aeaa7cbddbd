"""Decisions of k labels a row for metrics that are sums over labels (macro-at-k).

`reference` is the definition in plain NumPy; what is exported here is the compiled version.
"""

from skxmc.ops.macro_at_k._types import Counts, Objective, Term, Utility
from skxmc.ops.macro_at_k.frank_wolfe import frank_wolfe
from skxmc.ops.macro_at_k.numba_ import (
    OnlineState,
    block_coordinate_ascent,
    closed_form_gains,
    expected_counts,
    greedy_pass,
    objective_value,
    online_pass,
)
from skxmc.ops.macro_at_k.randomised import affine_topk, madow_sample, mixture_inclusion

__all__ = [
    "Counts",
    "Objective",
    "OnlineState",
    "Term",
    "Utility",
    "affine_topk",
    "block_coordinate_ascent",
    "closed_form_gains",
    "expected_counts",
    "frank_wolfe",
    "greedy_pass",
    "madow_sample",
    "mixture_inclusion",
    "objective_value",
    "online_pass",
]
