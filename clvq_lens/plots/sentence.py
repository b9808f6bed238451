"""The concepts of one text, token by token and quantizer by quantizer."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import code_name, plain, shortened, visible
from clvq_lens.plots.theme import CONCEPT_COLOURS, code_colours, ink, themed

_CELL = 52  # pixels of a row
_AROUND = 210  # pixels above and below the cells
_PAGE = 620  # pixels for all cells of a narrow page
_FONT, _SMALLEST = 11, 7  # of the text in a cell
_DIGITS = 1.8  # widths of a code in units of its font size
_CHARACTER = 0.62  # likewise, of a letter on average
_LINES, _SHORTEST = 2, 4  # words of a label in a cell; letters for which there must be room


def plot_sentence(sentence: pd.DataFrame | HasFrame, *, metric: str = "") -> go.Figure:
    """Tokens across and quantizers up, each cell coloured by its code, effects on hover.

    Args:
        sentence: From `sentence_flow`, or its ``.frame(labels)``.
        metric: Of the effects, if there are any.
    """
    frame = as_frame(sentence)
    quantizers = frame["quantizer"].drop_duplicates().tolist()
    rows = [rows for _, rows in frame.groupby("quantizer", sort=False)]
    tokens = rows[0]["token"].tolist()
    codes = np.stack([row["code"].to_numpy() for row in rows])
    n_colours = len(CONCEPT_COLOURS)
    figure = go.Figure(
        go.Heatmap(
            z=np.where(codes < 0, np.nan, codes % n_colours),
            zmin=-0.5,
            zmax=n_colours - 0.5,
            colorscale=_steps(CONCEPT_COLOURS),
            showscale=False,
            xgap=3,
            ygap=3,
            customdata=[_hovers(row, metric) for row in rows],
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
        )
    )
    _write_cells(figure, [_cells(row) for row in rows])
    figure.update_xaxes(
        title_text="token",
        tickvals=list(range(len(tokens))),
        ticktext=[visible(token) for token in tokens],
        tickangle=-60,
        range=[-0.5, len(tokens) - 0.5],
    )
    figure.update_yaxes(
        title_text="quantizer",
        tickvals=list(range(len(quantizers))),
        ticktext=[plain(name) for name in quantizers],
        range=[-0.5, len(quantizers) - 0.5],
    )
    figure.update_xaxes(showgrid=False, zeroline=False).update_yaxes(showgrid=False, zeroline=False)
    return themed(figure, title="Concepts of one text", height=_AROUND + _CELL * len(quantizers))


def _steps(colours: Sequence[str]) -> list[list[object]]:
    """A scale that gives each whole number its own colour."""
    return [
        [(number + side) / len(colours), colour]
        for number, colour in enumerate(colours)
        for side in (0, 1)
    ]


def _cells(row: pd.DataFrame) -> list[tuple[int, str]]:
    labels = row["label"] if "label" in row else [""] * len(row)
    return list(zip(row["code"].tolist(), labels, strict=True))


def _write_cells(figure: go.Figure, rows: Sequence[Sequence[tuple[int, str]]]) -> None:
    """Writes codes and their names into the cells, as far as there is room."""
    room = _PAGE / max(1, len(rows[0]))
    size = min(_FONT, int(room / _DIGITS))
    if size < _SMALLEST:
        return
    n_characters = int(room / (_CHARACTER * size))
    places = [(x, y) for y, row in enumerate(rows) for x in range(len(row))]
    cells = [cell for row in rows for cell in row]
    figure.add_scatter(
        x=[x for x, _ in places],
        y=[y for _, y in places],
        mode="text",
        text=[_cell(*cell, n_characters) for cell in cells],
        textfont={"size": size, "color": [ink(c) for c in code_colours(c for c, _ in cells)]},
        hoverinfo="skip",
        showlegend=False,
    )


def _cell(code: int, label: str, n_characters: int) -> str:
    if code < 0:
        return ""
    words = label.split() or [visible(label)]
    words = words[:_LINES] if label and n_characters >= _SHORTEST else []
    return "<br>".join([str(code), *(plain(shortened(word, n_characters)) for word in words)])


def _hovers(row: pd.DataFrame, metric: str) -> list[str]:
    effects, controls = (
        row[column] if column in row else [np.nan] * len(row) for column in ("effect", "control")
    )
    columns = (row["quantizer"], row["position"], row["token"], _cells(row), effects, controls)
    return [
        f"<b>{plain(quantizer)}: code {code_name(code, label)}</b><br>"
        f"position {position}, token {visible(token)}" + _effect(metric, effect, control)
        for quantizer, position, token, (code, label), effect, control in zip(*columns, strict=True)
    ]


def _effect(metric: str, effect: float, control: float) -> str:
    lines = {
        f"ablated here: {plain(metric)} changes by": effect,
        "a random code here:": control,
    }
    return "".join(f"<br>{what} {by:+.4g}" for what, by in lines.items() if not np.isnan(by))
