"""All metrics of one prediction in one call, and a table of them."""

from skxmc.label_space._propensity_check import check_propensity, warn_of
from skxmc.metrics import _calibration, _macro, _ranking
from skxmc.metrics._inputs import check_inv_propensity, check_ks, rank

# Entries that are no fractions, so that a table does not show them in percent.
_NO_FRACTIONS = {"NLL"}


def evaluate_topk(
    y_true, scores, ks=(1, 3, 5), *, inv_propensity=None, calibration=False, exclude=None
):
    """Compute all ranking metrics at each k; the answers are ranked once.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    ks : int or sequence of int, default=(1, 3, 5)
        Numbers of answers per row.
    inv_propensity : array-like of shape (n_labels,), default=None
        1 / p of each label, at least 1, from the *training* labels; None leaves out the
        propensity-scored metrics.
    calibration : bool, default=False
        True adds the calibration metrics; `scores` must then be probabilities (`predict_proba`).
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    evaluation : dict of str to float
        Fractions (not percent) by name, metric by metric: "P@k", "nDCG@k", "R@k", "hit-rate@k";
        normalised "PSP@k", "PSnDCG@k", "PSR@k"; "macro-P@k", "macro-R@k", "macro-F1@k",
        "coverage@k", averaged over all labels. With `calibration`, smaller is better: "ECE@k" and
        "ACE@k" (15 bins of equal width, and of equally many answers), "Brier@k", and "NLL@k" in
        nats.

    Raises
    ------
    ValueError, TypeError
        As `precision_at_k` and `psp_at_k`; with `calibration` as `ece_at_k`.

    Warns
    -----
    PropensityWarning
        If the labels contradict `inv_propensity`: a label is more frequent than its propensity
        allows, or the unnormalised PSP, an estimate of a precision, is above 1. The normalised one
        would hide that.

    See Also
    --------
    format_evaluation : Make a table of it.
    skxmc.label_space.check_propensity : The checks behind the warning.

    Notes
    -----
    Time O(entries of scores + entries of y_true + n_labels), memory
    O(entries of y_true + n_samples * max(ks) + n_labels).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import evaluate_topk
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> evaluation = evaluate_topk(y_true, scores, ks=(1, 2))
    >>> evaluation["P@1"], evaluation["R@2"]
    (0.5, 0.75)
    """
    ks, _ = check_ks(ks)
    ranking = rank(y_true, scores, max(ks), exclude)
    evaluation = {}

    def add(name, values):
        evaluation.update((f"{name}@{k}", value) for k, value in zip(ks, values, strict=True))

    add("P", _ranking.mean_over_rows(_ranking.mean_precision, ranking, ks))
    add("nDCG", _ranking.mean_over_rows(_ranking.mean_ndcg, ranking, ks))
    add("R", _ranking.mean_over_rows(_ranking.mean_recall, ranking, ks))
    add("hit-rate", _ranking.mean_over_rows(_ranking.mean_hit_rate, ranking, ks))
    if inv_propensity is not None:
        weights = check_inv_propensity(inv_propensity, ranking.y_true.shape[1])
        warn_of(
            check_propensity(ranking.y_true, weights, ranking.labels, ks=ks, warn=False),
            stacklevel=3,  # the line that called evaluate_topk
        )
        for name, mean in (
            ("PSP", _ranking.mean_precision),
            ("PSnDCG", _ranking.mean_ndcg),
            ("PSR", _ranking.mean_recall),
        ):
            add(name, _ranking.mean_over_rows(mean, ranking, ks, weights, normalize=True))
    add("macro-P", _macro.mean_over_labels(_macro.label_precision, ranking, ks))
    add("macro-R", _macro.mean_over_labels(_macro.label_recall, ranking, ks))
    add("macro-F1", _macro.mean_over_labels(_macro.label_f1, ranking, ks))
    add("coverage", _macro.mean_over_labels(_macro.label_coverage, ranking, ks))
    if calibration:
        values = _calibration.answer_scores(ranking, scores)
        pools = [_calibration.pool_answers(ranking, values, k) for k in ks]
        for name, strategy in (("ECE", "uniform"), ("ACE", "quantile")):
            errors = [_calibration.calibration_error(pool, strategy=strategy) for pool in pools]
            add(name, [error.total for error in errors])
        add("Brier", [_calibration.brier_score(pool) for pool in pools])
        add("NLL", [_calibration.log_loss(pool) for pool in pools])
    return evaluation


def format_evaluation(evaluation, metrics=None):
    """Format evaluations as a table in percent; NLL, which is no fraction, in nats.

    Parameters
    ----------
    evaluation : dict of str to float, or dict of str to such dicts
        What `evaluate_topk` returned: it gives a line per metric and a column per k. Or several of
        them by the name of the method: they give a line per method and a column per entry.
    metrics : sequence of str, default=None
        The metrics to show, in this order: names such as "P" or single entries such as "P@5". None
        shows all.

    Returns
    -------
    table : str
        Lines of equal width, without a line break at the end.

    Raises
    ------
    ValueError
        If `evaluation` is empty or has none of an entry of `metrics`.

    Examples
    --------
    >>> from skxmc.metrics import format_evaluation
    >>> print(format_evaluation({"P@1": 0.5, "P@3": 0.25, "nDCG@1": 0.5, "nDCG@3": 0.4375}))
               @1     @3
    P       50.00  25.00
    nDCG    50.00  43.75
    >>> print(format_evaluation({"trees": {"P@1": 0.5}, "flat": {"P@1": 0.75}}))
              P@1
    trees   50.00
    flat    75.00
    """
    if not evaluation:
        raise ValueError("There is nothing to format: the evaluation is empty.")
    if isinstance(next(iter(evaluation.values())), dict):
        entries = _chosen(dict.fromkeys(e for one in evaluation.values() for e in one), metrics)
        cells = {name: [_cell(one, e) for e in entries] for name, one in evaluation.items()}
        return _table(entries, cells)
    entries = _chosen(evaluation, metrics)
    names = list(dict.fromkeys(entry.partition("@")[0] for entry in entries))
    ks = sorted({entry.partition("@")[2] for entry in entries}, key=int)
    shown = set(entries)
    cells = {
        name: [_cell(evaluation, e) if (e := f"{name}@{k}") in shown else "" for k in ks]
        for name in names
    }
    return _table([f"@{k}" for k in ks], cells)


def _chosen(entries, metrics):
    """Return the entries ("P@1", ...) that `metrics` names, in its order."""
    if metrics is None:
        return list(entries)
    chosen = []
    for metric in metrics:
        found = [e for e in entries if metric in (e, e.partition("@")[0])]
        if not found:
            raise ValueError(f"The evaluation has no {metric!r}; it has {', '.join(entries)}.")
        chosen += found
    return chosen


def _cell(evaluation, entry):
    """Return one value as text; nothing if the evaluation has no such entry."""
    if entry not in evaluation:
        return ""
    scale = 1 if entry.partition("@")[0] in _NO_FRACTIONS else 100
    return f"{scale * evaluation[entry]:.2f}"


def _table(header, cells):
    first = max(len(name) for name in cells) + 1
    widths = [max(len(column), 6) for column in header]
    lines = [" " * first + "".join(f" {c:>{w}}" for c, w in zip(header, widths, strict=True))]
    for name, values in cells.items():
        line = f"{name:<{first}}"
        for value, width in zip(values, widths, strict=True):
            line += f" {value:>{width}}"
        lines.append(line)
    return "\n".join(lines)
