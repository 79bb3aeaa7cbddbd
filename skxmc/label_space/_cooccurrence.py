"""Which labels occur together: co-occurrence graphs of the labels and soft targets from them.

Notation of Kharbanda's thesis, chapter 1: G = Y^T Y counts the rows that two labels share. Row j of
what the functions here return belongs to the label j whose text is to be a training row, column i
to the label i that may be relevant for it.
"""

import itertools
import numbers

import numpy as np
import scipy.sparse as sp
from scipy.special import expit
from sklearn.utils import check_random_state

from skxmc.ops._jit import jit
from skxmc.ops.csr import canonical_csr, canonical_indicator

TARGETS = ("cooccurrence", "glas", "random-walk", "one-hot")

# Entries of a block of the graph, about, before those below the threshold go.
_BLOCK_ENTRIES = 1 << 24


def label_targets(
    Y,
    targets="cooccurrence",
    *,
    delta=0.1,
    smoothing=0.0,
    n_walks=400,
    restart=0.8,
    random_state=None,
):
    r"""Soft targets of each label's text: how likely each label is relevant for it.

    Kharbanda, thesis 2024, section 1.3: a row that consists of the text of label j has label i with
    about the probability of i given j.

    ``"cooccurrence"`` (eqs. 1.5 and 1.6), with :math:`G = Y^T Y`,

    .. math::

        y_{ji} = \frac{G_{ij}}{G_{jj} + s} \text{ where that is} \ge \delta, \text{ else } 0; \qquad
        y_{jj} = 1,

    with the smoothing s (0 in the thesis): the text itself is then s further rows that have the
    label j only. It matters for labels with one or two rows, all of whose companions have the
    probability 1 otherwise.

    ``"glas"`` (eq. 1.9 and below): :math:`\sigma(S_{ji})` with the symmetrised conditional
    probability :math:`S_{ji} = (P(i | j) + P(j | i)) / 2`, where S is at least :math:`\delta`; on
    the diagonal :math:`\sigma(1) = 0.73`.

    ``"random-walk"``: visits of random walks label - row - label that start at j and return there
    with the probability ``restart`` after each step (Mittal et al., ECLARE, 2021), normalised as
    :math:`D_r^{-1/2} V D_c^{-1/2}` with the row and column sums of the visits V, the diagonal set
    to 1, where it is at least :math:`\delta`.

    ``"one-hot"``: the identity, i.e. self-annotation alone.

    Parameters
    ----------
    Y : 0/1 matrix of shape (n_samples, n_labels)
        Labels of the training rows, sparse or dense.
    targets : {"cooccurrence", "glas", "random-walk", "one-hot"}, default="cooccurrence"
    delta : float, default=0.1
        Threshold in [0, 1].
    smoothing : float, default=0.0
        Pseudo-count s of ``"cooccurrence"``, not negative.
    n_walks : int, default=400
        Steps from each label for ``"random-walk"``.
    restart : float, default=0.8
        Probability in [0, 1) to go back to the label after a step.
    random_state : int, RandomState instance or None, default=None
        Of the random walks.

    Returns
    -------
    csr_array of shape (n_labels, n_labels), float32
        Canonical; values in (0, 1]. A label without positives has only itself.

    Raises
    ------
    ValueError
        For a parameter out of its range and other values than 0 and 1 in ``Y``.

    Notes
    -----
    Time of co-occurrence and GLaS: sum of the squared numbers of labels of the rows; memory: the
    result and 400 MB for a block. Random walks: O(n_labels * n_walks) time.

    References
    ----------
    S. Kharbanda. Learning label-label correlations in extreme multi-label classification via label
    features (Gandalf). KDD 2024; thesis, UCLA, 2024, chapter 1.
    C. Guo et al. Breaking the glass ceiling for embedding-based classifiers for large output spaces
    (GLaS). NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.label_space import label_targets
    >>> Y = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
    >>> label_targets(Y).toarray()
    array([[1. , 0.5, 0. ],
           [1. , 1. , 0. ],
           [0. , 0. , 1. ]], dtype=float32)
    """
    _check_parameters(targets, delta, smoothing, n_walks, restart)
    Y = canonical_indicator(Y)
    if targets == "one-hot":
        return canonical_csr(sp.eye_array(Y.shape[1], dtype=np.float32, format="csr"))
    if targets == "random-walk":
        graph = _normalised_visits(_visits(Y, n_walks, restart, random_state))
        return _finish([_kept(graph, delta)], Y.shape[1])
    return _finish(list(_conditional_blocks(Y, targets, delta, smoothing)), Y.shape[1])


def symmetrized_cooccurrence(Y):
    r"""S of the GLaS regulariser: the mean of :math:`P(i | j)` and :math:`P(j | i)` (eq. 1.9).

    Parameters
    ----------
    Y : 0/1 matrix of shape (n_samples, n_labels)
        Labels of the rows, sparse or dense.

    Returns
    -------
    csr_array of shape (n_labels, n_labels), float32
        Symmetric; 1 on the diagonal, also for labels without positives.

    Notes
    -----
    Memory: all pairs of labels that occur together.

    Examples
    --------
    >>> from skxmc.label_space import symmetrized_cooccurrence
    >>> symmetrized_cooccurrence([[1, 1], [1, 0]]).toarray()
    array([[1.  , 0.75],
           [0.75, 1.  ]], dtype=float32)
    """
    Y = canonical_indicator(Y)
    return _finish(list(_conditional_blocks(Y, "symmetric", 0.0, 0.0)), Y.shape[1])


