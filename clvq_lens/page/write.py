"""The page as one file: template, style, scripts and data in it, and nothing from elsewhere."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from clvq_lens.page.contents import Contents
from clvq_lens.page.payload import payload
from clvq_lens.writing import check_file, write_atomically

_STATIC = files("clvq_lens.page") / "static"
_SCRIPTS = (  # in the order in which they need each other
    "dom.js",
    "data.js",
    "figures.js",
    "items.js",
    "overview.js",
    "codes.js",
    "code.js",
    "flow.js",
    "texts.js",
    "evaluation.js",
    "keyboard.js",
    "router.js",
)
_PAGE_BYTES = 6 * 2**20  # the scripts alone are 4 MB
# Characters that could end the element that holds the data, end a line in a script, or that
# cannot be written as UTF-8 at all.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def check_path(path: str | Path) -> Path:
    """The path of a page, which can be written.

    Raises:
        PathError: If it is a folder, a link or a device, lies in a folder that does not exist, or
            on a disk that is full.
    """
    return check_file(path, size_bytes=_PAGE_BYTES)


def write_page(path: str | Path, contents: Contents) -> Path:
    """Writes the page; an interrupted write leaves what was there before.

    Args:
        path: Of the .html file, in a folder that exists.
        contents: What it shows.

    Raises:
        PathError: If nothing can be written there.
    """
    path = check_path(path)
    write_atomically(path, render(payload(contents)).encode())
    return path


def render(data: dict[str, Any]) -> str:
    """The page as text. Only scripts whose hashes it names may run in it, and none may load more.

    Args:
        data: From `payload`.
    """
    environment = Environment(
        loader=PackageLoader("clvq_lens.page"), autoescape=True, undefined=StrictUndefined
    )
    scripts = [_inline(get_plotlyjs()), _inline(_script())]
    return environment.get_template("page.html").render(
        title=data["title"],
        policy=_policy(scripts),
        style=Markup(_read("page.css")),
        data=Markup(as_json(data)),
        scripts=[Markup(script) for script in scripts],
    )


def as_json(data: Any) -> str:
    """JSON that can stand inside an HTML element, whatever texts are in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _script() -> str:
    """All of our scripts as one, none of whose names can be seen from outside."""
    return "\n".join(["(() => {", '"use strict";', *map(_read, _SCRIPTS), "start();", "})();"])


def _read(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script as the content of an element: nothing in it ends the element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Sequence[str]) -> str:
    """A Content-Security-Policy; plotly writes styles and draws from data: and blob: images."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        f"img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
