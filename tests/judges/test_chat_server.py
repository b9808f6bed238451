import json
import logging
import re
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import clvq_lens as cl
from clvq_lens.concepts.detection import detection
from clvq_lens.errors import ConfigError, JudgeError
from clvq_lens.judges import json_request
from clvq_lens.judges.prompts import judging_prompt
from tests.concepts.test_detection import TABLE, WORDS
from tests.judges.stand_in import StandIn, completion, stand_in
from tests.judges.test_language_judge import Words

KEY = "sk-5ecret-0123456789"


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as served:
        served.says(Words()._answer)
        yield served


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited between tries, without waiting."""
    waited: list[float] = []

    def pause(seconds: float, given_up: threading.Event) -> bool:
        waited.append(seconds)
        return given_up.is_set()

    monkeypatch.setattr(json_request, "_pause", pause)
    return waited


def test_a_server_names_codes_and_judges_names(server: StandIn):
    judge = cl.judges.openai(server.url, "words-1")
    named = TABLE.named(judge)
    assert named.names() == dict(enumerate(WORDS))
    assert detection(named, judge) == detection(named)
    assert repr(judge) == f"LanguageJudge(words-1 at {server.url})"
    assert set(server.paths) == {"/v1/chat/completions"}


def test_a_request_is_a_chat_completion_without_sampling(server: StandIn):
    judge = cl.judges.openai(f"{server.url}/", "words-1", seed=7)
    TABLE.named(judge)
    body = next(body for body in server.asked if "cat" in body["messages"][0]["content"])
    assert body == {
        "model": "words-1",
        "messages": [{"role": "user", "content": body["messages"][0]["content"]}],
        "max_tokens": 24,
        "temperature": 0,
        "stream": False,
        "seed": 7,
    }
    assert server.headers[0]["Content-Type"] == "application/json"
    assert "Authorization" not in server.headers[0]


def test_the_most_tokens_can_be_set(server: StandIn):
    TABLE.named(cl.judges.openai(server.url, "m", max_tokens=2_000))
    assert {body["max_tokens"] for body in server.asked} == {2_000}


def test_models_that_reason_are_asked_as_they_want_it(server: StandIn):
    fields = {"max_completion_tokens": 2_000, "temperature": 1}
    TABLE.named(cl.judges.openai(server.url, "m", **fields))
    assert server.asked[0].items() >= fields.items()
    assert "max_tokens" not in server.asked[0]
    server.reply = lambda _: completion(None, finish_reason="length")
    assert "used up 2000 tokens" in str(failure(server, **fields))


def test_answers_stay_with_their_prompts_whatever_comes_first(server: StandIn):
    def late(body: dict[str, Any]) -> Any:
        text = body["messages"][0]["content"]
        time.sleep(0.05 * ("0.0 " in text))
        return completion(Words()._answer(text))

    server.reply = late
    assert detection(TABLE, cl.judges.openai(server.url, "m")) == detection(TABLE)


def test_a_second_run_asks_nothing_even_if_the_server_is_gone(server: StandIn, tmp_path: Path):
    first = detection(TABLE, cl.judges.openai(server.url, "m", cache=tmp_path))
    n_asked = len(server.asked)
    assert detection(TABLE, cl.judges.openai(server.url, "m", KEY, cache=tmp_path)) == first
    assert len(server.asked) == n_asked
    detection(TABLE, cl.judges.openai(server.url, "another", cache=tmp_path))
    assert len(server.asked) == 2 * n_asked


# ---- what may go wrong ---------------------------------------------------------------------------


def failure(server: StandIn | str, api_key: str | None = None, **options: Any) -> JudgeError:
    url = server if isinstance(server, str) else server.url
    with pytest.raises(JudgeError, match=r"http://|some-model") as caught:
        TABLE.named(cl.judges.openai(url, "some-model", api_key, **options))
    return caught.value


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_a_server_that_is_not_there():
    error = failure(f"http://127.0.0.1:{free_port()}/v1")
    assert "cannot be reached ([Errno" in str(error)
    assert "Start the server, or check base_url" in str(error)


def test_a_host_that_does_not_exist(monkeypatch: pytest.MonkeyPatch):
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in str(failure("http://no-such-host/v1"))


def test_a_host_name_that_cannot_be_looked_up():
    assert "cannot be reached" in str(failure(f"http://{'a' * 80}/v1"))


def test_a_key_that_is_missing_and_one_that_is_wrong(server: StandIn):
    server.refuses(401, '{"error": {"message": "Invalid key."}}')
    assert 'refuses (401: {"error": {"message": "Invalid key."}}). Pass api_key' in str(
        failure(server)
    )
    assert "Check api_key: the server wants one" in str(failure(server, KEY))
    server.refuses(403)
    assert "(403: Forbidden). Check api_key" in str(failure(server, KEY))


def test_a_model_that_the_server_does_not_have(server: StandIn):
    server.refuses(404, "no such model")
    error = str(failure(server))
    assert "(404: no such model). Check that the server has the model 'some-model'" in error


def test_a_request_that_it_does_not_take(server: StandIn):
    server.refuses(400, "temperature must be 1 \n" + "x" * 1_000)
    error = str(failure(server))
    assert "(400: temperature must be 1 xxx" in error
    assert len(error) < 600
    assert "Fix what it complains about; fields of the request can be set by name" in error


def test_an_answer_that_is_not_json(server: StandIn):
    server.refuses(200, "<html>hello</html>")
    assert "something that is not JSON. Check that base_url" in str(failure(server))


@pytest.mark.parametrize("content", [[], {}, {"choices": []}, {"choices": [{"text": "x"}]}])
def test_json_that_is_no_completion(server: StandIn, content: object):
    server.refuses(200, json.dumps(content))
    said = re.escape(json.dumps(content))
    assert re.search(rf"no chat completion \({said}\)\. Check that base_url", str(failure(server)))


def test_an_error_in_an_answer_is_shown_without_the_key(server: StandIn):
    server.refuses(200, json.dumps({"error": {"message": f"{KEY} has no credit"}}))
    error = str(failure(server, KEY))
    assert "... has no credit" in error
    assert KEY not in error


def test_a_model_that_reasons_until_it_has_to_stop(server: StandIn):
    server.reply = lambda _: completion(None, finish_reason="length")
    assert "used up 24 tokens before it said anything" in str(failure(server))
    assert "Pass a larger max_tokens" in str(failure(server))


def test_an_empty_answer_is_an_answer(server: StandIn):
    server.reply = lambda _: completion("", finish_reason="stop")
    assert TABLE.named(cl.judges.openai(server.url, "m"))[0].name == ""


def test_a_server_that_takes_too_long(server: StandIn):
    given_up = threading.Event()

    def slow(_: dict[str, Any]) -> Any:
        given_up.wait(30)
        return completion("Yes")

    server.reply = slow
    error = failure(server, timeout_s=0.1, n_parallel=1)
    given_up.set()
    assert "did not answer within 0.1 seconds. Pass a larger timeout_s" in str(error)


def test_a_connection_that_stays_cut(server: StandIn, waits: list[float]):
    cut = {"Content-Length": "100", "Connection": "close"}
    server.reply = lambda _: (200, cut, b"{}")  # and never the rest
    error = str(failure(server, n_parallel=1))
    assert "cannot be reached (peer closed connection without sending complete message" in error
    assert waits[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_connection_that_is_cut_once_is_opened_again(server: StandIn, waits: list[float]):
    cut = {"Content-Length": "100", "Connection": "close"}
    answers = iter([(200, cut, b"{}")])
    server.reply = lambda _: next(answers, None) or completion("cat")
    assert TABLE.named(cl.judges.openai(server.url, "m", n_parallel=1))[0].name == "cat"
    assert waits == [1.0]


def test_prompts_of_a_batch_share_connections(server: StandIn):
    detection(TABLE, cl.judges.openai(server.url, "m", n_parallel=2))
    assert len(server.asked) > 60
    assert server.n_connections <= 2 * -(-len(server.asked) // 8)  # two for each batch of eight


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(server: StandIn, waits: list[float], status: int):
    answers = iter([(status, {"Retry-After": "3"}, b""), (status, {}, b"")])
    server.reply = lambda body: next(answers, None) or completion("Name: cat")
    judge = cl.judges.openai(server.url, "m", n_parallel=1)
    assert TABLE.named(judge)[0].name == "cat"
    assert waits == [3.0, 2.0]
    assert judge.n_asked == 4


def test_a_server_that_stays_busy_is_given_up(server: StandIn, waits: list[float]):
    server.refuses(429, "slow down")
    error = str(failure(server, n_parallel=1))
    assert "(429: slow down). It was asked several times. Call again later" in error
    assert waits[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert [body == server.asked[0] for body in server.asked[:6]] == [True] * 6


def test_nobody_waits_for_a_busy_server_after_a_failure(server: StandIn):
    def reply(body: dict[str, Any]) -> Any:
        is_first = body == server.asked[0]
        return (503, {"Retry-After": "60"}, b"") if is_first else (400, {}, b"no")

    server.reply = reply
    started = time.monotonic()
    assert "(400: no)" in str(failure(server, n_parallel=2))
    assert time.monotonic() - started < 50


@pytest.mark.parametrize(
    ("wished", "waited"),
    [("0", 0.0), ("7200", 60.0), ("-1", 0.0), ("nan", 1.0), ("Fri, 01 Jan 2038 00:00:00 GMT", 1.0)],
)
def test_how_long_is_waited_has_bounds(
    server: StandIn, waits: list[float], wished: str, waited: float
):
    answers = iter([(503, {"Retry-After": wished}, b"")])
    server.reply = lambda body: next(answers, None) or completion("cat")
    TABLE.named(cl.judges.openai(server.url, "m", n_parallel=1))
    assert waits == [waited]


def test_what_was_answered_before_a_failure_is_kept(server: StandIn, tmp_path: Path):
    def some(body: dict[str, Any]) -> Any:
        if len(server.asked) > 40:
            return 400, {}, b"enough"
        return completion(Words()._answer(body["messages"][0]["content"]))

    server.reply = some
    options = {"cache": tmp_path, "n_parallel": 2}
    with pytest.raises(JudgeError, match="400: enough"):
        detection(TABLE, cl.judges.openai(server.url, "m", **options))
    server.says(Words()._answer)
    n_asked = len(server.asked)
    assert detection(TABLE, cl.judges.openai(server.url, "m", **options)) == detection(TABLE)
    n_whole = len({judging_prompt(*each) for each in _asked_of_a_judge()})
    assert len(server.asked) - n_asked == n_whole - 40  # five batches of eight


def _asked_of_a_judge() -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def judge(name: str, contexts: tuple[str, ...]) -> list[bool]:
        asked.extend((name, context) for context in contexts)
        return [True] * len(contexts)

    detection(TABLE, judge)
    return asked


# ---- what stays secret ---------------------------------------------------------------------------


def test_the_key_is_sent_and_shown_nowhere(
    server: StandIn,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture,
):
    caplog.set_level(logging.DEBUG)
    judge = cl.judges.openai(server.url, "m", KEY, cache=tmp_path)
    TABLE.named(judge)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    server.refuses(401, f"Incorrect key provided: {KEY}.")
    error = failure(server, KEY)
    assert "Incorrect key provided: ...." in str(error)
    shown = capsys.readouterr()
    texts = [repr(judge), repr(vars(judge._answerer)), str(error), caplog.text, shown.err]
    texts.append("".join(traceback.format_exception(error)))
    texts += [path.read_text() for path in tmp_path.iterdir()]
    for text in texts:
        assert KEY not in text


@pytest.mark.parametrize("key", ["", f"{KEY}\n", f" {KEY}", "sk-\u00fc", f"{KEY}\r\nX: y"])
def test_a_key_that_no_header_takes_is_refused_without_showing_it(key: str):
    with pytest.raises(ConfigError, match=r"api_key is empty, or has.*key\.strip\(\)") as caught:
        cl.judges.openai("http://localhost/v1", "m", key)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_redirection_is_not_followed(server: StandIn):
    with stand_in() as other:
        server.refuses(307, Location=f"{other.url}/chat/completions")
        error = str(failure(server, KEY))
        server.refuses(302, Location=f"{other.url}/chat/completions")
        failure(server, KEY)
        assert other.paths == []
    assert "It points to another address, which is not followed." in error


def test_a_server_on_this_machine_is_reached_without_a_proxy(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
):
    with stand_in() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        TABLE.named(cl.judges.openai(server.url, "m"))
        assert proxy.asked == []
        TABLE.named(cl.judges.openai("http://elsewhere.invalid/v1", "m"))
        assert len(proxy.asked) == 4  # any other host is reached as the user has set it


def test_a_proxy_of_which_nothing_can_be_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("https_proxy", "gopher://proxy")
    judge = cl.judges.openai("https://elsewhere.invalid/v1", "m")
    with pytest.raises(ConfigError, match=r"The proxy in the environment cannot be used: .* Set"):
        TABLE.named(judge)


def test_without_such_a_judge_nothing_is_sent(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise AssertionError("something was sent")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    named = TABLE.named()
    detection(named)
    detection(TABLE.named(lambda examples: examples[0].token), lambda _, c: [True] * len(c))
    cl.judges.openai("http://localhost:8000/v1", "m")  # made, and not asked


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("localhost:8000", r"base_url is 'localhost:8000'\. Pass the address"),
        ("ftp://localhost/v1", "base_url is 'ftp"),
        ("http://", "base_url is 'http://'"),
        ("http://localhost:port/v1", "base_url is no address"),
        (f"http://localhost/v1?key={KEY}", "something after its path"),
        ("http://localhost/\u00fc", "characters that no address has"),
        ("http://local host/v1", "characters that no address has"),
        (f"http://me:{KEY}@localhost/v1", "Pass the key as api_key"),
    ],
)
def test_an_address_that_cannot_be_one(url: str, complaint: str):
    with pytest.raises(ConfigError, match=complaint) as caught:
        cl.judges.openai(url, "m")
    assert KEY not in str(caught.value)


def test_the_whole_address_will_do_as_well(server: StandIn):
    TABLE.named(cl.judges.openai(f"{server.url}/chat/completions", "m"))
    assert set(server.paths) == {"/v1/chat/completions"}


def test_impossible_options_are_refused(as_for_a_user):
    url = "http://localhost/v1"
    with pytest.raises(ConfigError, match="base_url is of type int"):
        cl.judges.openai(3, "m")
    with pytest.raises(ConfigError, match="model is of type NoneType"):
        cl.judges.openai(url, None)
    with pytest.raises(ConfigError, match="api_key is of type int"):
        cl.judges.openai(url, "m", 3)
    for option in ("n_parallel", "timeout_s", "max_tokens"):
        with pytest.raises(ConfigError, match=f"{option} is 0"):
            cl.judges.openai(url, "m", **{option: 0})
    with pytest.raises(ConfigError, match="messages, stream cannot be set here"):
        cl.judges.openai(url, "m", messages=[], stream=True)
    for value in (object(), float("nan")):
        with pytest.raises(ConfigError, match="A request cannot hold these fields"):
            cl.judges.openai(url, "m", seed=value)
    with pytest.raises(ConfigError, match=r"cache is of type int\. Pass the path"):
        cl.judges.openai(url, "m", cache=3)
