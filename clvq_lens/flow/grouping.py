"""What of a flow is drawn: which nodes are summed, and which tokens are left out."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from clvq_lens.errors import ConfigError, DataError
from clvq_lens.flow.names import CodeNames

if TYPE_CHECKING:
    from clvq_lens.flow.result import ConceptFlow

Groups = Mapping[str, Mapping[int, str]]
"""The group of nodes of each stage, by the stage's name."""

GroupBy = Literal["classes", "labels", "names", "none"] | Groups


def grouping(by: GroupBy, known: Mapping[str, Groups], names: Mapping[str, CodeNames]) -> Groups:
    """The groups that a figure asks for.

    Args:
        by: "classes", "labels", "names", "none", or the groups themselves.
        known: The first two, as far as the flow has them.
        names: Of the codes of each quantizer.

    Raises:
        ConfigError: If there is no such way to group.
        DataError: If there are no labels.
    """
    if not isinstance(by, str):
        return by
    if by == "none":
        return {}
    if by == "names":
        return {**known.get("classes", {}), **names}  # tokens have no names but their own
    if by == "classes":
        return known.get("classes", {})
    if by != "labels":
        raise ConfigError(
            f"by is {by!r}. Pass 'classes', 'labels', 'names', 'none', or groups of nodes for each "
            f"stage: {{'token': {{13: 'numbers'}}}}."
        )
    if "labels" not in known:
        raise DataError(
            "This flow was computed without labels. Pass them: "
            "concept_flow(model, texts, labels=...), one label for each real token."
        )
    return known["labels"]


def focused(flow: "ConceptFlow", stage: str, code: int) -> pd.DataFrame:
    """The flow of the tokens that pass through one code, as `ConceptFlow.frame` begins.

    Args:
        flow: Whose paths are counted.
        stage: The name of the quantizer.
        code: One of its codes.

    Raises:
        ConfigError: If no path that was counted passes through it.
    """
    names = [each.name for each in flow.stages]
    through = flow.path_nodes[:, names.index(stage)] == code
    if not through.any():
        raise ConfigError(
            f"No token of this flow passes through code {code} of {stage!r}. Choose a code that "
            f"occurs in flow.frame()."
        )
    paths, counts = flow.path_nodes[through], flow.path_counts[through]
    frames = []
    for index, (here, following) in enumerate(pairwise(flow.stages)):
        pairs, numbers = np.unique(paths[:, index : index + 2], axis=0, return_inverse=True)
        columns: dict[str, Any] = {"source": here.name, "code": pairs[:, 0]}
        columns |= {"target": following.name, "next_code": pairs[:, 1]}
        columns["count"] = np.bincount(numbers.ravel(), counts).astype(np.int64)
        columns["text"] = here.texts_of(pairs[:, 0])
        columns["next_text"] = following.texts_of(pairs[:, 1])
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)
