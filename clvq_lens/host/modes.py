"""Modes that a model or torch may be in, and what our own passes need of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from clvq_lens.errors import ModeError


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """While open, a model is in eval mode; afterwards each part is in the mode that it was in."""
    # A bridge keeps the model that it is a bridge of outside its modules.
    roots = [model, vars(model).get("original_model")]
    modules = {module for root in roots if root is not None for module in root.modules()}
    in_training = [module for module in modules if module.training]
    try:
        for module in in_training:
            module.training = False
        yield
    finally:
        for module in in_training:
            module.training = True


def require_gradients(what: str) -> None:
    """Raises `ModeError` where torch records nothing for gradients.

    Args:
        what: That needs them, as the beginning of a sentence.
    """
    if torch.is_inference_mode_enabled():
        raise ModeError(
            f"{what} needs gradients, and under torch.inference_mode() there are none. Call it "
            f"outside of that block."
        )
