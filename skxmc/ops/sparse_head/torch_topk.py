"""The k best labels of each row on torch tensors, from chunks of labels.

`torch.topk` promises nothing about ties. Each score is therefore joined with its label in one
integer of 64 bits: the score above, in an order-preserving form, and below it the label, counted
backwards. All keys of a row differ, so the k largest are defined, whatever the chunks and the
device: equal scores by the smaller label.
"""

import numpy as np
import torch
from torch.nn.functional import pad

from skxmc.ops.topk import TopK

_MAX_LABEL = 0x7FFFFFFF
_MINUS_INFINITY = -0x7F800001  # of `_ordered`


class StreamingTopK:
    """The k best of what it has been shown.

    Parameters
    ----------
    rows : slice
        The rows, as an error names them.
    k : int
        At most the number of labels.
    device : torch.device
    """

    def __init__(self, rows, k, device):
        n_rows = rows.stop - rows.start
        self._first_row = rows.start
        self._keys = torch.full((n_rows, k), _MINUS_INFINITY << 32, device=device)
        self._has_nan = torch.zeros(n_rows, dtype=torch.bool, device=device)

    def add(self, scores, labels):
        """Show scores, float32 of shape (n, n_rows), of n labels that have not been shown yet.

        A score of -inf is no candidate.
        """
        self._has_nan |= scores.isnan().any(dim=0)
        # Most labels of a late chunk are in no row as good as the worst of the best so far.
        kept = (scores >= self._worst()).any(dim=1).nonzero()[:, 0]
        keys = (_ordered(scores[kept]).to(torch.int64) << 32) + (
            _MAX_LABEL - labels[kept, None].to(torch.int64)
        )
        keys = torch.cat([self._keys, keys.T], dim=1)
        self._keys = torch.topk(keys, self._keys.shape[1], dim=1).values

    def result(self, k):
        """The answers as NumPy arrays with k columns; ValueError if a score was NaN."""
        if self._has_nan.any():
            row = self._first_row + int(self._has_nan.nonzero()[0])
            raise ValueError(f"scores: row {row} holds NaN.")
        scores = _scores(self._keys)
        labels = (_MAX_LABEL - (self._keys & 0xFFFFFFFF)).to(torch.int32)
        labels.masked_fill_(scores.isneginf(), -1)
        missing = (0, k - self._keys.shape[1])
        return TopK(
            pad(labels, missing, value=-1).cpu().numpy(),
            pad(scores, missing, value=-torch.inf).cpu().numpy(),
        )

    def _worst(self):
        return _scores(self._keys[:, -1])


class Pairs:
    """Pairs (row, label) of a sparse pattern in the order of the labels of the layer.

    Parameters
    ----------
    pattern : csr_array of shape (n_rows, n_labels)
        Every stored entry is a pair.
    device : torch.device
    layer : int ndarray of shape (n_labels,), default=None
        Label of the layer that each column stands for. ``None``: the column itself.
    weight : float32 ndarray or tensor of shape (n_labels,), default=None
        Weight of the pairs of each column.
    """

    def __init__(self, pattern, device, layer=None, weight=None):
        rows = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr))
        columns = pattern.indices.astype(np.int64)
        labels = columns if layer is None else layer[columns]
        order = np.argsort(labels, kind="stable")
        self._sorted = labels[order]
        self._labels = torch.from_numpy(self._sorted).to(device)
        self._rows = torch.from_numpy(rows[order]).to(device)
        self._weights = None
        if weight is not None:
            if len(weight) != pattern.shape[1]:
                raise ValueError(
                    f"positive_weight must have one value for each of the {pattern.shape[1]} "
                    f"labels; got {len(weight)}."
                )
            if isinstance(weight, np.ndarray):
                weight = torch.from_numpy(weight[columns[order]].astype(np.float32))
            else:
                weight = weight.to(device, torch.float32)[self._labels]
            self._weights = weight.to(device)

    def of_labels(self, first, stop):
        """Labels, counted from ``first``, and rows of the pairs with labels in a range."""
        pairs = self._range(first, stop)
        return self._labels[pairs] - first, self._rows[pairs]

    def weights_of_labels(self, first, stop):
        """Weights of the pairs of `of_labels`; None if there are none."""
        return None if self._weights is None else self._weights[self._range(first, stop)]

    def any_of_labels(self, first, stop):
        """Whether there is a pair with a label in a range."""
        pairs = self._range(first, stop)
        return pairs.stop > pairs.start

    def _range(self, first, stop):
        return slice(*np.searchsorted(self._sorted, [first, stop]).tolist())


def _ordered(scores):
    """int32 in the order of the scores; both zeros are equal."""
    bits = (scores + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _scores(keys):
    bits = (keys >> 32).to(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
