"""How many tokens some documents have, from a few of them."""

import math
from itertools import islice
from typing import NamedTuple

from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Documents
from clvq_lens.data.text_files import Spool
from clvq_lens.data.tokens import ContextBatcher
from clvq_lens.host.host import Host

_SAMPLED = 256  # documents that are tokenized for it


class Expected(NamedTuple):
    """About how much will be read; 0 if nobody knows.

    Attributes:
        n_positions: Positions, special tokens counted.
        n_tokens: Real tokens.
    """

    n_positions: float
    n_tokens: float


def expected(
    host: Host, documents: Documents, *, n_tokens: int | None, long_texts: LongTexts
) -> Expected:
    """About how much will be read.

    Args:
        host: The model.
        documents: The documents.
        n_tokens: How many real tokens are wanted; None: all.
        long_texts: What is done with long texts.
    """
    batcher = ContextBatcher(host, long_texts, "")
    n_positions = n_real = n_characters = 0
    for document, sequences in batcher.sequences(islice(documents, _SAMPLED)):
        n_characters += len(document)
        n_positions += sum(len(sequence.ids) for sequence in sequences)
        n_real += sequences[0].part.n_real if sequences else 0
    positions_per_token = n_positions / max(1, n_real)
    wanted = math.inf if n_tokens is None else float(n_tokens)
    if isinstance(documents, Spool):  # which can be read once, and has no end perhaps
        there = 0.0 if math.isinf(wanted) else wanted
        return Expected(positions_per_token * there, there)
    a_character, there = n_real / max(1, n_characters), 0.0
    for document in documents:
        there += a_character * len(document)
        if there >= wanted:  # all others are left out
            there = wanted
            break
    return Expected(positions_per_token * there, there)
