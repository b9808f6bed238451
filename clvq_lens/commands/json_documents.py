"""What commands tell machines: plain dictionaries, in which every number stands with its interval.

A number without an interval, such as a count, has null at both ends.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from clvq_lens.commands.opened_run import Evaluated
from clvq_lens.commands.run import run_values
from clvq_lens.data.store.store import ActivationStore
from clvq_lens.evaluation.evaluation import Evaluation
from clvq_lens.planning.fit_plan import FitPlan


def fit_document(fitted: Evaluated, out: Path) -> dict[str, object]:
    """What ``clvq-lens fit`` did.

    Args:
        fitted: The run, and its evaluation.
        out: Folder of the results.
    """
    return {
        "command": "fit",
        "out": str(out.absolute()),
        **_evaluated(fitted),
    }


def evaluation_document(evaluated: Evaluated) -> dict[str, object]:
    """What ``clvq-lens evaluate`` measured."""
    return {"command": "evaluate", **_evaluated(evaluated)}


def report_document(written: Evaluated) -> dict[str, object]:
    """What ``clvq-lens report`` wrote."""
    return {"command": "report", **_evaluated(written)}


def plan_document(plan: FitPlan) -> dict[str, object]:
    """What a fit will take: seconds and bytes. A plan is a forecast, and has no intervals."""
    return {
        "command": "plan",
        "where": plan.where,
        "basis": plan.basis,
        "phases": [asdict(phase) for phase in plan.phases],
        "wall_s": plan.wall_s,
        "model_bytes": plan.model_bytes,
        "fit_bytes": plan.fit_bytes,
        "memory_bytes": plan.memory_bytes,
        "device_bytes": plan.device_bytes,
        "disk_bytes": plan.disk_bytes,
        "fits": plan.fits,
    }


def store_document(store: ActivationStore) -> dict[str, object]:
    """What ``clvq-lens cache`` keeps."""
    return {
        "command": "cache",
        "out": str(store.folder.absolute()),
        "model": store.index.contents.model.model_name,
        "points": dict(store.index.contents.points),
        "dtype": store.index.contents.dtype,
        "n_tokens": store.n_tokens,
        "n_documents": store.n_documents,
        "size_bytes": store.size_bytes,
        "complete": store.index.complete,
    }


def _evaluated(evaluated: Evaluated) -> dict[str, object]:
    return {
        "written": str(evaluated.written.absolute()),
        "data": evaluated.held_out.place,
        "held_out": evaluated.held_out.kept_aside,
        "evaluation": _evaluation(evaluated.evaluation),
        "run": run_values(evaluated.run),
    }


def _evaluation(evaluation: Evaluation) -> dict[str, object]:
    metrics: dict[str, object] = {}
    for name in evaluation.frame()["metric"]:
        value = getattr(evaluation, name)
        low, high = getattr(value, "low", None), getattr(value, "high", None)
        metrics[name] = {"value": _plain(value), "low": _plain(low), "high": _plain(high)}
    recovery = None if evaluation.recovery is None else evaluation.recovery.rows
    return {
        "n_codes": evaluation.n_codes,
        "n_tokens": evaluation.n_tokens,
        "n_documents": evaluation.n_documents,
        "metrics": metrics,
        "recovery": None if recovery is None else [_row(asdict(row)) for row in recovery],
        "left_out": evaluation.left_out,
    }


def _row(values: Mapping[str, object]) -> dict[str, object]:
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    """A number with all its digits; None for NaN and infinity, which JSON does not have."""
    if value is None or isinstance(value, bool | int | str):
        return value
    number = float(value)  # type: ignore[arg-type]  # a float, or one of numpy
    return number if math.isfinite(number) else None
