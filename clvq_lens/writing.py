"""Writing files: in one step, by one writer at a time, and only over files.

A file is written beside the old one, under a hidden name, and then put in its place. A lock makes
sure that only one writer uses that hidden name. So a writer that is killed leaves the old file as
it was and at most one hidden file, which the next writer replaces.
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from clvq_lens.errors import PathError, PathTakenError

_WAIT_S = 60.0  # for another writer; a file takes seconds
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_file(path: str | Path, *, size_bytes: int = 0) -> Path:
    """The path of a file that can be written: a new one, or a regular file to be replaced.

    Args:
        path: Path of the file, in a folder that exists.
        size_bytes: About how much will be written.

    Raises:
        PathError: If it is a folder, a symbolic link, a device or the like; if its folder does
            not exist or takes no files; or if the disk is too full.
    """
    path = Path(path)
    _check_kind(path)
    with path_errors(path):
        _probe(path.parent)
    check_space(path.parent, size_bytes)
    return path


def _check_kind(path: Path) -> None:
    """Raises `PathError` unless there is a regular file or nothing, in a folder that exists."""
    with path_errors(path):
        if path.is_symlink():  # replacing it would leave the file that it leads to as it was
            raise PathError(
                f"{path} is a symbolic link, and writing would replace the link. Pass the path "
                f"that it leads to, {path.parent / path.readlink()}, or remove the link."
            )
        if path.is_dir():
            raise PathError(
                f"{path} is a folder. Pass the path of a file in it, such as "
                f"{path / 'report.html'}."
            )
        if not path.parent.is_dir():
            raise PathError(
                f"There is no folder {path.parent} to write {path.name} to. Create it, or pass "
                f"another."
            )
        if path.exists() and not path.is_file():
            raise PathError(
                f"{path} is a device, a pipe or a socket, and writing would replace it. "
                f"Pass the path of a regular file, or of a new one."
            )


def make_folder(folder: str | Path) -> Path:
    """A folder that files can be written to; created if needed.

    Raises:
        PathTakenError: If there is something else of that name.
        PathError: If the folder cannot be created or written to.
    """
    folder = Path(folder)
    with path_errors(folder):
        if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
            raise PathTakenError(f"{folder} exists and is not a folder. Pass the path of a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    return folder


def _probe(folder: Path) -> None:
    """Raises what the system does when it takes no file: permissions, quotas, read-only disks."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"0")


def check_space(folder: Path, size_bytes: int) -> None:
    """Raises `PathError` if a disk has less free space than that."""
    try:
        disk = shutil.disk_usage(folder)
    except OSError:  # then writing will tell
        return
    if disk.total > 0 and disk.free < size_bytes:
        raise PathError(
            f"The disk of {folder} has {disk.free / 2**20:,.1f} MB left, and about "
            f"{size_bytes / 2**20:,.1f} MB are needed. Free some space, or pass a path on another "
            f"disk."
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file and puts it in the place of the old one in one step.

    Raises:
        PathError: If nothing can be written there; see `check_file`.
    """
    path = check_file(path)
    with locked(path.with_name(f".{path.name}.lock")):
        replace_file(path, content, temporary=path.with_name(f".{path.name}.tmp"))


def replace_file(path: Path, content: bytes, *, temporary: Path) -> None:
    """As `write_atomically`, for callers that hold a lock.

    A new file has the permissions that the umask gives; one that is replaced keeps its own.

    Args:
        path: Path of the file.
        content: What the file will hold.
        temporary: Path in the same folder that only the holder of the lock writes to.
    """
    _check_kind(path)  # again: somebody may have put a link there since
    with path_errors(path):
        temporary.unlink(missing_ok=True)  # left by a writer that was killed
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # or a crash after the rename leaves an empty file
            if path.exists():
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            os.replace(temporary, path)  # noqa: PTH105  # the atomic one, also over an existing file
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def locked(path: Path, *, wait_s: float = _WAIT_S) -> Iterator[None]:
    """While open, nobody else in this or another process holds the same lock.

    Args:
        path: Path of the lock, a file that exists as long as somebody holds it.
        wait_s: Seconds to wait for another holder.

    Raises:
        PathError: If somebody else still holds it then, or if no lock can be made.
    """
    lock = FileLock(path)
    try:
        with path_errors(path):
            lock.acquire(timeout=wait_s)
    except Timeout as error:
        raise PathError(
            f"Another process or thread is writing to {path.parent} (it holds {path.name}), still "
            f"after {wait_s:.0f} seconds. Wait until it is done, or pass another path."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before the release; whoever waits sees that it is gone, and begins anew
        lock.release()


@contextmanager
def path_errors(path: Path) -> Iterator[None]:
    """Turns errors of the operating system about a path into ours."""
    try:
        yield
    except (PathError, Timeout):
        raise
    except (OSError, ValueError) as error:  # the latter for names that no file can have
        number = getattr(error, "errno", None)
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "Pass another path."
        if number in _NO_SPACE:
            remedy = "Free some space, or pass a path on another disk."
        raise PathError(f"Nothing can be written to {path}: {reason}. {remedy}") from error
