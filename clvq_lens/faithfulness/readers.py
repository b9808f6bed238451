"""Who reads which texts: one readout all of them, or each fold a probe of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from clvq_lens.faithfulness.classified_texts import ClassifiedTexts
from clvq_lens.faithfulness.folds import Fold
from clvq_lens.faithfulness.probes import linear_probes
from clvq_lens.host.host import Host
from clvq_lens.readouts.readout import Readout, Sentence, head


@dataclass(frozen=True)
class Reader:
    """A readout, and the texts that it reads.

    Attributes:
        texts: Numbers of the texts.
        readout: What the model says about them.
    """

    texts: Int[np.ndarray, " g"]
    readout: Readout


def probe_readers(
    host: Host,
    last: Float[np.ndarray, "n d"],
    texts: ClassifiedTexts,
    folds: Sequence[Fold],
    *,
    sentence: Sentence,
    seed: int,
) -> list[Reader]:
    """Each fold read by a probe of the last layer that did not see it.

    Args:
        host: The model.
        last: Sentence vectors after the last block.
        texts: Classes and documents of the texts.
        folds: The folds.
        sentence: How a text becomes one vector.
        seed: Random seed for the probes.
    """
    readers: list[Reader] = []
    for (_, test), probe in zip(folds, linear_probes(last, texts, folds, seed=seed), strict=True):
        weight = torch.as_tensor(probe.weight).float()
        bias = torch.as_tensor(probe.bias).float()
        # By its number, which is looked up faster than a name, at every pass.
        readout = head(weight, bias, layer=host.n_layers - 1, sentence=sentence)
        readers.append(Reader(test, readout))
    return readers
