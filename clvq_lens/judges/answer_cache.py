"""Answers of judges on disk, so that nothing is asked twice."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clvq_lens.arguments import check_is
from clvq_lens.errors import FileFormatError
from clvq_lens.writing import make_folder, write_atomically

_FORMAT = "clvq_lens answers 1"
_FILES = "answers-*.json"


def key_of(judge: Mapping[str, Any], prompt: str, max_tokens: int) -> str:
    """The digest that an answer is kept under.

    Args:
        judge: All settings of the judge that its answers depend on.
        prompt: What it is asked.
        max_tokens: Most tokens of its answer.
    """
    asked = {"judge": judge, "prompt": prompt, "max_tokens": max_tokens}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """Answers in a folder of JSON files, one file for each batch that was asked together.

    A file appears when it is whole and is never changed, so any number of processes may read and
    write at once, and a run that is killed loses no more than its last batch. Where two have asked
    the same, each goes on with its own answer, and later runs read one of the two.

    Args:
        folder: The folder, created if needed; None: answers are kept nowhere.

    Raises:
        ConfigError: If it is no path.
        PathError: If the folder cannot be created or written to.
    """

    def __init__(self, folder: str | Path | None) -> None:
        check_is("cache", folder, str | Path | None, "Pass the path of a folder, or None.")
        self.folder = None if folder is None else make_folder(folder)

    def read(self) -> dict[str, str]:
        """All answers by their key.

        Raises:
            FileFormatError: If a file cannot be read, is damaged or not one of ours.
        """
        answers: dict[str, str] = {}
        if self.folder is None:
            return answers
        for path in sorted(self.folder.glob(_FILES)):
            answers |= _read_file(path)
        return answers

    def add(self, answers: Mapping[str, str], judge: Mapping[str, Any]) -> None:
        """Keeps a batch of answers.

        Args:
            answers: The answers by their key.
            judge: Settings of the judge, for whoever reads the file.

        Raises:
            PathError: If the file cannot be written.
        """
        if self.folder is None or not answers:
            return
        digest = hashlib.sha256("".join(sorted(answers)).encode()).hexdigest()[:16]
        content = {"format": _FORMAT, "judge": judge, "answers": dict(answers)}
        path = self.folder / _FILES.replace("*", digest)
        write_atomically(path, json.dumps(content, indent=1).encode())


def _read_file(path: Path) -> dict[str, str]:
    """The answers of one file.

    Raises:
        FileFormatError: If it cannot be read, is damaged or not one of ours.
    """
    remedy = "Delete it, and what it held will be asked again; or pass another folder as cache."
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{path} cannot be read: {error}. {remedy}") from error
    answers = content.get("answers") if isinstance(content, dict) else None
    if (
        not isinstance(answers, dict)
        or content.get("format") != _FORMAT
        or not all(map(_is_text, answers.values()))
    ):
        raise FileFormatError(f"{path} holds no answers of judges. {remedy}")
    return answers


def _is_text(value: object) -> bool:
    return isinstance(value, str)
