"""What the library promises on a really trained model."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import clvq_lens as cl

pytestmark = pytest.mark.slow
# A thirteenth of the tokens of the default, and few validations: enough to see what must hold.
FIT = cl.FitConfig(n_tokens=150_000, n_evaluations=4)
TRAINING, HELD_OUT = slice(800), slice(800, 840)  # of 917 stories
N_SENTENCES = 600


@pytest.fixture(scope="module")
def lens(stories_model, stories):
    """Fitted with default settings, but for less of everything that takes time."""
    lens = stories_model.add_clvq(source=1, target=3, n_codes=400)
    lens.fit(stories[TRAINING], FIT, progress=False)
    yield lens
    lens.remove()


@pytest.fixture(scope="module")
def evaluation(lens, stories):
    return lens.evaluate(stories[HELD_OUT], long_texts="split", progress=False)


def test_default_settings_on_a_trained_model(evaluation, record_property):
    record_property("evaluation", str(evaluation))
    assert evaluation.ce_loss_recovered >= 0.57
    assert evaluation.fvu <= 0.41
    assert evaluation.perplexity >= 200
    assert evaluation.n_dead_codes <= 0.05 * 400
    assert evaluation.fvu_random_codes > 1  # the decoder relies on its codes
    assert evaluation.ce_clean < evaluation.ce_spliced < evaluation.ce_mean_ablated


def test_training_on_function_keeps_more_of_what_the_model_uses(
    stories_model, stories, evaluation, record_property
):
    lens = stories_model.add_clvq(source=1, target=3, n_codes=400, name="function")
    lens.fit(stories[TRAINING], FIT, kl_weight=1.0, progress=False)
    on_function = lens.evaluate(stories[HELD_OUT], long_texts="split", progress=False)
    lens.remove()
    record_property("evaluation", str(on_function))
    assert on_function.ce_loss_recovered >= evaluation.ce_loss_recovered + 0.05
    assert on_function.kl.high < evaluation.kl.low  # of documents, so beyond chance


def test_codes_agree_with_parts_of_speech_far_more_than_shuffled_ones(
    stories_model, lens, shared, record_property
):
    found = list(sentences(shared / "data" / "ud_ewt" / "en_ewt-ud-dev.conllu"))[:N_SENTENCES]
    texts, spans = zip(*found, strict=True)
    labels = cl.token_labels(stories_model, texts, spans)
    table = lens.concepts(list(texts), token_labels=labels, progress=False)
    agreement = table.agreement
    record_property("agreement", repr((agreement, table.token_identity)))
    assert agreement.n_labels >= 15
    assert agreement.nmi > 3 * agreement.nmi_shuffled
    assert agreement.purity > agreement.purity_shuffled + 0.1


def sentences(path: Path) -> Iterator[tuple[str, list[tuple[int, int, str]]]]:
    """Text and labeled spans of each sentence of a CoNLL-U file."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = block.splitlines()
        text = next((line[9:] for line in lines if line.startswith("# text = ")), None)
        if text is None:
            continue
        spans, cursor = [], 0
        for line in lines:
            number, form, _, part_of_speech, *_ = (*line.split("\t"), "", "", "")
            if number.isdecimal() and text.find(form, cursor) >= 0:
                start = text.index(form, cursor)
                cursor = start + len(form)
                spans.append((start, cursor, part_of_speech))
        yield text, spans


def test_codes_find_context_decided_concepts_that_token_identity_cannot():
    model, texts = cl.toy.load(n_texts=3_000)
    held_out = cl.toy.generate(300, seed=1)
    lens = model.add_clvq(1, 3, n_codes=128)
    lens.fit(texts, n_tokens=600_000, progress=False)
    report = lens.evaluate(held_out, token_labels=cl.toy.token_labels(held_out), progress=False)
    lens.remove()
    recovery = report.recovery.frame().set_index(["tokens", "method"])
    purity = recovery["purity"]["ambiguous"]
    assert purity["codes"] > purity["token identity"] + 0.05
    assert purity["codes"] > purity["codes, labels shuffled"] + 0.2


VERBS = {"present", "past", "behavior", "failure", "motion", "copula", "speech"}


@pytest.mark.slow
def test_ablating_a_true_concept_moves_the_logits_that_depend_on_it(toy, record_property):
    """The profession named first ("we bakers") decides later verbs, in other sentences.

    KL of predictions of verbs, at tokens that keep their own code, against 20 sets of random codes
    of the same shares (which may be anywhere); bootstrap over texts and over sets.
    """
    model, _ = toy
    lens = model.add_clvq(1, 2, n_codes=256)
    try:
        lens.fit(cl.toy.generate(1_000, seed=3), n_tokens=150_000, progress=False)
        held_out = cl.toy.generate(80, seed=7)
        own, random_sets, codes = codes_of_concept(lens, held_out, "profession", n_sets=20)
        kl = torch.stack([moved(lens, held_out, ablated) for ablated in (own, *random_sets)])
    finally:
        lens.remove()
    after = torch.isin(codes, torch.tensor(own)).cumsum(1) > 0
    following = [[*labels[1:], ""] for labels in cl.toy.token_labels(held_out)]
    verbs = torch.zeros_like(after)
    for row, labels in enumerate(following):
        verbs[row, 1 : len(labels) + 1] = torch.tensor([label in VERBS for label in labels])
    where = after & verbs & ~torch.isin(codes, torch.tensor(own))
    assert where.sum() > 100
    mine, theirs = (kl[0] * where).sum(1).numpy(), (kl[1:] * where).sum(2).numpy()
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(1_000):
        rows = random.integers(len(mine), size=len(mine))
        sets = random.integers(len(theirs), size=len(theirs))
        ratios.append(mine[rows].sum() / theirs[sets][:, rows].mean(0).sum())
    ratio = mine.sum() / theirs.mean(0).sum()
    low = np.quantile(ratios, 0.025)
    per_token = (mine.sum() / where.sum().item(), theirs.mean(0).sum() / where.sum().item())
    record_property("kl", repr(per_token))
    record_property("ratio", repr((ratio, low, np.quantile(ratios, 0.975))))
    assert ratio > 5
    assert low > 1


def codes_of_concept(lens, texts, concept, *, n_sets):
    """Codes whose commonest true concept is this one, random ones of the same shares, all codes."""
    encoding = lens.encode(texts)
    names = [name for labels in cl.toy.token_labels(texts) for name in labels]
    counts = Counter(zip(encoding.codes[encoding.mask].tolist(), names, strict=True))
    usage, main = Counter(), {}
    for (code, name), n in sorted(counts.items(), key=lambda item: item[1]):
        usage[code] += n
        main[code] = name  # the last one has the most tokens
    own = [code for code, name in main.items() if name == concept]
    random, sets = np.random.default_rng(0), []
    for _ in range(n_sets):
        pool, drawn = [code for code in main if code not in own], []
        for code in own:
            pool.sort(key=lambda other: abs(usage[other] - usage[code]))
            drawn.append(pool.pop(random.integers(min(10, len(pool)))))
        sets.append(drawn)
    return own, sets, encoding.codes


def moved(lens, texts, ablated):
    """KL(clean || ablated) of every prediction."""
    tokens = lens.model.to_tokens(texts)
    with torch.no_grad():
        clean = lens.model(tokens).log_softmax(-1)
        with lens.edit(cl.Ablate(ablated)):
            edited = lens.model(tokens).log_softmax(-1)
    return (clean.exp() * (clean - edited)).sum(-1)
