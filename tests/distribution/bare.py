"""An environment that holds the wheel and what it asks for, and nothing else.

The wheel is installed; what it asks for is linked from the environment that runs this, so that
torch is neither downloaded nor copied. Tools of tests and the checkout itself cannot be imported.
"""

import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirements_of(wheel: Path) -> list[str]:
    """What a wheel asks for, such as "torch>=2.6"; that of its extras too, with their markers."""
    with zipfile.ZipFile(wheel) as packed:
        [metadata] = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(packed.read(metadata)).get_all("Requires-Dist") or []


def needed(requirements: Iterable[str]) -> list[Distribution]:
    """The installed distributions that are asked for, and those that these ask for in turn.

    Args:
        requirements: Such as "torch>=2.6"; those whose markers do not hold here are left out.

    Raises:
        PackageNotFoundError: If one is not installed.
        RuntimeError: If one is installed in a version that was not asked for.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()  # names with their extras
    queue = _holding(requirements, extra="")
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        installed = found.setdefault(name, distribution(name))
        if not requirement.specifier.contains(installed.version, prereleases=True):
            raise RuntimeError(
                f"{requirement} is asked for, and {name} {installed.version} is installed. "
                f"Install the version that is asked for, or ask for another in pyproject.toml."
            )
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                queue += _holding(installed.requires or [], extra=extra)
    return list(found.values())


def _holding(requirements: Iterable[str], *, extra: str) -> list[Requirement]:
    """The requirements whose markers hold here."""
    held: list[Requirement] = []
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            held.append(requirement)
    return held


def make(folder: Path, wheel: Path) -> Path:
    """Makes the environment.

    Args:
        folder: Where to; outside of the checkout.
        wheel: What is installed in it.

    Returns:
        Its folder of programs.
    """
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel.resolve())]
    subprocess.run([*pip, *install], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for installed in needed(requirements_of(wheel)):
        _link(installed, packages)
    return folder / "bin"


def _link(installed: Distribution, packages: Path) -> None:
    """Links what a distribution has in its folder of packages."""
    for name in {file.parts[0] for file in installed.files or []}:
        link = packages / name
        # Programs lie outside ("..", three levels up); several distributions may share a folder.
        if name not in {"..", "__pycache__"} and not link.exists():
            link.symlink_to(Path(str(installed.locate_file(name))).resolve())


def surroundings(home: Path) -> dict[str, str]:
    """Environment variables without any that lead to other packages, caches or settings."""
    kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "TMPDIR") if name in os.environ}
    # A terminal of this width, or long lines of the report would be cut.
    return {**kept, "PATH": os.defpath, "HOME": str(home), "COLUMNS": "120"}
