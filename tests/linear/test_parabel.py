"""ParabelTree: scores, searches, growth, explanations, files; the contract is in test_contract.py.

Rows and classifiers of the nodes are tested in test_tree_training.py.
"""

import copy
import json
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, normalize
from traced import traced_memory

from skxmc import DismecClassifier, ParabelTree, load_model, save_model
from skxmc.datasets import load_emoji, make_xmc_classification
from skxmc.exceptions import MemoryLimitError, ModelFormatError
from skxmc.linear import PRESETS, _parabel, _tree_training
from skxmc.linear._rows import scaled_rows
from skxmc.linear._tree_weights import node_weights
from skxmc.metrics import make_topk_scorer, ndcg_at_k, precision_at_k
from skxmc.ops.csr import canonical_csr, canonical_indicator, to_dense

LINKS = ("logistic", "l1-hinge", "l2-hinge", "l3-hinge")


def problem(n_samples=150, n_features=60, n_labels=40, seed=0):
    data = make_xmc_classification(
        n_samples, n_features, n_labels, avg_features_per_sample=20, random_state=seed
    )
    return data.X, data.Y


@pytest.fixture(scope="module")
def data():
    return problem()


def small_tree(**params):
    """Three levels of clusters for 40 labels, and weights of all sizes."""
    defaults = {"max_leaf": 6, "random_state": 0, "prune_threshold": 0.01}
    return ParabelTree("parabel", **{**defaults, **params})


def edge_log_proba(score, link):
    if link == "logistic":
        return -np.logaddexp(0, -score)
    return -(np.maximum(0, 1 - score) ** int(link[1]))


def brute_force_log_proba(model, X):
    """log P of all labels from the weights, in float64: the mean of the trees' products."""
    rows = normalize(sp.csr_array(X, dtype=np.float64)).toarray()
    link = model._setting("link")
    probabilities = []
    for tree, weights in zip(model.trees_, model.weights_):
        paths = np.zeros((len(rows), tree.n_nodes))
        for v in range(tree.n_nodes):
            for position, c in enumerate(tree.children(v)):
                features, values = node_weights(weights, v, position)
                scores = rows[:, features] @ values.astype(np.float64) + float(weights.bias[c])
                paths[:, c] = paths[:, v] + edge_log_proba(scores, link)
        probabilities.append(np.exp(paths[:, tree.leaf_of]))
    with np.errstate(divide="ignore"):
        return np.log(np.mean(probabilities, axis=0))


def assert_same_weights(first, second):
    assert first.trees_ == second.trees_
    for a, b in zip(first.weights_, second.weights_, strict=True):
        for name, x, y in zip(a._fields, a, b):
            assert x.dtype == y.dtype
            assert_array_equal(x, y, err_msg=name)


# ------------------------------------------------------------------ scores


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("n_trees", [1, 3])
def test_scores_are_means_of_products_of_edge_probabilities(data, link, n_trees):
    X, Y = data
    loss = "logistic" if link == "logistic" else "squared_hinge"
    model = small_tree(link=link, loss=loss, n_trees=n_trees).fit(X, Y.toarray())
    log_p = brute_force_log_proba(model, X)
    seen = np.isfinite(log_p[0])
    assert_array_equal(seen, Y.toarray().any(axis=0))
    p = np.exp(log_p)
    proba, margins = model.predict_proba(X), model.decision_function(X)
    assert_allclose(proba, p, rtol=2e-4, atol=1e-30)
    certain = p > 1 - 1e-6
    with np.errstate(divide="ignore"):
        logit = log_p - np.log1p(-np.minimum(p, 1 - 1e-12))
    assert_allclose(margins[~certain], logit[~certain], rtol=1e-3, atol=1e-3)
    assert (margins[certain] > 10).all()
    assert np.isneginf(margins[:, ~seen]).all()
    assert_array_equal(model.predict(X), proba > 0.5)
    sparse = small_tree(link=link, loss=loss, n_trees=n_trees, search="exact", top_k=7).fit(X, Y)
    kept = sparse.predict_proba(X)
    assert (np.diff(kept.indptr) == 7).all()
    coo = kept.tocoo()
    assert_array_equal(coo.data, proba[coo.row, coo.col])


def test_path_of_probability_one_has_the_largest_finite_margin():
    X = np.eye(4)
    model = ParabelTree("parabel", C=100.0, random_state=0, tol=1e-6).fit(X, np.eye(4, dtype=int))
    model.weights_ = [
        w._replace(bias=np.where(np.isfinite(w.bias), 50, w.bias).astype(np.float32))
        for w in model.weights_
    ]
    model._search.clear()
    assert (model.decision_function(X) == 104).all()
    assert (model.predict_proba(X) < 1).all()


def test_plt_is_the_chain_rule_with_a_classifier_of_the_root(data):
    X, Y = data
    Y = Y.toarray().copy()
    Y[::5] = 0  # rows that have no label at all
    model = ParabelTree("plt", max_leaf=6, random_state=0, prune_threshold=0).fit(X, Y)
    tree, weights = model.trees_[0], model.weights_[0]
    assert list(tree.children(0)) == [1]
    any_label = Y.any(axis=1)
    features, values = node_weights(weights, 0, 0)
    rows = normalize(X).toarray()
    p_any = 1 / (1 + np.exp(-(rows[:, features] @ values + weights.bias[1])))
    # the optimal bias of a logistic model (almost not regularised) gives the right mean
    assert p_any.mean() == pytest.approx(any_label.mean(), abs=0.02)
    assert p_any[any_label].mean() > p_any[~any_label].mean() + 0.1
    # no label is more probable than that there is one
    assert (model.predict_proba(X) <= p_any[:, None] * (1 + 1e-5)).all()
    # with C large the expected number of labels is about right
    assert model.predict_proba(X).sum() == pytest.approx(Y.sum(), rel=0.25)
    without = ParabelTree("plt", max_leaf=6, root_classifier=False, random_state=0).fit(X, Y)
    assert without.trees_[0].n_nodes == tree.n_nodes - 1


