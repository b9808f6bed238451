"""Models in half precision: the quantizer works in float32, the model keeps its dtype and bits."""

from typing import Any

import pytest
import torch

import clvq_lens as cl
from tests.host.contract.checks import commonest
from tests.hosts import KINDS, Kind, words

NAMES = ("hooked-gpt2", "hooked-encoder", "bridge-llama", "bridge-bert")
CODES, RECON = "clvq.1-2.hook_codes", "clvq.1-2.hook_recon"
TOKENS = words(4, 12)


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind.name in NAMES], ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Hosts of every sort: causal and not, with a model class of its own and of Hugging Face."""
    return request.param


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Of the model."""
    return request.param


@pytest.fixture(scope="module")
def lens(kind: Kind, dtype: torch.dtype) -> "cl.Lens":
    """A quantizer fitted for a moment on a model in half precision."""
    lens = kind.model(dtype).add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(words(40, 16, seed=2), n_tokens=1_500, batch_tokens=128, progress=False)
    return lens


def test_the_quantizer_has_no_number_in_half_precision(lens):
    state = lens.quantizer.state_dict()
    kinds = {value.dtype for value in state.values() if value.is_floating_point()}
    assert kinds == {torch.float32}
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
    _, cache = lens.model.run_with_cache(TOKENS)
    for hook in ("encoded", "quantized", "recon", "error"):
        assert cache[f"clvq.1-2.hook_{hook}"].dtype == torch.float32


def test_codes_are_those_of_the_same_activations_in_float32(lens, kind):
    _, cache = lens.model.run_with_cache(TOKENS)
    expected = lens.quantizer.assign(cache[kind.after(1)].float())
    assert torch.equal(cache[CODES], expected)
    assert torch.equal(lens.encode(TOKENS).codes, expected)


def test_edits_have_an_effect_in_the_models_own_dtype(lens, kind, dtype):
    model, (one, other) = lens.model, commonest(lens, TOKENS)
    plain, cache = model.run_with_cache(TOKENS)
    target = kind.after(2)
    with lens.edit(cl.Patch(cache[CODES])):  # each code by itself
        assert torch.equal(model(TOKENS), plain)
    blocks: list[Any] = [lens.edit(cl.Force(one)), lens.edit(cl.Ablate([one, other], "mean"))]
    blocks += [lens.edit(cl.Swap(one, other)), lens.edit(cl.Steer(one, 4.0)), lens.splice()]
    blocks += [lens.project_out(one), lens.project_out(one, place="source")]
    for block in blocks:
        with block:
            logits, changed = model.run_with_cache(TOKENS, names_filter=target)
        assert logits.dtype == plain.dtype
        assert changed[target].dtype == dtype
        assert not torch.equal(logits, plain)
    assert torch.equal(model(TOKENS), plain)


def test_an_edit_adds_the_difference_of_reconstructions_rounded_once(lens, kind, dtype):
    names, (code, _) = [RECON, kind.after(2)], commonest(lens, TOKENS)
    _, before = lens.model.run_with_cache(TOKENS, names_filter=names)
    with lens.edit(cl.Ablate(code)):
        _, after = lens.model.run_with_cache(TOKENS, names_filter=names)
    difference = after[RECON] - before[RECON]
    assert difference.abs().max() > 0
    expected = before[kind.after(2)] + difference.to(dtype)
    assert torch.equal(after[kind.after(2)], expected)


def test_evaluation_and_sweeps_give_numbers_that_make_sense(lens, kind):
    report = lens.evaluate(words(40, 16, seed=11), progress=False)
    assert 0 < float(report.fvu) < min(1, float(report.fvu_random_codes))
    if kind.causal:
        assert float(report.kl) > 0
        assert float(report.ce_clean) != float(report.ce_spliced)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1, 8].float().sum()

    sweep = cl.ablation_sweep(lens, TOKENS, metric, progress=False)
    with torch.no_grad():
        for code, value in zip(sweep.codes[:3], sweep.values, strict=False):
            with lens.edit(cl.Ablate(code)):
                expected = metric(lens.model(TOKENS)).item()
            assert value == pytest.approx(expected, rel=0.05, abs=0.1)
    found = cl.attribution(lens, TOKENS[:1], metric, n_steps=4, n_true=16, progress=False)
    assert found.value == pytest.approx(metric(lens.model(TOKENS[:1])).item(), rel=0.05, abs=0.1)
    assert torch.tensor(found.integrated).isfinite().all()
    # One replacement may move a logit by less than a digit of the model.
    assert torch.tensor(found.pairs["true"]).abs().max() > 0
