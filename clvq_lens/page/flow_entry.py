"""The flow of concepts, as plain data: tables, and what each code goes on to and comes from."""

import numpy as np
import pandas as pd
from jaxtyping import Int

from clvq_lens.flow.concept_flow import ConceptFlow
from clvq_lens.flow.steps import FlowStage
from clvq_lens.page.contents import Contents
from clvq_lens.page.figures import flow_choices
from clvq_lens.page.plain import plain_table, with_text_keys
from clvq_lens.page.texts import Names

_N_ROWS = 20  # rows of a table
_N_NEIGHBORS = 12  # nodes shown for each code in the stage before it and in the stage after it


def flow_entry(contents: Contents, names: Names) -> dict[str, object]:
    """Everything on the view of the flow, and the neighbors of each code.

    Args:
        contents: The contents of the page.
        names: Names of the codes of each quantizer.
    """
    flow = contents.flow
    return {
        "choices": [[choice.figure, choice.title] for choice in flow_choices(contents)],
        "neighbors": _neighbors(contents, names),
        "summary": plain_table(flow.summary().dropna(axis="columns", how="all")),
        "events": plain_table(_events(flow, names)),
        "paths": plain_table(_paths(flow, names)),
        "agreement": None if flow.agreements is None else plain_table(flow.agreement()),
    }


def _events(flow: ConceptFlow, names: Names) -> pd.DataFrame:
    """Persistent, splitting and merging concepts, each as its codes and their names."""
    events = flow.events(names).head(_N_ROWS)
    if not events.empty:
        for codes_column, name_column in (("codes", "name"), ("next_codes", "next_name")):
            cells = []
            for codes, name in zip(events[codes_column], events[name_column], strict=True):
                cells.append(f"{' | '.join(map(str, codes))}: {name}")
            events[codes_column] = cells
    return events.drop(columns=["name", "next_name"])


def _paths(flow: ConceptFlow, names: Names) -> pd.DataFrame:
    """The commonest paths; each code is a pair of number and name, so that it can be a link."""
    paths = flow.paths(_N_ROWS)
    unused = []
    for stage in flow.stages:
        if stage.kind == "codes":
            stage_names = names.get(stage.name, {})
            cells = []
            for code in paths[stage.name].tolist():
                cells.append([code, stage_names.get(code, "")])
            paths[stage.name] = cells
        else:
            unused.append(f"{stage.name}_id")  # the text of a token is in a column of its own
    if flow.path_error == 0:
        unused.append("at_most")  # repeats the count where all paths were counted
    return paths.drop(columns=unused)


def _neighbors(contents: Contents, names: Names) -> list[dict[str, object]]:
    """The commonest nodes before and after each code of the page's quantizer.

    The token at the beginning is left out: the page lists it among the tokens of the code.
    """
    neighbors = []
    for step in contents.flow.steps:
        if step.source.name == contents.name and step.target.kind != "token":
            entry = _stage_beside(step.target, names, step.codes, step.next_codes, step.counts)
            neighbors.append({"comes": "after", **entry})
        if step.target.name == contents.name and step.source.kind != "token":
            entry = _stage_beside(step.source, names, step.next_codes, step.codes, step.counts)
            neighbors.append({"comes": "before", **entry})
    return neighbors


def _stage_beside(
    stage: FlowStage,
    names: Names,
    codes: Int[np.ndarray, " m"],
    nodes: Int[np.ndarray, " m"],
    counts: Int[np.ndarray, " m"],
) -> dict[str, object]:
    """The commonest nodes of a stage beside each code, and what these nodes are called.

    Args:
        stage: The stage before the page's quantizer, or the one after it.
        names: Names of the codes of each quantizer.
        codes: Code of each pair.
        nodes: Node of the stage of each pair.
        counts: Tokens of each pair.
    """
    rows: dict[str, list[list[int]]] = {}
    shown: set[int] = set()
    # A stable sort: pairs with the same count stay in the order of their codes.
    for pair in np.argsort(-counts, kind="stable").tolist():
        code_rows = rows.setdefault(str(codes[pair]), [])
        if len(code_rows) < _N_NEIGHBORS:
            code_rows.append([int(nodes[pair]), int(counts[pair])])
            shown.add(int(nodes[pair]))
    return {
        "stage": stage.name,
        "are_codes": stage.kind == "codes",
        "names": _node_names(stage, sorted(shown), names),
        "codes": rows,
    }


def _node_names(stage: FlowStage, nodes: list[int], names: Names) -> dict[str, str]:
    """What some nodes are called: the names of codes, or the texts of tokens."""
    if stage.kind != "codes":
        texts = stage.texts_of(np.array(nodes, dtype=np.int64))
        return with_text_keys(dict(zip(nodes, texts, strict=True)))
    code_names = names.get(stage.name, {})
    return with_text_keys({code: code_names.get(code, "") for code in nodes})
