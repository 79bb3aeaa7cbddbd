"""Teachers: who says whether a label is relevant to a document, one question a pair.

A teacher is any callable ``(texts, label_texts) -> answers`` for two lists of the same length n:
n numbers in [0, 1], or booleans, where NaN is no answer. The two here ask a language model: one
behind a chat-completion endpoint, or a local one.
"""

import copy
import hashlib
import json
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from skxmc.exceptions import TeacherError

#: The question. It has to ask for yes or no.
PROMPT = (
    "Decide whether a tag fits a text.\n\nText: {text}\n\nTag: {label}\n\n"
    "Is the tag relevant to the text? Answer with one word, yes or no."
)

# A yes or no is looked for in so many characters of an answer.
_LOOKED_AT = 10

# HTTP states that may be over in a moment.
_TEMPORARY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})

# The longest wait that a server may ask for, in seconds, and the largest answer that is read.
_LONGEST_WAIT, _LARGEST_ANSWER = 60.0, 1 << 20


def parse_answer(content):
    """Return 1.0 for a yes, 0.0 for a no, NaN for anything else.

    Only the first 10 characters count, after what stands in ``<think>``: a model that begins with
    an explanation has not answered the question.

    Examples
    --------
    >>> from skxmc.neural._teachers import parse_answer
    >>> [parse_answer(text) for text in ("Yes.", "**No**, it does not.", "It depends")]
    [1.0, 0.0, nan]
    """
    if not isinstance(content, str):
        return np.nan
    content = content.rsplit("</think>", 1)[-1].strip()[:_LOOKED_AT]
    found = re.match(r"\W*(yes|no)\b", content, re.IGNORECASE)
    return np.nan if found is None else float(found[1].lower() == "yes")


def _check_prompt(prompt):
    try:
        filled = prompt.format(text="\0text", label="\0label")
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ValueError(
            f"prompt must be a str with the fields {{text}} and {{label}}, got {prompt!r}."
        ) from error
    if "\0text" not in filled or "\0label" not in filled:
        raise ValueError(f"prompt lacks the field {{text}} or {{label}}: {prompt!r}.")
    return prompt


