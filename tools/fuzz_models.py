"""Damage model files in every way and look at what loads them: ``python tools/fuzz_models.py``.

A mutation of a small model of some class is loaded and asked. Allowed is that it answers, with
labels in range and no NaN, or that it is refused with `ModelFormatError` (`FileNotFoundError` where
nothing is left, and the documented `ValueError` of scores that are not numbers where a weight of a
mapped model became huge or infinite).
All else is a finding: another exception, a crash, a hang, memory over a limit, a file opened
outside of the model, anything unpickled or executed. Mutation ``i`` of a seed is always the same::

    python tools/fuzz_models.py --mutations 100000 --seed 0
    python tools/fuzz_models.py --seed 0 --only 4711      # one, with its traceback

The mutations run in a child process, so that a crash ends that and no more.
"""

import argparse
import collections
import contextlib
import copy
import faulthandler
import gc
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

#: Seconds and bytes of address space for a mutation.
TIME_LIMIT, MEMORY_LIMIT = 20, 3 << 30

VALUES = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 12, 13, 255, 2**31 - 1, 2**31, 2**32, 2**63, 10**30),
    *(0.0, -0.5, 1e308, float("nan"), float("inf"), "", "x", "0", "eval", "os.system", "\0"),
    *("../../etc/passwd", "/etc/passwd", "C:\\x", "a/b", "coef_", "|O", "<f4", "<f8", ">f4", "<i8"),
    *("<u8", "<U9", "|S900000000", "<U900000000", "V8", "M8[s]", "<c8", "f4,i4", "ParabelTree"),
    *("Pipeline", "FrozenEstimator", "filename", "dict", "tuple", "array", "sparse", "strings"),
    *([], {}, [[]], [1, 2], [-1], [2**40], [2**62, 2], [0], [1, 0], {"$type": "tuple"}),
    *({"$type": "dict", "items": [[[], 1]]}, {"$type": "scalar", "dtype": "<i8", "value": 3}),
    *({"$type": "float", "value": "nan"}, {"$type": "float", "value": "x" * 100}, "9" * 5000),
    *({"$type": "dtype", "value": "|O"}, {"$type": "estimator", "class": "DismecClassifier"}),
]
NUMBERS = [0, 1, -1, 2, 5, 12, 127, 255, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, -(2**63)]


# ---------------------------------------------------------------------------- mutations


def mutate(files, rng):
    """Change the files of a model, a dict of bytes; return in words how."""
    kinds = [
        _bytes,
        _bytes,
        _cut,
        _swap,
        _edit_json,
        _edit_json,
        _edit_json,
        _array,
        _array,
        _array,
    ]
    return rng.choice(kinds)(files, rng)


def _bytes(files, rng):
    name = rng.choice(sorted(files))
    content = bytearray(files[name])
    places = []
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        if content:
            places.append(rng.randrange(len(content)))
            text = rng.random() < 0.5
            content[places[-1]] = (
                rng.choice(b'0123456789[]{}",:-.e ') if text else rng.randrange(256)
            )
    files[name] = bytes(content)
    return f"bytes {places} of {name}"


def _cut(files, rng):
    name = rng.choice(sorted(files))
    content = files[name]
    how = rng.choice(["cut", "empty", "delete", "more", "gap", "twice"])
    at = rng.randrange(len(content) + 1)
    files[name] = {
        "cut": content[:at],
        "empty": b"",
        "delete": None,
        "more": content + rng.randbytes(rng.randrange(1, 99)),
        "gap": content[:at] + content[at + rng.randrange(1, 99) :],
        "twice": content + content,
    }[how]
    return f"{how} {name} at {at}"


def _swap(files, rng):
    a, b = rng.choice(sorted(files)), rng.choice(sorted(files))
    files[a], files[b] = files[b], files[a]
    return f"swap {a} and {b}"


