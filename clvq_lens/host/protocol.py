"""Host: what we need of a TransformerLens model, under names that outlive its versions."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from clvq_lens.config import closest
from clvq_lens.errors import (
    HookNotFoundError,
    LayerOrderError,
    ShapeError,
    UnsupportedHostError,
)
from clvq_lens.host.vocabulary import Vocabulary
from clvq_lens.quantizer.origin import Origin

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
# Order in which a block passes its points; a prefix stands for all points of that part.
_WITHIN_BLOCK = ("hook_resid_pre", "ln1", "attn", "hook_attn_out", "hook_resid_mid", "ln2", "mlp")
_OF_MODEL_WIDTH = re.compile(
    r"(blocks\.\d+\.)?hook_(resid_(pre|mid|post)|(attn|mlp)_out|embed|pos_embed)"
    r"|(blocks\.\d+\.ln[12]|ln_final)\.hook_normalized"
)
_CENTERED = 1e-4  # mean of a row of writing weights, relative to its size, that counts as zero


class Host:
    """A TransformerLens model as the rest of the library sees it.

    Args:
        model: A `HookedTransformer`.

    Raises:
        UnsupportedHostError: If the object has no hook points.
    """

    def __init__(self, model: Any) -> None:
        if not (hasattr(model, "hook_dict") and hasattr(model, "cfg") and hasattr(model, "blocks")):
            raise UnsupportedHostError(
                f"{type(model).__name__} has no hook points. Pass a TransformerLens model, such as "
                f"HookedTransformer.from_pretrained('gpt2')."
            )
        self.model = model
        self.cfg = model.cfg
        self.vocabulary = Vocabulary(model)

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
        return getattr(self.cfg, "attention_dir", "causal") == "causal"

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

    def origin(self, source: str, target: str, name: str) -> Origin:
        """What a quantizer fitted here has to remember."""
        return Origin(
            model_name=str(self.cfg.model_name),
            n_layers=self.n_layers,
            d_model=self.cfg.d_model,
            d_vocab=self.cfg.d_vocab,
            dtype=str(self.dtype).removeprefix("torch."),
            layer_norm_folded=str(self.cfg.normalization_type).endswith("Pre"),
            weights_centered=self._weights_are_centered(),
            source=source,
            target=target,
            name=name,
        )

    def _weights_are_centered(self) -> bool:
        written = self.model.blocks[0].attn.W_O.detach().float()  # [head, d_head, d_model]
        return bool(written.mean(-1).abs().max() <= _CENTERED * written.abs().max())

    # ---- hook points ---------------------------------------------------------------------------

    def resolve(self, point: int | str) -> str:
        """The full name of a hook point; a number means the residual stream after that block.

        Raises:
            HookNotFoundError: If there is no such layer or hook point.
        """
        if isinstance(point, int):
            if not 0 <= point < self.n_layers:
                raise HookNotFoundError(
                    f"No layer {point} in this model. It has layers 0 to {self.n_layers - 1}."
                )
            return f"blocks.{point}.hook_resid_post"
        if point not in self.model.hook_dict:
            raise HookNotFoundError(
                f"No hook point {point!r} in this model. "
                f"{closest(point, list(self.model.hook_dict))}"
                f"Pass a layer number for the residual stream."
            )
        return point

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
        rank = next(
            (i for i, part in enumerate(_WITHIN_BLOCK) if block[2].startswith(part)),
            len(_WITHIN_BLOCK) + (block[2] == "hook_resid_post"),
        )
        return int(block[1]), rank

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
        return self.model.hook_dict[name]

    def register(self, points: Mapping[str, HookPoint]) -> None:
        """Gives the model more hook points, for run_with_cache, add_hook and the like."""
        for name, point in points.items():
            point.name = name
            self.model.hook_dict[name] = point
            self.model.mod_dict[name] = point

    def unregister(self, names: Sequence[str]) -> None:
        """Takes them away again, with any hook on them."""
        for name in names:
            point = self.model.hook_dict.pop(name, None)
            self.model.mod_dict.pop(name, None)
            if point is not None:
                point.remove_hooks("both", including_permanent=True)

    def is_inside(self, name: str) -> bool:
        """Whether a hook point is passed inside a block."""
        return _BLOCK.fullmatch(name) is not None

    def block_of(self, name: str) -> torch.nn.Module:
        """The block that computes a hook point; the nearest one for points around the blocks."""
        index, _ = self.depth(name)
        return self.model.blocks[min(max(index, 0), self.n_layers - 1)]

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
        self, tokens: Int[Tensor, "b pos"], attended: Bool[Tensor, "b pos"], **options: Any
    ) -> Any:
        """A forward pass over right-padded sequences.

        A causal model needs no mask for padding on the right, and computes the same bits without.
        """
        mask = None if self.causal else attended.long()
        return self.model(tokens, attention_mask=mask, padding_side="right", **options)

    @torch.no_grad()
    def activations(
        self, tokens: Int[Tensor, "b pos"], attended: Bool[Tensor, "b pos"], names: Sequence[str]
    ) -> dict[str, Float[Tensor, "b pos d"]]:
        """What passes the named hook points; the pass stops after the last of them."""
        found: dict[str, Tensor] = {}
        with self.reading(names, found):
            self.run(tokens, attended, return_type=None, stop_at_layer=self._stop_after(names))
        return found

    @contextmanager
    def reading(self, names: Sequence[str], into: dict[str, Tensor]) -> Iterator[None]:
        """While open, keeps what passes the named hook points, as other hooks left it."""
        handles = []
        for name in set(names):
            handles.append(self.hook_point(name).register_forward_hook(_keeper(name, into)))
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
        handle = self.model.unembed.register_forward_pre_hook(
            lambda module, args: (args[0][:, columns.to(args[0].device)],)
        )
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def unembed(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Logits of residual-stream vectors, through the final norm and the unembedding alone."""
        norm = getattr(self.model, "ln_final", None)  # a model without norms has none
        with _silenced(self.model.unembed), _silenced(norm or self.model.unembed):
            vectors = vectors.to(self.device, self.dtype).unsqueeze(0)
            return self.model.unembed(vectors if norm is None else norm(vectors))[0].float()

    def _stop_after(self, names: Sequence[str]) -> int | None:
        last = max(self.depth(name)[0] for name in names)
        return None if last >= self.n_layers else last + 1

    def logits_with(
        self,
        name: str,
        value: Float[Tensor, "b pos d"],
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
    ) -> Float[Tensor, "b n d_vocab"]:
        """Logits of the model with the activations at a hook point replaced.

        From the residual stream on, only the layers above are computed.
        """
        return self._resume(name, value, tokens, attended)

    def activations_with(
        self,
        name: str,
        value: Float[Tensor, "b pos d"],
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        *,
        until: str,
    ) -> Float[Tensor, "b pos d_until"]:
        """What passes a later hook point with the activations at an earlier one replaced."""
        found: dict[str, Tensor] = {}
        stop = self._stop_after([until])
        with self.reading([until], found):
            self._resume(name, value, tokens, attended, return_type=None, stop_at_layer=stop)
        return found[until]

    def _resume(
        self, name: str, value: Tensor, tokens: Tensor, attended: Tensor, **options: Any
    ) -> Any:
        value, tokens = value.to(self.dtype), tokens.to(self.device)
        attended = attended.to(self.device)
        index, _ = self.depth(name)
        if name.endswith(("hook_resid_pre", "hook_resid_post")):
            start = index + name.endswith("hook_resid_post")
            mask = None if self.causal else attended.long()
            self.embedding(tokens)  # tells who listens which tokens these are
            value = self.hook_point(name)(value)
            return self.model(value, start_at_layer=start, attention_mask=mask, **options)
        handle = self.hook_point(name).register_forward_hook(lambda *_: value)
        try:
            return self.run(tokens, attended, **options)
        finally:
            handle.remove()


@contextmanager
def _silenced(module: torch.nn.Module) -> Iterator[None]:
    """While open, no hook in a module is called: what runs is no pass of the model."""
    kept = [(part, part._forward_pre_hooks, part._forward_hooks) for part in module.modules()]
    try:
        for part, before, after in kept:
            part._forward_pre_hooks, part._forward_hooks = type(before)(), type(after)()
        yield
    finally:
        for part, before, after in kept:
            part._forward_pre_hooks, part._forward_hooks = before, after


def _keeper(name: str, into: dict[str, Tensor]) -> Any:
    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        into[name] = output

    return keep
