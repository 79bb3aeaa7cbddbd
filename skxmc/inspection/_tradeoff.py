"""What a macro metric costs in precision@k: the value of both over their mixtures."""

import numpy as np

from skxmc._meta import base_proba
from skxmc.decision import MacroAtKPredictor
from skxmc.decision._rules import JOINT_METHODS, decide_together
from skxmc.decision._utilities import make_objective, metric_term
from skxmc.ops.csr import canonical_csr, canonical_indicator
from skxmc.ops.macro_at_k import Objective, affine_topk, objective_value

_TITLES = {
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "macro_fbeta": "macro F-beta",
    "macro_jaccard": "macro Jaccard",
    "macro_balanced_accuracy": "macro balanced accuracy",
    "macro_gmean": "macro G-mean",
    "macro_hmean": "macro H-mean",
    "coverage": "coverage",
    "precision": "precision",
    "psp": "PSP (not normalised)",
}
_LABELS = {"mixture": "optimised mixture", "power": "power-law weights", "log": "log weights"}


class TradeoffDisplay:
    r"""Precision@k against a macro metric, over the share :math:`\alpha` of the latter.

    As figure 4.2 of [1]_: every point is a decision about the same rows, valued on their true
    labels. The curve of `skxmc.decision.MacroAtKPredictor`'s mixtures is compared with two cheap
    weightings of the probabilities by the label frequency :math:`\pi_j`, of which each row gets the
    k largest :math:`w_j \eta_{ij}`:

    * power law, :math:`w_j = \pi_j^{-\alpha}`;
    * logarithm, :math:`w_j = (1 - \alpha) + \alpha \log(1 / \pi_j)`.

    At :math:`\alpha = 0` all curves start at the k most probable labels.

    It is recommended to use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    alphas : ndarray of shape (n_alphas,)
        Shares of the macro metric.
    curves : dict of str to (precision, value)
        "mixture", and "power" and "log" where they were asked for: precision@k and the metric,
        fractions, ndarrays of shape (n_alphas,).
    metric : str
        Name of the metric, for the axis.
    k : int
        Labels answered in each row.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes of the last `plot`.
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D
        By the names of ``curves``.

    See Also
    --------
    skxmc.decision.MacroAtKPredictor : The estimator that makes these decisions.

    References
    ----------
    .. [1] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, section 4.5.

    Examples
    --------
    >>> from skxmc.datasets import make_xmc_classification
    >>> from skxmc.inspection._tradeoff import TradeoffDisplay
    >>> from skxmc.linear import DismecClassifier
    >>> data = make_xmc_classification(400, 60, 30, random_state=0)
    >>> model = DismecClassifier().fit(data.X[:300], data.Y[:300])
    >>> display = TradeoffDisplay.from_estimator(
    ...     model,
    ...     data.X[300:],
    ...     data.Y[300:],
    ...     metric="macro_recall",
    ...     alphas=[0, 0.5, 1],
    ...     k=3,
    ...     plot=False,
    ... )
    >>> precision, recall = display.curves["mixture"]
    >>> bool(precision[0] >= precision[-1]), bool(recall[0] <= recall[-1])
    (True, True)
    """

    def __init__(self, *, alphas, curves, metric, k):
        self.alphas = alphas
        self.curves = curves
        self.metric = metric
        self.k = k

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        Y,
        *,
        metric=None,
        alphas=11,
        k=None,
        method=None,
        weightings=("power", "log"),
        label_frequency=None,
        top_k=None,
        random_state=0,
        plot=True,
        ax=None,
        **plot_params,
    ):
        """Decide about the rows at each share, and draw what comes of it.

        Parameters
        ----------
        estimator : fitted classifier
            A `MacroAtKPredictor`, whose ``metric``, ``k``, ``method``, ``top_k`` and label
            frequencies are the defaults here, or any classifier that it could wrap. The
            probabilities are computed once.
        X : array-like, sparse matrix or sequence of str, of length n_samples
            Rows, as the estimator takes them.
        Y : 0/1 matrix of shape (n_samples, n_labels), sparse or dense
            Their true labels.
        metric, alphas, k, method, weightings, label_frequency : as in `from_predictions`
            Except that None takes what a `MacroAtKPredictor` has, and the default of
            `from_predictions` otherwise.
        top_k : int or None, default=None
            Candidates in a row; None takes those of a `MacroAtKPredictor`, or 100.
        random_state, plot, ax : as in `from_predictions`
            Seed of ties, whether to draw, and where.
        **plot_params
            As for `from_predictions`.

        Returns
        -------
        TradeoffDisplay
        """
        if isinstance(estimator, MacroAtKPredictor):
            metric = estimator.metric if metric is None else metric
            k = estimator.k if k is None else k
            top_k = estimator.top_k if top_k is None else top_k
            if method is None and estimator.method in JOINT_METHODS:
                method = estimator.method
            if label_frequency is None:
                label_frequency = estimator.label_frequency_
            beta, propensity = estimator.beta, estimator._propensity
            estimator = estimator.estimator_
        else:
            beta, propensity = 1.0, None
        k = 5 if k is None else k
        eta = base_proba(estimator, X, max(100 if top_k is None else top_k, k))
        return cls._from_marginals(
            Y,
            eta,
            metric="macro_f1" if metric is None else metric,
            alphas=alphas,
            k=k,
            method="bca" if method is None else method,
            weightings=weightings,
            label_frequency=label_frequency,
            beta=beta,
            propensity=propensity,
            random_state=random_state,
            plot=plot,
            ax=ax,
            **plot_params,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true,
        y_proba,
        *,
        metric="macro_f1",
        alphas=11,
        k=5,
        method="bca",
        weightings=("power", "log"),
        label_frequency=None,
        beta=1.0,
        propensity=None,
        random_state=0,
        plot=True,
        ax=None,
        **plot_params,
    ):
        """Decide by given probabilities at each share, and draw what comes of it.

        Parameters
        ----------
        y_true : 0/1 matrix of shape (n_samples, n_labels), sparse or dense
            True labels.
        y_proba : sparse array or matrix, or ndarray, of shape (n_samples, n_labels)
            Marginal probabilities; what a sparse one does not hold is 0.
        metric : str or callable, default="macro_f1"
            As for `MacroAtKPredictor`.
        alphas : int or array-like of shape (n_alphas,), default=11
            Shares of the metric, in [0, 1]; an int is the number of equidistant ones.
        k : int, default=5
            Labels answered in each row.
        method : {"bca", "greedy", "online"}, default="bca"
            How the mixture is optimised.
        weightings : sequence of {"power", "log"}, default=("power", "log")
            Curves to compare with.
        label_frequency : array-like of shape (n_labels,) or None, default=None
            Share of the training rows with each label, for the weightings; None takes the mean
            probability on these rows.
        beta : float, default=1.0
            Of "macro_fbeta".
        propensity : array-like of shape (n_labels,) or None, default=None
            For "psp".
        random_state : int, default=0
            Seed of the optimisation.
        plot : bool, default=True
            Whether to draw at once; else only the curves are computed.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.
        **plot_params
            Of all lines, for ``Axes.plot``.

        Returns
        -------
        TradeoffDisplay

        Raises
        ------
        ValueError
            For shapes that differ, shares outside [0, 1], or unknown names.
        ImportError
            If it is to draw and matplotlib is not installed.
        """
        return cls._from_marginals(
            y_true,
            y_proba,
            metric=metric,
            alphas=alphas,
            k=k,
            method=method,
            weightings=weightings,
            label_frequency=label_frequency,
            beta=beta,
            propensity=propensity,
            random_state=random_state,
            plot=plot,
            ax=ax,
            **plot_params,
        )

    @classmethod
    def _from_marginals(
        cls,
        y_true,
        y_proba,
        *,
        metric,
        alphas,
        k,
        method,
        weightings,
        label_frequency,
        beta,
        propensity,
        random_state,
        plot,
        ax,
        **plot_params,
    ):
        if plot:
            _import_pyplot()  # refuse before the work
        y_true = canonical_indicator(y_true, name="y_true")
        eta = canonical_csr(y_proba, np.float32, name="y_proba")
        if eta.shape != y_true.shape:
            raise ValueError(
                f"y_proba must have the shape of y_true, {y_true.shape}, got {eta.shape}."
            )
        if method not in JOINT_METHODS:
            raise ValueError(f"method must be one of {JOINT_METHODS}, got {method!r}.")
        unknown = set(weightings) - {"power", "log"}
        if unknown:
            raise ValueError(f"weightings are 'power' and 'log', got {sorted(unknown)}.")
        alphas = _check_alphas(alphas)
        n_labels = y_true.shape[1]
        options = {"k": k, "n_labels": n_labels, "beta": beta, "propensity": propensity}
        value_of = Objective((metric_term(metric, share=1.0, **options),))
        precision_of = Objective((metric_term("precision", share=1.0, k=k, n_labels=n_labels),))
        truth = canonical_csr(y_true, np.float32)

        def evaluate(decisions):
            values = [
                (
                    objective_value((truth, decision), precision_of),
                    objective_value((truth, decision), value_of),
                )
                for decision in decisions
            ]
            return tuple(np.array(values, dtype=np.float64).T)

        decisions = (
            decide_together(
                *(eta, k, make_objective(metric, alpha=alpha, **options), method),
                seed=random_state,
            )
            for alpha in alphas
        )
        curves = {"mixture": evaluate(decisions)}
        if weightings:
            frequency = _check_frequency(label_frequency, eta)
            for name in weightings:
                decisions = (
                    affine_topk(eta, k, _weights(name, frequency, alpha), np.zeros(n_labels))
                    for alpha in alphas
                )
                curves[name] = evaluate(decisions)
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", "utility")
        display = cls(alphas=alphas, curves=curves, metric=name, k=int(k))
        return display.plot(ax=ax, **plot_params) if plot else display

    def plot(self, ax=None, *, annotate=True, **plot_params):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.
        annotate : bool, default=True
            Whether to write some of the shares beside the curve of the mixture.
        **plot_params
            Of all lines, for ``Axes.plot``.

        Returns
        -------
        TradeoffDisplay
            The display itself.

        Raises
        ------
        ImportError
            If ``ax`` is None and matplotlib is not installed.
        """
        if ax is None:
            _, ax = _import_pyplot().subplots()
        self.lines_ = {}
        for name, marker in (("mixture", "o"), ("power", "s"), ("log", "^")):
            if name in self.curves:
                precision, value = self.curves[name]
                style = {"marker": marker, "label": _LABELS[name], **plot_params}
                (self.lines_[name],) = ax.plot(value, precision, **style)
        if annotate:
            precision, value = self.curves["mixture"]
            shown = np.unique(np.linspace(0, len(self.alphas) - 1, 5).round().astype(int))
            for i in shown:
                ax.annotate(
                    *(f"{self.alphas[i]:.3g}", (value[i], precision[i])),
                    xytext=(4, 4),
                    textcoords="offset points",
                    fontsize=8,
                )
        ax.set_xlabel(f"{_TITLES.get(self.metric, self.metric)} @{self.k}")
        ax.set_ylabel(f"precision @{self.k}")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _import_pyplot():
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "TradeoffDisplay needs matplotlib to draw: pip install 'skxmc[plot]', or pass "
            "plot=False for the curves alone."
        ) from error
    return plt


def _check_alphas(alphas):
    alphas = np.linspace(0, 1, alphas) if np.ndim(alphas) == 0 else np.asarray(alphas, float)
    if alphas.ndim != 1 or not len(alphas) or not ((alphas >= 0) & (alphas <= 1)).all():
        raise ValueError(
            f"alphas must be a positive number of shares, or shares in [0, 1]: {alphas}"
        )
    return alphas


def _check_frequency(label_frequency, eta):
    """Label frequencies in (0, 1]; a label that was never seen counts as seen once in a million."""
    n_rows, n_labels = eta.shape
    if label_frequency is None:
        frequency = np.bincount(eta.indices, eta.data, minlength=n_labels) / n_rows
    else:
        frequency = np.asarray(label_frequency, dtype=np.float64)
        if frequency.shape != (n_labels,) or not ((frequency >= 0) & (frequency <= 1)).all():
            raise ValueError(
                f"label_frequency must be {n_labels} shares of rows in [0, 1], one for each label."
            )
    return np.maximum(frequency, 1e-6)


def _weights(name, frequency, alpha):
    if name == "power":
        return frequency**-alpha
    return (1 - alpha) - alpha * np.log(frequency)
