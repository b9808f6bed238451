from collections import Counter, defaultdict
from typing import Any

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

import clvq_lens as cl
from clvq_lens.concepts.concept import Concept, Example
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.errors import DataError, EmptyCorpusError, NonFiniteError, NotFittedError

SOURCE = "blocks.1.hook_resid_post"
DATA = torch.randint(0, 40, (30, 20), generator=torch.Generator().manual_seed(3))


def concepts(lens: cl.Lens, data: Any = DATA, **options: Any) -> ConceptTable:
    return lens.concepts(data, progress=False, **options)


@pytest.fixture(scope="module")
def stories_lens(stories_model, stories) -> Any:
    lens = stories_model.add_clvq(1, 3, n_codes=16, top_k=3, decoder="mlp", name="table")
    texts = [story[:100] for story in stories[:40]]
    lens.fit(texts, n_tokens=2_000, batch_tokens=300, n_evaluations=2, progress=False)
    yield lens
    lens.remove()


def test_usage_counts_the_codes_of_the_data(fitted):
    encoding, table = fitted.encode(DATA), concepts(fitted)
    usage = torch.bincount(encoding.codes[encoding.mask], minlength=12)
    assert [concept.usage for concept in table] == usage.tolist()
    assert [concept.code for concept in table] == list(range(12)) == list(range(len(table)))
    assert table.n_tokens == 600
    assert sum(concept.share for concept in table) == pytest.approx(1)
    assert table[3].share == pytest.approx(int(usage[3]) / 600)


def test_top_tokens_are_the_commonest_of_each_code(fitted):
    encoding, counts = fitted.encode(DATA), defaultdict(Counter)
    for code, token in zip(encoding.codes.flatten().tolist(), DATA.flatten().tolist(), strict=True):
        counts[code][str(token)] += 1
    for concept in concepts(fitted):
        expected = sorted(counts[concept.code].values(), reverse=True)[:10]
        assert [token.count for token in concept.tokens] == expected
        assert all(counts[concept.code][token.text] == token.count for token in concept.tokens)
        assert len({token.text for token in concept.tokens}) == len(concept.tokens)


def test_special_tokens_and_padding_are_no_part_of_a_concept(stories_lens, stories):
    texts = [story[: 30 + 7 * i] for i, story in enumerate(stories[:20])]
    table = concepts(stories_lens, texts)
    assert table.n_tokens == sum(stories_lens.model.to_tokens(t).shape[1] - 1 for t in texts)
    names = {token.text for concept in table for token in concept.tokens}
    assert not names & {"<s>", "</s>", "<pad>"}
    assert all(example.position > 0 for concept in table for example in concept.random)


def test_examples_show_the_token_in_its_text(stories_lens, stories):
    texts = [story[:150] for story in stories[:20]]
    encoding, table = stories_lens.encode(texts), concepts(stories_lens, texts)
    n_examples = 0
    for concept in table:
        for example in (*concept.typical, *concept.borderline, *concept.random):
            n_examples += 1
            strings = encoding.strings[example.document]
            start = max(0, example.position - 8)
            assert encoding.codes[example.document, example.position] == concept.code
            assert strings[example.position] == example.token
            assert "".join(strings[start : example.position]) == example.before
            assert example.after == "".join(strings[example.position + 1 : example.position + 9])
            assert f"[{example.token}]" in str(example)
    assert n_examples > 100


def test_there_are_as_many_examples_as_asked_for_or_as_there_are(fitted):
    for n_examples in (0, 1, 5, 1_000):
        for concept in concepts(fitted, n_examples=n_examples):
            assert len(concept.random) == min(n_examples, concept.usage)
            places = {(example.document, example.position) for example in concept.random}
            assert len(places) == len(concept.random)


def test_the_seed_decides_the_examples(fitted):
    def places(seed: int) -> list[tuple[Example, ...]]:
        table = concepts(fitted, n_examples=3, seed=seed)
        return [concept.random for concept in table]

    assert places(0) == places(0)
    assert places(0) != places(1)


