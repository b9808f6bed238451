"""What can be chosen: one frozen dataclass for the quantizer, one for fitting it."""

import dataclasses
import difflib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from clvq_lens.errors import ConfigError

Initialization = Literal["random", "kmeans++", "scaled_spherical"]
TemperatureUnit = Literal["relative", "raw"]
Decoder = Literal["transformer", "mlp", "table"]
DecoderMemory = Literal["codes", "encoder"]
LossUnit = Literal["variance", "raw"]
LongTexts = Literal["error", "split", "truncate"]
_MOST_SEED = 2**63 - 1  # what the generators of torch and numpy take
_MOST_COUNT = 2**53  # whole numbers up to here are exact as floats, too

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
        top_k: In training, a code is drawn among the ``top_k`` nearest.
        temperature: Of that draw, in ``temperature_unit``; higher is more random.
        temperature_unit: "relative" divides squared distances by their running mean to the
            nearest code, so that a temperature means the same at every layer; "raw" is the paper's.
        ema_decay: Of the running cluster sizes and sums that the codebook follows.
        commitment_weight: Pull of encoder outputs towards their code vector.
        dead_after_tokens: A code unused for so many tokens is revived; None: 100 * ``n_codes``.
        initialization: How the codebook starts: random rows, k-means++ or scaled-spherical
            k-means++.
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
    top_k: int = 5
    temperature: float = 0.5
    temperature_unit: TemperatureUnit = "relative"
    ema_decay: float = 0.99
    commitment_weight: float = 0.1
    dead_after_tokens: int | None = None
    initialization: Initialization = "scaled_spherical"
    decoder: Decoder = "transformer"
    decoder_memory: DecoderMemory = "codes"
    decoder_layers: int = 2
    decoder_heads: int | None = None
    d_decoder_mlp: int | None = None
    decoder_dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(self, "n_codes", "top_k", "decoder_layers", kind=int)
        _check_positive(self, "temperature")
        for name in ("dead_after_tokens", "decoder_heads", "d_decoder_mlp"):
            if getattr(self, name) is not None:
                _check_positive(self, name, kind=int)
        _check_between(self, "ema_decay", 0.0, 1.0)
        _check_between(self, "decoder_dropout", 0.0, 1.0)
        _check_between(self, "commitment_weight", 0.0, float("inf"))
        _check_choice(self, "temperature_unit", TemperatureUnit)
        _check_choice(self, "initialization", Initialization)
        _check_choice(self, "decoder", Decoder)
        _check_choice(self, "decoder_memory", DecoderMemory)
        if self.top_k > self.n_codes:
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
            temperature=1.0,
            temperature_unit="raw",
            decoder_memory="encoder",
            decoder_layers=6,
            decoder_heads=8,
            d_decoder_mlp=2048,
            decoder_dropout=0.1,
        )

    @property
    def resolved_dead_after_tokens(self) -> int:
        """Tokens without an assignment after which a code is revived."""
        return self.dead_after_tokens or 100 * self.n_codes

    @property
    def reads_sequences(self) -> bool:
        """Whether the decoder looks at a token's neighbours, so that sequences must stay whole."""
        return self.decoder == "transformer"


@dataclass(frozen=True, kw_only=True)
class FitConfig(_Options):
    """How a quantizer is fitted.

    Attributes:
        n_tokens: Real tokens to train on in all; data are read again as often as that takes. None:
            `PASSES` times those of the data, and at most `MOST_TOKENS`.
        batch_tokens: Real tokens of a step, about.
        learning_rate: Peak of a warm-up and cosine schedule, for Adam; None: 0.05 divided by the
            square root of the target's width.
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
        seed: Of the one generator: data order, initialisation, sampling, revival.
    """

    n_tokens: int | None = None
    batch_tokens: int = 2_048
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
        counts = ("batch_tokens", "n_evaluations", "patience", "buffer_tokens")
        _check_positive(self, *counts, kind=int)
        if self.n_tokens is not None:
            _check_positive(self, "n_tokens", kind=int)
        _check_positive(self, "max_grad_norm")
        if self.learning_rate is not None:
            _check_positive(self, "learning_rate")
        for name in ("weight_decay", "recon_weight", "kl_weight"):
            _check_between(self, name, 0.0, float("inf"))
        _check_between(self, "warmup_fraction", 0.0, 1.0)
        _check_between(self, "held_out_fraction", 0.0, 0.9)
        _check_choice(self, "loss_unit", LossUnit)
        _check_choice(self, "long_texts", LongTexts)
        if not isinstance(self.keep_outliers, bool):
            raise ConfigError(f"keep_outliers is {self.keep_outliers!r}; pass True or False.")
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


def closest(name: str, names: list[str]) -> str:
    """A hint such as "Closest: 'n_codes'. ", or nothing when no name is similar."""
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Closest: {matches[0]!r}. " if matches else ""


def check_is(name: str, value: object, kind: Any, remedy: str) -> None:
    """Raises `ConfigError` unless an argument is of a kind.

    Args:
        name: Of the argument.
        value: That was passed.
        kind: A class, several, or a protocol that can be checked.
        remedy: A sentence that says what to pass.
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{name} is of type {type(value).__name__}. {remedy}")


def check_names(names: object) -> None:
    """Raises `ConfigError` unless these are names of codes, or None."""
    check_is("labels", names, Mapping | None, "Pass {code: name, ...}, as table.labels() does.")
    for code, name in names.items() if isinstance(names, Mapping) else ():
        if not isinstance(name, str):
            raise ConfigError(f"The name of code {code!r} is {name!r}; names are strings.")


def check_seed(seed: object) -> None:
    """Raises `ConfigError` unless it is a seed that every random generator takes."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _MOST_SEED:
        raise ConfigError(f"seed is {seed!r}; pass a whole number from 0 to 2**63 - 1.")


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Raises `ConfigError` unless an option is a whole number that is large enough.

    Args:
        name: Of the option.
        value: That was passed.
        least: The smallest number allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_COUNT:
        raise ConfigError(f"{name} is {value!r}; pass a whole number from {least} to 2**53.")


def _check_positive(config: Any, *names: str, kind: Any = int | float) -> None:
    most = _MOST_COUNT if kind is int else sys.float_info.max
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value <= most:
            number = "whole number" if kind is int else "finite number"
            raise ConfigError(f"{name} is {value!r}; pass a {number} above 0.")


def _check_between(config: Any, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    within = isinstance(value, int | float) and low <= value <= high and abs(value) < math.inf
    if isinstance(value, bool) or not within:
        end = ")" if high == math.inf else "]"
        raise ConfigError(f"{name} is {value!r}; pass a number in [{low:g}, {high:g}{end}.")


def _check_choice(config: Any, name: str, choices: Any) -> None:
    value = getattr(config, name)
    if value not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        hint = closest(str(value), list(get_args(choices)))
        raise ConfigError(f"{name} is {value!r}. {hint}Pass one of {allowed}.")
