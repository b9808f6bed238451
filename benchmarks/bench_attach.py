"""What an attached quantizer costs a GPT-2-small-shaped model: nothing asked, codes, recon."""

import warnings

import torch

from benchmarks.timing import Row, device, interleaved, rows
from clvq_lens.add import add_clvq

BATCH, POSITIONS = 2, 256


def gpt2_small_shaped() -> torch.nn.Module:
    """Random weights: times do not depend on their values."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    warnings.simplefilter("ignore", DeprecationWarning)
    shape = {"n_layers": 12, "n_heads": 12, "d_model": 768, "d_head": 64, "d_mlp": 3072}
    cfg = HookedTransformerConfig(
        **shape, n_ctx=1024, d_vocab=50257, act_fn="gelu_new", seed=0, device=str(device())
    )
    return HookedTransformer(cfg).eval()


def run(repetitions: int = 15) -> list[Row]:
    """The forward pass without a quantizer, and with one of which more and more is asked."""
    plain, observed = gpt2_small_shaped(), gpt2_small_shaped()  # same seed, same weights
    add_clvq(observed, 4, 8, n_codes=400)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(50257, (BATCH, POSITIONS), generator=generator).to(device())

    def reading(point: str) -> None:
        # A quantizer computes what somebody reads, so a hook that does nothing is enough.
        hook = (f"clvq.4-8.{point}", lambda value, hook: None)
        observed.run_with_hooks(tokens, fwd_hooks=[hook])

    with torch.no_grad():
        medians = interleaved(
            {
                "plain forward pass": lambda: plain(tokens),
                "attached": lambda: observed(tokens),
                "attached, codes read": lambda: reading("hook_codes"),
                "attached, recon read": lambda: reading("hook_recon"),
            },
            repetitions=repetitions,
        )
    return rows("GPT-2-small-shaped model, 512 tokens", medians, "plain forward pass")
