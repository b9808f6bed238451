"""Checkpoints of long work: one file each, published in one step, the last few kept.

A checkpoint is a safetensors file: tensors under the path of their names, and everything else as
JSON in its header. Its name holds the checksum of its content, so that damage is found.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clvq_lens.errors import (
    CheckpointError,
    ConfigError,
    FileFormatError,
    PathTakenError,
    TerminatedError,
)
from clvq_lens.writing import locked, make_folder, replace_file

FORMAT_VERSION = "2"
EVERY_S = 300.0
"""Seconds between two checkpoints, unless somebody asks for others."""

_NAME = re.compile(r"checkpoint-(\d{8})-([0-9a-f]{32})\.safetensors")
_KEPT = 2  # the last one, and one before in case that the last is damaged
_STATE, _IDENTITY, _FORMAT = "state", "identity", "format_version"

State = dict[str, Any]
"""Nested names of tensors, and of what JSON can say."""


class Checkpoints:
    """The checkpoints of one fit, or of other work that takes long.

    Args:
        folder: Folder for the files; created if needed.
        identity: What has to be the same for the work to go on: options, model and data.
        every_s: Seconds between two checkpoints.
        resume: Whether to go on with the last checkpoint.
        work: What is done, in a word for messages.
        writes: Whether this process writes them; of several that share the work, the first does.

    Raises:
        CheckpointError: If there is no checkpoint to go on with, or it is of other work.
        PathTakenError: If there are checkpoints, and ``resume`` is off.
        FileFormatError: If the last checkpoint is damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        identity: Mapping[str, Any],
        *,
        every_s: float,
        resume: bool,
        work: str = "fit",
        writes: bool = True,
    ) -> None:
        check_resume(folder, resume=resume, work=work)
        self.folder, self._work, self._writes = make_folder(folder), work, writes
        self._identity: dict[str, Any] = {}
        self._every_s = every_s
        self.resumed: State | None = None
        """The state to go on with."""
        self.resumed_from: str | None = None
        """Name of the checkpoint to go on with."""
        self._resumed_identity: dict[str, Any] | None = None
        found = _checkpoints(self.folder)
        self._number = max(found, default=0)
        if resume:
            path = found[max(found)]
            self.resumed_from = path.name
            header, tensors = _read(path)
            self._resumed_identity = json.loads(header[_IDENTITY])
            self.resumed = _with_tensors(json.loads(header[_STATE]), "", tensors)
        self.require_same(identity)
        self._last = time.monotonic()

    def require_same(self, identity: Mapping[str, Any]) -> None:
        """Adds to what has to be the same for the work to go on.

        Raises:
            CheckpointError: If it is not the same in the checkpoint.
        """
        mine: dict[str, Any] = json.loads(json.dumps(identity))  # tuples become lists, as in a file
        self._identity |= mine
        if self._resumed_identity is None:
            return
        theirs = {name: self._resumed_identity.get(name) for name in mine}
        if differences := _differences(theirs, mine):
            raise CheckpointError(
                f"{self.folder} holds checkpoints of another {self._work}: "
                f"{'; '.join(differences)}. Pass the same options, model and data, or another "
                f"folder."
            )

    def after_step(self, state: Callable[[], State], *, now: bool, terminated: bool) -> None:
        """Writes a checkpoint between two steps, if it is time for one or the work ends here.

        Args:
            state: Called only if a checkpoint is written.
            now: Whether to write one in any case.
            terminated: Whether SIGTERM has come.

        Raises:
            TerminatedError: If SIGTERM has come, once the checkpoint is written.
        """
        is_due = now or terminated or time.monotonic() - self._last >= self._every_s
        if is_due and self._writes:
            self.save(state())
        if terminated:
            raise TerminatedError(
                f"Told to end (SIGTERM). A checkpoint is in {self.folder}; resume=True "
                f"(--resume) goes on from it."
            )

    def save(self, state: State) -> None:
        """Writes a checkpoint, and deletes those that are too old."""
        tensors: dict[str, Tensor] = {}
        rest = _without_tensors(state, "", tensors)
        header = {
            _FORMAT: FORMAT_VERSION,
            _IDENTITY: json.dumps(self._identity, sort_keys=True),
            _STATE: json.dumps(rest),
        }
        content = save(tensors, metadata=header)
        self._number += 1
        checksum = xxhash.xxh3_128_hexdigest(content)
        path = self.folder / f"checkpoint-{self._number:08d}-{checksum}.safetensors"
        replace_file(path, content, temporary=self.folder / ".checkpoint.tmp")
        for number, old in _checkpoints(self.folder).items():
            if number <= self._number - _KEPT:
                old.unlink()
        self._last = time.monotonic()


