import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from skxmc.label_space import LabelTree
from skxmc.ops import tree_search
from skxmc.ops.csr import canonical_csr, take_rows
from skxmc.ops.topk import topk_dense
from skxmc.ops.tree_search import (
    LINKS,
    TreeWeights,
    check_tree_arrays,
    dense_scores,
    numba_,
    path_scores,
    prepare_gains,
    prepare_search,
    reference,
    search_nodes,
    search_threshold,
    search_topk,
)


def tree_from_nested(nested):
    """Breadth-first arrays of a tree given as nested lists of labels."""
    level, child_start, label, n_nodes = [nested], [1], [], 1
    while level:
        below = []
        for node in level:
            is_leaf = isinstance(node, int)
            label.append(node if is_leaf else -1)
            children = [] if is_leaf else node
            n_nodes += len(children)
            child_start.append(n_nodes)
            below += children
        level = below
    return np.array(child_start, dtype=np.int32), np.array(label, dtype=np.int32)


def random_tree(n_labels, arity, rng, depth=0):
    """Random splits: unequal depths, single children, leaves beside inner nodes."""

    def split(labels, depth):
        if depth > 6 or len(labels) <= 1 + rng.integers(arity):
            if rng.random() < 0.15 and depth < 6:
                return [split(labels, depth + 1)]  # a single child
            return [int(label) for label in labels]
        cuts = np.sort(rng.integers(0, len(labels) + 1, size=arity - 1))
        parts = [part for part in np.split(labels, cuts) if len(part)]
        return [
            int(part[0]) if len(part) == 1 and rng.random() < 0.5 else split(part, depth + 1)
            for part in parts
        ]

    return tree_from_nested(split(rng.permutation(n_labels), 0))


def full_tree(n_labels, arity, rng):
    nodes = [int(label) for label in rng.permutation(n_labels)]
    while len(nodes) > arity:
        nodes = [nodes[i : i + arity] for i in range(0, len(nodes), arity)]
    return tree_from_nested(nodes)


SHAPES = {
    "one label": lambda rng: tree_from_nested([0]),
    "one label, deep": lambda rng: tree_from_nested([[[0]]]),
    "arity above the labels": lambda rng: full_tree(5, 16, rng),
    "flat": lambda rng: full_tree(70, 100, rng),
    "binary": lambda rng: full_tree(64, 2, rng),
    "three levels": lambda rng: full_tree(200, 6, rng),
    "unbalanced": lambda rng: random_tree(120, 4, rng),
    "deep and thin": lambda rng: tree_from_nested([3, [1, [0, [[2], [4, [5, 6]]]]]]),
}


def random_weights(child_start, label, n_features, rng, density=0.4, step=None, dtype=np.uint16):
    n_nodes = len(label)
    chunk_indptr, features, row_indptr, child, weight = [0], [], [0], [], []
    for node in range(n_nodes):
        n_children = child_start[node + 1] - child_start[node]
        used = np.flatnonzero(rng.random(n_features) < density * rng.random() * 2)
        for feature in used if n_children else []:
            chosen = np.flatnonzero(rng.random(n_children) < density)
            features.append(feature)
            child.extend(chosen)
            weight.extend(rng.normal(scale=1.5, size=len(chosen)))
            row_indptr.append(len(child))
        chunk_indptr.append(len(features))
    weight, bias = np.array(weight), rng.normal(size=n_nodes) - 0.5
    if step is not None:
        weight, bias = np.round(weight / step) * step, np.round(bias / step) * step
    return TreeWeights(
        np.array(chunk_indptr, dtype=np.int64),
        np.array(features, dtype=np.int32),
        np.array(row_indptr, dtype=np.int64),
        np.array(child, dtype=dtype),
        weight.astype(np.float32),
        bias.astype(np.float32),
    )


