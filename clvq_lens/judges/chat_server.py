"""A judge that is a server which speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama."""

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from clvq_lens.arguments import check_between, check_count, check_is
from clvq_lens.errors import ConfigError, JudgeError
from clvq_lens.judges.json_request import Secret, open_client, post_json, quoted
from clvq_lens.judges.language_judge import LanguageJudge

_PER_THREAD = 4  # prompts of a batch, so that no thread waits long for the slowest one
_LONGEST_S = 86_400.0  # a day; sockets take no number much larger
_OWN_FIELDS = {"model", "messages", "max_tokens", "stream"}
_NEW_LIMIT = "max_completion_tokens"  # what OpenAI's models that reason call max_tokens


def openai(
    base_url: str,
    model: str,
    api_key: str | None = None,
    *,
    cache: str | Path | None = None,
    n_parallel: int = 8,
    timeout_s: float = 120.0,
    max_tokens: int | None = None,
    **fields: Any,
) -> LanguageJudge:
    """A server as a judge: any that speaks OpenAI's chat completions.

    Such as ``vllm serve NAME`` or ``transformers serve NAME`` (http://localhost:8000/v1),
    ``llama-server -m FILE`` (http://localhost:8080/v1) or Ollama (http://localhost:11434/v1).
    **Names and contexts are sent to that address**, and nowhere else: redirections are not
    followed, and a server on this machine is reached without a proxy. Sampling is turned off
    (``temperature=0``), but servers may give another answer another day all the same.

    A server that is busy (429, 502, 503 or 504) or drops the connection is asked again up to five
    times, after the time that it names or after 1, 2, 4, 8 and 16 seconds.

    Args:
        base_url: Address of the server, up to what comes before ``/chat/completions``.
        model: Name of the model, as the server knows it.
        api_key: Key that is sent to the server, and shown and written nowhere; None: none is sent.
        cache: A folder in which answers are kept, so that a run that is interrupted goes on and a
            second one asks nothing. Answers are kept under address, model, ``fields`` and prompt.
        n_parallel: Requests at the same time.
        timeout_s: Seconds to wait for an answer.
        max_tokens: Most tokens of an answer; None: a few words' worth. Models that reason first
            need thousands.
        **fields: More fields of the request, such as ``seed=0`` or, to turn off reasoning in vLLM,
            ``chat_template_kwargs={"enable_thinking": False}``. For servers that take neither
            ``max_tokens`` nor ``temperature=0``, as OpenAI does not for its models that reason:
            ``max_completion_tokens=2000, temperature=1``.

    Raises:
        ConfigError: If address, key or an option is impossible.
        PathError: If the folder cannot be created or written to.

    Example:
        >>> judge = cl.judges.openai("http://localhost:8000/v1", "Qwen/Qwen3-8B", cache="answers")
        >>> cl.detection(table.named(judge), judge).summary()  # doctest: +SKIP
    """
    check_is("model", model, str, "Pass the name of the model, as the server knows it.")
    check_is("api_key", api_key, str | None, "Pass the key as text, or None.")
    check_count("n_parallel", n_parallel)
    check_between("timeout_s", timeout_s, 1e-3, _LONGEST_S)
    if max_tokens is not None:
        check_count("max_tokens", max_tokens)
    _check_fields(fields)
    server = ChatServer(
        _checked_url(base_url),
        model,
        None if api_key is None else Secret(api_key),
        n_parallel=n_parallel,
        timeout_s=timeout_s,
        max_tokens=max_tokens,
        fields=fields,
    )
    return LanguageJudge(server, cache)


