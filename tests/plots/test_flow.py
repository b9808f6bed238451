"""The Sankey diagram: tokens are conserved, nodes stand in columns, text from data is harmless."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from clvq_lens.plots.flow import plot_flow, translucent
from clvq_lens.plots.sankey import OTHER, lineage_colours, middles, thinned


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
    assert max(map(len, shown)) <= max(n_nodes + 1, 2)


def test_what_is_not_shown_is_one_node_at_the_bottom_and_says_how_many_it_is(frame):
    flow = thinned(frame, 5)
    for column in flow.columns:
        assert column.nodes[-1] == OTHER
        assert column.n_other == 40 - 5
        assert sum(column.sizes.values()) == 3_000
    texts = [annotation.text for annotation in plot_flow(frame, n_nodes=5).layout.annotations]
    assert texts.count("other (35 codes)") == 3


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


def test_a_concept_keeps_its_colour_and_what_comes_from_elsewhere_has_its_own():
    paths = [(0, 5, 7)] * 10 + [(1, 6, 8)] * 9 + [(n, 9, 9) for n in range(20, 60)]
    flow = thinned(frame_of(*paths), 3)
    colours = lineage_colours(flow, ["a", "b", "c", "d", "e"], "grey")
    assert colours[0][0] == colours[1][5] == colours[2][7]
    assert colours[0][1] == colours[1][6] == colours[2][8]
    assert colours[1][9] not in {colours[0][0], colours[0][1], "grey"}
    assert colours[0][OTHER] == "grey"


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
