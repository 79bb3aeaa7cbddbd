"""LMTXClassifier: no label is read, questions are counted, and the rounds teach something."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from skxmc.exceptions import TeacherError
from skxmc.io import load_model, save_model
from skxmc.label_space import LabelText
from skxmc.neural import LMTXClassifier, StaticEncoder
from skxmc.neural._triplet_learner import triplet_loss

rng = np.random.default_rng(0)

# A language of synonyms: the documents of topic t are words of it, its label is another word of it.
N_TOPICS, N_WORDS = 8, 6
LABELS = [f"t{t}w0 topic" for t in range(N_TOPICS)]


def make_texts(n, seed=0):
    """Texts and their topics: most words of one topic, now and then the name of a topic."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(N_TOPICS, size=n)
    texts = []
    for topic in topics:
        words = [f"t{topic}w{rng.integers(1, N_WORDS)}" for _ in range(5)]
        words.append(f"t{topic if rng.random() < 0.4 else rng.integers(N_TOPICS)}w0")
        texts.append(" ".join(rng.permutation(words)))
    return texts, topics


TEXTS, TOPICS = make_texts(160)
TEST_TEXTS, TEST_TOPICS = make_texts(100, seed=1)
Y = sp.csr_array((np.ones(160), (np.arange(160), TOPICS)), shape=(160, N_TOPICS))


class Teacher:
    """Knows the topic of a text: the one that most words are of."""

    def __init__(self, errors=0.0):
        self.asked, self.errors = [], errors

    def __call__(self, texts, labels):
        self.asked += list(zip(texts, labels, strict=True))
        answers = []
        for text, label in zip(texts, labels, strict=True):
            topics = [word.split("w")[0] for word in text.split()] or ["none"]
            best = max(sorted(set(topics)), key=topics.count)
            wrong = hash((text, label)) % 100 < 100 * self.errors
            answers.append(label.startswith(best + "w") != wrong)
        return answers


def small(teacher=None, **options):
    encoder = StaticEncoder(16, tokenizer="word", weighting="idf")
    settings = {"encoder": encoder, "n_questions": 4, "n_rounds": 2, "learning_rate": 0.01}
    settings |= {"random_state": 0, **options}
    return LMTXClassifier(Teacher() if teacher is None else teacher, **settings)


def precision(model, texts=TEST_TEXTS, topics=TEST_TOPICS):
    return float((model.predict_topk(texts, k=1).labels[:, 0] == topics).mean())


@pytest.fixture(scope="module")
def fitted():
    return small(n_rounds=3, n_questions=6).fit(TEXTS, label_text=LABELS)


# ------------------------------------------------------------------ what it learns


def test_the_rounds_beat_the_untrained_encoder(fitted):
    with pytest.warns(UserWarning, match="yes to none"):
        untrained = small(lambda texts, labels: np.zeros(len(texts))).fit(TEXTS, label_text=LABELS)
    assert precision(untrained) < 0.7
    assert precision(fitted) > precision(untrained) + 0.2
    assert fitted.history_[0]["judged P@1"] < max(r["judged P@1"] for r in fitted.history_)
    assert fitted.history_[fitted.best_round_]["judged P@1"] == max(
        r["judged P@1"] for r in fitted.history_
    )


def test_y_is_never_read():
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"Y was touched: {name}")

    first = small().fit(TEXTS, label_text=LABELS)
    second = small().fit(TEXTS, Untouchable(), label_text=LABELS)
    third = small().fit(TEXTS, Y[::-1], label_text=LABELS)
    for other in (second, third):
        for a, b in zip(first.predict_topk(TEST_TEXTS), other.predict_topk(TEST_TEXTS)):
            assert_array_equal(a, b)


