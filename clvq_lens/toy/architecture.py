"""The architecture of the toy model, in the words of TransformerLens."""

from typing import TypedDict

N_CONTEXT = 128  # a story has some 90 words at most


class Architecture(TypedDict):
    """What a ``HookedTransformerConfig`` is made from; a file of the package keeps it."""

    model_name: str
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_mlp: int
    n_ctx: int
    act_fn: str
    normalization_type: str
    positional_embedding_type: str
    default_prepend_bos: bool
    d_vocab: int


def toy_architecture(d_vocab: int) -> Architecture:
    """The architecture of the model that the package ships.

    Args:
        d_vocab: Size of the vocabulary.
    """
    return {
        "model_name": "toy-world",
        "n_layers": 4,
        "d_model": 64,
        "n_heads": 4,
        "d_head": 16,
        "d_mlp": 256,
        "n_ctx": N_CONTEXT,
        "act_fn": "gelu",
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "default_prepend_bos": True,
        "d_vocab": d_vocab,
    }
