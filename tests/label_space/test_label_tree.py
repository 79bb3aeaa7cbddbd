"""The label tree against plain recursion on parents, and what it refuses."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skxmc.label_space import LabelTree


@st.composite
def parent_lists(draw):
    """Random trees, the nodes numbered at random; returns (parent, label)."""
    n_nodes = draw(st.integers(2, 25))
    parent = [-1] + [draw(st.integers(0, v - 1)) for v in range(1, n_nodes)]
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    new = rng.permutation(n_nodes)
    shuffled = np.full(n_nodes, -1)
    shuffled[new] = [new[p] if p >= 0 else -1 for p in parent]
    leaves = np.setdiff1d(np.arange(n_nodes), shuffled)
    label = np.full(n_nodes, -1)
    label[leaves] = rng.permutation(len(leaves))
    return shuffled, label


@settings(deadline=None, max_examples=200)
@given(parent_lists())
def test_equals_recursion_on_parents(tree_arrays):
    parent, label = tree_arrays
    tree = LabelTree.from_parents(parent, label)
    n_nodes, n_labels = len(parent), int((label >= 0).sum())
    assert (tree.n_nodes, tree.n_labels) == (n_nodes, n_labels)

    def ancestors(v):
        return [v] if parent[v] < 0 else ancestors(parent[v]) + [v]

    def below(v):
        return sorted(label[u] for u in range(n_nodes) if label[u] >= 0 and v in ancestors(u))

    def signature(v):  # a node is known by the labels below it and its depth
        return (len(ancestors(v)) - 1, *below(v))

    original = sorted(signature(v) for v in range(n_nodes))
    ours = [(int(tree.depth[v]), *tree.labels_below(v).tolist()) for v in range(n_nodes)]
    assert sorted(ours) == original
    assert tree.max_depth == max(s[0] for s in original)
    for leaf in np.flatnonzero(label >= 0):
        path = tree.path(label[leaf])
        assert path.dtype == np.int32
        assert [ours[v] for v in path] == [signature(v) for v in ancestors(leaf)]
        assert path[-1] == tree.leaf_of[label[leaf]]
    for v in range(n_nodes):
        assert all(tree.parent[c] == v for c in tree.children(v))
        expected = [u for u in range(n_nodes) if u != v and v in path_to_root(tree, u)]
        assert tree.descendants(v).tolist() == expected
    assert tree.leaf_clusters.tolist() == sorted(set(tree.parent[tree.leaf_of].tolist()))
    assert (np.diff(tree.depth) >= 0).all()


def path_to_root(tree, v):
    nodes = []
    while v >= 0:
        nodes.append(v)
        v = tree.parent[v]
    return nodes


def test_siblings_keep_their_order():
    tree = LabelTree.from_parents([1, -1, 1, 1], [2, -1, 0, 1])
    assert tree.label.tolist() == [-1, 2, 0, 1]


def test_flat():
    tree = LabelTree.flat(4)
    assert tree.n_nodes == 5
    assert tree.max_depth == 1
    assert tree.leaf_of.tolist() == [1, 2, 3, 4]
    assert tree.leaf_clusters.tolist() == [0]
    assert LabelTree.flat(1).path(0).tolist() == [0, 1]
    with pytest.raises(ValueError, match="n_labels=0"):
        LabelTree.flat(0)


def test_arrays_are_int32_read_only_copies():
    child_start = np.array([1, 3, 3, 3])
    tree = LabelTree(child_start, np.array([-1, 1, 0], dtype=np.int8))
    child_start[1] = 7
    arrays = ("child_start", "label", "parent", "depth", "leaf_of", "leaf_clusters")
    for name in arrays:
        array = getattr(tree, name)
        assert array.dtype == np.int32, name
        assert not array.flags.writeable, name
    assert tree.child_start.tolist() == [1, 3, 3, 3]


def test_equality_and_copies():
    tree = LabelTree([1, 3, 5, 5, 5, 5], [-1, -1, 1, 0, 2])
    for other in (pickle.loads(pickle.dumps(tree)), copy.deepcopy(tree), copy.copy(tree)):
        assert other == tree
        assert other.path(2).tolist() == [0, 1, 4]
    assert tree != LabelTree([1, 3, 5, 5, 5, 5], [-1, -1, 1, 2, 0])
    assert tree != LabelTree.flat(3)
    assert tree != 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(tree)


@pytest.mark.parametrize(
    ("child_start", "label", "message"),
    [
        ([1, 3, 3], [-1, 0, 1], "3 nodes need 4"),
        ([0, 3, 3, 3], [-1, 0, 1], "begins with 0"),
        ([1, 2, 2, 2], [-1, 0, 1], "ends with 2"),
        ([1, 3, 2, 3], [-1, 0, 1], "decreases after node 1"),
        ([1, 3, 3, 3], [-1, 0, 0], "label 0 occurs 2 times"),
        ([1, 3, 3, 3], [-1, 0, 2], "label 1 occurs 0 times"),
        ([1, 3, 3, 3], [-1, 0, -1], "Node 2 has neither"),
        ([1, 3, 3, 3], [5, 0, 1], "Node 0 has children"),
        ([1, 1], [0], "root has no children"),
        ([1, 1], [-1], "root has no children"),
        ([1, 2, 2, 4, 4], [-1, 0, -1, 1], "Node 2 is not below the root"),
        ([1, 2, 2, 3], [-1, 0, -1], "Node 2 is not below the root"),
        ([1, 3, 3, 2**40], [-1, 0, 1], "numbers from -1"),
        ([1, 3, 3, 3], [-1, 0, -2], "numbers from -1"),
        ([[1, 3, 3, 3]], [-1, 0, 1], "vector"),
        ([], [], "vector"),
    ],
)
def test_arrays_that_are_no_tree(child_start, label, message):
    with pytest.raises(ValueError, match=message):
        LabelTree(np.array(child_start, dtype=np.int64), np.array(label, dtype=np.int64))


def test_arrays_that_are_no_integers():
    with pytest.raises(TypeError, match="child_start"):
        LabelTree([1.0, 2.0, 2.0], [-1, 0])


@pytest.mark.parametrize(
    ("parent", "label", "message"),
    [
        ([-1, 0], [-1], "same length"),
        ([-1, -1, 0], [-1, 1, 0], "one root"),
        ([1, 0], [-1, 0], "one root"),
        ([-1, 7], [-1, 0], "Node 1 has the parent 7"),
        ([-1, 0, 3, 2], [-1, 0, -1, -1], "Node 2 is not below the root"),
        ([-1, 0, 2], [-1, 0, 1], "Node 2 is not below the root"),
        ([-1, 0, 0], [-1, 0, 0], "occurs 2 times"),
    ],
)
def test_parents_that_are_no_tree(parent, label, message):
    with pytest.raises(ValueError, match=message):
        LabelTree.from_parents(parent, label)


def test_numbers_out_of_range():
    tree = LabelTree.flat(3)
    for label in (-1, 3):
        with pytest.raises(ValueError, match="no label"):
            tree.path(label)
    for method in (tree.children, tree.descendants, tree.labels_below):
        for node in (-1, 4):
            with pytest.raises(ValueError, match="no node"):
                method(node)


def test_text_lists_every_node():
    tree = LabelTree.from_parents([-1, 0, 0, 1, 1, 1, 2], [-1, -1, -1, 0, 3, 1, 2])
    assert tree.export_text().splitlines() == [
        "root (4 labels)",
        "|-- node 1 (3 labels)",
        "|   |-- label 0",
        "|   |-- label 3",
        "|   `-- label 1",
        "`-- node 2 (1 label)",
        "    `-- label 2",
    ]
    assert tree.export_text(list("abcd"), max_depth=2, max_children=1).splitlines() == [
        "root (4 labels)",
        "|-- node 1 (3 labels)",
        "|   |-- a",
        "|   `-- ... 2 more",
        "`-- ... 1 more",
    ]
    assert tree.export_text(max_depth=1).count("\n") == 2
    for method in (tree.export_text, tree.to_dot):
        with pytest.raises(ValueError, match="1 names"):
            method(["a"])


def test_dot_has_a_line_for_each_node_and_edge():
    tree = LabelTree.from_parents([-1, 0, 0, 1, 1], [-1, -1, 0, 1, 2])
    text = tree.to_dot(['say "hi"', "back\\slash", "c"])
    assert text.count("->") == tree.n_nodes - 1
    assert text.count("label=") == tree.n_nodes
    assert 'label="say \\"hi\\""' in text
    assert 'label="back\\\\slash"' in text
    for node in range(1, tree.n_nodes):
        assert f"n{tree.parent[node]} -> n{node};" in text
    assert "... 1 more" in tree.to_dot(max_children=1)
