"""The notebooks run from top to bottom, and are kept as they came out."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DEMOS = Path(__file__).parents[1] / "demos"
NOTEBOOKS = sorted(DEMOS.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.demo
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of the Jupyter client itself
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_an_error(path):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(DEMOS)}}
    )
    client.execute()  # raises the error of the first cell that fails
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output["text"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_outputs_and_no_trace_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = path.read_text()
    assert "Traceback" not in text
    assert str(Path.home()) not in text
    assert path.stat().st_size < 2_000_000
