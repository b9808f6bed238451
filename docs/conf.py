"""How the site is built: Sphinx with furo, notebooks as they are kept, and no network.

``make docs`` builds it. Everything that a page shows lies in the site itself: plotly is copied into
it, and formulae are MathML, which browsers draw on their own.
"""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

project = "clvq_lens"
author = "the clvq_lens authors"
release = installed_version("clvq-lens")
html_title = f"clvq_lens {release}"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    # Of this folder, in _ext.
    "gathered",
    "figures",
    "formulae",
    "names",
    "prose",
    "signatures",
]
exclude_patterns = ["_build", "_ext"]
nitpicky = True  # a name in backticks leads somewhere; see _ext/names.py

# ---- pages ---------------------------------------------------------------------------------------

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

# ---- notebooks: tests execute them, the site shows what is kept ----------------------------------

nb_execution_mode = "off"  # the gallery asks for another mode in its first lines
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_ipywidgets_js = {}  # progress bars are not shown, and these scripts would come from elsewhere

# ---- the reference -------------------------------------------------------------------------------

default_role = "py:obj"  # a name in single backticks is one of ours
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures come as they are written, from _ext/signatures.py
autodoc_inherit_docstrings = True
python_maximum_signature_line_length = 88
python_display_short_literal_types = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"