def test_flat_tree_is_one_vs_all(data):
    X, Y = data
    setting = {"tol": 1e-6, "prune_threshold": 0.0}
    for loss, C in (("squared_hinge", 1.0), ("logistic", 4.0)):
        flat = ParabelTree(n_trees=1, max_leaf=40, loss=loss, C=C, link="logistic", **setting)
        flat.fit(X, Y)
        assert flat.trees_[0].max_depth == 1
        dismec = DismecClassifier(C=C, loss=loss, **setting).fit(X, Y)
        coef = np.zeros(Y.shape[::-1][:1] + (X.shape[1],))
        for label in range(Y.shape[1]):
            leaf = flat.trees_[0].leaf_of[label]
            features, values = node_weights(flat.weights_[0], 0, leaf - 1)
            coef[label, features] = values
        assert_allclose(coef, dismec.coef_.toarray(), atol=3e-3)
        bias = flat.weights_[0].bias[flat.trees_[0].leaf_of]
        assert_array_equal(np.isneginf(bias), np.isneginf(dismec.intercept_))
        assert_allclose(bias, dismec.intercept_, atol=3e-3)


def test_scores_follow_a_link_that_is_changed_after_fit(data):
    X, Y = data
    model = small_tree(link="l2-hinge").fit(X, Y.toarray())
    before = model.predict_proba(X)
    model.set_params(link="l1-hinge")
    assert_allclose(model.predict_proba(X), np.exp(brute_force_log_proba(model, X)), rtol=2e-4)
    model.set_params(link="l2-hinge")
    assert_array_equal(model.predict_proba(X), before)


# ------------------------------------------------------------------ search


def dense_log_proba(model, X):
    """Log-probabilities as the model computes them for all labels."""
    exact = copy.copy(model)
    exact._target_kind = "dense"
    return exact.predict_proba(X), exact.decision_function(X)


@pytest.mark.parametrize("n_trees", [1, 3])
def test_exact_search_finds_the_best_of_all_labels(data, n_trees):
    X, Y = data
    model = small_tree(n_trees=n_trees, search="exact").fit(X, Y)
    _, margins = dense_log_proba(model, X)
    for k in (1, 5, 40, 43):
        answers = model.predict_topk(X, k=k)
        for i in range(X.shape[0]):
            best = np.lexsort((np.arange(40), -margins[i]))[: min(k, 40)]
            best = best[np.isfinite(margins[i, best])]
            assert_array_equal(answers.labels[i, : len(best)], best)
            assert_array_equal(answers.scores[i, : len(best)], margins[i, best])
            assert (answers.labels[i, len(best) :] == -1).all()


def test_wide_beam_is_exact_and_a_narrow_one_loses(data):
    X, Y = data
    model = small_tree(n_trees=1, beam_size=1).fit(X, Y)
    narrow = model.predict_topk(X, k=5)
    exact = clone(model).set_params(search="exact").fit(X, Y).predict_topk(X, k=5)
    wide = model.set_params(beam_size=10_000).predict_topk(X, k=5)
    assert_array_equal(wide.labels, exact.labels)
    assert_array_equal(wide.scores, exact.scores)
    assert (narrow.labels != exact.labels).any()
    assert (narrow.scores <= exact.scores).all()


def test_more_answers_than_the_beam_reaches(data):
    X, Y = data
    model = small_tree(n_trees=1, beam_size=1, top_k=30).fit(X, Y)
    assert np.diff(model.trees_[0].child_start).max() < 30
    seen = Y.toarray().any(axis=0)
    answers = model.predict_topk(X, k=30)
    assert seen.sum() >= 30
    assert (answers.labels >= 0).all()
    exact = model.set_params(search="exact").predict_topk(X, k=30)
    assert_array_equal(answers.labels, exact.labels)


@pytest.mark.parametrize(("n_trees", "search"), [(1, "exact"), (3, "exact"), (1, "beam")])
def test_exclude_and_candidates(data, n_trees, search):
    X, Y = data
    model = small_tree(n_trees=n_trees, search=search, beam_size=50).fit(X, Y)
    full = model.predict_topk(X, k=40)
    rng = np.random.default_rng(0)
    banned, allowed = rng.random(Y.shape) < 0.6, rng.random(Y.shape) < 0.4
    answers = model.predict_topk(X, k=6, exclude=sp.csr_array(banned))
    both = model.predict_topk(
        X, k=6, exclude=sp.csr_array(banned), candidates=sp.csr_array(allowed)
    )
    for i in range(X.shape[0]):
        labels = full.labels[i][full.labels[i] >= 0]
        for found, valid in ((answers, ~banned[i]), (both, allowed[i] & ~banned[i])):
            kept = labels[valid[labels]][:6]
            assert_array_equal(found.labels[i, : len(kept)], kept)
            assert (found.labels[i, len(kept) :] == -1).all()


@pytest.mark.parametrize("n_trees", [1, 3])
@pytest.mark.parametrize("with_offset", [False, True])
def test_gains(data, n_trees, with_offset):
    X, Y = data
    model = small_tree(n_trees=n_trees).fit(X, Y)
    p = np.exp(brute_force_log_proba(model, X))
    rng = np.random.default_rng(0)
    gain = rng.uniform(0, 10, 40)
    gain[5] = 0
    offset = rng.normal(size=40) if with_offset else None
    seen = p[0] > 0
    value = np.where(seen, gain * p + (offset if with_offset else 0), -np.inf)
    answers = model.predict_gain(X, k=5, gain=gain, offset=offset)
    expected = -np.sort(-value, axis=1)[:, :5]
    assert_allclose(answers.scores, expected, rtol=1e-3, atol=1e-6)
    assert_allclose(np.take_along_axis(value, answers.labels, 1), expected, rtol=1e-3, atol=1e-6)
    # the same with restrictions
    banned = sp.csr_array(rng.random(Y.shape) < 0.5)
    answers = model.predict_gain(X, k=3, gain=gain, offset=offset, exclude=banned)
    value[banned.toarray() > 0] = -np.inf
    assert_allclose(answers.scores, -np.sort(-value, axis=1)[:, :3], rtol=1e-3, atol=1e-6)
    # by a wide beam, and padded
    wide = model.set_params(beam_size=1000)
    beam = wide.predict_gain(X, k=45, gain=gain, offset=offset, exclude=banned, exact=False)
    assert_allclose(beam.scores[:, :3], answers.scores, rtol=1e-4, atol=1e-6)
    assert beam.labels.shape == (X.shape[0], 45)
    assert (beam.labels[:, -5:] == -1).all()


