"""Value and slope of the utilities of one label, for use inside kernels.

Optimisation happens in the coordinates of the thesis (section 4.3): t = tp, q = tp + fp (predicted)
and p = tp + fn (positive), of which p does not depend on the decisions. In them the gain of
answering a label with the marginal probability eta is linear, eta dpsi/dt + dpsi/dq, and these are
the coefficients a and b of equations 4.21 and 4.22:

    a = psi_tp - psi_fp - psi_fn + psi_tn,    b = psi_fp - psi_tn.
"""

import functools
import types

import numpy as np
from numba.core.dispatcher import Dispatcher

from skxmc.ops._jit import jit
from skxmc.ops.macro_at_k._types import USER, Utility

_PRECISION, _RECALL, _FBETA, _JACCARD, _BALANCED, _GMEAN, _HMEAN, _FOWLKES, _COVERAGE, _TP = (
    int(utility) for utility in Utility
)

#: Utilities with a code up to this do not need the true negatives.
LAST_WITHOUT_TN = _JACCARD

# Step of the difference quotients for the slopes of a user's function, relative to t or q.
_STEP = 1e-4


@jit(error_model="numpy")
def _ratio(numerator, denominator):
    return numerator / denominator if denominator > 0.0 else 0.0


@jit(error_model="numpy")
def value_without_tn(code, beta, t, q, p, scale):
    """psi of precision, recall, F-beta or Jaccard from sums over rows, which is quickest."""
    if code == _PRECISION:
        return _ratio(t, q)
    if code == _RECALL:
        return _ratio(t, p)
    if code == _FBETA:
        square = beta * beta
        return _ratio((1.0 + square) * t, square * p + q)
    return _ratio(t, p + q - t)


@jit(error_model="numpy")
def builtin_value(code, beta, tp, fp, fn, tn):
    """psi(tp, fp, fn, tn) of a built-in utility other than coverage."""
    if code == _TP:
        return tp
    if code == _PRECISION:
        return _ratio(tp, tp + fp)
    if code == _RECALL:
        return _ratio(tp, tp + fn)
    if code == _FBETA:
        square = beta * beta
        return _ratio((1.0 + square) * tp, square * (tp + fn) + tp + fp)
    if code == _JACCARD:
        return _ratio(tp, tp + fp + fn)
    if code == _FOWLKES:
        return _ratio(tp, np.sqrt((tp + fp) * (tp + fn)))
    tpr, tnr = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    if code == _BALANCED:
        return 0.5 * (tpr + tnr)
    if code == _GMEAN:
        return np.sqrt(tpr * tnr)
    return _ratio(2.0 * tpr * tnr, tpr + tnr)


@jit(error_model="numpy")
def builtin_slopes(code, beta, tp, fp, fn, tn):
    """dpsi/dt and dpsi/dq of a built-in utility other than coverage, at rates inside (0, 1).

    Where a denominator is 0, so that the derivative does not exist, the result is finite but
    arbitrary.
    """
    t, q, p = tp, tp + fp, tp + fn
    if code == _TP:
        return 1.0, 0.0
    if code == _PRECISION:
        return _ratio(1.0, q), -_ratio(t, q * q)
    if code == _RECALL:
        return _ratio(1.0, p), 0.0
    if code == _FBETA:
        square = beta * beta
        down = square * p + q
        return _ratio(1.0 + square, down), -_ratio((1.0 + square) * t, down * down)
    if code == _JACCARD:
        down = tp + fp + fn
        return _ratio(q + p, down * down), -_ratio(t, down * down)
    if code == _FOWLKES:
        root = np.sqrt(q * p)
        return _ratio(1.0, root), -_ratio(0.5 * t, q * root)
    tpr_t, tnr_t = _ratio(1.0, p), _ratio(1.0, tn + fp)  # dtpr/dt, dtnr/dt = -dtnr/dq
    if code == _BALANCED:
        return 0.5 * (tpr_t + tnr_t), -0.5 * tnr_t
    tpr, tnr = tp * tpr_t, tn * tnr_t
    if code == _GMEAN:
        root = 2.0 * np.sqrt(tpr * tnr)
        to_tpr, to_tnr = _ratio(tnr, root), _ratio(tpr, root)
    else:
        down = (tpr + tnr) * (tpr + tnr)
        to_tpr, to_tnr = _ratio(2.0 * tnr * tnr, down), _ratio(2.0 * tpr * tpr, down)
    return to_tpr * tpr_t + to_tnr * tnr_t, -to_tnr * tnr_t


def _user_value_and_slopes(first, second):
    """`builtin_value` and `builtin_slopes` extended by one or two functions of the user."""

    @jit(allocates=True, cache=False, error_model="numpy")  # the user's functions may
    def value(code, beta, tp, fp, fn, tn):
        if code == USER:
            return np.float64(first(tp, fp, fn, tn))
        if code == USER + 1:
            return np.float64(second(tp, fp, fn, tn))
        return builtin_value(code, beta, tp, fp, fn, tn)

    @jit(allocates=True, cache=False, error_model="numpy")
    def slopes(code, beta, tp, fp, fn, tn):
        if code < USER:
            return builtin_slopes(code, beta, tp, fp, fn, tn)
        # Difference quotients, central where the domain (no rate below 0) allows it.
        step = _STEP * max(tp, 1e-3 * min(tp + fp, tp + fn))
        up, down = min(step, fp, fn), min(step, tp, tn)
        if up > 0.0 and down > 0.0:
            up = down = min(up, down)
        a = 0.0
        if up + down > 0.0:
            high = value(code, beta, tp + up, fp - up, fn - up, tn + up)
            low = value(code, beta, tp - down, fp + down, fn + down, tn - down)
            a = (high - low) / (up + down)
        step = _STEP * (tp + fp)
        up, down = min(step, tn), min(step, fp)
        if up > 0.0 and down > 0.0:
            up = down = min(up, down)
        b = 0.0
        if up + down > 0.0:
            high = value(code, beta, tp, fp + up, fn, tn - up)
            low = value(code, beta, tp, fp - down, fn, tn + down)
            b = (high - low) / (up + down)
        return a, b

    return value, slopes


@functools.lru_cache(maxsize=32)
def compiled_function(function):
    """A user's utility as something that kernels can call."""
    if isinstance(function, Dispatcher):
        return function
    if not isinstance(function, types.FunctionType):
        raise TypeError(
            "A utility must be a function psi(tp, fp, fn, tn) -> float that Numba can compile, "
            f"got {function!r}."
        )
    return jit(function, allocates=True, cache=False)


@functools.lru_cache(maxsize=32)
def value_and_slopes(functions):
    """The pair of kernel functions for an objective with these functions of the user."""
    if not functions:
        return builtin_value, builtin_slopes
    compiled = [compiled_function(function) for function in functions]
    return _user_value_and_slopes(compiled[0], compiled[-1])
