"""Concepts as Neuronpedia takes them: the bodies that version 1.2.1 of its library would send."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import clvq_lens as cl
from clvq_lens.concepts.concept import Example
from clvq_lens.concepts.table import ConceptTable
from clvq_lens.errors import ConfigError, PathTakenError
from tests.concepts.test_table import EMPTY, TABLE, concept, example

NAMES = {"model_id": "toy-world", "source": "2-clvq-24"}


def written(table: ConceptTable, folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in table.to_neuronpedia(folder, **NAMES)]


def with_one_example(one: Example) -> ConceptTable:
    only = replace(concept(0), typical=(one,), borderline=(), random=())
    return replace(TABLE, concepts=(only,))


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_body(body: dict[str, Any]) -> None:
    """The fields of a request as the library builds it, checked by hand: all of them, no other."""
    assert set(body) == {"modelId", "source", "features"}
    assert 1 <= len(body["features"]) <= 128
    for feature in body["features"]:
        assert set(feature) == {
            *("index", "density", "activations", "explanations", "topLogits", "bottomLogits")
        }
        assert type(feature["index"]) is int
        assert 0 <= feature["density"] <= 1
        for logits in (feature["topLogits"], feature["bottomLogits"]):
            for logit in logits or []:
                assert set(logit) == {"token", "value"}
                assert isinstance(logit["token"], str)
                assert is_number(logit["value"])
        for explanation in feature["explanations"]:
            assert set(explanation) == {"text", "methodName", "modelName"}
        for activation in feature["activations"]:
            quantiles = {"quantileMax", "quantileMin", "quantileFraction"}
            assert set(activation) == {"tokens", "values", *quantiles}
            assert len(activation["tokens"]) == len(activation["values"])
            assert all(isinstance(token, str) for token in activation["tokens"])
            assert all(is_number(value) and value >= 0 for value in activation["values"])
            assert sum(value > 0 for value in activation["values"]) == 1


def sent_by_the_library(body: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the library itself makes of the same features; its classes are the schema."""
    pytest.importorskip("neuronpedia", reason="Neuronpedia's library is not installed")
    from neuronpedia.np_activation import Activation
    from neuronpedia.np_explanation import Explanation
    from neuronpedia.np_feature import Feature, Logit
    from neuronpedia.requests.feature_request import FeatureRequest

    features = []
    for given in body["features"]:
        place = {"modelId": body["modelId"], "source": body["source"], "index": given["index"]}
        feature = Feature(**place, density=given["density"])
        if given["topLogits"] is not None:
            feature.top_logits = [Logit(**logit) for logit in given["topLogits"]]
            feature.bottom_logits = [Logit(**logit) for logit in given["bottomLogits"]]
        feature.activations = [Activation(**place, **one) for one in given["activations"]]
        feature.explanations = [
            Explanation(**place, text=one["text"]) for one in given["explanations"]
        ]
        features.append(feature)
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(FeatureRequest, "send_request", lambda self, **told: sent.append(told))
    FeatureRequest(api_key="none").upload_batch(body["modelId"], body["source"], features)
    assert sent[0]["method"] == "POST"
    assert sent[0]["uri"] == "upload-batch"
    return sent[0]["json"]


def test_a_table_of_the_toy_world_has_the_fields_of_a_request(toy, tmp_path, monkeypatch):
    options = {"n_codes": 140, "encoder": "residual", "decoder": "table"}
    lens = toy.model.add_clvq(0, 2, name="to neuronpedia", **options)
    try:
        lens.fit(toy.texts[:50], n_tokens=2_000, n_evaluations=1, progress=False)
        table = lens.concepts(toy.texts[:20], progress=False).named()
    finally:
        lens.remove()
    bodies = written(table, tmp_path)
    assert [len(body["features"]) for body in bodies] == [128, 12]
    for body in bodies:
        check_body(body)
    indices = [feature["index"] for body in bodies for feature in body["features"]]
    assert indices == list(range(140))


def test_the_library_would_send_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for body in written(TABLE.named(), tmp_path):
        assert sent_by_the_library(body, monkeypatch) == body


def test_a_code_says_what_it_is(tmp_path: Path):
    table = replace(TABLE, concepts=(concept(0).named("<b>cats</b> & co"), EMPTY))
    used, unused = written(table, tmp_path)[0]["features"]
    check_body(written(table, tmp_path)[0])
    assert used["density"] == 0.1
    assert used["topLogits"] == [{"token": "cats", "value": 2.5}]
    assert used["bottomLogits"] == [{"token": "the", "value": -1.5}]
    assert used["explanations"][0]["text"] == "<b>cats</b> & co"  # the site escapes what it shows
    assert unused["density"] == 0
    assert unused["activations"] == unused["explanations"] == []
    assert unused["topLogits"] is None


def test_the_token_with_the_code_has_the_value_and_its_words_are_all_there(tmp_path: Path):
    one = replace(example(" cat\n"), before="\nthe  old", after=" sat. ", distance=3.0)
    table = replace(
        TABLE, concepts=(replace(concept(0), typical=(one,), borderline=(), random=()),)
    )
    [activation] = written(table, tmp_path)[0]["features"][0]["activations"]
    assert activation["tokens"] == ["\nthe", "  old", " cat\n", " sat.", " "]
    assert activation["values"] == [0, 0, 0.25, 0, 0]


@pytest.mark.parametrize(("distance", "value"), [(0.0, 1.0), (1.0, 0.5), (-2.5, 3.5)])
def test_nearer_tokens_and_stronger_features_have_larger_values(tmp_path, distance, value):
    one = replace(example(), distance=distance)
    table = replace(
        TABLE, concepts=(replace(concept(0), typical=(one,), borderline=(), random=()),)
    )
    [activation] = written(table, tmp_path)[0]["features"][0]["activations"]
    assert max(activation["values"]) == value


def test_an_example_of_two_kinds_is_there_once(tmp_path: Path):
    one = replace(concept(0), typical=(example(),), borderline=(example(),), random=(example(),))
    feature = written(replace(TABLE, concepts=(one,)), tmp_path)[0]["features"][0]
    assert len(feature["activations"]) == 1


def test_files_of_a_larger_table_are_not_mixed_with_these(tmp_path: Path):
    many = replace(TABLE, concepts=tuple(concept(code) for code in range(130)))
    assert len(many.to_neuronpedia(tmp_path, **NAMES)) == 2
    assert len(many.to_neuronpedia(tmp_path, **NAMES)) == 2  # written again, in their place
    with pytest.raises(PathTakenError, match=r"features-000128.json is of another table"):
        TABLE.to_neuronpedia(tmp_path, **NAMES)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"model_id": "openai/gpt2"}, r"model_id is 'openai/gpt2'; pass the one"),
        ({"source": "clvq"}, r"source is 'clvq'.*such as '8-clvq-400': a layer"),
        ({"source": "8-my codes"}, r"source is '8-my codes'"),
    ],
)
def test_names_that_neuronpedia_cannot_have_are_refused(tmp_path, names, message):
    with pytest.raises(ConfigError, match=message):
        TABLE.to_neuronpedia(tmp_path, **{**NAMES, **names})
    assert not list(tmp_path.iterdir())


def test_it_is_a_method_of_the_public_table():
    assert "1.2.1" in (cl.ConceptTable.to_neuronpedia.__doc__ or "")
