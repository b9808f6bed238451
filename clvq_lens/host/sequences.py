"""Which sequences a key-value cache goes on with: a beam search changes them between passes.

What is remembered beside the cache (the decoder's own cache, the tokens so far) has to follow.
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


def follow_sequences(cache: Any, follow: Follow) -> None:
    """Calls a method of an object whenever a cache goes on with other sequences.

    The cache's class is wrapped and not the cache, which its user may copy.

    Args:
        cache: The host's; one without such methods never does.
        follow: A bound method, which is not kept alive. It is given the rows that go on.
    """
    methods = [name for name in _METHODS if hasattr(type(cache), name)]
    if not methods:
        return
    for name in methods:
        _wrap(type(cache), name)
    method, known = weakref.WeakMethod(follow), _followers.setdefault(cache, [])
    if method not in known:
        known.append(method)


def _wrap(kind: type, name: str) -> None:
    """Wraps the method where it is defined, once."""
    owner = next(parent for parent in kind.__mro__ if name in vars(parent))
    if (owner, name) not in _followed:
        _followed.add((owner, name))
        wrapt.wrap_function_wrapper(owner, name, _move)


def _move(wrapped: Any, cache: Any, args: Any, kwargs: Any) -> Any:
    if cache in _moving:  # a class that calls the method of its parent
        return wrapped(*args, **kwargs)
    _moving.add(cache)
    try:
        found = wrapped(*args, **kwargs)
    finally:
        _moving.discard(cache)
    rows = torch.as_tensor(next(iter((*args, *kwargs.values()))))
    for method in _followers.get(cache, []):
        follow = method()
        if follow is not None:
            follow(rows)
    return found
