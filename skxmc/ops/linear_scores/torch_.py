"""Scores of sparse linear models on a torch device.

A block of rows becomes a dense matrix (features, rows), which the sparse weights of a block of
labels are multiplied with: a sum over the features of a label, in their order, then the intercept.
So the score of a pair does not depend on the rows and labels beside it. It differs from that of
`numba_` by rounding alone.
"""

from typing import NamedTuple

import numpy as np
import torch

from skxmc.ops._device import default_block_bytes
from skxmc.ops.csr import canonical_pattern, subtract_pattern
from skxmc.ops.linear_scores.numba_ import _check_rows, _raise_nan, _sparse_arrays, check_model
from skxmc.ops.topk import TopK
from skxmc.ops.topk._types import check_k
from skxmc.ops.topk.torch_ import NO_KEY, best_keys, pack_keys, unpack_keys
from skxmc.ops.torch_sparse import SparseRows, on_device, product, sparse_rows

#: Labels that are scored together.
_BLOCK_LABELS = 8192
#: Rows that are, at most.
_MAX_ROWS = 4096
#: Bytes for each pair of a row and a label in a block: scores twice, keys and what selects them.
_PAIR_BYTES = 40


class DeviceScorer(NamedTuple):
    """Weights of linear models on a device; made by `prepare_scorer`."""

    n_features: int
    n_labels: int
    blocks: tuple[SparseRows, ...]  # weights of `_BLOCK_LABELS` labels each
    intercept: torch.Tensor  # (n_labels,) float32, -inf for a label that is never answered
    device: str


def prepare_scorer(coef, intercept, *, device="cpu"):
    """Put the weights of linear models on a device.

    Parameters
    ----------
    coef : sparse array of shape (n_labels, n_features)
    intercept : array-like of shape (n_labels,)
        -inf for a label that must never be answered.
    device : str, default="cpu"

    Returns
    -------
    DeviceScorer
        8 bytes a weight and 8 a label on the device.

    Raises
    ------
    ValueError, TypeError
        As `skxmc.ops.linear_scores.prepare_scorer`.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.linear_scores import torch_
    >>> scorer = torch_.prepare_scorer(sp.csr_array([[1.0, 0.0], [0.0, 2.0]]), [-1, -1])
    >>> torch_.topk(scorer, np.array([[0.5, 1.0]]), k=2)
    TopK(labels=array([[1, 0]], dtype=int32), scores=array([[ 1. , -0.5]], dtype=float32))
    """
    coef, intercept = check_model(coef, intercept)
    n_labels, n_features = coef.shape
    blocks = []
    for first in range(0, n_labels, _BLOCK_LABELS):
        bounds = coef.indptr[first : first + _BLOCK_LABELS + 1]
        entries = slice(int(bounds[0]), int(bounds[-1]))
        blocks.append(
            sparse_rows(bounds - bounds[0], coef.indices[entries], coef.data[entries], device)
        )
    intercept = on_device(intercept, np.float32, device)
    return DeviceScorer(n_features, n_labels, tuple(blocks), intercept, str(device))


def scores(scorer, X, *, block_bytes=None):
    """Scores of all labels.

    Parameters
    ----------
    scorer : DeviceScorer
        From `prepare_scorer`.
    X : sparse array or ndarray of shape (n_samples, n_features)
        Rows.
    block_bytes : int, optional
        Bytes of the device that a block of rows may take; 256 MiB on the processor and 2 GiB on a
        GPU by default. The result does not depend on it.

    Returns
    -------
    ndarray of shape (n_samples, n_labels), float32
        -inf for a label with the intercept -inf.

    Raises
    ------
    ValueError
        If the number of features differs or X holds a value that is not finite.

    Notes
    -----
    Time O(weights) a row. Memory of the device: beside the scorer, ``block_bytes``.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.ops.linear_scores import torch_
    >>> scorer = torch_.prepare_scorer(sp.csr_array([[1.0, 0.0], [0.0, 2.0]]), [-1, -np.inf])
    >>> torch_.scores(scorer, np.array([[0.5, 1.0]]))
    array([[-0.5, -inf]], dtype=float32)
    """
    X = _check_rows(scorer, X)
    out = np.empty((X.shape[0], scorer.n_labels), dtype=np.float32)
    with torch.inference_mode():
        for start, stop in _row_blocks(scorer, X, block_bytes):
            dense = _features_by_rows(scorer, X, start, stop)
            for first, block in _score_blocks(scorer, dense):
                out[start:stop, first : first + len(block)] = block.t().cpu().numpy()
    return out


