"""Logits are made of a few counted tokens at a time, wherever that gives the same numbers."""

from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.evaluation import said, splicing
from tests.evaluation.test_evaluate import DATA, Oracle, evaluate, fitted_lens
from tests.hosts import D_VOCAB, KINDS, words
from tests.largest_output import LargestOutput

AT_ONCE = 24  # tokens; more than the width of the model, so that no weight looks like logits
NO_TOKEN_IS_SPECIAL = torch.tensor([])


@pytest.fixture
def few_at_once(monkeypatch):
    """So many logits at a time as if the vocabulary were large."""
    monkeypatch.setattr(said, "_AT_ONCE_CPU", AT_ONCE * D_VOCAB)
    monkeypatch.setattr(said, "_PIECE_CPU", 5 * D_VOCAB)
    monkeypatch.setattr(splicing, "_WHOLE_CPU", AT_ONCE * D_VOCAB)


def numbers(report: cl.Evaluation) -> dict[str, float]:
    """All numbers but those of codes that are drawn batch by batch."""
    frame = report.frame().set_index("metric")["value"]
    return frame.drop("fvu_random_codes").to_dict()


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.causal], ids=str)
def test_no_logits_of_a_whole_batch_are_made(kind):
    lens = kind.model().add_clvq(kind.after(1), kind.after(2), n_codes=12)
    lens.fit([words(16, seed=n) for n in range(40)], n_tokens=1_000, progress=False)
    data = [words(n, seed=n) for n in (3, 5, 8, 8, 11, 12)]
    with LargestOutput(D_VOCAB) as largest:
        few = evaluate(lens, data)
    assert largest.n_rows == AT_ONCE
    lens.host.model.unembed.register_forward_hook(lambda *_: None)  # it has to see whole passes
    whole = evaluate(lens, data)
    assert numbers(few) == pytest.approx(numbers(whole), rel=1e-4, abs=1e-6)


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize("encoder", ["residual", "predictive"])
@pytest.mark.parametrize("hooked", [True, False])
def test_numbers_are_those_of_whole_logits(encoder: str, hooked: bool):
    """With a hook after the last block, which has its say in all of them."""
    lens = fitted_lens(encoder=encoder)
    before = evaluate(lens).ce_clean
    if hooked:
        lens.model.unembed.register_forward_hook(lambda module, args, logits: 2 * logits)
    report = evaluate(lens)
    Oracle(lens, list(DATA), NO_TOKEN_IS_SPECIAL).check(report)
    assert (report.ce_clean != before) == hooked


@pytest.mark.usefixtures("few_at_once")
def test_a_pass_that_makes_all_logits_reads_a_few_rows():
    lens = fitted_lens()
    passes: list[tuple[int, ...]] = []
    lens.model.unembed.register_forward_hook(lambda module, args, out: passes.append(out.shape))
    report = evaluate(lens, DATA)
    assert {shape[0] for shape in passes} == {1}  # 24 tokens at a time, and a row has 14
    assert len(passes) == 5 * len(DATA)
    assert (report.n_documents, report.n_tokens) == (20, 280)


def test_a_target_after_the_last_block_needs_all_logits():
    """They do not follow from the residual stream there, which knows nothing of the target."""
    lens = fitted_lens()
    late = lens.model.add_clvq(1, "ln_final.hook_normalized", n_codes=12, name="late")
    late.fit(DATA, n_tokens=1_000, progress=False)
    report = evaluate(late)
    assert report.ce_spliced != report.ce_clean
    assert report.kl > 0.01


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize("target", [2, 3])
def test_passes_go_on_from_activations_that_were_stored(target: int, tmp_path):
    lens = fitted_lens().model.add_clvq(1, target, n_codes=12, name="another")
    lens.fit(DATA, n_tokens=1_000, progress=False)
    store = cl.cache_activations(lens.model, DATA, tmp_path, points=[1, target], progress=False)
    expected = numbers(evaluate(lens))
    lens.model.blocks[0].register_forward_pre_hook(fail_on_whole_rows)
    assert numbers(evaluate(lens, store)) == pytest.approx(expected, rel=1e-4)


def fail_on_whole_rows(module: Any, args: tuple[Any, ...]) -> None:
    if args[0].shape[1] > 1:
        pytest.fail("the model runs from its beginning")


def test_tokens_that_nothing_follows_are_no_predictions():
    """Batches may have no prediction at all, also the first one."""
    lens = fitted_lens()
    lens.host.positions_per_pass = 14  # a document at a time, short ones first
    rows = [DATA[0, :1], DATA[1, :1], *DATA[2:6]]
    Oracle(lens, rows, NO_TOKEN_IS_SPECIAL).check(evaluate(lens, rows))
