"""Training of a label tree's classifiers: which rows and costs each node sees, and the assembly."""

import itertools
import queue
from typing import NamedTuple

import numpy as np

from skxmc._parallel import Workers, map_chunks
from skxmc.ops._jit import jit
from skxmc.ops._memory import new_zeros
from skxmc.ops.linear_solver import LANES, SiblingSolver
from skxmc.ops.tree_search import TreeWeights, prepare_search, search_nodes

_NO_ROWS = np.empty(0, np.int32)

# Numbers of a kind that are stored together.
_PAGE = 1 << 18

# Tasks for each worker of another process: few, as each begins with a work space of its own, and
# enough that the last ones are short.
_TASKS_A_WORKER = 6


class TreeTask(NamedTuple):
    """What is asked of every node of a tree."""

    loss: str
    C: float
    tol: float
    max_iter: int
    bias_value: float
    regularize_bias: bool
    threshold: float
    negative_cost: float
    teacher: bool  # rows with a positive below the parent
    n_matcher: int  # nodes a row that the levels above find best; 0: none
    link: str


class NodeRows(NamedTuple):
    """Rows with a positive label below each node: rows[indptr[v]:indptr[v + 1]], ascending."""

    indptr: np.ndarray
    rows: np.ndarray
    value: np.ndarray  # relevance of the node for the row
    target: np.ndarray | None = None  # soft target; None: 1


# ------------------------------------------------------------------ rows and costs of the nodes


@jit
def _count_paths(indptr, labels, leaf_of, parent, stamp, counts):
    for i in range(len(indptr) - 1):
        for p in range(indptr[i], indptr[i + 1]):
            v = leaf_of[labels[p]]
            while v > 0 and stamp[v] != i:
                stamp[v] = i
                counts[v] += 1
                v = parent[v]


@jit
def _fill_paths(indptr, labels, relevance, largest, leaf_of, parent, slot, fill, rows, value):
    """Sum of the relevance of the labels below each node (XR-Transformer eq. 6), or largest."""
    for i in range(len(indptr) - 1):
        for p in range(indptr[i], indptr[i + 1]):
            v = leaf_of[labels[p]]
            while v > 0:
                k = slot[v]
                if k < 0 or rows[k] != i:
                    k = fill[v]
                    fill[v] += 1
                    slot[v] = k
                    rows[k] = i
                    value[k] = np.float32(0)
                value[k] = max(value[k], relevance[p]) if largest else value[k] + relevance[p]
                v = parent[v]


def node_rows(tree, indptr, labels, relevance=None, *, largest=False):
    """Rows and relevance of all nodes from CSR rows of labels (1 a label without ``relevance``).

    The relevance of a node is the sum over the labels below it, or their ``largest``.
    O(stored entries times depth).
    """
    n_nodes = tree.n_nodes
    counts = np.zeros(n_nodes + 1, np.int64)
    if relevance is None:
        relevance = np.ones(len(labels), np.float32)
    stamp = np.full(n_nodes, -1, np.int64)
    _count_paths(indptr, labels, tree.leaf_of, tree.parent, stamp, counts[1:])
    node_indptr = np.cumsum(counts)
    rows = np.full(node_indptr[-1], -1, np.int32)
    value = np.empty(node_indptr[-1], np.float32)
    slot = np.full(n_nodes, -1, np.int64)
    _fill_paths(
        indptr,
        labels,
        relevance,
        largest,
        tree.leaf_of,
        tree.parent,
        slot,
        node_indptr[:-1].copy(),
        rows,
        value,
    )
    return NodeRows(node_indptr, rows, value)


