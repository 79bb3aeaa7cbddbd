"""Models of libpecos, omikuji and napkinXC: the fixtures were made by these libraries themselves.

See tools/make_foreign_fixtures.py, which also has the libraries load our exports.
"""

import importlib.util
import json
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import expit
from sklearn.exceptions import NotFittedError

from skxmc import DismecClassifier, ParabelTree, load_model, save_model
from skxmc.exceptions import ModelFormatError
from skxmc.io import export_model, import_model
from skxmc.io._foreign import _cbor

FOLDER = Path(__file__).parent / "foreign"
TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_foreign_fixtures.py"

_spec = importlib.util.spec_from_file_location("make_foreign_fixtures", TOOL)
fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixtures)

N_LABELS = fixtures.N_LABELS
# libpecos keeps a beam of 6 here: all that is asked for are labels that it reaches.
COMPLETE = [
    ("pecos", "flat", ParabelTree),
    ("pecos", "flat-sigmoid", DismecClassifier),
    ("omikuji", "hinge", ParabelTree),
    ("omikuji", "log", ParabelTree),
    ("omikuji", "uneven", ParabelTree),
    ("omikuji", "wide", ParabelTree),
    ("napkinxc", "plt", ParabelTree),
    ("napkinxc", "plt-hinge-ensemble", ParabelTree),
    ("napkinxc", "br", DismecClassifier),
    ("napkinxc", "br-hinge", ParabelTree),
    ("napkinxc", "br-bias-2", DismecClassifier),
    ("napkinxc", "ovr", DismecClassifier),
    ("napkinxc", "wide", ParabelTree),
]
BEAMS = [
    ("pecos", "tree", 6),
    ("pecos", "tree-sigmoid", 6),
    ("pecos", "tree-log-l2", 6),
    ("pecos", "tree-no-bias", 6),
    ("omikuji", "uneven-beam-2", 2),
]


def rows_of(case):
    X, _ = fixtures.make_data(fixtures.WIDE, 0.008) if case == "wide" else fixtures.make_data()
    return sp.csr_array(fixtures.asked(X))


def expected_of(peer, case):
    with np.load(FOLDER / peer / "expected.npz") as archive:
        return archive[case]


def read(peer, case, **options):
    if peer == "napkinxc":
        options["n_features"] = rows_of(case).shape[1]
    return import_model(FOLDER / peer / case, format=peer, **options)


def copy_of(peer, case, tmp_path):
    return Path(shutil.copytree(FOLDER / peer / case, tmp_path / "model"))


# ------------------------------------------------------------------ the same predictions


@pytest.mark.parametrize(("peer", "case", "cls"), COMPLETE)
def test_probabilities_are_those_of_the_peer(peer, case, cls):
    model = read(peer, case)
    assert type(model) is cls
    model.set_params(top_k=N_LABELS)
    if peer == "omikuji":  # was asked with a beam of 1000
        model.set_params(beam_size=1000)
    expected = expected_of(peer, case)[:, : model.n_labels_]
    X = rows_of(case)
    assert expected.max() > 0.3
    np.testing.assert_allclose(model.predict_proba(X).toarray(), expected, rtol=0, atol=1e-5)
    labels, scores = model.predict_topk(X, k=model.n_labels_)
    rows = np.arange(len(labels))[:, None]
    found = np.where(labels >= 0, expit(scores), 0)
    np.testing.assert_allclose(found, expected[rows, labels] * (labels >= 0), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("peer", "case", "beam"), BEAMS)
def test_a_beam_finds_what_the_peers_beam_finds(peer, case, beam):
    model = read(peer, case.removesuffix("-beam-2"), n_labels=N_LABELS)
    if peer == "omikuji":
        model.set_params(beam_size=beam)
    assert model.beam_size == beam
    expected = expected_of(peer, case)
    if "log" in case:
        expected = np.exp(expected)
    k = 3
    assert (np.count_nonzero(expected, axis=1) >= k).all()
    labels, scores = model.predict_topk(rows_of(case), k=k)
    best = -np.sort(-expected, axis=1)[:, :k]
    np.testing.assert_allclose(expit(scores), best, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, labels, 1), best, rtol=0, atol=1e-5)


