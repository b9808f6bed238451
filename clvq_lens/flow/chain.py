"""The fitted quantizers of a model, in the order in which a pass reaches them."""

from typing import Any

from clvq_lens.errors import ConfigError
from clvq_lens.host.attachment import Attachment, ready
from clvq_lens.host.host import Host
from clvq_lens.host.lenses import lenses_of


def fitted_chain(model: Any) -> list[Attachment]:
    """Every quantizer on a model, in order of source, then target.

    Raises:
        NotFittedError: If one of them has not been fitted.
    """
    attachments = [ready(lens) for lens in lenses_of(Host(model).model).values()]
    return sorted(attachments, key=_depths)


def require_chain(model: Any) -> list[Attachment]:
    """`fitted_chain` with at least one quantizer.

    Raises:
        ConfigError: If the model has none.
        NotFittedError: If one of them has not been fitted.
    """
    chain = fitted_chain(model)
    if not chain:
        raise ConfigError(
            "Concepts flow through quantizers, but this model has none. Attach and fit at least "
            "one, such as model.add_clvq(4, 8).fit(texts)."
        )
    return chain


def _depths(attachment: Attachment) -> tuple[Any, Any, str]:
    depth = attachment.host.depth
    # The name comes last: two quantizers between the same points keep one order in every run.
    return depth(attachment.source), depth(attachment.target), attachment.name
