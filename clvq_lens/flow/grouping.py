"""What of a flow is drawn: which nodes are summed, and which tokens are left out."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int

from clvq_lens.arguments import CodeNames
from clvq_lens.errors import ConfigError, DataError
from clvq_lens.flow.steps import FlowStage
from clvq_lens.plots.sankey import Groups

GroupBy = Literal["word_classes", "token_labels", "names", "none"] | Groups


def grouping(by: GroupBy, known: Mapping[str, Groups], names: Mapping[str, CodeNames]) -> Groups:
    """The groups that a figure asks for.

    Args:
        by: "word_classes", "token_labels", "names", "none", or the groups themselves.
        known: The first two, as far as the flow has them.
        names: Names of the codes of each quantizer.

    Raises:
        ConfigError: If there is no such way to group.
        DataError: If the flow was computed without labels.
    """
    if not isinstance(by, str):
        return by
    if by == "none":
        return {}
    if by == "names":
        # Tokens are called what they are, so their stages keep the classes of words.
        return {**known.get("word_classes", {}), **names}
    if by == "word_classes":
        return known.get("word_classes", {})
    if by != "token_labels":
        raise ConfigError(
            f"by is {by!r}. Pass 'word_classes', 'token_labels', 'names', 'none', or groups of "
            f"nodes for each stage: {{'token': {{13: 'numbers'}}}}."
        )
    if "token_labels" not in known:
        raise without_labels()
    return known["token_labels"]


def without_labels() -> DataError:
    """The error for what only a flow with labels can tell."""
    return DataError(
        "This flow was computed without labels. Pass them: "
        "concept_flow(model, texts, token_labels=...), one label for each real token."
    )


def focused(
    stages: Sequence[FlowStage],
    paths: Int[np.ndarray, "n stages"],
    counts: Int[np.ndarray, " n"],
    *,
    stage: str,
    code: int,
) -> pd.DataFrame:
    """The flow of the tokens that pass through one code, as `ConceptFlow.frame` begins.

    Args:
        stages: The stages of the flow.
        paths: Its paths, one node for each stage.
        counts: Tokens on each path.
        stage: Name of the quantizer.
        code: One of its codes.

    Raises:
        ConfigError: If no path that was counted passes through the code.
    """
    names = [flow_stage.name for flow_stage in stages]
    through = paths[:, names.index(stage)] == code
    if not through.any():
        raise ConfigError(
            f"No token of this flow passes through code {code} of {stage!r}. Choose a code that "
            f"occurs in flow.frame()."
        )
    paths = paths[through]
    counts = counts[through]
    frames: list[pd.DataFrame] = []
    for index, (source, target) in enumerate(pairwise(stages)):
        # Paths that differ elsewhere share this step: their tokens add up.
        pairs, numbers = np.unique(paths[:, index : index + 2], axis=0, return_inverse=True)
        columns: dict[str, object] = {"source": source.name, "code": pairs[:, 0]}
        columns |= {"target": target.name, "next_code": pairs[:, 1]}
        columns["count"] = np.bincount(numbers.ravel(), counts).astype(np.int64)
        columns["text"] = source.texts_of(pairs[:, 0])
        columns["next_text"] = target.texts_of(pairs[:, 1])
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)
