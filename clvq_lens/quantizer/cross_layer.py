"""CrossLayerQuantizer: encoder, codebook and decoder with their hook points, as one module."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import NotFittedError, ShapeError
from clvq_lens.quantizer.attention import DecoderCache
from clvq_lens.quantizer.codebook import Codebook
from clvq_lens.quantizer.decoders import (
    TableDecoder,
    make_decoder,
    reset_decoder_,
    resolve,
)
from clvq_lens.quantizer.draft import Draft, Quantized
from clvq_lens.quantizer.encoders import encode_by_parts, make_encoder
from clvq_lens.quantizer.hook_points import HookPoint, check_codes, pass_through
from clvq_lens.quantizer.initialization import initialize
from clvq_lens.quantizer.origin import Origin
from clvq_lens.quantizer.outliers import are_longer, norm_limit
from clvq_lens.quantizer.sae_prediction import SAEOptions


class CrossLayerQuantizer(nn.Module):
    """A discrete bottleneck between two layers (CLVQ-VAE, arXiv 2506.20040).

    Args:
        config: Options of codebook, sampling and decoder.
        d_source: Width at the source.
        d_target: Width at the target.
        causal: Whether the host is causal; the decoder then sees no later position.
        generator: Random generator for the weights before fitting; None: a new one with seed 0.
        codebook: Class of the codebook.
        sae: Options of the SAE in its encoder; None: it has none.

    Example:
        >>> quantizer = CrossLayerQuantizer(CLVQConfig(n_codes=8), d_source=4, d_target=4)
        >>> quantizer(torch.randn(2, 5, 4)).shape
        torch.Size([2, 5, 4])
    """

    usage: Int[Tensor, " k"]
    mean_encoded: Float[Tensor, "k d_code"]
    mean_source: Float[Tensor, "k d_source"]
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
        sae: SAEOptions | None = None,
    ) -> None:
        super().__init__()
        config = resolve(config, d_source, d_target)
        self.config, self.causal = config, causal
        self.d_source, self.d_target = d_source, d_target
        self.origin: Origin | None = None
        self.fit_config: FitConfig | None = None
        generator = generator or torch.Generator().manual_seed(0)
        # torch's layers draw weights from the global generator, which is left as it was.
        with torch.random.fork_rng(devices=[]):
            self.encoder = make_encoder(config, d_source, d_target, sae)
            self.codebook = codebook(config, self.d_code, generator=generator)
            self.decoder = make_decoder(config, self.codebook, self.d_code, d_target, causal=causal)
        self.register_buffer("usage", torch.zeros(config.n_codes, dtype=torch.long))
        self.register_buffer("mean_encoded", torch.zeros(config.n_codes, self.d_code))
        if config.encoder == "predictive":  # a residual encoder has its code vectors there
            self.register_buffer("mean_source", torch.zeros(config.n_codes, d_source))
        self.register_buffer("mean_target", torch.zeros(config.n_codes, d_target))
        self.register_buffer("source_mean", torch.zeros(d_source))
        self.register_buffer("target_variance", torch.ones(()))
        self.register_buffer("max_source_norm", torch.tensor(torch.inf))
        self.register_buffer("max_target_norm", torch.tensor(torch.inf))
        self.hook_encoded = HookPoint()
        self.hook_codes = HookPoint()
        self.hook_quantized = HookPoint()
        self.hook_recon = HookPoint()
        self.hook_error = HookPoint()
        self.float()  # also where the user has set another default dtype
        self._reset_parameters_(generator)
        self.requires_grad_(False)  # outside of a fit, an edited pass of the model needs no graph
        self.eval()

    @property
    def hooks(self) -> dict[str, HookPoint]:
        """The hook points by name, in the order in which a pass meets them."""
        names = ("hook_encoded", "hook_codes", "hook_quantized", "hook_recon", "hook_error")
        return {name: getattr(self, name) for name in names}

    @property
    def d_code(self) -> int:
        """Width of code vectors."""
        return self.config.d_code(self.d_source, self.d_target)

    @property
    def source_vectors(self) -> Float[Tensor, "k d_source"]:
        """Where each code is at the source: its vector, or the mean source of its tokens."""
        return self.codebook.vectors if self.config.encoder == "residual" else self.mean_source

    @property
    def device(self) -> torch.device:
        """The device of the quantizer, which is that of the source."""
        return self.usage.device

    @property
    def fitted(self) -> bool:
        """Whether a fit has recorded what its codes stand for, so that codes mean something."""
        return bool(self.usage.sum() > 0)

    @property
    def shares(self) -> Float[Tensor, " k"]:
        """Fraction of the training tokens that have each code."""
        return self.usage.float() / self.usage.sum()

    @property
    def target_mean(self) -> Float[Tensor, " d_target"]:
        """Mean target over the training tokens."""
        return self.shares @ self.mean_target

    @property
    def table(self) -> Float[Tensor, "k d_target"]:
        """Mean target of each code; that of all tokens for a code without any."""
        return torch.where(self.usage.unsqueeze(1) > 0, self.mean_target, self.target_mean)

    def outliers(
        self,
        source: Float[Tensor, "*n d_source"] | None = None,
        target: Float[Tensor, "*n d_target"] | None = None,
    ) -> Bool[Tensor, "*n"]:
        """Which activations are so long that fitting and statistics leave their token out.

        Some models give a token here and there, such as the first word, an activation that is
        twenty times as long as that of the others; a few of them would decide every mean. An
        activation is an outlier if it is more than ten times as long as the median of the sample
        that started the codebook.

        Args:
            source: Activations at the source; None: only the target is looked at.
            target: Activations of the same tokens at the target; None: only the source is looked
                at.

        Returns:
            True on outliers, on the device of the source (or of the target, without a source).
            False everywhere before a fit, or after a fit that kept outliers.
        """
        outliers: Tensor | None = None
        for activations, limit in ((source, self.max_source_norm), (target, self.max_target_norm)):
            if activations is None:
                continue
            is_long = are_longer(activations, limit)
            outliers = is_long if outliers is None else outliers | is_long.to(outliers.device)
        if outliers is None:
            raise ShapeError("Pass activations at the source, at the target, or both.")
        return outliers

    def require_fitted(self) -> None:
        """Raises `NotFittedError` before the first fit."""
        if not self.fitted:
            raise NotFittedError(
                "This quantizer has not been fitted, so its codes mean nothing yet. "
                "Call lens.fit(data) first, or load a fitted one with clvq_lens.load(folder)."
            )

    # ---- computing -----------------------------------------------------------------------------

    def encode(self, source: Float[Tensor, "*n d_source"]) -> Float[Tensor, "*n d_code"]:
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
        """Turns source activations into code vectors, through the hook points.

        Args:
            source: Activations at the source.
            edit: Changes the nearest codes before ``hook_codes`` shows them.

        Raises:
            ShapeError: If a hook returns codes of another shape or outside [0, n_codes).
        """
        encoded = pass_through(self.hook_encoded, self.encode(source))
        nearest = self.codebook.nearest(encoded.before)
        chosen = self.codebook.nearest(encoded.after) if encoded.changed else nearest
        # A clone, because a hook may write into the codes that it receives.
        plain = Draft(encoded.after, chosen.clone(), self.codebook(chosen))
        if encoded.changed:
            plain = plain.naming((encoded.after != encoded.before).any(-1))
        edited = plain if edit is None else edit(plain)
        edited, codes_changed = self._through_codes(edited)
        wants_gradient = torch.is_grad_enabled() and bool(self.hook_quantized.bwd_hooks)
        if wants_gradient:  # a leaf, so that the gradient ends here and reaches the hook
            edited = replace(edited, vectors=edited.vectors.detach().requires_grad_())
        draft, vectors_changed = self._through_quantized(edited)
        changed = encoded.changed or codes_changed or vectors_changed or wants_gradient
        if not changed and edited is not plain:  # an edit may have changed nothing here
            changed = bool(edited.differs_from(plain).any())
        return Quantized(nearest, clean_encoded=encoded.before, draft=draft, changed=changed)

    def _through_codes(self, draft: Draft) -> tuple[Draft, bool]:
        """The draft after ``hook_codes``, and whether a hook changed it."""
        codes = pass_through(self.hook_codes, draft.codes)
        if not codes.changed:
            return draft, False
        check_codes(codes.after, draft.codes.shape, self.config.n_codes)
        where = codes.after != codes.before
        return draft.with_codes(codes.after, where, self.codebook).naming(where), True

    def _through_quantized(self, draft: Draft) -> tuple[Draft, bool]:
        """The draft after ``hook_quantized``, and whether a hook changed it."""
        vectors = pass_through(self.hook_quantized, draft.vectors)
        if vectors.changed:
            where = (vectors.before != vectors.after).any(-1)
            draft = draft.naming(where)
            if draft.averaged is not None:  # a vector of the hook's is no mean any more
                draft = replace(draft, averaged=draft.averaged & ~where)
        return replace(draft, vectors=vectors.after), vectors.changed

    def decode(
        self,
        quantized: Float[Tensor, "b pos d_code"],
        *,
        encoded: Float[Tensor, "b pos d_code"],
        key_mask: Bool[Tensor, "b keys"] | None = None,
        cache: DecoderCache | None = None,
    ) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction of the target from code vectors, in float32.

        Args:
            quantized: Code vectors of whole sequences or, with a cache, of their next positions.
            encoded: Encoder outputs, read only if ``decoder_memory`` is "encoder".
            key_mask: False on padding; None: there is no padding that a real position could see.
            cache: Cache of the earlier positions of a generation; these positions are added.
        """
        memory = encoded if self.config.decoder_memory == "encoder" else None
        with torch.autocast(quantized.device.type, enabled=False):
            return self.decoder(quantized, memory=memory, key_mask=key_mask, cache=cache)

    def decode_padded(
        self,
        quantized: Float[Tensor, "b pos d_code"],
        *,
        encoded: Float[Tensor, "b pos d_code"],
        attended: Bool[Tensor, "b pos"],
    ) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction of sequences whose padding, if any, is on their right.

        Args:
            quantized: Code vectors of the sequences.
            encoded: Their encoder outputs, as for `decode`.
            attended: False on padding.
        """
        # In a causal decoder no token sees what is on its right, and without a mask it is faster.
        key_mask = None if self.causal else attended
        return self.decode(quantized, encoded=encoded, key_mask=key_mask)

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
            # A table has an output for each code, and none for a mean of code vectors.
            mean = self.shares @ self.decoder.table
            recon = torch.where(draft.averaged.unsqueeze(-1), mean, recon)
        return recon if draft.steering is None else recon + draft.steering

    def forward(self, source: Float[Tensor, "b pos d_source"]) -> Float[Tensor, "b pos d_target"]:
        """The reconstruction of the target, through the hook points."""
        quantized = self.quantize(source)
        draft = quantized.draft
        return self.hook_recon(self.decode(draft.vectors, encoded=draft.encoded))

    # ---- changing ------------------------------------------------------------------------------

    @torch.no_grad()
    def reset_(self, generator: torch.Generator) -> None:
        """Makes the quantizer unfitted again; a generator on its device draws new weights."""
        self.usage.zero_()
        self.max_source_norm.fill_(torch.inf)
        self.max_target_norm.fill_(torch.inf)
        self._reset_parameters_(generator)

    @torch.no_grad()
    def measure_norms_(
        self, source: Float[Tensor, "n d_source"], target: Float[Tensor, "n d_target"]
    ) -> None:
        """Decides from a sample of training tokens above which norm a token is an outlier."""
        self.max_source_norm.fill_(norm_limit(source))
        self.max_target_norm.fill_(norm_limit(target))

    @torch.no_grad()
    def initialize_(
        self,
        source: Float[Tensor, "n d_source"],
        target: Float[Tensor, "n d_target"],
        *,
        generator: torch.Generator,
        progress: bool = False,
    ) -> None:
        """Starts codebook, units and decoder from a sample of training tokens.

        The codebook comes from clusters of encoder outputs, not of raw activations.

        Raises:
            TooFewTokensError: If there are fewer distinct tokens than codes.
            NonFiniteError: If activations hold NaN or infinity.
        """
        d_hidden = self.config.resolved_d_encoder_mlp(self.d_source)
        z = encode_by_parts(self.encode, source, d_hidden=d_hidden)
        k, method = self.config.n_codes, self.config.initialization
        clusters = initialize(z, k, method=method, generator=generator, progress=progress)
        self.codebook.initialize_(clusters)
        codes = self.codebook.nearest(z)
        self.codebook.measure_distance_(z, codes, decay=0.0)
        self.target_variance.copy_((target - target.mean(0)).square().sum(1).mean())
        self.start_decoder_(z, codes, target)

    @torch.no_grad()
    def replace_decoder_(self, config: CLVQConfig, generator: torch.Generator) -> None:
        """Takes another decoder, which has learned nothing yet; codes stay what they are.

        Args:
            config: What it is like; options of codebook and encoder are those of now.
            generator: Random generator on the quantizer's device.
        """
        self.config = resolve(config, self.d_source, self.d_target)
        with torch.random.fork_rng(devices=[]):
            decoder = make_decoder(
                self.config, self.codebook, self.d_code, self.d_target, causal=self.causal
            )
        self.decoder = decoder.to(self.device).float().requires_grad_(False).eval()
        reset_decoder_(self.decoder, generator)

    @torch.no_grad()
    def start_decoder_(
        self,
        z: Float[Tensor, "n d_code"],
        codes: Int[Tensor, " n"],
        target: Float[Tensor, "n d_target"],
    ) -> None:
        """Sets units and linear map, or the table, from a sample of training tokens."""
        if isinstance(self.decoder, TableDecoder):
            # First the mean of all tokens, for codes that no token of the sample has.
            self.decoder.set_(target.mean(0).expand(self.config.n_codes, -1))
            self.decoder.update_(codes, target, decay=0.0)
        else:
            self.decoder.start_(z, self.codebook(codes), target)

    @torch.no_grad()
    def record_(
        self,
        usage: Int[Tensor, " k"],
        source_sums: Float[Tensor, "k d_source"],
        encoded_sums: Float[Tensor, "k d_code"],
        target_sums: Float[Tensor, "k d_target"],
    ) -> None:
        """Records the frozen pass: usage, and means of source, encoder output and target."""
        counts = usage.clamp_min(1).unsqueeze(1)
        self.usage.copy_(usage)
        self.mean_encoded.copy_(encoded_sums / counts)
        self.mean_target.copy_(target_sums / counts)
        self.source_mean.copy_(source_sums.sum(0) / int(usage.sum()))
        if self.config.encoder == "predictive":
            self.mean_source.copy_(source_sums / counts)
        if isinstance(self.decoder, TableDecoder):
            self.decoder.set_(self.table)

    def _reset_parameters_(self, generator: torch.Generator) -> None:
        self.encoder.reset_(generator)
        reset_decoder_(self.decoder, generator)
