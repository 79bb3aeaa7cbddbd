"""Text encoders: where they come from, tokenising, hidden states and pooling."""

import contextlib
import copy
import inspect
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from skxmc.neural._text import CHARACTERS_PER_TOKEN, TokenRows, WindowRows

POOLINGS = ("auto", "mean", "cls", "max", "none")
LONG_TEXTS = ("truncate", "windows")

# The part of a window that the next one begins with.
_OVERLAP = 0.25

_DEFAULT_LENGTH = 128
_TOKENISE_ROWS = 4096  # texts tokenised together: bounds the lists of Python ints
# The pooling of a sentence-transformers folder, in the words of its file.
_SENTENCE_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


class Encoder(NamedTuple):
    """A tokenizer and a module, and what is known of them.

    Attributes
    ----------
    tokenizer : callable, transformers tokenizer or tokenizers.Tokenizer
    module : torch.nn.Module
        Called with ids and mask, int64 tensors of shape (n_rows, n_tokens).
    pooling : {"mean", "cls", "max", "none"}
    max_length : int
        Tokens of a text, special ones included; the rest is cut off.
    pad_id : int
    n_tokens : int, or None
        Size of the vocabulary; None if the module does not tell.
    windows : bool
        Whether longer texts are cut into windows instead.
    """

    tokenizer: Any
    module: torch.nn.Module
    pooling: str
    max_length: int
    pad_id: int
    n_tokens: int | None
    windows: bool = False


