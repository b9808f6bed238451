"""Which protocol belongs to a model."""

from typing import Any

import torch

from clvq_lens.errors import UnsupportedHostError
from clvq_lens.host.protocol.base import HostProtocol
from clvq_lens.host.protocol.bridge import BridgeProtocol
from clvq_lens.host.protocol.hooked import EncoderProtocol, HookedProtocol
from clvq_lens.host.protocol.without_model import VectorProtocol

# By name: each version of TransformerLens lacks some of these classes.
_PROTOCOLS: dict[str, type[HostProtocol]] = {
    "HookedTransformer": HookedProtocol,
    "HookedEncoder": EncoderProtocol,
    "TransformerBridge": BridgeProtocol,
    "VectorModel": VectorProtocol,
}


def protocol_of(model: Any) -> HostProtocol:
    """The protocol of a model.

    Raises:
        UnsupportedHostError: If no quantizer can be attached to the object.
    """
    protocol = None
    for base in type(model).__mro__:  # also of a user's own subclass
        protocol = _PROTOCOLS.get(base.__name__)
        if protocol is not None:
            break
    if protocol is None or not isinstance(getattr(model, "blocks", None), torch.nn.ModuleList):
        raise UnsupportedHostError(
            f"A quantizer cannot be attached to {type(model).__name__}. Pass a HookedTransformer, "
            f"a HookedEncoder or a TransformerBridge with one stack of blocks; clvq_lens.from_hf("
            f"model, tokenizer) makes a bridge of a Hugging Face model."
        )
    return protocol(model)
