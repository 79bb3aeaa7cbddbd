"""Text vectorisers in model files: what comes back does what was stored."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfVectorizer,
)

from skxmc.exceptions import ModelFormatError
from skxmc.io._vectorizers import is_vectorizer, make_vectorizer, vectorizer_parts

TEXTS = ["a web server", "a web browser", "chess, a game", "", "ÉTÉ été"]


@pytest.mark.parametrize(
    "vectorizer",
    [
        TfidfVectorizer(),
        TfidfVectorizer(use_idf=False, dtype=np.float32),
        TfidfVectorizer(ngram_range=(1, 3), analyzer="char", sublinear_tf=True, norm="l1"),
        TfidfVectorizer(vocabulary=["web", "game"], min_df=2),
        TfidfVectorizer(max_df=0.9, min_df=2, strip_accents="unicode", stop_words=["chess"]),
        CountVectorizer(binary=True),
        CountVectorizer(vocabulary={"game", "web"}),
        HashingVectorizer(n_features=32),
    ],
)
def test_transforms_as_before(vectorizer):
    before = vectorizer.get_params()
    assert is_vectorizer(vectorizer)
    rows = vectorizer.fit(TEXTS).transform(["web game", "chess", "", *TEXTS])
    params, terms, idf = vectorizer_parts(vectorizer)
    assert terms is None or json.loads(json.dumps(terms)) == terms
    again = make_vectorizer(type(vectorizer).__name__, params, terms, idf)
    found = again.transform(["web game", "chess", "", *TEXTS])
    assert_array_equal(found.toarray(), rows.toarray())
    assert found.dtype == rows.dtype
    assert vectorizer.get_params() == before
    assert set(map(str, again.get_params().values())) - {str(["game", "web"])} <= set(
        map(str, before.values())
    )
    refitted = again.fit(TEXTS).transform(TEXTS)  # by its own rules, not by what was stored
    assert_array_equal(refitted.toarray(), rows[3:].toarray())


@pytest.mark.filterwarnings("error")
def test_terms_with_letters_that_have_no_lower_case_come_back_without_a_warning():
    bold = "\N{MATHEMATICAL BOLD CAPITAL L}\N{MATHEMATICAL BOLD CAPITAL M}"
    vectorizer = TfidfVectorizer().fit([f"{bold} and games"])
    assert bold.isupper()
    assert bold in vectorizer.vocabulary_
    again = make_vectorizer("TfidfVectorizer", *vectorizer_parts(vectorizer))
    assert again.vocabulary_ == vectorizer.vocabulary_


def test_unfitted_stays_unfitted():
    params, terms, idf = vectorizer_parts(TfidfVectorizer(min_df=3))
    assert terms is None
    assert idf is None
    again = make_vectorizer("TfidfVectorizer", params, terms, idf)
    assert again.min_df == 3
    assert not hasattr(again, "vocabulary_")


def test_what_does_not_belong_together_is_refused():
    params, terms, idf = vectorizer_parts(TfidfVectorizer().fit(TEXTS))
    for name, bad_terms, bad_idf in [
        ("eval", terms, idf),
        ("TfidfVectorizer", [*terms[:-1], terms[0]], idf),
        ("TfidfVectorizer", [*terms[:-1], 3], idf),
        ("TfidfVectorizer", terms, idf[:-1]),
        ("TfidfVectorizer", terms, np.where(idf > 2, np.nan, idf)),
    ]:
        with pytest.raises(ModelFormatError):
            make_vectorizer(name, params, bad_terms, bad_idf)


def test_derived_classes_are_not_stored():
    class Mine(TfidfVectorizer):
        pass

    assert not is_vectorizer(Mine())
    assert not is_vectorizer("TfidfVectorizer")
