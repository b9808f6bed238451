"""The order at one hook point: our writers, then the user's hooks, then our readers."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint

_writers: "weakref.WeakSet[Any]" = weakref.WeakSet()


def write_at(point: HookPoint, write: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Lets a function change what passes a hook point, before all but the writers before it."""

    def writer(module: Any, inputs: Any, output: Any) -> Tensor | None:
        return write(output)

    handle = point.register_forward_hook(writer)
    _writers.add(writer)
    hooks = point._forward_hooks
    for key in [key for key, hook in hooks.items() if hook not in _writers]:
        hooks[key] = hooks.pop(key)  # to the end
    return handle


def read_at(point: HookPoint, read: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Lets a function read what passes a hook point, after every hook that is there by then.

    Hooks run in the order of a dictionary, which torch copies after the pre-hooks have run: the
    pre-hook moves the reader to the end.
    """

    def last_hook(module: Any, inputs: Any, output: Any) -> None:
        read(output)

    reader = point.register_forward_hook(last_hook)

    def move_to_end(module: Any, inputs: Any) -> None:
        hooks = point._forward_hooks
        if (
            next(reversed(hooks)) != reader.id
        ):  # moved at every pass, they would be compiled at every pass
            hooks[reader.id] = hooks.pop(reader.id)

    return [reader, point.register_forward_pre_hook(move_to_end)]
