"""What a function returns, as the sentence that stands in the docstring.

Napoleon takes what comes before a colon for a type. Types stand in our signatures, and a colon is a
colon.
"""

import textwrap
from typing import Any

from sphinx.application import Sphinx

BEFORE_NAPOLEON = 400  # it listens with 500


def keep_sentences(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Turns the section of what is returned into a field, which napoleon leaves alone."""
    if "Returns:" not in lines:
        return
    start = lines.index("Returns:")
    end = start + 1
    while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
        end += 1
    text = textwrap.dedent("\n".join(lines[start + 1 : end])).strip().splitlines()
    lines[start:end] = [f":returns: {text[0]}", *(f"    {line}" for line in text[1:]), ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", keep_sentences, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
