"""Tokens with massive activations are left out of fitting and statistics, counted and reported."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import clvq_lens as cl
from clvq_lens.config import CLVQConfig
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from tests.conftest import random_model

MASSIVE = 7  # a token whose activation is fifty times as long as that of others


def rows(n: int, seed: int) -> Tensor:
    """One token in a hundred is massive; the first rows have none."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(8, 40, (n, 16), generator=generator)
    tokens[10:][torch.rand(n - 10, 16, generator=generator) < 0.011] = MASSIVE
    return tokens


DATA, OTHER = rows(90, 2), rows(60, 3)
N_MASSIVE = int((DATA == MASSIVE).sum())
OPTIONS: dict[str, Any] = {"n_tokens": 3_000, "batch_tokens": 256, "held_out_fraction": 0.0}


def massive_model() -> Any:
    model = random_model()
    with torch.no_grad():
        model.W_E[MASSIVE] *= 1_000
    return model


def fitted(decoder: str = "mlp", **options: Any) -> tuple[cl.Lens, cl.History]:
    lens = massive_model().add_clvq(1, 2, n_codes=12, top_k=3, decoder=decoder)
    history = lens.fit(DATA, progress=False, **{**OPTIONS, **options})
    return lens, history


@pytest.fixture(scope="module")
def lens() -> cl.Lens:
    return fitted()[0]


def norms(lens: cl.Lens, tokens: Tensor, point: str) -> Tensor:
    return lens.model.run_with_cache(tokens)[1][point].norm(dim=-1)


def test_the_limit_is_ten_times_the_median_of_the_sample_that_starts_the_codebook(lens: cl.Lens):
    quantizer = lens.quantizer
    for limit, point in (
        (quantizer.max_source_norm, lens.source),
        (quantizer.max_target_norm, lens.target),
    ):
        assert float(limit) == pytest.approx(10 * float(norms(lens, DATA, point).median()))
        assert norms(lens, DATA[DATA == MASSIVE][None, :40], point).min() > limit


