"""What the library promises on a really trained model, at default settings."""

import time

import pytest

import clvq_lens as cl

pytestmark = pytest.mark.slow
N_TRAINING = 800  # of 917 stories; the others are held out


@pytest.fixture
def lens(stories_model):
    lens = stories_model.add_clvq(source=1, target=3, n_codes=400)
    yield lens
    lens.remove()


def test_default_settings_on_a_trained_model(lens, stories, record_property):
    start = time.monotonic()
    lens.fit(stories[:N_TRAINING], long_texts="split", progress=False)
    record_property("fit_s", time.monotonic() - start)
    report = lens.evaluate(stories[N_TRAINING:], long_texts="split", progress=False)
    record_property("report", repr(report))
    assert report.ce_loss_recovered >= 0.68
    assert report.fvu <= 0.31
    assert report.perplexity >= 200
    assert report.n_dead_codes <= 0.05 * 400
    assert report.fvu_random_codes > 1  # the decoder relies on its codes
    assert report.ce_clean < report.ce_spliced < report.ce_mean_ablated


def test_training_on_function_keeps_more_of_what_the_model_uses(lens, stories, record_property):
    options = {"kl_weight": 1.0, "n_tokens": 1_000_000}  # half of the default: it is slow
    lens.fit(stories[:N_TRAINING], long_texts="split", progress=False, **options)
    report = lens.evaluate(stories[N_TRAINING:], long_texts="split", progress=False)
    record_property("report", repr(report))
    assert report.ce_loss_recovered >= 0.76


def test_codes_find_context_decided_concepts_that_token_identity_cannot():
    model, texts = cl.toy.load(n_texts=3_000)
    held_out = cl.toy.generate(300, seed=1)
    lens = model.add_clvq(1, 3, n_codes=128)
    lens.fit(texts, n_tokens=600_000, progress=False)
    report = lens.evaluate(held_out, labels=cl.toy.labels(held_out), progress=False)
    lens.remove()
    recovery = report.recovery.frame().set_index(["tokens", "method"])
    purity = recovery["purity"]["ambiguous"]
    assert purity["codes"] > purity["token identity"] + 0.05
    assert purity["codes"] > purity["codes, labels shuffled"] + 0.2
