"""Host: what we use of a TransformerLens model, under names that outlive its versions."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint

from clvq_lens.arguments import closest
from clvq_lens.errors import HookNotFoundError, LayerOrderError
from clvq_lens.host.calls import shadow_methods, unshadow_methods
from clvq_lens.host.compiled import uncompiled, uncompiled_passes
from clvq_lens.host.hook_order import read_at, replaced
from clvq_lens.host.modes import evaluating
from clvq_lens.host.points import IN_BLOCK, depth_at, layer_number
from clvq_lens.host.protocol.base import KnownStart, silenced
from clvq_lens.host.protocol.choice import protocol_of
from clvq_lens.host.threads import only_here
from clvq_lens.host.vocabulary import Vocabulary
from clvq_lens.host.weights import sample_weights
from clvq_lens.quantizer.origin import ModelIdentity, Origin

_POSITIONS_ON_CPU = 2_048  # in one pass; larger passes only touch more memory there
_POSITIONS_ON_GPU = 16_384
_CENTERED = 1e-4  # the mean of an embedding counts as zero below this share of its size


class Host:
    """A TransformerLens model as the rest of the library sees it.

    Args:
        model: A `HookedTransformer`, `HookedEncoder` or `TransformerBridge`.
        positions_per_pass: Positions that a batch may have, padding included; None: as many as
            the model's device runs fast on.

    Raises:
        UnsupportedHostError: If a quantizer cannot be attached to the object.
    """

    def __init__(self, model: Any, positions_per_pass: int | None = None) -> None:
        self.model = model = uncompiled(model)
        self.protocol = protocol_of(model)
        self.cfg = model.cfg
        self.vocabulary = Vocabulary(model, self.protocol)
        self._positions_per_pass = positions_per_pass
        self._points: dict[str, HookPoint] = {}  # a bridge builds its hook_dict at every look

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
    def runs(self) -> bool:
        """Whether there is a model to run, and not only vectors that came from one."""
        return self.protocol.runs

    @property
    def causal(self) -> bool:
        """Whether a token sees only earlier tokens."""
        return self.protocol.causal

    @property
    def outputs_tokens(self) -> bool:
        """Whether there is a logit for each token that it reads, and not for each class, say."""
        return self.cfg.d_vocab_out == self.cfg.d_vocab

    @property
    def predicts_tokens(self) -> bool:
        """Whether its logits predict the next token."""
        return self.runs and self.causal and self.outputs_tokens

    @property
    def device(self) -> torch.device:
        """The device that tokens go in on."""
        return next(self.model.parameters()).device

    @property
    def positions_per_pass(self) -> int:
        """How many positions a batch may have, padding included."""
        if self._positions_per_pass is not None:
            return self._positions_per_pass
        # Looked up at each use: a user may move the model to another device.
        return _POSITIONS_ON_CPU if self.device.type == "cpu" else _POSITIONS_ON_GPU

    @positions_per_pass.setter
    def positions_per_pass(self, n_positions: int) -> None:
        self._positions_per_pass = n_positions

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's weights and activations."""
        return self.model.W_E.dtype

    @property
    def _dtype_name(self) -> str:
        """Name of the dtype and, after a comma, how the weights are quantized if they are."""
        words = (str(self.dtype).removeprefix("torch."), self.protocol.quantization)
        return ", ".join(filter(None, words))

    @property
    def state(self) -> str:
        """Dtype and processing of the weights, in words that change whenever the weights do."""
        return ", ".join(map(str, (self._dtype_name, *self.protocol.processing)))

    def identity(self, points: Sequence[str]) -> ModelIdentity:
        """What tells this model from another that would give other activations at hook points."""
        protocol = self.protocol
        return ModelIdentity(
            model_name=_without_folders(protocol.model_name),
            host=protocol.kind,
            n_layers=self.n_layers,
            d_model=self.cfg.d_model,
            d_vocab=self.cfg.d_vocab,
            dtype=self._dtype_name,
            layer_norm_folded=protocol.layer_norm_folded,
            weights_centered=self._weights_are_centered(),
            weights=sample_weights(self.model, self._blocks_until(points)),
        )

    def origin(self, source: str, target: str, name: str) -> Origin:
        """What a quantizer that is fitted here has to remember."""
        return Origin(
            **vars(self.identity([target])),
            source=self.protocol.portable(source),
            target=self.protocol.portable(target),
            name=name,
        )

    def _weights_are_centered(self) -> bool:
        written = self.model.W_E[:64].detach().float()  # [token, d_model]; a few tokens can tell
        return bool(written.mean(-1).abs().max() <= _CENTERED * written.abs().max())

    # ---- hook points ---------------------------------------------------------------------------

    def resolve(self, point: SupportsIndex | str) -> str:
        """The full name of a hook point; a number means the residual stream after that block.

        Raises:
            HookNotFoundError: If there is no such layer or hook point, or if it is not what its
                name says.
        """
        if not isinstance(point, str):
            return self.protocol.residual_after(layer_number(point, self.n_layers))
        if point not in self.model.hook_dict:
            raise HookNotFoundError(
                f"No hook point {point!r} in this model. "
                f"{closest(point, list(self.model.hook_dict))}"
                f"Pass a layer number for the residual stream."
            )
        return self.protocol.usual_name(point)

    def check_order(self, source: str, target: str) -> None:
        """Raises `LayerOrderError` unless the source lies at or before the target."""
        if self.depth(source) > self.depth(target):
            raise LayerOrderError(
                f"The target {target!r} comes before the source {source!r}. A quantizer reads the "
                f"lower point and reconstructs the higher one; swap them."
            )

    def depth(self, name: str) -> tuple[int, int]:
        """Where a pass meets a hook point: block, and rank within it. Depths can be compared."""
        return depth_at(name, self.n_layers, self.protocol.order)

    def width(self, name: str) -> int:
        """Width of the vectors at a hook point.

        Raises:
            ShapeError: If the point does not carry one vector of known width per token.
        """
        return self.protocol.width(name)

    def hook_point(self, name: str) -> HookPoint:
        """The hook point that has a resolved name."""
        if name not in self._points:
            self._points[name] = self.model.hook_dict[name]
        return self._points[name]

    def register(self, points: Mapping[str, HookPoint]) -> None:
        """Gives the model more hook points, which run_with_cache, add_hook and so on then know."""
        shadow_methods(self.model)
        self.protocol.register(points)

    def unregister(self, names: Sequence[str]) -> None:
        """Takes hook points away from the model again, and every hook off them."""
        known = self.model.hook_dict
        points = [known[name] for name in names if name in known]
        self.protocol.unregister(names)
        unshadow_methods(self.model)
        for point in points:
            point.remove_hooks("both", including_permanent=True)

    def is_inside(self, name: str) -> bool:
        """Whether a hook point lies inside a block."""
        return IN_BLOCK.fullmatch(name) is not None

    def block_of(self, name: str) -> Any:
        """The block that a hook point lies in; the nearest one for points outside of the blocks."""
        index, _ = self.depth(name)
        return self.model.blocks[min(max(index, 0), self.n_layers - 1)]

    def device_of(self, name: str) -> torch.device:
        """The device of the activations at a hook point; blocks may be spread over devices."""
        index, _ = self.depth(name)
        if index > 0 and name == self.protocol.residual_before(index):
            # Some hosts move the stream to a block's device only after this point.
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
        # Eval mode, because dropout would make codes differ between calls. Uncompiled, because
        # torch would compile the hooks that read and stop again at every pass.
        with self.protocol.turn(), evaluating(self.model), uncompiled_passes():
            return self.protocol.run(tokens, attended, **options)

    @torch.no_grad()
    def activations(
        self,
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        names: Sequence[str],
        past: Any = None,
    ) -> dict[str, Float[Tensor, "b pos d"]]:
        """What passes the named hook points; the pass stops after the last of them.

        ``past`` is what `clvq_lens.host.last_tokens` keeps of the pass.
        """
        activations: dict[str, Tensor] = {}
        with self.reading(names, activations):
            self._run(tokens, attended, n_blocks=self._blocks_until(names), past=past)
        return activations

    @contextmanager
    def reading(self, names: Sequence[str], into: dict[str, Tensor]) -> Iterator[None]:
        """While open, puts what passes hook points into a dict, as other hooks left it."""
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
    def unembedding(self, columns: Int[Tensor, " n"] | Int[Tensor, "b n"] | None) -> Iterator[None]:
        """While open, logits are computed at some positions only.

        Args:
            columns: The positions, the same for all texts or those of each; None: all of them.
        """
        if columns is None:
            yield
            return

        @only_here
        def select(module: Any, args: tuple[Any, ...]) -> tuple[Tensor]:
            hidden = args[0]
            rows = torch.arange(len(hidden), device=hidden.device).unsqueeze(1)
            return (hidden[rows, columns.to(hidden.device)],)

        handle = self.model.unembed.register_forward_pre_hook(select)
        try:
            yield
        finally:
            handle.remove()

    def unembedding_often(self) -> AbstractContextManager[Any]:
        """While open, logits take no time but for their product; for verbs with many passes."""
        return self.protocol.unembedding_often()

    def unembed(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Logits of residual-stream vectors, through only what comes after the last block.

        Gradients flow back to the vectors.
        """
        device = next(self.model.unembed.parameters()).device
        value = vectors.to(device, self.dtype).unsqueeze(1)
        # Every block is skipped, so any token will do. No hook runs: this is not a pass of the
        # user's text.
        tokens = torch.zeros(value.shape[:2], dtype=torch.long, device=self.device)
        start = KnownStart(n_skipped=self.n_layers, value=value, point=None)
        with silenced(self.model):
            logits = self._run(tokens, tokens == 0, start=start)
        return logits[:, 0].to(vectors.device).float()

    def _blocks_until(self, names: Sequence[str]) -> int | None:
        """How many blocks to run to pass the named hook points; None: the whole model."""
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
        past: Any = None,
    ) -> Float[Tensor, "b n d_vocab"]:
        """Logits of the model with the activations at a hook point replaced.

        At the residual stream, only the layers above are computed.

        Args:
            name: Name of the hook point.
            value: Activations, as hooks at the point left them.
            tokens: Tokens of the pass.
            attended: False on padding.
            before_hooks: Whether the user's hooks at the point still have to act on the value.
            past: Keys and values of earlier tokens, which these go on from.
        """
        return self._resume(name, value, tokens, attended, before_hooks=before_hooks, past=past)

    def activations_with(
        self,
        name: str,
        value: Float[Tensor, "b pos d"],
        tokens: Int[Tensor, "b pos"],
        attended: Bool[Tensor, "b pos"],
        *,
        until: str,
        before_hooks: bool = False,
        past: Any = None,
    ) -> Float[Tensor, "b pos d_until"]:
        """What passes a later hook point of the pass that `logits_with` describes."""
        activations: dict[str, Tensor] = {}
        options = {"until": until, "before_hooks": before_hooks, "past": past}
        with self.reading([until], activations):
            self._resume(name, value, tokens, attended, **options)
        return activations[until]

    def _resume(
        self,
        name: str,
        value: Tensor,
        tokens: Tensor,
        attended: Tensor,
        *,
        until: str | None = None,
        before_hooks: bool,
        past: Any,
    ) -> Any:
        value = value.to(self.device_of(name), self.dtype)
        tokens, attended = tokens.to(self.device), attended.to(self.device)
        n_blocks = None if until is None else self._blocks_until([until])
        index, _ = self.depth(name)
        point = self.hook_point(name)
        start = None  # in the middle of a block, so that the blocks below have to be run, too
        if name == self.protocol.residual_after(index):
            start = KnownStart(n_skipped=index + 1, value=value, point=point)
        elif name == self.protocol.residual_before(index) and index > 0:
            start = KnownStart(n_skipped=index, value=value, point=None)
        with replaced(value, point, before_hooks=before_hooks):
            return self._run(tokens, attended, n_blocks=n_blocks, start=start, past=past)


def _without_folders(name: str) -> str:
    """The name of a model, and of one in a folder only the last part.

    Quantizers may be published, and the path of a folder says something about its user.
    """
    return Path(name).name if Path(name).is_absolute() else name
