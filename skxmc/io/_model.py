"""Save and load fitted models.

A model is a directory::

    model.json     format and version, class, parameters, attributes, and dtype, shape and CRC-32 of
    each array <name>.npy     one file for each array, to be memory-mapped (the default), or
    arrays.npz     all of them, compressed

Nothing in it is executed: the class must stand in ``MODEL_CLASSES``, and values are JSON or arrays
of numbers.
"""

import functools
import json
import math
import os
import re
import shutil
import uuid
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import scipy.sparse as sp

import skxmc
from skxmc.exceptions import ModelFormatError
from skxmc.io import _arrays, _sklearn, _vectorizers

FORMAT = "skxmc-model"
FORMAT_VERSION = 2

# Where encoders are that stand for others; imported late, as the classes below.
_ENCODERS = "skxmc.neural._encoders"

# The classes that a file may name, and where they are. A new estimator adds a line.
MODEL_CLASSES = {
    "DismecClassifier": "skxmc.linear",
    "FrozenEstimator": "sklearn.frozen",
    "IsotonicXMCCalibrator": "skxmc.calibration",
    "LMTXClassifier": "skxmc.neural",
    "MacroAtKPredictor": "skxmc.decision",
    "MaxAbsScaler": "sklearn.preprocessing",
    "Normalizer": "sklearn.preprocessing",
    "ParabelTree": "skxmc.linear",
    "Pipeline": "sklearn.pipeline",
    "SparseDSTClassifier": "skxmc.neural",
    "StaticEncoder": "skxmc.neural",
    "TfidfTransformer": "sklearn.feature_extraction.text",
    "UniDECClassifier": "skxmc.neural",
    "XRTransformerClassifier": "skxmc.neural",
}

# Attributes that hold what prediction needs of the parameter ``encoder``.
_ENCODER_ARRAYS = ("_encoder_arrays", "_front_arrays")

# Bytes of arrays that are read while a model opens, whatever it is.
_SMALL = 1 << 24