def _places(node, out):
    """All (container, key) of a JSON value."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        out.append((node, key))
        if isinstance(value, (dict, list)):
            _places(value, out)
    return out


def _edit_json(files, rng):
    header = json.loads(files["model.json"])
    done = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        # half of them in the model, which the list of arrays would hide
        part = header["model"] if rng.random() < 0.6 and "model" in header else header
        if not isinstance(part, (dict, list)) or not part:
            break
        places = _places(part, [])
        node, key = rng.choice(places)
        how = rng.choice(["value", "value", "value", "delete", "copy", "rename", "add", "deep"])
        if how == "value":
            node[key] = _near(node[key], rng)
        elif how == "delete":
            del node[key]
        elif how == "copy":
            other, its = rng.choice(places)
            node[key] = copy.deepcopy(other[its])
        elif how == "rename" and isinstance(node, dict):
            node[rng.choice([str(v) for v in VALUES])] = node.pop(key)
        elif how == "add":
            value = copy.deepcopy(rng.choice(VALUES))
            if isinstance(node, dict):
                node[rng.choice(["evil", "__class__", "../x", "a\0", "coef_", "n_jobs", ""])] = (
                    value
                )
            else:
                node.insert(rng.randrange(len(node) + 1), value)
        elif how == "deep":
            value = node[key]
            for _ in range(rng.choice([5, 500, 900])):
                value = [value]
            node[key] = value
        done.append(f"{how} {key!r}")
    text = json.dumps(header)
    if rng.random() < 0.05:  # keys twice
        text = text.replace('"format"', '"format": 3, "format"', 1).replace(
            '"model":', '"model": 3, "model":', 1
        )
        done.append("keys twice")
    elif rng.random() < 0.02:
        depth = rng.choice([1000, 100_000])
        text = text[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}"
        done.append("deep text")
    files["model.json"] = text.encode()
    return "json: " + ", ".join(done)


def _near(value, rng):
    """Another value: any, or one that is close to what was there."""
    if isinstance(value, bool) or rng.random() < 0.5:
        return copy.deepcopy(rng.choice(VALUES))
    if isinstance(value, int):
        return rng.choice([value + 1, value - 1, -value, value * 2, value * 10**6, float(value)])
    if isinstance(value, float):
        return rng.choice([-value, value * 1e30, value + 1, float("nan")])
    if isinstance(value, str) and value:
        at = rng.randrange(len(value))
        return rng.choice([value[:at], value + "x", value.upper(), value[at:] + value[:at]])
    return copy.deepcopy(rng.choice(VALUES))


def _array(files, rng):
    """Change an array and give it the checksum of what it is now."""
    header = json.loads(files["model.json"])
    name = rng.choice(sorted(header["arrays"]))
    if "arrays.npz" in files:
        with np.load(io.BytesIO(files["arrays.npz"])) as archive:
            arrays = dict(archive)
    else:
        arrays = {name: np.load(io.BytesIO(files[f"{name}.npy"]))}
    array, how = _changed(arrays[name], rng)
    arrays[name] = array
    header["arrays"][name] = {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "crc32": zlib.crc32(np.ascontiguousarray(array).tobytes()) if array.size else 0,
    }
    content = io.BytesIO()
    if "arrays.npz" in files:
        np.savez_compressed(content, **arrays)
        files["arrays.npz"] = content.getvalue()
    else:
        np.lib.format.write_array(content, array)
        files[f"{name}.npy"] = content.getvalue()
    files["model.json"] = json.dumps(header).encode()
    return f"array {name}: {how}"


def _changed(array, rng):
    how = rng.choice(["put"] * 6 + ["all", "reverse", "drop", "more", "dtype", "shape", "shift"])
    array = array.copy()
    flat = array.reshape(-1)
    if how in ("put", "all", "shift") and array.dtype.kind in "iufb" and flat.size:
        if array.dtype.kind == "f":
            floats = [np.nan, np.inf, -np.inf, 1e30, -1e30, 0, -1, 3e38, 1e-40]
            value = np.float64(rng.choice(floats)).astype(array.dtype)
        elif array.dtype.kind == "b":
            value = rng.random() < 0.5
        else:
            value = np.array(rng.choice(NUMBERS) % 2**64, dtype=np.uint64).astype(array.dtype)
        with np.errstate(all="ignore"):
            if how == "shift" and array.dtype.kind != "b":
                flat[rng.randrange(flat.size) :] += value
            elif how == "all":
                flat[:] = value
            else:
                for _ in range(rng.choice([1, 1, 3])):
                    flat[rng.randrange(flat.size)] = value
        return array, f"{how} {value}"
    if how == "reverse":
        return np.ascontiguousarray(array[::-1]) if array.ndim else array, how
    if how == "drop" and array.ndim and len(array):
        return array[:-1], how
    if how == "more" and array.ndim and len(array):
        return np.concatenate([array, array[-1:]]), how
    if how == "dtype" and array.dtype.kind in "iufb":
        dtype = rng.choice(["<f8", "<f4", "<i8", "<i4", "|u1", ">i4", "<u8", "|b1", "<f2", "|S3"])
        with np.errstate(all="ignore"):
            return array.astype(dtype), f"dtype {dtype}"
    if how == "shape":
        return array.reshape(rng.choice([(-1, 1), (1, -1), (-1,)])), how
    return array, "nothing"


# ---------------------------------------------------------------------------- one of them


class Finding(Exception):
    """What is not allowed."""


def try_one(number, seed, corpus, folder, verbose=False):
    """Return what became of a mutation: "answers", "refused", "overflow"; or raise Finding."""
    from make_format_fixture import answer

    from skxmc.exceptions import ModelFormatError
    from skxmc.io import _model, load_model

    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(sorted(corpus))
    files, rows, options = dict(corpus[name][0]), corpus[name][1], corpus[name][2]
    try:
        how = mutate(files, rng)
    except RecursionError:  # nested too deep to be written
        return "not made"
    mmap = rng.random() < 0.6
    as_large = rng.random() < 0.5  # not asked when it opens
    if verbose:
        print(name, how, f"mmap={mmap}", f"as_large={as_large}")
    path = Path(folder) / f"{number}"
    path.mkdir()
    try:
        for file, content in files.items():
            if content is not None:
                (path / file).write_bytes(content)
        try:
            with watched(path), opened_as_large(_model, as_large):
                model = load_model(path, mmap=mmap)
                for part in (rows, rows[:1]):
                    check_answers(model, *answer(model, part))
                check_proba(model.predict_proba(rows) if options else None)
        except ModelFormatError:
            return "refused"
        except FileNotFoundError as error:
            if files.get("model.json") is None and not any(files.values()):
                return "refused"
            raise Finding(f"{name}: {how}: {error!r}") from error
        except ValueError as error:
            if "exceed float32" in str(error) or "weights are not finite" in str(error):
                return "overflow"
            width = getattr(model, "n_features_in_", None)
            if f"is expecting {width} features" in str(error) or "string to float" in str(error):
                return "answers"  # a sound model of other rows
            raise Finding(f"{name}: {how}: {error!r}") from error
        except Exception as error:
            raise Finding(f"{name}: {how}: {error!r}") from error
        return "answers"
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def opened_as_large(module, as_large):
    """Neural models open as those of a gigabyte do: what does not fit shows at the first row."""
    before = module._SMALL
    module._SMALL = -1 if as_large else before
    try:
        yield
    finally:
        module._SMALL = before


def check_answers(model, labels, scores):
    """Refuse labels out of range and scores that are NaN."""
    n_labels = len((model[-1] if hasattr(model, "steps") else model).classes_)
    if labels.size and not -1 <= labels.min() <= labels.max() < max(n_labels, 1):
        raise RuntimeError(f"labels from {labels.min()} to {labels.max()} of {n_labels}")
    if np.isnan(scores).any():
        raise RuntimeError("scores that are NaN")


def check_proba(proba):
    """Refuse probabilities that are NaN."""
    values = getattr(proba, "data", proba)
    if proba is not None and np.isnan(np.asarray(values)).any():
        raise RuntimeError("probabilities that are NaN")


_WATCH = {"path": None, "seen": None}
_FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


class watched:
    """Notes what a model file has opened or executed; raises RuntimeError at its end."""

    def __init__(self, path):
        self.path = str(path)

    def __enter__(self):
        _WATCH.update(path=self.path, seen=None)

    def __exit__(self, *_):
        seen = _WATCH["seen"]
        _WATCH.update(path=None, seen=None)
        if seen is not None:
            raise RuntimeError(f"a model file led to {seen}")


def _from_numba(frame):
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("numba."):
            return True
        frame = frame.f_back
    return False


def _audit(event, args):
    if _WATCH["path"] is None:
        return
    if event == "pickle.find_class" and _from_numba(sys._getframe(1)):
        return  # the cache of compiled kernels
    if event in _FORBIDDEN:
        _WATCH["seen"] = (event, str(args))
    elif event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(args[0]))
        allowed = (_WATCH["path"], str(ROOT), sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev")
        if not path.startswith(allowed):
            _WATCH["seen"] = (event, path)


# ---------------------------------------------------------------------------- processes


def make_corpus(names=None):
    """Small models of each class and form: {name: (files, rows, has probabilities)}."""
    from make_format_fixture import FORMS, answer, models

    from skxmc.io import load_model, save_model

    corpus = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, model, rows, forms in models():
            if names is not None and name not in names:
                continue
            for form in forms:
                path = Path(folder) / f"{name}-{form}"
                try:
                    save_model(model, path, **FORMS[form])
                except ValueError:  # without weights of its own
                    continue
                for mmap in (True, False):  # so that the kernels are there before the forks
                    loaded = load_model(path, mmap=mmap)
                    for part in (rows, rows[:1]):
                        answer(loaded, part)
                    if hasattr(loaded, "predict_proba"):
                        loaded.predict_proba(rows)
                files = {file.name: file.read_bytes() for file in path.iterdir()}
                corpus[path.name] = files, rows, hasattr(model, "predict_proba")
    return corpus


def _child(first, last, seed, corpus, counter, counts, findings, folder):
    faulthandler.enable()
    warnings.simplefilter("ignore")
    sys.addaudithook(_audit)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_LIMIT, resource.RLIM_INFINITY))
    for number in range(first, last):
        counter.value = number
        try:
            counts.put(try_one(number, seed, corpus, folder))
        except Finding as finding:
            findings.put((number, str(finding)[:500]))
        if number % 500 == 0:
            gc.collect()
    counter.value = last


def fuzz(mutations, seed, corpus=None, *, first=0, progress=None):
    """Run mutations; return how many came to what end, and the findings as (number, text)."""
    corpus = make_corpus() if corpus is None else corpus
    context = multiprocessing.get_context("fork")  # with the corpus and the compiled kernels
    outcomes, found = collections.Counter(), []
    begin, end = first, first + mutations
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as tmp:
        while begin < end:
            counter = context.Value("q", begin)
            # Written to at once: what is in a buffer would be lost with the process.
            counts, findings = context.SimpleQueue(), context.SimpleQueue()
            child = context.Process(
                target=_child, args=(begin, end, seed, corpus, counter, counts, findings, tmp)
            )
            child.start()
            seen, since = begin, time.monotonic()
            while child.is_alive():
                child.join(0.2)
                _drain(counts, outcomes.update, one=True)
                _drain(findings, found.append)
                if counter.value != seen:
                    seen, since = counter.value, time.monotonic()
                    if progress:
                        progress(seen, found)
                elif time.monotonic() - since > TIME_LIMIT:
                    os.kill(child.pid, signal.SIGKILL)
                    child.join()
                    found.append((seen, f"no end after {TIME_LIMIT} seconds"))
                    break
            _drain(counts, outcomes.update, one=True)
            _drain(findings, found.append)
            begin = counter.value
            if begin < end:
                if not any(number == begin for number, _ in found):
                    found.append((begin, f"the process ended with {child.exitcode}"))
                begin += 1
    outcomes["findings"] = len(found)
    return outcomes, found


def _drain(queue, take, one=False):
    while not queue.empty():
        value = queue.get()
        take([value] if one else value)


def main():
    """Fuzz, and say what was found; the exit status is 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--only", type=int, help="run this mutation in this process")
    arguments = parser.parse_args()
    corpus = make_corpus()
    if arguments.only is not None:
        sys.addaudithook(_audit)
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(try_one(arguments.only, arguments.seed, corpus, folder, verbose=True))
            except Finding:
                traceback.print_exc()
        return 0
    started = time.perf_counter()
    shown, last = [], [0.0]

    def progress(number, found):
        # At once: a run takes long.
        for one, text in found[len(shown) :]:
            shown.append(one)
            print(f"{one}: {text}", flush=True)
        if time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            done = f"{number - arguments.first:,} done, {len(found)} findings"
            print(done, file=sys.stderr, flush=True)

    outcomes, found = fuzz(
        arguments.mutations, arguments.seed, corpus, first=arguments.first, progress=progress
    )
    progress(arguments.first + arguments.mutations, found)
    seconds = time.perf_counter() - started
    print(f"{arguments.mutations:,} mutations of {len(corpus)} models in {seconds:.0f} s: ", end="")
    print(", ".join(f"{count:,} {name}" for name, count in sorted(outcomes.items())))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