def random_rows(n_rows, n_features, rng, density=0.4):
    X = np.round(rng.random((n_rows, n_features)) * 8) / 8
    X *= rng.random((n_rows, n_features)) < density
    X[n_rows // 2] = 0
    return canonical_csr(sp.csr_array(X))


KNOWN_SCORES = {}


class Case:
    def __init__(self, shape, link="l2-hinge", seed=0, n_rows=9, n_features=23, **options):
        rng = np.random.default_rng(seed)
        self.link = link
        self.child_start, self.label = SHAPES[shape](rng) if isinstance(shape, str) else shape
        self.weights = random_weights(self.child_start, self.label, n_features, rng, **options)
        self.n_features = n_features
        self.n_labels = int(self.label.max()) + 1
        self.X = random_rows(n_rows, n_features, np.random.default_rng(1))

    @property
    def tree(self):
        return prepare_search(
            self.child_start, self.label, self.weights, self.n_features, self.link
        )

    @property
    def node_scores(self):
        # The reference is slow: work out once what many tests ask for.
        parts = (self.child_start, *self.weights, *arrays(self.X))
        key = self.link, *(part.tobytes() for part in parts)
        if key not in KNOWN_SCORES:
            KNOWN_SCORES[key] = reference.node_scores(
                self.child_start, self.weights, self.X, self.link
            )
        return KNOWN_SCORES[key].copy()

    @property
    def scores(self):
        leaves = np.flatnonzero(self.label >= 0)
        return self.node_scores[:, leaves[np.argsort(self.label[leaves])]]


def arrays(X):
    return X.indptr, X.indices, X.data


def assert_same_bits(a, b):
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


def assert_same_answers(a, b):
    np.testing.assert_array_equal(a.labels, b.labels)
    assert_same_bits(a.scores + np.float32(0), b.scores + np.float32(0))  # -0 is 0


@pytest.fixture(params=list(SHAPES))
def shape(request):
    return request.param


def three_trees(step=None, link="l2-hinge"):
    cases = [
        Case(full_tree(150, arity, np.random.default_rng(arity)), link, seed=arity, step=step)
        for arity in (3, 5, 12)
    ]
    rng = np.random.default_rng(9)
    cases.append(Case(random_tree(150, 4, rng), link, seed=9, step=step))
    return cases


# ---------------------------------------------------------------------------- scores


@pytest.mark.parametrize("link", LINKS)
def test_dense_scores_are_the_sums_of_the_edges(shape, link):
    case = Case(shape, link)
    found = dense_scores([case.tree], *arrays(case.X))
    if link == "logistic":  # exp and log1p of NumPy and of the compiler differ in the last bit
        np.testing.assert_allclose(found, case.scores, rtol=1e-6, atol=1e-6)
    else:
        assert_same_bits(found + np.float32(0), case.scores + np.float32(0))


def test_float64_scores_are_near():
    case = Case("three levels", "logistic")
    found = dense_scores([case.tree], *arrays(case.X))
    X = case.X.toarray().astype(np.float64)
    expected = np.zeros((len(X), len(case.label)))
    for node in np.flatnonzero(case.label < 0):
        children = slice(case.child_start[node], case.child_start[node + 1])
        features, dense = reference.chunk_of(case.weights, case.child_start, node)
        score = X[:, features] @ dense.astype(np.float64) + case.weights.bias[children]
        expected[:, children] = expected[:, [node]] - np.logaddexp(0, -score)
    leaves = np.flatnonzero(case.label >= 0)
    np.testing.assert_allclose(found[:, case.label[leaves]], expected[:, leaves], rtol=1e-5)


@pytest.mark.parametrize("link", LINKS)
def test_path_scores_are_those_of_dense_scores(shape, link):
    case = Case(shape, link)
    rng = np.random.default_rng(3)
    everything = dense_scores([case.tree], *arrays(case.X))
    lists = [rng.permutation(case.n_labels)[: rng.integers(0, 9)] for _ in range(case.X.shape[0])]
    indptr = np.cumsum([0] + [len(part) for part in lists])
    labels = np.concatenate(lists).astype(np.int32)
    found = path_scores([case.tree], *arrays(case.X), indptr, labels)
    expected = [everything[i, part] for i, part in enumerate(lists)]
    assert_same_bits(found, np.concatenate(expected))


def test_scores_of_several_trees_are_logs_of_mean_probabilities():
    cases = three_trees()
    trees, X = [case.tree for case in cases], cases[0].X
    found = dense_scores(trees, *arrays(X))
    np.testing.assert_allclose(
        np.exp(found.astype(np.float64)),
        np.mean([np.exp(case.scores.astype(np.float64)) for case in cases], axis=0),
        rtol=1e-6,
    )
    expected = reference.mean_scores([case.scores for case in cases])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    indptr = np.arange(X.shape[0] + 1) * 150
    labels = np.tile(np.arange(150, dtype=np.int32), X.shape[0])
    assert_same_bits(path_scores(trees, *arrays(X), indptr, labels), found.ravel())


def test_a_mean_of_tiny_probabilities_is_not_lost():
    # exp(-(1 + 30)^3) underflows in every float
    child_start, label = tree_from_nested([0, 1])
    weights = random_weights(child_start, label, 3, np.random.default_rng(0), density=0)
    weights.bias[1:] = -30, -29
    tree = prepare_search(child_start, label, weights, 3, "l3-hinge")
    X = canonical_csr(sp.csr_array(np.ones((1, 3))))
    answers = search_topk([tree, tree], *arrays(X), 2)
    np.testing.assert_array_equal(answers.labels, [[1, 0]])
    np.testing.assert_array_equal(answers.scores, [[-(30**3), -(31**3)]])


# ---------------------------------------------------------------------------- beam and exact


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("k", [1, 5, 300])
def test_exact_search_finds_what_all_scores_say(shape, link, k):
    case = Case(shape, link)
    expected = topk_dense(dense_scores([case.tree], *arrays(case.X)), k)
    assert_same_answers(search_topk([case.tree], *arrays(case.X), k, beam=None), expected)
    # a beam that holds every node finds the same
    assert_same_answers(search_topk([case.tree], *arrays(case.X), k, beam=10**6), expected)


@pytest.mark.parametrize("beam", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("k", [1, 4])
def test_beam_search_by_definition(shape, beam, k):
    case = Case(shape)
    expected = reference.beam_topk(case.child_start, case.label, case.node_scores, k, beam)
    found = search_topk([case.tree], *arrays(case.X), k, beam=beam)
    full = expected.labels[:, min(k, case.n_labels) - 1] >= 0  # the others are searched exactly
    assert k > 1 or full.all()
    np.testing.assert_array_equal(found.labels[full], expected.labels[full])
    assert_same_bits(found.scores[full] + np.float32(0), expected.scores[full] + np.float32(0))
    exact = search_topk([case.tree], *arrays(case.X), k, beam=None)
    np.testing.assert_array_equal(found.labels[~full], exact.labels[~full])


@pytest.mark.parametrize("beam", [1, 3, None])
def test_ties_go_to_the_smaller_number(shape, beam):
    # scores in steps of 1/2: most labels tie with others, many at the log-probability 0
    case = Case(shape, "l1-hinge", step=2.0, density=0.2)
    found = search_topk([case.tree], *arrays(case.X), 6, beam=beam)
    if beam is None:
        assert_same_answers(found, topk_dense(case.scores, 6))
        return
    expected = reference.beam_topk(case.child_start, case.label, case.node_scores, 6, beam)
    full = expected.labels[:, min(6, case.n_labels) - 1] >= 0
    np.testing.assert_array_equal(found.labels[full], expected.labels[full])


def test_a_row_is_searched_exactly_where_the_beam_reaches_too_few():
    case = Case("three levels")
    for k in (20, 150, 250):
        found = search_topk([case.tree], *arrays(case.X), k, beam=1)
        assert_same_answers(found, topk_dense(case.scores, k))


@pytest.mark.parametrize("k", [1, 7, 200])
@pytest.mark.parametrize("step", [None, 2.0])
@pytest.mark.parametrize("link", ["l1-hinge", "logistic"])
def test_exact_search_in_several_trees(k, step, link):
    cases = three_trees(step, link)
    if step is not None:  # few different scores
        for case in cases:
            case.weights.weight[:] = 2
            case.weights.bias[:] = np.clip(case.weights.bias, 0, 2)
        cases[0].X.data[:] = 1
    trees, X = [case.tree for case in cases], cases[0].X
    everything = dense_scores(trees, *arrays(X))
    if step is not None and link == "l1-hinge":
        assert (np.diff(np.sort(everything), axis=1) == 0).any(axis=1).all()  # there are ties
    found = search_topk(trees, *arrays(X), k, beam=None)
    assert_same_answers(found, topk_dense(everything, k))
    if k == 7:
        best = search_topk(trees, *arrays(X), k, beam=1000, complete=True)
        assert_same_answers(best, found)


def test_exact_search_in_several_trees_with_all_labels_alike():
    cases = three_trees()
    for case in cases:
        case.weights.weight[:] = 0
        case.weights.bias[:] = 2  # log-probability 0
    found = search_topk([case.tree for case in cases], *arrays(cases[0].X), 3, beam=None)
    assert (found.labels == [0, 1, 2]).all()
    assert (found.scores == 0).all()


def beam_scores(case, n_keep, beam):
    """Path scores of the labels that one tree answers, -inf for the others."""
    scores = np.full((case.X.shape[0], case.n_labels), -np.inf, dtype=np.float32)
    answers = reference.beam_topk(case.child_start, case.label, case.node_scores, n_keep, beam)
    for i, (labels, of_row) in enumerate(zip(*answers, strict=True)):
        scores[i, labels[labels >= 0]] = of_row[labels >= 0]
    return scores


@pytest.mark.parametrize(("k", "beam"), [(1, 1), (5, 2), (3, 10), (30, 4)])
@pytest.mark.parametrize("complete", [False, True])
def test_beam_search_in_several_trees(k, beam, complete):
    cases = three_trees()
    trees, X = [case.tree for case in cases], cases[0].X
    parts = [beam_scores(case, max(2 * k, 4 * beam), beam) for case in cases]
    expected = reference.mean_scores(parts)
    if complete:
        seen = expected > -np.inf
        expected = np.where(seen, dense_scores(trees, *arrays(X)), np.float32(-np.inf))
    assert ((expected > -np.inf).sum(axis=1) >= k).all()
    found = search_topk(trees, *arrays(X), k, beam=beam, complete=complete)
    expected = topk_dense(expected, k)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


# ---------------------------------------------------------------------------- restrictions


def random_pairs(n_rows, n_labels, density, seed=5):
    return sp.csr_array(np.random.default_rng(seed).random((n_rows, n_labels)) < density)


@pytest.mark.parametrize("n_trees", [1, 4])
@pytest.mark.parametrize("beam", [2, None])
@pytest.mark.parametrize("density", [0.02, 0.5, 0.98, 1.0])
def test_excluded_labels_make_room_for_others(n_trees, beam, density):
    cases = three_trees()[:n_trees]
    trees, X = [case.tree for case in cases], cases[0].X
    exclude = random_pairs(X.shape[0], 150, density)
    found = search_topk(trees, *arrays(X), 6, beam=beam, exclude=exclude)
    scores = dense_scores(trees, *arrays(X))
    scores[exclude.toarray()] = -np.inf
    expected = topk_dense(scores, 6)
    assert ((found.labels >= 0).sum(axis=1) == (expected.labels >= 0).sum(axis=1)).all()
    given = found.labels >= 0
    assert not exclude.toarray()[np.nonzero(given)[0], found.labels[given]].any()
    if beam is None or density >= 0.98:
        assert_same_answers(found, expected)


@pytest.mark.parametrize("n_trees", [1, 4])
@pytest.mark.parametrize("excluding", [False, True])
def test_candidates_are_all_scored(n_trees, excluding):
    cases = three_trees()[:n_trees]
    trees, X = [case.tree for case in cases], cases[0].X
    candidates = random_pairs(X.shape[0], 150, 0.1)
    scores = dense_scores(trees, *arrays(X))
    scores[~candidates.toarray()] = -np.inf
    options = {}
    if excluding:
        options["exclude"] = random_pairs(X.shape[0], 150, 0.3, seed=6)
        scores[options["exclude"].toarray()] = -np.inf
    found = search_topk(trees, *arrays(X), 12, candidates=candidates, **options)
    assert_same_answers(found, topk_dense(scores, 12))


@pytest.mark.parametrize("beam", [3, None])
@pytest.mark.parametrize("n_trees", [1, 4])
def test_labels_with_the_bias_minus_infinity_are_never_answered(beam, n_trees):
    cases = three_trees()[:n_trees]
    never = np.random.default_rng(0).choice(150, size=140, replace=False)
    for case in cases:
        case.weights.bias[np.flatnonzero(np.isin(case.label, never))] = -np.inf
    cases[0].weights.weight[:] = np.abs(cases[0].weights.weight)
    trees, X = [case.tree for case in cases], cases[0].X
    scores = dense_scores(trees, *arrays(X))
    assert np.isneginf(scores[:, never]).all()
    found = search_topk(trees, *arrays(X), 20, beam=beam)
    assert_same_answers(found, topk_dense(scores, 20))
    assert (found.labels >= 0).sum(axis=1).max() == 10
    gains = search_topk(trees, *arrays(X), 20, beam=beam, offset=np.ones(150))
    assert not np.isin(gains.labels, never).any()


def test_an_inner_node_with_the_bias_minus_infinity_hides_its_labels():
    case = Case("binary")
    case.weights.bias[1] = -np.inf
    below = case.scores
    assert np.isneginf(below).any()
    assert np.isfinite(below).any()
    assert_same_bits(dense_scores([case.tree], *arrays(case.X)), below)
    for beam in (2, None):
        found = search_topk([case.tree], *arrays(case.X), 64, beam=beam)
        assert_same_answers(found, topk_dense(below, 64))


# ---------------------------------------------------------------------------- gains


def gain_values(cases, gain, offset):
    mean = np.mean([np.exp(case.scores.astype(np.float64)) for case in cases], axis=0)
    return (gain * mean + offset).astype(np.float32)


@pytest.mark.parametrize("n_trees", [1, 4])
@pytest.mark.parametrize("kind", ["gains", "offsets", "negative offsets", "zero gains", "both"])
@pytest.mark.parametrize("k", [1, 6, 200])
def test_exact_search_with_gains(n_trees, kind, k):
    cases = three_trees()[:n_trees]
    rng = np.random.default_rng(4)
    gain = rng.exponential(size=150) if kind in ("gains", "both") else np.ones(150)
    offset = rng.normal(size=150) if kind in ("offsets", "both") else np.zeros(150)
    if kind == "negative offsets":
        offset = -5 - rng.exponential(size=150)
    if kind == "zero gains":
        gain, offset = np.zeros(150), np.round(offset)
    trees, X = [case.tree for case in cases], cases[0].X
    found = search_topk(trees, *arrays(X), k, beam=None, gain=gain, offset=offset)
    values = gain_values(cases, gain, offset)
    expected = topk_dense(values, k)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6, atol=1e-7)
    given = found.labels >= 0
    at = np.nonzero(given)[0], found.labels[given]
    np.testing.assert_allclose(values[at], found.scores[given], rtol=1e-6, atol=1e-7)
    prepared = prepare_gains(trees, gain, offset)
    again = search_topk(trees, *arrays(X), k, beam=None, gain=prepared)
    assert_same_answers(again, found)
    wide = search_topk(trees, *arrays(X), k, beam=10**4, gain=prepared, complete=True)
    assert_same_answers(wide, found)
    if kind == "zero gains":
        assert (found.labels[:, :1] == 0).all()


def test_gains_steer_the_beam():
    # the only label with a gain lies below the worst node: a beam of 1 by path misses it
    nested = [[0, 1], [2, 3], [4, 5]]
    child_start, label = tree_from_nested(nested)
    weights = random_weights(child_start, label, 2, np.random.default_rng(0), density=0)
    weights.bias[1:4] = 0.9, 0.5, 0.0
    tree = prepare_search(child_start, label, weights, 2, "l2-hinge")
    X = canonical_csr(sp.csr_array((1, 2)))
    gain = np.where(np.arange(6) == 5, 100.0, 1.0)
    found = search_topk([tree], *arrays(X), 1, beam=1, gain=gain)
    assert found.labels[0, 0] == 5
    offset = np.where(np.arange(6) == 2, 0.0, -9.0)
    found = search_topk([tree], *arrays(X), 1, beam=1, offset=offset)
    assert found.labels[0, 0] == 2


def test_candidates_with_gains():
    cases = three_trees()
    trees, X = [case.tree for case in cases], cases[0].X
    rng = np.random.default_rng(4)
    gain, offset = rng.exponential(size=150), rng.normal(size=150)
    candidates = random_pairs(X.shape[0], 150, 0.2)
    found = search_topk(trees, *arrays(X), 5, gain=gain, offset=offset, candidates=candidates)
    values = gain_values(cases, gain, offset)
    values[~candidates.toarray()] = -np.inf
    np.testing.assert_allclose(found.scores, topk_dense(values, 5).scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("gain", "offset", "message"),
    [
        (np.ones(3), None, "gain must have one value"),
        (None, np.ones(151), "offset must have one value"),
        (np.where(np.arange(150) == 7, -1.0, 1.0), None, "gain of label 7 is -1"),
        (None, np.where(np.arange(150) == 8, np.nan, 1.0), "offset of label 8 is nan"),
        (np.where(np.arange(150) == 9, np.inf, 1.0), None, "gain of label 9 is inf"),
    ],
)
def test_wrong_gains(gain, offset, message):
    case = three_trees()[0]
    with pytest.raises(ValueError, match=message):
        search_topk([case.tree], *arrays(case.X), 1, gain=gain, offset=offset)


# ---------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("n_trees", [1, 4])
@pytest.mark.parametrize("threshold", [0.0, 1e-3, 0.1, 0.6, 1.0, "by label", "inf"])
def test_all_labels_above_a_threshold(n_trees, threshold):
    cases = three_trees()[:n_trees]
    trees, X = [case.tree for case in cases], cases[0].X
    if threshold == "by label":
        threshold = np.random.default_rng(2).random(150) ** 4
    threshold = float(threshold) if isinstance(threshold, str) else threshold
    cases[0].weights.bias[5] = -np.inf
    trees = [case.tree for case in cases]
    scores = dense_scores(trees, *arrays(X))
    with np.errstate(divide="ignore"):
        wanted = scores >= np.log(np.asarray(threshold, dtype=np.float64)).astype(np.float32)
    wanted &= scores > -np.inf
    indptr, indices, data = search_threshold(trees, *arrays(X), threshold)
    rows, labels = np.nonzero(wanted)
    np.testing.assert_array_equal(np.repeat(np.arange(X.shape[0]), np.diff(indptr)), rows)
    np.testing.assert_array_equal(indices, labels)
    assert_same_bits(data, scores[wanted])
    assert (indptr.dtype, indices.dtype) == (np.int64, np.int32)


def test_a_threshold_is_reached_by_the_probability_itself():
    case = Case("three levels", "logistic")
    scores = dense_scores([case.tree], *arrays(case.X))
    p = np.exp(np.float64(scores[0].max()))
    indptr, indices, _ = search_threshold([case.tree], *arrays(case.X), p)
    assert np.argmax(scores[0]) in indices[: indptr[1]]


def test_more_labels_above_the_threshold_than_expected(monkeypatch):
    case = Case("flat", n_rows=400)
    _, indices, _ = search_threshold([case.tree], *arrays(case.X), 0.0)
    assert len(indices) == np.isfinite(case.scores).sum() > 4 * 400 + 1024


@pytest.mark.parametrize("threshold", [np.nan, [0.1, 0.2], np.full((150, 1), 0.1)])
def test_wrong_thresholds(threshold):
    case = three_trees()[0]
    with pytest.raises(ValueError, match="threshold"):
        search_threshold([case.tree], *arrays(case.X), threshold)


# ---------------------------------------------------------------------------- nodes


@pytest.mark.parametrize("beam", [1, 3, 1000])
@pytest.mark.parametrize("n_keep", [1, 4, 1000])
def test_nodes_at_a_depth(shape, beam, n_keep):
    case = Case(shape)
    paths = case.node_scores
    for depth in range(1, case.tree.max_depth + 1):
        indptr, nodes, scores = search_nodes(
            case.tree, *arrays(case.X), depth=depth, beam=beam, n_keep=n_keep
        )
        for i, of_row in enumerate(paths):
            expected = reference.beam_nodes(case.child_start, case.label, of_row, beam, depth)
            expected = sorted(expected, key=lambda c: (-of_row[c], c))[:n_keep]
            mine = slice(indptr[i], indptr[i + 1])
            np.testing.assert_array_equal(nodes[mine], expected)
            np.testing.assert_array_equal(scores[mine], of_row[expected])


def test_nodes_need_no_weights_below_their_depth():
    case = Case("three levels")
    full = search_nodes(case.tree, *arrays(case.X), depth=2, beam=3, n_keep=9)
    n_upper = case.child_start[case.child_start[1]]  # nodes of depth 0 and 1 have chunks
    w = case.weights
    n_rows = w.chunk_indptr[case.child_start[1]]
    case.weights = TreeWeights(
        np.minimum(w.chunk_indptr, n_rows),
        w.row_feature[:n_rows],
        w.row_indptr[: n_rows + 1],
        w.child[: w.row_indptr[n_rows]],
        w.weight[: w.row_indptr[n_rows]],
        np.where(np.arange(len(w.bias)) < n_upper, w.bias, np.float32(-np.inf)),
    )
    part = search_nodes(case.tree, *arrays(case.X), depth=2, beam=3, n_keep=9)
    for a, b in zip(full, part, strict=True):
        np.testing.assert_array_equal(a, b)


def test_depths_outside_the_tree():
    case = Case("binary")
    for depth in (0, 8):
        with pytest.raises(ValueError, match="depth must be"):
            search_nodes(case.tree, *arrays(case.X), depth=depth, beam=1, n_keep=1)


# ---------------------------------------------------------------------------- independence


SEARCHES = {
    "beam": lambda trees, X, **o: search_topk(trees, *arrays(X), 5, beam=3, **o),
    "beam, gains": lambda trees, X, **o: search_topk(
        trees, *arrays(X), 5, beam=3, gain=np.arange(200) % 7, **o
    ),
    "exact": lambda trees, X, **o: search_topk(trees, *arrays(X), 5, beam=None, **o),
    "dense": lambda trees, X, **o: (dense_scores(trees, *arrays(X), **o),),
    "threshold": lambda trees, X, **o: search_threshold(trees, *arrays(X), 0.05, **o)[1:],
    "nodes": lambda trees, X, **o: search_nodes(
        trees[0], *arrays(X), depth=2, beam=2, n_keep=3, **o
    )[1:],
}


@pytest.mark.parametrize("search", list(SEARCHES))
@pytest.mark.parametrize("n_trees", [1, 2])
def test_a_row_does_not_depend_on_the_others(search, n_trees, monkeypatch):
    cases = [Case("three levels", "logistic", seed=s, n_rows=60) for s in range(n_trees)]
    trees, X = [case.tree for case in cases], cases[0].X
    run = SEARCHES[search]
    together = run(trees, X)
    alone = [run(trees, take_rows(X, np.array([i]))) for i in range(60)]
    threads = run(trees, X, n_threads=2)
    monkeypatch.setattr(numba_, "_BLOCK_ROWS", 7)
    blocks = run(trees, X, n_threads=2)
    for j, part in enumerate(together):
        for other in (np.concatenate([a[j] for a in alone]), threads[j], blocks[j]):
            assert part.tobytes() == other.tobytes()


def test_read_only_and_memory_mapped_arrays(tmp_path):
    case = Case("three levels")
    expected = search_topk([case.tree], *arrays(case.X), 5)
    stored = []
    for number, array in enumerate((case.child_start, case.label, *case.weights)):
        np.save(tmp_path / f"{number}.npy", array)
        stored.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    tree = prepare_search(*stored[:2], TreeWeights(*stored[2:]), 23, "l2-hinge")
    for array in arrays(case.X):
        array.flags.writeable = False
    assert_same_answers(search_topk([tree], *arrays(case.X), 5), expected)
    assert np.shares_memory(tree.arrays[5], stored[6])  # not copied
    for gain in (None, np.ones(200)):
        search_topk([tree, tree], *arrays(case.X), 5, beam=None, gain=gain)


def test_children_numbered_in_32_bits():
    a, b = Case("flat"), Case("flat", dtype=np.int32)
    assert_same_bits(dense_scores([a.tree], *arrays(a.X)), dense_scores([b.tree], *arrays(b.X)))


def test_more_than_65536_children():
    n_labels = 70_000
    child_start = np.append(1, np.full(n_labels + 1, n_labels + 1)).astype(np.int32)
    label = np.append(-1, np.arange(n_labels)).astype(np.int32)
    weights = TreeWeights(
        np.append(0, np.ones(n_labels + 1)).astype(np.int64),
        np.array([0], dtype=np.int32),
        np.array([0, 2]),
        np.array([3, 69_999], dtype=np.int32),
        np.array([1, 2], dtype=np.float32),
        np.full(n_labels + 1, -2, dtype=np.float32),
    )
    tree = prepare_search(child_start, label, weights, 1, "logistic")
    X = canonical_csr(sp.csr_array([[1.0]]))
    for beam in (10, None):
        assert search_topk([tree], *arrays(X), 3, beam=beam).labels.tolist() == [[69_999, 3, 0]]


@pytest.mark.parametrize("n_features", [1, 2, 7, 300])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_chunks_with_many_and_with_clustered_features(n_features, place):
    # buckets of one feature, of many, and chunks whose features lie side by side
    case = Case("arity above the labels", n_features=n_features, density=0.5, n_rows=30)
    wide = 1000 + n_features
    case.n_features = wide
    shift = place * 500
    case.weights.row_feature[:] += shift
    X = sp.csr_array((case.X.data, case.X.indices + shift, case.X.indptr), (30, wide))
    noise = random_rows(30, wide, np.random.default_rng(3), density=0.1)
    case.X = canonical_csr(X + noise)
    assert_same_bits(
        dense_scores([case.tree], *arrays(case.X)) + np.float32(0), case.scores + np.float32(0)
    )


def test_no_rows():
    case = Case("binary")
    X = canonical_csr(sp.csr_array((0, 23)))
    for n_trees in (1, 2):
        trees = [case.tree] * n_trees
        for beam in (3, None):
            assert search_topk(trees, *arrays(X), 4, beam=beam).labels.shape == (0, 4)
        assert dense_scores(trees, *arrays(X)).shape == (0, 64)
        assert search_threshold(trees, *arrays(X), 0.5)[0].tolist() == [0]
    assert search_nodes(case.tree, *arrays(X), depth=1, beam=1, n_keep=1)[0].tolist() == [0]


# ---------------------------------------------------------------------------- bad input


def corrupt(case, name, change):
    w = case.weights
    parts = {"child_start": case.child_start, "label": case.label, **w._asdict()}
    parts[name] = change(parts[name].copy())
    weights = TreeWeights(**{field: parts[field] for field in w._fields})
    return parts["child_start"], parts["label"], weights, case.n_features


def put(position, value):
    def change(array):
        array[position] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("child_start", put(0, 0)),
        ("child_start", put(1, 0)),  # the root is its own child
        ("child_start", put(-1, 10**6)),
        ("child_start", put(3, -5)),
        ("child_start", lambda a: a[:-1]),
        ("child_start", lambda a: a.astype(np.int64)),
        ("label", put(-1, 10**6)),
        ("label", put(-1, -1)),
        ("label", put(-1, -7)),
        ("label", put(0, 0)),
        ("label", lambda a: put(-1, a[-2])(a)),  # twice
        ("label", lambda a: a[:0]),
        ("chunk_indptr", put(0, 1)),
        ("chunk_indptr", put(1, 10**9)),
        ("chunk_indptr", put(2, -1)),
        ("chunk_indptr", put(-1, 5)),
        ("chunk_indptr", lambda a: a[1:]),
        ("row_feature", put(0, -1)),
        ("row_feature", put(0, 23)),
        ("row_feature", lambda a: put(1, a[0])(a)),
        ("row_feature", lambda a: a[:-1]),
        ("row_feature", lambda a: a.astype(np.int64)),
        ("row_indptr", put(0, -1)),
        ("row_indptr", put(1, 10**9)),
        ("row_indptr", put(-1, 10**9)),
        ("row_indptr", put(5, 0)),
        ("child", put(0, 60_000)),
        ("child", lambda a: a.astype(np.int64)),
        ("child", lambda a: a[:-1]),
        ("weight", put(3, np.nan)),
        ("weight", put(3, np.inf)),
        ("weight", lambda a: a.astype(np.float64)),
        ("bias", put(3, np.nan)),
        ("bias", put(3, np.inf)),
        ("bias", lambda a: a[:-1]),
    ],
)
def test_corrupt_arrays_are_refused(name, change):
    case = Case("three levels")
    with pytest.raises(ValueError, match=r"corrupt|must be|bias of node 3|empty"):
        prepare_search(*corrupt(case, name, change), "logistic")
    with pytest.raises(ValueError, match=r"corrupt|must be|bias of node 3|empty"):
        check_tree_arrays(*corrupt(case, name, change))


