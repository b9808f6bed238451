"""The figures of a page, as specifications that plotly.js draws when their view is shown."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import plotly.graph_objects as go

from clvq_lens.flow.grouping import GroupBy
from clvq_lens.page.contents import Contents
from clvq_lens.plots.codebook import plot_codebook
from clvq_lens.plots.concepts import plot_usage
from clvq_lens.plots.evaluation import plot_cross_entropy, plot_recovery

_TITLE = 30  # pixels that a title takes
_MOST_NODES = 30  # of each stage in the largest diagram of the flow


class FlowChoice(NamedTuple):
    """One of the diagrams of the flow among which a reader chooses.

    Attributes:
        figure: Its name among the figures.
        title: What the reader is offered.
        n_nodes: Nodes of each stage that stand for themselves.
        by: How the others are grouped.
    """

    figure: str
    title: str
    n_nodes: int
    by: GroupBy


def flow_choices(contents: Contents) -> list[FlowChoice]:
    """The diagrams of the flow, the one that is shown first at the beginning."""
    largest = max(stage.n_nodes for stage in contents.flow.stages)
    choices = [FlowChoice("flow", "15 nodes a stage, others by word class", 15, "classes")]
    if largest > 15:
        title = f"{_MOST_NODES} nodes a stage, others by word class"
        choices.append(FlowChoice("flow_large", title, _MOST_NODES, "classes"))
    choices.append(FlowChoice("flow_classes", "word classes alone", 0, "classes"))
    if "labels" in contents.flow.groups:
        choices.append(FlowChoice("flow_labels", "the given labels alone", 0, "labels"))
    if any(concept.name for concept in contents.concepts):
        choices.append(FlowChoice("flow_names", "concepts of the same name as one", 0, "names"))
    return choices


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
    for choice in flow_choices(contents):
        found[choice.figure] = contents.flow.plot(names, n_nodes=choice.n_nodes, by=choice.by)
    return {name: _specification(figure) for name, figure in found.items()}


def _specification(figure: go.Figure) -> dict[str, Any]:
    """Data and layout, without the title: the page has headings."""
    specification = json.loads(str(figure.to_json()))
    layout = specification["layout"]
    layout.pop("title", None)
    layout["margin"]["t"] = max(0, layout["margin"]["t"] - _TITLE)
    return specification