def test_the_beam_of_two_is_not_the_exact_search():
    # else the test above would say nothing
    beam, full = (expected_of("omikuji", case) for case in ("uneven-beam-2", "uneven"))
    top = np.argsort(-full, axis=1)[:, :3]
    assert not np.allclose(np.take_along_axis(beam, top, 1), np.take_along_axis(full, top, 1))


def test_a_flat_model_without_link_has_the_margins(tmp_path):
    folder = copy_of("pecos", "flat", tmp_path)
    edit_json(folder / "ranker/0.model/param.json", ("pred_kwargs", "post_processor"), "noop")
    model = import_model(folder, format="pecos")
    p = expected_of("pecos", "flat")
    margins = model.set_params(top_k=N_LABELS).decision_function(rows_of("flat")).toarray()
    some = (p > 1e-6) & (p < 0.999)
    expected = 1 - np.cbrt(-np.log(p[some].astype(np.float64)))  # p = exp(-(1 - s)**3)
    np.testing.assert_allclose(margins[some], expected, atol=1e-4)


def test_labels_without_examples_are_never_answered():
    model = read("omikuji", "hinge", n_labels=40)
    assert (model.n_labels_, len(model.classes_)) == (40, 40)
    labels = model.predict_topk(rows_of("hinge"), k=40).labels
    assert not np.isin(labels, [7, *range(30, 40)]).any()
    assert np.isin(29, labels)


def test_the_ranker_folder_does_too():
    whole, ranker = (
        import_model(FOLDER / "pecos" / name, format="pecos") for name in ("tree", "tree/ranker")
    )
    X = rows_of("tree")
    np.testing.assert_array_equal(whole.predict_topk(X, 3).scores, ranker.predict_topk(X, 3).scores)


@pytest.mark.parametrize(
    ("peer", "case"), [("pecos", "tree"), ("omikuji", "hinge"), ("napkinxc", "br")]
)
def test_an_imported_model_is_a_model(peer, case, tmp_path):
    model, X = read(peer, case), rows_of(case)
    before = model.predict_topk(X, k=4)
    save_model(model, tmp_path / "saved")
    for other in (load_model(tmp_path / "saved"), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict_topk(X, k=4).scores, before.scores)
    data = fixtures.make_data()
    model.set_params(n_jobs=1).fit(sp.csr_array(data[0]), sp.csr_array(data[1]))
    assert model.predict(X).shape == (fixtures.N_ASKED, N_LABELS)


# ------------------------------------------------------------------ exports


def models():
    common = {"random_state": 0, "search": "exact", "top_k": N_LABELS}
    return {
        "hinge": ParabelTree("xr-linear", max_leaf=4, arity=2, link="l2-hinge", **common),
        "uneven": ParabelTree("bonsai", max_leaf=4, arity=4, n_trees=1, link="l2-hinge", **common),
        "root": ParabelTree("plt", max_leaf=4, random_state=0, top_k=N_LABELS),
        "linear": DismecClassifier(top_k=N_LABELS),
        "two-trees": ParabelTree("parabel", max_leaf=4, n_trees=2, **common),
        "flat": ParabelTree("parabel", max_leaf=100, n_trees=1, **common),
    }


@pytest.fixture(scope="module")
def fitted():
    X, Y = (sp.csr_array(part) for part in fixtures.make_data())
    return {name: model.fit(X, Y) for name, model in models().items()}


@pytest.mark.parametrize("peer", ["pecos", "omikuji", "napkinxc"])
@pytest.mark.parametrize("name", models())
def test_exported_and_imported_again(fitted, peer, name, tmp_path):
    model = fitted[name]
    if (peer, name) == ("pecos", "two-trees"):
        with pytest.raises(ValueError, match="libpecos has one tree"):
            export_model(model, tmp_path / "model", format=peer)
        assert list(tmp_path.iterdir()) == []
        return
    export_model(model, tmp_path / "model", format=peer)
    sizes = {"n_features": fixtures.N_FEATURES, "n_labels": N_LABELS}
    back = import_model(tmp_path / "model", format=peer, **sizes)
    back.set_params(top_k=N_LABELS)
    if peer == "pecos":  # which leaves it to the caller
        assert back.normalize is None
        back.set_params(normalize="l2")
    if isinstance(back, ParabelTree):
        back.set_params(search="exact")
    X = rows_of(name)
    expected = model.predict_proba(X).toarray()
    assert expected.max() > 0.4
    np.testing.assert_allclose(back.predict_proba(X).toarray(), expected, rtol=0, atol=1e-6)


