"""The data sets that the package carries.

One file a data set, ``data/<name>.tsv.xz``, UTF-8, one document a line in four fields::

    train | test < TAB > id < TAB > label, label, ... < TAB > text

The columns of Y are the sorted label names. Origin and licences: ``data/README.md``.
"""

import lzma
from importlib.resources import files

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import Bunch


def load_debtags(*, return_tfidf=False):
    """Load Debian package descriptions with their tags.

    24,050 training and 6,243 test documents, 567 tags such as ``uitoolkit::gtk``, 3.7 tags a
    document. Packages built from one source are on one side of the split. It is the data set of the
    demo: real, small enough for a laptop, and with a long tail (82 tags have one to four training
    documents).

    Parameters
    ----------
    return_tfidf : bool, default=False
        Whether to compute ``X_train`` and ``X_test`` as well (2 s).

    Returns
    -------
    data : Bunch
        ``train_texts``, ``test_texts`` : lists of str, short and long description;
        ``train_ids``, ``test_ids`` : lists of str, the packages' names;
        ``Y_train`` : csr_array of shape (24050, 567), ``Y_test`` : (6243, 567), dtype uint8;
        ``label_names`` : ndarray of str of shape (567,), the columns of Y;
        ``label_texts`` : list of str, the names in words;
        ``DESCR`` : str.
        With `return_tfidf` also ``X_train``, ``X_test`` : csr_array float32 of width 26,316, tf-idf
        with sublinear tf, terms of at least two training documents, rows of unit length; and
        ``feature_names`` : ndarray of str.

    Notes
    -----
    Source: the package index of Debian 12 (bookworm, main), fields Description and Tag; licence
    terms in ``skxmc/datasets/data/README.md``. Cost: about 0.4 s and 40 MB.

    Examples
    --------
    >>> from skxmc.datasets import load_debtags
    >>> data = load_debtags()
    >>> data.Y_train.shape, len(data.train_texts)
    ((24050, 567), 24050)
    >>> data.train_ids[0], data.train_texts[0][:29]
    ('0ad', 'Real-time strategy game of an')
    >>> print(*data.label_names[data.Y_train[[0]].indices][:3])
    game::strategy interface::graphical interface::x11
    """
    data = _load("debtags", _DEBTAGS)
    data.label_texts = [name.replace("::", ": ").replace("-", " ") for name in data.label_names]
    return _add_tfidf(data, min_df=2) if return_tfidf else data


def load_emoji(*, return_tfidf=False):
    """Load emoji and symbol names with their search keywords: a tiny data set with many labels.

    1,569 training and 384 test names, 3,498 keywords, 5.5 keywords a name, 2.6 training names a
    keyword. Its use is in examples and tests.

    Parameters
    ----------
    return_tfidf : bool, default=False
        Whether to compute ``X_train`` and ``X_test`` as well.

    Returns
    -------
    data : Bunch
        ``train_texts``, ``test_texts`` : lists of str, the English names;
        ``train_ids``, ``test_ids`` : lists of str, the characters;
        ``Y_train`` : csr_array of shape (1569, 3498), ``Y_test`` : (384, 3498), dtype uint8;
        ``label_names`` : ndarray of str of shape (3498,), the columns of Y;
        ``label_texts`` : list of str, the same;
        ``DESCR`` : str.
        With `return_tfidf` also ``X_train``, ``X_test`` : csr_array float32 of width 1,412, tf-idf
        with sublinear tf, rows of unit length; and ``feature_names`` : ndarray of str.

    Notes
    -----
    Source: English annotations of Unicode CLDR 48.2, under the Unicode License v3, whose text lies
    beside the data. Cost: 10 ms and 1 MB.

    Examples
    --------
    >>> from skxmc.datasets import load_emoji
    >>> data = load_emoji()
    >>> data.Y_train.shape
    (1569, 3498)
    """
    data = _load("emoji", _EMOJI)
    data.label_texts = data.label_names.tolist()
    return _add_tfidf(data, min_df=1) if return_tfidf else data


_DEBTAGS = """\
Debian package description -> tags.
Source: package index of Debian 12 (bookworm, point release 12.15), section main, fields Package,
Description and Tag; split by the md5 of the source package's name.
Licence terms: skxmc/datasets/data/README.md.
"""

_EMOJI = """\
Emoji or symbol name -> search keywords.
Source: English annotations of the Unicode Common Locale Data Repository (CLDR) 48.2.
Licence: Unicode-3.0, skxmc/datasets/data/LICENSE-UNICODE.txt.
"""


def _load(name, description):
    packed = files("skxmc.datasets").joinpath("data", f"{name}.tsv.xz").read_bytes()
    # Split at \n only: a text may hold the other characters at which splitlines() cuts.
    lines = lzma.decompress(packed).decode("utf-8").split("\n")[:-1]
    splits, ids, labels, texts = zip(*(line.split("\t") for line in lines), strict=True)
    n_train = splits.count("train")

    labels = [row.split(",") if row else [] for row in labels]
    label_names = sorted({label for row in labels for label in row})
    column = {label: j for j, label in enumerate(label_names)}
    indptr = np.cumsum([0, *map(len, labels)], dtype=np.int32)
    indices = np.array([column[label] for row in labels for label in sorted(row)], dtype=np.int32)
    ones = np.ones(len(indices), dtype=np.uint8)
    Y = csr_array((ones, indices, indptr), shape=(len(lines), len(label_names)))
    return Bunch(
        train_texts=list(texts[:n_train]),
        Y_train=Y[:n_train],
        train_ids=list(ids[:n_train]),
        test_texts=list(texts[n_train:]),
        Y_test=Y[n_train:],
        test_ids=list(ids[n_train:]),
        label_names=np.array(label_names),
        DESCR=description,
    )


def _pack(folder, target):
    """Write a file as `_load` reads it from a folder in the layout of `load_folder`."""
    from skxmc.datasets._folder import load_folder

    data = load_folder(folder)
    lines = []
    for split in ("train", "test"):
        Y = data[f"Y_{split}"]
        parts = zip(data[f"{split}_ids"], data[f"{split}_texts"], strict=True)
        for i, (identifier, text) in enumerate(parts):
            labels = [data.labels[j] for j in Y.indices[Y.indptr[i] : Y.indptr[i + 1]]]
            fields = (split, identifier, ",".join(labels), text)
            if any(c in field for field in fields for c in "\t\n") or "," in "".join(labels):
                raise ValueError(f"{folder}: a tab, newline or comma in {split} row {i}")
            lines.append("\t".join(fields) + "\n")
    packed = lzma.compress("".join(lines).encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)
    with open(target, "wb") as stream:
        stream.write(packed)


def _add_tfidf(data, *, min_df):
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        sublinear_tf=True,
        min_df=min_df,
        strip_accents="unicode",
        # Words with inner + . # - kept whole (c++11, x-window, 0.9), single characters too.
        token_pattern=r"\w[\w+.#-]*\w|\w",
        dtype=np.float32,
    )
    data.X_train = csr_array(vectorizer.fit_transform(data.train_texts))
    data.X_test = csr_array(vectorizer.transform(data.test_texts))
    data.feature_names = vectorizer.get_feature_names_out()
    return data
