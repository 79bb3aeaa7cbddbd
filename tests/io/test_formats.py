"""Model files of every format version that was released: they load, and answer what they did."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from skxmc import load_model
from skxmc.io._model import FORMAT_VERSION, MODEL_CLASSES

FORMATS = Path(__file__).parent / "formats"
TOOLS = Path(__file__).parents[2] / "tools"
FIXTURES = sorted(path.parent.relative_to(FORMATS) for path in FORMATS.glob("*/*/model.json"))


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))
    try:
        import make_format_fixture
    finally:
        sys.path.remove(str(TOOLS))
    return make_format_fixture


@pytest.mark.parametrize("fixture", FIXTURES, ids=str)
def test_files_of_all_versions_answer_as_when_they_were_made(tool, fixture):
    path = FORMATS / fixture
    header = json.loads((path / "model.json").read_text())
    assert f"v{header['format_version']}" == fixture.parts[0]
    expected = json.loads(path.with_name(f"{path.name}.expected.json").read_text())
    scores = np.array(expected["scores"], dtype=float)  # None becomes NaN
    for mmap in (True, False):
        found = tool.answer(load_model(path, mmap=mmap), tool.from_json(expected["rows"]))
        np.testing.assert_array_equal(found.labels, expected["labels"])
        np.testing.assert_allclose(
            np.where(np.isfinite(found.scores), found.scores, np.nan), scores, rtol=1e-4, atol=1e-5
        )


def test_every_version_and_class_has_a_fixture():
    versions = {f"v{number}" for number in range(1, FORMAT_VERSION + 1)}
    assert {fixture.parts[0] for fixture in FIXTURES} == versions
    text = "".join((FORMATS / fixture / "model.json").read_text() for fixture in FIXTURES)
    assert not [name for name in MODEL_CLASSES if f'"{name}"' not in text]
