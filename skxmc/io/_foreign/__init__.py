"""Models of other libraries: read into estimators of skxmc, and written for them."""

from importlib import import_module
from pathlib import Path

from skxmc.io._foreign import _common

__all__ = ["FORMATS", "export_model", "import_model"]

#: Format -> the library as its makers write it.
FORMATS = {"napkinxc": "napkinXC", "omikuji": "omikuji", "pecos": "libpecos"}


def import_model(path, *, format, n_features=None, n_labels=None):
    """Read the model directory of another library as a fitted estimator of skxmc.

    Parameters
    ----------
    path : str or path-like
        The directory that the other library saved.
    format : {"napkinxc", "omikuji", "pecos"}
        What wrote it: napkinXC 0.7 (``PLT``, also with ``ensemble``, and ``BR``), omikuji 0.5,
        libpecos 1 (``XLinearModel``; its ``ranker`` folder does too).
    n_features : int, default=None
        Number of features. napkinXC does not store it: None takes the last one that has a weight.
        The other formats know it, and are only compared.
    n_labels : int, default=None
        Number of labels. omikuji does not store it: None takes the last one in a tree. Labels that
        no tree has get the probability 0. The other formats are compared.

    Returns
    -------
    ParabelTree or DismecClassifier
        It has sparse outputs and predicts what the other library predicts: its ``predict_proba``,
        and the logistic function of its ``predict_topk`` scores, are the peer's probabilities. A
        `DismecClassifier` stands for napkinXC's ``BR`` with the logistic loss, and for a libpecos
        model of one level with the post-processor "sigmoid" or "noop"; with "noop" libpecos returns
        the margins, which are those of ``decision_function``. All else is a `ParabelTree`. Rows
        are scaled to unit length (``normalize``) if the other library does it.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ModelFormatError
        If it is no such model, is damaged, or has something that skxmc cannot express: another
        post-processor or loss, clusters that overlap, hashed features, napkinXC's multi-class
        models. The message says what.
    ValueError
        If ``format`` is unknown.

    See Also
    --------
    export_model : The other way.
    load_model : Models of skxmc.

    Notes
    -----
    How the model was trained is not in the files: ``C``, ``loss`` and so on are at their defaults,
    and a new ``fit`` trains what skxmc's parameters say. Files are read as data alone, without
    pickle. Memory: the model a few times, in float32.

    **Search.** napkinXC's trees are searched exactly, as it does by default. libpecos stores its
    beam, which becomes ``beam_size``; where its levels differ in it, the widest. omikuji's beam is
    an argument of its predict, 10 by default, as here. Trees of omikuji whose leaves are at
    different depths are made equally deep with nodes of the probability 1, so that the beam sees
    what omikuji's sees.

    In one respect omikuji's beam is not reproduced: with several trees it keeps the best
    ``beam_size`` labels of each leaf and takes the probability of the others in that tree as 0,
    where skxmc keeps the best ``max(2 * k, 4 * beam_size)`` of the tree. Labels far down can have
    another score for it. Both predict the same with a beam of at least the labels of a leaf
    (omikuji's ``min_branch_size``, 100 by default): pass that to its predict, and
    ``set_params(beam_size=100)`` here.

    Examples
    --------
    >>> import tempfile
    >>> from skxmc import ParabelTree
    >>> from skxmc.datasets import make_xmc_classification
    >>> from skxmc.io import export_model, import_model
    >>> data = make_xmc_classification(n_samples=200, n_labels=40, random_state=0)
    >>> model = ParabelTree("parabel", max_leaf=8, random_state=0).fit(data.X, data.Y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_model(model, f"{folder}/model", format="omikuji")
    ...     back = import_model(f"{folder}/model", format="omikuji")
    >>> bool(
    ...     (back.predict_topk(data.X, k=3).labels == model.predict_topk(data.X, k=3).labels).all()
    ... )
    True
    """
    module = _module(format)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no model at {path}.")
    if not path.is_dir():
        raise _common.ModelFormatError(f"{path} is no directory.")
    sizes = {"n_features": n_features, "n_labels": n_labels}
    for name, value in sizes.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name} must be an integer or None, got {value!r}.")
    with _common.reading(path, FORMATS[format]):
        return module.import_model(path, **sizes)


def export_model(model, path, *, format, overwrite=False):
    """Write a fitted estimator as a model directory that another library loads.

    Parameters
    ----------
    model : ParabelTree or DismecClassifier
        Fitted, and not on a 1-D ``y`` of two classes.
    path : str or path-like
        The directory to be made. Missing parent directories are made too.
    format : {"napkinxc", "omikuji", "pecos"}
        What shall read it: napkinXC 0.7 (as ``PLT`` or ``BR``), omikuji 0.5, libpecos 1
        (``XLinearModel.load``).
    overwrite : bool, default=False
        Replace the directory at ``path``, **whatever is in it**.

    Raises
    ------
    TypeError
        If the model is of another class.
    ValueError
        If ``format`` is unknown, or the other library cannot express the model. libpecos: several
        trees. omikuji: another link than "logistic" and "l2-hinge", or rows that are not scaled
        (``normalize=None``). napkinXC: another link than these two.
    FileExistsError
        If there is something at ``path`` that may not be replaced.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.

    See Also
    --------
    import_model : The other way.
    save_model : The format of skxmc, which keeps everything.

    Notes
    -----
    The other library then predicts the same: probabilities as of ``predict_proba``, up to the
    rounding of float32. Labels that skxmc never answers get the probability 0.

    What the files have no place for must be told to the other library: libpecos does not scale rows
    to unit length, so pass it scaled ones if the model has ``normalize="l2"``; omikuji's
    ``beam_size`` and napkinXC's ``tree_search_type`` are arguments there. A `DismecClassifier`
    becomes, for libpecos, a model of one level with the post-processor "sigmoid", for napkinXC a
    ``BR``, and for omikuji a tree of the logistic loss with one leaf that has all labels.

    The directory is written under another name and renamed when complete. Memory: the model a few
    times.

    Examples
    --------
    See :func:`import_model`.
    """
    module = _module(format)
    _common.model_kind(model)
    _common.write_directory(path, lambda folder: module.export_model(model, folder), overwrite)


def _module(format):
    if not isinstance(format, str) or format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {format!r}.")
    return import_module(f"skxmc.io._foreign.{format}")
