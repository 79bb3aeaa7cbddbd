"""The one-vs-all linear problem in plain NumPy, float64: the definition that tests measure against.

For one label with y_i in {-1, +1} the solver of this package minimises (reference: DiSMEC++, thesis
section 5.1, and LIBLINEAR)

    J(w, b) = ||w||^2 / 2 + r b^2 / 2 + sum_i c_i l(y_i s_i),      s_i = w.x_i + beta b,

with l(z) = max(0, 1 - z)^2 (squared hinge) or log(1 + exp(-z)) (logistic), c_i = C c+ for the
positive rows and C for the others, beta the value of the constant bias feature (0: no intercept)
and r = 1 or 0: bias regularised or not. b is the coefficient of the bias feature, so what it adds
to a score is beta b.

Everything here is dense in the features and solves linear systems directly; nothing is meant to be
fast. ``X`` may be an array or a scipy sparse array, except where a function says dense.
"""

import numpy as np
import scipy.sparse as sp

LOSSES = ("squared_hinge", "logistic")


def signs(positives, n_samples):
    """y: +1 for the rows in ``positives``, -1 for the others."""
    y = -np.ones(n_samples)
    y[positives] = 1
    return y


def costs(y, C=1.0, positive_cost=1.0):
    """c_i: C positive_cost for the positives and C for the negatives."""
    return np.where(y > 0, C * positive_cost, C)


def soft_rows(X, targets, C=1.0, positive_cost=1.0):
    """Rows, signs and costs of the hard problem that one with soft targets is equal to.

    A row with the target t in [0, 1] has the loss t c+ l(s) + (1 - t) l(-s), the mean of the loss
    over labels drawn with the probability t. So each row stands for two: a positive of the cost
    C c+ t and a negative of the cost C (1 - t).

    Returns
    -------
    X : float64 array of shape (2 n_samples, n_features)
    y, costs : float64 arrays of shape (2 n_samples,)
    """
    X = _dense(X)
    targets = np.asarray(targets, dtype=np.float64)
    ones = np.ones(len(X))
    costs = np.concatenate([C * positive_cost * targets, C * (1 - targets)])
    return np.vstack([X, X]), np.concatenate([ones, -ones]), costs


def loss_values(margins, loss):
    """Return l(z), l'(z) and l''(z), the generalised one at the kink of l', of each margin z."""
    if loss == "squared_hinge":
        slack = np.maximum(0, 1 - margins)
        return slack**2, -2 * slack, 2.0 * (slack > 0)
    if loss == "logistic":
        value = np.logaddexp(0, -margins)
        sigma = np.exp(-np.logaddexp(0, margins))  # 1 / (1 + exp(z)) without overflow
        return value, -sigma, sigma * (1 - sigma)
    raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}.")


def objective(w, b, X, y, costs, *, loss="squared_hinge", bias_value=1.0, regularize_bias=True):
    """J(w, b).

    Parameters
    ----------
    w : array of shape (n_features,)
    b : float
        Coefficient of the bias feature.
    X : array or sparse array of shape (n_samples, n_features)
    y : array of shape (n_samples,)
        -1 and +1, see `signs`.
    costs : array of shape (n_samples,)
        c_i, C included, see `costs`.
    loss : {"squared_hinge", "logistic"}
    bias_value : float
        The constant feature, 0 without an intercept.
    regularize_bias : bool

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.linear_solver import reference
    >>> X, y = np.array([[2.0], [1.0]]), np.array([1.0, -1.0])
    >>> reference.objective(np.array([1.0]), 0.0, X, y, np.ones(2))  # 1/2 + 0 + 2^2
    4.5
    """
    norm2 = w @ w + regularize_bias * b * b
    return float(norm2 / 2) + total_loss(w, b, X, y, costs, loss=loss, bias_value=bias_value)


