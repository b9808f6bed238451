"""Concepts in the format that Neuronpedia takes: batches of features with their activations."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clvq_lens.concepts.concept import Concept, Example, TokenLogit
from clvq_lens.errors import ConfigError, PathTakenError
from clvq_lens.writing import make_folder, write_atomically

_FEATURES_PER_BATCH = 128  # the most that the server takes at once
_MODEL_ID = re.compile(r"[\w.-]+", re.ASCII)
_SOURCE = re.compile(r"\d+-[\w.-]+", re.ASCII)
_PIECE = re.compile(r"\s*\S+|\s+$")


def write_neuronpedia(
    concepts: Sequence[Concept], folder: str | Path, *, model_id: str, source: str
) -> list[Path]:
    """Writes batches of features; see `clvq_lens.ConceptTable.to_neuronpedia`."""
    _check_id("model_id", model_id, _MODEL_ID, "'gpt2-small'")
    _check_id("source", source, _SOURCE, "'8-clvq-400': a layer, a hyphen and a name")
    folder = make_folder(folder)
    paths: list[Path] = []
    for start in range(0, len(concepts), _FEATURES_PER_BATCH):
        paths.append(folder / f"features-{start:06}.json")
    others = sorted(set(folder.glob("features-*.json")) - set(paths))
    if others:
        raise PathTakenError(
            f"{others[0]} is of another table, and would be uploaded with this one. Pass a folder "
            f"of its own, or delete it."
        )
    for number, path in enumerate(paths):
        start = number * _FEATURES_PER_BATCH
        batch = [_feature(concept) for concept in concepts[start : start + _FEATURES_PER_BATCH]]
        body = {"modelId": model_id, "source": source, "features": batch}
        write_atomically(path, json.dumps(body, allow_nan=False).encode())
    return paths


def _check_id(name: str, value: object, pattern: re.Pattern[str], example: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ConfigError(
            f"{name} is {value!r}; pass the one that Neuronpedia knows, such as {example}."
        )


def _feature(concept: Concept) -> dict[str, Any]:
    """What Neuronpedia calls a feature."""
    read_out = concept.read_out
    examples: dict[tuple[int, int], Example] = {}
    for example in (*concept.typical, *concept.borderline, *concept.random):
        examples.setdefault((example.document, example.position), example)  # some are of two kinds
    named = {"text": concept.name, "methodName": None, "modelName": None}
    return {
        "index": concept.code,
        "density": concept.share,
        "activations": [_activation(example) for example in examples.values()],
        "explanations": [named] if concept.name else [],
        "topLogits": _logits(read_out.promoted) if read_out else None,
        "bottomLogits": _logits(read_out.suppressed) if read_out else None,
    }


def _activation(example: Example) -> dict[str, Any]:
    """A context, whose token with this code has a value, and all others 0."""
    before, after = _PIECE.findall(example.before), _PIECE.findall(example.after)
    return {
        "tokens": [*before, example.token, *after],
        "values": [0.0] * len(before) + [_strength(example.distance)] + [0.0] * len(after),
        "quantileMax": None,
        "quantileMin": None,
        "quantileFraction": None,
    }


def _strength(distance: float) -> float:
    """Larger for a token that is nearer, and above 0; of features, 1 more than the activation."""
    # Where codes are features, a distance is an activation with its sign changed.
    return 1 / (1 + distance) if distance > 0 else 1 - distance


def _logits(logits: Sequence[TokenLogit]) -> list[dict[str, Any]]:
    return [{"token": logit.token, "value": logit.logit} for logit in logits]
