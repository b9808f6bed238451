"""What can be chosen: one frozen dataclass for the quantizer, one for fitting it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar, Unpack, get_args

from clvq_lens.arguments import (
    check_between,
    check_choice,
    check_count,
    check_flags,
    check_is,
    check_positive,
    check_seed,
    closest,
)
from clvq_lens.errors import ConfigError

Initialization = Literal["random", "kmeans++", "scaled_spherical"]
TemperatureUnit = Literal["relative", "raw"]
EncoderName = Literal["residual", "predictive"]
DecoderName = Literal["transformer", "mlp", "table"]
DecoderMemory = Literal["codes", "encoder"]
LossUnit = Literal["variance", "raw"]
LongTexts = Literal["error", "split", "truncate"]
Metric = Literal["fvu", "controls", "ce", "kl"]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""What an evaluation can measure; a readout and labels add their own."""
DtypeName = Literal["float32", "bfloat16", "float16"]
"""Types that the weights of a model may have."""

PASSES = 16
"""How often a fit reads its data by default."""
MOST_TOKENS = 2_000_000
"""How many tokens a fit reads by default, at most."""

_Config = TypeVar("_Config", bound="_Options")


class _Options:
    """What both configs share: change by name, with a helpful error for a wrong name."""

    def replace(self: _Config, **options: Any) -> _Config:
        """A copy with some options changed.

        Raises:
            ConfigError: If there is no option of that name, or its value is impossible.
        """
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        for name in options:
            if name not in names:
                raise ConfigError(
                    f"{type(self).__name__} has no option {name!r}. "
                    f"{closest(name, names)}Options: {', '.join(names)}."
                )
        return dataclasses.replace(self, **options)  # type: ignore[type-var]


@dataclass(frozen=True, kw_only=True)
class CLVQConfig(_Options):
    """The quantizer between two layers: codebook, encoder and decoder.

    Attributes:
        n_codes: Size of the codebook.
        top_k: In training, a code is drawn among the ``top_k`` nearest. None: five with a residual
            encoder; with a predictive one the nearest, since draws only cost it accuracy.
        temperature: Of that draw, in ``temperature_unit``; higher is more random.
        temperature_unit: "relative" divides squared distances by their running mean to the
            nearest code, so that a temperature means the same at every layer; "raw" is the paper's.
        ema_decay: Of the running cluster sizes and sums that the codebook follows.
        commitment_weight: Pull of encoder outputs towards their code vector.
        dead_after_tokens: A code unused for so many tokens is revived; None: 100 * ``n_codes``.
        initialization: How the codebook starts: random rows, k-means++ or scaled-spherical
            k-means++.
        encoder: "predictive" estimates the target activation from that of the source, so that codes
            keep what the target depends on, and code vectors live at the target; "residual" stays
            close to the source activation, as the paper's does.
        encoder_layers: Hidden layers of a predictive encoder; 0: a linear map alone.
        d_encoder_mlp: Their width; None: eight times the source width up to 512, and at least
            twice the source width.
        decoder: "transformer" reads the whole sequence of code vectors, "mlp" one token,
            "table" holds the mean target of each code and needs no gradient.
        decoder_memory: "codes" lets the decoder see code vectors only; "encoder" adds
            cross-attention to the unquantized encoder output, as the authors' code does, and
            the codebook can then be bypassed.
        decoder_layers: Number of decoder blocks.
        decoder_heads: Attention heads of a block; None: one for 64 dimensions, at least two.
        d_decoder_mlp: Hidden width of a block's MLP; None: four times the target width.
        decoder_dropout: Dropout in the decoder while training.
    """

    n_codes: int = 400
    top_k: int | None = None
    temperature: float = 0.5
    temperature_unit: TemperatureUnit = "relative"
    ema_decay: float = 0.99
    commitment_weight: float = 0.1
    dead_after_tokens: int | None = None
    initialization: Initialization = "scaled_spherical"
    encoder: EncoderName = "predictive"
    encoder_layers: int = 2
    d_encoder_mlp: int | None = None
    decoder: DecoderName = "transformer"
    decoder_memory: DecoderMemory = "codes"
    decoder_layers: int = 2
    decoder_heads: int | None = None
    d_decoder_mlp: int | None = None
    decoder_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n_codes", "decoder_layers"):
            check_positive(name, getattr(self, name), whole=True)
        check_count("encoder_layers", self.encoder_layers, least=0)
        for name in (
            "top_k",
            "dead_after_tokens",
            "d_encoder_mlp",
            "decoder_heads",
            "d_decoder_mlp",
        ):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name), whole=True)
        check_positive("temperature", self.temperature)
        check_between("ema_decay", self.ema_decay, 0.0, 1.0)
        check_between("decoder_dropout", self.decoder_dropout, 0.0, 1.0)
        check_between("commitment_weight", self.commitment_weight, 0.0, math.inf)
        check_choice("temperature_unit", self.temperature_unit, get_args(TemperatureUnit))
        check_choice("initialization", self.initialization, get_args(Initialization))
        check_choice("encoder", self.encoder, get_args(EncoderName))
        check_choice("decoder", self.decoder, get_args(DecoderName))
        check_choice("decoder_memory", self.decoder_memory, get_args(DecoderMemory))
        if self.top_k is not None and self.top_k > self.n_codes:
            raise ConfigError(
                f"top_k is {self.top_k}, but there are only {self.n_codes} codes. "
                f"Pass top_k <= n_codes."
            )
        if self.decoder_memory == "encoder" and self.decoder != "transformer":
            raise ConfigError(
                f"decoder_memory='encoder' needs decoder='transformer', not {self.decoder!r}: only "
                f"a transformer can attend to the encoder. Pass decoder_memory='codes'."
            )

    @classmethod
    def paper(cls) -> "CLVQConfig":
        """The published setting (arXiv 2506.20040 and its code); fit with `FitConfig.paper()`."""
        return cls(
            top_k=5,
            temperature=1.0,
            temperature_unit="raw",
            encoder="residual",
            decoder_memory="encoder",
            decoder_layers=6,
            decoder_heads=8,
            d_decoder_mlp=2048,
            decoder_dropout=0.1,
        )

    @property
    def resolved_top_k(self) -> int:
        """How many of the nearest codes a draw is among."""
        if self.top_k is not None:
            return self.top_k
        return min(5, self.n_codes) if self.encoder == "residual" else 1

    @property
    def resolved_dead_after_tokens(self) -> int:
        """Tokens without an assignment after which a code is revived."""
        return self.dead_after_tokens or 100 * self.n_codes

    def resolved_d_encoder_mlp(self, d_source: int) -> int:
        """Width of the hidden layers of a predictive encoder."""
        return self.d_encoder_mlp or max(2 * d_source, min(8 * d_source, 512))

    def d_code(self, d_source: int, d_target: int) -> int:
        """Width of code vectors: that of the source, or of the target that is predicted."""
        return d_source if self.encoder == "residual" else d_target

    @property
    def reads_sequences(self) -> bool:
        """Whether the decoder looks at a token's neighbors, so that sequences must stay whole."""
        return self.decoder == "transformer"


