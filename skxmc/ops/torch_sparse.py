"""Products of sparse rows with dense matrices on a torch device.

torch's own product of a CSR matrix was not taken: cuSPARSE documents its fast algorithms as not
deterministic, and on the processor it is slower and its sums depend on the number of columns.
``embedding_bag`` is the same product. It adds up the entries of a row one after the other, each
column for itself, so a result does not depend on the columns beside it.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import embedding_bag

#: Longer rows are summed in pieces of so many entries: one thread of a GPU sums a piece.
_PIECE = 512


class SparseRows(NamedTuple):
    """CSR rows on a device; made by `sparse_rows`."""

    indices: torch.Tensor  # of the entries, int32 where it suffices
    data: torch.Tensor  # (nnz,) float32
    pieces: torch.Tensor  # where a piece of a row begins in them, and their end
    rows: torch.Tensor | None  # where a row begins in the pieces; None: a piece is a row

    @property
    def n_rows(self):
        """Rows of a product."""
        return len(self.pieces if self.rows is None else self.rows) - 1


def sparse_rows(indptr, indices, data, device="cpu"):
    """CSR arrays, with ``indptr`` from 0, as `SparseRows`.

    Memory: 8 bytes an entry (16 from 2**31 entries on) and 4 to 8 a row.
    """
    integer = np.int32 if len(indices) < 2**31 else np.int64
    indptr = np.asarray(indptr, np.int64)
    n_pieces = np.maximum(-(-np.diff(indptr) // _PIECE), 1)
    pieces, rows = indptr, None
    if (n_pieces > 1).any():
        rows = np.concatenate(([0], np.cumsum(n_pieces)))
        number = np.arange(rows[-1]) - np.repeat(rows[:-1], n_pieces)
        pieces = np.append(np.repeat(indptr[:-1], n_pieces) + _PIECE * number, indptr[-1])
    return SparseRows(
        on_device(indices, integer, device),
        on_device(data, np.float32, device),
        on_device(pieces, integer, device),
        None if rows is None else on_device(rows, integer, device),
    )


def on_device(array, dtype, device):
    """A tensor of its own: never memory of the caller, who may have it read-only."""
    return torch.from_numpy(np.array(array, dtype=dtype)).to(device)


def product(sparse, dense):
    """``sparse @ dense`` for a contiguous float32 ``dense``: sums in the order of the entries."""
    if len(sparse.indices) == 0 or dense.shape[1] == 0:
        return dense.new_zeros((sparse.n_rows, dense.shape[1]))
    out = sum_bags(dense, sparse.indices, sparse.pieces, sparse.data)
    if sparse.rows is None:
        return out
    every = torch.arange(len(out), dtype=sparse.rows.dtype, device=dense.device)
    return sum_bags(out, every, sparse.rows, None)


def sum_bags(dense, indices, offsets, weights):
    """Sums of rows of ``dense`` times weights: for bag b those of offsets[b] to offsets[b + 1]."""
    return embedding_bag(
        indices, dense, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )
