"""Recursive fine-tuning of XR-Transformer: one encoder, from the coarse clusters to the labels."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.io._arrays import make_compressed
from skxmc.linear._tree_training import NodeRows, TreeTask
from skxmc.linear._tree_training import _Trainer as TreeTrainer
from skxmc.neural import _row_adam
from skxmc.neural._front import rows_of
from skxmc.neural._output_layer import stream_seed
from skxmc.neural._schedule import learning_rate_factor
from skxmc.neural._training import Learner

# Number of the random stream of dropout.
_STREAM_DROPOUT = 111

# How the margin of a node becomes the weight of its path in the search for shortlists.
_LINK = "l3-hinge"

# Weights below this do not matter for a shortlist; those of a head are all kept.
_PRUNED = 0.02


class Level(NamedTuple):
    """A level of the tree in fine-tuning.

    Attributes
    ----------
    depth : int
        Its nodes are the outputs; those of ``depth - 1`` their parents.
    n_steps : int
    """

    depth: int
    n_steps: int


class Settings(NamedTuple):
    """Hyper-parameters of the fine-tuning, the same on all levels.

    Attributes
    ----------
    batch_size : int
    learning_rate, head_learning_rate : float
        Of the encoder and of the clusters' weights, at their highest on each level.
    warmup : float
        Share of the steps of a level in which they rise.
    schedule : {"cosine", "constant"}
    C : float
        Of the linear problems (eq. 11); 1 / (2 lambda).
    negative_cost : float
        alpha: what a cluster in the shortlist without a label of the row costs.
    n_shortlist : int
        Clusters k of a level that go on to the next one for each row (eq. 7).
    seed, n_jobs : int
    """

    batch_size: int
    learning_rate: float
    head_learning_rate: float
    warmup: float
    schedule: str
    C: float
    negative_cost: float
    n_shortlist: int
    seed: int
    n_jobs: int


class XRLearner(Learner):
    r"""Fine-tune an encoder on the levels of a label tree: the first loop of algorithm 2.

    On level t, with :math:`\phi_i` the features of row i of length 1, it minimises by Adam

    .. math::

        \sum_i \sum_{l \in M_i} \hat R_{il} \max(0, 1 - y_{il} (w_l \cdot \phi_i + b_l))^2

    (eq. 9) over the encoder and w, b. The shortlist :math:`M_i` is the children of the nodes above
    with a label of the row and of the k best of them (eq. 8); the costs :math:`\hat R` of positives
    are given, those of negatives alpha. w and b start at the solution of the linear problem on the
    features as they are (eq. 11); its ridge is left out of the few steps that follow.

    A level begins with the features of all rows. From these come the start of the head, and, below
    the first level, the shortlists: classifiers of all levels above are trained on the
    concatenation of sparse rows and features (eq. 10) and searched by beam.

    Parameters
    ----------
    front : Front
        See `skxmc.neural._front`.
    texts : sequence of length n
        Rows as the front takes them.
    sparse_rows : canonical csr_array of shape (n, n_features), float32
        Of length one: the other half of the concatenation.
    embedding_weight : float
        Length of the features in it.
    tree : LabelTree
    positives : NodeRows
        Rows with a label below each node, and what this costs.
    levels : list of Level
        Coarse to fine.
    settings : Settings

    Attributes
    ----------
    level : int
        Number of the level in training; -1 before the first.
    """

    def __init__(
        self, front, texts, sparse_rows, embedding_weight, tree, positives, levels, settings
    ):
        self.front, self.texts, self.sparse_rows = front, texts, sparse_rows
        self.embedding_weight, self.tree, self.positives = embedding_weight, tree, positives
        self.levels, self.settings = levels, settings
        self.n_rows = sparse_rows.shape[0]
        self.level = -1
        # (level, first step of the level, steps of the epoch) of each epoch: a pass over the rows
        # or what is left of the level
        self.epochs = []
        per_pass, first = -(-self.n_rows // settings.batch_size), 0
        for number, level in enumerate(levels):
            for start in range(0, level.n_steps, per_pass):
                steps = min(per_pass, level.n_steps - start)
                self.epochs.append((number, first, steps))
            first += level.n_steps

    # ------------------------------------------------------------------ loop

    def begin_epoch(self, epoch):
        """On a new level: its targets, shortlists and the start of its head."""
        number = self.epochs[epoch][0]
        if number != self.level:
            self._begin_level(number)

    def batches(self, epoch, rng):
        """A pass over the rows, or as much of it as the level has steps for."""
        order, size = rng.permutation(self.n_rows), self.settings.batch_size
        n_steps = self.epochs[epoch][2]
        return [np.sort(order[size * b : size * (b + 1)]) for b in range(n_steps)]

    def train_step(self, rows, *, step, n_steps, factor):
        """Update the encoder and the head; the schedule is that of the level."""
        settings, level = self.settings, self.levels[self.level]
        local = step - sum(before.n_steps for before in self.levels[: self.level])
        warmup = int(settings.warmup * level.n_steps)
        factor = learning_rate_factor(local, level.n_steps, warmup, settings.schedule)
        hidden = self.front.forward(
            rows_of(self.texts, rows),
            training=True,
            seed=stream_seed(settings.seed, _STREAM_DROPOUT, step),
        )
        features, lengths = unit_features(hidden)
        nodes, sign, cost = self._batch_targets(rows)
        with np.errstate(over="ignore", invalid="ignore"):  # the loss says so
            loss, gradient = self._update_head(features, nodes, sign, cost, factor)
        if not np.isfinite(loss) or not np.isfinite(gradient).all():
            return np.nan  # the training ends, with the encoder as it was
        # through the division by the length
        gradient -= (gradient * features).sum(axis=1, keepdims=True) * features
        gradient /= lengths
        self.front.backward(gradient)
        self.front.step(settings.learning_rate * factor)
        return loss

    def _update_head(self, features, nodes, sign, cost, factor):
        """Sum of the loss; the gradient of its mean with respect to the features."""
        head = self.head[nodes]
        inputs = np.column_stack([features, np.ones(len(features), dtype=np.float32)])
        slack = np.maximum(1 - sign * (inputs @ head.T), 0)
        loss = float((cost * np.float64(slack) ** 2).sum())
        if not np.isfinite(loss):
            return loss, None
        slope = (-2 / len(features)) * cost * sign * slack
        _row_adam.adam_touched_rows(
            self.head,
            self.moments,
            _stored(slope, nodes, len(self.head)),
            inputs,
            self.settings.head_learning_rate * factor,
            self.settings.n_jobs,
        )
        return loss, slope @ head[:, :-1]

    def _batch_targets(self, rows):
        """Nodes in the shortlist of any of the rows; sign and cost of each row and node.

        The cost is 0 outside the row's own shortlist.
        """
        shortlist, targets = rows_of(self.shortlist, rows), rows_of(self.targets, rows)
        parents = np.unique(shortlist.indices)
        starts = self.tree.child_start[self._parents.start + parents]
        counts = self.tree.child_start[self._parents.start + parents + 1] - starts
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        nodes = np.repeat(starts, counts) + within - self._nodes.start
        seen = np.zeros((len(rows), len(parents)), dtype=np.float32)
        seen[_row_numbers(shortlist), np.searchsorted(parents, shortlist.indices)] = 1
        cost = self.settings.negative_cost * np.repeat(seen, counts, axis=1)
        sign = np.full(cost.shape, -1, dtype=np.float32)
        place = _row_numbers(targets), np.searchsorted(nodes, targets.indices)
        sign[place] = 1
        cost[place] = targets.data
        return nodes, sign, cost.astype(np.float32, copy=False)

    # ------------------------------------------------------------------ a level

    def embeddings(self):
        """Features of all rows, of length 1."""
        return unit_features(np.asarray(self.front.transform(self.texts)))[0]

    def _begin_level(self, number):
        depth = self.levels[number].depth
        features = self.embeddings()
        matched = None
        if depth > 1:
            rows = concatenated_rows(self.sparse_rows, features * np.float32(self.embedding_weight))
            matched = self._match(rows, depth - 1)
        head = self._solved_head(dense_rows(features), matched, depth)
        self._set_level(number, head, self._shortlists(matched, depth))

    def _set_level(self, number, head, shortlist):
        self.level = number
        depth = self.levels[number].depth
        self._parents, self._nodes = _nodes_at(self.tree, depth - 1), _nodes_at(self.tree, depth)
        self.head, self.moments = head, _row_adam.new_moments(head)
        self.shortlist = shortlist
        self.targets = _by_row(self.positives, self._nodes, self.n_rows)

    def _tree_trainer(self, rows, threshold):
        task = TreeTask(
            loss="squared_hinge",
            C=self.settings.C,
            tol=0.03,
            max_iter=100,
            bias_value=1.0,
            regularize_bias=True,
            threshold=threshold,
            negative_cost=self.settings.negative_cost,
            teacher=True,
            n_matcher=self.settings.n_shortlist,
            link=_LINK,
        )
        return TreeTrainer(self.tree, rows, self.positives, task, None, self.settings.n_jobs, None)

    def _match(self, rows, depth):
        """The best nodes of a depth for each row: algorithm 1 down to it with a fixed encoder."""
        trainer = self._tree_trainer(rows, _PRUNED)
        for above in range(depth):
            trainer.train(self._inner_nodes(above))
            trainer.match(above + 1)
        return trainer.matched

    def _inner_nodes(self, depth):
        nodes = _nodes_at(self.tree, depth)
        return nodes.start + np.flatnonzero(self.tree.label[nodes] < 0)

    def _solved_head(self, rows, matched, depth):
        """Weights and biases, in the last column, of the nodes of a depth: eq. 11."""
        trainer = self._tree_trainer(rows, 0.0)
        trainer.matched = matched
        trainer.train(self._inner_nodes(depth - 1))
        nodes = _nodes_at(self.tree, depth)
        head = np.zeros((nodes.stop - nodes.start, rows.shape[1] + 1), dtype=np.float32)
        for parent, chunk in trainer.chunks.items():
            first = self.tree.child_start[parent] - nodes.start
            features = np.repeat(chunk.row_feature, chunk.row_counts)
            head[first + chunk.child.astype(np.int64), features] = chunk.weight
        # minus infinity is a node that no row has a label below: -1 is as good, and has no loss
        bias = trainer.bias[nodes]
        head[:, -1] = np.where(np.isfinite(bias), bias, -1)
        return head

    def _shortlists(self, matched, depth):
        """Parents whose children a row sees: those with a label of the row, and the best ones."""
        parents = _nodes_at(self.tree, depth - 1)
        if depth == 1:  # the root
            return make_compressed(
                np.ones(self.n_rows, dtype=np.float32),
                np.zeros(self.n_rows, dtype=np.int32),
                np.arange(self.n_rows + 1),
                (self.n_rows, 1),
            )
        shortlist = _by_row(self.positives, parents, self.n_rows)
        shortlist = sp.csr_array(shortlist + _by_row(matched, parents, self.n_rows))
        inner = (self.tree.label[parents] < 0)[shortlist.indices]
        indptr = np.concatenate(([0], np.cumsum(inner)))[shortlist.indptr]
        indices = shortlist.indices[inner].astype(np.int32)
        order = np.lexsort((indices, np.repeat(np.arange(self.n_rows), np.diff(indptr))))
        ones = np.ones(len(indices), dtype=np.float32)
        return make_compressed(ones, indices[order], indptr, shortlist.shape)

    # ------------------------------------------------------------------ state

    def parameters(self):
        """Copies of the encoder's parameters, with its optimiser."""
        return {name: np.array(array) for name, array in self.front.state().items()}

    def load_parameters(self, arrays):
        """Go back to what `parameters` returned."""
        self.front.load_state(arrays)

    def state(self):
        """The encoder, the head, and the shortlists, which an earlier encoder made."""
        arrays = {f"front/{name}": array for name, array in self.front.state().items()}
        if self.level >= 0:
            arrays |= {f"head/{name}": array for name, array in self.moments.items()}
            arrays["head/weights"] = self.head
            arrays["shortlist/indices"] = self.shortlist.indices
            arrays["shortlist/indptr"] = self.shortlist.indptr
        return arrays, {"level": self.level}

    def load_state(self, arrays, meta):
        """Go on from what `state` returned."""
        groups = {"front": {}, "head": {}, "shortlist": {}}
        for name, array in arrays.items():
            group, name = name.split("/", 1)
            groups[group][name] = array
        self.front.load_state(groups["front"])
        self.level = meta["level"]
        if self.level < 0:
            return
        moments = {name: np.array(array) for name, array in groups["head"].items()}
        indices, indptr = groups["shortlist"]["indices"], groups["shortlist"]["indptr"]
        parents = _nodes_at(self.tree, self.levels[self.level].depth - 1)
        ones = np.ones(len(indices), dtype=np.float32)
        shape = (self.n_rows, parents.stop - parents.start)
        self._set_level(
            self.level, moments.pop("weights"), make_compressed(ones, indices, indptr, shape)
        )
        self.moments = moments


