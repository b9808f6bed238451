"""Runs a model on a batch of texts: its logits, and what passes some hook points."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clvq_lens.data.document import Stored
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.errors import NonFiniteError
from clvq_lens.host.host import Host


def read(
    host: Host, batch: TokenBatch, points: Sequence[str]
) -> dict[str, Float[Tensor, "b pos d"]]:
    """The activations at some hook points; nothing above the last of them is computed.

    Where they were stored, the model is not run at all.

    Args:
        host: The model.
        batch: What it reads.
        points: Resolved names of hook points.

    Raises:
        NonFiniteError: If activations hold NaN or infinity at a token.
    """
    if batch.stored is not None:
        return _stored(host, batch, batch.stored, points)
    activations = host.activations(*batch.on(host.device), points)
    _check_all(activations, batch)
    return activations


def read_with_logits(
    host: Host, batch: TokenBatch, points: Sequence[str]
) -> tuple[dict[str, Float[Tensor, "b pos d"]], Float[Tensor, "b pos d_vocab"]]:
    """The activations at some hook points and the logits, from one whole pass.

    Args:
        host: The model.
        batch: What it reads.
        points: Resolved names of hook points.

    Raises:
        NonFiniteError: If activations hold NaN or infinity at a token.
    """
    if batch.stored is not None:
        activations = _stored(host, batch, batch.stored, points)
        last = max(points, key=host.depth)
        return activations, host.logits_with(last, activations[last], *batch.on(host.device))
    activations: dict[str, Tensor] = {}
    with host.reading(points, activations):
        logits = host.run(*batch.on(host.device))
    _check_all(activations, batch)
    return activations, logits


def _stored(
    host: Host, batch: TokenBatch, documents: Sequence[Stored], points: Sequence[str]
) -> dict[str, Float[Tensor, "b pos d"]]:
    """What was stored, side by side and padded on the right."""
    activations: dict[str, Tensor] = {}
    for point in points:
        rows: list[Tensor] = []
        for row, document in enumerate(documents):
            rows.append(document.activations(batch.part(row).piece, point))
        values = rows[0].new_zeros(*batch.tokens.shape, rows[0].shape[-1])
        for row, of_sequence in enumerate(rows):
            values[row, : len(of_sequence)] = of_sequence
        activations[point] = values.to(host.device_of(point), host.dtype)
    return activations


def _check_all(activations: dict[str, Tensor], batch: TokenBatch) -> None:
    for point, values in activations.items():
        # Special tokens included: the decoder attends to them. Padding may hold anything.
        check_finite(values, batch.attended, point)


def check_finite(
    values: Float[Tensor, "b pos d"], where: Bool[Tensor, "b pos"], point: str
) -> None:
    """Raises `NonFiniteError` if activations at some positions hold NaN or infinity.

    Args:
        values: The activations.
        where: True at the positions that are checked.
        point: Name of the hook point, for the message.
    """
    rows = values[where.to(values.device)]
    is_finite = torch.isfinite(rows)
    if not is_finite.all():
        n_bad = (~is_finite).any(1).sum()
        raise NonFiniteError(
            f"{int(n_bad)} of {len(rows)} activations at {point!r} hold NaN or infinity. "
            f"Check the model and its dtype; float16 overflows where bfloat16 does not."
        )
