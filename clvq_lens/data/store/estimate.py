"""How many positions some documents have, from a few of them."""

import math
from itertools import islice

from clvq_lens.config import LongTexts
from clvq_lens.data.documents import Documents
from clvq_lens.data.text_files import Spool
from clvq_lens.data.tokens import ContextBatcher
from clvq_lens.host.host import Host

_SAMPLED = 256  # documents that are tokenized for it


def estimated_positions(
    host: Host, documents: Documents, *, n_tokens: int | None, long_texts: LongTexts
) -> float:
    """About how many positions will be read, special tokens counted; 0 if nobody knows.

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
    wanted = math.inf
    if n_tokens is not None:
        wanted = n_tokens * n_positions / max(1, n_real)
    if isinstance(documents, Spool):  # which can be read once, and has no end perhaps
        return 0.0 if math.isinf(wanted) else wanted
    a_character, there = n_positions / max(1, n_characters), 0.0
    for document in documents:
        there += a_character * len(document)
        if there >= wanted:  # all others are left out
            return wanted
    return there
