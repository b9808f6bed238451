"""Who reads which texts: one readout all of them, or each fold a probe of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from clvq_lens.host.host import Host
from clvq_lens.interventions.readout import Readout
from clvq_lens.interventions.salience import Cut
from clvq_lens.training.documents import open_documents
from clvq_lens.training.tokens import TokenBatch, token_batches


@dataclass(frozen=True)
class Group:
    """Texts that are read in the same way.

    Attributes:
        rows: Which texts.
        readout: What the model says about them.
    """

    rows: Int[np.ndarray, " g"]
    readout: Readout


def batches_of(
    host: Host, group: Group, texts: Sequence[str], long_texts: Cut
) -> Iterator[tuple[Int[np.ndarray, " b"], TokenBatch]]:
    """The texts of a group as batches, with the number of each text."""
    documents = open_documents([texts[row] for row in group.rows])
    for batch in token_batches(host, documents, long_texts=long_texts, splittable=False):
        yield group.rows[list(batch.documents)], batch
