"""Modes of a model and of torch, and the ones that our own passes need."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from clvq_lens.errors import ModeError


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """While open, a model is in eval mode; afterwards each part has the mode that it had before."""
    modules = set(model.modules())
    # A bridge keeps the Hugging Face model outside its own modules.
    original = vars(model).get("original_model")
    if original is not None:
        modules |= set(original.modules())
    in_training = [module for module in modules if module.training]
    try:
        for module in in_training:
            module.training = False
        yield
    finally:
        for module in in_training:
            module.training = True  # train() would also reach parts that were in eval mode


def require_gradients(what: str) -> None:
    """Raises `ModeError` where torch records nothing for gradients.

    Args:
        what: What needs gradients, as the beginning of a sentence, such as "A fit".
    """
    if torch.is_inference_mode_enabled():
        raise ModeError(
            f"{what} needs gradients, and under torch.inference_mode() there are none. Call it "
            f"outside of that block."
        )
