from typing import Any

import pytest
import torch

import clvq_lens as cl
from clvq_lens.concepts.encoding import Encoding
from clvq_lens.errors import (
    DataError,
    DetachedError,
    EmptyCorpusError,
    NonFiniteError,
    NotFittedError,
    PositionError,
    TextTooLongError,
)

TEXTS = [
    "Once upon a time, there was a little dog.",
    "Hi.",
    "Lily liked to play in the park with her red ball and her friend Tom every day.",
    "The sun was hot.",
]


@pytest.fixture(scope="module")
def stories_lens(stories_model, stories) -> Any:
    lens = stories_model.add_clvq(1, 3, n_codes=16, top_k=3, decoder="mlp", name="encoding")
    texts = [story[:100] for story in stories[:40]]
    lens.fit(texts, n_tokens=2_000, batch_tokens=300, n_evaluations=2, progress=False)
    yield lens
    lens.remove()


def test_codes_are_those_in_the_cache_at_real_tokens_and_minus_one_elsewhere(stories_lens):
    encoding = stories_lens.encode(TEXTS)
    model, n_rows = stories_lens.model, len(TEXTS)
    assert encoding.documents == tuple(range(n_rows))
    for row, text in enumerate(TEXTS):
        tokens, cache = model.to_tokens(text)[0], model.run_with_cache(text)[1]
        n = len(tokens)
        assert encoding.tokens[row, :n].tolist() == tokens.tolist()
        assert encoding.mask[row].tolist() == [False] + [True] * (n - 1) + [False] * (
            encoding.mask.shape[1] - n
        )
        codes = cache["clvq.encoding.hook_codes"][0]
        assert encoding.codes[row, 1:n].tolist() == codes[1:].tolist()
    assert (encoding.codes[~encoding.mask] == -1).all()
    assert (encoding.codes[encoding.mask] >= 0).all()


def test_texts_keep_their_order_although_they_are_sorted_by_length(stories_lens, stories):
    texts = [story[: 20 + 37 * i % 90] for i, story in enumerate(stories[:60])]
    encoding = stories_lens.encode(texts)
    for row, text in enumerate(texts):
        assert "".join(encoding.strings[row][1:]).strip() == text.strip()


def test_a_single_text_is_one_row(stories_lens):
    encoding = stories_lens.encode("The sun was hot.")
    assert len(encoding.codes) == 1
    row = stories_lens.encode(TEXTS)
    n = encoding.codes.shape[1]
    assert torch.equal(encoding.codes[0], row.codes[3, :n])


def test_the_frame_has_a_line_for_each_real_token(stories_lens):
    encoding = stories_lens.encode(TEXTS)
    frame = encoding.frame()
    assert list(frame.columns) == ["document", "position", "token", "code"]
    assert len(frame) == int(encoding.mask.sum())
    for line in frame.itertuples():
        assert encoding.codes[line.document, line.position] == line.code
        assert encoding.strings[line.document][line.position] == line.token
    first = frame[frame["document"] == 0]
    assert "".join(first["token"]).strip() == TEXTS[0]
    assert first["position"].tolist() == list(range(1, len(first) + 1))


def test_the_pieces_of_a_long_text_stay_in_order(fitted):
    document = torch.arange(110) % 40
    other = torch.tensor([3, 1, 4])
    encoding = fitted.encode(torch.stack([document, document.flip(0)]), long_texts="split")
    assert encoding.documents == (0, 0, 0, 1, 1, 1)
    for rows, expected in ((slice(0, 3), document), (slice(3, 6), document.flip(0))):
        found = encoding.tokens[rows][encoding.mask[rows]]
        assert found.tolist() == expected.tolist()
    assert fitted.encode(other).documents == (0,)


def test_truncated_texts_are_encoded_from_their_beginning(fitted):
    document = torch.arange(110) % 40
    encoding = fitted.encode(document, long_texts="truncate")
    assert encoding.tokens[0].tolist() == document[:48].tolist()


