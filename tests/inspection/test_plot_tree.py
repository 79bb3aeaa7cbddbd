"""The layout of the drawing, and what is drawn on the axes."""

import sys

import matplotlib as mpl
import pytest

from skxmc.inspection import plot_tree
from skxmc.inspection._plot_tree import _layout
from skxmc.label_space import LabelTree

mpl.use("Agg")
import matplotlib.pyplot as plt


class RecordingAxes:
    """Stands for matplotlib axes and remembers what is drawn on it."""

    def __init__(self):
        self.texts, self.lines, self.limits, self.off = {}, [], {}, False

    def plot(self, x, y, **style):
        self.lines.append((tuple(x), tuple(y)))

    def text(self, x, y, text, **style):
        self.texts[text] = (x, y)

    def set_xlim(self, low, high):
        self.limits["x"] = (low, high)

    def set_ylim(self, low, high):
        self.limits["y"] = (low, high)

    def set_axis_off(self):
        self.off = True


def small_tree():
    # the root has node 1 (labels 0, 2) and label 1
    return LabelTree([1, 3, 5, 5, 5, 5], [-1, -1, 1, 0, 2])


def test_layout_of_a_small_tree():
    boxes = _layout(small_tree(), ["a", "b", "c"], None, None)
    assert [tuple(box) for box in boxes] == [
        (0, -1.25, "3 labels", -1),
        (1, -0.5, "2 labels", 0),
        (2, 0.0, "a", 1),
        (2, -1.0, "c", 1),
        (1, -2.0, "b", 0),
    ]


def test_no_two_boxes_lie_on_each_other():
    tree = LabelTree.from_parents([-1, 0, 0, 1, 1, 2, 2, 2], [-1, -1, -1, 0, 1, 2, 3, 4])
    boxes = _layout(tree, None, None, None)
    assert len(boxes) == tree.n_nodes
    assert len({(box.x, box.y) for box in boxes}) == tree.n_nodes
    for box in boxes[1:]:
        assert box.x == boxes[box.parent].x + 1


def test_depth_and_children_are_limited():
    assert [box.text for box in _layout(small_tree(), None, 1, None)] == [
        "3 labels",
        "2 labels",
        "label 1",
    ]
    texts = [box.text for box in _layout(LabelTree.flat(50), None, 2, 3)]
    assert texts == ["50 labels", "label 0", "label 1", "label 2", "... 47 more"]


def test_drawing():
    ax = RecordingAxes()
    assert plot_tree(small_tree(), label_names=["a", "b", "c"], ax=ax) is ax
    assert set(ax.texts) == {"3 labels", "2 labels", "a", "b", "c"}
    assert len(ax.lines) == 4
    assert ((0, 1), (-1.25, -2.0)) in ax.lines  # root to label b
    for x, y in ax.texts.values():
        assert ax.limits["x"][0] < x < ax.limits["x"][1]
        assert ax.limits["y"][0] < y < ax.limits["y"][1]
    assert ax.off


def test_bad_input():
    with pytest.raises(ValueError, match="2 names"):
        plot_tree(small_tree(), label_names=["a", "b"], ax=RecordingAxes())
    for options in ({"max_depth": 0}, {"max_children": 0}, {"max_depth": 1.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            plot_tree(small_tree(), ax=RecordingAxes(), **options)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="export_text"):
        plot_tree(small_tree())


# ---------------------------------------------------------------------------- real drawings


@pytest.fixture
def _close_figures():
    yield
    plt.close("all")


def boxes_of(ax):
    """Text -> its rounded frame on the canvas, in pixels."""
    ax.figure.canvas.draw()
    renderer = ax.figure.canvas.get_renderer()
    return {text.get_text(): text.get_bbox_patch().get_window_extent(renderer) for text in ax.texts}


@pytest.mark.usefixtures("_close_figures")
def test_real_drawing():
    figure, ax = plt.subplots(figsize=(6, 4))
    assert plot_tree(small_tree(), label_names=["red", "green", "blue"], ax=ax) is ax
    boxes = boxes_of(ax)
    assert set(boxes) == {"3 labels", "2 labels", "red", "green", "blue"}
    # the root on the left, the first child on top, its children right of it
    assert boxes["3 labels"].x1 < boxes["2 labels"].x0 < boxes["2 labels"].x1 < boxes["red"].x0
    assert boxes["red"].y0 > boxes["blue"].y1 > boxes["green"].y1
    for text, box in boxes.items():
        others = [other for name, other in boxes.items() if name != text]
        assert not any(box.overlaps(other) for other in others)
        assert figure.bbox.contains(box.x0, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)
    # each line ends in the middle of two boxes, and is hidden behind them
    ends = {(x, y) for line in ax.lines for x, y in line.get_xydata().tolist()}
    assert ends == {text.get_position() for text in ax.texts}
    assert max(line.zorder for line in ax.lines) < min(text.zorder for text in ax.texts)
    assert not ax.axison


@pytest.mark.usefixtures("_close_figures")
def test_real_drawing_on_the_current_axes(tmp_path):
    _, axes = plt.subplots(1, 2)
    plt.sca(axes[1])
    assert plot_tree(LabelTree.flat(40), max_children=5) is axes[1]
    assert len(axes[1].texts) == 7  # the root, five labels, how many more
    assert not axes[0].texts
    plt.savefig(tmp_path / "tree.png", dpi=50)
    picture = plt.imread(tmp_path / "tree.png")
    half = picture.shape[1] // 2
    assert picture[:, half:].min() < 0.5  # something dark was drawn