def test_children_out_of_order_are_refused():
    case = Case("flat")
    w = case.weights
    row = int(np.argmax(np.diff(w.row_indptr) >= 2))
    first = w.row_indptr[row]
    w.child[first], w.child[first + 1] = w.child[first + 1], w.child[first]
    with pytest.raises(ValueError, match="children of a row must ascend"):
        case.tree  # noqa: B018


def test_the_bias_of_the_root_means_nothing():
    case = Case("binary")
    expected = dense_scores([case.tree], *arrays(case.X))
    case.weights.bias[0] = np.nan
    assert_same_bits(dense_scores([case.tree], *arrays(case.X)), expected)


@pytest.mark.parametrize("beam", [2, None, "dense", "threshold", "candidates"])
@pytest.mark.parametrize("n_trees", [1, 2])
def test_scores_that_are_no_numbers_are_refused(beam, n_trees):
    case = Case("three levels")
    case.weights.weight[:] = np.where(np.arange(len(case.weights.weight)) % 2, 3e38, -3e38)
    X = canonical_csr(sp.csr_array(np.full((3, 23), 1e30) * [[0], [0], [1]]))
    trees = [case.tree] * n_trees
    run = {
        "dense": lambda: dense_scores(trees, *arrays(X)),
        "threshold": lambda: search_threshold(trees, *arrays(X), 0.1),
        "candidates": lambda: search_topk(
            trees, *arrays(X), 1, candidates=sp.csr_array(np.ones((3, 200)))
        ),
    }.get(beam, lambda: search_topk(trees, *arrays(X), 1, beam=beam))
    with pytest.raises(ValueError, match="row 2 of X exceed float32"):
        run()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"k": 1.5}, TypeError, "k must be an integer"),
        ({"beam": 0}, ValueError, "beam must be at least 1"),
        ({"beam": 2.0}, TypeError, "beam must be an integer"),
        ({"n_threads": 0}, ValueError, "n_threads"),
        ({"exclude": sp.csr_array((9, 63))}, ValueError, "exclude"),
        ({"candidates": sp.csr_array((8, 64))}, ValueError, "candidates"),
        ({"exclude": np.zeros((9, 64))}, TypeError, "exclude"),
        ({"trees": []}, ValueError, "trees is empty"),
    ],
)
def test_wrong_arguments(options, error, message):
    case = Case("binary")
    given = {"trees": [case.tree], "k": 1, **options}
    with pytest.raises(error, match=message):
        search_topk(given.pop("trees"), *arrays(case.X), given.pop("k"), **given)