def test_unused_codes_are_present_and_empty(fitted):
    table = concepts(fitted, torch.tensor([[1, 2, 3]]))
    assert len(table) == 12
    unused = [concept for concept in table if concept.usage == 0]
    assert len(unused) >= 9
    for concept in unused:
        nothing = ((),) * 5
        near = concept.nearest
        assert concept == Concept(
            concept.code, "", 0, 0.0, *nothing, None, None, 0.0, 0.0, near, ()
        )
        assert len(near) == 5
    assert len(table.frame()) == 12


def test_hostile_texts_are_escaped_all_the_way_from_the_data(stories_lens):
    html = concepts(
        stories_lens, ["Tom said <script>alert(1)</script> to <b>Lily</b>."]
    )._repr_html_()
    assert "<script" not in html
    assert html.count("<b>") == 1  # what kind of result it is


def test_tables_do_not_change_the_quantizer(fitted):
    before = {name: tensor.clone() for name, tensor in fitted.quantizer.state_dict().items()}
    random = torch.get_rng_state()
    concepts(fitted)
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in fitted.quantizer.state_dict().items():
        assert torch.equal(before[name], tensor)


def test_data_without_a_real_token_are_refused(stories_lens):
    bos = stories_lens.model.tokenizer.bos_token_id
    with pytest.raises(EmptyCorpusError, match="no real token"):
        concepts(stories_lens, torch.full((2, 3), bos))
    with pytest.raises(EmptyCorpusError, match="no text at all"):
        concepts(stories_lens, [""])


def test_an_unfitted_quantizer_is_refused(model):
    with pytest.raises(NotFittedError, match=r"lens\.fit"):
        concepts(model.add_clvq(1, 2, n_codes=12))


def test_a_long_text_comes_in_pieces_with_one_number(fitted):
    document: Tensor = torch.arange(110) % 40
    table = concepts(fitted, document, long_texts="split", n_examples=200)
    assert table.n_tokens == 110
    assert {example.document for concept in table for example in concept.random} == {0}


def test_progress_is_shown_only_if_asked_for(fitted, capsys):
    concepts(fitted)
    assert capsys.readouterr() == ("", "")
    fitted.concepts(DATA, progress=True)
    assert "concepts" in capsys.readouterr().err


# ---- what the examples of each kind are ----------------------------------------------------------


def distances(lens: cl.Lens, data: Any = DATA) -> Tensor:
    """Squared distance of every token to every code, in units of the mean, [row, pos, k]."""
    _, cache = lens.model.run_with_cache(data, names_filter=SOURCE)
    z = lens.quantizer.encode(cache[SOURCE])
    vectors = lens.quantizer.codebook.vectors
    return (z.unsqueeze(2) - vectors).square().sum(-1) / lens.quantizer.codebook.mean_distance


def first_of_each_context(scores: Tensor) -> list[tuple[float, tuple[int, int]]]:
    """The smallest scores with their places; of equal contexts on the left only the best."""
    found, seen = [], set()
    for index in scores.flatten().argsort(stable=True).tolist():
        row, position = divmod(index, scores.shape[1])
        context = tuple(DATA[row, max(0, position - 12) : position + 1].tolist())
        if context not in seen and scores[row, position] < torch.inf:
            seen.add(context)
            found.append((float(scores[row, position]), (row, position)))
    return found


@torch.no_grad()
def test_typical_examples_are_nearest_the_code_vector(fitted):
    d2 = distances(fitted)
    nearest = d2.argmin(-1)
    for concept in concepts(fitted, n_examples=4):
        d = d2[..., concept.code].masked_fill(nearest != concept.code, torch.inf)
        expected = first_of_each_context(d)[:4]
        found = [(example.document, example.position) for example in concept.typical]
        assert found == [place for _, place in expected]
        assert [e.distance for e in concept.typical] == pytest.approx(
            [distance for distance, _ in expected], rel=1e-4
        )


