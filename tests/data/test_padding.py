"""Tokens that a user passes may be padded, left or right: padding is not read as text."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import clvq_lens as cl
from clvq_lens.concepts.encoding import Encoding
from clvq_lens.data.documents import open_documents
from clvq_lens.data.tokens import one_batch, token_batches
from clvq_lens.errors import DataError
from clvq_lens.host.host import Host
from clvq_lens.host.vocabulary import PaddingRule, Vocabulary
from tests.hosts import KINDS, Kind, text_of, words

LENGTHS = (7, 3, 12, 1, 9)
TEXTS = [text_of(words(n, seed=n)) for n in LENGTHS]
# BOS, EOS and padding are one token, or BOS is another than padding, or there is CLS and SEP.
NAMES = ("hooked-gpt2", "hooked-llama", "hooked-encoder", "bridge-gpt2", "bridge-llama")
MAIN_KINDS = [kind for kind in KINDS if kind.name in (*NAMES, "bridge-bert")]


@pytest.fixture(scope="module", params=MAIN_KINDS, ids=str)
def lens(request: pytest.FixtureRequest) -> Iterator[Any]:
    kind: Kind = request.param
    lens = kind.model().add_clvq(1, 2, n_codes=8, top_k=2, decoder="table")
    lens.fit([text_of(words(20, seed=n)) for n in range(20)], n_tokens=400, progress=False)
    yield lens
    lens.remove()


def padded(lens: Any, side: str, extra: int = 0) -> Tensor:
    """The tokens of the texts, as many columns wide as the longest and some more."""
    vocabulary: Vocabulary = lens.host.vocabulary
    rows = vocabulary.tokenize(TEXTS)
    width = max(map(len, rows)) + extra
    tokens = torch.full((len(rows), width), vocabulary.padding)
    for row, ids in enumerate(rows):
        places = slice(len(ids)) if side == "right" else slice(width - len(ids), None)
        tokens[row, places] = ids
    return tokens


def real_codes(encoding: Encoding) -> list[list[int]]:
    return [row[mask].tolist() for row, mask in zip(encoding.codes, encoding.mask, strict=True)]


def test_the_tokens_of_an_encoding_have_its_codes(lens: Any):
    encoding = lens.encode(TEXTS)
    again = lens.encode(encoding.tokens)
    assert torch.equal(again.codes, encoding.codes)
    assert torch.equal(again.mask, encoding.mask)
    assert torch.equal(again.tokens, encoding.tokens)
    assert again.strings == encoding.strings


@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_tokens_have_the_codes_of_their_texts(lens: Any, side: str, extra: int):
    tokens = padded(lens, side, extra)
    encoding = lens.encode(tokens)
    assert encoding.codes.shape == encoding.mask.shape == tokens.shape
    assert torch.equal(encoding.tokens, tokens)
    assert real_codes(encoding) == real_codes(lens.encode(TEXTS))
    special = torch.isin(tokens, lens.host.vocabulary.special)
    assert torch.equal(encoding.mask, ~special)


def test_a_left_padded_pass_of_the_model_itself_has_the_same_codes(lens: Any):
    model = lens.model
    if type(model).__name__ != "HookedTransformer":
        pytest.skip("it would have to be told the mask")
    tokens = padded(lens, "left")
    before, model.tokenizer.padding_side = model.tokenizer.padding_side, "left"
    try:
        _, cache = model.run_with_cache(tokens, padding_side="left")
    finally:
        model.tokenizer.padding_side = before
    encoding = lens.encode(tokens)
    codes = cache[f"clvq.{lens.name}.hook_codes"]
    assert torch.equal(codes[encoding.mask], encoding.codes[encoding.mask])


def test_the_frame_and_the_strings_of_left_padded_tokens_line_up(lens: Any):
    encoding = lens.encode(padded(lens, "left"))
    for line in encoding.frame().itertuples():
        assert encoding.codes[line.document, line.position] == line.code
        word = lens.host.vocabulary.strings(encoding.tokens[line.document])[line.position]
        assert line.token.strip() == word.strip()
    assert len(encoding.plot(1).data) > 0


def test_a_mask_decides_what_is_padding(lens: Any):
    tokens = padded(lens, "left")
    rows = lens.host.vocabulary.tokenize(TEXTS)
    mask = torch.zeros_like(tokens)
    for row, ids in enumerate(rows):
        mask[row, -len(ids) :] = 1
    tokens[mask == 0] = -100  # no token at all
    expected = real_codes(lens.encode(TEXTS))
    for given in (mask, mask.bool(), mask.numpy()):
        encoding = lens.encode({"input_ids": tokens, "attention_mask": given})
        assert encoding.codes.shape == tokens.shape
        assert real_codes(encoding) == expected


def test_what_the_tokenizer_returns_can_be_read(lens: Any):
    tokenizer, expected = lens.model.tokenizer, real_codes(lens.encode(TEXTS))
    if lens.host.vocabulary.tokenize(["w7"])[0].tolist() != tokenizer("w7")["input_ids"]:
        pytest.skip("TransformerLens prepends a BOS that the tokenizer does not")
    for options in ({}, {"padding": True}, {"padding": True, "return_tensors": "pt"}):
        assert real_codes(lens.encode(tokenizer(TEXTS, **options))) == expected
    assert real_codes(lens.encode(tokenizer(TEXTS[0]))) == expected[:1]


def test_every_verb_reads_padded_tokens_as_their_texts(lens: Any):
    texts, tokens = TEXTS, padded(lens, "left", 2)
    as_read = [lens.evaluate(data, progress=False) for data in (texts, tokens)]
    assert float(as_read[0].fvu) == pytest.approx(float(as_read[1].fvu), rel=1e-5)
    assert as_read[0].n_tokens == as_read[1].n_tokens == sum(LENGTHS)
    tables = [lens.concepts(data, progress=False).frame() for data in (texts, tokens)]
    assert tables[0]["usage"].tolist() == tables[1]["usage"].tolist()
    batches = [one_batch(lens.host, data) for data in (texts, tokens)]
    for part in ("tokens", "attended", "mask"):
        assert torch.equal(getattr(batches[0], part), getattr(batches[1], part))
    flows = [cl.concept_flow(lens.model, data, progress=False) for data in (texts, tokens)]
    assert flows[0].frame().equals(flows[1].frame())


def test_fitting_on_padded_tokens_is_fitting_on_their_texts(lens: Any):
    fitted = []
    for data in (TEXTS * 8, padded(lens, "left", 3).repeat(8, 1)):
        other = lens.model.add_clvq(1, 2, n_codes=4, top_k=2, decoder="table", name="padding")
        try:
            other.fit(data, n_tokens=200, held_out_fraction=0.0, progress=False)
            fitted.append(other.quantizer.codebook.vectors.clone())
        finally:
            other.remove()
    torch.testing.assert_close(*fitted)


# ---- the rule ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "n_begin", "n_end", "text"),
    [
        ([5, 6], 0, 0, [5, 6]),
        ([0, 0, 5, 6, 0], 0, 0, [5, 6]),
        ([0, 0, 5, 0, 6, 0], 0, 0, [5, 0, 6]),
        ([0, 5, 6], 1, 0, [0, 5, 6]),
        ([0, 0, 5, 6, 0, 0], 1, 0, [0, 5, 6]),
        ([0, 0, 5, 6, 0, 0], 1, 1, [0, 5, 6, 0]),
        ([5, 6, 0], 0, 1, [5, 6, 0]),
        ([5, 6], 1, 1, [5, 6]),
        ([0, 0], 1, 0, []),
    ],
)
def test_of_a_run_of_padding_only_what_texts_have_is_kept(
    row: list[int], n_begin: int, n_end: int, text: list[int]
):
    begin, end = PaddingRule(0, n_begin, n_end).text_in(torch.tensor(row))
    assert row[begin:end] == text


def test_a_token_that_pads_and_begins_texts_is_kept_once_where_the_model_prepends_it(monkeypatch):
    model = next(kind for kind in KINDS if kind.name in ("hooked-gpt2", "bridge-gpt2")).model()
    assert model.tokenizer.pad_token_id == model.tokenizer.bos_token_id == 0
    assert Vocabulary(model).padding_rule == PaddingRule(0, 1, 0)
    monkeypatch.setattr(model.cfg, "default_prepend_bos", False)
    assert Vocabulary(model).padding_rule == PaddingRule(0, 0, 0)


def test_without_a_tokenizer_nothing_is_padding(fitted: cl.Lens):
    tokens = torch.tensor([[0, 0, 5, 6], [5, 0, 0, 0]])
    assert fitted.encode(tokens).mask.all()


def test_a_row_of_padding_alone_keeps_its_place():
    host = Host(MAIN_KINDS[0].model())
    tokens = torch.tensor([[7, 8, 9], [0, 0, 0], [6, 0, 0]])
    (batch,) = token_batches(host, open_documents(tokens), long_texts="error")
    assert dict(zip(batch.documents, batch.mask.sum(1).tolist(), strict=True)) == {0: 3, 1: 0, 2: 1}
    assert batch.attended.any(1).all()  # attention over nothing would be NaN


# ---- masks that are refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 0, 1]], "mask of Document 0 is 0 at position 1, between tokens"),
        ([[1, 1]], r"mask has shape \[1, 2\] and the tokens \[1, 3\]"),
        ([[1, 2, 1]], "values other than 0 and 1"),
        ([[1, 1, 1], [1, 1, 1]], "1 rows of input_ids and 2 of attention_mask"),
    ],
)
@pytest.mark.parametrize("as_lists", [False, True])
def test_a_mask_that_does_not_fit_is_refused(mask: list, message: str, as_lists: bool):
    ids: Any = [[7, 8, 9]]
    if not as_lists:
        ids, mask = torch.tensor(ids), torch.tensor(mask)
    elif mask == [[1, 1]]:
        message = "Document 0 has 3 tokens and a mask of 2"
    with pytest.raises(DataError, match=message):
        open_documents({"input_ids": ids, "attention_mask": mask})


def test_pairs_of_sentences_are_refused():
    with pytest.raises(DataError, match="token_type_ids mark second sentences"):
        open_documents({"input_ids": [[7, 8]], "token_type_ids": [[0, 1]]})
