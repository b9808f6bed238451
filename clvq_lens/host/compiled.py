"""Models under torch.compile, which takes no notice of hooks that come and go unless it is told."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch._dynamo.config

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(model: Any) -> Any:
    """The model itself, if what was given is what torch.compile made of it."""
    return getattr(model, "_orig_mod", model)


def never_compiled(function: F) -> F:
    """A hook that runs as it is written also where the model around it was compiled.

    What our hooks know of a pass changes from one pass to the next.
    """
    return torch.compiler.disable(function)  # pyright: ignore[reportReturnType]


class HookGuards:
    """Torch's guards on hooks, which cost a little and are on while any quantizer is attached."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._skipped_before: bool | None = None  # None: they are as torch or its user set them

    def turn_on(self) -> None:
        """Compiled code is compiled anew now, and from now on whenever hooks come and go."""
        with self._lock:
            if self._skipped_before is None:
                self._skipped_before = torch._dynamo.config.skip_nnmodule_hook_guards
            torch._dynamo.config.skip_nnmodule_hook_guards = False
            torch.compiler.reset()

    def turn_off(self) -> None:
        """Puts back what was set before."""
        with self._lock:
            if self._skipped_before is not None:
                torch._dynamo.config.skip_nnmodule_hook_guards = self._skipped_before
                self._skipped_before = None


hook_guards = HookGuards()


class _EagerPasses:
    """Counts our own passes under way: torch's stance is one for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_open = 0
        self._stance: Any = None

    def begin(self) -> None:
        with self._lock:
            if self._n_open == 0:
                self._stance = torch.compiler.set_stance("force_eager")
            self._n_open += 1

    def end(self) -> None:
        with self._lock:
            self._n_open -= 1
            if self._n_open == 0:
                self._stance.__exit__(None, None, None)


_eager_passes = _EagerPasses()


@contextmanager
def uncompiled_passes() -> Iterator[None]:
    """While open, passes run as they would without torch.compile."""
    _eager_passes.begin()
    try:
        yield
    finally:
        _eager_passes.end()
