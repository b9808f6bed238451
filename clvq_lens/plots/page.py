"""One self-contained HTML page of figures, which opens from disk without a network."""

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment
from markupsafe import Markup

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
  body { margin: 0 auto; max-width: 1100px; padding: 24px 16px;
         font-family: Inter, Helvetica, Arial, sans-serif; color: CanvasText; background: Canvas; }
  h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
  section { margin: 24px 0; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for figure in figures %}<section>{{ figure }}</section>
{% endfor %}
</body>
</html>
"""


def write_page(path: Path, title: str, figures: Sequence[go.Figure]) -> Path:
    """Writes figures one below the other; the plotly script is inside the page, once.

    Args:
        path: Of the page.
        title: Escaped.
        figures: At least one.
    """
    parts = [
        Markup(
            figure.to_html(
                full_html=False,
                include_plotlyjs=index == 0,
                config={"responsive": True, "displaylogo": False, "displayModeBar": False},
                div_id=f"figure-{index}",
            )
        )
        for index, figure in enumerate(figures)
    ]
    template = Environment(autoescape=True).from_string(_TEMPLATE)
    path.write_text(template.render(title=title, figures=parts), encoding="utf-8")
    return path
