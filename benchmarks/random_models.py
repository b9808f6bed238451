"""Models with random weights, in any size."""

from typing import Any

import torch

from benchmarks.timing import device

D_VOCAB = 512
GPT2_VOCAB = 50_257


def random_model(
    width: int,
    *,
    n_layers: int,
    n_context: int = 128,
    d_vocab: int = D_VOCAB,
    tokenizer: Any = None,
) -> Any:
    """A causal model; at width 768 its blocks have the shape of those of GPT-2 small.

    Args:
        width: Width of the residual stream.
        n_layers: Number of blocks.
        n_context: Longest row.
        d_vocab: Size of the vocabulary.
        tokenizer: Its tokenizer; None: it reads rows of tokens.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(
        n_layers=n_layers,
        d_model=width,
        n_ctx=n_context,
        d_head=max(16, min(64, width // 4)),
        n_heads=max(4, width // 64),
        d_mlp=4 * width,
        d_vocab=d_vocab,
        act_fn="gelu_new",
        seed=0,
        device=str(device()),
    )
    return HookedTransformer(cfg, tokenizer=tokenizer, default_padding_side="right").eval()


def random_tokens(n_tokens: int, n_context: int = 128) -> torch.Tensor:
    """Rows of random tokens, as many as hold so many tokens."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(D_VOCAB, (-(-n_tokens // n_context), n_context), generator=generator)
