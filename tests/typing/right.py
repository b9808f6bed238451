"""What a user writes, and a type checker accepts; never run."""

from pathlib import Path
from typing import Any, assert_type

import pandas as pd
import plotly.graph_objects as go
import torch

import clvq_lens as cl

model: Any = None
texts: cl.Data = ["a text", "another one"]
labels: cl.TokenLabels = [["DET", "NOUN"], ["DET", "NOUN"]]

lens = cl.add_clvq(model, 1, 3, n_codes=64, decoder="table", name="mine")
assert_type(lens, cl.Lens)
assert_type(lens.fit(texts, n_tokens=60_000, kl_weight=0.5, progress=False), cl.History)
assert_type(lens.fit(Path("texts.txt"), cl.FitConfig(seed=1)), cl.History)
trackers: list[cl.Callback] = [
    cl.callbacks.JSONLines("fit.jsonl"),
    cl.callbacks.TensorBoard("runs"),
]
lens.fit(texts, callbacks=[*trackers, cl.callbacks.WandB(project="concepts")])

evaluation = lens.evaluate(texts, token_labels=labels)
assert_type(evaluation, cl.Evaluation)
assert_type(evaluation.fvu, cl.Estimate)
assert_type(lens.encode(torch.zeros(2, 8, dtype=torch.long)), cl.Encoding)
assert_type(lens.concepts(texts, token_labels=labels)[17], cl.Concept)
assert_type(lens.faithfulness(["a"], ["class"], protocol="paper", n_folds=5), cl.Faithfulness)
assert_type(lens.report(texts, "report.html", n_texts=10), Path)
assert_type(lens.browse(texts, height=600, evaluation=evaluation), cl.BrowsedPage)
assert_type(lens.baseline("k-means", texts, n_tokens=1_000), cl.Lens)
assert_type(lens.plot_codebook({17: "animals"}), go.Figure)

with lens.edit(cl.Ablate(17), cl.Force(3, at=-1), error_term=False) as edited:
    assert_type(edited, cl.Lens)
with lens.project_out([17, 20], place="source", at=slice(2, None)), lens.splice() as spliced:
    assert_type(spliced.name, str)

sweep = cl.ablation_sweep(lens, texts, cl.kl(at=-1), by_position=True)
assert_type(sweep.frame(names={17: "animals"}), pd.DataFrame)
assert_type(cl.concept_flow(model, texts, token_labels=labels).plot(), go.Figure)
assert_type(cl.compare([lens, "k-means"], ["a"], ["class"], n_draws=3), cl.Comparison)
assert_type(cl.salience(model, texts, 2, cl.head(torch.randn(2, 8), layer=3)), cl.Salience)
judge = cl.judges.openai("http://localhost:8000/v1", "Qwen/Qwen3-8B", cache="answers", seed=0)
table = lens.concepts(texts).named(judge, progress=False)
found = cl.detection(table, cl.judges.hf(model, model.tokenizer, batch_size=8), n_contexts=8)
assert_type(cl.judges.agreement({"a": found, "b": cl.detection(table, judge)}).plot(), go.Figure)
try:
    lens.save("folder")
except cl.errors.NotFittedError:
    pass
