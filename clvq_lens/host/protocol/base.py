"""What we need of a model, in a way that works for any stack of torch blocks."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint

from clvq_lens.host.points import width_at
from clvq_lens.host.threads import only_here

# Order in which a block passes its points; a prefix stands for all points of that part.
PRE_NORM = ("hook_resid_pre", "ln1", "attn", "hook_attn_out", "hook_resid_mid", "ln2", "mlp")
POST_NORM = (
    *("hook_resid_pre", "attn", "hook_attn_out", "hook_resid_mid", "ln1", "mlp", "hook_mlp_out"),
    *("hook_resid_post", "ln2", "hook_normalized_resid_post"),
)
# Passes that skip blocks take turns: each of them restores the forwards that it found.
_SKIPPING = threading.RLock()


@dataclass(frozen=True)
class PassContext:
    """What the block of a hook point is told about the running pass.

    Attributes:
        key_mask: False on padding, over past and present positions; None: there is no padding
            that a real position could see.
        cache_entry: The host's key-value cache, or its entry for that block; None without a cache.
        n_past: Number of positions in that cache.
        frozen: Whether the cache will forget this pass.
        has_tokens: Whether the tokens that were embedded last are those of the pass: it began with
            tokens, or with the first block as in generation.
    """

    key_mask: Bool[Tensor, "b keys"] | None = None
    cache_entry: Any = None
    n_past: int = 0
    frozen: bool = False
    has_tokens: bool = True

    def to(self, device: torch.device) -> "PassContext":
        """The same context with the mask on a device."""
        mask = None if self.key_mask is None else self.key_mask.to(device)
        return replace(self, key_mask=mask)


@dataclass(frozen=True)
class KnownStart:
    """The beginning of a pass whose result is known, so that it need not be computed.

    Attributes:
        n_skipped: How many blocks need not be computed.
        value: The residual stream after them.
        point: The hook point that the value passes first; None: only those of the next block.
    """

    n_skipped: int
    value: Float[Tensor, "b pos d"]
    point: HookPoint | None


class HostProtocol:
    """What we need of a model, in a way that works for any stack of torch blocks.

    Args:
        model: A model that has ``cfg``, ``blocks`` and ``hook_dict``.
    """

    order = PRE_NORM
    causal = True
    runs = True
    """Whether there is a model to run, and not only vectors that came from one."""
    # Whether activations move to the device of a block before its first hook point or after it.
    moves_before_block = True

    def __init__(self, model: Any) -> None:
        self.model, self.cfg = model, model.cfg
        self._output_length: int | None = None  # of the tuple that blocks return; None: a tensor

    def turn(self) -> AbstractContextManager[Any]:
        """While open, one of our passes may run; where threads would mix, one at a time."""
        return nullcontext()

    # ---- which model ---------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """The class of the model, in words for people."""
        return type(self.model).__name__

    @property
    def model_name(self) -> str:
        """The name that the model has for itself."""
        return str(self.cfg.model_name)

    @property
    def layer_norm_folded(self) -> bool:
        """Whether weights of layer norms were folded into the layers after them."""
        return str(self.cfg.normalization_type).endswith("Pre")

    @property
    def quantization(self) -> str | None:
        """How the weights are quantized, in words for people; None if they are not."""
        return "bitsandbytes 4-bit" if getattr(self.cfg, "load_in_4bit", False) else None

    @property
    def processing(self) -> tuple[Any, ...]:
        """How the weights are processed, so that later processing is noticed."""
        return (str(self.cfg.normalization_type),)

    @property
    def bos(self) -> tuple[str, bool]:
        """What to put before each text, and whether to remove what the tokenizer puts there.

        The model's own to_tokens does the same.
        """
        wanted, added = self.cfg.default_prepend_bos, self.cfg.tokenizer_prepends_bos
        prefix = self.model.tokenizer.bos_token if wanted and not added else ""
        return prefix, added and not wanted

    # ---- names of hook points ------------------------------------------------------------------

    def residual_after(self, layer: int) -> str:
        """The name of the residual stream after a block."""
        return f"blocks.{layer}.hook_resid_post"

    def residual_before(self, layer: int) -> str:
        """The name of the residual stream that enters a block."""
        return f"blocks.{layer}.hook_resid_pre"

    def width(self, name: str) -> int:
        """Width of the vectors at a hook point.

        Raises:
            ShapeError: If the point does not carry one vector of known width per token.
        """
        return width_at(name, self.model)

    def usual_name(self, name: str) -> str:
        """One name for each hook point, where the model has several.

        Raises:
            HookNotFoundError: If the point is not what its name says.
        """
        return name

    def portable(self, name: str) -> str:
        """The name that means the same activations on every kind of host with these weights."""
        return name

    def local(self, name: str) -> str:
        """The name on this host of what `portable` named."""
        return name

    def register(self, points: Mapping[str, HookPoint]) -> None:
        """Gives the model more hook points, which run_with_cache, add_hook and so on then know."""
        for name, point in points.items():
            point.name = name
            self.model.hook_dict[name] = point
            self.model.mod_dict[name] = point

    def unregister(self, names: Sequence[str]) -> None:
        """Takes hook points away from the model again."""
        for name in names:
            self.model.hook_dict.pop(name, None)
            self.model.mod_dict.pop(name, None)

    def discards(self, block: int) -> bool:
        """Whether the running pass throws away what this block computes."""
        return False

    # ---- passes --------------------------------------------------------------------------------

    def watch(self) -> list[RemovableHandle]:
        """Adds the hooks that `context` needs; the caller removes them."""
        return []

    def context(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> PassContext:
        """What a block was told, from the arguments of its call."""
        raise NotImplementedError

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

        Args:
            tokens: Tokens on the model's device.
            attended: False on padding.
            n_blocks: How many blocks to run before stopping, without a result; None: the whole
                model.
            start: The beginning of the pass, if its result is known.
            past: Keys and values of earlier tokens, from `new_past` or `part_of_past`.
        """
        with ExitStack() as stack:
            if start is not None:
                stack.enter_context(self._skipping(start))
            if n_blocks is not None:
                stack.enter_context(_stopping_after(self.model.blocks[n_blocks - 1]))
            return self._forward(tokens, attended, past)
        return None  # the pass was stopped

    def _forward(self, tokens: Tensor, attended: Tensor, past: Any) -> Any:
        """Logits of the whole model."""
        raise NotImplementedError

    def new_past(self, n_sequences: int) -> Any:
        """An empty key-value cache for a pass; None where passes cannot go on from one."""
        return None

    def n_past(self, past: Any, block: int) -> int:
        """How many positions a block has in a cache."""
        raise NotImplementedError

    def part_of_past(self, past: Any, row: int, n_positions: int, n_times: int) -> Any:
        """A cache of the first positions of one sequence, repeated for several sequences."""
        raise NotImplementedError

    def unembedding_often(self) -> AbstractContextManager[Any]:
        """While open, the model prepares nothing anew each time that it computes logits."""
        return nullcontext()

    @contextmanager
    def _skipping(self, start: KnownStart) -> Iterator[None]:
        """While open, the first blocks compute nothing, and the last of them gives the value."""
        skipped = list(self.model.blocks)[: start.n_skipped]
        with _SKIPPING:
            # Mostly None: only other libraries put a forward on the instance.
            before = [vars(block).get("forward") for block in skipped]
            try:
                for block in skipped:
                    is_last = block is skipped[-1]
                    vars(block)["forward"] = self._forward_of_skipped(block, start, is_last=is_last)
                yield
            finally:
                for block, forward in zip(skipped, before, strict=True):
                    del vars(block)["forward"]
                    if forward is not None:
                        vars(block)["forward"] = forward

    def _forward_of_skipped(
        self, block: torch.nn.Module, start: KnownStart, *, is_last: bool
    ) -> Callable[..., Any]:
        """A forward that hands on its input, or gives the known value after the last block."""
        here = threading.get_ident()
        original = block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != here:  # a pass of another thread skips nothing
                return original(*args, **kwargs)
            if not is_last:
                return self._as_output(args[0] if args else kwargs["hidden_states"])
            value = start.value
            return self._as_output(value if start.point is None else start.point(value))

        return forward

    def _as_output(self, hidden: Tensor) -> Any:
        """What a block returns: the residual stream, or a tuple that begins with it."""
        if self._output_length is None:
            return hidden
        return hidden, *[None] * (self._output_length - 1)


class _Stopped(Exception):  # noqa: N818  # not an error: all that was wanted has passed
    pass


@contextmanager
def _stopping_after(block: torch.nn.Module) -> Iterator[None]:
    """While open, a pass ends after a block, and so does the ``with`` block around it."""

    def stop(*_: Any) -> None:
        raise _Stopped

    handle = block.register_forward_hook(only_here(stop))
    try:
        yield
    except _Stopped:
        pass
    finally:
        handle.remove()


@contextmanager
def silenced(module: torch.nn.Module) -> Iterator[None]:
    """While open, no hook in a module is called, for computations that are no pass of the model."""
    hooks: list[tuple[torch.nn.Module, Any, Any]] = []
    for part in module.modules():
        if part._forward_pre_hooks or part._forward_hooks:  # few have any of thousands
            hooks.append((part, part._forward_pre_hooks, part._forward_hooks))
    try:
        for part, before, after in hooks:
            part._forward_pre_hooks = type(before)()
            part._forward_hooks = type(after)()
        yield
    finally:
        for part, before, after in hooks:
            part._forward_pre_hooks = before
            part._forward_hooks = after
