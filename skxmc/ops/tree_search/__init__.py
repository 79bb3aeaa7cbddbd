"""Search in trees of linear models: the best labels of a row without a look at all of them.

`reference` is the definition in plain NumPy; what is exported here is the compiled version.
"""

from skxmc.ops.tree_search._layout import SearchTree, check_tree_arrays, prepare_search
from skxmc.ops.tree_search._types import LINKS, TreeWeights
from skxmc.ops.tree_search.numba_ import (
    LabelGains,
    dense_scores,
    path_scores,
    prepare_gains,
    search_nodes,
    search_threshold,
    search_topk,
)

__all__ = [
    "LINKS",
    "LabelGains",
    "SearchTree",
    "TreeWeights",
    "check_tree_arrays",
    "dense_scores",
    "path_scores",
    "prepare_gains",
    "prepare_search",
    "search_nodes",
    "search_threshold",
    "search_topk",
]
