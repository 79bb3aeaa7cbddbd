"""Teachers: a fake HTTP server, a tiny random causal model, answers on disk."""

import copy
import itertools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skxmc.exceptions import CheckpointError, TeacherError
from skxmc.neural import ChatTeacher, TransformersTeacher
from skxmc.neural._answers import Answers, AnswerStore, check_answers
from skxmc.neural._teachers import parse_answer


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("yes", 1),
        ("Yes, it is.", 1),
        (" NO", 0),
        ("**no**", 0),
        ("<think>no yes no</think>\n\nYes", 1),
        ("nothing fits", np.nan),
        ("yesterday", np.nan),
        ("It is: yes", np.nan),
        ("", np.nan),
        (None, np.nan),
    ],
)
def test_parse_answer(content, expected):
    assert_array_equal(parse_answer(content), expected)


# ------------------------------------------------------------------ chat completions


class FakeServer(ThreadingHTTPServer):
    """Says yes where the label is in the text; first of all what ``failures`` holds."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.failures = [], []
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
            failure = self.server.failures.pop(0) if self.server.failures else None
        if isinstance(failure, int):
            self.reply(failure, b"too much", {"Retry-After": "0"})
        elif failure is not None:
            self.reply(200, failure)
        else:
            text, label = json.loads(body)["messages"][-1]["content"].split(" / ")
            message = {"role": "assistant", "content": "Yes." if label in text else "No."}
            self.reply(200, json.dumps({"choices": [{"message": message}]}).encode())

    def reply(self, code, content, headers=()):
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Print nothing."""


@pytest.fixture
def server():
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def chat(server, **options):
    return ChatTeacher(
        server.url, "fake", "{text} / {label}", **{"backoff": 0.0, "n_threads": 1, **options}
    )


def test_chat_answers_in_order_and_what_is_sent(server):
    teacher = chat(
        server, api_key="secret", system="Be brief.", max_tokens=3, n_threads=4, max_characters=9
    )
    texts = [f"{i} and {i + 1} and more" for i in range(20)]
    labels = [str(i + i % 3) for i in range(20)]
    expected = [lab in text[:9] for text, lab in zip(texts, labels)]
    assert_array_equal(teacher(texts, labels), expected)
    assert teacher.n_requests == 20
    assert teacher.n_nonsense == 0
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "fake"
    assert body["max_tokens"] == 3
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert ChatTeacher(server.url + "/chat/completions", "fake").url == teacher.url
    assert teacher([], []).shape == (0,)


def test_chat_tries_again_and_gives_up(server):
    teacher = chat(server, retries=2)
    server.failures = [503, 429]
    assert teacher(["a web"], ["web"]).tolist() == [1.0]
    server.failures = [500] * 3
    with pytest.raises(TeacherError, match=r"3 attempts.*500"):
        teacher(["a"], ["a"])
    server.failures = [401]
    with pytest.raises(TeacherError, match=r"refuses.*401.*too much"):
        teacher(["a"], ["a"])
    assert len(server.requests) == 3 + 3 + 1


def test_nonsense_becomes_nan_and_is_counted(server):
    teacher = chat(server)
    server.failures = [
        b"<html>",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": "Perhaps"}}]}',
    ]
    answers = teacher(["a"] * 5, ["a"] * 5)
    assert np.isnan(answers).tolist() == [True] * 4 + [False]
    assert teacher.n_nonsense == 4
    assert teacher.n_requests == 5


def test_no_server_and_a_slow_one(server):
    url = server.url
    slow = chat(server, timeout=0.05, retries=1)
    with server.lock, pytest.raises(TeacherError, match=r"2 attempts"):
        slow(["a"], ["a"])
    closed = ChatTeacher(url.replace(str(server.server_port), "9"), "m", retries=0, timeout=1)
    with pytest.raises(TeacherError, match="1 attempts"):
        closed(["a"], ["a"])


def test_keys_are_not_written_down(server, monkeypatch):
    teacher = chat(server, api_key="secret")
    assert "secret" not in repr(teacher)
    assert b"secret" not in pickle.dumps(teacher)
    copy.deepcopy(teacher)(["a"], ["a"])  # what scikit-learn's clone does
    assert server.requests[-1][1]["Authorization"] == "Bearer secret"
    monkeypatch.setenv("FAKE_KEY", "other")
    pickle.loads(pickle.dumps(chat(server, api_key_variable="FAKE_KEY")))(["a"], ["a"])
    assert server.requests[-1][1]["Authorization"] == "Bearer other"
    chat(server)(["a"], ["a"])
    assert "Authorization" not in server.requests[-1][1]


