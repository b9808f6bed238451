"""Host: what we need of a TransformerLens model, under names that outlive its versions."""

import functools
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint

from clvq_lens.arguments import closest
from clvq_lens.errors import HookNotFoundError, LayerOrderError, ShapeError
from clvq_lens.host.calls import shadow_methods, unshadow_methods
from clvq_lens.host.compiled import uncompiled, uncompiled_passes
from clvq_lens.host.modes import evaluating
from clvq_lens.host.order import read_at, write_at
from clvq_lens.host.protocol.base import Replacement, silenced
from clvq_lens.host.protocol.choice import protocol_of
from clvq_lens.host.threads import only_here
from clvq_lens.host.vocabulary import Vocabulary
from clvq_lens.host.weights import sample_weights
from clvq_lens.quantizer.origin import Origin

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_OF_MODEL_WIDTH = re.compile(
    r"(blocks\.\d+\.)?hook_(resid_(pre|mid|post)|normalized_resid_post|(attn|mlp)_out)"
    r"|hook_(embed|pos_embed|full_embed)|embed\.hook_(embed|pos_embed|out)"
    r"|(blocks\.\d+\.ln[12]|ln_final)\.hook_normalized"
)
_CENTERED = 1e-4  # mean of an embedding, relative to its size, that counts as zero


