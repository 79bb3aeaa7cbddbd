"""What the formats of other libraries share: trees with weights, models made of them, files."""

import json
import shutil
import uuid
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skxmc.exceptions import ModelFormatError
from skxmc.io._arrays import NOT_DAMAGE, make_compressed, move_into_place, sync_directory
from skxmc.io._arrays import _check_npy_header as check_npy_header

#: A score whose edge has the probability 1 in float32, whatever the link.
SURE = 104.0
#: A score whose edge has the probability 0; libraries that compute its cube in float32 stay finite.
NEVER = -1e4

_INT32_MAX = np.iinfo(np.int32).max
_MAX_JSON_BYTES = 1 << 20


class WeightedTree(NamedTuple):
    """A label tree and its classifiers, the nodes being numbered in any way.

    Attributes
    ----------
    parent : ndarray of shape (n_nodes,)
        -1 for the root.
    label : ndarray of shape (n_nodes,)
        -1 for a node that is no label.
    weights : csr_array of shape (n_nodes, n_features)
        Those of the root are not used.
    bias : ndarray of shape (n_nodes,)
    """

    parent: np.ndarray
    label: np.ndarray
    weights: sp.csr_array
    bias: np.ndarray


def flat_tree(weights, bias):
    """The tree with all labels below the root, of (n_labels, n_features) weights."""
    n_labels, n_features = weights.shape
    root = sp.csr_array((1, n_features), dtype=np.float32)
    return WeightedTree(
        np.append(-1, np.zeros(n_labels, dtype=np.int64)),
        np.arange(-1, n_labels),
        sp.vstack([root, weights], "csr"),
        np.append(0.0, bias),
    )


# ------------------------------------------------------------------ models from trees


def make_tree_model(trees, n_labels, n_features, **params):
    """Make a fitted `ParabelTree` of trees that were read from a file.

    Parameters
    ----------
    trees : list of WeightedTree
        Labels that one of them does not have get the probability 0 in it.
    n_labels, n_features : int
    **params
        Of `ParabelTree`.

    Returns
    -------
    ParabelTree

    Raises
    ------
    ModelFormatError
        If the trees are no trees, or something is out of range or not finite.
    """
    parabel = import_module("skxmc.linear")
    model = parabel.ParabelTree(n_trees=len(trees), **params)
    model.preset_ = dict(import_module("skxmc.linear._parabel").PRESETS[model.preset])
    built = [_tree_and_weights(tree, n_labels, n_features) for tree in trees]
    model.trees_ = [tree for tree, _ in built]
    model.weights_ = [weights for _, weights in built]
    model._search = {}
    model.n_iter_ = 0
    return _finish(model, n_labels, n_features)


def make_linear_model(weights, bias, **params):
    """Make a fitted `DismecClassifier` of (n_labels, n_features) weights and (n_labels,) biases."""
    model = import_module("skxmc.linear").DismecClassifier(**params)
    if not (np.isfinite(weights.data).all() and np.isfinite(bias).all()):
        raise ModelFormatError("there are weights that are not finite.")
    weights = canonical_rows(weights)
    model.coef_ = make_compressed(
        weights.data,
        weights.indices.astype(np.int32),
        weights.indptr.astype(np.int64),
        weights.shape,
    )
    model.intercept_ = bias.astype(np.float32)
    model.n_iter_ = np.zeros(len(bias), dtype=np.int32)
    return _finish(model, *weights.shape)


def _finish(model, n_labels, n_features):
    model._target_kind, model._target_dtype = "sparse", np.dtype(np.int64)
    model._target_is_spmatrix = False
    model.classes_ = np.arange(n_labels, dtype=np.int32)
    model.n_labels_, model.n_features_in_ = int(n_labels), int(n_features)
    model.backend_ = "numba"
    model._check_loaded_model()
    model._fit_done = True
    return model


def _tree_and_weights(tree, n_labels, n_features):
    tree = _without_empty_nodes(tree)
    tree = _with_all_labels(tree, n_labels)
    nodes = _breadth_first(tree.parent)
    position = np.empty(len(nodes), dtype=np.int64)
    position[nodes] = np.arange(len(nodes))
    n_children = np.bincount(position[tree.parent[nodes[1:]]], minlength=len(nodes))
    child_start = np.concatenate(([1], 1 + np.cumsum(n_children)))
    label_tree = import_module("skxmc.label_space").LabelTree(child_start, tree.label[nodes])
    bias = tree.bias[nodes].astype(np.float32)
    bias[0] = 0
    rows = canonical_rows(tree.weights)[nodes]
    begin, end = rows.indptr[:2]
    if end > begin:  # the root has no classifier
        rows = sp.vstack([sp.csr_array((1, n_features), dtype=np.float32), rows[1:]], "csr")
    return label_tree, _group_by_parent(label_tree, rows, bias)