def test_the_trees_come_back_as_they_were(fitted, tmp_path):
    model = fitted["two-trees"]
    export_model(model, tmp_path / "model", format="napkinxc")
    back = import_model(tmp_path / "model", format="napkinxc", n_features=fixtures.N_FEATURES)
    for tree, other in zip(model.trees_, back.trees_, strict=True):
        # below a root that has napkinXC's root, which has a classifier
        np.testing.assert_array_equal(other.label[1:], tree.label)
        np.testing.assert_array_equal(other.parent[2:] - 1, tree.parent[1:])
    for weights, other in zip(model.weights_, back.weights_, strict=True):
        np.testing.assert_array_equal(other.weight, weights.weight)
        np.testing.assert_array_equal(other.row_feature, weights.row_feature)
        np.testing.assert_array_equal(other.child, weights.child)


def test_a_model_that_was_mapped_is_exported_alike(fitted, tmp_path):
    save_model(fitted["two-trees"], tmp_path / "saved")
    export_model(fitted["two-trees"], tmp_path / "a", format="omikuji")
    export_model(load_model(tmp_path / "saved", mmap=True), tmp_path / "b", format="omikuji")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {
        "settings.json",
        "tree0.cbor",
        "tree1.cbor",
    }
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_what_cannot_be_expressed_is_refused(fitted, tmp_path):
    X, Y = fixtures.make_data()
    target = tmp_path / "model"
    hinge = ParabelTree("parabel", n_trees=1, link="l3-hinge").fit(X, Y)
    for peer in ("omikuji", "napkinxc"):
        with pytest.raises(ValueError, match="the model has 'l3-hinge'"):
            export_model(hinge, target, format=peer)
    with pytest.raises(ValueError, match="scales rows to unit length"):
        export_model(DismecClassifier(normalize=None).fit(X, Y), target, format="omikuji")
    binary = DismecClassifier().fit(X, np.asarray(Y[:, [0]].toarray()).ravel())
    with pytest.raises(ValueError, match="two classes"):
        export_model(binary, target, format="pecos")
    with pytest.raises(NotFittedError):
        export_model(ParabelTree(), target, format="pecos")
    with pytest.raises(TypeError, match="got dict"):
        export_model({}, target, format="pecos")
    with pytest.raises(ValueError, match="format must be one of napkinxc, omikuji, pecos"):
        export_model(fitted["hinge"], target, format="fasttext")
    assert list(tmp_path.iterdir()) == []


def test_exports_replace_only_when_told(fitted, tmp_path):
    target = tmp_path / "model"
    export_model(fitted["hinge"], target, format="omikuji")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export_model(fitted["hinge"], target, format="pecos")
    assert (target / "settings.json").exists()
    export_model(fitted["hinge"], target, format="pecos", overwrite=True)
    assert sorted(file.name for file in target.iterdir()) == ["param.json", "ranker"]
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="no directory"):
        export_model(fitted["hinge"], tmp_path / "file", format="pecos", overwrite=True)


# ------------------------------------------------------------------ what is not imported


def edit_json(path, keys, value):
    content = json.loads(path.read_text())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(content))


def test_wrong_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model at"):
        import_model(tmp_path / "none", format="pecos")
    with pytest.raises(ValueError, match="format must be one of"):
        import_model(tmp_path, format="Pecos")
    with pytest.raises(TypeError, match="n_labels must be an integer"):
        import_model(tmp_path, format="pecos", n_labels=2.0)
    with pytest.raises(ModelFormatError, match="is no directory"):
        import_model(Path(__file__), format="pecos")
    for peer, missing in (("pecos", "param"), ("omikuji", "settings"), ("napkinxc", "args")):
        with pytest.raises(ModelFormatError, match=f"there is no .*{missing}"):
            import_model(tmp_path, format=peer)