@torch.no_grad()
def test_borderline_examples_are_almost_as_near_to_another_code(fitted):
    two = distances(fitted).sort(-1)
    margins = two.values[..., 1] - two.values[..., 0]
    for concept in concepts(fitted, n_examples=4):
        m = margins.masked_fill(two.indices[..., 0] != concept.code, torch.inf)
        expected = [margin for margin, _ in first_of_each_context(m)[:4]]
        found = [example.margin for example in concept.borderline]
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


# ---- logits --------------------------------------------------------------------------------------


def above_average(lens: cl.Lens, vectors: Tensor, usage: Tensor) -> Tensor:
    """Logits of vectors, less their mean over the vocabulary and over tokens."""
    logits = lens.model.unembed(lens.model.ln_final(vectors[None]))[0]
    logits = logits - logits.mean(1, keepdim=True)
    return logits - (usage[:, None] * logits).sum(0) / usage.sum()


def check_said(said: Any, logits: Tensor) -> None:
    ordered = logits.sort(descending=True).values.tolist()
    for tokens, expected in ((said.promoted, ordered[:10]), (said.suppressed, ordered[:-11:-1])):
        found = [token.logit for token in tokens]
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert found == pytest.approx(
            [float(logits[int(t.token)]) for t in tokens], rel=1e-3, abs=1e-4
        )


@torch.no_grad()
def test_promoted_tokens_are_the_largest_logits_of_the_mean_reconstruction(fitted):
    """Against the reconstructions that the cache shows, averaged by code, by hand."""
    _, cache = fitted.model.run_with_cache(DATA, names_filter=lambda name: "clvq" in name)
    recon, codes = cache["clvq.1-2.hook_recon"], cache["clvq.1-2.hook_codes"]
    used, usage = codes.unique(return_counts=True)
    means = torch.stack([recon[codes == code].mean(0) for code in used])
    table = concepts(fitted)
    for code, logits in zip(used.tolist(), above_average(fitted, means, usage), strict=True):
        check_said(table[code].at_target, logits)


@torch.no_grad()
def test_directly_promoted_tokens_are_those_of_the_code_vector(fitted):
    table = concepts(fitted)
    used, usage = fitted.encode(DATA).codes.unique(return_counts=True)
    vectors = fitted.quantizer.codebook.vectors[used]
    for code, logits in zip(used.tolist(), above_average(fitted, vectors, usage), strict=True):
        check_said(table[code].direct, logits)


def test_special_tokens_are_not_promoted(stories_lens, stories):
    table = concepts(stories_lens, [story[:200] for story in stories[:20]])
    for concept in table:
        for vector in (concept.at_target, concept.direct):
            if vector is not None:
                said = {t.token for t in (*vector.promoted, *vector.suppressed)}
                assert not said & {"<s>", "</s>", "<unk>"}


def test_a_source_of_another_width_says_nothing_directly(model):
    options = {"n_codes": 8, "encoder": "residual", "decoder": "mlp"}  # vectors at the source
    lens = model.add_clvq("blocks.1.mlp.hook_post", 2, **options)
    lens.fit(DATA, n_tokens=1_000, batch_tokens=200, progress=False)
    used = [concept for concept in concepts(lens) if concept.usage]
    assert all(concept.direct is None and concept.at_target is not None for concept in used)


def test_the_users_hooks_see_the_passes_and_nothing_else(fitted):
    shapes = []
    for name in ("ln_final.hook_normalized", "ln_final.hook_scale"):
        fitted.model.add_hook(name, lambda value, hook: shapes.append(value.shape))
    concepts(fitted)
    assert shapes == []  # passes stop below the final norm
    fitted.model(DATA[:1])
    assert len(shapes) == 2
    fitted.model.reset_hooks()


# ---- counts --------------------------------------------------------------------------------------


