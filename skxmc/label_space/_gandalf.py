"""Gandalf: the texts of the labels as further training rows."""

import numbers

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skxmc.label_space._cooccurrence import TARGETS, label_targets
from skxmc.label_space._text import LabelText
from skxmc.ops.csr import canonical_csr, canonical_indicator, check_finite

SAMPLING = ("random", "tail")


class GandalfAugmenter(BaseEstimator):
    r"""Add the text of each label as a training row, with soft targets from co-occurrence.

    Where labels are texts of the same kind as the rows (related products, related searches,
    headings), the text of a label is a row whose labels are known in part: the label itself, and
    with some probability those that it occurs with. A classifier that is trained on these rows too
    learns from label text without being changed, and is as fast at prediction as before (Kharbanda,
    thesis 2024, chapter 1; KDD 2024).

    Parameters
    ----------
    targets : {"random-walk", "cooccurrence", "glas", "one-hot"}, default="random-walk"
        What the targets are made of, see `skxmc.label_space.label_targets`. "one-hot" gives each
        text its own label alone; the targets are then hard, and every classifier takes them. The
        thesis has "cooccurrence", which is as good where rows have few labels; a row with hundreds
        makes all of them companions of each other there, and in a random walk hardly any.
    delta : float, default=0.05
        Targets below are left out (:math:`\delta` of eq. 1.6; 0.1 in the thesis).
    smoothing : float, default=1.0
        Pseudo-count s of "cooccurrence": the target is :math:`G_{ij} / (G_{jj} + s)`. 0 is eq. 1.6;
        1 counts the label's text itself as one more row, which has no other label. Without it, each
        companion of a label with one row has the target 1.
    fraction : float, default=1.0
        Share of the labels whose texts are added, in (0, 1].
    sampling : {"random", "tail"}, default="random"
        Which labels, for a ``fraction`` below 1: any, or the rarest. For "tail" the labels are cut,
        in order of their frequency, into ``n_bins`` bins with equal sums of positives; the bins
        join from the rarest on, and of the last one as many labels as are left, drawn at random
        (thesis, section 1.5).
    n_bins : int, default=5
        Bins of "tail".
    n_walks : int, default=400
        Steps of the random walk from each label.
    restart : float, default=0.8
        Probability with which the random walk returns to its label after a step.
    vectorizer : fitted transformer or None, default=None
        Turns texts into rows: anything with ``transform``, such as a fitted `TfidfVectorizer`. Fit
        it on the training texts and the label texts, or words that only label texts have are lost.
        None leaves texts as they are, for estimators that take texts.
    random_state : int, RandomState instance or None, default=None
        Of sampling and random walks.

    Attributes
    ----------
    label_indices_ : ndarray of shape (n_added,), int32
        The labels whose texts were added, ascending: row ``n_samples + r`` of the result is the
        text of label ``label_indices_[r]``.

    See Also
    --------
    skxmc.label_space.label_targets : The targets alone.
    skxmc.ops.glas : The regulariser that the "glas" targets stand for.

    Notes
    -----
    **Who takes soft targets.** `DismecClassifier` (on the processor) and `ParabelTree` train on
    them exactly: a target t costs :math:`t \ell(s) + (1 - t) \ell(-s)`, the mean of the loss over
    labels that are drawn with the probability t. Other estimators refuse values between 0 and 1
    with a ``ValueError``: use "one-hot" there.

    **What is added.** All labels that have a text, those without positives too, which so become
    answers that can be given. A label whose text is empty, or has no word that the vectoriser
    knows, adds no row. Equal texts of several labels are a row each.

    **Where it stands.** `fit_resample` is the method of imbalanced-learn's samplers. A scikit-learn
    ``Pipeline`` has no place for a step that changes the number of rows; augment before the
    classifier is fitted, with training rows only.

    Time and memory: those of `label_targets`, and the augmented data.

    References
    ----------
    S. Kharbanda. Compute efficient extreme multi-label classification. Thesis, UCLA, 2024: chapter
    1, Learning label-label correlations in extreme multi-label classification via label features.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from skxmc import DismecClassifier
    >>> from skxmc.label_space import GandalfAugmenter
    >>> texts = ["mario kart game", "mario party", "oat milk", "oat flakes"]
    >>> label_text = ["super mario", "race kart", "breakfast oats", "vegan milk"]
    >>> Y = sp.csr_array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]])
    >>> vectorizer = TfidfVectorizer().fit(texts + label_text)
    >>> augmenter = GandalfAugmenter("cooccurrence", vectorizer=vectorizer)
    >>> X, T = augmenter.fit_resample(texts, Y, label_text)
    >>> T[[4, 5]].toarray().round(2)  # the texts of the labels 0 and 1
    array([[1.  , 0.33, 0.  , 0.  ],
           [0.5 , 1.  , 0.  , 0.  ]], dtype=float32)
    >>> model = DismecClassifier().fit(X, T)
    >>> model.predict_topk(vectorizer.transform(["vegan breakfast"]), k=2).labels
    array([[2, 3]], dtype=int32)
    """

    _parameter_constraints = {
        "targets": [StrOptions(set(TARGETS))],
        "delta": [Interval(numbers.Real, 0, 1, closed="both")],
        "smoothing": [Interval(numbers.Real, 0, None, closed="left")],
        "fraction": [Interval(numbers.Real, 0, 1, closed="right")],
        "sampling": [StrOptions(set(SAMPLING))],
        "n_bins": [Interval(numbers.Integral, 1, None, closed="left")],
        "n_walks": [Interval(numbers.Integral, 1, None, closed="left")],
        "restart": [Interval(numbers.Real, 0, 1, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        targets="random-walk",
        *,
        delta=0.05,
        smoothing=1.0,
        fraction=1.0,
        sampling="random",
        n_bins=5,
        n_walks=400,
        restart=0.8,
        vectorizer=None,
        random_state=None,
    ):
        self.targets = targets
        self.delta = delta
        self.smoothing = smoothing
        self.fraction = fraction
        self.sampling = sampling
        self.n_bins = n_bins
        self.n_walks = n_walks
        self.restart = restart
        self.vectorizer = vectorizer
        self.random_state = random_state

    def fit_resample(self, X, Y, label_text):
        """Append the rows of the labels.

        Parameters
        ----------
        X : list of str, sparse matrix or array of shape (n_samples, n_features)
            Training rows. Texts need ``vectorizer``, or stay texts.
        Y : 0/1 matrix of shape (n_samples, n_labels)
            Their labels, sparse or dense.
        label_text : list of str, LabelText, sparse matrix or array of shape (n_labels, n_features)
            Texts of the labels, or rows made of them in the way that those of X were made. Texts
            with rows in X need ``vectorizer``.

        Returns
        -------
        X_augmented : list of str, or of the kind of X (CSR if sparse)
            The rows of X, then those of the labels in ``label_indices_``.
        Y_augmented : csr_array or csr_matrix of shape (n_samples + n_added, n_labels)
            Soft targets in float32; ``"one-hot"`` gives 0/1 in the dtype of ``Y``. A
            ``csr_matrix`` if ``Y`` was a sparse matrix.

        Raises
        ------
        ValueError
            For parameters out of range, other values than 0 and 1 in ``Y``, NaN or infinity in X or
            the label rows, shapes that do not fit, texts without a vectoriser beside rows, and if
            no label has a text that can be used.
        TypeError
            For a text that is not a str, and a ``vectorizer`` without ``transform``.
        """
        self._validate_params()
        is_matrix = sp.isspmatrix(Y)
        dtype = np.asarray(Y).dtype if not sp.issparse(Y) else Y.dtype
        Y = canonical_indicator(Y if sp.issparse(Y) else np.asarray(Y))
        if isinstance(label_text, LabelText):
            label_text = label_text.texts
        X, Z, filled = self._rows(X, label_text, Y.shape)
        random_state = check_random_state(self.random_state)
        chosen = self._choose(Y, random_state)
        chosen = chosen[filled[chosen]]
        if len(chosen) == 0:
            raise ValueError(
                "No label has a text that can be used: all texts are empty, or none of their words "
                "is known to the vectorizer. Fit it on the label texts too."
            )
        if self.targets == "one-hot":
            dtype = np.uint8 if dtype.kind == "O" else dtype
            added = label_targets(Y, "one-hot")[chosen].astype(dtype)
        else:
            dtype = np.float32
            added = label_targets(
                Y,
                self.targets,
                delta=self.delta,
                smoothing=self.smoothing,
                n_walks=self.n_walks,
                restart=self.restart,
                random_state=random_state,
            )[chosen]
        self.label_indices_ = chosen.astype(np.int32)
        targets = sp.vstack([Y.astype(dtype), added], format="csr")
        return _append(X, Z, chosen), sp.csr_matrix(targets) if is_matrix else targets

    def _rows(self, X, label_text, shape):
        """Rows of X and of the labels, of one kind, and which labels have something in theirs."""
        n_samples, n_labels = shape
        texts = _as_texts(X, "X", "row")
        label_texts = _as_texts(label_text, "label_text", "label")
        X = X if texts is None else texts
        if label_texts is not None and len(label_texts) != n_labels:
            raise ValueError(
                f"label_text has {len(label_texts)} texts, but Y has {n_labels} labels."
            )
        if texts is None:
            check_consistent_length(X, np.empty(n_samples))
        elif len(texts) != n_samples:
            raise ValueError(f"X has {len(texts)} texts, but Y has {n_samples} rows.")
        vectorizer = self.vectorizer
        if vectorizer is not None and not hasattr(vectorizer, "transform"):
            raise TypeError(
                f"vectorizer must be a fitted transformer, got {type(vectorizer).__name__}."
            )
        if vectorizer is None and (texts is None) != (label_texts is None):
            raise ValueError(
                "X and label_text are not of one kind, texts or rows of features: pass the fitted "
                "vectorizer that turns the texts into rows."
            )
        if vectorizer is None and texts is not None:
            filled = np.array([bool(text.strip()) for text in label_texts], dtype=bool)
            return texts, label_texts, filled
        if vectorizer is not None:
            check_is_fitted(vectorizer)
        X = vectorizer.transform(texts) if texts is not None else X
        Z = vectorizer.transform(label_texts) if label_texts is not None else label_text
        X, Z = _as_rows(X, "X"), _as_rows(Z, "label_text")
        if Z.shape[0] != n_labels:
            raise ValueError(f"label_text has {Z.shape[0]} rows, but Y has {n_labels} labels.")
        if X.shape[1] != Z.shape[1]:
            raise ValueError(
                f"The rows of X have {X.shape[1]} features, those of the labels {Z.shape[1]}: they "
                "must be made in the same way, by one vectorizer."
            )
        if sp.issparse(X) != sp.issparse(Z):
            Z = Z.toarray() if sp.issparse(Z) else canonical_csr(sp.csr_array(Z), X.dtype)
        filled = np.diff(Z.indptr) > 0 if sp.issparse(Z) else (Z != 0).any(axis=1)
        return X, Z, filled

    def _choose(self, Y, random_state):
        """The labels whose texts are taken, ascending."""
        n_labels = Y.shape[1]
        size = max(1, round(self.fraction * n_labels))
        if size == n_labels:
            return np.arange(n_labels)
        if self.sampling == "random":
            return np.sort(random_state.choice(n_labels, size, replace=False))
        chosen = []
        for members in frequency_bins(np.bincount(Y.indices, minlength=n_labels), self.n_bins):
            left = size - sum(map(len, chosen))
            if len(members) > left:
                members = random_state.choice(members, left, replace=False)
            chosen.append(members)
        return np.sort(np.concatenate(chosen))


def frequency_bins(counts, n_bins):
    """Cut the labels, rarest first, into bins with about equal sums of positives.

    Parameters
    ----------
    counts : int array of shape (n_labels,)
        Positives of each label.
    n_bins : int

    Returns
    -------
    list of int64 arrays
        The labels of each bin, by rising frequency; equal frequencies by number. Bins may be empty.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.label_space._gandalf import frequency_bins
    >>> frequency_bins(np.array([6, 1, 2, 3]), 2)
    [array([1, 2, 3]), array([0])]
    """
    order = np.argsort(counts, kind="stable")
    # the middle of each label's positives says to which bin it belongs
    middle = np.cumsum(counts[order]) - counts[order] / 2
    bin_of = np.minimum(middle * n_bins / max(counts.sum(), 1), n_bins - 1).astype(np.int64)
    return [order[bin_of == b] for b in range(n_bins)]


def _as_texts(values, name, what):
    """The list of texts, or None where ``values`` are rows of numbers."""
    if values is None:
        raise ValueError(
            f"{name} is None: the {what}s and the texts of the labels are both needed."
        )
    if isinstance(values, str | bytes):
        raise TypeError(f"{name} must be a list of texts, got a single {type(values).__name__}.")
    if sp.issparse(values) or (hasattr(values, "ndim") and values.ndim == 2):
        return None
    values = list(values)
    if values and all(np.ndim(value) == 1 and not isinstance(value, str) for value in values):
        return None  # nested lists of numbers
    for number, text in enumerate(values):
        if not isinstance(text, str):
            raise TypeError(f"The text of {what} {number} is {text!r}, not a str.")
    return values


def _as_rows(values, name):
    """Canonical CSR or a two-dimensional array of finite numbers."""
    if sp.issparse(values):
        dtype = values.dtype if values.dtype in (np.float32, np.float64) else np.float32
        rows = canonical_csr(values, dtype, name=name)
        if rows.data.all():
            return rows
        rows = sp.csr_array(rows, copy=True)
        rows.eliminate_zeros()
        return canonical_csr(rows, dtype)
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be a matrix of numbers or a list of texts, got the shape {values.shape} "
            f"and the dtype {values.dtype}."
        )
    check_finite(values, name=name)
    return values


def _append(X, Z, chosen):
    if isinstance(X, list):
        return X + [Z[label] for label in chosen]
    if sp.issparse(X):
        return sp.vstack([X, Z[chosen]], format="csr")
    return np.vstack([X, Z[chosen]])
