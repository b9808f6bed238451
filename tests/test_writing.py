"""Files are written in one step, by one writer at a time, and only over files."""

import errno
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from clvq_lens.errors import PathError, PathTakenError
from clvq_lens.writing import check_file, locked, make_folder, write_atomically


def test_a_file_is_written_and_replaced_and_nothing_else_is_left(tmp_path: Path):
    for content in (b"one", b"two"):
        write_atomically(tmp_path / "file", content)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        assert (tmp_path / "file").read_bytes() == content


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path):
    (tmp_path / "private").write_text("mine")
    (tmp_path / "private").chmod(0o600)
    write_atomically(tmp_path / "private", b"mine, too")
    assert oct((tmp_path / "private").stat().st_mode)[-3:] == "600"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error("just now")

    write_atomically(tmp_path / "file", b"one")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error, match="just now"):
        write_atomically(tmp_path / "file", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"one"


def test_a_killed_write_leaves_one_hidden_file_which_the_next_write_uses(tmp_path: Path):
    program = (
        "import os, sys; from pathlib import Path; from clvq_lens.writing import write_atomically\n"
        "os.replace = lambda *_: os._exit(9)\n"
        "write_atomically(Path(sys.argv[1]), b'killed')"
    )
    path = tmp_path / "page.html"
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == 9
    assert {each.name for each in tmp_path.iterdir()} == {".page.html.tmp", ".page.html.lock"}
    write_atomically(path, b"whole")
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


# ---- what is no file -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full"])
def test_a_device_is_refused(path: str):
    with pytest.raises(PathError, match=r"is a device, .* Pass the path of a regular file"):
        check_file(path)


def test_a_pipe_is_not_replaced(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PathError, match=r"is a device, a pipe or a socket"):
        write_atomically(tmp_path / "pipe", b"page")
    assert not (tmp_path / "pipe").is_file()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_not_replaced_and_the_message_names_what_it_leads_to(
    tmp_path: Path, exists: bool
):
    if exists:
        (tmp_path / "real.html").write_text("mine")
    (tmp_path / "link.html").symlink_to("real.html")
    with pytest.raises(PathError, match=r"link\.html is a symbolic link, .*real\.html, or remove"):
        write_atomically(tmp_path / "link.html", b"page")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "real.html").exists() == exists


def test_a_folder_and_a_folder_that_does_not_exist_are_refused(tmp_path: Path):
    with pytest.raises(PathError, match=r"is a folder\. Pass the path of a file in it"):
        check_file(tmp_path)
    with pytest.raises(PathError, match=r"There is no folder .*missing to write page\.html to"):
        check_file(tmp_path / "missing" / "page.html")


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_our_error(tmp_path: Path, name: str):
    for write in (lambda path: write_atomically(path, b""), make_folder):
        with pytest.raises(PathError, match=r"Nothing can be written to"):
            write(tmp_path / name)


# ---- folders and disks ---------------------------------------------------------------------------


def test_a_folder_is_made_with_its_parents(tmp_path: Path):
    assert make_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_may_be_reached_by_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert make_folder(tmp_path / "link").is_dir()


def test_what_is_no_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "lost").symlink_to("nowhere")
    for name in ("file", "lost"):
        with pytest.raises(PathTakenError, match=r"exists and is not a folder"):
            make_folder(tmp_path / name)
    with pytest.raises(PathError, match=r"Nothing can be written to .*file/in: Not a directory"):
        make_folder(tmp_path / "file" / "in")


def test_a_folder_that_cannot_be_made_is_our_error():
    with pytest.raises(PathError, match=r"Nothing can be written to /proc/clvq: .* Pass another"):
        make_folder("/proc/clvq")


def test_a_full_disk_is_noticed_before_anything_is_computed(tmp_path: Path, monkeypatch):
    full = SimpleNamespace(total=2**40, used=2**40 - 2**20, free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert check_file(tmp_path / "page.html", size_bytes=2**19)
    with pytest.raises(PathError, match=r"has 1\.0 MB left, and about 4\.0 MB are needed\. Free"):
        check_file(tmp_path / "page.html", size_bytes=2**22)


def test_a_disk_that_does_not_tell_its_size_is_tried(tmp_path: Path, monkeypatch):
    def fail(path: Path) -> None:
        raise OSError(errno.ENOSYS, "no")

    monkeypatch.setattr(shutil, "disk_usage", fail)
    assert check_file(tmp_path / "page.html", size_bytes=2**22)


# ---- one at a time -------------------------------------------------------------------------------


def test_a_second_holder_of_a_lock_waits_and_then_says_who_is_in_the_way(tmp_path: Path):
    lock = tmp_path / ".lock"
    program = (
        "import sys; from pathlib import Path; from clvq_lens.writing import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, str(lock)], **options) as other:
        assert other.stdout.readline() == b"held\n"
        message = r"\(it holds \.lock\), still after 0 seconds\. Wait until"
        with pytest.raises(PathError, match=message), locked(lock, wait_s=0.0):
            pass
        other.stdin.close()
        with locked(lock):
            assert lock.exists()
    assert not lock.exists()


def test_a_lock_of_a_process_that_was_killed_holds_nobody_up(tmp_path: Path):
    (tmp_path / ".lock").touch()
    with locked(tmp_path / ".lock", wait_s=0.0):
        pass
    assert not (tmp_path / ".lock").exists()


def test_threads_hold_a_lock_one_after_the_other(tmp_path: Path):
    inside, most = 0, 0

    def enter(_: int) -> None:
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path / ".lock"):
                inside += 1
                most = max(most, inside)
                (tmp_path / "file").write_text("x")
                inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(4)))
    assert most == 1