def test_questions_are_counted_and_bounded():
    teacher = Teacher()
    model = small(teacher, n_questions=5, n_rounds=2, validation_fraction=0.1, patience=9)
    model.fit(TEXTS, label_text=LABELS)
    assert len(teacher.asked) == len(set(teacher.asked)) == model.n_questions_
    assert model.n_teacher_calls_ == model.n_questions_
    by_text = {}
    for text, _ in teacher.asked:
        by_text[text] = by_text.get(text, 0) + 1
    assert sorted(set(by_text.values()))[-1] <= 5
    assert [row["questions"] for row in model.history_][1] >= 144 * 3
    teacher = Teacher()
    few = small(teacher, max_teacher_calls=50).fit(TEXTS, label_text=LABELS)
    assert len(teacher.asked) == few.n_questions_ == 50
    # of few questions, most documents get their nearest label first
    assert len({text for text, _ in teacher.asked}) > 35


def test_no_judgement_and_patience():
    teacher = Teacher()
    model = small(teacher, validation_fraction=0, n_questions=2).fit(TEXTS, label_text=LABELS)
    assert len(teacher.asked) == len(set(TEXTS)) * 2
    assert model.best_round_ == 2
    assert "judged P@1" not in model.history_[0]

    def no(texts, labels):  # never better than before
        return np.zeros(len(texts))

    with pytest.warns(UserWarning, match="yes to none"):
        stopped = small(no, n_rounds=4, n_questions=8, patience=2).fit(TEXTS, label_text=LABELS)
    assert stopped.best_round_ == 0
    assert len(stopped.history_) == 3


def test_the_best_round_is_kept():
    """A teacher that turns around: what it teaches then is given up."""

    class Turning(Teacher):
        def __call__(self, texts, labels):
            answers = super().__call__(texts, labels)
            late = len(self.asked) > 144 * 4 + 2 * 16
            judged = {text for text, _ in self.asked[:16]}
            return [a != (late and t not in judged) for a, t in zip(answers, texts)]

    model = small(Turning(), n_questions=8).fit(TEXTS, label_text=LABELS)
    assert model.best_round_ == 1
    assert len(model.history_) == 3
    one = small(n_rounds=1, n_questions=4).fit(TEXTS, label_text=LABELS)
    assert_array_equal(model.predict_topk(TEXTS).labels, one.predict_topk(TEXTS).labels)


def test_triplet_loss_by_brute_force_and_by_differences():
    cosines = rng.uniform(-1, 1, (7, 9))
    positive = rng.integers(9, size=7)
    relevant = rng.random((7, 9)) < 0.2
    relevant[np.arange(7), positive] = True
    settings = {"margin": 0.3, "n_negatives": 3, "temperature": 0.1}
    loss, gradient = triplet_loss(cosines, positive, relevant, **settings)
    expected, weights = 0.0, np.zeros_like(cosines)
    for i in range(7):
        p = positive[i]
        near = sorted((j for j in range(9) if not relevant[i, j]), key=lambda j: -cosines[i, j])[:3]
        near = [j for j in near if 0.3 - cosines[i, p] + cosines[i, j] > 0]
        total = sum(np.exp(cosines[i, j] / 0.1) for j in near)
        for j in near:
            weights[i, j] = np.exp(cosines[i, j] / 0.1) / total
            expected += weights[i, j] * (0.3 - cosines[i, p] + cosines[i, j])
    assert loss == pytest.approx(expected)
    weights[np.arange(7), positive] -= weights.sum(axis=1)
    assert_allclose(gradient, weights, atol=1e-6)
    everything = np.ones((7, 9), dtype=bool)  # no negatives at all
    loss, gradient = triplet_loss(cosines, positive, everything, **settings)
    assert loss == 0
    assert not gradient.any()


# ------------------------------------------------------------------ predictions


def test_margins_are_the_threshold_and_slope_of_the_cosine(fitted):
    documents = fitted._encode(np.array(TEST_TEXTS, dtype=object))
    cosines = documents @ fitted._label_vectors.T
    assert_allclose(np.linalg.norm(documents, axis=1), 1, rtol=1e-5)
    margins = fitted.decision_function(TEST_TEXTS).toarray()
    assert_allclose(margins, fitted.slope_ * (cosines - fitted.threshold_), atol=1e-4)
    best = fitted.predict_topk(TEST_TEXTS, k=3)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :3]
    assert (best.labels == order).mean() > 0.99  # ties of the last bit aside
    predicted = fitted.predict(TEST_TEXTS)
    assert predicted.dtype == np.uint8
    assert_array_equal(predicted.toarray(), margins > 0)
    # most of what is predicted is right
    assert predicted.toarray()[np.arange(100), TEST_TOPICS].sum() > 0.5 * predicted.nnz