def total_loss(w, b, X, y, costs, *, loss="squared_hinge", bias_value=1.0):
    """sum_i c_i l(y_i s_i): J without the regulariser. Parameters: `objective`."""
    values, _, _ = loss_values(y * (X @ w + bias_value * b), loss)
    return float(costs @ values)


def gradient(w, b, X, y, costs, *, loss="squared_hinge", bias_value=1.0, regularize_bias=True):
    """Gradient of J in (w, b): n_features + 1 values, that of b last. Parameters: `objective`."""
    _, slopes, _ = loss_values(y * (X @ w + bias_value * b), loss)
    slopes = costs * y * slopes
    return np.append(w + X.T @ slopes, regularize_bias * b + bias_value * slopes.sum())


def hessian(w, b, X, y, costs, *, loss="squared_hinge", bias_value=1.0, regularize_bias=True):
    """Hessian of J (thesis eq. 5.1), dense, bias last. Parameters: `objective`; X is dense."""
    _, _, curvatures = loss_values(y * (X @ w + bias_value * b), loss)
    rows = _with_bias(X, bias_value)
    ridge = np.append(np.ones(X.shape[1]), float(regularize_bias))
    return np.diag(ridge) + rows.T @ ((costs * curvatures)[:, None] * rows)


def solve_reference(
    X, y, costs, *, loss="squared_hinge", bias_value=1.0, regularize_bias=True, tol=1e-10
):
    """Minimise J exactly: Newton steps with a dense Hessian, Armijo line search, from zero.

    Parameters
    ----------
    X, y, costs, loss, bias_value, regularize_bias
        See `objective`.
    tol : float
        Stop at ||g|| <= tol max(1, ||g(0)||), or where float64 cannot lower J any more.

    Returns
    -------
    w : float64 array of shape (n_features,)
    b : float

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops.linear_solver import reference
    >>> X, y = np.array([[1.0]]), np.array([1.0])
    >>> w, b = reference.solve_reference(X, y, np.ones(1), bias_value=0.0)
    >>> w  # minimises w^2 / 2 + (1 - w)^2
    array([0.66666667])
    """
    X = _dense(X)
    setting = {"loss": loss, "bias_value": bias_value, "regularize_bias": regularize_bias}
    v = np.zeros(X.shape[1] + 1)  # w and b in one vector

    def value(v):
        return objective(v[:-1], v[-1], X, y, costs, **setting)

    g = gradient(v[:-1], v[-1], X, y, costs, **setting)
    target = tol * max(1.0, np.linalg.norm(g))
    while np.linalg.norm(g) > target:
        H = hessian(v[:-1], v[-1], X, y, costs, **setting)
        if H[-1, -1] == 0:
            H[-1, -1] = 1  # b changes nothing here, its gradient is zero too
        step = np.linalg.solve(H, -g)
        t, before, slope = 1.0, value(v), g @ step
        while value(v + t * step) > before + 1e-4 * t * slope and t > 1e-12:
            t /= 2
        if not value(v + t * step) < before:
            break
        v = v + t * step
        g = gradient(v[:-1], v[-1], X, y, costs, **setting)
    return v[:-1], float(v[-1])


def stopping_target(
    X, positives, *, loss="squared_hinge", C=1.0, positive_cost=1.0, tol=0.01, bias_value=1.0
):
    """Gradient norm at which a label is done: tol max(min(n_pos, n_neg), 1) / n ||g(0)||.

    LIBLINEAR's rule, with the gradient at the zero vector as the reference for every start
    (reference_facts A2). It does not depend on whether the bias is regularised.
    """
    n_samples, n_features = X.shape
    y = signs(positives, n_samples)
    g = gradient(
        np.zeros(n_features),
        0.0,
        X,
        y,
        costs(y, C, positive_cost),
        loss=loss,
        bias_value=bias_value,
    )
    n_pos = len(positives)
    return tol * max(min(n_pos, n_samples - n_pos), 1) / n_samples * float(np.linalg.norm(g))


