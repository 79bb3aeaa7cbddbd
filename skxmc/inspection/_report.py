"""A report about a model: figures, plots and examples, as one page."""

import math
from typing import NamedTuple

import numpy as np

import skxmc
from skxmc.inspection import _report_numbers as numbers
from skxmc.label_space import inverse_propensity
from skxmc.label_space._propensity_check import check_propensity, warn_of
from skxmc.metrics._inputs import check_ks, rank
from skxmc.metrics._report import format_evaluation
from skxmc.ops.topk import TopK, topk_to_csr

_MAX_TRADEOFF_ROWS = 4000
_CANDIDATES = 50
_TEXT_LENGTH = 600


class Example(NamedTuple):
    """A row with its answers: ``(name, score, right)`` each, and the labels that were missed."""

    row: int
    text: str | None
    answers: list
    missed: list
    n_missed: int


class XMCReport:
    """What can be said of the answers of a model: a page, a table, or numbers.

    It holds the ranking metrics with bootstrap intervals; the performance by the frequency of the
    labels (figure 1.3 of [1]_); calibration and a reliability diagram; what a macro metric costs in
    precision (figure 4.2 of [2]_); the worst labels; and examples right and wrong. Use
    `from_estimator` or `from_predictions` to make one.

    Parameters
    ----------
    **parts
        What the two constructors computed.

    Attributes
    ----------
    metrics : dict of str to Estimate
        ``value``, ``low`` and ``high`` by the names of `skxmc.metrics.evaluate_topk`, fractions.
    calibration : dict of str to Estimate, or None
        "ECE@k" and "Brier@k"; None if the scores are no probabilities.
    bins : list of Bin
        Labels by training frequency, about equally many positives in each bin; their
        ``contribution`` sums up to P@k.
    worst : list of WorstLabel
        Labels with the lowest F1@k.
    right, wrong : list of Example
        Rows with all labels found, and with none.

    See Also
    --------
    skxmc.metrics.evaluate_topk : The metrics alone.
    ReliabilityDisplay, TradeoffDisplay : The plots alone.

    Notes
    -----
    The intervals are those of the Bayesian bootstrap over rows [3]_: they say how the figures would
    differ with other rows of the same kind. They know nothing of the randomness of the training,
    and those of macro metrics are too narrow where labels have only a row or two.

    Cost: ``n_bootstrap`` passes over the rows and the pairs of row and label; for 10,000 rows and
    1,000 samples some seconds. Memory: about 200 bytes a row, beside the answers.

    References
    ----------
    .. [1] S. Kharbanda, thesis, University of California, Los Angeles, 2024.
    .. [2] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, section 4.5.
    .. [3] D. Rubin, "The Bayesian bootstrap", Annals of Statistics 9, 1981.

    Examples
    --------
    >>> from skxmc.datasets import make_xmc_classification
    >>> from skxmc.inspection import XMCReport
    >>> from skxmc.linear import DismecClassifier
    >>> data = make_xmc_classification(400, 60, 30, random_state=0)
    >>> model = DismecClassifier().fit(data.X[:300], data.Y[:300])
    >>> report = XMCReport.from_estimator(
    ...     model, data.X[300:], data.Y[300:], Y_train=data.Y[:300], n_bootstrap=50
    ... )
    >>> low, high = report.metrics["P@1"].low, report.metrics["P@1"].high
    >>> low <= report.metrics["P@1"].value <= high
    True
    >>> page = report.to_html()  # doctest: +SKIP
    """

    def __init__(self, **parts):
        self.__dict__.update(parts)

    # ------------------------------------------------------------------ make

    @classmethod
    def from_estimator(
        cls, estimator, X, Y, *, ks=(1, 3, 5), Y_train=None, texts=None, model_name=None, **options
    ):
        """Ask a fitted model and compare its answers with known labels.

        Parameters
        ----------
        estimator : fitted classifier
            With ``predict_topk``, in a pipeline or not, or a multi-label classifier of
            scikit-learn.
        X : array-like, sparse matrix or sequence of str, of length n_samples
            Rows that the model was not fitted on.
        Y : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
            Their labels.
        ks : sequence of int, default=(1, 3, 5)
            Numbers of answers.
        Y_train : sparse or dense 0/1 matrix of shape (n_train, n_labels) or None, default=None
            Labels of the training rows, for propensities and frequency bins; in place of
            ``label_counts`` and ``n_train``.
        texts : sequence of str or None, default=None
            Shown in the examples. None takes ``X`` if it holds texts.
        model_name : str or None, default=None
            None takes the class.
        **options
            As for `from_predictions`.

        Returns
        -------
        XMCReport
        """
        from skxmc._meta import base_proba, base_topk

        ks, _ = check_ks(ks)
        k = max(ks)
        if Y_train is not None:
            from skxmc.ops.csr import canonical_indicator

            Y_train = canonical_indicator(Y_train, name="Y_train")
            options["label_counts"] = np.bincount(Y_train.indices, minlength=Y_train.shape[1])
            options["n_train"] = Y_train.shape[0]
        answers = base_topk(estimator, X, k)
        proba = base_proba(estimator, X, max(_CANDIDATES, k))
        answers = TopK(answers.labels, _scores_of(proba, answers.labels))
        if texts is None and isinstance(X, (list, tuple)) and X and isinstance(X[0], str):
            texts = X
        return cls.from_predictions(
            *(Y, answers),
            ks=ks,
            candidates=proba,
            texts=texts,
            model_name=type(estimator).__name__ if model_name is None else model_name,
            **options,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true,
        answers,
        *,
        ks=(1, 3, 5),
        candidates=None,
        label_counts=None,
        n_train=None,
        label_names=None,
        texts=None,
        n_bootstrap=1000,
        confidence_level=0.95,
        n_examples=5,
        n_worst=20,
        random_state=0,
        model_name=None,
        title=None,
    ):
        """Compare ranked answers with known labels.

        Parameters
        ----------
        y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
            The labels.
        answers : TopK
            At least ``max(ks)`` answers of each row. Scores between 0 and 1 are taken for
            probabilities; with others the report has no calibration.
        ks : sequence of int, default=(1, 3, 5)
            Numbers of answers; the bins, labels, plots and examples are @ the largest.
        candidates : sparse matrix of shape (n_rows, n_labels) or None, default=None
            Probabilities of more labels of the first ``n_rows`` rows, for the trade-off between
            precision and a macro metric. None takes the answers.
        label_counts : array-like of shape (n_labels,) or None, default=None
            Training rows of each label. None takes the counts of ``y_true`` for the frequency bins,
            and leaves out the propensity-scored metrics.
        n_train : int or None, default=None
            Training rows; needed for propensities.
        label_names : sequence of str of length n_labels or None, default=None
            None takes numbers.
        texts : sequence of str of length n_samples or None, default=None
            Shown in the examples. They may be anything: the page holds them as text.
        n_bootstrap : int, default=1000
            Samples for the intervals; 0: no intervals.
        confidence_level : float, default=0.95
            Of the intervals.
        n_examples : int, default=5
            Examples of each kind.
        n_worst : int, default=20
            Worst labels.
        random_state : int, RandomState instance or None, default=0
            Of the samples and of the choice of examples.
        model_name, title : str or None, default=None
            Shown on the page.

        Returns
        -------
        XMCReport

        Raises
        ------
        ValueError, TypeError
            If shapes or lengths do not fit, or ``answers`` are too few.

        Warns
        -----
        PropensityWarning
            As `skxmc.metrics.evaluate_topk`.
        """
        ks, _ = check_ks(ks)
        ks = sorted(set(ks))
        k = ks[-1]
        if not isinstance(answers, TopK):
            raise TypeError(f"answers must be a TopK, got {type(answers).__name__}.")
        if not 0 < confidence_level < 1:
            raise ValueError(f"confidence_level must be between 0 and 1, got {confidence_level}.")
        if isinstance(n_bootstrap, bool) or int(n_bootstrap) != n_bootstrap or n_bootstrap < 0:
            raise ValueError(f"n_bootstrap must be an integer of at least 0, got {n_bootstrap!r}.")
        ranking = rank(y_true, answers, k)
        n_rows, n_labels = ranking.y_true.shape
        _check_length(texts, n_rows, "texts", "row")
        _check_length(label_names, n_labels, "label_names", "label")
        inverse, counts = None, None
        if label_counts is not None:
            counts = np.asarray(label_counts)
            _check_length(counts, n_labels, "label_counts", "label")
            if n_train is not None:
                inverse = inverse_propensity(counts, n_train)
                problems = check_propensity(
                    ranking.y_true, inverse, ranking.labels, ks=ks, warn=False
                )
                warn_of(problems, stacklevel=2)
        rng = np.random.default_rng(_seed(random_state))
        metrics = numbers.estimate_metrics(
            *(ranking, ks, inverse),
            n_bootstrap=int(n_bootstrap),
            confidence_level=confidence_level,
            rng=rng,
        )
        of_test = np.bincount(ranking.y_true.indices, minlength=n_labels)
        right, wrong = numbers.choose_examples(ranking, answers.scores, k, n_examples, rng)
        report = cls(
            ks=ks,
            k=k,
            metrics=metrics,
            calibration=numbers.calibration_numbers(ranking, answers, ks),
            bins=numbers.frequency_bins(ranking, of_test if counts is None else counts, k),
            worst=numbers.worst_labels(ranking, counts, k, n_labels=n_worst),
            has_counts=counts is not None,
            n_rows=n_rows,
            n_labels=n_labels,
            n_train=n_train,
            n_seen=int(np.count_nonzero(of_test)),
            labels_per_row=float(ranking.n_true.mean()),
            n_bootstrap=int(n_bootstrap),
            confidence_level=confidence_level,
            label_names=label_names,
            model_name=model_name,
            title=title or model_name or "Evaluation",
            version=skxmc.__version__,
            _ranking=ranking,
            _answers=answers,
            _candidates=candidates,
            _counts=counts,
            _seed=_seed(random_state),
        )
        report.right = [report._example(i, texts) for i in right]
        report.wrong = [report._example(i, texts) for i in wrong]
        return report

    def _name(self, label):
        return str(label) if self.label_names is None else str(self.label_names[label])

    def _example(self, row, texts):
        ranking, k = self._ranking, self.k
        y = ranking.y_true
        true = y.indices[y.indptr[row] : y.indptr[row + 1]].tolist()
        given = ranking.labels[row, :k]
        answers = [
            (self._name(label), float(score), bool(hit))
            for label, score, hit in zip(given, self._answers.scores[row], ranking.hits[row])
            if label >= 0
        ]
        missed = [self._name(j) for j in true if j not in set(given.tolist())]
        text = None
        if texts is not None:
            text = str(texts[row])
            if len(text) > _TEXT_LENGTH:
                text = text[:_TEXT_LENGTH] + " …"
        return Example(row, text, answers, missed[:20], len(missed))

    # ------------------------------------------------------------------ show

    def to_dict(self):
        """Return the numbers as JSON values.

        Returns
        -------
        dict
            ``metrics`` and ``calibration`` by name with ``value``, ``low`` and ``high``; ``bins``,
            ``worst_labels``, and the circumstances.
        """
        calibration = self.calibration or {}
        return {
            "model": self.model_name,
            "n_rows": self.n_rows,
            "n_labels": self.n_labels,
            "labels_per_row": self.labels_per_row,
            "confidence_level": self.confidence_level,
            "n_bootstrap": self.n_bootstrap,
            "metrics": {name: value._asdict() for name, value in self.metrics.items()},
            "calibration": {name: value._asdict() for name, value in calibration.items()},
            "frequency_bins": [one._asdict() for one in self.bins],
            "worst_labels": [
                {
                    **one._asdict(),
                    "name": self._name(one.label),
                    "instead": [[self._name(j), n] for j, n in one.instead],
                }
                for one in self.worst
            ],
            "skxmc_version": self.version,
        }

    def to_text(self):
        """Return the metrics as a table in percent, without intervals.

        Returns
        -------
        str
            A line for each metric, a column for each k.
        """
        values = {name: one.value for name, one in self.metrics.items()}
        values.update({name: one.value for name, one in (self.calibration or {}).items()})
        return format_evaluation(values)

    def to_html(self, path=None):
        """Make the page.

        Parameters
        ----------
        path : str, path-like or None, default=None
            Where to write it.

        Returns
        -------
        str
            One self-contained page: it loads nothing, and holds no scripts. Texts and names of
            labels are escaped.

        Raises
        ------
        ImportError
            If jinja2 or matplotlib is not installed.
        """
        from skxmc.inspection._report_page import render

        page = render(self)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(page)
        return page

    def _tradeoff(self):
        """The trade-off display, or None without probabilities."""
        from skxmc.inspection._tradeoff import TradeoffDisplay

        if self.calibration is None:
            return None
        eta = self._candidates
        if eta is None:
            eta = topk_to_csr(self._answers, self.n_labels)
        n_rows = min(eta.shape[0], _MAX_TRADEOFF_ROWS)
        eta = eta[:n_rows]
        if eta.shape[1] != self.n_labels:
            raise ValueError(
                f"candidates must have {self.n_labels} columns, one for each label; got "
                f"{eta.shape[1]}."
            )
        frequency = None
        if self._counts is not None and self.n_train:
            frequency = np.minimum(self._counts / self.n_train, 1.0)
        return TradeoffDisplay.from_predictions(
            *(self._ranking.y_true[:n_rows], eta),
            metric="macro_f1",
            alphas=9,
            k=self.k,
            weightings=("power",),
            label_frequency=frequency,
            random_state=self._seed,
            plot=False,
        )


def _check_length(values, n, name, what):
    if values is not None and len(values) != n:
        raise ValueError(f"{name} must have one entry for each {what}, {n}; got {len(values)}.")


def _seed(random_state):
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return 0 if random_state is None else random_state


def _scores_of(proba, labels):
    """Values of a canonical CSR matrix at the labels of each row; 0 where there is none."""
    n_rows, width = proba.shape
    rows = np.repeat(np.arange(n_rows, dtype=np.int64), np.diff(proba.indptr))
    keys = rows * width + proba.indices
    wanted = np.arange(n_rows, dtype=np.int64)[:, None] * width + labels
    if not len(keys):
        return np.zeros(labels.shape, dtype=np.float32)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((keys[at] == wanted) & (labels >= 0), proba.data[at], np.float32(0))


def percent(value, digits=1):
    """A fraction in percent."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"
