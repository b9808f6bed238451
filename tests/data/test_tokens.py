from collections.abc import Iterable, Iterator
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens import HookedTransformer

from clvq_lens.data.document import Document
from clvq_lens.data.documents import open_documents
from clvq_lens.data.tokens import TokenBatch, one_batch, token_batches
from clvq_lens.errors import ConfigError, DataError, EmptyCorpusError, TextTooLongError
from clvq_lens.host.host import Host
from tests.conftest import random_model
from tests.hosts import ALL_KINDS, text_of, words

HOST = Host(random_model())  # context 48, no tokenizer
# With tokenizers that know w5 to w39, in a context of 48, too.
GPT2, BERT = (
    Host(next(kind for kind in ALL_KINDS if kind.name == name).model())
    for name in ("bridge-gpt2", "bridge-bert")
)


def rows(lengths: Iterable[int]) -> list[Tensor]:
    """Token rows that tell their document and position: 1 + 7 * document + position, modulo 40."""
    return [(1 + 7 * i + torch.arange(n)) % 40 for i, n in enumerate(lengths)]


def batches(
    documents: Iterable[Document | str | Tensor], host: Host = HOST, long_texts="error"
) -> list[TokenBatch]:
    return list(token_batches(host, documents, long_texts=long_texts))


def sequences(found: Iterable[TokenBatch]) -> Iterator[tuple[int, list[int]]]:
    """Document and tokens of every sequence, padding cut off."""
    for batch in found:
        for row, document in enumerate(batch.documents):
            yield document, batch.tokens[row][batch.attended[row]].tolist()


def test_shorter_sequences_are_padded_on_the_right():
    (batch,) = batches(rows([5, 2, 3]))
    assert batch.tokens.tolist() == [[8, 9, 0, 0, 0], [15, 16, 17, 0, 0], [1, 2, 3, 4, 5]]
    assert batch.attended.sum(1).tolist() == [2, 3, 5]
    assert batch.attended.tolist() == [[True] * n + [False] * (5 - n) for n in (2, 3, 5)]
    assert batch.documents == (1, 2, 0)


def test_without_special_tokens_the_mask_is_true_on_every_token():
    (batch,) = batches(rows([5, 2, 3]))
    assert torch.equal(batch.mask, batch.attended)


def test_the_mask_is_false_on_special_tokens_and_padding_and_true_elsewhere(stories_model):
    host = Host(stories_model)
    bos, eos = stories_model.tokenizer.convert_tokens_to_ids(["<s>", "</s>"])
    special = set(host.vocabulary.special.tolist())
    assert {bos, eos} <= special
    texts = ["Once upon a time.", "Lily ran</s><s> home with her dog.", "Hi"]
    (batch,) = batches(texts, host)
    for row in range(3):
        for position, token in enumerate(batch.tokens[row].tolist()):
            real = bool(batch.attended[row, position]) and token not in special
            assert bool(batch.mask[row, position]) == real
    assert batch.mask.sum() == batch.attended.sum() - 5  # three BOS and a pair in the middle
    assert batch.tokens[~batch.attended].unique().tolist() == [host.vocabulary.padding]


def test_special_tokens_in_rows_of_tokens_are_masked_too(stories_model):
    host = Host(stories_model)
    bos = stories_model.tokenizer.bos_token_id
    (batch,) = batches([torch.tensor([bos, 300, 301, bos, 302])], host)
    assert batch.mask.tolist() == [[False, True, True, False, True]]


def test_a_token_that_also_serves_as_padding_is_real_inside_a_sequence():
    (batch,) = batches([torch.tensor([0, 1, 0]), torch.tensor([0])])
    assert batch.mask.tolist() == [[True, False, False], [True, True, True]]


@given(st.lists(st.integers(1, 48), min_size=1, max_size=300))
@settings(max_examples=15, deadline=None)
def test_every_document_appears_exactly_once_and_batches_are_bounded(lengths: list[int]):
    documents = rows(lengths)
    found = batches(documents)
    assert sorted(sequences(found)) == sorted((i, row.tolist()) for i, row in enumerate(documents))
    assert all(batch.tokens.numel() <= HOST.positions_per_pass for batch in found)


def test_a_sequence_longer_than_a_batch_gets_a_batch_of_its_own():
    host = Host(random_model(n_ctx=3_000))
    found = batches(rows([3_000, 2_500, 10]), host)
    assert [tuple(batch.tokens.shape) for batch in found] == [(1, 10), (1, 2_500), (1, 3_000)]


def test_documents_of_similar_length_share_a_batch():
    lengths = torch.randint(1, 49, (256,), generator=torch.Generator().manual_seed(0)).tolist()
    found = batches(rows(lengths))
    n_positions = sum(batch.tokens.numel() for batch in found)
    assert n_positions < 1.3 * sum(lengths)  # in the order of the data: 1.9 times as many


