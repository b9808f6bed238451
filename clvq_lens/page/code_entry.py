"""What a page says about one code, as plain data."""

from collections.abc import Iterable

from clvq_lens.concepts.concept import Concept, Counted, Example, Neighbor, TokenLogit, Unembedded
from clvq_lens.page.plain import rounded


def code_entry(concept: Concept) -> dict[str, object]:
    """Everything about one code, for the list of codes and for its own view.

    Args:
        concept: What the code means.
    """
    return {
        "code": concept.code,
        "name": concept.name,
        "title": concept.title,
        "usage": concept.usage,
        "share": rounded(concept.share),
        "token_entropy": rounded(concept.token_entropy),
        "position_entropy": rounded(concept.position_entropy),
        "tokens": _counted_rows(concept.tokens),
        "distinctive": _counted_rows(concept.distinctive),
        "token_labels": _counted_rows(concept.token_labels),
        "typical": _example_rows(concept.typical),
        "borderline": _example_rows(concept.borderline),
        "random": _example_rows(concept.random),
        # read_out is None for codes of few tokens, whose mean reconstruction says little.
        "at_target": _unembedded_entry(concept.read_out),
        "direct": _unembedded_entry(concept.direct),
        "nearest": _neighbor_rows(concept.nearest),
    }


# Rows are lists, not objects, which would repeat the names of their fields for every token.


def _counted_rows(tokens: Iterable[Counted]) -> list[list[object]]:
    rows = []
    for token in tokens:
        rows.append([token.text, token.count, rounded(token.share), rounded(token.lift)])
    return rows


def _example_rows(examples: Iterable[Example]) -> list[list[object]]:
    rows = []
    for example in examples:
        place = [example.document, example.position]
        text = [example.before, example.token, example.after]
        rows.append([*place, *text, rounded(example.distance), rounded(example.margin)])
    return rows


def _unembedded_entry(vector: Unembedded | None) -> dict[str, object] | None:
    if vector is None:
        return None
    return {
        "promoted": _logit_rows(vector.promoted),
        "suppressed": _logit_rows(vector.suppressed),
    }


def _logit_rows(tokens: Iterable[TokenLogit]) -> list[list[object]]:
    return [[token.token, rounded(token.logit)] for token in tokens]


def _neighbor_rows(neighbors: Iterable[Neighbor]) -> list[list[object]]:
    rows = []
    for neighbor in neighbors:
        rows.append([neighbor.code, rounded(neighbor.distance)])
    return rows