@pytest.mark.parametrize("n_trees", [1, 3])
def test_all_labels_above_a_threshold(data, n_trees):
    X, Y = data
    model = small_tree(n_trees=n_trees).fit(X, Y)
    p = np.exp(brute_force_log_proba(model, X))
    thresholds = np.random.default_rng(0).uniform(0.001, 0.9, 40)
    for threshold in (0.5, 0.05, 1e-6, thresholds):
        found = model.predict_above(X, threshold)
        assert found.dtype == np.float32
        assert found.has_sorted_indices
        assert found.shape == Y.shape
        clear = np.abs(p / threshold - 1) > 1e-3
        assert_array_equal((found.toarray() > 0)[clear], (p >= threshold)[clear])
        coo = found.tocoo()
        assert_allclose(coo.data, p[coo.row, coo.col], rtol=2e-4)


# ------------------------------------------------------------------ ensembles, seeds, presets


def test_trees_differ_and_their_probabilities_are_averaged(data):
    X, Y = data
    model = small_tree(n_trees=3).fit(X, Y.toarray())
    assert model.trees_[0] != model.trees_[1]
    total = np.zeros(Y.shape)
    for number in range(3):
        one = copy.copy(model)
        one.trees_, one.weights_, one._search = [model.trees_[number]], [model.weights_[number]], {}
        total += one.predict_proba(X)
    assert_allclose(model.predict_proba(X), total / 3, rtol=1e-4, atol=1e-30)
    assert model.n_iter_ >= 1


def test_seed_and_threads(data):
    X, Y = data
    model = small_tree(n_jobs=1, negatives="teacher+matcher").fit(X, Y)
    for n_jobs in (2, 3):
        again = clone(model).set_params(n_jobs=n_jobs).fit(X, Y)
        assert_same_weights(model, again)
        for a, b in zip(model.predict_topk(X, k=9), again.predict_topk(X, k=9)):
            assert_array_equal(a, b)
    other = clone(model).set_params(random_state=1).fit(X, Y)
    assert other.trees_ != model.trees_


def test_presets_are_the_table_of_the_docstring():
    lines = ParabelTree.__doc__.splitlines()
    rules = [n for n, line in enumerate(lines) if line.strip().startswith("====")]
    header = lines[rules[0] + 1].split()
    assert header[0] == "parameter"
    documented = {name: {} for name in header[1:]}
    for line in lines[rules[1] + 1 : rules[2]]:
        name, *values = line.split()
        if "presets" in values:  # "... in all presets"
            values = [values[0]] * 4
        for preset, value in zip(header[1:], values, strict=True):
            documented[preset][name] = json.loads(
                value.replace("None", "null").replace("True", "true").replace("False", "false")
            )
    for preset, setting in PRESETS.items():
        assert documented[preset].pop("relevance_norm", None) == setting["relevance_norm"]
        assert documented[preset] == {k: v for k, v in setting.items() if k != "relevance_norm"}
    assert set(documented) == set(PRESETS)


def test_the_preset_auto_depends_on_the_number_of_labels(monkeypatch, data):
    X, Y = data
    few = ParabelTree(random_state=0, max_leaf=6).fit(X, Y)
    assert few.preset_ == {**PRESETS["parabel"], "arity": 16}
    assert_same_weights(few, ParabelTree("parabel", arity=16, random_state=0, max_leaf=6).fit(X, Y))
    monkeypatch.setattr(_parabel, "_FEW_LABELS", Y.shape[1] - 1)
    many = ParabelTree(random_state=0, max_leaf=6).fit(X, Y)
    assert many.preset_ == PRESETS["bonsai"]
    assert_same_weights(many, ParabelTree("bonsai", random_state=0, max_leaf=6).fit(X, Y))
    # labels that come later do not change what the model is
    monkeypatch.setattr(_parabel, "_FEW_LABELS", Y.shape[1])
    few = ParabelTree(random_state=0, max_leaf=6).fit(X, Y)
    few.add_labels(X, sp.hstack([Y, Y[:, :3]], format="csr"))
    assert few.preset_["clustering"] == "bisect"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_label_with_positives_can_be_answered(data, preset):
    X, Y = data
    model = ParabelTree(preset, max_leaf=6, random_state=0).fit(X, Y)
    seen = np.flatnonzero(Y.toarray().any(axis=0))
    everything = model.set_params(search="exact").predict_topk(X, k=40).labels
    for tree, weights in zip(model.trees_, model.weights_):
        for label in range(40):
            reachable = np.isfinite(weights.bias[tree.path(label)[1:]]).all()
            assert reachable == (label in seen)
    for row in everything:
        assert_array_equal(np.sort(row[row >= 0]), seen)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_learn(preset):
    bunch = load_emoji(return_tfidf=True)
    model = ParabelTree(preset, max_leaf=30, random_state=0).fit(bunch.X_train, bunch.Y_train)
    answers = model.predict_topk(bunch.X_test, k=5)
    # the most frequent keyword alone reaches less than 10 %
    assert precision_at_k(bunch.Y_test, answers, k=1) > 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"negatives": "matcher"},
        {"negatives": "teacher+matcher", "n_matcher": 3},
        {"relevance": "induce", "relevance_norm": "l1"},
        {"relevance": "leaf", "relevance_norm": "max"},
        {"label_representation": "cooccurrence"},
        {"label_representation": "pifa+cooccurrence", "row_norm": True},
        {"clustering": "balanced", "arity": 3},
        {"clustering": "unbalanced", "arity": 5, "max_depth": 2},
        {"normalize": None},
        {"fit_intercept": False},
        {"regularize_intercept": False, "negative_cost": 0.5},
    ],
)
def test_ingredients_learn(data, options):
    X, Y = data
    scores = {}
    for name, model in (("plain", small_tree()), ("other", small_tree(**options))):
        scores[name] = ndcg_at_k(Y, model.fit(X, Y).predict_topk(X, k=5), k=5)
    assert scores["other"] > scores["plain"] - 0.15
    for tree in model.trees_:
        assert tree.max_depth <= (options.get("max_depth") or tree.max_depth)


