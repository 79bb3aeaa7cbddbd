"""Every estimator keeps the contract: scikit-learn's checks, and ours for sparse Y."""

import pytest
from contract import contract_params
from sklearn.utils.estimator_checks import parametrize_with_checks

from skxmc import DismecClassifier, IsotonicXMCCalibrator, ParabelTree, SparseDSTClassifier

ESTIMATORS = [
    DismecClassifier(),
    DismecClassifier(loss="logistic", prune_threshold=0.0),
    DismecClassifier(weighting="propensity", normalize=None, regularize_intercept=False),
]

# Trees of the contract's few labels with one level, for which every rule holds, ...
FLAT_TREES = [
    ParabelTree(random_state=0),
    ParabelTree("plt", random_state=0),
]
# ... and with several: one with all that a tree can have, and the others.
DEEP_TREES = [
    ParabelTree(
        "xr-linear", max_leaf=3, search="exact", negatives="teacher+matcher", random_state=0
    ),
]
MORE_DEEP_TREES = [
    ParabelTree("plt", max_leaf=3, random_state=0),
    ParabelTree("parabel", max_leaf=2, random_state=0),
    ParabelTree("bonsai", max_leaf=2, arity=3, random_state=0),
]
CLUSTERED = {
    "check_label_permutation": "k-means starts from other labels, which gives another tree",
    "check_topk_ties": "labels with the same rows can be in different clusters",
    "check_wide_target": "the others have levels there too; leaves of 3 labels take a minute",
}
# Without a hidden layer labels do not depend on each other; with one they do, by rounding ...
SPARSE_LAYERS = [SparseDSTClassifier(hidden=None, epochs=20, random_state=0)]
HIDDEN_LAYERS = [
    SparseDSTClassifier(
        layout="group",
        group_size=2,
        fan_in=12,
        dense_head=0.3,
        hidden=24,
        hidden_init="labels",
        epochs=20,
        random_state=0,
    ),
]
# ... and by the clusters that the units and the groups start from.
BY_CLUSTER = {
    "check_label_permutation": "clusters of labels begin from other labels",
    "check_topk_ties": "labels with the same rows can be in different groups",
    "check_wide_target": "the other layer has it",
}
CALIBRATORS = [IsotonicXMCCalibrator(DismecClassifier(), cv=3, random_state=0)]
OUT_OF_FOLD = {
    "check_label_permutation": "the folds of the rows depend on the order of the labels",
    "check_single_label_and_row": "one row cannot be cut into folds",
    "check_sparse_outputs": "scores that float32 cannot tell apart differ by one unit within a row",
    "check_feature_names": "names are kept and compared by the wrapped estimator",
}

# A node's work is Python's, which tracing slows: fewer labels, and more rows for the same contrast.
WIDE = {"check_wide_target": {"n_labels": 50_000, "n_samples": 2_000}}


@parametrize_with_checks([*ESTIMATORS, *FLAT_TREES, *DEEP_TREES, *MORE_DEEP_TREES, *SPARSE_LAYERS])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(HIDDEN_LAYERS)
def test_scikit_learn_checks_of_hidden_layers(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        *contract_params(ESTIMATORS),
        *contract_params(DEEP_TREES, without=CLUSTERED),
        *contract_params(MORE_DEEP_TREES, without=CLUSTERED, slow="all"),
        *contract_params(FLAT_TREES[1:], options=WIDE),
        *contract_params(FLAT_TREES[:1], options=WIDE, slow={"check_wide_target"}),
        *contract_params(SPARSE_LAYERS),
        *contract_params(
            HIDDEN_LAYERS,
            without=BY_CLUSTER,
            options={"check_dense_features": {"tolerance": 1e-2}},
            slow="all",
        ),
        *contract_params(CALIBRATORS, without=OUT_OF_FOLD),
    ],
)
def test_contract_checks(estimator, check):
    check(estimator)
