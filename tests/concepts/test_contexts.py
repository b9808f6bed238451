"""Reservoirs against sorting everything."""

from collections import Counter

import numpy as np
import pytest
import torch

from clvq_lens.concepts.contexts import ContextBatch, TopContexts
from clvq_lens.data.tokens import TokenBatch
from clvq_lens.host.vocabulary import Vocabulary

N_CODES = 3


def batch_of(tokens: torch.Tensor, first: int = 0, mask: torch.Tensor | None = None) -> TokenBatch:
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    documents = tuple(range(first, first + len(tokens)))
    return TokenBatch(tokens, everywhere, everywhere if mask is None else mask, documents)


def contexts(batch: TokenBatch, codes: np.ndarray, fit: np.ndarray) -> ContextBatch:
    return ContextBatch(batch, codes, fit, 2 * fit)


@pytest.fixture
def vocabulary(model) -> Vocabulary:
    return Vocabulary(model)  # without a tokenizer: a token's text is its number


def tokens_of(n_batches: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 40, (4, 30), generator=generator) for _ in range(n_batches)]


def test_the_kept_tokens_are_those_with_the_largest_keys(vocabulary):
    """Over many batches, so that thresholds and pruning take part, against one big sort."""
    random = np.random.default_rng(0)
    reservoir = TopContexts(N_CODES, 5, distinct=False)
    everything = []
    for number, tokens in enumerate(tokens_of(20)):
        codes, keys = random.integers(0, N_CODES, tokens.numel()), random.random(tokens.numel())
        batch = batch_of(tokens, first=4 * number)
        reservoir.offer(contexts(batch, codes, keys), keys)
        for index, (code, key) in enumerate(zip(codes, keys, strict=True)):
            everything.append((code, key, 4 * number + index // 30, index % 30))
    found = reservoir.examples(vocabulary)
    for code in range(N_CODES):
        best = sorted((row for row in everything if row[0] == code), key=lambda row: -row[1])[:5]
        places = [(example.document, example.position) for example in found[code]]
        assert places == [row[2:] for row in best]
        assert [example.distance for example in found[code]] == [row[1] for row in best]
        assert [example.margin for example in found[code]] == [2 * row[1] for row in best]


def test_a_rare_code_keeps_all_its_tokens_until_there_are_enough(vocabulary):
    """The keys fall, and pruning for the sake of a frequent code must not shut a rare one out."""
    reservoir = TopContexts(2, 5, distinct=False)
    for number, tokens in enumerate(tokens_of(4)):
        codes, keys = np.zeros(tokens.numel(), dtype=int), np.full(tokens.numel(), 0.5)
        codes[0], keys[0] = 1, 1 / (number + 1)
        reservoir.offer(contexts(batch_of(tokens, first=4 * number), codes, keys), keys)
    assert [example.document for example in reservoir.examples(vocabulary)[1]] == [0, 4, 8, 12]


def test_memory_does_not_grow_with_the_tokens(vocabulary):
    random = np.random.default_rng(0)
    reservoir = TopContexts(N_CODES, 5, distinct=False)
    for tokens in tokens_of(50):
        codes, keys = random.integers(0, N_CODES, tokens.numel()), random.random(tokens.numel())
        reservoir.offer(contexts(batch_of(tokens), codes, keys), keys)
        assert reservoir._n_rows <= 4 * 5 * N_CODES


def test_random_keys_give_a_uniform_sample_of_early_and_late_tokens(vocabulary):
    drawn: Counter[int] = Counter()
    n_draws = 400
    for seed in range(n_draws):
        random = np.random.default_rng(seed)
        reservoir = TopContexts(1, 4, distinct=False)
        for number, tokens in enumerate(tokens_of(4)):
            keys = random.random(tokens[:, :5].numel())
            batch = batch_of(tokens[:, :5], first=4 * number)
            reservoir.offer(contexts(batch, np.zeros(20, dtype=int), keys), keys)
        drawn.update(5 * e.document + e.position for e in reservoir.examples(vocabulary)[0])
    assert len(drawn) == 80
    expected = 4 * n_draws / 80
    chi2 = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert chi2 < 79 + 4 * (2 * 79) ** 0.5


def test_equal_contexts_on_the_left_count_once_where_asked(vocabulary):
    row = torch.arange(12).unsqueeze(0)
    other_end = row.clone()
    other_end[0, -1] = 39  # on the right of the token in question
    other_beginning = row.clone()
    other_beginning[0, 3] = 39
    tokens = torch.cat([row, row, other_end, other_beginning])
    mask = torch.zeros(4, 12, dtype=torch.bool)
    mask[:, 6] = True
    codes, keys = np.zeros(4, dtype=int), np.array([0.1, 0.4, 0.3, 0.2])
    batch = batch_of(tokens, mask=mask)
    for distinct, expected in ((True, [1, 3]), (False, [1, 2, 3, 0])):
        reservoir = TopContexts(1, 10, distinct=distinct)
        reservoir.offer(contexts(batch, codes, keys), keys)
        documents = [example.document for example in reservoir.examples(vocabulary)[0]]
        assert documents == expected


def test_a_context_has_eight_tokens_on_either_side_and_ends_with_its_text(vocabulary):
    tokens = torch.arange(20).unsqueeze(0)
    keys = np.zeros(20)
    reservoir = TopContexts(1, 20, distinct=False)
    reservoir.offer(contexts(batch_of(tokens), np.zeros(20, dtype=int), keys), keys)
    found = {example.position: example for example in reservoir.examples(vocabulary)[0]}
    assert (found[0].before, found[0].token) == ("", " 0")
    assert found[0].after == " 1 2 3 4 5 6 7 8"
    assert found[12].before == " 4 5 6 7 8 9 10 11"
    assert found[12].after == " 13 14 15 16 17 18 19"
    assert str(found[19]) == " 11 12 13 14 15 16 17 18[ 19]"


def test_padding_is_no_part_of_a_context(vocabulary):
    tokens = torch.arange(6).repeat(2, 1)
    attended = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    batch = TokenBatch(tokens, attended, attended, (0, 1))
    keys = np.zeros(10)
    reservoir = TopContexts(1, 20, distinct=False)
    reservoir.offer(contexts(batch, np.zeros(10, dtype=int), keys), keys)
    found = {(e.document, e.position): e for e in reservoir.examples(vocabulary)[0]}
    assert found[0, 3].after == " 4 5"
    assert found[1, 3].after == ""


def test_none_is_kept_where_none_is_asked_for(vocabulary):
    reservoir = TopContexts(1, 0, distinct=True)
    keys = np.zeros(6)
    batch = batch_of(torch.arange(6).unsqueeze(0))
    reservoir.offer(contexts(batch, np.zeros(6, dtype=int), keys), keys)
    assert reservoir.examples(vocabulary) == {}
