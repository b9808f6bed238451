"""What edits do to the model: ablations, patching, attribution."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from clvq_lens.plots.inputs import HasFrame, as_frame
from clvq_lens.plots.text import code_name, plain, shortened, visible
from clvq_lens.plots.theme import COLOURS, themed

# Nothing at zero is nearly nothing to see, on a light page and on a dark one.
_DIVERGING = (
    (0, "#2f7ed8"),
    (0.498, "rgba(47,126,216,0.12)"),
    (0.5, "rgba(128,128,128,0.12)"),
    (0.502, "rgba(214,69,80,0.12)"),
    (1, "#d64550"),
)
_LABEL_WIDTH = 26


def plot_ablations(sweep: pd.DataFrame | HasFrame, *, metric: str, n_codes: int = 30) -> go.Figure:
    """Effect of ablating each code, beside codes of about the same usage.

    Each bar names the code with its label, or else with the tokens that it stands at in these
    texts, and the first context below.

    Args:
        sweep: An `AblationSweep`, or its table, with labels or without; largest effects first.
        metric: Its name.
        n_codes: How many codes are shown.
    """
    rows = as_frame(sweep).head(n_codes)
    names = _names(rows, contexts=True)
    figure = go.Figure()
    figure.add_bar(
        y=names,
        x=rows["effect"],
        orientation="h",
        name="this code ablated",
        marker={"color": COLOURS[0]},
        customdata=rows["n_tokens"],
        hovertemplate="%{y}<br>effect %{x:.4g}<br>%{customdata} tokens<extra></extra>",
    )
    figure.add_scatter(
        y=names,
        x=rows["control"],
        mode="markers",
        name="mean of codes used as often",
        marker={"color": COLOURS[1], "symbol": "line-ns-open", "size": 12, "line": {"width": 3}},
        hovertemplate="control %{x:.4g}<extra></extra>",
    )
    figure.update_yaxes(range=[len(rows) - 0.4, -0.6], title_text="ablated code")
    figure.update_xaxes(title_text=_wrapped(f"change of {metric}", 36))
    row = 38 if "context" in rows else 22  # pixels of a name in two lines, or in one
    return themed(figure, title="Effect of ablating each code", height=170 + row * len(rows))


def plot_ablations_by_position(
    sweep: pd.DataFrame | HasFrame, tokens: Sequence[str], *, metric: str, n_codes: int = 30
) -> go.Figure:
    """Effect of ablating each code at each position: codes down, tokens across.

    Args:
        sweep: An `AblationSweep`, or its table, with labels or without; largest effects first.
        tokens: What stands at each position.
        metric: Its name.
        n_codes: How many codes are shown.
    """
    frame = as_frame(sweep)
    codes = frame["code"].drop_duplicates().head(n_codes).tolist()
    shown = frame[frame["code"].isin(codes)]
    effects = np.full((len(codes), len(tokens)), np.nan)
    details = [[""] * len(tokens) for _ in codes]
    order = {code: row for row, code in enumerate(codes)}
    columns = (shown[name] for name in ("code", "position", "effect", "control"))
    for code, position, effect, control in zip(*columns, strict=True):
        effects[order[code], position] = effect
        details[order[code]][position] = f"a random code there: {control:.4g}"
    labels = dict(zip(frame["code"], _names(frame), strict=True))
    names = [labels[code] for code in codes]
    title = "Effect of ablating each code at each position"
    return _heatmap(
        effects,
        names,
        tokens,
        title=title,
        bar=f"change of {metric}",
        y="ablated code",
        details=details,
    )


def plot_patching(patching: pd.DataFrame | HasFrame, *, metric: str) -> go.Figure:
    """Effect of patching clean codes at each position, above that of random codes.

    Args:
        patching: A `ConceptPatching`, or its table, with labels or without.
        metric: Its name.
    """
    frame = as_frame(patching)
    runs = {"clean run's code": "effect"}
    if "control" in frame:
        runs["a random code"] = "control"
    effects = np.stack([np.asarray(frame[column], dtype=float) for column in runs.values()])
    pairs = zip(frame["clean_token"], frame["corrupted_token"], strict=True)
    tokens = [clean if clean == other else f"{clean} /{other}" for clean, other in pairs]
    details = [
        [
            f"clean: {_code(row, 'clean')}<br>corrupted: {_code(row, 'corrupted')}"
            for _, row in frame.iterrows()
        ]
    ] * len(runs)
    return _heatmap(
        effects,
        list(runs),
        tokens,
        title=f"Patching codes of the clean run: {metric}",
        bar="effect: 0 corrupted, 1 clean",
        y="patched",
        details=details,
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
        metric: Its name.
        correlations: Spearman, of ``first_order``, ``exact_decoder`` and ``integrated``.
        completeness_error: Of integrated gradients, as a fraction.
    """
    replacements = [
        f"text {text}, position {position}: code {code} to {other}"
        for text, position, code, other in zip(
            *(pairs[column] for column in ("text", "position", "code", "replaced_by")), strict=True
        )
    ]
    tokens = [
        f"text {text}, position {position} {visible(token)}: code {code}"
        for text, position, token, code in zip(
            *(positions[column] for column in ("text", "position", "token", "code")), strict=True
        )
    ]
    panels = (
        (pairs, "first_order", "one code by another,<br>first order", replacements),
        (pairs, "exact_decoder", "one code by another,<br>decoder exact", replacements),
        (positions, "integrated", "code by mean code,<br>integrated gradients", tokens),
    )
    titles = [
        f"{title}<br>rank correlation {correlation:.2f}"
        for (_, _, title, _), correlation in zip(panels, correlations, strict=True)
    ]
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.09)
    for column, (frame, predicted, _, names) in enumerate(panels, start=1):
        x, y = _numbers(frame, predicted), _numbers(frame, "true")
        _against_truth(figure, column, x, y, names)
    figure.update_xaxes(title_text="predicted effect,<br>in the same unit")
    figure.update_xaxes(
        title_text=f"attribution, same unit<br>(completeness error {completeness_error:.1%})", col=3
    )
    figure.update_yaxes(title_text=f"true effect: {_wrapped(metric, 30)}", col=1)
    figure.update_annotations(font_size=13)
    figure = themed(figure, title=f"Attribution against true edits: {plain(metric)}", height=480)
    return figure.update_layout(showlegend=False, margin_t=120)


