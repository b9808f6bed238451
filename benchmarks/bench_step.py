"""A training step of codebook and decoder, beside its products at the rate of bare ones."""

from functools import partial
from typing import Any

import torch

from benchmarks.products import BareProduct, flops_of
from benchmarks.random_models import random_model, random_tokens
from benchmarks.timing import Row, interleaved
from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.data.activations import Activations, ActivationSource
from clvq_lens.data.documents import open_documents
from clvq_lens.host.attachment import Attachment
from clvq_lens.quantizer.encoders import PredictiveEncoder
from clvq_lens.training.history import History
from clvq_lens.training.loop import Training
from clvq_lens.training.objective import Objective
from clvq_lens.training.phase_clock import PhaseClock
from clvq_lens.training.validation import HeldOut

_N_TOKENS, _CONTEXT = 2_048, 128
_DEFAULT = CLVQConfig(n_codes=400, decoder="transformer", decoder_layers=2)
_CASES = (
    ("width 768", 768, _DEFAULT),
    ("width 576", 576, _DEFAULT),
    ("width 64", 64, _DEFAULT),
    ("width 768, CLVQConfig.paper()", 768, CLVQConfig.paper()),
)


def run(repetitions: int = 7) -> list[Row]:
    """Steps on sequences, at some widths, and in the shape of the paper."""
    table: list[Row] = []
    for name, width, config in _CASES:
        table += _step(f"{name}, {_N_TOKENS:,} tokens", width, config, repetitions)
    return table


def _step(name: str, width: int, config: CLVQConfig, repetitions: int) -> list[Row]:
    model: Any = random_model(width, n_layers=2, n_context=_CONTEXT)
    lens = model.add_clvq(0, 1, config=config)
    batch = _batch(lens.attachment)
    training = _training(lens.attachment, batch)
    step = partial(training.train_step, batch)
    n_flops = flops_of(step)
    product = BareProduct(_N_TOKENS, width, least_flops=min(n_flops, 2e10))
    medians = interleaved({"product": product, "step": step}, repetitions=repetitions)
    rate = product.flops / medians["product"]
    least_s = n_flops / rate
    said = f"{n_flops / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s"
    share = f"{least_s / medians['step']:.0%} of the rate of products"
    return [
        Row(name, "products of the step", least_s, 1.0, said),
        Row(name, "Training.train_step", medians["step"], medians["step"] / least_s, share),
    ]


def _batch(attachment: Attachment) -> Activations:
    source = ActivationSource(attachment, long_texts="error")
    [batch] = source.batches(open_documents(random_tokens(_N_TOKENS, _CONTEXT)))
    return batch


def _training(attachment: Attachment, batch: Activations) -> Training:
    """A training whose codebook has been started, as after the first phases of a fit."""
    quantizer, config = attachment.quantizer, FitConfig()
    generator = torch.Generator(quantizer.device).manual_seed(0)
    source, target = batch.of_real_tokens("source"), batch.of_real_tokens("target")
    quantizer.requires_grad_(True)
    if isinstance(quantizer.encoder, PredictiveEncoder):  # which is trained before the codes
        quantizer.encoder.start_(source, target)
        quantizer.encoder.requires_grad_(False)
    quantizer.initialize_(source, target, generator=generator)
    objective = Objective(attachment, config)
    seconds: dict[str, float] = {}
    return Training(
        objective,
        config,
        History(),
        HeldOut(objective, []),
        lambda record: None,
        PhaseClock(seconds).phase,
        budget=100 * _N_TOKENS,
        generator=generator,
        learns_codes=True,
    )
