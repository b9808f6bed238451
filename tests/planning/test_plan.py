"""A plan counts what a fit will do, and says how it knows how long that takes."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3TextConfig, LlamaConfig

import clvq_lens as cl
from clvq_lens import errors
from clvq_lens.planning.gpus import GPUS, gpu_named
from clvq_lens.planning.model_shape import shape_of
from tests.conftest import random_model

OPTIONS = {"source": 1, "target": 2, "n_codes": 12, "top_k": 3}
CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    vocab_size=50,
    tie_word_embeddings=False,
    dtype="bfloat16",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    CONFIG.save_pretrained(folder)
    return str(folder)


# ---- sizes ---------------------------------------------------------------------------------------


def test_a_configuration_says_how_many_parameters_the_model_has(folder):
    model = AutoModelForCausalLM.from_config(CONFIG)
    shape = shape_of(folder)
    assert shape.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    blocks = model.model.layers
    assert shape.n_block_parameters == sum(parameter.numel() for parameter in blocks.parameters())
    assert shape.dtype == torch.float32  # as it is loaded, whatever dtype the configuration says
    assert shape.size_bytes == 2 * shape_of(folder, dtype="bfloat16").size_bytes
    assert shape.head_flops == 2 * 32 * 50


def test_a_loaded_model_says_the_same_of_itself():
    model = random_model()
    shape = shape_of(model)
    assert shape.n_layers == model.cfg.n_layers
    assert shape.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert 0 < shape.n_block_parameters < shape.n_parameters
    assert shape.dtype == torch.float32
    assert shape_of(model, dtype="bfloat16").size_bytes == shape.size_bytes / 2
    with pytest.raises(errors.ConfigError, match="dtype is 'nonsense'"):
        shape_of(model, dtype="nonsense")


def test_a_model_of_text_and_images_is_planned_by_its_text(tmp_path):
    text = Gemma3TextConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=50,
    )
    Gemma3Config(text_config=text.to_dict()).save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    assert (shape.n_layers, shape.d_model, shape.d_vocab) == (3, 32, 50)


def test_operations_of_a_token_are_two_for_each_parameter_and_attention(folder):
    shape = shape_of(folder)
    per_block = shape.n_block_parameters / 3
    assert shape.flops(2, context=10) == 2 * (2 * per_block + 4 * 32 * 5)


# ---- by formula ----------------------------------------------------------------------------------


def test_twice_the_tokens_are_read_in_twice_the_time_on_twice_the_disk(folder):
    one, two = (cl.plan(folder, n, source=0, target=1, gpu="H100") for n in (10**8, 2 * 10**8))
    seconds = [
        plan.frame().set_index("phase").loc["read the model", "seconds"] for plan in (one, two)
    ]
    assert seconds[1] == pytest.approx(2 * seconds[0])
    assert two.disk_bytes == 2 * one.disk_bytes
    # Source and target in float32, a token of 4 bytes and whether it is real.
    assert one.disk_bytes == 10**8 * (4 * 32 * 2 + 5)
    half = cl.plan(folder, 10**8, source=0, target=1, gpu="H100", dtype="bfloat16")
    assert half.disk_bytes == 10**8 * (2 * 32 * 2 + 5)


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory) -> str:
    """A model that takes longer to compute than its activations to write."""
    folder = tmp_path_factory.mktemp("wide")
    wide = {"hidden_size": 4096, "intermediate_size": 8192, "num_attention_heads": 32}
    LlamaConfig(**{**CONFIG.to_dict(), **wide, "head_dim": 128}).save_pretrained(folder)
    return str(folder)


def seconds_of(folder: str, phase: str, **options: Any) -> float:
    options = {"source": 0, "target": 1, "gpu": "H100", "dtype": "bfloat16", **options}
    frame = cl.plan(folder, 10**9, **options).frame().set_index("phase")
    return frame.loc[phase, "seconds"]


def test_more_gpus_compute_in_less_time(wide_folder):
    read = [seconds_of(wide_folder, "read the model", gpu="T4", n_gpus=n) for n in (1, 2)]
    assert read[0] == pytest.approx(2 * read[1])
    # Large batches: steps, which no number of GPUs makes shorter, do not decide.
    options = {"n_codes": 16_384, "fit": cl.FitConfig(batch_tokens=2**16)}
    fitted = [seconds_of(wide_folder, "fit", n_gpus=n, **options) for n in (1, 4)]
    assert fitted[0] == pytest.approx(4 * fitted[1])
    assert cl.plan(wide_folder, 10**6, source=0, target=1, gpu="T4", n_gpus=4).where == "4 x T4"


def test_a_model_in_float32_is_read_at_the_rate_of_float32(wide_folder):
    half, single = (
        seconds_of(wide_folder, "read the model", gpu="T4", dtype=dtype)
        for dtype in ("bfloat16", "float32")
    )
    assert single / half == pytest.approx(65 / 8.1)


def test_kl_needs_what_lies_above_the_target(wide_folder):
    options = {"fit": cl.FitConfig(batch_tokens=2**16)}
    with_kl = {"fit": cl.FitConfig(batch_tokens=2**16, kl_weight=0.5)}
    shape = shape_of(wide_folder, dtype="bfloat16")
    a_token = 4 * (shape.flops(1, 256) + shape.head_flops) / (0.3 * GPUS["H100"].half_flops)
    n_tokens = cl.FitConfig().tokens_for(10**9)
    more = seconds_of(wide_folder, "fit", **with_kl) - seconds_of(wide_folder, "fit", **options)
    assert more == pytest.approx(a_token * n_tokens)
    assert seconds_of(wide_folder, "validation", **with_kl) > seconds_of(
        wide_folder, "validation", **options
    )


def test_a_model_that_does_not_fit_says_so(folder):
    plan = cl.plan(folder, 10**9, source=0, target=1, gpu="T4", n_codes=4_000_000)
    assert not plan.fits
    assert "more than the 16 GB of one device: spread the model" in plan.headline()
    assert cl.plan(folder, 10**6, source=0, target=1, gpu="T4").fits


def test_without_an_encoder_that_predicts_there_is_none_to_train(folder):
    options = {"source": 0, "target": 1, "gpu": "H100"}
    names = [phase.name for phase in cl.plan(folder, 10**6, **options).phases]
    assert "encoder" in names
    names = [phase.name for phase in cl.plan(folder, 10**6, encoder="residual", **options).phases]
    assert "encoder" not in names


# ---- measured ------------------------------------------------------------------------------------


def test_this_machine_is_measured_and_the_model_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr("clvq_lens.planning.measured_rates._READING_S", 0.1)
    model = random_model()
    before = set(model.hook_dict)
    plan = cl.plan(model, 50_000, fit=cl.FitConfig(n_tokens=20_000), progress=False, **OPTIONS)
    assert set(model.hook_dict) == before
    frame = plan.frame().set_index("phase")
    assert (frame["seconds"] > 0).all()
    assert frame.loc["read the model", "tokens"] == 50_000
    assert frame.loc["encoder", "tokens"] == frame.loc["fit", "tokens"] == 20_000
    assert frame.loc["validation", "tokens"] == 2 * 20 * 2_500  # encoder and codes; a twentieth
    assert frame.loc["all", "seconds"] == pytest.approx(plan.wall_s)
    assert plan.where.startswith("this machine")
    assert plan.memory_bytes > 0


def test_a_fit_says_how_long_its_phases_took():
    lens = random_model().add_clvq(1, 2, n_codes=12, top_k=3)
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    history = lens.fit(data, n_tokens=2_000, progress=False)
    phases = {"activations", "start", "encoder", "fit", "validation", "frozen pass"}
    assert set(history.seconds) == phases
    assert all(seconds > 0 for seconds in history.seconds.values())


def test_without_a_size_of_the_data_no_token_is_repeated(folder):
    fit = cl.FitConfig(n_tokens=10**6, held_out_fraction=0.2)
    options = {"source": 0, "target": 1, "gpu": "H100", "fit": fit}
    frame = cl.plan(folder, **options).frame().set_index("phase")
    assert frame.loc["read the model", "tokens"] == 1_250_000  # a fifth of it is held out
    assert frame.loc["fit", "tokens"] == 10**6
    assert cl.plan(folder, **options) == cl.plan(folder, 1_250_000, **options)
    with pytest.raises(errors.ConfigError, match=r"Pass data_tokens, .* fit=FitConfig\(n_tokens="):
        cl.plan(folder, source=0, target=1, gpu="H100")


# ---- what is refused -----------------------------------------------------------------------------


def test_what_cannot_be_planned_is_refused(folder):
    with pytest.raises(errors.ConfigError, match=r"only named .* Pass gpu="):
        cl.plan(folder, 1_000, source=0, target=1)
    with pytest.raises(errors.ConfigError, match=r"No GPU 'H1000' is known. Pass one of: V100"):
        cl.plan(folder, 1_000, source=0, target=1, gpu="H1000")
    with pytest.raises(errors.ConfigError, match=r"7 is no layer .* from 0 to 2"):
        cl.plan(folder, 1_000, source=0, target=7, gpu="H100")
    with pytest.raises(errors.ModelLoadError, match=r"no configuration of '/nowhere'"):
        cl.plan("/nowhere", 1_000, source=0, target=1, gpu="H100")
    for model in (random_model(), folder):
        with pytest.raises(errors.LayerOrderError, match="swap them"):
            cl.plan(model, 1_000, source=2, target=1, gpu="H100")
    for options in ({"n_gpus": 2}, {"dtype": "bfloat16"}):
        with pytest.raises(errors.ConfigError, match=r"measured as they are. Pass gpu= as well"):
            cl.plan(random_model(), 1_000, source=1, target=2, **options)
    assert gpu_named("h100") is GPUS["H100"]