def test_exclude_and_candidates(fitted):
    best = fitted.predict_topk(TEST_TEXTS, k=1).labels[:, 0]
    ones, rows = np.ones(100), np.arange(100)
    exclude = sp.csr_array((ones, (rows, best)), shape=(100, N_TOPICS))
    rest = fitted.predict_topk(TEST_TEXTS, k=N_TOPICS, exclude=exclude).labels
    assert (rest[:, -1] == -1).all()
    assert not (rest == best[:, None]).any()
    only = fitted.predict_topk(TEST_TEXTS, k=2, candidates=exclude)
    assert_array_equal(only.labels, np.stack([best, np.full(100, -1)], axis=1))


def test_empty_and_unknown_texts_and_labels_without_text():
    labels = [*LABELS, "", "   ", LABELS[0], "unheard"]
    teacher = Teacher()
    model = small(teacher, n_questions=6).fit([*TEXTS, ""], label_text=labels)
    assert not {label for _, label in teacher.asked} & {"", "   "}
    answers = model.predict_topk(["", "zzz", *TEST_TEXTS], k=12)
    assert not np.isin(answers.labels, [8, 9]).any()
    assert (answers.labels[:, 10:] == -1).all()
    assert_array_equal(answers.labels[0, :10], [0, 1, 2, 3, 4, 5, 6, 7, 10, 11])
    assert_array_equal(answers.scores[0, :10], answers.scores[1, :10])
    margins = model.decision_function(TEST_TEXTS).toarray()
    assert_array_equal(margins[:, 0], margins[:, 10])  # the same text: the same score
    assert np.isneginf(model._score_dense(np.array(["a"], dtype=object))[:, [8, 9]]).all()


# ------------------------------------------------------------------ encoders


def embeddings():
    """Rows that tell topics in some directions, among others that tell nothing."""
    rng = np.random.default_rng(5)
    axes = rng.standard_normal((N_TOPICS, 12)).astype(np.float32)
    noise, others = 2 * rng.standard_normal((160, 12)), 2 * rng.standard_normal((N_TOPICS, 12))
    X = np.hstack([axes[TOPICS] + 0.3 * rng.standard_normal((160, 12)), noise])
    return X.astype(np.float32), np.hstack([axes, others]).astype(np.float32)


@pytest.mark.parametrize("sparse", [False, True])
def test_precomputed_rows(sparse):
    X, Z = embeddings()
    topic = {row.tobytes(): t for row, t in zip(X, TOPICS)}
    label = {row.tobytes(): t for t, row in enumerate(Z)}
    as_rows = (lambda A: A.toarray()) if sparse else (lambda A: A)

    def teacher(rows, labels):
        pairs = zip(as_rows(rows), as_rows(labels), strict=True)
        return [topic[x.tobytes()] == label[z.tobytes()] for x, z in pairs]

    given = (sp.csr_array(X), sp.csr_array(Z)) if sparse else (X, Z)
    model = small(teacher, encoder="precomputed").fit(given[0], label_text=given[1])
    found = (model.predict_topk(given[0], k=1).labels[:, 0] == TOPICS).mean()
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    untrained = ((unit @ Z.T).argmax(axis=1) == TOPICS).mean()
    assert untrained < 0.7
    assert found > 0.9
    with pytest.raises(ValueError, match="columns"):
        model.fit(given[0], label_text=Z[:, :5])
    with pytest.raises(TypeError, match="both"):
        model.fit(X, label_text=sp.csr_array(Z))
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.where(X > 2, np.nan, X), label_text=Z)


