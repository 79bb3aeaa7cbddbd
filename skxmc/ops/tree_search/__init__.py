"""Search in trees of linear models: the best labels of a row without a look at all of them.

`reference` is the definition in plain NumPy; what is exported here is the compiled version.

Examples
--------
A tree of two labels under the root, told apart by one feature:

>>> import numpy as np
>>> from skxmc.ops.tree_search import (
...     TreeWeights,
...     check_search,
...     check_tree_arrays,
...     dense_scores,
...     mapped_search,
...     path_scores,
...     prepare_gains,
...     prepare_search,
...     search_nodes,
...     search_threshold,
...     search_topk,
...     stored_arrays,
... )
>>> weights = TreeWeights(
...     chunk_indptr=np.array([0, 1, 1, 1]),
...     row_feature=np.array([0], dtype=np.int32),
...     row_indptr=np.array([0, 2]),
...     child=np.array([0, 1], dtype=np.uint16),
...     weight=np.array([2, -2], dtype=np.float32),
...     bias=np.zeros(3, dtype=np.float32),
... )
>>> child_start = np.array([1, 3, 3, 3], dtype=np.int32)
>>> label = np.array([-1, 0, 1], dtype=np.int32)
>>> tree = prepare_search(child_start, label, weights, 1, "l2-hinge")

The best labels of a row that has the feature, also with gains; the scores of all labels and of a
given one; the labels above a threshold; the best node at the first depth:

>>> row = np.array([0, 1]), np.array([0], dtype=np.int32), np.array([1], dtype=np.float32)
>>> search_topk([tree], *row, k=2)
TopK(labels=array([[0, 1]], dtype=int32), scores=array([[ 0., -9.]], dtype=float32))
>>> search_topk([tree], *row, k=1, gain=prepare_gains([tree], [1e-5, 0.9])).labels
array([[1]], dtype=int32)
>>> dense_scores([tree], *row)
array([[ 0., -9.]], dtype=float32)
>>> path_scores([tree], *row, np.array([0, 1]), np.array([1], dtype=np.int32))
array([-9.], dtype=float32)
>>> search_threshold([tree], *row, 0.5)[1]
array([0], dtype=int32)
>>> search_nodes(tree, *row, depth=1, beam=10, n_keep=1)[1]
array([1], dtype=int32)

Arrays are checked when a tree is made of them. Those of a file, of a tree that was made before, are
checked when a search comes to them, or at once by `check_search`:

>>> leaf_of = check_tree_arrays(child_start, label, weights, 1)[-1]
>>> leaf_of
array([1, 2], dtype=int32)
>>> again = mapped_search(child_start, label, stored_arrays(tree), 1, "l2-hinge")
>>> check_search(again)
>>> search_topk([again], *row, k=1).labels
array([[0]], dtype=int32)
"""

from skxmc.ops.tree_search._layout import (
    SearchTree,
    check_search,
    check_tree_arrays,
    mapped_search,
    prepare_search,
    stored_arrays,
)
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
    "check_search",
    "check_tree_arrays",
    "dense_scores",
    "mapped_search",
    "path_scores",
    "prepare_gains",
    "prepare_search",
    "search_nodes",
    "search_threshold",
    "search_topk",
    "stored_arrays",
]
