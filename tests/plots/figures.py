"""What tests ask of every figure."""

import html
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go

HOSTILE = "<script>alert(\"1\")</script> <b>'&amp;' & $x^2$"


def strings(part: Any) -> Iterator[str]:
    """Every string anywhere in a figure."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from strings(value)
    elif isinstance(part, (list, tuple, np.ndarray)):
        for value in part:
            yield from strings(value)


def assert_harmless(figure: go.Figure) -> None:
    """The hostile text is drawn, as text: no markup but our own, no formula, escaped once."""
    found = list(strings(figure.to_dict()))
    shown = (html.unescape(text).replace("\u2423", " ") for text in found)
    assert any(HOSTILE[:14] in text for text in shown), "not drawn at all, or escaped twice"
    ours = ("<br>", "<extra></extra>", "<span style='font-size:68%'>", "</span>")
    for text in found:
        for markup in ours:
            text = text.replace(markup, "")
        assert "<" not in text, text
        assert "$" not in text, text


def axis_titles(figure: go.Figure) -> dict[str, str]:
    """The titles of all axes by name."""
    layout = figure.to_dict()["layout"]
    return {
        name: axis["title"]["text"]
        for name, axis in layout.items()
        if name.startswith(("xaxis", "yaxis")) and axis.get("title", {}).get("text")
    }


def trace(figure: go.Figure, start: str) -> Any:
    """The only trace whose name begins so."""
    [found] = [each for each in figure.data if (each.name or "").startswith(start)]
    return found
