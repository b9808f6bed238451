"""Attention with rotary positions and a cache: the building block of the transformer decoder."""

from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_ROTARY_BASE = 10_000.0  # arXiv 2104.09864


@dataclass
class KeyValues:
    """Keys and values of the positions that one attention layer has seen so far.

    The buffer doubles when it is full, so that earlier positions are not copied at every step.
    """

    buffer: Float[Tensor, "two b heads room d_head"] | None = None
    length: int = 0

    def extend_(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends new positions, and returns keys and values of all positions."""
        new = torch.stack([keys, values])
        start = self.length
        self.length = start + keys.shape[2]
        if self.buffer is None:
            self.buffer = new
        elif self._may_be_written:
            if self.buffer.shape[3] < self.length:
                room = new.new_empty(*new.shape[:3], max(self.length, 2 * start), new.shape[4])
                room[..., :start, :] = self.buffer[..., :start, :]
                self.buffer = room
            self.buffer[..., start : self.length, :] = new
        else:
            self.buffer = torch.cat([self.buffer[..., :start, :], new], dim=3)
        keys, values = self.buffer[..., : self.length, :]
        return keys, values

    @property
    def _may_be_written(self) -> bool:
        """Whether new positions may be written into the buffer."""
        if torch.is_grad_enabled():
            return False  # the backward pass may need what would be overwritten
        # torch refuses to write into a tensor of inference mode from outside of it.
        is_ordinary = self.buffer is not None and not self.buffer.is_inference()
        return is_ordinary or torch.is_inference_mode_enabled()

    def fork(self) -> "KeyValues":
        """A copy without free room, so that extending it never writes into this one's buffer."""
        buffer = None if self.buffer is None else self.buffer[..., : self.length, :]
        return KeyValues(buffer, self.length)

    def take(self, rows: Int[Tensor, " r"]) -> "KeyValues":
        """Keys and values of some sequences."""
        buffer = None if self.buffer is None else self.buffer[:, rows, :, : self.length]
        return KeyValues(buffer, self.length)

    def cut(self, length: int) -> "KeyValues":
        """Keys and values of the first positions."""
        buffer = None if self.buffer is None else self.buffer[..., :length, :]
        return KeyValues(buffer, length)


@dataclass
class DecoderCache:
    """What a decoder keeps between steps of a generation, to compute only new positions."""

    layers: dict[int, KeyValues] = field(default_factory=dict)
    length: int = 0

    def layer(self, index: int) -> KeyValues:
        """The keys and values of one attention layer."""
        return self.layers.setdefault(index, KeyValues())

    def take(self, rows: Int[Tensor, " r"]) -> "DecoderCache":
        """The cache of some sequences, each as often as it is named."""
        layers = {index: layer.take(rows) for index, layer in self.layers.items()}
        return DecoderCache(layers, self.length)

    def cut(self, length: int) -> "DecoderCache":
        """The cache of the first positions."""
        layers = {index: layer.cut(length) for index, layer in self.layers.items()}
        return DecoderCache(layers, length)

    def fork(self) -> "DecoderCache":
        """A copy that can be extended without extending this one."""
        layers = {index: layer.fork() for index, layer in self.layers.items()}
        return DecoderCache(layers, self.length)


def rotate(
    x: Float[Tensor, "b heads pos d_head"], *, offset: int
) -> Float[Tensor, "b heads pos d_head"]:
    """Rotates pairs of dimensions by angles proportional to position (rotary embedding).

    Only differences of positions reach the attention scores, so left padding makes no difference.
    """
    n_pairs = x.shape[-1] // 2
    position = torch.arange(offset, offset + x.shape[2], device=x.device, dtype=torch.float32)
    frequency = torch.arange(n_pairs, device=x.device, dtype=torch.float32) / n_pairs
    angles = torch.outer(position, _ROTARY_BASE**-frequency)
    if x.shape[-1] % 2 == 0:
        return _Turned.apply(x, angles)  # type: ignore[return-value]
    turned: Tensor = _Turned.apply(x[..., :-1].contiguous(), angles)  # type: ignore[assignment]
    return torch.cat([turned, x[..., -1:]], dim=-1)


class _Turned(torch.autograd.Function):
    """Forward: neighbors as pairs, each turned by its angle. Backward: turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: Tensor) -> Tensor:
        ctx.save_for_backward(angles)
        return _turned(x, angles)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (angles,) = ctx.saved_tensors
        # By hand: the gradient of a complex product is a view that not every device knows.
        return _turned(grads[0].contiguous(), -angles), None


def _turned(
    x: Float[Tensor, "b heads pos two_n"], angles: Float[Tensor, "pos n"]
) -> Float[Tensor, "b heads pos two_n"]:
    # As complex numbers, which are read and written once; products with sines and cosines, which
    # are put together afterwards, take five times as long.
    pairs = torch.view_as_complex(x.float().unflatten(-1, (angles.shape[1], 2)))
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def attention_mask(
    n_queries: int, key_mask: Bool[Tensor, "b keys"], *, causal: bool
) -> Bool[Tensor, "b 1 queries keys"]:
    """True where a query may look: at real keys up to its own position, and always at itself.

    A query on padding sees itself, because a row without any key would be NaN.
    """
    n_keys = key_mask.shape[1]
    square = key_mask.new_ones(n_queries, n_keys)
    itself = square.tril(n_keys - n_queries) & square.triu(n_keys - n_queries)
    allowed = key_mask[:, None, None, :] & (square.tril(n_keys - n_queries) if causal else square)
    return allowed | itself


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself or to a memory of the same length.

    Args:
        d: Width of queries.
        d_memory: Width of the vectors that keys and values are made of.
        n_heads: Number of heads, which must divide ``d``.
        causal: Whether position i sees positions up to i only.
    """

    def __init__(self, d: int, d_memory: int, n_heads: int, *, causal: bool) -> None:
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.query = nn.Linear(d, d)
        self.key_value = nn.Linear(d_memory, 2 * d)
        self.out = nn.Linear(d, d)

    def forward(
        self,
        x: Float[Tensor, "b pos d"],
        memory: Float[Tensor, "b pos d_memory"],
        *,
        key_mask: Bool[Tensor, "b keys"] | None = None,
        past: KeyValues | None = None,
        dropout: float = 0.0,
    ) -> Float[Tensor, "b pos d"]:
        """What each position gathers from those it may look at.

        Args:
            x: Vectors that queries are made of.
            memory: Vectors that keys and values are made of, at the same positions.
            key_mask: False on padding, for past and present positions; None: there is no padding
                that a real position could see.
            past: Keys and values of earlier positions; the present ones are added.
            dropout: Share of attention weights that is set to zero.
        """
        offset = past.length if past is not None else 0
        query = rotate(self._heads(self.query(x)), offset=offset)
        key, value = self.key_value(memory).chunk(2, dim=-1)
        key = rotate(self._heads(key), offset=offset)
        value = self._heads(value)
        if past is not None:
            key, value = past.extend_(key, value)
        mask = None
        # torch's is_causal aligns the first query with the first key, which is wrong once there
        # are earlier positions; a single query may see them all.
        if key_mask is None and self.causal and offset > 0 and x.shape[1] > 1:
            key_mask = torch.ones(len(x), key.shape[2], dtype=torch.bool, device=x.device)
        if key_mask is not None:
            mask = attention_mask(x.shape[1], key_mask, causal=self.causal)
        is_causal = self.causal and mask is None and offset == 0
        gathered = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=is_causal, dropout_p=dropout
        )
        return self.out(rearrange(gathered, "b heads pos d_head -> b pos (heads d_head)"))

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b pos (heads d_head) -> b heads pos d_head", heads=self.n_heads)
