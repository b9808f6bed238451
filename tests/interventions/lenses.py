"""What tests of interventions share: fitted lenses on tiny models, and what passes them."""

from typing import Any

import torch
from torch import Tensor

import clvq_lens as cl

SOURCE, TARGET = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
ENCODED = "clvq.1-2.hook_encoded"
CODES = "clvq.1-2.hook_codes"
QUANTIZED = "clvq.1-2.hook_quantized"
RECON = "clvq.1-2.hook_recon"


def difference(logits: Tensor) -> Tensor:
    """A metric: one logit less another at the last position."""
    return (logits[:, -1, 3] - logits[:, -1, 5]).mean()


def fit(lens: cl.Lens, n_tokens: int = 2_000) -> cl.Lens:
    """A lens fitted for a moment on random tokens."""
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    lens.fit(data, n_tokens=n_tokens, batch_tokens=256, progress=False)
    return lens


def fitted_lens(model: Any, source: int = 1, target: int = 2, **options: Any) -> cl.Lens:
    """A new lens on a model, fitted."""
    lens = model.add_clvq(source, target, n_codes=12, top_k=3, **options)
    return fit(lens, n_tokens=3_000)


def run(lens: cl.Lens, tokens: Tensor, *edits: Any, **options: Any) -> Any:
    """What passes the hook points under some edits."""
    with lens.edit(*edits, **options):
        return lens.model.run_with_cache(tokens)[1]


def logits(lens: cl.Lens, tokens: Tensor, *edits: Any, **options: Any) -> Tensor:
    """Logits under some edits."""
    with lens.edit(*edits, **options):
        return lens.model(tokens)


def decode(lens: cl.Lens, cache: Any, vectors: Tensor) -> Tensor:
    """The reconstruction from other code vectors."""
    return lens.quantizer.decode(vectors, encoded=cache[ENCODED])


def nearest(lens: cl.Lens, cache: Any, banned: Any = ()) -> Tensor:
    """An oracle for the nearest code that is not banned."""
    distances = torch.cdist(cache[ENCODED].double(), lens.quantizer.codebook.vectors.double())
    distances[..., list(banned)] = torch.inf
    return distances.argmin(-1)


def frequent(lens: cl.Lens, tokens: Tensor, n: int = 3) -> list[int]:
    """The codes that some tokens use most."""
    codes = run(lens, tokens)[CODES]
    return codes.flatten().bincount().argsort(descending=True)[:n].tolist()


def usage_weighted(lens: cl.Lens, rows: Tensor) -> Tensor:
    """An oracle for the mean over codes, weighted by usage."""
    weights = lens.quantizer.usage.double() / lens.quantizer.usage.sum()
    return (weights.unsqueeze(1) * rows.double()).sum(0).float()


def assert_edited(
    lens: cl.Lens, tokens: Tensor, edit: Any, codes: Tensor, vectors: Tensor | None = None
) -> None:
    """The edit gives these codes and vectors, and the target moves by what they decode to."""
    plain, edited = run(lens, tokens), run(lens, tokens, edit)
    table = lens.quantizer.codebook.vectors
    vectors = table[codes] if vectors is None else vectors
    assert torch.equal(edited[CODES], codes)
    torch.testing.assert_close(edited[QUANTIZED], vectors)
    moved = decode(lens, plain, vectors) - decode(lens, plain, table[plain[CODES]])
    torch.testing.assert_close(edited[TARGET], plain[TARGET] + moved)
    assert not torch.equal(edited[TARGET], plain[TARGET])
    torch.testing.assert_close(
        logits(lens, tokens, edit), lens.model(edited[TARGET], start_at_layer=3)
    )
