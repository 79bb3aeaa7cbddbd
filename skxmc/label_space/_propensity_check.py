"""Where data contradict given propensities (thesis 3.4)."""

import warnings

import numpy as np

from skxmc.ops.csr import canonical_indicator
from skxmc.ops.missing_labels import check_inverse

# Standard errors beyond which a deviation is not put down to chance.
_SIGNIFICANT = 4.0


class PropensityWarning(UserWarning):
    """Data contradict the propensities, so estimates that use them are biased.

    Examples
    --------
    >>> from skxmc.label_space import PropensityWarning
    >>> issubclass(PropensityWarning, UserWarning)
    True
    """


def check_propensity(
    y_true, inv_propensity, answers=None, *, ks=(1, 3, 5), Y_complete=None, warn=True
):
    r"""Look for signs that the propensities do not fit the data, and warn with the reasons.

    The usual estimate of the propensities (JPV) assumes constants that were fitted on two data
    sets, and that labels go missing independently of the row and of each other, at a rate that
    depends on nothing but their frequency. Normalised metrics hide it where this fails. What is
    checked:

    * *Unnormalised PSP@k above 1* (needs `answers`). It estimates a precision, so it is at most 1
      up to chance.
    * *Frequencies above the propensity.* A label is recorded in a share :math:`p_j \pi_j \le p_j`
      of the rows; a greater share would make the estimated complete frequency exceed 1.
    * *Recorded shares* (needs `Y_complete`). The share of the complete positives of each label that
      was recorded must be its propensity; labels of one frequency may well differ.
    * *Labels that go missing together* (needs `Y_complete`). The number of recorded labels of a
      row must not vary more than independent masks allow.

    No finding does not mean that the propensities are right.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        Observed labels, of test rows if there are `answers`.
    inv_propensity : array-like of shape (n_labels,)
        1 / p of each label, at least 1.
    answers : TopK, or int array of shape (n_samples, >= 1), default=None
        Ranked answers of a model for these rows, best first, padded with -1.
    ks : sequence of int, default=(1, 3, 5)
        Numbers of answers at which PSP is checked, as far as there are so many.
    Y_complete : 0/1 matrix of shape (n_samples, n_labels), default=None
        Complete labels of the same rows.
    warn : bool, default=True
        Issue one `PropensityWarning` if there is a finding.

    Returns
    -------
    findings : list of str
        One sentence for each, with figures; empty if nothing is wrong.

    Raises
    ------
    ValueError
        If shapes do not match, a matrix holds other values than 0 and 1, `y_true` has a label that
        `Y_complete` lacks, an inverse propensity is below 1 or not finite, or an answer is no
        label.

    Warns
    -----
    PropensityWarning
        If there is a finding and `warn`.

    Notes
    -----
    Time and memory O(labels of all rows + answers). A deviation counts from 4 standard errors on,
    except that PSP above 1 is always reported, with its standard error.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, section 3.4 and table 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.label_space import check_propensity
    >>> y_true = np.tile([1, 0], (100, 1))  # label 0 is recorded in all rows
    >>> for finding in check_propensity(y_true, [2.0, 2.0], warn=False):
    ...     print(finding)
    1 of 2 labels is recorded more often than its propensity allows: label 0 in 100.0 % of the rows,
    with p = 0.5.
    """
    y_true = canonical_indicator(y_true, name="y_true")
    inverse = check_inverse(inv_propensity, y_true.shape[1])
    findings = _frequencies_above_propensity(y_true, inverse)
    if answers is not None:
        findings = _psp_above_one(y_true, inverse, answers, ks) + findings
    if Y_complete is not None:
        Y_complete = canonical_indicator(Y_complete, name="Y_complete")
        recorded, complete = recorded_pairs(y_true, Y_complete)
        findings += _recorded_shares(recorded, complete, inverse)
        findings += _missing_together(Y_complete, recorded)
    if warn:
        warn_of(findings, stacklevel=3)
    return findings


def warn_of(findings, stacklevel):
    """Warn if there are findings; ``stacklevel`` as seen from here."""
    if findings:
        warnings.warn(
            "The propensities do not fit the data: "
            + " ".join(findings)
            + " Propensity-scored values are then weighted averages, not estimates of the metrics "
            "on complete labels.",
            PropensityWarning,
            stacklevel=stacklevel,
        )


def recorded_pairs(Y_observed, Y_complete):
    """Which complete labels were recorded.

    Returns a bool array over the stored entries of `Y_complete`, and the counts (recorded,
    complete) of each label as one array of shape (2, n_labels).
    """
    if Y_observed.shape != Y_complete.shape:
        raise ValueError(
            f"Y_complete has the shape {Y_complete.shape}, but the observed labels have "
            f"{Y_observed.shape}: both are for the same rows and labels."
        )
    observed, complete = _pair_keys(Y_observed), _pair_keys(Y_complete)
    extra = np.flatnonzero(~np.isin(observed, complete, assume_unique=True))
    if len(extra):
        row, label = divmod(int(observed[extra[0]]), Y_complete.shape[1])
        raise ValueError(
            f"Row {row} has the observed label {label}, which is not among its complete labels: "
            "labels may be missing, but none may be wrong."
        )
    recorded = np.isin(complete, observed, assume_unique=True)
    n_labels = Y_complete.shape[1]
    n_complete = np.bincount(Y_complete.indices, minlength=n_labels)
    n_recorded = np.bincount(Y_observed.indices, minlength=n_labels)
    return recorded, np.stack([n_recorded, n_complete]).astype(np.float64)