def _check_parameters(targets, delta, smoothing, n_walks, restart):
    if targets not in TARGETS:
        raise ValueError(f"targets must be one of {TARGETS}, got {targets!r}.")
    for name, value, low, high in (
        ("delta", delta, 0, 1),
        ("smoothing", smoothing, 0, np.inf),
        ("restart", restart, 0, 1),
    ):
        if not isinstance(value, numbers.Real) or not low <= value <= high:
            raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}.")
    if restart == 1:
        raise ValueError("restart must be below 1, or no walk leaves its label.")
    if not isinstance(n_walks, numbers.Integral) or n_walks < 1:
        raise ValueError(f"n_walks must be an integer of at least 1, got {n_walks!r}.")


def _finish(blocks, n_labels):
    targets = canonical_csr(sp.vstack(blocks, format="csr") if len(blocks) > 1 else blocks[0])
    assert targets.shape == (n_labels, n_labels)
    return targets


def _conditional_blocks(Y, targets, delta, smoothing):
    """Blocks of rows of the graph, thresholded."""
    Y = sp.csr_array((np.ones(Y.nnz, np.float32), Y.indices, Y.indptr), shape=Y.shape)
    by_label = Y.tocsc()
    counts = np.diff(by_label.indptr).astype(np.float64)
    row_lengths = np.diff(Y.indptr)
    work = np.concatenate(([0], np.cumsum(row_lengths[by_label.indices])))[by_label.indptr]
    cuts = np.searchsorted(work, np.arange(0, work[-1], _BLOCK_ENTRIES), "left")
    cuts = np.unique(np.concatenate((cuts, [0, Y.shape[1]])))
    for first, stop in itertools.pairwise(cuts):
        together = sp.csr_array(by_label[:, first:stop].T @ Y)
        given = np.repeat(counts[first:stop], np.diff(together.indptr))
        other = counts[together.indices]
        if targets == "cooccurrence":
            values = together.data / (given + smoothing)
        else:
            values = 0.5 * (together.data / given + together.data / other)
        graph = sp.csr_array((values, together.indices, together.indptr), shape=together.shape)
        graph = _kept(graph, delta, first)
        if targets == "glas":
            graph.data = expit(graph.data)
        yield graph


def _kept(graph, delta, first=0):
    """Entries of at least ``delta``, in float32, with a diagonal of ones."""
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    kept = (graph.data >= delta) & (graph.indices != rows + first)
    size = np.arange(graph.shape[0])
    values = np.concatenate([np.minimum(graph.data[kept], 1), np.ones(len(size))])
    places = (
        np.concatenate([rows[kept], size]),
        np.concatenate([graph.indices[kept], size + first]),
    )
    return sp.csr_array((values.astype(np.float32), places), shape=graph.shape)


# ------------------------------------------------------------------ random walks


@jit
def _mix(state):
    """splitmix64: a random 64-bit number from each state of a counter."""
    z = state * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def _walk(row_indptr, row_labels, label_indptr, label_rows, first, seed, restart, visited):
    """``visited[q]``: the labels that a walk from label first + q comes to, step by step."""
    for q in range(visited.shape[0]):
        start = first + q
        here = start
        state = _mix(seed + np.uint64(start))
        for step in range(visited.shape[1]):
            if label_indptr[here + 1] == label_indptr[here]:  # no row to go to
                visited[q, step] = start
                continue
            state += np.uint64(1)
            n = np.uint64(label_indptr[here + 1] - label_indptr[here])
            row = label_rows[label_indptr[here] + np.int64(_mix(state) % n)]
            state += np.uint64(1)
            n = np.uint64(row_indptr[row + 1] - row_indptr[row])
            here = row_labels[row_indptr[row] + np.int64(_mix(state) % n)]
            visited[q, step] = here
            state += np.uint64(1)
            # 53 random bits as a number in [0, 1)
            if np.float64(_mix(state) >> np.uint64(11)) / 9007199254740992.0 < restart:
                here = start


def _visits(Y, n_walks, restart, random_state):
    """How often a walk of each label comes to each label."""
    seed = np.uint64(check_random_state(random_state).randint(2**31))
    by_label = Y.tocsc()
    label_indptr = by_label.indptr.astype(np.int64)
    label_rows = by_label.indices.astype(np.int32)
    n_labels = Y.shape[1]
    blocks = []
    size = max(1, _BLOCK_ENTRIES // n_walks)
    for first in range(0, n_labels, size):
        count = min(size, n_labels - first)
        visited = np.empty((count, n_walks), np.int32)
        _walk(
            *(Y.indptr, Y.indices, label_indptr, label_rows),
            *(first, seed, float(restart), visited),
        )
        indptr = np.arange(count + 1, dtype=np.int64) * n_walks
        block = sp.csr_array(
            (np.ones(visited.size, np.float32), visited.ravel(), indptr), shape=(count, n_labels)
        )
        block.sum_duplicates()
        blocks.append(block)
    return sp.vstack(blocks, format="csr")


def _normalised_visits(visits):
    rows = visits.sum(axis=1)
    columns = visits.sum(axis=0)
    scale = 1 / np.sqrt(np.maximum(columns, 1))
    data = visits.data * scale[visits.indices]
    data /= np.repeat(np.sqrt(np.maximum(rows, 1)), np.diff(visits.indptr))
    return sp.csr_array((data, visits.indices, visits.indptr), shape=visits.shape)
