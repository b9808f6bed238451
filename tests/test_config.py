import dataclasses
import math

import pytest

from clvq_lens.arguments import closest
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import ConfigError

CONFIGS = [CLVQConfig, FitConfig]
POSITIVE = [
    *((CLVQConfig, name) for name in ("n_codes", "top_k", "temperature", "decoder_layers")),
    *((CLVQConfig, name) for name in ("dead_after_tokens", "decoder_heads", "d_decoder_mlp")),
    *((FitConfig, name) for name in ("n_tokens", "batch_tokens", "learning_rate")),
    *(
        (FitConfig, name)
        for name in ("max_grad_norm", "n_evaluations", "patience", "buffer_tokens")
    ),
]
WHOLE = [
    *((CLVQConfig, name) for name in ("n_codes", "top_k", "decoder_layers")),
    *((CLVQConfig, name) for name in ("dead_after_tokens", "decoder_heads", "d_decoder_mlp")),
    *((FitConfig, name) for name in ("n_tokens", "batch_tokens", "n_evaluations", "patience")),
    *((FitConfig, name) for name in ("buffer_tokens", "seed")),
]
BETWEEN = [
    (CLVQConfig, "ema_decay", -0.1, "[0, 1]"),
    (CLVQConfig, "ema_decay", 1.1, "[0, 1]"),
    (CLVQConfig, "decoder_dropout", -0.1, "[0, 1]"),
    (CLVQConfig, "decoder_dropout", 1.5, "[0, 1]"),
    (CLVQConfig, "commitment_weight", -1.0, "[0, inf)"),
    (FitConfig, "weight_decay", -1.0, "[0, inf)"),
    (FitConfig, "recon_weight", -1.0, "[0, inf)"),
    (FitConfig, "kl_weight", -1.0, "[0, inf)"),
    (FitConfig, "warmup_fraction", 1.5, "[0, 1]"),
    (FitConfig, "held_out_fraction", -0.1, "[0, 0.9]"),
    (FitConfig, "held_out_fraction", 0.95, "[0, 0.9]"),
]
CHOICES = [
    (CLVQConfig, "temperature_unit", "relativ", "relative"),
    (CLVQConfig, "initialization", "kmeans", "kmeans++"),
    (CLVQConfig, "decoder", "transfromer", "transformer"),
    (CLVQConfig, "decoder_memory", "code", "codes"),
    (FitConfig, "loss_unit", "varience", "variance"),
    (FitConfig, "long_texts", "truncat", "truncate"),
]


pytestmark = pytest.mark.usefixtures("as_for_a_user")


@pytest.mark.parametrize("config", CONFIGS)
def test_defaults_are_valid(config: type):
    assert config() == config()


@pytest.mark.parametrize("config", CONFIGS)
def test_options_are_frozen(config: type):
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError, match=name):
        setattr(config(), name, 7)


@pytest.mark.parametrize("config", CONFIGS)
def test_options_are_given_by_name(config: type):
    with pytest.raises(TypeError, match="positional"):
        config(400)


def test_the_published_quantizer_has_the_published_options():
    paper = CLVQConfig.paper()
    assert dataclasses.asdict(paper) == {
        "n_codes": 400,
        "top_k": 5,
        "temperature": 1.0,
        "temperature_unit": "raw",
        "ema_decay": 0.99,
        "commitment_weight": 0.1,
        "dead_after_tokens": paper.dead_after_tokens,
        "initialization": "scaled_spherical",
        "encoder": "residual",
        "encoder_layers": paper.encoder_layers,  # of the other encoder, as its width
        "d_encoder_mlp": None,
        "decoder": "transformer",
        "decoder_memory": "encoder",
        "decoder_layers": 6,
        "decoder_heads": 8,
        "d_decoder_mlp": 2048,
        "decoder_dropout": 0.1,
    }


def test_the_published_fit_has_the_published_options():
    paper = FitConfig.paper()
    assert (paper.learning_rate, paper.weight_decay) == (5e-3, 1e-4)
    assert (paper.loss_unit, paper.recon_weight, paper.kl_weight) == ("raw", 1.0, 0.0)
    assert paper.n_tokens == 50 * 81_456  # 50 epochs
    assert paper.batch_tokens == 751  # 128 sentences


@pytest.mark.parametrize(("config", "name"), POSITIVE)
@pytest.mark.parametrize("value", [0, -1, math.nan, "3", True])
def test_an_option_that_must_be_positive_refuses_anything_else(
    config: type, name: str, value: object
):
    with pytest.raises(ConfigError, match=rf"^{name} is {value!r}; pass a .*number above 0, up to"):
        config(**{name: value})


@pytest.mark.parametrize(("config", "name"), WHOLE)
def test_an_option_that_counts_refuses_a_fraction(config: type, name: str):
    with pytest.raises(ConfigError, match=rf"^{name} is 2\.5; pass a whole number"):
        config(**{name: 2.5})


@pytest.mark.parametrize(("config", "name", "value", "interval"), BETWEEN)
def test_an_option_outside_its_interval_is_refused(
    config: type, name: str, value: float, interval: str
):
    with pytest.raises(ConfigError) as error:
        config(**{name: value})
    assert str(error.value) == f"{name} is {value!r}; pass a number in {interval}."


