"""What is optimised: the utilities of a label, the objective made of them, and their checks."""

import enum
import math
import numbers
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Utility(enum.IntEnum):
    """Built-in utilities psi(tp, fp, fn, tn) of one label; 0 / 0 is 0 in each quotient.

    With precision = tp / (tp + fp), recall = tpr = tp / (tp + fn) and tnr = tn / (tn + fp):

    ==================  ==============================================================
    name                value
    ==================  ==============================================================
    PRECISION           tp / (tp + fp)
    RECALL              tp / (tp + fn)
    FBETA               (1 + beta^2) tp / (beta^2 (tp + fn) + tp + fp)
    JACCARD             tp / (tp + fp + fn)
    BALANCED_ACCURACY   (tpr + tnr) / 2
    GMEAN               sqrt(tpr tnr)
    HMEAN               2 tpr tnr / (tpr + tnr)
    FOWLKES_MALLOWS     sqrt(precision recall), called G-mean in table 4.2 of [1]_
    COVERAGE            1 if the label is answered rightly at least once, else 0
    TP                  tp; with the weight 1/k it is precision@k, with 1/(k p_j) PSP@k
    ==================  ==============================================================

    References
    ----------
    .. [1] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, chapter 4.
    """

    PRECISION = 0
    RECALL = 1
    FBETA = 2
    JACCARD = 3
    BALANCED_ACCURACY = 4
    GMEAN = 5
    HMEAN = 6
    FOWLKES_MALLOWS = 7
    COVERAGE = 8
    TP = 9


class Term(NamedTuple):
    """One part of an objective: sum over labels of weight_j psi(tp_j, fp_j, fn_j, tn_j).

    Attributes
    ----------
    utility : Utility, int or callable
        A built-in utility, or a function ``psi(tp, fp, fn, tn) -> float`` of rates (fractions of
        the rows, which sum to 1): compiled by Numba, or a plain function that Numba can compile.
        It must be finite for all rates from 0 to 1 and so define its own 0 / 0.
    weight : ndarray of shape (n_labels,) or float
        Coefficient of each label, finite. A mean over m labels has the weight 1 / m.
    beta : float, default=1.0
        Of F-beta; the others ignore it.
    """

    utility: int | Callable
    weight: np.ndarray | float
    beta: float = 1.0


class Objective(NamedTuple):
    """The value to be maximised: the sum of one or two terms.

    Attributes
    ----------
    terms : tuple of Term
        One or two.

    Examples
    --------
    Macro-F1 mixed half and half with precision@3, for 10 labels (thesis section 4.5):

    >>> from skxmc.ops.macro_at_k import Objective, Term, Utility
    >>> objective = Objective((Term(Utility.FBETA, 0.5 / 10), Term(Utility.TP, 0.5 / 3)))
    """

    terms: tuple[Term, ...]


class Counts(NamedTuple):
    """Expected confusion matrix of each label, as rates: the four sum to 1.

    Attributes
    ----------
    tp, fp, fn, tn : ndarray of shape (n_labels,), float64
        Fractions of the rows in [0, 1].
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    tn: np.ndarray


class Prepared(NamedTuple):
    """A checked objective as arrays: codes (n_terms,), betas (n_terms,), weight (2, n_labels)."""

    codes: np.ndarray
    betas: np.ndarray
    weight: np.ndarray
    functions: tuple


# A user's function has this code, the second one the next.
USER = 100


def prepare_objective(objective, n_labels):
    """Check an objective and return it as `Prepared` arrays."""
    terms = getattr(objective, "terms", None)
    if not isinstance(terms, (tuple, list)):
        raise TypeError(f"objective must be an Objective of terms, got {type(objective).__name__}.")
    if not 1 <= len(terms) <= 2:
        raise ValueError(f"objective must have 1 or 2 terms, got {len(terms)}.")
    codes = np.empty(len(terms), dtype=np.int64)
    betas = np.empty(len(terms), dtype=np.float64)
    weight = np.zeros((2, n_labels), dtype=np.float64)
    functions = []
    for i, term in enumerate(terms):
        if callable(term.utility):
            codes[i] = USER + len(functions)
            functions.append(term.utility)
        else:
            codes[i] = _check_code(term.utility)
        betas[i] = _check_beta(term.beta)
        weight[i] = _check_weight(term.weight, n_labels, i)
    return Prepared(codes, betas, weight, tuple(functions))


def _check_code(utility):
    if isinstance(utility, bool) or not isinstance(utility, numbers.Integral):
        raise TypeError(
            "utility must be a member of Utility or a function psi(tp, fp, fn, tn), got "
            f"{utility!r}."
        )
    if utility not in set(Utility):
        raise ValueError(f"utility {utility} is unknown; use one of {[u.name for u in Utility]}.")
    return int(utility)


def _check_beta(beta):
    if isinstance(beta, bool) or not isinstance(beta, numbers.Real):
        raise TypeError(f"beta must be a number, got {beta!r}.")
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta must be positive and finite, got {beta}.")
    return float(beta)


def _check_weight(weight, n_labels, term):
    weight = np.asarray(weight)
    if weight.dtype.kind not in "biuf":
        raise TypeError(f"The weight of term {term} must be numbers, got dtype {weight.dtype}.")
    if weight.ndim and weight.shape != (n_labels,):
        raise ValueError(
            f"The weight of term {term} must have the shape ({n_labels},), one coefficient a "
            f"label; got {weight.shape}."
        )
    if not np.isfinite(weight).all():
        bad = int(np.argmin(np.isfinite(np.atleast_1d(weight))))
        raise ValueError(
            f"The weight of term {term} is {np.atleast_1d(weight)[bad]} (label {bad})."
        )
    return weight


#: Utilities that are linear in t and q, the sums over the decisions (equation 4.17).
LINEAR = (Utility.TP, Utility.RECALL, Utility.BALANCED_ACCURACY)


def is_linear(prepared):
    return bool(np.isin(prepared.codes, LINEAR).all())


def quotient_forms(prepared, scale):
    """The terms as n t / (c_t t + c_q q + c_p p + c_1), q and p being sums over the rows.

    Returns
    -------
    forms : ndarray of shape (2, 5), float64, or None
        n, c_t, c_q, c_p and c_1 of each term, zeros for coverage and where there is no term; None
        if a term has another form.
    coverage : int
        The term that is coverage, -1 if none is.
    """
    forms, coverage = np.zeros((2, 5)), -1
    for i, (code, beta) in enumerate(zip(prepared.codes, prepared.betas, strict=True)):
        if code == Utility.PRECISION:
            forms[i] = 1, 0, 1, 0, 0
        elif code == Utility.RECALL:
            forms[i] = 1, 0, 0, 1, 0
        elif code == Utility.FBETA:
            forms[i] = 1 + beta**2, 0, 1, beta**2, 0
        elif code == Utility.JACCARD:
            forms[i] = 1, -1, 1, 1, 0
        elif code == Utility.TP:
            forms[i] = scale, 0, 0, 0, 1
        elif code == Utility.COVERAGE and coverage < 0:
            coverage = i
        else:
            return None, -1
    return forms, coverage


def has_coverage(prepared):
    return bool((prepared.codes == Utility.COVERAGE).any())
