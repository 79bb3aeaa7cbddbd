"""Models of napkinXC: args.bin, weights.bin, and tree.bin of a probabilistic label tree.

Little-endian. A string is its length (8 bytes) and its bytes. In the weights feature j has the
index j + 2, and index 1 is the bias.
"""

import struct

import numpy as np
import scipy.sparse as sp

from skxmc.exceptions import ModelFormatError
from skxmc.io._foreign import _common

_VERSION = "0.7.2"
_MODELS = ("ovr", "br", "hsm", "plt", "oplt")  # by their number in args.bin
_LINKS = ("logistic", "l2-hinge")  # by the number of the loss: logistic, squared hinge
_FIRST = 2  # index of feature 0
_PAIR = np.dtype([("index", "<i4"), ("value", "<f4")])
# A classifier that has seen one class alone scores 10 or -10.
_CONSTANT = 10.0


def import_model(path, n_features=None, n_labels=None):
    """Return the model that napkinXC saved at ``path``; see `skxmc.io.import_model`."""
    args = _read_args(path / "args.bin")
    if args["hash"]:
        raise ModelFormatError(f"it hashes features into {args['hash']} of them (hash).")
    if args["features_threshold"] > 0:
        raise ModelFormatError("it drops small feature values (features_threshold).")
    if args["model"] not in ("br", "plt"):
        raise ModelFormatError(
            f"it is of the type {args['model']!r}; PLT and BR can be imported. OVR and HSM are "
            "multi-class models, whose probabilities depend on those of the other labels."
        )
    members = [path]
    if args["ensemble"] > 1:
        members = [path / f"member_{i}" for i in range(args["ensemble"])]
    parts = [_Classifiers(member / "weights.bin", args["bias"]) for member in members]
    links = {part.link for part in parts}
    if len(links) > 1:
        raise ModelFormatError("its classifiers have different losses.")
    (link,) = links
    width = max(part.n_features for part in parts)
    if n_features is not None:
        if n_features < width:
            raise ModelFormatError(
                f"feature {width - 1} has a weight, but n_features={n_features}."
            )
        width = n_features
    width = max(width, 1)
    matrices = [part.matrix(width) for part in parts]
    if args["model"] == "br":
        trees = [_common.flat_tree(matrices[0], parts[0].bias)]
    else:
        trees = [
            _read_tree(member / "tree.bin", matrix, part.bias)
            for member, matrix, part in zip(members, matrices, parts, strict=True)
        ]
    total = 1 + max(int(tree.label.max()) for tree in trees)
    if n_labels not in (None, total):
        raise ModelFormatError(f"it has {total} labels, not {n_labels}.")
    common = {"normalize": "l2" if args["norm"] else None, "intercept_scaling": args["bias"]}
    if args["bias"] <= 0:
        common = {"normalize": common["normalize"], "fit_intercept": False}
    loss = "logistic" if link == "logistic" else "squared_hinge"
    if args["model"] == "br" and link == "logistic":
        return _common.make_linear_model(matrices[0], parts[0].bias, loss=loss, **common)
    return _common.make_tree_model(
        trees, total, width, preset="plt", loss=loss, link=link, search="exact", **common
    )


def _read_args(path):
    reader = _Reader(path)
    version = reader.text()
    if not version.startswith("0.7."):
        raise ModelFormatError(
            f"napkinXC {version[:20]!r} wrote it; what 0.7 writes can be read. Load it with "
            "napkinXC 0.7 and train again, or tell us."
        )
    bias, norm, n_hash, threshold, kind = reader.unpack("<f?ifi")
    name = reader.text()
    (ensemble,) = reader.unpack("<i")
    if not (0 <= kind < len(_MODELS) and np.isfinite(bias)) or not 0 <= ensemble < 10_000:
        kinds = ", ".join(_MODELS)
        raise ModelFormatError(f"args.bin: the model {name[:20]!r} is none of {kinds}.")
    return {
        "bias": bias,
        "norm": norm,
        "hash": n_hash,
        "features_threshold": threshold,
        "model": _MODELS[kind],
        "ensemble": ensemble,
    }


class _Reader:
    """Reads a binary file from its beginning; never past its end."""

    def __init__(self, path):
        self.name = path.name
        self.content = path.read_bytes()
        self.position = 0

    def unpack(self, layout):
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def array(self, dtype, count):
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)

    def text(self):
        return self.take(self.unpack("<Q")[0]).decode("utf-8", "replace")

    def take(self, size):
        end = self.position + size
        if end > len(self.content):
            raise ModelFormatError(f"{self.name} ends at byte {len(self.content)}, too early.")
        taken = self.content[self.position : end]
        self.position = end
        return taken

    def finish(self):
        if self.position != len(self.content):
            raise ModelFormatError(f"{self.name} has bytes after its end, from {self.position} on.")