@pytest.mark.parametrize(("config", "name"), sorted({row[:2] for row in BETWEEN}, key=str))
@pytest.mark.parametrize("value", [False, "0.5", math.nan, None])
def test_an_option_with_an_interval_refuses_what_is_no_number(
    config: type, name: str, value: object
):
    with pytest.raises(ConfigError, match=rf"^{name} is {value!r}; pass a number in"):
        config(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("ema_decay", 0.0), ("ema_decay", 1.0)])
def test_the_ends_of_an_interval_are_allowed(name: str, value: float):
    assert getattr(CLVQConfig(**{name: value}), name) == value


@pytest.mark.parametrize(("config", "name", "typo", "meant"), CHOICES)
def test_a_misspelt_choice_names_the_closest(config: type, name: str, typo: str, meant: str):
    with pytest.raises(ConfigError, match=rf"^{name} is '{typo}'\. Closest: '"):
        config(**{name: typo})
    with pytest.raises(ConfigError) as error:
        config(**{name: typo})
    assert f"Closest: {meant!r}." in str(error.value)
    assert "Pass one of" in str(error.value)


@pytest.mark.parametrize(("config", "name"), [row[:2] for row in CHOICES])
def test_a_choice_refuses_what_is_no_word(config: type, name: str):
    with pytest.raises(ConfigError, match=rf"^{name} is None\. Pass one of"):
        config(**{name: None})


def test_more_nearest_codes_than_codes_are_refused():
    with pytest.raises(ConfigError, match=r"top_k is 5, but there are only 4 codes\. Pass top_k"):
        CLVQConfig(n_codes=4, top_k=5)
    assert CLVQConfig(n_codes=4, top_k=4).top_k == 4


def test_codes_are_drawn_among_five_unless_the_target_is_predicted():
    assert CLVQConfig(encoder="residual").resolved_top_k == 5
    assert CLVQConfig(encoder="residual", n_codes=3).resolved_top_k == 3
    assert CLVQConfig().encoder == "predictive"
    assert CLVQConfig().resolved_top_k == 1
    assert CLVQConfig(top_k=7).resolved_top_k == 7
    assert CLVQConfig.paper().top_k == 5


@pytest.mark.parametrize("decoder", ["mlp", "table"])
def test_encoder_memory_needs_the_transformer(decoder: str):
    with pytest.raises(ConfigError, match=f"needs decoder='transformer', not '{decoder}'"):
        CLVQConfig(decoder=decoder, decoder_memory="encoder")


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_a_seed_that_no_generator_takes_is_refused(seed: int):
    with pytest.raises(ConfigError, match=rf"^seed is {seed}; pass a whole number from 0 to"):
        FitConfig(seed=seed)
    assert FitConfig(seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("config", "name"),
    [(FitConfig, "learning_rate"), (FitConfig, "kl_weight"), (CLVQConfig, "temperature")],
)
def test_an_infinite_number_is_refused(config: type, name: str):
    with pytest.raises(ConfigError, match=rf"^{name} is inf; pass a"):
        config(**{name: math.inf})


def test_a_count_beyond_all_memory_is_refused():
    with pytest.raises(ConfigError, match=r"^batch_tokens is "):
        FitConfig(batch_tokens=2**70)


def test_keeping_outliers_is_yes_or_no():
    with pytest.raises(ConfigError, match=r"^keep_outliers is 'yes'; pass True or False"):
        FitConfig(keep_outliers="yes")


def test_nothing_to_learn_is_refused():
    with pytest.raises(ConfigError, match="recon_weight and kl_weight are both 0"):
        FitConfig(recon_weight=0, kl_weight=0)
    assert FitConfig(recon_weight=0, kl_weight=0.5).kl_weight == 0.5


def test_a_copy_changes_only_what_is_named():
    config = CLVQConfig(top_k=3)
    copy = config.replace(n_codes=20)
    assert (copy.n_codes, copy.top_k) == (20, 3)
    assert config == CLVQConfig(top_k=3)


def test_an_unknown_option_names_the_closest_and_all():
    with pytest.raises(
        ConfigError, match=r"no option 'n_code'\. Closest: 'n_codes'\. Options: n_codes, top_k"
    ):
        CLVQConfig().replace(n_code=3)
    with pytest.raises(ConfigError, match=r"FitConfig has no option 'zzz'\. Options: "):
        FitConfig().replace(zzz=3)


def test_a_copy_is_checked_as_a_whole():
    with pytest.raises(ConfigError, match="only 3 codes"):
        CLVQConfig(top_k=4).replace(n_codes=3)
    assert CLVQConfig(top_k=4).replace(n_codes=3, top_k=2).n_codes == 3


def test_dead_codes_wait_for_a_hundred_tokens_per_code_unless_told():
    assert CLVQConfig(n_codes=30).resolved_dead_after_tokens == 3_000
    assert CLVQConfig(n_codes=30, dead_after_tokens=7).resolved_dead_after_tokens == 7


@pytest.mark.parametrize(
    ("decoder", "reads"), [("transformer", True), ("mlp", False), ("table", False)]
)
def test_only_the_transformer_reads_sequences(decoder: str, reads: bool):
    assert CLVQConfig(decoder=decoder).reads_sequences is reads


def test_closest_stays_silent_when_nothing_is_similar():
    assert closest("n_cods", ["n_codes", "top_k"]) == "Closest: 'n_codes'. "
    assert closest("qqq", ["n_codes", "top_k"]) == ""