_HEADER = "model.json"
_ARCHIVE = "arrays.npz"
_TAG = "$type"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def save_model(model, path, *, overwrite=False, compress=False, weights_dtype=None):
    """Save a fitted estimator of skxmc as a directory without pickle.

    Parameters
    ----------
    model : estimator
        A fitted estimator of skxmc; it may contain others.
    path : str or path-like
        The directory to be made. Missing parent directories are made too.
    overwrite : bool, default=False
        Replace the model that is at ``path``. Anything else there is never replaced.
    compress : bool, default=False
        Write one compressed archive with difference-coded indices: about half the size of the plain
        arrays, slower to write and to load, and not to be memory-mapped.
    weights_dtype : {"float32", "float16"}, default=None
        Store the weights in this dtype; they come back in the dtype of the model. With
        ``"float16"`` a weight is rounded to 11 bits (relative error at most 2**-11 from 6e-5 up to
        65504 in size). None stores them as they are.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the model is not fitted.
    TypeError
        If the model, a parameter or an attribute is of a kind that is not stored.
    ValueError
        If ``weights_dtype`` is unknown, does not apply, or a weight is too large for it.
    FileExistsError
        If there is something at ``path`` that may not be replaced.

    See Also
    --------
    load_model : The way back.

    Notes
    -----
    The directory is written under another name and renamed when complete: a process killed at any
    point leaves no half model at ``path``. Cost: one pass over the arrays; memory for a copy of one
    sparse array with ``compress=True`` or ``weights_dtype``, else none.

    Examples
    --------
    >>> import tempfile
    >>> from skxmc import DismecClassifier, load_model, save_model
    >>> model = DismecClassifier().fit([[0.0, 1.0], [1.0, 0.0]], [[1, 0], [0, 1]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(model, f"{folder}/model")
    ...     load_model(f"{folder}/model", mmap=False).predict([[0.0, 1.0]])
    array([[1, 0]])
    """
    from sklearn.utils.validation import check_is_fitted

    if not _is_stored(model):
        raise TypeError(_not_stored("model", model))
    if _predicts_nothing(model):
        raise TypeError("save_model stores a Pipeline that ends in an estimator of skxmc.")
    if weights_dtype not in (None, "float32", "float16"):
        raise ValueError(
            f'weights_dtype must be None, "float32" or "float16", got {weights_dtype!r}.'
        )
    check_is_fitted(model)
    path = Path(path)
    _check_target(path, overwrite)
    encoder = _Encoder(compact=compress, weights_dtype=weights_dtype)
    encoded = encoder.encode(model, "")
    if weights_dtype is not None and not encoder.has_weights:
        raise ValueError(
            f"weights_dtype={weights_dtype!r} does not apply: {type(model).__name__} has no "
            "weights."
        )
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "skxmc_version": skxmc.__version__,
        "compressed": bool(compress),
        "model": encoded,
        "arrays": {
            name: {
                "dtype": array.dtype.str,
                "shape": list(array.shape),
                "crc32": _arrays.crc32(array),
            }
            for name, array in encoder.arrays.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}")
    temporary.mkdir()
    try:
        if compress:
            _arrays.write_arrays_atomic(temporary / _ARCHIVE, encoder.arrays, compress=True)
        else:
            for name, array in encoder.arrays.items():
                _arrays.write_npy(temporary / f"{name}.npy", array)
        with open(temporary / _HEADER, "w", encoding="utf-8") as file:
            json.dump(header, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        _arrays.sync_directory(temporary)
        _check_target(path, overwrite)  # again: the writing may have taken long
        _arrays.move_into_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_model(path, *, mmap=True, verify=None):
    """Load a model that :func:`save_model` wrote.

    Parameters
    ----------
    path : str or path-like
        The directory.
    mmap : bool, default=True
        True maps the arrays read-only: they are read from the disk when they are used, and several
        processes share the memory. False reads them into memory. A compressed model is always read
        into memory.
    verify : bool, default=None
        True reads all data at once, to compare the CRC-32 of each array and to check all weights.
        None does it unless the arrays are mapped. What kernels rely on is checked in any case: that
        indices are in range and ascend, at the latest before they are used for the first time.

    Returns
    -------
    estimator
        With the same parameters and fitted attributes; it predicts the same.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ModelFormatError
        If it is not a model, is damaged, or was written in a format that this version of skxmc does
        not know. Damage in the weights of a mapped model is found when a row first needs them, and
        the prediction raises the same error.

    Notes
    -----
    A loaded model is asked once, for a row without features or an empty text, so that what does not
    fit together is found here; mapped neural models of more than 16 MB are not, for their answer
    reads all weights: of their encoder only sizes are looked at before it is needed.

    Time, for a mapped model: O(labels + features + nodes of the trees), nothing by weight, but for
    linear models and trees that were saved with ``compress`` or ``weights_dtype``, or before format
    version 2, whose indices are read. A file must not be changed in place while it is mapped;
    `save_model` with ``overwrite=True`` puts a new file in its place, which is safe.

    Examples
    --------
    See :func:`save_model`.
    """
    if not isinstance(mmap, (bool, np.bool_)):
        raise TypeError(f"mmap must be True or False, got {mmap!r}.")
    path = Path(path)
    header = _read_header(path)
    compressed = bool(header.get("compressed"))
    if verify is None:
        verify = compressed or not mmap
    try:
        arrays = _read_model_arrays(path, header["arrays"], compressed, mmap, verify)
        model = _Decoder(arrays, verify).decode(header["model"], "")
        if not _is_stored(model) or _predicts_nothing(model):
            raise ModelFormatError("it holds no estimator")
        if not _is_fitted(model):
            raise ModelFormatError("its estimator is not fitted")
        n_bytes = sum(array.nbytes for array in arrays.values())
        # Neural models read all their weights for any row: not to be done while they open.
        if verify or n_bytes <= _SMALL or not type(model).__module__.startswith("skxmc.neural"):
            _ask_once(model)
        return model
    except ModelFormatError as error:
        raise ModelFormatError(f"The model {path} cannot be loaded: {error}") from error
    except _arrays.NOT_DAMAGE:
        raise
    except Exception as error:
        raise ModelFormatError(
            f"The model {path} is damaged: {type(error).__name__}: {error}"
        ) from error


class _Encoder:
    """Turn an estimator into JSON values, and collect its arrays under names."""

    def __init__(self, compact, weights_dtype):
        self.compact = compact
        self.weights_dtype = weights_dtype
        self.arrays = {}
        self.has_weights = False

    def encode(self, value, where, weights=False):
        """Return the JSON value for ``value``; ``where`` names it in files and messages."""
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, Path):  # comes back as a string
            return str(value)
        if isinstance(value, np.generic):
            if value.dtype.kind in "biuf":
                number = self.encode(value.item(), where)
                return {_TAG: "scalar", "dtype": value.dtype.str, "value": number}
            raise TypeError(_not_stored(where, value))
        if isinstance(value, float):
            return value if math.isfinite(value) else {_TAG: "float", "value": repr(value)}
        if isinstance(value, np.dtype) and not value.hasobject and value.names is None:
            return {_TAG: "dtype", "value": value.str}
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            items = [self.encode(v, f"{where}.{i}", weights) for i, v in enumerate(value)]
            return items if type(value) is list else {_TAG: "tuple", "items": items}
        if type(value) is dict:
            items = [
                [self.encode(k, f"{where}.key", False), self.encode(v, f"{where}.{k}", weights)]
                for k, v in value.items()
            ]
            return {_TAG: "dict", "items": items}
        if isinstance(value, np.ndarray):
            return self._encode_array(value, where, weights)
        if sp.issparse(value) and value.format in ("csr", "csc"):
            return self._encode_sparse(value, where, weights)
        if _is_stored(value):
            return self._encode_estimator(value, where)
        if type(value).__name__ == "StoredEncoder":
            parts = {"kind": value.kind, "takes_texts": value.takes_texts}
            return {_TAG: "encoder", **parts}
        if _vectorizers.is_vectorizer(value):
            return self._encode_vectorizer(value, where)
        raise TypeError(_not_stored(where, value))

    def _encode_vectorizer(self, vectorizer, where, deferred=False):
        params, terms, idf = _vectorizers.vectorizer_parts(vectorizer)
        if deferred and terms is not None and not self.compact:
            terms = self._encode_array(_vectorizers.terms_to_array(terms), f"{where}.terms", False)
        return {
            _TAG: "vectorizer",
            "class": type(vectorizer).__name__,
            "params": {k: self.encode(v, f"{where}.{k}") for k, v in params.items()},
            "terms": terms,
            "idf": None if idf is None else self._encode_array(idf, f"{where}.idf", False),
        }

    def _encode_estimator(self, model, where):
        prefix = f"{where}." if where else ""
        names = type(model)._get_param_names()
        left_out = getattr(type(model), "_params_not_stored", ())
        params = {
            name: value
            for name, value in model.get_params(deep=False).items()
            if name not in left_out
        }
        if _is_of_sklearn(type(model)):
            params = _sklearn.stored_params(model, params)
            state = _sklearn.fitted_attributes(model)
        elif hasattr(model, "_mapped_state") and not self.compact and self.weights_dtype is None:
            state = model._mapped_state()  # arrays as predictions take them, used where they are
        else:
            # As for pickle: what an estimator leaves out there it leaves out here.
            state = model.__getstate__()
        state = {k: v for k, v in state.items() if k not in names}
        if any(state.get(name) for name in _ENCODER_ARRAYS):
            params = {**params, "encoder": self._storable_encoder(params["encoder"])}
        weights = getattr(type(model), "_weight_attributes", ())
        self.has_weights = self.has_weights or any(name in state for name in weights)
        return {
            _TAG: "estimator",
            "class": type(model).__name__,
            "params": {k: self.encode(v, f"{prefix}{k}") for k, v in params.items()},
            "attributes": {
                k: self._encode_vectorizer(v, f"{prefix}{k}", deferred=True)
                if k in getattr(type(model), "_deferred", ()) and _vectorizers.is_vectorizer(v)
                else self.encode(v, f"{prefix}{k}", weights=k in weights)
                for k, v in state.items()
            },
        }

    def _storable_encoder(self, encoder):
        """The parameter ``encoder``, or what stands for it where only its weights are stored."""
        try:
            _Encoder(self.compact, None).encode(encoder, "encoder")
        except TypeError:
            encoders, cls = import_module(_ENCODERS), type(encoder)
            kind = f"{cls.__module__}.{cls.__qualname__}"
            return encoders.StoredEncoder(kind, encoders.takes_texts(encoder))
        return encoder

    def _encode_array(self, array, where, weights):
        if array.dtype == object:
            if not all(isinstance(v, str) for v in array.flat):
                raise TypeError(_not_stored(where, array))
            return {_TAG: "strings", "shape": list(array.shape), "values": array.ravel().tolist()}
        if array.dtype.kind not in "biufSU":
            raise TypeError(_not_stored(where, array))
        stored = self._narrow(array, where) if weights else array
        return {_TAG: "array", "array": self._add(stored, where), "dtype": array.dtype.str}

    def _encode_sparse(self, A, where, weights):
        if A.dtype.kind not in "biuf":
            raise TypeError(_not_stored(where, A))
        increasing = bool(A.has_canonical_format)
        result = {
            _TAG: "sparse",
            "format": A.format,
            "matrix": isinstance(A, sp.spmatrix),
            "shape": list(A.shape),
            "increasing": increasing,
            "dtype": A.dtype.str,
            "data": self._add(self._narrow(A.data, where) if weights else A.data, f"{where}.data"),
        }
        if self.compact and increasing:
            steps, lengths = _arrays.compact_indices(A.indices, A.indptr)
            result["steps"] = self._add(steps, f"{where}.steps")
            result["lengths"] = self._add(lengths, f"{where}.lengths")
            result["index_dtypes"] = [A.indices.dtype.str, A.indptr.dtype.str]
        else:
            result["indices"] = self._add(A.indices, f"{where}.indices")
            result["indptr"] = self._add(A.indptr, f"{where}.indptr")
        return result

    def _narrow(self, array, where):
        if self.weights_dtype is None or array.dtype.kind != "f":
            return array
        if array.dtype.itemsize <= np.dtype(self.weights_dtype).itemsize:
            return array
        limit = np.finfo(self.weights_dtype).max
        largest = np.abs(array).max(initial=0)
        if largest > limit:
            raise ValueError(
                f"A weight of {where} has the size {largest:g}, too large for {self.weights_dtype} "
                f"(at most {limit:g})."
            )
        return array.astype(self.weights_dtype)

    def _add(self, array, where):
        """Name under which the array is stored; one that several attributes share, only once."""
        for known, other in self.arrays.items():
            if other is array:
                return known
        base = re.sub(r"[^A-Za-z0-9_.-]", "_", where).lstrip(".-") or "array"
        taken = {name.lower() for name in self.arrays}
        name, n = base, 1
        while name.lower() in taken:
            n += 1
            name = f"{base}-{n}"
        self.arrays[name] = array
        return name


