"""What a fit says about its memory before it starts, beside what it really takes."""

from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.errors import ConfigError
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training import memory as memory_module
from clvq_lens.training.fit import Fit
from clvq_lens.training.loop import Training
from clvq_lens.training.memory import (
    FitMemory,
    fit_memory,
    free_memory_bytes,
    initial_tokens,
)
from clvq_lens.training.prediction import EncoderTraining
from clvq_lens.training.training_data import TrainingData
from tests.conftest import random_model

GIB = 2**30
PER_PASS = 64  # positions
SCALARS = 100  # bytes that single numbers take, which nobody plans for
DATA = torch.randint(0, 40, (300, 16), generator=torch.Generator().manual_seed(2))
CONFIGS = [
    CLVQConfig(n_codes=12),
    CLVQConfig(n_codes=30, decoder="table"),
    CLVQConfig(n_codes=12, decoder="mlp", encoder="residual", decoder_layers=3),
    CLVQConfig.paper().replace(n_codes=12, d_decoder_mlp=20),
    CLVQConfig(n_codes=12, encoder_layers=0, d_decoder_mlp=8),
]


def memory_of(config: CLVQConfig, d: int = 16, **options: Any) -> FitMemory:
    fit_config = FitConfig(**options)
    return fit_memory(config, d, d, fit_config, dtype=torch.float32, device_bytes=GIB)


