"""Passes of a model through its own modules, with nothing of this library around them."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer


class BarePasses:
    """A model that is called directly, on batches of tokens that are padded on the right.

    Args:
        model: A `HookedTransformer`, or a `TransformerBridge` of a Llama-like model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def until(self, layer: int, batches: list[Tensor]) -> None:
        """Passes that end after a block."""
        for tokens in batches:
            self.model(tokens, stop_at_layer=layer + 1)

    @torch.no_grad()
    def whole_and_above(self, layer: int, batches: list[Tensor], *, n_above: int) -> None:
        """Passes to the logits, and as many more of which only blocks above a layer are run."""
        for tokens in batches:
            self.model(tokens)
            residual = torch.zeros(*tokens.shape, self.model.cfg.d_model, device=tokens.device)
            for _ in range(n_above):
                self.logits(self.above(layer, residual))

    def gradients_above(
        self, layer: int, batches: list[Tensor], readout: Callable[[Tensor], Tensor], n_steps: int
    ) -> None:
        """Gradients of what a readout says of the last block, with respect to a layer."""
        for tokens in batches:
            for _ in range(n_steps):
                shape = *tokens.shape, self.model.cfg.d_model
                residual = torch.zeros(shape, device=tokens.device, requires_grad=True)
                torch.autograd.grad(readout(self.above(layer, residual)).sum(), residual)

    @torch.no_grad()
    def runs_above(self, layer: int, batches: list[Tensor], *, n_runs: int) -> None:
        """Passes through the blocks above a layer, without logits."""
        for tokens in batches:
            residual = torch.zeros(*tokens.shape, self.model.cfg.d_model, device=tokens.device)
            for _ in range(n_runs):
                self.above(layer, residual)

    def above(self, layer: int, residual: Float[Tensor, "b pos d"]) -> Float[Tensor, "b pos d"]:
        """What the last block gives, from what a layer gave."""
        if isinstance(self.model, HookedTransformer):
            options = {"start_at_layer": layer + 1, "stop_at_layer": self.model.cfg.n_layers}
            return self.model(residual, **options)
        # A bridge cannot start at a layer, so its blocks are called as transformers would.
        inner = self.model.original_model.model
        positions = torch.arange(residual.shape[1], device=residual.device).unsqueeze(0)
        rotation = inner.rotary_emb(residual, positions)
        mask = _causal_mask(residual)
        for block in inner.layers[layer + 1 :]:
            residual = block(
                residual, attention_mask=mask, position_ids=positions, position_embeddings=rotation
            )
            residual = residual[0] if isinstance(residual, tuple) else residual
        return residual

    def logits(self, residual: Float[Tensor, "b pos d"]) -> Float[Tensor, "b pos d_vocab"]:
        """The logits, from what the last block gave."""
        if isinstance(self.model, HookedTransformer):
            return self.model(residual, start_at_layer=self.model.cfg.n_layers)
        outer = self.model.original_model
        return outer.lm_head(outer.model.norm(residual))


class Positions:
    """Counts the positions that go through the first block of a model, padding included.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self.n = 0
        # Inside the block: hooks of the block itself also run where a bridge has to skip it.
        self._handle = model.blocks[0].mlp.register_forward_hook(self._count)

    def _count(self, mlp: Any, arguments: Any, output: Any) -> None:
        residual = output[0] if isinstance(output, tuple) else output
        self.n += residual.shape[0] * residual.shape[1]

    def remove(self) -> None:
        """Stops counting."""
        self._handle.remove()


def n_positions(batches: list[Int[Tensor, "b pos"]]) -> int:
    """Positions of some batches, padding included."""
    return sum(tokens.numel() for tokens in batches)


def _causal_mask(residual: Float[Tensor, "b pos d"]) -> Float[Tensor, "1 1 pos pos"]:
    n = residual.shape[1]
    return torch.full((n, n), -torch.inf, device=residual.device).triu(1)[None, None]