class _Classifiers:
    """The binary classifiers of a weights.bin, each turned so that a positive score means yes."""

    def __init__(self, path, bias_value):
        reader = _Reader(path)
        (self.count,) = reader.unpack("<i")
        if not 0 < self.count <= len(reader.content):
            raise ModelFormatError(f"{path.name} has {self.count} classifiers.")
        self.indices, self.values = [], []
        self.bias = np.zeros(self.count)
        constants, losses = {}, set()
        for i in range(self.count):
            n_classes, first_class, loss = reader.unpack("<iii")
            if n_classes not in (0, 1, 2) or first_class not in (0, 1):
                raise ModelFormatError(f"classifier {i} has {n_classes} classes.")
            if not 0 <= loss < len(_LINKS):
                raise ModelFormatError(
                    f"classifier {i} has the loss {loss}; the logistic (0) and the squared hinge "
                    "(1) can be imported."
                )
            index, value = np.empty(0, np.int32), np.empty(0, np.float32)
            if n_classes < 2:
                constants[i] = _CONSTANT if first_class == 1 else -_CONSTANT, loss
            else:
                losses.add(loss)
                index, value = self._read_weights(reader, i)
                value = value if first_class == 1 else -value
                at_bias = index == 1
                self.bias[i] = bias_value * value[at_bias].sum(dtype=np.float64)
                keep = index >= _FIRST
                index, value = index[keep] - _FIRST, value[keep]
            self.indices.append(index)
            self.values.append(value)
        # What may follow is not read by napkinXC either: BR writes one classifier too many.
        losses = losses or {loss for _, loss in constants.values()}
        if len(losses) > 1:
            raise ModelFormatError("its classifiers have different losses.")
        self.link = _LINKS[losses.pop()]
        for i, (score, loss) in constants.items():
            self.bias[i] = _score_in(self.link, score, _LINKS[loss])
        self.n_features = 1 + max(
            (int(index.max(initial=-1)) for index in self.indices), default=-1
        )

    def _read_weights(self, reader, i):
        reader.unpack("<QQ")  # a copy of what follows
        size, n_stored, is_sparse = reader.unpack("<QQB")
        if is_sparse:
            pairs = reader.array(_PAIR, n_stored)
            index, value = pairs["index"], pairs["value"]
            order = np.argsort(index, kind="stable")
            index, value = index[order], value[order]
            if len(index) and (index[0] < 0 or (index[1:] == index[:-1]).any()):
                raise ModelFormatError(f"classifier {i} has a weight twice, or a negative index.")
        else:
            value = reader.array("<f4", size)
            index = np.flatnonzero(value)
            value = value[index]
        if not np.isfinite(value).all():
            raise ModelFormatError(f"classifier {i} has weights that are not finite.")
        (has_gradients,) = reader.unpack("<B")
        if has_gradients:  # for resuming online training
            size, n_stored, is_sparse = reader.unpack("<QQB")
            reader.array(_PAIR if is_sparse else "<f4", n_stored if is_sparse else size)
        return index.astype(np.int32), value.astype(np.float32)

    def matrix(self, n_features):
        indptr = np.concatenate(([0], np.cumsum([len(index) for index in self.indices])))
        data = np.concatenate(self.values), np.concatenate(self.indices), indptr
        return sp.csr_array(data, shape=(self.count, n_features))


def _score_in(link, score, own):
    """The score that has under ``link`` the probability that ``score`` has under ``own``."""
    if link == own:
        return score
    if link == "logistic":  # exp(-(1 + 10)**2) is 0 in float32, exp(0) is 1
        return _common.SURE if score > 0 else -_common.SURE
    return 1.0 - np.sqrt(np.logaddexp(0.0, -score))