def load_encoder(encoder, *, pooling="auto", max_length=None, long_texts="truncate", weights=True):
    """Return the `Encoder` that an ``encoder=`` parameter stands for.

    Parameters
    ----------
    encoder : path, or (tokenizer, torch.nn.Module)
        Folder of a Hugging Face or sentence-transformers model, read without any network access
        and without running code from the folder; or a pair, of which the module is copied.
    pooling : {"auto", "mean", "cls", "max", "none"}, default="auto"
        "auto": as a sentence-transformers folder says, else "mean".
    max_length : int, default=None
        None: 128, or what the model allows if that is less.
    long_texts : {"truncate", "windows"}, default="truncate"
        Whether longer texts are cut off, or into windows that overlap by a quarter.
    weights : bool, default=True
        False: a folder's module is on torch's meta device, which allocates nothing.

    Returns
    -------
    Encoder

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ImportError
        If a folder is given and transformers is not installed.
    TypeError, ValueError
        If it is no encoder, or parameters are out of range, or the folder cannot be loaded.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}.")
    if long_texts not in LONG_TEXTS:
        raise ValueError(f"long_texts must be one of {LONG_TEXTS}, got {long_texts!r}.")
    if isinstance(encoder, (str, os.PathLike)):
        folder = Path(encoder)
        tokenizer, module = _load_folder(folder, weights)
        pooling = _folder_pooling(folder) if pooling == "auto" else pooling
    else:
        tokenizer, module = _check_pair(encoder)
        module = copy.deepcopy(module)
        pooling = "mean" if pooling == "auto" else pooling
    module = _trim(module)
    limit = min(_tokenizer_limit(tokenizer), _position_limit(module))
    max_length = _check_length(max_length, limit)
    if hasattr(tokenizer, "encode_batch"):
        tokenizer = copy.deepcopy(tokenizer)  # its settings are changed
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length, stride=_overlap(tokenizer, max_length))
    windows = long_texts == "windows"
    if windows and hasattr(tokenizer, "model_max_length") and not tokenizer.is_fast:
        raise ValueError(
            'long_texts="windows" needs a fast tokenizer of transformers, or one of tokenizers.'
        )
    return Encoder(
        tokenizer, module, pooling, max_length, _pad_id(tokenizer), _n_tokens(module), windows
    )


def _load_folder(folder, weights):
    if not folder.exists():
        raise FileNotFoundError(
            f"There is no folder {folder}. Models are not downloaded; encoder= takes the path of "
            "a local one."
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no folder of a Hugging Face model: it has no config.json.")
    try:
        from transformers import AutoConfig, AutoModel, AutoTokenizer
    except ImportError as error:
        raise ImportError(
            'A model folder as encoder needs transformers: pip install "skxmc[text]".'
        ) from error
    try:
        with _no_progress_bar():
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            if weights:
                module = AutoModel.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
            else:
                config = AutoConfig.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
                with torch.device("meta"):
                    module = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # damaged files raise nearly anything
        raise ValueError(f"The model in {folder} cannot be loaded: {error}") from error
    return tokenizer, module


def _trim(module):
    """Return a model of transformers without the parts that are not used here."""
    if not is_transformer(module):
        return module
    if getattr(module.config, "is_encoder_decoder", False) and hasattr(module, "get_encoder"):
        module = module.get_encoder()
    if "add_pooling_layer" in inspect.signature(type(module).__init__).parameters:
        module.pooler = None  # BERT's own pooling layer
    if hasattr(module.config, "use_cache"):
        module.config.use_cache = False  # of generation
    return module


@contextlib.contextmanager
def _no_progress_bar():
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _folder_pooling(folder):
    file = folder / "1_Pooling" / "config.json"
    if file.is_file():
        settings = json.loads(file.read_text(encoding="utf-8"))
        modes = [name for name, on in settings.items() if name.startswith("pooling_mode") and on]
        if len(modes) == 1 and modes[0] in _SENTENCE_POOLINGS:
            return _SENTENCE_POOLINGS[modes[0]]
        raise ValueError(
            f"{file} asks for {modes or 'no pooling'}; pass one of {POOLINGS[1:-1]} as pooling."
        )
    return "mean"


def _check_pair(encoder):
    pair = isinstance(encoder, (tuple, list)) and len(encoder) == 2
    if not pair:
        raise TypeError(
            "encoder must be the path of a model folder, a pair (tokenizer, torch.nn.Module), or "
            "an object with n_outputs, forward, backward, step, state, load_state and transform; "
            f"got {type(encoder).__name__}."
        )
    tokenizer, module = encoder
    if not (callable(tokenizer) or hasattr(tokenizer, "encode_batch")):
        raise TypeError(
            "The first of the pair has to be a tokenizer: a callable from a list of str to lists "
            f"of token ids; got {type(tokenizer).__name__}."
        )
    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"The second of the pair has to be a torch.nn.Module, got {type(module).__name__}."
        )
    return tokenizer, module


def _tokenizer_limit(tokenizer):
    return getattr(tokenizer, "model_max_length", None) or np.inf  # 10^30 where it is not known


def _position_limit(module):
    """Return how many tokens the position embeddings allow."""
    for name, child in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(child, torch.nn.Embedding):
            # RoBERTa counts positions from the one after its padding index.
            offset = 0 if child.padding_idx is None else child.padding_idx + 1
            return child.num_embeddings - offset
    return np.inf


def _check_length(max_length, limit):
    if max_length is None:
        return int(min(_DEFAULT_LENGTH, limit))
    if isinstance(max_length, bool) or not isinstance(max_length, (int, np.integer)):
        raise TypeError(f"max_length must be an int or None, got {max_length!r}.")
    if not 1 <= max_length <= limit:
        upper = "" if limit == np.inf else f" and at most {int(limit)}, what the model allows"
        raise ValueError(f"max_length must be at least 1{upper}; got {max_length}.")
    return int(max_length)


def _overlap(tokenizer, max_length):
    """Return how many tokens of a window the next one begins with, special ones not counted."""
    special = getattr(tokenizer, "num_special_tokens_to_add", lambda pair: 0)(False)
    return int(_OVERLAP * max(max_length - special, 0))


def _pad_id(tokenizer):
    # What stands under the mask has no influence, but has to be in the vocabulary.
    return getattr(tokenizer, "pad_token_id", None) or 0


def _n_tokens(module):
    embeddings = getattr(module, "get_input_embeddings", None)
    table = embeddings() if embeddings is not None else None
    return getattr(table, "num_embeddings", None)


def tokenise(encoder, texts):
    """Return the token ids of texts.

    Parameters
    ----------
    encoder : Encoder
    texts : list of str

    Returns
    -------
    TokenRows, or WindowRows if the encoder cuts long texts into windows

    Raises
    ------
    TypeError, ValueError
        If a callable returns something else than one sequence of int a text, or ids that the
        module has no embedding for.

    Notes
    -----
    A text longer than 1,000 characters per token of ``max_length`` is cut before it is tokenised,
    so the cost is bounded: about 10 microseconds a token with the tokenizers of transformers.
    """
    limit = CHARACTERS_PER_TOKEN * encoder.max_length
    parts, counts = [], []
    for start in range(0, len(texts), _TOKENISE_ROWS):
        block = [text[:limit] for text in texts[start : start + _TOKENISE_ROWS]]
        if encoder.windows:
            lists, n_windows = _token_windows(encoder, block)
            counts.append(n_windows)
            first = np.repeat(np.arange(start, start + len(block)), n_windows)
            parts.append(_check_ids(lists, len(lists), encoder, first))
        else:
            rows = np.arange(start, start + len(block))
            parts.append(_check_ids(_token_ids(encoder, block), len(block), encoder, rows))
    rows = _joined(parts)
    if not encoder.windows:
        return rows
    return WindowRows(rows, np.concatenate([[0], *counts]).cumsum())


def _joined(parts):
    if not parts:
        return TokenRows.from_lists([])
    lengths = np.concatenate([part.lengths for part in parts])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return TokenRows(np.concatenate([part.ids for part in parts]), indptr)


def _token_ids(encoder, texts):
    tokenizer, max_length = encoder.tokenizer, encoder.max_length
    if hasattr(tokenizer, "encode_batch"):  # of tokenizers; truncation is set
        return [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    if hasattr(tokenizer, "model_max_length"):  # of transformers
        return tokenizer(
            texts,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
    return [row[:max_length] for row in _called(tokenizer, texts)]


def _called(tokenizer, texts):
    answer = tokenizer(texts)
    rows = answer["input_ids"] if isinstance(answer, Mapping) else answer
    if len(rows) != len(texts):
        raise ValueError(f"The tokenizer returned {len(rows)} rows for {len(texts)} texts.")
    return rows


def _token_windows(encoder, texts):
    """Return the token ids of all windows, and how many each text has."""
    tokenizer, max_length = encoder.tokenizer, encoder.max_length
    if hasattr(tokenizer, "encode_batch"):
        texts = [[one, *one.overflowing] for one in tokenizer.encode_batch(texts)]
        lists = [window.ids for windows in texts for window in windows]
        return lists, [len(windows) for windows in texts]
    if hasattr(tokenizer, "model_max_length"):
        answer = tokenizer(
            texts,
            truncation=True,
            max_length=max_length,
            stride=_overlap(tokenizer, max_length),
            return_overflowing_tokens=True,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        text_of = np.asarray(answer["overflow_to_sample_mapping"], dtype=np.int64)
        return answer["input_ids"], np.bincount(text_of, minlength=len(texts))
    step = max_length - _overlap(tokenizer, max_length)
    lists, counts = [], []
    for row in _called(tokenizer, texts):
        starts = range(0, max(len(row) - max_length, 0) + step, step)
        lists.extend(row[start : start + max_length] for start in starts)
        counts.append(len(starts))
    return lists, counts


def _check_ids(lists, n_rows, encoder, row_of):
    """Rows of token ids; ``row_of``: the number of the text of each, for messages."""
    if len(lists) != n_rows:
        raise ValueError(f"The tokenizer returned {len(lists)} rows for {n_rows} texts.")
    for row, ids in enumerate(lists):
        kind = np.asarray(ids).dtype.kind if len(ids) else "i"
        if kind not in "iu":
            raise TypeError(
                f"The tokenizer returned something else than ints for row {row_of[row]}: "
                f"{ids[:3]!r}."
            )
    rows = TokenRows.from_lists(lists)
    upper = encoder.n_tokens if encoder.n_tokens is not None else np.inf
    wrong = np.flatnonzero((rows.ids < 0) | (rows.ids >= upper))
    if len(wrong):
        row = row_of[int(np.searchsorted(rows.indptr, wrong[0], side="right")) - 1]
        raise ValueError(
            f"Row {row} has token id {rows.ids[wrong[0]]}, but the module has embeddings for 0 to "
            f"{upper - 1}: tokenizer and module do not belong together."
        )
    return rows


def hidden_states(module, ids, mask):
    """Return what the module makes of a rectangle of tokens, a tensor.

    A module of transformers is called with keywords, any other as ``module(ids, mask)``; the answer
    is a tensor, or has it as ``last_hidden_state`` or as its first entry.
    """
    if is_transformer(module):
        answer = module(input_ids=ids, attention_mask=mask)
    else:
        answer = module(ids, mask)
    answer = getattr(answer, "last_hidden_state", answer)
    return answer[0] if isinstance(answer, tuple) else answer


def pool(hidden, mask, pooling):
    """Return one float32 vector a row.

    Parameters
    ----------
    hidden : tensor of shape (n_rows, n_tokens, width), or (n_rows, width) if `pooling` is "none"
    mask : int tensor of shape (n_rows, n_tokens)
        Each row has a token.
    pooling : {"mean", "cls", "max", "none"}
        Mean or maximum over the tokens, the first token, or nothing: the module has done it.

    Returns
    -------
    float32 tensor of shape (n_rows, width)
    """
    n_dimensions = 2 if pooling == "none" else 3
    if hidden.ndim != n_dimensions or len(hidden) != len(mask):
        raise ValueError(
            f"The module returned shape {tuple(hidden.shape)} for {len(mask)} rows of "
            f'{mask.shape[1]} tokens; with pooling="{pooling}" it has to be '
            + ("(n_rows, width)." if n_dimensions == 2 else "(n_rows, n_tokens, width).")
        )
    hidden = hidden.float()
    if pooling == "none":
        return hidden
    if pooling == "cls":
        return hidden[:, 0]
    present = mask.bool().unsqueeze(2)
    if pooling == "max":
        return hidden.masked_fill(~present, -torch.inf).amax(dim=1)
    # Not a product with the mask: what stands under it may be infinite.
    return hidden.masked_fill(~present, 0.0).sum(dim=1) / present.sum(dim=1)


def mean_of_windows(features, indptr):
    """Return the mean of the features of the windows of each text.

    Parameters
    ----------
    features : float32 tensor of shape (n_windows, width)
    indptr : int64 ndarray of shape (n_texts + 1,)

    Returns
    -------
    float32 tensor of shape (n_texts, width)
    """
    counts = torch.from_numpy(np.diff(indptr)).to(features.device)
    text_of = torch.repeat_interleave(counts)
    sums = torch.zeros(len(counts), features.shape[1], device=features.device)
    return sums.index_add(0, text_of, features) / counts[:, None]


def is_transformer(module):
    """Return whether a module is a model of transformers."""
    return hasattr(module, "config") and hasattr(module, "get_input_embeddings")


def checkpoint_layers(module, on=True):
    """Make a model of transformers compute each layer's activations again in backward.

    Parameters
    ----------
    module : torch.nn.Module
    on : bool, default=True
        False: keep them again.

    Returns
    -------
    bool
        False if the module has no such setting: it is then left as it is.
    """
    if not (is_transformer(module) and getattr(module, "supports_gradient_checkpointing", False)):
        return False
    # The second names are those of transformers 4.
    if on:
        enable = getattr(module, "activation_checkpointing_enable", None)
        (enable or module.gradient_checkpointing_enable)({"use_reentrant": False})
        module.disable_input_require_grads()  # a hook that only the reentrant kind needs
    else:
        disable = getattr(module, "activation_checkpointing_disable", None)
        (disable or module.gradient_checkpointing_disable)()
    return True


def checkpointed(module, ids, mask):
    """Return `hidden_states`, of which nothing is kept but the tokens."""
    return checkpoint(hidden_states, module, ids, mask, use_reentrant=False)


def to_files(encoder):
    """Return the files that describe an encoder of transformers, its weights aside.

    Returns
    -------
    dict of str to uint8 ndarray
        Name and content.
    """
    tokenizer, module = encoder.tokenizer, encoder.module
    if not (is_transformer(module) and hasattr(tokenizer, "save_pretrained")):
        raise TypeError(
            "A pair of a tokenizer and a module can be stored by pickle or joblib only, unless "
            "both are of transformers; or store the parameters, front.state(), and make the pair "
            "anew."
        )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        module.config.save_pretrained(folder)
        return {
            file.name: np.frombuffer(file.read_bytes(), dtype=np.uint8)
            for file in sorted(Path(folder).iterdir())
            if file.is_file()
        }


def from_files(files):
    """Return tokenizer and module of such files; the module has random weights."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            if Path(name).name != name:
                raise ValueError(f"{name!r} is not the name of a file.")
            Path(folder, name).write_bytes(np.asarray(content, dtype=np.uint8).tobytes())
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):
            return tokenizer, AutoModel.from_config(config, trust_remote_code=False)
