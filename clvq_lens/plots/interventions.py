"""What edits do to the model: ablations, patching, attribution."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from clvq_lens.plots.inputs import HasFrame, as_frame, numbers
from clvq_lens.plots.text import code_name, plain, shortened, visible, wrapped
from clvq_lens.plots.theme import (
    BLUE,
    CONTROL_MARK,
    DOT_PX,
    FONT_PX,
    LOWERS,
    RAISES,
    REFERENCE_LINE,
    themed,
)

# Nothing at zero is nearly nothing to see, on a light page and on a dark one.
_DIVERGING = (
    (0, LOWERS),
    (0.498, "rgba(47,126,216,0.12)"),
    (0.5, "rgba(128,128,128,0.12)"),
    (0.502, "rgba(214,69,80,0.12)"),
    (1, RAISES),
)
_NAME_WIDTH = 26  # characters of a name or of a context beside a bar
_CELL_PX = 24  # height of a row of a heatmap


def plot_ablations(sweep: pd.DataFrame | HasFrame, *, metric: str, n_codes: int = 30) -> go.Figure:
    """Effect of ablating each code, beside codes of about the same usage.

    Each bar says the number of the code and its name, or else the tokens that it stands at in
    these texts, and below them its first context.

    Args:
        sweep: An `AblationSweep`, or its table, with names or without; largest effects first.
        metric: Name of the metric that effects change.
        n_codes: How many codes are shown.
    """
    rows = as_frame(sweep).head(n_codes)
    names = _names_and_contexts(rows)
    title = wrapped(f"change of {metric}", 36)
    figure = go.Figure()
    figure.add_bar(
        y=names,
        x=rows["effect"],
        orientation="h",
        name="this code ablated",
        marker={"color": BLUE},
        customdata=rows["n_tokens"],
        hovertemplate="%{y}<br>effect %{x:.4g}<br>%{customdata} tokens<extra></extra>",
    )
    figure.add_scatter(
        y=names,
        x=rows["control"],
        mode="markers",
        name="mean of codes used as often",
        marker=CONTROL_MARK,
        hovertemplate="control %{x:.4g}<extra></extra>",
    )
    figure.update_yaxes(range=[len(rows) - 0.4, -0.6], title_text="ablated code")
    # Marks would begin the axis below zero, and bars with it.
    figure.update_xaxes(title_text=title, rangemode="tozero")
    row_px = 38 if "context" in rows else 22  # names in two lines, or in one
    title_px = 18 * title.count("<br>")  # a long title of the axis must not press the rows together
    height = 170 + row_px * len(rows) + title_px
    return themed(figure, title="Effect of ablating each code", height=height)


def plot_ablations_by_position(
    sweep: pd.DataFrame | HasFrame, tokens: Sequence[str], *, metric: str, n_codes: int = 30
) -> go.Figure:
    """Effect of ablating each code at each position: codes down, tokens across.

    Args:
        sweep: An `AblationSweep`, or its table, with names or without; largest effects first.
        tokens: What stands at each position.
        metric: Name of the metric that effects change.
        n_codes: How many codes are shown.
    """
    frame = as_frame(sweep)
    first_rows = frame.drop_duplicates("code").head(n_codes)
    codes = first_rows["code"].tolist()
    effects = np.full((len(codes), len(tokens)), np.nan)
    hovers = [[""] * len(tokens) for _ in codes]
    columns = ["code", "position", "effect", "control"]
    shown = frame.loc[frame["code"].isin(codes), columns]
    for code, position, effect, control in shown.itertuples(index=False):
        row = codes.index(code)
        effects[row, position] = effect
        hovers[row][position] = f"other codes near there: {control:.4g}"
    return _heatmap(
        effects,
        _names(first_rows),
        list(map(visible, tokens)),
        title="Effect of ablating each code at each position",
        color_is=f"change of {metric}",
        rows_are="ablated code",
        hovers=hovers,
    )


def plot_patching(patching: pd.DataFrame | HasFrame, *, metric: str) -> go.Figure:
    """Effect of patching clean codes at each position, above that of random codes.

    Args:
        patching: A `ConceptPatching`, or its table, with names or without.
        metric: Name of the metric that effects are measured by.
    """
    frame = as_frame(patching)
    rows = ["clean run's code"]
    effects = [numbers(frame, "effect")]
    if "control" in frame:
        rows.append("a random code")
        effects.append(numbers(frame, "control"))
    tokens: list[str] = []
    for clean, corrupted in zip(frame["clean_token"], frame["corrupted_token"], strict=True):
        both = f"{visible(clean)} / {visible(corrupted)}"
        tokens.append(visible(clean) if clean == corrupted else both)
    hovers: list[str] = []
    codes = zip(_codes_of_run(frame, "clean"), _codes_of_run(frame, "corrupted"), strict=True)
    for clean, corrupted in codes:
        hovers.append(f"clean: {clean}<br>corrupted: {corrupted}")
    return _heatmap(
        np.stack(effects),
        rows,
        tokens,
        title=f"Patching codes of the clean run: {metric}",
        color_is="effect: 0 corrupted, 1 clean",
        rows_are="patched",
        hovers=[hovers] * len(rows),
    )


def plot_attribution(
    pairs: pd.DataFrame,
    positions: pd.DataFrame,
    *,
    metric: str,
    correlations: Sequence[float],
    completeness_error: float,
) -> go.Figure:
    """First-order effects and integrated gradients, each against the effects of true edits.

    Args:
        pairs: Drawn replacements with ``first_order``, ``exact_decoder`` and ``true``.
        positions: Tokens with ``integrated`` and ``true``.
        metric: Name of the metric that effects change.
        correlations: Spearman correlations of ``first_order``, ``exact_decoder`` and
            ``integrated`` with ``true``.
        completeness_error: How far integrated gradients are from adding up, as a fraction.
    """
    replacements = _replacement_hovers(pairs)
    panels = (
        _Prediction("one code by another,<br>first order", pairs, "first_order", replacements),
        _Prediction("one code by another,<br>decoder exact", pairs, "exact_decoder", replacements),
        _Prediction(
            "code by mean code,<br>integrated gradients",
            positions,
            "integrated",
            _token_hovers(positions),
        ),
    )
    titles: list[str] = []
    for panel, correlation in zip(panels, correlations, strict=True):
        titles.append(f"{panel.title}<br>rank correlation {correlation:.2f}")
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.09)
    for column, panel in enumerate(panels, start=1):
        _draw_against_truth(figure, panel, column)
    figure.update_xaxes(title_text="predicted effect,<br>in the same unit")
    figure.update_xaxes(
        title_text=f"attribution, same unit<br>(completeness error {completeness_error:.1%})", col=3
    )
    figure.update_yaxes(title_text=wrapped(f"true effect: {metric}", 36), col=1)
    figure.update_annotations(font_size=FONT_PX)
    figure = themed(figure, title=f"Attribution against true edits: {plain(metric)}", height=480)
    return figure.update_layout(showlegend=False, margin_t=120)  # titles have three lines


class _Prediction(NamedTuple):
    """One way to predict effects, against the effects of true edits."""

    title: str
    frame: pd.DataFrame
    predicted: str
    hovers: Sequence[str]


def _replacement_hovers(pairs: pd.DataFrame) -> list[str]:
    hovers: list[str] = []
    columns = pairs[["text", "position", "code", "replaced_by"]]
    for text, position, code, other in columns.itertuples(index=False):
        hovers.append(f"text {text}, position {position}: code {code} to {other}")
    return hovers


def _token_hovers(positions: pd.DataFrame) -> list[str]:
    hovers: list[str] = []
    columns = positions[["text", "position", "token", "code"]]
    for text, position, token, code in columns.itertuples(index=False):
        hovers.append(f"text {text}, position {position} {visible(token)}: code {code}")
    return hovers


def _draw_against_truth(figure: go.Figure, panel: _Prediction, column: int) -> None:
    predicted, true = numbers(panel.frame, panel.predicted), numbers(panel.frame, "true")
    figure.add_scatter(
        x=predicted,
        y=true,
        text=panel.hovers,
        mode="markers",
        marker={"color": BLUE, "size": DOT_PX, "opacity": 0.6},
        hovertemplate="%{text}<br>gradient %{x:.4g}<br>true %{y:.4g}<extra></extra>",
        row=1,
        col=column,
    )
    # The line on which predictions are right, from the least to the largest number in the panel.
    both = np.concatenate([predicted, true])
    ends = [both.min(), both.max()] if len(both) else [0, 1]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line=REFERENCE_LINE, hoverinfo="skip", row=1, col=column
    )


def _heatmap(
    values: Float[np.ndarray, "rows pos"],
    rows: Sequence[str],
    tokens: Sequence[str],
    *,
    title: str,
    color_is: str,
    rows_are: str,
    hovers: Sequence[Sequence[str]],
) -> go.Figure:
    """Rows against tokens, safe to show, in diverging colors around zero."""
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    height = max(_CELL_PX * len(rows), 110)  # of the cells, in pixels; the color bar needs some
    figure = go.Figure(
        go.Heatmap(
            z=values,
            # The position makes names of equal tokens differ: plotly would draw them as one.
            x=[f"{position} {token}" for position, token in enumerate(tokens)],
            y=list(rows),
            zmid=0,
            zmin=-largest,
            zmax=largest,
            colorscale=_DIVERGING,
            xgap=1,
            ygap=1,
            customdata=hovers,
            hovertemplate="%{x}<br>%{y}<br>%{z:.4g}<br>%{customdata}<extra></extra>",
            colorbar={
                "lenmode": "pixels",
                "len": min(240, height),
                "y": 1,
                "yanchor": "top",
                "thickness": 14,
                "outlinewidth": 0,
                "nticks": 5,
            },
        )
    )
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5], title_text=rows_are, showgrid=False)
    figure.update_xaxes(title_text="position and token", tickangle=-60, showgrid=False)
    _note_above(figure, f"color: {plain(color_is)}")
    return themed(figure, title=plain(title), height=240 + height)


def _note_above(figure: go.Figure, text: str) -> None:
    """Says above the cells what color means: a title of the color bar would take their width."""
    figure.add_annotation(
        text=text,
        x=0,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        yshift=6,
        showarrow=False,
        align="left",
    )


def _names(rows: pd.DataFrame) -> list[str]:
    """The number and name of each code, or else the tokens that it stands at."""
    names: list[str] = []
    columns = zip(rows["code"], _texts(rows, "name"), _texts(rows, "tokens"), strict=True)
    for code, name, tokens in columns:
        names.append(code_name(code, name or tokens, width=_NAME_WIDTH))
    return names


def _texts(rows: pd.DataFrame, column: str) -> list[str]:
    """A column of texts; empty ones where the table does not have it."""
    return rows[column].tolist() if column in rows else [""] * len(rows)


def _names_and_contexts(rows: pd.DataFrame) -> list[str]:
    names = _names(rows)
    if "context" not in rows:
        return names
    lines: list[str] = []
    for name, context in zip(names, rows["context"], strict=True):
        lines.append(f"{name}<br>{_context(context)}")
    return lines


def _context(context: str) -> str:
    """A context with the marked token in the middle of what is left of it."""
    start = max(0, context.find("[") - _NAME_WIDTH // 2)
    cut = ("\u2026" if start else "") + context[start:].replace("\n", "\u21b5")
    return plain(shortened(cut, _NAME_WIDTH))


def _codes_of_run(rows: pd.DataFrame, run: str) -> list[str]:
    """The number and name of the code of each token in a run."""
    codes: list[str] = []
    columns = zip(rows[f"{run}_code"], _texts(rows, f"{run}_name"), strict=True)
    for code, name in columns:
        shown = code_name(code, name)
        codes.append(shown if code < 0 else f"code {shown}")
    return codes