def topk(scorer, X, k, exclude=None, candidates=None, *, block_bytes=None):
    """The k labels with the largest scores of each row, of equal ones the smaller label first.

    Parameters
    ----------
    scorer, X, block_bytes
        As for `scores`.
    k, exclude, candidates
        As for `skxmc.ops.linear_scores.topk`.

    Returns
    -------
    TopK
        As of `skxmc.ops.linear_scores.topk`.

    Raises
    ------
    ValueError, TypeError
        As `skxmc.ops.linear_scores.topk`.

    Notes
    -----
    As `scores`; all labels are scored for candidates too. The best k of each block of labels are
    merged with those so far.

    Examples
    --------
    See `prepare_scorer`.
    """
    X, k = _check_rows(scorer, X), check_k(k)
    shape = (X.shape[0], scorer.n_labels)
    if exclude is not None:
        exclude = canonical_pattern(exclude, shape, name="exclude")
    if candidates is not None:
        candidates = canonical_pattern(candidates, shape, name="candidates")
        if exclude is not None:
            candidates, exclude = subtract_pattern(candidates, exclude), None
    allowed = candidates is not None
    pairs = candidates if allowed else exclude
    labels = np.full((shape[0], k), -1, dtype=np.int32)
    best = np.full((shape[0], k), -np.inf, dtype=np.float32)
    with torch.inference_mode():
        for start, stop in _row_blocks(scorer, X, block_bytes):
            dense = _features_by_rows(scorer, X, start, stop)
            named = None if pairs is None else _PairsByLabel(pairs, start, stop, scorer.device)
            keys = torch.full((stop - start, 0), NO_KEY, device=scorer.device)
            for first, block in _score_blocks(scorer, dense):
                block = block.t()
                if named is not None:
                    block = named.restrict(block.contiguous(), first, allowed)
                _check_numbers(block, start)
                numbers = torch.arange(first, first + block.shape[1], device=block.device)
                keys = torch.cat([keys, best_keys(pack_keys(block, numbers), k)], dim=1)
                keys = best_keys(keys, k)
            found, values = (part.cpu().numpy() for part in unpack_keys(keys))
            labels[start:stop, : found.shape[1]] = found
            best[start:stop, : found.shape[1]] = values
    return TopK(labels, best)


def _row_blocks(scorer, X, block_bytes):
    if block_bytes is None:
        block_bytes = default_block_bytes(scorer.device)
    of_row = 4 * scorer.n_features + _PAIR_BYTES * min(scorer.n_labels, _BLOCK_LABELS)
    size = max(1, min(_MAX_ROWS, block_bytes // max(of_row, 1)))
    return [(start, min(start + size, X.shape[0])) for start in range(0, X.shape[0], size)]


def _features_by_rows(scorer, X, start, stop):
    """The rows start to stop as a dense matrix (features, rows) on the device."""
    (indptr, indices, data), first, last = _sparse_arrays(X, start, stop)
    entries = slice(int(indptr[first]), int(indptr[last]))
    row = np.repeat(np.arange(last - first), np.diff(indptr[first : last + 1]))
    dense = torch.zeros((scorer.n_features, stop - start), device=scorer.device)
    at = tuple(on_device(part, np.int64, scorer.device) for part in (indices[entries], row))
    dense[at] = on_device(data[entries], np.float32, scorer.device)
    return dense


def _score_blocks(scorer, dense):
    """Yield the first label of a block and the scores (labels, rows)."""
    first = 0
    for weights in scorer.blocks:
        block = product(weights, dense)
        intercept = scorer.intercept[first : first + len(block)]
        block += intercept[:, None]
        block.masked_fill_(torch.isneginf(intercept)[:, None], -torch.inf)  # whatever its weights
        yield first, block
        first += len(block)


def _check_numbers(block, start):
    # Fused multiply-add turns what would be inf - inf into inf: neither is a score.
    wrong = (block.isnan() | block.isposinf()).any(dim=1)
    if wrong.any():
        _raise_nan(start + int(wrong.nonzero()[0]))


class _PairsByLabel:
    """Pairs of some rows with labels, on the device and sorted by label."""

    def __init__(self, pairs, start, stop, device):
        entries = slice(int(pairs.indptr[start]), int(pairs.indptr[stop]))
        row = np.repeat(np.arange(stop - start), np.diff(pairs.indptr[start : stop + 1]))
        label = pairs.indices[entries]
        order = np.argsort(label, kind="stable")
        self.sorted = label[order]
        self.row = on_device(row[order], np.int64, device)
        self.label = on_device(self.sorted, np.int64, device)

    def restrict(self, block, first, allowed):
        """Scores (rows, labels) with -inf for these pairs, or for all others if ``allowed``."""
        begin, end = np.searchsorted(self.sorted, [first, first + block.shape[1]])
        at = self.row[begin:end], self.label[begin:end] - first
        if not allowed:
            block[at] = -torch.inf
            return block
        out = torch.full_like(block, -torch.inf)
        out[at] = block[at]
        return out
