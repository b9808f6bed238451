"""Decoders: from the code vectors of a sequence to the residual stream at the target."""

from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from clvq_lens.config import CLVQConfig
from clvq_lens.errors import ConfigError
from clvq_lens.quantizer.attention import Attention, DecoderCache
from clvq_lens.quantizer.codebook import Codebook, sums_by_code
from clvq_lens.quantizer.units import Units, least_squares_


class Decoder(Protocol):
    """What the three decoders have in common, apart from being modules."""

    def __call__(
        self,
        quantized: Float[Tensor, "b pos d_code"],
        *,
        memory: Float[Tensor, "b pos d_code"] | None = None,
        key_mask: Bool[Tensor, "b keys"] | None = None,
        cache: DecoderCache | None = None,
    ) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction of the target, from code vectors and, if given, a memory."""
        ...


class _Perceptron(nn.Sequential):
    """One hidden layer; with its output it is the MLP of a transformer block."""

    def __init__(self, d: int, d_hidden: int, d_out: int) -> None:
        super().__init__(nn.Linear(d, d_hidden), nn.GELU(), nn.Linear(d_hidden, d_out))


class _DecoderBlock(nn.Module):
    """A pre-norm block: attention to codes, attention to encoder outputs if it has them, MLP."""

    def __init__(
        self, config: CLVQConfig, d: int, *, n_heads: int, d_mlp: int, causal: bool
    ) -> None:
        super().__init__()
        self.dropout = config.decoder_dropout
        self.norm_self, self.norm_mlp = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attend_self = Attention(d, d, n_heads, causal=causal)
        self.mlp = _Perceptron(d, d_mlp, d)
        with_memory = config.decoder_memory == "encoder"
        self.norm_memory = nn.LayerNorm(d) if with_memory else None
        self.attend_memory = Attention(d, d, n_heads, causal=causal) if with_memory else None

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        *,
        key_mask: Tensor | None,
        cache: DecoderCache | None,
        index: int,
    ) -> Tensor:
        p = self.dropout if self.training else 0.0
        # Two layers of the cache for each block: codes, and encoder outputs.
        past = None if cache is None else cache.layer(2 * index)
        h = self.norm_self(x)
        x = x + F.dropout(self.attend_self(h, h, key_mask=key_mask, past=past, dropout=p), p)
        if self.attend_memory is not None and self.norm_memory is not None and memory is not None:
            past = None if cache is None else cache.layer(2 * index + 1)
            h = self.norm_memory(x)
            gathered = self.attend_memory(h, memory, key_mask=key_mask, past=past, dropout=p)
            x = x + F.dropout(gathered, p)
        return x + F.dropout(self.mlp(self.norm_mlp(x)), p)


class _LearnedDecoder(nn.Module):
    """What both learned decoders have: units, blocks, and a linear map of the code vector.

    At the start the output is that linear map; the blocks learn what to add to it.
    """

    def __init__(self, d_code: int, d_target: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.source_units, self.target_units = Units(d_code), Units(d_target)
        self.embed = nn.Linear(d_code, d_target)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(d_target)
        self.out = nn.Linear(d_target, d_target)
        self.skip = nn.Linear(d_code, d_target)

    @torch.no_grad()
    def start_(
        self,
        z: Float[Tensor, "n d_code"],
        vectors: Float[Tensor, "n d_code"],
        target: Float[Tensor, "n d_target"],
    ) -> None:
        """Sets units and linear map from a sample of tokens.

        Args:
            z: Encoder outputs.
            vectors: Code vectors of the same tokens.
            target: Activations at the target.
        """
        self.source_units.measure_(z)
        self.target_units.measure_(target)
        inputs = self.source_units.strip(vectors)
        least_squares_(self.skip, inputs, self.target_units.strip(target))

    def _restore(self, codes: Tensor, x: Tensor) -> Tensor:
        """The reconstruction in the target's units, from the output of the blocks."""
        return self.target_units.restore(self.skip(codes) + self.out(self.norm(x)))


