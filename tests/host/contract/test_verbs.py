"""Fitting, reading and testing concepts, by every verb, with results that make sense."""

import numpy as np
import pytest
import torch

import clvq_lens as cl
from tests.host.contract.checks import codes_of, difference, on_every_kind, on_one_of_each_sort
from tests.host.states import assert_same_state, state
from tests.hosts import text_of, words

TEXTS = [text_of(words(n, seed=n)) for n in (9, 5, 12, 7, 9, 3)]
N_WORDS = 45


@pytest.fixture
def chain(model, lens):
    """The lens, and one before it."""
    first = model.add_clvq(0, 1, n_codes=12, top_k=3)
    first.fit(words(20, 16, seed=3), n_tokens=300, batch_tokens=128, progress=False)
    return first, lens


@on_one_of_each_sort
def test_the_same_data_and_seed_give_the_same_bits(model, saved):
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    lens.fit(words(60, 16, seed=2), n_tokens=3_000, batch_tokens=256, progress=False)
    expected = cl.load(saved).state_dict()
    assert all(
        torch.equal(value, expected[key]) for key, value in lens.quantizer.state_dict().items()
    )


def test_fitting_leaves_the_model_as_it_was_and_learns_something(model, tokens):
    plain = model(tokens)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    requires = [p.requires_grad for p in model.parameters()]
    lens = model.add_clvq(1, 2, n_codes=12, top_k=3)
    history = lens.fit(TEXTS * 20, n_tokens=600, batch_tokens=128, progress=False)
    assert len(history.frame()) > 0
    assert 600 <= lens.quantizer.usage.sum() <= 20 * N_WORDS
    assert torch.equal(model(tokens), plain)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == requires


def test_saved_and_loaded_it_gives_the_same_codes_on_a_new_model(kind, lens, tokens, tmp_path):
    lens.save(tmp_path / "run")
    again = kind.model().add_clvq(quantizer=cl.load(tmp_path / "run"))
    assert (again.name, again.source, again.target) == ("1-2", kind.after(1), kind.after(2))
    assert torch.equal(again.encode(tokens).codes, lens.encode(tokens).codes)


def test_reading_leaves_the_model_as_it_was(model, lens, tokens, monkeypatch):
    forward = model.blocks[0].forward
    monkeypatch.setitem(model.blocks[0].__dict__, "forward", lambda *a, **o: forward(*a, **o))
    before = state(model)
    lens.encode(tokens)
    lens.concepts(tokens, progress=False)
    lens.evaluate(tokens, progress=False)
    cl.ablation_sweep(lens, tokens, difference, progress=False)
    cl.concept_flow(model, tokens, progress=False)
    assert_same_state(before, state(model))


def test_texts_and_tokens_are_encoded_alike(lens):
    encoding = lens.encode(TEXTS)
    tokens = [encoding.tokens[i, : len(row)] for i, row in enumerate(encoding.strings)]
    for index, row in enumerate(tokens):
        alone = codes_of(lens.model, row.unsqueeze(0))[0]
        mask = encoding.mask[index, : len(row)]
        assert torch.equal(encoding.codes[index, : len(row)][mask], alone[mask])
    assert len(encoding.frame()) == N_WORDS
    assert [s.strip() for s in encoding.frame()["token"]] == " ".join(TEXTS).split()


def test_evaluation_explains_more_than_its_controls(kind, lens):
    report = lens.evaluate(words(40, 16, seed=11), progress=False)
    assert report.n_tokens == 640
    assert 0 < float(report.fvu) < min(1, float(report.fvu_random_codes))
    assert 1 < report.perplexity <= 12
    if not kind.causal:
        assert report.ce_clean is report.kl is None
        return
    assert float(report.kl) > 0
    assert float(report.ce_clean) != float(report.ce_spliced)
    assert float(report.ce_spliced) == pytest.approx(spliced_loss(lens), abs=1e-4)


def spliced_loss(lens):
    """Cross-entropy of the held-out words with the target replaced, by hand."""
    tokens = words(40, 16, seed=11)
    with lens.splice(), torch.no_grad():
        logits = lens.model(tokens)[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:]).item()