def _without_empty_nodes(tree):
    """Drop nodes that are no labels and have nothing below them."""
    while True:
        inner = np.unique(tree.parent)
        keep = tree.label >= 0
        keep[inner[inner >= 0]] = True
        keep[tree.parent < 0] = True
        if keep.all():
            return tree
        number = np.cumsum(keep) - 1
        parent = tree.parent[keep]
        parent = np.where(parent >= 0, number[parent], -1)
        tree = WeightedTree(parent, tree.label[keep], tree.weights[keep], tree.bias[keep])


def _with_all_labels(tree, n_labels):
    """Put the labels that are missing under a node of their own, which is never answered."""
    found = np.bincount(tree.label[tree.label >= 0], minlength=n_labels)
    if len(found) > n_labels:
        raise ModelFormatError(f"there is a label {len(found) - 1}, but only {n_labels} labels.")
    if found.max(initial=0) > 1:
        raise ModelFormatError(f"label {np.argmax(found)} is at {found.max()} places of a tree.")
    missing = np.flatnonzero(found == 0)
    if not len(missing):
        return tree
    n_nodes, n_new = len(tree.parent), len(missing) + 1
    root = int(np.flatnonzero(tree.parent < 0)[0])
    empty = sp.csr_array((n_new, tree.weights.shape[1]), dtype=np.float32)
    return WeightedTree(
        np.concatenate((tree.parent, [root], np.full(len(missing), n_nodes))),
        np.concatenate((tree.label, [-1], missing)),
        sp.vstack([tree.weights, empty], "csr"),
        np.concatenate((tree.bias, np.full(n_new, -np.inf, np.float32))),
    )


def _breadth_first(parent):
    """The nodes breadth first, siblings in the order of their numbers."""
    n_nodes = len(parent)
    if ((parent < -1) | (parent >= n_nodes)).any() or np.count_nonzero(parent == -1) != 1:
        raise ModelFormatError("a tree must have one root, and parents that exist.")
    by_parent = np.argsort(parent, kind="stable")[1:]  # the root is first
    n_children = np.bincount(parent[by_parent], minlength=n_nodes)
    first = np.cumsum(n_children) - n_children
    levels = [np.flatnonzero(parent == -1)]
    while len(levels[-1]):
        level = levels[-1]
        counts = n_children[level]
        skipped = first[level] - (np.cumsum(counts) - counts)
        levels.append(by_parent[np.repeat(skipped, counts) + np.arange(counts.sum())])
    nodes = np.concatenate(levels)
    if len(nodes) < n_nodes:
        raise ModelFormatError("the nodes of a tree form a cycle.")
    return nodes


def canonical_rows(weights):
    """Float32 CSR rows with ascending features and without zeros."""
    weights = sp.csr_array(weights, dtype=np.float32, copy=True)
    weights.sum_duplicates()
    weights.eliminate_zeros()
    return weights


def _group_by_parent(tree, rows, bias):
    """`TreeWeights` of the classifiers of the nodes, in the numbering of the tree."""
    from skxmc.ops.tree_search import TreeWeights  # with Numba, which `import skxmc` leaves out

    n_features = max(rows.shape[1], 1)
    node = np.repeat(np.arange(tree.n_nodes), np.diff(rows.indptr))
    key = tree.parent[node].astype(np.int64) * n_features + rows.indices
    order = np.argsort(key, kind="stable")  # siblings stay in their order
    key = key[order]
    first = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1]))) if len(key) else key
    row_parent = key[first] // n_features
    child = node - tree.child_start[tree.parent[node]]
    wide = np.diff(tree.child_start).max() > 1 << 16
    return TreeWeights(
        np.searchsorted(row_parent, np.arange(tree.n_nodes + 1)).astype(np.int64),
        (key[first] % n_features).astype(np.int32),
        np.append(first, len(key)).astype(np.int64),
        child[order].astype(np.int32 if wide else np.uint16),
        rows.data[order],
        bias,
    )


# ------------------------------------------------------------------ trees from models