def _digest(*parts):
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class ChatTeacher:
    """A language model behind an HTTP endpoint for chat completions, asked yes-or-no questions.

    The protocol is that of OpenAI, which vLLM, llama.cpp, Ollama, TGI and most providers speak: a
    POST of ``{"model", "messages", "temperature", "max_tokens"}`` to ``.../chat/completions``.

    Parameters
    ----------
    url : str
        Such as ``"http://localhost:8000/v1"``; ``/chat/completions`` is added if it is not there.
    model : str
        The name that the server knows.
    prompt : str, default=`PROMPT`
        With the fields ``{text}`` and ``{label}``.
    system : str or None, default=None
        A system message.
    api_key : str or None, default=None
        Sent as bearer token. It is in no repr and in no pickle: after loading, or in other
        processes, take ``api_key_variable``.
    api_key_variable : str or None, default=None
        Name of an environment variable with the key, read at each request.
    temperature : float, default=0.0
        Of the sampling; 0 answers the same question alike.
    max_tokens : int, default=8
        Of an answer. A model that thinks first needs more.
    timeout : float, default=60.0
        Seconds for one request.
    retries : int, default=4
        Further attempts where the server cannot be reached, is busy (408, 409, 425, 429, 5xx) or
        does not answer in time.
    backoff : float, default=1.0
        Seconds before the first of them, doubled each time; a ``Retry-After`` of the server counts
        if it is longer (up to 60 seconds).
    n_threads : int, default=8
        Requests at a time.
    max_characters : int, default=4000
        Of a text; the rest is not sent.

    Attributes
    ----------
    n_requests : int
        Requests answered so far.
    n_nonsense : int
        Answers among them that were neither yes nor no: they become NaN.

    Raises
    ------
    TeacherError
        From a call: the server refuses (with what it says), or cannot be reached after all retries.

    Examples
    --------
    >>> from skxmc.neural import ChatTeacher
    >>> teacher = ChatTeacher("http://localhost:8000/v1", "qwen3")
    >>> teacher
    ChatTeacher('http://localhost:8000/v1/chat/completions', 'qwen3')
    """

    def __init__(
        self,
        url,
        model,
        prompt=PROMPT,
        *,
        system=None,
        api_key=None,
        api_key_variable=None,
        temperature=0.0,
        max_tokens=8,
        timeout=60.0,
        retries=4,
        backoff=1.0,
        n_threads=8,
        max_characters=4000,
    ):
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"url must begin with http:// or https://, got {url!r}.")
        if retries < 0 or n_threads < 1 or timeout <= 0 or backoff < 0 or max_characters < 1:
            raise ValueError(
                "retries and backoff must be at least 0, timeout more than 0, n_threads and "
                "max_characters at least 1."
            )
        url = url.rstrip("/")
        self.url = url if url.endswith("/chat/completions") else f"{url}/chat/completions"
        self.model = model
        self.prompt = _check_prompt(prompt)
        self.system = system
        self.api_key = api_key
        self.api_key_variable = api_key_variable
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.n_threads = n_threads
        self.max_characters = max_characters
        self.n_requests = self.n_nonsense = 0
        self._lock = threading.Lock()

    @property
    def cache_key(self):
        """What the answers depend on, beside the texts."""
        return _digest(
            "chat",
            *(self.url, self.model, self.prompt, self.system),
            *(self.temperature, self.max_characters),
        )

    def __repr__(self):
        return f"ChatTeacher({self.url!r}, {self.model!r})"

    def __call__(self, texts, label_texts):
        """Answers to pairs of text and label text: 1.0, 0.0 or NaN, float64 of shape (n,)."""
        with ThreadPoolExecutor(min(self.n_threads, max(len(texts), 1))) as executor:
            asked = [executor.submit(self._ask, *pair) for pair in zip(texts, label_texts)]
            try:
                return np.array([one.result() for one in asked], dtype=np.float64)
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, text, label):
        content = self.prompt.format(text=text[: self.max_characters], label=label)
        messages = [{"role": "user", "content": content}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        answer = parse_answer(_content(self._post(json.dumps(body).encode())))
        with self._lock:
            self.n_requests += 1
            self.n_nonsense += int(np.isnan(answer))
        return answer

    def _post(self, body):
        headers = {"Content-Type": "application/json"}
        key = self.api_key
        if key is None and self.api_key_variable is not None:
            key = os.environ.get(self.api_key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        for attempt in range(self.retries + 1):
            request = urllib.request.Request(self.url, body, headers)
            wait = self.backoff * 2**attempt
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return response.read(_LARGEST_ANSWER)
            except urllib.error.HTTPError as error:
                said = error.read(300).decode(errors="replace")
                failure = f"HTTP {error.code}: {said}"
                if error.code not in _TEMPORARY:
                    raise TeacherError(f"{self.url} refuses the question: {failure}") from error
                wait = max(wait, _seconds(error.headers.get("Retry-After")))
            except OSError as error:  # URLError, timeouts, connections that break
                failure = str(error)
            except Exception as error:  # http.client: an answer that is no HTTP
                failure = f"{type(error).__name__}: {error}"
            if attempt < self.retries:
                time.sleep(wait)
        raise TeacherError(
            f"{self.url} gave no answer in {self.retries + 1} attempts, the last one: {failure}"
        )

    def __deepcopy__(self, memo):
        new = copy.copy(self)
        new.api_key = self.api_key
        return new

    def __getstate__(self):
        return {**self.__dict__, "api_key": None, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _content(answer):
    """The text of a chat completion, or None."""
    try:
        return json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _seconds(header):
    try:
        return min(float(header), _LONGEST_WAIT)
    except (TypeError, ValueError):
        return 0.0


class TransformersTeacher:
    """A local causal language model, asked yes-or-no questions.

    The answer is what the model expects as the next token, P(yes) / (P(yes) + P(no)), without
    generating text: the same for the same question, and never nonsense.

    Parameters
    ----------
    model : path, or (tokenizer, torch.nn.Module)
        The folder of a causal model of transformers, read without any network access and without
        running code from the folder; or a loaded pair.
    prompt : str, default=`PROMPT`
        With the fields ``{text}`` and ``{label}``. It becomes a message of the user where the
        tokenizer has a chat template.
    batch_size : int, default=8
        Questions computed together.
    max_length : int, default=1024
        Tokens of a question; of a longer one, the text is cut.
    device : str or None, default=None
        None: the CPU.

    Notes
    -----
    Needs torch and transformers. Cost: a forward pass of the model over each question.

    Examples
    --------
    >>> from skxmc.neural import TransformersTeacher
    >>> TransformersTeacher("models/small-instruct")  # loaded by the first question
    TransformersTeacher('models/small-instruct')
    """

    def __init__(self, model, prompt=PROMPT, *, batch_size=8, max_length=1024, device=None):
        if batch_size < 1 or max_length < 1:
            raise ValueError("batch_size and max_length must be at least 1.")
        self.model = model
        self.prompt = _check_prompt(prompt)
        self.batch_size = batch_size
        self.max_length = max_length
        self.device = device
        self._loaded = None

    @property
    def cache_key(self):
        """What the answers depend on, beside the texts."""
        name = self.model if isinstance(self.model, (str, os.PathLike)) else "pair"
        return _digest("transformers", str(name), self.prompt, self.max_length)

    def __repr__(self):
        named = isinstance(self.model, (str, os.PathLike))
        name = str(self.model) if named else type(self.model[1]).__name__
        return f"TransformersTeacher({name!r})"

    def __call__(self, texts, label_texts):
        """Answers to pairs of text and label text, float64 of shape (n,) in [0, 1]."""
        if self._loaded is None:
            from skxmc.neural.torch_teacher import YesOrNo

            self._loaded = YesOrNo(self.model, self.device)
        return self._loaded.answers(
            self.prompt, list(texts), list(label_texts), self.batch_size, self.max_length
        )

    def __getstate__(self):
        return {**self.__dict__, "_loaded": None}
