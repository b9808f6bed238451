"""Type checkers and editors know the front door: right calls pass, and wrong ones are told."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import clvq_lens as cl
from clvq_lens.config import CLVQOptions, FitOptions
from tests.conftest import random_model

TYPING = Path(__file__).parent / "typing"


@pytest.fixture(scope="module")
def told() -> dict[str, list[int]]:
    """The lines in which pyright finds an error, by file."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, str(TYPING)], capture_output=True, text=True, check=False)
    lines: dict[str, list[int]] = {"right.py": [], "wrong.py": []}
    for finding in json.loads(done.stdout)["generalDiagnostics"]:
        if finding["severity"] == "error":
            name = Path(finding["file"]).name
            lines[name].append(finding["range"]["start"]["line"] + 1)
    return lines


@pytest.mark.slow
def test_what_users_write_passes(told):
    assert told["right.py"] == []


@pytest.mark.slow
def test_every_mistake_is_told_where_it_is(told):
    source = (TYPING / "wrong.py").read_text().splitlines()
    marked = [number for number, line in enumerate(source, start=1) if line.endswith("# wrong")]
    assert sorted(set(told["wrong.py"])) == marked


@pytest.mark.parametrize(
    ("options", "config"), [(CLVQOptions, cl.CLVQConfig), (FitOptions, cl.FitConfig)]
)
def test_options_by_name_are_the_fields_of_their_config(options, config):
    assert options.__annotations__ == config.__annotations__


def test_help_of_the_method_shows_its_options_and_what_they_mean():
    model = random_model()
    signature = inspect.signature(model.add_clvq)
    assert list(signature.parameters)[:3] == ["source", "target", "name"]
    assert signature.return_annotation is cl.Lens
    assert "check_weights: Whether" in inspect.getdoc(model.add_clvq)


VERBS = ["fit", "encode", "evaluate", "concepts", "faithfulness", "report", "browse"]


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_of_a_lens_have_their_signature_and_docstring(verb):
    lens = random_model().add_clvq(1, 2, n_codes=12)
    method = getattr(lens, verb)
    first = next(iter(inspect.signature(method).parameters))
    assert first in {"data", "texts"}
    assert "Args:" in inspect.getdoc(method)


def test_a_mistyped_option_names_the_verb(as_for_a_user):
    lens = random_model().add_clvq(1, 2, n_codes=12)
    for verb in ("evaluate", "encode", "concepts", "report"):
        with pytest.raises(TypeError, match=rf"^{verb}\(\) got an unexpected keyword"):
            getattr(lens, verb)(sed=1)
