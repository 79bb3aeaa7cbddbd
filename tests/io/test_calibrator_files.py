"""Forged maps of calibrators and rules of decisions: refused when the model opens."""

import json

import numpy as np
import pytest

from skxmc import (
    DismecClassifier,
    IsotonicXMCCalibrator,
    MacroAtKPredictor,
    load_model,
    save_model,
)
from skxmc.datasets import make_xmc_classification
from skxmc.exceptions import ModelFormatError
from skxmc.io import _arrays

CHANGES = {
    "far out of range": lambda a: a * 0 + (10**9 if a.dtype.kind == "i" else np.inf),
    "negative or not a number": lambda a: a * 0 + (-(10**9) if a.dtype.kind == "i" else np.nan),
    "too short": lambda a: a[:-1],
    "other shape": lambda a: a[:, None],
    "other dtype": lambda a: a.astype(np.float32 if a.dtype.kind == "i" else "S8"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    data = make_xmc_classification(200, 60, 20, random_state=0)
    folder = tmp_path_factory.mktemp("saved")
    models = {
        "isotonic": IsotonicXMCCalibrator(DismecClassifier(), cv=2, random_state=0),
        "platt": IsotonicXMCCalibrator(DismecClassifier(), cv=2, method="platt", random_state=0),
        "macro": MacroAtKPredictor(
            DismecClassifier(), k=3, method="frank-wolfe", metric="macro_gmean", cv=2,
            random_state=0,
        ),
    }  # fmt: skip
    for name, model in models.items():
        save_model(model.fit(data.X, data.Y), folder / name)
    return folder


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("name", ["isotonic", "platt", "macro"])
def test_forged_arrays_are_refused(saved, tmp_path, name, what):
    header = json.loads((saved / name / "model.json").read_text())
    load_model(saved / name)
    wanted = "rank_maps.", "group_maps.", "_state.groups", "a_", "b_", "weight_", "_propensity"
    entries = [n for n in header["arrays"] if n.removeprefix("_state.").startswith(wanted)]
    entries += [n for n in header["arrays"] if n == "_state.groups"]
    assert entries
    for number, entry in enumerate(entries):
        path = tmp_path / str(number)
        path.mkdir()
        for file in (saved / name).iterdir():
            (path / file.name).write_bytes(file.read_bytes())
        array = np.ascontiguousarray(CHANGES[what](np.load(path / f"{entry}.npy")))
        np.save(path / f"{entry}.npy", array)
        forged = json.loads(json.dumps(header))
        forged["arrays"][entry] = {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "crc32": _arrays.crc32(array),
        }
        (path / "model.json").write_text(json.dumps(forged))
        if entry == "_state.groups" and "_state.group_maps.indptr" not in header["arrays"]:
            continue  # no map by group: their numbers are not used
        for mmap in (True, False):
            with pytest.raises(ModelFormatError):
                load_model(path, mmap=mmap)
