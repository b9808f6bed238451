"""Whether several judges find the same codes well named."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from clvq_lens.arguments import check_count, check_is, check_seed
from clvq_lens.concepts.detection import Detection
from clvq_lens.errors import ConfigError, DataError
from clvq_lens.plots.concordance_points import plot_concordance
from clvq_lens.showing import Shown, told_apart
from clvq_lens.stats.concordance import Concordance, concordance

_FEWEST_CODES = 3  # two can be ordered in two ways, which says nothing


@dataclass(frozen=True, repr=False, eq=False)
class JudgeAgreement(Shown):
    """How far judges put codes in the same order by how well their names tell them.

    Attributes:
        judges: What each judge is called.
        codes: The codes that all of them judged.
        accuracy: Of each judge and code, in [0, 1].
        accuracy_control: The same with the name of another code.
        own: Kendall's W of accuracies, beside its null.
        control: The same with the names of other codes, on the same contexts. What judges share
            there cannot come from the names: it comes from contexts, or from habits.
        n_draws: Draws of the null.
    """

    judges: tuple[str, ...]
    codes: tuple[int, ...]
    accuracy: Float[np.ndarray, "judges codes"]
    accuracy_control: Float[np.ndarray, "judges codes"]
    own: Concordance
    control: Concordance
    n_draws: int

    def frame(self) -> pd.DataFrame:
        """Kendall's W with a code's own name and with that of another code, beside its null."""
        rows: list[dict[str, object]] = []
        for names, of_names in (("own", self.own), ("of another code", self.control)):
            rows.append(
                {
                    "names": names,
                    "kendall_w": of_names.w,
                    "null_mean": of_names.null_mean,
                    "null_low": of_names.null_low,
                    "null_high": of_names.null_high,
                    "p": of_names.p,
                    "n_judges": len(self.judges),
                    "n_codes": len(self.codes),
                }
            )
        return pd.DataFrame(rows)

    def scores(self) -> pd.DataFrame:
        """One row for each code, with the accuracy of each judge in a column of its name."""
        by_judge = pd.DataFrame(self.accuracy.T, columns=list(self.judges))
        by_judge.insert(0, "code", self.codes)
        return by_judge

    def headline(self) -> str:
        """Kendall's W beside its null and that of shuffled names."""
        w, null, control = told_apart(self.own.w, self.own.null_mean, self.control.w)
        return (
            f"{len(self.judges)} judges, {len(self.codes)} codes, Kendall's W {w}, by chance "
            f"{null} (p = {self.own.p:.2g}), with names of other codes {control}"
        )

    def preview(self) -> pd.DataFrame:
        """W beside its null."""
        return self.frame()

    def plot(self) -> go.Figure:
        """W beside its null, with own names and with those of other codes."""
        return plot_concordance(self.frame())


def agreement(
    detections: Mapping[str, Detection], *, n_draws: int = 2_000, seed: int = 0
) -> JudgeAgreement:
    """Do several judges find the same codes well named, more than chance would have it?

    Kendall's W of the accuracies over the codes that all of them judged, corrected for ties, beside
    W where the accuracies of each judge are shuffled over codes, and beside W of the accuracies
    with the names of other codes.

    Args:
        detections: What each judge found, by what the judge is called. For the control to be the
            same for all, they come from one table with one ``seed`` and ``n_contexts``.
        n_draws: Draws of the null.
        seed: Random seed for these.

    Raises:
        ConfigError: If something else is passed, or fewer than two.
        DataError: If fewer than three codes were judged by all.

    Example:
        >>> judges = {"words": None, "Qwen": judge}  # doctest: +SKIP
        >>> found = {name: cl.detection(table, judges[name]) for name in judges}  # doctest: +SKIP
        >>> cl.judges.agreement(found).frame()  # doctest: +SKIP
    """
    remedy = "Pass {name: detection, ...}."
    check_is("detections", detections, Mapping, remedy)
    for detection in detections.values():
        check_is("A detection", detection, Detection, remedy)
    check_count("n_draws", n_draws)
    check_seed(seed)
    if len(detections) < 2:
        raise ConfigError(f"{len(detections)} judges cannot agree. Pass two at least. {remedy}")
    codes = _judged_by_all(detections)
    accuracy: list[list[float]] = []
    control: list[list[float]] = []
    for detection in detections.values():
        place = {code: index for index, code in enumerate(detection.codes)}
        accuracy.append([detection.accuracy[place[code]] for code in codes])
        control.append([detection.control[place[code]] for code in codes])
    random = np.random.default_rng(seed)
    return JudgeAgreement(
        judges=tuple(map(str, detections)),
        codes=codes,
        accuracy=np.array(accuracy),
        accuracy_control=np.array(control),
        own=concordance(np.array(accuracy), n_draws=n_draws, random=random),
        control=concordance(np.array(control), n_draws=n_draws, random=random),
        n_draws=n_draws,
    )


def _judged_by_all(detections: Mapping[str, Detection]) -> tuple[int, ...]:
    """The codes that every judge judged.

    Raises:
        DataError: If they are fewer than three.
    """
    codes = set.intersection(*(set(detection.codes) for detection in detections.values()))
    if len(codes) < _FEWEST_CODES:
        raise DataError(
            f"{len(codes)} codes were judged by all {len(detections)} judges, and an order takes "
            f"{_FEWEST_CODES} at least. Pass detections of one table."
        )
    return tuple(sorted(codes))
