"""Methods of a model that a quantizer has to know of: generation, and the search for hook points.

While a model has a quantizer they are shadowed by attributes of the instance. Whether passes belong
to one generation cannot be told from the tokens alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import GeneratorType
from typing import Any

_SHADOWS = "_clvq_shadows"  # attribute of a model
_GENERATING = ("generate", "generate_stream", "hf_generate")
_generation: ContextVar[object] = ContextVar("clvq_lens_generation", default=None)


def current_generation() -> object:
    """Stands for the generation under way in this thread; None outside of one."""
    return _generation.get()


@contextmanager
def _in(generation: object) -> Iterator[None]:
    token = _generation.set(generation)
    try:
        yield
    finally:
        _generation.reset(token)


class Shadow(ABC):
    """Takes the place of a method of one object, and calls it.

    Args:
        owner: The object.
        name: Of its method.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self._owner, self._name = owner, name
        self._before = vars(owner).get(name)  # somebody else's shadow, mostly None

    def put(self) -> None:
        """Begins."""
        vars(self._owner)[self._name] = self

    def take_away(self) -> None:
        """Ends, and leaves what another may have put over it."""
        if vars(self._owner).get(self._name) is not self:
            return
        del vars(self._owner)[self._name]
        if self._before is not None:
            vars(self._owner)[self._name] = self._before

    @property
    def original(self) -> Any:
        """The method itself."""
        if self._before is not None:
            return self._before
        return getattr(type(self._owner), self._name).__get__(self._owner)

    @property
    def __wrapped__(self) -> Any:
        # For help() and signatures.
        return self.original

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method, and does what the shadow is for."""


class _Generating(Shadow):
    """Tells hooks that passes belong to one generation."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        generation = current_generation() or object()  # one method may call another
        with _in(generation):
            found = self.original(*args, **kwargs)
        return _stream(found, generation) if isinstance(found, GeneratorType) else found


def _stream(steps: Any, generation: object) -> Iterator[Any]:
    """The steps of a generator, each of which runs as a part of the generation."""
    while True:
        with _in(generation):
            step = next(steps, _stream)  # no step is this function
        if step is _stream:
            return
        yield step


class _KeepingPoints(Shadow):
    """Searches the model for hook points, and keeps those that are not in its modules."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        known = {name: point for name, point in self._owner.hook_dict.items() if _is_ours(name)}
        found = self.original(*args, **kwargs)
        self._owner.hook_dict.update(known)
        self._owner.mod_dict.update(known)
        return found


def _is_ours(name: str) -> bool:
    return name.startswith("clvq.")


class Shadows:
    """The shadows of one model, which stay as long as it has any quantizer."""

    def __init__(self, shadows: list[Shadow]) -> None:
        self._shadows, self._n_users = shadows, 0

    def begin(self) -> None:
        """For one quantizer more."""
        self._n_users += 1
        if self._n_users == 1:
            for shadow in self._shadows:
                shadow.put()

    def end(self) -> bool:
        """For one quantizer less; tells whether it was the last."""
        self._n_users -= 1
        if self._n_users == 0:
            for shadow in self._shadows:
                shadow.take_away()
        return self._n_users == 0


def shadow_methods(model: Any) -> None:
    """Shadows the methods of a model; `unshadow_methods` must follow as often."""
    if _SHADOWS not in vars(model):
        vars(model)[_SHADOWS] = Shadows(list(_shadows_of(model)))
    vars(model)[_SHADOWS].begin()


def unshadow_methods(model: Any) -> None:
    """Undoes it."""
    if vars(model)[_SHADOWS].end():
        del vars(model)[_SHADOWS]


def _shadows_of(model: Any) -> Iterator[Shadow]:
    for owner in (model, vars(model).get("original_model")):  # of a bridge
        for name in _GENERATING:
            if hasattr(type(owner), name):
                yield _Generating(owner, name)
    if hasattr(type(model), "setup"):  # not of a bridge
        yield _KeepingPoints(model, "setup")
