"""How to speak to HookedTransformer and HookedEncoder, which TransformerLens has up to 3.9."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.host.protocol.base import (
    IN_BLOCK,
    POST_NORM,
    HostProtocol,
    PassContext,
    Replacement,
)


class HookedProtocol(HostProtocol):
    """`HookedTransformer`: it can stop after any layer, and start at any."""

    @property
    def causal(self) -> bool:
        """Whether a token sees earlier tokens only."""
        return self.cfg.attention_dir == "causal"

    def context(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PassContext:
        """The mask and the cache entry that each block is given."""
        mask, entry = kwargs.get("attention_mask"), kwargs.get("past_kv_cache_entry")
        mask = None if mask is None else mask.bool()
        if entry is None:
            return PassContext(mask)
        return PassContext(mask, entry, entry.past_keys.shape[1], entry.frozen)

    def run(
        self,
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        *,
        n_blocks: int | None = None,
        instead: Replacement | None = None,
    ) -> Any:
        """Logits; a causal model needs no mask, and computes the same bits without."""
        options: dict[str, Any] = {"attention_mask": None if self.causal else attended.long()}
        if n_blocks is not None:
            options |= {"stop_at_layer": n_blocks, "return_type": None}
        if instead is None:
            return self.model(tokens, padding_side="right", **options)
        self.model.embed(tokens)  # tells who listens which tokens these are
        value = instead.value if instead.point is None else instead.point(instead.value)
        return self.model(value, start_at_layer=instead.blocks, **options)


class EncoderProtocol(HostProtocol):
    """`HookedEncoder`: a post-norm model in which every token sees every other."""

    order = POST_NORM
    causal = False
    _PORTABLE: ClassVar = {
        "hook_normalized_resid_post": "hook_resid_post",
        "hook_resid_post": "ln2.hook_in",
    }

    @property
    def bos(self) -> tuple[str, bool]:
        """The tokenizer of an encoder knows by itself."""
        return "", False

    def residual_after(self, layer: int) -> str:
        """What the next block reads: in a post-norm model that is normalized."""
        return f"blocks.{layer}.hook_normalized_resid_post"

    def portable(self, name: str) -> str:
        """Bridges call the output of a block hook_resid_post."""
        return _renamed(name, self._PORTABLE)

    def local(self, name: str) -> str:
        """The inverse."""
        return _renamed(name, {theirs: ours for ours, theirs in self._PORTABLE.items()})

    def context(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PassContext:
        """The mask that is added to attention scores: zero where a token may be seen."""
        mask = args[1] if len(args) > 1 else kwargs.get("additive_attention_mask")
        return PassContext(None if mask is None else mask[:, 0, 0] == 0)

    def _forward(self, tokens: Tensor, attended: Tensor) -> Any:
        return self.model(tokens, one_zero_attention_mask=attended.long())


def _renamed(name: str, names: Mapping[str, str]) -> str:
    found = IN_BLOCK.fullmatch(name)
    return name if found is None else found[1] + names.get(found[2], found[2])
