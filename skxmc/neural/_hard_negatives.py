"""Nearest labels of rows by inner product: exact, or by an approximate index of faiss."""

import numpy as np
import scipy.sparse as sp

from skxmc._parallel import effective_n_jobs
from skxmc.neural._output_layer import load_backend
from skxmc.ops.csr import canonical_pattern
from skxmc.ops.sparse_head._types import Part
from skxmc.ops.topk import TopK, topk_dense

SEARCHES = ("exact", "faiss")

# Links of a node of the graph, and candidates looked at in its construction and in a search.
_LINKS, _CONSTRUCTION, _SEARCH = 32, 80, 128

# Scores of all labels that exist at a time, and labels of a shortlist beyond the answers.
_BLOCK_BYTES, _SPARE = 1 << 26, 16


class LabelIndex:
    """Label vectors to be searched.

    Parameters
    ----------
    vectors : float32 array of shape (n_labels, n_dimensions)
    bias : float32 array of shape (n_labels,), or None
        Added to the inner products.
    search : {"exact", "faiss"}, default="exact"
        "faiss" is an HNSW graph of faiss, which has to be installed (``faiss-cpu``): its answers
        are approximate, those with few labels left exact.
    n_jobs : int or None, default=None
        Threads of the exact search; its result does not depend on it.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.neural._hard_negatives import LabelIndex
    >>> index = LabelIndex(np.eye(3, dtype=np.float32))
    >>> index.topk(np.float32([[0.1, 0.9, 0.5]]), 2).labels
    array([[1, 2]], dtype=int32)
    """

    def __init__(self, vectors, bias=None, *, search="exact", n_jobs=None):
        if bias is None:
            bias = np.zeros(len(vectors), dtype=np.float32)
        self.vectors, self.bias = vectors, bias
        self.n_jobs = n_jobs
        self._graph = new_graph(vectors, bias) if search == "faiss" else None

    def topk(self, queries, k, *, exclude=None, candidates=None):
        """The k labels of each row with the largest scores.

        Parameters
        ----------
        queries : float32 array of shape (n_rows, n_dimensions)
        k : int
        exclude, candidates : canonical CSR pattern of shape (n_rows, n_labels), or None
            Pairs that must not be answered, or the only ones that may. With ``candidates`` the
            search is exact.

        Returns
        -------
        TopK
            Padded where there are fewer labels.

        Notes
        -----
        Exact: O(n_rows n_labels n_dimensions), in blocks of 64 MiB.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if candidates is None:
            if self._graph is not None:
                return self._approximate(queries, k, exclude)
            if k + _SPARE < len(self.vectors):
                candidates, exclude = self.shortlist(queries, k + _SPARE, exclude), None
        return load_backend("numba").topk(
            queries,
            self._parts(),
            np.arange(len(self.vectors)),
            k,
            exclude=exclude,
            candidates=candidates,
            n_jobs=self.n_jobs,
        )

    def shortlist(self, queries, k, exclude):
        """The k best labels of each row by a matrix product, as a canonical CSR pattern.

        The last bits of a matrix product depend on the rows beside a row; those of the scores of
        the labels in the list are computed again, by themselves.
        """
        labels = self.nearest(queries, k, exclude)
        rows = np.repeat(np.arange(len(labels)), labels.shape[1])
        kept = labels.ravel() >= 0
        shape = (len(labels), len(self.vectors))
        pairs = rows[kept], labels.ravel()[kept]
        return canonical_pattern(sp.csr_array((np.ones(kept.sum()), pairs), shape=shape), shape)

    def nearest(self, queries, k, exclude=None):
        """Labels of the k best, int32 of shape (n_rows, k), padded with -1; by matrix products."""
        n_rows, n_labels = len(queries), len(self.vectors)
        labels = np.full((n_rows, k), -1, dtype=np.int32)
        block = max(1, _BLOCK_BYTES // (4 * n_labels))
        for first in range(0, n_rows, block):
            rows = slice(first, min(first + block, n_rows))
            scores = queries[rows] @ self.vectors.T
            scores += self.bias
            if exclude is not None:
                inside = slice(exclude.indptr[rows.start], exclude.indptr[rows.stop])
                counts = np.diff(exclude.indptr[rows.start : rows.stop + 1])
                row = np.repeat(np.arange(len(scores)), counts)
                scores[row, exclude.indices[inside]] = -np.inf
            n_threads = effective_n_jobs(self.n_jobs)
            labels[rows] = topk_dense(scores, k, n_threads=n_threads).labels
        return labels

    def scores(self, queries):
        """Scores of all labels, float32 of shape (n_rows, n_labels)."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        return load_backend("numba").scores(queries, self._parts(), n_jobs=self.n_jobs)

    def _parts(self):
        return (Part(self.vectors, None, self.bias, 1, "float32"),)

    def _approximate(self, queries, k, exclude):
        """Search for as many more as may be excluded, and leave those out."""
        n_rows, n_labels = len(queries), len(self.vectors)
        excluded = np.zeros(n_rows, dtype=np.int64)
        if exclude is not None:
            exclude = canonical_pattern(exclude, (n_rows, n_labels), name="exclude")
            excluded = np.diff(exclude.indptr)
        labels = np.full((n_rows, k), -1, dtype=np.int32)
        scores = np.full((n_rows, k), -np.inf, dtype=np.float32)
        if n_rows == 0:
            return TopK(labels, scores)
        ones = np.ones((n_rows, 1), dtype=np.float32)
        found = np.ascontiguousarray(np.hstack([queries, ones]), dtype=np.float32)
        wanted = int(min(n_labels, k + excluded.max()))
        found_scores, found = self._graph.search(found, wanted)
        for row in range(n_rows):
            kept = found[row] >= 0
            if exclude is not None:
                own = exclude.indices[exclude.indptr[row] : exclude.indptr[row + 1]]
                kept &= ~np.isin(found[row], own)
            kept = np.flatnonzero(kept)
            kept = kept[np.lexsort((found[row, kept], -found_scores[row, kept]))][:k]
            labels[row, : len(kept)] = found[row, kept]
            scores[row, : len(kept)] = found_scores[row, kept]
        return TopK(labels, scores)


