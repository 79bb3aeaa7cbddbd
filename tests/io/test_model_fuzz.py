"""The fuzzer of model files, shortly: ``tools/fuzz_models.py`` runs it for long."""

import random
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))
    try:
        import fuzz_models

        yield fuzz_models
    finally:
        sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def corpus(tool):
    return tool.make_corpus()


@LINUX
@pytest.mark.slow
def test_damaged_models_are_refused_or_answer(tool, corpus):
    outcomes, found = tool.fuzz(2000, seed=1, corpus=corpus)
    assert found == []
    assert outcomes["refused"] > 1000
    assert outcomes["answers"] > 200


@LINUX
@pytest.mark.slow
def test_what_is_not_allowed_is_found(tool, corpus, monkeypatch):
    """Crashes, other exceptions, forbidden files and hangs are findings, each with its number."""
    kinds = {}

    def bad(number, seed, corpus, folder):
        import os
        import time

        kind = kinds[number]
        if kind == "crash":
            os.kill(os.getpid(), 11)
        if kind == "hang":
            time.sleep(60)
        if kind == "open":
            with tool.watched("/nowhere"), open("/etc/hostname", "rb"):
                pass
        if kind == "error":
            raise tool.Finding("KeyError")
        return "refused"

    def safe(*args):
        try:
            return bad(*args)
        except RuntimeError as error:
            raise tool.Finding(str(error)) from error

    kinds.update({0: "fine", 1: "crash", 2: "fine", 3: "error", 4: "open", 5: "hang", 6: "fine"})
    monkeypatch.setattr(tool, "try_one", safe)
    monkeypatch.setattr(tool, "TIME_LIMIT", 2)
    outcomes, found = tool.fuzz(7, seed=0, corpus=corpus)
    assert [number for number, _ in sorted(found)] == [1, 3, 4, 5]
    assert outcomes["refused"] == 3


@LINUX
def test_a_mutation_is_the_same_again(tool):
    files = {"model.json": b'{"model": {"a": 1}, "arrays": {}}', "x.npy": bytes(200)}
    for number in range(60):
        seen = []
        for _ in range(2):
            mine = dict(files)
            try:
                how = tool.mutate(mine, random.Random(number))
            except IndexError:  # no array to change
                how = None
            seen.append((how, mine))
        assert seen[0] == seen[1]