class TransformerDecoder(_LearnedDecoder):
    """Self-attention over the code vectors of a sequence, causal when the host is causal.

    Args:
        config: Number of layers and heads, memory, dropout.
        d_code: Width of code vectors.
        d_target: Width of the reconstruction, and of the blocks.
        causal: Whether a position sees only codes up to its own.
    """

    def __init__(self, config: CLVQConfig, d_code: int, d_target: int, *, causal: bool) -> None:
        n_heads = config.decoder_heads or default_heads(d_target)
        if d_target % n_heads:
            raise ConfigError(
                f"decoder_heads is {n_heads}, which does not divide the target width {d_target}. "
                f"Pass a divisor of {d_target}, or None."
            )
        d_mlp = config.d_decoder_mlp or 4 * d_target
        blocks: list[nn.Module] = []
        for _ in range(config.decoder_layers):
            block = _DecoderBlock(config, d_target, n_heads=n_heads, d_mlp=d_mlp, causal=causal)
            blocks.append(block)
        super().__init__(d_code, d_target, blocks)
        with_memory = config.decoder_memory == "encoder"
        self.embed_memory = nn.Linear(d_code, d_target) if with_memory else None

    def forward(
        self,
        quantized: Float[Tensor, "b pos d_code"],
        *,
        memory: Float[Tensor, "b pos d_code"] | None = None,
        key_mask: Bool[Tensor, "b keys"] | None = None,
        cache: DecoderCache | None = None,
    ) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction of the target.

        Args:
            quantized: Code vectors of the sequence.
            memory: Encoder outputs, only for ``decoder_memory="encoder"``.
            key_mask: False on padding; None: there is no padding that a real position could see.
            cache: Cache of the earlier positions of a generation; these positions are added.
        """
        codes = self.source_units.strip(quantized)
        if self.embed_memory is not None and memory is not None:
            memory = self.embed_memory(self.source_units.strip(memory))
        x = self.embed(codes)
        for index, block in enumerate(self.blocks):
            x = block(x, memory, key_mask=key_mask, cache=cache, index=index)
        if cache is not None:
            cache.length += quantized.shape[1]
        return self._restore(codes, x)


class MLPDecoder(_LearnedDecoder):
    """Token by token: a linear map, plus ``decoder_layers`` perceptrons with one hidden layer each.

    Args:
        config: Number of layers, and hidden width.
        d_code: Width of code vectors.
        d_target: Width of the reconstruction.
    """

    def __init__(self, config: CLVQConfig, d_code: int, d_target: int) -> None:
        d_mlp = config.d_decoder_mlp or 4 * d_target
        blocks: list[nn.Module] = []
        for _ in range(config.decoder_layers):
            perceptron = _Perceptron(d_target, d_mlp, d_target)
            blocks.append(nn.Sequential(nn.LayerNorm(d_target), perceptron))
        super().__init__(d_code, d_target, blocks)

    def forward(
        self,
        quantized: Float[Tensor, "b pos d_code"],
        *,
        memory: Float[Tensor, "b pos d_code"] | None = None,
        key_mask: Bool[Tensor, "b keys"] | None = None,
        cache: DecoderCache | None = None,
    ) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction of the target; of the arguments only ``quantized`` matters."""
        codes = self.source_units.strip(quantized)
        x = self.embed(codes)
        for block in self.blocks:
            x = x + block(x)
        return self._restore(codes, x)


class TableDecoder(nn.Module):
    """Token by token: the mean target of the code. No gradient trains it.

    Args:
        codebook: The codebook, which finds the code of a vector.
        d_target: Width of the reconstruction.
    """

    table: Float[Tensor, "k d_target"]

    def __init__(self, codebook: Codebook, d_target: int) -> None:
        super().__init__()
        # A bound method: the codebook itself would become a submodule twice.
        self._code_of = codebook.code_of
        self.register_buffer("table", torch.zeros(codebook.config.n_codes, d_target))

    @torch.no_grad()
    def set_(self, table: Float[Tensor, "k d_target"]) -> None:
        """Takes the mean target of every code."""
        self.table.copy_(table)

    @torch.no_grad()
    def update_(
        self, codes: Int[Tensor, " n"], target: Float[Tensor, "n d_target"], *, decay: float
    ) -> None:
        """Moves the means of codes in use towards a batch, so that a fit can watch its error.

        The mean of a code with n tokens in the batch goes 1 - decay**n of the way to theirs.
        """
        sizes, sums = sums_by_code(codes, target, len(self.table))
        sizes = sizes.unsqueeze(1)
        weight = torch.where(sizes > 0, 1 - decay**sizes, 0.0)
        self.table.lerp_(sums / sizes.clamp_min(1), weight.to(self.table))

    def forward(
        self,
        quantized: Float[Tensor, "b pos d_code"],
        *,
        memory: Float[Tensor, "b pos d_code"] | None = None,
        key_mask: Bool[Tensor, "b keys"] | None = None,
        cache: DecoderCache | None = None,
    ) -> Float[Tensor, "b pos d_target"]:
        """The mean target of the code nearest to each vector; only ``quantized`` matters."""
        return F.embedding(self._code_of(quantized), self.table)


AnyDecoder = TransformerDecoder | MLPDecoder | TableDecoder


def default_heads(d: int) -> int:
    """One head for 64 dimensions, and at least two where ``d`` allows it."""
    for n_heads in range(max(2, d // 64), 1, -1):
        if d % (2 * n_heads) == 0:  # heads of even width, because rotary positions use pairs
            return n_heads
    return 1


def resolve(config: CLVQConfig, d_source: int, d_target: int) -> CLVQConfig:
    """The config with numbers in place of None, so that what is saved keeps its meaning."""
    return config.replace(
        top_k=config.resolved_top_k,
        d_encoder_mlp=config.resolved_d_encoder_mlp(d_source),
        dead_after_tokens=config.resolved_dead_after_tokens,
        decoder_heads=config.decoder_heads or default_heads(d_target),
        d_decoder_mlp=config.d_decoder_mlp or 4 * d_target,
    )


@torch.no_grad()
def reset_decoder_(decoder: AnyDecoder, generator: torch.Generator) -> None:
    """New weights; a learned decoder starts at its linear map, without the blocks."""
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    if not isinstance(decoder, TableDecoder):
        nn.init.zeros_(decoder.out.weight)


def make_decoder(
    config: CLVQConfig, codebook: Codebook, d_code: int, d_target: int, *, causal: bool
) -> AnyDecoder:
    """The decoder that a config names."""
    if config.decoder == "transformer":
        return TransformerDecoder(config, d_code, d_target, causal=causal)
    if config.decoder == "mlp":
        return MLPDecoder(config, d_code, d_target)
    return TableDecoder(codebook, d_target)
