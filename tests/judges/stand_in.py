"""A server that stands in for vLLM and its like: in a thread, on a free port of this machine."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


@dataclass
class StandIn:
    """A server, and what it was asked.

    Attributes:
        url: Its address, for ``base_url``.
        reply: What it answers to the body of a request; tests exchange it.
        asked: The bodies of the requests so far.
        headers: Their headers.
        paths: Their paths.
        n_connections: How many connections were opened.
    """

    url: str
    reply: Callable[[dict[str, Any]], Reply]
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    n_connections: int = 0

    def says(self, say: Callable[[str], str]) -> None:
        """Answers prompts by a function of their text."""
        self.reply = lambda body: completion(say(body["messages"][-1]["content"]))

    def refuses(self, status: int, said: str = "", **headers: str) -> None:
        """Answers everything with a status."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.reply = lambda _: (status, named, said.encode())


def completion(text: str | None, **of_choice: Any) -> Reply:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, **of_choice}
    content = {"object": "chat.completion", "choices": [choice]}
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A server that says yes to everything until it is told otherwise."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open, as those of real servers

        def setup(self) -> None:
            super().setup()
            served.n_connections += 1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.asked.append(body)
            served.headers.append(dict(self.headers))
            served.paths.append(self.path)
            status, headers, content = served.reply(body)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            served.paths.append(self.path)  # nobody should ask for anything
            self.send_error(405)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # of a client that has gone
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served = StandIn(f"http://127.0.0.1:{server.server_port}/v1", lambda _: completion("Yes"))
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
