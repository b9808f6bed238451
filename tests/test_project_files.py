"""What stands around the package says what is so: workflows, templates, versions, the map."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import clvq_lens
from tests.test_architecture import ROOMS

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
# The schemas come with check-jsonschema, so that nothing is downloaded.
SCHEMAS = {
    "github-workflows": WORKFLOWS,
    "dependabot": [GITHUB / "dependabot.yml"],
    "github-issue-config": [GITHUB / "ISSUE_TEMPLATE/config.yml"],
    "github-issue-forms": [GITHUB / f"ISSUE_TEMPLATE/{name}.yml" for name in ("bug", "feature")],
    "citation-file-format": [ROOT / "CITATION.cff"],
}


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read(workflow)["jobs"].values() for step in job["steps"]]


def made(text: str) -> set[str]:
    """The targets that lines of a script make."""
    lines = re.findall(r"^make (.*)$", text, flags=re.MULTILINE)
    words = {word for line in lines for word in line.split()}
    return {word for word in words if "=" not in word and not word.startswith((".", "-"))}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_file_that_others_read_has_the_form_that_they_expect(schema: str):
    files = map(str, SCHEMAS[schema])
    command = ["-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files]
    checked = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_workflows_call_the_targets_of_the_script_that_ci_runs():
    """All but one, which needs the models that are no part of the repository."""
    matrix = read(GITHUB / "workflows/ci.yml")["jobs"]["make"]["strategy"]["matrix"]
    called = set(matrix["targets"])
    called |= {target for more in matrix["include"] for target in more["targets"].split()}
    assert called == made((ROOT / ".ci/run").read_text()) - {"test-upstream"}
    makefile = (ROOT / "Makefile").read_text()
    for target in called:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_python_versions_of_the_workflow_are_those_that_the_package_names():
    matrix = read(GITHUB / "workflows/ci.yml")["jobs"]["make"]["strategy"]["matrix"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert matrix["python"] == named
    assert project["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_an_action_has_a_version_and_a_job_an_end(workflow: Path):
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+\.\d+)?", step["uses"])
    for job in read(workflow)["jobs"].values():
        assert job["timeout-minutes"] <= 120


def test_nothing_may_write_but_what_has_to():
    ci, release = map(read, WORKFLOWS)
    assert ci["permissions"] == {"contents": "read"}
    assert "permissions" not in ci["jobs"]["make"]
    assert release["permissions"] == {}
    allowed = {name: job["permissions"] for name, job in release["jobs"].items()}
    assert allowed == {
        "build": {"contents": "read"},
        "attach": {"contents": "write"},
        "publish": {"id-token": "write"},
    }
    for workflow in WORKFLOWS:
        for step in steps(workflow):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_the_command_of_the_bug_report_says_where_it_ran():
    fields = read(GITHUB / "ISSUE_TEMPLATE/bug.yml")["body"]
    [asked] = [field for field in fields if field.get("id") == "environment"]
    [command] = re.findall(r"```sh\n(.*?)```", asked["attributes"]["description"], re.DOTALL)
    # Of the Python that runs this test, and not of another one on the path.
    command = command.replace("python -c", f"{sys.executable} -c", 1)
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"Python 3\.\d+.*\nclvq-lens \d.*\ntorch \d", answer.stdout)


def test_one_version_stands_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert read(ROOT / "CITATION.cff")["version"] == version
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


# ---- the map of the house ------------------------------------------------------------------------


def rows_of_the_map() -> list[str]:
    """The names in the first column of the map in CONTRIBUTING.md."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    [section] = re.findall(r"^## The house\n(.*?)^## ", contributing, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| `(.+?)` \|", section, flags=re.MULTILINE)


def test_the_map_has_every_room_of_the_package_in_the_order_of_imports():
    package = Path(clvq_lens.__file__).parent
    there = {path.stem for path in package.glob("*.py") if path.stem != "__init__"}
    there |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    rows = [row.removeprefix("clvq_lens/") for row in rows_of_the_map() if "clvq_lens/" in row]
    rooms = [row.removesuffix(".py") for row in rows]
    assert set(rooms) == there
    assert [room.rstrip("/") for room in rooms] == ROOMS


def test_the_map_has_every_folder_beside_the_package():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    folders = {f"{name.split('/')[0]}/" for name in listed.stdout.splitlines() if "/" in name}
    rows = {row for row in rows_of_the_map() if "clvq_lens/" not in row}
    assert rows == folders - {"clvq_lens/"}
