"""Methods of a model that a quantizer has to notice: generation, and the search for hook points.

While a model has a quantizer, attributes of the instance shadow these methods. They tell which
passes belong to one generation, which the tokens alone do not tell.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import GeneratorType
from typing import Any

_SHADOWS = "_clvq_shadows"  # attribute of a model
_GENERATING = ("generate", "generate_stream", "hf_generate")
_NO_STEP = object()  # what stands for the end of a generator
_generation: ContextVar[object] = ContextVar("clvq_lens_generation", default=None)


def current_generation() -> object:
    """An object that stands for the generation running in this thread; None outside of one."""
    return _generation.get()


@contextmanager
def _during(generation: object) -> Iterator[None]:
    """While open, passes of this thread belong to a generation."""
    token = _generation.set(generation)
    try:
        yield
    finally:
        _generation.reset(token)


class Shadow(ABC):
    """Takes the place of a method of one object, and calls it.

    Args:
        owner: The object that has the method.
        name: Name of the method.
    """

    def __init__(self, owner: object, name: str) -> None:
        self._owner, self._name = owner, name
        self._before = vars(owner).get(name)  # another library's shadow; mostly None

    def put(self) -> None:
        """Puts the shadow over the method."""
        vars(self._owner)[self._name] = self

    def take_away(self) -> None:
        """Takes the shadow off, unless another one has been put over it since."""
        if vars(self._owner).get(self._name) is not self:
            return
        del vars(self._owner)[self._name]
        if self._before is not None:
            vars(self._owner)[self._name] = self._before

    @property
    def original(self) -> Any:
        """The method that the shadow covers."""
        if self._before is not None:
            return self._before
        return getattr(type(self._owner), self._name).__get__(self._owner)

    @property
    def __wrapped__(self) -> Any:
        # help() and inspect.signature look here, and so show the method of the model.
        return self.original

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method, and does what the shadow is there for."""


class _Generating(Shadow):
    """Tells hooks that passes belong to one generation."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # One of these methods may call another, and that is still one generation.
        generation = current_generation() or object()
        with _during(generation):
            result = self.original(*args, **kwargs)
        if isinstance(result, GeneratorType):
            return _streamed(result, generation)
        return result


def _streamed(steps: Iterator[Any], generation: object) -> Iterator[Any]:
    """The steps of a generator, each of which runs as a part of the generation.

    Between two steps the caller's own code runs, and its passes do not belong to the generation.
    """
    while True:
        with _during(generation):
            step = next(steps, _NO_STEP)
        if step is _NO_STEP:
            return
        yield step


class _KeepingPoints(Shadow):
    """Keeps the hook points of quantizers when the model searches its modules for hook points.

    They are in none of its modules, so the search does not find them.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model: Any = self._owner
        ours = {}
        for name, point in model.hook_dict.items():
            if name.startswith("clvq."):
                ours[name] = point
        result = self.original(*args, **kwargs)
        model.hook_dict.update(ours)
        model.mod_dict.update(ours)
        return result


class Shadows:
    """The shadows of one model, which stay on as long as it has a quantizer."""

    def __init__(self, shadows: list[Shadow]) -> None:
        self._shadows, self._n_users = shadows, 0

    def begin(self) -> None:
        """Counts one quantizer more, and puts the shadows on for the first."""
        self._n_users += 1
        if self._n_users == 1:
            for shadow in self._shadows:
                shadow.put()

    def end(self) -> bool:
        """Counts one quantizer less; tells whether it was the last."""
        self._n_users -= 1
        if self._n_users == 0:
            for shadow in self._shadows:
                shadow.take_away()
        return self._n_users == 0


def shadow_methods(model: Any) -> None:
    """Shadows the methods of a model, until `unshadow_methods` was called as often."""
    if _SHADOWS not in vars(model):
        vars(model)[_SHADOWS] = Shadows(list(_shadows_of(model)))
    vars(model)[_SHADOWS].begin()


def unshadow_methods(model: Any) -> None:
    """Undoes one `shadow_methods`."""
    if vars(model)[_SHADOWS].end():
        del vars(model)[_SHADOWS]


def _shadows_of(model: Any) -> Iterator[Shadow]:
    # Users of a bridge may also let the Hugging Face model inside it generate.
    for owner in (model, vars(model).get("original_model")):
        for name in _GENERATING:
            if hasattr(type(owner), name):
                yield _Generating(owner, name)
    if hasattr(type(model), "setup"):  # a bridge has no such method
        yield _KeepingPoints(model, "setup")
