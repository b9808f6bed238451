import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from clvq_lens.config import CLVQConfig, FitConfig
from clvq_lens.data.activations import Activations, ActivationSource
from clvq_lens.host.ending import ends_plainly
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.training import objective as objective_module
from clvq_lens.training.objective import Loss, Objective
from tests.conftest import attach, random_model
from tests.hosts import D_MODEL, D_VOCAB, KINDS, Kind, words
from tests.largest_output import LargestOutput

SOURCE, TARGET = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
MODEL = random_model()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _reader(model: HookedTransformer) -> ActivationSource:
    quantizer = CrossLayerQuantizer(CLVQConfig(decoder="table"), 16, 16)
    return ActivationSource(attach(model, quantizer, SOURCE, TARGET), long_texts="error")


def activations(model: HookedTransformer = MODEL) -> Activations:
    """Six sequences of different length; the mask leaves out each first token, as if BOS."""
    rows = [torch.randint(0, 40, (n,), generator=seeded(n)) for n in (3, 5, 8, 8, 11, 12)]
    (batch,) = _reader(model).batches(rows)
    mask = batch.mask.clone()
    mask[:, 0] = False
    return dataclasses.replace(batch, mask=mask)


def objective(
    batch: Activations,
    model: HookedTransformer = MODEL,
    *,
    quantizer: dict | None = None,
    causal: bool = True,
    **options: object,
) -> Objective:
    config = CLVQConfig(**{"n_codes": 8, "top_k": 3, "encoder": "residual", **(quantizer or {})})
    made = CrossLayerQuantizer(config, 16, 16, causal=causal).requires_grad_(True)
    real = batch.mask
    made.initialize_(batch.source[real], batch.target[real], generator=seeded())
    for parameter in made.decoder.parameters():  # at the start the blocks have no say
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=seeded(5)))
    return Objective(attach(model, made, SOURCE, TARGET), FitConfig(**options))


def with_other_padding(batch: Activations) -> Activations:
    """The same real tokens, and something else on padding."""
    padding = ~batch.attended.unsqueeze(-1)
    noise = torch.randn(batch.source.shape, generator=seeded(9))
    return dataclasses.replace(
        batch,
        source=torch.where(padding, 10 * noise, batch.source),
        target=torch.where(padding, 10 - noise, batch.target),
    )


@pytest.mark.parametrize("decoder", ["transformer", "mlp", "table"])
@pytest.mark.parametrize("loss_unit", ["variance", "raw"])
def test_without_kl_the_loss_is_its_formula(decoder: str, loss_unit: str):
    batch = activations()
    made = objective(
        batch,
        quantizer={"decoder": decoder, "commitment_weight": 0.3},
        loss_unit=loss_unit,
        recon_weight=2.0,
    )
    q = made.quantizer
    step = made.training_step(batch, made.clocks(batch, seeded(3)))
    with torch.no_grad():
        z = q.encoder(batch.source)
        codes = q.codebook.sample(z, generator=seeded(3)).codes.view(batch.mask.shape)
        e = q.codebook.vectors[codes]
        recon = q.decoder(e)
        y = batch.target[batch.mask]
        squared_error = (recon[batch.mask] - y).square().sum()
        variance = (y - y.mean(0)).square().sum(1).mean()
        unit = {"variance": variance, "raw": 16}[loss_unit]
        commitment = (z - e)[batch.mask].square().mean()
        total = 2.0 * squared_error / (len(y) * unit) + 0.3 * commitment
    torch.testing.assert_close(step.loss.total.detach(), total)
    torch.testing.assert_close(step.loss.squared_error, squared_error)
    torch.testing.assert_close(step.loss.commitment, commitment)
    assert step.loss.kl is None
    assert torch.equal(step.encoded, z)
    assert torch.equal(step.codes, codes)
    assert torch.equal(step.nearest, q.codebook.nearest(z))


def test_evaluation_takes_the_nearest_codes_and_builds_no_graph():
    batch = activations()
    made = objective(batch)
    loss = made.evaluate(batch)
    nearest = made.quantizer.codebook(made.quantizer.assign(batch.source))
    error = (made.quantizer.decoder(nearest) - batch.target)[batch.mask].square().sum()
    torch.testing.assert_close(loss.squared_error, error.detach())
    assert not loss.total.requires_grad
    assert torch.equal(loss.total, made.evaluate(batch).total)


def assert_equal_losses(one: Loss, other: Loss) -> None:
    torch.testing.assert_close(one.total, other.total)
    torch.testing.assert_close(one.squared_error, other.squared_error)
    torch.testing.assert_close(one.commitment, other.commitment)


