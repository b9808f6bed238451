"""Runs TransformerLens' own tests without clvq_lens, and with it attached."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MODES = ("plain", "attached")
HERE = Path(__file__).parent


class UnreachableError(Exception):
    """The source distribution could not be had."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What became of a run.

    Attributes:
        outcomes: "passed", "failed" or "skipped" by test.
        attached: How many models of each class got a quantizer.
        left_alone: How many did not, by class and reason.
        seconds: Spent on the tests of each file.
        log: What pytest printed.
    """

    outcomes: dict[str, str]
    attached: dict[str, int]
    left_alone: dict[str, int]
    seconds: dict[str, float]
    log: str

    def passed(self, file: str | None = None) -> set[str]:
        """The tests that passed; of one file, or of all."""
        passed = {test for test, outcome in self.outcomes.items() if outcome == "passed"}
        return {test for test in passed if file is None or file_of(test) == file}


def file_of(test: str) -> str:
    """The file that a test is in, below the folder of tests."""
    return test.split("::")[0].removeprefix("tests/")


def fetch(version: str, into: Path, given: Path | None = None) -> Path:
    """The unpacked source distribution of a version of TransformerLens.

    Args:
        version: Such as "3.9.0".
        into: A folder of ours.
        given: A folder that may have the archive; None: the package index.

    Raises:
        UnreachableError: If neither has it.
    """
    name = f"transformer_lens-{version}"
    folder = given or into
    archive = folder / f"{name}.tar.gz"
    if given is None:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        source = ["--no-deps", "--no-binary", ":all:", f"transformer-lens=={version}"]
        asked = subprocess.run(
            [*pip, *source, "--dest", str(into)], capture_output=True, text=True, check=False
        )
        if asked.returncode != 0 or not archive.exists():
            raise UnreachableError(f"pip could not download {archive.name}:\n{asked.stderr}")
    elif not archive.exists():
        raise UnreachableError(f"There is no {archive.name} in {given}.")
    with tarfile.open(archive) as packed:  # the library itself is the installed one
        wanted = (f"{name}/tests/", f"{name}/pyproject.toml")
        members = [member for member in packed.getmembers() if member.name.startswith(wanted)]
        packed.extractall(into, members, filter="data")
    return into / name


def run_tests(
    root: Path, files: Sequence[str], mode: str, *, models: Path | None = None
) -> Results:
    """Runs files of tests in a process of their own.

    Args:
        root: The folder that has ``tests/``.
        files: Below ``tests/``; those that this version does not have are left out.
        mode: One of `MODES`.
        models: Stand-ins for the models of the Hub, from `tests.upstream.hub.build`.
    """
    written = root / f"results-{mode}.json"
    there = [f"tests/{file}" for file in files if (root / "tests" / file).exists()]
    # Not checking the shapes in TransformerLens, as its own configuration would, halves the time.
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "-p", "attach", "--tb=short"]
    environment = {
        **os.environ,
        **{"CLVQ_UPSTREAM": mode, "CLVQ_UPSTREAM_RESULTS": str(written)},
        **{"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(models or root / "no-models")},
        **{"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}"},
    }
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-q", "--continue-on-collection-errors", *there],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if not written.exists():
        raise RuntimeError(f"pytest ended without results ({mode}):\n{run.stdout}\n{run.stderr}")
    return Results(**json.loads(written.read_text()), log=run.stdout)


def run_modes(root: Path, files: Sequence[str], models: Path | None = None) -> dict[str, Results]:
    """Both runs, side by side."""
    with ThreadPoolExecutor(len(MODES)) as pool:
        runs = pool.map(lambda mode: run_tests(root, files, mode, models=models), MODES)
        return dict(zip(MODES, runs, strict=True))


def broken(results: dict[str, Results]) -> list[str]:
    """Tests that pass without clvq_lens, but not with it."""
    return sorted(results["plain"].passed() - results["attached"].passed())