class _Decoder:
    """Undo the work of _Encoder, believing nothing."""

    def __init__(self, arrays, verify):
        self.arrays = arrays
        self.verify = verify

    def decode(self, value, where):
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list):
            return [self.decode(v, where) for v in value]
        kind = value[_TAG]
        method = getattr(self, f"_decode_{kind}", None) if isinstance(kind, str) else None
        if method is None:
            raise ModelFormatError(f"{where}: unknown kind of value {kind!r}.")
        return method(value, where)

    def _decode_float(self, value, where):
        return float(value["value"])

    def _decode_dtype(self, value, where):
        return np.dtype(value["value"])

    def _decode_scalar(self, value, where):
        dtype = np.dtype(value["dtype"])
        if dtype.kind not in "biuf":
            raise ModelFormatError(f"{where}: {dtype} is not the dtype of a number.")
        return dtype.type(self.decode(value["value"], where))

    def _decode_tuple(self, value, where):
        return tuple(self.decode(v, where) for v in value["items"])

    def _decode_dict(self, value, where):
        return {self.decode(k, where): self.decode(v, f"{where}.{k}") for k, v in value["items"]}

    def _decode_strings(self, value, where):
        if not all(isinstance(v, str) for v in value["values"]):
            raise ModelFormatError(f"{where}: not all values are strings.")
        return np.array(value["values"], dtype=object).reshape(value["shape"])

    def _decode_array(self, value, where):
        return self._widen(self.arrays[value["array"]], value["dtype"], where)

    def _decode_sparse(self, value, where):
        format, shape = value["format"], tuple(value["shape"])
        if format not in ("csr", "csc") or len(shape) != 2 or not all(_is_size(n) for n in shape):
            raise ModelFormatError(f"{where}: {format!r} of shape {shape} is not a sparse array.")
        data = self._widen(self.arrays[value["data"]], value["dtype"], where)
        if "steps" in value:
            steps, lengths = self.arrays[value["steps"]], self.arrays[value["lengths"]]
            indices, indptr = _arrays.expand_indices(steps, lengths, *value["index_dtypes"])
        else:
            indices, indptr = self.arrays[value["indices"]], self.arrays[value["indptr"]]
        _arrays.check_compressed(
            data,
            indices,
            indptr,
            shape if format == "csr" else shape[::-1],
            increasing=value["increasing"],
            where=where,
        )
        if data.dtype.kind == "f" and not np.isfinite(data).all():
            raise ModelFormatError(f"{where}: there are values that are not finite.")
        return _arrays.make_compressed(
            data, indices, indptr, shape, format=format, matrix=bool(value["matrix"])
        )

    def _decode_encoder(self, value, where):
        return import_module(_ENCODERS).StoredEncoder(
            str(value["kind"]), bool(value["takes_texts"])
        )

    def _decode_vectorizer(self, value, where, deferred=False):
        params = {k: self.decode(v, f"{where}.{k}") for k, v in value["params"].items()}
        idf, terms = self.decode(value["idf"], f"{where}.idf"), value["terms"]
        if isinstance(terms, dict):
            terms = self.decode(terms, f"{where}.terms")
        parts = value["class"], params, terms, idf
        if deferred and not self.verify:
            return functools.partial(_vectorizers.make_vectorizer, *parts)
        return _vectorizers.make_vectorizer(*parts)

    def _decode_estimator(self, value, where):
        from sklearn.utils._param_validation import validate_parameter_constraints

        cls = _model_class(value["class"])
        known = cls._get_param_names()
        unknown = sorted(set(value["params"]) - set(known))
        if unknown:
            raise ModelFormatError(
                f"{cls.__name__} has no parameter {unknown[0]!r}; the model was probably "
                "written by a newer version of skxmc."
            )
        prefix = f"{where}." if where else ""
        params = {k: self.decode(v, f"{prefix}{k}") for k, v in value["params"].items()}
        attributes = {}
        for k, v in value["attributes"].items():
            # The dictionary of all terms takes longer than all else: made when it is asked for.
            defer = k in getattr(cls, "_deferred", ()) and isinstance(v, dict)
            if defer and v[_TAG] == "vectorizer":
                attributes[k] = self._decode_vectorizer(v, f"{prefix}{k}", deferred=True)
            else:
                attributes[k] = self.decode(v, f"{prefix}{k}")
        for name in attributes:
            if not name.isidentifier() or name.startswith("__") or name in known:
                raise ModelFormatError(f"{name!r} is not the name of an attribute.")
        if _is_of_sklearn(cls):
            model = _sklearn.make(cls, params, attributes)
            if cls.__name__ == "Pipeline" and _is_fitted(model):
                _sklearn.check_pipeline(model)
            return model
        model = cls(**params)
        if hasattr(cls, "_parameter_constraints"):
            # Only those that are stored: what is not has to be set before a fit.
            validate_parameter_constraints(cls._parameter_constraints, params, cls.__name__)
        model.__setstate__(attributes)
        if not hasattr(cls, "fit") or not _is_fitted(model):  # what is wrapped may be a template
            return model
        _check_common(model)
        check = getattr(cls, "_check_loaded_model", None)
        if check is not None:
            check(model)
            if self.verify and hasattr(cls, "_check_all_weights"):
                model._check_all_weights()
        return model

    def _widen(self, array, dtype, where):
        """Return weights that were stored in a smaller dtype in their own."""
        dtype = np.dtype(dtype)
        same = array.dtype == dtype
        if not same and not (
            dtype.kind in "biuf" and np.can_cast(array.dtype, dtype, casting="safe")
        ):
            raise ModelFormatError(f"{where}: {array.dtype} stands for {dtype}.")
        return array.astype(dtype, copy=False)


