"""Beam search in trees of linear models on a torch device: a level of a batch of rows at a time.

The rows of a batch are a dense matrix (features, rows), the weights are kept by node. On each level
the children of all nodes in the beams are scored at once, in one of two ways:

* where the level has few parents beside the beam, all its nodes are scored for all rows: a product
  of sparse and dense;
* else each pair of a row and a child is a sum over the entries of the child, gathered from the
  dense matrix.

Which one depends on the tree and the beam alone, and both take the sum over the features in their
order. So the answers of a row do not depend on the rows beside it. They differ from those of
`numba_` by rounding alone, which can matter where two path scores are next to equal.
"""

import itertools
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from skxmc.ops._device import default_block_bytes
from skxmc.ops.csr import canonical_pattern, subtract_pattern
from skxmc.ops.topk import TopK, topk_csr
from skxmc.ops.topk._types import check_k
from skxmc.ops.topk.torch_ import NO_KEY, best_keys, pack_keys, unpack_keys
from skxmc.ops.torch_sparse import SparseRows, on_device, product, sum_bags
from skxmc.ops.tree_search import _kernels
from skxmc.ops.tree_search._layout import SearchTree, check_search, frozen
from skxmc.ops.tree_search._types import LINKS
from skxmc.ops.tree_search.numba_ import (
    _NO_FLOATS,
    _check_input,
    _check_width,
    _empty_answers,
    _merge,
    _Query,
    _raise_if_nan,
    _search_short_rows,
)

#: A level whose parents are at most so many times the beam is scored as a whole.
_WHOLE_LEVEL = 8
#: Rows of a batch, at most.
_MAX_ROWS = 4096
#: Bytes for each pair of a row and a child, and for each gathered entry of a child.
_PAIR_BYTES, _ENTRY_BYTES = 96, 48


class DeviceTree(NamedTuple):
    """A label tree and its weights on a device; made by `prepare_search`."""

    host: SearchTree
    child_start: torch.Tensor  # (n_nodes + 1,) int64
    label: torch.Tensor  # (n_nodes,) int64, -1 for an inner node
    parent: torch.Tensor  # (n_nodes,) int64, 0 for the root
    leaf_of: torch.Tensor  # (n_labels,) int64
    bias: torch.Tensor  # (n_nodes,) float32
    indptr: torch.Tensor  # (n_nodes + 1,) int64: entries of a node in
    features: torch.Tensor  # int32, ascending within a node, and
    weights: torch.Tensor  # float32
    levels: np.ndarray  # first node of each level, and n_nodes
    device: str

    @property
    def n_features(self):
        return self.host.n_features


def prepare_search(tree, *, device="cpu"):
    """Put a tree and its weights, by node, on a device.

    Parameters
    ----------
    tree : SearchTree
        From `skxmc.ops.tree_search.prepare_search`.
    device : str, default="cpu"

    Returns
    -------
    DeviceTree
        8 bytes a weight and 44 a node on the device.

    Notes
    -----
    O(weights). The conversion takes 16 bytes a weight on the host.
    """
    check_search(tree)
    child_start, chunk_indptr, row_feature, row_indptr, child, weight, bias = tree.arrays[:7]
    n_rows = np.diff(chunk_indptr)
    first_child = np.repeat(child_start[:-1], n_rows)  # of each feature row
    n_entries = np.diff(row_indptr)
    by_node = sp.csr_array(
        (
            weight,
            (np.repeat(first_child, n_entries) + child, np.repeat(row_feature, n_entries)),
        ),
        shape=(tree.n_nodes, tree.n_features),
    )
    by_node.sort_indices()
    levels = [0, 1]
    while levels[-1] < tree.n_nodes:
        levels.append(int(child_start[levels[-1]]))
    integers = (child_start, tree.arrays[10], np.maximum(tree.parent, 0), tree.leaf_of)
    return DeviceTree(
        tree,
        *(on_device(array, np.int64, device) for array in integers),
        bias=on_device(bias, np.float32, device),
        indptr=on_device(by_node.indptr, np.int64, device),
        features=on_device(by_node.indices, np.int32, device),
        weights=on_device(by_node.data, np.float32, device),
        levels=np.array(levels),
        device=str(device),
    )