@pytest.mark.parametrize("trainable", [False, True])
def test_text_encoders_of_torch(trainable):
    torch = pytest.importorskip("torch")

    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding = torch.nn.Embedding(N_TOPICS * N_WORDS + 1, 12)

        def forward(self, ids, mask):
            return self.embedding(ids)

    def ids(texts):
        words = [[w.split("w") for w in text.split() if w[0] == "t" and "w" in w] for text in texts]
        return [[N_WORDS * int(t[1:]) + int(w) for t, w in row] for row in words]

    model = small(encoder=(ids, Words()), trainable=trainable, learning_rate=0.02, batch_size=32)
    model.fit(TEXTS, label_text=LABELS)
    assert precision(model) > 0.5  # 0.15 untrained
    assert model.encoder_.is_shared == trainable


# ------------------------------------------------------------------ an estimator of scikit-learn


def test_contract_of_an_estimator(fitted, tmp_path):
    with pytest.raises(NotFittedError):
        small().predict(TEST_TEXTS)
    assert "LMTXClassifier" in repr(small())
    other = clone(small()).set_params(encoder__dimension=8, epochs=1)
    assert other.encoder.dimension == 8
    other.fit(TEXTS, label_text=LabelText(LABELS))
    expected = fitted.predict_topk(TEST_TEXTS)
    for model in (
        pickle.loads(pickle.dumps(fitted.set_params(teacher=None))),
        small(n_rounds=3, n_questions=6, n_jobs=2).fit(TEXTS, label_text=LABELS),
    ):
        for a, b in zip(expected, model.predict_topk(TEST_TEXTS)):
            assert_array_equal(a, b)
    assert fitted.classes_.tolist() == list(range(N_TOPICS))
    one = [fitted.predict_topk([text], k=5) for text in TEST_TEXTS[:20]]
    assert_array_equal(np.concatenate([answer.scores for answer in one]), expected.scores[:20])


@pytest.mark.parametrize("mmap", [False, True])
def test_saved_models_need_no_teacher(fitted, tmp_path, mmap):
    save_model(fitted.set_params(teacher=Teacher()), tmp_path / "model")
    loaded = load_model(tmp_path / "model", mmap=mmap)
    assert loaded.teacher is None
    for a, b in zip(fitted.predict_topk(TEST_TEXTS), loaded.predict_topk(TEST_TEXTS)):
        assert_array_equal(a, b)
    assert (fitted.predict(TEST_TEXTS) != loaded.predict(TEST_TEXTS)).nnz == 0


def test_grid_search_over_texts():
    def top(model, X, Y):
        found = model[-1].predict_topk(X, k=1).labels[:, 0]
        return float(np.mean([Y[[i], [j]][0] for i, j in enumerate(found)]))

    pipeline = Pipeline([("tag", small(n_rounds=1))])
    search = GridSearchCV(pipeline, {"tag__epochs": [1, 8]}, cv=2, scoring=top, error_score="raise")
    # as many labels as rows of a fold: LabelText is not split
    search.fit(np.array(TEXTS), Y, tag__label_text=LabelText(LABELS))
    assert search.best_score_ > 0.3


def test_answers_on_disk_make_a_fit_go_on(tmp_path):
    """What was answered before an interrupt is not asked again, and the model is the same."""
    calls = []

    def teacher(texts, labels):
        return [label[:3] in text for text, label in zip(texts, labels)]

    def interrupted(texts, labels):
        calls.append(len(texts))
        if len(calls) > 12:
            raise KeyboardInterrupt
        return teacher(texts, labels)

    options = {"cache_dir": tmp_path, "teacher_batch_size": 20}
    with pytest.raises(KeyboardInterrupt):
        small(interrupted, **options).fit(TEXTS, label_text=LABELS)
    whole = small(teacher).fit(TEXTS, label_text=LABELS)
    resumed = small(teacher, **options).fit(TEXTS, label_text=LABELS)
    assert resumed.n_questions_ == whole.n_questions_
    assert whole.n_teacher_calls_ - resumed.n_teacher_calls_ == sum(calls[:-1])
    for a, b in zip(whole.predict_topk(TEST_TEXTS), resumed.predict_topk(TEST_TEXTS)):
        assert_array_equal(a, b)
    again = small(teacher, epochs=1, **options).fit(TEXTS, label_text=LABELS)
    assert again.n_teacher_calls_ < whole.n_teacher_calls_ / 2


