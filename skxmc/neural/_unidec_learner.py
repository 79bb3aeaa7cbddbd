"""The training step of UniDEC: a dual encoder and a classifier on the same batch of labels.

The numbers of lines in the comments are those of Algorithm 1 of the thesis, counted from
``for e in 1..epochs``.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc._parallel import effective_n_jobs
from skxmc.label_space import symmetrized_cooccurrence
from skxmc.neural import _row_adam
from skxmc.neural._front import rows_of
from skxmc.neural._hard_negatives import LabelIndex, mine_hard_negatives
from skxmc.neural._output_layer import stream_seed
from skxmc.neural._projection import Projection, unit_rows, unit_rows_backward
from skxmc.neural._training import Learner
from skxmc.ops.contrastive import Pairs, contrastive_loss
from skxmc.ops.csr import take_rows
from skxmc.ops.glas import glas
from skxmc.ops.spherical_kmeans import balanced_bisection, compact_rows

# Numbers of the random streams.
_STREAM_BATCH, _STREAM_ENCODER, _STREAM_DUAL, _STREAM_CLASSIFIER, _STREAM_CLUSTER = range(201, 206)

# Rows whose precision the progress bar shows where there is no validation set.
_SHOWN_ROWS = 256


class Settings(NamedTuple):
    """Constants of the training; see `UniDECClassifier`.

    Attributes
    ----------
    mode : {"both", "encoder", "classifier"}
    losses : (str, str)
        Of the dual encoder and of the classifier.
    temperatures : (float, float)
        By which the logits of the two are divided.
    row_shares : (float, float)
        Weights of the direction from rows to labels.
    share : float
        Weight lambda of the dual encoder.
    n_positives, n_hard_negatives : int
    refresh_every, cluster_from : int
        Epochs.
    batch_size : int
    learning_rates : (float, float, float)
        Of the encoder, the projections, and the classifier.
    search : {"exact", "faiss"}
    seed : int
    glas : float
        Weight of the GLaS regulariser in the loss of the classifier.
    """

    mode: str
    losses: tuple
    temperatures: tuple
    row_shares: tuple
    share: float
    n_positives: int
    n_hard_negatives: int
    refresh_every: int
    cluster_from: int
    batch_size: int
    learning_rates: tuple
    search: str
    seed: int
    glas: float = 0.0


class Parts(NamedTuple):
    """What is trained.

    Attributes
    ----------
    front : front
        The encoder.
    dual : Projection or None
        The head g1 of the dual encoder.
    head : Projection or None
        The head g2 of the classifier.
    classifier : float32 array of shape (n_labels, width), or None
        The table of label vectors Psi.
    """

    front: Any
    dual: Projection | None
    head: Projection | None
    classifier: Any


class UniDECLearner(Learner):
    """Encoder, heads and classifier, by the gradient of the contrastive losses of each batch.

    Parameters
    ----------
    parts : Parts
    inputs : rows as the encoder takes them, or a pair of them
        All rows, and in modes with a dual encoder the texts of all labels after them.
    Y : canonical csr_array of shape (n_rows, n_labels)
        Indicator, or soft targets in (0, 1], of all rows.
    settings : Settings
    train : int64 array
        Rows to train on.
    validation : int64 array or None
        Rows to evaluate on.
    same_text : canonical csr pattern of shape (n_rows, n_labels), or None
        Pairs whose texts are equal: no encoder can tell them apart, so they are no negatives.
    n_jobs : int or None
    """

    def __init__(
        self, parts, inputs, Y, settings, *, train, validation=None, same_text=None, n_jobs=None
    ):
        self.parts, self.settings = parts, settings
        self._inputs, self._Y = inputs, Y
        self._train, self._validation = train, validation
        self._same_text = same_text
        self._n_jobs = n_jobs
        self._n_rows, self._n_labels = Y.shape
        self._moments = None
        # state beside the parameters: row numbers cluster after cluster, and hard negatives
        self._order = self._bounds = self._hard = None
        own = rows_of(Y, train)
        self._known = np.unique(own.indices)  # labels that have a row: the only hard negatives
        self._cooccurrence = None
        if settings.glas and parts.classifier is not None:
            own = sp.csr_array(own == 1)  # soft targets do not occur in the data
            self._cooccurrence = symmetrized_cooccurrence(own)

    # ------------------------------------------------------------------ epochs

    def begin_epoch(self, epoch):
        """Lines 2 to 4: clusters of queries and hard negatives, every tau epochs."""
        s = self.settings
        if epoch < s.cluster_from or (epoch - s.cluster_from) % s.refresh_every:
            return
        features = self.parts.front.transform(rows_of(self._inputs, self._train))
        queries = self._queries(features)[0]
        self._order, self._bounds = cluster_rows(
            queries,
            -(-len(self._train) // s.batch_size),
            stream_seed(s.seed, _STREAM_CLUSTER, epoch) % (1 << 31),
            self._n_jobs,
        )
        if s.n_hard_negatives:
            exclude = _union(self._Y, self._same_text)
            self._hard = mine_hard_negatives(
                queries,
                self._label_vectors()[0],
                s.n_hard_negatives * s.refresh_every,
                exclude=take_rows(exclude, self._train),
                labels=self._known,
                search=s.search,
                n_jobs=self._n_jobs,
            )

    def batches(self, epoch, rng):
        """Clusters in random order, once there are some; else random batches."""
        if self._order is None:
            order, size = rng.permutation(len(self._train)), self.settings.batch_size
            parts = [order[first : first + size] for first in range(0, len(order), size)]
        else:
            parts = np.split(self._order, self._bounds[1:-1])
            parts = [parts[i] for i in rng.permutation(len(parts))]
        return [self._train[np.sort(part)] for part in parts]

    # ------------------------------------------------------------------ a step

    def train_step(self, rows, *, step, n_steps, factor):
        """Lines 5 to 20: sample a pool of labels, both losses, one update of everything."""
        s, parts = self.settings, self.parts
        rng = np.random.default_rng([s.seed, _STREAM_BATCH, step])
        targets = take_rows(self._Y, rows)
        pool = self._pool(rows, targets, rng)
        if len(pool) == 0:
            return 0.0
        positives = _pairs(targets, pool)
        ignored = None
        if self._same_text is not None:
            ignored = _pairs(take_rows(self._same_text, rows), pool)._replace(weights=None)
        n_rows, total = len(rows), 0.0
        texts = rows if parts.dual is None else np.concatenate([rows, self._n_rows + pool])
        features = parts.front.forward(
            rows_of(self._inputs, texts),
            training=True,
            seed=stream_seed(s.seed, _STREAM_ENCODER, step),
        )
        gradient = np.zeros_like(features)
        if parts.dual is not None:
            total += self._dual_step(features, n_rows, positives, ignored, step, gradient)
        if parts.head is not None:
            total += self._classifier_step(
                features[:n_rows], pool, positives, ignored, step, factor, gradient[:n_rows]
            )
        if not np.isfinite(total):
            return total  # the training ends, with the encoder as it was
        parts.front.backward(gradient)
        parts.front.step(s.learning_rates[0] * factor)
        for head in (parts.dual, parts.head):
            if head is not None:
                head.step(s.learning_rates[1] * factor)
        return total * n_rows

    def _pool(self, rows, targets, rng):
        """Lines 6 to 9: at most beta positives and eta hard negatives of each row, as one set."""
        s = self.settings
        row = np.repeat(np.arange(len(rows)), np.diff(targets.indptr))
        shuffled = np.lexsort((rng.random(targets.nnz), row))
        rank = np.arange(targets.nnz) - targets.indptr[row]
        chosen = [targets.indices[shuffled[rank < s.n_positives]]]
        if self._hard is not None:
            own = self._hard[np.searchsorted(self._train, rows)]
            places = np.argsort(rng.random(own.shape), axis=1)[:, : s.n_hard_negatives]
            hard = np.take_along_axis(own, places, axis=1)
            chosen.append(hard[hard >= 0])
        return np.unique(np.concatenate(chosen)).astype(np.int64)

    def _dual_step(self, features, n_rows, positives, ignored, step, gradient):
        """Lines 12 to 14: rows and label texts on the sphere; adds to the gradient."""
        s, head = self.settings, self.parts.dual
        outputs = head.forward(features, stream_seed(s.seed, _STREAM_DUAL, step))
        unit, lengths = unit_rows(outputs)
        queries, labels = unit[:n_rows], unit[n_rows:]
        loss, at_logits = self._loss(0, queries, labels, positives, ignored)
        share = s.share if s.mode == "both" else 1.0
        at_logits *= np.float32(share / s.temperatures[0])
        at_unit = np.concatenate([at_logits @ labels, at_logits.T @ queries])
        gradient += head.backward(unit_rows_backward(unit, lengths, at_unit))
        return share * loss

    def _classifier_step(self, features, pool, positives, ignored, step, factor, gradient):
        """Lines 15 to 17: rows and the vectors of the labels of the pool, not normalised."""
        s, head, table = self.settings, self.parts.head, self.parts.classifier
        queries = head.forward(features, stream_seed(s.seed, _STREAM_CLASSIFIER, step))
        labels = table[pool]
        loss, at_logits = self._loss(1, queries, labels, positives, ignored)
        share = 1 - s.share if s.mode == "both" else 1.0
        at_logits *= np.float32(share / s.temperatures[1])
        at_labels = at_logits.T @ queries
        if self._cooccurrence is not None:
            value, at_vectors = glas(labels, self._cooccurrence[pool][:, pool])
            loss += s.glas * value
            at_labels += np.float32(share * s.glas) * at_vectors
        gradient += head.backward(at_logits @ labels)
        if np.isfinite(loss):
            _row_adam.adam_touched_rows(
                table,
                self._adam_moments(),
                _selection(pool, self._n_labels),
                np.ascontiguousarray(at_labels),
                s.learning_rates[2] * factor,
                effective_n_jobs(self._n_jobs),
            )
        return share * loss

    def _loss(self, which, queries, labels, positives, ignored):
        s = self.settings
        logits = queries @ labels.T
        logits /= np.float32(s.temperatures[which])
        return contrastive_loss(
            logits,
            positives,
            loss=s.losses[which],
            row_share=s.row_shares[which],
            ignored=ignored,
        )

    # ------------------------------------------------------------------ vectors

    def _queries(self, features):
        """Unit vectors of rows from the encoder's features: a list, one of each half."""
        heads = [head for head in (self.parts.dual, self.parts.head) if head is not None]
        return [unit_rows(head.transform(features))[0] for head in heads]

    def _label_vectors(self):
        """Unit vectors of the labels: a list, one of each half."""
        halves = []
        if self.parts.dual is not None:
            texts = rows_of(self._inputs, self._n_rows + np.arange(self._n_labels))
            halves.append(
                unit_rows(self.parts.dual.transform(self.parts.front.transform(texts)))[0]
            )
        if self.parts.head is not None:
            halves.append(unit_rows(self.parts.classifier)[0])
        return halves

    def vectors(self, rows):
        """Unit vectors of rows and of all labels, a list of one or two halves each."""
        features = self.parts.front.transform(rows_of(self._inputs, rows))
        return self._queries(features), self._label_vectors()

    # ------------------------------------------------------------------ validation

    def evaluate(self):
        """P@1 and, with as many labels, P@3 on the validation rows."""
        return {} if self._validation is None else self.precision(self._validation)

    def glance(self):
        """The same on some of the training rows."""
        return self.precision(self._train[:_SHOWN_ROWS])

    def precision(self, rows):
        """P@1 and, with as many labels, P@3 on these rows, by the concatenated vectors."""
        queries, labels = self.vectors(rows)
        queries, labels = np.hstack(queries), np.hstack(labels)
        ks = [k for k in (1, 3) if k <= self._n_labels]
        exclude = None if self._same_text is None else take_rows(self._same_text, rows)
        index = LabelIndex(labels, n_jobs=self._n_jobs)
        answers = index.nearest(queries, max(ks), exclude)
        truth = take_rows(self._Y, rows)
        keys = np.repeat(np.arange(len(rows)), np.diff(truth.indptr)) * self._n_labels
        keys = keys + truth.indices
        found = np.arange(len(rows))[:, None] * self._n_labels + answers
        hits = np.isin(found, keys) & (answers >= 0)
        return {f"P@{k}": float(hits[:, :k].mean()) for k in ks}

    # ------------------------------------------------------------------ state

    def parameters(self):
        """Copies of what a model is."""
        arrays, _ = self.state()
        return {
            name: np.array(array)
            for name, array in arrays.items()
            if name.partition("/")[0] in ("front", "dual", "head", "classifier")
        }

    def load_parameters(self, arrays):
        """Go back to what `parameters` returned."""
        self._load(arrays)

    def state(self):
        """Parameters, optimisers, and what the last refresh made."""
        arrays = {f"front/{name}": array for name, array in self.parts.front.state().items()}
        for group in ("dual", "head"):
            head = getattr(self.parts, group)
            if head is not None:
                arrays |= {f"{group}/{name}": array for name, array in head.state().items()}
        if self.parts.classifier is not None:
            arrays["classifier/weights"] = self.parts.classifier
            arrays |= {f"classifier/{name}": a for name, a in self._adam_moments().items()}
        for name in ("order", "bounds", "hard"):
            array = getattr(self, f"_{name}")
            if array is not None:
                arrays[f"refreshed/{name}"] = array
        return arrays, {}

    def load_state(self, arrays, meta):
        """Go on from what `state` returned."""
        self._load(arrays)
        for name in ("order", "bounds", "hard"):
            array = arrays.get(f"refreshed/{name}")
            setattr(self, f"_{name}", None if array is None else np.array(array))

    def _load(self, arrays):
        self.parts.front.load_state(_group(arrays, "front"))
        for group in ("dual", "head"):
            head = getattr(self.parts, group)
            if head is not None:
                head.load_state(_group(arrays, group))
        if self.parts.classifier is not None:
            own = _group(arrays, "classifier")
            self.parts.classifier[:] = own.pop("weights")
            self._moments = {name: np.array(array) for name, array in own.items()}

    def _adam_moments(self):
        if self._moments is None:
            self._moments = _row_adam.new_moments(self.parts.classifier)
        return self._moments


