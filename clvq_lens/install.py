"""Gives TransformerLens' model classes ``add_clvq`` and ``clvqs``, whichever is imported first.

Importing this module is cheap: TransformerLens itself is only imported by its own users, and the
rest of this library when one of the two is first looked at.
"""

from collections.abc import Callable, Mapping
from types import MethodType, ModuleType
from typing import Any

from wrapt import when_imported

_HOSTS = ("HookedTransformer", "HookedEncoder", "TransformerBridge")


class _AddCLVQ:
    """`clvq_lens.add_clvq` as a method, with its own signature and docstring."""

    def __get__(self, model: Any, kind: type) -> Callable[..., Any]:
        from clvq_lens.add import add_clvq

        return add_clvq if model is None else MethodType(add_clvq, model)


def _clvqs(model: Any) -> Mapping[str, Any]:
    """The lenses on this model, by name."""
    from clvq_lens.add import clvqs

    return clvqs(model)


@when_imported("transformer_lens.model_bridge")  # where TransformerLens 3 has the bridge
@when_imported("transformer_lens")
def install(package: ModuleType) -> None:
    """Puts both on every host class that this TransformerLens has."""
    for name in _HOSTS:
        host = vars(package).get(name)  # TransformerLens 4 raises when asked for one it lacks
        if host is not None:
            host.add_clvq = _AddCLVQ()
            host.clvqs = property(_clvqs)
