"""The flow of one text: its codes at every quantizer, and the effects of ablating them."""

import numpy as np
import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import ConfigError, DataError
from tests.conftest import random_model
from tests.interventions.lenses import difference, fitted_lens

TEXT = torch.randint(0, 40, (12,), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def chain():
    model = random_model()
    for source in (2, 0):
        fitted_lens(model, source, source + 1)
    return model


def test_every_token_has_its_code_at_every_quantizer(chain):
    flow = cl.sentence_flow(chain, TEXT)
    assert flow.quantizers == ("0-1", "2-3")
    for codes, name in zip(flow.codes, flow.quantizers, strict=True):
        assert codes.tolist() == chain.clvqs[name].encode(TEXT).codes[0].tolist()
    frame = flow.frame({"0-1": {code: f"name {code}" for code in range(12)}})
    assert len(frame) == 24
    assert frame["position"].tolist() == [*range(12), *range(12)]
    assert frame["token"].tolist()[:2] == [f" {TEXT[0]}", f" {TEXT[1]}"]
    assert frame["name"][0] == f"name {frame['code'][0]}"
    assert frame["name"].tolist()[12:] == [""] * 12
    assert "effect" not in frame


def test_effects_are_those_of_ablating_that_code_at_that_position(chain):
    flow = cl.sentence_flow(chain, TEXT, metric=difference, progress=False)
    frame = flow.frame().set_index(["quantizer", "position"])
    for quantizer, position in (("0-1", 3), ("2-3", 7), ("2-3", 11)):
        code = int(frame.loc[(quantizer, position), "code"])
        with torch.no_grad():
            clean = difference(chain(TEXT[None]))
            with chain.clvqs[quantizer].edit(cl.Ablate(code, at=position)):
                change = difference(chain(TEXT[None])) - clean
        found = frame.loc[(quantizer, position), "effect"]
        assert found == pytest.approx(float(change), abs=1e-5)
        sweep = cl.ablation_sweep(
            chain.clvqs[quantizer], TEXT, difference, by_position=True, progress=False
        ).frame()
        [control] = sweep[sweep["position"] == position]["control"]
        assert frame.loc[(quantizer, position), "control"] == control
    assert flow.metric == "difference"


def test_it_shows_how_many_tokens_and_the_largest_effect(chain):
    assert repr(cl.sentence_flow(chain, TEXT)) == "SentenceFlow(12 tokens at 0-1, 2-3)"
    flow = cl.sentence_flow(chain, TEXT, metric=difference, progress=False)
    row = flow.frame().sort_values("effect", key=np.abs).iloc[-1]
    assert repr(flow) == (
        f"SentenceFlow(12 tokens at 0-1, 2-3; largest effect on difference: {row['effect']:+.3g} "
        f"by code {row['code']} of {row['quantizer']} at position {row['position']})"
    )
    assert "14 more rows" in flow._repr_html_()


def test_what_it_shows_is_one_line_and_escaped():
    flow = cl.SentenceFlow(("<b>\nbold",), ("<script>", "word"), np.array([[3, 4]]))
    assert repr(flow) == "SentenceFlow(2 tokens at <b> bold)"
    html = flow._repr_html_()
    assert "&lt;script&gt;" in html
    assert html.count("&lt;b&gt;") == 3  # in the line, and in the table for each token
    assert "<script>" not in html


def test_effects_are_measured_with_a_progress_bar_unless_none_is_wanted(chain, capsys):
    cl.sentence_flow(chain, TEXT, metric=difference, progress=False)
    assert capsys.readouterr().err == ""
    cl.sentence_flow(chain, TEXT, metric=difference)
    assert "100%" in capsys.readouterr().err


def test_special_tokens_have_no_code_and_no_effect(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(texts[:60], n_tokens=2_000, progress=False)
        flow = cl.sentence_flow(
            model, "yesterday at dawn we bakers", metric=cl.kl(), progress=False
        )
    finally:
        lens.remove()
    assert [token.strip() for token in flow.tokens[1:3]] == ["yesterday", "at"]
    assert flow.codes[0, 0] == -1
    assert (flow.codes[0, 1:] >= 0).all()
    assert np.isnan(flow.effects[0, 0])
    assert np.isfinite(flow.effects[0, 1:]).all()


def test_more_than_one_text_and_no_quantizer_are_refused(chain, model):
    with pytest.raises(DataError, match=r"There are 2 texts, .* Pass texts\[0\]"):
        cl.sentence_flow(chain, TEXT.view(2, 6))
    with pytest.raises(ConfigError, match="this model has none"):
        cl.sentence_flow(model, TEXT)