def test_documents_are_read_as_they_are_needed():
    read = 0

    def endless() -> Iterator[Tensor]:
        nonlocal read
        while True:
            read += 1
            yield torch.zeros(4, dtype=torch.long)

    next(token_batches(HOST, endless(), long_texts="error"))
    assert read <= 256


def test_no_documents_give_no_batches():
    assert batches([]) == []


def test_texts_and_rows_of_tokens_may_be_mixed(stories_model):
    host = Host(stories_model)
    row = torch.tensor([300, 301, 302])
    found = dict(sequences(batches(["Hello there.", row, "Bye now."], host)))
    assert found[1] == row.tolist()
    assert found[2] == stories_model.to_tokens("Bye now.")[0].tolist()


# ---- texts beyond the context --------------------------------------------------------------------


def test_a_text_that_just_fits_the_context_is_kept_whole():
    for long_texts in ("error", "split", "truncate"):
        assert list(sequences(batches(rows([48]), long_texts=long_texts))) == [
            (0, rows([48])[0].tolist())
        ]


def test_a_text_beyond_the_context_is_refused_by_its_number():
    with pytest.raises(
        TextTooLongError, match=r"Document 2 has 49 tokens, .* context is 48.*split"
    ):
        batches(rows([3, 48, 49]))


def test_truncating_keeps_the_beginning():
    document = rows([100])[0]
    assert list(sequences(batches([document], long_texts="truncate"))) == [
        (0, document[:48].tolist())
    ]


@pytest.mark.parametrize("length", [49, 95, 96, 97, 144, 200])
def test_the_pieces_of_a_split_text_cover_its_tokens_once(length: int):
    document = torch.arange(length) % 39
    found = batches([document, torch.tensor([39])], long_texts="split")
    pieces = [ids for number, ids in sequences(found) if number == 0]
    pieces.sort(key=len, reverse=True)  # stable: only the last piece is shorter
    assert list(chain(*pieces)) == document.tolist()
    assert max(map(len, pieces)) <= 48


@pytest.mark.parametrize("length", [513, 1023, 1024, 1100])
def test_each_piece_of_a_split_text_begins_with_bos(stories_model, length: int):
    host = Host(stories_model)
    n_context, bos = host.n_context, stories_model.tokenizer.bos_token_id
    assert n_context == 512
    words = 3 + torch.arange(length - 1) % 400
    document = torch.cat([torch.tensor([bos]), words])
    pieces = [ids for _, ids in sequences(batches([document], host, "split"))]
    pieces.sort(key=len, reverse=True)
    assert all(ids[0] == bos and len(ids) <= n_context for ids in pieces)
    assert list(chain(*(ids[1:] for ids in pieces))) == words.tolist()


def test_a_text_beyond_the_context_has_the_index_that_the_user_counts():
    texts = [text_of(words(3)), "", " \n", text_of(words(60))]
    for data in (texts, iter(texts)):
        with pytest.raises(TextTooLongError, match="Document 3 has 61 tokens"):
            batches(open_documents(data), GPT2)


