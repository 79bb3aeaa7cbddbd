"""Models of the propensities of labels, with one small protocol: fit, `propensity_`, `inverse_`."""

import numbers

import numpy as np
import scipy.sparse as sp
from scipy.optimize import minimize
from scipy.special import betaln, expit, log_expit, logit, logsumexp
from sklearn.base import BaseEstimator

from skxmc.label_space._propensity import _label_counts, inverse_propensity
from skxmc.label_space._propensity_check import recorded_pairs
from skxmc.ops.csr import canonical_csr, canonical_indicator, check_finite

_SMALLEST = 1e-6


class PropensityModel(BaseEstimator):
    """Base of the propensity models.

    A subclass has a method ``fit(Y_train, n_samples=None, ...)`` that sets `propensity_` and
    returns the model.

    Attributes
    ----------
    propensity_ : ndarray of shape (n_labels,), float64
        Probability, in (0, 1], that a relevant label was recorded.
    inverse_ : ndarray of shape (n_labels,), float64
        1 / `propensity_`: what propensity-scored metrics and losses take as ``inv_propensity``.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.label_space import PropensityModel
    >>> class Constant(PropensityModel):
    ...     def __init__(self, value=0.5):
    ...         self.value = value
    ...
    ...     def fit(self, Y_train, n_samples=None):
    ...         self.propensity_ = np.full(Y_train.shape[1], self.value)
    ...         return self
    >>> Constant(0.25).fit(np.eye(3)).inverse_
    array([4., 4., 4.])
    """

    @property
    def inverse_(self):
        """1 / `propensity_`."""
        return 1.0 / self.propensity_


class JPVPropensity(PropensityModel):
    """Propensities by the formula of Jain, Prabhu and Varma, from the label frequencies alone.

    The usual choice, and a crude one: its constants were fitted on two data sets, the values go to
    1 as the data set grows, and labels of one frequency need not go missing at one rate (thesis
    3.4). `check_propensity` says where data contradict them.

    Parameters
    ----------
    A, B : float, default=0.55 and 1.5
        Constants of the data set, see `PROPENSITY_CONSTANTS`.

    Attributes
    ----------
    propensity_, inverse_ : ndarray of shape (n_labels,), float64
        Propensity of each label and its inverse.

    See Also
    --------
    jpv_propensity : The formula as a function.

    References
    ----------
    H. Jain, Y. Prabhu, M. Varma. Extreme multi-label loss functions for recommendation, tagging,
    ranking & other missing label applications. KDD 2016. https://doi.org/10.1145/2939672.2939756
    E. Schultheis. PhD thesis, Aalto University, 2025, equation (3.24).

    Examples
    --------
    >>> from skxmc.label_space import JPVPropensity
    >>> JPVPropensity().fit([1, 25], n_samples=50).propensity_.round(5)
    array([0.25562, 0.55715])
    """

    def __init__(self, A=0.55, B=1.5):
        self.A = A
        self.B = B

    def fit(self, Y_train, n_samples=None):
        """Compute the propensities.

        Parameters
        ----------
        Y_train : 0/1 matrix of shape (n_samples, n_labels), or array-like of shape (n_labels,)
            Observed labels of the training rows; or the number of training rows per label.
        n_samples : int, default=None
            Number of training rows. Required with counts, and refused with a matrix.

        Returns
        -------
        PropensityModel
            The fitted model itself.

        Raises
        ------
        ValueError, TypeError
            As `jpv_propensity`.
        """
        self.propensity_ = 1.0 / inverse_propensity(Y_train, n_samples, self.A, self.B)
        return self


class GivenPropensity(PropensityModel):
    """Propensities that are known, for instance as the observed over the true frequency.

    Parameters
    ----------
    propensity : float or array-like of shape (n_labels,)
        Probability in (0, 1] that a relevant label was recorded; a number is for all labels.

    Attributes
    ----------
    propensity_, inverse_ : ndarray of shape (n_labels,), float64
        Propensity of each label and its inverse.

    Examples
    --------
    >>> from skxmc.label_space import GivenPropensity
    >>> GivenPropensity([0.5, 1.0]).fit([7, 9], n_samples=10).inverse_
    array([2., 1.])
    """

    def __init__(self, propensity):
        self.propensity = propensity

    def fit(self, Y_train, n_samples=None):
        """Check the values against the number of labels.

        Parameters
        ----------
        Y_train : 0/1 matrix of shape (n_samples, n_labels), or array-like of shape (n_labels,)
            Labels or label counts; only the number of labels matters.
        n_samples : int, default=None
            Number of training rows, with counts.

        Returns
        -------
        PropensityModel
            The fitted model itself.

        Raises
        ------
        ValueError
            If a propensity is outside (0, 1] or their number is not that of the labels.
        """
        counts, _ = _label_counts(Y_train, n_samples)
        values = np.asarray(self.propensity)
        if values.dtype.kind not in "iuf" or values.shape not in ((), counts.shape):
            raise ValueError(
                f"propensity must be one number, or one for each of the {len(counts)} labels; got "
                f"the shape {values.shape} and dtype {values.dtype}."
            )
        values = np.broadcast_to(values.astype(np.float64), counts.shape).copy()
        bad = np.flatnonzero(~((values > 0) & (values <= 1)))
        if len(bad):
            raise ValueError(
                f"The propensity of label {bad[0]} is {values[bad[0]]}: it must be in (0, 1]."
            )
        self.propensity_ = values
        return self


