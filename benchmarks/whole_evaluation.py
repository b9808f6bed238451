"""The memory of an evaluation above that of its model, in a fresh process."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import clvq_lens as cl
from benchmarks.apart import taken
from benchmarks.bare_passes import BarePasses
from benchmarks.peak import peak_above
from benchmarks.timing import Row
from benchmarks.whole_models import SUBJECTS, Subject, batches_of


def evaluate_memory(lens: cl.Lens, subject: Subject, texts: list[str]) -> list[Row]:
    """Peaks of an evaluation and of bare passes to the logits; these rows have no time."""
    key = next(key for key, value in SUBJECTS.items() if value is subject)
    with tempfile.TemporaryDirectory() as folder:
        lens.save(Path(folder) / "lens")
        ours = taken(_evaluated, key, f"{folder}/lens", texts).result["bytes"]
    bare = taken(_passed, key, texts).result["bytes"]
    name = f"{subject.name}: memory of lens.evaluate above the model"
    return [
        Row(name, "bare passes", 0.0, 1.0, f"{bare / 1e6:,.0f} MB"),
        Row(name, "clvq_lens", 0.0, ours / max(1, bare), f"{ours / 1e6:,.0f} MB"),
    ]


def _evaluated(key: str, folder: str, texts: list[str]) -> dict[str, Any]:
    model: Any = SUBJECTS[key].model()
    lens = model.add_clvq(quantizer=cl.load(folder))
    return {"bytes": peak_above(partial(lens.evaluate, texts, progress=False))}


def _passed(key: str, texts: list[str]) -> dict[str, Any]:
    model: Any = SUBJECTS[key].model()
    lens = model.add_clvq(*SUBJECTS[key].points)
    batches = batches_of(lens.host, texts)
    bare = partial(BarePasses(model).whole_and_above, SUBJECTS[key].points[1], batches, n_above=0)
    return {"bytes": peak_above(bare)}
