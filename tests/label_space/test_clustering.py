"""Trees built from label features: their shape, their clusters, their determinism."""

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.label_space import LabelTree, build_tree
from skxmc.ops.csr import canonical_csr
from skxmc.ops.row_sums import unit_rows

CLUSTERINGS = ("bisect", "balanced", "unbalanced")


def random_features(n_labels, n_features=40, density=0.2, seed=0, empty=()):
    rng = np.random.default_rng(seed)
    Z = np.where(
        rng.random((n_labels, n_features)) < density, rng.random((n_labels, n_features)), 0
    )
    Z[list(empty)] = 0
    return unit_rows(canonical_csr(sp.csr_array(Z)))


def layer_sizes(tree):
    return np.bincount(tree.depth).tolist()


def has_chain(tree):
    n_children = np.diff(tree.child_start)
    return bool((n_children[tree.label < 0] == 1).any())


def label_sets(tree, depth):
    nodes = np.flatnonzero((tree.depth == depth) & (tree.label < 0))
    return {frozenset(tree.labels_below(v).tolist()) for v in nodes}


@pytest.mark.parametrize(
    ("n_labels", "arity", "max_leaf", "layers"),
    [
        (36874, 16, 100, [1, 2, 32, 512, 36874]),  # the layers of libpecos
        (36874, 2, 100, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 36874]),
        (1966, 16, 100, [1, 2, 32, 1966]),
        (800, 8, 100, [1, 8, 800]),
        (801, 8, 100, [1, 2, 16, 801]),
        (100, 16, 100, [1, 100]),
        (101, 16, 100, [1, 2, 101]),
    ],
)
def test_layers_of_bisection(n_labels, arity, max_leaf, layers):
    # Two features suffice for the shape.
    Z = random_features(n_labels, n_features=2, density=0.7)
    tree = build_tree(Z, arity=arity, max_leaf=max_leaf, random_state=0)
    assert layer_sizes(tree) == layers
    last = np.flatnonzero(tree.depth == tree.max_depth - 1)
    sizes = np.diff(tree.child_start)[last]
    assert sizes.max() - sizes.min() <= 1
    assert sizes.max() <= max_leaf


def test_collapsed_tree_has_the_clusters_of_the_binary_tree():
    Z = random_features(300)
    binary = build_tree(Z, max_leaf=10, random_state=3)
    collapsed = build_tree(Z, arity=4, max_leaf=10, random_state=3)
    assert label_sets(collapsed, 1) == label_sets(binary, 1)
    assert label_sets(collapsed, 2) == label_sets(binary, 3)
    assert label_sets(collapsed, 3) == label_sets(binary, 5)
    assert collapsed.max_depth == 4


@pytest.mark.parametrize("clustering", CLUSTERINGS)
@pytest.mark.parametrize("n_labels", [1, 2, 3, 5, 16, 17, 100, 333])
@pytest.mark.parametrize("max_leaf", [1, 2, 7])
def test_every_tree_is_whole_without_chains(clustering, n_labels, max_leaf):
    Z = random_features(n_labels, seed=n_labels, empty=range(0, n_labels, 6))
    tree = build_tree(Z, arity=4, max_leaf=max_leaf, clustering=clustering, random_state=1)
    assert tree.n_labels == n_labels
    if n_labels > 1:
        assert not has_chain(tree)
    below_leaf_parents = np.bincount(tree.parent[tree.leaf_of], minlength=tree.n_nodes)
    assert below_leaf_parents.max() <= max(max_leaf, 4)
    n_children = np.diff(tree.child_start)
    inner_children = n_children - below_leaf_parents
    assert inner_children.max() <= 4


@pytest.mark.parametrize("clustering", CLUSTERINGS)
@pytest.mark.parametrize("n_labels", [2, 50, 1000])
def test_labels_all_alike_or_all_empty(clustering, n_labels):
    alike = unit_rows(sp.csr_array(np.ones((n_labels, 3))))
    empty = sp.csr_array((n_labels, 3), dtype=np.float32)
    for Z in (alike, empty):
        tree = build_tree(Z, arity=8, max_leaf=10, clustering=clustering, random_state=0)
        assert tree.n_labels == n_labels
        assert not has_chain(tree)
        assert np.bincount(tree.parent[tree.leaf_of]).max() <= 10


def test_balanced_clusters_of_any_arity():
    tree = build_tree(
        random_features(1000), arity=7, max_leaf=50, clustering="balanced", random_state=0
    )
    assert layer_sizes(tree) == [1, 7, 49, 1000]
    for depth in (1, 2):
        sizes = [len(labels) for labels in label_sets(tree, depth)]
        assert max(sizes) - min(sizes) <= 1


def test_a_node_is_not_cut_below_max_leaf():
    Z = random_features(400)
    for clustering in CLUSTERINGS:
        tree = build_tree(Z, arity=4, max_leaf=30, clustering=clustering, random_state=0)
        n_children = np.diff(tree.child_start)
        for v in np.flatnonzero(tree.label < 0):
            cut = n_children[v] < len(tree.labels_below(v))
            if not cut:
                assert n_children[v] <= 30
            elif clustering != "bisect":
                assert len(tree.labels_below(v)) > 30