def trees_of(model):
    """Yield the trees of a `ParabelTree` as `WeightedTree`, nodes in its own numbering.

    A score of -inf becomes `NEVER`.
    """
    model._check_all_weights()
    for tree, weights in zip(model.trees_, model.weights_, strict=True):
        row = np.repeat(np.arange(len(weights.row_feature)), np.diff(weights.row_indptr))
        parent = np.repeat(np.arange(tree.n_nodes), np.diff(weights.chunk_indptr))
        node = tree.child_start[parent[row]].astype(np.int64) + weights.child
        shape = tree.n_nodes, model.n_features_in_
        rows = sp.coo_array((weights.weight, (node, weights.row_feature[row])), shape=shape)
        bias = np.maximum(weights.bias, np.float32(NEVER))
        yield WeightedTree(tree.parent, tree.label, canonical_rows(rows), bias)


def linear_parts(model):
    """Weights and biases of a `DismecClassifier`, a bias of -inf as `NEVER`."""
    return canonical_rows(model.coef_), np.maximum(model.intercept_, np.float32(NEVER))


def model_kind(model):
    """Return "tree" or "linear" for a fitted model that other libraries can express.

    Raises
    ------
    TypeError
        If it is neither a `ParabelTree` nor a `DismecClassifier`.
    ValueError
        If it was fitted with a 1-D ``y`` of two classes: it has one score for both.
    sklearn.exceptions.NotFittedError
    """
    from sklearn.utils.validation import check_is_fitted

    linear = import_module("skxmc.linear")
    if not isinstance(model, (linear.ParabelTree, linear.DismecClassifier)):
        raise TypeError(
            f"export_model takes a ParabelTree or a DismecClassifier, got {type(model).__name__}: "
            "of a pipeline or a meta-estimator pass the classifier within it."
        )
    check_is_fitted(model)
    if model._target_kind == "binary":
        raise ValueError(
            "a model of two classes (1-D y) has one score for both, which other libraries do not "
            "know: fit with a 2-D indicator Y."
        )
    return "tree" if isinstance(model, linear.ParabelTree) else "linear"


# ------------------------------------------------------------------ files


def read_json(path):
    """Return the JSON object that a small file holds."""
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ModelFormatError(f"{path.name} is larger than {_MAX_JSON_BYTES:,} bytes.")
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ModelFormatError(f"{path.name} does not hold a JSON object.")
    return value


def read_npz(path, names):
    """Return the arrays of these names in an ``.npz`` file.

    Their sizes are checked before they are read, and nothing is unpickled.
    """
    with open(path, "rb") as content, np.load(content, allow_pickle=False) as archive:
        found = {member.filename: member for member in archive.zip.infolist()}
        arrays = {}
        for name in names:
            if f"{name}.npy" not in found:
                raise ModelFormatError(f"{path.name} has no array {name!r}.")
            member = found[f"{name}.npy"]
            with archive.zip.open(member) as file:
                check_npy_header(file, member.file_size)
            arrays[name] = archive[name]
    return arrays


def size_of(value, what):
    """Return an integer that a file states, at least 0 and below 2**31."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT32_MAX:
        raise ModelFormatError(f"{what} is {value!r}, not a size.")
    return value


def reading(path, what):
    """Context in which all that goes wrong but for missing files is a ModelFormatError."""
    return _Reading(path, what)


class _Reading:
    def __init__(self, path, what):
        self.path, self.what = path, what

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None or not isinstance(error, Exception) or isinstance(error, NOT_DAMAGE):
            return False
        start = f"The {self.what} model {self.path} cannot be read"
        if isinstance(error, ModelFormatError):
            raise ModelFormatError(f"{start}: {error}") from error
        if isinstance(error, FileNotFoundError):
            raise ModelFormatError(f"{start}: there is no {error.filename}.") from error
        raise ModelFormatError(f"{start}: {type(error).__name__}: {error}") from error


def write_directory(path, fill, overwrite=False):
    """Call ``fill(folder)`` on a new folder and rename it to ``path`` when it is complete.

    Parameters
    ----------
    path : Path
    fill : callable
    overwrite : bool, default=False
        Replace a directory that is there.

    Raises
    ------
    FileExistsError
        If there is something at ``path`` that may not be replaced.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise FileExistsError(f"{path} exists and is no directory.")
    taken = path.is_dir() and any(path.iterdir())
    if taken and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True to replace the model there.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}")
    temporary.mkdir()
    try:
        fill(temporary)
        sync_directory(temporary)
        move_into_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
