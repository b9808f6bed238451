"""The figures of a page, as specifications that plotly.js draws when their view is shown."""

import json
from typing import NamedTuple

import plotly.graph_objects as go

from clvq_lens.flow.grouping import GroupBy
from clvq_lens.page.contents import Contents
from clvq_lens.page.texts import Names
from clvq_lens.plots.codebook_map import plot_codebook
from clvq_lens.plots.concepts import plot_usage
from clvq_lens.plots.evaluation_panels import plot_cross_entropy, plot_recovery

_TITLE_HEIGHT = 30  # pixels
_N_NODES = 15  # nodes of each stage in the diagram of the flow that is shown first
_MOST_NODES = 30  # nodes of each stage in the largest diagram


class FlowChoice(NamedTuple):
    """One of the diagrams of the flow among which a reader chooses.

    Attributes:
        figure: Name of the figure.
        title: Description of the diagram for the reader.
        n_nodes: How many nodes of each stage stand for themselves.
        by: How the other nodes are grouped.
    """

    figure: str
    title: str
    n_nodes: int
    by: GroupBy


def flow_choices(contents: Contents) -> list[FlowChoice]:
    """The diagrams of the flow; the page shows the first one until the reader chooses another.

    Args:
        contents: The contents of the page.
    """
    title = f"{_N_NODES} nodes a stage, others by word class"
    choices = [FlowChoice("flow", title, _N_NODES, "word_classes")]
    largest = max(stage.n_nodes for stage in contents.flow.stages)
    if largest > _N_NODES:
        title = f"{_MOST_NODES} nodes a stage, others by word class"
        choices.append(FlowChoice("flow_large", title, _MOST_NODES, "word_classes"))
    choices.append(FlowChoice("flow_classes", "word classes alone", 0, "word_classes"))
    if "token_labels" in contents.flow.groups:
        title = "the given labels alone"
        choices.append(FlowChoice("flow_token_labels", title, 0, "token_labels"))
    if any(concept.name for concept in contents.concepts):
        choices.append(FlowChoice("flow_names", "concepts of the same name as one", 0, "names"))
    return choices


def figures(contents: Contents, names: Names) -> dict[str, dict[str, object]]:
    """The specification of every figure, by the name of the figure.

    Args:
        contents: The contents of the page.
        names: Names of the codes of each quantizer.
    """
    evaluation, table = contents.evaluation, contents.concepts
    usage = table.frame().sort_values("code")["usage"].to_numpy()
    vectors = contents.quantizer.codebook.vectors.float().cpu().numpy()
    drawn = {
        "usage": plot_usage(usage),
        "codebook": plot_codebook(vectors, usage, table.names()),
    }
    if contents.history is not None and contents.history.records:
        drawn["history"] = contents.history.plot()
    if evaluation.ce_clean is not None:
        drawn["cross_entropy"] = plot_cross_entropy(evaluation.frame())
    if evaluation.norms is not None:
        drawn["norms"] = evaluation.norms.plot()
    if evaluation.recovery is not None:
        drawn["recovery"] = plot_recovery(evaluation.recovery.frame())
    for choice in flow_choices(contents):
        drawn[choice.figure] = contents.flow.plot(names, n_nodes=choice.n_nodes, by=choice.by)
    specifications = {}
    for name, figure in drawn.items():
        specifications[name] = _specification(figure)
    return specifications


def _specification(figure: go.Figure) -> dict[str, object]:
    """Data and layout of a figure without its title, since the page has headings."""
    # Through JSON, so that the arrays of plotly become plain lists.
    specification = json.loads(str(figure.to_json()))
    layout = specification["layout"]
    layout.pop("title", None)
    layout["margin"]["t"] = max(0, layout["margin"]["t"] - _TITLE_HEIGHT)
    # The legend stands as far below the top of the figure as before, less the title.
    layout["legend"]["y"] += _TITLE_HEIGHT / layout["height"]
    return specification
