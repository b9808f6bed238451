"""Plotly figures in pages: their data in the page, and one copy of plotly in the site.

Notebooks keep a figure as plotly's own JSON. Here it becomes an element that ``figures.js`` draws
once it comes into view.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.io as pio
from plotly.io.base_renderers import MimetypeRenderer
from plotly.offline import get_plotlyjs
from sphinx.application import Sphinx

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"  # progress bars, which a page has no use for
_MARK = "plotly-figure"


def element(figure: Mapping[str, Any]) -> str:
    """The HTML element of a figure.

    Args:
        figure: Data and layout, as plotly writes them.
    """
    specification = {"data": figure["data"], "layout": figure["layout"]}
    # "</script>" in a text of the data would end the element.
    written = json.dumps(specification).replace("<", "\\u003c")
    height = int(figure["layout"].get("height", 450))
    return (
        f'<div class="{_MARK}" style="min-height: {height}px">'
        f'<script type="application/json">{written}</script></div>'
    )


class SiteRenderer(MimetypeRenderer):
    """Shows figures of executed pages in the same way; ``show_in_pages()`` turns it on."""

    def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, str]:
        """The element of a figure, as the output of a cell."""
        return {"text/html": element(json.loads(pio.to_json(fig_dict, validate=False)))}


def show_in_pages() -> None:
    """Has every figure that a cell ends with shown as in notebooks of the site."""
    pio.renderers["site"] = SiteRenderer()
    pio.renderers.default = "site"


def shown_outputs(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs of a cell with figures as elements, and without widgets."""
    shown = []
    for output in outputs:
        data = output.get("data", {})
        if WIDGET in data:
            continue
        if PLOTLY in data:
            output = {**output, "data": {"text/html": element(data[PLOTLY])}}
        shown.append(output)
    return shown


def draw_outputs(app: Sphinx, page: str, source: list[str]) -> None:
    """Turns the figures of a notebook into elements before it is read."""
    if not str(app.env.doc2path(page)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = shown_outputs(cell["outputs"])
    source[0] = json.dumps(notebook)


def add_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Loads plotly on pages that have figures, and on no other."""
    if _MARK in context.get("body", ""):
        app.add_js_file("plotly.min.js", loading_method="defer")
        app.add_js_file("figures.js", loading_method="defer")


def write_plotly(app: Sphinx, error: Exception | None) -> None:
    """Puts plotly, as the Python package brings it, into the site."""
    if error is None and app.builder.format == "html":
        folder = Path(app.outdir) / "_static"
        (folder / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", draw_outputs)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", write_plotly)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