def new_graph(vectors, bias):
    """An HNSW graph of faiss over label vectors with their biases."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'search="faiss" needs faiss: pip install faiss-cpu, or take search="exact".'
        ) from error
    rows = np.ascontiguousarray(np.hstack([vectors, bias[:, None]]), dtype=np.float32)
    graph = faiss.IndexHNSWFlat(rows.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = _CONSTRUCTION, _SEARCH
    graph.add(rows)
    return graph


def mine_hard_negatives(queries, vectors, n, *, exclude, labels=None, search="exact", n_jobs=None):
    """Labels that score high for rows they do not belong to.

    Parameters
    ----------
    queries : float32 array of shape (n_rows, n_dimensions)
    vectors : float32 array of shape (n_labels, n_dimensions)
    n : int
        Negatives of a row.
    exclude : canonical CSR pattern of shape (n_rows, n_labels)
        Pairs that are no negatives: positives above all.
    labels : int array, or None
        The labels, in rising order, that can be negatives; None: all.
    search, n_jobs
        See `LabelIndex`.

    Returns
    -------
    int32 ndarray of shape (n_rows, n)
        Nearest first, padded with -1.
    """
    if labels is not None and len(labels) < len(vectors):
        vectors, exclude = vectors[labels], exclude[:, labels]
        exclude.sort_indices()
    if len(vectors) == 0:
        return np.full((len(queries), n), -1, dtype=np.int32)
    index = LabelIndex(np.ascontiguousarray(vectors), search=search, n_jobs=n_jobs)
    found = np.full((len(queries), n), -1, dtype=np.int32)
    k = min(n, len(vectors))
    if search == "exact":
        found[:, :k] = index.nearest(queries, k, exclude)
    else:
        found[:, :k] = index.topk(queries, k, exclude=exclude).labels
    if labels is not None and len(labels) == len(vectors):
        found = np.where(found >= 0, np.asarray(labels)[found], -1).astype(np.int32)
    return found
