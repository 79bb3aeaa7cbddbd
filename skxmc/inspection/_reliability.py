"""A reliability diagram: how often the answers of a model are right, by their probability."""

import numpy as np

from skxmc.metrics._calibration import (
    answer_scores,
    calibration_error,
    check_bins,
    check_bootstrap,
    pool_answers,
    reliability_curve,
)
from skxmc.metrics._inputs import check_ks, rank


class ReliabilityDisplay:
    """A reliability diagram of the k best answers of each row, above a histogram of their scores.

    On the diagonal, answers given with probability p are right in a fraction p of the cases; below
    it the model is over-confident, above it under-confident. Use `from_estimator` or
    `from_predictions` to make one.

    Parameters
    ----------
    curve : ReliabilityCurve
        What `skxmc.metrics.reliability_curve_at_k` returned.
    score_counts : array-like of shape (n_histogram_bins,), default=None
        Numbers of answers in bins of equal width between 0 and 1. None takes the counts of `curve`,
        whose bins must then be of equal width.
    k : int, default=None
        Number of answers per row, for the texts.
    ece : float, default=None
        Expected calibration error, for the legend. `from_estimator` and `from_predictions` take
        that of bins of equal width, whatever the bins of the curve.
    name : str, default=None
        Name of the model, for the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the diagram.
    histogram_ax_ : matplotlib Axes
        Axes of the histogram.
    figure_ : matplotlib Figure
        The figure that holds both.
    line_ : matplotlib Line2D
        The reliability curve, with a point for each bin that holds answers.
    band_ : matplotlib PolyCollection, or None
        The bootstrap interval, if `curve` has one.
    histogram_ : matplotlib StepPatch
        The histogram: fraction of the answers in each bin.

    See Also
    --------
    skxmc.metrics.reliability_curve_at_k : The numbers.
    skxmc.metrics.ece_at_k : The calibration error.

    Notes
    -----
    The attributes are there after `plot`. matplotlib is needed for `plot` only.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.inspection import ReliabilityDisplay
    >>> rng = np.random.default_rng(0)
    >>> probabilities = rng.random((500, 10))
    >>> y_true = rng.random((500, 10)) < probabilities
    >>> ReliabilityDisplay.from_predictions(y_true, probabilities, k=3)  # doctest: +SKIP
    """

    def __init__(self, curve, *, score_counts=None, k=None, ece=None, name=None):
        self.curve = curve
        self.score_counts = score_counts
        self.k = k
        self.ece = ece
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        Y,
        k=5,
        *,
        n_bins=15,
        strategy="uniform",
        n_bootstrap=200,
        confidence_level=0.95,
        random_state=None,
        exclude=None,
        name=None,
        ax=None,
        **line_options,
    ):
        """Draw the reliability diagram of a fitted estimator.

        Parameters
        ----------
        estimator : object with `predict_proba`
            A fitted multi-label classifier, a pipeline or a search.
        X : array-like, sparse matrix, or whatever the estimator takes, of n_samples rows
            Rows that the estimator was not fitted on.
        Y : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
            Their labels.
        k : int, default=5
            Number of answers per row. A row with fewer answers adds those that it has.
        n_bins : int, default=15
            Number of bins of the curve and of the histogram.
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of the curve of equal width, or with equally many answers. Those of the histogram
            have equal width.
        n_bootstrap : int, default=200
            Number of bootstrap samples of the rows for the band; 0 draws none.
        confidence_level : float, default=0.95
            Fraction of the bootstrap hit rates inside the band.
        random_state : int, RandomState instance or None, default=None
            Draws the bootstrap samples.
        exclude : sparse matrix of shape (n_samples, n_labels), default=None
            Pairs that are no valid answers; they count neither as answers nor as labels.
        name : str, default=None
            Name in the legend; None takes that of the estimator's class.
        ax : matplotlib Axes or pair of them, default=None
            Where to draw; see `plot`.
        **line_options
            Options of matplotlib's `plot` for the curve, such as `color`.

        Returns
        -------
        display : ReliabilityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError, TypeError
            As `skxmc.metrics.reliability_curve_at_k`.
        """
        _import_pyplot()  # before the work
        scores = estimator.predict_proba(X)
        if isinstance(scores, list):
            scores = _probability_of_one(scores, estimator.classes_)
        return cls.from_predictions(
            *(Y, scores, k),
            n_bins=n_bins,
            strategy=strategy,
            n_bootstrap=n_bootstrap,
            confidence_level=confidence_level,
            random_state=random_state,
            exclude=exclude,
            name=type(estimator).__name__ if name is None else name,
            ax=ax,
            **line_options,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true,
        scores,
        k=5,
        *,
        n_bins=15,
        strategy="uniform",
        n_bootstrap=200,
        confidence_level=0.95,
        random_state=None,
        exclude=None,
        name=None,
        ax=None,
        **line_options,
    ):
        """Draw the reliability diagram of predicted probabilities.

        Parameters
        ----------
        y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
            The labels of each row.
        scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
            Probabilities between 0 and 1: the result of `predict_proba`; or ranked answers whose
            scores are probabilities.
        k : int, default=5
            Number of answers per row. A row with fewer answers adds those that it has.
        n_bins : int, default=15
            Number of bins of the curve and of the histogram.
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of the curve of equal width, or with equally many answers. Those of the histogram
            have equal width.
        n_bootstrap : int, default=200
            Number of bootstrap samples of the rows for the band; 0 draws none.
        confidence_level : float, default=0.95
            Fraction of the bootstrap hit rates inside the band.
        random_state : int, RandomState instance or None, default=None
            Draws the bootstrap samples.
        exclude : sparse matrix of shape (n_samples, n_labels), default=None
            Pairs that are no valid answers; they count neither as answers nor as labels.
        name : str, default=None
            Name in the legend.
        ax : matplotlib Axes or pair of them, default=None
            Where to draw; see `plot`.
        **line_options
            Options of matplotlib's `plot` for the curve, such as `color`.

        Returns
        -------
        display : ReliabilityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError, TypeError
            As `skxmc.metrics.reliability_curve_at_k`.
        """
        check_bins(n_bins, strategy)
        check_bootstrap(n_bootstrap, confidence_level)
        if np.ndim(k) != 0:
            raise TypeError(
                f"A diagram shows one number of answers: k must be one integer, not {k!r}."
            )
        k = check_ks(k)[0][0]
        _import_pyplot()  # before the work
        ranking = rank(y_true, scores, k, exclude)
        answers = pool_answers(ranking, answer_scores(ranking, scores), k)
        curve = reliability_curve(
            answers, n_bins, strategy, n_bootstrap, confidence_level, random_state
        )
        display = cls(
            curve,
            score_counts=np.histogram(answers.score, n_bins, (0.0, 1.0))[0],
            k=k,
            ece=calibration_error(answers, n_bins).total,
            name=name,
        )
        return display.plot(ax=ax, **line_options)

    def plot(self, ax=None, *, name=None, ref_line=True, **line_options):
        """Draw the diagram.

        Parameters
        ----------
        ax : matplotlib Axes or pair of them, default=None
            Where to draw. None makes a new figure. One Axes is divided: the histogram takes a part
            of it below the diagram. A pair is used as (diagram, histogram): to draw several models
            in one diagram, pass ``(display.ax_, display.histogram_ax_)`` of the first to the next.
        name : str, default=None
            Name in the legend, in place of the one given at construction.
        ref_line : bool, default=True
            Draw the diagonal, unless there is one already.
        **line_options
            Options of matplotlib's `plot` for the curve, such as `color`.

        Returns
        -------
        display : ReliabilityDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `ax` is neither one nor two Axes, or the histogram is unknown: no `score_counts`, and
            the bins of the curve are not of equal width.
        """
        counts = self._histogram_counts()
        self.ax_, self.histogram_ax_ = _axes(ax)
        self.figure_ = self.ax_.figure
        if ref_line and not any(line.get_gid() == _DIAGONAL for line in self.ax_.lines):
            self.ax_.plot(
                [0, 1],
                [0, 1],
                color="0.6",
                linestyle=":",
                label="perfectly calibrated",
                gid=_DIAGONAL,
            )

        curve = self.curve
        shown = curve.count > 0
        options = {"marker": "o", "markersize": 4, "label": self._legend(name)} | line_options
        (self.line_,) = self.ax_.plot(curve.mean_score[shown], curve.hit_rate[shown], **options)
        color = self.line_.get_color()
        self.band_ = None
        if curve.low is not None:
            drawn = shown & ~np.isnan(curve.low)
            self.band_ = self.ax_.fill_between(
                *(curve.mean_score[drawn], curve.low[drawn], curve.high[drawn]),
                color=color,
                alpha=0.2,
                linewidth=0,
            )
        self.histogram_ = self.histogram_ax_.stairs(
            counts / max(counts.sum(), 1),
            np.linspace(0, 1, len(counts) + 1),
            color=color,
        )
        self._label_axes()
        return self

    def _legend(self, name):
        name = self.name if name is None else name
        if self.ece is None:
            return name
        at_k = "" if self.k is None else f"@{self.k}"
        error = f"ECE{at_k} = {self.ece:.3f}"
        return error if name is None else f"{name} ({error})"

    def _histogram_counts(self):
        if self.score_counts is not None:
            return np.asarray(self.score_counts)
        edges = self.curve.edges
        if not np.allclose(edges, np.linspace(0, 1, len(edges))):
            raise ValueError(
                "The bins of the curve are not of equal width between 0 and 1: pass score_counts, "
                "the numbers of answers in such bins."
            )
        return self.curve.count

    def _label_axes(self):
        answers = {None: "an answer", 1: "the best answer"}.get(
            self.k, f"each of the {self.k} best answers"
        )
        margin = 0.02  # shows the whole markers at 0 and 1
        limits = (-margin, 1 + margin)
        self.ax_.set(xlim=limits, ylim=limits, ylabel="Fraction right")
        self.ax_.tick_params(labelbottom=False)
        self.histogram_ax_.set(xlim=limits, xlabel=f"Probability of {answers}", ylabel="Share")
        if self.ax_.get_legend_handles_labels()[0]:
            self.ax_.legend(loc="best", fontsize="small")


