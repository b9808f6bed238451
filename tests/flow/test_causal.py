"""Causal flow: what ablating a code of one quantizer does to the codes of the next."""

import dataclasses

import numpy as np
import pytest
import torch

import clvq_lens as cl
from clvq_lens.errors import ConfigError, EmptyCorpusError, LayerOrderError, NotFittedError
from tests.conftest import random_model
from tests.interventions.lenses import fitted_lens

DATA = torch.randint(0, 40, (8, 16), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def chain():
    model = random_model()
    for source in range(3):
        fitted_lens(model, source, source + 1)
    return model


@pytest.fixture(scope="module")
def flow(chain):
    return cl.causal_flow(chain, DATA, progress=False)


def codes_of(model, name):
    return model.clvqs[name].encode(DATA).codes


def test_there_is_a_step_for_each_pair_that_follows_one_another(flow):
    assert [(step.source, step.target) for step in flow.steps] == [("0-1", "1-2"), ("1-2", "2-3")]


def test_observed_flow_counts_codes_at_the_same_token(chain, flow):
    first, second = codes_of(chain, "0-1"), codes_of(chain, "1-2")
    frame = flow.frame()
    rows = frame[(frame["source"] == "0-1") & (frame["n_both"] > 0)]
    assert rows["n_both"].sum() == DATA.numel()
    for row in rows.itertuples():
        both = (first == row.code) & (second == row.next_code)
        assert row.n_both == both.sum()
        assert row.observed == pytest.approx(float(both.sum() / (first == row.code).sum()))
        assert row.expected == pytest.approx(float((second == row.next_code).float().mean()))


@pytest.mark.parametrize("to", ["nearest", "mean"])
def test_causal_flow_counts_codes_in_the_edited_model(chain, to):
    found = cl.causal_flow(chain, DATA, to=to, progress=False).steps[1]
    lens, follower = chain.clvqs["1-2"], chain.clvqs["2-3"]
    codes, before = codes_of(chain, "1-2"), codes_of(chain, "2-3")
    for code in codes.unique().tolist():
        with lens.edit(cl.Ablate(code, to)):
            after = follower.encode(DATA).codes
        change = after.flatten().bincount(minlength=12) - before.flatten().bincount(minlength=12)
        n_tokens = int((codes == code).sum())
        assert found.n_tokens[code] == n_tokens
        np.testing.assert_allclose(found.effect[code], change.numpy() / n_tokens, atol=1e-12)


def test_the_interval_is_that_of_a_ratio_over_documents(chain, flow):
    lens, follower = chain.clvqs["0-1"], chain.clvqs["1-2"]
    codes, before = codes_of(chain, "0-1"), codes_of(chain, "1-2")
    code = int(codes.flatten().bincount().argmax())
    with lens.edit(cl.Ablate(code)):
        after = follower.encode(DATA).codes
    n = (codes == code).sum(1).double().numpy()
    for following in range(12):
        change = ((after == following).sum(1) - (before == following).sum(1)).double().numpy()
        residual = change - change.sum() / n.sum() * n
        expected = np.sqrt((residual**2).sum()) / n.sum()
        assert flow.steps[0].error[code, following] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("to", ["nearest", "mean"])
def test_lost_is_the_fraction_of_shared_tokens_that_leave_the_next_code(chain, to):
    step = cl.causal_flow(chain, DATA, to=to, progress=False).steps[0]
    lens, follower = chain.clvqs["0-1"], chain.clvqs["1-2"]
    codes, before = codes_of(chain, "0-1"), codes_of(chain, "1-2")
    for code in codes.unique().tolist():
        with lens.edit(cl.Ablate(code, to)):
            after = follower.encode(DATA).codes
        for following in range(12):
            both = (codes == code) & (before == following)
            if not both.any():
                assert np.isnan(step.lost[code, following])
                continue
            expected = (after[both] != following).double().mean()
            assert step.lost[code, following] == pytest.approx(float(expected))


def test_controls_are_codes_that_occur_with_the_next_code_about_as_often(chain):
    step = cl.causal_flow(chain, DATA, n_controls=2, progress=False).steps[0]
    n_pairs = 0
    for code, following in np.argwhere(step.joint):
        shared = step.joint[:, following]
        others = [other for other in np.flatnonzero(shared) if other != code]
        if not others:
            assert np.isnan(step.control[code, following])
            continue
        ratio = np.abs(np.log(shared[others]) - np.log(shared[code]))
        steps = [(other - code) % 12 for other in others]
        order = np.lexsort((steps, ratio.round(9)))[:2]
        matched = np.array(others)[order]
        np.testing.assert_allclose(
            step.control[code, following], step.lost[matched, following].mean()
        )
        n_pairs += 1
    assert n_pairs > 10


def test_every_control_meets_the_code_that_it_could_move(flow):
    """Matched in share alone, a control need never stand at a token of the next code."""
    for step in flow.steps:
        has_control = np.isfinite(step.control)
        occurs_with_others = (step.joint > 0) & ((step.joint > 0).sum(0) > 1)
        assert (has_control == occurs_with_others).all()


def test_without_controls_the_line_gives_the_effect_alone(chain):
    flow = cl.causal_flow(chain, DATA, n_controls=0, progress=False)
    assert flow.summary()["n_with_control"].tolist() == [0, 0]
    assert flow.summary()[["lost", "control"]].isna().all(axis=None)
    assert repr(flow).endswith("tokens per token)")


def test_a_quantizer_further_up_is_read_through_the_blocks_between():
    model = random_model()
    first, second = fitted_lens(model, 0, 1), fitted_lens(model, 2, 3)
    step = cl.causal_flow(model, DATA, progress=False).steps[0]
    codes, before = codes_of(model, "0-1"), codes_of(model, "2-3")
    code = int(codes.flatten().bincount().argmax())
    with first.edit(cl.Ablate(code)):
        after = second.encode(DATA).codes
    change = after.flatten().bincount(minlength=12) - before.flatten().bincount(minlength=12)
    np.testing.assert_allclose(step.effect[code] * step.n_tokens[code], change.numpy(), atol=1e-9)


def test_the_graph_holds_what_the_table_holds(flow):
    graph, frame = flow.to_networkx(), flow.frame()
    assert graph.number_of_edges() == len(frame)
    row = frame.iloc[0]
    edge = graph.edges[(row["source"], row["code"]), (row["target"], row["next_code"])]
    assert edge["effect"] == row["effect"]
    assert edge["observed"] == row["observed"]
    assert edge["lost"] == pytest.approx(row["lost"], nan_ok=True)
    assert graph.nodes[(row["source"], row["code"])]["n_tokens"] == row["n_tokens"]
    assert graph.out_degree(("2-3", 0)) == 0 if ("2-3", 0) in graph else True


def test_the_summary_is_about_the_commonest_follower(flow):
    summary = flow.summary().iloc[0]
    step = flow.steps[0]
    weights = step.n_tokens / step.n_tokens.sum()
    used = step.n_tokens > 0
    follower = step.joint.argmax(1)
    expected = sum(weights[c] * step.effect[c, follower[c]] for c in np.flatnonzero(used))
    assert summary["effect"] == pytest.approx(expected)
    assert summary["n_codes"] == used.sum()
    pairs = [(code, follower[code]) for code in np.flatnonzero(used)]
    controlled = [pair for pair in pairs if np.isfinite(step.control[pair])]
    assert summary["n_with_control"] == len(controlled)
    shares = [step.n_tokens[code] for code, _ in controlled]
    for column, values in (("lost", step.lost), ("control", step.control)):
        of_codes = [values[pair] for pair in controlled]
        assert summary[column] == pytest.approx(np.average(of_codes, weights=shares))


def test_the_picture_has_a_point_for_each_pair_and_its_control(flow):
    figure = flow.plot()
    n_pairs = int((flow.frame()["n_both"] > 0).sum())
    assert [len(trace.x) for trace in figure.data[:2]] == [n_pairs, n_pairs]
    assert figure.layout.xaxis.title.text.startswith("observed")


def test_it_shows_the_effect_on_the_main_follower(flow):
    first = flow.summary().iloc[0]
    assert repr(flow) == (
        f"CausalFlow(0-1 -> 1-2 -> 2-3, 128 tokens; ablating a code of 0-1 changes its main "
        f"follower by {first['effect']:+.2f} tokens per token; {first['lost']:.2f} of the tokens "
        f"of both leave it (control, other codes that occur with it: {first['control']:.2f}))"
    )
    assert flow.preview().equals(flow.summary())


def test_what_it_shows_is_one_line_and_escaped(flow):
    step = dataclasses.replace(flow.steps[0], source="<b>\nbold")
    hostile = dataclasses.replace(flow, steps=(step, *flow.steps[1:]))
    assert "\n" not in repr(hostile)
    html = hostile._repr_html_()
    assert html.count("&lt;b&gt;") == 3  # twice in the line, and in the table
    assert "<b>\nbold" not in html


def test_on_the_toy_world_ablating_a_code_takes_its_follower_away_more_than_controls_do(toy):
    model, texts = toy
    lenses = [model.add_clvq(source, source + 1, n_codes=32) for source in (0, 1)]
    try:
        for lens in lenses:
            lens.fit(texts[:150], n_tokens=8_000, progress=False)
        summary = cl.causal_flow(model, texts[150:180], progress=False).summary().iloc[0]
    finally:
        for lens in lenses:
            lens.remove()
    assert summary["observed"] > 0.5
    assert summary["effect"] < -0.3
    assert summary["n_with_control"] > 10
    assert 0.1 < summary["control"] < 0.75 * summary["lost"]  # they can move it, and move it less


def test_a_model_with_fewer_than_two_quantizers_is_refused(model):
    with pytest.raises(ConfigError, match=r"this model has 0\. Attach and fit at least two"):
        cl.causal_flow(model, DATA)
    fitted_lens(model)
    with pytest.raises(ConfigError, match="this model has 1"):
        cl.causal_flow(model, DATA)


def test_quantizers_that_overlap_are_refused(model):
    fitted_lens(model, 0, 2)
    fitted_lens(model, 1, 3)
    with pytest.raises(LayerOrderError, match=r"'0-2' and '1-3' overlap.* Remove one"):
        cl.causal_flow(model, DATA)


def test_unfitted_quantizers_and_empty_texts_are_refused(model):
    fitted_lens(model, 0, 1)
    other = model.add_clvq(1, 2, n_codes=12)
    with pytest.raises(NotFittedError, match="has not been fitted"):
        cl.causal_flow(model, DATA)
    other.remove()


def test_texts_without_a_real_token_are_refused(toy):
    model, texts = toy
    lenses = [model.add_clvq(source, source + 1, n_codes=16) for source in (0, 1)]
    try:
        for lens in lenses:
            lens.fit(texts[:60], n_tokens=2_000, progress=False)
        bos = torch.full((2, 1), model.tokenizer.bos_token_id)
        with pytest.raises(EmptyCorpusError, match="no real token"):
            cl.causal_flow(model, bos, progress=False)
    finally:
        for lens in lenses:
            lens.remove()