@pytest.mark.parametrize(
    ("peer", "case"), [("pecos", "tree"), ("omikuji", "hinge"), ("napkinxc", "br")]
)
def test_sizes_that_do_not_fit(peer, case):
    folder = FOLDER / peer / case
    with pytest.raises(ModelFormatError, match=r"features|feature 39"):
        import_model(folder, format=peer, n_features=12)
    with pytest.raises(ModelFormatError, match="30 labels"):
        import_model(folder, format=peer, n_labels=12)


@pytest.mark.parametrize("processor", ["l4-hinge", "noop", "new"])
def test_pecos_post_processors_that_skxmc_does_not_have(processor, tmp_path):
    folder = copy_of("pecos", "tree", tmp_path)
    for file in folder.glob("ranker/*.model/param.json"):
        edit_json(file, ("pred_kwargs", "post_processor"), processor)
    with pytest.raises(ModelFormatError, match=f"post-processor '{processor}'"):
        import_model(folder, format="pecos")
    edit_json(folder / "ranker/0.model/param.json", ("pred_kwargs", "post_processor"), "sigmoid")
    with pytest.raises(ModelFormatError, match="different post-processors"):
        import_model(folder, format="pecos")


def test_pecos_clusters_that_overlap(tmp_path):
    folder = copy_of("pecos", "tree", tmp_path)
    file = folder / "ranker/1.model/C.npz"
    C = sp.load_npz(file).tolil()
    C[0, :2] = 1
    sp.save_npz(file, C.tocsc().astype(np.float32))
    with pytest.raises(ModelFormatError, match="number 0 is in 2 clusters"):
        import_model(folder, format="pecos")


def test_pecos_labels_outside_of_all_clusters(tmp_path):
    folder = copy_of("pecos", "tree", tmp_path)
    file = folder / "ranker/3.model/C.npz"
    C = sp.load_npz(file).tolil()
    C[4, :] = 0
    sp.save_npz(file, C.tocsc().astype(np.float32))
    model = import_model(folder, format="pecos").set_params(search="exact")
    labels = model.predict_topk(rows_of("tree"), k=N_LABELS).labels
    assert set(range(N_LABELS)) - {4} == set(labels.ravel().tolist()) - {-1}


@pytest.mark.parametrize(
    ("file", "keys", "value", "message"),
    [
        ("ranker/param.json", ("depth",), 3, "W and C|C of|labels|fit"),
        ("ranker/param.json", ("depth",), 10**9, "depth is"),
        ("ranker/param.json", ("depth",), "4", "depth is '4'"),
        ("ranker/param.json", ("is_mmap",), True, "compiled for mapping"),
        ("ranker/param.json", ("model",), "Other", "class 'Other'"),
        ("ranker/1.model/param.json", ("bias",), "x", "bias 'x'"),
        ("ranker/1.model/param.json", ("bias",), float("nan"), "bias nan"),
        ("ranker/1.model/param.json", ("bias",), -1, "do not fit together"),
        ("ranker/1.model/param.json", ("pred_kwargs",), None, "no pred_kwargs"),
        ("ranker/1.model/param.json", ("pred_kwargs", "only_topk"), -3, "only_topk is -3"),
    ],
)
def test_damaged_pecos_headers(file, keys, value, message, tmp_path):
    folder = copy_of("pecos", "tree", tmp_path)
    edit_json(folder / file, keys, value)
    if value == 3:  # is a smaller tree, whose labels are the clusters
        assert import_model(folder, format="pecos").n_labels_ < N_LABELS
        return
    with pytest.raises(ModelFormatError, match=message):
        import_model(folder, format="pecos")


