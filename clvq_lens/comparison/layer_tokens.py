"""A sample of tokens with their activations at several layers and their codes."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from clvq_lens.config import LongTexts
from clvq_lens.data.document import Document
from clvq_lens.data.reading import read
from clvq_lens.data.tokens import TokenBatch, require_real, token_batches
from clvq_lens.host.host import Host
from clvq_lens.lens import Lens
from clvq_lens.quantizer.outliers import are_longer, norm_limit
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

    def without(self, left_out: Bool[np.ndarray, " n"]) -> "LayerTokens":
        """All tokens but some."""
        kept = ~left_out
        layers = {point: activations[kept] for point, activations in self.layers.items()}
        codes = {name: numbers[kept] for name, numbers in self.codes.items()}
        return LayerTokens(layers, codes, self.documents[kept])


class LayerOutliers:
    """Finds tokens that are an outlier at any layer.

    Some models give a token here and there an activation many times as long as that of others, at
    some layers and not at others. A few of them would be all of the variance of a layer.

    Args:
        lens: Says beyond which norms tokens are outliers at its source and its target; if it was
            fitted with outliers, none is left out at any layer.
        train: Training tokens; elsewhere the limit is ten times the median norm of these.
    """

    def __init__(self, lens: Lens, train: LayerTokens) -> None:
        quantizer = lens.quantizer
        known = {
            lens.source: float(quantizer.max_source_norm),
            lens.target: float(quantizer.max_target_norm),
        }
        self._limits: dict[str, float] = {}
        if all(math.isinf(limit) for limit in known.values()):
            return
        for point, activations in train.layers.items():
            self._limits[point] = known.get(point) or norm_limit(torch.from_numpy(activations))

    def among(self, tokens: LayerTokens) -> Bool[np.ndarray, " n"]:
        """Which tokens are outliers."""
        found = np.zeros(len(tokens), dtype=bool)
        for point, limit in self._limits.items():
            found |= are_longer(torch.from_numpy(tokens.layers[point]), limit).numpy()
        return found


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
