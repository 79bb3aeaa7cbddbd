"""Label features: one row per label, by which labels are clustered into a tree."""

import numpy as np
import scipy.sparse as sp

from skxmc._parallel import effective_n_jobs
from skxmc.ops.csr import canonical_csr, canonical_targets
from skxmc.ops.row_sums import sum_row_groups, unit_rows

_METHODS = ("pifa", "text", "pifa+text", "cooccurrence", "pifa+cooccurrence")


def label_features(X, Y, method="pifa", *, row_norm=True, label_text=None, n_jobs=None):
    r"""Describe each label by a sparse vector of length one: from its rows, its text, its company.

    ``"pifa"`` (positive instance feature aggregation) adds up the features of the training rows of
    a label,

    .. math::

        Z_l = v_l / \|v_l\|, \qquad v_l = \sum_{i: Y_{il} = 1} X_i / \sqrt{n_i}

    with :math:`n_i` the number of labels of row :math:`i`, or 1 if ``row_norm`` is False. With soft
    targets each row is weighted with its target, and :math:`n_i` is their sum.
    ``"text"`` takes what is given as ``label_text``. ``"cooccurrence"`` is the output space
    representation of Bonsai: how often each label occurs with each other, :math:`Y_l^T Y`. With a
    plus, the two vectors of length one are put side by side, and the whole is scaled to length one
    again.

    Parameters
    ----------
    X : sparse or dense matrix of shape (n_samples, n_features)
        Features of the training rows, usually of length one each. Not used by ``"text"`` and
        ``"cooccurrence"``, and may be None there.
    Y : matrix of shape (n_samples, n_labels)
        Labels of the training rows, 0/1 or soft targets in [0, 1], sparse or dense. ``"text"``
        takes from it only the number of labels.
    method : {"pifa", "text", "pifa+text", "cooccurrence", "pifa+cooccurrence"}, default="pifa"
        What describes a label.
    row_norm : bool, default=True
        Whether PIFA divides the rows of Y by their length, as libpecos does, so that rows with many
        labels count less. Parabel and omikuji do not.
    label_text : matrix of shape (n_labels, n_text_features) or sequence of str, default=None
        One text for each label, or sparse or dense text features. Texts are turned into tf-idf
        vectors by scikit-learn's `TfidfVectorizer` with its defaults. Required by methods with
        ``"text"``, and refused by the others.
    n_jobs : int or None, default=None
        Number of threads; the result does not depend on it.

    Returns
    -------
    csr_array of shape (n_labels, n_label_features), float32
        Canonical CSR. Rows have length one, or are empty (all zeros) for a label without positives
        and text. In joint representations a label that lacks one part has the other in full length.

    Raises
    ------
    ValueError
        If ``method`` is unknown, ``label_text`` is missing, superfluous or of another length, X and
        Y differ in their number of rows, Y holds values outside [0, 1], or a feature is NaN or
        infinite.
    TypeError
        If a label text is not a str.

    Notes
    -----
    PIFA costs O(sum over the positives of the features of their row) time, and the memory of the
    result.

    References
    ----------
    J. Zhang et al. Fast multi-resolution transformer fine-tuning for extreme multi-label text
    classification. NeurIPS 2021, section 3. https://arxiv.org/abs/2110.00685
    S. Khandagale, H. Xiao, R. Babbar. Bonsai: Diverse and shallow trees for extreme multi-label
    classification. Machine Learning, 2020. https://doi.org/10.1007/s10994-020-05888-2

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.label_space import label_features
    >>> X = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> Y = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> label_features(X, Y).toarray().round(2)
    array([[0.71, 0.71],
           [0.6 , 0.8 ],
           [0.  , 0.  ]], dtype=float32)
    >>> label_features(X, Y, "text", label_text=["red wine", "white wine", ""]).shape
    (3, 3)
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {_METHODS}, got {method!r}.")
    n_jobs = effective_n_jobs(n_jobs)
    Y = canonical_targets(Y)
    parts = method.split("+")
    if ("text" in parts) != (label_text is not None):
        raise ValueError(
            f"method={method!r} "
            + ("needs label_text." if "text" in parts else "takes no label_text.")
        )
    features = []
    if "pifa" in parts:
        features.append(_pifa(_as_csr(X, "X"), Y, row_norm, n_jobs))
    if "text" in parts:
        features.append(_text(label_text, Y.shape[1]))
    if "cooccurrence" in parts:
        features.append(_pifa(canonical_csr(Y), Y, False, n_jobs))
    if len(features) == 1:
        return features[0]
    return unit_rows(canonical_csr(sp.hstack(features, format="csr")))


def _as_csr(values, name):
    if not sp.issparse(values):
        values = np.asarray(values)
        if values.ndim != 2 or values.dtype.kind not in "biuf":
            raise ValueError(
                f"{name} must be a matrix of numbers, got the shape {values.shape} and the dtype "
                f"{values.dtype}."
            )
        values = sp.csr_array(values)
    return canonical_csr(values, name=name)


def _pifa(X, Y, row_norm, n_jobs):
    if X.shape[0] != Y.shape[0]:
        raise ValueError(f"X has {X.shape[0]} rows, but Y has {Y.shape[0]}.")
    if Y.dtype != np.uint8:
        return _soft_pifa(X, Y, row_norm)
    n_labels_of = np.diff(Y.indptr)
    row_weight = (
        1.0 / np.sqrt(np.maximum(n_labels_of, 1)) if row_norm else np.ones(len(n_labels_of))
    )
    by_label = Y.tocsc()
    return unit_rows(
        sum_row_groups(X, by_label.indices, by_label.indptr, row_weight, n_jobs=n_jobs)
    )


def _soft_pifa(X, Y, row_norm):
    weights = sp.csr_array((Y.data, Y.indices, Y.indptr), shape=Y.shape)
    if row_norm:
        n_labels_of = weights.sum(axis=1)
        scale = 1 / np.sqrt(np.where(n_labels_of > 0, n_labels_of, 1))
        weights = weights.multiply(scale[:, None])
    return unit_rows(canonical_csr(sp.csr_array(weights).T.tocsr() @ X))


def _text(label_text, n_labels):
    is_matrix = sp.issparse(label_text) or getattr(label_text, "ndim", 0) == 2
    if not is_matrix:
        label_text = list(label_text)
        _check_texts(label_text)
        from sklearn.feature_extraction.text import TfidfVectorizer

        try:
            label_text = TfidfVectorizer(dtype=np.float32).fit_transform(label_text)
        except ValueError as error:
            raise ValueError(f"label_text holds no words to describe labels by: {error}") from error
    label_text = _as_csr(label_text, "label_text")
    if label_text.shape[0] != n_labels:
        raise ValueError(
            f"label_text describes {label_text.shape[0]} labels, but Y has {n_labels} columns."
        )
    return unit_rows(label_text)


def _check_texts(texts):
    for label, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"The text of label {label} is {text!r}, not a str.")
