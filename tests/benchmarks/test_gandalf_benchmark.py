"""The benchmark of Gandalf: families of names, its script on a tiny folder."""

import pytest


def test_families_stay_together(module):
    family = module("bench_gandalf").family
    assert family("libx-y-dev: one") == family("libx-y-doc: another")
    assert family("libx-y: one") != family("libx-z: one")
    assert isinstance(family(""), int)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--validate", "--tokens", "compounds")])
def test_script(run, text_folder, tmp_path, options):
    variants = ["no label text", "label texts alone, one-hot", "random walk 0.1"]
    if options:
        variants.pop(1)
    out, rows = run(
        *("bench_gandalf.py", "--data", text_folder, "--models", "ParabelTree", "--threads", "1"),
        *("--params", '{"n_trees": 1}', "--variants", *variants, *options),
        output=tmp_path / "results",
    )
    assert [row["variant"] for row in rows] == variants
    n_rows = [int(row["rows"]) for row in rows]
    assert n_rows[-1] == n_rows[0] + 15
    assert n_rows[1] == 15 or options
    assert (n_rows[0] == 80) == (not options)
    assert all(0 <= float(row["P@1"]) <= 100 for row in rows)
    for variant in variants:
        assert f"| {variant} " in out
