"""Experiments that would change nothing, and texts that leave nothing to measure, say so."""

import numpy as np
import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import ConfigError, EmptyCorpusError, NothingChangesError

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def lens(toy):
    """A lens with few codes, so that words share them."""
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    lens.fit(texts[:60], n_tokens=4_000, progress=False)
    second = model.add_clvq(2, 3, n_codes=16)
    second.fit(texts[:60], n_tokens=2_000, progress=False)
    yield lens
    lens.remove()
    second.remove()


def difference(logits):
    return logits[:, -1, 30].mean()


def test_patching_texts_that_share_their_codes_is_refused(lens, toy):
    clean, corrupted = (lens.model.to_tokens(text)[:, :16] for text in toy.texts[:2])
    with (
        lens.edit(cl.Force(3)),  # one code everywhere, and yet other logits
        pytest.raises(NothingChangesError, match="same code of '1-2' at every position"),
    ):
        cl.concept_patching(lens, clean, corrupted, difference, **QUIET)


def test_patching_says_at_which_positions_codes_differ(lens, toy):
    clean, corrupted = (lens.model.to_tokens(text)[:, :16] for text in toy.texts[:2])
    patching = cl.concept_patching(lens, clean, corrupted, difference, **QUIET)
    codes = [lens.encode(tokens).codes[0] for tokens in (clean, corrupted)]
    assert list(patching.n_changed) == (codes[0] != codes[1]).long().tolist()
    same = patching.frame()["n_changed"] == 0
    assert same.any()
    assert (patching.frame()["effect"][same] == 0).all()


def absent(lens, tokens):
    present = set(lens.encode(tokens).codes.flatten().tolist())
    return next(code for code in range(16) if code not in present), max(present)


@pytest.mark.parametrize("by_position", [True, False])
def test_ablating_codes_that_do_not_occur_is_refused(lens, toy, by_position):
    tokens = lens.model.to_tokens(toy.texts[0])[:, :8]
    missing, _ = absent(lens, tokens)
    with pytest.raises(NothingChangesError, match=f"None of the codes .{missing}. occurs"):
        cl.ablation_sweep(
            lens, tokens, difference, codes=[missing], by_position=by_position, **QUIET
        )


def test_a_code_that_does_not_occur_among_others_has_no_effect_and_is_no_control(lens, toy):
    tokens = lens.model.to_tokens(toy.texts[0])[:, :8]
    missing, present = absent(lens, tokens)
    sweep = cl.ablation_sweep(lens, tokens, difference, codes=[missing, present], **QUIET)
    assert np.isnan(sweep.values[0])
    assert sweep.n_tokens[0] == 0
    assert np.isnan(sweep.controls[1])  # there is no other code that occurs
    assert sweep.frame()["code"].tolist() == [present, missing]
    sweep.plot()


@pytest.mark.parametrize("verb", [cl.ablation_sweep, cl.attribution])
def test_texts_of_special_tokens_alone_are_refused(lens, verb):
    bos = lens.model.tokenizer.bos_token_id
    with pytest.raises(EmptyCorpusError, match="hold no real token"):
        verb(lens, torch.tensor([[bos, bos]]), difference, **QUIET)


def test_a_text_of_special_tokens_alone_has_no_flow(lens):
    bos = torch.tensor([[lens.model.tokenizer.bos_token_id]])
    with pytest.raises(EmptyCorpusError, match="hold no real token"):
        cl.concept_patching(lens, bos, bos, lambda logits: logits.std(), **QUIET)
    with pytest.raises(EmptyCorpusError, match="hold no real token"):
        cl.sentence_flow(lens.model, bos, metric=difference)


def test_a_path_from_the_mean_of_one_token_is_refused(lens):
    with pytest.raises(NothingChangesError, match="hold one real token, which is the mean itself"):
        cl.salience(lens.model, torch.tensor([[20]]), 1, cl.answers([20, 30]), **QUIET)


def test_one_document_has_no_interval(lens, toy):
    report = lens.evaluate(toy.texts[0], **QUIET)
    assert np.isnan(report.fvu.low)
    assert np.isnan(report.ce_clean.high)
    assert "(no interval)" in repr(report)
    assert "One document says nothing about others" in str(report)
    frame = cl.causal_flow(lens.model, toy.texts[0], **QUIET).frame()
    assert frame["effect"].notna().all()
    assert frame[["low", "high"]].isna().all(axis=None)


def test_one_token_has_no_fvu_and_no_cross_entropy_and_the_report_says_so(lens):
    for tokens in (torch.tensor([[20]]), torch.tensor([[20]] * 3)):
        report = lens.evaluate(tokens, **QUIET)
        assert np.isnan(report.fvu)
        assert report.ce_clean is report.kl is None
        assert "no variance and no FVU" in (report.left_out or "")
        assert "No real token is followed by another one" in (report.left_out or "")


@pytest.mark.parametrize("seed", [2**70, -1, True])
def test_an_impossible_seed_is_refused_before_anything_runs(lens, toy, seed):
    text = toy.texts[0]
    for run in (
        lambda: cl.ablation_sweep(lens, text, difference, seed=seed, **QUIET),
        lambda: cl.concept_patching(lens, text, text, difference, seed=seed, **QUIET),
        lambda: cl.attribution(lens, text, difference, seed=seed, **QUIET),
        lambda: cl.concept_flow(lens.model, text, seed=seed, **QUIET),
        lambda: lens.concepts(text, seed=seed, **QUIET),
        lambda: lens.evaluate(text, seed=seed, **QUIET),
        lambda: lens.faithfulness([text], [1], seed=seed, **QUIET),
        lambda: cl.Ablate(1, seed=seed),
    ):
        with pytest.raises(ConfigError, match=r"^seed is .*; pass a whole number from 0"):
            run()


def test_impossible_counts_are_refused(lens, toy):
    text = toy.texts[0]
    for name, run in {
        "n_examples": lambda: lens.concepts(text, n_examples=-1, **QUIET),
        "n_true": lambda: cl.attribution(lens, text, difference, n_true=-1, **QUIET),
        "n_steps": lambda: cl.attribution(lens, text, difference, n_steps=0, **QUIET),
        "n_controls": lambda: cl.causal_flow(lens.model, text, n_controls=-1, **QUIET),
        "n_draws": lambda: lens.faithfulness([text], [1], n_draws=0, **QUIET),
    }.items():
        with pytest.raises(ConfigError, match=f"^{name} is .*; pass a whole number from"):
            run()
