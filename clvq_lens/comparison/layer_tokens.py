"""A sample of tokens with their activations at several layers and their codes."""

from collections.abc import Iterable, Mapping
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
    """Some tokens: what passes each layer, their codes, the document.

    Attributes:
        layers: Activations by hook point.
        codes: The codes that each lens gives the tokens, by its name.
        documents: Running number of each token's document.
    """

    layers: dict[str, Float[np.ndarray, "n _"]]
    codes: dict[str, Int[np.ndarray, " n"]]
    documents: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.documents)


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
    lenses: Mapping[str, Lens],
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
        lenses: The lenses that give the codes, by name; of one model and one source.
        points: Hook points; the source of the lenses among them.
        documents: Documents, which are read once.
        n_tokens: Size of the sample, or less if there are not as many tokens.
        generator: Decides which tokens.
        long_texts: What to do with a text beyond the context.
        progress: Whether to show a progress bar.

    Raises:
        EmptyCorpusError: If there is no real token.
        NonFiniteError: If activations hold NaN or infinity.
    """
    host = next(iter(lenses.values())).host
    batches = token_batches(host, documents, long_texts=long_texts)
    reservoir = Reservoir(n_tokens, torch.Generator())  # draws nothing: the keys are given
    for batch in tqdm(batches, desc="layers", unit="batch", disable=not progress):
        columns = _real_tokens(host, lenses, points, batch)
        keys = torch.from_numpy(generator.random(len(columns[0])))
        reservoir.add_(*columns, keys=keys)
    require_real(reservoir.n_seen)
    # In the order of the keys, so that clustering starts from the same tokens however they came.
    order = reservoir.keys.argsort(stable=True)
    numbers, *others = (column[order].numpy() for column in reservoir.sample())
    codes, layers = others[: len(lenses)], others[len(lenses) :]
    by_name, by_point = zip(lenses, codes, strict=True), zip(points, layers, strict=True)
    return LayerTokens(dict(by_point), dict(by_name), numbers)


@torch.no_grad()
def _real_tokens(
    host: Host, lenses: Mapping[str, Lens], points: list[str], batch: TokenBatch
) -> list[Tensor]:
    """Document, codes and activations of every real token of a batch."""
    activations = read(host, batch, points)
    columns = [torch.tensor(batch.documents).repeat_interleave(batch.mask.sum(1))]
    for lens in lenses.values():
        columns.append(lens.quantizer.assign(activations[lens.source]).cpu()[batch.mask])
    for point in points:
        values = activations[point]
        # One precision for the sample, whatever the model runs in: k-means takes no bfloat16.
        columns.append(values[batch.mask.to(values.device)].float().cpu())
    return columns