def cluster_rows(vectors, n_clusters, seed, n_jobs=None):
    """Cut unit vectors into clusters of equal size: the batches of similar queries.

    Parameters
    ----------
    vectors : float32 array of shape (n_rows, n_dimensions)
    n_clusters : int
    seed : int
    n_jobs : int or None

    Returns
    -------
    order : int64 array of shape (n_rows,)
        Row numbers, cluster after cluster.
    bounds : int64 array of shape (n_clusters + 1,)
    """
    if n_clusters == 1:
        return np.arange(len(vectors)), np.array([0, len(vectors)])
    n_jobs = effective_n_jobs(n_jobs)
    rows = sp.csr_array(vectors)
    rows = compact_rows(
        np.ascontiguousarray(rows.data, dtype=np.float32),
        rows.indices.astype(np.int32),
        rows.indptr.astype(np.int64),
        rows.shape[1],
        n_jobs=n_jobs,
    )
    order, bounds = balanced_bisection(rows, n_clusters, seed=seed, n_jobs=n_jobs)
    return order.astype(np.int64), bounds


def _pairs(targets, pool):
    """The entries of sparse rows whose label is in the sorted `pool`, by their place in it."""
    place = np.minimum(np.searchsorted(pool, targets.indices), len(pool) - 1)
    kept = pool[place] == targets.indices
    row = np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr))[kept]
    soft = targets.dtype.kind == "f"
    return Pairs(row, place[kept], targets.data[kept] if soft else None)


def _selection(labels, n_labels):
    """A sparse row for each of some labels, with a 1 in its column."""
    n = len(labels)
    ones = np.ones(n, dtype=np.float32)
    return sp.csr_array((ones, labels.astype(np.int32), np.arange(n + 1)), shape=(n, n_labels))


def _union(A, B):
    """Pattern of the entries of either of two canonical CSR matrices."""
    pattern = sp.csr_array((np.ones(A.nnz, dtype=np.float32), A.indices, A.indptr), shape=A.shape)
    if B is None:
        return pattern
    other = sp.csr_array((np.ones(B.nnz, dtype=np.float32), B.indices, B.indptr), shape=B.shape)
    union = sp.csr_array(pattern + other)
    union.sort_indices()
    return union


def _group(arrays, group):
    """The arrays whose names begin with a group, by the rest of their names."""
    start = f"{group}/"
    return {
        name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)
    }