@pytest.mark.parametrize("memory", ["codes", "encoder"])
@pytest.mark.parametrize("causal", [True, False])
def test_what_is_on_padding_does_not_matter(causal: bool, memory: str):
    batch = activations()
    made = objective(batch, causal=causal, quantizer={"decoder_memory": memory})
    other = with_other_padding(batch)
    assert_equal_losses(made.evaluate(batch), made.evaluate(other))
    steps = [made.training_step(b, made.clocks(b, seeded(3))) for b in (batch, other)]
    assert_equal_losses(steps[0].loss, steps[1].loss)
    assert torch.equal(steps[0].codes[batch.mask], steps[1].codes[batch.mask])


def test_what_is_on_padding_does_not_matter_to_the_kl():
    batch = activations()
    made = objective(batch, kl_weight=1.0)
    one, other = made.evaluate(batch), made.evaluate(with_other_padding(batch))
    torch.testing.assert_close(one.kl, other.kl)


def test_targets_of_masked_tokens_do_not_matter_to_the_reconstruction():
    batch = activations()
    made = objective(batch)
    target = torch.where(batch.mask.unsqueeze(-1), batch.target, 100.0)
    assert_equal_losses(
        made.evaluate(batch), made.evaluate(dataclasses.replace(batch, target=target))
    )


def kl_oracle(batch: Activations, recon: Tensor) -> Tensor:
    """Runs the model from its tokens, with the target replaced at real tokens by a hook."""
    replace = torch.where(batch.mask.unsqueeze(-1), recon, batch.target)
    with torch.no_grad():
        clean = MODEL(batch.tokens)[batch.mask]
        hooks = [(TARGET, lambda value, hook: replace)]
        spliced = MODEL.run_with_hooks(batch.tokens, fwd_hooks=hooks)[batch.mask]
    distributions = (torch.distributions.Categorical(logits=x) for x in (clean, spliced))
    return torch.distributions.kl_divergence(*distributions).mean()


def test_the_kl_is_that_of_the_model_with_its_target_replaced_at_real_tokens():
    batch = activations()
    made = objective(batch, kl_weight=0.7, recon_weight=0.0, quantizer={"commitment_weight": 0.0})
    loss = made.evaluate(batch)
    recon = made.quantizer(batch.source).detach()
    assert loss.kl > 0.01
    torch.testing.assert_close(loss.kl, kl_oracle(batch, recon), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss.total, 0.7 * loss.kl)


def test_the_kl_is_zero_if_the_reconstruction_is_the_target(monkeypatch):
    batch = activations()
    made = objective(batch, kl_weight=1.0)
    monkeypatch.setattr(made.quantizer, "decode", lambda *_, **__: batch.target)
    loss = made.evaluate(batch)
    assert loss.kl == 0
    assert loss.squared_error == 0


@pytest.mark.parametrize("decoder", ["transformer", "mlp"])
@pytest.mark.parametrize(("recon_weight", "kl_weight"), [(1.0, 0.0), (0.0, 1.0)])
def test_gradients_reach_the_quantizer_and_not_the_model(
    decoder: str, recon_weight: float, kl_weight: float
):
    batch = activations()
    made = objective(
        batch,
        recon_weight=recon_weight,
        kl_weight=kl_weight,
        quantizer={"decoder": decoder, "commitment_weight": 0.0},
    )
    parameters = dict(made.quantizer.named_parameters())
    loss = made.training_step(batch, made.clocks(batch, seeded())).loss
    loss.total.backward(inputs=list(parameters.values()))
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for name in ("encoder.linear.weight", "encoder.mix_logit", "decoder.skip.weight"):
        assert parameters[name].grad.abs().max() > 0, name  # type: ignore[union-attr]
    assert all(parameter.grad is None for parameter in MODEL.parameters())


def test_the_gradient_passes_straight_through_the_codes():
    """dL/dz as if q were z: the codebook itself gets none."""
    batch = activations()
    made = objective(batch, quantizer={"decoder": "mlp", "commitment_weight": 0.0})
    q = made.quantizer
    made.training_step(batch, made.clocks(batch, seeded(3))).loss.total.backward()
    found = q.encoder.linear.bias.grad.clone()  # type: ignore[union-attr]
    q.zero_grad()
    z = q.encoder(batch.source)
    e = q.codebook(q.codebook.sample(z.detach(), generator=seeded(3)).codes.view(batch.mask.shape))
    error = (q.decoder(z + (e - z).detach()) - batch.target)[batch.mask].square().sum()
    (error / (batch.mask.sum() * q.target_variance)).backward()
    torch.testing.assert_close(found, q.encoder.linear.bias.grad)
    assert not q.codebook.vectors.requires_grad