# ---------------------------------------------------------------------- rows


def unit_features(features):
    """Rows scaled to length 1, and their lengths as a column; a row of zeros stays so."""
    features = np.asarray(features, dtype=np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", features, features, dtype=np.float64))
    lengths[lengths == 0] = 1.0
    lengths = lengths.astype(np.float32)[:, None]
    return features / lengths, lengths


def concatenated_rows(sparse_rows, features):
    """Sparse rows with dense columns after them: eq. 10, the lengths being those given.

    Parameters
    ----------
    sparse_rows : canonical csr_array of shape (n, n_features), float32
    features : float32 array of shape (n, width)

    Returns
    -------
    canonical csr_array of shape (n, n_features + width), float32

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from skxmc.neural._xr_learner import concatenated_rows
    >>> sparse = sp.csr_array(np.array([[0, 2], [0, 0]], dtype=np.float32))
    >>> concatenated_rows(sparse, np.array([[3], [4]], dtype=np.float32)).toarray().tolist()
    [[0.0, 2.0, 3.0], [0.0, 0.0, 4.0]]
    """
    n_rows, width = features.shape
    indptr = sparse_rows.indptr.astype(np.int64) + width * np.arange(n_rows + 1)
    place = np.arange(len(sparse_rows.indices)) + width * _row_numbers(sparse_rows)
    dense = np.ones(indptr[-1], dtype=bool)
    dense[place] = False
    data = np.empty(indptr[-1], dtype=np.float32)
    indices = np.empty(indptr[-1], dtype=np.int32)
    data[place], data[dense] = sparse_rows.data, features.ravel()
    n_sparse = sparse_rows.shape[1]
    indices[place] = sparse_rows.indices
    indices[dense] = np.tile(np.arange(n_sparse, n_sparse + width, dtype=np.int32), n_rows)
    return make_compressed(data, indices, indptr, (n_rows, n_sparse + width))


def dense_rows(features):
    """Dense features as canonical CSR: all entries are stored."""
    nothing = make_compressed(
        np.empty(0, dtype=np.float32),
        np.empty(0, dtype=np.int32),
        np.zeros(len(features) + 1, dtype=np.int64),
        (len(features), 0),
    )
    return concatenated_rows(nothing, features)


def _nodes_at(tree, depth):
    """The nodes of a depth: they are numbered breadth first."""
    start, stop = np.searchsorted(tree.depth, [depth, depth + 1])
    return slice(int(start), int(stop))


def _by_row(nodes: NodeRows, chosen, n_rows):
    """Canonical CSR rows of some nodes, numbered from 0, with their values (or 1)."""
    entries = slice(nodes.indptr[chosen.start], nodes.indptr[chosen.stop])
    lengths = np.diff(nodes.indptr[chosen.start : chosen.stop + 1])
    columns = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    rows = nodes.rows[entries]
    order = np.argsort(rows, kind="stable")
    values = np.ones(len(rows), np.float32) if nodes.value is None else nodes.value[entries]
    indptr = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=n_rows))))
    return make_compressed(
        values[order].astype(np.float32), columns[order], indptr, (n_rows, len(lengths))
    )


def _row_numbers(rows):
    return np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))


def _stored(values, columns, n_columns):
    """The entries of a dense array that are not 0, as CSR with its columns renumbered."""
    rows, places = np.nonzero(values)
    indptr = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=len(values)))))
    return make_compressed(
        values[rows, places].astype(np.float32),
        columns[places].astype(np.int32),
        indptr.astype(np.int64),
        (len(values), n_columns),
    )
