"""``python -m tests.distribution FOLDER``: are the sdist and the wheel in it fit to be released?

Both must hold the package, and nothing else. The wheel is installed outside of the checkout, in an
environment that has only what the wheel asks for, and runs ``clvq-lens demo`` in an empty folder.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.distribution import archives, bare

console = Console(width=120)
_WHERE = "import clvq_lens, sys; print(clvq_lens.__file__, *sys.path, sep='\\n')"


def main(folder: Path) -> int:
    """Checks the archives in a folder; 1 if something is wrong."""
    built = archives.archives_in(folder)
    for archive in built:
        n_files, size = len(archives.files_in(archive)), archive.stat().st_size
        console.print(f"{archive.name}: {n_files} files, {size:,} bytes", highlight=False)
    wrong = archives.complaints(built)
    with tempfile.TemporaryDirectory() as place:
        directly = archives.build_directly(Path(place) / "directly")
        if directly.read_bytes() != built.wheel.read_bytes():
            wrong.append(f"{built.sdist.name} builds another wheel than the checkout")
        if not wrong:
            wrong = _tried_out(built.wheel, Path(place))
    for complaint in wrong:
        console.print(complaint, markup=False)
    return int(bool(wrong))


def _tried_out(wheel: Path, place: Path) -> list[str]:
    """What is wrong with a wheel that is installed and run."""
    started = time.monotonic()
    programs = bare.make(place / "environment", wheel)
    empty = place / "empty"
    empty.mkdir()
    variables = bare.surroundings(place)
    asked = [programs / "python", "-c", _WHERE]
    answer = subprocess.run(asked, cwd=empty, env=variables, capture_output=True, text=True)
    if answer.returncode != 0:
        return [answer.stderr]
    module, *path = answer.stdout.splitlines()
    if not module.startswith(str(place)) or str(archives.ROOT) in path:
        return [f"The checkout can be seen: {answer.stdout}"]
    made = time.monotonic()
    demo = [programs / "clvq-lens", "demo", "--out", "runs"]
    if subprocess.run(demo, cwd=empty, env=variables).returncode != 0:
        return ["clvq-lens demo failed in the bare environment."]
    page = empty / "runs/index.html"
    seconds = f"{made - started:.0f} s to install, {time.monotonic() - made:.0f} s for the demo"
    console.print(f"{seconds}; its page has {page.stat().st_size:,} bytes", highlight=False)
    return []


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