@dataclass(frozen=True, kw_only=True)
class FitConfig(_Options):
    """How a quantizer is fitted.

    A codebook is started from a sample of 128 tokens a code. Where these would take more than a
    sixteenth of the memory of the device that holds them, as with very wide models and very many
    codes, the sample is smaller, down to 8 tokens a code.

    Attributes:
        n_tokens: Real tokens to train on in all, repetitions counted. The model reads each token
            of the data once, and no more of them than this, beside the part that is held out.
            None: `PASSES` times those of the data, and at most `MOST_TOKENS`.
        batch_tokens: Real tokens of a step, about.
        accumulation_steps: Parts in which a step is computed, one after the other, where memory is
            short. The step stays the same.
        learning_rate: Peak of a warm-up and cosine schedule, for Adam, of decoder and encoder; of
            a predictive encoder it is twice that. None: 0.05 divided by the square root of the
            target's width.
        weight_decay: Of Adam (decoupled).
        warmup_fraction: Part of the steps in which the learning rate rises.
        max_grad_norm: Gradients are clipped to this norm.
        recon_weight: Weight of the reconstruction error.
        loss_unit: "variance" measures that error in units of the target's variance (so it is
            the FVU of the batch), "raw" as a mean square, as the paper does.
        kl_weight: Weight of KL(clean || spliced) of the model's next-token distributions, in
            nats per token, with gradients through the layers above the target.
        held_out_fraction: Part of the documents kept aside for validation, by content, so that
            duplicates stay on one side; 0 keeps none.
        n_evaluations: Validations during a fit.
        patience: Validations after which the fit stops, if none of them improves by a thousandth.
        buffer_tokens: Size of the shuffle buffer of activations; a sixteenth of the memory of the
            device that holds them is the most that it takes.
        keep_outliers: Whether to keep tokens whose activation is more than ten times as long as
            that of the median token, at the source or at the target. By default they are left out
            of fitting and of statistics, as special tokens are, and counted.
        long_texts: What to do with a text longer than the model's context: "split" it into pieces
            that are read one by one, "truncate" it, or raise an "error". How many there were is
            logged.
        seed: Of the one generator: data order, initialization, sampling, revival.
    """

    n_tokens: int | None = None
    batch_tokens: int = 1_024
    accumulation_steps: int = 1
    learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    max_grad_norm: float = 1.0
    recon_weight: float = 1.0
    loss_unit: LossUnit = "variance"
    kl_weight: float = 0.0
    held_out_fraction: float = 0.05
    n_evaluations: int = 20
    patience: int = 4
    buffer_tokens: int = 2**19
    keep_outliers: bool = False
    long_texts: LongTexts = "split"
    seed: int = 0

    def __post_init__(self) -> None:
        whole = (
            "batch_tokens",
            "accumulation_steps",
            "n_evaluations",
            "patience",
            "buffer_tokens",
        )
        for name in whole:
            check_positive(name, getattr(self, name), whole=True)
        if self.n_tokens is not None:
            check_positive("n_tokens", self.n_tokens, whole=True)
        check_positive("max_grad_norm", self.max_grad_norm)
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate)
        for name in ("weight_decay", "recon_weight", "kl_weight"):
            check_between(name, getattr(self, name), 0.0, math.inf)
        check_between("warmup_fraction", self.warmup_fraction, 0.0, 1.0)
        check_between("held_out_fraction", self.held_out_fraction, 0.0, 0.9)
        check_choice("loss_unit", self.loss_unit, get_args(LossUnit))
        check_choice("long_texts", self.long_texts, get_args(LongTexts))
        check_flags(keep_outliers=self.keep_outliers)
        check_seed(self.seed)
        if self.recon_weight == 0 and self.kl_weight == 0:
            raise ConfigError(
                "recon_weight and kl_weight are both 0, so nothing would be learned. "
                "Give at least one of them a positive weight."
            )

    def tokens_for(self, n_corpus_tokens: int) -> int:
        """Real tokens to train on, given how many the training documents hold."""
        if self.n_tokens is not None:
            return self.n_tokens
        return max(1, min(PASSES * n_corpus_tokens, MOST_TOKENS))

    @classmethod
    def paper(cls) -> "FitConfig":
        """The published setting: 50 epochs of 81,456 tokens, 128 sentences (751 tokens) a batch."""
        return cls(
            n_tokens=50 * 81_456,
            batch_tokens=751,
            learning_rate=5e-3,
            weight_decay=1e-4,
            loss_unit="raw",
            held_out_fraction=0.1,
            n_evaluations=50,
            patience=15,
        )