@pytest.mark.parametrize("decoder", ["transformer", "mlp", "table"])
def test_outliers_are_left_out_of_the_frozen_pass_and_counted(decoder: str):
    lens, history = fitted(decoder)
    assert N_MASSIVE > 5
    assert history.n_outliers == N_MASSIVE
    assert int(lens.quantizer.usage.sum()) == DATA.numel() - N_MASSIVE
    source = lens.model.run_with_cache(DATA)[1][lens.source][DATA != MASSIVE]
    torch.testing.assert_close(lens.quantizer.source_mean, source.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decoder", ["transformer", "mlp"])
def test_the_training_fvu_no_longer_jumps(decoder: str):
    options = {"n_evaluations": 10, "patience": 100}
    without, kept = (fitted(decoder, keep_outliers=k, **options) for k in (False, True))
    calm, wild = (history.frame()["fvu"].to_numpy() for _, history in (without, kept))
    assert calm.max() < 1.2
    assert np.log(wild).std() > 3 * np.log(calm).std()


def test_held_out_tokens_without_outliers_choose_the_weights():
    lens, history = fitted(held_out_fraction=0.3)
    best = history.frame()["held_out_fvu"].min()
    assert best < 1
    assert lens.quantizer.fitted


def test_outliers_are_told_of(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="clvq_lens"):
        fitted()
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{N_MASSIVE} of {DATA.numel()} training tokens are left out")
    assert re.search(r"longer than [\d.]+ at the source, or [\d.]+ at the target\)", message)
    assert "keep_outliers=True" in message


def test_keeping_them_is_an_option(caplog: pytest.LogCaptureFixture):
    lens, history = fitted(keep_outliers=True)
    assert history.n_outliers == 0
    assert int(lens.quantizer.usage.sum()) == DATA.numel()
    assert lens.quantizer.max_source_norm == lens.quantizer.max_target_norm == torch.inf
    report = lens.evaluate(OTHER, progress=False)
    assert (report.n_outliers, report.n_tokens) == (0, OTHER.numel())
    assert not [record for record in caplog.records if "left out" in record.getMessage()]


def test_a_model_without_massive_activations_has_no_outliers(fitted: cl.Lens):
    assert fitted.quantizer.max_source_norm < torch.inf
    assert fitted.evaluate(OTHER, progress=False).n_outliers == 0


def test_a_report_leaves_them_out_and_shows_them(lens: cl.Lens):
    report = lens.evaluate(OTHER, progress=False)
    assert report.n_outliers == int((OTHER == MASSIVE).sum()) > 3
    assert report.n_tokens == OTHER.numel() - report.n_outliers
    _, cache = lens.model.run_with_cache(OTHER)
    real = OTHER != MASSIVE
    y, recon = cache[lens.target], lens.quantizer(cache[lens.source]).detach()
    error = (y - recon)[real].square().sum(-1)
    variance = (y[real] - y[real].mean(0)).square().sum(-1).mean()
    assert report.fvu == pytest.approx(float(error.mean() / variance), rel=1e-3)
    assert report.fvu_median == pytest.approx(float(error.median() / variance), rel=0.01)
    assert "outliers left out" in repr(report)
    assert report.norms is not None
    frame = report.norms.frame()
    target = frame[frame["point"] == "target"]
    assert target["n_tokens"].sum() == OTHER.numel()
    assert target[target["low"] > target["limit"]]["n_tokens"].sum() == report.n_outliers
    assert len(report.norms.plot().data) == 2


def test_codes_of_outliers_do_not_count(lens: cl.Lens):
    encoding = lens.encode(OTHER)
    assert torch.equal(encoding.mask, OTHER != MASSIVE)
    assert encoding.real.all()
    assert len(encoding.frame()) == int(encoding.mask.sum())
    labels = [[str(token) for token in row] for row in OTHER.tolist()]  # one for each, outliers too
    table = lens.concepts(OTHER, token_labels=labels, progress=False)
    assert table.n_tokens == int(encoding.mask.sum())
    used = encoding.codes[encoding.mask].bincount(minlength=12)
    assert [concept.usage for concept in table] == used.tolist()
    tokens = {
        token for concept in table for token in (label.text for label in concept.token_labels)
    }
    assert str(MASSIVE) not in tokens
    recovery = lens.evaluate(OTHER, token_labels=labels, progress=False).recovery
    rows = {row.method: row for row in recovery.rows if row.tokens == "all"}
    assert rows["token identity"].purity == 1  # labels and tokens are still side by side
    assert rows["codes"].n_tokens == table.n_tokens


def test_outliers_do_not_flow(lens: cl.Lens):
    labels = [[str(token) for token in row] for row in OTHER.tolist()]
    flow = cl.concept_flow(lens.model, OTHER, token_labels=labels, progress=False)
    encoding = lens.encode(OTHER)
    assert flow.n_tokens == int(encoding.mask.sum())
    assert flow.stages[0].name == "token"
    assert MASSIVE not in flow.stages[0].nodes
    assert 8 in flow.stages[0].nodes
    assert flow.agreement() is not None


def test_experiments_on_codes_leave_outliers_out(lens: cl.Lens):
    text = OTHER[(OTHER == MASSIVE).any(1)][:1]
    ordinary = (text != MASSIVE)[0]
    codes = lens.encode(text).codes[0]
    sweep = cl.ablation_sweep(lens, text, cl.kl(), progress=False)
    assert sum(sweep.n_tokens) == int(ordinary.sum())
    by_position = cl.ablation_sweep(lens, text, cl.kl(), by_position=True, progress=False)
    assert by_position.positions is not None
    assert set(by_position.positions) == set(ordinary.nonzero().flatten().tolist())
    found = cl.attribution(lens, text, cl.kl(), n_steps=2, n_true=40, progress=False)
    assert set(found.pairs["position"]) <= set(ordinary.nonzero().flatten().tolist())
    assert np.isnan(found.effects[0, ~ordinary.numpy()]).all()
    corrupted = text.clone()
    first, second, third = ordinary.nonzero().flatten()[:3].tolist()
    corrupted[0, first], corrupted[0, second], corrupted[0, third] = 8, 9, MASSIVE
    patching = cl.concept_patching(lens, text, corrupted, cl.kl(), progress=False)
    outlier = int((~ordinary).nonzero()[0])
    assert codes[outlier] >= 0
    assert patching.n_changed[outlier] == patching.n_changed[third] == 0
    assert patching.clean_codes[0][outlier] == patching.corrupted_codes[0][outlier] == -1


@pytest.mark.parametrize("kind", ["k-means", "token identity", "transcoder", "single-layer VQ-VAE"])
def test_baselines_leave_out_what_the_lens_leaves_out(lens: cl.Lens, kind: Any):
    baseline = lens.baseline(kind, DATA, progress=False)
    baseline.remove()
    assert baseline.quantizer.max_target_norm == lens.quantizer.max_target_norm
    assert int(baseline.quantizer.usage.sum()) == int(lens.quantizer.usage.sum())


def test_limits_are_saved_and_fitting_again_forgets_them(lens: cl.Lens, tmp_path: Path):
    again = cl.load(lens.save(tmp_path / "lens"))
    assert again.max_source_norm == lens.quantizer.max_source_norm
    assert again.max_target_norm == lens.quantizer.max_target_norm
    other = random_model().add_clvq(quantizer=again, check_weights=False)
    other.fit(DATA, keep_outliers=True, progress=False, **OPTIONS)
    assert other.quantizer.max_source_norm == torch.inf


def test_outliers_at_either_end_are_outliers():
    quantizer = CrossLayerQuantizer(CLVQConfig(n_codes=2, top_k=1), 3, 2)
    short, long = torch.ones(5, 3), torch.ones(5, 2)
    assert not quantizer.outliers(1e30 * short, 1e30 * long).any()  # before a fit
    quantizer.measure_norms_(short, long)
    source, target = short.clone(), long.clone()
    source[1] *= 11
    target[3] *= 11
    assert quantizer.outliers(source).tolist() == [False, True, False, False, False]
    assert quantizer.outliers(source, target).tolist() == [False, True, False, True, False]
    assert not quantizer.outliers(9 * short, 9 * long).any()


def test_where_most_activations_are_zero_nothing_is_an_outlier():
    quantizer = CrossLayerQuantizer(CLVQConfig(n_codes=2, top_k=1), 3, 3)
    values = torch.zeros(5, 3)
    values[0] = 1
    quantizer.measure_norms_(values, values)
    assert not quantizer.outliers(values, values).any()
