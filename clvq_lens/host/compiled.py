"""Models under torch.compile: compiled code does not see hooks that came after it."""

from typing import Any

import torch


def uncompiled(model: Any) -> Any:
    """The model itself, if what was given is what torch.compile made of it."""
    return getattr(model, "_orig_mod", model)


def forget_compiled() -> None:
    """Lets every compiled model be compiled again at its next pass, with the hooks it has then.

    torch checks much before it runs compiled code, but not whether hooks were added or removed.
    """
    torch.compiler.reset()


def uncompiled_passes() -> Any:
    """While open, passes run as they would without torch.compile, with all hooks."""
    return torch.compiler.set_stance("force_eager")
