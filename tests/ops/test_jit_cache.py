"""The compilation cache: several processes at once, kills, damage, changed sources."""

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import llvmlite.ir as ir
import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

from skxmc.ops import _jit
from skxmc.ops._jit import jit

ROOT = Path(__file__).parents[2]

HELPERS = """
from skxmc.ops._jit import jit

FACTOR = 2.0

@jit
def scale(value):
    return value * FACTOR
"""

KERNELS = """
import numpy as np
from jit_cache_helpers import scale
from skxmc.ops._jit import jit

@jit
def scaled_sum(values):
    result = values.dtype.type(0)
    for value in values:
        result += value
    return scale(result)

@jit
def largest(values):
    result = values[0]
    for value in values:
        if value > result:
            result = value
    return result

def make_power(exponent):
    @jit(allocates=True)
    def power(values):
        result = np.empty(len(values))
        for i in range(len(values)):
            result[i] = values[i] ** exponent
        return result
    return power

square, cube = make_power(2), make_power(3)
"""

WORKER = """
import json, os, sys, time
from pathlib import Path
import numpy as np
import jit_cache_kernels as kernels

def arrays():
    for dtype in ("float32", "int64"):
        values = np.arange(1, 6).astype(dtype)
        yield values
    values = np.arange(1, 6).astype("float32")
    values.flags.writeable = False
    yield values

shift, go = int(sys.argv[1]), Path(sys.argv[2])
calls = [(name, values) for name in ("scaled_sum", "largest", "square", "cube")
         for values in arrays()]
calls = calls[shift % len(calls):] + calls[:shift % len(calls)]
print("ready", flush=True)
while not go.exists():
    time.sleep(0.005)
results = [
    (name, str(values.dtype), np.asarray(getattr(kernels, name)(values)).tolist())
    for name, values in calls
]
functions = [kernels.scaled_sum, kernels.largest, kernels.square, kernels.cube]
print(json.dumps({
    "results": results,
    "hits": sum(sum(f.stats.cache_hits.values()) for f in functions),
    "misses": sum(sum(f.stats.cache_misses.values()) for f in functions),
    "path": functions[0].stats.cache_path,
}))
"""

EXPECTED = {
    "scaled_sum": 30.0,
    "largest": 5,
    "square": [1, 4, 9, 16, 25],
    "cube": [1, 8, 27, 64, 125],
}
N_CALLS = 12


@pytest.fixture
def project(tmp_path):
    """Kernels in two files of their own, so that their cache starts empty."""
    for name, text in (("helpers", HELPERS), ("kernels", KERNELS), ("worker", WORKER)):
        (tmp_path / f"jit_cache_{name}.py").write_text(textwrap.dedent(text))
    return tmp_path


def start_worker(project, shift=0, go=None, **environment):
    go = go or Path(__file__)
    return subprocess.Popen(
        [sys.executable, str(project / "jit_cache_worker.py"), str(shift), str(go)],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{project}",
            "NUMBA_CACHE_DIR": str(project / "cache"),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(worker):
    out, err = worker.communicate(timeout=120)
    assert worker.returncode == 0, err
    report = json.loads(out.splitlines()[-1])
    assert len(report["results"]) == N_CALLS
    for name, dtype, value in report["results"]:
        assert value == EXPECTED[name], (name, dtype)
    return report


@pytest.fixture
def load_kernels(project, monkeypatch):
    """Return a function that imports the kernels afresh: new dispatchers, as in a new process."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(project / "cache"))

    def load():
        for name in ("jit_cache_helpers", "jit_cache_kernels"):
            spec = importlib.util.spec_from_file_location(name, project / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, module)
            # Not through the loader: its byte code cache has a resolution of seconds.
            exec(compile((project / f"{name}.py").read_text(), spec.origin, "exec"), vars(module))
        return module

    return load


def cache_files(project):
    return sorted((project / "cache").rglob("*.skxmc"))


def check_processes_at_once(project, n_processes, rotation):
    go = project / "go"
    # Each starts with another function and signature.
    workers = [start_worker(project, shift=rotation * i, go=go) for i in range(n_processes)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.communicate()
    go.touch()
    for worker in workers:
        finish(worker)
    report = finish(start_worker(project))
    assert (report["hits"], report["misses"]) == (N_CALLS, 0)
    # One file for each signature, `scale` included where it was called, and no temporary file.
    assert len(cache_files(project)) >= N_CALLS
    assert [p for p in (project / "cache").rglob("*") if p.is_file() and p.suffix != ".skxmc"] == []
    assert Path(report["path"]).is_relative_to(project / "cache")


def test_processes_that_compile_at_once_leave_a_right_cache(project):
    check_processes_at_once(project, n_processes=3, rotation=4)


@pytest.mark.slow
@pytest.mark.parametrize("rotation", [0, 1, 2, 5])
def test_many_processes_that_compile_at_once_leave_a_right_cache(project, rotation):
    check_processes_at_once(project, n_processes=6, rotation=rotation)


def test_killed_writer_blocks_nobody_and_leaves_nothing_wrong(project):
    (project / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import os, signal
            replace = os.replace
            calls = []
            def killing_replace(source, target):
                if str(target).endswith(".skxmc"):
                    calls.append(target)
                    if len(calls) == 4:
                        os.kill(os.getpid(), signal.SIGKILL)
                replace(source, target)
            os.replace = killing_replace
            """
        )
    )
    worker = start_worker(project)
    worker.communicate(timeout=120)
    assert worker.returncode == -signal.SIGKILL
    assert len(cache_files(project)) == 3
    (project / "sitecustomize.py").unlink()
    report = finish(start_worker(project))
    assert report["hits"] + report["misses"] == N_CALLS
    assert report["hits"] > 0


