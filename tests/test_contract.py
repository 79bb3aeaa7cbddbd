"""Every estimator keeps the contract: scikit-learn's checks, and ours for sparse Y."""

import pytest
from contract import contract_params
from sklearn.utils.estimator_checks import parametrize_with_checks

from skxmc import DismecClassifier

ESTIMATORS = [
    DismecClassifier(),
    DismecClassifier(loss="logistic", prune_threshold=0.0),
    DismecClassifier(weighting="propensity", normalize=None, regularize_intercept=False),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("estimator", "check"), contract_params(ESTIMATORS))
def test_contract_checks(estimator, check):
    check(estimator)
