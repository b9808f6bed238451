"""What else a pass through the model carries: tokens, padding, and the key-value cache."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.host.protocol import Host


@dataclass(frozen=True)
class PassContext:
    """The pass under way, as its block at the target sees it.

    Attributes:
        key_mask: False on padding, over past and present positions; None: no padding that a real
            position could see.
        cache_entry: The host's key-value cache of that block, or None.
        n_past: Positions already in that cache.
    """

    key_mask: Bool[Tensor, "b keys"] | None
    cache_entry: Any
    n_past: int

    def to(self, device: torch.device) -> "PassContext":
        """The same with the mask on a device."""
        mask = None if self.key_mask is None else self.key_mask.to(device)
        return replace(self, key_mask=mask)


_NO_CONTEXT = PassContext(key_mask=None, cache_entry=None, n_past=0)


class PassWatcher:
    """Listens, while attached, to the tokens of a pass and to what its target block is told.

    Args:
        host: The model.
        target: Hook point whose block is listened to.
    """

    def __init__(self, host: Host, target: str) -> None:
        self._special, self._n_context = host.special_tokens, host.n_context
        self._tokens: list[Int[Tensor, "b pos"]] = []
        self._context = _NO_CONTEXT
        self._handles = [
            host.embedding.register_forward_pre_hook(self._see_tokens),
            host.block_of(target).register_forward_pre_hook(self._see_block, with_kwargs=True),
        ]

    def close(self) -> None:
        """Stops listening."""
        for handle in self._handles:
            handle.remove()

    def take_context(self) -> PassContext:
        """The context of the pass under way, which is then forgotten."""
        context, self._context = self._context, _NO_CONTEXT
        return context

    def real(self, shape: torch.Size, context: PassContext) -> Bool[Tensor, "b pos"]:
        """True on real tokens: neither padding nor special.

        Where a pass began in the middle of the model its tokens are unknown; only padding is then
        False.
        """
        n_batch, n_pos = shape
        real = torch.ones(n_batch, n_pos, dtype=torch.bool)
        if context.key_mask is not None:
            real = context.key_mask[:, -n_pos:].cpu()
        tokens = self._tokens_of(shape)
        if tokens is not None:
            real = real & ~torch.isin(tokens.cpu(), self._special)
        return real

    def _tokens_of(self, shape: torch.Size) -> Int[Tensor, "b pos"] | None:
        """The tokens last embedded, or, in generation without a cache, all of them so far."""
        if self._tokens and self._tokens[-1].shape == shape:
            return self._tokens[-1]
        so_far = torch.cat(self._tokens, dim=1) if self._tokens else None
        return so_far if so_far is not None and so_far.shape == shape else None

    def _see_tokens(self, module: Any, args: tuple[Any, ...]) -> None:
        tokens = args[0]
        follows = bool(self._tokens) and tokens.shape == (self._tokens[0].shape[0], 1)
        n_pos = sum(earlier.shape[1] for earlier in self._tokens)
        self._tokens = [*self._tokens, tokens] if follows and n_pos < self._n_context else [tokens]

    def _see_block(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask, entry = kwargs.get("attention_mask"), kwargs.get("past_kv_cache_entry")
        self._context = PassContext(
            key_mask=None if mask is None else mask.bool(),
            cache_entry=entry,
            n_past=0 if entry is None else entry.past_keys.shape[1],
        )
