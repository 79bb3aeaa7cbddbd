"""The one way in which skxmc compiles a kernel.

Numba's own on-disk cache keeps, for each function, one index file and numbered data files, written
one after the other without a lock. Two processes that compile two signatures of a function at the
same time can so leave an index entry that leads to the machine code of the *other* signature, and a
process killed between the two writes leaves an entry that leads to code of an older source.
Besides, an index is keyed by the file of the kernel alone: a kernel keeps the old code of a helper
that was changed in another file.

The cache of this module has no index and so needs no lock: one file for each function and
signature, which holds the full key, a checksum and the machine code, and is put in place by an
atomic rename. A reader takes a file whose key and checksum are right, or compiles. The directory is
found as Numba finds it (``NUMBA_CACHE_DIR``, else ``__pycache__`` beside the source, else a
directory of the user); without a writable one there is no cache, and no error.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import types
import uuid
import warnings

import llvmlite.ir as ir
import numba
import numpy as np
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, _Cache
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps

_MAGIC = b"skxmc-jit-1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
# Values that are told apart by their text.
_BY_REPR = (
    *(bool, int, float, complex, str, bytes, type(None)),
    *(np.generic, np.dtype, numba.types.Type),
)
_HEADER_SIZE = len(_MAGIC) + 2 * _DIGEST_SIZE


def jit(function=None, *, allocates=False, **options):
    """Compile a kernel lazily, without the GIL, with a cache on disk that processes may share.

    Parameters
    ----------
    function : callable, default=None
        The kernel. ``None`` where the decorator is called with options first.
    allocates : bool, default=False
        Whether the kernel makes or returns arrays. Only then does Numba count references: of each
        array that a kernel takes out of a tuple or hands to another one, with atomic operations on
        memory that all threads share, which took a third of the time of kernels that call small
        ones in their loops. A kernel that makes arrays without this does not compile.
    **options
        Options of :func:`numba.njit`. The defaults are ``nogil=True`` and ``cache=True``.

    Returns
    -------
    numba dispatcher, or a decorator where ``function`` is None
        With ``NUMBA_DISABLE_JIT=1`` the plain Python function.

    Notes
    -----
    The cached code of a kernel is used again as long as nothing that it is made of has changed:
    Numba, the processor, the files of the kernel and of the kernels that it calls, and the
    constants that it refers to.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.ops._jit import jit
    >>> @jit
    ... def total(values):
    ...     result = 0.0
    ...     for value in values:
    ...         result += value
    ...     return result
    >>> total(np.array([1.0, 2.0]))
    3.0
    """
    if function is None:
        return lambda f: jit(f, allocates=allocates, **options)
    cache = options.pop("cache", True)
    options.setdefault("nogil", True)
    options["_nrt"] = allocates
    dispatcher = numba.njit(function, **options)
    if not isinstance(dispatcher, Dispatcher):
        return dispatcher
    if cache:
        dispatcher._cache = _OverloadCache(dispatcher)
    _name_apart(function)
    return dispatcher


def _name_apart(function):
    """Give the kernels that a factory makes names of their own.

    Numba numbers functions in each process and makes their symbols of name and number. Machine code
    from the cache brings the symbols of the process that compiled it, and what is linked afterwards
    takes a symbol that is there already for its own. That is right for the kernels of a module,
    which the name stands for, but not for two of a factory, which may differ in what they close
    over.
    """
    if function.__closure__:
        try:
            token = hashlib.sha256("".join(_cell_fingerprints(function)).encode()).hexdigest()
        except Exception:  # closes over something that is made later, or cannot be pickled
            token = uuid.uuid4().hex
        function.__qualname__ = f"{function.__qualname__}_{token[:32]}"


class _OverloadCache(_Cache):
    """The compiled signatures of one function on disk: one self-describing file each."""

    def __init__(self, dispatcher):
        self._py_func = dispatcher.py_func
        self._options = _options_text(dispatcher.targetoptions)
        # Without the line number, so that an edit further up leaves no orphans.
        module = os.path.splitext(os.path.basename(self._py_func.__code__.co_filename))[0]
        qualname = self._py_func.__qualname__.replace("<", "").replace(">", "")
        self._file_prefix = f"{module}.{qualname}-"
        self._enabled = True

    @functools.cached_property
    def _impl(self):
        # Late, because it creates the directory: importing a kernel must not touch the disk.
        try:
            return CompileResultCacheImpl(self._py_func)
        except (RuntimeError, OSError):  # no source file, or no writable directory
            return None

    @functools.cached_property
    def _fingerprints(self):
        # Late, because a kernel may refer to names that its module defines further down.
        try:
            return fingerprint(self._py_func), _cell_fingerprints(self._py_func)
        except Exception:  # refers to something that cannot be pickled
            return None

    @property
    def cache_path(self):
        return None if self._impl is None else self._impl.locator.get_cache_path()

    def enable(self):
        self._enabled = True

    def disable(self):
        self._enabled = False

    def flush(self):
        """Delete the files of this function."""
        if self._impl is None:
            return
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.cache_path):
                if entry.name.startswith(self._file_prefix) and entry.name.endswith(".skxmc"):
                    os.unlink(entry.path)

    def load_overload(self, sig, target_context):
        target_context.refresh()
        path, key = self._locate(sig, target_context.codegen())
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            return None
        try:
            payload = _unpack(content, key)
            if payload is None:
                return None
            return self._impl.rebuild(target_context, pickle.loads(payload))
        except Exception as error:  # whatever a damaged file may lead to: the remedy is the same
            warnings.warn(
                f"The compilation cache {path} is damaged ({error}); it is deleted and the "
                "function compiled again.",
                RuntimeWarning,
                stacklevel=2,
            )
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None

    def save_overload(self, sig, data):
        path, key = self._locate(sig, data.codegen)
        if path is None or not self._impl.check_cachable(data):
            return
        payload = dumps(self._impl.reduce(data))
        with contextlib.suppress(OSError):  # a full or read-only disk costs the cache, not the fit
            self._impl.locator.ensure_cache_path()
            _replace_file(path, _pack(payload, key))

    def _locate(self, sig, codegen):
        """Return the path and the key of a signature, or (None, None) if it cannot be cached."""
        signature = repr(sig)
        # The type of a function argument is named by its address, which means nothing to another
        # process.
        if not self._enabled or " at 0x" in signature:
            return None, None
        if self._impl is None or self._fingerprints is None:
            return None, None
        source, cells = self._fingerprints
        # What may differ between processes that share a directory belongs into the name, what
        # changes with time only into the key: a file of an older source is overwritten.
        environment = (
            *(numba.__version__, sys.implementation.cache_tag, getattr(sys, "abiflags", "")),
            *(codegen.magic_tuple(), config.BOUNDSCHECK, str(config.OPT)),
        )
        variant = repr((signature, self._options, environment, cells))
        name = f"{self._file_prefix}{hashlib.sha256(variant.encode()).hexdigest()[:20]}.skxmc"
        key = hashlib.sha256((variant + source).encode()).digest()
        return os.path.join(self.cache_path, name), key


def _pack(payload, key):
    return _MAGIC + key + hashlib.sha256(key + payload).digest() + payload


def _unpack(content, key):
    """Return the payload, or None if the file has another key; raise ValueError if damaged."""
    if len(content) < _HEADER_SIZE or not content.startswith(_MAGIC):
        raise ValueError("not a complete file of this format")
    stored_key = content[len(_MAGIC) : len(_MAGIC) + _DIGEST_SIZE]
    checksum = content[len(_MAGIC) + _DIGEST_SIZE : _HEADER_SIZE]
    payload = content[_HEADER_SIZE:]
    if hashlib.sha256(stored_key + payload).digest() != checksum:
        raise ValueError("wrong checksum")
    return payload if stored_key == key else None


def _replace_file(path, content):
    """Write a file so that other processes see the old content or the new one, never a part."""
    temporary = f"{path}.{uuid.uuid4().hex[:16]}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def fingerprint(function):
    """Return a text that changes with anything the machine code of ``function`` is made of.

    It covers the source file and byte code of the function, the constants it refers to, and the
    same of every kernel that it calls, however far away.
    """
    hasher = hashlib.sha256()
    _describe_function(function, hasher, seen=set())
    return hasher.hexdigest()


def _cell_fingerprints(function):
    """Return a fingerprint of each closure variable: what tells a factory's kernels apart."""
    result = []
    for cell in function.__closure__ or ():
        hasher = hashlib.sha256()
        _describe_value(cell.cell_contents, function, hasher, seen={id(function)})
        result.append(hasher.hexdigest())
    return result


