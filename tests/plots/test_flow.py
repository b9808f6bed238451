"""The Sankey diagram: tokens are conserved, nodes stand in columns, text from data is harmless."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from clvq_lens.plots.colours import NO_CODE, colour_of
from clvq_lens.plots.flow import plot_flow, translucent
from clvq_lens.plots.sankey import OTHER, crossings, middles, node_colours, thinned


def frame_of(*paths, texts=None):
    """The frame of a flow from full paths, and their stages "0", "1" and so on."""
    rows = []
    for stage in range(len(paths[0]) - 1):
        pairs = Counter((path[stage], path[stage + 1]) for path in paths)
        for (code, following), count in pairs.most_common():
            row = {"source": str(stage), "code": code, "target": str(stage + 1)}
            rows.append({**row, "next_code": following, "count": count})
    frame = pd.DataFrame(rows)
    if texts is not None:
        frame["text"] = [
            texts.get(c, "") if s == "0" else ""
            for s, c in zip(frame["source"], frame["code"], strict=True)
        ]
        frame["next_text"] = ""
    return frame.sort_values("count", ascending=False, kind="stable", ignore_index=True)


@pytest.fixture
def frame():
    generator = np.random.default_rng(0)
    first = generator.zipf(1.5, 3_000) % 40
    second = np.where(generator.random(3_000) < 0.7, first, generator.integers(0, 40, 3_000))
    third = np.where(generator.random(3_000) < 0.7, second, generator.integers(0, 40, 3_000))
    return frame_of(*zip(first.tolist(), second.tolist(), third.tolist(), strict=True))


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


def test_a_rest_of_one_node_stands_for_itself():
    frame = frame_of((0, 0), (0, 0), (1, 1), (2, 2))
    assert all(OTHER not in column.nodes for column in thinned(frame, 2).columns)
    assert all(OTHER in column.nodes for column in thinned(frame, 1).columns)


def test_nodes_between_which_most_tokens_flow_are_shown():
    # code 0 is the commonest, but its tokens scatter; codes 1 and 2 hold together
    scattered = [(0, following) for following in range(10, 50)]
    together = [(1, 1)] * 20 + [(2, 2)] * 15 + [(3, 3)]
    for column in thinned(frame_of(*scattered, *together), 2).columns:
        assert set(column.nodes) == {1, 2, OTHER}


def test_links_say_count_share_and_lift():
    figure = plot_flow(frame_of(*[(0, 0)] * 4, *[(1, 0)] * 2, *[(1, 1)] * 2))
    hovers = dict(zip(figure.data[0].link.value, figure.data[0].link.customdata, strict=True))
    assert hovers[4] == (
        "<b>0 \u2192 0</b><br>4 tokens<br>100.0% of those of 0<br>66.7% of those of 0<br>"
        "lift over independence 1.33"
    )


def test_stages_stand_in_columns_under_their_names(frame):
    figure = plot_flow(frame, labels={"1": {2: "zero"}})
    assert sorted(set(figure.data[0].node.x)) == pytest.approx([0, 0.5, 1], abs=1e-5)
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert [text for text in texts if "<br>40 codes" in text] == [
        f"<b>{stage}</b><br>40 codes" for stage in "012"
    ]
    assert "2 zero" in texts


def test_nodes_do_not_overlap_and_fill_the_height(frame):
    flow = thinned(frame, 10)
    for column, middle in zip(flow.columns, middles(flow, share_of_gaps=0.3), strict=True):
        half = np.array([column.sizes[node] for node in column.nodes]) / 3_000 * 0.7 / 2
        assert middle[0] - half[0] == pytest.approx(0)
        assert middle[-1] + half[-1] == pytest.approx(1)
        gaps = (middle - half)[1:] - (middle + half)[:-1]
        assert gaps == pytest.approx(np.full(10, 0.03))


def test_links_leave_and_enter_a_node_in_the_order_of_their_other_ends(frame):
    link = plot_flow(frame, n_nodes=5).data[0].link
    pairs = list(zip(link.source, link.target, strict=True))
    assert pairs == sorted(pairs)
    assert link.sort == "input"


def test_codes_have_their_own_colours_and_tokens_that_of_their_main_code():
    paths = [(0, 5, 7)] * 10 + [(1, 6, 8)] * 9 + [(n, 9, 9) for n in range(20, 60)]
    frame = frame_of(*paths, texts={n: f" t{n}" for n in range(60)})
    flow = thinned(frame, 3)
    flow.columns[2].is_token = True  # as predictions are
    colours = node_colours(flow, {"1": [f"#0000{code:02x}" for code in range(16)]})
    assert colours[1][5] == colours[0][0] == colours[2][7] == "#000005"
    assert colours[1][6] == colours[0][1] == colours[2][8] == "#000006"
    assert colours[0][OTHER] == NO_CODE
    assert node_colours(flow, {})[1][5] == colour_of(5, None)


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


def test_a_group_of_one_node_stands_for_itself():
    frame = frame_of((0, 0), (0, 0), (1, 1), (2, 2), (3, 3))
    groups = {"0": {0: "a", 1: "b", 2: "b", 3: "c"}}
    nodes = thinned(frame, 0, groups).columns[0].nodes
    assert sorted(node for node in nodes if node >= 0) == [0, 3]


def test_columns_are_sorted_so_that_few_ribbons_cross():
    """A permutation can be drawn without any crossing; ten random flows cross less than before."""
    permuted = [(n, (7 * n) % 12) for n in range(12) for _ in range(n + 1)]
    assert crossings(thinned(frame_of(*permuted), 12)) == 0
    generator = np.random.default_rng(1)
    for _ in range(10):
        first = generator.integers(0, 12, 400)
        noise = generator.integers(0, 12, 400)
        second = np.where(generator.random(400) < 0.8, (5 * first) % 12, noise)
        flow = thinned(frame_of(*zip(first.tolist(), second.tolist(), strict=True)), 12)
        drawn = crossings(flow)
        for column in flow.columns:
            column.nodes.sort()
        assert drawn < 0.75 * crossings(flow)


def test_crossings_are_counted_in_pairs_of_tokens():
    flow = thinned(frame_of(*[(0, 1)] * 3, *[(1, 0)] * 2, (1, 1)), 2)
    flow.columns[0].nodes[:] = [0, 1]
    flow.columns[1].nodes[:] = [0, 1]
    assert crossings(flow) == 3 * 2
    flow.columns[1].nodes[:] = [1, 0]
    assert crossings(flow) == 0


def test_text_from_data_is_not_read_as_markup():
    hostile = "<b onclick='x'>$a$</b>"
    frame = frame_of((0, 0), (0, 1), texts={0: hostile})
    figure = plot_flow(frame, labels={"1": {0: "<script>1</script>"}})
    shown = figure.to_json().replace("\\u003c", "<")
    assert "<b onclick" not in shown
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown


def test_long_names_are_cut_on_the_node_and_whole_on_hover():
    figure = plot_flow(frame_of((0, 0)), labels={"0": {0: "a long name " * 5}})
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert any(text.endswith("\u2026") for text in texts)
    assert "a long name " * 4 in figure.data[0].node.customdata[0]


def test_many_nodes_leave_plotly_room_for_its_gaps():
    paths = [(n, n) for n in range(90)]
    figure = plot_flow(frame_of(*paths), n_nodes=90)
    height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert figure.data[0].node.pad * 89 <= height * 2 / 3


def test_a_translucent_colour_keeps_its_hue():
    assert translucent("#ff8000", 0.5) == "rgba(255, 128, 0, 0.5)"


def test_a_concept_of_white_space_is_seen():
    figure = plot_flow(frame_of((0, 0)), labels={"0": {0: "\n"}})
    assert "0 \u21b5" in [annotation.text for annotation in figure.layout.annotations]


def test_tokens_that_are_marks_or_white_space_are_written_out():
    figure = plot_flow(frame_of((0, 0), (1, 0), (2, 0), texts={0: " ,", 1: "\n", 2: " the"}))
    texts = {annotation.text for annotation in figure.layout.annotations}
    assert {"\u2423comma", "\u21b5", "\u2423the"} <= texts
