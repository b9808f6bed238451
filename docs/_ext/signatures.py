"""Signatures as they are written in the source.

A signature that is taken from the running code shows what a type is made of; the source says what
is meant: ``Float[Tensor, 'batch pos d']``, ``Data``, ``Baseline | None``. Names for types that only
the source knows are spelled out.
"""

import ast
import copy
import dataclasses
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

import clvq_lens

_LOGGER = logging.getLogger(__name__)

# Classes that users make themselves. All others are results: how they are made is nobody's concern.
MADE_BY_USERS = {
    "Ablate",
    "CLVQConfig",
    "FitConfig",
    "Force",
    "JSONLines",
    "Patch",
    "Restrict",
    "Steer",
    "Swap",
    "TensorBoard",
    "WandB",
}

# Names of internal types, and what users pass for them.
READ_AS = {
    "Attached": "Lens",
    "Attachment": "Lens",
    "StoredActivations": "ActivationStore | VectorData",
}


@functools.cache
def aliases() -> dict[str, ast.expr]:
    """What every name for a type stands for, as it is written where the name is given."""
    found: dict[str, ast.expr] = {}
    for path in sorted(Path(clvq_lens.__file__).parent.rglob("*.py")):
        for line in ast.parse(path.read_text()).body:
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                found[line.targets[0].id] = line.value
    return found


class _Spelled(ast.NodeTransformer):
    """Types as a reader who does not know the source would write them."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A choice among strings, or the value of a constant, in place of its name."""
        if node.id in clvq_lens.__all__:
            return node
        meant = self._names.get(node.id)
        if get_origin(meant) is Literal:
            choices = ", ".join(map(repr, get_args(meant)))
            return ast.parse(f"Literal[{choices}]", mode="eval").body
        if get_origin(meant) is not None and node.id in aliases():
            return self.visit(copy.deepcopy(aliases()[node.id]))
        if isinstance(meant, int | float | str):
            return ast.Constant(meant)
        return ast.parse(READ_AS.get(node.id, node.id), mode="eval").body


def of_function(function: Callable[..., Any], *, bound: bool) -> tuple[str, str | None]:
    """Arguments and return type of a function.

    Args:
        function: Written in Python.
        bound: Whether its first argument is the object that it is a method of.
    """
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    definition = ast.parse(source).body[0]
    definition = _Spelled(inspect.unwrap(function).__globals__).visit(definition)
    assert isinstance(definition, ast.FunctionDef)
    arguments = definition.args
    if bound:
        (arguments.posonlyargs or arguments.args).pop(0)
    returns = ast.unparse(definition.returns).strip("'") if definition.returns else None
    return f"({ast.unparse(arguments)})", returns


def of_fields(kind: type) -> str:
    """Arguments of a dataclass: its fields, in the order in which they are passed."""
    written: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            written |= _annotations(base)
    by_place, by_name = [], []
    for field in dataclasses.fields(kind):
        if field.init:
            (by_name if field.kw_only else by_place).append(written[field.name])
    if by_name:
        by_name.insert(0, "*")
    return f"({', '.join(by_place + by_name)})"


def _annotations(kind: type) -> dict[str, str]:
    """The annotated names of a class body, each with its type and default."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    body = _Spelled(vars(sys.modules[kind.__module__])).visit(body)
    written = {}
    for line in getattr(body, "body", []):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            default = _default(line.value)
            ending = f" = {default}" if default else ""
            written[line.target.id] = f"{line.target.id}: {ast.unparse(line.annotation)}{ending}"
    return written


def _default(value: ast.expr | None) -> str | None:
    """A default, also where it stands inside ``field(default=...)``."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        defaults = [keyword.value for keyword in value.keywords if keyword.arg == "default"]
        return ast.unparse(defaults[0]) if defaults else None
    return ast.unparse(value) if value is not None else None


def as_written(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str, str | None] | None:
    """The signature that Sphinx shows."""
    if what == "class":
        if obj.__name__ not in MADE_BY_USERS:
            return "", None
        if dataclasses.is_dataclass(obj):
            return of_fields(obj), None
        return of_function(obj.__init__, bound=True)[0], None
    if what in {"function", "method"}:
        return of_function(obj, bound=what == "method")
    return None


def describe_data(
    app: Sphinx, what: str, name: str, obj: Any, options: object, lines: list[str]
) -> None:
    """The string below an assignment as its docstring, where the name was imported from there."""
    if what != "data":
        return
    package, _, attribute = name.rpartition(".")
    for module_name, module in list(sys.modules.items()):
        if not module_name.startswith(package) or vars(module).get(attribute) is not obj:
            continue
        written = ModuleAnalyzer.for_module(module_name).find_attr_docs()
        if ("", attribute) in written:
            lines[:] = written["", attribute]
            return
    _LOGGER.warning("%s has no docstring. Write one below its assignment.", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-process-docstring", describe_data)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