def test_entropies_are_those_of_tokens_and_positions(fitted):
    encoding, table = fitted.encode(DATA), concepts(fitted)
    positions = torch.arange(20).expand(30, 20)

    def entropy(values: Tensor) -> float:
        p = values.unique(return_counts=True)[1] / len(values)
        return float(-(p * p.log()).sum())

    for concept in table:
        where = encoding.codes == concept.code
        if concept.usage:
            assert concept.token_entropy == pytest.approx(entropy(DATA[where]), abs=1e-5)
            assert concept.position_entropy == pytest.approx(entropy(positions[where]), abs=1e-5)
    assert table.token_entropy == pytest.approx(entropy(DATA.flatten()), abs=1e-5)
    assert table.position_entropy == pytest.approx(entropy(positions.flatten()), abs=1e-5)


def test_nearest_codes_have_the_nearest_code_vectors(fitted):
    codebook, table = fitted.quantizer.codebook, concepts(fitted)
    d2 = torch.cdist(codebook.vectors, codebook.vectors).square() / codebook.mean_distance
    for concept in table:
        expected = d2[concept.code].sort()
        assert [near.code for near in concept.nearest] == expected.indices[1:6].tolist()
        assert [near.distance for near in concept.nearest] == pytest.approx(
            expected.values[1:6].tolist(), rel=1e-3
        )


def test_labels_are_counted_by_code_and_compared_with_shuffled_ones(toy):
    texts = toy.texts[:60]
    labels = cl.toy.token_labels(texts)
    lens = toy.model.add_clvq(1, 2, n_codes=48, decoder="table")
    try:
        lens.fit(texts, n_tokens=4_000, progress=False)
        encoding, table = lens.encode(texts), concepts(lens, texts, token_labels=labels)
        frame = encoding.frame()
        frame["label"] = [name for names in labels for name in names]
        for concept in table:
            counts = frame[frame["code"] == concept.code]["label"].value_counts()
            assert [label.count for label in concept.token_labels] == counts.tolist()[:10]
            assert all(counts[label.text] == label.count for label in concept.token_labels)
        agreement = table.agreement
        assert agreement.n_tokens == table.n_tokens == len(frame)
        nmi = normalized_mutual_info_score(frame["label"], frame["token"])
        assert table.token_identity.nmi == pytest.approx(nmi)
        assert agreement.nmi > agreement.nmi_shuffled + 0.2
        assert agreement.purity > agreement.purity_shuffled + 0.2
        assert "top_label" in table.frame()
        with pytest.raises(DataError, match=r"Document \d+ has \d+ real tokens and 0 labels"):
            concepts(lens, texts, token_labels=[[]])
        with pytest.raises(DataError, match="61 documents, but the data have no document 60"):
            concepts(lens, texts, token_labels=[*labels, ["x"]])
    finally:
        lens.remove()


def test_activations_that_are_not_finite_are_refused(fitted):
    with torch.no_grad():
        fitted.model.W_E[7] = torch.nan
    with pytest.raises(NonFiniteError, match=r"blocks\.1\.hook_resid_post"):
        concepts(fitted)


def test_interrupted_it_gives_the_table_of_what_was_read(fitted, monkeypatch, ctrl_c):
    """Whole batches: counts, positions and reconstructions belong to the same tokens."""
    batches: list[int] = []
    original = fitted.host.activations

    def activations(*arguments: Any) -> Any:
        batches.append(int(arguments[1].sum()))
        if len(batches) == 2:
            ctrl_c()
        return original(*arguments)

    fitted.host.positions_per_pass = 100
    monkeypatch.setattr(fitted.host, "activations", activations)
    labels = [["x"] * 20] * 30
    table = concepts(fitted, token_labels=labels)
    assert len(batches) == 2
    assert table.n_tokens == sum(batches) < DATA.numel()
    assert not table.complete
    assert repr(table).endswith(f"{table.n_tokens} tokens, interrupted)")
    assert table.agreement.n_tokens == table.n_tokens
    monkeypatch.undo()
    assert concepts(fitted).complete
