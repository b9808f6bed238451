"""The fitted quantizers of a model, in the order in which a pass reaches them."""

from typing import Any

from clvq_lens.errors import ConfigError
from clvq_lens.host.attach import Attachment, lenses_of
from clvq_lens.host.host import Host
from clvq_lens.interventions.runs import fitted


def fitted_chain(model: Any) -> list[Attachment]:
    """Every quantizer on a model, in order of source, then target.

    Raises:
        NotFittedError: If one of them has not been fitted.
    """
    attachments = [fitted(lens) for lens in lenses_of(Host(model).model).values()]
    return sorted(attachments, key=_place)


def require_chain(model: Any) -> list[Attachment]:
    """`fitted_chain`, of one quantizer at least.

    Raises:
        ConfigError: If there is none.
        NotFittedError: If one of them has not been fitted.
    """
    chain = fitted_chain(model)
    if not chain:
        raise ConfigError(
            "Concepts flow through quantizers, but this model has none. Attach and fit at least "
            "one, such as model.add_clvq(4, 8).fit(texts)."
        )
    return chain


def _place(attachment: Attachment) -> tuple[Any, ...]:
    depth = attachment.host.depth
    return depth(attachment.source), depth(attachment.target), attachment.name
