"""A sample of tokens with their activations at several layers and their codes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from clvq_lens.config import LongTexts
from clvq_lens.errors import TooFewTokensError
from clvq_lens.host.host import Host
from clvq_lens.lens import Lens
from clvq_lens.training.activations import check_finite
from clvq_lens.training.document import Document
from clvq_lens.training.tokens import TokenBatch, token_batches


@dataclass(frozen=True)
class LayerTokens:
    """Some tokens: what passes each layer, the code, the document.

    Attributes:
        layers: Activations by hook point.
        codes: Of a lens.
        documents: Running number of each token's document.
    """

    layers: dict[str, Float[np.ndarray, "n _"]]
    codes: Int[np.ndarray, " n"]
    documents: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.codes)


def residual_points(host: Host, source: str, target: str) -> list[str]:
    """Source, the residual stream after each block in between, and target."""
    inside = [host.resolve(layer) for layer in range(host.n_layers)]
    low, high = host.depth(source), host.depth(target)
    between = [point for point in inside if low < host.depth(point) < high]
    return list(dict.fromkeys([source, *between, target]))


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
    """A uniform sample of the real tokens of all documents, in memory that it alone takes.

    Args:
        lens: Gives the codes.
        points: Hook points; the source of the lens among them.
        documents: Read once.
        n_tokens: Size of the sample, or less if there are not as many.
        generator: Decides which tokens.
        long_texts: What to do with a text beyond the context.
        progress: Whether to show a progress bar.

    Raises:
        TooFewTokensError: If there is no real token.
        NonFiniteError: If activations hold NaN or infinity.
    """
    batches = token_batches(lens.host, documents, long_texts=long_texts)
    kept: list[dict[str, np.ndarray]] = []
    for batch in tqdm(batches, desc="layers", unit="batch", disable=not progress):
        part = _real_tokens(lens, points, batch)
        part["key"] = generator.random(len(part["codes"]))
        kept.append(part)
        if sum(len(each["key"]) for each in kept) > 2 * n_tokens:
            kept = [_lowest(kept, n_tokens)]
    if not sum(len(part["codes"]) for part in kept):
        raise TooFewTokensError("There is no real token to cluster. Pass texts with words in them.")
    chosen = _lowest(kept, n_tokens)
    layers = {point: chosen[point] for point in points}
    return LayerTokens(layers, chosen["codes"], chosen["documents"])


@torch.no_grad()
def _real_tokens(lens: Lens, points: list[str], batch: TokenBatch) -> dict[str, np.ndarray]:
    """What is kept of a batch."""
    device = lens.host.device
    found = lens.host.activations(
        batch.tokens.to(device), batch.attended.to(device), [*points, lens.source]
    )
    part: dict[str, np.ndarray] = {}
    for point in points:
        values = found[point][batch.mask.to(found[point].device)].float()
        check_finite(values, point)
        part[point] = values.cpu().numpy()
    part["codes"] = lens.quantizer.assign(found[lens.source]).cpu()[batch.mask].numpy()
    part["documents"] = np.repeat(np.array(batch.documents), batch.mask.sum(1).numpy())
    return part


def _lowest(parts: list[dict[str, np.ndarray]], n: int) -> dict[str, np.ndarray]:
    """The n tokens with the lowest keys: a uniform sample, however many come later."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(joined["key"], kind="stable")[:n]
    return {name: part[order] for name, part in joined.items()}
