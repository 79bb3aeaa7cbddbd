"""Objectives by name: utilities averaged over labels, and their mixture with precision@k."""

from skxmc.label_space._propensity import check_propensities
from skxmc.ops.macro_at_k import Objective, Term, Utility

#: Name of a metric -> utility of one label; the metric is its mean over labels.
MACRO_UTILITIES = {
    "macro_precision": Utility.PRECISION,
    "macro_recall": Utility.RECALL,
    "macro_f1": Utility.FBETA,
    "macro_fbeta": Utility.FBETA,
    "macro_jaccard": Utility.JACCARD,
    "macro_balanced_accuracy": Utility.BALANCED_ACCURACY,
    "macro_gmean": Utility.GMEAN,
    "macro_hmean": Utility.HMEAN,
    "coverage": Utility.COVERAGE,
}
#: Metrics that are a mean over rows; both are linear in the true positives (thesis section 4.5).
INSTANCE_METRICS = ("precision", "psp")
METRICS = (*MACRO_UTILITIES, *INSTANCE_METRICS)


def metric_term(metric, *, share, k, n_labels, beta=1.0, propensity=None):
    r"""The metric as a term of an objective.

    Parameters
    ----------
    metric : str or callable
        One of ``METRICS``, or a function ``psi(tp, fp, fn, tn)`` whose mean over labels is meant.
    share : float
        Coefficient of the metric.
    k : int
        Labels answered in each row.
    n_labels : int
    beta : float, default=1.0
        Of "macro_fbeta".
    propensity : ndarray of shape (n_labels,) or None, default=None
        Probability that a relevant label is recorded; needed by "psp".

    Returns
    -------
    Term
        With rates in the place of counts: precision@k is
        :math:`\frac{1}{nk} \sum_{ij} \hat y_{ij} y_{ij} = \sum_j \mathrm{tp}_j / k`, and
        unnormalised PSP@k :math:`\sum_j \mathrm{tp}_j / (k p_j)`.

    Raises
    ------
    ValueError
        If the name is unknown, or "psp" has no propensities or such outside (0, 1].
    """
    if callable(metric):
        return Term(metric, share / n_labels)
    if metric == "precision":
        return Term(Utility.TP, share / k)
    if metric == "psp":
        return Term(Utility.TP, share / (k * check_propensity(propensity, n_labels)))
    if metric not in MACRO_UTILITIES:
        raise ValueError(f"Unknown metric {metric!r}; there are: {', '.join(METRICS)}.")
    return Term(MACRO_UTILITIES[metric], share / n_labels, beta if metric == "macro_fbeta" else 1.0)


def make_objective(
    metric, *, k, n_labels, alpha=1.0, mix_with="precision", beta=1.0, propensity=None
):
    """The objective ``(1 - alpha) * mix_with + alpha * metric`` of thesis section 4.5.

    Parameters
    ----------
    metric, mix_with : str or callable
        As for `metric_term`.
    k, n_labels, beta, propensity
        As for `metric_term`.
    alpha : float, default=1.0
        In [0, 1]. A part with the coefficient 0 is left out, and not looked at.

    Returns
    -------
    Objective
        Of one or two terms.

    Examples
    --------
    >>> from skxmc.decision._utilities import make_objective
    >>> objective = make_objective("macro_f1", k=3, n_labels=10, alpha=0.5)
    >>> [(term.utility.name, round(float(term.weight), 4)) for term in objective.terms]
    [('FBETA', 0.05), ('TP', 0.1667)]
    """
    parts = {"k": k, "n_labels": n_labels, "beta": beta, "propensity": propensity}
    shares = ((metric, alpha), (mix_with, 1 - alpha))
    return Objective(
        tuple(metric_term(name, share=share, **parts) for name, share in shares if share > 0)
    )


def check_propensity(propensity, n_labels):
    """Return propensities as float64, one for each label, all in (0, 1]."""
    if propensity is None:
        raise ValueError("The metric 'psp' needs the propensity of each label.")
    return check_propensities(propensity, n_labels)