def test_without_a_tokenizer_tokens_are_called_by_their_ids(fitted):
    assert fitted.encode(torch.tensor([3, 17])).strings == ((" 3", " 17"),)


def test_encoding_changes_nothing(fitted, tokens):
    before = {name: tensor.clone() for name, tensor in fitted.quantizer.state_dict().items()}
    fitted.quantizer.train()
    one, other = fitted.encode(tokens), fitted.encode(tokens)
    assert torch.equal(one.codes, other.codes)
    assert not one.codes.requires_grad
    assert not fitted.quantizer.training
    for name, tensor in fitted.quantizer.state_dict().items():
        assert torch.equal(before[name], tensor)


@pytest.mark.parametrize("progress", [True, False])
def test_a_short_encoding_shows_no_progress_bar(fitted, tokens, capsys, progress: bool):
    fitted.encode(tokens, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_a_long_encoding_shows_progress_only_if_asked_for(fitted, tokens, capsys, monkeypatch):
    monkeypatch.setattr("clvq_lens.concepts.encoding._DELAY_S", 0.0)  # as if it took longer
    fitted.encode(tokens, progress=False)
    assert capsys.readouterr() == ("", "")
    fitted.encode(tokens)
    assert "encode" in capsys.readouterr().err


def test_an_encoding_shows_its_size_in_one_line_and_its_first_tokens_in_html(stories_lens):
    encoding = stories_lens.encode(TEXTS)
    n_tokens, n_used = int(encoding.mask.sum()), len(encoding.codes[encoding.mask].unique())
    line = f"4 rows, {n_tokens} tokens, {n_used} of 16 codes in use"
    assert repr(encoding) == f"Encoding({line})"
    html = encoding._repr_html_()
    assert line in html
    assert html.count("<tr") == 11
    assert f"{n_tokens - 10} more rows" in html


def test_text_from_data_is_escaped_in_html():
    bad = "<script>alert('1')</script>\n&"
    one = torch.zeros(1, 1, dtype=torch.long)
    encoding = Encoding(one, one, one == 0, (0,), ((bad,),), (bad,), ("#000000",))
    html = encoding._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_refusals(model, fitted, tokens):
    with pytest.raises(TextTooLongError, match="49 tokens"):
        fitted.encode(torch.zeros(49, dtype=torch.long), long_texts="error")
    with pytest.raises(EmptyCorpusError, match="no text at all"):
        fitted.encode([])
    with pytest.raises(DataError, match="no tokenizer"):
        fitted.encode("a text")
    fitted.remove()
    with pytest.raises(DetachedError, match="was removed"):
        fitted.encode(tokens)
    with pytest.raises(NotFittedError, match=r"lens\.fit"):
        model.add_clvq(1, 2, n_codes=12).encode(tokens)


def test_activations_that_are_not_finite_are_refused(fitted: cl.Lens, tokens):
    with torch.no_grad():
        fitted.model.blocks[1].mlp.b_out[0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"blocks\.1\.hook_resid_post"):
        fitted.encode(tokens)


def test_a_row_draws_its_tokens_and_codes(stories_lens):
    encoding = stories_lens.encode(TEXTS)
    figure = encoding.plot(2, {int(encoding.codes[2, 1]): "a name"})
    drawn = {
        (bars.legendgroup, line, start)
        for bars in figure.data
        for line, start in zip(bars.y, bars.base, strict=True)
    }
    codes = [int(code) for code in encoding.codes[2, : len(encoding.strings[2])]]
    assert sorted(int(code) for code, *_ in drawn) == sorted(codes)
    assert f"{codes[1]} a name" in {bars.name for bars in figure.data}
    assert encoding.plot(-1) == encoding.plot(3)
    with pytest.raises(PositionError, match=r"no row 4\. Choose 0 to 3, or a negative number"):
        encoding.plot(4)
