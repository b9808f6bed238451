"""Loading a pretrained model by name."""

from typing import Any

from clvq_lens.errors import MissingDependencyError


def load_pretrained(name: str, device: str | None = None) -> Any:
    """A pretrained `HookedTransformer`, from the Hugging Face hub or its local cache.

    Raises:
        MissingDependencyError: If the installed TransformerLens has no `HookedTransformer`.
    """
    try:
        from transformer_lens import HookedTransformer
    except ImportError as error:
        raise MissingDependencyError(
            "The installed transformer-lens has no HookedTransformer (version 4 removed it). "
            "Run: pip install 'transformer-lens>=3.9,<4'"
        ) from error
    return HookedTransformer.from_pretrained(name, device=device)