def _pair_keys(Y):
    rows = np.repeat(np.arange(Y.shape[0], dtype=np.int64), np.diff(Y.indptr))
    return rows * Y.shape[1] + Y.indices


def _psp_above_one(y_true, inverse, answers, ks):
    labels = np.asarray(getattr(answers, "labels", answers))
    n_rows, n_labels = y_true.shape
    if labels.ndim != 2 or len(labels) != n_rows or labels.dtype.kind not in "iu":
        raise ValueError(
            f"answers must be label numbers of shape ({n_rows}, k), got the shape {labels.shape} "
            f"and dtype {labels.dtype}."
        )
    if labels.size and (labels.min() < -1 or labels.max() >= n_labels):
        raise ValueError(f"answers holds a label outside 0..{n_labels - 1}.")
    wanted = np.arange(n_rows, dtype=np.int64)[:, np.newaxis] * n_labels + labels
    hits = np.isin(wanted, _pair_keys(y_true)) & (labels >= 0)
    gains = np.where(hits, inverse[labels], 0.0)
    parts = []
    for k in sorted(set(ks)):
        if k > labels.shape[1] or n_rows < 2:
            continue
        of_rows = gains[:, :k].sum(axis=1) / k
        if of_rows.mean() > 1.0:
            error = of_rows.std(ddof=1) / np.sqrt(n_rows)
            parts.append((k, of_rows.mean(), error))
    if not parts:
        return []
    figures = ", ".join(f"PSP@{k} = {value:.3g} ± {error:.2g}" for k, value, error in parts)
    chance = any(value - 1.0 > _SIGNIFICANT * error for _, value, error in parts)
    cause = (
        "more than chance explains: propensities that are too small, or labels that go missing "
        "depending on the row or on each other"
        if chance
        else "which may be chance"
    )
    return [f"Unnormalised, {figures} (± standard error), above 1, {cause}."]


def _frequencies_above_propensity(y_true, inverse):
    n_rows, n_labels = y_true.shape
    p = 1.0 / inverse
    excess = np.bincount(y_true.indices, minlength=n_labels) - n_rows * p
    bad = np.flatnonzero(excess > _SIGNIFICANT * np.sqrt(n_rows * p * (1 - p)) + 1e-9 * n_rows)
    if not len(bad):
        return []
    worst = bad[np.argmax(excess[bad])]
    share = (excess[worst] + n_rows * p[worst]) / n_rows
    verb, its = ("is", "its") if len(bad) == 1 else ("are", "their")
    return [
        f"{len(bad)} of {n_labels} labels {verb} recorded more often than {its} propensity allows: "
        f"label {worst} in {100 * share:.1f} % of the rows, with p = {p[worst]:.3g}."
    ]


def _recorded_shares(recorded, counts, inverse):
    n_recorded, n_complete = counts
    p = 1.0 / inverse
    certain = (p == 1.0) & (n_recorded < n_complete)
    findings = []
    if certain.any():
        label = int(np.flatnonzero(certain)[0])
        findings.append(
            f"Label {label} has p = 1, but {int(n_complete[label] - n_recorded[label])} of its "
            f"{int(n_complete[label])} complete positives are not recorded."
        )
    variance = n_complete * p * (1 - p)
    tested = variance > 0
    if not tested.any():
        return findings
    squares = (n_recorded - n_complete * p)[tested] ** 2 / variance[tested]
    # Variance of a squared standardised binomial: 2 plus its excess kurtosis.
    pq = (p * (1 - p))[tested]
    spread = np.sqrt((2.0 + (1 - 6 * pq) / variance[tested]).sum())
    if (squares.sum() - len(squares)) > _SIGNIFICANT * spread:
        worst = np.flatnonzero(tested)[np.argmax(squares)]
        findings.append(
            "The shares of complete labels that were recorded differ from the propensities by "
            f"{np.sqrt(squares.mean()):.2g} standard errors (root mean square; 1 is chance), most "
            f"for label {worst}: {n_recorded[worst] / n_complete[worst]:.3g} recorded, "
            f"p = {p[worst]:.3g}."
        )
    return findings


def _missing_together(Y_complete, recorded):
    n_rows, n_labels = Y_complete.shape
    rows = np.repeat(np.arange(n_rows), np.diff(Y_complete.indptr))
    labels = Y_complete.indices
    share = np.bincount(labels, weights=recorded, minlength=n_labels) / np.maximum(
        np.bincount(labels, minlength=n_labels), 1
    )
    pq = (share * (1 - share))[labels]
    expected = np.bincount(rows, weights=pq, minlength=n_rows)
    deviation = np.bincount(rows, weights=recorded - share[labels], minlength=n_rows)
    fourth = np.bincount(rows, weights=pq * (1 - 6 * pq), minlength=n_rows)
    excess = (deviation**2 - expected).sum()
    if expected.sum() == 0 or excess <= _SIGNIFICANT * np.sqrt((2 * expected**2 + fourth).sum()):
        return []
    ratio = (deviation**2).sum() / expected.sum()
    return [
        f"The number of recorded labels of a row varies {ratio:.2g} times as much as if labels "
        "went missing independently: it depends on the row, or on the other labels."
    ]