def test_bad_settings_of_a_chat_teacher():
    for url in ("file:///etc/passwd", "localhost:8000"):
        with pytest.raises(ValueError, match="http"):
            ChatTeacher(url, "m")
    for prompt in ("{text}", "{label}", "{text} {tag}", None):
        with pytest.raises(ValueError, match="prompt"):
            ChatTeacher("http://localhost", "m", prompt)
    with pytest.raises(ValueError, match="retries"):
        ChatTeacher("http://localhost", "m", retries=-1)
    keys = {
        ChatTeacher("http://localhost", model, **options).cache_key
        for model, options in [("m", {}), ("n", {}), ("m", {"temperature": 1.0})]
    }
    assert len(keys) == 3


# ------------------------------------------------------------------ a local model


def causal_pair():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import tokenizers

    words = ["<unk>", "yes", "no", "text", "tag", "web", "game", "a", "b", "c", "?", ":"]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_positions=64, n_embd=16, n_layer=2, n_head=2
    )
    module = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(4)  # so that answers differ
    return tokenizer, module.eval()


PROMPT = "text : {text} tag : {label}"


def test_local_model_is_the_probability_of_the_next_token(tmp_path):
    torch = pytest.importorskip("torch")
    tokenizer, module = causal_pair()
    texts = ["a b c a b c", "", "web web", "game"]
    labels = ["web", "game", "a", "b c"]
    expected = []
    for text, label in zip(texts, labels):
        ids = tokenizer(PROMPT.format(text=text, label=label))["input_ids"]
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([ids])).logits[0, -1].double()
        probability = torch.softmax(logits, dim=0)
        expected.append(float(probability[1] / (probability[1] + probability[2])))
    assert max(expected) - min(expected) > 0.01
    teacher = TransformersTeacher((tokenizer, module), PROMPT, batch_size=3)
    assert_allclose(teacher(texts, labels), expected, rtol=1e-4)
    tokenizer.save_pretrained(tmp_path)
    module.save_pretrained(tmp_path)
    from_folder = TransformersTeacher(tmp_path, PROMPT)
    assert_allclose(from_folder(texts, labels), expected, rtol=1e-4)
    again = pickle.loads(pickle.dumps(from_folder))
    assert again._loaded is None
    assert_allclose(again(texts, labels), expected, rtol=1e-4)
    assert str(tmp_path) in repr(from_folder)


def test_long_texts_lose_their_end():
    teacher = TransformersTeacher(causal_pair(), PROMPT, max_length=12)
    long = "a b c " * 30
    with_tag = teacher([long], ["web"])
    assert with_tag != teacher([long], ["game"])  # the question is complete
    assert any(
        with_tag == TransformersTeacher(causal_pair(), PROMPT)([long[:n]], ["web"])
        for n in range(15)
    )


def test_bad_local_models(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError):
        TransformersTeacher(tmp_path / "nowhere")(["a"], ["b"])
    with pytest.raises(ValueError, match="cannot be loaded"):
        TransformersTeacher(tmp_path)(["a"], ["b"])
    with pytest.raises(TypeError, match="path"):
        TransformersTeacher(3)(["a"], ["b"])
    with pytest.raises(ValueError, match="batch_size"):
        TransformersTeacher("x", batch_size=0)


# ------------------------------------------------------------------ answers


class Recording:
    """Relevant where the label is in the text; keeps what it was asked."""

    def __init__(self, cache_key=""):
        self.asked, self.cache_key = [], cache_key

    def __call__(self, texts, labels):
        self.asked += list(zip(texts, labels, strict=True))
        return [label in text for text, label in zip(texts, labels, strict=True)]


TEXTS, LABELS = ["web page", "chess", "chess"], ["web", "chess", ""]


def test_each_pair_of_texts_is_asked_once(tmp_path):
    teacher = Recording()
    answers = Answers(teacher, TEXTS, LABELS, batch_size=2, folder=tmp_path)
    rows, columns = np.array(list(itertools.product(range(3), range(3)))).T
    expected = [LABELS[j] in TEXTS[i] for i, j in zip(rows, columns)]
    assert_array_equal(answers.ask(rows, columns), expected)
    assert_array_equal(answers.ask(rows[::-1], columns[::-1]), expected[::-1])
    assert len(teacher.asked) == len(set(teacher.asked)) == 6
    assert (answers.n_questions, answers.n_calls) == (6, 6)
    again = Answers(teacher, TEXTS[::-1], LABELS, folder=tmp_path)
    assert_array_equal(again.ask(2 - rows, columns), expected)
    assert (again.n_questions, again.n_calls) == (6, 0)
    other = Answers(Recording("other model"), TEXTS, LABELS, folder=tmp_path)
    other.ask(rows, columns)
    assert other.n_calls == 6


