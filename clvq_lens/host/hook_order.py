"""The order at one hook point: our writers, then the user's hooks, then our readers.

The hooks are objects and not closures, so that a deep copy of a model gets hooks of its own, and
so that a model with a quantizer can be pickled. None of them is compiled (see `never_compiled`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint

from clvq_lens.host.compiled import never_compiled
from clvq_lens.host.threads import only_here


@dataclass(frozen=True, eq=False)
class _WritingHook:
    """Changes what passes a hook point."""

    write: Callable[[Tensor], Tensor | None]

    @never_compiled
    def __call__(self, module: Any, inputs: Any, output: Any) -> Tensor | None:
        return self.write(output)


@dataclass(frozen=True, eq=False)
class _ReadingHook:
    """Reads what passes a hook point."""

    read: Callable[[Tensor], None]

    @never_compiled
    def __call__(self, module: Any, inputs: Any, output: Any) -> None:
        self.read(output)


@never_compiled
def _writers_first(point: HookPoint, inputs: Any) -> None:
    """Puts writers before hooks that a user has prepended since."""
    hooks: Any = point._forward_hooks
    ours = [key for key, hook in hooks.items() if isinstance(hook, _WritingHook)]
    # Only when needed: hooks that move at every pass would make torch compile at every pass.
    if ours != list(hooks)[: len(ours)]:
        for key in reversed(ours):
            hooks.move_to_end(key, last=False)


@dataclass(frozen=True, eq=False)
class _LastHook:
    """Puts a reader after hooks that a user has added since."""

    key: int

    @never_compiled
    def __call__(self, point: HookPoint, inputs: Any) -> None:
        hooks: Any = point._forward_hooks
        if next(reversed(hooks)) != self.key:
            # One step, so that another thread in a pass of its own never misses the reader.
            hooks.move_to_end(self.key)


def write_at(point: HookPoint, write: Callable[[Tensor], Tensor | None]) -> list[RemovableHandle]:
    """Lets a function change what passes a hook point, before all hooks but earlier writers."""
    handle = point.register_forward_hook(_WritingHook(write))
    # torch copies the list of hooks after the pre-hooks have run, so a pre-hook can still sort it.
    return [handle, point.register_forward_pre_hook(_writers_first)]


def read_at(point: HookPoint, read: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Lets a function read what passes a hook point, after all hooks that are there at the time."""
    reader = point.register_forward_hook(_ReadingHook(read))
    return [reader, point.register_forward_pre_hook(_LastHook(reader.id))]


@contextmanager
def replaced(value: Tensor, point: HookPoint, *, before_hooks: bool) -> Iterator[None]:
    """While open, a value replaces what passes a point, before the user's hooks or after them."""
    if before_hooks:
        handles = write_at(point, only_here(lambda _: value))
    else:
        handles = [point.register_forward_hook(only_here(lambda *_: value))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
