"""Which protocol a model speaks."""

from typing import Any

import torch

from clvq_lens.errors import UnsupportedHostError
from clvq_lens.host.protocol.base import HostProtocol
from clvq_lens.host.protocol.bridge import BridgeProtocol
from clvq_lens.host.protocol.hooked import EncoderProtocol, HookedProtocol

# By name: each version of TransformerLens lacks some of these classes.
_PROTOCOLS: dict[str, type[HostProtocol]] = {
    "HookedTransformer": HookedProtocol,
    "HookedEncoder": EncoderProtocol,
    "TransformerBridge": BridgeProtocol,
}


def protocol_of(model: Any) -> HostProtocol:
    """How to speak to a model.

    Raises:
        UnsupportedHostError: If it is no model that a quantizer can be attached to.
    """
    names = [base.__name__ for base in type(model).__mro__]
    protocol = next((_PROTOCOLS[name] for name in names if name in _PROTOCOLS), None)
    if protocol is None or not isinstance(getattr(model, "blocks", None), torch.nn.ModuleList):
        raise UnsupportedHostError(
            f"A quantizer cannot be attached to {type(model).__name__}. Pass a HookedTransformer, "
            f"a HookedEncoder or a TransformerBridge with one stack of blocks; clvq_lens.from_hf("
            f"model, tokenizer) makes a bridge of a Hugging Face model."
        )
    return protocol(model)