def rewrite_npz(path, **changes):
    with np.load(path) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"data": None},
        {"shape": np.array([41, 10**12])},
        {"shape": np.array([-1, 4])},
        {"format": np.array("coo")},
        {"indices": np.zeros(3, np.int32)},
        {"indptr": np.array([0, 5, 2, 3], np.int32)},
        {"data": np.array([object()])},
    ],
)
def test_damaged_pecos_matrices(changes, tmp_path):
    folder = copy_of("pecos", "tree", tmp_path)
    rewrite_npz(folder / "ranker/1.model/W.npz", **changes)
    with pytest.raises(ModelFormatError, match="cannot be read"):
        import_model(folder, format="pecos")


def test_a_pecos_matrix_that_is_not_finite_or_out_of_range(tmp_path):
    folder = copy_of("pecos", "tree", tmp_path)
    file = folder / "ranker/1.model/W.npz"
    with np.load(file) as archive:
        data, indices = archive["data"], archive["indices"]
    rewrite_npz(file, data=np.where(np.arange(len(data)) == 1, np.inf, data).astype(np.float32))
    with pytest.raises(ModelFormatError, match="not finite"):
        import_model(folder, format="pecos")
    wrong = indices.copy()
    wrong[2] = 4000
    rewrite_npz(file, data=data, indices=wrong)
    with pytest.raises(ModelFormatError, match="index 4000"):
        import_model(folder, format="pecos")


def test_an_npz_that_claims_to_be_huge(tmp_path):
    folder = copy_of("pecos", "flat", tmp_path)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (117 - len(header)) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(folder / "ranker/0.model/W.npz", "w") as archive:
        for name in ("format", "shape", "data", "indices", "indptr"):
            archive.writestr(f"{name}.npy", content)
    with pytest.raises(ModelFormatError, match="takes 4000000000"):
        import_model(folder, format="pecos")


def test_omikuji_settings(tmp_path):
    folder = copy_of("omikuji", "hinge", tmp_path)
    edit_json(folder / "settings.json", ("classifier_loss_type",), "Huber")
    with pytest.raises(ModelFormatError, match="its loss is 'Huber'"):
        import_model(folder, format="omikuji")
    edit_json(folder / "settings.json", ("classifier_loss_type",), "Log")
    edit_json(folder / "settings.json", ("n_features",), 39)
    with pytest.raises(ModelFormatError, match=r"tree0\.cbor is damaged"):
        import_model(folder, format="omikuji")
    for file in folder.glob("*.cbor"):
        file.unlink()
    with pytest.raises(ModelFormatError, match=r"no file tree0\.cbor"):
        import_model(folder, format="omikuji")


def one_leaf(**changes):
    """An omikuji tree of 2 labels on 3 features, as CBOR."""
    sparse = {
        "outer_dim": 4,
        "inner_dim": 2,
        "indptr": np.array([0, 1, 2]),
        "outer_inds": np.array([1, 3]),
        "inner_inds": np.array([0, 1]),
        "data": np.array([0.5, -1.0], np.float32),
    }
    sparse.update({key: value for key, value in changes.items() if key in sparse})
    labels = changes.get("labels", np.array([0, 1]))
    return _cbor.encode({"Leaf": {"weights": {"Sparse": sparse}, "labels": labels}})


def omikuji_model(folder, content):
    (folder / "settings.json").write_text('{"n_features": 3, "classifier_loss_type": "Log"}')
    (folder / "tree0.cbor").write_bytes(content)
    return import_model(folder, format="omikuji")


def test_an_omikuji_tree_of_one_leaf(tmp_path):
    model = omikuji_model(tmp_path, one_leaf())
    proba = model.predict_proba(sp.csr_array([[3.0, 4.0, 0.0]])).toarray()
    np.testing.assert_allclose(proba, [[expit(0.5 * 0.8), expit(-1)]], rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"outer_dim": 5},
        {"inner_dim": 3},
        {"inner_dim": -1},
        {"indptr": np.array([0, 2, 1])},
        {"indptr": np.array([0, 1])},
        {"outer_inds": np.array([1, 4])},
        {"inner_inds": np.array([0, 2])},
        {"inner_inds": np.array([0])},
        {"data": np.array([np.nan, 1], np.float32)},
        {"data": np.array([np.inf, 1], np.float32)},
        {"labels": np.array([0, 0])},
        {"labels": np.array([0, 2**32 - 1])},
        {"labels": np.array([0.5, 1], np.float32)},
        {"labels": "text"},
        {"labels": {}},
        {"labels": []},
    ],
)
def test_damaged_omikuji_trees(changes, tmp_path):
    if changes.get("inner_dim") == -1:
        content = one_leaf(inner_dim=7).replace(b"inner_dim\x07", b"inner_dim\x20")
    else:
        content = one_leaf(**changes)
    with pytest.raises(ModelFormatError, match="cannot be read"):
        omikuji_model(tmp_path, content)