_DIAGONAL = "skxmc-diagonal"


def _axes(ax):
    """Return the axes of the diagram and of the histogram."""
    plt = _import_pyplot()
    if ax is None:
        _, axes = plt.subplots(
            *(2, 1), sharex=True, height_ratios=[4, 1], figsize=(5, 6), layout="constrained"
        )
        return tuple(axes)
    if np.ndim(ax) == 0:
        from mpl_toolkits.axes_grid1 import make_axes_locatable

        return ax, make_axes_locatable(ax).append_axes("bottom", "20%", pad=0.1, sharex=ax)
    if len(ax) != 2:
        raise ValueError(f"ax must be one Axes or a pair (diagram, histogram), got {len(ax)}.")
    return tuple(ax)


def _import_pyplot():
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "ReliabilityDisplay needs matplotlib: pip install 'skxmc[plot]', or use "
            "skxmc.metrics.reliability_curve_at_k for the numbers."
        ) from error
    return plt


def _probability_of_one(probabilities, classes):
    """Matrix of the probabilities of 1, of scikit-learn's list with one array for each label."""
    columns = []
    for of_label, values in zip(probabilities, classes, strict=True):
        ones = np.flatnonzero(np.asarray(values) == 1)  # none if training had only zeros
        columns.append(of_label[:, ones[0]] if len(ones) else np.zeros(len(of_label)))
    return np.column_stack(columns)