def _against_truth(
    figure: go.Figure, col: int, predicted: np.ndarray, true: np.ndarray, names: Sequence[str]
) -> None:
    points = {"color": COLOURS[0], "size": 6, "opacity": 0.6}
    hover = "%{text}<br>gradient %{x:.4g}<br>true %{y:.4g}<extra></extra>"
    figure.add_scatter(
        x=predicted, y=true, text=names, mode="markers", marker=points, hovertemplate=hover,
        row=1, col=col,
    )  # fmt: skip
    both = np.concatenate([predicted, true])
    ends = [both.min(), both.max()] if len(both) else [0, 1]
    line = {"color": COLOURS[5], "dash": "dot"}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", row=1, col=col)


def _heatmap(
    values: Float[np.ndarray, "rows pos"],
    rows: Sequence[str],
    tokens: Sequence[str],
    *,
    title: str,
    bar: str,
    y: str,
    details: Sequence[Sequence[str]] | None = None,
) -> go.Figure:
    """Rows against tokens, in diverging colours around zero."""
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    names = [f"{position} {visible(token)}" for position, token in enumerate(tokens)]
    inner = max(24 * len(rows), 110)  # pixels, about
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=names,
            y=list(rows),
            zmid=0,
            zmin=-largest,
            zmax=largest,
            colorscale=_DIVERGING,
            xgap=1,
            ygap=1,
            customdata=details,
            hovertemplate="%{x}<br>%{y}<br>%{z:.4g}"
            + ("<br>%{customdata}" if details is not None else "")
            + "<extra></extra>",
            colorbar={
                **{"lenmode": "pixels", "len": min(240, inner), "y": 1, "yanchor": "top"},
                **{"thickness": 14, "outlinewidth": 0, "nticks": 5},
            },
        )
    )
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5], title_text=y, showgrid=False)
    figure.update_xaxes(title_text="position and token", tickangle=-60, showgrid=False)
    figure.add_annotation(
        **{"x": 0, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "left"},
        **{"yanchor": "bottom", "yshift": 6, "showarrow": False, "align": "left"},
        text=f"colour: {plain(bar)}",
    )
    return themed(figure, title=plain(title), height=240 + inner)


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    return np.asarray(frame[column], dtype=float)


def _names(rows: pd.DataFrame, *, contexts: bool = False) -> list[str]:
    """What each code is called: its number and label, or else the tokens that it stands at."""
    labels = rows["label"] if "label" in rows else [""] * len(rows)
    tokens = rows["tokens"] if "tokens" in rows else [""] * len(rows)
    names = [
        code_name(code, label or token, width=_LABEL_WIDTH)
        for code, label, token in zip(rows["code"], labels, tokens, strict=True)
    ]
    if contexts and "context" in rows:
        names = [
            f"{name}<br>{_context(context)}"
            for name, context in zip(names, rows["context"], strict=True)
        ]
    return names


def _context(context: str) -> str:
    """A context with the marked token in the middle of what is left of it."""
    start = max(0, context.find("[") - _LABEL_WIDTH // 2)
    cut = ("\u2026" if start else "") + context[start:].replace("\n", "\u21b5")
    return plain(shortened(cut, _LABEL_WIDTH))


def _wrapped(text: str, width: int) -> str:
    return "<br>".join(plain(line) for line in textwrap.wrap(text, width))


def _code(row: pd.Series, run: str) -> str:
    code = int(str(row[f"{run}_code"]))
    name = code_name(code, str(row.get(f"{run}_label", "")))
    return name if code < 0 else f"code {name}"
