import math

import numpy as np

from clvq_lens.evaluation.norms import Norms, PointNorms, point_norms
from clvq_lens.stats.histogram import LogHistogram

SOURCE = PointNorms("source", 2.0, 20.0, (1.0, 2.0, 4.0), (3, 4))
NORMS = Norms(SOURCE, PointNorms("target", 5.0, math.inf, (4.0, 8.0), (7,)))


def test_the_norms_of_a_point_are_those_of_its_histogram():
    histogram = LogHistogram()
    histogram.add(np.array([1.0, 2.0, 4.0]))
    norms = point_norms("source", histogram, 20.0)
    assert (norms.point, norms.limit, norms.median) == ("source", 20.0, histogram.median())
    assert (norms.edges, norms.counts) == histogram.bins()


def test_the_frame_has_a_row_for_every_bin():
    assert NORMS.frame().to_dict("split")["data"] == [
        ["source", 1.0, 2.0, 3, 2.0, 20.0],
        ["source", 2.0, 4.0, 4, 2.0, 20.0],
        ["target", 4.0, 8.0, 7, 5.0, math.inf],
    ]


def test_they_show_their_medians_in_one_line_and_the_limits_in_html():
    assert repr(NORMS) == "Norms(7 tokens, median 2 at the source, 5 at the target)"
    assert repr(SOURCE) == "PointNorms(source, 7 tokens, median 2, outliers beyond 20)"
    html = NORMS._repr_html_()
    assert html.count("<tr") == 3
    assert "<td>20</td>" in html
