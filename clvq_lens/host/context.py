"""What else is known about a pass: its tokens, its padding, and the key-value cache."""

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
    """The text of a pass, for edits that depend on it.

    Attributes:
        tokens: Tokens from the beginning of the text, positions in the cache included; None where
            the pass began in the middle of the model, so that its tokens are unknown.
        real: True on the real tokens of this pass: neither padding nor special.
        n_past: Positions before this pass.
        n_given: Length of the text as the user passed it; a generation adds to it.
        special: Ids of the special tokens, by name.
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
        """Some sequences of the text."""
        tokens = None if self.tokens is None else self.tokens[rows.to(self.tokens.device)]
        return replace(self, tokens=tokens, real=self.real[rows.to(self.real.device)])


@dataclass(frozen=True)
class _TokensSoFar:
    """The tokens of a text so far, and how many of them the user passed in."""

    tokens: Int[Tensor, "b all"]
    n_given: int


_NO_TOKENS = _TokensSoFar(torch.empty(0, 0, dtype=torch.long), 0)


class _WatchedPass(PerThread):
    """What a watcher has seen of the running pass."""

    def __init__(self) -> None:
        self.text = _NO_TOKENS
        self.earlier = _NO_TOKENS  # the text before this one
        self.new: Int[Tensor, "b pos"] = _NO_TOKENS.tokens  # the tokens that were embedded last
        self.contexts: dict[str, PassContext] = {}
        self.n_begun = 0  # how often a pass was seen to begin
        self.n_begun_at: dict[str, int] = {}  # n_begun at the last time that a block was entered
        self.generation: object = None  # the generation that the text belongs to


class PassWatcher:
    """Listens to the tokens of each pass, and to the arguments of some blocks, until closed.

    Args:
        host: The model.
        names: Hook points; the blocks that they lie in are listened to.
        end: Called at the end of a pass, also of one that stopped halfway.
    """

    def __init__(self, host: Host, names: list[str], end: Callable[[], object]) -> None:
        self._protocol = host.protocol
        self._special = host.vocabulary.special
        self._named = host.vocabulary.special_by_name
        self._n_context = host.n_context
        self._pass = _WatchedPass()
        self._end = end
        self._handles = [
            host.model.register_forward_hook(self._see_end, always_call=True),  # also if it raised
            *host.protocol.watch(),
            host.embedding.register_forward_pre_hook(self._see_tokens),
            host.first_block.register_forward_pre_hook(self._see_beginning),
        ]
        for name in set(names):
            self._handles += self._watch_block(host, name)

    def _watch_block(self, host: Host, name: str) -> list[RemovableHandle]:
        block = host.block_of(name)
        enter = partial(self._enter, name)
        handles = [block.register_forward_pre_hook(enter, with_kwargs=True)]
        # A point after the last block is passed when that block was left, and still needs its
        # context.
        if host.is_inside(name):
            handles.append(block.register_forward_hook(partial(self._leave, name)))
        return handles

    def close(self) -> None:
        """Stops listening."""
        for handle in self._handles:
            handle.remove()

    def context(self, name: str) -> PassContext:
        """What the block of a hook point was told in the running pass."""
        return self._pass.contexts.get(name, _NO_CONTEXT)

    def text(self, shape: tuple[int, ...], context: PassContext) -> PassText:
        """The text of the running pass.

        Where the pass began in the middle of the model, its tokens are unknown, and then every
        position that is not padding counts as real.
        """
        n_batch, n_pos = shape
        real = torch.ones(n_batch, n_pos, dtype=torch.bool)
        if context.key_mask is not None:
            real = context.key_mask[:, -n_pos:].cpu()
        n_all = context.n_past + n_pos
        text = self._text_of_shape(n_batch, n_all)
        if text is None or not context.has_tokens:
            return PassText(tokens=None, real=real, n_past=context.n_past, n_given=n_all)
        real = real & ~torch.isin(text.tokens[:, -n_pos:].cpu(), self._special)
        return PassText(
            text.tokens, real, n_past=context.n_past, n_given=text.n_given, special=self._named
        )

    def _text_of_shape(self, n_batch: int, n_all: int) -> _TokensSoFar | None:
        """The tokens that a pass of that shape is about; None if they were not seen."""
        new = _TokensSoFar(self._pass.new, self._pass.new.shape[1])
        for text in (self._pass.text, new):
            if text.tokens.shape == (n_batch, n_all):
                return text
        return None

    # ---- hooks ---------------------------------------------------------------------------------

    @never_compiled
    def _enter(self, name: str, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watched = self._pass
        # A pass that starts in the middle of the model runs neither embedding nor first block.
        has_tokens = watched.n_begun > watched.n_begun_at.get(name, 0)
        watched.n_begun_at[name] = watched.n_begun
        context = self._protocol.context(args, kwargs)
        watched.contexts[name] = replace(context, has_tokens=has_tokens and context.has_tokens)
        if context.cache_entry is not None:
            follow_sequences(context.cache_entry, self._take)
        if context.n_past:
            self._go_on_from(context.n_past)

    @never_compiled
    def _leave(self, name: str, module: Any, args: Any, output: Any) -> None:
        self._pass.contexts.pop(name, None)

    @never_compiled
    def _see_tokens(self, module: Any, args: tuple[Any, ...]) -> None:
        watched = self._pass
        watched.n_begun += 1
        watched.new = args[0]
        text = watched.text
        generation = current_generation()
        goes_on = generation is not None and generation is watched.generation
        watched.generation = generation
        # Within the context: texts of one token each would otherwise pile up as one long text.
        has_room = text.tokens.shape[1] < self._n_context
        is_next = watched.new.shape == (len(text.tokens), 1) and has_room
        if is_next and (goes_on or generation is None):
            # One more token for each sequence: the text goes on, in a generation or by hand.
            watched.text = replace(text, tokens=torch.cat([text.tokens, watched.new], dim=1))
        elif goes_on and watched.new.shape[1] > text.n_given:
            # Without a cache, a generation reads its whole text again at every step.
            watched.text = _TokensSoFar(watched.new, text.n_given)
        else:
            watched.earlier = text
            watched.text = _TokensSoFar(watched.new, watched.new.shape[1])

    @never_compiled
    def _see_end(self, module: Any, args: Any, output: Any) -> None:
        self._pass.contexts.clear()  # they would keep the host's cache alive
        self._end()

    def _take(self, rows: Int[Tensor, " b"]) -> None:
        """Goes on with these sequences of the text, in this order."""
        text = self._pass.text
        tokens = text.tokens[rows.to(text.tokens.device)]
        self._pass.text = replace(text, tokens=tokens)

    @never_compiled
    def _see_beginning(self, module: Any, args: tuple[Any, ...]) -> None:
        self._pass.n_begun += 1

    def _go_on_from(self, n_past: int) -> None:
        """Puts the tokens of this pass after the text whose beginning is in the cache."""
        watched = self._pass
        if watched.text.tokens.shape[1] == n_past + watched.new.shape[1]:
            return
        # The tokens of this pass may have been taken for a new text, and then the text that they
        # go on with is the one before.
        for text in (watched.text, watched.earlier):
            beginning = text.tokens[:, :n_past]
            if beginning.shape == (len(watched.new), n_past):
                tokens = torch.cat([beginning, watched.new], dim=1)
                watched.text = _TokensSoFar(tokens, min(text.n_given, n_past))
                return
