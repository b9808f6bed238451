"""The notebooks run from top to bottom, and are kept as they came out."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_installs_the_library_on_colab_and_nowhere_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    notebook = nbformat.read(path, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code = TransformerManager().transform_cell(cell.source)
    ran: list[tuple[str, str]] = []
    shell = SimpleNamespace(run_line_magic=lambda name, line: ran.append((name, line)))
    session: dict[str, object] = {"get_ipython": lambda: shell}
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        exec(code, session)  # the library is missing, but this is not Colab
    assert (ran, session["on_colab"]) == ([], False)

    colab = ModuleType("google.colab")
    wheel = "clvq_lens-0.1.0-py3-none-any.whl"
    uploaded = SimpleNamespace(upload=lambda: {wheel: b""})
    monkeypatch.setattr(colab, "files", uploaded, raising=False)
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    exec(code, session)  # the library is there already
    assert (ran, session["on_colab"]) == ([], True)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(code, session)
    [(magic, line)] = ran
    # Jupyter puts the values of variables into the lines of magics.
    assert (magic, line.format(**session)) == ("pip", f"install --quiet ./{wheel}")
