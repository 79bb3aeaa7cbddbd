"""A text encoder and a sparse layer in one training
=================================================

Train a text encoder and a sparse output layer together: texts in, tags out.

The encoder learns from the tags of the data, through an output layer in which each tag is connected
to a few features only. Early in the training, when these connections are still random, the sparse
layer tells the encoder little; an auxiliary head that predicts *clusters* of tags from all features
helps it then, and fades away (thesis 5.4). The example trains with and without it. On a few hundred
tags, as here, the two end close together: it is for sparser layers over more labels.

The encoder is a small transformer of random weights with a tokenizer made from the same texts, so
that nothing has to be downloaded. Any local Hugging Face or sentence-transformers folder is used in
its place when its path is given::

    python examples/text_end_to_end.py [model folder]

Needs the extra "text": pip install "skxmc[text]".
"""

import sys
import time

from skxmc import SparseDSTClassifier
from skxmc.datasets import load_debtags
from skxmc.metrics import evaluate_topk, format_evaluation

WIDTH = 128  # features of the encoder
FAN_IN = 16  # of these, each tag is connected to so many


# %%
def small_encoder(texts, n_tokens=6000, n_layers=1, seed=0):
    """Return a WordPiece tokenizer of these texts, and a transformer that knows nothing yet."""
    import tokenizers
    import torch
    import transformers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=n_tokens, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # two of them wait for each other longer than so small a module takes
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=32,  # the first words of a description say most
    )
    return tokenizer, transformers.BertModel(config)


# %%
def main(folder=None, every=24, epochs=6):
    """Train on each `every`-th document; return the evaluations."""
    data = load_debtags()
    texts, Y = data.train_texts[::every], data.Y_train[::every]
    test_texts, Y_test = data.test_texts[::every], data.Y_test[::every]
    print(
        f"{len(texts):,} package descriptions to learn from, {len(test_texts):,} to tag with "
        f"{Y.shape[1]} tags"
    )
    encoder = small_encoder(texts) if folder is None else folder

    models, evaluations = {}, {}
    for name, auxiliary in (("with the auxiliary head", 0.4), ("without it", 0.0)):
        model = SparseDSTClassifier(
            encoder=encoder,
            fan_in=FAN_IN,
            auxiliary=auxiliary,
            auxiliary_epochs=max(1, epochs // 2),
            # A trained encoder is only to be adjusted; one that knows nothing has all to learn.
            front_learning_rate=3e-3 if folder is None else 5e-5,
            epochs=epochs,
            batch_size=64,
            dropout=0.1,
            random_state=0,
        )
        start = time.perf_counter()
        model.fit(texts, Y)
        print(f"{name}: trained in {time.perf_counter() - start:.0f} s")
        answers = model.predict_topk(test_texts, k=5)
        models[name], evaluations[name] = model, evaluate_topk(Y_test, answers)

    print()
    print(format_evaluation(evaluations, ["P", "nDCG", "coverage"]))
    losses = {name: [epoch["loss"] for epoch in m.history_] for name, m in models.items()}
    print("\nloss of the sparse layer, by epoch:")
    for name, values in losses.items():
        print(f"  {name:<24}" + " ".join(f"{value:6.2f}" for value in values))

    print("\nA new text:")
    text = "Simple chess game for the terminal, written in Python"
    answer = models["with the auxiliary head"].predict_topk([text], k=5)
    print(f"  {text}")
    for label, score in zip(answer.labels[0], answer.scores[0], strict=True):
        print(f"    {score:6.2f}   {data.label_names[label]}")
    return models, evaluations


# %%
def draw(models):
    """Draw the loss of the sparse layer by epoch."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, model in models.items():
        losses = [epoch["loss"] for epoch in model.history_]
        axes.plot(range(1, len(losses) + 1), losses, "o-", label=name)
    axes.set(xlabel="epoch", ylabel="loss of the sparse layer")
    axes.legend()
    plt.show()


# %%
if __name__ == "__main__":
    draw(main(sys.argv[1] if len(sys.argv) > 1 else None)[0])
