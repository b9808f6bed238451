"""Does one method beat others? An answer for each data set, decoder and number."""

from collections.abc import Mapping, Sequence

import pandas as pd

import clvq_lens as cl
from clvq_lens.comparison.described import METRICS
from clvq_lens.showing import with_interval

ANSWERS = ("behind", "behind by pairs", "open", "by pairs", "apart")
"""From the worst to the best."""
_SIGNS = {"fvu": 1, "ce_loss_recovered": -1, "readout_kl": 1}  # -1: higher is better
_KEY = ["decoder", "metric", "method"]


def set_by_set(
    comparisons: Mapping[str, cl.Comparison], method: str, others: Sequence[str]
) -> pd.DataFrame:
    """One row for each comparison, decoder and number, where all the methods have it.

    Args:
        comparisons: What was measured, by name of the data set.
        method: The method that is held against the others.
        others: Those that it should beat.

    Returns:
        The number of the method, the best of the others', and the worst answer beside any of them:
        "apart" where intervals do not overlap, "by pairs" where only that of the difference on the
        same documents leaves out 0, "open" where it does not, and "behind" likewise.
    """
    rows: list[dict[str, str]] = []
    for name, comparison in comparisons.items():
        if not {method, *others} <= set(comparison.methods):
            continue
        numbers = _one_a_row(comparison.frame())
        differences = _one_a_row(comparison.differences(method)).sort_index()
        for (decoder, metric), group in numbers.groupby(_KEY[:2], sort=False):
            found = group.droplevel(_KEY[:2])
            if {method, *others} <= set(found.index):
                row = {"data set": name, "decoder": decoder, "number": METRICS[metric].title}
                beside = differences.loc[(decoder, metric)].loc[list(others)]
                rows.append(row | _beside(found, beside, method, _SIGNS[metric]))
    return pd.DataFrame(rows)


def _one_a_row(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers of a frame of methods with their intervals, one below the other."""
    parts: list[pd.DataFrame] = []
    for metric in _SIGNS:
        if metric in frame:
            names = {metric: "value", f"{metric}_low": "low", f"{metric}_high": "high"}
            part = frame[["decoder", "method", *names]].rename(columns=names)
            parts.append(part.assign(metric=metric).dropna())
    return pd.concat(parts).set_index(_KEY)


def _beside(
    numbers: pd.DataFrame, differences: pd.DataFrame, method: str, sign: int
) -> dict[str, str]:
    """The columns of one number; ``differences``: the others less the method."""
    ours, theirs = numbers.loc[method], numbers.loc[differences.index]
    best = theirs.loc[(sign * theirs["value"]).idxmin()]
    answers: list[str] = []
    for other, difference in differences.iterrows():
        answers.append(_answer(ours, theirs.loc[other], difference, sign))
    return {
        method: with_interval(ours["value"], ours["low"], ours["high"]),
        "best other": f"{with_interval(best['value'], best['low'], best['high'])}, {best.name}",
        "answer": min(answers, key=ANSWERS.index),
    }


def _answer(ours: pd.Series, theirs: pd.Series, difference: pd.Series, sign: int) -> str:
    """Beside one other method."""
    gains = sorted((sign * (theirs["low"] - ours["high"]), sign * (theirs["high"] - ours["low"])))
    gains_of_pairs = sorted((sign * difference["low"], sign * difference["high"]))
    if gains[0] > 0:
        return "apart"
    if gains[1] < 0:
        return "behind"
    if gains_of_pairs[0] > 0:
        return "by pairs"
    return "behind by pairs" if gains_of_pairs[1] < 0 else "open"
