"""The Sankey diagram: tokens are conserved, nodes stand in columns, text from data is harmless."""

import numpy as np
import pandas as pd
import pytest

from clvq_lens.plots.flow_diagrams import plot_causal_flow, plot_flow
from clvq_lens.plots.sankey import OTHER, thinned
from clvq_lens.plots.theme import BLUE, GRAY
from tests.plots.figures import HOSTILE, assert_harmless, axis_titles, trace
from tests.plots.flows import frame_of, noisy_flow


@pytest.fixture
def frame():
    return noisy_flow()


@pytest.mark.parametrize("n_nodes", [1, 5, 15, 100])
def test_no_token_is_lost_by_thinning(frame, n_nodes):
    figure = plot_flow(frame, n_nodes=n_nodes)
    link, node = figure.data[0].link, figure.data[0].node
    values, sources, targets = (np.array(part) for part in (link.value, link.source, link.target))
    columns = np.unique(node.x, return_inverse=True)[1]
    for stage in (0, 1):
        assert values[columns[sources] == stage].sum() == 3_000
    for number in np.flatnonzero(columns == 1):  # what comes in goes out
        assert values[targets == number].sum() == values[sources == number].sum()
    shown = [column.nodes for column in thinned(frame, n_nodes).columns]
    assert len(node.x) == sum(map(len, shown))
    assert max(map(len, shown)) <= n_nodes + 1


def test_what_is_not_shown_is_one_node_at_the_bottom_and_says_how_many_it_is(frame):
    flow = thinned(frame, 5)
    for column in flow.columns:
        assert column.nodes[-1] == OTHER
        assert len(column.members[OTHER]) == 40 - 5
        assert sum(column.sizes.values()) == 3_000
    texts = [annotation.text for annotation in plot_flow(frame, n_nodes=5).layout.annotations]
    assert texts.count("other (35)") == 3


def test_links_say_count_share_and_lift():
    figure = plot_flow(frame_of(*[(0, 0)] * 4, *[(1, 0)] * 2, *[(1, 1)] * 2))
    hovers = dict(zip(figure.data[0].link.value, figure.data[0].link.customdata, strict=True))
    assert hovers[4] == (
        "<b>0 \u2192 0</b><br>4 tokens<br>100.0% of those of 0<br>66.7% of those of 0<br>"
        "lift over independence 1.33"
    )


def test_stages_stand_in_columns_under_their_names(frame):
    figure = plot_flow(frame, names={"1": {2: "zero"}})
    assert sorted(set(figure.data[0].node.x)) == pytest.approx([0, 0.5, 1], abs=1e-5)
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert [text for text in texts if "<br>40 codes" in text] == [
        f"<b>{stage}</b><br>40 codes" for stage in "012"
    ]
    assert "2 zero" in texts


def test_links_leave_and_enter_a_node_in_the_order_of_their_other_ends(frame):
    link = plot_flow(frame, n_nodes=5).data[0].link
    pairs = list(zip(link.source, link.target, strict=True))
    assert pairs == sorted(pairs)
    assert link.sort == "input"


def test_the_others_of_a_stage_are_summed_by_their_group(frame):
    groups = {"0": {node: "even" if node % 2 == 0 else "odd" for node in range(40)}, "1": {}}
    flow = thinned(frame, 4, groups)
    first, second = flow.columns[:2]
    named = {first.texts[node]: node for node in first.nodes if node < OTHER}
    assert set(named) == {"even", "odd"}
    shown = {node for node in first.nodes if node >= 0}
    assert len(shown) == 4
    assert set(first.members[named["odd"]]) == set(range(1, 40, 2)) - shown
    assert sum(first.sizes.values()) == sum(second.sizes.values()) == 3_000
    assert OTHER in second.nodes
    texts = [a.text for a in plot_flow(frame, n_nodes=4, groups=groups).layout.annotations]
    assert any(text.startswith("other odd") for text in texts)
    only = thinned(frame, 0, groups)
    assert len(only.columns[0].nodes) == 2