def _ask_once(model):
    """Ask for a row without anything: what does not fit together in a model shows there."""
    if hasattr(model, "steps"):
        steps, model = model[:-1] if len(model.steps) > 1 else None, model.steps[-1][1]
    else:
        steps = None
    if not hasattr(model, "predict_topk"):
        return
    width = getattr(model if steps is None else steps, "n_features_in_", None)
    rows = [[""]]
    if width is not None:
        rows = [sp.csr_array((1, width), dtype=np.float32), np.zeros((1, width), np.float32)]
    first_error = None
    for row in rows:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as that names of features are missing
                row = row if steps is None else steps.transform(row)
                answers = model.predict_topk(row, k=min(5, len(model.classes_)))
                proba = model.predict_proba(row) if hasattr(model, "predict_proba") else None
            for values in (answers.scores, getattr(proba, "data", proba)):
                if values is not None and np.isnan(np.asarray(values)).any():
                    raise ModelFormatError("a score is not a number.")
            return
        except ImportError:
            return  # torch is needed to predict, not to load
        except (TypeError, ValueError) as error:
            first_error = error if first_error is None else first_error
    raise first_error


def _check_common(model):
    """Check the attributes that all fitted classifiers of skxmc have."""
    state = vars(model)
    if "_target_kind" not in state:
        return
    n_labels, classes = state.get("n_labels_"), state.get("classes_")
    if state["_target_kind"] == "sparse" and type(state.get("_target_is_spmatrix")) is not bool:
        raise ModelFormatError("It does not say which kind of sparse target it had.")
    if state["_target_kind"] not in ("sparse", "dense", "binary", "multiclass"):
        raise ModelFormatError(f"{state['_target_kind']!r} is no kind of target.")
    if not _is_size(n_labels) or not isinstance(classes, np.ndarray) or classes.ndim != 1:
        raise ModelFormatError("n_labels_ must be an integer and classes_ an array.")
    if len(classes) != n_labels or (state["_target_kind"] == "binary" and n_labels != 2):
        raise ModelFormatError(f"There are {n_labels} labels and {len(classes)} classes.")
    width, names = state.get("n_features_in_"), state.get("feature_names_in_")
    if width is not None and not _is_size(width):
        raise ModelFormatError("n_features_in_ must be an integer.")
    if names is not None and np.shape(names) != (width,):
        raise ModelFormatError("feature_names_in_ and n_features_in_ do not fit together.")
    dtype = state.get("_target_dtype")
    if dtype is not None and (not isinstance(dtype, np.dtype) or dtype.kind not in "biuf"):
        raise ModelFormatError("The dtype of the target is not one of numbers.")