def test_labels_that_come_later(fitted, tmp_path):
    model = pickle.loads(pickle.dumps(fitted.set_params(teacher=None)))
    before = model.predict_topk(TEST_TEXTS, k=3)
    new = [LABELS[0], "", "w9"]
    model.add_labels(LabelText(new[:2])).add_labels(new[2:])
    assert model.n_labels_ == N_TOPICS + 3
    assert model.classes_[-1] == N_TOPICS + 2
    after = model.predict_topk(TEST_TEXTS, k=N_TOPICS + 3)
    assert not (after.labels == N_TOPICS + 1).any()  # the empty one
    same = np.where(after.labels == N_TOPICS, after.scores, 0).sum(axis=1)
    first = np.where(after.labels == 0, after.scores, 0).sum(axis=1)
    assert_allclose(same, first, rtol=1e-5)  # the text of another label
    assert_array_equal(before.scores[:, 0], after.scores[:, 0])
    save_model(model, tmp_path / "model")
    assert_array_equal(
        load_model(tmp_path / "model").predict_topk(TEST_TEXTS, k=4).labels, after.labels[:, :4]
    )
    with pytest.raises(TypeError, match="Row 0 of label_text"):
        model.add_labels([None])
    with pytest.raises(NotFittedError):
        small().add_labels(["a"])


# ------------------------------------------------------------------ bad input


def test_bad_input():
    with pytest.raises(ValueError, match="label_text"):
        small().fit(TEXTS)
    with pytest.raises(ValueError, match="label_text has 0 rows"):
        small().fit(TEXTS, label_text=[])
    with pytest.raises(ValueError, match="X has 0 rows"):
        small().fit([], label_text=LABELS)
    for X, labels, message in [
        ("one text", LABELS, "X is a single str"),
        (TEXTS, "label", "label_text is a single str"),
        ([*TEXTS, None], LABELS, "Row 160 of X is a missing value"),
        (TEXTS, ["a", 3], "Row 1 of label_text is of type int"),
    ]:
        with pytest.raises(TypeError, match=message):
            small().fit(X, label_text=labels)
    with pytest.raises(TypeError, match="Row 0 of X"):
        small(n_rounds=1).fit(TEXTS, label_text=LABELS).predict([None])
    with pytest.raises(FileNotFoundError):
        small(encoder="nowhere").fit(TEXTS, label_text=LABELS)
    for options in [
        {"teacher": None},
        {"teacher": "model"},
        {"n_rounds": 0},
        {"margin": 0.0},
        {"validation_fraction": 1.0},
        {"max_teacher_calls": 0},
        {"long_texts": "cut"},
    ]:
        with pytest.raises(ValueError, match=next(iter(options))):
            small().set_params(**options).fit(TEXTS, label_text=LABELS)


def test_teachers_that_fail():
    def broken(texts, labels):
        raise TeacherError("out of credit")

    model = small(broken)
    with pytest.raises(TeacherError, match="out of credit"):
        model.fit(TEXTS, label_text=LABELS)
    with pytest.raises(NotFittedError):
        model.predict(TEST_TEXTS)
    with pytest.raises(ValueError, match="numbers in"):
        small(lambda texts, labels: ["yes"] * len(texts)).fit(TEXTS, label_text=LABELS)
    teacher = Teacher()

    def shy(texts, labels):
        said = teacher(texts, labels)
        return [None if i % 4 else a for i, a in enumerate(said)]

    with pytest.warns(UserWarning, match="did not answer"):
        model = small(shy).fit(TEXTS, label_text=LABELS)
    assert model.n_unanswered_ > 0.7 * model.n_questions_


def test_one_document_and_one_label():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small(lambda texts, labels: [1.0] * len(texts)).fit(["a b"], label_text=["b"])
    assert model.predict_topk(["a"], k=2).labels.tolist() == [[0, -1]]
    assert model.n_questions_ == 1
