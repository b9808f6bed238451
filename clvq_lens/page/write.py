"""The page as one file: template, style, scripts and data in it, and nothing from elsewhere."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
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
_PAGE_BYTES = 6 * 2**20  # the scripts alone take 4 MB
# Characters that could end the element that holds the data, or end a line in a script, and halves
# of surrogate pairs, which cannot be written as UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def check_path(path: str | Path) -> Path:
    """The path of a page, checked before anything slow.

    Args:
        path: Path of the .html file.

    Raises:
        PathError: If it is a folder, a link or a device, lies in a folder that does not exist, or
            on a disk that is full.
    """
    return check_file(path, size_bytes=_PAGE_BYTES)


def write_page(path: str | Path, contents: Contents) -> Path:
    """Writes the page; an interrupted write leaves an earlier file as it was.

    Args:
        path: Path of the .html file, in a folder that exists.
        contents: Everything that the page shows.

    Raises:
        PathError: If nothing can be written there.
    """
    path = check_path(path)
    write_atomically(path, render(payload(contents)).encode())
    return path


def compressed(page: str) -> str:
    """A page as a smaller one that unpacks itself, and is the same page then.

    A third of the size, in characters that need no escape in an attribute.

    Args:
        page: The page, from `render`.
    """
    # Without a time, so that the same page gives the same text.
    packed = gzip.compress(page.encode(), mtime=0)
    return _template("packed.html").render(packed=base64.b64encode(packed).decode())


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("clvq_lens.page"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(name)


def render(data: Mapping[str, object]) -> str:
    """The page as text. Only its own scripts may run in it, and they may load nothing.

    Args:
        data: The data, from `payload`.
    """
    # One element for plotly and one for all of ours, whose hashes the policy names.
    scripts = [_inline(get_plotlyjs()), _inline(_own_scripts())]
    return _template("page.html").render(
        title=data["title"],
        policy=_policy(scripts),
        style=Markup(_read("page.css")),
        data=Markup(as_json(data)),
        scripts=[Markup(script) for script in scripts],
    )


def as_json(data: object) -> str:
    """JSON that can stand inside an HTML element, whatever texts it holds.

    Args:
        data: Anything that JSON holds.
    """
    # NaN is refused: it is not JSON, and a browser would not read the page at all.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _own_scripts() -> str:
    """All of our scripts in one function, so that their names cannot be seen from outside."""
    return "\n".join(["(() => {", '"use strict";', *map(_read, _SCRIPTS), "start();", "})();"])


def _read(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script as the content of an element: nothing in it ends the element."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Sequence[str]) -> str:
    """A Content-Security-Policy that allows these scripts and no others."""
    hashes = []
    for script in scripts:
        digest = hashlib.sha256(script.encode()).digest()
        hashes.append(f"'sha256-{base64.b64encode(digest).decode()}'")
    # Plotly writes styles and draws from data: and blob: images.
    return (
        f"default-src 'none'; script-src {' '.join(hashes)}; style-src 'unsafe-inline'; "
        f"img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
