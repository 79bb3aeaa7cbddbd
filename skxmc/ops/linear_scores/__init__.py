"""Scores of all labels under sparse linear models: top k, all of them, or those of given pairs.

`reference` is the definition in plain NumPy; what is exported here is the compiled version.
"""

from skxmc.ops.linear_scores.numba_ import (
    STORED,
    LinearScorer,
    check_scorer,
    mapped_scorer,
    pair_scores,
    prepare_scorer,
    scores,
    topk,
    weights_by_label,
)

__all__ = [
    "STORED",
    "LinearScorer",
    "check_scorer",
    "mapped_scorer",
    "pair_scores",
    "prepare_scorer",
    "scores",
    "topk",
    "weights_by_label",
]