def test_text_from_data_is_not_read_as_markup():
    hostile = "<b onclick='x'>$a$</b>"
    frame = frame_of((0, 0), (0, 1), texts={0: hostile})
    figure = plot_flow(frame, names={"1": {0: "<script>1</script>"}})
    shown = figure.to_json().replace("\\u003c", "<")
    assert "<b onclick" not in shown
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown


def test_long_names_are_cut_on_the_node_and_whole_on_hover():
    figure = plot_flow(frame_of((0, 0)), names={"0": {0: "a long name " * 5}})
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert any(text.endswith("\u2026") for text in texts)
    assert "a long name " * 4 in figure.data[0].node.customdata[0]


def test_many_nodes_leave_plotly_room_for_its_gaps():
    paths = [(n, n) for n in range(90)]
    figure = plot_flow(frame_of(*paths), n_nodes=90)
    height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert figure.data[0].node.pad * 89 <= height * 2 / 3


def test_a_thin_node_underlines_its_name_instead_of_crossing_it_out():
    figure = plot_flow(frame_of((0, 0), *[(1, 1)] * 99), names={"0": {0: "rare", 1: "common"}})
    notes = {annotation.text: annotation for annotation in figure.layout.annotations}
    rare, common = notes["0 rare"], notes["1 common"]
    assert (common.yanchor, common.yshift) == ("middle", None)
    assert rare.yanchor == "bottom"
    height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert rare.yshift == pytest.approx((height - figure.data[0].node.pad) / 100 / 2)


def test_a_concept_of_white_space_is_seen():
    figure = plot_flow(frame_of((0, 0)), names={"0": {0: "\n"}})
    assert "0 \u21b5" in [annotation.text for annotation in figure.layout.annotations]


def test_tokens_that_are_marks_or_white_space_are_written_out():
    figure = plot_flow(frame_of((0, 0), (1, 0), (2, 0), texts={0: " ,", 1: "\n", 2: " the"}))
    texts = {annotation.text for annotation in figure.layout.annotations}
    assert {"\u2423comma", "\u21b5", "\u2423the"} <= texts


def causal_frame(**changes: list) -> pd.DataFrame:
    columns = {"source": ["0-1"] * 3, "code": [4, 5, 6], "target": ["1-2"] * 3}
    numbers = {"observed": [0.25, 0.5, 0.75], "lost": [0.2, 0.5, np.nan], "control": [0.1] * 3}
    return pd.DataFrame(
        {**columns, "next_code": [7, 8, 9], "n_both": [10, 20, 0], **numbers, **changes}
    )


def test_pairs_that_occurred_are_points_beside_their_controls():
    figure = plot_causal_flow(causal_frame())
    lost, controls = trace(figure, "code ablated"), trace(figure, "control: other codes")
    assert list(lost.x) == list(controls.x) == [0.25, 0.5]  # the third pair never occurred
    assert list(lost.y) == [0.2, 0.5]
    assert list(controls.y) == [0.1, 0.1]
    assert (lost.marker.color, controls.marker.color) == (BLUE, GRAY)
    assert lost.text[1] == "0-1 code 5 to 1-2 code 8<br>20 tokens"
    assert list(lost.marker.size) == [10, 20]  # areas: more tokens, larger points
    assert lost.marker.sizemode == "area"


def test_the_axes_say_what_was_observed_and_what_was_lost():
    titles = axis_titles(plot_causal_flow(causal_frame()))
    assert titles["xaxis"] == "observed: chance of the next code, given the code"
    assert titles["yaxis"] == "causal: tokens of both that leave<br>the next code (fraction)"


def test_names_of_quantizers_are_no_markup():
    assert_harmless(plot_causal_flow(causal_frame(source=[HOSTILE] * 3)))
