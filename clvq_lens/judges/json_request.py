"""One request to a server, with errors that say what to do, and with patience while it is busy.

By the standard library: this is all of HTTP that judges need, and the client of huggingface_hub
changes with its versions.
"""

import http.client
import ipaddress
import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from clvq_lens.errors import ConfigError, JudgeError

_BUSY = {429, 502, 503, 504}
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


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """Another address was not asked for, and must get neither texts nor the key."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follows nowhere: the redirection becomes an error like any other status."""
        return


def post_json(
    url: str,
    content: Mapping[str, Any],
    *,
    model: str,
    api_key: Secret | None,
    timeout_s: float,
    given_up: threading.Event,
) -> Any:
    """What a server answers to a JSON object.

    Args:
        url: Where it is sent.
        content: The object.
        model: Name of the model that is asked for, for errors.
        api_key: Key that is sent; None: none.
        timeout_s: Seconds to wait for the answer.
        given_up: Set by somebody else once the answer is of no use any more; then a busy server is
            not asked again.

    Raises:
        JudgeError: If the server cannot be reached, refuses, or answers with something else.
    """
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(content).encode(), headers, method="POST")
    if api_key is not None:
        for name, value in api_key.header().items():
            request.add_unredirected_header(name, value)
    opener = _opener(url)
    for wait_s in (*_WAITS_S, None):
        try:
            with opener.open(request, timeout=timeout_s) as response:
                body = response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, wished = error.code, error.headers.get("Retry-After")
                said = _complaint(error, api_key)
            if status not in _BUSY or wait_s is None or _pause(_wait_s(wished, wait_s), given_up):
                raise _refusal(url, status, said, model, is_keyed=api_key is not None) from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise _unreachable(url, error, timeout_s) from error
        else:
            return _parsed(url, body)


def _parsed(url: str, body: bytes) -> Any:
    """What an answer says.

    Raises:
        JudgeError: If it is not JSON.
    """
    try:
        return json.loads(body)
    except ValueError as error:
        raise JudgeError(
            f"{url} answered with something that is not JSON. Check that base_url is the address "
            f"of a server that speaks OpenAI's chat completions, usually with /v1 at its end."
        ) from error


def _opener(url: str) -> urllib.request.OpenerDirector:
    """What sends requests: not around a redirection, and not through a proxy to this machine."""
    handlers: list[urllib.request.BaseHandler] = [_NoRedirection()]
    if _is_this_machine(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


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


def _complaint(error: urllib.error.HTTPError, api_key: Secret | None) -> str:
    """What a server says of a request that it refuses, without the key."""
    try:
        said = error.read(64 * _MOST_QUOTED).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        said = ""
    if api_key is not None:
        said = api_key.removed_from(said)
    said = " ".join(said.split())
    return said[:_MOST_QUOTED] or error.reason


def _refusal(url: str, status: int, said: str, model: str, *, is_keyed: bool) -> JudgeError:
    """The error for a status that is not 200."""
    if status in (401, 403):
        key = "Check api_key" if is_keyed else "Pass api_key"
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
        remedy = "Fix what it complains about; fields of the request can be set by name."
    return JudgeError(f"{url} refuses ({status}: {said}). {remedy}")


def _unreachable(url: str, error: Exception, timeout_s: float) -> JudgeError:
    """The error for a server that gave no answer."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return JudgeError(
            f"{url} did not answer within {timeout_s:g} seconds. Pass a larger timeout_s, or a "
            f"smaller n_parallel."
        )
    return JudgeError(
        f"{url} cannot be reached ({reason}). Start the server, or check "
        f"base_url; with cache=folder what was answered before is not asked again."
    )