def search_topk(
    trees,
    indptr,
    indices,
    data,
    k,
    *,
    beam=10,
    exclude=None,
    candidates=None,
    n_threads=1,
    block_bytes=None,
):
    """The k best labels of each row by their probability averaged over the trees.

    Parameters
    ----------
    trees : sequence of DeviceTree
        From `prepare_search`, on one device, with the same labels and features.
    indptr, indices, data, k, exclude, candidates
        As for `skxmc.ops.tree_search.search_topk`.
    beam : int, default=10
        Inner nodes that are expanded at each depth.
    n_threads : int, default=1
        For what is done on the processor: the rows for which the beam finds fewer than k answers
        are searched exactly there.
    block_bytes : int, optional
        Bytes of the device that a batch of rows may take; 256 MiB on the processor and 2 GiB on a
        GPU by default. The result does not depend on it.

    Returns
    -------
    TopK
        As of `skxmc.ops.tree_search.search_topk`.

    Raises
    ------
    ValueError, TypeError
        As `skxmc.ops.tree_search.search_topk`.

    Notes
    -----
    Time of a row: the entries of the children of ``beam`` nodes on each level. Memory of the
    device: ``block_bytes``, or what one row takes.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops import tree_search
    >>> from skxmc.ops.tree_search import torch_
    >>> weights = tree_search.TreeWeights(
    ...     chunk_indptr=np.array([0, 1, 1, 1]),
    ...     row_feature=np.array([0], dtype=np.int32),
    ...     row_indptr=np.array([0, 2]),
    ...     child=np.array([0, 1], dtype=np.uint16),
    ...     weight=np.array([2, -2], dtype=np.float32),
    ...     bias=np.zeros(3, dtype=np.float32),
    ... )
    >>> child_start = np.array([1, 3, 3, 3], dtype=np.int32)
    >>> label = np.array([-1, 0, 1], dtype=np.int32)
    >>> tree = tree_search.prepare_search(child_start, label, weights, 1, "l2-hinge")
    >>> row = np.array([0, 1]), np.array([0], dtype=np.int32), np.array([1], dtype=np.float32)
    >>> torch_.search_topk([torch_.prepare_search(tree)], *row, k=2)
    TopK(labels=array([[0, 1]], dtype=int32), scores=array([[ 0., -9.]], dtype=float32))
    """
    k, beam = check_k(k), _check_width(beam, "beam")
    query, n_threads = _query(trees, indptr, indices, data, n_threads)
    n_rows, n_labels = query.rows.n_rows, trees[0].host.n_labels
    shape = (n_rows, n_labels)
    if exclude is not None:
        exclude = canonical_pattern(exclude, shape, name="exclude")
    if candidates is not None:
        candidates = canonical_pattern(candidates, shape, name="candidates")
        if exclude is not None:
            candidates = subtract_pattern(candidates, exclude)
        pairs = candidates.indices, candidates.indptr
        scores = _score_pairs(trees, query, *pairs, block_bytes)
        return topk_csr(sp.csr_array((scores, *pairs), shape=shape), k, n_threads=n_threads)
    if exclude is None:
        excluded = np.zeros(n_rows + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
    else:
        excluded = exclude.indptr, exclude.indices
    query = query._replace(excluded=frozen(*excluded))
    # as the compiled search
    keep = min(k if len(trees) == 1 else max(2 * k, 4 * beam), n_labels)
    answers = _empty_answers(n_rows, k)
    bytes_of_row = max(_beam_bytes(tree, beam) for tree in trees) + 64 * keep
    for start, stop in _batches(trees, n_rows, bytes_of_row, block_bytes):
        mine = TopK(answers.labels[start:stop], answers.scores[start:stop])
        with torch.inference_mode():
            dense = _features_by_rows(trees[0], query.rows, start, stop)
            taken = _excluded_codes(query.excluded, start, stop, n_labels, trees[0].device)
            keys = np.stack(
                [_beam_keys(tree, dense, taken, beam, keep, start).cpu().numpy() for tree in trees]
            )
        del dense
        _write_answers(query, keys, min(k, n_labels), mine)
        _search_short_rows(query, start, stop, mine)
    return answers


def dense_scores(trees, indptr, indices, data, *, block_bytes=None):
    """Log-probabilities of all labels, averaged over the trees.

    Parameters
    ----------
    trees, indptr, indices, data, block_bytes
        As for `search_topk`.

    Returns
    -------
    ndarray of shape (n_rows, n_labels), float32
        As of `skxmc.ops.tree_search.dense_scores`.

    Raises
    ------
    ValueError
        As `skxmc.ops.tree_search.dense_scores`.
    """
    query, _ = _query(trees, indptr, indices, data, 1)
    n_rows, n_labels = query.rows.n_rows, trees[0].host.n_labels
    out = np.empty((n_rows, n_labels), dtype=np.float32)
    bytes_of_row = 24 * max(tree.host.n_nodes for tree in trees)
    for start, stop in _batches(trees, n_rows, bytes_of_row, block_bytes):
        with torch.inference_mode():
            dense = _features_by_rows(trees[0], query.rows, start, stop)
            paths = [_all_paths(tree, dense, start).cpu().numpy().T for tree in trees]
        _mean(paths, out[start:stop])
    return out


# ---------------------------------------------------------------------------- batches


def _query(trees, indptr, indices, data, n_threads):
    hosts = [tree.host for tree in trees]
    hosts, rows, n_threads = _check_input(hosts, indptr, indices, data, n_threads)
    return _Query(hosts, rows, (), None), n_threads


def _batches(trees, n_rows, bytes_of_row, block_bytes):
    """Bounds of batches of rows that take ``block_bytes`` together."""
    if block_bytes is None:
        block_bytes = default_block_bytes(trees[0].device)
    size = block_bytes // (4 * trees[0].n_features + bytes_of_row + 1)
    size = max(1, min(_MAX_ROWS, size))
    return [(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def _beam_bytes(tree, beam):
    """Bytes that the pairs of a row and a child take on the widest level."""
    widest = 0
    for level in range(len(tree.levels) - 2):
        n_parents, n_nodes = np.diff(tree.levels[level : level + 3])
        pairs = min(n_nodes, min(beam, n_parents) * tree.host.max_children)
        whole = n_nodes if n_parents <= _WHOLE_LEVEL * beam else 0
        widest = max(widest, _PAIR_BYTES * int(pairs) + 4 * int(whole))
    return widest


def _features_by_rows(tree, rows, start, stop):
    """The rows start to stop as a dense matrix (features, rows) on the device."""
    indptr, indices, data = rows.arrays
    entries = slice(int(indptr[start]), int(indptr[stop]))
    row = np.repeat(np.arange(stop - start), np.diff(indptr[start : stop + 1]))
    dense = torch.zeros((tree.n_features, stop - start), device=tree.device)
    at = tuple(on_device(part, np.int64, tree.device) for part in (indices[entries], row))
    dense[at] = on_device(data[entries], np.float32, tree.device)
    return dense


def _excluded_codes(excluded, start, stop, n_labels, device):
    """row * n_labels + label of the pairs that are excluded in a batch, ascending."""
    indptr, labels = excluded
    row = np.repeat(np.arange(stop - start), np.diff(indptr[start : stop + 1]))
    codes = row * np.int64(n_labels) + labels[indptr[start] : indptr[stop]]
    return on_device(codes, np.int64, device)


# ---------------------------------------------------------------------------- scores


def _edges(scores, bias, link):
    """Logarithms of the probabilities of children given their parents; -inf for a bias of -inf.

    NaN where a score exceeds float32: fused multiply-add turns what would be inf - inf into inf.
    """
    scores = scores.masked_fill(scores.isinf(), torch.nan)
    if LINKS[link] == "logistic":
        small = torch.log1p(torch.exp(-scores.abs()))
        edges = torch.where(scores >= 0, -small, scores - small)
    else:
        short = (1 - scores).clamp_min(0)
        edges = -short
        for _ in range(LINKS.index("l1-hinge"), link):
            edges = edges * short
    return edges.masked_fill(torch.isneginf(bias), -torch.inf)


def _level_edges(tree, dense, first, stop):
    """Edges of the nodes first to stop for all rows: (nodes, rows)."""
    begin, end = (int(tree.indptr[node]) for node in (first, stop))
    weights = SparseRows(
        tree.features[begin:end],
        tree.weights[begin:end],
        (tree.indptr[first : stop + 1] - begin).int(),
        None,
    )
    bias = tree.bias[first:stop, None]
    return _edges(product(weights, dense) + bias, bias, tree.host.link)


def _pair_edges(tree, dense, row, node):
    """Edges of pairs of a row and a node, gathered in parts."""
    table = dense.view(-1, 1)
    begins, lengths = tree.indptr[node], tree.indptr[node + 1] - tree.indptr[node]
    ends = lengths.cumsum(0)
    n_entries = int(ends[-1]) if len(ends) else 0
    budget = default_block_bytes(tree.device) // _ENTRY_BYTES
    marks = torch.arange(budget, n_entries + budget, budget, device=dense.device)
    cuts = [0, *torch.searchsorted(ends, marks).tolist(), len(node)]
    scores = torch.empty(len(node), device=dense.device)
    for start, stop in itertools.pairwise(cuts):
        if start == stop:
            continue
        of = slice(start, stop)
        offsets = torch.cat([ends.new_zeros(1), lengths[of].cumsum(0)])
        entry = torch.arange(int(offsets[-1]), device=dense.device)
        entry += (begins[of] - offsets[:-1]).repeat_interleave(lengths[of])
        place = tree.features[entry].long() * dense.shape[1]
        place += row[of].repeat_interleave(lengths[of])
        if len(entry) == 0:
            scores[of] = 0
            continue
        scores[of] = sum_bags(table, place, offsets, tree.weights[entry])[:, 0]
    bias = tree.bias[node]
    return _edges(scores + bias, bias, tree.host.link)


def _check_numbers(paths, row, start):
    """Refuse NaN in the path scores of pairs, or of (nodes, rows) without ``row``."""
    wrong = paths.isnan()
    if wrong.any():
        where = wrong.any(dim=0).nonzero()[:, 0] if row is None else row[wrong]
        _raise_if_nan(start + int(where.min()))


# ---------------------------------------------------------------------------- beam


def _beam_keys(tree, dense, excluded, beam, keep, start):
    """Keys (rows, keep) of the best labels of a beam search, largest first."""
    n_rows, device = dense.shape[1], dense.device
    row = torch.arange(n_rows, device=device)
    node, path = torch.zeros_like(row), torch.zeros(n_rows, device=device)
    answers = torch.full((n_rows, 0), NO_KEY, device=device)
    for level in range(len(tree.levels) - 2):
        if len(row) == 0:
            break
        first, stop = tree.levels[level + 1 : level + 3].tolist()
        # the children of all nodes of the beams, row by row
        begin = tree.child_start[node]
        count = tree.child_start[node + 1] - begin
        before = count.cumsum(0) - count
        child = (begin - before).repeat_interleave(count)
        child += torch.arange(len(child), device=device)
        row, path = row.repeat_interleave(count), path.repeat_interleave(count)
        if tree.levels[level + 1] - tree.levels[level] <= _WHOLE_LEVEL * beam:
            path += _level_edges(tree, dense, first, stop)[child - first, row]
        else:
            path += _pair_edges(tree, dense, row, child)
        _check_numbers(path, row, start)
        label = tree.label[child]
        is_leaf = label >= 0
        leaves = _leaf_keys(tree, path[is_leaf], row[is_leaf], label[is_leaf], excluded)
        leaves = _by_row(leaves, row[is_leaf], n_rows)
        answers = best_keys(torch.cat([answers, leaves], dim=1), keep)
        inner = _by_row(pack_keys(path[~is_leaf], child[~is_leaf]), row[~is_leaf], n_rows)
        node, path = unpack_keys(best_keys(inner, beam))
        row, slot = (node >= 0).nonzero(as_tuple=True)
        node, path = node[row, slot], path[row, slot]
    missing = answers.new_full((n_rows, keep - answers.shape[1]), NO_KEY)
    return torch.cat([answers, missing], dim=1)


def _leaf_keys(tree, path, row, label, excluded):
    keys = pack_keys(path, label)
    if len(excluded) == 0:
        return keys
    code = row * tree.host.n_labels + label
    at = torch.searchsorted(excluded, code).clamp_max(len(excluded) - 1)
    return keys.masked_fill(excluded[at] == code, NO_KEY)


def _by_row(keys, row, n_rows):
    """Keys that are sorted by row as a matrix with a line for each row."""
    counts = torch.bincount(row, minlength=n_rows)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    out = keys.new_full((n_rows, int(counts.max())), NO_KEY)
    out[row, place] = keys
    return out


def _write_answers(query, keys, k, answers):
    """Answers from the sorted keys (trees, rows, keep) of all trees."""
    _, scores = (part.numpy() for part in unpack_keys(torch.from_numpy(keys)))
    sizes = (scores > -np.inf).sum(axis=2)
    if len(keys) > 1:
        items = scores.view(np.int32).astype(np.int64) & 0xFFFFFFFF  # the merge reads path scores
        merged, sizes = _merge(query, (keys, items, sizes), k)
    else:
        merged, sizes = keys[0], sizes[0]
    _kernels.write_answers(merged, sizes, answers.labels.shape[1], *answers)


# ---------------------------------------------------------------------------- given pairs, all


def _score_pairs(trees, query, pair_labels, pair_indptr, block_bytes):
    """Scores of the pairs (row, label) of CSR arrays."""
    out = np.empty(len(pair_labels), dtype=np.float32)
    n_rows = query.rows.n_rows
    depth = max(len(tree.levels) for tree in trees)
    pairs_of_row = int(np.diff(pair_indptr).max(initial=0))
    bytes_of_row = _PAIR_BYTES * depth * pairs_of_row
    for start, stop in _batches(trees, n_rows, bytes_of_row, block_bytes):
        entries = slice(int(pair_indptr[start]), int(pair_indptr[stop]))
        row = np.repeat(np.arange(stop - start), np.diff(pair_indptr[start : stop + 1]))
        with torch.inference_mode():
            dense = _features_by_rows(trees[0], query.rows, start, stop)
            row, label = (
                on_device(part, np.int64, trees[0].device) for part in (row, pair_labels[entries])
            )
            paths = [_paths_of_pairs(tree, dense, row, label, start) for tree in trees]
            paths = torch.stack(paths, dim=1).cpu().numpy()
        no_labels = np.empty(0, dtype=np.int32)
        _kernels.combine(paths, no_labels, _NO_FLOATS, _NO_FLOATS, out[entries])
    return out


def _paths_of_pairs(tree, dense, row, label, start):
    """Path scores of pairs of a row and a label; a node is scored once for a row."""
    n_nodes = tree.host.n_nodes
    route = [tree.leaf_of[label]]
    for _ in range(len(tree.levels) - 3):
        route.append(tree.parent[route[-1]])
    route = [row * n_nodes + node for node in reversed(route)]
    codes = torch.unique(torch.cat(route))
    edges = _pair_edges(tree, dense, codes // n_nodes, codes % n_nodes)
    edges.masked_fill_(codes % n_nodes == 0, 0)  # the root is on every path
    path = torch.zeros(len(row), device=dense.device)
    for code in route:
        edge = edges[torch.searchsorted(codes, code)]
        path = torch.where(torch.isneginf(path), path, path + edge)
    _check_numbers(path, row, start)
    return path


def _all_paths(tree, dense, start):
    """Path scores (labels, rows) of all labels."""
    paths = [torch.zeros((1, dense.shape[1]), device=dense.device)]
    for level in range(len(tree.levels) - 2):
        first, stop = tree.levels[level + 1 : level + 3].tolist()
        above = paths[-1][tree.parent[first:stop] - int(tree.levels[level])]
        path = above + _level_edges(tree, dense, first, stop)
        path.masked_fill_(torch.isneginf(above), -torch.inf)
        _check_numbers(path, None, start)
        paths.append(path)
    return torch.cat(paths)[tree.leaf_of]


def _mean(paths, out):
    """Logarithm of the probability averaged over the trees."""
    if len(paths) == 1:
        out[:] = paths[0]
        return
    no_labels = np.empty(0, dtype=np.int32)
    for i in range(len(out)):
        of_row = np.ascontiguousarray(np.stack([path[i] for path in paths], axis=1))
        _kernels.combine(of_row, no_labels, _NO_FLOATS, _NO_FLOATS, out[i])