# ---- KL by parts, on every kind of host ----------------------------------------------------------


CAUSAL = [kind for kind in KINDS if kind.causal]
AT_ONCE = 20  # rows of logits; more than the rows of the weights, which are as wide


def on_host(
    kind: Kind, target: int = 2, *, dtype: torch.dtype = torch.float32
) -> tuple[Objective, Activations, Tensor]:
    """An objective with a KL, sequences of different length, and a reconstruction of the target."""
    model = kind.model(dtype)
    quantizer = CrossLayerQuantizer(CLVQConfig(n_codes=8), D_MODEL, D_MODEL)
    attachment = attach(model, quantizer, kind.after(1), kind.after(target))
    rows = [words(n, seed=n) for n in (3, 5, 8, 8, 11, 12)]
    (batch,) = ActivationSource(attachment, long_texts="error").batches(rows)
    noise = torch.randn(batch.target.shape, generator=seeded(4))
    recon = (batch.target + 0.3 * noise).requires_grad_()
    return Objective(attachment, FitConfig(kl_weight=1.0)), batch, recon


def kl_and_gradient(made: Objective, batch: Activations, recon: Tensor) -> tuple[Tensor, Tensor]:
    kl = made._kl(batch, recon)
    return kl.detach(), torch.autograd.grad(kl, recon)[0]


@pytest.mark.parametrize("target", [2, 3])
@pytest.mark.parametrize("kind", CAUSAL, ids=str)
def test_few_logits_at_a_time_give_the_same_kl_and_gradient(kind, target, monkeypatch):
    made, batch, recon = on_host(kind, target)
    monkeypatch.setattr(objective_module, "_LOGITS_ON_CPU", AT_ONCE * D_VOCAB)
    with LargestOutput(D_VOCAB) as largest:
        kl, gradient = kl_and_gradient(made, batch, recon)
    assert largest.n_rows == AT_ONCE
    monkeypatch.setattr(objective_module, "ends_plainly", lambda *_: False)
    with LargestOutput(D_VOCAB) as largest:
        expected, expected_gradient = kl_and_gradient(made, batch, recon)
    assert largest.n_rows > batch.n_tokens  # so it would have been noticed
    assert expected > 1e-4
    torch.testing.assert_close(kl, expected, rtol=1e-4, atol=1e-8)
    scale = expected_gradient.abs().max()
    torch.testing.assert_close(gradient / scale, expected_gradient / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [k for k in CAUSAL if k.name.endswith("gpt2")], ids=str)
@pytest.mark.parametrize("raw", [True, False])
def test_hooks_after_the_last_block_have_their_say_in_the_kl(kind, raw):
    made, batch, recon = on_host(kind)
    model: Any = made.host.model
    plain, _ = kl_and_gradient(made, batch, recon)
    shapes = []

    def double(logits: Tensor) -> Tensor:
        shapes.append(tuple(logits.shape[:2]))
        return 2 * logits

    if raw:
        handle = model.unembed.register_forward_hook(lambda module, args, logits: double(logits))
    else:
        point = model.hook_dict["unembed.hook_out" if kind.is_bridge else "ln_final.hook_scale"]
        point.add_hook(lambda value, hook: double(value))
    sharper, _ = kl_and_gradient(made, batch, recon)
    assert set(shapes) == {tuple(batch.mask.shape)}
    assert abs(sharper - plain) > 0.1 * plain
    handle.remove() if raw else model.reset_hooks()
    assert kl_and_gradient(made, batch, recon)[0] == plain


def test_a_target_after_the_last_block_is_part_of_the_kl():
    """Its KL cannot come from the residual stream, which does not depend on it."""
    made, *_ = on_host(next(kind for kind in CAUSAL if kind.name == "bridge-gpt2"))
    assert ends_plainly(made.host, made.target)
    assert not ends_plainly(made.host, "ln_final.hook_normalized")


def test_a_model_in_half_precision_has_a_kl_in_float32():
    kind = next(kind for kind in CAUSAL if kind.name == "bridge-llama")
    expected, _ = kl_and_gradient(*on_host(kind))
    made, batch, recon = on_host(kind, dtype=torch.bfloat16)
    assert made.host.dtype == torch.bfloat16
    kl, gradient = kl_and_gradient(made, batch, recon)
    assert kl.dtype == gradient.dtype == torch.float32
    assert float(kl) == pytest.approx(float(expected), rel=0.2)
    assert kl != kl.bfloat16()  # more than the three digits of the model