def _is_fitted(model):
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError:
        return False
    return True


def _is_stored(value):
    """Whether it is of a class in ``MODEL_CLASSES``, not of another library's of that name."""
    cls = type(value)
    module = MODEL_CLASSES.get(cls.__name__, "")
    return module != "" and cls.__module__.split(".")[0] == module.split(".")[0]


def _predicts_nothing(model):
    return hasattr(model, "steps") and not hasattr(model.steps[-1][1], "predict_topk")


def _is_of_sklearn(cls):
    return cls.__name__ in _sklearn.ATTRIBUTES and cls.__module__.split(".")[0] == "sklearn"


def _model_class(name):
    if name not in MODEL_CLASSES:
        raise ModelFormatError(
            f"skxmc {skxmc.__version__} knows no model of class {name!r}; a newer version may."
        )
    return getattr(import_module(MODEL_CLASSES[name]), name)


def _read_header(path):
    if not path.exists():
        raise FileNotFoundError(f"There is no model at {path}.")
    try:
        with open(path / _HEADER, encoding="utf-8") as file:
            header = json.load(file)
        is_model = header["format"] == FORMAT
        version = header["format_version"]
    except _arrays.NOT_DAMAGE:
        raise
    except Exception as error:
        raise ModelFormatError(
            f"{path} is not a model of skxmc, or it is damaged: its {_HEADER} cannot be read "
            f"({error})."
        ) from error
    if not is_model or not _is_size(version):
        raise ModelFormatError(f"{path} is not a model of skxmc: {_HEADER} does not say so.")
    if version > FORMAT_VERSION:
        raise ModelFormatError(
            f"The model {path} has format version {version}, written by skxmc "
            f"{header.get('skxmc_version')}; this is skxmc {skxmc.__version__}, which reads up to "
            f"version {FORMAT_VERSION}. Upgrade skxmc to load it."
        )
    return header


