"""Where the command line writes to, and how answers look there."""

import contextlib
import json
import os
import re
import sys
import uuid
from pathlib import Path

from skxmc._cli._errors import usage_error
from skxmc.exceptions import MemoryLimitError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", re.IGNORECASE)


def parse_size(text):
    """Bytes of a size such as "4GB" (10**9), "512MiB" (2**20) or "100000"."""
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    unit = match and match.group(2).upper()
    if not match or unit == "I":
        raise usage_error(f"A size is a number with a unit, such as 4GB or 512MiB; got {text!r}.")
    size = int(float(match.group(1)) * {**_UNITS, **_BINARY}[unit])
    if size < 1:
        raise usage_error(f"A size must be at least one byte; got {text!r}.")
    return size


def resident_bytes():
    """Memory of this process that is in use, beside mapped files; None where it is unknown."""
    try:
        with open("/proc/self/statm") as file:
            _, resident, shared = map(int, file.read().split()[:3])
    except (OSError, ValueError):
        return None
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def check_memory(limit, what):
    """Raise MemoryLimitError if this process is over the limit."""
    used = resident_bytes()
    if limit is not None and used is not None and used > limit:
        raise MemoryLimitError(
            f"{what}: {used / 1e6:,.0f} MB are in use, over --memory-limit {limit / 1e6:,.0f} MB."
        )


@contextlib.contextmanager
def open_output(path):
    """A text stream; a file appears under its name only when it is complete."""
    if path == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as stream:
            yield stream
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_answers(stream, answers, store, form, first_row, ids):
    """Write a line for each row.

    ``tsv``: name and score of the best label, of the second, and so on, between tabs.
    ``jsonl``: ``{"row": 0, "id": ..., "labels": [...], "scores": [...]}``.
    """
    lines = []
    for i, (labels, scores) in enumerate(zip(answers.labels.tolist(), answers.scores.tolist())):
        names = [store.name(label) for label in labels if label >= 0]
        scores = [float(f"{score:.6g}") for score in scores[: len(names)]]
        if form == "jsonl":
            row = {"row": first_row + i}
            if ids is not None:
                row["id"] = ids[i]
            lines.append(json.dumps({**row, "labels": names, "scores": scores}, ensure_ascii=False))
        else:
            cells = zip(map(_cell, names), scores)
            lines.append("\t".join(f"{name}\t{score:g}" for name, score in cells))
    stream.write("".join(f"{line}\n" for line in lines))


def _cell(name):
    """A name without the characters that end a cell."""
    return re.sub(r"[\t\r\n]", " ", name)
