"""Coarse labels: clusters of labels."""

import numpy as np

from skxmc._parallel import effective_n_jobs
from skxmc.label_space._groups import check_positive_int, cluster_equally, unit_embeddings


def meta_labels(embeddings, n_clusters, seed=0, *, n_jobs=None):
    """Assign each label to one of ``n_clusters`` clusters of similar labels of equal size.

    A row has the meta-label of a cluster if it has one of the cluster's labels. A head over
    meta-labels sends a gradient to every input from the first step on, which a sparse output layer
    does not.

    Parameters
    ----------
    embeddings : sparse or dense matrix of shape (n_labels, n_features)
        What describes a label, such as `label_features`. Only the direction of a row counts.
    n_clusters : int
        Number of clusters, at least 1. With more clusters than labels, each label is one.
    seed : int, default=0
        Of the random starts of 2-means.
    n_jobs : int or None, default=None
        Number of threads; the clusters do not depend on it.

    Returns
    -------
    cluster : ndarray of shape (n_labels,), int32
        The cluster of each label, from 0. The sizes of clusters differ by at most one among the
        labels with an embedding. Those without (rows of zeros) are dealt out in turn.

    Raises
    ------
    ValueError
        If ``n_clusters`` is out of range, or ``embeddings`` have no rows or hold NaN or infinity.

    See Also
    --------
    label_groups : Groups of a given size.

    Notes
    -----
    Time O(entries * log2(n_clusters)) times 3 to 20 rounds of 2-means, memory about 25 bytes an
    entry.

    References
    ----------
    N. Ullah, E. Schultheis, M. Lasby, Y. Ioannou, R. Babbar. Navigating extremes: Dynamic sparsity
    in large output spaces. NeurIPS 2024 (the auxiliary loss on meta-labels).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.label_space import meta_labels
    >>> embeddings = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
    >>> cluster = meta_labels(embeddings, n_clusters=2)
    >>> bool(cluster[0] == cluster[2] != cluster[1] == cluster[3])
    True
    """
    n_clusters = check_positive_int(n_clusters, "n_clusters")
    n_jobs = effective_n_jobs(n_jobs)
    rows, described = unit_embeddings(embeddings)
    n_labels = len(described)
    if n_labels < 1:
        raise ValueError("embeddings have no rows: there must be at least one label.")
    n_clusters = min(n_clusters, n_labels)
    cluster = np.empty(n_labels, dtype=np.int32)
    labels = np.flatnonzero(described)
    n_found = min(n_clusters, len(labels))  # with fewer such labels, the others fill the rest
    order = cluster_equally(rows, labels, n_found, seed, n_jobs)
    cluster[order] = np.repeat(
        np.arange(n_found), np.diff(len(labels) * np.arange(n_found + 1) // max(n_found, 1))
    )
    others = np.flatnonzero(~described)
    cluster[others] = (n_found + np.arange(len(others))) % n_clusters
    return cluster
