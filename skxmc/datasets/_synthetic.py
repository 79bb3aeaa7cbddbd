"""Synthetic multi-label data with a known truth."""

import numbers

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import Bunch, check_random_state

# Marginals of the candidates are uniform on (0, 1).
_MEAN_MARGINAL = 0.5
# A label is a candidate in at most this share of the rows.
_MAX_CANDIDATE_RATE = 0.9
# Share of the features of a row, and of the columns of X, that carry no information.
_NOISE_SHARE = 0.25


def make_xmc_classification(
    n_samples=1000,
    n_features=1000,
    n_labels=200,
    *,
    avg_labels_per_sample=3.0,
    avg_features_per_sample=40.0,
    label_exponent=1.0,
    propensity=None,
    random_state=None,
):
    """Make a sparse multi-label data set whose probabilities and propensities are known.

    Labels follow a power law and can be learned by a linear model. The true conditional marginals
    are returned, so calibration and decision rules can be checked against the truth; labels may go
    missing with known propensities. Nothing of size n_samples x n_labels is made: 1e6 rows with 1e6
    labels fit into a few GB.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows n.
    n_features : int, default=1000
        Number of columns d of X, at least 8.
    n_labels : int, default=200
        Number of labels L.
    avg_labels_per_sample : float, default=3.0
        Expected number of true labels of a row, above 0 and at most ``0.45 * n_labels``.
    avg_features_per_sample : float, default=40.0
        Expected number of stored features of a row, approximately (features that coincide are
        merged). At least ``16/3 * avg_labels_per_sample``, which gives each candidate label two.
    label_exponent : float, default=1.0
        The r-th most frequent label has a frequency proportional to ``r ** -label_exponent``,
        except that no frequency exceeds 0.45. 0: all labels are equally frequent.
    propensity : None, float, array of shape (n_labels,) or ("jpv", A, B), default=None
        Probability with which a true label is observed, in (0, 1]. None: all are.
        ``("jpv", A, B)``: the propensity model of Jain, Prabhu and Varma (KDD 2016),
        ``1 / (1 + C * (N_l + B) ** -A)`` with ``C = (ln n - 1) * (B + 1) ** A`` and N_l the
        number of rows of `Y_true` with label l; at most 1.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same data in every call.

    Returns
    -------
    data : Bunch
        ``X`` : csr_array of shape (n, d), float32, the features;
        ``Y`` : csr_array of shape (n, L), uint8, the observed labels;
        ``Y_true`` : csr_array of shape (n, L), uint8, the complete labels;
        ``marginals`` : csr_array of shape (n, L), float32, ``P(Y_true[i, j] = 1 | X[i])`` of the
        pairs where it is not 0;
        ``propensities`` : ndarray of shape (L,), float64, ``P(Y[i, j] = 1 | Y_true[i, j] = 1)``;
        ``priors`` : ndarray of shape (L,), float64, ``P(Y_true[i, j] = 1)``;
        ``signatures`` : csr_array of shape (L, d), float32, the features of each label;
        ``DESCR`` : str.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or two of them contradict each other.

    Notes
    -----
    The model:

    1. Label l has the prior ``pi_l``, a power law over a random order of the labels, scaled to
       ``sum(pi) = avg_labels_per_sample`` (frequencies at the limit hand their rest on to the
       others), and a signature, s random features with weights uniform on (0.5, 1.5).
    2. Label l is a candidate of row i with probability ``2 * pi_l``, independently of everything
       else. A candidate gets a marginal ``eta_il`` uniform on (0, 1].
    3. ``X[i]`` is the sum of ``(0.5 + eta_il) * signature_l`` over the candidates, plus noise on
       columns of its own, a quarter of all. Values are scaled to rows of about unit length.
    4. ``Y_true[i, l] ~ Bernoulli(eta_il)`` and ``Y[i, l] = Y_true[i, l] * Bernoulli(p_l)``, all
       independent.

    The noise is independent of the labels, and two different sets of candidates make the same row
    only by a coincidence of continuous weights. So X[i] determines ``eta_i``, and ``eta_i`` are the
    conditional marginals given X[i]. The best possible ranking of row i is the one by
    ``eta_i``. A row without candidates has noise only, and no labels.

    Time is linear in the stored entries. Peak memory is about 20 bytes per stored entry of X
    plus 40 per candidate pair (there are ``2 * n * avg_labels_per_sample``) plus 100 per label:
    1.1 GB for 1e6 rows, 1e6 labels and the default averages.

    Examples
    --------
    >>> from skxmc.datasets import make_xmc_classification
    >>> data = make_xmc_classification(500, 300, 50, propensity=("jpv", 0.55, 1.5), random_state=0)
    >>> data.X.shape, data.Y.shape, data.Y.nnz < data.Y_true.nnz
    ((500, 300), (500, 50), True)
    """
    n_samples = _integer(n_samples, "n_samples", 1)
    n_features = _integer(n_features, "n_features", 8)
    n_labels = _integer(n_labels, "n_labels", 1)
    for name, value in (
        ("avg_labels_per_sample", avg_labels_per_sample),
        ("avg_features_per_sample", avg_features_per_sample),
        ("label_exponent", label_exponent),
    ):
        _real(value, name)
    if avg_labels_per_sample == 0:
        raise ValueError("avg_labels_per_sample must be above 0")
    rng = np.random.default_rng(check_random_state(random_state).randint(0, 2**32, 4, np.uint32))

    priors = rng.permutation(_power_law(n_labels, label_exponent, avg_labels_per_sample))
    signatures, n_noise = _signatures(
        n_features, n_labels, avg_labels_per_sample, avg_features_per_sample, rng
    )

    marginals = _draw_pairs(priors / _MEAN_MARGINAL, n_samples, rng)
    # 1 - [0, 1) is (0, 1]: no stored marginal is 0.
    marginals.data = 1 - rng.random(marginals.nnz, dtype=np.float32)
    Y_true = _keep(marginals, rng.random(marginals.nnz) < marginals.data)
    propensities = _propensities(propensity, Y_true)
    if propensity is None:
        Y = Y_true.copy()
    else:
        Y = _keep(Y_true, rng.random(Y_true.nnz) < propensities[Y_true.indices])

    strengths = csr_array(
        (marginals.data + np.float32(0.5), marginals.indices, marginals.indptr),
        shape=marginals.shape,
    )
    X = strengths @ signatures
    noise_rates = np.zeros(n_features)
    noise_rates[n_features - n_noise :] = min(1.0, _NOISE_SHARE * avg_features_per_sample / n_noise)
    noise = _draw_pairs(noise_rates, n_samples, rng)
    noise.data = rng.random(noise.nnz, dtype=np.float32) + np.float32(0.5)
    X = X + noise
    X.sum_duplicates()
    X.data /= np.float32(np.sqrt(avg_features_per_sample))
    return Bunch(
        X=X,
        Y=Y,
        Y_true=Y_true,
        marginals=marginals,
        propensities=propensities,
        priors=priors,
        signatures=signatures,
        DESCR=(
            f"Synthetic: {n_samples} rows, {n_features} features, {n_labels} labels,"
            f" label exponent {label_exponent}; see make_xmc_classification."
        ),
    )