def _read_tree(path, weights, bias):
    """Nodes with the weights of their classifiers, below a root that has none."""
    reader = _Reader(path)
    n_labels, n_nodes = reader.unpack("<ii")
    if n_nodes != weights.shape[0] or not 0 < n_labels <= n_nodes:
        raise ModelFormatError(
            f"tree.bin has {n_nodes} nodes and {n_labels} labels; there are {weights.shape[0]} "
            "classifiers."
        )
    nodes = reader.array("<i4", 2 * n_nodes).reshape(n_nodes, 2)
    (root,) = reader.unpack("<i")
    parent = reader.array("<i4", n_nodes).astype(np.int64)
    reader.finish()
    label = nodes[:, 1].astype(np.int64)
    if (nodes[:, 0] != np.arange(n_nodes)).any() or not 0 <= root < n_nodes or parent[root] != -1:
        raise ModelFormatError("the nodes of tree.bin are not numbered in order, or have no root.")
    if label.min() < -1 or np.count_nonzero(label >= 0) != n_labels or label.max() >= n_labels:
        raise ModelFormatError(f"tree.bin does not have the labels 0 to {n_labels - 1}.")
    if (label[parent[parent >= 0]] >= 0).any():
        raise ModelFormatError("a label of tree.bin has nodes below it.")
    above = np.where(parent >= 0, parent + 1, 0)
    empty = sp.csr_array((1, weights.shape[1]), dtype=np.float32)
    return _common.WeightedTree(
        np.append(-1, np.where(np.arange(n_nodes) == root, 0, np.where(parent < 0, -2, above))),
        np.append(-1, label),
        sp.vstack([empty, weights], "csr"),
        np.append(0.0, bias),
    )


def export_model(model, folder):
    """Write a model as napkinXC does; see `skxmc.io.export_model`."""
    kind = _common.model_kind(model)
    link = "logistic" if kind == "linear" else model._setting("link")
    if link not in _LINKS:
        raise ValueError(f"napkinXC has the links {', '.join(_LINKS)}; the model has {link!r}.")
    loss, norm = _LINKS.index(link), model.normalize is not None
    if kind == "linear":
        _write_args(folder, "br", norm, 0)
        _write_weights(folder, *_common.linear_parts(model), loss)
        return
    trees = list(_common.trees_of(model))
    _write_args(folder, "plt", norm, len(trees) if len(trees) > 1 else 0)
    for number, tree in enumerate(trees):
        member = folder
        if len(trees) > 1:
            member = folder / f"member_{number}"
            member.mkdir()
        _write_tree(member, tree, loss)


def _write_args(folder, name, norm, ensemble):
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    numbers = struct.pack("<f?ifi", 1.0, norm, 0, 0.0, _MODELS.index(name))
    content = text(_VERSION) + numbers + text(name) + struct.pack("<i", ensemble)
    (folder / "args.bin").write_bytes(content)


def _write_tree(folder, tree, loss):
    parent, label = tree.parent.astype(np.int64), tree.label
    weights, bias = tree.weights, tree.bias.astype(np.float64)
    below_root = np.flatnonzero(parent == 0)
    if len(below_root) == 1 and label[below_root[0]] < 0:
        # napkinXC's root has a classifier: the only node below ours is that root.
        parent, label, weights, bias = parent[1:] - 1, label[1:], weights[1:], bias[1:]
    else:
        bias[0] = _common.SURE
    n_nodes = len(parent)
    nodes = np.stack((np.arange(n_nodes), label), axis=1)
    n_labels = np.count_nonzero(label >= 0)
    ints = np.concatenate(([n_labels, n_nodes], nodes.ravel(), [0], parent))
    (folder / "tree.bin").write_bytes(ints.astype("<i4").tobytes())
    lines = [f"{n_labels} {n_nodes}"]
    lines += [
        f"{p} {v} {'' if y < 0 else y}" for v, (p, y) in enumerate(zip(parent, label, strict=True))
    ]
    (folder / "tree.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    _write_weights(folder, weights, bias, loss)


def _write_weights(folder, weights, bias, loss):
    size = weights.shape[1] + _FIRST
    with open(folder / "weights.bin", "wb") as file:
        file.write(struct.pack("<i", len(bias)))
        for i in range(len(bias)):
            entries = slice(weights.indptr[i], weights.indptr[i + 1])
            index = np.append(1, weights.indices[entries] + _FIRST)
            value = np.append(bias[i], weights.data[entries]).astype(np.float32)
            stored = value != 0  # napkinXC counts on it
            index, value = index[stored], value[stored]
            file.write(struct.pack("<iii", 2, 1, loss))
            is_sparse = _PAIR.itemsize * len(index) < 4 * size
            sizes = struct.pack("<QQ", size, len(index))
            file.write(sizes + sizes + struct.pack("<?", is_sparse))
            if is_sparse:
                pairs = np.empty(len(index), _PAIR)
                pairs["index"], pairs["value"] = index, value
                file.write(pairs.tobytes())
            else:
                dense = np.zeros(size, "<f4")
                dense[index] = value
                file.write(dense.tobytes())
            file.write(b"\0")
