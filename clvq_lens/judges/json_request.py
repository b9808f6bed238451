"""One request to a server, with errors that say what to do, and with patience while it is busy."""

import ipaddress
import json
import math
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from clvq_lens.errors import ConfigError, JudgeError

_BUSY = {429, 502, 503, 504}
_UNREACHABLE = (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError)
# A server that restarts, or one that closes an idle connection just when it is used again.
_DROPPED = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError)
_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between tries
_LONGEST_WAIT_S = 60.0  # that a server may ask for
_MOST_QUOTED = 300  # characters of what a server says


class Secret:
    """A key that no repr shows.

    Args:
        key: The key.

    Raises:
        ConfigError: If no HTTP header can hold it; the error does not show it either.
    """

    def __init__(self, key: str) -> None:
        if not key or not key.isascii() or not key.isprintable() or key != key.strip():
            raise ConfigError(
                "api_key is empty, or has spaces around it, a line break, or characters that no "
                "key has. Pass it without them: key.strip()."
            )
        self._key = key

    def __repr__(self) -> str:
        return "Secret(...)"

    def header(self) -> dict[str, str]:
        """The header that shows the key to a server."""
        return {"Authorization": f"Bearer {self._key}"}

    def removed_from(self, text: str) -> str:
        """A text, such as the complaint of a server, without the key."""
        return text.replace(self._key, "...")


def open_client(
    base_url: str, api_key: Secret | None, *, n_parallel: int, timeout_s: float
) -> httpx2.Client:
    """What sends requests to a server, and keeps connections to it open; close it.

    It follows no redirection: another address was not asked for, and must get neither texts nor
    the key.

    Args:
        base_url: Address of the server.
        api_key: Key that is sent; None: none.
        n_parallel: Requests at the same time.
        timeout_s: Seconds to wait for an answer.

    Raises:
        ConfigError: If the environment names a proxy that cannot be used.
    """
    try:
        return httpx2.Client(
            headers={} if api_key is None else api_key.header(),
            timeout=timeout_s,
            limits=httpx2.Limits(max_connections=n_parallel),
            # No proxy leads to this machine.
            trust_env=not _is_this_machine(urlsplit(base_url).hostname or ""),
        )
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise ConfigError(
            f"The proxy in the environment cannot be used: {error} Set http_proxy, https_proxy "
            f"and all_proxy to addresses that begin with http://, or unset them."
        ) from error


def post_json(
    client: httpx2.Client,
    url: str,
    content: Mapping[str, Any],
    *,
    model: str,
    api_key: Secret | None,
    given_up: threading.Event,
) -> Any:
    """What a server answers to a JSON object.

    Args:
        client: What sends it.
        url: Where it is sent.
        content: The object.
        model: Name of the model that is asked for, for errors.
        api_key: The key that the client sends, which no error shows.
        given_up: Set by somebody else once the answer is of no use any more; then a server that is
            busy, or has dropped the connection, is not asked again.

    Raises:
        JudgeError: If the server cannot be reached, refuses, or answers with something else.
    """
    body = json.dumps(content)  # in ASCII, whatever a text from data holds
    headers = {"Content-Type": "application/json"}
    for wait_s in (*_WAITS_S, None):
        wished = None
        try:
            response = client.post(url, content=body, headers=headers)
        except _UNREACHABLE as error:
            failure = _unreachable(url, error, client.timeout.read)
            may_pass = isinstance(error, _DROPPED)
        else:
            if response.is_success:
                return _parsed(url, response)
            failure = _refusal(url, response, model, api_key)
            wished = response.headers.get("Retry-After")
            may_pass = response.status_code in _BUSY
        if not may_pass or wait_s is None or _pause(_wait_s(wished, wait_s), given_up):
            raise failure


def quoted(said: str, api_key: Secret | None) -> str:
    """What a server says, for an error: one short line, without the key.

    Args:
        said: Its words.
        api_key: The key that was sent to it; None: none.
    """
    if api_key is not None:
        said = api_key.removed_from(said)
    return " ".join(said.split())[:_MOST_QUOTED]


def _parsed(url: str, response: httpx2.Response) -> Any:
    """What an answer says.

    Raises:
        JudgeError: If it is not JSON.
    """
    try:
        return response.json()
    except ValueError as error:
        raise JudgeError(
            f"{url} answered with something that is not JSON. Check that base_url is the address "
            f"of a server that speaks OpenAI's chat completions, usually with /v1 at its end."
        ) from error


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _pause(seconds: float, given_up: threading.Event) -> bool:
    """Waits, but not after somebody gave up; whether they did."""
    return given_up.wait(seconds)


def _wait_s(wished: str | None, otherwise_s: float) -> float:
    """Seconds until the next try: what the server wishes, within bounds."""
    try:
        wished_s = float(wished or "")
    except ValueError:  # it may be a date, too
        return otherwise_s
    return min(max(wished_s, 0.0), _LONGEST_WAIT_S) if math.isfinite(wished_s) else otherwise_s


def _refusal(url: str, response: httpx2.Response, model: str, api_key: Secret | None) -> JudgeError:
    """The error for a status that is not 200."""
    status = response.status_code
    said = quoted(response.text, api_key) or response.reason_phrase
    if status in (401, 403):
        key = "Pass api_key" if api_key is None else "Check api_key"
        remedy = f"{key}: the server wants one that may use {model!r}."
    elif status == 404:
        remedy = (
            f"Check that the server has the model {model!r} (GET .../models lists what it has), "
            f"and that base_url is right, usually with /v1 at its end."
        )
    elif status in _BUSY:
        remedy = (
            "It was asked several times. Call again later, with a smaller n_parallel; with "
            "cache=folder what was answered is not asked again."
        )
    elif 300 <= status < 400:
        remedy = "It points to another address, which is not followed. Pass that as base_url."
    else:
        remedy = (
            "Fix what it complains about; fields of the request can be set by name, such as "
            "temperature=1."
        )
    return JudgeError(f"{url} refuses ({status}: {said}). {remedy}")


def _unreachable(url: str, error: Exception, timeout_s: float | None) -> JudgeError:
    """The error for a server that gave no answer."""
    if isinstance(error, httpx2.TimeoutException):
        return JudgeError(
            f"{url} did not answer within {timeout_s:g} seconds. Pass a larger timeout_s, or a "
            f"smaller n_parallel."
        )
    return JudgeError(
        f"{url} cannot be reached ({error}). Start the server, or check "
        f"base_url; with cache=folder what was answered before is not asked again."
    )
