"""The contents of a page as plain data."""

import json
from dataclasses import replace

import pytest

import clvq_lens as cl
from clvq_lens.errors import ConfigError
from clvq_lens.page.contents import Contents, ModelFacts, gather
from clvq_lens.page.payload import payload
from tests.page.conftest import N_CODES


@pytest.fixture(scope="module")
def data(contents: Contents) -> dict:
    return payload(contents)


def test_numbers_stand_beside_their_baselines(data, contents):
    tiles = {tile["name"]: tile for tile in data["tiles"]}
    evaluation = contents.evaluation
    assert tiles["FVU"]["value"] == f"{evaluation.fvu:.3g}"
    assert f"{evaluation.fvu_random_codes:.3g}" in tiles["FVU"]["note"]
    assert f"{evaluation.ce_mean_ablated:.3g}" in tiles["cross-entropy, spliced"]["note"]
    assert f"{evaluation.kl_mean_ablated:.3g}" in tiles["KL(clean \u2016 spliced)"]["note"]
    assert tiles["codes in use"]["value"] == str(N_CODES - evaluation.n_dead_codes)


def test_codes_are_those_of_the_table(data, contents):
    assert [code["code"] for code in data["codes"]] == list(range(N_CODES))
    for code, concept in zip(data["codes"], contents.concepts, strict=True):
        assert code["usage"] == concept.usage
        assert [token[0] for token in code["tokens"]] == [t.text for t in concept.tokens]
        for kind in ("typical", "borderline", "random"):
            assert [row[2:5] for row in code[kind]] == [
                [e.before, e.token, e.after] for e in getattr(concept, kind)
            ]
        for vector in ("at_target", "direct"):
            said, shown = getattr(concept, vector), code[vector]
            if vector == "at_target" and concept.usage < data["read_out_from"]:
                said = None
            assert (said is None) == (shown is None)
            if said is not None:
                assert [row[0] for row in shown["promoted"]] == [t.token for t in said.promoted]
                assert [row[0] for row in shown["suppressed"]] == [t.token for t in said.suppressed]


def test_texts_have_a_code_for_every_token_in_every_layer(data, contents):
    assert [layer["name"] for layer in data["layers"]] == ["0-1", "2-3"]
    assert [layer["own"] for layer in data["layers"]] == [True, False]
    assert len(data["texts"]) == 10
    piece = data["texts"][3]["pieces"][0]
    n = len(contents.layers[0].encoding.strings[3])
    assert len(piece["tokens"]) == n
    for layer, codes in zip(contents.layers, piece["codes"], strict=True):
        assert codes == layer.encoding.codes[3, :n].tolist()
        assert codes[0] == -1  # BOS has no concept


def test_codes_of_another_quantizer_are_named_by_their_commonest_tokens(data, contents):
    encoding = contents.layers[1].encoding
    code = next(code for code in encoding.codes[0].tolist() if code >= 0)
    strings = [
        string
        for row, codes in zip(encoding.strings, encoding.codes.tolist(), strict=True)
        for string, its_code in zip(row, codes, strict=False)
        if its_code == code
    ]
    most = max(strings.count(string) for string in strings)
    first = next(string for string in dict.fromkeys(strings) if strings.count(string) == most)
    assert data["layers"][1]["names"][str(code)].startswith(first.strip())


def test_the_heading_is_what_the_model_is_and_then_where_it_came_from(data, contents):
    n_parameters = contents.model.n_parameters
    assert data["model"] == f"HookedTransformer \u00b7 {n_parameters / 1e3:.0f}K"
    assert data["about_model"] == (
        f'HookedTransformer from <img src="x" onerror="window.pwned=8">: {n_parameters:,} '
        f"parameters, 4 blocks of width 16, 33 tokens in the vocabulary"
    )
    llama = ModelFacts(
        name="smol", kind="LlamaForCausalLM", n_parameters=6_900_000_000, n_layers=2, d_model=8,
        d_vocab=9,
    )  # fmt: skip
    assert payload(replace(contents, model=llama))["model"] == "Llama \u00b7 6.9B"


def test_every_layer_has_the_colors_of_its_codebook(data, contents):
    first, second = contents.layers
    assert data["colors"] == list(first.encoding.colors)
    assert data["layers"][1]["colors"] == list(second.encoding.colors)
    assert len(set(data["colors"])) == N_CODES


def test_paths_say_how_far_their_counts_may_be_off(data, contents):
    assert "at_most" not in data["flow"]["paths"]["columns"]  # all paths were counted
    flow = replace(contents.flow, path_error=3)
    paths = payload(replace(contents, flow=flow))["flow"]["paths"]
    count, at_most = (paths["columns"].index(name) for name in ("count", "at_most"))
    assert all(row[at_most] == row[count] + 3 for row in paths["rows"])