def test_a_text_of_a_file_beyond_the_context_is_refused_by_its_line(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(f'"w7"\n\n"{text_of(words(60))}"\n')
    with pytest.raises(TextTooLongError, match=r"texts\.jsonl, line 3 has 61 tokens"):
        batches(open_documents(path), GPT2)


def test_the_remedies_for_a_long_text_are_those_of_the_verb():
    long = [text_of(words(60))]
    with pytest.raises(TextTooLongError, match=r"long_texts='split' or 'truncate'"):
        batches(long, GPT2)
    with pytest.raises(TextTooLongError, match=r"Pass long_texts='truncate', or cut the text"):
        list(token_batches(GPT2, long, long_texts="error", splittable=False))
    with pytest.raises(TextTooLongError, match="Cut it: each text is read in one pass here"):
        one_batch(GPT2, long)
    with pytest.raises(ConfigError, match="here a text counts as a whole"):
        list(token_batches(GPT2, long, long_texts="split", splittable=False))


def test_an_unknown_way_to_treat_long_texts_is_refused(as_for_a_user):
    with pytest.raises(ConfigError, match=r"long_texts is 'cut'\. Pass one of 'error', 'split'"):
        batches(["w7"], GPT2, long_texts="cut")


def test_every_piece_for_an_encoder_begins_with_cls_and_ends_with_sep():
    tokens = BERT.vocabulary.tokenize([text_of(words(100))])[0]
    cls, sep = int(tokens[0]), int(tokens[-1])
    pieces = [ids for _, ids in sequences(batches([text_of(words(100))], BERT, "split"))]
    assert sorted(map(len, pieces)) == [10, 48, 48]
    assert all(ids[0] == cls and ids[-1] == sep for ids in pieces)
    pieces.sort(key=len, reverse=True)
    assert list(chain(*(ids[1:-1] for ids in pieces))) == tokens[1:-1].tolist()
    ((_, kept),) = sequences(batches([text_of(words(100))], BERT, "truncate"))
    assert kept == [*tokens[:47].tolist(), sep]


@pytest.mark.parametrize("host_name", ["gpt2", "bert"])
def test_pieces_know_their_place_in_the_document(host_name: str):
    host = {"gpt2": GPT2, "bert": BERT}[host_name]
    text = f"{text_of(words(70))} {host.model.tokenizer.sep_token or '<|end|>'} w9 w8"
    whole = host.vocabulary.tokenize([text])[0]
    real = ~torch.isin(whole, host.vocabulary.special)
    n_seen = 0
    found = batches([text], host, "split")
    pieces = [(batch, row) for batch in found for row in range(len(batch.documents))]
    for number, (batch, row) in enumerate(sorted(pieces, key=lambda p: p[0].part(p[1]).piece)):
        part, mask = batch.part(row), batch.mask[row]
        assert (part.piece, part.n_before, part.n_real) == (number, n_seen, int(real.sum()))
        assert not part.is_whole
        places = mask.nonzero().flatten()
        assert torch.equal(batch.tokens[row][places], whole[part.start + places])
        n_seen += len(places)
    assert n_seen == int(real.sum())


def test_how_many_texts_were_split_is_said_once_for_all_reading(caplog):
    texts = [text_of(words(n)) for n in (60, 3, 4, 70, 5)]
    documents = open_documents(texts)
    for _ in range(2):
        batches(documents, GPT2, "split")
    assert [record.getMessage() for record in caplog.records] == [
        "Longer than the model's context of 48 tokens: 2 of 5 texts. They were split into pieces, "
        "each read by itself (long_texts='split')."
    ]
    caplog.clear()
    batches(open_documents(texts), GPT2, "truncate")
    batches(open_documents(texts[1:3]), GPT2, "split")
    assert [record.getMessage() for record in caplog.records] == [
        "Longer than the model's context of 48 tokens: 2 of 5 texts. They were cut off there "
        "(long_texts='truncate')."
    ]


def test_what_was_split_is_said_also_where_reading_stops_early(caplog):
    reading = token_batches(GPT2, [text_of(words(60))] * 300, long_texts="split")
    next(reading)
    reading.close()
    assert "256 of 256 texts" in caplog.text


# ---- token ids that the model has not ------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, -100, 40, 2**40])
def test_token_ids_outside_the_vocabulary_are_refused(wrong: int):
    tokens = torch.full((300, 4), 7)
    tokens[-1, 2] = wrong
    with pytest.raises(DataError, match=f"data hold the token id {wrong}, .* ids 0 to 39.*mask"):
        next(token_batches(HOST, open_documents(tokens), long_texts="split"))  # before any is run
    with pytest.raises(DataError, match=f"Document 299 holds the token id {wrong}"):
        batches(list(tokens))
    with pytest.raises(DataError, match=f"token id {wrong}"):
        one_batch(HOST, tokens)


def test_one_batch_refuses_an_empty_text_that_would_shift_the_rows():
    with pytest.raises(EmptyCorpusError, match=r"Document 1 is empty\. Leave it out"):
        one_batch(GPT2, ["w7", "", "w8"])


# ---- the host's tokenizer ------------------------------------------------------------------------

TEXTS = ["Once upon a time, there was a dog.", "Hi", "  Two spaces\nand lines ", "the dog ran home"]


@pytest.mark.parametrize("name", ["stories_model", "toy"])
@pytest.mark.parametrize("prepend_bos", [True, False])
def test_tokens_are_those_of_the_model_itself(request, monkeypatch, name: str, prepend_bos: bool):
    model = request.getfixturevalue(name)
    model = model if isinstance(model, HookedTransformer) else model.model
    monkeypatch.setattr(model.cfg, "default_prepend_bos", prepend_bos)
    tokenized = Host(model).vocabulary.tokenize(TEXTS)
    for text, ids in zip(TEXTS, tokenized, strict=True):
        assert ids.tolist() == model.to_tokens(text)[0].tolist()
        assert (ids[0] == model.tokenizer.bos_token_id) == prepend_bos


def test_a_long_text_is_not_cut_by_the_tokenizer(stories_model, stories):
    text = " ".join(stories[:10])
    assert len(Host(stories_model).vocabulary.tokenize([text])[0]) > 2 * stories_model.cfg.n_ctx


def test_texts_for_a_model_without_a_tokenizer_are_refused():
    with pytest.raises(DataError, match=r"no tokenizer.*tensor of tokens"):
        batches(["a text"])
