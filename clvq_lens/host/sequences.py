"""Which sequences a key-value cache holds: a beam search changes them between passes.

What we remember beside the cache (the decoder's own cache, the tokens so far) has to change too.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
import wrapt
from jaxtyping import Int
from torch import Tensor

Follow = Callable[[Int[Tensor, " r"]], None]

_METHODS = ("reorder_cache", "batch_select_indices")  # of the caches of transformers
_followers: "weakref.WeakKeyDictionary[Any, list[weakref.WeakMethod[Any]]]" = (
    weakref.WeakKeyDictionary()
)
_followed: set[tuple[type, str]] = set()
_moving: "weakref.WeakSet[Any]" = weakref.WeakSet()  # caches whose method is running


def follow_sequences(cache: object, follow: Follow) -> None:
    """Calls a method of an object whenever a cache goes on with other sequences.

    The class of the cache is wrapped and not the cache itself, which its user may copy.

    Args:
        cache: The host's cache; one without methods that select sequences is left alone.
        follow: A bound method, which is not kept alive. It gets the rows that the cache kept.
    """
    methods = [name for name in _METHODS if hasattr(type(cache), name)]
    if not methods:
        return
    for name in methods:
        _wrap(type(cache), name)
    method = weakref.WeakMethod(follow)
    known = _followers.setdefault(cache, [])
    if method not in known:
        known.append(method)


def _wrap(kind: type, name: str) -> None:
    """Wraps a method once, in the class that defines it."""
    owner = next(parent for parent in kind.__mro__ if name in vars(parent))
    if (owner, name) not in _followed:
        _followed.add((owner, name))
        wrapt.wrap_function_wrapper(owner, name, _move)


def _move(wrapped: Any, cache: Any, args: Any, kwargs: Any) -> Any:
    if cache in _moving:  # a method that calls that of its parent class: one move, told once
        return wrapped(*args, **kwargs)
    _moving.add(cache)
    try:
        result = wrapped(*args, **kwargs)
    finally:
        _moving.discard(cache)
    first_argument = args[0] if args else next(iter(kwargs.values()))
    rows = torch.as_tensor(first_argument)
    for method in _followers.get(cache, []):
        follow = method()
        if follow is not None:
            follow(rows)
    return result