class RichardsonPropensity(PropensityModel):
    r"""Richardson's curve of the label frequency, fitted to rows whose complete labels are known.

    .. math::

        p(x) = \text{lower} + \frac{\text{upper} - \text{lower}}{(1 + e^{-(a + g x)})^{1/\nu}},
        \qquad x = \ln \frac{N_l + 1/2}{N + 1}

    the generalised logistic curve with growth g (of any sign), intercept a and asymmetry nu, as a
    function of the logarithm of the observed *share* of rows: unlike in the JPV formula, which is a
    curve of this family in ln(N_l + B), more data of the same kind leave the propensities as they
    are.

    The curve is fitted to a few audited rows. Of the c_l complete positives of a label there, r_l
    were recorded; these are taken as beta-binomial with mean p(x_l) and a concentration that is
    fitted too, because labels of one frequency go missing at different rates (thesis figure 3.4).

    Parameters
    ----------
    per_label : bool, default=False
        False: the propensity of a label is its value on the curve. True: the posterior mean
        (r_l + s p(x_l)) / (c_l + s), s the concentration: labels with many audited positives get
        their own rate, others the curve.

    Attributes
    ----------
    propensity_, inverse_ : ndarray of shape (n_labels,), float64
        Propensity of each label and its inverse.
    lower_, upper_, growth_, intercept_, asymmetry_ : float
        Parameters of the curve.
    concentration_ : float
        Labels of one frequency have propensities of variance p (1 - p) / (concentration + 1).
        Large: the frequency explains them. Small, 10 say: it does not, so prefer
        ``per_label=True``.

    Notes
    -----
    Weak normal priors on the asymmetry, the limits and the growth keep what the data do not
    determine. Maximum of the posterior, from a rising and a falling curve; O(n_labels) a step.

    References
    ----------
    F. J. Richards. A flexible growth function for empirical use. J. Exp. Botany 10, 1959.
    E. Schultheis. PhD thesis, Aalto University, 2025, section 3.4.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.datasets import make_xmc_classification
    >>> from skxmc.label_space import RichardsonPropensity
    >>> data = make_xmc_classification(4000, 400, 100, propensity=("jpv", 0.6, 2.6), random_state=0)
    >>> audited = slice(0, 1000)
    >>> model = RichardsonPropensity().fit(
    ...     data.Y, Y_observed=data.Y[audited], Y_complete=data.Y_true[audited]
    ... )
    >>> bool(np.abs(model.propensity_ - data.propensities).mean() < 0.05)
    True
    """

    def __init__(self, per_label=False):
        self.per_label = per_label

    def fit(self, Y_train, n_samples=None, *, Y_observed, Y_complete):
        """Fit the curve.

        Parameters
        ----------
        Y_train : 0/1 matrix of shape (n_samples, n_labels), or array-like of shape (n_labels,)
            Observed labels of the training rows; or the number of training rows per label.
        n_samples : int, default=None
            Number of training rows. Required with counts, and refused with a matrix.
        Y_observed, Y_complete : 0/1 matrix of shape (n_audited, n_labels)
            Observed and complete labels of the audited rows, which may be training rows. They must
            have been chosen independently of what was recorded in them.

        Returns
        -------
        PropensityModel
            The fitted model itself.

        Raises
        ------
        ValueError
            If shapes do not match, an observed label is not among the complete ones (row and label
            are named), or there is no complete label at all.
        """
        counts, n_samples = _label_counts(Y_train, n_samples)
        Y_observed = canonical_indicator(Y_observed, name="Y_observed")
        Y_complete = canonical_indicator(Y_complete, name="Y_complete")
        if Y_observed.shape[1] != len(counts):
            raise ValueError(
                f"The audited rows have {Y_observed.shape[1]} labels, Y_train has {len(counts)}."
            )
        _, (recorded, complete) = recorded_pairs(Y_observed, Y_complete)
        if not complete.any():
            raise ValueError("Y_complete has no labels: there is nothing to fit the curve to.")
        x = _log_share(counts, n_samples)
        seen = complete > 0
        center = np.average(x[seen], weights=complete[seen])
        scale = max(
            float(np.sqrt(np.average((x[seen] - center) ** 2, weights=complete[seen]))), 0.1
        )
        data = ((x[seen] - center) / scale, recorded[seen], complete[seen])
        overall = np.clip(recorded.sum() / complete.sum(), 0.02, 0.98)
        fits = [
            minimize(
                _negative_log_posterior,
                np.array([logit(overall), growth, 0.0, -4.0, 4.0, 5.0]),
                args=data,
                method="L-BFGS-B",
                bounds=[(-30, 30), (-20, 20), (-3, 3), (-10, 3), (-3, 10), (0.0, 14.0)],
            )
            for growth in (0.5, -0.5)
        ]
        best = min(fits, key=lambda fit: fit.fun).x
        offset, growth, log_nu, _, _, log_concentration = best
        self.lower_, self.upper_ = _limits(best)
        self.growth_ = float(growth / scale)
        self.intercept_ = float(offset - self.growth_ * center)
        self.asymmetry_ = float(np.exp(log_nu))
        self.concentration_ = float(np.exp(log_concentration))
        curve = self.curve(counts, n_samples)
        if self.per_label:
            s = self.concentration_
            curve = np.clip((recorded + s * curve) / (complete + s), _SMALLEST, 1.0)
        self.propensity_ = curve
        return self

    def curve(self, counts, n_samples):
        """Values of the fitted curve, for labels of this or of similar data.

        Parameters
        ----------
        counts : array-like of shape (n_labels,)
            Number of observed positives of each label.
        n_samples : int
            Number of rows in which they were counted.

        Returns
        -------
        propensity : ndarray of shape (n_labels,), float64
            In (0, 1].
        """
        counts, n_samples = _label_counts(counts, n_samples)
        x = _log_share(counts, n_samples)
        rise = np.exp(log_expit(self.intercept_ + self.growth_ * x) / self.asymmetry_)
        return np.clip(self.lower_ + (self.upper_ - self.lower_) * rise, _SMALLEST, 1.0)


