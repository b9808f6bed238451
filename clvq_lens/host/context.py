"""What else a pass through the model carries: tokens, padding, and the key-value cache."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from clvq_lens.host.calls import current_generation
from clvq_lens.host.compiled import never_compiled
from clvq_lens.host.host import Host
from clvq_lens.host.protocol.base import PassContext
from clvq_lens.host.sequences import follow_sequences
from clvq_lens.host.threads import PerThread

_NO_CONTEXT = PassContext()


@dataclass(frozen=True)
class PassText:
    """The text that a pass goes over, for edits that depend on it.

    Attributes:
        tokens: From the beginning of the text, positions in the cache included; None where the
            pass began in the middle of the model, so that nobody saw them.
        real: True on the real tokens of this pass: neither padding nor special.
        n_past: Positions before this pass.
        n_given: Length of the text as it was passed in; what a generation added comes after.
        special: Ids of special tokens, by name.
    """

    tokens: Int[Tensor, "b all"] | None
    real: Bool[Tensor, "b pos"]
    n_past: int
    n_given: int
    special: Mapping[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Sequences, and positions from the beginning of the text."""
        return self.real.shape[0], self.n_past + self.real.shape[1]

    def take(self, rows: Int[Tensor, " r"]) -> "PassText":
        """Some of its sequences."""
        tokens = None if self.tokens is None else self.tokens[rows.to(self.tokens.device)]
        return replace(self, tokens=tokens, real=self.real[rows.to(self.real.device)])


@dataclass(frozen=True)
class _Text:
    """Tokens so far, and how many of them were passed in at the beginning."""

    tokens: Int[Tensor, "b all"]
    n_given: int


_NO_TEXT = _Text(torch.empty(0, 0, dtype=torch.long), 0)


class _Passing(PerThread):
    """What a watcher has seen of the pass under way."""

    def __init__(self) -> None:
        self.text, self.earlier = _NO_TEXT, _NO_TEXT
        self.new: Int[Tensor, "b pos"] = _NO_TEXT.tokens  # what was embedded last
        self.contexts: dict[str, PassContext] = {}
        self.n_begun = 0  # beginnings of passes seen
        self.n_begun_at: dict[str, int] = {}  # of them, when a block was entered last
        self.generation: object = None  # that the text belongs to


class PassWatcher:
    """Listens, while attached, to the tokens of a pass and to what some blocks are told.

    Args:
        host: The model.
        names: Hook points whose blocks are listened to.
        end: Called when a pass is over, also one that stopped halfway.
    """

    def __init__(self, host: Host, names: list[str], end: Callable[[], Any]) -> None:
        self._protocol = host.protocol
        self._special = host.vocabulary.special
        self._named = host.vocabulary.special_by_name
        self._n_context = host.n_context
        self._pass = _Passing()
        self._end = end
        self._handles = [
            host.model.register_forward_hook(self._see_end, always_call=True),
            *host.protocol.watch(),
            host.embedding.register_forward_pre_hook(self._see_tokens),
            host.first_block.register_forward_pre_hook(self._see_beginning),
        ]
        for name in set(names):
            self._handles += self._watch_block(host, name)

    def _watch_block(self, host: Host, name: str) -> list[RemovableHandle]:
        block = host.block_of(name)
        enter, leave = partial(self._enter, name), partial(self._leave, name)
        handles = [block.register_forward_pre_hook(enter, with_kwargs=True)]
        if host.is_inside(name):  # a point after the last block is passed when that was left
            handles.append(block.register_forward_hook(leave))
        return handles

    def close(self) -> None:
        """Stops listening."""
        for handle in self._handles:
            handle.remove()

    def context(self, name: str) -> PassContext:
        """What the block of a hook point was told in the pass under way."""
        return self._pass.contexts.get(name, _NO_CONTEXT)

    def text(self, shape: torch.Size, context: PassContext) -> PassText:
        """The text of the pass under way.

        Where a pass began in the middle of the model its tokens are unknown; only padding is then
        not real.
        """
        n_batch, n_pos = shape
        real = torch.ones(n_batch, n_pos, dtype=torch.bool)
        if context.key_mask is not None:
            real = context.key_mask[:, -n_pos:].cpu()
        n_all = context.n_past + n_pos
        new = _Text(self._pass.new, self._pass.new.shape[1])
        texts = (text for text in (self._pass.text, new) if text.tokens.shape == (n_batch, n_all))
        text = next(texts, None)
        if text is None or not context.has_tokens:
            return PassText(tokens=None, real=real, n_past=context.n_past, n_given=n_all)
        real = real & ~torch.isin(text.tokens[:, -n_pos:].cpu(), self._special)
        return PassText(
            text.tokens, real, n_past=context.n_past, n_given=text.n_given, special=self._named
        )

    # ---- hooks ---------------------------------------------------------------------------------

    @never_compiled
    def _enter(self, name: str, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        now = self._pass
        has_tokens = now.n_begun > now.n_begun_at.get(name, 0)
        now.n_begun_at[name] = now.n_begun
        context = self._protocol.context(args, kwargs)
        now.contexts[name] = replace(context, has_tokens=has_tokens and context.has_tokens)
        if context.cache_entry is not None:
            follow_sequences(context.cache_entry, self._take)
        if context.n_past:
            self._go_on_from(context.n_past)

    @never_compiled
    def _leave(self, name: str, module: Any, args: Any, output: Any) -> None:
        self._pass.contexts.pop(name, None)

    @never_compiled
    def _see_tokens(self, module: Any, args: tuple[Any, ...]) -> None:
        now = self._pass
        now.n_begun += 1
        now.new, text = args[0], now.text
        generation = current_generation()
        goes_on = generation is not None and generation is now.generation
        now.generation = generation
        is_next = now.new.shape == (len(text.tokens), 1) and text.tokens.shape[1] < self._n_context
        if is_next and (goes_on or generation is None):
            # One token a sequence goes on with the text, in a generation or by hand.
            now.text = replace(text, tokens=torch.cat([text.tokens, now.new], dim=1))
        elif goes_on and now.new.shape[1] > text.n_given:
            # Without a cache a generation reads its text again at every step.
            now.text = _Text(now.new, text.n_given)
        else:
            now.earlier, now.text = text, _Text(now.new, now.new.shape[1])

    @never_compiled
    def _see_end(self, module: Any, args: Any, output: Any) -> None:
        self._pass.contexts.clear()  # which keep the host's cache
        self._end()

    def _take(self, rows: Int[Tensor, " b"]) -> None:
        """The text goes on with these sequences, in this order."""
        text = self._pass.text
        tokens = text.tokens[rows.to(text.tokens.device)]
        self._pass.text = replace(text, tokens=tokens)

    @never_compiled
    def _see_beginning(self, module: Any, args: tuple[Any, ...]) -> None:
        self._pass.n_begun += 1

    def _go_on_from(self, n_past: int) -> None:
        """The tokens of this pass go on with the text whose beginning is in the cache."""
        now = self._pass
        if now.text.tokens.shape[1] == n_past + now.new.shape[1]:
            return
        for text in (now.text, now.earlier):
            beginning = text.tokens[:, :n_past]
            if beginning.shape == (len(now.new), n_past):
                tokens = torch.cat([beginning, now.new], dim=1)
                now.text = _Text(tokens, min(text.n_given, n_past))
                return
