"""Models of libpecos: XLinearModel, a folder for each level with W.npz, C.npz and param.json."""

import json

import numpy as np
import scipy.sparse as sp

from skxmc.exceptions import ModelFormatError
from skxmc.io import _arrays
from skxmc.io._foreign import _common

_LINKS = {
    "sigmoid": "logistic",
    **{f"l{p}-hinge": f"l{p}-hinge" for p in (1, 2, 3)},
    # their logarithms: the same ranking, and the same probabilities
    "log-sigmoid": "logistic",
    **{f"log-l{p}-hinge": f"l{p}-hinge" for p in (1, 2, 3)},
}
_POST_PROCESSORS = {link: name for name, link in _LINKS.items() if not name.startswith("log-")}
_MAX_DEPTH = 1000


def import_model(path, n_features=None, n_labels=None):
    """Return the model that libpecos saved at ``path``; see `skxmc.io.import_model`."""
    folder = path / "ranker" if (path / "ranker").is_dir() else path
    header = _common.read_json(folder / "param.json")
    if header.get("model") != "HierarchicalMLModel":
        raise ModelFormatError(
            f"{folder.name}/param.json is of the class {header.get('model')!r}; XLinearModel saves "
            "a HierarchicalMLModel."
        )
    if header.get("is_mmap"):
        raise ModelFormatError(
            "it was compiled for mapping, which cannot be undone: import the directory that "
            "compile_mmap_model was given."
        )
    depth = _common.size_of(header.get("depth"), "depth")
    if not 1 <= depth <= _MAX_DEPTH:
        raise ModelFormatError(f"its depth is {depth}.")
    levels = [_read_level(folder / f"{level}.model") for level in range(depth)]
    processors = {level["post_processor"] for level in levels}
    if len(processors) > 1:
        raise ModelFormatError(
            f"its levels have different post-processors ({', '.join(sorted(map(str, processors)))})"
            ", which skxmc does not have."
        )
    (processor,) = processors
    _check_shapes(levels)
    width, total = levels[0]["W"].shape[1], levels[-1]["W"].shape[0]
    if n_features not in (None, width) or n_labels not in (None, total):
        raise ModelFormatError(
            f"it has {width} features and {total} labels, not {n_features} and {n_labels}."
        )
    if depth == 1 and processor in ("noop", "sigmoid"):
        level = levels[0]
        return _common.make_linear_model(level["W"], level["bias"], normalize=None)
    if processor not in _LINKS:
        raise ModelFormatError(
            f"it has the post-processor {processor!r}"
            + (" in more than one level" if processor == "noop" else "")
            + f"; skxmc has {', '.join(_LINKS)}, and noop for a model of one level."
        )
    beams = [level["only_topk"] for level in levels[:-1]]
    return _common.make_tree_model(
        [_join_levels(levels)],
        total,
        width,
        preset="xr-linear",
        link=_LINKS[processor],
        beam_size=max(beams, default=10),
        normalize=None,
    )


def _read_level(folder):
    """Weights by label, biases, parents and prediction parameters of one level."""
    header = _common.read_json(folder / "param.json")
    params = header.get("pred_kwargs")
    bias_value = header.get("bias")
    if not isinstance(params, dict) or isinstance(bias_value, bool):
        raise ModelFormatError(f"{folder.name}/param.json has no pred_kwargs, or no bias.")
    if not isinstance(bias_value, (int, float)) or not np.isfinite(bias_value):
        raise ModelFormatError(f"{folder.name}/param.json has the bias {bias_value!r}.")
    top = params.get("only_topk", 20)
    if _common.size_of(top, "only_topk") == 0:
        raise ModelFormatError("only_topk is 0.")
    W = _read_matrix(folder / "W.npz")
    C = _read_matrix(folder / "C.npz")
    if bias_value > 0:
        if W.shape[0] < 2:
            raise ModelFormatError(f"{folder.name}/W.npz has no features.")
        W = sp.csc_array(W)
        bias = W[[W.shape[0] - 1], :].toarray().ravel().astype(np.float64) * bias_value
        W = W[: W.shape[0] - 1, :]
    else:
        bias = np.zeros(W.shape[1])
    C = _common.canonical_rows(C)
    if np.diff(C.indptr).max(initial=0) > 1:
        row = int(np.argmax(np.diff(C.indptr)))
        raise ModelFormatError(
            f"in {folder.name}/C.npz number {row} is in {C.indptr[row + 1] - C.indptr[row]} "
            "clusters; skxmc has trees, where it is in one."
        )
    parent = np.full(C.shape[0], -1)
    parent[np.diff(C.indptr) == 1] = C.indices
    return {
        "W": sp.csr_array(W.T),
        "bias": bias,
        "parent": parent,
        "n_parents": C.shape[1],
        "post_processor": params.get("post_processor", "l3-hinge"),
        "only_topk": top,
    }


