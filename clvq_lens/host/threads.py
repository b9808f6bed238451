"""Passes of several threads through one model: each sees its own state and its own hooks."""

import threading
from collections.abc import Callable
from typing import Any


class PerThread(threading.local):
    """State of the pass under way in each thread; a copy begins with none.

    A subclass sets its attributes in ``__init__`` without arguments, which runs once a thread.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


def only_here(function: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that acts in this thread alone: a pass of another thread goes by as if without it."""
    here = threading.get_ident()

    def act(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if threading.get_ident() == here else None

    return act