def test_prepared_gains_come_with_their_offset():
    case = Case("binary")
    gains = prepare_gains([case.tree])
    with pytest.raises(ValueError, match="offset is part of"):
        search_topk([case.tree], *arrays(case.X), 1, gain=gains, offset=np.zeros(64))


def test_trees_and_rows_that_do_not_fit():
    case = Case("binary")
    with pytest.raises(ValueError, match="Tree 1 has n_labels=200"):
        search_topk([case.tree, Case("three levels").tree], *arrays(case.X), 1)
    indptr, indices, data = arrays(case.X)
    wide = indices.copy()
    wide[4] = 23
    for wrong in (
        (indptr, wide, data),
        (indptr, -1 - wide, data),
        (indptr.astype(np.int32), indices, data),
        (indptr, indices, data.astype(np.float64)),
        (indptr, indices[:-1], data),
        (indptr[:0], indices, data),
        (indptr, np.repeat(indices, 2)[::2], data),
    ):
        with pytest.raises(ValueError, match=r"X|indices|indptr|data"):
            search_topk([case.tree], *wrong, 1)


@pytest.mark.parametrize(
    ("pair_indptr", "pair_labels"),
    [
        ([0, 1], [0]),
        ([0] * 9 + [2], [0]),
        ([1] * 10, [0]),
        ([0, 2, 1] + [2] * 7, [0, 1]),
        ([0] * 9 + [1], [64]),
        ([0] * 9 + [1], [-1]),
    ],
)
def test_wrong_pairs(pair_indptr, pair_labels):
    case = Case("binary")
    with pytest.raises(ValueError, match="pair_"):
        path_scores([case.tree], *arrays(case.X), np.array(pair_indptr), np.array(pair_labels))


