"""Paths: where nothing can be written, where something is already, and two writers at once."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import clvq_lens as cl
from clvq_lens.errors import CLVQError
from tests.hostile.subjects import Subject, subject_of
from tests.hostile.trial import WHOLE, shown
from tests.hostile.values import SCALARS
from tests.hosts import KINDS

TEXTS = ["w5 w6 w7 w8", "w9 w10 w5 w6 w7"]


@pytest.fixture(scope="module")
def any_subject() -> Subject:
    """Paths do not depend on the kind of host."""
    return subject_of(next(kind for kind in KINDS if kind.name == "bridge-gpt2"))


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Any]:
    """Paths of every kind, by name; all in one temporary folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("of the user")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "file").write_text("of the user")
    (tmp_path / "page.html").write_text("of the user")
    os.mkfifo(tmp_path / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket")
    listening.close()
    for name, to in {
        "link to a file": "file",
        "link to a folder": "folder",
        "link to nothing": "nowhere",
        "link to itself": "link to itself",
        "link to a fifo": "fifo",
        "link to the null device": "/dev/null",
    }.items():
        (tmp_path / name).symlink_to(to)
    places: dict[str, Any] = {path.name: path for path in tmp_path.iterdir()}
    if _made_device(tmp_path / "device"):
        places["device"] = tmp_path / "device"
    return places | {
        "new": tmp_path / "new",
        "new page": tmp_path / "new.html",
        "below a missing folder": tmp_path / "a" / "b" / "c.html",
        "below a file": tmp_path / "file" / "x.html",
        "below a fifo": tmp_path / "fifo" / "x",
        "a relative one": "relative",
        "the empty string": "",
        "a dot": ".",
        "two dots": "..",
        "up and down": "folder/../up-and-down",
        "a slash at the end": "slash/",
        "a long name": "x" * 300,
        "a long path": "/".join(["y" * 100] * 60),
        "a long name for a temporary file": "z" * 250,
        "NUL": "a\x00b",
        "a surrogate": "a\ud800b",
        "a newline": "a\nb",
        "spaces": "  ",
        "CJK": "漢字.html",
        "right to left": "\u202efdp.html",
        "a tilde": "~/clvq-does-not-exist/x",
        "kernel files": "/proc/clvq/x",
        "kernel settings": "/sys/clvq",
        "a process": "/proc/self/x.html",
        "bytes": b"bytes",
        "a path with a colon": "c:\\x",
        "an address": "http://localhost/x",
    }


def _made_device(path: Path) -> bool:
    """Whether a node of the null device could be made: never test with the real one."""
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))
    except OSError:
        return False
    return True


# Files that were there before and are the user's.
_USERS = ("file", "full/mine.txt", "foreign/config.json")


def _kind(path: Path) -> str:
    """What lies at a path."""
    if path.is_symlink():
        return f"a link to {path.readlink()}"
    if not path.exists():
        return "nothing"
    if path.is_file():
        return (
            path.read_text(errors="replace")[:50] if path.name in ("file", "mine.txt") else "a file"
        )
    return "a folder" if path.is_dir() else oct(path.stat().st_mode)


def _writers(subject: Subject) -> dict[str, Callable[[Any], Any]]:
    table = subject.lens.concepts(TEXTS, n_examples=1, progress=False)
    return {
        "save": lambda path: subject.lens.save(path),
        "report": lambda path: subject.lens.report(TEXTS, path, n_examples=1, progress=False),
        "compare": lambda path: cl.compare([subject.lens], TEXTS, keep=path, progress=False),
        "to_parquet": lambda path: table.to_parquet(path),
        "Comparison.save": lambda path: cl.compare([subject.lens], TEXTS, progress=False).save(
            path
        ),
    }


READERS: dict[str, Callable[[Any], Any]] = {
    "load": lambda path: cl.load(path),
    "Comparison.load": lambda path: cl.Comparison.load(path),
}
_DOCUMENTED = (FileExistsError, FileNotFoundError)


def test_writing_to_any_path(trial, any_subject, places, tmp_path):
    trial.watched = any_subject.assert_unchanged
    for verb, write in _writers(any_subject).items():
        for name, path in places.items():
            # A regular file may be replaced by its own name; anything else stays what it is.
            kept = [each for each in (*places, *_USERS) if each != name or name not in _USERS]
            before = {each: _kind(tmp_path / each) for each in kept}
            before = {each: was for each, was in before.items() if was != "nothing"}

            def check(_: Any, before: dict[str, str] = before) -> None:
                for each, was in before.items():
                    now = _kind(tmp_path / each)
                    assert now == was, f"{each} was {was!r} and is {now!r}"
                left = [p for p in tmp_path.rglob(".*") if p.name != ".pytest_cache"]
                assert not left, f"hidden files are left: {left}"

            def call(write: Any = write, path: Any = path, check: Any = check) -> Any:
                try:
                    return write(path)
                except (CLVQError, OSError):
                    check(None)
                    raise

            trial.run(f"{verb} to {name}: {shown(path)}", call, check, documented=_DOCUMENTED)
            _clean(tmp_path, places)


def _clean(folder: Path, places: dict[str, Any]) -> None:
    """Takes away what a case has written, and puts back a file that it replaced."""
    for path in folder.iterdir():
        if path.name in places or path.is_symlink():
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / "file").write_text("of the user")


