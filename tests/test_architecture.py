"""The folder tree is the architecture: imports point one way, files and functions stay small."""

import ast
from itertools import pairwise
from pathlib import Path

import networkx as nx
import pytest

PACKAGE = Path(__file__).parents[1] / "clvq_lens"
# A room imports only from rooms above it. Plots take plain arrays and tables, so they are a leaf.
ROOMS = [
    "errors",
    "hub_errors",
    "arguments",
    "config",
    "writing",
    "showing",
    "processes",
    "plots",
    "stats",
    "quantizer",
    "host",
    "data",
    "training",
    "callbacks",
    "readouts",
    "interventions",
    "concepts",
    "judges",
    "evaluation",
    "baselines",
    "flow",
    "faithfulness",
    "page",
    "hub",
    "toy",
    "lens",
    "comparison",
    "add",
    "planning",
    "vectors",
    "commands",
    "cli",
    "__main__",
    "install",
]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> list[str]:
    """Every module of ours that a file imports, inside functions and for type checkers too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [module_of(name) for name in found if name.split(".")[0] == "clvq_lens"]


def module_of(name: str) -> str:
    """The module that a dotted name is, or is in."""
    while (
        "." in name and not (PACKAGE.parent / name.replace(".", "/")).with_suffix(".py").is_file()
    ):
        if (PACKAGE.parent / name.replace(".", "/")).is_dir():
            break
        name = name.rpartition(".")[0]
    return name


def name_of(path: Path) -> str:
    return ".".join(("clvq_lens", *path.relative_to(PACKAGE).with_suffix("").parts))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_upwards_only(path):
    mine = ROOMS.index(room(name_of(path)))
    for imported in imports(path):
        assert ROOMS.index(room(imported)) <= mine, f"{name_of(path)} imports {imported}"


def test_there_is_no_import_cycle_of_any_length():
    """Neither between rooms nor inside one, and imports for type checkers alone count too."""
    graph = nx.DiGraph()
    for path in MODULES:
        name = name_of(path).removesuffix(".__init__")
        graph.add_edges_from((name, imported) for imported in imports(path))
    cycles = [cycle for cycle in nx.simple_cycles(graph) if len(cycle) > 1]
    assert cycles == []


def test_only_the_host_folder_knows_transformer_lens():
    """HookPoint is the one name that the quantizer needs, and the toy model has to be built."""
    allowed = {
        "clvq_lens.quantizer.hook_points": {"transformer_lens.hook_points"},
        "clvq_lens.toy.world": {"transformer_lens", "transformer_lens.model_bridge"},
        "clvq_lens.toy.as_bridge": {"transformer_lens.model_bridge"},
        "clvq_lens.toy.train": {"transformer_lens"},
    }
    for path in MODULES:
        if room(name_of(path)) == "host":
            continue
        found = {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("transformer_lens")
        }
        assert found <= allowed.get(name_of(path), set()), name_of(path)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 400, "does this module hold two concerns?"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{node.name} has {lines} lines"


def test_a_name_of_a_class_or_a_file_names_one_thing():
    places: dict[str, list[str]] = {}
    for path in MODULES:
        if path.stem != "__init__":
            places.setdefault(path.stem, []).append(name_of(path))
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name.lstrip("_"), []).append(name_of(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_there_is_no_pickle_eval_or_print():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "print", "torch.load", "pickle.load"}, path


def test_the_public_stub_is_sorted_and_complete():
    stub = (PACKAGE / "__init__.pyi").read_text()
    modules = [line.split()[1] for line in stub.splitlines() if line.startswith("from .")]
    assert all(a <= b for a, b in pairwise(modules))
