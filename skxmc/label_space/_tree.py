"""The label tree: two integer arrays, checked once, that every other module can trust."""

import functools

import numpy as np

_INT32_MAX = np.iinfo(np.int32).max


class LabelTree:
    """A rooted tree whose leaves are the labels, as two arrays.

    The nodes are numbered breadth first, the root is node 0. The children of a node therefore have
    consecutive numbers, and so have all its descendants of one depth.

    Parameters
    ----------
    child_start : array-like of int of shape (n_nodes + 1,)
        The children of node ``v`` are ``child_start[v]`` to ``child_start[v + 1] - 1``. A leaf has
        none. ``child_start[0]`` is 1 and the last element is ``n_nodes``.
    label : array-like of int of shape (n_nodes,)
        The label of a leaf, -1 for an inner node. Each label 0 .. n_labels - 1 has one leaf.

    Attributes
    ----------
    child_start : ndarray of shape (n_nodes + 1,), int32
        Read-only, as are all arrays of a tree.
    label : ndarray of shape (n_nodes,), int32
    parent : ndarray of shape (n_nodes,), int32
        ``parent[0]`` is -1.
    depth : ndarray of shape (n_nodes,), int32
        Edges between a node and the root; it never decreases.
    leaf_of : ndarray of shape (n_labels,), int32
        The node of each label.
    leaf_clusters : ndarray, int32
        The nodes of which at least one child is a label, ascending.
    n_nodes, n_labels, max_depth : int
        ``max_depth`` is the depth of the deepest leaf.

    Raises
    ------
    ValueError
        If the arrays are not such a tree; the message names the node or label.
    TypeError
        If they are not integers.

    See Also
    --------
    build_tree : A tree from label features.

    Notes
    -----
    The check costs O(n_nodes) time and memory; the derived arrays are made on first use. Leaves may
    lie at different depths. Trees are equal if their arrays are, and can be pickled.

    Examples
    --------
    Labels 0 and 2 under one node, label 1 directly under the root:

    >>> from skxmc.label_space import LabelTree
    >>> tree = LabelTree([1, 3, 5, 5, 5, 5], [-1, -1, 1, 0, 2])
    >>> tree
    LabelTree(n_labels=3, n_nodes=5, max_depth=2)
    >>> tree.path(2)
    array([0, 1, 4], dtype=int32)
    >>> print(tree.export_text(["apple", "bread", "cherry"]))
    root (3 labels)
    |-- node 1 (2 labels)
    |   |-- apple
    |   `-- cherry
    `-- bread
    """

    def __init__(self, child_start, label):
        self.child_start = _integers(child_start, "child_start")
        self.label = _integers(label, "label")
        _check_tree(self.child_start, self.label)

    @classmethod
    def from_parents(cls, parent, label):
        """Make a tree from the parent of each node, the nodes being numbered in any way.

        Parameters
        ----------
        parent : array-like of int of shape (n_nodes,)
            The node above each node; -1 for the root.
        label : array-like of int of shape (n_nodes,)
            The label of a leaf, -1 for an inner node.

        Returns
        -------
        LabelTree
            Renumbered breadth first; siblings keep the order of their given numbers.

        Raises
        ------
        ValueError
            If there is not exactly one root, a parent does not exist, or the nodes form a cycle;
            and whatever the constructor refuses.

        Notes
        -----
        O(n_nodes log n_nodes) time.

        Examples
        --------
        >>> from skxmc.label_space import LabelTree
        >>> LabelTree.from_parents([3, 3, 4, 4, -1], [0, 2, 1, -1, -1]).path(2)
        array([0, 2, 4], dtype=int32)
        """
        parent = _integers(parent, "parent")
        label = _integers(label, "label")
        if parent.shape != label.shape:
            raise ValueError(
                f"parent and label must have the same length, got {len(parent)} and {len(label)}."
            )
        n_nodes = len(parent)
        bad = np.flatnonzero((parent < -1) | (parent >= n_nodes))
        if len(bad):
            raise ValueError(
                f"Node {bad[0]} has the parent {parent[bad[0]]}, but the nodes are 0 to "
                f"{n_nodes - 1}, and -1 marks the root."
            )
        roots = np.flatnonzero(parent == -1)
        if len(roots) != 1:
            raise ValueError(f"A tree has one root (parent -1), got {len(roots)}: {roots[:5]}.")
        by_parent = np.argsort(parent, kind="stable")[1:]  # the root is first
        n_children = np.bincount(parent[by_parent], minlength=n_nodes)
        first_child = np.cumsum(n_children) - n_children
        levels = [roots]
        while len(levels[-1]):
            level = levels[-1]
            counts = n_children[level]
            # the positions first_child[v] .. first_child[v] + counts[v] - 1 of each v, in a row
            skipped = first_child[level] - (np.cumsum(counts) - counts)
            levels.append(by_parent[np.repeat(skipped, counts) + np.arange(counts.sum())])
        nodes = np.concatenate(levels)
        if len(nodes) < n_nodes:
            reached = np.zeros(n_nodes, dtype=bool)
            reached[nodes] = True
            raise ValueError(
                f"Node {np.argmin(reached)} is not below the root: its ancestors form a cycle."
            )
        child_start = np.concatenate([[1], 1 + np.cumsum(n_children[nodes])])
        return cls(child_start, label[nodes])

    @classmethod
    def flat(cls, n_labels):
        """Make the tree with all labels directly under the root: one-vs-rest.

        Parameters
        ----------
        n_labels : int
            At least 1.

        Returns
        -------
        LabelTree

        Examples
        --------
        >>> from skxmc.label_space import LabelTree
        >>> LabelTree.flat(3).leaf_of
        array([1, 2, 3], dtype=int32)
        """
        if n_labels < 1:
            raise ValueError(f"A tree has at least one label, got n_labels={n_labels}.")
        child_start = np.full(n_labels + 2, n_labels + 1)
        child_start[0] = 1
        return cls(child_start, np.arange(-1, n_labels))

    @property
    def n_nodes(self):
        return len(self.label)

    @property
    def n_labels(self):
        return len(self.leaf_of)

    @property
    def max_depth(self):
        return int(self.depth[-1])

    @functools.cached_property
    def parent(self):
        parent = np.empty(self.n_nodes, dtype=np.int32)
        parent[0] = -1
        parent[1:] = _parents(self.child_start)
        return _read_only(parent)

    @functools.cached_property
    def depth(self):
        depth = np.empty(self.n_nodes, dtype=np.int32)
        for level, nodes in enumerate(self._levels(0)):
            depth[nodes] = level
        return _read_only(depth)

    @functools.cached_property
    def leaf_of(self):
        leaves = np.flatnonzero(self.label >= 0)
        leaf_of = np.empty(len(leaves), dtype=np.int32)
        leaf_of[self.label[leaves]] = leaves
        return _read_only(leaf_of)

    @functools.cached_property
    def leaf_clusters(self):
        return _read_only(np.unique(self.parent[self.leaf_of]))

    def path(self, label):
        """Return the nodes from the root to the leaf of a label, both included.

        Parameters
        ----------
        label : int
            From 0 to n_labels - 1.

        Returns
        -------
        ndarray of shape (depth of the leaf + 1,), int32
            Node numbers.

        Raises
        ------
        ValueError
            If there is no such label.
        """
        if not 0 <= label < self.n_labels:
            raise ValueError(f"There is no label {label}: the tree has {self.n_labels} labels.")
        node = self.leaf_of[label]
        nodes = [node]
        while node != 0:
            node = self.parent[node]
            nodes.append(node)
        return np.array(nodes[::-1], dtype=np.int32)

    def children(self, node):
        """Return the children of a node.

        Parameters
        ----------
        node : int
            From 0, the root, to n_nodes - 1.

        Returns
        -------
        range
            Node numbers; empty for a leaf.
        """
        self._check_node(node)
        return range(int(self.child_start[node]), int(self.child_start[node + 1]))

    def descendants(self, node):
        """Return all nodes below a node, without the node itself.

        Parameters
        ----------
        node : int
            From 0 to n_nodes - 1.

        Returns
        -------
        ndarray, int32
            Ascending; empty for a leaf.

        Raises
        ------
        ValueError
            If there is no such node.

        Notes
        -----
        O(max_depth + size of the result) time.
        """
        self._check_node(node)
        levels = [np.arange(s.start, s.stop, dtype=np.int32) for s in self._levels(node)]
        return np.concatenate([np.empty(0, dtype=np.int32), *levels[1:]])

    def labels_below(self, node):
        """Return the labels below a node, ascending; for a leaf its own label.

        Parameters
        ----------
        node : int
            As for `descendants`, and so are the errors.

        Returns
        -------
        ndarray of shape (n_labels_below,), int32
            Label numbers.
        """
        self._check_node(node)
        labels = np.concatenate([self.label[nodes] for nodes in self._levels(node)])
        return np.sort(labels[labels >= 0])

    def export_text(self, label_names=None, *, max_depth=None, max_children=None):
        """Return the tree as indented text, one node a line.

        Parameters
        ----------
        label_names : sequence of str of length n_labels, default=None
            Names to print in place of the label numbers.
        max_depth : int, default=None
            Nodes below this depth are left out. None prints all.
        max_children : int, default=None
            At most that many children of a node are printed. None prints all.

        Returns
        -------
        str
            Without a newline at the end.

        Raises
        ------
        ValueError
            If ``label_names`` has another length.
        """
        text = self._node_texts(label_names, "{} ({})")
        lines = [text(0)]
        for node, indent, last, n_hidden in self._walk(max_depth, max_children):
            branch = "`-- " if last else "|-- "
            lines.append(indent + branch + (f"... {n_hidden} more" if n_hidden else text(node)))
        return "\n".join(lines)

    def to_dot(self, label_names=None, *, max_depth=None, max_children=None):
        r"""Return the tree in the language of Graphviz.

        Parameters
        ----------
        label_names, max_depth, max_children : as in `export_text`
            Names of the labels, and which nodes are left out.

        Returns
        -------
        str
            Text for the program ``dot``.

        Raises
        ------
        ValueError
            If ``label_names`` has another length.

        Examples
        --------
        >>> from skxmc.label_space import LabelTree
        >>> print(LabelTree.flat(2).to_dot(["red", "green"]))
        digraph LabelTree {
            rankdir=LR;
            node [shape=box];
            n0 [label="root\n2 labels"];
            n1 [label="red"];
            n0 -> n1;
            n2 [label="green"];
            n0 -> n2;
        }
        """
        text = self._node_texts(label_names, "{}\n{}")
        lines = ["digraph LabelTree {", "    rankdir=LR;", "    node [shape=box];"]
        lines.append(f"    n0 [label={_quoted(text(0))}];")
        for node, _, _, n_hidden in self._walk(max_depth, max_children):
            name, shown = f"n{node}", text(node)
            if n_hidden:
                name, shown = f"more{node}", f"... {n_hidden} more"
            lines += [
                f"    {name} [label={_quoted(shown)}];",
                f"    n{self.parent[node]} -> {name};",
            ]
        return "\n".join([*lines, "}"])

    def _levels(self, node):
        """Yield the descendants of a node as one slice a depth, the node itself first."""
        start, stop = node, node + 1
        while start < stop:
            yield slice(start, stop)
            start, stop = int(self.child_start[start]), int(self.child_start[stop])

    def _n_labels_below(self):
        count = (self.label >= 0).astype(np.int64)
        for nodes in reversed(list(self._levels(0))):
            if nodes.start > 0:
                count += np.bincount(
                    self.parent[nodes], weights=count[nodes], minlength=self.n_nodes
                ).astype(np.int64)
        return count

    def _walk(self, max_depth, max_children):
        """Yield the nodes below the root, depth first, as text shows them.

        Each as (node, text before it, is it the last sibling, siblings it stands for or 0).
        """
        stack = self._children_reversed(0, "", max_depth, max_children)
        while stack:
            node, indent, last, n_hidden = stack.pop()
            yield node, indent, last, n_hidden
            if not n_hidden:
                indent += "    " if last else "|   "
                stack += self._children_reversed(node, indent, max_depth, max_children)

    def _children_reversed(self, node, indent, max_depth, max_children):
        """What `_walk` yields for the children of a node, last first."""
        children = self.children(node)
        if max_depth is not None and self.depth[node] >= max_depth:
            return []
        shown = children if max_children is None else children[:max_children]
        n_hidden = len(children) - len(shown)
        entries = [(child, indent, child == children[-1], 0) for child in shown]
        if n_hidden:
            entries.append((children[len(shown)], indent, True, n_hidden))
        return entries[::-1]

    def _node_texts(self, label_names, form):
        """A function that names a node; ``form`` joins an inner one and its number of labels."""
        if label_names is not None and len(label_names) != self.n_labels:
            raise ValueError(
                f"label_names has {len(label_names)} names, but the tree has {self.n_labels} "
                "labels."
            )
        n_below = self._n_labels_below()

        def text(node):
            label = int(self.label[node])
            if label >= 0:
                return f"label {label}" if label_names is None else str(label_names[label])
            name = "root" if node == 0 else f"node {node}"
            count = "1 label" if n_below[node] == 1 else f"{n_below[node]} labels"
            return form.format(name, count)

        return text

    def _check_node(self, node):
        if not 0 <= node < self.n_nodes:
            raise ValueError(f"There is no node {node}: the nodes are 0 to {self.n_nodes - 1}.")

    def __eq__(self, other):
        if not isinstance(other, LabelTree):
            return NotImplemented
        return np.array_equal(self.child_start, other.child_start) and np.array_equal(
            self.label, other.label
        )

    __hash__ = None

    def __reduce__(self):
        return LabelTree, (self.child_start, self.label)

    def __repr__(self):
        return (
            f"LabelTree(n_labels={self.n_labels}, n_nodes={self.n_nodes}, "
            f"max_depth={self.max_depth})"
        )


