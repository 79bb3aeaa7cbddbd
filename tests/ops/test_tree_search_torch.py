"""Search in trees with torch against the definition and the compiled version."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from test_tree_search import SHAPES, Case, arrays

from skxmc.ops import tree_search
from skxmc.ops.tree_search import LINKS, reference, torch_


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_device(*cases):
    return [torch_.prepare_search(case.tree) for case in cases]


def random_pairs(case, seed=5, density=0.4):
    shape = case.X.shape[0], case.tree.n_labels
    return sp.csr_array((np.random.default_rng(seed).random(shape) < density).astype(np.uint8))


def three_cases(step=1 / 8, link="l2-hinge"):
    return [Case("three levels", link, seed=seed, step=step) for seed in range(3)]


def assert_same(found, expected):
    assert found.labels.dtype == np.int32
    assert found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_scores_are_the_sums_of_the_edges(shape, link):
    case = Case(shape, link)
    found = torch_.dense_scores(on_device(case), *arrays(case.X))
    parts = case.child_start, case.label, case.weights, case.X, link
    np.testing.assert_allclose(found, reference.label_scores(*parts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("whole_level", [0, 8])
@pytest.mark.parametrize("beam", [1, 3, 40])
@pytest.mark.parametrize("shape", SHAPES)
def test_beam_search_by_definition_ties_included(shape, beam, whole_level, monkeypatch):
    """Weights are multiples of 1/8: many path scores are equal, and equal in every backend."""
    monkeypatch.setattr(torch_, "_WHOLE_LEVEL", whole_level)
    case = Case(shape, "l1-hinge", step=1 / 8)
    parts = case.child_start, case.weights, case.X, "l1-hinge"
    paths = reference.node_scores(*parts)
    for k in (1, 6):
        found = torch_.search_topk(on_device(case), *arrays(case.X), k, beam=beam)
        expected = reference.beam_topk(case.child_start, case.label, paths, k, beam)
        complete = (expected.labels >= 0).all(axis=1)  # the other rows are searched exactly
        assert_same(*(type(a)(*(part[complete] for part in a)) for a in (found, expected)))


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("restricted", ["", "exclude", "candidates", "both"])
def test_answers_are_those_of_the_compiled_search(shape, link, restricted):
    case = Case(shape, link)
    options = {}
    if restricted in ("exclude", "both"):
        options["exclude"] = random_pairs(case)
    if restricted in ("candidates", "both"):
        options["candidates"] = random_pairs(case, 6)
    for k in (2, 200):
        found = torch_.search_topk(on_device(case), *arrays(case.X), k, beam=3, **options)
        expected = tree_search.search_topk([case.tree], *arrays(case.X), k, beam=3, **options)
        assert_same(found, expected)


@pytest.mark.parametrize("restricted", ["", "exclude", "candidates"])
@pytest.mark.parametrize("k", [1, 5, 300])
def test_several_trees(k, restricted):
    cases = three_cases()
    trees = [case.tree for case in cases]
    options = {restricted: random_pairs(cases[0])} if restricted else {}
    row = arrays(cases[0].X)
    found = torch_.search_topk(on_device(*cases), *row, k, beam=2, **options)
    assert_same(found, tree_search.search_topk(trees, *row, k, beam=2, **options))
    np.testing.assert_allclose(
        torch_.dense_scores(on_device(*cases), *row),
        tree_search.dense_scores(trees, *row),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("whole_level", [0, 8])
def test_batches_and_parts_change_nothing(whole_level, monkeypatch):
    monkeypatch.setattr(torch_, "_WHOLE_LEVEL", whole_level)
    cases = three_cases(step=None)
    trees, row = on_device(*cases), arrays(cases[0].X)
    pairs = random_pairs(cases[0])
    whole = torch_.search_topk(trees, *row, 5, beam=3)
    scored = torch_.search_topk(trees, *row, 5, candidates=pairs)
    dense = torch_.dense_scores(trees, *row)
    monkeypatch.setattr(torch_, "_ENTRY_BYTES", (1 << 28) // 50)  # 50 entries are gathered at once
    small = {"block_bytes": 1}
    for found, expected in (
        (torch_.search_topk(trees, *row, 5, beam=3, **small), whole),
        (torch_.search_topk(trees, *row, 5, candidates=pairs, **small), scored),
        ((torch_.dense_scores(trees, *row, **small),), (dense,)),
    ):
        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("restricted", [None, "candidates"])
def test_nodes_with_the_bias_minus_infinity_hide_their_labels(restricted):
    case = Case("three levels", "l2-hinge")
    case.weights.bias[[2, 60]] = -np.inf
    tree = tree_search.prepare_search(
        case.child_start, case.label, case.weights, case.X.shape[1], "l2-hinge"
    )
    options = {} if restricted is None else {"candidates": random_pairs(case)}
    row, trees = arrays(case.X), [torch_.prepare_search(tree)]
    found = torch_.search_topk(trees, *row, 300, beam=100, **options)
    assert_same(found, tree_search.search_topk([tree], *row, 300, beam=100, **options))
    assert (found.labels == -1).any()
    np.testing.assert_allclose(
        torch_.dense_scores(trees, *row), tree_search.dense_scores([tree], *row), rtol=1e-5
    )


def test_read_only_arrays():
    case = Case("flat", "l3-hinge")
    row = arrays(case.X)
    expected = tree_search.search_topk([case.tree], *row, 4)
    for array in (*case.weights, *row):
        array.flags.writeable = False
    assert_same(torch_.search_topk(on_device(case), *row, 4), expected)


def test_no_rows_and_empty_rows():
    case = Case("three levels")
    empty = np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    assert torch_.search_topk(on_device(case), *empty, 3).labels.shape == (0, 3)
    assert torch_.dense_scores(on_device(case), *empty).shape == (0, 200)
    blank = np.zeros(3, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    found = torch_.search_topk(on_device(case), *blank, 3)
    assert_same(found, tree_search.search_topk([case.tree], *blank, 3))


@pytest.mark.parametrize("search", ["beam", "candidates", "dense"])
def test_scores_that_are_no_numbers_are_refused(search):
    case = Case("three levels", n_features=2)
    case.weights.weight[:] = np.where(np.arange(len(case.weights.weight)) % 2, 3e38, -3e38)
    tree = tree_search.prepare_search(case.child_start, case.label, case.weights, 2, "l1-hinge")
    X = np.array([[0, 0], [3e38, 3e38]], np.float32)
    row, trees = arrays(sp.csr_array(X)), [torch_.prepare_search(tree)]
    row = row[0].astype(np.int64), row[1].astype(np.int32), row[2]
    options = {"beam": {"beam": 200}, "candidates": {"candidates": np.ones((2, 200))}, "dense": {}}
    options = {key: sp.csr_array(v) if key != "beam" else v for key, v in options[search].items()}
    with pytest.raises(ValueError, match="Scores of row 1 of X exceed float32"):
        _ = (
            torch_.dense_scores(trees, *row)
            if search == "dense"
            else torch_.search_topk(trees, *row, 3, **options)
        )


def test_wrong_arguments():
    case = Case("three levels")
    trees, row = on_device(case), arrays(case.X)
    with pytest.raises(TypeError, match="beam must be an integer"):
        torch_.search_topk(trees, *row, 3, beam=None)
    with pytest.raises(ValueError, match="k must be at least 1"):
        torch_.search_topk(trees, *row, 0)
    with pytest.raises(ValueError, match="exclude"):
        torch_.search_topk(trees, *row, 3, exclude=sp.csr_array((1, 1)))
    with pytest.raises(ValueError, match="trees is empty"):
        torch_.search_topk([], *row, 3)
