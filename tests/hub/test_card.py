"""The model card: metadata for the Hub, numbers with their baselines, text that is only text."""

import dataclasses
import re
from html import unescape
from typing import Any

import pytest
from huggingface_hub import ModelCard

from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.evaluation.recovery import Recovered, Recovery
from clvq_lens.hub.card import _as_code, _escaped, card
from clvq_lens.quantizer.cross_layer import CrossLayerQuantizer
from clvq_lens.stats.estimates import Estimate
from tests.quantizer.test_files import make

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "a|b",
    "`](javascript:alert(1))`",
    "\\|`<b>`",
    "```\n# heading\n- item",
    "![x](https://evil.example/x.png)",
    "&lt;script&gt;",
    "---\nlicense: none\n---",
    "\ud800 {{ 7 * 7 }}",
]


def fitted(**changes: Any) -> CrossLayerQuantizer:
    """A fitted quantizer whose origin has other values."""
    quantizer = make()
    assert quantizer.origin is not None
    quantizer.origin = dataclasses.replace(quantizer.origin, **changes)
    return quantizer


def metadata(text: str) -> dict[str, Any]:
    """As the Hub's client finds them."""
    return ModelCard(text).data.to_dict()


def evaluation(**changes: Any) -> Evaluation:
    values: dict[str, Any] = {field.name: None for field in dataclasses.fields(Evaluation)}
    counts = {"n_codes": 4, "n_tokens": 1234, "n_documents": 56, "n_dead_codes": 1}
    counts |= {"n_outliers": 3, "fvu_median": 0.08}
    values |= {**counts, "perplexity": 3.25, "fvu": Estimate(0.12345, 0.1, 0.15)}
    values |= {"fvu_random_codes": Estimate(0.9, 0.8, 1.0), "kl": Estimate(0.01, 0.0, 0.02)}
    return Evaluation(**{**values, **changes})


def cells(text: str) -> list[list[str]]:
    """Rows of all tables, as a reader sees them."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[unescape(cell.strip()) for cell in row.strip("|").split("|")] for row in rows]


def test_metadata_say_what_the_hub_asks_for():
    data = metadata(card(fitted(model_name="EleutherAI/pythia-70m"), "user/x", license="mit"))
    assert data["library_name"] == "clvq-lens"
    assert data["base_model"] == "EleutherAI/pythia-70m"
    assert data["license"] == "mit"
    assert {"clvq-lens", "interpretability", "transformer-lens"} <= set(data["tags"])


@pytest.mark.parametrize("name", ["gpt2", "/home/me/model", "a/b/c", "a/b\nlicense: none", "../x"])
def test_a_name_that_is_no_repository_is_no_base_model(name: str):
    data = metadata(card(fitted(model_name=name), "user/x"))
    assert set(data) == {"library_name", "tags"}


def test_hostile_metadata_stay_values():
    data = metadata(card(fitted(), "user/x", license="mit\n---\n# x"))
    assert data["license"] == "mit\n---\n# x"


def test_the_card_shows_how_to_load_and_where_it_belongs():
    text = card(fitted(source="blocks.1.hook_resid_post", model_name="tiny-2"), "user/x")
    assert 'lens = model.add_clvq(quantizer=cl.load("user/x"))' in text
    assert "`blocks.1.hook_resid_post`" in text
    assert ["`model_name`", "`tiny-2`"] in cells(text)
    assert ["`n_codes`", "`4`"] in cells(text)
    assert ["`training tokens of the last pass`", "`27`"] in cells(text)
    assert ["`codes that they chose`", "`3`"] in cells(text)
    assert "## Limits" in text
    assert "\n\n\n" not in text


def test_an_unknown_origin_is_said_to_be_unknown():
    quantizer = make()
    quantizer.origin = None
    text = card(quantizer, "user/x")
    assert "## Where it was fitted\n\nNot recorded.\n" in text
    assert "None" not in text


def test_without_an_evaluation_the_card_says_that_nothing_is_known():
    text = card(fitted(), "user/x")
    assert "No evaluation was given" in text
    assert "fvu" not in text


def test_an_evaluation_is_shown_with_intervals_and_baselines():
    text = card(fitted(), "user/x", evaluation=evaluation())
    assert "On 1234 tokens of 56 documents" in text
    rows = {row[0]: row for row in cells(text)}
    assert rows["`fvu`"][1:3] == ["0.1235", "0.1 to 0.15"]
    assert rows["`fvu_random_codes`"][1:3] == ["0.9", "0.8 to 1"]
    assert rows["`perplexity`"][1:3] == ["3.25", ""]
    assert rows["`kl`"][3] == "KL(clean || spliced) of what the model predicts, nats per token"
    assert "`ce_clean`" not in rows
    assert "No evaluation" not in text


def test_recovery_is_shown():
    recovery = Recovery((Recovered("codes", "all", 99, 0.4, 0.5, 0.75),))
    assert ["codes", "all", "99", "0.4", "0.5", "0.75"] in cells(
        card(fitted(), "user/x", evaluation=evaluation(recovery=recovery))
    )
    assert "Recovery of known concepts" not in card(fitted(), "user/x", evaluation=evaluation())


def test_a_decoder_that_sees_the_encoder_is_pointed_out():
    assert "can be bypassed" in card(make(decoder_memory="encoder"), "user/x")
    assert "can be bypassed" not in card(make(), "user/x")


def test_the_same_quantizer_has_the_same_card():
    assert card(fitted(), "user/x", evaluation=evaluation()) == card(
        fitted(), "user/x", evaluation=evaluation()
    )


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["model_name", "source", "target"])
def test_text_from_data_is_only_text(text: str, field: str):
    plain, hostile = (card(fitted(**{field: value}), "user/x") for value in ("plain", text))
    assert len(hostile.splitlines()) == len(plain.splitlines())
    assert [len(row) for row in cells(hostile)] == [len(row) for row in cells(plain)]
    outside = re.sub(r"<code>[A-Za-z0-9 .,;:/%()+=&#-]*</code>|`[\w ./:,+=@()-]+`", "", hostile)
    assert outside == re.sub(r"`[\w ./:,+=@()-]+`", "", plain)
    hostile.encode()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_reader_sees_the_text(text: str):
    seen = " ".join(text.replace("\ud800", "\ufffd").split())
    assert unescape(_as_code(text)) in (f"<code>{seen}</code>", f"`{seen}`")
    assert unescape(_escaped(text)) == seen
    assert not set("<>|`[]*_\\!") & set(_escaped(text))


def test_plain_text_stays_readable():
    assert _as_code("blocks.0.hook_resid_post") == "`blocks.0.hook_resid_post`"
    assert _as_code("meta-llama/Llama-3.2-1B") == "`meta-llama/Llama-3.2-1B`"
