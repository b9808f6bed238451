"""Concept flow against brute force, small tables worked by hand, and the toy world."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import ConfigError, DataError, EmptyCorpusError, NotFittedError
from clvq_lens.flow.steps import FlowStage, flow_step, shuffled_entropy
from clvq_lens.stats.agreement import agreement, shuffled
from clvq_lens.stats.metrics import entropy
from clvq_lens.stats.tally import Tally
from tests.conftest import random_model
from tests.interventions.lenses import fitted_lens

DATA = torch.randint(0, 40, (8, 16), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def chain():
    model = random_model()
    for source, target in ((0, 2), (1, 2), (2, 3)):  # the first two overlap
        fitted_lens(model, source, target)
    return model


@pytest.fixture(scope="module")
def flow(chain):
    return cl.concept_flow(chain, DATA, progress=False)


def codes_of(model, name, data=DATA):
    encoding = model.clvqs[name].encode(data)
    return encoding.codes[encoding.mask].tolist()


def step_of(table):
    """A step between codes from a table of counts, [code, next code]."""
    table = np.array(table)
    tally = Tally(*table.shape)
    for code, following in np.ndindex(*table.shape):
        pair = np.full((2, table[code, following]), [[code], [following]])
        tally.add(*pair)
    stages = [
        FlowStage(name, "codes", np.flatnonzero(sums), sums[sums > 0])
        for name, sums in (("0-1", table.sum(1)), ("1-2", table.sum(0)))
    ]
    return flow_step(*stages, tally, seed=0)


def events_of(table):
    events = step_of(table).events()
    columns = [events[name].tolist() for name in ("event", "codes", "next_codes", "n_tokens")]
    return sorted(zip(*columns, strict=True))


# ---- against brute force -------------------------------------------------------------------------


def test_stages_stand_in_order_of_depth_without_ends_where_there_are_several(flow):
    assert [stage.name for stage in flow.stages] == ["0-2", "1-2", "2-3"]
    assert {stage.kind for stage in flow.stages} == {"codes"}


def test_rows_count_codes_at_the_same_token(chain, flow):
    frame = flow.frame()
    assert list(frame["count"]) == sorted(frame["count"], reverse=True)
    for source, target in (("0-2", "1-2"), ("1-2", "2-3")):
        first, second = codes_of(chain, source), codes_of(chain, target)
        pairs, here, there = (
            Counter(zip(first, second, strict=True)),
            Counter(first),
            Counter(second),
        )
        rows = frame[(frame["source"] == source) & (frame["target"] == target)]
        assert len(rows) == len(pairs)
        for row in rows.itertuples():
            assert row.count == pairs[row.code, row.next_code]
            assert row.share == row.count / here[row.code]
            assert row.back_share == row.count / there[row.next_code]
            assert row.expected == pytest.approx(here[row.code] * there[row.next_code] / 128)
            assert row.lift == pytest.approx(row.count / row.expected)


def test_stages_count_their_nodes(chain, flow):
    for stage in flow.stages:
        counts = Counter(codes_of(chain, stage.name))
        assert dict(zip(stage.nodes.tolist(), stage.n_tokens.tolist(), strict=True)) == counts
        assert stage.n_nodes == len(counts)


def test_paths_are_those_of_the_tokens(chain, flow):
    paths = Counter(zip(*(codes_of(chain, name) for name in ("0-2", "1-2", "2-3")), strict=True))
    frame = flow.paths(5)
    assert list(frame["count"]) == [count for _, count in paths.most_common(5)]
    for row in frame.to_dict("records"):
        assert row["count"] == row["at_most"] == paths[row["0-2"], row["1-2"], row["2-3"]]
        assert row["share"] == row["count"] / 128
    assert len(flow.paths(10_000)) == len(paths)


def test_a_single_quantizer_stands_between_the_token_and_the_prediction():
    model = random_model()
    lens = fitted_lens(model, 1, 2)
    flow = cl.concept_flow(model, DATA, progress=False)
    assert [(stage.name, stage.kind) for stage in flow.stages] == [
        ("token", "token"),
        ("1-2", "codes"),
        ("prediction", "prediction"),
    ]
    predicted = model(DATA).argmax(-1).flatten().tolist()
    codes, tokens = lens.encode(DATA).codes.flatten().tolist(), DATA.flatten().tolist()
    frame = flow.frame().set_index(["source", "code", "next_code"])["count"]
    assert frame["token"].to_dict() == Counter(zip(tokens, codes, strict=True))
    assert frame["1-2"].to_dict() == Counter(zip(codes, predicted, strict=True))


def test_a_node_that_is_a_token_has_its_text_and_its_id(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(texts[:60], n_tokens=2_000, progress=False)
        flow = cl.concept_flow(model, texts[:20], progress=False)
    finally:
        lens.remove()
    words = Counter(word for text in texts[:20] for word in text.split())
    frame = flow.frame()
    first = frame[frame["source"] == "token"]
    assert first.groupby("text")["count"].sum().rename(str.strip).to_dict() == words
    ids = first.drop_duplicates("code")
    assert [model.to_single_token(text) for text in ids["text"]] == ids["code"].tolist()
    assert set(first["next_text"]) == {""}
    paths = flow.paths(3)
    assert list(paths.columns)[:5] == ["token", "token_id", "1-2", "prediction", "prediction_id"]
    assert model.to_single_token(paths["token"][0]) == paths["token_id"][0]


def test_special_tokens_and_padding_are_not_counted(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(texts[:60], n_tokens=2_000, progress=False)
        flow = cl.concept_flow(model, texts[:50], progress=False)
        one_by_one = [cl.concept_flow(model, [t], progress=False).frame() for t in texts[:50]]
    finally:
        lens.remove()
    assert flow.n_tokens == sum(len(text.split()) for text in texts[:50])
    keys = ["source", "code", "next_code"]
    expected = pd.concat(one_by_one).groupby(keys)["count"].sum()
    pd.testing.assert_series_equal(flow.frame().set_index(keys)["count"].sort_index(), expected)


def test_ends_can_be_asked_for_and_left_out(chain):
    flow = cl.concept_flow(chain, DATA, ends=True, progress=False)
    names = ["token", "0-2", "1-2", "2-3", "prediction"]
    assert [stage.name for stage in flow.stages] == names
    model = random_model()
    fitted_lens(model, 1, 2)
    with pytest.raises(ConfigError, match=r"nothing that flows\. Pass ends=True"):
        cl.concept_flow(model, DATA, ends=False)


def test_a_model_that_sees_later_tokens_predicts_none():
    model = random_model(attention_dir="bidirectional")
    fitted_lens(model, 1, 2)
    flow = cl.concept_flow(model, DATA, progress=False)
    assert [stage.name for stage in flow.stages] == ["token", "1-2"]


def test_the_graph_holds_what_the_table_holds(flow):
    graph, frame = flow.to_networkx(), flow.frame()
    assert graph.number_of_edges() == len(frame)
    row = frame.iloc[0]
    edge = graph.edges[(row["source"], row["code"]), (row["target"], row["next_code"])]
    assert edge == row[["count", "share", "back_share", "expected", "lift"]].to_dict()
    for stage in flow.stages:
        for node, n_tokens in zip(stage.nodes.tolist(), stage.n_tokens.tolist(), strict=True):
            assert graph.nodes[stage.name, node] == {"n_tokens": n_tokens}


def test_nodes_of_the_graph_that_are_tokens_have_their_text():
    model = random_model()
    fitted_lens(model, 1, 2)
    graph = cl.concept_flow(model, DATA, progress=False).to_networkx()
    assert graph.nodes["token", int(DATA[0, 0])]["text"] == str(int(DATA[0, 0]))


# ---- by hand -------------------------------------------------------------------------------------


def test_mutual_information_and_lift_of_a_table_worked_by_hand():
    step = step_of([[4, 0], [2, 2]])
    # H(3/4, 1/4) + H(1/2, 1/2) - H(1/2, 1/4, 1/4)
    assert step.mutual_information == pytest.approx(1.5 * np.log(2) - 0.75 * np.log(3))
    assert step.frame()["expected"].tolist() == [3, 3, 1]
    assert step.frame()["lift"].tolist() == pytest.approx([4 / 3, 2 / 3, 2])
    summary = step.summary()
    assert summary["explained"] == pytest.approx(
        step.mutual_information / (2 * np.log(2) - 0.75 * np.log(3))
    )
    assert summary["entropy"] == pytest.approx(np.log(2))


def test_stages_that_determine_each_other_explain_everything_and_independent_ones_nothing():
    assert step_of([[3, 0], [0, 5]]).summary()["explained"] == pytest.approx(1)
    assert step_of([[4, 4], [2, 2]]).mutual_information == pytest.approx(0, abs=1e-12)


def test_the_shuffled_control_is_that_of_whole_shuffled_tables():
    table = np.random.default_rng(0).integers(0, 4, (6, 9))
    rows, columns = table.sum(1), table.sum(0)
    whole = [entropy(shuffled(table, seed=seed).ravel()) for seed in range(200)]
    found = [shuffled_entropy(rows, columns, seed=seed) for seed in range(200)]
    assert np.mean(found) == pytest.approx(np.mean(whole), abs=4 * np.std(whole) / 10)
    assert np.std(found) == pytest.approx(np.std(whole), rel=0.3)
    assert step_of(table).shuffled > 0.1


def test_a_shuffled_table_keeps_the_sums_of_both_sides():
    two = np.array([2, 2])
    # either [[2, 0], [0, 2]] or [[1, 1], [1, 1]]
    found = {round(shuffled_entropy(two, two, seed=seed) / np.log(2), 9) for seed in range(40)}
    assert found == {1, 2}


def test_the_shuffled_control_is_left_out_beyond_what_numpy_draws_from():
    many = np.array([600_000_000, 600_000_000])
    assert np.isnan(shuffled_entropy(many, many, seed=0))


def test_a_code_persists_if_both_majorities_agree():
    # 6 of 10 go on, and make up 6 of 8; the other code goes on with 4 of 6, of 8
    assert events_of([[6, 4], [2, 4]]) == [("persistent", (0,), (0,), 6)]
    assert events_of([[5, 5], [5, 5]]) == []


def test_a_code_splits_if_two_others_come_from_it():
    # no majority goes anywhere; two next codes are mostly from it, the third is too small
    table = [[45, 47, 8], [5, 5, 90]]
    assert events_of(table) == [
        ("persistent", (1,), (2,), 90),
        ("splitting", (0,), (1, 0), 92),
    ]
    # a tenth is enough, and less is not
    assert ("splitting", (0,), (0, 1, 2), 100) in events_of([[45, 45, 10], [0, 0, 0]])
    assert ("splitting", (0,), (0, 1), 91) in events_of([[46, 45, 9], [0, 0, 0]])
    # one that persists does not split
    assert events_of([[60, 40]]) == [("persistent", (0,), (0,), 60)]


def test_merging_is_splitting_in_the_mirror():
    table = [[45, 5], [47, 5], [8, 90]]
    assert events_of(table) == [
        ("merging", (1, 0), (0,), 92),
        ("persistent", (2,), (1,), 90),
    ]
    assert events_of([[60], [40]]) == [("persistent", (0,), (0,), 60)]


def test_the_summary_says_what_share_of_tokens_is_in_which_kind_of_code():
    splitting = step_of([[45, 47, 8], [5, 5, 90]]).summary()
    assert (splitting["persistent"], splitting["splitting"], splitting["merging"]) == (0.5, 0.5, 0)
    merging = step_of([[45, 5], [47, 5], [8, 90]]).summary()
    assert (merging["persistent"], merging["splitting"], merging["merging"]) == (0.49, 0, 0.5)


def test_between_tokens_and_codes_there_are_no_events():
    model = random_model()
    fitted_lens(model, 1, 2)
    flow = cl.concept_flow(model, DATA, progress=False)
    assert len(flow.events()) == 0
    assert flow.summary()[["persistent", "splitting", "merging"]].isna().all(axis=None)


def test_events_name_their_concepts_and_the_largest_come_first(flow):
    names = {"0-2": {code: f"first {code}" for code in range(12)}, "1-2": {0: "zero"}}
    events = flow.events(names)
    assert events["n_tokens"].is_monotonic_decreasing
    for row in events[events["source"] == "0-2"].itertuples():
        assert row.name == " | ".join(f"first {code}" for code in row.codes)
        assert row.next_name == " | ".join("zero" if c == 0 else str(c) for c in row.next_codes)


# ---- labels --------------------------------------------------------------------------------------


def test_agreement_is_that_of_every_stage_and_of_token_identity(chain):
    parities = ((DATA + torch.arange(16)) % 2 * (DATA > 10)).tolist()
    labels = [[str(number) for number in row] for row in parities]
    flow = cl.concept_flow(chain, DATA, token_labels=labels, seed=3, progress=False)
    found = flow.agreement().set_index(["stage", "tokens"])
    assert found.index.unique("stage").tolist() == ["token", "0-2", "1-2", "2-3"]
    flat = [label for row in labels for label in row]
    tokens = DATA.flatten().tolist()
    kinds = pd.DataFrame({"token": tokens, "label": flat}).groupby("token")["label"].nunique()
    ambiguous = np.array([kinds[token] > 1 for token in tokens])
    assert 0 < ambiguous.sum() < len(tokens)
    stages = {"token": tokens} | {name: codes_of(chain, name) for name in chain.clvqs}
    for stage, nodes in stages.items():
        for which, chosen in (("all", ambiguous | True), ("ambiguous", ambiguous)):
            table = pd.crosstab(np.array(nodes)[chosen], np.array(flat)[chosen]).to_numpy()
            expected = agreement(table, seed=3).frame().iloc[0]
            row = found.loc[(stage, which)]
            assert row["n_tokens"] == chosen.sum()
            assert row["nmi"] == pytest.approx(expected["nmi"])
            assert row["purity"] == expected["purity"]
            assert row["n_nodes"] == expected["n_codes"]
            assert row["purity_shuffled"] < row["purity"] or row["purity"] < 0.9


def test_labels_that_no_token_shares_leave_nothing_ambiguous(chain):
    labels = [[str(token) for token in row] for row in DATA.tolist()]
    found = cl.concept_flow(chain, DATA, token_labels=labels, progress=False).agreement()
    assert set(found["tokens"]) == {"all"}
    assert found["nmi"][0] == pytest.approx(1)


def test_labels_must_be_given_and_match(chain, flow):
    with pytest.raises(DataError, match=r"without labels. Pass them"):
        flow.agreement()
    with pytest.raises(DataError, match="Document 0 has 16 real tokens and 1 labels"):
        cl.concept_flow(chain, DATA, token_labels=[["a"]] * 8, progress=False)
    with pytest.raises(DataError, match="labels for 9 documents, but the data have no document 8"):
        cl.concept_flow(chain, DATA, token_labels=[["a"] * 16] * 9, progress=False)


@pytest.mark.slow
def test_on_the_toy_world_concepts_that_context_decides_appear_with_depth():
    """Token identity cannot tell "orange" the food from "orange" the color; deeper codes can."""
    model, texts = cl.toy.load(n_texts=900)
    for source in range(3):
        lens = model.add_clvq(source, source + 1, n_codes=128)
        lens.fit(texts[:600], n_tokens=40_000, progress=False)
    held_out = texts[600:]
    flow = cl.concept_flow(
        model, held_out, token_labels=cl.toy.token_labels(held_out), progress=False
    )
    found = flow.agreement().query("tokens == 'ambiguous'").set_index("stage")
    assert found.loc["token", "purity"] < 0.55
    assert found.loc["0-1", "purity"] > found.loc["token", "purity"] + 0.1
    assert found.loc["2-3", "purity"] > found.loc["0-1", "purity"] + 0.01
    assert found.loc["0-1", "nmi"] > found.loc["token", "nmi"] + 0.05
    assert found.loc["2-3", "nmi"] > found.loc["0-1", "nmi"] + 0.01
    assert (found["purity_shuffled"] < 0.35).all()
    summary = flow.summary()
    assert (summary["explained"] > 0.9).all()
    assert (summary["shuffled"] < 0.2 * summary["mutual_information"]).all()


# ---- how it shows itself -------------------------------------------------------------------------


def test_a_flow_shows_its_stages_and_what_the_last_step_explains(flow):
    explained = flow.summary()["explained"].iloc[-1]
    start = f"ConceptFlow(0-2 -> 1-2 -> 2-3, 128 tokens; 1-2 explains {explained:.1%} of 2-3 (shuff"
    assert repr(flow).startswith(start)
    assert flow.preview().equals(flow.summary())
    interrupted = dataclasses.replace(flow, complete=False)
    assert "128 tokens, interrupted;" in repr(interrupted)


def test_what_a_flow_shows_is_one_line_and_escaped(flow):
    step = flow.steps[0]
    source = dataclasses.replace(step.source, name="<b>\nbold")
    stages = (source, *flow.stages[1:])
    steps = (dataclasses.replace(step, source=source), *flow.steps[1:])
    hostile = dataclasses.replace(flow, stages=stages, steps=steps)
    assert "\n" not in repr(hostile)
    html = hostile._repr_html_()
    assert html.count("&lt;b&gt;") == 2  # in the line and in the table
    assert "<b>\nbold" not in html


# ---- refusals ------------------------------------------------------------------------------------


def test_a_model_without_a_fitted_quantizer_is_refused(model):
    with pytest.raises(ConfigError, match=r"this model has none\. Attach and fit at least one"):
        cl.concept_flow(model, DATA)
    model.add_clvq(1, 2, n_codes=12)
    with pytest.raises(NotFittedError, match="has not been fitted"):
        cl.concept_flow(model, DATA)


def test_a_quantizer_with_the_name_of_another_stage_is_refused(model):
    fitted_lens(model, 1, 2, name="token")
    with pytest.raises(ConfigError, match="named 'token', which is the name of a stage of tokens"):
        cl.concept_flow(model, DATA)


def test_texts_without_a_real_token_are_refused(toy):
    model, texts = toy
    lens = model.add_clvq(1, 2, n_codes=16)
    try:
        lens.fit(texts[:60], n_tokens=2_000, progress=False)
        bos = torch.full((2, 1), model.tokenizer.bos_token_id)
        with pytest.raises(EmptyCorpusError, match="no real token"):
            cl.concept_flow(model, bos, progress=False)
    finally:
        lens.remove()


def test_names_for_other_quantizers_are_refused(flow):
    with pytest.raises(
        ConfigError, match=r"key '9-9'.* the quantizers are \['0-2', '1-2', '2-3'\]"
    ):
        flow.plot({"9-9": {0: "zero"}})
    with pytest.raises(ConfigError, match="key 0, but names of codes are given for each quantizer"):
        flow.plot({0: "zero"})


def test_interrupted_it_gives_the_flow_of_what_was_read(chain, monkeypatch, ctrl_c):
    host, batches = next(iter(chain.clvqs.values())).host, []
    original = host.activations

    def activations(self: Any, *arguments: Any) -> Any:
        batches.append(int(arguments[1].sum()))
        ctrl_c()
        return original(*arguments)

    monkeypatch.setattr(host, "positions_per_pass", 40)
    monkeypatch.setattr(type(host), "activations", activations)
    tokens = torch.arange(200).view(10, 20) % 40
    flow = cl.concept_flow(chain, tokens, token_labels=[["x"] * 20] * 10, progress=False)
    assert len(batches) == 1
    assert flow.n_tokens == batches[0] == flow.frame()["count"].sum() / (len(flow.stages) - 1)
    assert not flow.complete
