"""Passes of several threads through one model: each thread has its own state and hooks."""

import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class PerThread(threading.local):
    """State of the running pass, one for each thread; a copy starts without any.

    A subclass sets its attributes in ``__init__`` without arguments, which runs once a thread.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


def only_here(function: Callable[P, T]) -> Callable[P, T | None]:
    """A hook that acts in this thread only; passes of other threads run as if it were not there."""
    here = threading.get_ident()

    def act(*args: P.args, **kwargs: P.kwargs) -> T | None:
        return function(*args, **kwargs) if threading.get_ident() == here else None

    return act
