"""The benchmark of UniDEC: its hold-out, its script on a tiny folder."""

import itertools

import pytest

NAMES = ["".join(letters) for letters in itertools.product("kmnprstvwz", "aeiou", "lnrs")]


def test_siblings_are_held_out_together(module):
    group = module("bench_unidec")._group
    out = [group(name + ": a text", 5) for name in NAMES]
    assert 20 < sum(out) < 60  # of 200
    for name, expected in zip(NAMES, out, strict=True):
        assert group(f"lib{name}-dev: another text", 5) == expected
        assert group(f"{name}2.0: a third one", 5) == expected
    assert isinstance(group("", 5), bool)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--held-out", "4")])
def test_script(run, text_folder, tmp_path, options):
    out, rows = run(
        *("bench_unidec.py", "--data", text_folder, "--threads", "1"),
        *("--params", '{"epochs": 2, "dimension": 8, "cluster_from": 1, "batch_size": 16}'),
        *("--models", "unidec", "DePSL", "Gandalf", *options),
        output=tmp_path / "results",
    )
    methods = [row["method"] for row in rows]
    assert methods == [
        *(f"unidec / {half}" for half in ("both", "encoder", "classifier")),
        "DePSL / encoder",
        *(f"Gandalf / {half}" for half in ("both", "encoder", "classifier")),
    ]
    assert all(0 <= float(row["P@1"]) <= 100 for row in rows)
    assert ("held-out training rows" in out) == bool(options)