@on_one_of_each_sort
def test_the_concept_table_counts_every_word_once(lens):
    table = lens.concepts(TEXTS, n_examples=3, progress=False)
    codes = lens.encode(TEXTS)
    assert table.n_tokens == N_WORDS
    counts = codes.codes[codes.mask].bincount(minlength=12).tolist()
    assert [concept.usage for concept in table] == counts
    used = max(table, key=lambda concept: concept.usage)
    assert 0 < len(used.typical) <= 3
    for example in used.typical:
        assert example.token.strip() in TEXTS[example.document].split()
    found = {counted.text.strip(): counted.count for counted in used.tokens}
    assert found.keys() <= set(" ".join(TEXTS).split())


@on_one_of_each_sort
def test_observed_flow_counts_every_word_once(kind, model, chain):
    flow = cl.concept_flow(model, TEXTS, ends=True, progress=False)
    kinds = [stage.kind for stage in flow.stages]
    assert kinds == ["token", "codes", "codes"] + ["prediction"] * kind.causal
    assert flow.n_tokens == N_WORDS
    codes = [lens.encode(TEXTS) for lens in chain]
    pairs = torch.stack([encoding.codes[encoding.mask] for encoding in codes]).T.tolist()
    frame = flow.frame()
    step = frame[(frame["source"] == "0-1") & (frame["target"] == "1-2")]
    for code, following, count in step[["code", "next_code", "count"]].itertuples(index=False):
        assert pairs.count([code, following]) == count
    assert step["count"].sum() == N_WORDS


@on_one_of_each_sort
def test_causal_flow_is_what_ablating_a_code_does_to_the_next_ones(model, chain):
    tokens = words(3, 10, seed=12)
    step = cl.causal_flow(model, tokens, progress=False).steps[0]
    first, _ = chain
    codes, following = (lens.encode(tokens).codes.flatten() for lens in chain)
    code = int(codes.bincount().argmax())
    with first.edit(cl.Ablate(code)):
        changed = codes_of(model, tokens).flatten()
    gained = changed.bincount(minlength=12) - following.bincount(minlength=12)
    expected = gained / (codes == code).sum()
    np.testing.assert_allclose(step.effect[code], expected.numpy(), atol=1e-6)


@on_one_of_each_sort
def test_sentence_flow_has_the_codes_and_the_effects_of_one_text(model, lens):
    flow = cl.sentence_flow(model, TEXTS[1], metric=difference)
    encoding = lens.encode(TEXTS[1])
    assert flow.codes[0].tolist() == encoding.codes[0].tolist()
    real = encoding.mask[0].numpy()
    assert np.isfinite(flow.effects[0][real]).all()
    assert np.isnan(flow.effects[0][~real]).all()
    position = int(real.nonzero()[0][2])
    with torch.no_grad():
        plain = difference(model(encoding.tokens))
        with lens.edit(cl.Ablate(int(flow.codes[0][position]), at=position)):
            effect = difference(model(encoding.tokens)) - plain
    assert flow.effects[0][position] == pytest.approx(effect.item(), abs=1e-4)


@on_one_of_each_sort
@pytest.mark.parametrize("to", ["nearest", "mean"])
def test_an_ablation_sweep_gives_what_edits_give_by_hand(model, lens, tokens, to):
    sweep = cl.ablation_sweep(lens, tokens, difference, to=to, progress=False)
    with torch.no_grad():
        assert sweep.unedited == pytest.approx(difference(model(tokens)).item(), abs=1e-4)
        for code, value in zip(sweep.codes, sweep.values, strict=True):
            with lens.edit(cl.Ablate(code, to)):
                assert value == pytest.approx(difference(model(tokens)).item(), abs=1e-4)
    assert max(abs(value - sweep.unedited) for value in sweep.values) > 1e-2


@on_one_of_each_sort
def test_an_ablation_sweep_of_padded_texts_gives_what_edits_of_each_text_give(model, lens):
    def last(logits):
        return logits[:, 2, 8].sum()

    texts = [words(4, seed=13), words(9, seed=14)]
    sweep = cl.ablation_sweep(lens, [text_of(text) for text in texts], last, progress=False)
    alone = [lens.encode(text_of(text)).tokens for text in texts]
    with torch.no_grad():
        for code, value in zip(sweep.codes, sweep.values, strict=True):
            with lens.edit(cl.Ablate(code)):
                expected = sum(last(model(tokens)).item() for tokens in alone)
            assert value == pytest.approx(expected, abs=1e-4)