def test_no_writable_directory_means_no_cache(project):
    (project / "__pycache__").write_text("in the way")
    nowhere = os.path.join(os.devnull, "nowhere")
    report = finish(
        start_worker(
            project,
            NUMBA_CACHE_DIR=nowhere,
            HOME=nowhere,
            XDG_CACHE_HOME=nowhere,
            LOCALAPPDATA=nowhere,
        )
    )
    assert report["path"] is None
    assert report["misses"] == N_CALLS


def damage_by_truncation(content):
    return content[: len(content) // 2]


def damage_one_bit(content):
    position = len(content) - 100
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [damage_by_truncation, damage_one_bit, lambda content: b"", lambda content: content[:20]],
    ids=["half", "one bit", "empty", "header cut"],
)
def test_damaged_file_is_compiled_again(project, load_kernels, damage):
    values = np.arange(1, 6).astype(np.float32)
    assert load_kernels().scaled_sum(values) == 30
    files = cache_files(project)
    assert files
    for path in files:
        path.write_bytes(damage(path.read_bytes()))
    kernels = load_kernels()
    with pytest.warns(RuntimeWarning, match="is damaged"):
        assert kernels.scaled_sum(values) == 30
    healed = load_kernels().scaled_sum
    assert healed(values) == 30
    assert sum(healed.stats.cache_hits.values()) == 1


def test_checksum_covers_every_byte():
    payload, key = bytes(range(256)) * 2, bytes(32)
    content = _jit._pack(payload, key)
    assert _jit._unpack(content, key) == payload
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            with pytest.raises(ValueError):
                _jit._unpack(bytes(damaged), key)


def test_intact_file_with_another_key_is_not_used(project, load_kernels):
    values = np.arange(1, 6).astype(np.float32)
    kernels = load_kernels()
    kernels.square(values)
    (path,) = cache_files(project)
    kernels.cube(values)
    (other,) = set(cache_files(project)) - {path}
    path.write_bytes(other.read_bytes())
    np.testing.assert_array_equal(load_kernels().square(values), EXPECTED["square"])


@pytest.mark.parametrize(
    ("old", "new"),
    [("FACTOR = 2.0", "FACTOR = 5.0"), ("value * FACTOR", "value * FACTOR * 2.5")],
    ids=["constant", "code"],
)
def test_change_in_a_called_kernel_of_another_file_is_seen(project, load_kernels, old, new):
    values = np.arange(1, 6).astype(np.float32)
    assert load_kernels().scaled_sum(values) == 30
    helpers = project / "jit_cache_helpers.py"
    helpers.write_text(helpers.read_text().replace(old, new))
    changed = load_kernels().scaled_sum
    assert changed(values) == 75
    assert sum(changed.stats.cache_misses.values()) == 1


def test_kernels_of_a_factory_are_told_apart(tmp_path, monkeypatch):
    """Same file, name, signature and byte code; only what they close over differs."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    @jit
    def plus(a, b):
        return a + b

    @jit
    def minus(a, b):
        return a - b

    def make(kind, function):
        @jit
        def kernel(x):
            return function(kind(x), kind(3))

        return kernel

    def make_sum(values):
        @jit
        def kernel(i):
            return values[i]

        return kernel

    expected = {(np.float32, plus): 4.1, (np.int64, plus): 4, (np.int64, minus): -2}
    for _ in range(2):  # compiled, then from the cache
        for (kind, function), value in expected.items():
            assert make(kind, function)(1.1) == pytest.approx(value, abs=1e-6)
        for values in ((1, 2), (1, 3), np.array([5, 6]), np.array([5.0, 6.5])):
            assert make_sum(values)(1) == values[1]
    hit = make(np.int64, minus)
    hit(1.1)
    assert sum(hit.stats.cache_hits.values()) == 1


FACTORY = """
import math
import sys
from skxmc.ops._jit import jit

