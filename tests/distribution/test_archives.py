"""The archives that are released hold the package whole, and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.distribution import archives
from tests.distribution.archives import ROOT, Archives


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return archives.build(tmp_path_factory.mktemp("dist"))


def test_they_hold_the_package_and_nothing_else(built: Archives):
    assert archives.complaints(built) == []


def test_weights_page_and_types_are_inside(built: Archives):
    files = archives.files_in(built.wheel)
    assert "clvq_lens/toy/data/model.safetensors" in files
    assert "clvq_lens/page/static/router.js" in files
    assert "clvq_lens/page/templates/page.html" in files
    assert {"clvq_lens/py.typed", "clvq_lens/__init__.pyi"} <= files


def test_the_sdist_builds_the_wheel_of_the_checkout(built: Archives, tmp_path: Path):
    directly = archives.build_directly(tmp_path)
    assert directly.read_bytes() == built.wheel.read_bytes()


def test_what_is_missing_and_what_should_not_be_there_is_named(built: Archives, tmp_path: Path):
    # A checkout that has a file more than what was packed, and lacks another.
    root = tmp_path / "checkout"
    (root / "clvq_lens").mkdir(parents=True)
    shutil.copy(ROOT / "clvq_lens/cli.py", root / "clvq_lens/cli.py")
    (root / "clvq_lens/new.py").touch()
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    found = archives.complaints(built, root=root)
    assert f"{built.wheel.name} lacks clvq_lens/new.py" in found
    assert f"{built.wheel.name} should not hold clvq_lens/lens.py" in found
    assert f"{built.wheel.name} should not hold clvq_lens/cli.py" not in found
    folder = built.sdist.name.removesuffix(".tar.gz")
    assert f"{built.sdist.name} lacks {folder}/clvq_lens/new.py" in found
