"""What one pass of the model makes of texts: a vector for each by every method that is probed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm.auto import tqdm

from clvq_lens.data.reading import read
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.faithfulness.tokenized_texts import TokenizedTexts, text_vectors
from clvq_lens.lens import Lens
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.readouts.readout import Sentence, last_real


@dataclass(frozen=True)
class ProbedTexts:
    """One vector for each text.

    Attributes:
        activations: At the source of the first lens.
        codes: By name of the lens, the share of the text's tokens that has each code; or where
            texts are read at their last token, 1 at its code.
    """

    activations: Float[np.ndarray, "n d"]
    codes: dict[str, Float[np.ndarray, "n _"]]


@torch.no_grad()
def read_probed(
    lenses: Mapping[str, Lens], texts: TokenizedTexts, sentence: Sentence, bar: tqdm
) -> ProbedTexts:
    """Reads texts once for all lenses; nothing above their sources is computed.

    Args:
        lenses: Lenses on the model of the texts, by name.
        texts: The texts.
        sentence: How a text becomes one vector.
        bar: Progress bar, which moves by one with each text.

    Raises:
        EmptyCorpusError: If a text holds no real token.
        TextTooLongError: If one is longer than the model's context and long texts are an error.
        NonFiniteError: If activations hold NaN or infinity.
    """
    host, source = texts.host, next(iter(lenses.values())).source
    points = list(dict.fromkeys(lens.source for lens in lenses.values()))
    activations = np.empty((len(texts), host.width(source)))
    codes: dict[str, np.ndarray] = {}
    for name, lens in lenses.items():
        codes[name] = np.empty((len(texts), lens.config.n_codes))
    for batch in texts.batches():
        values = read(host, batch, points)
        rows = list(batch.documents)  # batches hold texts of similar length, not neighbors
        activations[rows] = text_vectors(values[source], batch, sentence)
        for name, lens in lenses.items():
            shares = _shares(lens.quantizer, values[lens.source], batch, sentence)
            codes[name][rows] = shares.double().cpu().numpy()
        bar.update(len(rows))
    return ProbedTexts(activations, codes)


def _shares(
    quantizer: CrossLayerQuantizer,
    source: Float[Tensor, "b pos d"],
    batch: TokenBatch,
    sentence: Sentence,
) -> Float[Tensor, "b k"]:
    """The sentence vectors of one-hot codes, which are never written out."""
    codes = quantizer.assign(source)
    is_last = F.one_hot(last_real(batch), codes.shape[1])
    weights = (is_last if sentence == "last" else batch.mask).to(codes.device).float()
    weights /= weights.sum(1, keepdim=True)
    shares = weights.new_zeros(len(codes), quantizer.config.n_codes)
    return shares.scatter_add(1, codes, weights)