def test_the_limit_counts_different_pairs():
    answers = Answers(Recording(), TEXTS, LABELS, limit=2)
    found = answers.ask([1, 2, 0, 0], [1, 1, 0, 1])
    assert_array_equal(found, [1, 1, 1, np.nan])
    assert answers.n_left == 0
    assert_array_equal(answers.ask([0, 0], [0, 2]), [1, np.nan])
    assert answers.n_questions == 2


def test_rows_of_numbers():
    seen = []

    def teacher(rows, labels):
        seen.append((type(rows), rows.shape, labels.shape))
        return rows[:, 0] > labels[:, 0]

    answers = Answers(teacher, np.eye(3, dtype=np.float32), np.zeros((2, 3), dtype=np.float32))
    assert answers.ask([0, 1, 0], [0, 1, 1]).tolist() == [1, 0, 1]
    assert answers.n_calls == 2  # the two labels are equal
    assert seen == [(np.ndarray, (2, 3), (2, 3))]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "numbers"),
        ("yes", "numbers"),
        (["yes", "no"], "numbers"),
        ([1.0], "2 pairs"),
        ([[1.0, 0.0]], "2 pairs"),
        ([0.5, 1.5], "1.5 for the text 'chess' and the label 'chess'"),
        ([-1, 0], "-1"),
        ([np.inf, 0], "inf"),
        ([1j, 0], "numbers"),
    ],
)
def test_nonsense_of_a_teacher_is_an_error(answer, message):
    with pytest.raises(ValueError, match=message):
        Answers(lambda texts, labels: answer, TEXTS, LABELS).ask([0, 1], [0, 1])


def test_no_answer_is_asked_again_in_the_next_fit(tmp_path):
    first = Answers(lambda texts, labels: [None, np.nan], TEXTS, LABELS, folder=tmp_path)
    assert np.isnan(first.ask([0, 1], [0, 1])).all()
    assert np.isnan(first.ask([0], [0])).all()
    assert (first.n_calls, first.n_unanswered) == (2, 2)
    second = Answers(Recording(), TEXTS, LABELS, folder=tmp_path)
    assert second.ask([0, 1], [0, 1]).tolist() == [1, 1]
    assert second.n_calls == 2
    assert_array_equal(check_answers(np.array([True, False]), 2), [1, 0])


def test_what_the_teacher_raises_comes_through_and_answers_are_kept(tmp_path):
    teacher = Recording()

    def failing(texts, labels):
        if len(teacher.asked) >= 2:
            raise KeyError("broken")
        return teacher(texts, labels)

    answers = Answers(failing, TEXTS, LABELS, batch_size=2, folder=tmp_path)
    with pytest.raises(KeyError, match="broken") as caught:
        answers.ask([0, 0, 1], [0, 1, 1])
    assert "2 answers" in caught.value.__notes__[0]
    again = Answers(teacher, TEXTS, LABELS, folder=tmp_path)
    assert again.ask([0, 0, 1], [0, 1, 1]).tolist() == [1, 0, 1]
    assert again.n_calls == 1


def test_answers_survive_a_kill(tmp_path):
    code = (
        "import os, sys, numpy as np\n"
        "from skxmc.neural._answers import Answers\n"
        "n = 0\n"
        "def teacher(texts, labels):\n"
        "    global n\n"
        "    n += len(texts)\n"
        "    if n > 60:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return [int(t) % 2 == 0 for t in texts]\n"
        "answers = Answers(teacher, [str(i) for i in range(100)], ['even'], batch_size=10,\n"
        "                  folder=sys.argv[1])\n"
        "answers.ask(np.arange(100), np.zeros(100, dtype=int))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    texts = [str(i) for i in range(100)]

    def even(texts, labels):
        return [int(text) % 2 == 0 for text in texts]

    answers = Answers(even, texts, ["even"], folder=tmp_path)
    found = answers.ask(np.arange(100), np.zeros(100, dtype=int))
    assert_array_equal(found, np.arange(100) % 2 == 0)
    assert answers.n_calls == 40


def test_processes_share_a_folder(tmp_path):
    stores = [AnswerStore(tmp_path) for _ in range(4)]

    def write(number):
        for i in range(20):
            stores[number].add({bytes([number, i]) * 8: i / 20})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = [bytes([n, i]) * 8 for n in range(4) for i in range(20)]
    found = stores[0].look_up([*keys, b"unknown"])
    assert len(found) == 80
    assert math.isclose(found[keys[25]], 5 / 20)


def test_a_damaged_folder(tmp_path):
    (tmp_path / "answers.sqlite").write_bytes(b"no data base" * 100)
    with pytest.raises(CheckpointError, match="delete the file"):
        AnswerStore(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match=os.fspath(file)):
        AnswerStore(file)
