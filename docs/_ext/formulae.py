"""Formulae as MathML, which browsers draw without a script and without a network."""

from html import escape
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_LOGGER = logging.getLogger(__name__)


def mathml(node: nodes.math | nodes.math_block) -> str:
    """A formula in LaTeX as MathML; one that cannot be read is a warning, and stays LaTeX."""
    formula = node.astext()
    try:
        return latex2mathml.tex2mathml(formula, as_block=isinstance(node, nodes.math_block))
    except MathError as error:
        _LOGGER.warning("The formula %s cannot be drawn: %s", formula, error, location=node)
        return f"<code>{escape(formula)}</code>"


def _visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node))
    raise nodes.SkipNode


def _visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{mathml(node)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
