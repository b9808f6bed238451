"""Models whose outputs are no tokens, as classifiers and toy models of algorithms have them."""

import math

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import DataError, MetricError
from tests.conftest import random_model

TOKENS = torch.randint(0, 40, (4, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["causal", "bidirectional"])
def lens(request):
    """A lens on a model that reads 40 tokens and says one of two things at each."""
    model = random_model(d_vocab_out=2, attention_dir=request.param)
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    data = torch.randint(0, 40, (60, 16), generator=torch.Generator().manual_seed(2))
    lens.fit(data, n_tokens=3_000, batch_tokens=256, progress=False)
    return lens


def test_evaluation_leaves_out_cross_entropy_and_says_so(lens):
    report = lens.evaluate(TOKENS, progress=False)
    assert report.ce_clean is report.ce_spliced is report.ce_loss_recovered is None
    assert "2 outputs for 40 tokens" in (report.left_out or "")
    assert "cross-entropy is left out" in repr(report)
    assert report.fvu > 0


def test_the_kl_is_that_of_the_outputs_at_all_real_tokens(lens):
    with torch.no_grad():
        clean = lens.model(TOKENS).log_softmax(-1)
        with lens.splice():
            spliced = lens.model(TOKENS).log_softmax(-1)
    expected = (clean.exp() * (clean - spliced)).sum(-1).mean()
    report = lens.evaluate(TOKENS, progress=False)
    assert report.kl == pytest.approx(expected.item(), abs=1e-5)


def test_the_loss_of_next_tokens_is_refused(lens):
    for verb in (cl.ablation_sweep, cl.attribution):
        with pytest.raises(MetricError, match="which this model does not predict"):
            verb(lens, TOKENS, cl.loss(), progress=False)


def test_other_metrics_name_outputs_by_number(lens):
    sweep = cl.ablation_sweep(lens, TOKENS, cl.logit_diff(0, 1), progress=False)
    assert sweep.unedited == pytest.approx(
        (lens.model(TOKENS)[:, -1, 0] - lens.model(TOKENS)[:, -1, 1]).mean().item(), abs=1e-5
    )
    assert cl.attribution(lens, TOKENS, cl.kl(), n_steps=2, n_true=2, progress=False).value == 0
    for metric in (cl.probability(39), cl.logit_diff(0, 2), cl.probability(-1)):
        with pytest.raises(DataError, match=r"^There is no logit of .* from 0 to 1\."):
            cl.ablation_sweep(lens, TOKENS, metric, progress=False)


def test_what_a_code_promotes_is_called_an_output(lens):
    table = lens.concepts(TOKENS, n_examples=2, progress=False)
    used = max(table, key=lambda concept: concept.usage)
    assert {said.token for said in used.at_target.promoted} == {"output 0", "output 1"}


def test_the_page_is_written(lens, tmp_path):
    path = lens.report(TOKENS, tmp_path / "page.html", n_examples=2, progress=False)
    assert "<!doctype html>" in path.read_text()[:20]


def test_answers_beyond_the_outputs_are_refused():
    model = random_model(d_vocab_out=2)
    with pytest.raises(DataError, match="There is no logit of 30"):
        cl.salience(model, TOKENS, 1, cl.answers([0, 30]), n_steps=2, progress=False)
    scores = cl.salience(model, TOKENS, 1, cl.answers([0, 1]), n_steps=2, progress=False).scores
    assert not math.isnan(scores.sum())