class Host:
    """A TransformerLens model as the rest of the library sees it.

    Args:
        model: A `HookedTransformer`, `HookedEncoder` or `TransformerBridge`.

    Raises:
        UnsupportedHostError: If a quantizer cannot be attached to the object.
    """

    def __init__(self, model: Any) -> None:
        self.model = model = uncompiled(model)
        self.protocol = protocol_of(model)
        self.cfg = model.cfg
        self.vocabulary = Vocabulary(model, self.protocol)
        self._points: dict[str, HookPoint] = {}  # a bridge makes its hook_dict at every look

    # ---- what kind of model --------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.cfg.n_layers

    @property
    def n_context(self) -> int:
        """Longest sequence in tokens."""
        return self.cfg.n_ctx

    @property
    def causal(self) -> bool:
        """Whether a token sees earlier tokens only."""
        return self.protocol.causal

    @property
    def outputs_tokens(self) -> bool:
        """Whether its logits are of the tokens that it reads, and not of classes, for instance."""
        return self.cfg.d_vocab_out == self.cfg.d_vocab

    @property
    def predicts_tokens(self) -> bool:
        """Whether its logits are of the next token."""
        return self.causal and self.outputs_tokens

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        return next(self.model.parameters()).device

    @property
    def positions_per_pass(self) -> int:
        """Positions of a fast forward pass: on a CPU, larger ones only touch more memory."""
        return 2_048 if self.device.type == "cpu" else 16_384

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights and activations."""
        return self.model.W_E.dtype

    @property
    def state(self) -> str:
        """Of the weights: changes when they are cast or processed."""
        dtype = str(self.dtype).removeprefix("torch.")
        return ", ".join(map(str, (dtype, *self.protocol.processing)))

    def origin(self, source: str, target: str, name: str) -> Origin:
        """What a quantizer fitted here has to remember."""
        protocol = self.protocol
        return Origin(
            model_name=_without_folders(protocol.model_name),
            host=protocol.kind,
            n_layers=self.n_layers,
            d_model=self.cfg.d_model,
            d_vocab=self.cfg.d_vocab,
            dtype=str(self.dtype).removeprefix("torch."),
            layer_norm_folded=protocol.layer_norm_folded,
            weights_centered=self._weights_are_centered(),
            weights=sample_weights(self.model, self._blocks_until([target])),
            source=protocol.portable(source),
            target=protocol.portable(target),
            name=name,
        )

    def _weights_are_centered(self) -> bool:
        written = self.model.W_E[:64].detach().float()  # [token, d_model]
        return bool(written.mean(-1).abs().max() <= _CENTERED * written.abs().max())

    # ---- hook points ---------------------------------------------------------------------------

    def resolve(self, point: SupportsIndex | str) -> str:
        """The full name of a hook point; a number means the residual stream after that block.

        Raises:
            HookNotFoundError: If there is no such layer or hook point, or if it is not what its
                name says.
        """
        if not isinstance(point, str):
            return self.protocol.residual_after(self._layer(point))
        if point not in self.model.hook_dict:
            raise HookNotFoundError(
                f"No hook point {point!r} in this model. "
                f"{closest(point, list(self.model.hook_dict))}"
                f"Pass a layer number for the residual stream."
            )
        return self.protocol.usual_name(point)

    def _layer(self, point: Any) -> int:
        """A layer number, from any kind of whole number: also of numpy, or a tensor of one."""
        layer: int | None = None
        is_truth = isinstance(point, bool | np.bool_) or getattr(point, "dtype", None) == torch.bool
        with suppress(TypeError):
            layer = None if is_truth else operator.index(point)  # pyright: ignore[reportArgumentType]
        if layer is None:
            raise HookNotFoundError(
                f"{point!r} is neither a layer nor a hook point. Pass a layer number from 0 to "
                f"{self.n_layers - 1}, or a name such as 'blocks.0.hook_resid_post'."
            )
        if not 0 <= layer < self.n_layers:
            raise HookNotFoundError(
                f"No layer {layer} in this model. It has layers 0 to {self.n_layers - 1}."
            )
        return layer

    def check_order(self, source: str, target: str) -> None:
        """Raises `LayerOrderError` unless the source is passed before the target, or is it."""
        if self.depth(source) > self.depth(target):
            raise LayerOrderError(
                f"The target {target!r} comes before the source {source!r}. A quantizer reads the "
                f"lower point and reconstructs the higher one; swap them."
            )

    def depth(self, name: str) -> tuple[int, int]:
        """Where a hook point lies: block, and rank within it; comparable."""
        block = _BLOCK.fullmatch(name)
        if block is None:  # around the blocks: embeddings before, final norm and unembedding after
            return (self.n_layers, 0) if name.startswith(("ln_final", "unembed")) else (-1, 0)
        order = self.protocol.order
        rank = next((i for i, part in enumerate(order) if block[2].startswith(part)), len(order))
        return int(block[1]), rank + (block[2] == "hook_resid_post")

    def width(self, name: str) -> int:
        """Width of the vectors at a hook point.

        Raises:
            ShapeError: If the point does not carry one vector of known width per token.
        """
        if _OF_MODEL_WIDTH.fullmatch(name):
            return self.cfg.d_model
        if re.fullmatch(r"blocks\.\d+\.mlp\.hook_(pre|pre_linear|post)", name):
            return self.cfg.d_mlp
        raise ShapeError(
            f"Hook point {name!r} does not carry one vector per token that a quantizer could read. "
            f"Pass a layer number, or a point such as 'blocks.0.hook_resid_post'."
        )

    def hook_point(self, name: str) -> HookPoint:
        """The hook point of a resolved name."""
        if name not in self._points:
            self._points[name] = self.model.hook_dict[name]
        return self._points[name]

    def register(self, points: Mapping[str, HookPoint]) -> None:
        """Gives the model more hook points, for run_with_cache, add_hook and the like."""
        shadow_methods(self.model)
        self.protocol.register(points)

    def unregister(self, names: Sequence[str]) -> None:
        """Takes them away again, with any hook on them."""
        points = [point for name, point in self.model.hook_dict.items() if name in names]
        self.protocol.unregister(names)
        unshadow_methods(self.model)
        for point in points:
            point.remove_hooks("both", including_permanent=True)

    def is_inside(self, name: str) -> bool:
        """Whether a hook point is passed inside a block."""
        return _BLOCK.fullmatch(name) is not None

    def block_of(self, name: str) -> Any:
        """The module that computes a hook point; the nearest block for points around them."""
        index, _ = self.depth(name)
        return self.model.blocks[min(max(index, 0), self.n_layers - 1)]

    def device_of(self, name: str) -> torch.device:
        """Where the activations at a hook point are; blocks may be spread over devices."""
        index, _ = self.depth(name)
        if index > 0 and name == self.protocol.residual_before(index):
            index -= 1 - self.protocol.moves_before_block
        block = self.model.blocks[min(max(index, 0), self.n_layers - 1)]
        return next(block.parameters()).device

    @property
    def first_block(self) -> torch.nn.Module:
        """The block that every whole pass begins with."""
        return self.model.blocks[0]

    @property
    def embedding(self) -> torch.nn.Module:
        """The module that receives token ids."""
        return self.model.embed

    # ---- running -------------------------------------------------------------------------------

    def run(
        self, tokens: Int[Tensor, "b pos"], attended: Bool[Tensor, "b pos"]
    ) -> Float[Tensor, "b n d_vocab"]:
        """Logits of right-padded sequences."""
        return self._run(tokens, attended)

    def _run(self, tokens: Tensor, attended: Tensor, **options: Any) -> Any:
        # Dropout would make codes differ from one call to the next; and the hooks that read and
        # stop would be compiled at every pass.
        with self.protocol.turn(), evaluating(self.model), uncompiled_passes():
            return self.protocol.run(tokens, attended, **options)

    @torch.no_grad()
    def activations(
        self, tokens: Int[Tensor, "b pos"], attended: Bool[Tensor, "b pos"], names: Sequence[str]
    ) -> dict[str, Float[Tensor, "b pos d"]]:
        """What passes the named hook points; the pass stops after the last of them."""
        found: dict[str, Tensor] = {}
        with self.reading(names, found):
            self._run(tokens, attended, n_blocks=self._blocks_until(names))
        return found

    @contextmanager
    def reading(self, names: Sequence[str], into: dict[str, Tensor]) -> Iterator[None]:
        """While open, keeps what passes the named hook points, as other hooks left it."""
        handles: list[RemovableHandle] = []
        for name in set(names):
            keep = only_here(functools.partial(into.__setitem__, name))
            handles += read_at(self.hook_point(name), keep)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def unembedding(self, columns: Int[Tensor, " n"] | None) -> Iterator[None]:
        """While open, logits are computed at some positions only; None: at all of them."""
        if columns is None:
            yield
            return
        cut = only_here(lambda module, args: (args[0][:, columns.to(args[0].device)],))
        handle = self.model.unembed.register_forward_pre_hook(cut)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def unembed(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Logits of residual-stream vectors, through what comes after the last block alone."""
        device = next(self.model.unembed.parameters()).device
        value = vectors.to(device, self.dtype).unsqueeze(1)
        tokens = torch.zeros(value.shape[:2], dtype=torch.long, device=self.device)
        with silenced(self.model):
            logits = self._go_on(self.n_layers, value, tokens, tokens == 0)
        return logits[:, 0].to(vectors.device).float()

    def _blocks_until(self, names: Sequence[str]) -> int | None:
        last = max(self.depth(name)[0] for name in names)
        return None if last >= self.n_layers else max(last, 0) + 1

    def logits_with(
        self,
        name: str,
        value: Float[Tensor, "b pos d"],
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        *,
        before_hooks: bool = False,
    ) -> Float[Tensor, "b n d_vocab"]:
        """Logits of the model with the activations at a hook point replaced.

        From the residual stream on, only the layers above are computed.

        Args:
            name: Of the hook point.
            value: Activations, as hooks at the point left them.
            tokens: Of the pass.
            attended: False on padding.
            before_hooks: Whether the user's hooks at the point are yet to act on the value.
        """
        return self._resume(name, value, tokens, attended, before_hooks=before_hooks)

    def activations_with(
        self,
        name: str,
        value: Float[Tensor, "b pos d"],
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        *,
        until: str,
        before_hooks: bool = False,
    ) -> Float[Tensor, "b pos d_until"]:
        """What passes a later hook point; else as `logits_with`."""
        found: dict[str, Tensor] = {}
        with self.reading([until], found):
            self._resume(name, value, tokens, attended, until=until, before_hooks=before_hooks)
        return found[until]

    def _resume(
        self,
        name: str,
        value: Tensor,
        tokens: Tensor,
        attended: Tensor,
        *,
        until: str | None = None,
        before_hooks: bool,
    ) -> Any:
        value = value.to(self.device_of(name), self.dtype)
        tokens, attended = tokens.to(self.device), attended.to(self.device)
        n_blocks = None if until is None else self._blocks_until([until])
        index, _ = self.depth(name)
        point = self.hook_point(name)
        with _passing(value, point, before_hooks=before_hooks):
            if name == self.protocol.residual_after(index):
                options = {"point": point, "n_blocks": n_blocks}
                return self._go_on(index + 1, value, tokens, attended, **options)
            if name == self.protocol.residual_before(index) and index > 0:
                return self._go_on(index, value, tokens, attended, n_blocks=n_blocks)
            return self._run(tokens, attended, n_blocks=n_blocks)

    def _go_on(
        self,
        blocks: int,
        value: Tensor,
        tokens: Tensor,
        attended: Tensor,
        *,
        point: HookPoint | None = None,
        n_blocks: int | None = None,
    ) -> Any:
        instead = Replacement(blocks=blocks, value=value, point=point)
        return self._run(tokens, attended, n_blocks=n_blocks, instead=instead)


def _without_folders(name: str) -> str:
    """A quantizer may be published, and a folder tells of its user."""
    return Path(name).name if Path(name).is_absolute() else name


@contextmanager
def _passing(value: Tensor, point: HookPoint, *, before_hooks: bool) -> Iterator[None]:
    """While open, a value passes a point, before the user's hooks there or after them."""
    if before_hooks:
        handles = write_at(point, only_here(lambda _: value))
    else:
        handles = [point.register_forward_hook(only_here(lambda *_: value))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
