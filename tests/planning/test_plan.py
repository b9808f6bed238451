"""A plan counts what a fit will do, and says how it knows how long that takes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

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
    assert shape.dtype == torch.bfloat16
    assert shape_of(folder, dtype="float32").size_bytes == 2 * shape.size_bytes


def test_a_loaded_model_says_the_same_of_itself():
    model = random_model()
    shape = shape_of(model)
    assert shape.n_layers == model.cfg.n_layers
    assert shape.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert 0 < shape.n_block_parameters < shape.n_parameters


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
    # Source and target in bfloat16, a token of 4 bytes and whether it is real.
    assert one.disk_bytes == 10**8 * (2 * 32 * 2 + 5)


def test_more_gpus_read_in_less_time(folder):
    plans = [cl.plan(folder, 10**12, source=0, target=1, gpu="T4", n_gpus=n) for n in (1, 4)]
    one, four = (plan.phases[0].wall_s for plan in plans)
    assert four <= one
    assert plans[0].where == "1 x T4"


def test_a_model_that_does_not_fit_says_so(folder):
    plan = cl.plan(folder, 10**6, source=0, target=1, gpu="T4", n_codes=4_000_000)
    assert not plan.fits
    assert "more than one GPU has: spread the model with device_map" in plan.headline()
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
    with pytest.raises(errors.LayerOrderError):
        cl.plan(random_model(), 1_000, source=2, target=1, gpu="H100")
    assert gpu_named("h100") is GPUS["H100"]