def holds_checkpoints(folder: Path) -> bool:
    """Whether there is a checkpoint in a folder, which need not exist."""
    return folder.is_dir() and bool(_checkpoints(folder))


def checksum_of(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of names, shapes, dtypes and values of some tensors."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return xxhash.xxh3_128_hexdigest(save(plain))


def check_resume(folder: str | Path | None, *, resume: bool, work: str = "fit") -> None:
    """Raises unless there are checkpoints if, and only if, work goes on from them.

    Args:
        folder: Folder of the checkpoints; None: none are written.
        resume: Whether to go on with the last one.
        work: What is done, in a word for messages.

    Raises:
        ConfigError: If there is no folder to go on from.
        CheckpointError: If there is no checkpoint in it.
        PathTakenError: If there is one, and ``resume`` is off.
    """
    if folder is None:
        if resume:
            raise ConfigError("resume=True needs a folder to go on from. Pass checkpoint=folder.")
        return
    found = holds_checkpoints(Path(folder))
    if resume and not found:
        raise CheckpointError(
            f"{folder} holds no checkpoint to go on with. Pass the folder of the {work} that was "
            f"interrupted, or resume=False to begin."
        )
    if found and not resume:
        raise PathTakenError(
            f"{folder} holds checkpoints of a {work}. Pass resume=True (--resume) to go on "
            f"with it, or another folder."
        )


@contextmanager
def held(folder: str | Path | None, *, writes: bool = True) -> Iterator[None]:
    """While open, no other work writes to a folder of checkpoints.

    Args:
        folder: The folder; None: none are written.
        writes: Whether this process writes them.

    Raises:
        PathError: If other work is writing to it.
    """
    if folder is None or not writes:
        yield
        return
    # Without waiting: the other work may take hours.
    with locked(make_folder(folder) / ".checkpoint.lock", wait_s=0.0):
        yield


def _checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their numbers."""
    found: dict[int, Path] = {}
    for path in folder.iterdir():
        if name := _NAME.fullmatch(path.name):
            found[int(name[1])] = path
    return found


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a checkpoint."""
    remedy = f"Delete {path.name} to go on with the one before."
    name = _NAME.fullmatch(path.name)
    content = path.read_bytes()
    if name is None or xxhash.xxh3_128_hexdigest(content) != name[2]:
        raise FileFormatError(f"{path} is damaged: its checksum is not in its name. {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileFormatError(f"{path} is no safetensors file: {error}. {remedy}") from error
    if header.get(_FORMAT) != FORMAT_VERSION:
        raise FileFormatError(
            f"{path} has format {header.get(_FORMAT)}, expected {FORMAT_VERSION}. Go on with the "
            f"version of clvq_lens that wrote it, or begin anew in another folder."
        )
    return header, tensors


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A nested state whose tensors are moved into a dict, under their paths."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().contiguous()
        return {"tensor": path}
    if isinstance(value, Mapping):
        nested: State = {}
        for name, item in value.items():
            nested[str(name)] = _without_tensors(item, f"{path}/{name}", tensors)
        return nested
    return value


def _with_tensors(value: Any, path: str, tensors: Mapping[str, Tensor]) -> Any:
    """The reverse of `_without_tensors`."""
    if isinstance(value, dict):
        if value == {"tensor": path}:
            return tensors[path]
        return {
            name: _with_tensors(item, f"{path}/{name}", tensors) for name, item in value.items()
        }
    return value


def _differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, as "field: mine, not theirs"."""
    differences: list[str] = []
    for name in sorted(theirs.keys() | mine.keys()):
        before, now = theirs.get(name), mine.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            differences += _differences(before, now)
        elif before != now:
            differences.append(f"{name}: {now!r}, not {before!r}")
    return differences
