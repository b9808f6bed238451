"""Codebook steps against the bare matrix product of that size and vector-quantize-pytorch.

The product of tokens and code vectors is the least that any of them must compute.
"""

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.timing import Row, device, interleaved, rows
from clvq_lens.config import CLVQConfig
from clvq_lens.quantizer.codebook import Codebook, straight_through

_TOP_K = 5
_BARE = "bare product z @ E.T"


@dataclass(frozen=True)
class Size:
    """Tokens of a step, and the codebook."""

    n_tokens: int
    n_codes: int
    width: int

    def __str__(self) -> str:
        return f"{self.n_tokens:,} tokens, {self.n_codes:,} codes x {self.width:,}"


SIZES = (Size(16_384, 400, 768), Size(16_384, 50, 288), Size(8_192, 8_192, 2_048))


def data(size: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Clustered tokens with a large common mean, as in a residual stream, and their centers."""
    generator = torch.Generator(device()).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device())

    centers = normal(size.n_codes, size.width) + 3 * normal(1, size.width)
    chosen = torch.randint(size.n_codes, (size.n_tokens,), generator=generator, device=device())
    return centers[chosen] + 0.7 * normal(size.n_tokens, size.width), centers


def our_codebook(centers: torch.Tensor) -> Codebook:
    """Our codebook with its vectors at the centers, as after a fit."""
    generator = torch.Generator(device()).manual_seed(0)
    n_codes, width = centers.shape
    codebook = Codebook(CLVQConfig(n_codes=n_codes, top_k=_TOP_K), width, generator=generator)
    codebook.to(device()).vectors.copy_(centers)
    codebook.ema_sums.copy_(centers)  # the next update divides them by cluster sizes of one
    return codebook


def peer(centers: torch.Tensor) -> Any:
    """vector-quantize-pytorch with the same code vectors and options; None if not installed."""
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ModuleNotFoundError as error:
        print(f"vector-quantize-pytorch is left out: {error}")
        return None
    n_codes, width = centers.shape
    module = VectorQuantize(
        dim=width,
        codebook_size=n_codes,
        decay=0.99,
        commitment_weight=0.1,
        stochastic_sample_codes=True,
        sample_codebook_temp=1.0,
        straight_through=False,  # no gradient through the draw itself, as in ours
    ).to(device())
    module.codebook = centers
    return module.train()


def run(repetitions: int = 15, sizes: tuple[Size, ...] = SIZES) -> list[Row]:
    """A training step, and the nearest code alone, in some sizes."""
    table: list[Row] = []
    for size in sizes:
        # The largest product takes seconds, and its median needs fewer of them.
        n_times = repetitions if size is SIZES[0] else max(2, repetitions // 4)
        table += _of_size(size, n_times)
    return table


def _of_size(size: Size, repetitions: int) -> list[Row]:
    z, centers = data(size)
    codebook, theirs = our_codebook(centers), peer(centers)
    generator = torch.Generator(device()).manual_seed(1)

    def training_step() -> torch.Tensor:
        assignment = codebook.sample(z, generator=generator)
        quantized = straight_through(z, codebook(assignment.codes))
        codebook.update_(z, assignment, generator=generator)
        return quantized

    bare = {_BARE: lambda: z @ centers.T}
    steps: dict[str, Any] = {**bare, "clvq_lens": training_step}
    if theirs is not None:
        steps["vector-quantize-pytorch"] = lambda: theirs(z.unsqueeze(0))[0]
    searches = {
        **bare,
        "clvq_lens": lambda: codebook.nearest(z),
        "torch.cdist + argmin": lambda: torch.cdist(z, centers).argmin(1),
    }
    with torch.no_grad():
        step = interleaved(steps, repetitions=repetitions)
        nearest = interleaved(searches, repetitions=repetitions)
    return [
        *rows(f"sample + straight-through + EMA, {size}", step, _BARE),
        *rows(f"nearest code, {size}", nearest, _BARE),
    ]