def _log_share(counts, n_samples):
    return np.log((counts + 0.5) / (n_samples + 1.0))


def _limits(theta):
    lower = expit(theta[3])
    return float(lower), float(lower + (1.0 - lower) * expit(theta[4]))


def _negative_log_posterior(theta, z, recorded, complete):
    """Beta-binomial with the mean on the curve; `theta` as in `RichardsonPropensity.fit`."""
    offset, growth, log_nu, logit_lower, logit_upper, log_concentration = theta
    lower, upper = _limits(theta)
    mean = lower + (upper - lower) * np.exp(log_expit(offset + growth * z) / np.exp(log_nu))
    mean = np.clip(mean, _SMALLEST, 1 - _SMALLEST)
    s = np.exp(log_concentration)
    likelihood = betaln(recorded + s * mean, complete - recorded + s * (1 - mean)) - betaln(
        s * mean, s * (1 - mean)
    )
    prior = log_nu**2 + ((logit_lower + 4) / 3) ** 2 + ((logit_upper - 4) / 3) ** 2
    prior += (growth / 4) ** 2 + ((log_concentration - 5) / 4) ** 2
    return -likelihood.sum() + 0.5 * prior


class JointPropensity(PropensityModel):
    r"""Propensities learned together with a classifier, from incomplete labels alone.

    For each label the observed positives are modelled as

    .. math::

        P(\tilde Y_j = 1 \mid x) = p_j \, \sigma(w_j^\top x + b_j)

    (the joint method of logistic regression for positive and unlabelled data). It is a likelihood
    with p_j as one of its parameters. With many features the maximum of that likelihood is useless:
    the model separates the training rows, and then p_j = 1 fits best. Here the likelihood of each
    value of p_j on a grid is that of *held-out* rows, after fitting w_j and b_j for this value on
    the others. A Beta distribution of the propensities over all labels is fitted to these curves
    (empirical Bayes), and p_j is the posterior mean: labels whose data say little get the mean of
    the others.

    *Identifiability.* p_j and w_j are identified if labels go missing independently of x given the
    label, if the logistic model holds, and if w_j is not 0 and x varies continuously: p_j is then
    the limit of the observed probability for the rows most certain to have the label. It follows
    that p_j is only weakly determined for a label that no row has with a high probability: there,
    p_j e^{b_j} is all that the data show. Where the model is wrong, p_j is its best excuse: a label
    that is merely hard to predict looks like one that goes missing. See `std_`, and do not rely on
    it without a look at the classifier.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the L2 penalty on w_j: 1 / (2 C) ||w_j||^2 beside the sum of the
        log-losses. b_j is not penalised.
    cv : int, default=3
        Number of folds, at least 2; row i is in fold i modulo cv of a random order.
    min_positives : int, default=20
        Labels with fewer observed positives get the mean of the others.
    n_jobs : int, default=None
        Number of processes (joblib).
    random_state : int or numpy Generator, default=None
        For the order of the rows.

    Attributes
    ----------
    propensity_, inverse_ : ndarray of shape (n_labels,), float64
        Propensity of each label and its inverse.
    std_ : ndarray of shape (n_labels,), float64
        Posterior standard deviation of each propensity. Where it is near that of the prior, the
        data have not determined the value.
    prior_ : tuple of (float, float)
        Parameters of the fitted Beta distribution of the propensities.

    Notes
    -----
    About ``100 * cv`` passes over X for each label: for thousands of rows and hundreds of labels,
    not for a million of either. Memory O(entries of X + n_labels).

    References
    ----------
    P. Teisseyre, J. Mielniczuk, M. Łazęcka. Different strategies of fitting logistic regression for
    positive and unlabelled data. ICCS 2020.
    K. Furmańczyk, J. Mielniczuk, W. Rejchel, P. Teisseyre. Double logistic regression approach to
    biased positive-unlabeled data. 2022 (identifiability). https://arxiv.org/abs/2209.07787
    E. Schultheis. PhD thesis, Aalto University, 2025, section 3.4.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.label_space import JointPropensity
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 2))
    >>> complete = X[:, :1] > 0.3  # certain given x
    >>> Y = complete & (rng.random((2000, 1)) < 0.4)
    >>> model = JointPropensity(random_state=0).fit(Y, X=X)
    >>> bool(abs(model.propensity_[0] - 0.4) < 0.05)
    True
    """

    def __init__(self, C=1.0, cv=3, min_positives=20, n_jobs=None, random_state=None):
        self.C = C
        self.cv = cv
        self.min_positives = min_positives
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, Y_train, n_samples=None, *, X):
        """Fit classifier and propensity of each label.

        Parameters
        ----------
        Y_train : 0/1 matrix of shape (n_samples, n_labels)
            Observed labels of the training rows.
        n_samples : None
            Not used; the number of rows is that of `Y_train`.
        X : sparse or dense matrix of shape (n_samples, n_features)
            Features of the training rows.

        Returns
        -------
        PropensityModel
            The fitted model itself.

        Raises
        ------
        ValueError
            If the numbers of rows differ, there are fewer than 2 * cv rows, `X` holds NaN or
            infinity, a parameter is out of its range, or no label has `min_positives` positives.
        """
        if not (sp.issparse(Y_train) or np.ndim(Y_train) == 2):
            raise ValueError("Y_train must be a label matrix: label counts do not suffice here.")
        Y = canonical_indicator(Y_train, name="Y_train")
        cv, C, min_positives = self._check_parameters()
        if sp.issparse(X):
            X = canonical_csr(X, dtype=np.float64)
        else:
            X = np.ascontiguousarray(X, dtype=np.float64)
            check_finite(X)
        if X.ndim != 2 or X.shape[0] != Y.shape[0]:
            raise ValueError(f"X has the shape {X.shape}, but Y_train has {Y.shape[0]} rows.")
        if X.shape[0] < 2 * cv:
            raise ValueError(f"{X.shape[0]} rows are too few for cv={cv} folds.")

        counts = np.bincount(Y.indices, minlength=Y.shape[1])
        labels = np.flatnonzero(counts >= min_positives)
        if not len(labels):
            raise ValueError(
                f"No label has min_positives={min_positives} observed positives: there is nothing "
                "to learn the propensities from."
            )
        order = np.random.default_rng(self.random_state).permutation(X.shape[0])
        folds = [_split(X, order, fold, cv) for fold in range(cv)]
        profiles = np.stack(_map_labels(_LabelProfile(folds, C), Y, labels, self.n_jobs))

        self.prior_ = _fit_prior(profiles)
        alone = _posterior(np.zeros((1, len(_FINE))), self.prior_)
        self.propensity_ = np.full(Y.shape[1], (alone @ _FINE)[0])
        self.std_ = np.full(Y.shape[1], _std(alone)[0])
        posterior = _posterior(profiles, self.prior_)
        self.propensity_[labels] = posterior @ _FINE
        self.std_[labels] = _std(posterior)
        return self

    def _check_parameters(self):
        for name, least in (("cv", 2), ("min_positives", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise TypeError(f"{name} must be an integer, got {value!r}.")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if not (isinstance(self.C, numbers.Real) and 0 < self.C < np.inf):
            raise ValueError(f"C must be a finite number above 0, got {self.C!r}.")
        return int(self.cv), float(self.C), int(self.min_positives)


# Values of p at which models are fitted, from the convex problem p = 1 down, and those between
# which the likelihood is interpolated.
_GRID = np.array([1.0, 0.85, 0.7, 0.55, 0.4, 0.28, 0.19, 0.12, 0.07, 0.03])
_FINE = np.linspace(0.03, 1.0, 195)


def _split(X, order, fold, cv):
    held_out = np.sort(order[fold::cv])
    kept = np.setdiff1d(order, held_out)
    return X[kept], X[held_out], kept, held_out


class _LabelProfile:
    """Held-out log-likelihood of one label at each value of `_FINE`."""

    def __init__(self, folds, C):
        self.folds, self.C = folds, C

    def __call__(self, observed):
        from scipy.interpolate import PchipInterpolator  # takes long to import

        likelihood = np.zeros(len(_GRID))
        for X_kept, X_held_out, kept, held_out in self.folds:
            y, y_held_out = observed[kept], observed[held_out]
            theta = np.zeros(X_kept.shape[1] + 1)
            theta[-1] = logit((y.sum() + 0.5) / (len(y) + 1.0))
            for position, p in enumerate(_GRID):
                theta = minimize(
                    _penalised_log_loss,
                    theta,
                    args=(X_kept, X_kept.T, y, p, self.C),
                    jac=True,
                    method="L-BFGS-B",
                    options={"maxiter": 100, "ftol": 1e-6},
                ).x
                margins = X_held_out @ theta[:-1] + theta[-1]
                likelihood[position] -= _log_loss(margins, y_held_out, p)[0]
        curve = PchipInterpolator(np.log(_GRID[::-1]), likelihood[::-1])(np.log(_FINE))
        return curve - curve.max()


def _log_loss(margins, y, p):
    """Negative log-likelihood of `p` sigma(margins), and its derivative by the margins."""
    log_eta = log_expit(margins)
    observed = p * np.exp(log_eta)
    missing = np.maximum(1.0 - observed, 1e-15)
    loss = -np.where(y, np.log(p) + log_eta, np.log(missing)).sum()
    slope = np.exp(log_expit(-margins)) * np.where(y, -1.0, observed / missing)
    return loss, slope


def _penalised_log_loss(theta, X, X_transposed, y, p, C):
    weights = theta[:-1]
    loss, slope = _log_loss(X @ weights + theta[-1], y, p)
    gradient = np.append(X_transposed @ slope + weights / C, slope.sum())
    return loss + 0.5 * (weights @ weights) / C, gradient


def _map_labels(profile, Y, labels, n_jobs):
    columns = Y.tocsc()

    def observed(label):
        y = np.zeros(Y.shape[0], dtype=bool)
        y[columns.indices[columns.indptr[label] : columns.indptr[label + 1]]] = True
        return y

    if n_jobs in (None, 1):
        return [profile(observed(label)) for label in labels]
    from joblib import Parallel, delayed

    return Parallel(n_jobs=n_jobs)(delayed(profile)(observed(label)) for label in labels)


def _log_prior(a, b):
    inside = np.minimum(_FINE, 1 - 2e-3)  # a density that is infinite at 1 has no such value
    values = (a - 1) * np.log(inside) + (b - 1) * np.log1p(-inside)
    return values - logsumexp(values)


def _fit_prior(profiles):
    """Beta parameters that maximise the product over labels of the mean likelihood."""

    def negative(log_parameters):
        joint = profiles + _log_prior(*np.exp(log_parameters))
        return -logsumexp(joint, axis=1).sum()

    # Between a bathtub and a sharp peak; the prior of a single label would otherwise be a point.
    limits = [(np.log(0.5), np.log(30.0))] * 2
    a, b = np.exp(minimize(negative, np.zeros(2), bounds=limits).x)
    return float(a), float(b)


def _posterior(profiles, prior):
    joint = profiles + _log_prior(*prior)
    return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))


def _std(posterior):
    mean = posterior @ _FINE
    return np.sqrt(np.maximum(posterior @ _FINE**2 - mean**2, 0.0))