def test_unknown_link():
    case = Case("binary", link="probit")
    with pytest.raises(ValueError, match="link must be one of logistic"):
        case.tree  # noqa: B018


def test_bytes_held():
    case = Case("three levels")
    assert tree_search.prepare_search is prepare_search
    assert case.weights.nbytes == sum(a.nbytes for a in case.weights)
    assert case.tree.nbytes > case.weights.nbytes


@pytest.mark.parametrize("seed", range(12))
def test_random_trees_with_leaves_at_all_depths(seed):
    """Levels wider than the tree has inner nodes, blocks of many rows, several trees."""
    rng = np.random.default_rng(seed)
    n_labels, n_inner = int(rng.integers(60, 300)), int(rng.integers(2, 40))
    n_features, n_rows = 20, int(rng.integers(1, 300))
    parent = [-1] + [int(rng.integers(max(0, i - 4), i)) for i in range(1, n_inner)]
    is_parent = np.bincount(parent[1:], minlength=n_inner) > 0
    childless = np.flatnonzero(~is_parent).tolist()
    below = childless + rng.integers(0, n_inner, n_labels - len(childless)).tolist()
    tree = LabelTree.from_parents(
        parent + below, [-1] * n_inner + rng.permutation(n_labels).tolist()
    )
    weights = random_chunks(tree, n_features, rng)
    search = prepare_search(tree.child_start, tree.label, weights, n_features, "l3-hinge")
    trees = [search] * (1 + seed % 2)
    X = sp.csr_array((rng.random((n_rows, n_features)) < 0.4) * rng.random((n_rows, n_features)))
    rows = X.indptr.astype(np.int64), X.indices.astype(np.int32), X.data.astype(np.float32)
    dense = dense_scores(trees, *rows)
    best = np.argsort(-dense, axis=1, kind="stable")[:, :9]
    exact = search_topk(trees, *rows, 9, beam=None)
    assert_array_equal(exact.labels, best)
    wide = search_topk(trees, *rows, 9, beam=n_inner, complete=True)
    assert_array_equal(wide.labels, best)
    for beam in (1, 5):  # narrow beams may miss labels, but what they score is right
        found = search_topk(trees[:1], *rows, 9, beam=beam)
        picked = np.take_along_axis(dense_scores(trees[:1], *rows), found.labels, axis=1)
        assert_array_equal(found.scores, picked)


