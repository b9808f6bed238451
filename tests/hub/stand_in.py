"""A stand-in for the Hub on this computer: what its client asks when we push and load.

Repositories are lists of commits in memory. Files named ``*.safetensors`` go through the Git LFS
protocol, as on the Hub; others are part of the commit.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits by hash, branches by name."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        text = repr((len(self.commits), sorted(files.items())))
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name

    def at(self, revision: str) -> tuple[str, Files] | None:
        name = self.branches.get(revision, revision)
        return (name, self.commits[name]) if name in self.commits else None


@dataclass
class Hub:
    """The state of the stand-in, and what it was asked.

    Attributes:
        address: Address of the server.
        tokens: Access tokens that may read and write everything.
        requests: Method and path of each request, in order.
        bodies: Bodies of the requests, and all headers except the one that holds the token.
        refuse_card: Message with which model cards are refused.
        refuse_objects: Whether large files are refused.
    """

    address: str = ""
    tokens: set[str] = field(default_factory=lambda: {"hf_mine"})
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    refuse_card: str | None = None
    refuse_objects: bool = False

    def add(self, repo: str, files: Files, **options: Any) -> Repository:
        repository = self.repositories[repo] = Repository(**options)
        repository.commit("main", {".gitattributes": b"", **files})
        return repository

    def files(self, repo: str, revision: str = "main") -> Files:
        found = self.repositories[repo].at(revision)
        assert found is not None
        return found[1]

    def fetched(self) -> list[str]:
        """Names of the files that were downloaded, in order."""
        paths = [path for method, path in self.requests if method == "GET" and "/resolve/" in path]
        return [path.rsplit("/", 1)[1] for path in paths]

    def writes(self) -> list[str]:
        return [path for method, path in self.requests if method != "GET" and method != "HEAD"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    # ---- answers -------------------------------------------------------------------------------

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str = "no") -> None:
        self.answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    @property
    def knows_user(self) -> bool:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.hub.tokens

    def repository(self, name: str) -> Repository | None:
        """The repository, if this request may read it; else it is refused."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.knows_user):
            self.refuse(404, "RepoNotFound")
            return None
        if found.gated and not self.knows_user:
            self.refuse(403, "GatedRepo")
            return None
        return found

    # ---- requests ------------------------------------------------------------------------------

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        kept = {name: text for name, text in self.headers.items() if name != "Authorization"}
        kept.pop("authorization", None)
        self.hub.bodies += [body, repr(kept).encode()]
        match path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["api", "validate-yaml"] if self.hub.refuse_card:
                self.answer(400, {"errors": [{"message": self.hub.refuse_card}], "warnings": []})
            case ["api", "validate-yaml"]:
                self.answer(200, {"errors": [], "warnings": []})
            case ["api", "models", user, name]:
                self.info(f"{user}/{name}", "main")
            case ["api", "models", user, name, "revision", revision]:
                self.info(f"{user}/{name}", unquote(revision))
            case ["api", "models", user, name, "branch", branch]:
                self.branch(f"{user}/{name}", unquote(branch), json.loads(body))
            case ["api", "models", _, _, "preupload", _]:
                modes = [
                    (f["path"], f["path"].endswith(".safetensors"))
                    for f in json.loads(body)["files"]
                ]
                files = [
                    {"path": p, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
                    for p, lfs in modes
                ]
                self.answer(200, {"files": files})
            case ["api", "models", user, name, "commit", revision]:
                self.commit(f"{user}/{name}", unquote(revision), body)
            case [_, _, "info", "lfs", "objects", "batch"]:
                self.batch(json.loads(body))
            case ["lfs", _] if self.hub.refuse_objects:
                self.refuse(403, "", "No space left for you")
            case ["lfs", oid]:
                self.hub.objects[oid] = body
                self.answer(200)
            case [user, name, "resolve", revision, file]:
                self.resolve(f"{user}/{name}", unquote(revision), unquote(file))
            case _:
                self.answer(501)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815

    def create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization'] or 'user'}/{asked['name']}"
        if not self.knows_user:
            return self.refuse(401, "", "Invalid username or password.")
        if repo in self.hub.repositories:
            return self.answer(409, {"url": f"{self.hub.address}/{repo}", "error": "exists"})
        self.hub.add(repo, {}, private=asked.get("visibility") == "private")
        return self.answer(200, {"url": f"{self.hub.address}/{repo}"})

    def info(self, repo: str, revision: str) -> None:
        if (repository := self.repository(repo)) is None:
            return None
        if (found := repository.at(revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        siblings = [{"rfilename": name} for name in found[1]]
        about = {"id": repo, "sha": found[0], "siblings": siblings, "private": repository.private}
        return self.answer(200, about)

    def branch(self, repo: str, branch: str, asked: dict[str, Any]) -> None:
        repository = self.hub.repositories[repo]
        if branch in repository.branches:
            return self.answer(409, {"error": "Reference already exists"})
        repository.branches[branch] = asked["startingPoint"]
        return self.answer(200, {})

    def batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{wanted['oid']}"}}}
            for wanted in asked["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, repo: str, branch: str, body: bytes) -> None:
        repository = self.hub.repositories[repo]
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if not self.knows_user:
            return self.refuse(403, "", "You have no right to write")
        if header.get("parentCommit") not in (None, repository.branches[branch]):
            return self.refuse(412, "", "A commit has happened since")
        files = dict(repository.commits[repository.branches[branch]])
        for line in lines[1:]:
            path, value = line["value"]["path"], line["value"]
            if line["key"] == "file":
                files[path] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[path] = self.hub.objects[value["oid"]]
            else:
                del files[path]
        name = repository.commit(branch, files)
        address = f"{self.hub.address}/{repo}/commit/{name}"
        return self.answer(200, {"commitUrl": address, "commitOid": name, "success": True})

    def resolve(self, repo: str, revision: str, file: str) -> None:
        if (repository := self.repository(repo)) is None:
            return None
        if (found := repository.at(revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        name, files = found
        if file not in files:
            return self.refuse(404, "EntryNotFound")
        etag = hashlib.sha256(files[file]).hexdigest()
        return self.answer(200, files[file], ETag=f'"{etag}"', X_Repo_Commit=name)


@contextmanager
def running() -> Iterator[Hub]:
    """A stand-in at an address of its own, while open."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
