"""What a Sankey diagram shows of a flow, and where."""

import numpy as np
import pytest

from clvq_lens.plots.colors import NO_CODE, color_of, color_of_group
from clvq_lens.plots.sankey import OTHER, crossings, middles, node_colors, stage_names, thinned
from tests.plots.flows import frame_of, noisy_flow


def test_stages_are_told_by_what_leads_to_what_in_whatever_order_the_rows_are():
    frame = noisy_flow()
    assert stage_names(frame) == stage_names(frame[::-1]) == ["0", "1", "2"]


def test_a_group_has_its_color_at_every_stage():
    groups = {str(stage): dict.fromkeys(range(40), "all") for stage in range(3)}
    flow = thinned(noisy_flow(), 5, groups)
    colors = node_colors(flow, {})
    for column, its_colors in zip(flow.columns, colors, strict=True):
        [group] = [node for node in column.nodes if node < OTHER]
        assert its_colors[group] == color_of_group(0)


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


def test_nodes_do_not_overlap_and_fill_the_height():
    frame = noisy_flow()
    flow = thinned(frame, 10)
    for column, middle in zip(flow.columns, middles(flow, share_of_gaps=0.3), strict=True):
        half = np.array([column.sizes[node] for node in column.nodes]) / 3_000 * 0.7 / 2
        assert middle[0] - half[0] == pytest.approx(0)
        assert middle[-1] + half[-1] == pytest.approx(1)
        gaps = (middle - half)[1:] - (middle + half)[:-1]
        assert gaps == pytest.approx(np.full(10, 0.03))


def test_codes_have_their_own_colors_and_tokens_that_of_their_main_code():
    paths = [(0, 5, 7)] * 10 + [(1, 6, 8)] * 9 + [(n, 9, 9) for n in range(20, 60)]
    frame = frame_of(*paths, texts={n: f" t{n}" for n in range(60)})
    flow = thinned(frame, 3)
    flow.columns[2].is_token = True  # as predictions are
    colors = node_colors(flow, {"1": [f"#0000{code:02x}" for code in range(16)]})
    assert colors[1][5] == colors[0][0] == colors[2][7] == "#000005"
    assert colors[1][6] == colors[0][1] == colors[2][8] == "#000006"
    assert colors[0][OTHER] == NO_CODE
    assert node_colors(flow, {})[1][5] == color_of(5, None)


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