def random_chunks(tree, n_features, rng):
    chunk, features, entries, child, weight = [0], [], [0], [], []
    for v in range(tree.n_nodes):
        n_children = int(tree.child_start[v + 1] - tree.child_start[v])
        used = rng.random((n_features, n_children)) < 0.3
        for feature in np.flatnonzero(used.any(axis=1)):
            children = np.flatnonzero(used[feature])
            features.append(feature)
            child.extend(children)
            weight.extend(rng.normal(size=len(children)))
            entries.append(len(child))
        chunk.append(len(features))
    return TreeWeights(
        np.array(chunk),
        np.array(features, np.int32),
        np.array(entries),
        np.array(child, np.uint16),
        np.array(weight, np.float32),
        rng.normal(size=tree.n_nodes).astype(np.float32),
    )


@pytest.mark.parametrize("indptr", [[0, 3, 1], [-1, 1, 2], [0, 1, 4], [-1, 2], [0, 4], [2, 1]])
def test_rows_that_overlap_or_leave_the_arrays(indptr):
    case = Case("flat")
    rows = np.array(indptr), np.arange(3, dtype=np.int32), np.ones(3, dtype=np.float32)
    for search in (
        lambda: search_topk([case.tree], *rows, 1),
        lambda: dense_scores([case.tree], *rows),
        lambda: search_nodes(case.tree, *rows, depth=1, beam=1, n_keep=1),
    ):
        with pytest.raises(ValueError, match="do not fit together"):
            search()
