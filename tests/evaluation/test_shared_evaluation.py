"""Processes that share an evaluation measure what one process does."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import clvq_lens as cl
from clvq_lens.processes import Processes
from tests.conftest import random_model
from tests.evaluation.test_evaluate import fitted_lens
from tests.together import run_together

DATA = torch.randint(0, 40, (600, 14), generator=torch.Generator().manual_seed(4))
"""Three batches and more, so that each process has one."""


def evaluate(lens_folder: Path, out: Path, n_documents: int) -> None:
    lens = random_model().add_clvq(quantizer=cl.load(lens_folder))
    evaluation = lens.evaluate(DATA[:n_documents], shared=True, progress=False)
    norms = evaluation.norms.frame().to_dict("list")
    path = out / f"{n_documents}-{Processes.current().rank}.json"
    path.write_text(json.dumps([evaluation.frame().to_dict("list"), norms]))


def evaluations(lens_folder: Path, out: Path) -> None:
    for n_documents in (600, 1):  # a single document leaves nothing to the others
        evaluate(lens_folder, out, n_documents)


@pytest.mark.parametrize("memory", ["codes", "encoder"])
def test_processes_evaluate_what_one_process_does(tmp_path, memory: str):
    fitted_lens(random_model(), decoder_memory=memory).save(tmp_path / "lens")
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
    evaluations(tmp_path / "lens", alone)
    run_together(2, evaluations, tmp_path / "meeting", tmp_path / "lens", together)
    for n_documents in (600, 1):
        expected, norms = json.loads((alone / f"{n_documents}-0.json").read_text())
        for rank in (0, 1):
            found, found_norms = json.loads((together / f"{n_documents}-{rank}.json").read_text())
            pd.testing.assert_frame_equal(pd.DataFrame(found), pd.DataFrame(expected), rtol=1e-9)
            assert found_norms == norms
