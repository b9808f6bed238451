"""Attention with rotary positions and a cache, the building block of the transformer decoder."""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_ROTARY_BASE = 10_000.0  # arXiv 2104.09864


@dataclass
class KeyValues:
    """Keys and values of the positions that one attention layer has already seen.

    The buffer doubles when it is full, so that earlier positions are not copied at every step.
    """

    buffer: Float[Tensor, "two b heads room d_head"] | None = None
    length: int = 0

    def extend_(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends new positions and returns all of them."""
        new = torch.stack([keys, values])
        start, self.length = self.length, self.length + keys.shape[2]
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
        """Not while a gradient may need it, nor from outside the inference mode it was made in."""
        made_here = self.buffer is not None and not self.buffer.is_inference()
        return not torch.is_grad_enabled() and (made_here or torch.is_inference_mode_enabled())

    def fork(self) -> "KeyValues":
        """A copy without room, which finds its own before it is extended."""
        buffer = None if self.buffer is None else self.buffer[..., : self.length, :]
        return KeyValues(buffer, self.length)

    def take(self, rows: Int[Tensor, " r"]) -> "KeyValues":
        """Some of its sequences."""
        buffer = None if self.buffer is None else self.buffer[:, rows, :, : self.length]
        return KeyValues(buffer, self.length)

    def cut(self, length: int) -> "KeyValues":
        """Its first positions."""
        buffer = None if self.buffer is None else self.buffer[..., :length, :]
        return KeyValues(buffer, length)


@dataclass
class DecoderCache:
    """What a decoder keeps between the steps of a generation, so that each step costs the same."""

    layers: dict[int, KeyValues] = field(default_factory=dict)
    length: int = 0

    def layer(self, index: int) -> KeyValues:
        """The keys and values of one attention layer."""
        return self.layers.setdefault(index, KeyValues())

    def take(self, rows: Int[Tensor, " r"]) -> "DecoderCache":
        """Some of its sequences, each as often as it is named."""
        return DecoderCache({i: layer.take(rows) for i, layer in self.layers.items()}, self.length)

    def cut(self, length: int) -> "DecoderCache":
        """Its first positions."""
        return DecoderCache({i: layer.cut(length) for i, layer in self.layers.items()}, length)

    def fork(self) -> "DecoderCache":
        """A copy that can be extended without extending this one."""
        return DecoderCache({i: layer.fork() for i, layer in self.layers.items()}, self.length)


def rotate(
    x: Float[Tensor, "b heads pos d_head"], *, offset: int
) -> Float[Tensor, "b heads pos d_head"]:
    """Turns pairs of dimensions by angles proportional to position (rotary embedding).

    Only differences of positions reach the attention scores, so left padding does not matter.
    """
    half = x.shape[-1] // 2
    position = torch.arange(offset, offset + x.shape[2], device=x.device, dtype=torch.float32)
    frequency = _ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.outer(position, frequency)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)


def attention_mask(
    n_queries: int, key_mask: Bool[Tensor, "b keys"], *, causal: bool
) -> Bool[Tensor, "b 1 queries keys"]:
    """True where a query may look: at real keys, not later than itself, and always at itself.

    A padded query sees itself, because a row without any key would be NaN.
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
        d_memory: Width of what keys and values are read from.
        n_heads: Number of heads; divides ``d``.
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
            x: Queries are made of these.
            memory: Keys and values of the same positions.
            key_mask: False on padding, for past and present positions; None: no padding that a
                real position could see.
            past: Extended by the present positions.
            dropout: Of attention weights.
        """
        offset = past.length if past is not None else 0
        query = rotate(self._heads(self.query(x)), offset=offset)
        key, value = map(self._heads, self.key_value(memory).chunk(2, dim=-1))
        key = rotate(key, offset=offset)
        if past is not None:
            key, value = past.extend_(key, value)
        mask = None
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
