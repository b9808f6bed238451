"""The bare environment has what the wheel asks for, and no more."""

import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.distribution import archives, bare


def names(requirements: list[str]) -> set[str]:
    return {installed.metadata["Name"].lower() for installed in bare.needed(requirements)}


def test_what_is_asked_for_is_followed_to_its_end():
    found = names(["typer>=0.15"])
    assert {"typer", "rich", "pygments"} <= found
    assert not found & {"pytest", "torch", "clvq-lens"}


def test_a_marker_that_does_not_hold_asks_for_nothing():
    assert names(["tqdm", "torch; python_version < '3'", "pytest; extra == 'dev'"]) == {"tqdm"}


def test_an_extra_asks_for_more():
    assert "pytest" not in names(["clvq-lens"])
    assert "pytest" in names(["clvq-lens[dev]"])


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(PackageNotFoundError, match="no-such-package-of-anyone"):
        bare.needed(["no-such-package-of-anyone"])


def test_an_installed_version_that_was_not_asked_for_is_refused():
    message = f"tqdm>=9999 is asked for, and tqdm {re.escape(version('tqdm'))} is installed"
    with pytest.raises(RuntimeError, match=message):
        bare.needed(["tqdm>=9999"])


def test_the_environment_imports_the_wheel_and_no_tool_of_tests(tmp_path: Path):
    wheel = archives.build_directly(tmp_path / "dist")
    programs = bare.make(tmp_path / "environment", wheel)
    code = (
        "import importlib.util, clvq_lens; print(clvq_lens.__file__);"
        "print([importlib.util.find_spec(name) for name in ('pytest', 'captum', 'tests')])"
    )
    answer = subprocess.run(
        [programs / "python", "-c", code],
        cwd=tmp_path,
        env=bare.surroundings(tmp_path),
        check=True,
        capture_output=True,
        text=True,
    )
    module, tools = answer.stdout.splitlines()
    assert module.startswith(str(tmp_path / "environment"))
    assert tools == "[None, None, None]"