def _read_model_arrays(path, entries, compressed, mmap, verify):
    if compressed:
        found, _ = _arrays.read_arrays(path / _ARCHIVE)
    arrays = {}
    for name, entry in entries.items():
        if not _FILE_NAME.fullmatch(
            name
        ):  # a name such as "../x" must not lead out of the directory
            raise ModelFormatError(f"{name!r} is not the name of an array.")
        dtype, shape = entry["dtype"], entry["shape"]
        if np.dtype(dtype).kind not in "biufSU" or not all(_is_size(n) for n in shape):
            raise ModelFormatError(f"{name}: {dtype}{shape} is not an array of numbers.")
        if not compressed:
            array = _arrays.read_npy(path / f"{name}.npy", dtype, shape, mmap)
        else:
            array = found[name]
            if (array.dtype.str, list(array.shape)) != (dtype, shape):
                raise ModelFormatError(
                    f"{name}: {array.dtype.str}{array.shape}, not {dtype}{shape}."
                )
        if verify and _arrays.crc32(array) != entry["crc32"]:
            raise ModelFormatError(
                f"{name}: the data do not have the CRC-32 that they were saved with."
            )
        arrays[name] = array
    return arrays


def _check_target(path, overwrite):
    """Raise FileExistsError unless a model may be put at ``path``."""
    if not path.exists() and not path.is_symlink():
        return
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True to replace the model there.")
    try:
        if path.is_symlink():
            raise ModelFormatError("a symbolic link")
        with open(path / _HEADER, encoding="utf-8") as file:
            if json.load(file)["format"] != FORMAT:
                raise ModelFormatError("of another format")
    except Exception as error:
        raise FileExistsError(
            f"{path} exists and is not a model of skxmc ({error}); it is not replaced."
        ) from error


def _is_size(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _not_stored(where, value):
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if where == "model":
        return (
            f"save_model stores {', '.join(MODEL_CLASSES)}; got {kind}. Use joblib.dump for others."
        )
    hint = ""
    if isinstance(value, (np.random.RandomState, np.random.Generator)):
        hint = " Set it to an integer before saving: model.set_params(random_state=0)."
    return (
        f"{where} is of type {kind}, which is not stored: only None, bool, int, float, str, list, "
        "tuple, dict, NumPy arrays of numbers or strings, CSR and CSC arrays, and estimators of "
        f"skxmc are.{hint}"
    )
