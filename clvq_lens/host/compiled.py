"""Models under torch.compile, which takes no notice of hooks that come and go unless it is told."""

from typing import Any

import torch
import torch._dynamo.config


def uncompiled(model: Any) -> Any:
    """The model itself, if what was given is what torch.compile made of it."""
    return getattr(model, "_orig_mod", model)


def let_compiled_code_see_hooks() -> None:
    """Compiled code is compiled anew now, and from now on whenever hooks were added or removed."""
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch.compiler.reset()


def uncompiled_passes() -> Any:
    """While open, passes run as they would without torch.compile."""
    return torch.compiler.set_stance("force_eager")