@on_one_of_each_sort
def test_concept_patching_gives_what_patches_give_by_hand(model, lens):
    clean, corrupted = words(1, 8, seed=15), words(1, 8, seed=16)
    patching = cl.concept_patching(lens, clean, corrupted, difference, progress=False)
    codes = codes_of(model, clean)[0].tolist()
    with torch.no_grad():
        assert patching.clean == pytest.approx(difference(model(clean)).item(), abs=1e-4)
        for position, value in enumerate(patching.values):
            with lens.edit(cl.Force(codes[position], at=position)):
                expected = difference(model(corrupted)).item()
            assert value == pytest.approx(expected, abs=1e-4)


@on_one_of_each_sort
def test_attribution_adds_up_and_agrees_with_small_edits(model, lens):
    tokens = words(1, 8, seed=17)
    # Many steps: the path may pass where the norm of a random model changes fast.
    found = cl.attribution(lens, tokens, difference, n_steps=200, n_true=16, progress=False)
    with torch.no_grad():
        assert found.value == pytest.approx(difference(model(tokens)).item(), abs=1e-4)
    assert found.completeness_error < 0.05
    assert abs(found.difference) > 1e-2
    for row in found.pairs.head(4).itertuples():
        with lens.edit(cl.Force(int(row.replaced_by), at=int(row.position))), torch.no_grad():
            effect = difference(model(tokens)).item() - found.value
        assert row.true == pytest.approx(effect, abs=1e-4)


@on_every_kind
def test_resuming_from_the_target_gives_the_logits_of_the_whole_pass(kind, model, lens, tokens):
    host, attended = lens.host, torch.ones(4, 12, dtype=torch.bool)
    attended[:2, 8:] = False
    with torch.no_grad():
        whole = host.run(tokens, attended)
        found = host.activations(tokens, attended, [lens.source, lens.target, kind.after(3)])
        resumed = host.logits_with(lens.target, found[lens.target], tokens, attended)
        above = host.activations_with(
            lens.target, found[lens.target], tokens, attended, until=kind.after(3)
        )
    torch.testing.assert_close(resumed[attended], whole[attended], atol=1e-5, rtol=1e-5)
    expected = found[kind.after(3)][attended]
    torch.testing.assert_close(above[attended], expected, atol=1e-5, rtol=1e-5)
    changed = host.logits_with(lens.target, found[lens.source], tokens, attended)
    assert not torch.allclose(changed[attended], whole[attended], atol=1e-2)


def test_hooks_of_the_user_act_once_when_a_pass_is_resumed(kind, model, lens, tokens):
    host, attended = lens.host, torch.ones(4, 12, dtype=torch.bool)
    names = [lens.target, kind.after(3)]
    with torch.no_grad(), model.hooks(fwd_hooks=[(lens.target, lambda value, hook: value * 1.5)]):
        whole = host.run(tokens, attended)
        found = host.activations(tokens, attended, names)
        left = found[lens.target]
        as_read = host.logits_with(lens.target, left, tokens, attended)
        not_yet = host.logits_with(lens.target, left / 1.5, tokens, attended, before_hooks=True)
        itself = host.activations_with(lens.target, left, tokens, attended, until=lens.target)
    torch.testing.assert_close(as_read, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(not_yet, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(itself, left)
    assert not torch.allclose(whole, host.run(tokens, attended), atol=1e-2)


@on_every_kind
def test_unembedding_the_last_residual_stream_gives_the_logits(kind, model, lens, tokens):
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
    unembedded = lens.host.unembed(cache[kind.after(3)][0])
    torch.testing.assert_close(unembedded, logits[0], atol=1e-4, rtol=1e-4)


@on_one_of_each_sort
def test_the_report_is_one_page_with_every_concept(lens, tmp_path):
    path = lens.report(TEXTS, tmp_path / "report.html", n_examples=2, progress=False)
    page = path.read_text()
    assert page.startswith("<!doctype html>")
    assert "w20" in page