def positive_costs(tree, nodes, n_rows, mode, norm):
    """Costs of the positives from their relevance (XR-Transformer, section 4).

    ``mode`` None: 1; "induce": the relevance of a node, divided by the norm of the row's
    relevances on its level ("l1" in the paper, "l2", "max", None: not divided); "leaf": the same
    for labels, 1 for the other nodes.
    """
    if mode is None:
        return nodes._replace(value=np.ones_like(nodes.value))
    value = nodes.value.copy()
    lengths = np.diff(nodes.indptr)
    if norm is not None:
        level = np.repeat(tree.depth, lengths).astype(np.int64)
        _, key = np.unique(level * n_rows + nodes.rows, return_inverse=True)
        if norm == "max":
            total = np.zeros(key.max(initial=-1) + 1, np.float32)
            np.maximum.at(total, key, value)
        elif norm == "l1":
            total = np.bincount(key, weights=value)
        else:
            total = np.sqrt(np.bincount(key, weights=value.astype(np.float64) ** 2))
        value /= total[key].astype(np.float32)
    if mode == "leaf":
        value[np.repeat(tree.label < 0, lengths)] = 1
    return nodes._replace(value=value)


# ------------------------------------------------------------------ training


def train_tree(
    tree,
    X,
    positives,
    task,
    *,
    given=None,
    nodes=None,
    kept=None,
    n_jobs=1,
    advance=None,
    workers=None,
):
    """Train the classifiers of all nodes but the root.

    Parameters
    ----------
    tree : LabelTree
    X : csr_array
        Canonical, float32.
    positives : NodeRows
        From `node_rows`; ``value`` is the cost of each positive, ``target`` its soft target.
    task : TreeTask
    given : NodeRows, optional
        Further rows that the nodes shall see.
    nodes : int array, optional
        Train only the children of these; default: of all inner nodes.
    kept : tuple, optional
        From `kept_chunks`: the classifiers of the other nodes.
    n_jobs : int
        Threads.
    advance : callable(n), optional
        Called with the number of classifiers that are done.
    workers : Workers, optional
        Other processes, to which groups of nodes go if it is ``remote``.

    Returns
    -------
    weights : TreeWeights
    n_iter : int64 array of shape (n_nodes,)
        Newton steps.
    converged : bool array of shape (n_nodes,)

    Notes
    -----
    Node v sees (XR-Transformer eq. 8) the rows with a positive below it (teacher forcing), the rows
    whose ``n_matcher`` best nodes of its level it is among (matcher-aware), the given ones, or any
    union of these; a row that is in none of them but has a positive label below v joins as that
    child's positive only. The root sees all rows.

    With soft targets t, teacher forcing shows node u a row in a share of t_u, and the other ways in
    full: r_u = 1. The cost of a row at child v of u is t_v as a positive, and r_u - t_v as a
    negative, each times what it costs with hard targets.
    """
    trainer = _Trainer(tree, X, positives, task, given, n_jobs, advance, workers)
    if kept is not None:
        trainer.chunks, trainer.bias = kept
    inner = np.flatnonzero(tree.label < 0) if nodes is None else nodes
    if task.n_matcher == 0:
        trainer.train(inner)
        return trainer.finish(), trainer.n_iter, trainer.converged
    for depth in range(tree.max_depth):
        trainer.train(inner[tree.depth[inner] == depth])
        if depth + 1 < tree.max_depth:
            trainer.match(depth + 1)
    return trainer.finish(), trainer.n_iter, trainer.converged


class _Chunk(NamedTuple):
    """Classifiers of a node's children, as in `TreeWeights`."""

    row_feature: np.ndarray
    row_counts: np.ndarray
    child: np.ndarray
    weight: np.ndarray


class _Store:
    """Keeps the chunks of a tree in large pieces, which go one kind after the other.

    The thousands of small arrays that a training ends with would else hold their memory, in holes
    of the heap, while they are put together and after.
    """

    def __init__(self, child_type):
        self.dtypes = _Chunk(*map(np.dtype, (np.int32, np.int32, child_type, np.float32)))
        self.pieces = [np.empty(0, dtype) for dtype in self.dtypes]
        self.used = [0] * len(self.dtypes)

    def keep(self, chunk):
        """The chunk on the pages of the store."""
        return _Chunk(*map(self._keep, range(len(chunk)), chunk))

    def _keep(self, kind, array):
        n = len(array)
        if self.used[kind] + n > len(self.pieces[kind]):
            self.pieces[kind] = new_zeros(max(_PAGE, n), self.dtypes[kind])
            self.used[kind] = 0
        start = self.used[kind]
        self.used[kind] += n
        place = self.pieces[kind][start : start + n]
        place[:] = array
        return place


