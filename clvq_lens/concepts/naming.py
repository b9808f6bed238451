"""Names for concepts that need no language model."""

from clvq_lens.concepts.concept import Concept

_N_TOKENS = 3


def distinctive_tokens(concept: Concept) -> str:
    """The tokens of the highest lift, or else the commonest ones."""
    tokens = concept.distinctive or concept.tokens
    return " ".join(token.text.strip() or token.text for token in tokens[:_N_TOKENS])
