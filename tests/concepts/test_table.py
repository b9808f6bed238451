from collections import Counter, defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

import clvq_lens as cl
from clvq_lens.concepts.table import Concept, ConceptTable, Example, _Examples, concept_table
from clvq_lens.errors import EmptyCorpusError, NotFittedError, ShapeError
from clvq_lens.training.tokens import TokenBatch

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
        assert [count for _, count in concept.tokens] == expected
        assert all(counts[concept.code][token] == count for token, count in concept.tokens)
        assert len({token for token, _ in concept.tokens}) == len(concept.tokens)


def test_special_tokens_and_padding_are_no_part_of_a_concept(stories_lens, stories):
    texts = [story[: 30 + 7 * i] for i, story in enumerate(stories[:20])]
    table = concepts(stories_lens, texts)
    assert table.n_tokens == sum(stories_lens.model.to_tokens(t).shape[1] - 1 for t in texts)
    names = {token for concept in table for token, _ in concept.tokens}
    assert not names & {"<s>", "</s>", "<pad>"}
    assert all(example.position > 0 for concept in table for example in concept.examples)


def test_examples_show_the_token_in_its_text(stories_lens, stories):
    texts = [story[:150] for story in stories[:20]]
    encoding, table = stories_lens.encode(texts), concepts(stories_lens, texts)
    n_examples = 0
    for concept in table:
        for example in concept.examples:
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
            assert len(concept.examples) == min(n_examples, concept.usage)
            places = {(example.document, example.position) for example in concept.examples}
            assert len(places) == len(concept.examples)


def test_examples_are_a_uniform_sample_of_all_tokens_of_a_code(fitted):
    """Early and late, and in several batches: a reservoir that favoured any would show here."""
    everywhere = torch.ones(4, 12, dtype=torch.bool)
    codes = torch.arange(48).view(4, 12) % 2  # two codes, every other token
    drawn: Counter[tuple[int, int]] = Counter()
    n_seeds = 300
    for seed in range(n_seeds):
        examples = _Examples(fitted.host, n_codes=2, n_examples=3, seed=seed)
        for first in (0, 4):
            documents = tuple(range(first, first + 4))
            examples.add(
                codes, TokenBatch(DATA[first : first + 4, :12], *[everywhere] * 2, documents)
            )
        drawn.update((example.document, example.position) for example in examples.of(1))
    assert len(drawn) == 48
    expected = 3 * n_seeds / 48
    chi2 = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert chi2 < 47 + 4 * 94**0.5
    late = sum(count for (document, _), count in drawn.items() if document >= 4)
    assert late / drawn.total() == pytest.approx(0.5, abs=0.07)


def test_the_seed_decides_the_examples(fitted):
    def places(seed: int) -> list[tuple[Example, ...]]:
        table = concept_table(
            fitted.host, fitted.quantizer, SOURCE, DATA, n_examples=3, seed=seed, progress=False
        )
        return [concept.examples for concept in table]

    assert places(0) == places(0)
    assert places(0) != places(1)


def test_unused_codes_are_present_and_empty(fitted):
    table = concepts(fitted, torch.tensor([[1, 2, 3]]))
    assert len(table) == 12
    unused = [concept for concept in table if concept.usage == 0]
    assert len(unused) >= 9
    for concept in unused:
        assert concept == Concept(concept.code, 0, 0.0, (), ())
    assert len(table.frame()) == 12


def test_the_frame_lists_codes_by_usage(fitted):
    table = concepts(fitted)
    frame = table.frame()
    assert list(frame.columns) == ["code", "usage", "share", "tokens", "example"]
    assert frame["usage"].is_monotonic_decreasing
    first = table[int(frame["code"][0])]
    assert frame["usage"][0] == max(concept.usage for concept in table)
    assert frame["tokens"][0].split() == [token for token, _ in first.tokens]
    assert frame["example"][0] == str(first.examples[0])


@pytest.mark.parametrize("code", [12, 999, -1])
def test_a_code_that_does_not_exist_is_refused(fitted, code: int):
    with pytest.raises(ShapeError, match=f"no code {code}; codes go from 0 to 11"):
        concepts(fitted)[code]


def hostile_table() -> ConceptTable:
    bad = "<script>alert(1)</script>"
    example = Example(document=0, position=1, before=bad, token="<b>&", after=bad)
    return ConceptTable((Concept(0, 1, 1.0, ((bad, 1),), (example,)),), 1)


def test_text_from_data_is_escaped_in_html():
    html = hostile_table()._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_hostile_texts_are_escaped_all_the_way_from_the_data(stories_lens):
    html = concepts(
        stories_lens, ["Tom said <script>alert(1)</script> to <b>Lily</b>."]
    )._repr_html_()
    assert "<script" not in html
    assert "<b>" not in html


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
    assert {example.document for concept in table for example in concept.examples} == {0}


def test_progress_is_shown_only_if_asked_for(fitted, capsys):
    concepts(fitted)
    assert capsys.readouterr() == ("", "")
    fitted.concepts(DATA, progress=True)
    assert "concepts" in capsys.readouterr().err
