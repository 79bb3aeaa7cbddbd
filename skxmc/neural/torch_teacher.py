"""Yes or no as the next token of a causal language model."""

import os
from pathlib import Path

import numpy as np
import torch

# Ways to begin an answer. Of each the first token counts.
_YES = ("yes", " yes", "Yes", " Yes", "YES")
_NO = ("no", " no", "No", " No", "NO")


class YesOrNo:
    """A causal model of transformers and its tokens for yes and no.

    Parameters
    ----------
    model : path, or (tokenizer, torch.nn.Module)
    device : str or None

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ImportError
        If transformers is not installed.
    TypeError, ValueError
        If it is no causal model, or yes and no begin with the same token.
    """

    def __init__(self, model, device=None):
        self.device = torch.device("cpu" if device is None else device)
        if isinstance(model, (str, os.PathLike)):
            self.tokenizer, module = _load(Path(model))
        elif isinstance(model, (tuple, list)) and len(model) == 2:
            self.tokenizer, module = model
        else:
            raise TypeError(
                "model must be the path of a folder or a pair (tokenizer, module); got "
                f"{type(model).__name__}."
            )
        self.module = module.to(self.device).eval()
        yes, no = self._first_tokens(_YES), self._first_tokens(_NO)
        # A token that begins both, such as a space, decides nothing.
        self.yes, self.no = sorted(yes - no), sorted(no - yes)
        if not self.yes or not self.no:
            raise ValueError("The tokenizer has no tokens that tell yes from no.")

    def _first_tokens(self, words):
        ids = (self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words)
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        return {row[0] for row in ids if row and row[0] != unknown}

    def answers(self, prompt, texts, labels, batch_size, max_length):
        """P(yes) / (P(yes) + P(no)) of each question, float64 of shape (n,)."""
        rows = [self._question(prompt, *pair, max_length) for pair in zip(texts, labels)]
        out = np.zeros(len(rows))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            out[chosen] = self._relevance([rows[i] for i in chosen])
        return out

    def _question(self, prompt, text, label, max_length):
        """Token ids of a question; a long one loses the end of its text."""
        ids = self._tokens(prompt.format(text=text, label=label))
        while len(ids) > max_length and text:
            # Characters in proportion, at least one: a few rounds.
            n_kept = min(len(text) - 1, len(text) * max_length // (2 * len(ids)) + len(text) // 2)
            text = text[:n_kept]
            ids = self._tokens(prompt.format(text=text, label=label))
        return ids[-max_length:]

    def _tokens(self, question):
        if getattr(self.tokenizer, "chat_template", None):
            question = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            )
            return self.tokenizer(question, add_special_tokens=False)["input_ids"]
        return self.tokenizer(question)["input_ids"]

    def _relevance(self, rows):
        width = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):  # on the right: a causal model does not look there
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with torch.no_grad():
            answer = self.module(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        last = [len(row) - 1 for row in rows]
        logits = answer.logits[torch.arange(len(rows)), last].double().cpu()
        yes = torch.logsumexp(logits[:, self.yes], dim=1)
        no = torch.logsumexp(logits[:, self.no], dim=1)
        return torch.sigmoid(yes - no).numpy()


def _load(folder):
    if not folder.exists():
        raise FileNotFoundError(
            f"There is no folder {folder}. Models are not downloaded; model= takes the path of a "
            "local one."
        )
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ImportError(
            'A local language model needs transformers: pip install "skxmc[text]".'
        ) from error
    try:
        settings = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **settings)
        return tokenizer, AutoModelForCausalLM.from_pretrained(str(folder), **settings)
    except Exception as error:  # damaged files raise nearly anything
        raise ValueError(f"The model in {folder} cannot be loaded: {error}") from error