def test_relevance_moves_the_model_towards_what_is_relevant(data):
    X, Y = data
    R = Y.astype(np.float32)
    R.data[R.indices == 3] = 50.0
    model = small_tree(n_trees=1, relevance="induce").fit(X, Y.toarray(), relevance=R)
    plain = small_tree(n_trees=1).fit(X, Y.toarray())
    positive = Y.toarray()[:, 3] > 0
    gain = model.decision_function(X)[positive, 3] - plain.decision_function(X)[positive, 3]
    assert gain.mean() > 0.1


def test_given_negatives_lower_the_labels_they_name(data):
    X, Y = data
    plain = small_tree(n_trees=1).fit(X, Y.toarray())
    margins = plain.decision_function(X)
    rows = np.flatnonzero(Y.toarray()[:, 3] == 0)
    pairs = sp.csr_array((np.ones(len(rows)), (rows, np.full(len(rows), 3))), shape=Y.shape)
    model = small_tree(n_trees=1).fit(X, Y.toarray(), negatives=pairs)
    assert model.decision_function(X)[rows, 3].mean() < margins[rows, 3].mean()
    only = small_tree(n_trees=1, negatives="given").fit(X, Y.toarray(), negatives=pairs)
    assert np.isfinite(only.decision_function(X)[:, 3]).all()


# ------------------------------------------------------------------ growth


def rows_below(tree, Y, v):
    return np.flatnonzero(Y[:, tree.labels_below(v)].sum(axis=1))


def full_training(model, X, Y, tree):
    """The weights of a given tree, all trained."""
    X = scaled_rows(canonical_csr(X, np.float32), model.normalize)
    Y = canonical_indicator(Y)
    positives = model._positives(tree, Y, None)
    return _tree_training.train_tree(tree, X, positives, model._task())[0]


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("max_leaf", [3, 8])
def test_growth_is_the_training_of_the_grown_tree(monkeypatch, preset, max_leaf):
    X, Y = problem(n_labels=60)
    model = ParabelTree(preset, max_leaf=max_leaf, random_state=0).fit(X, Y[:, :40])
    trained, growths = [], []
    solve, grow = _tree_training._Trainer._solve, _parabel.grow_tree

    def watched_solve(self, part):
        trained[-1].add(part[0])
        return solve(self, part)

    def watched_grow(*args, **kwargs):
        trained.append(set())
        growths.append(grow(*args, **kwargs))
        return growths[-1]

    monkeypatch.setattr(_tree_training._Trainer, "_solve", watched_solve)
    monkeypatch.setattr(_parabel, "grow_tree", watched_grow)
    old = copy.copy(model)
    for n_labels in (43, 60):  # several in a row
        trained.clear()
        growths.clear()
        assert model.add_labels(X, Y[:, :n_labels]) is model
        assert model.n_labels_ == n_labels
        assert_array_equal(model.classes_, np.arange(n_labels))
        for number, tree in enumerate(model.trees_):
            growth = growths[number]
            assert tree == growth.tree
            # only these nodes are trained, those with positives below them
            with_rows = {0} | {
                v for v in growth.touched.tolist() if len(rows_below(tree, Y[:, :n_labels], v))
            }
            assert trained[number] == with_rows
            if n_labels == 43 and max_leaf == 3:
                assert len(growth.touched) < 0.7 * np.count_nonzero(tree.label < 0)
        for tree, weights in zip(model.trees_, model.weights_):
            expected = full_training(model, X, Y[:, :n_labels], tree)
            for name, a, b in zip(weights._fields, weights, expected):
                assert a.dtype == b.dtype
                assert_array_equal(a, b, err_msg=name)
    assert old.n_labels_ == 40
    assert old.trees_[0].n_labels == 40  # what was there before is as it was
    answers = model.set_params(search="exact").predict_topk(X, k=60)
    assert set(np.unique(answers.labels)) - {-1} == set(np.flatnonzero(Y.toarray().any(axis=0)))


def test_grown_model_is_about_as_accurate_as_a_refit():
    bunch = load_emoji(return_tfidf=True)
    order = np.random.default_rng(0).permutation(bunch.Y_train.shape[1])
    Y, Y_test = (sp.csr_array(part[:, order]) for part in (bunch.Y_train, bunch.Y_test))
    n_old = int(0.8 * len(order))
    model = ParabelTree("xr-linear", random_state=0).fit(bunch.X_train, Y[:, :n_old])
    model.add_labels(bunch.X_train, Y)
    refit = ParabelTree("xr-linear", random_state=0).fit(bunch.X_train, Y)
    for k in (1, 5):
        grown, full = (
            precision_at_k(Y_test, m.predict_topk(bunch.X_test, k=5), k=k) for m in (model, refit)
        )
        assert grown > full - 0.03


def test_growth_of_a_model_with_dense_targets(data):
    X, Y = data
    sparse, dense = small_tree().fit(X, Y[:, :30]), small_tree().fit(X, Y[:, :30].toarray())
    sparse.add_labels(X, Y)
    dense.add_labels(X.toarray(), Y.toarray())
    assert isinstance(dense.predict(X), np.ndarray)
    assert dense.predict_proba(X).shape == Y.shape
    assert sp.issparse(sparse.predict(X))
    assert sparse.trees_ == dense.trees_
    assert_array_equal(dense.predict_topk(X, k=3).labels, sparse.predict_topk(X, k=3).labels)


def test_growth_with_label_text_relevance_and_negatives(data):
    X, Y = data
    text = [f"word{c % 7} word{c % 11}" for c in range(40)]
    rng = np.random.default_rng(0)
    relevance = sp.csr_array(rng.uniform(0.5, 2, Y.shape) * Y.toarray())
    pairs = sp.csr_array(rng.random(Y.shape) < 0.1)
    model = small_tree(label_representation="pifa+text", relevance="induce")
    model.fit(X, Y[:, :30], label_text=text[:30], relevance=relevance[:, :30])
    model.add_labels(X, Y, label_text=text, relevance=relevance, negatives=pairs)
    assert model.predict_topk(X, k=40).labels.max() == 39
    with pytest.raises(ValueError, match="label_text"):
        model.add_labels(X, sp.hstack([Y, Y], format="csr"))


