"""`evaluate(metrics=...)`: what nobody asks for is not computed, and is said to be missing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import ConfigError
from tests.conftest import random_model
from tests.evaluation.test_evaluate import DATA, evaluate, fitted_lens

ALWAYS = {"fvu", "fvu_median", "fvu_unquantized", "perplexity", "n_dead_codes", "n_outliers"}
CE = {"ce_clean", "ce_spliced", "ce_mean_ablated", "ce_zero_ablated", "ce_loss_recovered"}
CE |= {"ce_loss_recovered_zero", "ce_loss_recovered_unquantized"}
OF_METRIC = {
    "fvu": set(),
    "controls": {"fvu_random_codes", "fvu_shuffled_memory"},
    "ce": CE,
    "kl": {"kl", "kl_mean_ablated", "kl_unquantized"},
}


@pytest.fixture(scope="module")
def lens() -> cl.Lens:
    return fitted_lens(decoder_memory="encoder", encoder="predictive")


@pytest.mark.parametrize("metrics", [("fvu",), ("controls",), ("ce",), ("kl",), ("kl", "ce")])
def test_only_what_is_asked_for_is_there_and_it_is_the_same(lens, metrics):
    chosen, everything = (evaluate(lens, **o).frame() for o in ({"metrics": metrics}, {}))
    wanted = ALWAYS.union(*(OF_METRIC[metric] for metric in metrics))
    assert set(chosen["metric"]) == wanted
    of_all = everything[everything["metric"].isin(wanted)]
    assert chosen["value"].tolist() == pytest.approx(of_all["value"].tolist(), rel=1e-6)


def test_an_evaluation_says_what_nobody_asked_for(lens):
    assert evaluate(lens).left_out is None
    report = evaluate(lens, metrics=["fvu"])
    assert report.left_out == "Not asked for: controls, ce, kl."
    assert report.headline().endswith("Not asked for: controls, ce, kl.")
    encoder = fitted_lens(random_model(attention_dir="bidirectional"))
    assert evaluate(encoder, metrics=["fvu"]).left_out == "Not asked for: controls, ce, kl."
    assert "encoder predicts no next token" in evaluate(encoder, metrics=["kl"]).left_out


def counted(lens: cl.Lens, add: Callable[[Any], Any]) -> list[int]:
    calls: list[int] = []
    add(lens)(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("metric", ["fvu", "controls"])
def test_nothing_above_the_target_is_computed_for_the_fvu(metric: str):
    lens = fitted_lens()
    above = counted(lens, lambda lens: lens.model.blocks[3].register_forward_hook)
    after = counted(lens, lambda lens: lens.model.unembed.register_forward_hook)
    evaluate(lens, metrics=[metric])
    assert above == after == []
    evaluate(lens, metrics=["kl"])
    assert above != []


def test_each_metric_runs_the_model_as_often_as_it_needs():
    lens = fitted_lens()
    passes = counted(lens, lambda lens: lens.model.blocks[3].attn.register_forward_hook)
    evaluate(lens, metrics=["ce"])  # clean, spliced, unquantized, mean- and zero-ablated
    assert len(passes) == 5
    evaluate(lens, metrics=["kl"])  # the zero ablation has no KL
    assert len(passes) == 5 + 4


def test_codes_are_drawn_only_for_controls():
    lens = fitted_lens()
    decoded = counted(lens, lambda lens: lens.quantizer.decoder.register_forward_hook)
    evaluate(lens, metrics=["fvu"])
    assert len(decoded) == 1
    evaluate(lens, metrics=["controls"])
    assert len(decoded) == 1 + 2


@pytest.mark.usefixtures("as_for_a_user")
@pytest.mark.parametrize("metrics", ["ce", [], 3])
def test_metrics_that_are_no_list_of_names_are_refused(lens, metrics):
    expected = r"Pass a list of some of 'fvu', 'controls', 'ce', 'kl'\."
    with pytest.raises(ConfigError, match=expected):
        evaluate(lens, metrics=metrics)


@pytest.mark.usefixtures("as_for_a_user")
def test_an_unknown_metric_is_refused_before_the_model_runs():
    lens = fitted_lens()
    lens.model.blocks[0].register_forward_pre_hook(lambda *_: pytest.fail("the model runs"))
    with pytest.raises(ConfigError, match=r"metrics is 'fvus'\. Closest: 'fvu'\. Pass one of"):
        evaluate(lens, metrics=["ce", "fvus"])


def test_progress_counts_tokens_and_knows_how_many_are_left(lens, capsys):
    for data in (DATA, list(DATA)):
        evaluate(lens, data, metrics=["fvu"], progress=True)
        assert "280/280" in capsys.readouterr().err
    evaluate(lens, iter(list(DATA)), metrics=["fvu"], progress=True)
    shown = capsys.readouterr().err
    assert "280tok" in shown
    assert "280/280" not in shown


def test_special_tokens_are_not_counted_as_progress(stories_model, stories, capsys):
    lens = stories_model.add_clvq(1, 2, n_codes=4, top_k=2, decoder="mlp")
    try:
        lens.fit([s[:60] for s in stories[:20]], n_tokens=500, batch_tokens=200, progress=False)
        texts = [story[:60] for story in stories[:5]]
        n_tokens = evaluate(lens, texts, metrics=["fvu"], progress=True).n_tokens
        assert f"{n_tokens}/{n_tokens}" in capsys.readouterr().err
    finally:
        lens.remove()


def test_torch_draws_the_same_codes_whatever_else_is_computed(lens):
    alone = evaluate(lens, metrics=["controls"]).fvu_random_codes
    assert torch.tensor(alone) == evaluate(lens).fvu_random_codes
