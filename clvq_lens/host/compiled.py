"""Models under torch.compile, which notices hooks that come and go only when told to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch._dynamo.config

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(model: Any) -> Any:
    """The model inside what torch.compile made of it; any other object is given back as it is."""
    return getattr(model, "_orig_mod", model)


def never_compiled(function: F) -> F:
    """A hook that stays plain Python where the model around it is compiled.

    What our hooks know about a pass changes from one pass to the next, and compiled code would
    keep what it was in the first.
    """
    return torch.compiler.disable(function)  # pyright: ignore[reportReturnType]


class HookGuards:
    """Torch's guards on hooks, which cost a little; they are on while a quantizer is attached."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._skipped_before: bool | None = None  # None: we have not touched the setting

    def turn_on(self) -> None:
        """Makes torch compile again now, and from now on whenever hooks come or go."""
        with self._lock:
            if self._skipped_before is None:
                self._skipped_before = torch._dynamo.config.skip_nnmodule_hook_guards
            torch._dynamo.config.skip_nnmodule_hook_guards = False
            torch.compiler.reset()  # code that was compiled before has no guards

    def turn_off(self) -> None:
        """Restores the setting that was there before."""
        with self._lock:
            if self._skipped_before is not None:
                torch._dynamo.config.skip_nnmodule_hook_guards = self._skipped_before
                self._skipped_before = None


hook_guards = HookGuards()


class _EagerPasses:
    """Counts our own passes that are running: all threads share one stance of torch."""

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