# ---- options by name -----------------------------------------------------------------------------


class CLVQOptions(TypedDict, total=False):
    """The fields of `CLVQConfig` as keywords, for type checkers."""

    n_codes: int
    top_k: int | None
    temperature: float
    temperature_unit: TemperatureUnit
    ema_decay: float
    commitment_weight: float
    dead_after_tokens: int | None
    initialization: Initialization
    encoder: EncoderName
    encoder_layers: int
    d_encoder_mlp: int | None
    decoder: DecoderName
    decoder_memory: DecoderMemory
    decoder_layers: int
    decoder_heads: int | None
    d_decoder_mlp: int | None
    decoder_dropout: float


class FitOptions(TypedDict, total=False):
    """The fields of `FitConfig` as keywords, for type checkers."""

    n_tokens: int | None
    batch_tokens: int
    accumulation_steps: int
    learning_rate: float | None
    weight_decay: float
    warmup_fraction: float
    max_grad_norm: float
    recon_weight: float
    loss_unit: LossUnit
    kl_weight: float
    held_out_fraction: float
    n_evaluations: int
    patience: int
    buffer_tokens: int
    keep_outliers: bool
    long_texts: LongTexts
    seed: int


def fit_config(
    config: FitConfig | None, default: FitConfig | None = None, **options: Unpack[FitOptions]
) -> FitConfig:
    """A configuration with some options changed.

    Args:
        config: What a user passed.
        default: Taken if that is None; None: the defaults of `FitConfig`.
        **options: Changed.

    Raises:
        ConfigError: If it is no `FitConfig`, or an option does not exist or is impossible.
    """
    check_is("config", config, FitConfig | None, "Pass a clvq_lens.FitConfig, or its options.")
    return (config or default or FitConfig()).replace(**options)