def _describe_function(function, hasher, seen):
    if id(function) in seen:
        return
    seen.add(id(function))
    code = function.__code__
    name = f"{function.__module__}.{function.__qualname__}"
    hasher.update(f"{name}:{_file_digest(code.co_filename)}".encode())
    hasher.update(code.co_code)
    for name in sorted(_names_of(code)):
        if name in function.__globals__:
            hasher.update(f"{name}=".encode())
            _describe_value(function.__globals__[name], function, hasher, seen)
    for cell in function.__closure__ or ():
        hasher.update(b"cell=")
        _describe_value(cell.cell_contents, function, hasher, seen)


def _describe_value(value, function, hasher, seen):
    if isinstance(value, Dispatcher):
        hasher.update(_options_text(value.targetoptions).encode())
        _describe_function(value.py_func, hasher, seen)
    elif isinstance(value, types.FunctionType) and _same_package(value.__module__, function):
        _describe_function(value, hasher, seen)
    elif isinstance(value, types.ModuleType) and _same_package(value.__name__, function):
        # `module.helper(...)`: the helper is not looked up, its whole file counts.
        hasher.update(_file_digest(getattr(value, "__file__", None)).encode())
    elif isinstance(value, types.ModuleType):
        hasher.update(value.__name__.encode())
    elif type(value).__name__ == "_Intrinsic":
        _describe_function(value._defn, hasher, seen)
    elif isinstance(value, (set, frozenset)):
        hasher.update(repr(sorted(map(repr, value))).encode())
    elif isinstance(value, np.ndarray):
        hasher.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, tuple):
        hasher.update(f"tuple of {len(value)}".encode())
        for item in value:
            _describe_value(item, function, hasher, seen)
    elif isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, np.ufunc)):
        module = getattr(value, "__module__", "")
        hasher.update(f"{module}.{getattr(value, '__qualname__', value.__name__)}".encode())
    elif isinstance(value, (ir.Type, ir.Constant)):
        hasher.update(str(value).encode())  # its pickle changes once it has been printed
    elif isinstance(value, _BY_REPR):
        hasher.update(f"{type(value).__name__}:{value!r}".encode())
    else:
        hasher.update(dumps(value))


def _same_package(module, function):
    return (module or "").split(".")[0] == (function.__module__ or "").split(".")[0]


def _names_of(code):
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_of(constant)
    return names


def _file_digest(path):
    try:
        status = os.stat(path)
    except (OSError, TypeError):  # no file: the byte code has to do
        return "no file"
    return _content_digest(path, status.st_mtime_ns, status.st_size)


@functools.cache
def _content_digest(path, mtime_ns, size):  # the time and size are there to renew the entry
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _options_text(options):
    """The options as a text that is the same in every process: a set has no order."""
    return repr(
        sorted((k, sorted(v) if isinstance(v, (set, frozenset)) else v) for k, v in options.items())
    )