def _check_shapes(levels):
    n_features, n_above = levels[0]["W"].shape[1], 1
    for number, level in enumerate(levels):
        n_here, width = level["W"].shape
        if width != n_features or n_here != len(level["parent"]) or n_here == 0:
            raise ModelFormatError(f"W and C of {number}.model do not fit together, or to 0.model.")
        if level["n_parents"] != n_above:
            raise ModelFormatError(
                f"C of {number}.model has {level['n_parents']} clusters; there are {n_above} above."
            )
        n_above = n_here


def _join_levels(levels):
    """The levels as one tree: a root, then the nodes of the levels in their order."""
    n_features, n_labels = levels[0]["W"].shape[1], levels[-1]["W"].shape[0]
    sizes = [level["W"].shape[0] for level in levels]
    starts = np.concatenate(([0, 1], 1 + np.cumsum(sizes)))
    parent, reached = np.full(starts[-1], -1), np.zeros(starts[-1], dtype=bool)
    reached[0] = True
    for number, level in enumerate(levels):
        here = slice(starts[number + 1], starts[number + 2])
        parent[here] = level["parent"] + starts[number]
        # What is in no cluster, and all below, is never answered by libpecos either.
        reached[here] = (level["parent"] >= 0) & reached[parent[here]]
    label = np.full(len(parent), -1)
    label[-n_labels:] = np.arange(n_labels)
    root = sp.csr_array((1, n_features), dtype=np.float32)
    weights = sp.vstack([root, *(level["W"] for level in levels)], "csr")
    bias = np.concatenate(([0.0], *(level["bias"] for level in levels)))
    position = np.cumsum(reached) - 1
    return _common.WeightedTree(
        np.append(-1, position[parent[reached][1:]]),
        label[reached],
        weights[reached],
        bias[reached],
    )


def _read_matrix(path):
    """A sparse matrix that scipy.sparse.save_npz wrote."""
    parts = _common.read_npz(path, ("format", "shape", "data", "indices", "indptr"))
    layout = parts["format"].item()
    layout = layout.decode() if isinstance(layout, bytes) else layout
    shape = tuple(int(n) for n in np.atleast_1d(parts["shape"]))
    if layout not in ("csc", "csr") or len(shape) != 2 or min(shape) < 0:
        raise ModelFormatError(f"{path.name} has the layout {layout!r} and the shape {shape}.")
    data, indices, indptr = (parts[name] for name in ("data", "indices", "indptr"))
    if data.dtype.kind != "f":
        raise ModelFormatError(f"{path.name} has values of the type {data.dtype}.")
    _arrays.check_compressed(
        *(data, indices, indptr, shape if layout == "csr" else shape[::-1]),
        increasing=False,
        where=path.name,
    )
    if not np.isfinite(data).all() or np.abs(data).max(initial=0) > np.finfo(np.float32).max:
        raise ModelFormatError(f"{path.name} has values that are not finite in float32.")
    cls = sp.csc_array if layout == "csc" else sp.csr_array
    matrix = cls((data.astype(np.float32, copy=False), indices, indptr), shape=shape)
    matrix.sum_duplicates()
    return matrix


