"""MacroAtKPredictor keeps the contract: scikit-learn's checks, and ours for a sparse Y."""

import pytest
from contract import contract_params
from sklearn.utils.estimator_checks import parametrize_with_checks

from skxmc import DismecClassifier
from skxmc.decision import MacroAtKPredictor

JOINT = MacroAtKPredictor(DismecClassifier(), k=2, random_state=0)
RULE = MacroAtKPredictor(
    DismecClassifier(), k=2, method="closed-form", metric="macro_recall", random_state=0
)


# predict answers a budget, not what is more probable than not, and looks at all rows together.
BUDGET = {
    "check_sparse_outputs": "predict has k labels a row, whatever their probability",
    "check_dense_target": "predict is not probability > 0.5",
    "check_dense_output_limit": "k labels a row are never too many for a sparse result",
    "check_row_invariance": "the decision for a row depends on the others",
    "check_unusual_labels": "a label that all rows have competes for the k places",
    "check_feature_names": "names are kept and compared by the wrapped estimator",
}


@parametrize_with_checks([JOINT, RULE])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("estimator", "check"), contract_params([JOINT], without=BUDGET))
def test_contract_checks(estimator, check):
    check(estimator)