def test_the_neighborhood_of_a_code_is_what_its_tokens_go_on_to(data, contents):
    [after] = data["flow"]["neighbors"]
    assert (after["stage"], after["comes"], after["are_codes"]) == ("2-3", "after", True)
    frame = contents.flow.frame()
    for code, rows in after["codes"].items():
        expected = frame[frame["code"] == int(code)].set_index("next_code")["count"]
        assert [count for _, count in rows] == expected.tolist()[:12]
        assert all(expected[node] == count for node, count in rows)


def test_the_reader_chooses_among_diagrams_of_the_flow(data, contents):
    names = [name for name, _ in data["flow"]["choices"]]
    assert names == ["flow", "flow_classes", "flow_token_labels", "flow_names"]
    assert set(names) <= set(data["figures"])


def test_what_fewer_than_ten_tokens_promote_is_left_out(contents):
    table = contents.concepts
    code = next(concept.code for concept in table if concept.usage >= 10)
    concepts = [replace(c, usage=9) if c.code == code else c for c in table]
    rare = replace(contents, concepts=replace(table, concepts=tuple(concepts)))
    assert payload(contents)["codes"][code]["at_target"] is not None
    assert payload(rare)["codes"][code]["at_target"] is None


def test_a_text_in_pieces_stays_one_text(toy):
    lens = toy.model.add_clvq(1, 2, n_codes=8)
    try:
        lens.fit(toy.texts[:60], n_tokens=2_000, progress=False)
        long = " ".join(toy.texts[:12])
        texts = [long, toy.texts[0]]
        contents = gather(lens.attachment, texts, long_texts="split", progress=False)
    finally:
        lens.remove()
    texts = payload(contents)["texts"]
    assert [text["document"] for text in texts] == [0, 1]
    assert len(texts[0]["pieces"]) > 1
    tokens = "".join(token for piece in texts[0]["pieces"] for token in piece["tokens"])
    assert tokens.replace("<bos>", "").split() == long.split()
    assert " ".join(piece["text"] for piece in texts[0]["pieces"]) == long


def test_data_that_can_be_read_once_are_read_for_every_part(toy_fit):
    contents = gather(toy_fit.attachment, iter(cl.toy.generate(9, seed=5)), progress=False)
    n_tokens = contents.concepts.n_tokens
    assert n_tokens == contents.evaluation.n_tokens == contents.flow.n_tokens
    assert len(contents.layers[0].encoding.documents) == 9


def test_what_was_computed_before_is_not_computed_again(toy_fit, monkeypatch):
    texts = cl.toy.generate(5, seed=5)
    concepts = toy_fit.concepts(texts, progress=False).named(lambda examples: "a name")
    evaluation = toy_fit.evaluate(texts, progress=False)
    monkeypatch.setattr("clvq_lens.concepts.survey.concepts", None)
    monkeypatch.setattr("clvq_lens.page.contents.evaluate", None)
    contents = gather(
        toy_fit.attachment, texts, concepts=concepts, evaluation=evaluation, progress=False
    )
    assert contents.concepts is concepts
    assert contents.evaluation is evaluation
    assert "a name" in {code["name"] for code in payload(contents)["codes"]}


def test_nothing_that_json_lacks_is_in_it(data, contents):
    json.dumps(data, allow_nan=False)
    broken = replace(contents, concepts=replace(contents.concepts, token_entropy=float("nan")))
    assert payload(broken)["token_entropy"] is None


def test_the_history_and_the_fit_are_left_out_where_unknown(contents):
    data = payload(replace(contents, history=None))
    assert "history" not in data["figures"]
    assert "Course of the fit" not in {part["title"] for part in data["settings"]}
    config = cl.FitConfig(n_tokens=123_456)
    parts = {part["title"]: part for part in payload(replace(contents, config=config))["settings"]}
    assert ["n_tokens", "123,456"] in parts["Fit"]["rows"]


def test_a_page_needs_a_text(toy_fit):
    with pytest.raises(ConfigError, match="n_texts is 0; pass a whole number from 1"):
        gather(toy_fit.attachment, ["we"], n_texts=0)


def test_a_part_that_is_ended_early_ends_the_page(toy_fit, monkeypatch, ctrl_c):
    original = type(toy_fit.host).activations

    def interrupted(*arguments: object) -> object:
        ctrl_c()
        return original(*arguments)

    monkeypatch.setattr(type(toy_fit.host), "activations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gather(toy_fit.attachment, cl.toy.generate(3, seed=1), progress=False)