class _Trainer:
    def __init__(self, tree, X, positives, task, given, n_jobs, advance, workers=None):
        self.tree, self.X, self.positives, self.task = tree, X, positives, task
        self.given, self.n_jobs, self.advance = given, n_jobs, advance
        self.workers = workers if workers is not None else Workers(n_jobs, local=True)
        self.matched = None
        self.n_iter = np.zeros(tree.n_nodes, np.int64)
        self.converged = np.ones(tree.n_nodes, bool)
        self.bias = np.zeros(tree.n_nodes, np.float32)
        self.child_type = np.int32 if np.diff(tree.child_start).max() > 1 << 16 else np.uint16
        self.store = _Store(self.child_type)
        self.chunks = {}
        self.solvers = queue.SimpleQueue()

    def _rows(self, v):
        """Rows of node v, ascending, and which of them are negatives for its children.

        With soft targets: in what share of the cases they are.
        """
        n = self.X.shape[0]
        if v == 0:
            return np.arange(n, dtype=np.int32), np.ones(n, bool)
        positives = _slice(self.positives, v)
        others = [_slice(s, v) for s in (self.matched, self.given) if s is not None]
        if self.positives.target is None:
            if self.task.teacher and not others:
                return positives, np.ones(len(positives), bool)
            sets = [positives, *others] if self.task.teacher else others
            shared = np.unique(np.concatenate([_NO_ROWS, *sets]))
            if self.task.teacher:
                return shared, np.ones(len(shared), bool)
            rows = np.union1d(shared, positives)
            return rows, np.isin(rows, shared, assume_unique=True)
        rows = np.unique(np.concatenate([positives, *others]))
        share = np.zeros(len(rows), np.float32)
        if self.task.teacher:
            share[np.searchsorted(rows, positives)] = _targets(self.positives, v)
        for other in others:
            share[np.searchsorted(rows, other)] = 1
        return rows, share

    def train(self, nodes):
        """Train the children of these nodes, the most work first."""
        # Nothing below a node without positives is ever an answer.
        seen = (np.diff(self.positives.indptr)[nodes] > 0) | (nodes == 0)
        self._skip(nodes[~seen])
        nodes = nodes[seen]
        children = np.diff(self.tree.child_start)[nodes]
        work = node_entries(self.X, self.positives, nodes) * -(-children // LANES)
        tasks, costs = [], []
        n_at_once = self.workers.n_at_once if self.workers.remote else self.n_jobs
        share = max(work.sum(), 1) / (2 * n_at_once)
        for q in np.argsort(-work, kind="stable"):
            blocks = -(-int(children[q]) // LANES)
            parts = min(blocks, max(1, int(-(-work[q] // share)))) if n_at_once > 1 else 1
            bounds = LANES * (np.arange(parts + 1) * blocks // parts)
            for first, stop in zip(bounds[:-1], np.minimum(bounds[1:], children[q]), strict=True):
                tasks.append((int(nodes[q]), int(first), int(stop)))
                costs.append(work[q] / parts)
        if self.workers.remote:
            solved = self._solve_remotely(_grouped(tasks, costs, _TASKS_A_WORKER * n_at_once))
        else:
            solved = map_chunks(self._solve, tasks, self.n_jobs)
        solutions = zip(tasks, solved, strict=True)
        # the parts of a node stand together
        for v, parts in itertools.groupby(solutions, key=lambda item: item[0][0]):
            self.chunks[v] = self.store.keep(_merge(list(self._record(v, parts))))

    def _record(self, v, parts):
        """Note what is known of each child; yields (first child, chunk) of each part."""
        for (_, first, stop), solution in parts:
            lanes = slice(self.tree.child_start[v] + first, self.tree.child_start[v] + stop)
            self.bias[lanes] = solution.bias * self.task.bias_value
            self.bias[lanes][np.isneginf(solution.bias)] = -np.inf
            self.n_iter[lanes] = solution.n_iter
            self.converged[lanes] = solution.converged
            if self.advance is not None:
                self.advance(stop - first)
            yield (
                first,
                _Chunk(
                    solution.row_feature,
                    np.diff(solution.row_indptr).astype(np.int32),
                    solution.child.astype(self.child_type),
                    solution.weight,
                ),
            )

    def _skip(self, nodes):
        """Make the children of these nodes ones that are never answered."""
        for v in nodes:
            children = slice(self.tree.child_start[v], self.tree.child_start[v + 1])
            self.bias[children] = -np.inf
            self.chunks.pop(int(v), None)
            if self.advance is not None:
                self.advance(children.stop - children.start)

    def _solve(self, part):
        v, first, stop = part
        rows, negatives = self._rows(v)
        start = self.tree.child_start[v]
        indptr = self.positives.indptr[start + first : start + stop + 1]
        entries = slice(indptr[0], indptr[-1])
        try:
            solver = self.solvers.get_nowait()
        except queue.Empty:
            solver = SiblingSolver(self.X.indptr, self.X.indices, self.X.data, self.X.shape[1])
        task = self.task
        places = np.searchsorted(rows, self.positives.rows[entries]).astype(np.int32)
        costs, twin_costs = self.positives.value[entries], None
        if self.positives.target is not None:
            target = self.positives.target[entries]
            costs = costs * target
            twin_costs = np.maximum(negatives[places] - target, np.float32(0))
            if v == 0:
                negatives = negatives.astype(np.float32)
        solution = solver.solve(
            rows,
            indptr - indptr[0],
            places,
            costs,
            negatives,
            twin_costs=twin_costs,
            loss=task.loss,
            C=task.C,
            negative_cost=task.negative_cost,
            tol=task.tol,
            max_iter=task.max_iter,
            bias_value=task.bias_value,
            regularize_bias=task.regularize_bias,
            threshold=task.threshold,
        )
        self.solvers.put(solver)
        return solution

    def _solve_remotely(self, groups):
        """Solutions of all parts, in their order."""
        shared = self.tree, self.positives, self.given, self.matched
        groups = self.workers.map(_solve_group, groups, self.X, self.task, *shared)
        for solutions in groups:
            yield from solutions
        self.workers.release(*shared)

    def match(self, depth):
        """The best nodes of a level for each row, by the levels above: eq. 7."""
        search = prepare_search(
            self.tree.child_start, self.tree.label, self.weights(), self.X.shape[1], self.task.link
        )
        b = self.task.n_matcher
        X = self.X
        indptr, nodes, _ = search_nodes(
            search,
            X.indptr,
            X.indices,
            X.data,
            depth=depth,
            beam=b,
            n_keep=b,
            n_threads=self.n_jobs,
        )
        order = np.argsort(nodes, kind="stable")
        rows = np.repeat(np.arange(X.shape[0], dtype=np.int32), np.diff(indptr))[order]
        counts = np.bincount(nodes, minlength=self.tree.n_nodes)
        self.matched = NodeRows(np.concatenate(([0], np.cumsum(counts))), rows, None)

    def weights(self):
        """TreeWeights of the nodes trained so far."""
        return _assemble(self.tree, dict(self.chunks), self.child_type, self.bias.copy())

    def finish(self):
        """TreeWeights of the tree; nothing more can be trained."""
        chunks, self.chunks, self.store = self.chunks, None, None
        self.solvers = None  # their memory goes before the weights are put together
        return _assemble(self.tree, chunks, self.child_type, self.bias)


def node_entries(X, positives, nodes):
    """Entries of the rows with a positive below each of these nodes; for the root, of all rows."""
    row_lengths = np.diff(X.indptr)
    entries = np.empty(len(nodes), np.int64)
    for q, v in enumerate(nodes):
        entries[q] = row_lengths[_slice(positives, v)].sum() if v else len(X.data)
    return entries


def solve_parts(tree, X, positives, task, parts):
    """Solutions for parts (node, first child, stop), by rows with positives alone."""
    trainer = _Trainer(tree, X, positives, task._replace(teacher=True), None, 1, None)
    for part in parts:
        yield trainer._solve(part)


def _grouped(parts, costs, n_groups):
    """Parts cut into consecutive lists of about equal cost."""
    if not parts:
        return []
    before = np.cumsum(costs) - costs
    group = (n_groups * before / max(before[-1] + costs[-1], 1)).astype(np.int64)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    stops = np.append(starts[1:], len(parts))
    return [parts[start:stop] for start, stop in zip(starts, stops, strict=True)]


def _solve_group(parts, X, task, tree, positives, given, matched):
    """Solutions of some parts, on a worker."""
    trainer = _Trainer(tree, X, positives, task, given, 1, None)
    trainer.matched = matched
    return [trainer._solve(part) for part in parts]


def _assemble(tree, chunks, child_type, bias):
    """The chunks one after the other; each kind of their arrays goes when it is copied."""
    nodes = sorted(chunks)
    lengths = np.zeros(tree.n_nodes + 1, np.int64)
    lengths[1 + np.array(nodes, dtype=np.int64)] = [len(chunks[v].row_feature) for v in nodes]
    kinds = [[chunks[v][kind] for v in nodes] for kind in range(len(_Chunk._fields))]
    chunks.clear()
    counts = _take_all(kinds, 1, np.int32)
    row_indptr = new_zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=row_indptr[1:])
    del counts
    return TreeWeights(
        np.cumsum(lengths),
        _take_all(kinds, 0, np.int32),
        row_indptr,
        _take_all(kinds, 2, child_type),
        _take_all(kinds, 3, np.float32),
        bias,
    )


def _take_all(kinds, kind, dtype):
    """The arrays of a kind in one, and no longer in ``kinds``."""
    arrays, kinds[kind] = kinds[kind], None
    whole = new_zeros(sum(map(len, arrays)), dtype)
    start = 0
    for number, array in enumerate(arrays):
        whole[start : start + len(array)] = array
        start += len(array)
        arrays[number] = None
    return whole


def _targets(nodes, v):
    return nodes.target[nodes.indptr[v] : nodes.indptr[v + 1]]


def _slice(nodes, v):
    return nodes.rows[nodes.indptr[v] : nodes.indptr[v + 1]]


def _merge(found):
    """The chunk of parts (first child, chunk) of a node's children."""
    if len(found) == 1:
        return found[0][1]
    feature = np.concatenate([np.repeat(part.row_feature, part.row_counts) for _, part in found])
    child = np.concatenate([part.child + part.child.dtype.type(first) for first, part in found])
    weight = np.concatenate([part.weight for _, part in found])
    order = np.lexsort((child, feature))
    row_feature, row_counts = np.unique(feature, return_counts=True)
    return _Chunk(row_feature, row_counts, child[order], weight[order])


def kept_chunks(growth, weights):
    """What a grown tree keeps: its untrained chunks by node, and the bias of all nodes."""
    tree, old = growth.tree, growth.old_tree
    touched = np.zeros(tree.n_nodes, bool)
    touched[growth.touched] = True
    bias = np.zeros(tree.n_nodes, np.float32)
    bias[growth.new_number] = weights.bias
    chunks = {}
    for u in np.flatnonzero(old.label < 0).tolist():
        v = int(growth.new_number[u])
        if not touched[v]:
            chunks[v] = _chunk(weights, u)
    return chunks, bias


def _chunk(weights, v):
    rows = slice(weights.chunk_indptr[v], weights.chunk_indptr[v + 1])
    indptr = weights.row_indptr[rows.start : rows.stop + 1]
    entries = slice(indptr[0], indptr[-1])
    return _Chunk(
        weights.row_feature[rows],
        np.diff(indptr).astype(np.int32),
        weights.child[entries],
        weights.weight[entries],
    )
