"""`lens.report`: one call, one page."""

import json
import re

import pytest

import clvq_lens as cl
from clvq_lens.errors import ConfigError, DataError, NotFittedError, PathError

QUIET = {"n_examples": 2, "progress": False}


def data_of(page) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text())[1])


def test_report_writes_a_page_and_says_where(toy_fit, tmp_path):
    texts = cl.toy.generate(12, seed=6)
    page = toy_fit.report(texts, tmp_path / "report.html", n_texts=5, **QUIET)
    assert page == tmp_path / "report.html"
    data = data_of(page)
    assert data["title"] == (
        "toy-world: concepts from blocks.1.hook_resid_post to blocks.3.hook_resid_post"
    )
    assert len(data["codes"]) == 16
    assert len(data["texts"]) == 5
    assert data["n_tokens"] == toy_fit.concepts(texts, progress=False).n_tokens
    assert "history" not in data["figures"]


def test_labels_reach_concepts_flow_and_evaluation(toy_fit, tmp_path):
    texts = cl.toy.generate(6, seed=6)
    page = toy_fit.report(
        texts, tmp_path / "r.html", token_labels=cl.toy.token_labels(texts), **QUIET
    )
    data = data_of(page)
    assert any(code["token_labels"] for code in data["codes"])
    assert data["flow"]["agreement"] is not None
    agreement = data["evaluation"]["agreement"]
    assert [row[agreement["columns"].index("method")] for row in agreement["rows"]] == [
        "codes", "token identity",
    ]  # fmt: skip
    assert data["evaluation"]["recovery"] is not None


def test_names_of_a_table_are_on_the_page(toy_fit, tmp_path):
    texts = cl.toy.generate(6, seed=6)
    table = toy_fit.concepts(texts, progress=False).named(lambda examples: "named by me")
    page = toy_fit.report(texts, tmp_path / "r.html", concepts=table, **QUIET)
    assert "named by me" in {code["name"] for code in data_of(page)["codes"]}


def test_a_page_of_tokens_needs_no_tokenizer(fitted, tokens, tmp_path):
    data = data_of(fitted.report(tokens, tmp_path / "r.html", **QUIET))
    assert data["texts"][0]["pieces"][0]["tokens"] == [f" {t}" for t in tokens[0].tolist()]


def test_the_path_is_checked_before_anything_is_computed(toy_fit, tmp_path):
    with pytest.raises(PathError, match="is a folder"):
        toy_fit.report(["no such words"], tmp_path, **QUIET)


def test_a_lens_that_was_not_fitted_has_nothing_to_report(model, tmp_path):
    with pytest.raises(NotFittedError):
        model.add_clvq(1, 2).report(["a"], tmp_path / "r.html")


def test_labels_that_do_not_fit_write_no_page(toy_fit, tmp_path):
    with pytest.raises(DataError, match="Document 0 has"):
        toy_fit.report(["we painters"], tmp_path / "r.html", token_labels=[["x"]], **QUIET)
    assert list(tmp_path.iterdir()) == []


def test_what_was_computed_before_is_on_the_page(toy_fit, tmp_path, monkeypatch):
    texts = cl.toy.generate(6, seed=6)
    evaluation = toy_fit.evaluate(texts, metrics=["fvu", "ce"], progress=False)
    flow = cl.concept_flow(toy_fit.model, texts, progress=False)
    for verb in ("evaluate", "concept_flow"):
        monkeypatch.setattr(f"clvq_lens.page.contents.{verb}", None)
    page = toy_fit.report(texts, tmp_path / "r.html", evaluation=evaluation, flow=flow, **QUIET)
    data = data_of(page)
    tiles = {tile["name"]: tile for tile in data["tiles"]}
    assert tiles["FVU"]["value"] == f"{evaluation.fvu:.3g}"
    assert "random codes" not in tiles["FVU"]["note"]  # nobody asked for them
    assert data["evaluation"]["left_out"] == evaluation.left_out
    assert "KL" not in " ".join(tiles)


def test_what_was_computed_with_another_lens_is_refused(toy_fit, tmp_path):
    texts, path = cl.toy.generate(6, seed=6), tmp_path / "r.html"
    model = cl.toy.load(n_texts=1)[0]
    other = model.add_clvq(1, 3, n_codes=8, name="other")
    other.fit(texts, n_tokens=500, progress=False)
    with pytest.raises(ConfigError, match=r"evaluation has 8 codes, and .* has 16\. Pass what"):
        toy_fit.report(texts, path, evaluation=other.evaluate(texts, progress=False), **QUIET)
    with pytest.raises(ConfigError, match=r"concepts has 8 codes, and .* has 16\. Pass what"):
        toy_fit.report(texts, path, concepts=other.concepts(texts, progress=False), **QUIET)
    flow = cl.concept_flow(model, texts, progress=False)
    with pytest.raises(ConfigError, match=r"flow goes through \['other'\], and the model has"):
        toy_fit.report(texts, path, flow=flow, **QUIET)
    assert list(tmp_path.iterdir()) == []