def _power_law(n_labels, exponent, total):
    """Return priors in falling order: proportional to rank ** -exponent, capped, sum ``total``."""
    cap = _MAX_CANDIDATE_RATE * _MEAN_MARGINAL
    if total > cap * n_labels:
        raise ValueError(
            f"avg_labels_per_sample={total} is too large for {n_labels} labels: at most"
            f" {cap} * n_labels"
        )
    weights = np.arange(1, n_labels + 1, dtype=np.float64) ** -exponent
    # With the first k labels at the cap the others share the rest; take the smallest k that works.
    scale = (total - np.arange(n_labels) * cap) / np.cumsum(weights[::-1])[::-1]
    works = weights * scale <= cap
    first = int(np.argmax(works)) if works.any() else n_labels
    priors = np.full(n_labels, cap)
    priors[first:] = weights[first:] * scale[min(first, n_labels - 1)]
    return priors


def _signatures(n_features, n_labels, avg_labels, avg_features, rng):
    """Return the features of each label as CSR, and the number of noise columns."""
    n_noise = int(_NOISE_SHARE * n_features)
    n_informative = n_features - n_noise
    candidates = avg_labels / _MEAN_MARGINAL
    size = round((1 - _NOISE_SHARE) * avg_features / candidates)
    if size < 2:
        least = 2 * candidates / (1 - _NOISE_SHARE)
        raise ValueError(
            f"avg_features_per_sample={avg_features} is too small for avg_labels_per_sample="
            f"{avg_labels}: at least {least:g}"
        )
    if size > n_informative or avg_features > n_features:
        raise ValueError(
            f"avg_features_per_sample={avg_features} is too large for {n_features} features"
        )
    indices = rng.integers(0, n_informative, (n_labels, size), dtype=np.int32)
    data = rng.random(n_labels * size, dtype=np.float32) + np.float32(0.5)
    indptr = np.arange(n_labels + 1, dtype=np.int64) * size
    if indptr[-1] < 2**31:
        indptr = indptr.astype(np.int32)
    signatures = csr_array((data, indices.ravel(), indptr), shape=(n_labels, n_features))
    signatures.sum_duplicates()
    return signatures, n_noise


