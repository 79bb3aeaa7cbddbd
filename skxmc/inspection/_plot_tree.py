"""A drawing of the upper part of a label tree."""

import numbers
from typing import NamedTuple


class _Box(NamedTuple):
    """A node of the drawing: its place, its text, and the place of the box it hangs from."""

    x: float
    y: float
    text: str
    parent: int  # position in the list of boxes, -1 for the root


def plot_tree(tree, *, label_names=None, max_depth=2, max_children=10, ax=None):
    """Draw the upper part of a label tree, the root on the left.

    Parameters
    ----------
    tree : LabelTree
        For an estimator, one of its ``trees_``.
    label_names : sequence of str of length n_labels, default=None
        Names to print in place of the label numbers.
    max_depth : int or None, default=2
        Nodes below this depth are left out; None draws all.
    max_children : int or None, default=10
        Of a node with more children the first ones are drawn, and a box says how many there are
        besides; None draws all.
    ax : matplotlib Axes, default=None
        Where to draw. None takes the current axes of pyplot.

    Returns
    -------
    Axes
        With the drawing, its frame and ticks switched off.

    Raises
    ------
    ImportError
        If ``ax`` is None and matplotlib is not installed.
    ValueError
        If ``max_depth`` or ``max_children`` is not positive, or ``label_names`` has another length.

    See Also
    --------
    LabelTree.export_text : The same as text.
    LabelTree.to_dot : The same for Graphviz.

    Examples
    --------
    >>> from skxmc.inspection import plot_tree
    >>> from skxmc.label_space import LabelTree
    >>> plot_tree(LabelTree.flat(3), label_names=["red", "green", "blue"])  # doctest: +SKIP
    <Axes: >
    """
    boxes = _layout(tree, label_names, max_depth, max_children)
    if ax is None:
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "plot_tree needs matplotlib: pip install 'skxmc[plot]', or use tree.export_text()."
            ) from error
        ax = plt.gca()
    for box in boxes:
        if box.parent >= 0:
            above = boxes[box.parent]
            ax.plot([above.x, box.x], [above.y, box.y], color="0.7", linewidth=1, zorder=1)
    for box in boxes:
        ax.text(
            *(box.x, box.y, box.text),
            ha="center",
            va="center",
            fontsize=8,
            zorder=2,
            bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "0.5"},
        )
    ax.set_xlim(-0.5, max(box.x for box in boxes) + 0.5)
    ax.set_ylim(min(box.y for box in boxes) - 1.0, max(box.y for box in boxes) + 1.0)
    ax.set_axis_off()
    return ax


def _layout(tree, label_names, max_depth, max_children):
    """The boxes of the drawing, the root first.

    x is the depth. Boxes without children lie one below the other at y = 0, -1, -2, ...; the others
    in the middle of their children.
    """
    for name, value in (("max_depth", max_depth), ("max_children", max_children)):
        if value is not None and not (isinstance(value, numbers.Integral) and value >= 1):
            raise ValueError(f"{name} must be None or an integer of at least 1, got {value!r}.")
    if label_names is not None and len(label_names) != tree.n_labels:
        raise ValueError(
            f"label_names has {len(label_names)} names, but the tree has {tree.n_labels} labels."
        )
    # (node or None for "more", depth, text, parent), every box before its children
    boxes, children_of = [], []
    stack = [(0, 0, None, -1)]
    while stack:
        node, depth, text, parent = stack.pop()
        place = len(boxes)
        boxes.append([depth, 0.0, text or _text(tree, node, label_names), parent])
        children_of.append([])
        if parent >= 0:
            children_of[parent].append(place)
        if node is None or (max_depth is not None and depth >= max_depth):
            continue
        children = tree.children(node)
        shown = children[:max_children]
        below = [(child, depth + 1, None, place) for child in shown]
        if len(shown) < len(children):
            below.append((None, depth + 1, f"... {len(children) - len(shown)} more", place))
        stack += below[::-1]
    n_rows = 0
    for place, children in enumerate(children_of):  # depth first: the order of the lines
        if not children:
            boxes[place][1] = -float(n_rows)
            n_rows += 1
    for place in range(len(boxes) - 1, -1, -1):
        children = children_of[place]
        if children:
            boxes[place][1] = (boxes[children[0]][1] + boxes[children[-1]][1]) / 2
    return [_Box(*box) for box in boxes]


def _text(tree, node, label_names):
    label = int(tree.label[node])
    if label < 0:
        n_labels = len(tree.labels_below(node))
        return f"{n_labels} label" + ("" if n_labels == 1 else "s")
    return f"label {label}" if label_names is None else str(label_names[label])
