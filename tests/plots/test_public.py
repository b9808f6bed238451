"""The names under `clvq_lens.plots`."""

import subprocess
import sys
from pathlib import Path

import clvq_lens as cl
from clvq_lens import plots


def test_every_figure_function_is_a_public_name():
    folder = Path(plots.__file__).parent
    defined = {
        line.removeprefix("def ").split("(")[0]
        for path in folder.glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def plot_")
    }
    assert defined | {"code_colors"} == set(cl.plots.__all__)
    for name in cl.plots.__all__:
        assert callable(getattr(cl.plots, name))


def test_naming_the_plots_does_not_import_plotly():
    code = "import sys, clvq_lens as cl; cl.plots.__all__; print('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
