"""`lens.report`: one call, one page."""

import json
import re

import pytest

import clvq_lens as cl
from clvq_lens.errors import DataError, NotFittedError, PathError

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