@pytest.mark.parametrize("clustering", CLUSTERINGS)
@pytest.mark.parametrize("max_depth", [1, 2, 3])
def test_max_depth(clustering, max_depth):
    Z = random_features(500)
    tree = build_tree(
        Z, arity=2, max_leaf=5, max_depth=max_depth, clustering=clustering, random_state=0
    )
    assert tree.max_depth == max_depth
    if max_depth == 1:
        assert tree == LabelTree.flat(500)


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_seed_decides_and_threads_do_not(clustering):
    Z = random_features(600, n_features=100, density=0.1)
    options = {"arity": 4, "max_leaf": 10, "clustering": clustering}
    tree = build_tree(Z, random_state=5, **options)
    for n_jobs in (2, 3):
        assert build_tree(Z, random_state=5, n_jobs=n_jobs, **options) == tree
    assert build_tree(Z, random_state=np.random.RandomState(5), **options) == tree
    assert build_tree(Z, random_state=6, **options) != tree


def topics(n_topics, size, seed=0):
    """Labels of separate topics in a random order; returns (Z, topic of each label)."""
    rng = np.random.default_rng(seed)
    topic = rng.permutation(np.repeat(np.arange(n_topics), size))
    Z = np.zeros((len(topic), 10 * n_topics + 1))
    Z[:, -1] = 0.3  # what all labels share
    for row, t in zip(Z, topic):
        row[10 * t : 10 * t + 10] = rng.random(10) + 0.5
    return unit_rows(canonical_csr(sp.csr_array(Z))), topic


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_separate_topics_are_found(clustering):
    Z, topic = topics(2, 40)
    truth = {frozenset(np.flatnonzero(topic == t).tolist()) for t in range(2)}
    found = [
        label_sets(build_tree(Z, max_leaf=40, clustering=clustering, random_state=s, keep=1.0), 1)
        for s in range(10)
    ]
    assert truth in found


@pytest.mark.parametrize("keep", [0.6, 1.0])
def test_labels_of_a_topic_stay_together(keep):
    Z, topic = topics(8, 25)
    for clustering in CLUSTERINGS:
        tree = build_tree(Z, arity=8, max_leaf=25, clustering=clustering, random_state=0, keep=keep)
        cluster = tree.parent[tree.leaf_of]
        same_topic = topic[:, None] == topic[None, :]
        together = cluster[:, None] == cluster[None, :]
        # by chance: one pair in eight
        assert (together & same_topic).sum() > 0.5 * together.sum()


def test_order_of_siblings():
    Z = random_features(200)
    frequency = np.random.default_rng(0).integers(0, 9, 200)
    for order in (frequency, frequency.astype(np.float32), frequency.astype(np.uint8)):
        tree = build_tree(Z, max_leaf=20, order=order, random_state=0)
        plain = build_tree(Z, max_leaf=20, random_state=0)
        for v in tree.leaf_clusters:
            labels = tree.label[list(tree.children(v))]
            assert sorted(labels) == plain.label[list(plain.children(v))].tolist()
            expected = sorted(labels.tolist(), key=lambda j: (-frequency[j], j))
            assert labels.tolist() == expected


def test_input_is_not_changed():
    Z = random_features(100)
    for array in (Z.data, Z.indices, Z.indptr):
        array.flags.writeable = False
    before = Z.toarray()
    for clustering in CLUSTERINGS:
        build_tree(Z, max_leaf=9, clustering=clustering, random_state=0)
    np.testing.assert_array_equal(Z.toarray(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arity": 3}, "power of two"),
        ({"arity": 1}, "arity must be"),
        ({"arity": 2.0}, "arity must be"),
        ({"max_leaf": 0}, "max_leaf must be"),
        ({"max_leaf": True}, "max_leaf must be"),
        ({"max_depth": 0}, "max_depth must be"),
        ({"clustering": "kmeans"}, "clustering must be one of"),
        ({"keep": 0.0}, "keep must be"),
        ({"order": np.zeros(29)}, "each of the 30 labels"),
        ({"order": ["a"] * 30}, "each of the 30 labels"),
        ({"order": np.full(30, np.nan)}, "NaN for label 0"),
        ({"n_jobs": 0}, "n_jobs"),
        ({"random_state": "x"}, "seed"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        build_tree(random_features(30), **{"max_leaf": 10, **options})


def test_keep_is_checked_even_if_nothing_is_cut():
    with pytest.raises(ValueError, match="keep must be"):
        build_tree(random_features(3), keep=2)


def test_bad_features():
    with pytest.raises(ValueError, match="no rows"):
        build_tree(sp.csr_array((0, 3)))
    with pytest.raises(TypeError, match="sparse"):
        build_tree(np.eye(3))
    with pytest.raises(ValueError, match="NaN"):
        build_tree(sp.csr_array([[np.nan, 1.0], [1.0, 0.0]]))
