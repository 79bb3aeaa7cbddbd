"""Models of omikuji: settings.json and a CBOR file for each tree, tree0.cbor and so on."""

import json
import re

import numpy as np
import scipy.sparse as sp

from skxmc.exceptions import ModelFormatError
from skxmc.io._foreign import _cbor, _common

_LINKS = {"Hinge": "l2-hinge", "Log": "logistic"}
_LOSSES = {link: loss for loss, link in _LINKS.items()}
_TREE_FILE = re.compile(r"tree.*\.cbor")


def import_model(path, n_features=None, n_labels=None):
    """Return the model that omikuji saved at ``path``; see `skxmc.io.import_model`."""
    settings = _common.read_json(path / "settings.json")
    loss = settings.get("classifier_loss_type")
    if loss not in _LINKS:
        raise ModelFormatError(f"its loss is {loss!r}; omikuji has {', '.join(_LINKS)}.")
    width = _common.size_of(settings.get("n_features"), "n_features")
    if n_features not in (None, width):
        raise ModelFormatError(f"it has {width} features, not {n_features}.")
    files = sorted(file for file in path.iterdir() if _TREE_FILE.fullmatch(file.name))
    if not files:
        raise ModelFormatError("it has no file tree0.cbor.")
    trees = []
    for file in files:
        try:
            trees.append(_Tree(width).read(_cbor.decode(file.read_bytes())))
        except (ModelFormatError, KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"{file.name} is damaged: {error}") from error
    found = 1 + max(int(tree.label.max()) for tree in trees)
    if n_labels is not None and n_labels < found:
        raise ModelFormatError(f"it has {found} labels or more, not {n_labels}.")
    return _common.make_tree_model(
        trees,
        found if n_labels is None else n_labels,
        width,
        preset="parabel",
        link=_LINKS[loss],
        loss="logistic" if loss == "Log" else "squared_hinge",
        normalize="l2",
    )


class _Tree:
    """The nodes of a tree, collected from its branches and leaves."""

    def __init__(self, n_features):
        self.n_features = n_features
        self.parent, self.label, self.depth = [-1], [-1], [0]
        self.clusters = []  # the nodes that omikuji calls leaves
        self.blocks = [sp.csr_array((1, n_features + 1), dtype=np.float32)]

    def read(self, root):
        # each node with the number that it has here
        waiting = [(root, 0)]
        while waiting:
            value, node = waiting.pop(0)
            waiting.extend(self._read_node(value, node))
        weights = sp.vstack(self.blocks, "csr")
        bias = weights[:, [self.n_features]].toarray().ravel()
        weights = weights[:, : self.n_features]
        parent, label = np.array(self.parent), np.array(self.label)
        if label.max() < 0:
            raise ModelFormatError("it has no labels.")
        return self._padded(parent, label, weights, bias)

    def _read_node(self, value, node):
        if not isinstance(value, dict) or len(value) != 1:
            raise ModelFormatError("a node is neither Branch nor Leaf.")
        ((kind, content),) = value.items()
        depth = self.depth[node] + 1
        if kind == "Branch":
            children, labels = content["children"], None
            if not isinstance(children, list):
                raise ModelFormatError("a branch has no list of children.")
            count = len(children)
        elif kind == "Leaf":
            labels = _indices(content["labels"], "a label")
            children, count = [], len(labels)
            self.clusters.append(node)
        else:
            raise ModelFormatError(f"a node is {kind!r}, neither Branch nor Leaf.")
        weights = self._read_weights(content["weights"])
        if weights.shape[0] != count:
            raise ModelFormatError(
                f"a node has {weights.shape[0]} classifiers for {count} children"
            )
        first = len(self.parent)
        self.parent += [node] * count
        self.label += [-1] * count if labels is None else labels.tolist()
        self.depth += [depth] * count
        self.blocks.append(weights)
        return [(child, first + i) for i, child in enumerate(children)]

    def _read_weights(self, value):
        """Weights by child; the last column is the bias."""
        ((kind, content),) = value.items()
        width = self.n_features + 1
        if kind == "Dense":
            rows, columns = _indices(content["dim"], "a size").tolist()
            data = _numbers(content["data"])
            if rows != width or len(data) != rows * columns:
                raise ModelFormatError(f"{len(data)} weights, of the shape {rows}, {columns}.")
            return sp.csr_array(data.reshape(rows, columns).T)
        if kind != "Sparse":
            raise ModelFormatError(f"weights are {kind!r}, neither Dense nor Sparse.")
        if content["outer_dim"] != width:
            raise ModelFormatError(f"weights for {content['outer_dim']} features, not {width}.")
        count = _common.size_of(content["inner_dim"], "inner_dim")
        data = _numbers(content["data"])
        feature = _indices(content["outer_inds"], "a feature")
        child = _indices(content["inner_inds"], "a child")
        indptr = _indices(content["indptr"], "a pointer")
        lengths = np.diff(indptr)
        if len(indptr) != len(feature) + 1 or indptr[0] != 0 or indptr[-1] != len(data):
            raise ModelFormatError("pointers and features do not fit together.")
        if (lengths < 0).any() or len(child) != len(data):
            raise ModelFormatError("pointers decrease, or do not fit to the children.")
        if feature.max(initial=-1) >= width or child.max(initial=-1) >= count:
            raise ModelFormatError("a feature or a child is out of range.")
        at = child, np.repeat(feature, lengths)
        return sp.coo_array((data, at), shape=(count, width)).tocsr()

    def _padded(self, parent, label, weights, bias):
        """All clusters of labels at the same depth, by nodes of the probability 1 above them.

        In a beam of omikuji a leaf that is reached early competes with those of the next levels.
        """
        depth = np.array(self.depth)
        deepest = depth[self.clusters].max()
        new_parent, n_nodes = [], len(parent)
        for cluster in self.clusters:
            missing = int(deepest - depth[cluster])
            if not missing:
                continue
            top = cluster
            labels = np.flatnonzero(parent == cluster)
            for _ in range(missing):
                new_parent.append(top)
                top = n_nodes + len(new_parent) - 1
            parent[labels] = top
        n_new = len(new_parent)
        empty = sp.csr_array((n_new, self.n_features), dtype=np.float32)
        return _common.WeightedTree(
            np.concatenate((parent, np.array(new_parent, dtype=np.int64))),
            np.concatenate((label, np.full(n_new, -1))),
            sp.vstack([weights, empty], "csr") if n_new else weights,
            np.concatenate((bias, np.full(n_new, _common.SURE))),
        )