def _quoted(text):
    """A string of the language of Graphviz."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _read_only(array):
    array.flags.writeable = False
    return array


def _integers(values, name):
    """A read-only int32 copy of a vector of integers."""
    values = np.asarray(values)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{name} must be a vector with elements, got the shape {values.shape}.")
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got the dtype {values.dtype}.")
    if values.min() < -1 or values.max() > _INT32_MAX:
        raise ValueError(
            f"{name} must hold numbers from -1 to {_INT32_MAX}, got {values.min()} to "
            f"{values.max()}."
        )
    return _read_only(values.astype(np.int32))


def _parents(child_start):
    """The parent of each node but the root."""
    n_nodes = len(child_start) - 1
    return np.repeat(np.arange(n_nodes, dtype=np.int32), np.diff(child_start))


def _check_tree(child_start, label):
    n_nodes = len(label)
    if len(child_start) != n_nodes + 1:
        raise ValueError(
            f"child_start has {len(child_start)} elements, but {n_nodes} nodes need {n_nodes + 1}."
        )
    if child_start[0] != 1 or child_start[-1] != n_nodes:
        raise ValueError(
            f"child_start must begin with 1 and end with the number of nodes, {n_nodes}; it begins "
            f"with {child_start[0]} and ends with {child_start[-1]}."
        )
    if n_nodes == 1:
        raise ValueError("The root has no children: a tree of one label has a root and a leaf.")
    n_children = np.diff(child_start)
    if n_children.min() < 0:
        raise ValueError(f"child_start decreases after node {int(np.argmax(n_children < 0))}.")
    children = np.arange(1, n_nodes)
    cyclic = _parents(child_start) >= children
    if cyclic.any():
        raise ValueError(
            f"Node {children[np.argmax(cyclic)]} is not below the root: the number of a node must "
            "be larger than that of its parent."
        )
    bad = (n_children == 0) != (label >= 0)
    if bad.any():
        node = int(np.argmax(bad))
        if label[node] >= 0:
            raise ValueError(f"Node {node} has children, so it cannot be label {label[node]}.")
        raise ValueError(f"Node {node} has neither children nor a label.")
    labels = label[label >= 0]
    count = np.bincount(labels[labels < len(labels)], minlength=len(labels))
    if (count != 1).any():
        raise ValueError(
            f"{len(labels)} leaves need the labels 0 to {len(labels) - 1}, each once; label "
            f"{int(np.argmax(count != 1))} occurs {count[np.argmax(count != 1)]} times."
        )
