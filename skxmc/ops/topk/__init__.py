"""Top-k selection: the k best labels of each row, ties by the smaller label id.

`reference` is the definition in plain NumPy; what is exported here is the compiled version.
"""

from skxmc.ops.topk._types import TopK
from skxmc.ops.topk.numba_ import (
    select_topk_dense_row,
    select_topk_pairs,
    topk_csr,
    topk_dense,
    topk_to_csr,
)

__all__ = [
    "TopK",
    "select_topk_dense_row",
    "select_topk_pairs",
    "topk_csr",
    "topk_dense",
    "topk_to_csr",
]