@pytest.mark.parametrize("item", [{"Branch": {}}, {"Twig": {}}, {}, {"Leaf": None}, [], 3, None])
def test_omikuji_nodes_that_are_none(item, tmp_path):
    with pytest.raises(ModelFormatError, match=r"tree0\.cbor is damaged"):
        omikuji_model(tmp_path, _cbor.encode(item))


def test_cbor_examples_of_the_standard():
    # RFC 8949, appendix A
    for content, value in [
        ("00", 0),
        ("1818", 24),
        ("1903e8", 1000),
        ("1a000f4240", 1_000_000),
        ("1b000000e8d4a51000", 10**12),
        ("20", -1),
        ("3863", -100),
        ("f93c00", 1.0),
        ("f97bff", 65504.0),
        ("f90001", 5.960464477539063e-8),
        ("f9c400", -4.0),
        ("fa47c35000", 100000.0),
        ("fb3ff199999999999a", 1.1),
        ("fbc010666666666666", -4.1),
        ("f6", None),
        ("6449455446", "IETF"),
        ("62c3bc", "ü"),
        ("a0", {}),
        ("80", []),
        ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ]:
        decoded = _cbor.decode(bytes.fromhex(content))
        if isinstance(decoded, dict):
            decoded = {
                k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in decoded.items()
            }
        assert decoded == value
        assert type(decoded) is type(value)


def test_cbor_numbers_of_all_lengths():
    parts = ["00", "17", "1818", "1903e8", "1a000f4240", "1b000000e8d4a51000", "20", "3863"]
    parts += [
        "f93c00",
        "f90001",
        "f98000",
        "fa47c35000",
        "fb3ff199999999999a",
        "fb0000000000000001",
    ]
    values = [0, 23, 24, 1000, 10**6, 10**12, -1, -100, 1, 2.0**-24, -0.0, 1e5, 1.1, 5e-324]
    decoded = _cbor.decode(bytes([0x80 | len(parts)]) + bytes.fromhex("".join(parts)))
    np.testing.assert_array_equal(decoded, values)
    assert np.signbit(decoded[10])


def test_cbor_floats_come_back():
    bits = np.random.default_rng(0).integers(0, 2**32, 5000, dtype=np.uint32)
    bits[:4] = 0, 1, 0x80000000, 0x7F800000
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    item = {"floats": values, "ints": np.arange(0, 2**32, 2**20), "none": [None, "x", 300]}
    decoded = _cbor.decode(_cbor.encode(item))
    np.testing.assert_array_equal(decoded["floats"].astype(np.float32), values)
    np.testing.assert_array_equal(decoded["ints"], item["ints"])
    assert decoded["none"] == [None, "x", 300]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "18",
        "82 01",
        "82 01 61",
        "9b ffffffffffffffff",
        "bb ffffffffffffffff",
        "7b ffffffffffffffff",
        "9a 00000004 01",
        "83 fa0000 00",
        "9f 01 ff",
        "5f",
        "c0 00",
        "f5",
        "61 ff",
        "a2 6161 01 6161 02",
        "a1 01 02",
        "00 00",
        "81" * 2000,
        "82 01 1c",
    ],
)
def test_cbor_that_is_refused(content):
    with pytest.raises(ModelFormatError):
        _cbor.decode(bytes.fromhex(content.replace(" ", "")))


