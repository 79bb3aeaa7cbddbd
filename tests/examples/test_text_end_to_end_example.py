"""Texts to tags: what the example shows of training end to end."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "text_end_to_end.py"


@pytest.mark.slow
def test_encoder_and_sparse_layer_learn_together(capsys):
    models, evaluations = runpy.run_path(str(EXAMPLE))["main"](every=24, epochs=4)
    out = capsys.readouterr().out
    assert out.startswith("1,003 package descriptions to learn from, 261 to tag")
    assert list(models) == list(evaluations) == ["with the auxiliary head", "without it"]
    for name, model in models.items():
        losses = [epoch["loss"] for epoch in model.history_]
        assert len(losses) == 4
        assert losses[-1] < 0.8 * losses[0]
        # Always answering the most frequent tag gives 33 % at one, the five most frequent 25 % at
        # five.
        assert evaluations[name]["P@1"] > 0.45
        row = next(line for line in out.splitlines() if line.strip().startswith(name + " "))
        assert f"{100 * evaluations[name]['P@1']:.2f}" in row
    tags = re.findall(r"^ +-?\d+\.\d\d   (\S+::\S+)$", out, re.MULTILINE)
    assert len(tags) == len(set(tags)) == 5


def test_encoder_of_the_example_knows_its_words():
    tokenizer, module = runpy.run_path(str(EXAMPLE))["small_encoder"](
        ["a chess game", "a chess board", "the game board"] * 20, n_tokens=60
    )
    assert tokenizer.encode("A chess game").tokens == ["a", "chess", "game"]
    n_embeddings = module.get_input_embeddings().num_embeddings
    assert n_embeddings == tokenizer.get_vocab_size()
    assert np.isfinite(module.embeddings.word_embeddings.weight.detach().numpy()).all()