def make(factor, cache):
    @jit(cache=cache)
    def inner(x):  # too long to become a part of its callers
        if x > 100.0:
            for i in range(int(x)):
                x += math.tan(x) * math.log(x + i) * math.cosh(x - i) + math.erf(x) ** i
                x += math.tanh(x) * math.gamma(x + i) * math.sinh(x - i) + math.acos(x) ** i
                x += math.atan2(x, i) * math.expm1(x + i) * math.erf(x - i) + math.asin(x) ** i
        return factor * x

    @jit(cache=cache)
    def outer(x):
        return inner(x) + inner(x + 1.0) + inner(x + 2.0)

    return inner, outer

if sys.argv[1] == "first":
    make(1.0, True)[0](1.0)
else:
    inner, outer = make(10.0, False)
    inner(1.0)
    cached = make(1.0, True)[0]
    cached(1.0)
    assert sum(cached.stats.cache_hits.values()) == 1
    print(outer(1.0))
"""


def test_kernels_of_a_factory_keep_their_code_beside_cached_ones_of_it(tmp_path):
    """The second process gives the number to its kernel that the first gave to the cached one."""
    path = tmp_path / "jit_cache_factory.py"
    path.write_text(FACTORY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path / "c")}
    for turn in ("first", "second"):
        done = subprocess.run(
            [sys.executable, str(path), turn],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    assert float(done.stdout) == 60.0


def test_bounds_checking_does_not_share_code(project, load_kernels, monkeypatch):
    values = np.arange(1, 6).astype(np.float32)
    load_kernels().largest(values)
    monkeypatch.setattr(numba.config, "BOUNDSCHECK", 1)
    with pytest.raises(IndexError):
        load_kernels().largest(values[:0])


def test_disk_error_on_writing_costs_only_the_cache(project, load_kernels, monkeypatch):
    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_jit.os, "replace", full_disk)
    assert load_kernels().largest(np.arange(3)) == 2
    assert [p for p in (project / "cache").rglob("*") if p.is_file()] == []


def test_flush_deletes_the_files_of_one_function(project, load_kernels):
    values = np.arange(1, 6).astype(np.float32)
    kernels = load_kernels()
    kernels.largest(values)
    kernels.square(values)
    n_files = len(cache_files(project))
    kernels.largest._cache.flush()
    assert len(cache_files(project)) == n_files - 1
    fresh = load_kernels()
    fresh.square(values)
    assert sum(fresh.square.stats.cache_hits.values()) == 1


def test_function_arguments_are_compiled_but_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    @jit(cache=False)
    def double(x):
        return 2 * x

    @jit
    def apply(function, x):
        return function(x)

    assert apply(double, 4) == 8
    assert list(tmp_path.rglob("*.skxmc")) == []


def test_references_are_counted_only_where_a_kernel_allocates():
    @jit(cache=False, no_cpython_wrapper=True)
    def add(values, others, i):
        return values[i] + others[i]

    def total(values):
        result = 0.0
        for i in range(len(values)):
            result += add(values, values, i)
        return result

    def total_of_copy(values):
        copy = np.empty(len(values))
        copy[:] = values
        return total_kernel(copy)

    total_kernel = jit(total, cache=False)
    values = np.arange(4.0)
    assert total_kernel(values) == 12.0
    assert jit(total_of_copy, allocates=True, cache=False)(values) == 12.0
    (code,) = total_kernel.inspect_llvm().values()
    assert "NRT_incref" not in code
    assert "NRT_decref" not in code
    with pytest.raises(TypingError):
        jit(total_of_copy, cache=False)(values)


def test_options_pass_through():
    @jit(cache=False, nogil=False, fastmath=True)
    def f(x):
        return x + 1

    assert f.targetoptions["fastmath"] is True
    assert f.targetoptions["nogil"] is False
    assert jit(f.py_func).targetoptions["nogil"] is True


SOLVE_ONE_LABEL = """
import numpy as np
from skxmc.ops.linear_solver import prepare, solve

rows = prepare(np.arange(5), np.zeros(4, np.int32), np.ones(4, np.float32), 1)
solve(rows, np.array([0, 1]), np.array([2]))
"""


def test_kernels_of_the_package_are_found_whatever_the_hash_seed(tmp_path):
    # fastmath options are sets and the lane kernel is an intrinsic: neither has an order or an
    # address that is the same in every process
    files = []
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", SOLVE_ONE_LABEL],
            check=True,
            cwd=ROOT,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": seed},
        )
        files.append({f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.skxmc")})
    assert files[0]
    assert files[1] == files[0]


def test_types_of_intermediate_code_count_by_their_text():
    def digest(value):
        hasher = hashlib.sha256()
        _jit._describe_value(value, digest, hasher, seen=set())
        return hasher.hexdigest()

    vector = ir.VectorType(ir.IntType(32), 16)
    before = digest(vector)
    assert str(vector) == "<16 x i32>"  # which changes what pickle makes of it
    assert digest(vector) == before
    assert digest(ir.VectorType(ir.IntType(32), 8)) != before
    assert digest(ir.Constant(ir.IntType(32), 1)) != digest(ir.Constant(ir.IntType(32), 2))