def _numbers(value):
    """Weights as float32."""
    values = np.asarray(value, dtype=np.float64)
    if values.ndim != 1 or not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise ModelFormatError("a weight is no finite number.")
    return values.astype(np.float32)


def _indices(value, what):
    """Integers from 0 to 2**31 - 1."""
    values = np.asarray(value, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values < 2**31) & (values % 1 == 0)).all():
        raise ModelFormatError(f"{what} is not an integer of 32 bits.")
    return values.astype(np.int64)


def export_model(model, folder):
    """Write a model as omikuji does; see `skxmc.io.export_model`."""
    kind = _common.model_kind(model)
    link = "logistic" if kind == "linear" else model._setting("link")
    if link not in _LOSSES:
        raise ValueError(f"omikuji has the links {', '.join(_LOSSES)}; the model has {link!r}.")
    if model.normalize is None:
        raise ValueError("omikuji scales rows to unit length; the model has normalize=None.")
    settings = {"n_features": model.n_features_in_, "classifier_loss_type": _LOSSES[link]}
    (folder / "settings.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    if kind == "linear":
        weights, bias = _common.linear_parts(model)
        labels = np.arange(len(bias))
        items = [{"Leaf": {"weights": _weights(weights, bias), "labels": labels}}]
    else:
        items = (
            _branch(weighted, tree)
            for weighted, tree in zip(_common.trees_of(model), model.trees_, strict=True)
        )
    for number, item in enumerate(items):
        (folder / f"tree{number}.cbor").write_bytes(_cbor.encode(item))


def _branch(weighted, tree):
    """A tree as nested branches; omikuji's leaves have labels alone.

    Where a node has labels beside other nodes, each such label gets a leaf of its own below a node
    of the weights that the label has, in which it is sure.
    """
    items = [None] * tree.n_nodes
    for node in range(tree.n_nodes - 1, -1, -1):  # children come after their parents
        children = np.arange(tree.child_start[node], tree.child_start[node + 1])
        if not len(children):
            continue
        weights = _weights(weighted.weights[children], weighted.bias[children])
        labels = tree.label[children]
        if (labels >= 0).all():
            items[node] = {"Leaf": {"weights": weights, "labels": labels}}
            continue
        below = [
            _sure_leaf(labels[i], weighted.weights.shape[1]) if labels[i] >= 0 else items[child]
            for i, child in enumerate(children)
        ]
        items[node] = {"Branch": {"weights": weights, "children": below}}
        for child in children:
            items[child] = None
    return items[0]


def _sure_leaf(label, n_features):
    nothing = sp.csr_array((1, n_features), dtype=np.float32)
    weights = _weights(nothing, np.array([_common.SURE]))
    return {"Leaf": {"weights": weights, "labels": np.array([label])}}


def _weights(weights, bias):
    """Features in the rows, children in the columns, the bias last, as omikuji stores them."""
    by_feature = sp.vstack([sp.csc_array(weights.T), sp.csr_array(bias[None, :])], "csr")
    by_feature = _common.canonical_rows(by_feature)
    used = np.flatnonzero(np.diff(by_feature.indptr))
    sparse = {
        "outer_dim": by_feature.shape[0],
        "inner_dim": by_feature.shape[1],
        "indptr": np.append(0, by_feature.indptr[used + 1]),
        "outer_inds": used,
        "inner_inds": by_feature.indices,
        "data": by_feature.data,
    }
    return {"Sparse": sparse}