def test_growth_that_fails_changes_nothing(monkeypatch, data):
    X, Y = data
    model = small_tree().fit(X, Y[:, :30])
    expected = model.predict_topk(X, k=30)
    before = dict(vars(model))
    calls = []
    train = _tree_training.train_tree

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no more")
        return train(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_parabel._tree_training, "train_tree", fails)
        with pytest.raises(MemoryError):
            model.add_labels(X, Y)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before)
    for a, b in zip(model.predict_topk(X, k=30), expected):
        assert_array_equal(a, b)


def test_growth_refuses(data):
    X, Y = data
    with pytest.raises(NotFittedError):
        small_tree().add_labels(X, Y)
    model = small_tree().fit(X, Y)
    with pytest.raises(ValueError, match="40 labels of the model and new ones"):
        model.add_labels(X, Y)
    with pytest.raises(ValueError, match="it has 20"):
        model.add_labels(X, Y[:, :20])
    wide = sp.hstack([Y, Y], format="csr")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.add_labels(X[:-1], wide)
    with pytest.raises(ValueError, match="is expecting 60 features"):
        model.add_labels(X[:, :-1], wide)
    with pytest.raises(ValueError, match=r"row 0.* column"):
        model.add_labels(X, wide * 2)
    with pytest.raises(ValueError, match="two-dimensional"):
        model.add_labels(X, np.arange(X.shape[0]))
    for y in (np.arange(X.shape[0]) % 2, np.arange(X.shape[0]) % 5):
        with pytest.raises(ValueError, match="2-D indicator"):
            small_tree().fit(X, y).add_labels(X, wide)


def test_new_labels_without_positives_and_a_negative_of_theirs(data):
    X, Y = data
    model = small_tree().fit(X, Y)
    wide = sp.hstack([Y, sp.csr_array((Y.shape[0], 5), dtype=Y.dtype)], format="csr")
    model.add_labels(X, wide)
    assert model.n_labels_ == 45
    assert model.set_params(search="exact").predict_topk(X, k=45).labels.max() < 40


# ------------------------------------------------------------------ explanations


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_explanations_add_up(data, preset):
    X, Y = data
    model = ParabelTree(preset, max_leaf=6, random_state=0).fit(X, Y.toarray())
    log_p = brute_force_log_proba(model, X)
    for i, label in ((0, int(Y[[0]].indices[0])), (7, 12), (31, 30)):
        steps = model.explain(X[[i]], label, n_features=1000)
        by_tree = np.zeros(len(model.trees_))
        for step in steps:
            assert step.score == pytest.approx(step.bias + step.contributions.sum(), abs=1e-5)
            expected = edge_log_proba(step.score, model._setting("link"))
            assert step.log_probability == pytest.approx(expected, rel=1e-6)
            values = normalize(X[[i]]).toarray()[0]
            assert (values[step.features] != 0).all()
            assert (np.diff(np.abs(step.contributions)) <= 0).all()
            by_tree[step.tree] += step.log_probability
        for number, tree in enumerate(model.trees_):
            nodes = [step.node for step in steps if step.tree == number]
            assert nodes == tree.path(label)[1:].tolist()
        assert steps[-1].label == label
        with np.errstate(divide="ignore"):
            assert np.log(np.exp(by_tree).mean()) == pytest.approx(log_p[i, label], abs=1e-3)
        few = model.explain(X[[i]], label, n_features=2)
        assert all(len(step.features) <= 2 for step in few)
        assert [step.score for step in few] == [step.score for step in steps]
        dense = model.explain(X[[i]].toarray(), np.int64(label))
        assert [step.node for step in dense] == [step.node for step in steps]


def test_explanations_refuse(data):
    X, Y = data
    model = small_tree().fit(X, Y)
    with pytest.raises(ValueError, match="one row, got 2"):
        model.explain(X[:2], 0)
    for label in (-1, 40, 1.5, "1"):
        with pytest.raises(ValueError, match=r"label must be an integer in 0 \.\. 39"):
            model.explain(X[[0]], label)
    with pytest.raises(NotFittedError):
        small_tree().explain(X[[0]], 0)
    empty = model.explain(sp.csr_array((1, 60)), 3)
    assert all(len(step.features) == 0 and step.score == step.bias for step in empty)


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("preset", ["bonsai", "plt"])
@pytest.mark.parametrize("options", [{}, {"compress": True}])
def test_save_and_load(tmp_path, data, preset, options):
    X, Y = data
    model = ParabelTree(preset, max_leaf=6, random_state=0).fit(X, Y)
    expected = model.predict_topk(X, k=7)
    save_model(model, tmp_path / "model", **options)
    for mmap in (True, False):
        loaded = load_model(tmp_path / "model", mmap=mmap)
        assert loaded.get_params() == model.get_params()
        assert_same_weights(loaded, model)
        for a, b in zip(loaded.predict_topk(X, k=7), expected):
            assert_array_equal(a, b)
        assert_array_equal(loaded.predict(X).toarray(), model.predict(X).toarray())
        loaded.add_labels(X, sp.hstack([Y, Y[:, :3]], format="csr"))
    save_model(load_model(tmp_path / "model"), tmp_path / "model", overwrite=True)
    assert_same_weights(load_model(tmp_path / "model"), model)


def test_float16_weights(tmp_path, data):
    X, Y = data
    model = small_tree(prune_threshold=0.0).fit(X, Y)
    for options in ({}, {"compress": True}):
        path = tmp_path / f"model-{len(options)}"
        save_model(model, path, weights_dtype="float16", **options)
        loaded = load_model(path)
        for a, b in zip(loaded.weights_, model.weights_):
            assert a.weight.dtype == np.float32
            assert_array_equal(a.weight, b.weight.astype(np.float16).astype(np.float32))
            assert_array_equal(a.bias, b.bias)
            assert_array_equal(a.child, b.child)
        same = loaded.predict_topk(X, k=1).labels == model.predict_topk(X, k=1).labels
        assert same.mean() > 0.95
    sizes = {}
    for name, weights_dtype in (("half", "float16"), ("full", "float32")):
        save_model(model, tmp_path / name, weights_dtype=weights_dtype)
        sizes[name] = sum(p.stat().st_size for p in (tmp_path / name).iterdir())
    n_weights = sum(len(w.weight) for w in model.weights_)
    assert sizes["full"] - sizes["half"] == pytest.approx(2 * n_weights, rel=0.05)