def mean_separating_start(
    X, positives, bias_value=1.0, *, positive_target=1.0, negative_target=-2.0
):
    """Start that gives the mean positive and the mean negative row given scores.

    With m the mean of all rows, P that of the positives and p = n_pos / n (all with the bias
    feature), w0 = u P + v m solves

        w0.P = t+,    w0.m = f = p t+ + (1 - p) t-

    which is the same as the score t- for the mean of the negatives (reference_facts A4). Where the
    two equations are dependent (all rows positive, identical rows, zero rows) or P.m = 0, w0 = -m.

    Returns
    -------
    w : float64 array of shape (n_features,)
    b : float
    """
    rows = _with_bias(X, bias_value)
    m = rows.mean(axis=0)
    P = rows[positives].mean(axis=0)
    p = len(positives) / len(rows)
    PP, PA, AA = P @ P, P @ m, m @ m
    f = p * (positive_target - negative_target) + negative_target
    determinant = PA**2 - PP * AA
    if abs(PA) < 1e-12 or abs(determinant) < 1e-9 * PP * AA:
        w0 = -m
    else:
        u = (f * PA - positive_target * AA) / determinant
        v = (positive_target - u * PP) / PA
        w0 = u * P + v * m
    return w0[:-1], float(w0[-1])


def multi_positive_start(
    X, positives, bias_value=1.0, *, positive_target=1.0, negative_target=-2.0, ridge=0.01
):
    """Start that gives each positive row and the mean negative row given scores.

    w0 = sum_k a_k z_k over z = the positive rows and the mean of the negatives, with
    (G + ridge I) a = (t+, ..., t+, t-), G the Gram matrix of z (reference_facts A4). It needs one
    negative row at least.

    Returns
    -------
    w : float64 array of shape (n_features,)
    b : float
    """
    rows = _with_bias(X, bias_value)
    negatives = np.setdiff1d(np.arange(len(rows)), positives)
    z = np.vstack([rows[positives], rows[negatives].mean(axis=0)])
    targets = np.append(np.full(len(positives), positive_target), negative_target)
    a = np.linalg.solve(z @ z.T + ridge * np.eye(len(z)), targets)
    w0 = a @ z
    return w0[:-1], float(w0[-1])


def prune_by_threshold(w, threshold):
    """Zero the weights with abs(w) < threshold (DiSMEC's Delta, 0.01 there)."""
    return np.where(np.abs(w) >= threshold, w, 0)


def prune_by_loss(w, b, X, y, costs, tol, *, loss="squared_hinge", bias_value=1.0):
    """Prune by the largest cutoff with loss(pruned) <= (1 + tol) loss + 1e-5 (reference_facts A5).

    Weights with abs(w) < cutoff become zero; the bias stays. The loss is the sum over all rows
    without the regulariser: DiSMEC++ bounds the whole objective, which falls with the norm of what
    is dropped and so allows more. All cutoffs are tried, largest first, where DiSMEC++ bisects.

    Parameters
    ----------
    w, b, X, y, costs, loss, bias_value
        See `objective`.
    tol : float
        Share of the loss that pruning may cost.

    Returns
    -------
    w : array of shape (n_features,)
    cutoff : float
        One of the magnitudes in w: the smallest that is kept; inf where nothing is.
    """
    X = _dense(X)

    def total(w):
        return total_loss(w, b, X, y, costs, loss=loss, bias_value=bias_value)

    limit = (1 + tol) * total(w) + 1e-5
    for cutoff in [np.inf, *np.unique(np.abs(w))[::-1]]:
        pruned = prune_by_threshold(w, cutoff)
        if total(pruned) <= limit:
            return pruned, float(cutoff)
    raise ValueError("w or b holds NaN.")  # w unpruned meets every limit


def _dense(X):
    return np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float64)


def _with_bias(X, bias_value):
    """Append the bias feature: the rows as one dense float64 array."""
    X = _dense(X)
    return np.hstack([X, np.full((len(X), 1), float(bias_value))])
