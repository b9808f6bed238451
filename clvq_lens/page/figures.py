"""The figures of a page, as specifications that plotly.js draws when their view is shown."""

import json
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from clvq_lens.page.contents import Contents
from clvq_lens.plots.codebook import plot_codebook
from clvq_lens.plots.concepts import plot_usage
from clvq_lens.plots.evaluation import plot_cross_entropy, plot_recovery

_TITLE = 30  # pixels that a title takes


def figures(contents: Contents, names: Mapping[str, Mapping[int, str]]) -> dict[str, Any]:
    """Every figure by name.

    Args:
        contents: Of the page.
        names: What the codes of each quantizer mean, by its name.
    """
    report, table = contents.report, contents.concepts
    usage = table.frame().sort_values("code")["usage"].to_numpy()
    found = {"usage": plot_usage(usage)}
    vectors = contents.quantizer.codebook.vectors.float().cpu().numpy()
    found["codebook"] = plot_codebook(vectors, usage, table.labels())
    if contents.history is not None and contents.history.records:
        found["history"] = contents.history.plot()
    if report.ce_clean is not None:
        found["cross_entropy"] = plot_cross_entropy(report.frame())
    if report.norms is not None:
        found["norms"] = report.norms.plot()
    if report.recovery is not None:
        found["recovery"] = plot_recovery(report.recovery.frame())
    found["flow"] = contents.flow.plot(names)
    return {name: _specification(figure) for name, figure in found.items()}


def _specification(figure: go.Figure) -> dict[str, Any]:
    """Data and layout, without the title: the page has headings."""
    specification = json.loads(str(figure.to_json()))
    layout = specification["layout"]
    layout.pop("title", None)
    layout["margin"]["t"] = max(0, layout["margin"]["t"] - _TITLE)
    return specification