def n_bytes(value: Any) -> int:
    """Of all tensors in nested mappings and lists."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(n_bytes, value)) if isinstance(value, list | tuple) else 0


# ---- beside the truth ----------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("d_source", "d_target"), [(16, 16), (16, 24)])
def test_the_bytes_of_a_quantizer_are_those_of_its_tensors(config, d_source, d_target):
    if config.encoder == "residual" and config.decoder_memory == "codes":
        d_target = d_source
    quantizer = CrossLayerQuantizer(config, d_source, d_target)
    planned = fit_memory(
        config, d_source, d_target, FitConfig(), dtype=torch.float32, device_bytes=GIB
    )
    real = n_bytes(quantizer.state_dict())
    assert real - SCALARS <= planned.weights_bytes + planned.codebook_bytes <= real
    for part, n_planned in (
        (quantizer.encoder, planned.n_encoder_parameters),
        (quantizer.decoder, planned.n_decoder_parameters),
    ):
        assert n_planned == sum(parameter.numel() for parameter in part.parameters())


def measured(
    monkeypatch: pytest.MonkeyPatch, config: CLVQConfig, d: int, **options: Any
) -> dict[str, int]:
    """The bytes of what a fit holds, by the names of `FitMemory`."""
    found: dict[str, int] = {}

    def after(place: Any, name: str, look: Any) -> None:
        original = getattr(place, name)

        def wrapped(self: Any, *arguments: Any, **keywords: Any) -> Any:
            result = original(self, *arguments, **keywords)
            look(self, result)
            return result

        monkeypatch.setattr(place, name, wrapped)

    def in_training(training: Training, _: Any) -> None:
        parameters = list(training.quantizer.parameters())
        found["gradients"] = sum(p.grad.nbytes for p in parameters if p.grad is not None)
        found["moments"] = n_bytes(training._optimizer.state_dict()["state"])
        found["copies"] = n_bytes(training.best._state)
        found["held_out"] = sum(
            n_bytes([batch.source, batch.target]) for batch in training._held_out._batches
        )

    def in_prediction(prediction: EncoderTraining, _: Any) -> None:
        parameters = list(prediction._encoder.parameters())
        gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
        moments = n_bytes(prediction._optimizer.state_dict()["state"])
        found["encoder_training"] = gradients + moments + n_bytes(prediction._best._weights)

    def sample(_: Any, source_and_target: Any) -> None:
        found["sample"] = n_bytes(source_and_target)

    def buffer(fit: Fit, stream: Any) -> None:
        found["buffer"] = stream._buffer.n_positions * stream._buffer.row_bytes

    after(Training, "_validate", in_training)
    after(EncoderTraining, "_learn_from", in_prediction)
    after(Fit, "_sample", sample)
    after(TrainingData, "open", buffer)
    lens = random_model(d_model=d).add_clvq(1, 2, config=config)
    lens.host.positions_per_pass = PER_PASS
    lens.fit(DATA, n_tokens=4_000, batch_tokens=256, progress=False, **options)
    return found


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[2]])
@pytest.mark.parametrize("d", [16, 48])
def test_what_a_fit_holds_is_what_was_planned(monkeypatch, config, d):
    options = {"buffer_tokens": 1_000, "held_out_fraction": 0.2, "keep_outliers": True}
    planned = memory_of(config, d, **options)
    found = measured(monkeypatch, config, d, **options)
    few = 40 * 24  # bytes: Adam counts the steps of each parameter
    assert found["gradients"] == planned.gradients_bytes
    assert planned.moments_bytes <= found["moments"] <= planned.moments_bytes + few
    one_copy = planned.weights_bytes + planned.codebook_bytes
    assert one_copy <= found["copies"] <= one_copy + SCALARS
    assert planned.copies_bytes == 3 * one_copy
    if config.encoder == "predictive":
        held = found["encoder_training"]
        assert planned.encoder_training_bytes <= held
        assert held <= planned.encoder_training_bytes + few + 8 * d  # and units
    else:
        assert planned.encoder_training_bytes == 0
    # A third of them: two copies are made of it while the codebook is started.
    assert found["sample"] == planned.sample_bytes / 3
    # Half of them: it is copied once while it is filled. Its last pass may go beyond; tokens on
    # disk are a little smaller.
    most = planned.buffer_bytes / 2 + PER_PASS * (2 * 4 * d + 9)
    assert 0.95 * planned.buffer_bytes / 2 <= found["buffer"] <= most
    assert found["held_out"] <= planned.held_out_bytes


def test_the_buffer_is_in_the_dtype_of_the_model_and_takes_a_sixteenth_of_the_memory_at_most():
    def buffer(dtype: torch.dtype, device_bytes: int) -> int:
        options = {"dtype": dtype, "device_bytes": device_bytes}
        return fit_memory(CONFIGS[0], 16, 16, FitConfig(), **options).buffer_bytes

    assert buffer(torch.float32, 16 * GIB) == 2 * 2**19 * (2 * 16 * 4 + 9)
    assert buffer(torch.bfloat16, 16 * GIB) == 2 * 2**19 * (2 * 16 * 2 + 9)
    assert buffer(torch.float32, 2**24) == 2 * 2**20


def test_a_small_corpus_takes_no_more_than_its_tokens():
    def memory(n_tokens: int | None) -> FitMemory:
        options = {"device_bytes": 16 * GIB, "n_tokens": n_tokens}
        fit_config = FitConfig(held_out_fraction=0.05)
        return fit_memory(CONFIGS[0], 16, 16, fit_config, dtype=torch.float32, **options)

    small = memory(1_000)
    assert small.held_out_bytes == 2 * 50 * 128
    assert small.sample_bytes == 3 * 1_000 * 128
    assert small.buffer_bytes == 2 * 1_000 * (128 + 9)
    assert memory(10**9) == memory(None)


def test_nothing_is_allocated_or_drawn_to_count_parameters():
    before = torch.random.get_rng_state()
    wide = CLVQConfig.paper().replace(decoder_layers=100)
    memory = fit_memory(
        wide, 2**14, 2**14, FitConfig(), dtype=torch.bfloat16, device_bytes=GIB
    )  # a hundred billion parameters
    assert memory.n_decoder_parameters > 10**11
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_published_decoder_at_width_4096_has_nearly_a_billion_parameters():
    memory = fit_memory(
        *(CLVQConfig.paper(), 4096, 4096, FitConfig.paper()),
        dtype=torch.bfloat16,
        device_bytes=80 * GIB,
    )
    assert 0.9e9 < memory.n_decoder_parameters < 1e9
    n_trained = memory.n_decoder_parameters + memory.n_encoder_parameters
    assert memory.moments_bytes == 8 * n_trained
    assert "990,273,537 parameters" in repr(memory)


def test_the_table_has_every_part_and_the_two_sums():
    memory = memory_of(CONFIGS[0])
    table = memory.frame().set_index("part")["bytes"]
    parts = ["weights", "codebook", "copies", "gradients", "moments", "held_out", "buffer"]
    assert table["training"] == table[parts].sum() == memory.training_bytes
    start = ["weights", "codebook", "encoder_training", "held_out", "buffer", "sample"]
    assert table["start"] == table[start].sum() + table["weights"] + table["codebook"]
    assert memory.peak_bytes == max(table["training"], table["start"])
    assert memory.preview().equals(memory.frame())


# ---- the sample that starts a codebook -----------------------------------------------------------


@pytest.mark.parametrize(
    ("device_bytes", "n_per_code"),
    # A row of 16 + 16 numbers takes 128 bytes, and 12 codes have 1,536 rows of them.
    [(GIB, 128), (16 * 1_536 * 128, 128), (16 * 768 * 128, 64), (16 * 128, 8)],
)
def test_the_sample_takes_a_sixteenth_of_the_memory_but_eight_tokens_a_code(
    monkeypatch, device_bytes, n_per_code
):
    monkeypatch.setattr(memory_module, "memory_bytes", lambda device: device_bytes)
    lens = random_model().add_clvq(1, 2, n_codes=12)
    assert initial_tokens(lens.quantizer) == 2 * n_per_code * 12
    planned = fit_memory(
        *(lens.quantizer.config, 16, 16, FitConfig()),
        dtype=torch.float32,
        device_bytes=device_bytes,
    )
    assert planned.sample_bytes == 3 * n_per_code * 12 * 128
    samples: list[int] = []
    original = CrossLayerQuantizer.initialize_

    def initialize_(self: Any, source: Any, *arguments: Any, **options: Any) -> None:
        samples.append(len(source))
        original(self, source, *arguments, **options)

    monkeypatch.setattr(CrossLayerQuantizer, "initialize_", initialize_)
    lens.fit(DATA, n_tokens=2_000, batch_tokens=256, keep_outliers=True, progress=False)
    assert samples == [n_per_code * 12]


# ---- what a device has left ----------------------------------------------------------------------


def fit_with(
    monkeypatch: pytest.MonkeyPatch, free_bytes: float, config: CLVQConfig, **options: Any
) -> cl.Lens:
    monkeypatch.setattr(memory_module, "free_memory_bytes", lambda device: int(free_bytes))
    lens = random_model().add_clvq(1, 2, config=config)
    lens.fit(DATA, n_tokens=500, batch_tokens=256, progress=False, **options)
    return lens


def test_a_fit_says_how_much_memory_it_needs(monkeypatch, caplog):
    caplog.set_level("INFO", "clvq_lens")
    fit_with(monkeypatch, 3 * GIB, CONFIGS[0])
    (line,) = [message for message in caplog.messages if "parameters" in message]
    memory = memory_of(CONFIGS[0])
    n_parameters = memory.n_encoder_parameters + memory.n_decoder_parameters
    assert f"A quantizer of {n_parameters:,} parameters needs up to" in line
    assert "on cpu" in line
    assert line.endswith("3 GB are free.")


def test_a_fit_is_refused_only_if_it_needs_a_tenth_more_than_is_free(monkeypatch):
    least = memory_of(CONFIGS[0]).least_bytes
    fit_with(monkeypatch, least / 1.09, CONFIGS[0])
    with pytest.raises(ConfigError, match=r"needs at least .* more on cpu, which has"):
        fit_with(monkeypatch, least / 1.11, CONFIGS[0])


def test_what_a_fit_needs_at_least_does_not_depend_on_the_data():
    one = memory_of(CONFIGS[0], buffer_tokens=10, held_out_fraction=0.0)
    other = memory_of(CONFIGS[0], buffer_tokens=10**7)
    assert one.least_bytes == other.least_bytes < one.peak_bytes < other.peak_bytes


DEEP = CLVQConfig(n_codes=12, decoder_layers=6)


@pytest.mark.parametrize(
    ("config", "options", "smaller", "remedy"),
    [
        (DEEP, {}, {"decoder_layers": 4}, r"Attach one with decoder_layers=4, which fits\."),
        (
            DEEP,
            {},
            {"decoder": "mlp", "decoder_layers": 1},
            r"with decoder='mlp', decoder_layers=1, which fits\.",
        ),
        (DEEP, {}, {"decoder": "table"}, r"Attach one with decoder='table', which fits\."),
        (DEEP, {"kl_weight": 1.0}, {"decoder": "table"}, r"fewer codes or a smaller encoder"),
        (
            CONFIGS[1].replace(n_codes=3_000),
            {},
            {"n_codes": 2},
            r"fewer codes or a smaller encoder \(d_encoder_mlp=",
        ),
        (
            CONFIGS[3],
            {},
            {"decoder": "table", "decoder_memory": "codes"},
            r"Attach one with decoder='table', which fits\.",
        ),
    ],
)
def test_the_remedy_is_the_largest_decoder_that_fits(monkeypatch, config, options, smaller, remedy):
    free_bytes = memory_of(config.replace(**smaller)).least_bytes
    with pytest.raises(ConfigError, match=remedy):
        fit_with(monkeypatch, free_bytes, config, **options)
    if "which fits" in remedy:
        fit_with(monkeypatch, free_bytes, config.replace(**smaller), **options)


MEMINFO = """MemTotal:       16000000 kB
MemFree:          500000 kB
MemAvailable:    9000000 kB
SwapFree:        1000000 kB
"""


def test_memory_that_holds_files_counts_as_free_and_so_does_swap(monkeypatch, tmp_path):
    path = tmp_path / "meminfo"
    monkeypatch.setattr(memory_module, "_MEMINFO", path)
    cpu = torch.device("cpu")
    assert free_memory_bytes(cpu) == memory_module.memory_bytes(cpu)  # the system does not tell
    path.write_text(MEMINFO)
    assert free_memory_bytes(cpu) == 10_000_000 * 1024
    path.write_text("\n".join(MEMINFO.splitlines()[:2]))  # a very old system
    assert free_memory_bytes(cpu) == 16_000_000 * 1024


def test_on_a_gpu_what_torch_keeps_for_itself_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5_000, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 900)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert free_memory_bytes(torch.device("cuda", 0)) == 5_700
