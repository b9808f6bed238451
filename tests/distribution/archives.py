"""The sdist and the wheel: how they are built, and what must be inside."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = "clvq_lens"
_BESIDE_THE_PACKAGE = {
    *("PKG-INFO", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"),
    ".gitignore",  # hatchling packs it: it says which files are not packed
}
_IN_DIST_INFO = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


class Archives(NamedTuple):
    """What a folder of archives holds.

    Attributes:
        sdist: Path of the source distribution.
        wheel: Path of the wheel.
    """

    sdist: Path
    wheel: Path


def build(folder: Path, *, root: Path = ROOT) -> Archives:
    """Builds the sdist, and the wheel from that sdist.

    Args:
        folder: Folder for both, which is created if needed.
        root: The folder that has ``pyproject.toml``.
    """
    _build(root, folder)
    return archives_in(folder)


def build_directly(folder: Path, *, root: Path = ROOT) -> Path:
    """Builds the wheel from the checkout, without an sdist between them."""
    _build(root, folder, "--wheel")
    [wheel] = folder.glob("*.whl")
    return wheel


def _build(root: Path, folder: Path, *options: str) -> None:
    # Without isolation: hatchling is installed, and nothing has to be downloaded.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, *options, str(root)], check=True)


def archives_in(folder: Path) -> Archives:
    """The sdist and the wheel in a folder, which must hold one of each."""
    [sdist] = folder.glob("*.tar.gz")
    [wheel] = folder.glob("*.whl")
    return Archives(sdist, wheel)


def files_of_package(root: Path = ROOT) -> set[str]:
    """The files of the package that git knows or would not ignore, such as clvq_lens/cli.py."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", PACKAGE]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return {name for name in listed.stdout.splitlines() if (root / name).is_file()}


def expected_in_wheel(wheel: Path, *, root: Path = ROOT) -> set[str]:
    """The files that the wheel must hold, all of them and no others."""
    name, version = wheel.name.split("-")[:2]
    information = {f"{name}-{version}.dist-info/{file}" for file in _IN_DIST_INFO}
    return files_of_package(root) | information


def expected_in_sdist(sdist: Path, *, root: Path = ROOT) -> set[str]:
    """The files that the sdist must hold, all of them and no others."""
    folder = sdist.name.removesuffix(".tar.gz")
    return {f"{folder}/{file}" for file in files_of_package(root) | _BESIDE_THE_PACKAGE}


def files_in(archive: Path) -> set[str]:
    """The files in an sdist or a wheel."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as packed:
            return set(packed.namelist())
    with tarfile.open(archive) as packed:
        return {member.name for member in packed.getmembers() if member.isfile()}


def complaints(archives: Archives, *, root: Path = ROOT) -> list[str]:
    """What is wrong with the files in the archives, one sentence a file; empty: nothing."""
    expected = {
        archives.sdist: expected_in_sdist(archives.sdist, root=root),
        archives.wheel: expected_in_wheel(archives.wheel, root=root),
    }
    found: list[str] = []
    for archive, wanted in expected.items():
        packed = files_in(archive)
        found += [f"{archive.name} lacks {name}" for name in sorted(wanted - packed)]
        found += [f"{archive.name} should not hold {name}" for name in sorted(packed - wanted)]
    return found