def export_model(model, folder):
    """Write a model as libpecos' XLinearModel.save does; see `skxmc.io.export_model`."""
    kind = _common.model_kind(model)
    if kind == "linear":
        weights, bias = _common.linear_parts(model)
        parent = np.zeros(len(bias), dtype=np.int64)
        levels = [(weights, bias, parent, 1)]
        processor, beam = "sigmoid", 10
    else:
        if len(model.trees_) > 1:
            raise ValueError(
                f"libpecos has one tree, the model has {len(model.trees_)}: fit with n_trees=1."
            )
        levels = _split_levels(next(_common.trees_of(model)), model.trees_[0], model)
        processor = _POST_PROCESSORS[model._setting("link")]
        beam = model.beam_size if model._setting("search") == "beam" else model.n_labels_
    ranker = folder / "ranker"
    ranker.mkdir()
    for number, (weights, bias, parent, n_parents) in enumerate(levels):
        last = number == len(levels) - 1
        _write_level(
            *(ranker / f"{number}.model", weights, bias, parent, n_parents),
            {"only_topk": 20 if last else beam, "post_processor": processor},
        )
    _write_json(folder, "pecos.xmc.xlinear.model###XLinearModel", {})
    n_labels, n_features = levels[-1][0].shape
    sizes = {"nr_features": n_features, "nr_codes": levels[-1][3], "nr_labels": n_labels}
    parts = {"model": "HierarchicalMLModel", "depth": len(levels), **sizes}
    _write_json(ranker, "pecos.xmc.base###HierarchicalMLModel", parts)


def _split_levels(weighted, tree, model):
    """Weights, biases and parents of each level.

    All labels of libpecos are in the last level: one that is higher up goes down along nodes that
    are sure.
    """
    levels, above = [], np.array([0])
    for depth in range(1, tree.max_depth + 1):
        position = np.full(tree.n_nodes, -1)
        position[above] = np.arange(len(above))
        inherited = above[tree.label[above] >= 0]
        own = np.flatnonzero(tree.depth == depth)
        if depth == tree.max_depth:
            here = np.concatenate((inherited, own))
            here = here[np.argsort(tree.label[here])]
        else:
            here = np.concatenate((inherited, own))
        is_own = tree.depth[here] == depth
        weights = sp.diags_array(is_own.astype(np.float32)) @ weighted.weights[here]
        bias = np.where(is_own, weighted.bias[here], np.float32(_common.SURE))
        parent = position[np.where(is_own, tree.parent[here], here)]
        levels.append((_common.canonical_rows(weights), bias, parent, len(above)))
        above = here
    return levels


def _write_level(folder, weights, bias, parent, n_parents, params):
    folder.mkdir()
    n_here, n_features = weights.shape
    W = sp.hstack([weights, sp.csr_array(bias.astype(np.float32)[:, None])], "csr").T
    W = sp.csc_matrix(W, dtype=np.float32)
    W.sort_indices()
    C = sp.csc_matrix(
        (np.ones(n_here, np.float32), (np.arange(n_here), parent)), shape=(n_here, n_parents)
    )
    for name, matrix in (("W", W), ("C", C)):
        sp.save_npz(folder / f"{name}.npz", matrix, compressed=False)
    meta = {"__meta__": {"class_fullname": "pecos.xmc.base###MLModel.PredParams"}}
    sizes = {"nr_labels": n_here, "nr_features": n_features, "nr_codes": n_parents}
    parts = {"model": "MLModel", **sizes, "bias": 1.0, "pred_kwargs": {**meta, **params}}
    _write_json(folder, "pecos.xmc.base###MLModel", parts)


def _write_json(folder, name, parts):
    parts = {"__meta__": {"class_fullname": name}, **parts}
    (folder / "param.json").write_text(json.dumps(parts, indent=1), encoding="utf-8")
