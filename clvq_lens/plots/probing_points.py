"""How well linear probes tell known classes of texts from what each method makes of them."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.inputs import intervals_shown, numbers, whiskers_of
from clvq_lens.plots.text import plain, shortened
from clvq_lens.plots.theme import COLORS, CONTROL_MARK, GRAY, MARK_PX, NAME_WIDTH, themed

_BAND = 0.64  # part of a row over which its methods are spread, so that none hides another
_LEAST_PX, _OF_METHOD_PX = 30, 12  # of a row


def plot_probing(
    data_sets: pd.DataFrame, means: pd.DataFrame, *, reference: str, chance: str
) -> go.Figure:
    """Accuracy of every method on each data set, below the mean over data sets.

    Args:
        data_sets: `Probing.frame`.
        means: `Probing.summary`.
        reference: The method that knows most, such as "raw activations".
        chance: The method that stands for chance, such as "largest class".
    """
    names = list(dict.fromkeys(data_sets["data_set"]))
    rows = data_sets
    if len(names) > 1:  # the mean of one is that one
        names.insert(0, f"mean of {len(names)} data sets")
        rows = pd.concat([means.assign(data_set=names[0]), data_sets])
    place = pd.Series(range(len(names)), index=names, dtype=float)
    methods = [name for name in dict.fromkeys(rows["method"]) if name != chance]
    figure = go.Figure()
    figure.add_trace(_control(pd.DataFrame(rows[rows["method"] == chance]), place, chance))
    colors = _colors(methods, reference)
    for number, method in enumerate(methods):
        below = _BAND * ((number + 0.5) / len(methods) - 0.5)
        of_method = pd.DataFrame(rows[rows["method"] == method])
        figure.add_trace(_points(of_method, place + below, method, colors[method]))
    figure.update_xaxes(title_text="texts whose class a probe names rightly (fraction)")
    figure.update_yaxes(
        autorange=False,
        range=[len(names) - 0.5, -0.5],  # the first on top
        tickvals=list(range(len(names))),
        ticktext=[plain(shortened(name, NAME_WIDTH)) for name in names],
        zeroline=False,  # the first row stands at 0, which means nothing
        showgrid=False,
    )
    if len(names) > 1:
        figure.add_hline(y=0.5, line={"color": GRAY, "width": 1})  # below the means
    height = 160 + max(_LEAST_PX, _OF_METHOD_PX * (len(methods) + 1)) * len(names)
    return themed(figure, title="What do codes know of a text?", height=height)


def _colors(methods: Sequence[str], reference: str) -> dict[str, str]:
    """A color for each method, none that of the control; the reference steps back."""
    others = [method for method in methods if method != reference]
    strong = [color for color in COLORS if color not in (GRAY, CONTROL_MARK["color"])]
    colors = {method: strong[number % len(strong)] for number, method in enumerate(others)}
    return colors | {reference: GRAY}


def _points(rows: pd.DataFrame, place: pd.Series, method: str, color: str) -> go.Scatter:
    """One method on all data sets."""
    low, high = numbers(rows, "accuracy_low"), numbers(rows, "accuracy_high")
    return go.Scatter(
        x=rows["accuracy"],
        y=place.loc[rows["data_set"]],
        mode="markers",
        name=plain(method),
        marker={"color": color, "size": MARK_PX},
        error_x=whiskers_of(rows, "accuracy"),
        text=list(map(plain, rows["data_set"])),
        customdata=intervals_shown(numbers(rows, "accuracy"), low, high),
        hovertemplate=f"%{{text}}<br>{plain(method)} %{{customdata}}<extra></extra>",
    )


def _control(rows: pd.DataFrame, place: pd.Series, chance: str) -> go.Scatter:
    """What is right without knowing anything of a text."""
    return go.Scatter(
        x=rows["accuracy"],
        y=place.loc[rows["data_set"]],
        mode="markers",
        name=plain(chance),
        marker=CONTROL_MARK,
        legendrank=1_001,  # after what is measured, on top of which it is not drawn
        hovertemplate=f"{plain(chance)} %{{x:.3f}}<extra></extra>",
    )
