"""What we need of a model, in the way that works for any stack of torch blocks."""

import re
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

from clvq_lens.host.threads import only_here

IN_BLOCK = re.compile(r"(blocks\.\d+\.)(.+)")
# Order in which a block passes its points; a prefix stands for all points of that part.
PRE_NORM = ("hook_resid_pre", "ln1", "attn", "hook_attn_out", "hook_resid_mid", "ln2", "mlp")
POST_NORM = (
    *("hook_resid_pre", "attn", "hook_attn_out", "hook_resid_mid", "ln1", "mlp", "hook_mlp_out"),
    *("hook_resid_post", "ln2", "hook_normalized_resid_post"),
)
# Passes that skip blocks take turns: each puts back what it found.
_SKIPPING = threading.RLock()


@dataclass(frozen=True)
class PassContext:
    """The pass under way, as the block of a hook point is told.

    Attributes:
        key_mask: False on padding, over past and present positions; None: no padding that a real
            position could see.
        cache_entry: The host's key-value cache, or its entry for that block; None without one.
        n_past: Positions already in that cache.
        frozen: Whether the cache forgets this pass.
        has_tokens: Whether the pass began with tokens, or with the first block as in generation,
            so that the ones last embedded are its own.
    """

    key_mask: Bool[Tensor, "b keys"] | None = None
    cache_entry: Any = None
    n_past: int = 0
    frozen: bool = False
    has_tokens: bool = True

    def to(self, device: torch.device) -> "PassContext":
        """The same with the mask on a device."""
        mask = None if self.key_mask is None else self.key_mask.to(device)
        return replace(self, key_mask=mask)


@dataclass(frozen=True)
class Replacement:
    """What a pass goes on with, instead of what it computed so far.

    Attributes:
        blocks: How many blocks need not be computed.
        value: The residual stream after them.
        point: The hook point that the value passes first; None: one that the next block has.
    """

    blocks: int
    value: Float[Tensor, "b pos d"]
    point: HookPoint | None


