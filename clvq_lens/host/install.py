"""Gives TransformerLens' model classes ``add_clvq`` and ``clvqs``, whichever is imported first.

Importing this module is cheap: TransformerLens itself is only imported by its own users.
"""

from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any

from wrapt import when_imported

_HOSTS = ("HookedTransformer", "HookedEncoder", "TransformerBridge")


def _add_clvq(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Attaches a quantizer to this model; see `clvq_lens.add_clvq`."""
    from clvq_lens.add import add_clvq

    return add_clvq(self, *args, **kwargs)


def _clvqs(self: Any) -> Mapping[str, Any]:
    """The lenses on this model, by name."""
    from clvq_lens.host.attach import lenses_of

    return MappingProxyType(lenses_of(self))


@when_imported("transformer_lens.model_bridge")  # where TransformerLens 3 has the bridge
@when_imported("transformer_lens")
def install(package: ModuleType) -> None:
    """Puts the methods on every host class that this TransformerLens has."""
    for name in _HOSTS:
        host = vars(package).get(name)  # TransformerLens 4 raises when asked for one it lacks
        if host is not None:
            host.add_clvq = _add_clvq
            host.clvqs = property(_clvqs)
