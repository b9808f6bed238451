"""The protocols of HookedTransformer and HookedEncoder, which TransformerLens has up to 3.9."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from clvq_lens.host.points import IN_BLOCK
from clvq_lens.host.protocol.base import (
    POST_NORM,
    HostProtocol,
    KnownStart,
    PassContext,
)


class HookedProtocol(HostProtocol):
    """`HookedTransformer`, which can start at any layer and stop after any."""

    @property
    def causal(self) -> bool:
        """Whether a token sees only earlier tokens."""
        return self.cfg.attention_dir == "causal"

    def context(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> PassContext:
        """The mask and the cache entry that each block gets."""
        mask = kwargs.get("attention_mask")
        key_mask = mask.bool() if isinstance(mask, Tensor) else None
        entry: Any = kwargs.get("past_kv_cache_entry")
        if entry is None:
            return PassContext(key_mask)
        return PassContext(key_mask, entry, entry.past_keys.shape[1], entry.frozen)

    def run(
        self,
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        *,
        n_blocks: int | None = None,
        start: KnownStart | None = None,
        past: Any = None,
    ) -> Any:
        """Logits of right-padded sequences.

        A causal model needs no mask for padding on the right, and computes the same bits without.
        """
        options: dict[str, Any] = {"attention_mask": None if self.causal else attended.long()}
        if past is not None:
            options["past_kv_cache"] = past
            if start is None:  # or TransformerLens would look for padding in these tokens
                options["attention_mask"] = attended.long()
        if n_blocks is not None:
            options |= {"stop_at_layer": n_blocks, "return_type": None}
        if start is None:
            return self.model(tokens, padding_side="right", **options)
        self.model.embed(tokens)  # for the hooks of the watcher, which learn the tokens from it
        value = start.value if start.point is None else start.point(start.value)
        return self.model(value, start_at_layer=start.n_skipped, **options)

    @contextmanager
    def unembedding_often(self) -> Iterator[None]:
        """While open, the model does not transpose its unembedding each time.

        With 50,000 tokens that takes as long as the logits of hundreds of vectors. The weights stay
        what they are, and so does every bit of the logits.
        """
        weight = self.model.unembed.W_U
        as_found = weight.data
        if as_found.T.is_contiguous():  # as another block has left it, which will mend it
            yield
            return
        # Transposed in memory already, so that the copy that the model asks for is none.
        weight.data = as_found.T.contiguous().T
        try:
            yield
        finally:
            weight.data = as_found

    def new_past(self, n_sequences: int) -> Any:
        """An empty key-value cache for a pass; None where passes cannot go on from one."""
        # Here, because a TransformerLens without this kind of model need not have its cache.
        from transformer_lens import TransformerLensKeyValueCache

        device = self.model.embed.W_E.device
        return TransformerLensKeyValueCache.init_cache(self.cfg, device, n_sequences)

    def n_past(self, past: Any, block: int) -> int:
        """How many positions a block has in a cache."""
        return past[block].past_keys.shape[1]

    def part_of_past(self, past: Any, row: int, n_positions: int, n_times: int) -> Any:
        """A cache of the first positions of one sequence, repeated for several sequences."""
        entries = []
        for entry in past.entries:
            keys = entry.past_keys[row, :n_positions].expand(n_times, -1, -1, -1)
            values = entry.past_values[row, :n_positions].expand(n_times, -1, -1, -1)
            entries.append(type(entry)(keys, values, frozen=True))
        mask = past.previous_attention_mask[row, :n_positions].expand(n_times, -1)
        return type(past)(entries, mask, frozen=True)


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
        """Nothing to add or remove: the tokenizer of an encoder frames texts by itself."""
        return "", False

    def residual_after(self, layer: int) -> str:
        """The name of what the next block reads, which is normalized in a post-norm model."""
        return f"blocks.{layer}.hook_normalized_resid_post"

    def portable(self, name: str) -> str:
        """The name on bridges, which call the output of a block hook_resid_post."""
        return _renamed(name, self._PORTABLE)

    def local(self, name: str) -> str:
        """The name on this host of what `portable` named."""
        return _renamed(name, {theirs: ours for ours, theirs in self._PORTABLE.items()})

    def context(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> PassContext:
        """The mask of the pass, from the one that is added to attention scores."""
        mask = args[1] if len(args) > 1 else kwargs.get("additive_attention_mask")
        if not isinstance(mask, Tensor):
            return PassContext()
        return PassContext(mask[:, 0, 0] == 0)  # added to scores: zero where a token may be seen

    def _forward(self, tokens: Tensor, attended: Tensor, past: Any) -> Any:
        return self.model(tokens, one_zero_attention_mask=attended.long())


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """A hook point under another name within its block."""
    parts = IN_BLOCK.fullmatch(name)
    if parts is None:
        return name
    block, _, point = parts.groups()
    return block + names.get(point, point)
