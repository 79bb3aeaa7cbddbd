"""UniDECClassifier over rows of numbers, without label texts: scikit-learn's checks and ours."""

import pytest
from contract import contract_params
from sklearn.utils.estimator_checks import parametrize_with_checks

from skxmc.neural import UniDECClassifier

CLASSIFIERS = [
    UniDECClassifier(
        "precomputed",
        mode="classifier",
        dimension=16,
        epochs=40,
        batch_size=16,
        random_state=0,
    )
]

# The rules that a model of random pools of labels and dense vectors cannot keep.
WITHOUT = {
    "check_label_permutation": "the pools of labels are drawn by their numbers",
    "check_topk_ties": "labels with the same rows meet different negatives",
    "check_dense_features": "sparse rows have a trainable matrix of their own as their encoder",
    "check_wide_target": "each label has a dense vector, with rows or without",
}

pytestmark = pytest.mark.slow  # a training of a second in each


@parametrize_with_checks(CLASSIFIERS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("estimator", "check"), contract_params(CLASSIFIERS, without=WITHOUT))
def test_contract_checks(estimator, check):
    check(estimator)
