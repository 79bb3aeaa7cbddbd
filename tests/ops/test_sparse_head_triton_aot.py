"""The Triton kernels compile for sm_80 and sm_90 without a GPU, and fit into the registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is an optional dependency")

ROOT = Path(__file__).resolve().parents[2]

# Threads that a multiprocessor of an A100 or H100 can hold have 65,536 registers between them: with
# 128 each, 16 of its 64 warps have room, enough to hide the latency of loads.
MAX_REGISTERS = 128


def compile_kernels(*options):
    # In a process of its own: this one may have Triton as an interpreter.
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "compile_triton.py", "--json", *options],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(results):
    for result in results:
        assert result["spill_bytes"] == 0, result
        assert 0 < result["registers"] <= MAX_REGISTERS, result
        words = result["configuration"].split()
        if {"bf16", "tf32"} & set(words):  # on tensor cores
            assert result["products"] in ("mma", "wgmma"), result
        else:
            assert result["products"] == "fma", result


@pytest.mark.parametrize("sm", [80, 90])
def test_each_kernel_compiles_without_spills(sm):
    results = compile_kernels("--quick", "--sm", str(sm))
    check(results)
    kernels = {result["configuration"].split()[0] for result in results}
    sources = (ROOT / "skxmc" / "ops" / "sparse_head").glob("triton_*.py")
    launched = {
        line.split('"')[1]
        for source in sources
        if source.name == "triton_launch.py"
        for line in source.read_text().splitlines()
        if line.startswith('    "') and '": ' in line
    }
    assert kernels == launched  # every kernel that the backend launches


@pytest.mark.slow
def test_all_configurations_compile_without_spills():
    results = compile_kernels()
    check(results)
    assert {result["sm"] for result in results} == {80, 90}


def test_rooflines_follow_from_the_shapes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import compile_triton as tool

    n, slots = 1000, 1000 * tool.FAN_IN
    scores = tool.work("fixed_scores", n, "float8")
    margins, features = n * tool.COLUMNS * 4, tool.INPUTS * tool.COLUMNS * 4
    # a byte of weight, two of index for each slot; margins, bias, features once
    assert scores.n_bytes == 3 * slots + margins + 4 * n + features
    assert scores.flops == 2 * slots * tool.COLUMNS
    assert scores.gathered == 4 * slots * tool.COLUMNS
    # a group fetches its inputs once, in half the bytes
    grouped = tool.work("grouped_scores", n, "float8")
    assert grouped.gathered == scores.gathered / tool.GROUP / 2
    # momentum: read and written, as are the weights
    plain, momentum = (tool.work("fixed_update", n, "float32", o) for o in ("sgd", "momentum"))
    assert momentum.n_bytes - plain.n_bytes == 8 * slots
    slow = tool.Work("", 3.35e12, 2 * 67e12, 0, "float32")
    assert (slow.seconds, slow.bound, slow.intensity) == (2, "arithmetic", 40)
    assert slow._replace(flops=1e12).bound == "memory"


def test_the_page_shows_the_rooflines_that_the_tool_prints():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "compile_triton.py", "--roofline"],
        capture_output=True,
        text=True,
        check=True,
    )
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    assert done.stdout.strip() in page