class HostProtocol:
    """What we need of a model, in the way that works for any stack of torch blocks.

    Args:
        model: With ``cfg``, ``blocks`` and ``hook_dict``.
    """

    order = PRE_NORM
    causal = True
    # Whether activations come to the device of a block before its first hook point or after it.
    moves_before_block = True

    def __init__(self, model: Any) -> None:
        self.model, self.cfg = model, model.cfg
        self._output_length: int | None = None  # of the tuple that a block gives; None: a tensor

    def turn(self) -> AbstractContextManager[Any]:
        """While open, a pass of ours may run; where passes of threads mix, one at a time."""
        return nullcontext()

    # ---- which model ---------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """The class of the model, for people."""
        return type(self.model).__name__

    @property
    def model_name(self) -> str:
        """As the model calls itself."""
        return str(self.cfg.model_name)

    @property
    def layer_norm_folded(self) -> bool:
        """Whether weights of layer norms were folded into the layers after them."""
        return str(self.cfg.normalization_type).endswith("Pre")

    @property
    def processing(self) -> tuple[Any, ...]:
        """Changes whenever the weights are processed."""
        return (str(self.cfg.normalization_type),)

    @property
    def bos(self) -> tuple[str, bool]:
        """What to put before each text, and whether to take off what the tokenizer puts there.

        As the model's own to_tokens does it.
        """
        wanted, added = self.cfg.default_prepend_bos, self.cfg.tokenizer_prepends_bos
        return self.model.tokenizer.bos_token if wanted and not added else "", added and not wanted

    # ---- names of hook points ------------------------------------------------------------------

    def residual_after(self, layer: int) -> str:
        """The name of the residual stream after a block."""
        return f"blocks.{layer}.hook_resid_post"

    def residual_before(self, layer: int) -> str:
        """The name of the residual stream that enters a block."""
        return f"blocks.{layer}.hook_resid_pre"

    def usual_name(self, name: str) -> str:
        """One name for each hook point, where the model has several.

        Raises:
            HookNotFoundError: If the point is not what its name says.
        """
        return name

    def portable(self, name: str) -> str:
        """The name that stands for the same activations on every host of these weights."""
        return name

    def local(self, name: str) -> str:
        """The inverse of `portable`."""
        return name

    def register(self, points: Mapping[str, HookPoint]) -> None:
        """Gives the model more hook points, for run_with_cache, add_hook and the like."""
        for name, point in points.items():
            point.name = name
            self.model.hook_dict[name] = point
            self.model.mod_dict[name] = point

    def unregister(self, names: Sequence[str]) -> None:
        """Takes them away again."""
        for name in names:
            self.model.hook_dict.pop(name, None)
            self.model.mod_dict.pop(name, None)

    def discards(self, block: int) -> bool:
        """Whether the pass under way throws away what this block computes."""
        return False

    # ---- passes --------------------------------------------------------------------------------

    def watch(self) -> list[RemovableHandle]:
        """Hooks that `context` needs, until they are removed."""
        return []

    def context(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PassContext:
        """What a block was told, from the arguments that it is called with."""
        raise NotImplementedError

    def run(
        self,
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        *,
        n_blocks: int | None = None,
        instead: Replacement | None = None,
    ) -> Any:
        """Logits of right-padded sequences.

        Args:
            tokens: On the model's device.
            attended: False on padding.
            n_blocks: How many blocks to run, and then nothing is given; None: the whole model.
            instead: The beginning of the pass, if it is known.
        """
        with ExitStack() as stack:
            if instead is not None:
                stack.enter_context(self._skipping(instead))
            if n_blocks is not None:
                stack.enter_context(_stopping_after(self.model.blocks[n_blocks - 1]))
            return self._forward(tokens, attended)
        return None  # stopped

    def _forward(self, tokens: Tensor, attended: Tensor) -> Any:
        """Logits of the whole model."""
        raise NotImplementedError

    @contextmanager
    def _skipping(self, instead: Replacement) -> Iterator[None]:
        """While open, the first blocks compute nothing, and the last of them gives the value."""

        here = threading.get_ident()

        def forward_of(block: torch.nn.Module, *, is_last: bool) -> Callable[..., Any]:
            original = block.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                if threading.get_ident() != here:  # a pass of another thread skips nothing
                    return original(*args, **kwargs)
                if not is_last:
                    return self._as_output(args[0] if args else kwargs["hidden_states"])
                point, value = instead.point, instead.value
                return self._as_output(value if point is None else point(value))

            return forward

        skipped = list(self.model.blocks)[: instead.blocks]
        with _SKIPPING:
            before = [vars(block).get("forward") for block in skipped]  # mostly None
            try:
                for block in skipped:
                    vars(block)["forward"] = forward_of(block, is_last=block is skipped[-1])
                yield
            finally:
                for block, forward in zip(skipped, before, strict=True):
                    del vars(block)["forward"]
                    if forward is not None:
                        vars(block)["forward"] = forward

    def _as_output(self, hidden: Tensor) -> Any:
        """What a block gives: the residual stream, or a tuple that begins with it."""
        if self._output_length is None:
            return hidden
        return hidden, *[None] * (self._output_length - 1)


class _Stopped(Exception):  # noqa: N818  # no error: all that was wanted has passed
    pass


@contextmanager
def _stopping_after(block: torch.nn.Module) -> Iterator[None]:
    """While open, a pass ends after a block, and leaves the context."""

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
    """While open, no hook in a module is called: what runs is no pass of the model."""
    kept = [(part, part._forward_pre_hooks, part._forward_hooks) for part in module.modules()]
    try:
        for part, before, after in kept:
            part._forward_pre_hooks, part._forward_hooks = type(before)(), type(after)()
        yield
    finally:
        for part, before, after in kept:
            part._forward_pre_hooks, part._forward_hooks = before, after