def _draw_pairs(rates, n_rows, rng):
    """Draw each pair (i, j) independently with probability ``rates[j]``; canonical CSR of ones.

    With a Poisson number of draws of mean ``-n ln(1 - rate)``, each falling on a random row, every
    row is hit by an independent Poisson number of draws, and by none with probability 1 - rate.
    """
    full = rates >= 1
    mean = np.zeros(len(rates))
    mean[~full] = -n_rows * np.log1p(-rates[~full])
    counts = rng.poisson(mean)
    columns = np.repeat(np.arange(len(rates), dtype=np.int32), counts)
    rows = rng.integers(0, n_rows, len(columns), dtype=np.int32)
    if full.any():
        rows = np.concatenate([rows, np.tile(np.arange(n_rows, dtype=np.int32), full.sum())])
        columns = np.concatenate(
            [columns, np.repeat(np.flatnonzero(full).astype(np.int32), n_rows)]
        )
    ones = np.ones(len(rows), dtype=np.float32)
    pairs = csr_array((ones, (rows, columns)), shape=(n_rows, len(rates)))
    pairs.sum_duplicates()
    return pairs


def _keep(matrix, mask):
    """Return the entries of a canonical matrix where ``mask`` is true, as 0/1 uint8."""
    kept = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])[matrix.indptr]
    indices = matrix.indices[mask]
    ones = np.ones(len(indices), dtype=np.uint8)
    return csr_array((ones, indices, kept.astype(matrix.indptr.dtype)), shape=matrix.shape)


def _propensities(propensity, Y_true):
    n_samples, n_labels = Y_true.shape
    if propensity is None:
        return np.ones(n_labels)
    if isinstance(propensity, str) or (
        isinstance(propensity, (tuple, list)) and len(propensity) and propensity[0] == "jpv"
    ):
        if isinstance(propensity, str) or len(propensity) != 3:
            raise ValueError(f"propensity must be ('jpv', A, B), got {propensity!r}")
        a, b = (_real(value, "A and B of propensity") for value in propensity[1:])
        if b == 0:
            raise ValueError("B of propensity must be above 0")
        counts = np.bincount(Y_true.indices, minlength=n_labels)
        c = (np.log(n_samples) - 1) * (b + 1) ** a
        # For n < e the constant is negative, which would give propensities above 1.
        return 1 / (1 + max(c, 0.0) * (counts + b) ** -a)
    values = np.asarray(propensity, dtype=np.float64)
    if values.ndim == 0:
        values = np.full(n_labels, values)
    if values.shape != (n_labels,):
        raise ValueError(f"propensity has shape {values.shape}, expected ({n_labels},)")
    bad = np.flatnonzero(~((values > 0) & (values <= 1)))
    if bad.size:
        raise ValueError(f"propensity[{bad[0]}] is {values[bad[0]]}, must be in (0, 1]")
    return values.copy()


def _integer(value, name, least):
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not least <= value < 2**31:
        raise ValueError(f"{name} must be between {least} and 2**31 - 1, got {value}")
    return int(value)


def _real(value, name):
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not np.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return float(value)