def test_reading_from_any_path(trial, any_subject, places):
    for verb, read in READERS.items():
        for name, path in places.items():
            trial.run(
                f"{verb} from {name}: {shown(path)}",
                lambda read=read, path=path: read(path),
                documented=_DOCUMENTED,
            )
    for verb in ("encode", "evaluate"):
        for name, path in places.items():
            for data in (path, Path(os.fsdecode(path)) if name != "a surrogate" else path):
                trial.run(
                    f"{verb} of {name}: {shown(data)}",
                    lambda verb=verb, data=data: getattr(any_subject.lens, verb)(
                        data, **({} if verb == "encode" else {"progress": False})
                    ),
                )
        for name in ("fifo.txt", "device.jsonl", "folder.txt", "link.txt"):
            path = Path(name)
            if not os.path.lexists(path):
                _ODD_FILES[name](path)
            trial.run(
                f"{verb} of {name}",
                lambda verb=verb, path=path: getattr(any_subject.lens, verb)(path),
            )


_ODD_FILES: dict[str, Callable[[Path], Any]] = {
    "fifo.txt": os.mkfifo,
    "device.jsonl": _made_device,
    "folder.txt": Path.mkdir,
    "link.txt": lambda path: path.symlink_to("link.txt"),
}


def test_scalars_as_paths(trial, any_subject, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verbs = _writers(any_subject) | READERS
    for value in SCALARS if WHOLE else SCALARS[::5]:
        for verb, call in verbs.items():
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10:
                continue  # an open file of this process
            trial.run(
                f"{verb} with {shown(value)} for a path",
                lambda call=call, value=value: call(value),
                documented=_DOCUMENTED,
            )


# ---- two at once ---------------------------------------------------------------------------------


def test_threads_that_save_into_one_folder_leave_a_quantizer(trial, any_subject, tmp_path):
    first, second = any_subject.lens, any_subject.model.clvqs["2-3"]
    for attempt in range(12 if WHOLE else 3):
        folder = tmp_path / str(attempt)
        errors: list[BaseException] = []

        def save(lens: Any, folder: Path = folder, errors: list = errors) -> None:
            for _ in range(4):
                try:
                    lens.save(folder)
                except CLVQError:
                    pass
                except BaseException as error:
                    errors.append(error)

        def call(save: Any = save, folder: Path = folder, errors: list = errors) -> Any:
            threads = [threading.Thread(target=save, args=(lens,)) for lens in (first, second)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if errors:
                raise errors[0]
            return cl.load(folder)

        trial.run(
            f"two threads save into one folder, attempt {attempt}",
            call,
            lambda loaded: _is_one_of(loaded, first, second),
        )


def _is_one_of(quantizer: Any, *lenses: Any) -> None:
    vectors = quantizer.codebook.vectors
    assert any(vectors.equal(lens.quantizer.codebook.vectors) for lens in lenses)


_SAVER = """
import sys, clvq_lens as cl
quantizer = cl.load(sys.argv[1])
from clvq_lens.errors import CLVQError
from clvq_lens.quantizer.files import save
for _ in range(30):
    try:
        save(quantizer, sys.argv[2])
    except CLVQError:
        pass
print("saved")
"""


def _saver(source: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SAVER, str(source), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_that_save_into_one_folder_leave_a_quantizer(trial, any_subject, tmp_path):
    sources = [any_subject.model.clvqs[name].save(tmp_path / name) for name in ("1-2", "2-3")]
    for attempt in range(4 if WHOLE else 1):
        folder = tmp_path / f"both {attempt}"

        def call(folder: Path = folder) -> Any:
            processes = [_saver(source, folder) for source in sources]
            ends = [process.communicate() for process in processes]
            for out, err in ends:
                assert "saved" in out, err
            return cl.load(folder)

        trial.run(
            f"two processes save into one folder, attempt {attempt}",
            call,
            lambda loaded: _is_one_of(loaded, *any_subject.model.clvqs.values()),
            limit_s=120.0,
        )


@pytest.mark.slow
def test_killed_saves_leave_what_was_there(trial, any_subject, tmp_path):
    source = any_subject.lens.save(tmp_path / "source")
    folder = any_subject.lens.save(tmp_path / "folder")
    for attempt in range(6 if WHOLE else 1):

        def call(attempt: int = attempt) -> Any:
            process = _saver(source, folder)
            try:
                process.communicate(timeout=6.0 + attempt * 0.4)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            loaded = cl.load(folder)
            any_subject.lens.save(folder)
            return loaded

        def check(loaded: Any) -> None:
            _is_one_of(loaded, any_subject.lens)
            hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
            assert not [name for name in hidden if "weights" in name], hidden

        trial.run(f"a killed save, attempt {attempt}", call, check, limit_s=60.0)


def test_modes_of_files_follow_the_umask(trial, any_subject, tmp_path):
    for mask in (0o022, 0o077, 0o027, 0o000):

        def call(mask: int = mask) -> list[int]:
            before = os.umask(mask)
            try:
                folder = any_subject.lens.save(tmp_path / oct(mask))
                page = any_subject.lens.report(
                    TEXTS, tmp_path / f"{mask}.html", n_examples=1, progress=False
                )
            finally:
                os.umask(before)
            return [
                path.stat().st_mode & 0o777
                for path in (*folder.iterdir(), page)
                if not path.name.startswith(".")
            ]

        def check(modes: list[int], mask: int = mask) -> None:
            assert set(modes) == {0o666 & ~mask}, list(map(oct, modes))

        trial.run(f"save and report under umask {mask:o}", call, check)


def test_a_full_disk_is_a_path_error(trial, any_subject, monkeypatch, tmp_path):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    for verb, write in _writers(any_subject).items():
        if verb == "to_parquet":
            continue  # written by another library
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            trial.run(f"{verb} on a full disk", lambda write=write: write(tmp_path / "x"))
