"""Names in backticks lead to where they are described, however short they are written.

In the source a name is as long as it has to be there, such as ``fit`` or ``clvq_lens.Lens.fit``.
A name that leads nowhere is a warning, unless it belongs to Python or to another package. Types in
signatures lead to what is described, and others stay text.
"""

import builtins
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

# The first part of names that belong to others.
OTHERS = {
    "HookedEncoder",
    "HookedTransformer",
    "Path",
    "TransformerBridge",
    "numpy",
    "pandas",
    "tempfile",
    "transformers",
}
OURS = "clvq_lens."


def described_as(written: str, described: list[str]) -> str | None:
    """The whole name of what is meant; None: nothing that is described ends like this.

    Args:
        written: The name as it stands in the source.
        described: All whole names.
    """
    name = written.removesuffix("()").removeprefix(OURS)
    endings = [whole for whole in described if f".{whole}".endswith(f".{name}")]
    # A verb belongs to the lens, whatever else has one of that name, and then to the package.
    for wanted in (f"{OURS}Lens.{name}", f"{OURS}{name}"):
        if wanted in endings:
            return wanted
    return min(endings, key=len) if endings else None


def lead_somewhere(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    """A reference to what a short name means, or the name as text."""
    if node.get("refdomain") != "py":
        return None
    written = node["reftarget"]
    domain = env.domains.python_domain
    whole = described_as(written, list(domain.objects))
    if whole is not None:
        node["reftarget"] = whole
        return domain.resolve_xref(
            env, node.get("refdoc", ""), app.builder, "obj", whole, node, text
        )
    first = written.removesuffix("()").partition(".")[0]
    is_of_others = hasattr(builtins, first) or first in OTHERS
    return text if is_of_others or node.get("reftype") == "class" else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("missing-reference", lead_somewhere)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
