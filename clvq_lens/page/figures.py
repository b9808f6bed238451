"""The figures of a page, as specifications that plotly.js draws when their view is shown."""

import json
from typing import Any

import plotly.graph_objects as go

from clvq_lens.page.contents import Contents
from clvq_lens.plots.concepts import plot_usage
from clvq_lens.plots.evaluation import plot_cross_entropy, plot_recovery


def figures(contents: Contents) -> dict[str, Any]:
    """Every figure by name."""
    report, table = contents.report, contents.concepts
    usage = contents.concepts.frame().sort_values("code")["usage"].to_numpy()
    found = {"usage": plot_usage(usage)}
    if contents.history is not None and contents.history.records:
        found["history"] = contents.history.plot()
    if report.ce_clean is not None:
        found["cross_entropy"] = plot_cross_entropy(report.frame())
    if report.recovery is not None:
        found["recovery"] = plot_recovery(report.recovery.frame())
    found["flow"] = contents.flow.plot({contents.name: table.labels()})
    return {name: _specification(figure) for name, figure in found.items()}


def _specification(figure: go.Figure) -> dict[str, Any]:
    """Data and layout; a figure's own title is left out, because the page has headings."""
    return json.loads(figure.to_json())  # pyright: ignore[reportArgumentType]