def test_copies(data):
    X, Y = data
    model = small_tree().fit(X, Y)
    expected = model.predict_topk(X, k=5)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert_same_weights(again, model)
        for a, b in zip(again.predict_topk(X, k=5), expected):
            assert_array_equal(a, b)
        again.add_labels(X, sp.hstack([Y, Y], format="csr"))
        assert model.n_labels_ == 40
        for a, b in zip(model.predict_topk(X, k=5), expected):
            assert_array_equal(a, b)
    fresh = clone(model)
    assert not hasattr(fresh, "trees_")
    assert fresh.get_params() == model.get_params()
    assert len(pickle.dumps(model)) < 2 * len(pickle.dumps(pickle.loads(pickle.dumps(model))))
    assert pickle.loads(pickle.dumps(fresh)).get_params() == fresh.get_params()


CORRUPT = {
    "child out of range": ("child", lambda a: np.full_like(a, 255)),
    "child not ascending": ("child", lambda a: a[::-1].copy()),
    "feature out of range": ("feature_steps", lambda a: np.full_like(a, np.iinfo(a.dtype).max)),
    "feature twice": ("feature_steps", lambda a: np.zeros_like(a)),
    "rows too long": ("row_lengths", lambda a: a + a.dtype.type(1)),
    "too few rows": ("row_lengths", lambda a: a[:-1]),
    "chunks too long": ("chunk_lengths", lambda a: a + a.dtype.type(1)),
    "too few chunks": ("chunk_lengths", lambda a: a[:-1]),
    "too few children": ("child", lambda a: a[:-1]),
    "too few biases": ("bias", lambda a: a[:-1]),
    "bias of NaN": ("bias", lambda a: np.where(np.arange(len(a)) == 3, np.nan, a).astype("f4")),
    "bias of another dtype": ("bias", lambda a: a.astype(np.float64)),
    "too few weights": ("weight", lambda a: a[:-1]),
    "infinite weight": (
        "weight",
        lambda a: np.where(np.arange(len(a)) == 3, np.inf, a).astype("f4"),
    ),
    "two-dimensional": ("weight", lambda a: a[:, None]),
    "label twice": ("label", lambda a: np.where(a == 1, 0, a).astype(a.dtype)),
    "label out of range": ("label", lambda a: np.where(a == 1, 99, a).astype(a.dtype)),
    "no child": ("child_start", lambda a: np.minimum(a, 7).astype(a.dtype)),
    "cycle": ("child_start", lambda a: np.where(np.arange(len(a)) == 1, 1, a).astype(a.dtype)),
    "too few nodes": ("child_start", lambda a: a[:-1]),
    "float indices": ("row_lengths", lambda a: a.astype(np.float64) + 0.5),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("saved") / "model"
    # with a dtype: in the form that takes less room than the arrays that are mapped
    save_model(small_tree(n_trees=2).fit(*data), path, weights_dtype="float32")
    return path


@pytest.mark.parametrize("what", CORRUPT)
def test_corrupt_arrays_are_refused(tmp_path, saved, what):
    """Also where the checksums would be right, or are not looked at."""
    from skxmc.io import _arrays

    name, change = CORRUPT[what]
    header = json.loads((saved / "model.json").read_text())
    (entry,) = [n for n in header["arrays"] if n.endswith(f".1.{name}")]
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    array = change(np.load(saved / f"{entry}.npy"))
    np.save(tmp_path / f"{entry}.npy", array)
    header["arrays"][entry] = {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "crc32": _arrays.crc32(array),
    }
    (tmp_path / "model.json").write_text(json.dumps(header))
    for mmap in (True, False):
        with pytest.raises(ModelFormatError):
            load_model(tmp_path, mmap=mmap)


def test_models_that_do_not_fit_together_are_refused(tmp_path, data):
    X, Y = data
    for number, change in enumerate(
        (
            lambda m: setattr(m, "weights_", m.weights_[:1]),
            lambda m: setattr(m, "n_labels_", 41),
            lambda m: setattr(m, "n_features_in_", 5),
            lambda m: (setattr(m, "weights_", []), setattr(m, "trees_", [])),
            lambda m: setattr(m, "weights_", m.weights_[::-1]),
        )
    ):
        model = ParabelTree("bonsai", max_leaf=5, arity=4, random_state=0).fit(X, Y)
        change(model)
        path = tmp_path / str(number)
        try:
            save_model(model, path)
        except (ValueError, IndexError):  # already the packing finds it
            continue
        with pytest.raises(ModelFormatError):
            load_model(path)


# ------------------------------------------------------------------ scikit-learn


def test_grid_search_over_presets(data):
    X, Y = data
    search = GridSearchCV(
        make_pipeline(Normalizer(), ParabelTree(max_leaf=6, random_state=0)),
        {"parabeltree__preset": ["plt", "xr-linear"], "parabeltree__C": ["preset", 0.3]},
        cv=2,
        scoring=make_topk_scorer("precision", k=3),
        error_score="raise",
    )
    search.fit(X, Y)
    assert 0.2 < search.best_score_ <= 1
    assert len(set(search.cv_results_["mean_test_score"])) > 1


# ------------------------------------------------------------------ bad input


def test_labels_without_positives_are_placed_and_never_answered(data):
    X, Y = data
    Y = Y.toarray().copy()
    never = [0, 17, 39]
    Y[:, never] = 0
    for preset in PRESETS:
        model = ParabelTree(preset, max_leaf=3, random_state=0).fit(X, Y)
        for tree in model.trees_:
            assert tree.n_labels == 40
        assert not np.isin(model.predict_topk(X, k=40).labels, never).any()
        assert (model.predict_proba(X)[:, never] < 1e-30).all()
        assert not np.isin(model.predict_above(X, 1e-6).indices, never).any()
        gains = model.predict_gain(X, k=40, gain=np.ones(40), offset=np.arange(40.0))
        assert not np.isin(gains.labels, never).any()


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("n_labels", [1, 2, 3])
def test_few_labels(data, preset, n_labels):
    X, Y = data
    Y = sp.csr_array(Y[:, 2 : 2 + n_labels])
    for params in ({}, {"max_leaf": 1}, {"max_leaf": 1, "beam_size": 1000, "max_depth": 5}):
        model = ParabelTree(preset, random_state=0, **params).fit(X, Y)
        answers = model.predict_topk(X, k=5)
        assert (answers.labels[:, n_labels:] == -1).all()
        assert_array_equal(np.sort(answers.labels[:, :n_labels])[0], np.arange(n_labels))
        if n_labels > 1:
            assert precision_at_k(Y, answers, k=1) > 1.2 * Y.sum(axis=0).max() / Y.shape[0]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_rows_that_are_all_alike(preset):
    X = np.ones((30, 4))
    Y = np.random.default_rng(0).random((30, 20)) < 0.2
    model = ParabelTree(preset, max_leaf=2, random_state=0).fit(X, Y)
    answers = model.predict_topk(X, k=20)
    assert np.isfinite(answers.scores[:, 0]).all()
    assert (answers.labels == answers.labels[0]).all()


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_rows_without_features(data, preset, n_jobs):
    X, Y = data
    X = X.copy()
    X.data[: X.indptr[3]] = 0
    model = ParabelTree(preset, max_leaf=4, random_state=0, n_jobs=n_jobs).fit(X, Y)
    empty = sp.csr_array((2, 60))
    answers = model.predict_topk(empty, k=3)
    assert (answers.labels >= 0).all()
    assert_array_equal(answers.labels[0], model.predict_topk(X[:1], k=3).labels[0])
    nothing = ParabelTree(preset, max_leaf=4, random_state=0, n_jobs=n_jobs).fit(X * 0, Y)
    assert np.isfinite(nothing.predict_topk(X, k=3).scores).all()


@pytest.mark.parametrize(
    ("params", "arguments", "message"),
    [
        ({"preset": "omikuji"}, {}, "preset"),
        ({"clustering": "bisect", "arity": 6}, {}, 'power of two, got 6: use\\s+clustering="bal'),
        ({"label_representation": "text"}, {}, "pass label_text"),
        ({}, {"label_text": ["a"] * 40}, "label_text=given"),
        ({"label_representation": "text"}, {"label_text": ["red"] * 39}, "39 labels.*40 columns"),
        ({"negatives": "given"}, {}, "pass negatives to fit"),
        ({"relevance_norm": "l1"}, {}, "relevance_norm='l1' without relevance"),
        ({}, {"relevance": "Y"}, "parameter relevance is None"),
        ({"relevance": "leaf"}, {"relevance": "missing"}, "row 0 and label .*positive pair of Y"),
        ({"relevance": "leaf"}, {"relevance": "zero"}, "row 0 and label .*greater than 0"),
        ({"relevance": "leaf"}, {"relevance": "negative"}, "row 0 and label .*greater than 0"),
        ({"relevance": "leaf"}, {"relevance": "NaN"}, "NaN"),
        ({"relevance": "leaf"}, {"relevance": "empty"}, "row 0 and label"),
        ({"relevance": "leaf"}, {"relevance": "narrow"}, r"shape \(150, 39\), Y has \(150, 40\)"),
        ({}, {"negatives": "narrow"}, r"negatives.*shape.*\(150, 40\)"),
        ({"n_trees": 0}, {}, "n_trees"),
        ({"arity": 1}, {}, "arity"),
        ({"max_leaf": 0}, {}, "max_leaf"),
        ({"max_depth": 0}, {}, "max_depth"),
        ({"C": 0}, {}, "C"),
        ({"loss": "hinge"}, {}, "loss"),
        ({"link": "l2"}, {}, "link"),
        ({"beam_size": 0}, {}, "beam_size"),
        ({"n_matcher": 0}, {}, "n_matcher"),
        ({"tol": -1}, {}, "tol"),
        ({"prune_threshold": -0.1}, {}, "prune_threshold"),
        ({"negative_cost": -1}, {}, "negative_cost"),
        ({"n_jobs": 0}, {}, "n_jobs"),
        ({"memory_limit": 0}, {}, "memory_limit"),
    ],
)
def test_options_that_do_not_fit(data, params, arguments, message):
    X, Y = data
    R = Y.astype(np.float64)
    given = {
        "Y": R,
        "missing": sp.csr_array((R.data[1:], R.indices[1:], np.maximum(R.indptr - 1, 0)), R.shape),
        "zero": R.copy(),
        "negative": R.copy(),
        "NaN": R.copy(),
        "empty": sp.csr_array(R.shape),
        "narrow": R[:, :39],
    }
    given["zero"].data[0], given["negative"].data[0], given["NaN"].data[0] = 0, -1, np.nan
    arguments = {
        name: given[value] if isinstance(value, str) else value for name, value in arguments.items()
    }
    with pytest.raises(ValueError, match=message):
        ParabelTree(**{"preset": "parabel", **params}).fit(X, Y, **arguments)


def test_relevance_and_negatives_must_be_sparse(data):
    X, Y = data
    with pytest.raises(TypeError, match="relevance must be sparse"):
        small_tree(relevance="leaf").fit(X, Y, relevance=Y.toarray())
    with pytest.raises(TypeError, match="negatives"):
        small_tree().fit(X, Y, negatives=Y.toarray())
    with pytest.raises(TypeError, match="text of label 1"):
        small_tree(label_representation="text").fit(X, Y, label_text=["a", 3] * 20)


def test_bad_gains_and_thresholds(data):
    X, Y = data
    model = small_tree().fit(X, Y)
    gain = np.ones(40)
    for value in (-1.0, np.nan, np.inf):
        gain[4] = value
        with pytest.raises(ValueError, match="gain of label 4"):
            model.predict_gain(X, gain=gain)
    gain[4] = 1
    with pytest.raises(ValueError, match="offset of label 2"):
        model.predict_gain(X, gain=gain, offset=np.where(np.arange(40) == 2, np.nan, 0))
    for wrong in (np.ones(39), np.ones((40, 1)), 1.0):
        with pytest.raises(ValueError, match="each of the 40 labels"):
            model.predict_gain(X, gain=wrong)
    with pytest.raises(ValueError, match="k must be"):
        model.predict_gain(X, k=0, gain=gain)
    for wrong in (0.0, -0.5, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\]"):
            model.predict_above(X, wrong)
    with pytest.raises(ValueError, match="threshold of label 4"):
        model.predict_above(X, np.where(np.arange(40) == 4, 2.0, 0.5))
    with pytest.raises(ValueError, match="40 labels"):
        model.predict_above(X, np.full(39, 0.5))
    for method in (model.predict_gain, model.predict_above):
        with pytest.raises(ValueError, match="features"):
            method(X[:, :-1], **({"gain": gain} if method == model.predict_gain else {}))


def test_one_dimensional_targets(data):
    X, _ = data
    best = np.arange(X.shape[0]) % 7
    y = np.array([f"class {c}" for c in best])
    model = small_tree(max_leaf=2, n_trees=3).fit(X, y)
    assert model.predict_proba(X).shape == (X.shape[0], 7)
    gains = model.predict_gain(X, k=7, gain=np.ones(7))
    assert_array_equal(np.sort(gains.labels, axis=1)[0], np.arange(7))
    assert (gains.labels[:, 0] == model.predict_topk(X, k=1).labels[:, 0]).mean() > 0.95
    above = model.predict_above(X, 0.3)
    assert above.shape == (X.shape[0], 7)
    assert model.explain(X[[0]], 3)[-1].label == 3
    two = small_tree(max_leaf=2).fit(X, y == "class 3")
    with pytest.raises(ValueError, match="predict_gain needs a score for each label"):
        two.predict_gain(X, gain=np.ones(2))
    with pytest.raises(ValueError, match="predict_above needs a score for each label"):
        two.predict_above(X, 0.5)
    steps = two.explain(X[[0]], 0)
    with np.errstate(divide="ignore"):
        log_p = np.log(np.mean([np.exp(step.log_probability) for step in steps]))
    assert np.exp(log_p) == pytest.approx(two.predict_proba(X[[0]])[0, 1], rel=1e-3)
    with pytest.raises(ValueError, match=r"in 0 \.\. 0"):
        two.explain(X[[0]], 1)


def test_unfinished_classifiers_are_reported_where_fit_was_called(data):
    X, Y = data
    model = small_tree(n_trees=1)
    with pytest.warns(ConvergenceWarning, match="of tree 1 did not reach tol") as caught:
        model.set_params(max_iter=1, tol=1e-6).fit(X, Y)
    assert caught[0].filename == __file__
    with pytest.warns(ConvergenceWarning, match="did not reach tol") as caught:
        model.add_labels(X, sp.hstack([Y, Y], format="csr"))
    assert caught[0].filename == __file__


# ------------------------------------------------------------------ memory


@pytest.mark.parametrize(
    ("preset", "params"),
    [
        ("bonsai", {}),
        ("parabel", {"n_jobs": 2}),
        ("xr-linear", {"max_leaf": 50, "label_representation": "pifa+cooccurrence"}),
        ("plt", {"prune_threshold": 0.01}),
        ("parabel", {"prune_threshold": 0.0, "n_trees": 2}),
    ],
)
def test_predicted_memory_is_about_that_of_the_fit(preset, params):
    X, Y = problem(n_samples=2500, n_features=4000, n_labels=1500)
    model = ParabelTree(preset, random_state=0, **params)
    small = slice(0, 300)
    clone(model).fit(X[small], Y[small])  # compiles
    needed = model.estimate_memory(X, Y)
    with traced_memory() as peak:
        model.fit(X, Y)
        assert needed / 2 < peak() < 2 * needed


def test_memory_limit(monkeypatch, data):
    X, Y = data
    model = small_tree()
    needed = model.estimate_memory(X, Y)
    assert not hasattr(model, "trees_")
    assert_same_weights(
        clone(model).set_params(memory_limit=needed).fit(X, Y), clone(model).fit(X, Y)
    )
    trained = []
    monkeypatch.setattr(
        _parabel._tree_training, "train_tree", lambda *args, **kwargs: trained.append(1)
    )
    for limit in (needed - 1, 1):
        with pytest.raises(MemoryLimitError, match=f"over memory_limit={limit:,}"):
            clone(model).set_params(memory_limit=limit).fit(X, Y)
    assert not trained
    # what is clear from the data alone is refused before the labels are clustered
    monkeypatch.setattr(_parabel, "label_features", lambda *args, **kwargs: trained.append(1))
    with pytest.raises(MemoryLimitError):
        clone(model).set_params(memory_limit=1).fit(X, Y)
    assert not trained


def test_more_of_anything_needs_more_memory(data):
    X, Y = data
    base = small_tree(n_trees=1)
    needed = base.estimate_memory(X, Y)
    assert clone(base).set_params(n_jobs=4).estimate_memory(X, Y) > needed
    assert clone(base).set_params(n_trees=4).estimate_memory(X, Y) > needed
    twice = sp.vstack([X, X], format="csr"), sp.vstack([Y, Y], format="csr")
    assert base.estimate_memory(*twice) > needed
    wide = sp.hstack([Y, Y], format="csr")
    assert base.estimate_memory(X, wide) > needed
    assert base.estimate_memory(X.toarray(), Y.toarray()) > 0
    assert base.estimate_memory(X, np.arange(X.shape[0]) % 3) > 0
    text = clone(base).set_params(label_representation="pifa+text")
    words = [f"a{c} b{c}" for c in range(40)]
    assert text.estimate_memory(X, Y, label_text=words) > 0
    text.set_params(memory_limit=2**30).fit(X, Y, label_text=words)


def test_sparse_outputs_hold_only_what_was_found(data):
    X, Y = data
    model = small_tree(top_k=3).fit(X, Y)
    margins = model.decision_function(X)
    assert np.diff(margins.indptr).max() == 3
    assert np.isneginf(to_dense(margins, -np.inf)).sum() == X.shape[0] * 37
