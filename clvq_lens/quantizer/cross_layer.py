"""CrossLayerQuantizer: encoder, codebook and decoder together, with their hook points."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import NotFittedError, ShapeError
from clvq_lens.quantizer.attention import DecoderCache
from clvq_lens.quantizer.codebook import Codebook
from clvq_lens.quantizer.decoders import (
    MLPDecoder,
    TableDecoder,
    TransformerDecoder,
    make_decoder,
    resolve,
)
from clvq_lens.quantizer.draft import Draft
from clvq_lens.quantizer.encoder import AdaptiveResidualEncoder
from clvq_lens.quantizer.initialization import initialize
from clvq_lens.quantizer.origin import Origin
from clvq_lens.quantizer.precision import in_double

_LONG = 10.0  # times the median norm of a sample: longer activations are outliers
_RIDGE = 1e-3  # of the mean square of the inputs; keeps unused directions of the skip map small


@dataclass(frozen=True)
class Quantized:
    """One pass of source activations through the hook points up to ``hook_quantized``.

    Attributes:
        codes: Nearest codes, before any edit or hook.
        clean_encoded: Encoder output, before any hook.
        draft: Encoder output, codes and code vectors, as edits and hooks left them.
        changed: Whether an edit modified anything, or a hook did or returned anything.
    """

    codes: Int[Tensor, "b pos"]
    clean_encoded: Float[Tensor, "b pos d_source"]
    draft: Draft
    changed: bool


class CrossLayerQuantizer(nn.Module):
    """A discrete bottleneck between two layers (CLVQ-VAE, arXiv 2506.20040).

    Args:
        config: Codebook, sampling and decoder.
        d_source: Width at the source.
        d_target: Width at the target.
        causal: Whether the host is: a decoder then sees no later position.
        generator: Draws the weights before fitting; None: a new one with seed 0.
        codebook: The class of its codebook.

    Example:
        >>> quantizer = CrossLayerQuantizer(CLVQConfig(n_codes=8), d_source=4, d_target=4)
        >>> quantizer(torch.randn(2, 5, 4)).shape
        torch.Size([2, 5, 4])
    """

    usage: Int[Tensor, " k"]
    mean_encoded: Float[Tensor, "k d_source"]
    mean_target: Float[Tensor, "k d_target"]
    source_mean: Float[Tensor, " d_source"]
    target_variance: Float[Tensor, ""]
    max_source_norm: Float[Tensor, ""]
    max_target_norm: Float[Tensor, ""]

    def __init__(
        self,
        config: CLVQConfig,
        d_source: int,
        d_target: int,
        *,
        causal: bool = True,
        generator: torch.Generator | None = None,
        codebook: type[Codebook] = Codebook,
    ) -> None:
        super().__init__()
        config = resolve(config, d_target)
        self.config, self.d_source, self.d_target, self.causal = config, d_source, d_target, causal
        self.origin: Origin | None = None
        self.fit_config: FitConfig | None = None
        generator = generator or torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):  # torch's layers draw from the global state
            self.encoder = AdaptiveResidualEncoder(d_source)
            self.codebook = codebook(config, d_source, generator=generator)
            self.decoder: TransformerDecoder | MLPDecoder | TableDecoder = make_decoder(
                config, self.codebook, d_source, d_target, causal=causal
            )
        self.register_buffer("usage", torch.zeros(config.n_codes, dtype=torch.long))
        self.register_buffer("mean_encoded", torch.zeros(config.n_codes, d_source))
        self.register_buffer("mean_target", torch.zeros(config.n_codes, d_target))
        self.register_buffer("source_mean", torch.zeros(d_source))
        self.register_buffer("target_variance", torch.ones(()))
        self.register_buffer("max_source_norm", torch.tensor(torch.inf))
        self.register_buffer("max_target_norm", torch.tensor(torch.inf))
        self.hook_encoded, self.hook_codes = HookPoint(), HookPoint()
        self.hook_quantized, self.hook_recon, self.hook_error = (HookPoint() for _ in range(3))
        self.float()  # whatever torch's default is
        self._reset_parameters_(generator)
        self.requires_grad_(False)  # but during a fit: an edited pass of the model needs no graph
        self.eval()

    @property
    def hooks(self) -> dict[str, HookPoint]:
        """The hook points by name, in the order in which they are passed."""
        names = ("hook_encoded", "hook_codes", "hook_quantized", "hook_recon", "hook_error")
        return {name: getattr(self, name) for name in names}

    @property
    def device(self) -> torch.device:
        """Where the quantizer lives: with the source."""
        return self.usage.device

    @property
    def fitted(self) -> bool:
        """Whether the frozen pass over training tokens was made, so that codes mean something."""
        return bool(self.usage.sum() > 0)

    @property
    def shares(self) -> Float[Tensor, " k"]:
        """Fraction of the training tokens in each code."""
        return self.usage.float() / self.usage.sum()

    @property
    def target_mean(self) -> Float[Tensor, " d_target"]:
        """Mean target over the training tokens."""
        return self.shares @ self.mean_target

    def outliers(
        self,
        source: Float[Tensor, "*n d_source"] | None = None,
        target: Float[Tensor, "*n d_target"] | None = None,
    ) -> Bool[Tensor, "*n"]:
        """Which activations are so long that their token is no part of fitting and statistics.

        Some models give a token here and there, such as the first word, an activation that is
        twenty times as long as that of the others; a few of them would decide every mean. An
        activation is an outlier if it is more than ten times as long as the median of the sample
        that started the codebook.

        Args:
            source: Activations at the source; None: only the target is looked at.
            target: Those of the same tokens at the target; None: only the source is looked at.

        Returns:
            True on outliers, on the device of the source (or of the target, without one). False
            everywhere before a fit, and if it was told to keep them.
        """
        found: Tensor | None = None
        for activations, limit in ((source, self.max_source_norm), (target, self.max_target_norm)):
            if activations is None:
                continue
            norms = torch.linalg.vector_norm(activations.float(), dim=-1)
            long = norms > limit.to(norms.device)
            found = long if found is None else found | long.to(found.device)
        if found is None:
            raise ShapeError("Pass activations at the source, at the target, or both.")
        return found

    def require_fitted(self) -> None:
        """Raises `NotFittedError` before the first fit."""
        if not self.fitted:
            raise NotFittedError(
                "This quantizer has not been fitted, so its codes mean nothing yet. "
                "Call lens.fit(data) first, or load a fitted one with clvq_lens.load(folder)."
            )

    # ---- computing -----------------------------------------------------------------------------

    def encode(self, source: Float[Tensor, "*n d_source"]) -> Float[Tensor, "*n d_source"]:
        """Encoder output z of source activations, in float32, also under autocast."""
        with torch.autocast(source.device.type, enabled=False):
            return self.encoder(source.float())

    def assign(self, source: Float[Tensor, "*n d_source"]) -> Int[Tensor, "*n"]:
        """The nearest code of source activations."""
        return self.codebook.nearest(self.encode(source))

    def quantize(
        self,
        source: Float[Tensor, "b pos d_source"],
        edit: Callable[[Draft], Draft] | None = None,
    ) -> Quantized:
        """Source activations to code vectors, through the hook points.

        Args:
            source: Activations at the source.
            edit: Changes the nearest codes before ``hook_codes`` shows them.

        Raises:
            ShapeError: If a hook returns codes of another shape or outside [0, n_codes).
        """
        encoded = pass_through(self.hook_encoded, self.encode(source))
        nearest = self.codebook.nearest(encoded.before)
        chosen = self.codebook.nearest(encoded.after) if encoded.changed else nearest
        # A hook may write into the codes that it receives, so it gets its own.
        plain = Draft(encoded.after, chosen.clone(), self.codebook(chosen))
        if encoded.changed:
            plain = plain.naming((encoded.after != encoded.before).any(-1))
        edited = plain if edit is None else edit(plain)
        codes = pass_through(self.hook_codes, edited.codes)
        if codes.changed:
            self._check_codes(codes.after, nearest.shape)
            where = codes.after != codes.before
            edited = edited.with_codes(codes.after, where, self.codebook).naming(where)
        wants_gradient = torch.is_grad_enabled() and bool(self.hook_quantized.bwd_hooks)
        if wants_gradient:  # as a leaf of its own
            edited = replace(edited, vectors=edited.vectors.detach().requires_grad_())
        vectors = pass_through(self.hook_quantized, edited.vectors)
        if vectors.changed:
            where = (vectors.before != vectors.after).any(-1)
            edited = edited.naming(where)
            if edited.averaged is not None:
                edited = replace(edited, averaged=edited.averaged & ~where)
        changed = encoded.changed or codes.changed or vectors.changed or wants_gradient
        return Quantized(
            codes=nearest if encoded.changed else chosen,
            clean_encoded=encoded.before,
            draft=replace(edited, vectors=vectors.after),
            changed=changed or (edited is not plain and bool(edited.differs_from(plain).any())),
        )

    def decode(
        self,
        quantized: Float[Tensor, "b pos d_source"],
        *,
        encoded: Float[Tensor, "b pos d_source"],
        key_mask: Bool[Tensor, "b keys"] | None = None,
        cache: DecoderCache | None = None,
    ) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction of the target from code vectors, in float32.

        Args:
            quantized: Code vectors of whole sequences (or the next part of them, with a cache).
            encoded: Encoder outputs, read only if ``decoder_memory`` is "encoder".
            key_mask: False on padding that a real position could see; None: there is none.
            cache: Of earlier positions, in generation; extended by these.
        """
        memory = encoded if self.config.decoder_memory == "encoder" else None
        with torch.autocast(quantized.device.type, enabled=False):
            return self.decoder(quantized, memory=memory, key_mask=key_mask, cache=cache)

    def reconstruct(
        self,
        draft: Draft,
        *,
        key_mask: Bool[Tensor, "b keys"] | None = None,
        cache: DecoderCache | None = None,
    ) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction of the target from codes as edits and hooks left them."""
        recon = self.decode(draft.vectors, encoded=draft.encoded, key_mask=key_mask, cache=cache)
        if draft.averaged is not None and isinstance(self.decoder, TableDecoder):
            mean = self.shares @ self.decoder.table  # a table knows codes, no vectors between them
            recon = torch.where(draft.averaged.unsqueeze(-1), mean, recon)
        return recon if draft.steering is None else recon + draft.steering

    def forward(self, source: Float[Tensor, "b pos d_source"]) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction of the target, through the hook points."""
        quantized = self.quantize(source)
        draft = quantized.draft
        return self.hook_recon(self.decode(draft.vectors, encoded=draft.encoded))

    def _check_codes(self, codes: Tensor, shape: torch.Size) -> None:
        if codes.dtype not in (torch.int32, torch.int64) or codes.shape != shape:
            raise ShapeError(
                f"A hook on hook_codes returned {codes.dtype} of shape {list(codes.shape)}; "
                f"expected torch.int64 of shape {list(shape)}. Return one code per token."
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.n_codes:
            raise ShapeError(
                f"A hook on hook_codes returned codes from {int(codes.min())} to "
                f"{int(codes.max())}; valid codes lie in [0, {self.config.n_codes})."
            )

    # ---- changing ------------------------------------------------------------------------------

    @torch.no_grad()
    def reset_(self, generator: torch.Generator) -> None:
        """Back to unfitted, with fresh weights.

        Args:
            generator: On the quantizer's device.
        """
        self.usage.zero_()
        self.max_source_norm.fill_(torch.inf)
        self.max_target_norm.fill_(torch.inf)
        self.encoder.reset_()
        self._reset_parameters_(generator)

    @torch.no_grad()
    def measure_norms_(
        self, source: Float[Tensor, "n d_source"], target: Float[Tensor, "n d_target"]
    ) -> None:
        """Decides from a sample of training tokens from which norm on a token is an outlier."""
        for limit, sample in ((self.max_source_norm, source), (self.max_target_norm, target)):
            median = torch.linalg.vector_norm(sample.float(), dim=1).median()
            # Where most activations are zero, as they may be inside an MLP, none is too long.
            limit.fill_(_LONG * float(median) or torch.inf)

    @torch.no_grad()
    def initialize_(
        self,
        source: Float[Tensor, "n d_source"],
        target: Float[Tensor, "n d_target"],
        *,
        generator: torch.Generator,
    ) -> None:
        """Starts the codebook, units and decoder from a sample of training tokens.

        The codebook is clustered from encoder outputs, not raw activations, and written where the
        next lookup reads it.

        Raises:
            TooFewTokensError: If there are fewer distinct tokens than codes.
            NonFiniteError: If activations hold NaN or infinity.
        """
        z = self.encode(source)
        method = self.config.initialization
        clusters = initialize(z, self.config.n_codes, method=method, generator=generator)
        self.codebook.initialize_(clusters)
        codes = self.codebook.nearest(z)
        self.codebook.measure_distance_(z, codes, decay=0.0)
        self.target_variance.copy_((target - target.mean(0)).square().sum(1).mean())
        if isinstance(self.decoder, TableDecoder):
            self.decoder.set_(target.mean(0).expand(self.config.n_codes, -1))  # of empty codes
            self.decoder.update_(codes, target, decay=0.0)
            return
        self.decoder.source_units.measure_(z)
        self.decoder.target_units.measure_(target)
        inputs = self.decoder.source_units.strip(self.codebook(codes))
        _least_squares_(self.decoder.skip, inputs, self.decoder.target_units.strip(target))

    @torch.no_grad()
    def record_(
        self,
        usage: Int[Tensor, " k"],
        encoded_sums: Float[Tensor, "k d_source"],
        target_sums: Float[Tensor, "k d_target"],
        source_sum: Float[Tensor, " d_source"],
    ) -> None:
        """Keeps the result of the frozen pass: usage and means of encoder, target and source."""
        counts, n_tokens = usage.to(encoded_sums.device).clamp_min(1).unsqueeze(1), int(usage.sum())
        self.usage.copy_(usage)
        self.mean_encoded.copy_(encoded_sums / counts)
        self.mean_target.copy_(target_sums / counts)
        self.source_mean.copy_(source_sum / n_tokens)
        if isinstance(self.decoder, TableDecoder):
            overall = (target_sums.sum(0) / n_tokens).float().to(self.mean_target.device)
            self.decoder.set_(torch.where(self.usage.unsqueeze(1) > 0, self.mean_target, overall))

    def _reset_parameters_(self, generator: torch.Generator) -> None:
        for module in self.decoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        if not isinstance(self.decoder, TableDecoder):
            nn.init.zeros_(self.decoder.out.weight)  # starts at the linear map alone


@dataclass(frozen=True)
class _Passed:
    before: Tensor
    after: Tensor
    changed: bool


def pass_through(hook: HookPoint, value: Tensor) -> _Passed:
    """Sends a value through a hook point and tells whether a hook changed it.

    A hook may return another tensor or, as is common, write into the one it receives: only a copy
    made before can tell.
    """
    if not hook.has_hooks("fwd"):
        return _Passed(value, hook(value), changed=False)
    before = value.detach().clone()
    after = hook(value)
    return _Passed(before, after, changed=after is not value or not torch.equal(before, after))


def _least_squares_(
    linear: nn.Linear, inputs: Float[Tensor, "n i"], outputs: Float[Tensor, "n o"]
) -> None:
    """Sets a linear map to the ridge regression of outputs on inputs."""
    mean_in, mean_out = inputs.mean(0), outputs.mean(0)
    x, y = in_double(inputs - mean_in), in_double(outputs - mean_out)
    gram = x.T @ x
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean().clamp_min(1e-12))
    weight = torch.linalg.solve(gram, x.T @ y).T.to(linear.weight)
    linear.weight.copy_(weight)
    linear.bias.copy_(mean_out - weight @ mean_in)
