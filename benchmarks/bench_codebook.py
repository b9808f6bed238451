"""Codebook steps against the bare matrix product of that size and vector-quantize-pytorch.

16,384 tokens, width 768, 400 codes, top 5: the product is the least that any of them must compute.
"""

import torch

from benchmarks.timing import Row, device, interleaved, rows
from clvq_lens.config import CLVQConfig
from clvq_lens.quantizer.codebook import Codebook, straight_through

N_TOKENS, WIDTH, N_CODES, TOP_K = 16_384, 768, 400, 5


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Clustered tokens with a large common mean, as in a residual stream, and their centers."""
    generator = torch.Generator(device()).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device())

    centers = normal(N_CODES, WIDTH) + 3 * normal(1, WIDTH)
    chosen = torch.randint(N_CODES, (N_TOKENS,), generator=generator, device=device())
    return centers[chosen] + 0.7 * normal(N_TOKENS, WIDTH), centers


def our_codebook(centers: torch.Tensor) -> Codebook:
    """Our codebook with its vectors at the centers, as after a fit."""
    generator = torch.Generator(device()).manual_seed(0)
    codebook = Codebook(CLVQConfig(n_codes=N_CODES, top_k=TOP_K), WIDTH, generator=generator)
    codebook.to(device()).vectors.copy_(centers)
    codebook.ema_sums.copy_(centers)  # the next update divides them by cluster sizes of one
    return codebook


def peer(centers: torch.Tensor) -> torch.nn.Module:
    """vector-quantize-pytorch with the same code vectors and options."""
    from vector_quantize_pytorch import VectorQuantize

    module = VectorQuantize(
        dim=WIDTH,
        codebook_size=N_CODES,
        decay=0.99,
        commitment_weight=0.1,
        stochastic_sample_codes=True,
        sample_codebook_temp=1.0,
        straight_through=False,  # no gradient through the draw itself, as in ours
    ).to(device())
    module.codebook = centers
    return module.train()


def run(repetitions: int = 15) -> list[Row]:
    """A training step, and the nearest code alone."""
    z, centers = data()
    codebook, theirs = our_codebook(centers), peer(centers)
    generator = torch.Generator(device()).manual_seed(1)

    def training_step() -> torch.Tensor:
        assignment = codebook.sample(z, generator=generator)
        quantized = straight_through(z, codebook(assignment.codes))
        codebook.update_(z, assignment, generator=generator)
        return quantized

    def their_step() -> torch.Tensor:
        return theirs(z.unsqueeze(0))[0]

    with torch.no_grad():
        step = interleaved(
            {
                "bare product z @ E.T": lambda: z @ centers.T,
                "clvq_lens": training_step,
                "vector-quantize-pytorch": their_step,
            },
            repetitions=repetitions,
        )
        nearest = interleaved(
            {
                "bare product z @ E.T": lambda: z @ centers.T,
                "clvq_lens": lambda: codebook.nearest(z),
                "torch.cdist + argmin": lambda: torch.cdist(z, centers).argmin(1),
            },
            repetitions=repetitions,
        )
    return [
        *rows("sample + straight-through + EMA", step, "bare product z @ E.T"),
        *rows("nearest code", nearest, "bare product z @ E.T"),
    ]
