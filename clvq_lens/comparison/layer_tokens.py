"""A sample of tokens with their activations at several layers and their codes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.config import LongTexts
from clvq_lens.data.document import Document
from clvq_lens.data.reading import read
from clvq_lens.data.tokens import TokenBatch, require_real, token_batches
from clvq_lens.host.host import Host
from clvq_lens.lens import Lens
from clvq_lens.stats.reservoir import Reservoir


@dataclass(frozen=True)
class LayerTokens:
    """Some tokens: what passes each layer, the code, the document.

    Attributes:
        layers: Activations by hook point.
        codes: The codes that a lens gives the tokens.
        documents: Running number of each token's document.
    """

    layers: dict[str, Float[np.ndarray, "n _"]]
    codes: Int[np.ndarray, " n"]
    documents: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.codes)


def residual_points(host: Host, source: str, target: str) -> list[str]:
    """Source, the residual stream after each block in between, and target."""
    low, high = host.depth(source), host.depth(target)
    points = [source]
    for layer in range(host.n_layers):
        point = host.resolve(layer)
        if low < host.depth(point) < high:
            points.append(point)
    # Source and target may be one point, which is then clustered once.
    return list(dict.fromkeys([*points, target]))


def sample_tokens(
    lens: Lens,
    points: list[str],
    documents: Iterable[Document],
    *,
    n_tokens: int,
    generator: np.random.Generator,
    long_texts: LongTexts,
    progress: bool,
) -> LayerTokens:
    """A uniform sample of the real tokens of all documents; memory holds the sample alone.

    Args:
        lens: The lens that gives the codes.
        points: Hook points; the source of the lens among them.
        documents: Documents, which are read once.
        n_tokens: Size of the sample, or less if there are not as many tokens.
        generator: Decides which tokens.
        long_texts: What to do with a text beyond the context.
        progress: Whether to show a progress bar.

    Raises:
        EmptyCorpusError: If there is no real token.
        NonFiniteError: If activations hold NaN or infinity.
    """
    batches = token_batches(lens.host, documents, long_texts=long_texts)
    reservoir = Reservoir(n_tokens, torch.Generator())  # draws nothing: the keys are given
    for batch in tqdm(batches, desc="layers", unit="batch", disable=not progress):
        columns = _real_tokens(lens, points, batch)
        keys = torch.from_numpy(generator.random(len(columns[0])))
        reservoir.add_(*columns, keys=keys)
    require_real(reservoir.n_seen)
    # In the order of the keys, so that clustering starts from the same tokens however they came.
    order = reservoir.keys.argsort(stable=True)
    codes, numbers, *activations = reservoir.sample()
    layers: dict[str, np.ndarray] = {}
    for point, values in zip(points, activations, strict=True):
        layers[point] = values[order].numpy()
    return LayerTokens(layers, codes[order].numpy(), numbers[order].numpy())


@torch.no_grad()
def _real_tokens(lens: Lens, points: list[str], batch: TokenBatch) -> list[Tensor]:
    """Code, document and activations of every real token of a batch."""
    activations = read(lens.host, batch, [*points, lens.source])
    codes = lens.quantizer.assign(activations[lens.source]).cpu()[batch.mask]
    documents = torch.tensor(batch.documents).repeat_interleave(batch.mask.sum(1))
    columns = [codes, documents]
    for point in points:
        values = activations[point]
        # One precision for the sample, whatever the model runs in: k-means takes no bfloat16.
        columns.append(values[batch.mask.to(values.device)].float().cpu())
    return columns
