"""The order of the gallery: from the first steps to the special cases."""

ORDER = (
    *("demo", "own_data", "grid_search", "label_tree", "save_and_serve"),
    *("calibration", "decisions", "missing_labels", "missing_label_losses"),
    *("gandalf", "label_text", "zero_shot", "sparse_head", "text_end_to_end", "cluster"),
)


class ByLesson:
    """Sort key of sphinx-gallery: the place in ``ORDER``, others by name after them."""

    def __init__(self, src_dir):
        del src_dir

    def __call__(self, filename):
        name = filename.removesuffix(".py")
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)

    def __repr__(self):
        return type(self).__name__
