"""Mistakes that a type checker tells of, one in each marked line; never run."""

from typing import Any

import clvq_lens as cl

model: Any = None
lens = cl.add_clvq(model, 1, 3)

cl.add_clvq(model, 1, 3, n_code=64)  # wrong
cl.add_clvq(model, 1, 3, decoder="tables")  # wrong
lens.fit(["a"], n_token=1_000)  # wrong
lens.fit(["a"], seed="zero")  # wrong
lens.fit(["a"], callbacks=["fit.jsonl"])  # wrong
lens.evaluate(["a"], labels=[["DET"]])  # wrong
lens.evaluate(["a"], long_texts="cut")  # wrong
lens.encode(["a"], long_text="split")  # wrong
lens.concepts(["a"], n_example=3)  # wrong
lens.faithfulness(["a"], ["class"], protocol="strict")  # wrong
lens.faithfulness(["a"], ["class"], n_fold=3)  # wrong
lens.baseline("kmeans", ["a"])  # wrong
lens.baseline("k-means", ["a"], n_active="many")  # wrong
lens.report(["a"], 3)  # wrong
lens.browse(["a"], heigth=600)  # wrong
lens.project_out(17, at="target", centred=True)  # wrong
lens.edit(cl.Ablate(17), error=False)  # wrong
cl.compare([lens], ["a"], n_drawn=3)  # wrong
cl.refits(lens, ["a"], n_token=1_000)  # wrong
cl.refits(lens, ["a"], kind="kmeans")  # wrong
cl.head("weight", layer=3)  # wrong
cl.judges.openai("http://localhost/v1", 3)  # wrong
cl.judges.hf(model, model, batches=3)  # wrong
cl.detection(lens.concepts(["a"]), "a judge")  # wrong
lens.evaluate(["a"]).fvus  # wrong