class ChatServer:
    """A server that answers prompts.

    Args:
        base_url: Its address.
        model: Name of the model.
        api_key: Key that is sent.
        n_parallel: Requests at the same time.
        timeout_s: Seconds to wait for an answer.
        max_tokens: Most tokens of an answer; None: a few words' worth.
        fields: More fields of each request.

    Attributes:
        name: Model and address.
        batch_size: Prompts that are asked before answers are kept.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: Secret | None,
        *,
        n_parallel: int,
        timeout_s: float,
        max_tokens: int | None,
        fields: Mapping[str, Any],
    ) -> None:
        self._base_url, self._model, self._api_key = base_url, model, api_key
        self._n_parallel, self._timeout_s, self._fields = n_parallel, timeout_s, dict(fields)
        self.max_tokens = max_tokens
        self.name = f"{model} at {base_url}"
        self.batch_size = _PER_THREAD * n_parallel

    def settings(self) -> Mapping[str, Any]:
        """What tells this server from others, and how it is asked; without the key."""
        return {
            "kind": "chat completions",
            "base_url": self._base_url,
            "model": self._model,
            "fields": self._fields,
        }

    def answer(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """An answer to each prompt, several at the same time.

        Raises:
            JudgeError: If the server cannot be reached, refuses or says something else.
        """
        given_up = threading.Event()
        client = open_client(
            self._base_url, self._api_key, n_parallel=self._n_parallel, timeout_s=self._timeout_s
        )
        pool = ThreadPoolExecutor(self._n_parallel)
        try:
            answers: list[Future[str]] = []
            for prompt in prompts:
                answers.append(pool.submit(self._answer, client, prompt, max_tokens, given_up))
            done, _ = wait(answers, return_when=FIRST_EXCEPTION)
            for answer in done:
                answer.result()  # raises what went wrong first, and not what that did to others
            return [answer.result() for answer in answers]
        finally:
            given_up.set()  # nobody waits for a busy server after a failure or Ctrl-C
            pool.shutdown(cancel_futures=True)
            client.close()

    def _answer(
        self, client: httpx2.Client, prompt: str, max_tokens: int, given_up: threading.Event
    ) -> str:
        limit = {} if _NEW_LIMIT in self._fields else {"max_tokens": max_tokens}
        content = {
            "temperature": 0,
            **limit,
            **self._fields,
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": False,
        }
        completion = post_json(
            client,
            f"{self._base_url}/chat/completions",
            content,
            model=self._model,
            api_key=self._api_key,
            given_up=given_up,
        )
        return self._text_of(completion, self._fields.get(_NEW_LIMIT, max_tokens))

    def _text_of(self, completion: Any, max_tokens: object) -> str:
        """The text of a completion.

        Raises:
            JudgeError: If it has none.
        """
        try:
            choice = completion["choices"][0]
            text = choice["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise JudgeError(
                f"{self._base_url} answered with JSON that is no chat completion "
                f"({quoted(json.dumps(completion), self._api_key)}). Check that base_url is the "
                f"address of a server that speaks OpenAI's chat completions, usually with /v1 at "
                f"its end."
            ) from error
        if isinstance(text, str) and text:
            return text
        if choice.get("finish_reason") == "length":
            raise JudgeError(
                f"{self._model} used up {max_tokens} tokens before it said anything, as models "
                f"that reason do. Pass a larger max_tokens, or turn reasoning off: "
                f'chat_template_kwargs={{"enable_thinking": False}} does so in vLLM.'
            )
        return ""  # it has nothing to say, which is an answer


def _check_fields(fields: Mapping[str, Any]) -> None:
    """Raises `ConfigError` if a request cannot have such fields."""
    taken = ", ".join(sorted(_OWN_FIELDS & set(fields)))
    if taken:
        raise ConfigError(
            f"{taken} cannot be set here, since answers are read by it. Leave it out."
        )
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"A request cannot hold these fields ({error}). Pass texts, numbers, lists and "
            f"dictionaries."
        ) from error


def _checked_url(base_url: object) -> str:
    """The address without a slash at its end.

    Raises:
        ConfigError: If it cannot be one, or holds a password.
    """
    remedy = "Pass the address of a server, such as 'http://localhost:8000/v1'."
    if not isinstance(base_url, str):
        raise ConfigError(f"base_url is of type {type(base_url).__name__}. {remedy}")
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # raises for what is no number
    except ValueError as error:
        raise ConfigError(f"base_url is no address ({error}). {remedy}") from error
    if parts.username is not None or parts.password is not None:
        # Not shown: the address would be, in errors and in the cache.
        raise ConfigError("base_url holds a user name or a password. Pass the key as api_key.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"base_url is {base_url!r}. {remedy}")
    if parts.query or parts.fragment:  # not shown either: some servers take a key there
        raise ConfigError(f"base_url has something after its path. {remedy}")
    if not base_url.isascii() or not base_url.isprintable() or " " in base_url:
        raise ConfigError(
            f"base_url is {base_url!r}, with characters that no address has. {remedy}"
        )
    return base_url.rstrip("/").removesuffix("/chat/completions")