def test_napkinxc_models_that_skxmc_does_not_have(tmp_path):
    with pytest.raises(ModelFormatError, match="type 'hsm'"):
        read("napkinxc", "hsm")
    folder = copy_of("napkinxc", "br", tmp_path)
    content = (folder / "args.bin").read_bytes()
    for position, value, message in [
        (18, struct.pack("<i", 100), "hashes features"),
        (22, struct.pack("<f", 0.5), "features_threshold"),
        (26, struct.pack("<i", 0), "type 'ovr'"),
        (26, struct.pack("<i", 77), "is none of"),
        (8, b"0.9.2", "'0.9.2' wrote it"),
        (0, struct.pack("<Q", 2**62), "too early"),
        (len(content) - 4, struct.pack("<i", 3), "there is no .*member_0"),
    ]:
        changed = content[:position] + value + content[position + len(value) :]
        (folder / "args.bin").write_bytes(changed)
        with pytest.raises(ModelFormatError, match=message):
            import_model(folder, format="napkinxc")


def test_damaged_napkinxc_weights(tmp_path):
    folder = copy_of("napkinxc", "br", tmp_path)
    content = (folder / "weights.bin").read_bytes()
    for position, value, message in [
        (0, struct.pack("<i", -1), "-1 classifiers"),
        (0, struct.pack("<i", 2**31 - 1), "classifiers"),
        (4, struct.pack("<i", 3), "has 3 classes"),
        (12, struct.pack("<i", 1), "different losses"),
        (12, struct.pack("<i", 3), "has the loss 3"),
        (32, struct.pack("<Q", 2**60), "too early"),
        (53, struct.pack("<f", np.nan), "not finite"),
    ]:
        changed = content[:position] + value + content[position + len(value) :]
        (folder / "weights.bin").write_bytes(changed)
        with pytest.raises(ModelFormatError, match=message):
            import_model(folder, format="napkinxc")


def test_damaged_napkinxc_trees(tmp_path):
    folder = copy_of("napkinxc", "plt", tmp_path)
    numbers = np.fromfile(folder / "tree.bin", "<i4")
    n_nodes = numbers[1]
    root = 2 + 2 * n_nodes
    leaf = int(np.flatnonzero(numbers[3:root:2] >= 0)[0])
    for position, value, message in [
        (0, 31, "labels 0 to 30"),
        (1, n_nodes + 1, "classifiers"),
        (1, -1, "classifiers"),
        (2, 5, "not numbered in order"),
        (3 + 2 * leaf, 99, "labels 0 to 29"),
        (root, 3, "have no root"),
        (root + 5, -1, "one root"),
        (root + 5, 10**6, "parents that exist|out of bounds"),
        (root + 2, 3, "cycle"),  # node 1 below node 3, which is below it
        (root + 2, leaf, "nodes below"),
    ]:
        changed = numbers.copy()
        changed[position] = value
        changed.tofile(folder / "tree.bin")
        with pytest.raises(ModelFormatError, match=message):
            import_model(folder, format="napkinxc")


@pytest.mark.parametrize(
    ("peer", "case"),
    [("pecos", "tree"), ("omikuji", "hinge"), ("napkinxc", "plt"), ("napkinxc", "wide")],
)
def test_random_damage_is_an_error_or_a_model(peer, case, tmp_path):
    folder, X = copy_of(peer, case, tmp_path), rows_of(case)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".txt")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        file = files[rng.integers(len(files))]
        content = bytearray(file.read_bytes())
        before = bytes(content)
        if rng.random() < 0.3:
            del content[rng.integers(len(content)) :]
        else:
            for position in rng.integers(0, min(len(content), 4000), rng.integers(1, 4)):
                content[position] = rng.integers(256)
        file.write_bytes(content)
        try:
            model = import_model(folder, format=peer)
        except ModelFormatError:
            refused += 1
        else:
            if model.n_features_in_ == X.shape[1]:
                labels, scores = model.predict_topk(X[:2], k=3)
                assert ((labels >= -1) & (labels < model.n_labels_)).all()
                assert not np.isnan(scores).any()
        file.write_bytes(before)
    assert refused > 10
    import_model(folder, format=peer)
