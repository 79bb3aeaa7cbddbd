"""New labels in a tree: where they go, what is cut anew, and which nodes change."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from skxmc.label_space import LabelTree, build_tree, grow_tree
from skxmc.ops.row_sums import unit_rows


def features(n_labels, n_features=30, seed=0):
    rng = np.random.default_rng(seed)
    return unit_rows(
        sp.random_array((n_labels, n_features), density=0.2, rng=rng, format="csr", dtype="f4")
    )


def brute_force_place(tree, Z, label, n_below):
    """Down to the child with the largest cosine between its mean and the label."""
    v = 0
    n_below[0] += 1
    while True:
        options = [c for c in tree.children(v) if tree.label[c] < 0]
        if not options:
            return v
        cosines = []
        for c in options:
            mean = Z[:, :].toarray()[tree.labels_below(c)].sum(axis=0)
            norm = np.linalg.norm(mean)
            cosines.append(mean @ Z[[label]].toarray().ravel() / norm if norm else 0.0)
        best = max(cosines)
        close = [c for c, s in zip(options, cosines) if s > best - 1e-6]
        v = min(close, key=lambda c: n_below[c])
        n_below[v] += 1


@pytest.mark.parametrize("clustering", ["bisect", "unbalanced"])
def test_new_labels_go_to_the_most_similar_cluster(clustering):
    Z = features(70)
    tree = build_tree(Z[:40], arity=4, max_leaf=5, clustering=clustering, random_state=0)
    growth = grow_tree(tree, Z, max_leaf=50, clustering=clustering)
    n_below = {v: len(tree.labels_below(v)) for v in range(tree.n_nodes)}
    for label in range(40, 70):
        v = brute_force_place(tree, Z, label, n_below)
        assert growth.tree.parent[growth.tree.leaf_of[label]] == growth.new_number[v]


def test_labels_without_features_are_shared_out():
    Z = sp.csr_array(np.vstack([features(20).toarray(), np.zeros((20, 30))]), dtype=np.float32)
    tree = build_tree(Z[:20], max_leaf=5, random_state=0)
    grown = grow_tree(tree, Z, max_leaf=50).tree
    counts = np.bincount(grown.parent[grown.leaf_of])
    assert counts[counts > 0].max() <= 11
    assert counts.sum() == 40


def old_paths(tree, growth):
    """Each old label's path, in the numbers of the grown tree."""
    return [growth.new_number[tree.path(label)] for label in range(tree.n_labels)]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_not_touched_stays(seed):
    Z = features(60, seed=seed)
    tree = build_tree(
        Z[:50],
        arity=3,
        max_leaf=4,
        clustering="balanced" if seed % 2 else "unbalanced",
        random_state=0,
    )
    growth = grow_tree(tree, Z, max_leaf=20, arity=3, clustering="balanced")
    grown = growth.tree
    for label, path in enumerate(old_paths(tree, growth)):
        assert_array_equal(grown.path(label), path)
    above_new = {int(v) for label in range(50, 60) for v in grown.path(label)[:-1]}
    assert set(growth.touched.tolist()) == above_new
    # the children of an untouched node are the old ones, in order
    for u in np.flatnonzero(tree.label < 0):
        v = growth.new_number[u]
        children = growth.new_number[list(tree.children(u))]
        if v not in above_new:
            assert_array_equal(children, list(grown.children(v)))
        else:  # new ones come last
            assert_array_equal(children, list(grown.children(v))[: len(children)])


def test_overfull_clusters_are_cut_below_their_node():
    Z = features(100)
    tree = build_tree(Z[:20], arity=2, max_leaf=10, random_state=0)
    growth = grow_tree(tree, Z, max_leaf=10, arity=2, random_state=0)
    grown = growth.tree
    n_leaves = np.bincount(grown.parent[grown.leaf_of], minlength=grown.n_nodes)
    assert n_leaves.max() <= 20
    for v in range(tree.n_nodes):  # the old clusters have the labels that they had, and new ones
        if tree.label[v] < 0:
            below = set(grown.labels_below(growth.new_number[v]))
            assert set(tree.labels_below(v)) == below & set(range(20))
    above = {int(v) for label in range(100) for v in grown.path(label)[:-1]}
    assert set(growth.touched.tolist()) <= above
    assert growth.touched[0] == 0


def test_a_cluster_that_grows_slowly_is_cut_too():
    Z = features(120)
    tree = build_tree(Z[:10], max_leaf=10, random_state=0)
    for n_labels in range(11, 121):
        tree = grow_tree(tree, Z[:n_labels], max_leaf=10, random_state=0).tree
        n_leaves = np.bincount(tree.parent[tree.leaf_of])
        assert n_leaves.max() <= 20
    assert tree.n_labels == 120


@pytest.mark.parametrize("max_depth", [1, 2, 3])
def test_max_depth_is_kept(max_depth):
    Z = features(200)
    tree = build_tree(Z[:20], max_leaf=5, max_depth=max_depth, random_state=0)
    grown = grow_tree(tree, Z, max_leaf=5, max_depth=max_depth, random_state=0).tree
    assert grown.max_depth == max_depth


def test_labels_under_nodes_with_clusters():
    """Leaves at different depths: a label can be the sibling of a cluster."""
    tree = LabelTree.from_parents([-1, 0, 0, 1, 1], [-1, -1, 0, 1, 2])
    Z = sp.csr_array(np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]])
    growth = grow_tree(tree, Z, max_leaf=10)
    assert_array_equal(growth.tree.path(3)[:-1], [0, 1])
    assert_array_equal(growth.tree.path(4)[:-1], [0, 1])
    assert_array_equal(growth.tree.path(0), growth.new_number[tree.path(0)])


def test_one_label_and_one_more():
    grown = grow_tree(LabelTree.flat(1), features(2), max_leaf=1).tree
    assert grown.n_labels == 2
    for _, node in itertools.pairwise(grown.path(1)):
        assert grown.parent[node] >= 0


def test_same_seed_same_tree():
    Z = features(150)
    tree = build_tree(Z[:20], max_leaf=8, random_state=0)
    trees = [grow_tree(tree, Z, max_leaf=8, random_state=s).tree for s in (1, 1, 2)]
    assert trees[0] == trees[1]
    assert trees[0] != trees[2]


def test_no_new_label_is_refused():
    tree = LabelTree.flat(4)
    for n_labels in (4, 3):
        with pytest.raises(ValueError, match="more rows than the tree has labels"):
            grow_tree(tree, features(n_labels))
