"""A host without a model: two hook points whose vectors came from elsewhere."""

from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import nn
from transformer_lens.hook_points import HookPoint

from clvq_lens.errors import ModelNeededError
from clvq_lens.host.protocol.base import HostProtocol

SOURCE, TARGET = "source", "target"
_ANY_TOKEN = 2**31 - 1  # size of a vocabulary that nobody knows; one number, so that all agree


class VectorModel(nn.Module):
    """Takes the place of a model where there are only vectors; a quantizer can be attached to it.

    Args:
        d_source: Width of the vectors at the source.
        d_target: Width of the vectors at the target.
        causal: Whether a token of the model saw only earlier tokens.
        longest: Tokens of the longest document.
    """

    def __init__(self, d_source: int, d_target: int, *, causal: bool, longest: int) -> None:
        super().__init__()
        self.widths = {SOURCE: d_source, TARGET: d_target}
        self.causal = causal
        self.tokenizer = None
        self.cfg = SimpleNamespace(
            model_name="vectors",
            n_layers=2,
            n_ctx=longest,
            d_model=0,  # no vector is one of a residual stream that could be unembedded
            d_vocab=_ANY_TOKEN,
            d_vocab_out=_ANY_TOKEN,
            normalization_type=None,
            default_prepend_bos=False,
            tokenizer_prepends_bos=False,
        )
        # They compute nothing; their parameters say on which device a quantizer is to be.
        self.embed = _OnADevice()
        self.blocks = nn.ModuleList([_OnADevice(), _OnADevice()])
        self.W_E = nn.Parameter(torch.zeros(1, 1), requires_grad=False)
        self.hook_dict: dict[str, HookPoint] = {}
        self.mod_dict: dict[str, nn.Module] = {}
        for name in (SOURCE, TARGET):
            point = HookPoint()
            point.name = name
            self.hook_dict[name] = self.mod_dict[name] = point

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Raises `ModelNeededError`."""
        raise ModelNeededError(
            "This lens has vectors and no model, so there is nothing to run. Pass what "
            "clvq_lens.activations(...) returned as data; for texts, tokens, edits and everything "
            "about predictions, attach a lens to the model: model.add_clvq(...)."
        )


class _OnADevice(nn.Module):
    """A module that is on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(0), requires_grad=False)


class VectorProtocol(HostProtocol):
    """What stands for a model where there is none."""

    runs = False

    @property
    def causal(self) -> bool:
        """Whether a token of the model saw only earlier tokens."""
        return self.model.causal

    def width(self, name: str) -> int:
        """Width of the vectors at one of the two points."""
        return self.model.widths[name]

    def residual_after(self, layer: int) -> str:
        """The source for layer 0, and the target for layer 1."""
        return (SOURCE, TARGET)[layer]

    def run(self, *_: Any, **__: Any) -> Any:
        """Raises `ModelNeededError`."""
        return self.model()
